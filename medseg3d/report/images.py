"""What the reports of classifiers and detectors share: sections, tables, curves, pictures, the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.errors import CaseError
from medseg3d.report import charts
from medseg3d.report.colours import Palette, on_white, palette_of
from medseg3d.report.evaluation import provenance_facts
from medseg3d.report.evaluation_tables import anchor
from medseg3d.report.page import render, write_page
from medseg3d.report.pictures2d import Picture2D, picture
from medseg3d.report.tables import Cell, Column, Row, Table, amount
from medseg3d.report.verdict import Verdict
from medseg3d.report.words import count, interval, number
from medseg3d.statistics import few_patients

__all__ = [
    "SHOWN_PICTURES",
    "Part",
    "Plot",
    "curves_chart",
    "diagonal",
    "found",
    "image_table",
    "name_cell",
    "palette_for",
    "part_if",
    "per_cent",
    "pictures_of",
    "rate_cell",
    "scope",
    "threshold_tables",
    "verdict_of",
    "warnings_of",
    "write_report",
]

KINDS = {"medseg3d.classification/1": "Classification of images", "medseg3d.detection/1": "Detection in images"}
DASHES = ("solid", "dash", "dot", "dashdot")  # so that curves differ in grey as well
SHOWN_PICTURES = 8
SHOWN_CASES = 20
FEW_CLASSES, OPEN_ROWS, OPEN_ROWS_OF_MANY = 4, 11, 3


@dataclass(frozen=True)
class Plot:
    """A chart's element: its id, what it shows in words, and its height in pixels."""

    id: str
    text: str
    height: int = 420


@dataclass(frozen=True)
class Part:
    """A section of the page; ``legend`` has the names and colours of what its pictures mark."""

    id: str
    name: str
    lead: str = ""
    charts: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture2D, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""


