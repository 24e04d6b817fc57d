"""``medseg3d phantom``: make synthetic studies."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["phantom"]


class _Modality(StrEnum):
    ct = "ct"
    mri = "mri"


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder of the study; must be absent or empty.", show_default=False)],
    modality: Annotated[_Modality, typer.Option(help="What to imitate; MRI is T1-weighted.")] = _Modality.ct,
    cases: Annotated[int, typer.Option(min=1, help="Cases to train on.")] = 40,
    test_cases: Annotated[int, typer.Option(min=0, help="Further cases, kept apart in imagesTs and labelsTs.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal files.")] = 0,
    size: Annotated[
        tuple[int, int, int],
        typer.Option(help="Voxels from left to right, back to front and foot to head.", metavar="X Y Z"),
    ] = (128, 128, 64),
    lesions: Annotated[bool, typer.Option(help="Put a lesion into some of the livers.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a CPU core.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the phantoms of an earlier study in the folder.")] = False,
) -> None:
    """Make a synthetic CT or MRI torso study: images, labels and a data list.

    The labels are liver, spleen, left and right kidney, aorta, lungs, spine and (in some livers) a lesion.
    Files are laid out as in the Medical Segmentation Decathlon; the labels of test cases are in labelsTs.

    [bold]Examples[/]

      medseg3d phantom data/phantom_ct --cases 40 --test-cases 10

      medseg3d phantom data/phantom_mri --modality mri --cases 40 --seed 1

      medseg3d phantom /tmp/tiny --cases 4 --size 48 48 32 --no-lesions
    """
    from medseg3d.phantom import write_study

    console = Console(highlight=False, soft_wrap=True)
    total = cases + test_cases
    with _progress(console) as progress:
        task = progress.add_task(f"Making {modality.value} phantoms", total=total)

        def show(case: str) -> None:
            progress.advance(task)
            done = int(progress.tasks[task].completed)
            # A log file gets a line now and then instead of the bar.
            if not console.is_terminal and (done == total or done % 10 == 0):
                console.print(f"{done}/{total} cases ({case})")

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
            on_case=show,
        )
    console.print(f"Wrote {cases} cases and {test_cases} test cases: {path}", markup=False)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
