"""``report.html`` of classifiers and detectors: reads their summary, writes one page beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.errors import CaseError
from medseg3d.report import charts
from medseg3d.report.colours import Palette, palette_of
from medseg3d.report.evaluation import provenance_facts
from medseg3d.report.files import read_json, read_table
from medseg3d.report.page import render, write_page
from medseg3d.report.pictures2d import Picture2D, draw_boxes, picture
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.verdict import Verdict
from medseg3d.report.words import count, interval, number
from medseg3d.statistics import few_patients

__all__ = ["Part", "Plot", "write_classification_report", "write_detection_report"]

SHOWN_PICTURES = 8
SHOWN_CASES = 20
RATES = {
    "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "sensitivity": "Sensitivity",
    "specificity": "Specificity", "ppv": "PPV", "npv": "NPV", "f1": "F1",
}  # fmt: skip
DETECTION_RATES = {
    "precision": "Precision", "sensitivity": "Sensitivity", "f1": "F1",
    "false_positives_per_image": "False positives an image", "count_bias": "Count bias",
    "relative_count_error": "Relative count error",
}  # fmt: skip
RATE_WORDS = (
    ("AUROC", "Area under the ROC curve: the chance that an image with the class scores above one without it."),
    ("AUPRC", "Average precision: the area under the precision-recall curve; chance is the share of positives."),
    ("PPV, NPV", "Share of the positive, and of the negative, calls that are right. Both move with the prevalence."),
    ("ECE, Brier", "Mean gap between claimed and observed frequency over ten bins; mean squared error of the score."),
)
DETECTION_WORDS = (
    ("AP", "Average precision of the boxes of a class, by COCO's rules: at an overlap (IoU) of 0.5, and as the mean "
           "over 0.5 to 0.95. mAP is its mean over the classes."),
    ("FROC", "Sensitivity against false positives an image. The score is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, "
             "4 and 8 false positives an image (LUNA16)."),
    ("Count bias", "Mean over images of the boxes found minus those of the reference."),
    ("Relative count error", "Mean over images of |found − reference|, over the mean number in the reference."),
)  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A chart's element: its id, what it shows in words, and its height in pixels."""

    id: str
    text: str
    height: int = 420


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    id: str
    name: str
    lead: str = ""
    charts: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture2D, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""


def write_classification_report(out_dir: str | Path) -> Path:
    """Write ``report.html`` from the ``summary.json`` and ``cases.csv`` of ``medseg3d evaluate-classification``.

    Raises:
        UsageError: a file is missing, damaged or of another schema.
    """
    folder, made_by = Path(out_dir), "medseg3d evaluate-classification"
    summary = read_json(folder / "summary.json", schema="medseg3d.classification/1", made_by=made_by)
    cases = read_table(folder / "cases.csv", made_by=made_by, text=("case", "patient", "truth", "predicted", "correct"))
    palette = _palette(summary)
    fixed = _classification_charts(summary, palette)
    pictures, note = _worst_images(summary, cases)
    parts = [
        Part("classes", "Classes", f"Decisions at {summary['operating_point']}. Intervals come from drawing patients "
             "anew.", tables=_class_tables(summary, palette)),
        Part("curves", "Curves", charts=(
            Plot("roc", "ROC curves; on the dashed line a classifier guesses."),
            Plot("pr", "Precision-recall curves."))),
        Part("thresholds", "Operating points", "What other thresholds would give on these images.",
             tables=tuple(_threshold_table(name, label, RATES) for name, label in summary["labels"].items())),
        *_if(any(label["calibration"] for label in summary["labels"].values()), Part(
            "calibration", "Calibration", "Whether a score is as frequent as it claims.",
            charts=(Plot("calibration-chart", "Reliability diagram; on the dashed line the claims hold."),),
            facts=_calibration_facts(summary))),
        *_if(not summary["overall"], Part(
            "decisions", "Decisions", "Images by truth and decision.", tables=(_decision_table(summary, palette),))),
        *_if(summary["overall"], Part(
            "confusion", "Confusion", "Which class is taken for which, by the largest score.",
            charts=(Plot("confusion-chart", "Rows are the truth; each row's shares add up to one."),))),
        *(Part(f"subgroup-{column}", f"By {column}", tables=(_subgroup_table(column, groups),))
          for column, groups in summary["subgroups"].items()),
        *_if(pictures or note, Part("pictures", "Most mistaken images",
             "Those whose score is farthest from the truth.", pictures=pictures, note=note)),
        Part("cases", "Images", tables=(_image_table(cases),)),
    ]  # fmt: skip
    return _write(folder, summary, parts, fixed, verdict=_classification_verdict(summary), words=RATE_WORDS)


