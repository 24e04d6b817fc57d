"""Scores of masks against reference labels, case by case and summed up."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.errors import CaseError, UsageError
from medseg3d.geometry import voxel_volume_ml
from medseg3d.metrics import LabelOverlap, label_overlaps
from medseg3d.volume import label_map, read_volume, require_same_grid

__all__ = ["LabelScore", "Summary", "evaluate", "score_case", "summarise"]

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class LabelScore:
    """One row of ``cases.csv``: one label of one case.

    Attributes:
        status: scored, missed (only in the reference), spurious (only in the prediction) or both_empty.
        dice: NaN when both are empty, 0 when one is.
        volume_ml, reference_ml: volumes of the prediction and of the reference in millilitres.
    """

    case: str
    patient: str
    label_id: int
    label: str
    status: str
    dice: float
    volume_ml: float
    reference_ml: float


@dataclass(frozen=True)
class Summary:
    """What ``evaluate`` found.

    Attributes:
        dice: mean over cases, for each label; NaN where no case has the label.
        mean_dice: mean of ``dice`` over the labels that some case has.
        scores: all rows.
        failed: case → why it could not be scored.
    """

    dice: dict[str, float]
    mean_dice: float
    scores: tuple[LabelScore, ...]
    failed: dict[str, str]


def score_case(item: Mapping[str, Any], prediction: Path, *, labels: Mapping[str, int]) -> list[LabelScore]:
    """Score one mask against ``item["label"]``.

    Raises:
        CaseError: a file is missing or unreadable, holds no integers, or the two lie on different grids.
    """
    if not item.get("label"):
        raise CaseError(f"{item['case']}: the data list names no reference label to score against.")
    reference, predicted = read_volume(item["label"]), read_volume(prediction)
    require_same_grid(reference, predicted)
    voxel_ml = voxel_volume_ml(reference.affine)
    overlaps = label_overlaps(label_map(reference), label_map(predicted), list(labels.values()))

    def row(name: str, label: int, overlap: LabelOverlap) -> LabelScore:
        case, patient = str(item["case"]), str(item.get("patient", item["case"]))
        volumes = (overlap.prediction * voxel_ml, overlap.reference * voxel_ml)
        return LabelScore(case, patient, label, name, overlap.status, overlap.dice, *volumes)

    return [row(name, label, overlap) for (name, label), overlap in zip(labels.items(), overlaps, strict=True)]


def summarise(scores: Sequence[LabelScore], labels: Mapping[str, int], failed: Mapping[str, str]) -> Summary:
    """Mean Dice of each label over its cases, and over the labels; cases where both are empty do not count."""
    by_label = {name: [s.dice for s in scores if s.label == name and not math.isnan(s.dice)] for name in labels}
    dice = {name: float(np.mean(values)) if values else math.nan for name, values in by_label.items()}
    known = [value for value in dice.values() if not math.isnan(value)]
    return Summary(dice, float(np.mean(known)) if known else math.nan, tuple(scores), dict(failed))


def evaluate(
    items: Sequence[Mapping[str, Any]],
    prediction_dir: str | Path,
    *,
    labels: Mapping[str, int],
    output_dir: str | Path | None = None,
) -> Summary:
    """Score ``prediction_dir/<case>.nii.gz`` for every item; write ``cases.csv`` and ``summary.json``.

    Args:
        items: mappings with ``case``, ``label`` (path) and ``patient``, as ``medseg3d.datalist`` gives them.
        labels: name → id.
        output_dir: where to write; the predictions' folder by default.

    Raises:
        UsageError: there are no items.
        CaseError: some case could not be scored. The others are, and the files are written.
    """
    if not items:
        raise UsageError("There is no case to evaluate: fold -1 holds out none, and a data list may have no labels.")
    prediction_dir = Path(prediction_dir)
    scores: list[LabelScore] = []
    failed: dict[str, str] = {}
    for item in items:
        try:
            scores += score_case(item, prediction_dir / f"{item['case']}.nii.gz", labels=labels)
        except CaseError as error:
            failed[str(item["case"])] = str(error)
    summary = summarise(scores, labels, failed)
    _write(summary, Path(output_dir or prediction_dir), cases=len(items))
    parts = ", ".join(f"{name} {value:.4f}" for name, value in summary.dice.items())
    logger.info("Mean Dice %.4f [%s] over %d cases", summary.mean_dice, parts, len(items) - len(failed))
    if failed:
        listed = "\n".join(f"  {case}: {reason}" for case, reason in failed.items())
        raise CaseError(f"{len(failed)} of {len(items)} cases could not be scored:\n{listed}")
    return summary


def _write(summary: Summary, folder: Path, *, cases: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(LabelScore.__dataclass_fields__)
    temporary = folder / ".cases.csv.tmp"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for score in summary.scores:
            writer.writerow(["" if _is_nan(value) else value for value in (getattr(score, c) for c in columns)])
    temporary.replace(folder / "cases.csv")
    counts = {name: _counts(summary.scores, name) for name in summary.dice}
    content = {
        "cases": cases,
        "mean_dice": None if math.isnan(summary.mean_dice) else summary.mean_dice,
        "labels": {
            name: {"dice_mean": None if math.isnan(value) else value, "status": counts[name]}
            for name, value in summary.dice.items()
        },
        "failed": summary.failed,
    }
    temporary = folder / ".summary.json.tmp"
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    temporary.replace(folder / "summary.json")


def _counts(scores: Sequence[LabelScore], label: str) -> dict[str, int]:
    statuses = [s.status for s in scores if s.label == label]
    return {status: statuses.count(status) for status in ("scored", "missed", "spurious", "both_empty")}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
