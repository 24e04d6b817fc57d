"""``report.html`` of a detector: reads its summary, writes one page beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.report import charts
from medseg3d.report.colours import Palette
from medseg3d.report.files import read_json, read_table
from medseg3d.report.images import (
    Part,
    Plot,
    curves_chart,
    diagonal,
    found,
    image_table,
    name_cell,
    palette_for,
    part_if,
    per_cent,
    pictures_of,
    rate_cell,
    scope,
    threshold_tables,
    verdict_of,
    warnings_of,
    write_report,
)
from medseg3d.report.pictures2d import Picture2D, draw_boxes
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.verdict import Verdict
from medseg3d.report.words import count

__all__ = ["write_detection_report"]

DETECTION_RATES = {
    "precision": "Precision", "sensitivity": "Sensitivity", "f1": "F1",
    "false_positives_per_image": "False positives an image", "count_bias": "Count bias",
    "relative_count_error": "Relative count error",
}  # fmt: skip


MOST_FALSE_POSITIVES = 128.0  # an image, on the FROC's axis
NAMED_IMAGES = 5  # of a point of the counts

DETECTION_WORDS = (
    ("AP", "Average precision of the boxes of a class, by COCO's rules: at an overlap (IoU) of 0.5, and as the mean "
           "over 0.5 to 0.95. mAP is its mean over the classes."),
    ("FROC", "Sensitivity against false positives an image. The score is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, "
             "4 and 8 false positives an image (LUNA16)."),
    ("Count bias", "Mean over images of the boxes found minus those of the reference."),
    ("Relative count error", "Mean over images of |found − reference|, over the mean number in the reference."),
)  # fmt: skip


def write_detection_report(out_dir: str | Path) -> Path:
    """Write ``report.html`` from the ``summary.json`` and ``cases.csv`` of ``medseg3d evaluate-detection``.

    Raises:
        UsageError: a file is missing, damaged or of another schema.
    """
    folder, made_by = Path(out_dir), "medseg3d evaluate-detection"
    summary = read_json(folder / "summary.json", schema="medseg3d.detection/1", made_by=made_by)
    cases = read_table(folder / "cases.csv", made_by=made_by)
    palette = palette_for(summary)
    pictures, note = _pictures_with_boxes(summary, cases, palette)
    known = {name: label for name, label in summary["labels"].items() if label["boxes"]}
    parts = [
        Part("classes", "Classes", f"Counts and rates at a score of {summary['threshold']:g} and an overlap of "
             f"{summary['iou']:g}. Intervals come from drawing patients anew.",
             tables=_detection_tables(summary, palette)),
        Part("curves", "Curves", charts=(
            Plot("pr", "Precision over sensitivity, at an overlap of 0.5."),
            Plot("froc", "FROC: sensitivity over false positives an image."))),
        Part("counts", "Counts", "Boxes an image: found against true.", charts=(
            Plot("count-chart", "A point is all images with these two numbers, larger the more they are; on the dashed "
                 "line the count is right."),)),
        *part_if(known, Part(
            "thresholds", "Operating points", "What other thresholds would give on these images.",
            tables=threshold_tables(known, DETECTION_RATES))),
        *part_if(pictures or note, Part("pictures", "Worst, median and best images",
             "A solid box was found, a dashed one overlooked, a dotted one is false. Point at one for its score.",
             pictures=pictures, legend=tuple(palette.by_name.items()), note=note)),
        Part("cases", "Images", tables=(image_table(cases),)),
    ]  # fmt: skip
    fixed = _detection_charts(summary, cases, palette)
    return write_report(folder, summary, parts, fixed, verdict=_detection_verdict(summary), words=DETECTION_WORDS)


def _detection_verdict(summary: Mapping[str, Any]) -> Verdict:
    counted = [
        f"{name} {per_cent(label['metrics']['sensitivity'])}"
        for name, label in summary["labels"].items()
        if label["metrics"]["sensitivity"]["value"] is not None
    ]
    sentences = [scope(summary), found("mAP@0.5", summary["headline"])]
    if counted:
        sentences.append(
            f"At a score of {summary['threshold']:g} these shares of the boxes are found: {', '.join(counted)}."
        )
    warnings = warnings_of(summary)
    warnings += [
        f"{name}: the reference has no box of it." for name, label in summary["labels"].items() if not label["boxes"]
    ]
    classes = count(len(summary["labels"]), "class", "classes")
    return verdict_of(summary["headline"], f"mAP@0.5 over {classes}", sentences, warnings)


def _detection_tables(summary: Mapping[str, Any], palette: Palette) -> tuple[Table, ...]:
    keys = ("ap50", "ap", *DETECTION_RATES)
    titles = ("AP@0.5", "AP@[.5:.95]", *DETECTION_RATES.values(), "FROC score")
    columns = (Column("Class"), Column("Boxes", True), *(Column(title, True) for title in titles))
    rows = tuple(
        Row((name_cell(name, palette), amount(label["boxes"], 0), *(rate_cell(label["metrics"][key]) for key in keys),
             amount(label["froc"]["score"])))
        for name, label in summary["labels"].items()
    )  # fmt: skip
    mean = (Cell("mean"), Cell(""), rate_cell(summary["headline"]), rate_cell(summary["map"]),
            *(Cell("") for _ in DETECTION_RATES), Cell(""))  # fmt: skip
    return (Table("class-table", columns, (*rows, Row(mean))),)


def _detection_charts(summary: Mapping[str, Any], cases: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    labels = summary["labels"]
    # Beyond the boxes that are found at any score COCO's precision is 0: a curve that ends there says it better.
    pr = {name: {"x": label["pr"]["x"], "y": [v or None for v in label["pr"]["y"]]} for name, label in labels.items()}
    return {
        "pr": curves_chart(pr, palette, "sensitivity", "precision"),
        "froc": froc_chart({name: label["froc"] for name, label in labels.items()}, palette),
        "count-chart": count_chart(cases, palette),
    }


def froc_chart(curves: Mapping[str, Mapping[str, Any]], palette: Palette) -> dict[str, Any]:
    """Sensitivity over false positives an image, on the axis of LUNA16: an eighth to eight, or more where there are."""
    known = {n: c for n, c in curves.items() if any(y is not None for y in c["y"])}
    most = min(max((x for c in known.values() for x in c["x"]), default=0.0), MOST_FALSE_POSITIVES)
    ticks = [2.0**power for power in range(-3, 8) if power <= 3 or 2.0 ** (power - 1) < most]
    shown = {name: _within(c["x"], c["y"], ticks[0] / 2, ticks[-1]) for name, c in known.items()}
    empty: dict[str, dict[str, list[float]]] = {name: {"x": [], "y": []} for name in curves}
    chart = curves_chart(empty | shown, palette, "false positives an image", "sensitivity", unit_x=False)
    chart["layout"]["xaxis"] |= {
        "type": "log", "range": [math.log10(ticks[0] / 2), math.log10(ticks[-1])], "tickvals": ticks,
        "ticktext": [f"1/{1 / tick:g}" if tick < 1 else f"{tick:g}" for tick in ticks],
    }  # fmt: skip
    return chart


def _within(xs: Sequence[float], ys: Sequence[float], low: float, high: float) -> dict[str, list[float]]:
    """A rising curve from ``low``, with what it has reached there, to ``high``: beyond its end it rises no more.

    >>> _within([0.0, 0.05, 1.0], [0.2, 0.5, 0.8], 0.1, 8.0)
    {'x': [0.1, 1.0, 8.0], 'y': [0.5, 0.8, 0.8]}
    """
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if low < x < high]
    before = [y for x, y in zip(xs, ys, strict=True) if x <= low]
    points = [*([(low, before[-1])] if before else []), *inside]
    reached = [y for x, y in zip(xs, ys, strict=True) if x <= high]
    points += [(high, reached[-1])] if reached else []
    return {"x": [x for x, _ in points], "y": [y for _, y in points]}


def count_chart(cases: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    """Boxes found against true ones, a point for all images of one pair of numbers: its size tells how many."""
    most = float(cases[["reference", "predicted"]].to_numpy().max(initial=1))
    points = [_count_points(str(name), rows, palette) for name, rows in cases.groupby("label", sort=False)]
    layout = charts.layout("boxes in the reference", "boxes found", height=420, showlegend=len(points) > 1)
    layout["legend"]["itemsizing"] = "constant"
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"range": [-0.06 * most - 0.2, 1.06 * most + 0.2], **({"dtick": 1} if most <= 10 else {})}
    return {"data": [diagonal(most), *points], "layout": layout}


def _count_points(name: str, rows: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    named = rows.groupby(["reference", "predicted"], sort=False)["case"].agg(list)
    texts = [", ".join(found[:NAMED_IMAGES]) + (" …" if len(found) > NAMED_IMAGES else "") for found in named]
    return {
        "type": "scatter", "mode": "markers", "name": name,
        "x": [float(x) for x, _ in named.index], "y": [float(y) for _, y in named.index], "text": texts,
        "customdata": [len(found) for found in named],
        "marker": {"color": palette.by_name[name], "opacity": 0.7, "line": {"color": charts.INK, "width": 0.6},
                   "size": [min(5 + 3 * len(found) ** 0.5, 32) for found in named]},
        "hovertemplate": "true %{x}, found %{y}<br>%{customdata} images: %{text}",
    }  # fmt: skip


def _pictures_with_boxes(
    summary: Mapping[str, Any], cases: pd.DataFrame, palette: Palette
) -> tuple[tuple[Picture2D, ...], str]:
    """Images with the most wrong boxes, some of the middle, and those with the fewest."""
    sums = cases.groupby("case", sort=False)[["true_positives", "false_positives", "false_negatives"]].sum()
    errors = sums["false_positives"] + sums["false_negatives"]
    ranked = errors.sort_values(ascending=False, kind="stable").index.tolist()
    middle = len(ranked) // 2
    picks = list(dict.fromkeys([*ranked[:4], *ranked[middle : middle + 2], *ranked[-2:]]))
    ids = {i: n for n, i in zip(summary["labels"], summary["class_ids"], strict=True)}
    colours = {i: palette.by_name[name] for i, name in ids.items()}
    inputs = {entry["case"]: entry for entry in summary["inputs"]}
    listed = []
    for case in picks:
        entry = inputs[case]
        boxes = draw_boxes(entry["reference"], entry["predicted"], colours, ids, iou=summary["iou"])
        hit, false, missed = (int(sums.loc[case, key]) for key in sums.columns)
        listed.append((case, f"{hit} found, {missed} overlooked, {false} false", boxes))
    return pictures_of(summary, listed)