def write_detection_report(out_dir: str | Path) -> Path:
    """Write ``report.html`` from the ``summary.json`` and ``cases.csv`` of ``medseg3d evaluate-detection``.

    Raises:
        UsageError: a file is missing, damaged or of another schema.
    """
    folder, made_by = Path(out_dir), "medseg3d evaluate-detection"
    summary = read_json(folder / "summary.json", schema="medseg3d.detection/1", made_by=made_by)
    cases = read_table(folder / "cases.csv", made_by=made_by)
    palette = _palette(summary)
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
             tables=tuple(_threshold_table(name, label, DETECTION_RATES) for name, label in summary["labels"].items())),
        *_if(pictures or note, Part("pictures", "Worst, median and best images",
             "A solid box was found, a dashed one overlooked, a dotted one is false. Point at one for its score.",
             pictures=pictures, note=note)),
        Part("cases", "Images", tables=(_image_table(cases),)),
    ]  # fmt: skip
    fixed = _detection_charts(summary, cases, palette)
    return _write(folder, summary, parts, fixed, verdict=_detection_verdict(summary), words=DETECTION_WORDS)


def _write(
    folder: Path,
    summary: Mapping[str, Any],
    parts: Sequence[Part],
    fixed: Mapping[str, Any],
    *,
    verdict: Verdict,
    words: Sequence[tuple[str, str]],
) -> Path:
    provenance = summary["provenance"]
    shown = [
        *parts,
        *_if(
            summary["problems"], Part("problems", "Problems", "What was left out.", tables=(_problem_table(summary),))
        ),
        Part("definitions", "Definitions", facts=tuple(words)),
        Part("provenance", "Provenance", facts=tuple(provenance_facts(provenance))),
    ]
    html = render(
        "images.html.j2",
        payloads={"chart-data": fixed},
        sections=[("verdict", "Verdict"), *((part.id, part.name) for part in shown)],
        title=f"Evaluation of {summary['name']}" if summary.get("name") else "Evaluation",
        kicker=f"{summary['schema'].split('.')[1].split('/')[0].capitalize()} of images · "
        f"{str(provenance.get('started') or '').replace('T', ' ')[:16]}",
        verdict=verdict,
        parts=shown,
        command=provenance.get("command") or "",
    )
    return write_page(folder / "report.html", html)


# Verdicts ------------------------------------------------------------------------------------------------------------


def _classification_verdict(summary: Mapping[str, Any]) -> Verdict:
    headline, labels = summary["headline"], summary["labels"]
    over = headline["over"] if summary["kind"] == "binary" else f"{len(labels)} classes, mean"
    sentences = [_scope(summary), _found("AUROC", headline)]
    for name, label in labels.items():
        if summary["kind"] == "binary":
            rates = label["metrics"]
            sentences.append(
                f"At {summary['operating_point']}, {_per_cent(rates['sensitivity'])} of the images with {name} and "
                f"{_per_cent(rates['specificity'])} of those without are called rightly."
            )
    warnings = _warnings(summary)
    warnings += [f"{name}: all images have it, or none; nothing can be said of it." for name, label in labels.items()
                 if label["metrics"]["auroc"]["value"] is None]  # fmt: skip
    if "flatters" in summary["operating_point"]:
        warnings.append("The threshold was chosen on the images that it is judged on: the rates are too good.")
    return _verdict(headline, f"AUROC ({over})", sentences, warnings)


