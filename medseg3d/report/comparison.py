"""``report.html`` of a comparison: reads its files, writes one page beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg3d.errors import CaseError, GeometryError
from medseg3d.report.charts import layout
from medseg3d.report.colours import Palette, palette_of
from medseg3d.report.comparison_tables import (
    case_values,
    differences,
    forest_chart,
    pair_table,
    rank_chart,
    rank_table,
    spread_table,
)
from medseg3d.report.comparison_verdict import comparison_verdict
from medseg3d.report.evaluation import Picture, picture_note, provenance_facts
from medseg3d.report.evaluation_tables import anchor
from medseg3d.report.files import Comparison, comparison_in_units, read_comparison
from medseg3d.report.page import render, write_page
from medseg3d.report.panels import Budget, Panel, panel, read_grid
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.words import METRICS, metric_text, number, units_of

__all__ = ["comparison_html", "write_comparison_report"]

SHOWN_CASES = 4
# Columns beyond the image, the reference and these would be too narrow to see anything in.
SHOWN_METHODS = 3


def write_comparison_report(out_dir: str | Path) -> Path:
    """Write ``out_dir/report.html`` from the ``comparison.json`` in it; opens without a network.

    The cases where methods differ most are shown in pictures, if the evaluation folders that the file names, and the
    images that those name, can be read.

    Raises:
        UsageError: the file is missing, damaged or of another schema.
    """
    comparison = read_comparison(Path(out_dir))
    units = units_of(comparison.content)
    comparison = replace(comparison, content=comparison_in_units(comparison.content, units))
    palette = palette_of(_regions(comparison))
    cases = list(dict.fromkeys(case for case, *_ in differences(comparison.content)))[:SHOWN_CASES]
    panels, problems = _panels(comparison, cases, palette)
    html = comparison_html(comparison, palette, panels, picture_problems=problems)
    return write_page(Path(out_dir) / "report.html", html)


def comparison_html(
    comparison: Comparison, palette: Palette, panels: Mapping[str, Panel], *, picture_problems: Sequence[str] = ()
) -> str:
    """The page as text. Pure: what is read from images comes in as ``panels``, by case.

    Sizes in ``comparison`` are in the units that are shown, see ``comparison_in_units``.
    """
    content = comparison.content
    units = units_of(content)
    metric, pairs = content.get("metric", "dice"), content.get("pairs") or []
    ranking = content.get("ranking") or {}
    pictures = [_picture(case, n, shown, content, palette) for n, (case, shown) in enumerate(panels.items())]
    forest, ranks = forest_chart(pairs, metric, units=units), rank_chart(ranking.get(metric) or {}, content["methods"])
    others = [m for m in dict.fromkeys(p["metric"] for p in pairs) if m != metric]
    view: dict[str, Any] = {
        "title": f"Comparison of {', '.join(content['methods'])}",
        "kicker": "Paired comparison on the same cases",
        "verdict": comparison_verdict(content),
        "units": units,
        "pair_table": pair_table(pairs, metric, palette, table_id="pairs", units=units),
        "other_tables": [
            (metric_text(m, units).heading, pair_table(pairs, m, palette, table_id=f"pairs-{m}", units=units))
            for m in others
        ],
        "forest": forest is not None,
        "rank_table": rank_table(ranking, content["methods"], units=units),
        "rank_chart": ranks is not None,
        "has_cases": bool(content.get("cases_table")),
        "pictures": pictures,
        "picture_note": picture_note({"inputs": comparison.inputs}, picture_problems, shown=len(pictures)),
        "spread_table": spread_table(content, palette, list(panels)),
        "metrics": [units.of(m) for m in METRICS if m.key in {p["metric"] for p in pairs}],
        "provenance": [
            *(("Evaluation of " + name, str(path)) for name, path in (content.get("runs") or {}).items()),
            *provenance_facts(content.get("provenance") or {}),
        ],
        "command": (content.get("provenance") or {}).get("command") or "",
        "level": f"{100 * content.get('level', 0.95):g} %",
    }
    fixed = {"forest-chart": forest, "rank-chart": ranks}
    payloads = {
        "comparison-data": {
            "layout": layout(),
            "fixed": {name: chart for name, chart in fixed.items() if chart},
            "cases": case_values(content, palette),
        },
        **{picture.payload: panels[picture.case].payload for picture in pictures},
    }
    return render("comparison.html.j2", payloads=payloads, sections=_sections(view), **view)


def _regions(comparison: Comparison) -> list[Mapping[str, Any]]:
    """The regions of the evaluations; without them, labels numbered in the order of the table."""
    names = dict.fromkeys(p["label"] for p in comparison.content.get("pairs") or [])
    return comparison.regions or [{"name": name, "ids": [i]} for i, name in enumerate(names, 1)]


def _panels(comparison: Comparison, cases: Sequence[str], palette: Palette) -> tuple[dict[str, Panel], list[str]]:
    """Panels of the cases whose files can be read, and why the others' cannot."""
    by_method = {
        method: {str(entry["case"]): entry for entry in inputs}
        for method, inputs in list(comparison.inputs.items())[:SHOWN_METHODS]
    }
    panels: dict[str, Panel] = {}
    problems = []
    units, budget = units_of(comparison.content), Budget(triangles=80_000)
    for case in cases:
        entries = {method: inputs[case] for method, inputs in by_method.items() if case in inputs}
        if not entries:
            continue
        first = next(iter(entries.values()))
        try:
            predictions = {method: entry["prediction"] for method, entry in entries.items()}
            grid, notes = read_grid(first["reference"], predictions, first.get("image"), planar=units.planar)
        except (CaseError, GeometryError) as error:
            problems.append(f"{case}: {error}")
            continue
        left_out = [m for m in comparison.content["methods"] if m not in entries]
        more = (f"Not shown: {', '.join(left_out)}.",) if left_out else ()
        panels[case] = panel(case, grid, palette, notes=(*notes, *more), budget=budget, units=units)
    return panels, problems


def _picture(case: str, place: int, shown: Panel, content: Mapping[str, Any], palette: Palette) -> Picture:
    own = [(label, apart, row) for name, label, apart, row in differences(content) if name == case]
    text, methods = metric_text(content.get("metric", "dice"), units_of(content)), content["methods"]
    columns = (Column("Structure"), *(Column(m, True) for m in methods))
    rows = tuple(
        Row((Cell(label, colour=palette.by_name.get(label, "#888888")),
             *(amount(row["values"].get(m), text.digits) for m in methods)))
        for label, _, row in own
    )  # fmt: skip
    label, apart, _ = own[0]
    table = Table(f"own-{place}", columns, rows, text.heading, shown=12 if len(rows) > 15 else None, compact=True)
    return Picture(
        anchor("pictures", case), anchor("case", f"{case}/{label}"), case, "differs",
        f"{text.title} of {label} {number(apart, text.digits)} apart", f"case-volume-{place}", shown.notes, table,
    )  # fmt: skip


def _sections(view: Mapping[str, Any]) -> list[tuple[str, str]]:
    candidates = [
        ("verdict", "Verdict", True), ("differences", "Differences", True),
        ("ranking", "Ranks", view["rank_table"]), ("lines", "Case by case", view["has_cases"]),
        ("pictures", "Pictures", view["pictures"]), ("case-section", "Cases", view["has_cases"]),
        ("other", "Other metrics", view["other_tables"]), ("definitions", "Definitions", True),
        ("provenance", "Provenance", True),
    ]  # fmt: skip
    return [(target, name) for target, name, present in candidates if present]
