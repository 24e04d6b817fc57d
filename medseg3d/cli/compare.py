"""``medseg3d compare``: methods held against each other on the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medseg3d.cli.evaluate import cases_of

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
    console.print(pair_table(content))
    for line in _remarks(content):
        console.print(f"[yellow]{escape(line)}[/]")
    console.print(f"{cases_of(content)} compared. Report: {escape(str(comparison.report))}")


def pair_table(content: Mapping[str, Any]) -> Table:
    """A row a label and pair of methods, of the metric that comes first."""
    from medseg3d.report.files import comparison_in_units
    from medseg3d.report.words import metric_text, units_of

    units = units_of(content)
    metric, content = content["metric"], comparison_in_units(content, units)
    heading = metric_text(metric, units).heading
    table = Table("a", "b", "label", "n", title=f"{heading}: a minus b, {100 * content['level']:g} % intervals",
                  title_justify="left", padding=(0, 0), pad_edge=False)  # fmt: skip
    for column in table.columns:
        column.overflow = "fold"
    for heading in ("mean a", "mean b", "a - b", "p (Holm)", "wins a / tie / b"):
        table.add_column(heading, justify="right")
    for pair in content["pairs"]:
        if pair["metric"] == metric:
            wins = f"{pair['wins_a']} / {pair['ties']} / {pair['wins_b']}"
            numbers = (_number(pair["mean_a"]), _number(pair["mean_b"]), _difference(pair), _p(pair))
            table.add_row(escape(pair["a"]), escape(pair["b"]), escape(pair["label"]), str(pair["n"]), *numbers, wins)
    return table


def _difference(pair: Mapping[str, Any]) -> str:
    """The mean difference; where distances are infinite, the median."""
    from medseg3d.report.pairs import shown_difference

    shown = shown_difference(pair)
    text = ("median " if shown.kind == "median" else "") + _number(shown.value, sign=True)
    if shown.bounds is None:
        return text
    low, high = (_number(bound, sign=True) for bound in shown.bounds)
    return f"{text} ({low} to {high})"


def _remarks(content: Mapping[str, Any]) -> list[str]:
    """What the table does not show: infinite values, cases and labels that were left out."""
    from medseg3d.report.pairs import infinite_counts
    from medseg3d.report.words import metric_text, units_of
    from medseg3d.statistics import few_patients

    lines = [few_patients(content["patients"])] if few_patients(content["patients"]) else []
    shown = [pair for pair in content["pairs"] if pair["metric"] == content["metric"]]
    title = metric_text(content["metric"], units_of(content)).title
    for name, of_label in infinite_counts(shown).items():
        counts = ", ".join(f"{n} of {total} ({label})" for label, (n, total) in of_label.items())
        lines.append(f"{title} is infinite for {name} in {counts}: only one side has the structure.")
    for name, cases in content["left_out"].items():
        if cases:
            lines.append(f"Cases only in {name} and some others: left out ({len(cases)}).")
    for name, labels in content["left_out_labels"].items():
        if labels:
            lines.append(f"Labels only in {name} and some others: left out ({', '.join(labels)}).")
    return lines


def _p(pair: Mapping[str, Any]) -> str:
    p = pair["p_holm"]
    if p is None:
        return "–"
    star = " *" if pair["significant"] else ""
    return ("< 0.001" if p < 0.001 else f"{p:.3f}") + star


def _number(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}".replace("inf", "∞")
