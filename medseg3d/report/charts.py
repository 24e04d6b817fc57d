"""Charts as Plotly's own JSON, and the numbers that the page's script draws the larger ones from. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medseg3d.report.colours import Palette, on_white
from medseg3d.report.words import Units, metric_text, units_of

__all__ = ["calibration_chart", "case_columns", "confusion_chart", "layout", "line_chart", "nothing",
           "training_charts"]  # fmt: skip

Chart = dict[str, Any]

# Metrics with a distribution on the page, if cases.csv has them.
SHOWN_METRICS = (
    "dice", "nsd", "hd95_mm", "assd_mm", "sensitivity", "precision", "volume_difference_ml",
    "relative_volume_difference", "centre_distance_mm", "lesion_f1",
)  # fmt: skip
STATUS_LETTERS = {"scored": "s", "missed": "m", "spurious": "x", "both_empty": "e"}
INK, GRID = "#1d2733", "#e4e8ee"
# Lines that are no structure: distinct in grey as well.
LINES = ("#0b5cad", "#c2410c", "#4d7c0f", "#7e22ce", "#0f766e", "#be123c", "#854d0e", "#334155")


def case_columns(cases: pd.DataFrame, summary: Mapping[str, Any], palette: Palette) -> dict[str, Any]:
    """What ``charts.js`` draws distributions, Bland–Altman plots and a case's own numbers from.

    Returns:
        ``cases`` and ``patients``, and per metric and label one value a case in that order: a number, null where it is
        not defined, or ``"inf"``. ``status`` has a letter a case for each label: s, m(issed), x (spurious), e(mpty), or
        a blank where the case was not evaluated for it.
    """
    units = units_of(summary)
    names = list(dict.fromkeys(cases["case"]))
    labels = list(summary.get("labels") or dict.fromkeys(cases["label"]))
    patients = cases.drop_duplicates("case").set_index("case")["patient"].reindex(names)
    metrics = [m for m in SHOWN_METRICS if m in cases and cases[m].notna().any()]
    by_label = {
        label: rows.set_index("case").reindex(names) for label, rows in _unique(cases).groupby("label", sort=False)
    }
    empty = pd.DataFrame(index=names, columns=cases.columns)
    rows = {label: by_label.get(label, empty) for label in labels}
    wanted = [*metrics, *(m for m in ("volume_ml", "reference_ml") if m in cases)]
    return {
        "cases": names,
        "patients": [str(p) for p in patients],
        "labels": [{"name": label, "colour": palette.by_name.get(label, "#888888")} for label in labels],
        "metrics": [_metric(m, units) for m in metrics],
        "size": {"name": units.size_name, "unit": units.size, "digits": units.size_digits},
        "status": {label: "".join(STATUS_LETTERS.get(s, " ") for s in rows[label]["status"]) for label in labels},
        "values": {m: {label: [_value(v) for v in rows[label][m]] for label in labels} for m in wanted},
        "agreement": {name: label.get("volume_agreement") for name, label in (summary.get("labels") or {}).items()},
    }


def _unique(cases: pd.DataFrame) -> pd.DataFrame:
    return cases.drop_duplicates(["case", "label"])


def _metric(key: str, units: Units) -> dict[str, Any]:
    text = metric_text(key, units)
    return {"key": key, "title": text.title, "heading": text.heading, "unit": text.unit, "digits": text.digits,
            "share": text.better == "higher"}  # fmt: skip


def _value(value: Any) -> float | str | None:
    """Four significant digits are more than a chart or a table shows, and keep the file small."""
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "inf"
    return float(f"{value:.4g}")


def layout(x: str = "", y: str = "", **more: Any) -> Chart:
    """What every chart of a report has in common."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#9aa5b1", "ticks": "outside", "tickcolor": "#9aa5b1"}
    return {
        "font": {
            "family": "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
            "size": 13,
            "color": INK,
        },
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
        "xaxis": {**axis, "title": {"text": x}, "automargin": True},
        "yaxis": {**axis, "title": {"text": y}, "automargin": True},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **more,
    }


def nothing(text: str) -> Chart:
    """The annotation of a chart that has nothing to show; it breaks where a telephone ends."""
    shown = "<br>".join(textwrap.wrap(text, 34))
    return {"text": shown, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}


