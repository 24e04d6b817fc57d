"""Calibration: by hand, against scikit-learn and torchmetrics, and added up over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

from medseg3d.errors import CaseError, GeometryError
from medseg3d.metrics import calibration
from medseg3d.metrics.calibration import PART_SIZE

LAW = settings(max_examples=60, deadline=None)
# Sixteenths are exact in binary, so bins of a sixteenth mean the same to everyone.
CASES = st.integers(1, 60).flatmap(
    lambda n: st.tuples(arrays(np.float32, n, elements=st.integers(0, 64).map(lambda k: k / 64)), arrays(bool, n))
)


def test_four_voxels_in_two_bins():
    found = calibration(np.array([0.2, 0.4, 0.6, 1.0]), np.array([0, 1, 1, 1], bool), bins=2)
    low, high = found.bins
    assert (low.low, low.high, low.n, low.frequency) == (0.0, 0.5, 2, 0.5)
    assert (high.low, high.high, high.n, high.frequency) == (0.5, 1.0, 2, 1.0)
    assert (low.confidence, high.confidence) == pytest.approx((0.3, 0.8))
    assert found.ece == pytest.approx((2 * 0.2 + 2 * 0.2) / 4)
    assert found.brier == pytest.approx((0.2**2 + 0.6**2 + 0.4**2 + 0) / 4)


def test_a_prophet_and_a_coin():
    truth = np.tile([True, False], 50)
    assert (calibration(truth.astype(float), truth).ece, calibration(truth.astype(float), truth).brier) == (0.0, 0.0)
    coin = calibration(np.full(100, 0.5), truth)
    assert (coin.ece, coin.brier) == (0.0, 0.25)


def test_an_edge_belongs_to_the_bin_above_it():
    assert [b.n for b in calibration(np.array([0.0, 0.5, 1.0]), np.zeros(3, bool), bins=2).bins] == [1, 2]


def test_a_probability_of_1_is_in_the_last_bin():
    # Bins of a half: (0.75 + 1.0) against one hit of two voxels.
    assert calibration(np.array([0.75, 1.0]), np.array([True, False]), bins=2).ece == pytest.approx(0.75 / 2)


def test_empty_bins_and_no_voxels_are_undefined():
    empty = calibration(np.array([]), np.array([], bool), bins=3)
    assert math.isnan(empty.ece)
    assert math.isnan(empty.brier)
    assert all(b.n == 0 and math.isnan(b.confidence) and math.isnan(b.frequency) for b in empty.bins)


def test_large_volumes_are_counted_in_parts():
    volume = np.linspace(0, 1, 2 * PART_SIZE + 7, dtype=np.float32)
    found = calibration(volume, volume > 0.5, bins=4)
    assert found.n.sum() == volume.size
    assert found.brier == pytest.approx(1 / 12, rel=1e-4)  # the mean square of min(p, 1 - p), uniform on 0 to ½


@pytest.mark.parametrize("values", [[-0.01, 0.5], [0.5, 7.3], [math.nan, 0.5]])
def test_what_is_no_probability(values):
    with pytest.raises(CaseError, match="not logits"):
        calibration(np.array(values), np.array([True, False]))


def test_rounding_outside_0_to_1_is_put_back():
    assert calibration(np.array([-1e-6, 1 + 1e-6], np.float32), np.array([False, True])).brier == 0.0


def test_shapes_and_bins_that_differ():
    with pytest.raises(GeometryError, match="differs from the prediction's"):
        calibration(np.zeros(3), np.zeros(4, bool))
    with pytest.raises(ValueError, match="3 and in 4 bins"):
        calibration(np.zeros(3), np.zeros(3, bool), bins=3) + calibration(np.zeros(3), np.zeros(3, bool), bins=4)


@LAW
@given(CASES)
def test_measures_are_those_of_torchmetrics_and_scikit_learn(case):
    probability, truth = case
    found = calibration(probability, truth, bins=16)
    below = probability < 1  # torchmetrics gives 1.0 a bin of its own
    if below.any():
        tensors = torch.from_numpy(probability[below]), torch.from_numpy(truth[below].astype(int))
        theirs = float(binary_calibration_error(*tensors, n_bins=16, norm="l1"))
        assert calibration(probability[below], truth[below], bins=16).ece == pytest.approx(theirs, abs=1e-6)
    assert found.brier == pytest.approx(brier_score_loss(truth, probability, pos_label=True))
    inside = probability * 16 % 1 != 0  # scikit-learn's edges belong to the bin below them
    if inside.any():
        frequency, confidence = calibration_curve(truth[inside], probability[inside], n_bins=16)
        bins = [b for b in calibration(probability[inside], truth[inside], bins=16).bins if b.n]
        assert [b.frequency for b in bins] == pytest.approx(frequency)
        assert [b.confidence for b in bins] == pytest.approx(confidence)


@LAW
@given(CASES, CASES)
def test_cases_add_up(first, second):
    together = calibration(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))
    added = calibration(*first) + calibration(*second)
    assert (added.n == together.n).all()
    assert (added.ece, added.brier) == pytest.approx((together.ece, together.brier))
