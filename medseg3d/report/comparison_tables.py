"""Tables and charts of a comparison. Pure: ``comparison.json`` in, tables and Plotly's JSON out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.report.charts import GRID, INK, Chart, layout
from medseg3d.report.colours import Palette
from medseg3d.report.evaluation_tables import anchor
from medseg3d.report.pairs import Difference, shown_difference
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.words import Units, ci, interval, metric_text, number, p_value, units_of

__all__ = ["case_values", "differences", "forest_chart", "pair_table", "rank_chart", "rank_table",
           "spread_table"]  # fmt: skip

MAX_SPREAD_ROWS = 200
# At the right of a forest plot there is room for so many lines of one page.
MAX_FOREST = 60


def pair_table(
    pairs: Sequence[Mapping[str, Any]], metric: str, palette: Palette, *, table_id: str, units: Units = Units()
) -> Table:
    """A row a structure and pair of methods: means, paired difference with its interval, p after Holm, and wins."""
    text = metric_text(metric, units)
    columns = (
        Column("Structure"), Column("A"), Column("B"), Column("n", True, "Cases with a value by both"),
        Column("A", True, group=f"Mean {text.heading}"), Column("B", True, group=f"Mean {text.heading}"),
        Column("Mean", True, "A − B, with its interval by bootstrap over patients", "Paired difference A − B"),
        Column("Median", True, "With its interval where distances are infinite", "Paired difference A − B"),
        Column("p", True, "Wilcoxon signed-rank test, as it is", "Wilcoxon"),
        Column("p (Holm)", True, "Holm's correction for the number of structures times pairs of methods", "Wilcoxon"),
        Column("A / tie / B", True, "Cases in which A is better, neither, or B"),
    )  # fmt: skip
    rows = tuple(_pair_row(p, text.digits, palette) for p in pairs if p["metric"] == metric)
    return Table(table_id, columns, rows, searchable=len(rows) > 20, shown=40 if len(rows) > 50 else None)


def _pair_row(pair: Mapping[str, Any], digits: int, palette: Palette) -> Row:
    known = pair.get("p_holm") is not None
    status = "" if known else str(pair.get("status") or "").replace("_", " ")
    wins = [pair.get(key) for key in ("wins_a", "ties", "wins_b")]
    return Row((
        Cell(pair["label"], colour=palette.by_name.get(pair["label"], "#888888")),
        Cell(pair["a"]), Cell(pair["b"]), amount(pair.get("n"), 0),
        amount(pair.get("mean_a"), digits), amount(pair.get("mean_b"), digits),
        amount(pair.get("difference"), digits, note=ci(pair.get("interval"), digits)),
        _median_cell(pair, digits),
        amount(pair.get("wilcoxon_p"), text=p_value(pair.get("wilcoxon_p"))),
        amount(pair.get("p_holm"), text=p_value(pair.get("p_holm")), tone="good" if pair.get("significant") else "",
               note="significant" if pair.get("significant") else status),
        Cell(" / ".join(number(n, 0) for n in wins), wins[0]),
    ))  # fmt: skip


def _median_cell(pair: Mapping[str, Any], digits: int) -> Cell:
    """The median difference; its interval where it stands for the mean, and how many are infinite for whom."""
    if pair.get("difference") is not None:
        return amount(pair.get("median_difference"), digits)
    shown = shown_difference(pair)
    counts = [f"{pair[s]} {pair[f'infinite_{s}']}× ∞" for s in ("a", "b") if pair.get(f"infinite_{s}")]
    return amount(shown.value, digits, note="\n".join(filter(None, [ci(shown.bounds, digits), *counts])))


def rank_table(ranking: Mapping[str, Any], methods: Sequence[str], *, units: Units = Units()) -> Table | None:
    """A row a metric: the mean rank of every method, and how often it comes first; None without ranks."""
    if not ranking:
        return None
    headings = (
        ("Mean rank", "1 is best"),
        ("First place", "Share of the bootstrap samples in which it is first, alone or with others"),
    )
    columns = (Column("Metric"), *(Column(title, True, text, m) for m in methods for title, text in headings))
    rows = []
    for metric, ranks in ranking.items():
        cells = [Cell(metric_text(metric, units).heading)]
        for method in methods:
            share = (ranks.get("rank_share") or {}).get(method) or [None]
            text = "–" if share[0] is None else f"{100 * share[0]:.0f} %"
            cells += [amount(ranks["mean_rank"].get(method), 2), amount(share[0], text=text)]
        rows.append(Row(tuple(cells)))
    return Table("ranks", columns, tuple(rows), shown=6 if len(rows) > 8 else None)


def rank_chart(ranks: Mapping[str, Any], methods: Sequence[str]) -> Chart | None:
    """How often each method comes first, second, …, when patients are drawn anew; None without bootstrap."""
    shares = ranks.get("rank_share") or {}
    places = max((len(share) for share in shares.values() if share), default=0)
    if not places:
        return None
    shades = ["#0b4a8b", "#5f95c8", "#b5d0e8", "#dde6ee", "#eef2f6"]
    data = [
        {
            "type": "bar", "orientation": "h", "name": f"place {place + 1}", "y": list(methods),
            "x": [(shares.get(m) or [0] * places)[place] for m in methods],
            "marker": {"color": shades[min(place, len(shades) - 1)], "line": {"color": INK, "width": 0.6}},
            "hovertemplate": f"%{{y}}: place {place + 1} in %{{x:.1%}}<extra></extra>",
        }
        for place in range(places)
    ]  # fmt: skip
    chart = layout("share of samples", "", barmode="stack", height=110 + 42 * len(methods))
    chart["xaxis"] |= {"tickformat": ".0%", "range": [0, 1.005]}
    chart["legend"]["traceorder"] = "normal"
    chart["yaxis"] |= {"type": "category", "autorange": "reversed", "ticks": "", "showgrid": False}
    return {"data": data, "layout": chart}


def forest_chart(pairs: Sequence[Mapping[str, Any]], metric: str, *, units: Units = Units()) -> Chart | None:
    """Paired differences with their intervals, a line a structure and pair; None where none was computed.

    Where distances are infinite it is the median's; a bound that is infinite leaves the frame.
    """
    own = [(p, shown_difference(p)) for p in pairs if p["metric"] == metric]
    own = [(p, shown) for p, shown in own if shown.value is not None and math.isfinite(shown.value)]
    if not own:
        return None
    if len(own) > MAX_FOREST:
        own = sorted(own, key=lambda entry: -abs(entry[1].value or 0.0))[:MAX_FOREST]
    many = len({(p["a"], p["b"]) for p, _ in own}) > 1
    values = [shown.value or 0.0 for _, shown in own]
    bounds = [shown.bounds or (value, value) for value, (_, shown) in zip(values, own, strict=True)]
    low, high = _frame([*values, *(bound for pair in bounds for bound in pair)])
    beyond = high - low  # longer than the frame is wide
    ends = [(max(a, low - beyond), min(b, high + beyond)) for a, b in bounds]
    text = metric_text(metric, units)
    data = [{
        "type": "scatter", "mode": "markers", "x": values, "y": [_row_name(p, shown, many) for p, shown in own],
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1.6, "width": 5, "color": INK,
            "array": [b - value for value, (_, b) in zip(values, ends, strict=True)],
            "arrayminus": [value - a for value, (a, _) in zip(values, ends, strict=True)],
        },
        # Filled is significant: told apart without colour as well.
        "marker": {"size": 10, "symbol": "square", "line": {"color": INK, "width": 1.6},
                   "color": [INK if p.get("significant") else "#ffffff" for p, _ in own]},
        "text": [f"{interval(shown.bounds, text.digits)}, p {p_value(p.get('p_holm'))}" for p, shown in own],
        "hovertemplate": "%{y}<br>%{x:.4f} (%{text})<extra></extra>",
    }]  # fmt: skip
    # A line of its own, so that a telephone does not cut it; with several pairs each row names its own.
    title = text.heading + ("" if many else f"<br>{own[0][0]['a']} − {own[0][0]['b']}")
    chart = layout(title, "", height=120 + 34 * len(own), showlegend=False)
    chart["xaxis"] |= {"zeroline": True, "zerolinecolor": "#a8200d", "zerolinewidth": 1.5, "range": [low, high]}
    # Rows are numbered from 0, the first on top, with room above and below.
    chart["yaxis"] |= {"type": "category", "range": [len(own) - 0.4, -0.6], "gridcolor": GRID, "ticks": ""}
    return {"data": data, "layout": chart}


def _frame(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest finite value, with zero between them and a margin around."""
    finite = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _row_name(pair: Mapping[str, Any], shown: Difference, many: bool) -> str:
    name = f"{pair['label']}: {pair['a']} − {pair['b']}" if many else str(pair["label"])
    return f"{name} (median)" if shown.kind == "median" else name


