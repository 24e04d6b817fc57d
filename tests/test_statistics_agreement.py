"""Agreement of volumes against the worked examples of the papers that define the measures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg3d.statistics import bland_altman, icc_agreement
from medseg3d.statistics.agreement import icc

# Shrout and Fleiss 1979, table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
# Bland and Altman 1986, table: peak expiratory flow, first readings of two meters (l/min).
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def names(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


def test_icc_of_shrout_and_fleiss():
    result = icc(SHROUT_FLEISS)
    assert result.value == pytest.approx(0.29, abs=0.005)
    assert result.interval == pytest.approx((0.019, 0.761), abs=0.0005)


def test_bland_altman_of_1986():
    agreement = bland_altman(WRIGHT, MINI, names(17))
    assert agreement.n == 17
    assert agreement.bias == pytest.approx(-2.1, abs=0.05)
    assert agreement.sd == pytest.approx(38.8, abs=0.05)
    assert agreement.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    # The paper takes 2 and √3 where this takes 1.96 and √(1 + 1.96²/2 · n/(n - 1)): -79.7 ± 34.6 and 75.5 ± 34.6.
    assert agreement.limits == pytest.approx((-79.7, 75.5), abs=1.7)
    assert agreement.lower_interval == pytest.approx((-114.3, -45.1), abs=2.0)
    assert agreement.upper_interval == pytest.approx((40.9, 110.1), abs=2.0)


def test_equal_constant_and_single_volumes():
    assert icc_agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], list("abc")).interval == (1.0, 1.0)
    constant = icc_agreement([2.0, 2.0], [2.0, 2.0], ["a", "b"])
    assert math.isnan(constant.value)
    assert constant.interval is None
    single = icc_agreement([2.0], [3.0], ["a"])
    assert math.isnan(single.value)
    assert bland_altman([2.0], [3.0], ["a"]).bias == -1.0
    assert bland_altman([2.0], [3.0], ["a"]).bias_interval is None
    same = bland_altman([2.0, 5.0], [2.0, 5.0], ["a", "b"])
    assert same.limits == same.bias_interval == (0.0, 0.0)


def test_a_constant_shift_costs_agreement():
    rng = np.random.default_rng(0)
    volume = rng.uniform(2, 4, 40)
    assert icc_agreement(volume, volume + 1.0, names(40)).value < 0.5  # correlation would be 1
    assert bland_altman(volume + 1.0, volume, names(40)).bias == pytest.approx(1.0)


def test_several_cases_a_patient_widen_the_intervals():
    """Ten scans of each patient, all off alike, say no more than ten patients do."""
    rng = np.random.default_rng(4)
    reference, error = rng.uniform(2, 4, 10), rng.normal(0, 0.3, 10)
    first, second = np.repeat(reference + error, 10), np.repeat(reference, 10)
    patients = [name for name in names(10) for _ in range(10)]
    clustered, naive = bland_altman(first, second, patients), bland_altman(first, second, names(100))
    once = bland_altman(reference + error, reference, names(10))
    assert clustered.bias == pytest.approx(naive.bias)
    widths = [np.ptp(agreement.bias_interval) for agreement in (clustered, naive, once)]
    assert widths[0] > 2 * widths[1]
    assert widths[0] == pytest.approx(widths[2], rel=0.35)
    icc_clustered = icc_agreement(first, second, patients).interval
    icc_naive = icc_agreement(first, second, names(100)).interval
    assert np.ptp(icc_clustered) > np.ptp(icc_naive)


def test_the_interval_of_the_icc_covers():
    """Two raters with unit noise and unit spread of the raters' means: simulated from the model of the interval."""
    rng = np.random.default_rng(6)
    truth, hits, studies = 4.0 / (4.0 + 0.25 + 1.0), 0, 400
    for _ in range(studies):
        table = rng.normal(0, 2, (30, 1)) + rng.normal(0, 0.5, (1, 2)) + rng.normal(0, 1, (30, 2))
        low, high = icc(table).interval
        hits += low <= truth <= high
    assert 0.91 <= hits / studies <= 0.99
