"""Score a classifier's ``predictions.csv`` against the classes of a list of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg3d.errors import UsageError
from medseg3d.evaluation.classification import OperatingPoint, evaluate_classification
from medseg3d.evaluation.image_tables import SEPARATOR
from medseg3d.report.files import read_json

__all__ = ["evaluate_classes"]


def evaluate_classes(
    items: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    labels: Mapping[str, int],
    name: str = "",
    **options: Any,
) -> dict[str, Any]:
    """Write ``references.csv`` into the folder of a classifier's results, and evaluate them there.

    Of two exclusive classes the second is the positive one. Decisions are those of the calibration that the
    predictions were made with.

    Args:
        items: dicts of ``case``, ``patient``, ``image`` and ``label``, as ``medseg3d.images.validation_items``.
        folder: with ``predictions.csv``, ``predictions.json`` and perhaps ``overlays/``.
        labels: id of each class by name, from 0.
        name: of the method, for the report.
        options: further arguments of ``evaluate_classification``.

    Returns:
        The summary as written.

    Raises:
        UsageError: an image whose class is not known.
    """
    folder = Path(folder)
    record = read_json(folder / "predictions.json", schema="medseg3d.class_predictions/1", made_by="medseg3d classify")
    classes = sorted(labels, key=lambda c: labels[c])
    references = folder / "references.csv"
    table = pd.DataFrame(
        {
            "case": [item["case"] for item in items],
            "patient": [item.get("patient", "") for item in items],
            "label": [_names(item, classes) for item in items],
        }
    )
    table.to_csv(references, index=False, lineterminator="\n")
    calibration = record["calibration"]
    point = OperatingPoint(thresholds=calibration["thresholds"], rule=calibration["rule"])
    is_binary = len(classes) == 2 and not record["multi_label"]
    return evaluate_classification(
        folder / "predictions.csv",
        references,
        folder,
        name=name or str(record.get("bundle") or ""),
        positive=classes[1] if is_binary else None,
        operating_point=point,
        images={item["case"]: Path(item["image"]) for item in items},
        overlays=folder / "overlays",
        **options,
    )


def _names(item: Mapping[str, Any], classes: Sequence[str]) -> str:
    if "label" not in item:
        raise UsageError(f"{item['case']}: its class is not known, so its answer cannot be scored. Leave it out.")
    label = np.asarray(item["label"])
    return SEPARATOR.join(classes[int(i)] for i in np.flatnonzero(label)) if label.ndim else classes[int(label)]
