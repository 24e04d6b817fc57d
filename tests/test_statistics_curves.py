"""Weighted areas against scikit-learn and pycocotools; intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.metrics.detection import Boxes, average_precision, match_boxes
from medseg3d.statistics import mean_intervals
from medseg3d.statistics.curves import (
    PooledDetections,
    area_intervals,
    average_precision_intervals,
    sum_intervals,
    weighted_areas,
    weighted_average_precision,
)


@given(st.integers(0, 2**32 - 1))
def test_weighted_areas_are_scikit_learns(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 30))
    scores, weights = random.integers(0, 6, n) / 5, random.integers(0, 4, (5, n)).astype(float)
    truth = random.random(n) < 0.5
    for row, (auroc, auprc) in zip(weights, weighted_areas(scores, truth, weights), strict=True):
        if not (row[truth].sum() and row[~truth].sum()):
            assert np.isnan(auroc)
            assert np.isnan(auprc)
            continue
        assert auroc == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores, sample_weight=row))
        assert auprc == pytest.approx(sklearn.metrics.average_precision_score(truth, scores, sample_weight=row))


def detections(seed: int, images: int) -> tuple[list[Boxes], list[Boxes]]:
    """References, and detections that shift, invent and miss some of them."""
    random = np.random.default_rng(seed)
    predicted, reference = [], []
    for _ in range(images):
        n = int(random.integers(0, 5))
        corner = random.integers(0, 60, (n, 2)).astype(float)
        truth = np.hstack([corner, corner + 12])
        found = truth[random.random(n) < 0.8] + random.normal(0, 1.5, (1, 4))
        wrong = random.integers(0, 60, (int(random.integers(0, 3)), 2)).astype(float)
        found = np.vstack([found, np.hstack([wrong, wrong + 12])])
        ones = np.ones(len(found), dtype=np.int64)
        predicted.append(Boxes(found, ones, random.random(len(found))))
        reference.append(Boxes(truth, np.ones(n, dtype=np.int64), np.ones(n)))
    return predicted, reference


def pooled(predicted: list[Boxes], reference: list[Boxes], iou: float = 0.5) -> PooledDetections:
    hits = [match_boxes(p, r, iou=iou)[0] >= 0 for p, r in zip(predicted, reference, strict=True)]
    image = np.repeat(np.arange(len(predicted)), [len(p) for p in predicted])
    boxes = np.array([len(r) for r in reference])
    return PooledDetections(np.concatenate([p.scores for p in predicted]), np.concatenate(hits), image, boxes)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_average_precision_is_pycocotools_also_of_images_drawn_twice(seed):
    predicted, reference = detections(seed, 6)
    times = np.random.default_rng(seed).integers(0, 3, 6)
    pool = pooled(predicted, reference)
    ours = weighted_average_precision(pool, np.stack([np.ones(6), times.astype(float)]))
    drawn = np.repeat(np.arange(6), times)
    for value, images in zip(ours, (np.arange(6), drawn), strict=True):
        theirs = average_precision([predicted[i] for i in images], [reference[i] for i in images], {"cell": 1})
        assert value == pytest.approx(theirs["cell"].ap50, nan_ok=True)


def test_limits_lie_around_the_number():
    predicted, reference = detections(3, 60)
    pool = pooled(predicted, reference)
    value = float(weighted_average_precision(pool, np.ones((1, 60)))[0])
    ((low, high),) = average_precision_intervals([[pool]], [str(i) for i in range(60)], resamples=300)
    assert 0 < low < value < high < 1
    assert high - low < 0.3


def test_nothing_to_find_and_one_patient_have_no_limits():
    empty = PooledDetections(np.empty(0), np.empty(0, bool), np.empty(0, int), np.zeros(3, int))
    assert average_precision_intervals([[empty]], ["a", "b", "c"]) == [None]
    assert area_intervals([0.1, 0.9, 0.3, 0.8], [0, 1, 1, 0], ["a", "b", "c", "d"]) == (None, None)  # too few
    assert sum_intervals(np.ones((9, 2)), share, list("abcdefghi")) == [None]  # no spread
    assert area_intervals([0.1, 0.9], [0, 1], ["a", "a"]) == (None, None)
    assert area_intervals([0.1, 0.9], [1, 1], ["a", "b"]) == (None, None)
    assert sum_intervals([[1, 0], [0, 0]], share, ["a", "b"]) == [None]


def share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1:] > 0, sums[:, :1] / sums[:, 1:], np.nan)


def test_limits_of_a_share_are_those_of_its_mean():
    hits = np.random.default_rng(0).random(50) < 0.7
    patients = [str(i % 20) for i in range(50)]
    (ours,) = sum_intervals(np.stack([hits, np.ones(50)], axis=1), share, patients)
    assert ours == pytest.approx(mean_intervals(hits, patients)[0])


def test_a_mean_over_classes_lies_between_them():
    random = np.random.default_rng(2)
    truth = random.random((80, 2)) < 0.5
    scores = random.normal(size=(80, 2)) + truth * [2.0, 0.2]
    patients = np.arange(80).astype(str)
    good, poor, both = (area_intervals(scores[:, c], truth[:, c], patients)[0] for c in (0, 1, slice(None)))
    assert poor[0] < both[0] < good[0]
    assert poor[1] < both[1] < good[1]


def test_images_of_one_patient_are_drawn_together():
    random = np.random.default_rng(0)
    truth = np.repeat(random.random(20) < 0.5, 8)
    scores = np.repeat(random.normal(size=20), 8) + truth
    together, _ = area_intervals(scores, truth, [str(i // 8) for i in range(160)], resamples=500)
    apart, _ = area_intervals(scores, truth, [str(i) for i in range(160)], resamples=500)
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_the_auroc_is_covered_as_often_as_stated():
    # Normal scores one standard deviation apart: the true AUROC is Phi(1 / sqrt 2) = 0.7602.
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        truth = np.arange(80) < 40
        limits, _ = area_intervals(random.normal(size=80) + truth, truth, np.arange(80).astype(str), resamples=400)
        covered += limits[0] <= 0.7602 <= limits[1]
    assert 0.91 <= covered / 400 <= 0.98
