"""``medseg3d segment``: masks of volumes and of 2D images by a bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["segment"]


class _Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def segment(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Images, DICOM series, or a data list.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder for masks and <case>.json; made if absent.", show_default=False)
    ],
    bundle: Annotated[str, typer.Option(help="A bundle's name or folder.", show_default=False)],
    device: Annotated[
        _Device | None, typer.Option(help="Where to compute.", show_default="cuda if there is one")
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            help="Weights to use; repeated, the masks are of the mean of their probabilities.",
            show_default="the bundle's own",
        ),
    ] = None,
    config_file: Annotated[
        list[Path] | None,
        typer.Option(help="YAML or JSON over the bundle's inference.yaml, such as a plan; may be repeated."),
    ] = None,
    probability: Annotated[bool, typer.Option("--probability", help="Also write <case>_probability.nii.gz.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write <case>_uncertainty.nii.gz.")] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over mirror images: along the axes that the bundle was trained with.")
    ] = False,
    formats: Annotated[
        str | None,
        typer.Option(
            help="Formats of the masks, with commas: nifti; of DICOM series also seg and rtstruct.",
            show_default="nifti; of 2D images png",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave masks that the same weights made earlier: an interrupted run goes on.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a bundle even if it holds code that `medseg3d bundle check` shows.")
    ] = False,
) -> None:
    """Segment CT or MRI volumes, or 2D images; each mask has the grid of its image.

    INPUT is a .nii, .nii.gz, .nrrd, .mha or .mhd file, a folder of them (CASE_0000, CASE_0001, … are the channels
    of one case), or a data list (.json), of which the testing cases are taken. It may also be DICOM: a folder tree of
    studies or a zip archive, of which every series of the bundle's modality is segmented; masks are then written as
    DICOM SEG and RTSTRUCT too, if asked for, to be opened over the images. Of several modalities, as CT and
    PET, the series of one study and frame of reference are brought onto the grid of the first, where the mask lies.

    With a bundle of 2D images, INPUT is a PNG, JPEG, TIFF, BMP, DICOM or NIfTI file (each page, frame or slice is an
    image), a folder of them, or a list of 2D images. Masks are <case>.png, whose palette's indices are the label ids.

    A case that fails is reported, the others are done, and the exit status is 1.

    A bundle that would run code outside the libraries that it is made for is refused with a list of it, until --trust
    says that somebody has read it.

    The same run without this command: python -m monai.bundle run --config_file BUNDLE/configs/inference.yaml
    --bundle_root BUNDLE --dataset_dir INPUT --output_dir OUTPUT

    [bold]Examples[/]

      medseg3d segment scans/ masks/ --bundle ct_organ_segmentation

      medseg3d segment t1.nii.gz masks/ --bundle mri_hippocampus_segmentation --device cpu

      medseg3d segment dicom/ masks/ --bundle ct_organ_segmentation --formats nifti,seg,rtstruct

      medseg3d segment slides/ masks/ --bundle image_segmentation_2d --weights runs/fold0/best.pt

      medseg3d segment study/dataset.json masks/ --bundle bundles/my_bundle --weights runs/fold0/best.pt --uncertainty
    """
    from medseg3d.bundles import find_bundle
    from medseg3d.inference.run import run_bundle

    run_bundle(
        find_bundle(bundle),
        source,
        output,
        device=device.value if device else None,
        weights=weights or None,
        config_files=config_file or (),
        save_probability=probability,
        save_uncertainty=uncertainty,
        mirror=tta,
        overwrite=not keep,
        formats=[name.strip() for name in formats.split(",")] if formats else None,
        trust=trust,
    )
