"""``medseg3d bundle``: which bundles there are, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from medseg3d.bundles import Problem

__all__ = ["app"]

app = typer.Typer(help="List bundles, and check one before it runs.", no_args_is_help=True)


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
    that do not fit together. The same check, and one of the data, is the first step of every run. The exit status is 1
    when there is an error.

    Examples:

      medseg3d bundle check mri_hippocampus_segmentation

      medseg3d bundle check ct_organ_segmentation --config-file configs/train.yaml --max_epochs 3
    """
    from medseg3d.bundles import check_bundle, find_bundle

    folder = find_bundle(bundle)
    problems = check_bundle(folder, config_files=config_file, overrides=_overrides(context.args))
    console = Console(soft_wrap=True)
    if not problems:
        console.print(f"{folder.name}: no problem found.", highlight=False)
        return
    console.print(_table(problems))
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    console.print(f"{folder.name}: {_count(errors, 'error')}, {_count(warnings, 'warning')}.", highlight=False)
    if errors:
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _table(problems: list[Problem]) -> Table:
    from rich.markup import escape

    table = Table(show_lines=True)
    for name in ("", "where", "what, and what to do"):
        table.add_column(name, overflow="fold")
    for problem in problems:
        colour = "red" if problem.severity == "error" else "yellow"
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
