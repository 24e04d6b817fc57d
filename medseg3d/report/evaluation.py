"""``report.html`` of an evaluation: reads its files, writes one page beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.errors import CaseError, GeometryError
from medseg3d.report import charts
from medseg3d.report.colours import Palette, palette_of
from medseg3d.report.evaluation_tables import (
    anchor,
    case_table,
    confusion_table,
    label_table,
    lesion_summary,
    lesion_table,
    occurring,
    problem_table,
    subgroup_tables,
)
from medseg3d.report.files import Evaluation, in_units, read_evaluation
from medseg3d.report.page import render, write_page
from medseg3d.report.panels import Panel, panel, read_grid
from medseg3d.report.selection import Pick, pick_cases
from medseg3d.report.tables import Cell, Column, Row, Table, amount, facts
from medseg3d.report.verdict import evaluation_verdict
from medseg3d.report.words import EMPTY_POLICY, METRICS, Units, number, units_of
from medseg3d.statistics import FEW_PATIENTS

__all__ = ["Picture", "evaluation_html", "write_evaluation_report"]


@dataclass(frozen=True)
class Picture:
    """A case as the template's ``viewer`` shows it; ``payload`` is the element id of its data."""

    anchor: str
    row_anchor: str
    case: str
    kind: str
    reason: str
    payload: str
    notes: tuple[str, ...]
    table: Table


def write_evaluation_report(out_dir: str | Path) -> Path:
    """Write ``out_dir/report.html`` from the ``summary.json``, ``cases.csv`` and ``lesions.csv`` in it.

    The page opens without a network. Images are read only for the few cases that it shows; one that cannot be read any
    more is left out, with a sentence that says so.

    Raises:
        UsageError: a file is missing, damaged or of another schema.
    """
    evaluation = read_evaluation(Path(out_dir))
    units = units_of(evaluation.summary)
    evaluation = in_units(evaluation, units)
    palette = palette_of(_regions(evaluation.summary))
    picks = pick_cases(evaluation.cases, unit=units.size)
    panels, problems = _panels(evaluation.summary, [p.case for p in picks], palette)
    html = evaluation_html(evaluation, palette, picks, panels, picture_problems=problems)
    return write_page(Path(out_dir) / "report.html", html)


def evaluation_html(
    evaluation: Evaluation,
    palette: Palette,
    picks: Sequence[Pick],
    panels: Mapping[str, Panel],
    *,
    picture_problems: Sequence[str] = (),
) -> str:
    """The page as text. Pure: what is read from images comes in as ``panels``, by case.

    Sizes in ``evaluation`` are in the units that are shown, see ``in_units``.
    """
    summary, cases = evaluation.summary, evaluation.cases
    units = units_of(summary)
    shown = [p for p in picks if p.case in panels]
    pictured = [p.case for p in shown]
    pictures = [_picture(p, n, panels[p.case], cases, palette, units) for n, p in enumerate(shown)]
    confusion = occurring((summary.get("dataset") or {}).get("confusion"), list(summary.get("labels") or {}))
    training = charts.training_charts(evaluation.training)
    view: dict[str, Any] = {
        "title": f"Evaluation of {summary['name']}" if summary.get("name") else "Evaluation",
        "kicker": _kicker(summary),
        "verdict": evaluation_verdict(summary),
        "label_table": label_table(summary, palette),
        "units": units,
        "has_volumes": {"volume_ml", "reference_ml"} <= set(cases.columns),
        "pictures": pictures,
        "picture_note": picture_note(summary, picture_problems, shown=len(pictures)),
        "picture_heading": "Worst, median and best cases" if len(pictures) > 1 else "The case",
        "level": f"{100 * (summary.get('headline') or {}).get('level', 0.95):g} %",
        "few_patients": FEW_PATIENTS,
        "lesion_lead": _lesion_lead(summary),
        "lesion_summary": lesion_summary(summary, palette),
        "lesion_table": lesion_table(evaluation.lesions, palette, pictured, units=units),
        "calibration": _calibration_facts(summary),
        "has_confusion": bool(confusion),
        "confusion_lead": _confusion_lead(summary),
        "confusion_table": confusion_table(confusion, element=units.element),
        "subgroups": subgroup_tables(summary, palette),
        "case_table": case_table(cases, palette, list(summary.get("labels") or {}), pictured),
        "training": list(training),
        "problem_table": problem_table(summary),
        "metrics": [units.of(m) for m in METRICS if m.key in cases],
        "policy": EMPTY_POLICY,
        "provenance": provenance_facts(summary.get("provenance") or {}),
        "command": (summary.get("provenance") or {}).get("command") or "",
    }
    fixed = {f"training-{name}": chart for name, chart in training.items()}
    if summary.get("calibration"):
        fixed["calibration-chart"] = charts.calibration_chart(summary["calibration"], palette, unit=f"{units.element}s")
    if confusion:
        fixed["confusion-chart"] = charts.confusion_chart(
            confusion["labels"], confusion["matrix"], unit=f"{units.element}s"
        )
    payloads: dict[str, Any] = {
        "case-data": charts.case_columns(cases, summary, palette),
        "chart-data": {"layout": charts.layout(), "fixed": fixed},
        **{picture.payload: panels[picture.case].payload for picture in pictures},
    }
    return render("evaluation.html.j2", payloads=payloads, sections=_sections(view), **view)


