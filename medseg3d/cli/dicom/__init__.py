"""``medseg3d dicom``: DICOM series, annotations and masks."""

from __future__ import annotations

import typer

from medseg3d.cli.dicom.deidentify import deidentify
from medseg3d.cli.dicom.seg import seg

__all__ = ["app"]

app = typer.Typer(
    name="dicom",
    help="Read DICOM series and annotations, write masks back as SEG and RTSTRUCT, de-identify.",
    no_args_is_help=True,
)
app.command("deidentify")(deidentify)
app.command("seg")(seg)
