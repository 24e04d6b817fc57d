"""``report.html`` of a classifier: reads its summary, writes one page beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.report import charts
from medseg3d.report.colours import Palette
from medseg3d.report.files import read_json, read_table
from medseg3d.report.images import (
    SHOWN_PICTURES,
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
from medseg3d.report.pictures2d import Picture2D
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.verdict import Verdict
from medseg3d.report.words import number

__all__ = ["write_classification_report"]

RATES = {
    "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "sensitivity": "Sensitivity",
    "specificity": "Specificity", "ppv": "PPV", "npv": "NPV", "f1": "F1",
}  # fmt: skip


RATE_WORDS = (
    ("AUROC", "Area under the ROC curve: the chance that an image with the class scores above one without it."),
    ("AUPRC", "Average precision: the area under the precision-recall curve; chance is the share of positives."),
    ("PPV, NPV", "Share of the positive, and of the negative, calls that are right. Both move with the prevalence."),
    ("ECE, Brier", "Mean gap between claimed and observed frequency over ten bins; mean squared error of the score."),
)


def write_classification_report(out_dir: str | Path) -> Path:
    """Write ``report.html`` from the ``summary.json`` and ``cases.csv`` of ``medseg3d evaluate-classification``.

    Raises:
        UsageError: a file is missing, damaged or of another schema.
    """
    folder, made_by = Path(out_dir), "medseg3d evaluate-classification"
    summary = read_json(folder / "summary.json", schema="medseg3d.classification/1", made_by=made_by)
    cases = read_table(folder / "cases.csv", made_by=made_by, text=("case", "patient", "truth", "predicted", "correct"))
    palette = palette_for(summary)
    fixed = _classification_charts(summary, palette)
    pictures, note = _worst_images(summary, cases)
    parts = [
        Part("classes", "Classes", f"Decisions at {summary['operating_point']}. Intervals come from drawing patients "
             "anew.", tables=_class_tables(summary, palette)),
        Part("curves", "Curves", charts=(
            Plot("roc", "ROC curves; on the dashed line a classifier guesses."),
            Plot("pr", "Precision-recall curves."))),
        Part("thresholds", "Operating points", "What other thresholds would give on these images.",
             tables=threshold_tables(summary["labels"], RATES)),
        *part_if(any(label["calibration"] for label in summary["labels"].values()), Part(
            "calibration", "Calibration", "Whether a score is as frequent as it claims.",
            charts=(Plot("calibration-chart", "Reliability diagram; on the dashed line the claims hold."),),
            facts=_calibration_facts(summary))),
        *part_if(not summary["overall"], Part(
            "decisions", "Decisions", "Images by truth and decision.", tables=(_decision_table(summary, palette),))),
        *part_if(summary["overall"], Part(
            "confusion", "Confusion", "Which class is taken for which, by the largest score.",
            charts=(Plot("confusion-chart", "Rows are the truth; each row's shares add up to one."),))),
        *(Part(f"subgroup-{column}", f"By {column}", tables=(_subgroup_table(column, groups),))
          for column, groups in summary["subgroups"].items()),
        *part_if(pictures or note, Part("pictures", "Most mistaken images",
             "Those whose score is farthest from the truth"
             + ("; on the right what spoke for the answer." if any(p.beside for p in pictures) else "."),
             pictures=pictures, note=note)),
        Part("cases", "Images", tables=(image_table(cases),)),
    ]  # fmt: skip
    return write_report(folder, summary, parts, fixed, verdict=_classification_verdict(summary), words=RATE_WORDS)


def _classification_verdict(summary: Mapping[str, Any]) -> Verdict:
    headline, labels = summary["headline"], summary["labels"]
    over = headline["over"] if summary["kind"] == "binary" else f"{len(labels)} classes, mean"
    sentences = [scope(summary), found("AUROC", headline)]
    for name, label in labels.items():
        if summary["kind"] == "binary":
            rates = label["metrics"]
            known = [
                f"{per_cent(rates[rate])} of the images {what}"
                for rate, what in (("sensitivity", f"with {name}"), ("specificity", f"without {name}"))
                if rates[rate]["value"] is not None
            ]
            sentences += (
                [f"At {summary['operating_point']}, {' and '.join(known)} are called rightly."] if known else []
            )
    warnings = warnings_of(summary)
    warnings += [f"{name}: all images have it, or none; nothing can be said of it." for name, label in labels.items()
                 if label["metrics"]["auroc"]["value"] is None]  # fmt: skip
    if "flatters" in summary["operating_point"]:
        warnings.append("The threshold was chosen on the images that it is judged on: the rates are too good.")
    return verdict_of(headline, f"AUROC ({over})", sentences, warnings)


def _class_tables(summary: Mapping[str, Any], palette: Palette) -> tuple[Table, ...]:
    titles = ("Threshold", "AUROC", "AUPRC", *RATES.values())
    columns = (Column("Class"), Column("Images", True, "with the class"), *(Column(title, True) for title in titles))
    rows = tuple(
        Row((name_cell(name, palette), amount(label["positives"], 0), amount(label["threshold"]),
             *(rate_cell(label["metrics"][key]) for key in ("auroc", "auprc", *RATES))))
        for name, label in summary["labels"].items()
    )  # fmt: skip
    tables = [Table("class-table", columns, rows)]
    if summary["overall"]:
        names = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "f1_macro": "Macro F1"}
        values = tuple(rate_cell(summary["overall"]["metrics"][key]) for key in names)
        tables.append(Table("overall-table", tuple(Column(title, True) for title in names.values()), (Row(values),),
                            caption="The class with the largest score, over all images.", compact=True))  # fmt: skip
    return tuple(tables)


def _decision_table(summary: Mapping[str, Any], palette: Palette) -> Table:
    """The confusion matrix of each class that is decided alone."""
    titles = {"true_positives": "True positive", "false_negatives": "False negative",
              "false_positives": "False positive", "true_negatives": "True negative"}  # fmt: skip
    columns = (Column("Class"), *(Column(title, True) for title in titles.values()))
    rows = tuple(
        Row((name_cell(name, palette), *(amount(label["decisions"][key], 0) for key in titles)))
        for name, label in summary["labels"].items()
    )
    return Table("decision-table", columns, rows)


def _subgroup_table(column: str, groups: Mapping[str, Any]) -> Table:
    columns = (Column(column), Column("Images", True), Column("Patients", True), Column("AUROC", True))
    rows = tuple(
        Row((Cell(value or "(empty)"), amount(g["cases"], 0), amount(g["patients"], 0), rate_cell(g["auroc"])))
        for value, g in groups.items()
    )
    return Table(f"table-{column}", columns, rows)


def _calibration_facts(summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, f"ECE {number(found['ece'])}, Brier {number(found['brier'])}")
        for name, label in summary["labels"].items()
        if (found := label["calibration"])
    )


def _classification_charts(summary: Mapping[str, Any], palette: Palette) -> dict[str, Any]:
    labels = summary["labels"]
    found = {
        "roc": curves_chart(
            {n: label["roc"] for n, label in labels.items()}, palette, "1 − specificity", "sensitivity"
        ),
        "pr": curves_chart({n: label["pr"] for n, label in labels.items()}, palette, "sensitivity", "PPV"),
    }
    found["roc"]["data"].insert(0, diagonal(1))
    calibrated = {name: label["calibration"] for name, label in labels.items() if label["calibration"]}
    if calibrated:
        found["calibration-chart"] = charts.calibration_chart(calibrated, palette, unit="images")
    if summary["overall"]:
        confusion = summary["overall"]["confusion"]
        found["confusion-chart"] = charts.confusion_chart(confusion["labels"], confusion["matrix"], unit="images")
    return found


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
    pictures, problems = pictures_of(summary, [(case, note, []) for case, note in notes.items()])
    overlays = {**summary, "inputs": [entry | {"image": entry.get("overlay")} for entry in summary["inputs"]]}
    looked, _ = pictures_of(overlays, [(case, "what spoke for the answer", []) for case in notes])
    beside = {p.title: p for p in looked}
    return tuple(replace(p, beside=beside.get(p.title)) for p in pictures), problems
