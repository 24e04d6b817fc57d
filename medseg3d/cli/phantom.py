"""``medseg3d phantom``: make synthetic studies."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medseg3d.cli.progress import progress_bar

__all__ = ["phantom"]


class _Modality(StrEnum):
    ct = "ct"
    mri = "mri"
    mri_tumor = "mri_tumor"


class _Format(StrEnum):
    nifti = "nifti"
    dicom = "dicom"


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder of the study; must be absent or empty.", show_default=False)],
    modality: Annotated[
        _Modality, typer.Option(help="Torsos in CT or T1-weighted MRI, or brains with tumours.")
    ] = _Modality.ct,
    cases: Annotated[int, typer.Option(min=1, help="Cases to train on.")] = 40,
    test_cases: Annotated[int, typer.Option(min=0, help="Further cases, kept apart in imagesTs and labelsTs.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal files.")] = 0,
    size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            help="Voxels from left to right, back to front and foot to head: 128 128 64, or 80 96 72 of brains.",
            metavar="X Y Z",
        ),
    ] = None,
    lesions: Annotated[
        bool, typer.Option(help="Put a lesion into some of the livers, a tumour into the brains.")
    ] = True,
    format: Annotated[_Format, typer.Option(help="Images and label maps, or CT series with contours.")] = _Format.nifti,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a CPU core.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the phantoms of an earlier study in the folder.")] = False,
) -> None:
    """Make a synthetic CT or MRI study: images, labels and a data list.

    The labels of torsos are liver, spleen, left and right kidney, aorta, lungs, spine and (in some livers) a lesion.
    Files are laid out as in the Medical Segmentation Decathlon; the labels of test cases are in labelsTs.

    mri_tumor is a brain in T1, T1c, T2 and FLAIR with oedema, necrotic core and enhancing rim, laid out as in BraTS:
    a folder a case, a file a channel; the list names the nested regions.

    As DICOM, each case is a CT series with an RTSTRUCT, in training/ or testing/; medseg3d dicom convert OUT/training
    DATA --labels OUT/labels.yaml makes images and labels of them.

    [bold]Examples[/]

      medseg3d phantom data/phantom_ct --cases 40 --test-cases 10

      medseg3d phantom data/phantom_mri --modality mri --cases 40 --seed 1

      medseg3d phantom data/phantom_tumor --modality mri_tumor --cases 40 --test-cases 10

      medseg3d phantom data/phantom_dicom --cases 10 --test-cases 2 --format dicom

      medseg3d phantom /tmp/tiny --cases 4 --size 48 48 32 --no-lesions
    """
    from medseg3d.phantom import write_study

    console = Console(highlight=False, soft_wrap=True)
    total, done = cases + test_cases, 0
    with progress_bar(console, f"Making {modality.value} phantoms") as progress:

        def show(case: str) -> None:
            nonlocal done
            done += 1
            progress(done, total)

        path = write_study(
            out,
            modality=modality.value,
            cases=cases,
            test_cases=test_cases,
            seed=seed,
            size=size,
            lesions=lesions,
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            format=format.value,
            on_case=show,
        )
    console.print(f"Wrote {cases} cases and {test_cases} test cases: {path}", markup=False)
