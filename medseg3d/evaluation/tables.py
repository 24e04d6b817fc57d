"""Scores as a table: the columns of ``cases.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from medseg3d.evaluation.model import LabelScore

__all__ = ["LESION_COLUMNS", "METRICS", "to_table"]

METRICS = (
    "dice", "iou", "sensitivity", "precision", "specificity", "volume_ml", "reference_ml", "volume_difference_ml",
    "relative_volume_difference", "hd_mm", "hd95_mm", "hd95_weighted_mm", "assd_mm", "nsd", "nsd_tolerance_mm",
    "centre_distance_mm",
)  # fmt: skip
LESION_COLUMNS = (
    "lesions_reference", "lesions_predicted", "lesions_detected", "lesion_false_positives", "lesion_sensitivity",
    "lesion_precision", "lesion_f1", "lesion_dice",
)  # fmt: skip


def to_table(scores: Sequence[LabelScore], *, lesions: bool) -> pd.DataFrame:
    """The rows of ``cases.csv``."""
    columns = ["case", "patient", "label_id", "label", "status", *METRICS, *(LESION_COLUMNS if lesions else ())]
    return pd.DataFrame([_row(score) for score in scores], columns=columns)


def _row(score: LabelScore) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": score.case,
        "patient": score.patient,
        "label_id": score.label_id,
        "label": score.label,
        "status": score.status,
        **{metric: getattr(score.scores, metric) for metric in METRICS},
    }
    found = score.scores.lesions
    if found is not None:
        counts = (found.reference, found.predicted, found.detected, found.false_positives)
        rates = (found.sensitivity, found.precision, found.f1, found.dice)
        row |= dict(zip(LESION_COLUMNS, (*counts, *rates), strict=True))
    return row
