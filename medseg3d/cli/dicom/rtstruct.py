"""``medseg3d dicom rtstruct``: a mask as contours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["rtstruct"]


class _Holes(StrEnum):
    keyhole = "keyhole"
    xor = "xor"


def rtstruct(
    mask: Annotated[Path, typer.Argument(help="Label map: NIfTI, NRRD or MetaImage.", show_default=False)],
    series: Annotated[
        Path, typer.Option(help="Folder, zip file or file of the series it was made from.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The RTSTRUCT to write.", show_default=False)],
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ID,…", help="Labels; may be repeated.", show_default="those of MASK's .json"),
    ] = None,
    holes: Annotated[
        _Holes, typer.Option(help="keyhole is read everywhere; xor (a contour a hole) is new in DICOM.")
    ] = _Holes.keyhole,
    codes: Annotated[
        Path | None,
        typer.Option(help="YAML with codes and colours of labels.", show_default="SNOMED CT codes by the names"),
    ] = None,
    series_uid: Annotated[
        str | None, typer.Option(help="The series, where there are several.", show_default=False)
    ] = None,
    volume: Annotated[
        str | None, typer.Option(help="The volume, where the series holds several (t003, b1000).", show_default=False)
    ] = None,
    description: Annotated[str, typer.Option(help="Series description.")] = "Contours",
    force: Annotated[bool, typer.Option("--force", help="Replace a file of this name.")] = False,
) -> None:
    """Write a mask as an RTSTRUCT, to be opened over the images it was made from.

    The mask must lie on the grid of the series; order and direction of its axes do not matter. Patient and study are
    copied from the images. Filling the contours by the even-odd rule at pixel centres gives the mask back.

    [bold]Examples[/]

      medseg3d dicom rtstruct masks/case.nii.gz --series dicom/ct/ -o case_rtstruct.dcm

      medseg3d dicom rtstruct mask.nrrd --series ct.zip --labels "liver=1,GTV 1=2" -o rtstruct.dcm
    """
    from rich.console import Console
    from rich.markup import escape

    from medseg3d.dicom.mask_file import parse_labels
    from medseg3d.dicom.rtstruct_mask import write_rtstruct_of_file

    findings = write_rtstruct_of_file(
        mask,
        series,
        output,
        labels=parse_labels(labels or []) or None,
        holes=holes.value,
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
