"""Tables of one evaluation. Pure: summary and rows in, tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medseg3d.report.colours import Palette
from medseg3d.report.selection import case_scores
from medseg3d.report.tables import Cell, Column, Row, Table, amount, cells
from medseg3d.report.words import Units, ci, interval, metric_text, number, units_of
from medseg3d.statistics import FEW_PATIENTS

__all__ = ["anchor", "case_table", "confusion_table", "label_table", "lesion_summary", "lesion_table", "occurring",
           "problem_table", "subgroup_tables"]  # fmt: skip

MANY_LABELS = 15
MAX_CASE_ROWS = 1000
MAX_LESION_ROWS = 300
WIDE_CASE_LABELS = 8


def anchor(kind: str, name: str) -> str:
    """An element id that is unique for any name: letters and digits stay, everything else becomes its code point.

    >>> anchor("case", "a b")
    'case-a-20-b'
    """
    return f"{kind}-" + "".join(c if c.isalnum() and c.isascii() else f"-{ord(c):x}-" for c in name)


def label_table(summary: Mapping[str, Any], palette: Palette) -> Table:
    """A row a label: how many, Dice, NSD and HD95 with their spread and intervals, and volumes."""
    labels = summary.get("labels") or {}
    order = list(labels)
    if len(order) > MANY_LABELS:  # the reader should not have to search for what is worst
        order.sort(key=lambda name: (labels[name].get("dice_mean") is None, labels[name].get("dice_mean") or 0.0))
    level = f"{100 * (summary.get('headline') or {}).get('level', 0.95):g} %"
    units = units_of(summary)
    distance, size = f"HD95 ({units.distance})", f"{units.size_name.capitalize()} ({units.size})"
    columns = (
        Column("Structure"),
        Column("Scored", True, "Cases where both sides have the structure", "Cases"),
        Column("Missed", True, "Only the reference has it", "Cases"),
        Column("Spurious", True, "Only the prediction has it", "Cases"),
        Column("Empty", True, "Neither has it: not in the means", "Cases"),
        Column("Mean", True, f"Mean with its {level} confidence interval (CI) by bootstrap over patients", "Dice"),
        Column("Median", True, "Median with its quartiles (IQR)", "Dice"),
        Column("Mean", True, f"Share of the {units.border}s within the tolerance, with its interval (CI)", "NSD"),
        Column("Median", True, "Median with its quartiles (IQR); misses count as infinite", distance),
        Column("Bias", True, "Mean of prediction minus reference, with the limits of agreement (LoA)", size),
        Column("ICC", True, f"Intraclass correlation of the {units.size_name}s, with its interval (CI)", size),
    )
    rows = tuple(_label_row(name, labels[name], summary, palette) for name in order)
    return Table("labels", columns, rows, shown=MANY_LABELS if len(rows) > MANY_LABELS + 5 else None,
                 searchable=len(rows) > MANY_LABELS)  # fmt: skip


def _label_row(name: str, label: Mapping[str, Any], summary: Mapping[str, Any], palette: Palette) -> Row:
    status, metrics = label["status"], label.get("metrics") or {}
    dice, nsd, hd95 = (metrics.get(m) or {} for m in ("dice", "nsd", "hd95_mm"))
    agreement = label.get("volume_agreement") or {}
    tolerance = (summary.get("tolerance_mm") or {}).get(name)
    units = units_of(summary)
    at = "" if tolerance is None or nsd.get("mean") is None else f"\nat {tolerance:g} {units.distance}"
    limits = interval(agreement.get("limits_ml"), units.size_digits)
    return Row((
        Cell(name, colour=palette.by_name.get(name, "#888888"), href="#distribution"),
        amount(status.get("scored", 0), 0),
        _alarm(status.get("missed", 0), "bad"),
        _alarm(status.get("spurious", 0), "warn"),
        _alarm(status.get("both_empty", 0), ""),
        amount(dice.get("mean", label.get("dice_mean")), note=_mean_ci(dice)),
        amount(dice.get("median"), note=_quartiles(dice, 3)),
        amount(nsd.get("mean"), note=f"{_mean_ci(nsd)}{at}".strip()),
        _median(hd95, 1),
        amount(agreement.get("bias_ml"), units.size_digits, note=limits and f"LoA {limits}"),
        amount(agreement.get("icc"), note=ci(agreement.get("icc_interval"))),
    ), data=name)  # fmt: skip


def _alarm(n: int, tone: Any) -> Cell:
    return amount(n, 0, tone=tone if n else "muted")


def _mean_ci(values: Mapping[str, Any]) -> str:
    """The interval of the mean, with a star where so few patients have a value that it is too narrow."""
    text = ci(values.get("interval_mean"))
    return f"{text}*" if text and values.get("patients", FEW_PATIENTS) < FEW_PATIENTS else text


def _quartiles(values: Mapping[str, Any], digits: int) -> str:
    """Quartiles; one that is missing though the median is known is infinite, since JSON cannot say so."""
    if values.get("median") is None and values.get("status") != "infinite":
        return ""
    low, high = (values.get(q) for q in ("q1", "q3"))
    if low is None and high is None:
        return ""
    unknown = "∞" if values.get("infinite") else "–"
    low_text, high_text = (unknown if q is None else number(q, digits) for q in (low, high))
    return f"IQR {low_text} to {high_text}"


def _median(values: Mapping[str, Any], digits: int) -> Cell:
    note = _quartiles(values, digits)
    if values.get("infinite"):
        note = f"{note}\n{values['infinite']}× ∞".strip()
    if values.get("median") is None and values.get("status") == "infinite":
        return Cell("∞", 1e300, note, tone="bad")
    return amount(values.get("median"), digits, note=note)


def case_table(cases: pd.DataFrame, palette: Palette, labels: Sequence[str], pictured: Sequence[str]) -> Table:
    """A row a case, the worst first, with a link to its pictures where there are any."""
    scores = case_scores(cases)
    shown = scores.iloc[:MAX_CASE_ROWS]
    wide = list(labels) if 1 < len(labels) <= WIDE_CASE_LABELS else []
    by_label = {name: rows.drop_duplicates("case").set_index("case") for name, rows in cases.groupby("label")}
    columns = (
        Column("Case"), Column("Patient"), Column("Mean Dice", True), Column("Missed", True), Column("Spurious", True),
        Column("Lowest Dice"), *(Column(name, True, group="Dice by structure") for name in wide),
    )  # fmt: skip
    rows = []
    for case, row in shown.iterrows():
        link = f"#{anchor('pictures', str(case))}" if case in pictured else ""
        lowest = (
            Cell(f"{row['worst_label']} {number(row['worst_dice'])}", _sort(row["worst_dice"]))
            if isinstance(row["worst_label"], str)
            else Cell("–")
        )
        values = [_dice_cell(by_label.get(name), str(case)) for name in wide]
        first = Cell(str(case), note="pictures" if link else "", href=link)
        numbers = (amount(row["dice"]), _alarm(int(row["missed"]), "bad"), _alarm(int(row["spurious"]), "warn"))
        rows.append(
            Row((first, Cell(str(row["patient"])), *numbers, lowest, *values), anchor("case", str(case)), str(case))
        )
    caption = (
        f"The {MAX_CASE_ROWS} worst of {len(scores)} cases; all are in cases.csv."
        if len(scores) > MAX_CASE_ROWS
        else ""
    )
    return Table("cases", columns, tuple(rows), caption, printed=60, searchable=len(rows) > 12, scroll=len(rows) > 20)


def _sort(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _dice_cell(rows: pd.DataFrame | None, case: str) -> Cell:
    if rows is None or case not in rows.index:
        return Cell("", None)
    row = rows.loc[case]
    if row["status"] == "both_empty":
        return Cell("empty", None, tone="muted")
    if row["status"] in ("missed", "spurious"):
        return amount(row["dice"], text=row["status"], tone="bad" if row["status"] == "missed" else "warn")
    return amount(row["dice"])


def lesion_summary(summary: Mapping[str, Any], palette: Palette) -> Table | None:
    """Detection of lesions a label, over all cases; None without lesions."""
    lesions = summary.get("lesions")
    if not lesions:
        return None
    columns = (
        Column("Structure"), Column("Reference", True), Column("Predicted", True), Column("Detected", True),
        Column("False positives", True), Column("Sensitivity", True), Column("Precision", True), Column("F1", True),
        Column("False positives a case", True),
    )  # fmt: skip
    counts, rates = ("reference", "predicted", "detected", "false_positives"), ("sensitivity", "precision", "f1")
    rows = tuple(
        Row((
            Cell(name, colour=palette.by_name.get(name, "#888888")),
            *(amount(values.get(key), 0) for key in counts),
            *(amount(values.get(key)) for key in rates),
            amount(values.get("false_positives_per_case"), 2),
        ))
        for name, values in lesions.items()
    )  # fmt: skip
    return Table("lesion-summary", columns, rows)


def lesion_table(
    lesions: pd.DataFrame, palette: Palette, pictured: Sequence[str], *, units: Units | None = None
) -> Table | None:
    """A row a lesion: missed ones first, the largest first; positions are links where the case has pictures."""
    if lesions.empty:
        return None
    units = units or Units()
    kinds = {"missed": 0, "false_positive": 1, "matched": 2}
    size = lesions[["reference_ml", "predicted_ml"]].fillna(0.0).max(axis=1)
    order = lesions.assign(rank=lesions["kind"].map(kinds), size=size).sort_values(
        ["rank", "size"], ascending=[True, False]
    )
    columns = (
        Column("Case"), Column("Structure"), Column("Found"), Column(f"Reference ({units.size})", True),
        Column(f"Predicted ({units.size})", True), Column("Dice", True),
        Column(f"Centre ({units.distance})", help="RAS+: right, anterior, superior"),
    )  # fmt: skip
    rows = tuple(_lesion_row(row, palette, pictured, units) for _, row in order.iloc[:MAX_LESION_ROWS].iterrows())
    caption = (
        f"{MAX_LESION_ROWS} of {len(order)} lesions; all are in lesions.csv." if len(order) > MAX_LESION_ROWS else ""
    )
    return Table("lesions", columns, rows, caption, printed=60, searchable=len(rows) > 12, scroll=len(rows) > 20)


def _lesion_row(row: pd.Series, palette: Palette, pictured: Sequence[str], units: Units) -> Row:
    tones: dict[str, Any] = {"missed": "bad", "false_positive": "warn"}
    where = [row[axis] for axis in ("x_mm", "y_mm", "z_mm")]
    place = ", ".join(number(v, 1) for v in where)
    shown = row["case"] in pictured
    link = f"#{anchor('pictures', row['case'])}" if shown else ""
    return Row((
        Cell(row["case"], href=f"#{anchor('case', row['case'])}"),
        Cell(row["label"], colour=palette.by_name.get(row["label"], "#888888")),
        Cell(row["kind"].replace("_", " "), tone=tones.get(row["kind"], "")),
        *(amount(row[f"{side}_ml"], units.size_digits) for side in ("reference", "predicted")), amount(row["dice"]),
        Cell(place, href=link),
    ), data=" ".join([row["case"], *map(str, where)]) if shown else "")  # fmt: skip


def occurring(confusion: Mapping[str, Any] | None, labels: Sequence[str]) -> Mapping[str, Any] | None:
    """The confusion matrix without combinations of overlapping labels that no pixel has on either side."""
    if not confusion:
        return None
    names, matrix = confusion["labels"], confusion["matrix"]
    kept = [
        i for i, name in enumerate(names) if i == 0 or name in labels or sum(matrix[i]) or any(row[i] for row in matrix)
    ]
    return {"labels": [names[i] for i in kept], "matrix": [[matrix[i][j] for j in kept] for i in kept]}


def confusion_table(confusion: Mapping[str, Any] | None, *, limit: int = 12, element: str = "voxel") -> Table | None:
    """The most frequent confusions between different labels; None without a matrix."""
    if not confusion:
        return None
    labels, matrix = confusion["labels"], confusion["matrix"]
    off = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    columns = (
        Column("Reference"),
        Column("Predicted as"),
        Column(f"{element.capitalize()}s", True),
        Column("Share of the reference", True),
    )
    rows = tuple(
        Row(
            cells(
                labels[i], labels[j], amount(n, 0), amount(n / sum(matrix[i]), text=f"{100 * n / sum(matrix[i]):.2f} %")
            )
        )
        for n, i, j in sorted(off, key=lambda entry: -entry[0])[:limit]
    )
    return Table("confusions", columns, rows, "The most frequent confusions, over all cases.")


def subgroup_tables(summary: Mapping[str, Any], palette: Palette) -> list[tuple[str, Table]]:
    """For each attribute its heading, and a table with a row a structure and value."""
    tables = []
    columns = (
        Column("Group"), Column("Structure"), Column("n", True), Column("Mean", True, group="Dice"),
        Column("Median", True, group="Dice"), Column("Mean", True, group="NSD"),
        Column("Median", True, group=f"HD95 ({units_of(summary).distance})"),
    )  # fmt: skip
    for number_, (attribute, values) in enumerate((summary.get("subgroups") or {}).items()):
        rows = [
            _subgroup_row(str(value), label, metrics, palette)
            for value, labels in values.items()
            for label, metrics in labels.items()
        ]
        many = len(rows) > 30
        table = Table(f"subgroup-{number_}", columns, tuple(rows), searchable=many, scroll=many)
        tables.append((units_of(summary).attribute(attribute), table))
    return tables


def _subgroup_row(value: str, label: str, metrics: Mapping[str, Any], palette: Palette) -> Row:
    metrics = metrics.get("metrics", metrics)
    dice, nsd, hd95 = (metrics.get(m) or {} for m in ("dice", "nsd", "hd95_mm"))
    return Row((
        Cell(value), Cell(label, colour=palette.by_name.get(label, "#888888")), amount(dice.get("n"), 0),
        amount(dice.get("mean"), note=_mean_ci(dice)),
        amount(dice.get("median"), note=_quartiles(dice, metric_text("dice").digits)),
        amount(nsd.get("mean"), note=_mean_ci(nsd)), _median(hd95, 1),
    ))  # fmt: skip


def problem_table(summary: Mapping[str, Any]) -> Table | None:
    """What was wrong with the input, a row a finding; None where nothing was."""
    problems = list(summary.get("problems") or [])
    told = {p.get("case") for p in problems}
    problems += [
        {"case": case, "code": "failed", "message": reason}
        for case, reason in (summary.get("failed") or {}).items()
        if case not in told
    ]
    if not problems:
        return None
    columns = (Column("Case"), Column("Problem"), Column("What it says"))
    tones: Mapping[str, Any] = {"error": "bad", "warning": "warn"}
    rows = tuple(
        Row((
            Cell(str(p.get("case") or "–")),
            Cell(str(p.get("code") or "").replace("_", " ").replace("-", " "), note=str(p.get("severity") or ""),
                 tone=tones.get(p.get("severity", "error"), "")),
            Cell(str(p.get("message") or "")),
        ))
        for p in problems
    )  # fmt: skip
    return Table("problems", columns, rows, shown=50 if len(rows) > 60 else None, searchable=len(rows) > 20)