def _detection_verdict(summary: Mapping[str, Any]) -> Verdict:
    counted = [
        f"{name} {_per_cent(label['metrics']['sensitivity'])}"
        for name, label in summary["labels"].items()
        if label["metrics"]["sensitivity"]["value"] is not None
    ]
    sentences = [_scope(summary), _found("mAP@0.5", summary["headline"])]
    sentences.append(
        f"At a score of {summary['threshold']:g} these shares of the boxes are found: {', '.join(counted)}."
    )
    warnings = _warnings(summary)
    warnings += [
        f"{name}: the reference has no box of it." for name, label in summary["labels"].items() if not label["boxes"]
    ]
    return _verdict(summary["headline"], f"mAP@0.5 over {count(len(summary['labels']), 'class', 'classes')}", sentences,
                    warnings)  # fmt: skip


def _verdict(headline: Mapping[str, Any], name: str, sentences: Sequence[str], warnings: Sequence[str]) -> Verdict:
    bounds = interval(headline["interval"])
    note = f"{100 * headline['level']:g} % interval {bounds}" if bounds else "no interval: too few patients"
    return Verdict(number(headline["value"]), name, note, tuple(sentences), tuple(warnings))


def _scope(summary: Mapping[str, Any]) -> str:
    return f"{count(summary['cases'], 'image')} of {count(summary['patients'], 'patient')} were evaluated."


def _found(metric: str, headline: Mapping[str, Any]) -> str:
    if headline["value"] is None:
        return f"No {metric} can be computed from them."
    bounds = interval(headline["interval"])
    again = f"; if patients like these were drawn again, the interval for it is {bounds}" if bounds else ""
    return f"The {metric} is {number(headline['value'])}{again}."


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    n = len(summary["problems"])
    problems = f"{count(n, 'problem')} with the input; they are listed under Problems." if n else ""
    return [text for text in (problems, few_patients(summary["patients"])) if text]


def _per_cent(rate: Mapping[str, Any]) -> str:
    return "none" if rate["value"] is None else f"{100 * rate['value']:.1f} %"


# Tables --------------------------------------------------------------------------------------------------------------


def _cell(rate: Mapping[str, Any]) -> Cell:
    return amount(rate["value"], note=interval(rate["interval"]))


def _name_cell(name: str, palette: Palette) -> Cell:
    return Cell(name, colour=palette.by_name[name])


def _class_tables(summary: Mapping[str, Any], palette: Palette) -> tuple[Table, ...]:
    titles = ("Threshold", "AUROC", "AUPRC", *RATES.values())
    columns = (Column("Class"), Column("Images", True, "with the class"), *(Column(title, True) for title in titles))
    rows = tuple(
        Row((_name_cell(name, palette), amount(label["positives"], 0), amount(label["threshold"]),
             *(_cell(label["metrics"][key]) for key in ("auroc", "auprc", *RATES))))
        for name, label in summary["labels"].items()
    )  # fmt: skip
    tables = [Table("class-table", columns, rows)]
    if summary["overall"]:
        names = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "f1_macro": "Macro F1"}
        values = tuple(_cell(summary["overall"]["metrics"][key]) for key in names)
        tables.append(Table("overall-table", tuple(Column(title, True) for title in names.values()), (Row(values),),
                            caption="The class with the largest score, over all images.", compact=True))  # fmt: skip
    return tuple(tables)