def write_report(
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
        *part_if(
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
        kicker=f"{KINDS[summary['schema']]} · {str(provenance.get('started') or '').replace('T', ' ')[:16]}",
        verdict=verdict,
        parts=shown,
        command=provenance.get("command") or "",
    )
    return write_page(folder / "report.html", html)


def verdict_of(headline: Mapping[str, Any], name: str, sentences: Sequence[str], warnings: Sequence[str]) -> Verdict:
    bounds = interval(headline["interval"])
    note = f"{100 * headline['level']:g} % interval {bounds}" if bounds else "no interval: too few patients"
    return Verdict(number(headline["value"]), name, note, tuple(sentences), tuple(warnings))


def scope(summary: Mapping[str, Any]) -> str:
    """How many images of how many patients; where no image has a patient of another name, nobody named any."""
    images, were = count(summary["cases"], "image"), "was" if summary["cases"] == 1 else "were"
    if summary["cases"] == 1 or any(entry["case"] != entry["patient"] for entry in summary["inputs"]):
        return f"{images} of {count(summary['patients'], 'patient')} {were} evaluated."
    return f"{images} {were} evaluated. It is not known which patients they are of: each image is taken for one."


def found(metric: str, headline: Mapping[str, Any]) -> str:
    if headline["value"] is None:
        return f"No {metric} can be computed from them."
    bounds = interval(headline["interval"])
    again = f"; if patients like these were drawn again, the interval for it is {bounds}" if bounds else ""
    return f"The {metric} is {number(headline['value'])}{again}."


def warnings_of(summary: Mapping[str, Any]) -> list[str]:
    n = len(summary["problems"])
    problems = f"{count(n, 'problem')} with the input; they are listed under Problems." if n else ""
    return [text for text in (problems, few_patients(summary["patients"])) if text]


def per_cent(rate: Mapping[str, Any]) -> str:
    return "none" if rate["value"] is None else f"{100 * rate['value']:.1f} %"


def rate_cell(rate: Mapping[str, Any]) -> Cell:
    return amount(rate["value"], note=interval(rate["interval"]))


def name_cell(name: str, palette: Palette) -> Cell:
    return Cell(name, colour=palette.by_name[name])


def threshold_tables(labels: Mapping[str, Any], titles: Mapping[str, str]) -> tuple[Table, ...]:
    """Rates at other thresholds, a table a class; of many classes few rows are open at first."""
    shown = OPEN_ROWS if len(labels) <= FEW_CLASSES else OPEN_ROWS_OF_MANY
    return tuple(_threshold_table(name, label, titles, shown) for name, label in labels.items())


def _threshold_table(name: str, label: Mapping[str, Any], titles: Mapping[str, str], shown: int) -> Table:
    columns = (Column("Threshold", True), *(Column(title, True) for title in titles.values()))
    rows = tuple(
        Row((amount(row["threshold"], 2), *(amount(row[key]) for key in titles))) for row in label["thresholds"]
    )
    return Table(anchor("thresholds", name), columns, rows, caption=name, shown=shown)


def image_table(cases: pd.DataFrame) -> Table:
    """All rows of ``cases.csv``; whether an answer is right in words."""
    columns = tuple(Column(c.replace("_", " "), pd.api.types.is_float_dtype(cases[c])) for c in cases.columns)
    fields = [_column_cells(cases[c]) for c in cases.columns]
    rows = tuple(Row(row) for row in zip(*fields, strict=True))
    return Table("image-table", columns, rows, shown=SHOWN_CASES, printed=SHOWN_CASES, searchable=True, scroll=True)


def _column_cells(values: pd.Series) -> list[Cell]:
    if values.name == "correct":
        return [Cell("yes") if str(v) == "True" else Cell("no", tone="bad") for v in values]
    if not pd.api.types.is_float_dtype(values):
        return [Cell(str(v)) for v in values]
    digits = 0 if (values.dropna() % 1 == 0).all() else 3
    return [amount(v, digits) for v in values]


def _problem_table(summary: Mapping[str, Any]) -> Table:
    rows = tuple(Row((Cell(p["case"]), Cell(p["code"]), Cell(p["message"]))) for p in summary["problems"])
    return Table("problem-table", (Column("Image"), Column("Code"), Column("What")), rows, shown=SHOWN_CASES)


def curves_chart(
    curves: Mapping[str, Mapping[str, Any]], palette: Palette, x: str, y: str, *, unit_x: bool = True
) -> dict[str, Any]:
    """Curves of the classes that have one; a sentence in its place where none has."""
    data = [
        {"type": "scatter", "mode": "lines", "name": name, "x": c["x"], "y": c["y"],
         "line": {"color": on_white(palette.by_name[name]), "width": 2.5, "dash": DASHES[i % len(DASHES)]}}
        for i, (name, c) in enumerate(curves.items())
        if any(value is not None for value in c["y"])
    ]  # fmt: skip
    lines_of_legend = -(-len(curves) // 2)
    layout = charts.layout(x, y, height=400 + 20 * lines_of_legend, showlegend=len(curves) > 1)
    if not data:
        layout["annotations"] = [charts.nothing("No class has a curve here.")]
    for axis in ("xaxis", "yaxis") if unit_x else ("yaxis",):
        layout[axis]["range"] = [-0.02, 1.02]
    return {"data": data, "layout": layout}


def diagonal(end: float) -> dict[str, Any]:
    line = {"color": "#6b7785", "dash": "dash", "width": 1}
    return {"type": "scatter", "mode": "lines", "x": [0, end], "y": [0, end], "hoverinfo": "skip", "line": line,
            "showlegend": False}  # fmt: skip


def pictures_of(
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


def palette_for(summary: Mapping[str, Any]) -> Palette:
    ids = summary.get("class_ids") or range(1, len(summary["labels"]) + 1)
    return palette_of([{"name": name, "ids": [i]} for name, i in zip(summary["labels"], ids, strict=True)])


def part_if(condition: Any, part: Part) -> tuple[Part, ...]:
    return (part,) if condition else ()
