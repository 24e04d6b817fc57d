"""``report.html`` of a detector: reads its summary, writes one page beside it."""

from __future__ import annotations

from collections.abc import Mapping
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
    threshold_table,
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
    parts = [
        Part("classes", "Classes", f"Counts and rates at a score of {summary['threshold']:g} and an overlap of "
             f"{summary['iou']:g}. Intervals come from drawing patients anew.",
             tables=_detection_tables(summary, palette)),
        Part("curves", "Curves", charts=(
            Plot("pr", "Precision over sensitivity, at an overlap of 0.5."),
            Plot("froc", "FROC: sensitivity over false positives an image."))),
        Part("counts", "Counts", "Boxes an image: found against true.", charts=(
            Plot("count-chart", "Every point is an image; on the dashed line the count is right."),)),
        Part("thresholds", "Operating points", "What other thresholds would give on these images.",
             tables=tuple(threshold_table(name, label, DETECTION_RATES) for name, label in summary["labels"].items())),
        *part_if(pictures or note, Part("pictures", "Worst, median and best images",
             "A solid box was found, a dashed one overlooked, a dotted one is false. Point at one for its score.",
             pictures=pictures, note=note)),
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
    found = {
        "pr": curves_chart({n: label["pr"] for n, label in labels.items()}, palette, "sensitivity", "precision"),
        "froc": curves_chart({n: label["froc"] for n, label in labels.items()}, palette, "false positives an image",
                        "sensitivity", unit_x=False),
    }  # fmt: skip
    most = float(max(cases[["reference", "predicted"]].max(), default=1))
    points = [
        {"type": "scatter", "mode": "markers", "name": name, "x": rows["reference"].tolist(),
         "y": rows["predicted"].tolist(), "text": rows["case"].tolist(), "marker": {"color": palette.by_name[name],
         "size": 8, "opacity": 0.7, "line": {"color": charts.INK, "width": 0.6}},
         "hovertemplate": "%{text}<br>true %{x}, found %{y}"}
        for name, rows in cases.groupby("label", sort=False)
    ]  # fmt: skip
    found["count-chart"] = {
        "data": [diagonal(most), *points],
        "layout": charts.layout("boxes in the reference", "boxes found", height=420),
    }
    return found


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
