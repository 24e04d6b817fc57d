"""Detection of boxes in images: average precision, FROC, counts. Boxes are xyxy in pixels.

Average precision is pycocotools'. A detection hits a box of its class when their intersection over union reaches the
threshold; each box can be hit once, by the best-scored detection first, and what hits nothing is a false positive.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["LUNA16_FALSE_POSITIVES", "AveragePrecision", "Boxes", "Froc", "average_precision", "box_iou", "froc",
           "match_boxes"]  # fmt: skip

# False positives an image at which the LUNA16 challenge reads the sensitivity (Setio et al. 2017).
LUNA16_FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MAX_DETECTIONS = 1000  # COCO's own limit of 100 an image cuts off cells in microscopy
RECALLS = np.linspace(0, 1, 101)  # where pycocotools reads the precision


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image.

    Attributes:
        xyxy: (n, 4): left, top, right, bottom, in pixels.
        classes: (n,) class ids.
        scores: (n,) confidences; ones for a reference.
        difficult: (n,) reference boxes that count neither as hit nor as miss (COCO's crowd, VOC's difficult).
    """

    xyxy: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    difficult: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def of_class(self, class_id: int) -> Boxes:
        keep = self.classes == class_id
        difficult = self.difficult[keep] if len(self.difficult) else self.difficult
        return Boxes(self.xyxy[keep], self.classes[keep], self.scores[keep], difficult)

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True)
class AveragePrecision:
    """What COCO's evaluation gives for one class.

    Attributes:
        ap50: average precision at an intersection over union of 0.5.
        ap: mean over the thresholds 0.5, 0.55, … 0.95.
        recall, precision: the precision-recall curve at 0.5, at 101 recalls; NaN without reference boxes.
    """

    ap50: float
    ap: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


@dataclass(frozen=True)
class Froc:
    """Free-response ROC: sensitivity over false positives an image.

    Attributes:
        false_positives: false positives an image, rising.
        sensitivity: share of the reference boxes that are hit.
        thresholds: the score at each point.
        at_luna16: sensitivity at ``LUNA16_FALSE_POSITIVES``.
        score: their mean, LUNA16's competition performance metric.
    """

    false_positives: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    at_luna16: tuple[float, ...]
    score: float


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every box of ``a`` (n, 4) with every box of ``b`` (m, 4); 0 for boxes without area.

    >>> box_iou(np.array([[0, 0, 2, 2.0]]), np.array([[1, 0, 3, 2.0]])).round(3).tolist()
    [[0.333]]
    """
    intersection = _intersections(a, b)
    union = _areas(a)[:, None] + _areas(b)[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def match_boxes(predicted: Boxes, reference: Boxes, *, iou: float = 0.5) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which reference box each detection of the same class hits.

    Detections take boxes in the order of falling scores; each takes the free box that it overlaps most. As in COCO, a
    detection that finds no free box but lies on a difficult one (by the share of its own area) does not count, for or
    against.

    Returns:
        For each detection the index of its reference box, or -1; and whether the detection counts.
    """
    other_class = predicted.classes[:, None] != reference.classes[None]
    overlap = np.where(other_class, 0, box_iou(predicted.xyxy, reference.xyxy))
    covered = np.where(other_class, 0, _share_covered(predicted.xyxy, reference.xyxy))
    difficult = reference.difficult if len(reference.difficult) else np.zeros(len(reference), dtype=bool)
    hits, counts = np.full(len(predicted), -1), np.ones(len(predicted), dtype=bool)
    free = ~difficult
    for i in np.argsort(-predicted.scores, kind="stable"):
        candidates = np.where(free, overlap[i], 0)
        best = int(candidates.argmax()) if len(reference) else -1
        if best >= 0 and candidates[best] >= iou:
            hits[i] = best
            free[best] = False
        elif (covered[i, difficult] >= iou).any():
            counts[i] = False
    return hits, counts