def _detection_tables(summary: Mapping[str, Any], palette: Palette) -> tuple[Table, ...]:
    keys = ("ap50", "ap", *DETECTION_RATES)
    titles = ("AP@0.5", "AP@[.5:.95]", *DETECTION_RATES.values(), "FROC score")
    columns = (Column("Class"), Column("Boxes", True), *(Column(title, True) for title in titles))
    rows = tuple(
        Row((_name_cell(name, palette), amount(label["boxes"], 0), *(_cell(label["metrics"][key]) for key in keys),
             amount(label["froc"]["score"])))
        for name, label in summary["labels"].items()
    )  # fmt: skip
    mean = (Cell("mean"), Cell(""), _cell(summary["headline"]), _cell(summary["map"]),
            *(Cell("") for _ in DETECTION_RATES), Cell(""))  # fmt: skip
    return (Table("class-table", columns, (*rows, Row(mean))),)


def _decision_table(summary: Mapping[str, Any], palette: Palette) -> Table:
    """The confusion matrix of each class that is decided alone."""
    titles = {"true_positives": "True positive", "false_negatives": "False negative",
              "false_positives": "False positive", "true_negatives": "True negative"}  # fmt: skip
    columns = (Column("Class"), *(Column(title, True) for title in titles.values()))
    rows = tuple(
        Row((_name_cell(name, palette), *(amount(label["decisions"][key], 0) for key in titles)))
        for name, label in summary["labels"].items()
    )
    return Table("decision-table", columns, rows)


def _threshold_table(name: str, label: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    columns = (Column("Threshold", True), *(Column(title, True) for title in titles.values()))
    rows = tuple(
        Row((amount(row["threshold"], 2), *(amount(row[key]) for key in titles))) for row in label["thresholds"]
    )
    return Table(f"thresholds-{name}", columns, rows, caption=name, shown=11)


def _subgroup_table(column: str, groups: Mapping[str, Any]) -> Table:
    columns = (Column(column), Column("Images", True), Column("Patients", True), Column("AUROC", True))
    rows = tuple(
        Row((Cell(value or "(empty)"), amount(g["cases"], 0), amount(g["patients"], 0), _cell(g["auroc"])))
        for value, g in groups.items()
    )
    return Table(f"table-{column}", columns, rows)


def _image_table(cases: pd.DataFrame) -> Table:
    texts = [c for c in cases.columns if not pd.api.types.is_float_dtype(cases[c])]
    columns = tuple(Column(c.replace("_", " "), c not in texts) for c in cases.columns)
    rows = tuple(Row(tuple(_plain_cell(value) for value in row)) for row in cases.itertuples(index=False, name=None))
    return Table("image-table", columns, rows, shown=SHOWN_CASES, printed=SHOWN_CASES, searchable=True, scroll=True)


def _plain_cell(value: Any) -> Cell:
    if isinstance(value, str | bool):
        return Cell(str(value))
    return amount(value, 0 if float(value).is_integer() else 3)


def _problem_table(summary: Mapping[str, Any]) -> Table:
    rows = tuple(Row((Cell(p["case"]), Cell(p["code"]), Cell(p["message"]))) for p in summary["problems"])
    return Table("problem-table", (Column("Image"), Column("Code"), Column("What")), rows, shown=SHOWN_CASES)


def _calibration_facts(summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, f"ECE {number(found['ece'])}, Brier {number(found['brier'])}")
        for name, label in summary["labels"].items()
        if (found := label["calibration"])
    )


# Charts --------------------------------------------------------------------------------------------------------------


def _classification_charts(summary: Mapping[str, Any], palette: Palette) -> dict[str, Any]:
    labels = summary["labels"]
    found = {
        "roc": _curves({n: label["roc"] for n, label in labels.items()}, palette, "1 − specificity", "sensitivity"),
        "pr": _curves({n: label["pr"] for n, label in labels.items()}, palette, "sensitivity", "PPV"),
    }
    found["roc"]["data"].insert(0, _diagonal(1))
    calibrated = {name: label["calibration"] for name, label in labels.items() if label["calibration"]}
    if calibrated:
        found["calibration-chart"] = charts.calibration_chart(calibrated, palette, unit="images")
    if summary["overall"]:
        confusion = summary["overall"]["confusion"]
        found["confusion-chart"] = charts.confusion_chart(confusion["labels"], confusion["matrix"])
    return found