def line_chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]], *, x: str, y: str) -> Chart:
    """Lines by name, each as its x and y values; None leaves a gap."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(xs) < 60 else "lines",
            "name": name,
            "x": list(xs),
            "y": list(ys),
            "line": {"color": LINES[i % len(LINES)], "width": 2, "dash": "solid" if i < len(LINES) else "dash"},
            "marker": {"size": 5},
        }
        for i, (name, (xs, ys)) in enumerate(lines.items())
    ]
    return {"data": data, "layout": layout(x, y, showlegend=len(data) > 1, height=320)}


def training_charts(training: pd.DataFrame) -> dict[str, Chart]:
    """Loss, and the validation's scores where there are any, over epochs."""
    if training.empty or "epoch" not in training:
        return {}
    epochs = [float(e) for e in training["epoch"]]
    skipped = {"epoch", "iteration", "seconds", "learning_rate", "train_loss"}
    scores = [c for c in training.columns if c not in skipped and training[c].notna().any()]
    charts = {}
    if "train_loss" in training:
        charts["loss"] = line_chart({"training loss": (epochs, _numbers(training["train_loss"]))}, x="epoch", y="loss")
    if scores:
        lines = {c.replace("_", " "): _known(epochs, training[c]) for c in scores[:24]}
        charts["validation"] = line_chart(lines, x="epoch", y="validation score")
    return charts


def _numbers(column: pd.Series) -> list[float | None]:
    return [None if not math.isfinite(v) else float(v) for v in column]


def _known(epochs: Sequence[float], column: pd.Series) -> tuple[list[float], list[float | None]]:
    """Epochs with a value: those without a validation would cut the line."""
    pairs = [(e, v) for e, v in zip(epochs, _numbers(column), strict=True) if v is not None]
    return [e for e, _ in pairs], [v for _, v in pairs]


def calibration_chart(calibration: Mapping[str, Any], palette: Palette, *, unit: str = "voxels") -> Chart:
    """Reliability diagram: how often the label is there, against the probability that was claimed.

    Args:
        unit: what has a probability, in the plural: ``voxels``, ``pixels`` or ``images``.
    """
    diagonal = {
        "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "perfect", "hoverinfo": "skip",
        "line": {"color": "#6b7785", "dash": "dash", "width": 1},
    }  # fmt: skip
    data = [diagonal]
    for label, result in calibration.items():
        bins = [b for b in result["bins"] if b["n"]]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": label, "x": [b["confidence"] for b in bins],
            "y": [b["frequency"] for b in bins], "customdata": [b["n"] for b in bins],
            "line": {"color": on_white(palette.by_name.get(label, INK))},
            "marker": {"size": 8, "color": palette.by_name.get(label, INK), "line": {"color": INK, "width": 0.8}},
            "hovertemplate": f"claimed %{{x:.3f}}, found %{{y:.3f}}<br>%{{customdata:,}} {unit}",
        })  # fmt: skip
    chart_layout = layout("predicted probability", "observed frequency", height=420, showlegend=len(data) <= 14)
    chart_layout["xaxis"]["range"] = chart_layout["yaxis"]["range"] = [-0.02, 1.02]
    return {"data": data, "layout": chart_layout}


def _share(share: float | None) -> str:
    if share is None:
        return ""
    return f"{100 * share:.1f}%" if share >= 0.0005 else "<0.1%" if share else "0"


def confusion_chart(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, unit: str) -> Chart:
    """Rows of the reference as shares of the row, with counts where they are pointed at.

    Args:
        unit: what is counted, in the plural: ``voxels``, ``pixels`` or ``images``.
    """
    shares = [[n / sum(row) if sum(row) else None for n in row] for row in matrix]
    few = len(labels) <= 12
    text = [[_share(s) for s in row] for row in shares]
    data = {
        "type": "heatmap", "z": shares, "x": list(labels), "y": list(labels), "customdata": [list(r) for r in matrix],
        # From white to the ink blue: the same lightness scale for every kind of colour vision, and on grey paper.
        "colorscale": [[0, "#ffffff"], [0.02, "#e3edf7"], [0.2, "#a9c9e8"], [1, "#0b4a8b"]], "zmin": 0, "zmax": 1,
        "colorbar": {"title": {"text": "share of row"}, "thickness": 12, "tickformat": ".0%"},
        "hovertemplate": "reference %{y}<br>predicted %{x}<br>%{z:.2%} (%{customdata:,} " + f"{unit})<extra></extra>",
        "xgap": 1 if few else 0, "ygap": 1 if few else 0,
    }  # fmt: skip
    if few:
        data |= {"text": text, "texttemplate": "%{text}", "textfont": {"size": 12}}
    size = max(320, min(900, 44 * len(labels) + 140))
    chart_layout = layout("prediction", "reference", height=size)
    chart_layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    chart_layout["xaxis"] |= {"showgrid": False, "tickangle": -45 if len(labels) > 6 else 0}
    for axis in ("xaxis", "yaxis"):
        chart_layout[axis] |= {"type": "category", "ticks": ""}
    return {"data": [data], "layout": chart_layout}
