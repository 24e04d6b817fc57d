"""The files that reports are made from: what ``evaluate`` and ``compare`` wrote."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.errors import UsageError
from medseg3d.report.words import Units

__all__ = [
    "Comparison",
    "Evaluation",
    "comparison_in_units",
    "in_units",
    "read_comparison",
    "read_evaluation",
    "read_json",
    "read_table",
    "read_training",
]

# Of a pair of methods in comparison.json: what is in the unit of its metric.
PAIR_VALUES = ("mean_a", "mean_b", "difference", "interval", "median_difference", "median_interval")
# What is text in the tables; every other column holds numbers.
TEXT_COLUMNS = frozenset({"case", "patient", "label", "label_id", "status", "lesion", "kind", "metric", "a", "b"})


@dataclass(frozen=True)
class Evaluation:
    """A folder written by ``medseg3d evaluate``.

    Attributes:
        folder: where the files lie.
        summary: ``summary.json``.
        cases: ``cases.csv``, a row a case and label; NaN is not defined, infinity is one side empty.
        lesions: ``lesions.csv``; no rows where lesions were not asked for.
        training: ``metrics.csv`` of the training run that ``summary["run"]`` names; no rows without one.
    """

    folder: Path
    summary: Mapping[str, Any]
    cases: pd.DataFrame
    lesions: pd.DataFrame
    training: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """A folder written by ``medseg3d compare``.

    Attributes:
        folder: where the files lie.
        content: ``comparison.json``.
        inputs: method → the ``inputs`` of its evaluation, for pictures; a method whose folder is gone has none.
        regions: the labels with their ids, from the first evaluation folder that can be read.
    """

    folder: Path
    content: Mapping[str, Any]
    inputs: Mapping[str, list[Mapping[str, Any]]]
    regions: list[Mapping[str, Any]]


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation folder.

    Raises:
        UsageError: a file is missing, damaged, or of another schema.
    """
    summary = read_json(folder / "summary.json", schema="medseg3d.evaluation/1", made_by="medseg3d evaluate")
    cases = read_table(folder / "cases.csv", made_by="medseg3d evaluate")
    missing = {"case", "label", "status", "dice"} - set(cases.columns)
    if missing:
        raise UsageError(f"{folder / 'cases.csv'} lacks {', '.join(sorted(missing))}: evaluate again.")
    if "patient" not in cases:
        cases["patient"] = cases["case"]
    lesions = folder / "lesions.csv"
    table = read_table(lesions, made_by="medseg3d evaluate") if lesions.is_file() else pd.DataFrame()
    return Evaluation(folder, summary, cases, table, read_training(summary.get("run")))


def in_units(evaluation: Evaluation, units: Units) -> Evaluation:
    """The same evaluation with sizes, whose names end with ``_ml``, in the units that are shown."""
    if units.per_ml == 1:
        return evaluation
    tables = [_in_units(table, units) for table in (evaluation.cases, evaluation.lesions)]
    labels = {
        name: label | {"volume_agreement": _agreement_in_units(label.get("volume_agreement"), units)}
        for name, label in (evaluation.summary.get("labels") or {}).items()
    }
    return replace(evaluation, summary={**evaluation.summary, "labels": labels}, cases=tables[0], lesions=tables[1])


def _in_units(table: pd.DataFrame, units: Units) -> pd.DataFrame:
    return table.assign(**{name: table[name] * units.per_ml for name in table.columns if name.endswith("_ml")})


def _agreement_in_units(agreement: Mapping[str, Any] | None, units: Units) -> Mapping[str, Any] | None:
    return agreement and {
        name: _scaled(v, units.per_ml) if name.endswith("_ml") else v for name, v in agreement.items()
    }


def comparison_in_units(content: Mapping[str, Any], units: Units) -> Mapping[str, Any]:
    """``comparison.json`` with sizes, whose metrics end with ``_ml``, in the units that are shown."""
    if units.per_ml == 1:
        return content

    def sized(row: Mapping[str, Any]) -> bool:
        return str(row["metric"]).endswith("_ml")

    pairs = [
        {name: _scaled(v, units.per_ml) if sized(pair) and name in PAIR_VALUES else v for name, v in pair.items()}
        for pair in content.get("pairs") or []
    ]
    cases = [
        {**row, "values": {method: _scaled(v, units.per_ml) for method, v in row["values"].items()}}
        if sized(row)
        else row
        for row in content.get("cases_table") or []
    ]
    return {**content, "pairs": pairs, "cases_table": cases}


def _scaled(value: Any, factor: int) -> Any:
    """A number, or each of a list; None, which is not defined or infinite, stays."""
    if isinstance(value, list):
        return [_scaled(one, factor) for one in value]
    return None if value is None else value * factor


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison folder, and from the evaluation folders that it names what pictures need.

    Raises:
        UsageError: ``comparison.json`` is missing, damaged, or of another schema.
    """
    content = read_json(folder / "comparison.json", schema="medseg3d.comparison/1", made_by="medseg3d compare")
    inputs: dict[str, list[Mapping[str, Any]]] = {}
    regions: list[Mapping[str, Any]] = []
    for method, run in content.get("runs", {}).items():
        path = folder / Path(run) / "summary.json"
        if path.is_file():
            summary = read_json(path, schema="medseg3d.evaluation/1", made_by="medseg3d evaluate")
            inputs[method] = summary.get("inputs", [])
            regions = regions or summary.get("regions", [])
    return Comparison(folder, content, inputs, regions)


def read_training(run: str | None) -> pd.DataFrame:
    """``metrics.csv`` of a run folder, a row an epoch; no rows where there is no such file."""
    path = Path(run or "") / "metrics.csv"
    return read_table(path, made_by="the training") if run and path.is_file() else pd.DataFrame()


def read_json(path: Path, *, schema: str, made_by: str) -> dict[str, Any]:
    """Read JSON whose ``schema`` is the one named; ``made_by`` is the command that an error message recommends.

    Raises:
        UsageError: no such file, not JSON, or another schema.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. A report is made from the folder that {made_by} writes.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}). Run {made_by} again.") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise UsageError(f"{path}: its schema is {found!r}, this version reads {schema!r}. Run {made_by} again.")
    return content


def read_table(path: Path, *, made_by: str, text: Collection[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Read a CSV file: the columns ``text`` as text, whatever they hold; others as numbers, an empty field as NaN.

    Raises:
        UsageError: no such file, or a field that is no number where one belongs.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. A report is made from the folder that {made_by} writes.")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        columns = list(reader.fieldnames or ())
    try:
        data = {name: [_field(row[name], name in text) for row in rows] for name in columns}
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: a field is not a number ({error}). Run {made_by} again.") from error
    return pd.DataFrame(data, columns=columns)


def _field(text: str, as_text: bool) -> str | float:
    if as_text:
        return text
    return float(text) if text else math.nan
