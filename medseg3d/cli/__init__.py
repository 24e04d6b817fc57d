"""The ``medseg3d`` command.

One file a command group. Modules here import only the standard library, typer and rich at the top: what a command
needs is imported inside it, so that ``--help`` answers in well under a second.
"""

from __future__ import annotations

import logging
import sys

import typer
from rich.console import Console
from rich.markup import escape

from medseg3d.cli import (
    bundle,
    classify,
    compare,
    crossval,
    datalist,
    demo,
    detect,
    dicom,
    evaluate,
    evaluate_images,
    phantom,
    plan,
    segment,
)
from medseg3d.errors import MedsegError

__all__ = ["app", "main"]

app = typer.Typer(
    name="medseg3d",
    help="Segment CT and MRI volumes with MONAI bundles: check data, train, evaluate, export.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("phantom")(phantom.phantom)
app.add_typer(datalist.app, name="datalist")
app.add_typer(dicom.app, name="dicom")
app.command("plan")(plan.plan)
app.command("crossval")(crossval.crossval)
app.command("segment")(segment.segment)
app.command("classify")(classify.classify)
app.command("detect")(detect.detect)
app.command("evaluate")(evaluate.evaluate)
app.command("evaluate-classification")(evaluate_images.evaluate_classification)
app.command("evaluate-detection")(evaluate_images.evaluate_detection)
app.command("compare")(compare.compare)
app.add_typer(bundle.app, name="bundle")


def main() -> None:
    """Run the command line; a ``MedsegError`` becomes one message and an exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)
    try:
        app()
    except MedsegError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_status)
