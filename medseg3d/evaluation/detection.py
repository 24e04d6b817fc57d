"""Detections against reference boxes: ``cases.csv``, ``summary.json`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.evaluation.box_files import BoxSet, read_boxes
from medseg3d.evaluation.files import write_table
from medseg3d.evaluation.provenance import file_provenance
from medseg3d.evaluation.summary import json_number
from medseg3d.files import write_json
from medseg3d.images import ImageRef
from medseg3d.metrics.detection import LUNA16_FALSE_POSITIVES, Boxes, average_precision, froc, match_boxes
from medseg3d.report.detection import write_detection_report
from medseg3d.statistics.bootstrap import LEVEL, RESAMPLES, Interval
from medseg3d.statistics.curves import PooledDetections, average_precision_intervals, sum_intervals

__all__ = ["evaluate_detection"]

COCO_IOUS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2))
SHOWN_THRESHOLDS = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2))


def evaluate_detection(
    predictions: Path,
    references: Path,
    out: Path,
    *,
    name: str = "",
    threshold: float = 0.5,
    iou: float = 0.5,
    images: Path | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Score detections and write the files of an evaluation.

    Args:
        predictions, references: COCO's JSON, as ``read_boxes`` takes it.
        out: folder for ``cases.csv``, ``summary.json`` and ``report.html``.
        threshold: score from which a detection counts where boxes are counted; precision averages use all scores.
        iou: overlap from which a detection is a hit, for counts and FROC.
        images: folder of the images, for pictures.

    Returns:
        The summary as written.

    Raises:
        CaseError, UsageError: as ``read_boxes``.
    """
    started = datetime.now(UTC)
    boxes = read_boxes(predictions, references)
    settings = {"level": level, "resamples": resamples}
    precision = average_precision(boxes.predicted, boxes.reference, boxes.classes)
    intervals = _precision_intervals(boxes, **settings)
    counts = {name: _counts(boxes, class_id, threshold, iou) for name, class_id in boxes.classes.items()}
    labels = {
        label: {
            "boxes": int(counts[label][:, 0].sum()),
            "metrics": {
                "ap50": _number(precision[label].ap50, intervals[label][0]),
                "ap": _number(precision[label].ap, intervals[label][1]),
                **_at_threshold(counts[label], boxes.patients, **settings),
            },
            "pr": {"x": precision[label].recall.tolist(), "y": [json_number(v) for v in precision[label].precision]},
            "froc": _froc(boxes, class_id, iou),
            "thresholds": [_row(boxes, class_id, float(t), iou) for t in SHOWN_THRESHOLDS],
        }
        for label, class_id in boxes.classes.items()
    }
    summary = {
        "schema": "medseg3d.detection/1",
        "name": name,
        "cases": len(boxes.cases),
        "patients": len(set(boxes.patients)),
        "iou": iou,
        "threshold": threshold,
        "headline": {
            "metric": "map50",
            "over": "classes",
            **_number(_mean([p.ap50 for p in precision.values()]), intervals[""][0]),
            **settings,
            "method": "percentile bootstrap over patients",
        },
        "map": _number(_mean([p.ap for p in precision.values()]), intervals[""][1]),
        "luna16_false_positives": list(LUNA16_FALSE_POSITIVES),
        "labels": labels,
        "class_ids": list(boxes.classes.values()),
        "failed": {},
        "problems": [{"case": p.case, "code": p.code, "message": p.message} for p in boxes.problems],
        "inputs": _inputs(boxes, images, threshold),
        "provenance": file_provenance((predictions, references), started=started),
    }
    write_table(out / "cases.csv", _table(boxes, counts))
    write_json(out / "summary.json", summary)
    write_detection_report(out)
    return summary


def _counts(boxes: BoxSet, class_id: int, threshold: float, iou: float) -> NDArray[np.int64]:
    """Per image: reference boxes, detections, true positives, false positives, false negatives of one class."""
    rows = []
    for predicted, reference in zip(boxes.predicted, boxes.reference, strict=True):
        found, truth = _above(predicted.of_class(class_id), threshold), reference.of_class(class_id)
        hits, counted = match_boxes(found, truth, iou=iou)
        true_positives, total = int((hits >= 0).sum()), len(truth) - int(truth.difficult.sum())
        detections = int(counted.sum())
        rows.append((total, detections, true_positives, detections - true_positives, total - true_positives))
    return np.array(rows, dtype=np.int64).reshape(-1, 5)


def _above(boxes: Boxes, threshold: float) -> Boxes:
    keep = boxes.scores >= threshold
    return Boxes(boxes.xyxy[keep], boxes.classes[keep], boxes.scores[keep])


