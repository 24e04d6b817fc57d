"""``medseg3d dicom seg``: a mask as DICOM SEG."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["seg"]


class _Kind(StrEnum):
    binary = "binary"
    labelmap = "labelmap"


def seg(
    mask: Annotated[Path, typer.Argument(help="Label map: NIfTI, NRRD or MetaImage.", show_default=False)],
    series: Annotated[
        Path, typer.Option(help="Folder, zip file or file of the series it was made from.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The SEG to write.", show_default=False)],
    kind: Annotated[_Kind, typer.Option(help="binary is read everywhere; labelmap is new in DICOM.")] = _Kind.binary,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ID,…", help="Labels; may be repeated.", show_default="those of MASK's .json"),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(help="YAML with the codes of labels.", show_default="SNOMED CT codes by the labels' names"),
    ] = None,
    series_uid: Annotated[
        str | None, typer.Option(help="The series, where there are several.", show_default=False)
    ] = None,
    volume: Annotated[
        str | None, typer.Option(help="The volume, where the series holds several (t003, b1000).", show_default=False)
    ] = None,
    description: Annotated[str, typer.Option(help="Series description.")] = "Segmentation",
    force: Annotated[bool, typer.Option("--force", help="Replace a file of this name.")] = False,
) -> None:
    """Write a mask as DICOM SEG, to be opened over the images it was made from.

    The mask must lie on the grid of the series; order and direction of its axes do not matter. Patient and study are
    copied from the images. What the labels mean is looked up by their names (liver, left_kidney, vertebrae_L1, …).

    [bold]Examples[/]

      medseg3d dicom seg masks/case.nii.gz --series dicom/ct/ -o case_seg.dcm

      medseg3d dicom seg mask.nrrd --series study.zip --series-uid 1.2.3.4 --labels liver=1,tumour=2 -o seg.dcm
    """
    from rich.console import Console
    from rich.markup import escape

    from medseg3d.dicom.mask_file import parse_labels
    from medseg3d.dicom.seg_mask import write_seg_of_file

    findings = write_seg_of_file(
        mask,
        series,
        output,
        kind=kind.value,
        labels=parse_labels(labels or []) or None,
        codes=codes,
        series_uid=series_uid,
        volume=volume,
        series_description=description,
        force=force,
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"{finding.severity}: {escape(str(finding))}")
    console.print(f"{escape(str(output))}: written.")