def case_values(content: Mapping[str, Any], palette: Palette) -> dict[str, Any]:
    """What ``comparison.js`` draws the cases' lines from: per metric and label the cases with a value a method."""
    values: dict[str, dict[str, list[list[Any]]]] = {}
    for row in content.get("cases_table") or []:
        of_label = values.setdefault(row["metric"], {}).setdefault(row["label"], [])
        of_label.append([row["case"], *(_short(row["values"].get(m)) for m in content["methods"])])
    labels = list(dict.fromkeys(label for of_metric in values.values() for label in of_metric))
    texts = [metric_text(m, units_of(content)) for m in values]
    return {
        "methods": list(content["methods"]),
        "metrics": [{"key": t.key, "heading": t.heading, "digits": t.digits} for t in texts],
        "labels": [{"name": name, "colour": palette.by_name.get(name, "#888888")} for name in labels],
        "values": values,
    }


def _short(value: Any) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def differences(content: Mapping[str, Any]) -> list[tuple[str, str, float, Mapping[str, Any]]]:
    """Cases and labels by how far the methods are apart in the headline's metric, the farthest first.

    Each with its patient, the greatest minus the least value, and the value by method.
    """
    found = []
    for row in content.get("cases_table") or []:
        values = [v for v in row["values"].values() if v is not None]
        if row["metric"] == content.get("metric", "dice") and len(values) > 1:
            found.append((str(row["case"]), str(row["label"]), max(values) - min(values), row))
    return sorted(found, key=lambda entry: -entry[2])


