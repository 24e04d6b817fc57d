"""``medseg3d compare``: methods held against each other on the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["compare"]

LOG_WIDTH = 150


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_A RUN_B ...", help="Folders that medseg3d evaluate wrote.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made if absent.", show_default=False)
    ],
    metric: Annotated[str, typer.Option(help="The metric that comes first; all are compared.")] = "dice",
    names: Annotated[
        str, typer.Option(help="Names of the methods, in order: unet,transformer.", show_default="of the evaluations")
    ] = "",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")] = 2000,
) -> None:
    """Compare two or more evaluated methods, case by case.

    Cases and labels that all have are compared, pair by pair: mean difference
    with a bootstrap interval over patients, Wilcoxon's signed-rank test, Holm's
    adjustment over labels and pairs, and how often each method would come first
    if other patients had been drawn. OUT gets comparison.csv, comparison.json
    and report.html.

    [bold]Examples[/]

      medseg3d compare results/unet results/transformer --out results/comparison

      medseg3d compare results/a results/b -o results/ab --metric nsd --names x,y
    """
    from medseg3d.evaluation import compare_runs
    from medseg3d.evaluation.options import parse_names

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    comparison = compare_runs(
        [run.absolute() for run in runs],
        output_dir=out.absolute(),
        metric=metric,
        names=parse_names(names),
        resamples=resamples,
    )
    content = comparison.content
    console.print(_pair_table(content))
    for name, cases in content["left_out"].items():
        if cases:
            console.print(f"[yellow]{len(cases)} cases are only in {escape(name)} and some others: left out.[/]")
    console.print(
        f"{content['cases']} cases of {content['patients']} patients compared. Report: {escape(str(comparison.report))}"
    )


def _pair_table(content: Mapping[str, Any]) -> Table:
    metric = content["metric"]
    table = Table("a", "b", "label", "n", title=f"{metric}: a minus b", title_justify="left")
    for heading in ("mean a", "mean b", "difference (95 %)", "p (Holm)", "better in a / equal / b"):
        table.add_column(heading, justify="right")
    for pair in content["pairs"]:
        if pair["metric"] == metric:
            wins = f"{pair['wins_a']} / {pair['ties']} / {pair['wins_b']}"
            numbers = (_number(pair["mean_a"]), _number(pair["mean_b"]), _difference(pair), _p(pair))
            table.add_row(escape(pair["a"]), escape(pair["b"]), escape(pair["label"]), str(pair["n"]), *numbers, wins)
    return table


def _difference(pair: Mapping[str, Any]) -> str:
    """The mean difference; where distances are infinite, the median."""
    if pair["difference"] is None:
        value, interval, text = pair["median_difference"], pair["median_interval"], "median "
    else:
        value, interval, text = pair["difference"], pair["interval"], ""
    text += _number(value, sign=True)
    if interval is None:
        return text
    low, high = ("∞" if bound is None else _number(bound, sign=True) for bound in interval)
    return f"{text} ({low} to {high})"


def _p(pair: Mapping[str, Any]) -> str:
    p = pair["p_holm"]
    if p is None:
        return "–"
    star = " *" if pair["significant"] else ""
    return ("< 0.001" if p < 0.001 else f"{p:.3f}") + star


def _number(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}"
