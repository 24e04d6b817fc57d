"""``medseg3d bundle``: which bundles there are, what is wrong with one, copies to edit, and packing for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from medseg3d.bundles import Problem

__all__ = ["app"]

app = typer.Typer(help="List, check, copy and pack bundles.", no_args_is_help=True)
COLOURS = {"error": "red", "warning": "yellow", "review": "magenta"}


@app.command("list")
def list_() -> None:
    """Show the bundles that can be named without a path.

    They are looked for in $MEDSEG3D_BUNDLES, in ./bundles, and in the installed package.

    Example:  medseg3d bundle list
    """
    from medseg3d.bundles import list_bundles
    from medseg3d.bundles.metadata import describe

    table = Table()
    for name in ("bundle", "version", "task", "folder"):
        table.add_column(name, overflow="fold")
    for bundle in list_bundles():
        description = describe(bundle)
        table.add_row(bundle.name, description.version, description.task, str(bundle))
    console = Console(soft_wrap=True)
    if table.row_count:
        console.print(table)
    else:
        console.print(
            "No bundle was found. Set MEDSEG3D_BUNDLES to the folder that holds yours, or name one by its path."
        )


@app.command("check", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def check(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="Name or folder of the bundle.")],
    config_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--config-file", "--config_file", help="Check only this file; repeat it to lay files over each other."
        ),
    ] = None,
) -> None:
    """Check configuration files, and overrides as they would be typed, without running anything.

    Misspelt ids and overrides, undefined references, wrong targets and arguments, missing properties and files, values
    that do not fit together; weights that are not those that the bundle states the hash of. The same check of the
    configuration, and one of the data, is the first step of every run.

    A bundle is a program: what it would run outside the libraries that it is made for is shown as "review", and what no
    model needs (a shell command in an expression, a target, logging.conf or a weights file) as an error. The exit
    status is 1 when there is an error.

    Examples:

      medseg3d bundle check mri_hippocampus_segmentation

      medseg3d bundle check ct_organ_segmentation --config-file configs/train.yaml --max_epochs 3

      medseg3d bundle check downloads/spleen_ct_segmentation
    """
    from medseg3d.bundles import check_bundle, find_bundle

    folder = find_bundle(bundle)
    problems = check_bundle(folder, config_files=config_file, overrides=_overrides(context.args))
    console = Console(soft_wrap=True)
    if not problems:
        console.print(f"{folder.name}: no problem found.", highlight=False)
        return
    console.print(_table(problems))
    counts = {kind: sum(problem.severity == kind for problem in problems) for kind in COLOURS}
    found = [_count(counts["error"], "error"), _count(counts["warning"], "warning")]
    found += [f"{counts['review']} to review"] if counts["review"] else []
    console.print(f"{folder.name}: {', '.join(found)}.", highlight=False)
    if counts["error"]:
        raise typer.Exit(1)


@app.command("copy")
def copy(
    bundle: Annotated[str, typer.Argument(help="Name or folder of the bundle.")],
    folder: Annotated[Path, typer.Argument(help="The new bundle; nothing that is there is overwritten.")],
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="With what lies in models/, or to be trained.")
    ] = True,
) -> None:
    """Make an editable copy of a bundle, with its overlays.

    Examples:

      medseg3d bundle copy ct_organ_segmentation bundles/my_organs

      medseg3d bundle copy downloads/spleen_ct_segmentation my_spleen --no-weights
    """
    from medseg3d.bundles import copy_bundle, find_bundle

    copied = copy_bundle(find_bundle(bundle), folder, weights=weights)
    Console(soft_wrap=True).print(f"{copied}: edit configs/train.yaml and configs/inference.yaml.", highlight=False)


@app.command("pack")
def pack(
    bundle: Annotated[str, typer.Argument(help="Name or folder of the bundle that was trained.")],
    out: Annotated[
        Path, typer.Argument(help="A new folder, or a file that ends in .zip. Its name becomes the bundle's.")
    ],
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            help="Weights, or the folder of a run; repeat it for an ensemble.", show_default="models/model.pt"
        ),
    ] = None,
    config_file: Annotated[
        list[Path] | None,
        typer.Option("--config-file", "--config_file", help="Laid over the bundle, such as a plan; may be repeated."),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder whose summary.json scores these weights: for the model card.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the packed bundle.", show_default="the bundle's")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Store weights with half the bytes.")] = False,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Also models/model.ts, which MONAI Deploy reads.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also models/model.onnx (pip install 'medseg3d\\[onnx]').")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Pack a bundle even if it holds code that `bundle check` shows.")
    ] = False,
) -> None:
    """Pack a bundle with trained weights, for others: one folder or zip, whole or not at all, and checked.

    configs/inference.yaml and configs/train.yaml with everything laid over them, also what the training was told on the
    command line (run.json beside the weights says it); models/model.pt as a bare state dict; metadata with versions and
    hashes; and docs/README.md, the model card: data, licence, command, seed, scores with intervals, intended use,
    limits. MONAI Label and the model zoo's tools read it as it is, MONAI Deploy its model.ts. TorchScript and ONNX are
    compared with PyTorch's outputs before they are kept.

    Examples:

      medseg3d bundle pack ct_organ_segmentation organs.zip --weights runs/fold0 --evaluation runs/fold0/evaluation

      medseg3d bundle pack ct_organ_segmentation out/organs --weights runs/fold0 --weights runs/fold1 --torchscript
    """
    from medseg3d.bundles import find_bundle, pack_bundle, require_trust

    folder = find_bundle(bundle)
    if not trust:
        require_trust(folder, config_file or (), own_weights=not weights)
    packed = pack_bundle(
        folder,
        out,
        weights=weights or (),
        config_files=config_file or (),
        evaluation=evaluation,
        version=version,
        float16=float16,
        torchscript=torchscript,
        onnx=onnx,
    )
    console = Console(soft_wrap=True)
    if packed.problems:
        console.print(_table(list(packed.problems)))
    for export in packed.exports:
        differs = f"differs from PyTorch by {export.difference:.1e} of the largest output"
        console.print(f"{export.file}: {differs}, {export.tolerance:.0e} is allowed", highlight=False)
    console.print(
        f"{packed.path}: packed and checked; {_count(len(packed.weights), 'file')} in models/.", highlight=False
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _table(problems: list[Problem]) -> Table:
    from rich.markup import escape

    table = Table(show_lines=True)
    for name in ("", "where", "what, and what to do"):
        table.add_column(name, overflow="fold")
    for problem in problems:
        colour = COLOURS[problem.severity]
        what = f"{problem.what} {problem.remedy}".rstrip()
        table.add_row(f"[{colour}]{problem.severity}[/]", escape(problem.where), escape(what))
    return table


def _overrides(arguments: list[str]) -> dict[str, Any]:
    """``--id value``, ``--id=value`` and ``--id`` (true), read as ``python -m monai.bundle`` reads them."""
    from fire.parser import DefaultParseValue

    from medseg3d.errors import UsageError

    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise UsageError(f"{flag!r} is not expected here: overrides are typed as --id value.")
        name, has_value, value = flag.removeprefix("--").partition("=")
        if not has_value:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        overrides[name.replace("-", "_")] = DefaultParseValue(value)
    return overrides