def _regions(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The regions; a summary without them gets its labels, numbered in order."""
    return summary.get("regions") or [{"name": n, "ids": [i]} for i, n in enumerate(summary.get("labels") or {}, 1)]


def _panels(summary: Mapping[str, Any], cases: Sequence[str], palette: Palette) -> tuple[dict[str, Panel], list[str]]:
    """Panels of the cases whose files can be read, and why the others' cannot."""
    inputs = {str(entry["case"]): entry for entry in summary.get("inputs") or []}
    units = units_of(summary)
    panels: dict[str, Panel] = {}
    problems = []
    for case in cases:
        entry = inputs.get(case)
        if entry is None:
            continue
        try:
            masks = entry["reference"], {"prediction": entry["prediction"]}
            grid, notes = read_grid(*masks, entry.get("image"), planar=units.planar)
        except (CaseError, GeometryError) as error:
            problems.append(f"{case}: {error}")
            continue
        panels[case] = panel(case, grid, palette, notes=notes, units=units)
    return panels, problems


def _picture(pick: Pick, place: int, shown: Panel, cases: pd.DataFrame, palette: Palette, units: Units) -> Picture:
    rows = cases[cases["case"] == pick.case]
    return Picture(
        anchor("pictures", pick.case), anchor("case", pick.case), pick.case, pick.kind, pick.reason,
        f"case-volume-{place}", shown.notes, own_table(f"own-{place}", rows, palette, units=units),
    )  # fmt: skip


def own_table(table_id: str, rows: pd.DataFrame, palette: Palette, *, units: Units) -> Table:
    """The scores of one case, the lowest Dice first; structures that neither side has are left out."""
    rows = rows[rows["status"] != "both_empty"].sort_values("dice", kind="stable")
    distance = f"HD95 ({units.distance})"
    size = units.size if units.size == "ml" else f"{units.size_name.capitalize()} ({units.size})"
    columns = (Column("Structure"), Column("Dice", True), Column(distance, True), Column(size, True))
    tones: Mapping[str, Any] = {"missed": "bad", "spurious": "warn"}
    body = tuple(
        Row((
            Cell(row["label"], colour=palette.by_name.get(row["label"], "#888888"),
                 note=row["status"] if row["status"] != "scored" else ""),
            amount(row["dice"], tone=tones.get(row["status"], "")),
            amount(row.get("hd95_mm"), 1),
            amount(
                row.get("volume_ml"), units.size_digits, note=f"of {number(row.get('reference_ml'), units.size_digits)}"
            ),
        ))
        for _, row in rows.iterrows()
    )  # fmt: skip
    return Table(table_id, columns, body, shown=12 if len(body) > 15 else None, compact=True)


def _kicker(summary: Mapping[str, Any]) -> str:
    started = str((summary.get("provenance") or {}).get("started") or "").replace("T", " ")[:16]
    return "Segmentation, evaluated case by case" + (f" · {started}" if started else "")


def picture_note(summary: Mapping[str, Any], problems: Sequence[str], *, shown: int) -> str:
    """Which of the chosen cases are not shown, and why; nothing where all are."""
    if problems and shown:
        return f"Not shown, since the files cannot be read any more: {'; '.join(problems)}"
    if problems:
        return f"No pictures: the files of the cases cannot be read any more ({problems[0]})."
    return "" if summary.get("inputs") else "No pictures: the evaluation did not record where its files are."


def _calibration_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    results = (summary.get("calibration") or {}).items()
    return [(label, f"ECE {number(r.get('ece'), 4)}, Brier {number(r.get('brier'), 4)}") for label, r in results]


def _lesion_lead(summary: Mapping[str, Any]) -> str:
    """How lesions were matched, as far as the evaluation recorded it."""
    settings = (summary.get("provenance") or {}).get("settings") or {}
    neighbours, overlap = settings.get("lesion_connectivity"), settings.get("lesion_overlap_iou")
    parts = f"Connected components{f' ({neighbours} neighbours)' if neighbours else ''} of the reference and prediction"
    return f"{parts}, matched one to one by overlap{'' if overlap is None else f', from an IoU of {overlap:g}'}."


def _confusion_lead(summary: Mapping[str, Any]) -> str:
    miou = (summary.get("dataset") or {}).get("miou")
    lead = f"Which structure is taken for which, over the {units_of(summary).element}s of all cases."
    return (
        lead if miou is None else f"{lead} Mean IoU with intersections and unions added up over cases: {number(miou)}."
    )


def provenance_facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result can be made again from, in the order in which one looks for it; the command is shown apart."""
    names = {
        "started": "Started", "seconds": "Took (s)", "medseg3d": "medseg3d", "python": "Python", "platform": "Platform",
        "packages": "Packages", "bundle": "Bundle", "weights_sha256": "Weights (SHA-256)",
        "data_sha256": "Data (SHA-256)", "split": "Split", "config": "Configuration",
    }  # fmt: skip
    known = [(title, _rounded(provenance.get(key))) for key, title in names.items()]
    others = [
        (key.replace("_", " ").capitalize(), v) for key, v in provenance.items() if key not in {*names, "command"}
    ]
    return facts([*known, *others])


def _rounded(value: Any) -> Any:
    return f"{value:.1f}" if isinstance(value, float) else value


def _sections(view: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the navigation names: the sections that the template will show."""
    candidates = [
        ("verdict", "Verdict", True), ("structures", "Structures", True), ("distribution", "Distributions", True),
        ("agreement", f"{view['units'].size_name.capitalize()}s", view["has_volumes"]),
        ("pictures", "Pictures", view["pictures"]),
        ("lesion-section", "Lesions", view["lesion_summary"] or view["lesion_table"]),
        ("calibration", "Calibration", view["calibration"]), ("confusion", "Confusion", view["has_confusion"]),
        ("subgroups", "Subgroups", view["subgroups"]), ("case-section", "Cases", True),
        ("training", "Training", view["training"]), ("problem-section", "Problems", view["problem_table"]),
        ("definitions", "Definitions", True), ("provenance", "Provenance", True),
    ]  # fmt: skip
    return [(target, name) for target, name, present in candidates if present]