def _detection_charts(summary: Mapping[str, Any], cases: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    labels = summary["labels"]
    found = {
        "pr": _curves({n: label["pr"] for n, label in labels.items()}, palette, "sensitivity", "precision"),
        "froc": _curves({n: label["froc"] for n, label in labels.items()}, palette, "false positives an image",
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
        "data": [_diagonal(most), *points],
        "layout": charts.layout("boxes in the reference", "boxes found", height=420),
    }
    return found


def _curves(
    curves: Mapping[str, Mapping[str, Any]], palette: Palette, x: str, y: str, *, unit_x: bool = True
) -> dict[str, Any]:
    data = [
        {"type": "scatter", "mode": "lines", "name": name, "x": c["x"], "y": c["y"], "line": {
            "color": palette.by_name[name], "width": 2.5}}
        for name, c in curves.items()
        if c["x"]
    ]  # fmt: skip
    layout = charts.layout(x, y, height=420, showlegend=len(data) > 1)
    for axis in ("xaxis", "yaxis") if unit_x else ("yaxis",):
        layout[axis]["range"] = [-0.02, 1.02]
    return {"data": data, "layout": layout}


def _diagonal(end: float) -> dict[str, Any]:
    line = {"color": "#6b7785", "dash": "dash", "width": 1}
    return {"type": "scatter", "mode": "lines", "x": [0, end], "y": [0, end], "hoverinfo": "skip", "line": line,
            "showlegend": False}  # fmt: skip


# Pictures ------------------------------------------------------------------------------------------------------------


def _worst_images(summary: Mapping[str, Any], cases: pd.DataFrame) -> tuple[tuple[Picture2D, ...], str]:
    """Wrongly decided images, those first whose scores are farthest from the truth."""
    names = list(summary["labels"])
    truth = cases["truth"].fillna("").str.split("|")
    wrong = pd.Series(0.0, index=cases.index)
    for name in names:
        wrong += (cases[f"p_{name}"] - truth.map(lambda have, name=name: float(name in have))).abs()
    worst = cases.assign(distance=wrong)[cases["correct"].astype(str) != "True"]
    shown = worst.sort_values("distance", ascending=False).head(SHOWN_PICTURES)
    notes = {
        row["case"]: f"truth: {row['truth'] or 'none'}; "
        + ", ".join(f"{name} {row[f'p_{name}']:.2f}" for name in names[:4])
        for _, row in shown.iterrows()
    }
    pictures, problems = _pictures(summary, [(case, note, []) for case, note in notes.items()])
    overlays = {**summary, "inputs": [entry | {"image": entry.get("overlay")} for entry in summary["inputs"]]}
    looked, _ = _pictures(overlays, [(case, "what spoke for the answer", []) for case in notes])
    beside = {p.title: p for p in looked}
    return tuple(shown for p in pictures for shown in (p, beside.get(p.title)) if shown), problems


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
    return _pictures(summary, listed)


def _pictures(
    summary: Mapping[str, Any], listed: Sequence[tuple[str, str, Sequence[Any]]]
) -> tuple[tuple[Picture2D, ...], str]:
    paths = {entry["case"]: entry["image"] for entry in summary["inputs"]}
    pictures, problems = [], []
    for case, note, boxes in listed:
        if not paths.get(case):
            continue
        try:
            pictures.append(picture(Path(paths[case]), case, note, boxes))
        except CaseError as error:
            problems.append(str(error))
    note = f"Without a picture: {' '.join(problems)}" if problems else ""
    if not pictures and not note:
        note = "" if not listed else "Give the folder of the images (--images) to see pictures here."
    return tuple(pictures), note


def _palette(summary: Mapping[str, Any]) -> Palette:
    ids = summary.get("class_ids") or range(1, len(summary["labels"]) + 1)
    return palette_of([{"name": name, "ids": [i]} for name, i in zip(summary["labels"], ids, strict=True)])


def _if(condition: Any, part: Part) -> tuple[Part, ...]:
    return (part,) if condition else ()