def froc(predicted: Sequence[Boxes], reference: Sequence[Boxes], *, iou: float = 0.5) -> Froc:
    """Sensitivity against false positives an image, over all images (one entry each, in the same order).

    Source: Bunch et al. 1978; the seven points and their mean from LUNA16 (Setio et al. 2017). Unlike there, a second
    detection of a box is a false positive, as in COCO. NaN where no reference box exists.
    """
    scores, hit = _pooled(predicted, reference, iou)
    boxes = sum(len(r) - int(np.count_nonzero(r.difficult)) for r in reference)
    order = np.argsort(-scores, kind="stable")
    scores, hit = scores[order], hit[order]
    # A threshold admits all detections of its score, so points lie at the last of equal scores.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.empty(0, dtype=int)
    false_positives = np.cumsum(~hit)[last] / max(len(reference), 1)
    sensitivity = np.cumsum(hit)[last] / boxes if boxes else np.full(len(last), np.nan)
    at = tuple(_sensitivity_at(limit, false_positives, sensitivity, boxes) for limit in LUNA16_FALSE_POSITIVES)
    return Froc(false_positives, sensitivity, scores[last], at, float(np.mean(at)))


def average_precision(
    predicted: Sequence[Boxes], reference: Sequence[Boxes], classes: Mapping[str, int]
) -> dict[str, AveragePrecision]:
    """Average precision of each class over all images (one entry each, in the same order), by pycocotools.

    NaN for a class without reference boxes. Source: Lin et al. 2014, COCO; interpolated at 101 recalls.
    """
    from pycocotools.cocoeval import COCOeval

    # pycocotools narrates on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(reference, classes), _coco(predicted, classes, scored=True), "bbox")
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.catIds = list(classes.values())
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # (IoU thresholds, recalls, classes); -1: no boxes
    ranked = sorted(classes.values())  # pycocotools sorts them, whatever order they are given in
    return {name: _one_class(precision[:, :, ranked.index(class_id)]) for name, class_id in classes.items()}


def _one_class(precision: NDArray[np.float64]) -> AveragePrecision:
    values = np.where(precision < 0, np.nan, precision)
    return AveragePrecision(float(values[0].mean()), float(values.mean()), RECALLS, values[0])


def _coco(images: Sequence[Boxes], classes: Mapping[str, int], *, scored: bool = False) -> object:
    from pycocotools.coco import COCO

    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": class_id, "name": name} for name, class_id in classes.items()],
        "annotations": [],
    }
    for image_id, boxes in enumerate(images):
        crowd = boxes.difficult if len(boxes.difficult) else np.zeros(len(boxes), dtype=bool)
        for xyxy, class_id, score, difficult in zip(boxes.xyxy, boxes.classes, boxes.scores, crowd, strict=True):
            x, y, right, bottom = (float(v) for v in xyxy)
            annotation = {
                "id": len(dataset.dataset["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(class_id),
                "bbox": [x, y, right - x, bottom - y],
                "area": (right - x) * (bottom - y),
                "iscrowd": int(difficult),
            }
            dataset.dataset["annotations"].append(annotation | ({"score": float(score)} if scored else {}))
    dataset.createIndex()
    return dataset


def _pooled(predicted: Sequence[Boxes], reference: Sequence[Boxes], iou: float) -> tuple[NDArray, NDArray]:
    """Scores of all detections that count, and whether each hits."""
    scores: list[NDArray] = [np.empty(0)]
    hit: list[NDArray] = [np.empty(0, dtype=bool)]
    for found, truth in zip(predicted, reference, strict=True):
        hits, counts = match_boxes(found, truth, iou=iou)
        scores.append(found.scores[counts])
        hit.append(hits[counts] >= 0)
    return np.concatenate(scores), np.concatenate(hit)


def _sensitivity_at(limit: float, false_positives: NDArray, sensitivity: NDArray, boxes: int) -> float:
    if not boxes:
        return float("nan")
    within = false_positives <= limit
    return float(sensitivity[within].max()) if within.any() else 0.0


def _share_covered(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the area of each box of ``a`` that each box of ``b`` covers."""
    areas = _areas(a)[:, None]
    intersection = _intersections(a, b)
    return np.divide(intersection, areas, out=np.zeros_like(intersection), where=areas > 0)


def _intersections(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=-1)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
