"""Boxes: overlap and matching by hand, average precision against torchmetrics, FROC by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.metrics.detection import Boxes, average_precision, box_iou, froc, match_boxes

CLASSES = {"white": 2, "red": 1}  # not in ascending order: libraries sort


def boxes(*rows, classes=None, scores=None, difficult=()):
    n = len(rows)
    return Boxes(
        np.array(rows, dtype=float).reshape(n, 4),
        np.array(classes or [1] * n, dtype=np.int64),
        np.array(scores or [1.0] * n, dtype=float),
        np.array(difficult, dtype=bool),
    )


@st.composite
def images(draw, *, scored):
    """Boxes on a coarse raster, so that they overlap and hit often."""
    n = draw(st.integers(0, 6))
    corner, size, cls = st.integers(0, 12), st.integers(4, 10), st.integers(1, 2)
    rows = [(x, y, x + w, y + h) for x, y, w, h in draw(st.lists(st.tuples(corner, corner, size, size), min_size=n, max_size=n))]  # fmt: skip  # noqa: E501
    if scored:  # an overlap of exactly 0.6 would hit or not by rounding, and torchmetrics computes in float32
        rows = [(x + 0.0137, y - 0.0071, right, bottom + 0.0113) for x, y, right, bottom in rows]
    score = st.floats(0.05, 1.0, allow_nan=False)
    scores = draw(st.lists(score, min_size=n, max_size=n, unique=True)) if scored else None
    return boxes(*rows, classes=draw(st.lists(cls, min_size=n, max_size=n)), scores=scores)


def test_overlap_by_hand():
    a = np.array([[0, 0, 10, 10.0]])
    b = np.array([[0, 0, 10, 10.0], [5, 0, 15, 10], [10, 10, 20, 20], [3, 3, 3, 8]])
    assert box_iou(a, b)[0] == pytest.approx([1, 50 / 150, 0, 0])


def test_each_box_is_hit_once_by_the_best_scored():
    reference = boxes((0, 0, 10, 10))
    hits, counts = match_boxes(boxes((0, 0, 10, 9), (0, 0, 10, 10), scores=[0.9, 0.8]), reference)
    assert hits.tolist() == [0, -1]
    assert counts.all()


def test_another_class_does_not_hit():
    hits, _ = match_boxes(boxes((0, 0, 10, 10), classes=[2]), boxes((0, 0, 10, 10), classes=[1]))
    assert hits.tolist() == [-1]


def test_a_detection_on_a_difficult_box_does_not_count():
    reference = boxes((0, 0, 10, 10), difficult=[True])
    hits, counts = match_boxes(boxes((0, 0, 10, 10), (20, 20, 30, 30), scores=[0.9, 0.8]), reference)
    assert hits.tolist() == [-1, -1]
    assert counts.tolist() == [False, True]


def test_froc_by_hand():
    # Two images, two boxes; scores 0.9 hit, 0.8 miss, 0.7 hit.
    predicted = [boxes((0, 0, 10, 10), (50, 50, 60, 60), scores=[0.9, 0.8]), boxes((0, 0, 10, 10), scores=[0.7])]
    reference = [boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10))]
    curve = froc(predicted, reference)
    assert curve.false_positives.tolist() == [0.0, 0.5, 0.5]
    assert curve.sensitivity.tolist() == [0.5, 0.5, 1.0]
    assert curve.at_luna16 == (0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert curve.score == pytest.approx(6 / 7)


def test_froc_without_boxes_or_without_detections():
    assert math.isnan(froc([boxes()], [boxes()]).score)
    nothing = froc([boxes()], [boxes((0, 0, 1, 1))])
    assert nothing.at_luna16 == (0.0,) * 7


def test_equal_scores_are_admitted_together():
    predicted = [boxes((0, 0, 10, 10), (50, 50, 60, 60), scores=[0.5, 0.5])]
    curve = froc(predicted, [boxes((0, 0, 10, 10))])
    assert (curve.false_positives.tolist(), curve.sensitivity.tolist()) == ([1.0], [1.0])


def test_a_perfect_detector_scores_one_and_a_class_without_boxes_nothing():
    truth = [boxes((0, 0, 10, 10)), boxes()]
    result = average_precision(truth, truth, CLASSES)
    assert (result["red"].ap50, result["red"].ap) == (pytest.approx(1.0), pytest.approx(1.0))
    assert math.isnan(result["white"].ap50)


def test_more_than_a_hundred_boxes_all_count():
    rows = [(20 * i, 0, 20 * i + 10, 10) for i in range(150)]
    assert average_precision([boxes(*rows)], [boxes(*rows)], CLASSES)["red"].ap50 == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(images(scored=True), images(scored=False)), min_size=1, max_size=4))
def test_average_precision_agrees_with_torchmetrics(pairs):
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # COCO's own recall levels: torchmetrics makes them in float32, where a recall of 4 in 5 misses the level 0.8.
    levels = np.linspace(0, 1, 101).tolist()
    metric = MeanAveragePrecision(class_metrics=True, extended_summary=False, rec_thresholds=levels)
    metric.warn_on_many_detections = False
    as_torch = [
        [
            {"boxes": torch.tensor(b.xyxy), "labels": torch.tensor(b.classes), "scores": torch.tensor(b.scores)}
            for b in side
        ]
        for side in zip(*pairs, strict=True)
    ]
    metric.update(*as_torch)
    expected = metric.compute()
    ours = average_precision([p for p, _ in pairs], [r for _, r in pairs], CLASSES)
    in_each = dict(
        zip(expected["classes"].reshape(-1).tolist(), expected["map_per_class"].reshape(-1).tolist(), strict=True)
    )
    for name, class_id in CLASSES.items():
        if not math.isnan(ours[name].ap):
            assert ours[name].ap == pytest.approx(in_each[class_id], abs=1e-6)
    known = [v for v in ours.values() if not math.isnan(v.ap50)]
    if known:
        assert np.mean([v.ap50 for v in known]) == pytest.approx(float(expected["map_50"]), abs=1e-6)
        assert np.mean([v.ap for v in known]) == pytest.approx(float(expected["map"]), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(images(scored=True), images(scored=False))
def test_no_box_is_hit_twice_and_every_hit_overlaps(predicted, reference):
    hits, _ = match_boxes(predicted, reference)
    taken = hits[hits >= 0]
    assert len(set(taken.tolist())) == len(taken)
    overlap = box_iou(predicted.xyxy, reference.xyxy)
    assert all(overlap[i, j] >= 0.5 for i, j in enumerate(hits) if j >= 0)