def spread_table(content: Mapping[str, Any], palette: Palette, pictured: Sequence[str]) -> Table:
    """The cases where methods differ most, with links to pictures."""
    text, methods = metric_text(content.get("metric", "dice"), units_of(content)), content["methods"]
    columns = (
        Column("Case"), Column("Patient"), Column("Structure"),
        *(Column(m, True, group=text.heading) for m in methods), Column("Apart", True, "Greatest minus least"),
    )  # fmt: skip
    entries = differences(content)
    rows = []
    for case, label, apart, row in entries[:MAX_SPREAD_ROWS]:
        link = f"#{anchor('pictures', case)}" if case in pictured else ""
        first = Cell(case, href=link, note="pictures" if link else "")
        swatch = Cell(label, colour=palette.by_name.get(label, "#888888"))
        values = [amount(row["values"].get(m), text.digits) for m in methods]
        patient = Cell(str(row.get("patient") or ""))
        row_id = anchor("case", f"{case}/{label}")
        rows.append(Row((first, patient, swatch, *values, amount(apart, text.digits)), row_id, f"{case}\n{label}"))
    caption = f"The first {MAX_SPREAD_ROWS} of {len(entries)}." if len(entries) > MAX_SPREAD_ROWS else ""
    return Table("cases", columns, tuple(rows), caption, printed=40, searchable=len(rows) > 12, scroll=len(rows) > 15)
