"""``medseg3d dicom``: DICOM series, annotations and masks."""

from __future__ import annotations

import typer

from medseg3d.cli.dicom.convert import convert
from medseg3d.cli.dicom.deidentify import deidentify
from medseg3d.cli.dicom.rtstruct import rtstruct
from medseg3d.cli.dicom.scan import scan
from medseg3d.cli.dicom.seg import seg

__all__ = ["app"]

app = typer.Typer(
    name="dicom",
    help="Read DICOM series and annotations, write masks back as SEG and RTSTRUCT, de-identify.",
    no_args_is_help=True,
)
app.command("convert")(convert)
app.command("deidentify")(deidentify)
app.command("rtstruct")(rtstruct)
app.command("scan")(scan)
app.command("seg")(seg)