def _at_threshold(counts: NDArray[np.int64], patients: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Precision, sensitivity, F1 and how well the boxes of an image are counted, with intervals."""
    error = np.abs(counts[:, 1] - counts[:, 0])
    sums = np.column_stack([counts, error, np.ones(len(counts))])
    values = _rates(sums.sum(axis=0, keepdims=True).astype(float))[0]
    limits = sum_intervals(sums, _rates, patients, **settings)
    names = ("precision", "sensitivity", "f1", "false_positives_per_image", "count_bias", "relative_count_error")
    return {n: _number(float(v), limit) for n, v, limit in zip(names, values, limits, strict=True)}


def _rates(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of (reference, detections, TP, FP, FN, |count error|, images) → what ``_at_threshold`` names."""
    reference, detections, tp, fp, fn, error, images = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = (tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), fp / images)
        # Mean over images of |detections − reference|, over the mean number of reference boxes.
        return np.stack([*rates, (detections - reference) / images, error / reference], axis=1)


def _row(boxes: BoxSet, class_id: int, threshold: float, iou: float) -> dict[str, Any]:
    counts = _counts(boxes, class_id, threshold, iou)
    sums = np.append(counts.sum(axis=0), [np.abs(counts[:, 1] - counts[:, 0]).sum(), len(counts)]).astype(float)
    names = ("precision", "sensitivity", "f1", "false_positives_per_image", "count_bias", "relative_count_error")
    return {"threshold": threshold, **dict(zip(names, map(json_number, _rates(sums[None])[0].tolist()), strict=True))}


def _froc(boxes: BoxSet, class_id: int, iou: float) -> dict[str, Any]:
    sides = ([b.of_class(class_id) for b in side] for side in (boxes.predicted, boxes.reference))
    curve = froc(*sides, iou=iou)
    return {
        "x": curve.false_positives.tolist(),
        "y": [json_number(v) for v in curve.sensitivity.tolist()],
        "at": [json_number(v) for v in curve.at_luna16],
        "score": json_number(curve.score),
    }


def _precision_intervals(boxes: BoxSet, **settings: Any) -> dict[str, tuple[Interval | None, Interval | None]]:
    """Limits of AP at 0.5 and of AP for each class, and of their means over the classes under the name ``""``."""
    pools = {name: [_pool(boxes, class_id, float(t)) for t in COCO_IOUS] for name, class_id in boxes.classes.items()}
    wanted = [group for by_iou in pools.values() for group in (by_iou[:1], by_iou)]
    wanted += [[by_iou[0] for by_iou in pools.values()], [pool for by_iou in pools.values() for pool in by_iou]]
    limits = average_precision_intervals(wanted, boxes.patients, **settings)
    return {name: (limits[2 * i], limits[2 * i + 1]) for i, name in enumerate([*pools, ""])}


def _pool(boxes: BoxSet, class_id: int, iou: float) -> PooledDetections:
    scores, hit, image, totals = [], [], [], []
    for i, (predicted, reference) in enumerate(zip(boxes.predicted, boxes.reference, strict=True)):
        found, truth = predicted.of_class(class_id), reference.of_class(class_id)
        hits, counted = match_boxes(found, truth, iou=iou)
        scores.append(found.scores[counted])
        hit.append(hits[counted] >= 0)
        image.append(np.full(int(counted.sum()), i))
        totals.append(len(truth) - int(truth.difficult.sum()))
    return PooledDetections(np.concatenate(scores), np.concatenate(hit), np.concatenate(image), np.array(totals))


def _table(boxes: BoxSet, counts: Mapping[str, NDArray[np.int64]]) -> pd.DataFrame:
    columns = ["reference", "predicted", "true_positives", "false_positives", "false_negatives"]
    tables = []
    for name, class_id in boxes.classes.items():
        table = pd.DataFrame(counts[name], columns=columns)
        keys = {"case": boxes.cases, "patient": boxes.patients, "label_id": class_id, "label": name}
        for place, (key, value) in enumerate(keys.items()):
            table.insert(place, key, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _inputs(boxes: BoxSet, images: Path | None, threshold: float) -> list[dict[str, Any]]:
    rows = []
    for case, patient, reference, predicted in zip(
        boxes.cases, boxes.patients, boxes.reference, boxes.predicted, strict=True
    ):
        rows.append({
            "case": case,
            "patient": patient,
            "image": ImageRef.parse(images / case).found if images else None,
            "reference": _listed(reference),
            "predicted": _listed(_above(predicted, threshold)),
        })  # fmt: skip
    return rows


def _listed(boxes: Boxes) -> list[dict[str, Any]]:
    rows = zip(boxes.xyxy.round(2).tolist(), boxes.classes.tolist(), boxes.scores.round(4).tolist(), strict=True)
    difficult = boxes.difficult.tolist() or [False] * len(boxes)
    return [
        {"xyxy": xyxy, "class": class_id, "score": score} | ({"difficult": True} if hard else {})
        for (xyxy, class_id, score), hard in zip(rows, difficult, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def _number(value: float, interval: Interval | None) -> dict[str, Any]:
    return {"value": json_number(value), "interval": list(interval) if interval else None}
