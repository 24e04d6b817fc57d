"""Intervals over patients: scipy's own where each patient has one case, coverage where patients have several."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg3d.statistics import (
    FEW_PATIENTS,
    FEWEST_PATIENTS,
    Clusters,
    describe,
    few_patients,
    mean_intervals,
    mean_of_means_interval,
    median_intervals,
)
from medseg3d.statistics.describe import quantile

INF, NAN = math.inf, math.nan


def names(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(
    "draw",
    [lambda r: r.normal(5, 2, 25), lambda r: r.beta(8, 2, 40), lambda r: r.exponential(3, 60)],
    ids=["normal", "beta", "exponential"],
)
def test_one_case_a_patient_is_scipys_own_interval(draw, level):
    values = draw(np.random.default_rng(3))
    options = {"n_resamples": 2000, "confidence_level": level}
    mean = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), **options).confidence_interval
    median = stats.bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(0), **options
    ).confidence_interval
    # Patients are numbered in sorted order, so that scipy's draws are of the same cases.
    assert mean_intervals(values, names(len(values)), level=level) == [pytest.approx(tuple(mean))]
    # scipy blends two neighbouring draws; ours are drawn values, so that they may be infinite.
    distance = np.diff(np.sort(values)).max()
    assert median_intervals(values, names(len(values)), level=level) == [pytest.approx(tuple(median), abs=distance)]


def test_coverage_of_a_skewed_mean():
    rng = np.random.default_rng(11)
    truth, hits, studies = 3.0, 0, 300
    for _ in range(studies):
        low, high = mean_intervals(rng.gamma(3.0, 1.0, 40), names(40), resamples=500)[0]
        hits += low <= truth <= high
    assert 0.91 <= hits / studies <= 0.98


def test_coverage_with_several_cases_a_patient_needs_patients_to_be_drawn():
    """Five alike scans a patient: intervals over scans are far too narrow, those over patients are not."""
    rng = np.random.default_rng(12)
    patients = [name for name in names(30) for _ in range(5)]
    scans = [f"s{i}" for i in range(150)]
    hits, naive, studies = 0, 0, 200
    for _ in range(studies):
        values = np.repeat(rng.normal(0, 1, 30), 5) + rng.normal(0, 0.3, 150)
        (low, high), (low_scans, high_scans) = (mean_intervals(values, p, resamples=500)[0] for p in (patients, scans))
        hits += low <= 0 <= high
        naive += low_scans <= 0 <= high_scans
    assert 0.90 <= hits / studies <= 0.98
    assert naive / studies < 0.75


def test_coverage_of_a_median():
    rng = np.random.default_rng(13)
    truth, hits, studies = math.log(2), 0, 300
    for _ in range(studies):
        low, high = median_intervals(rng.exponential(1.0, 41), names(41), resamples=500)[0]
        hits += low <= truth <= high
    assert 0.92 <= hits / studies <= 0.99


def test_the_mean_is_over_cases_and_the_draws_are_of_patients():
    # a has three cases of 1, four others have one of 0: a drawn k times makes a mean of 3k / (3k + 5 - k).
    values, patients = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], list("aaabcde")
    low, high = mean_intervals(values, patients)[0]
    assert low == 0.0
    assert any(high == pytest.approx(3 * k / (5 + 2 * k)) for k in range(1, 6))
    summary = describe(values, patients)[0]
    assert (summary.mean, summary.n, summary.patients) == (pytest.approx(3 / 7), 7, 5)


def test_small_and_degenerate_columns():
    assert mean_intervals([0.9], ["a"]) == median_intervals([0.9], ["a"]) == [None]
    assert mean_intervals([0.9, 0.8], ["a", "a"]) == median_intervals([0.9, 0.8], ["a", "a"]) == [None]
    # Equal values: a median that most patients have is known well, a mean is not (a rate of 1 in 20 may be 0.9).
    assert mean_intervals([1.0] * 20, names(20)) == [None]
    assert mean_of_means_interval(np.ones((20, 2)), names(20)) is None
    assert median_intervals([0.9] * 5, names(5)) == [(0.9, 0.9)]
    assert mean_intervals([NAN, NAN], ["a", "b"]) == median_intervals([NAN, NAN], ["a", "b"]) == [None]
    assert mean_intervals([1.0, INF, 2.0, 3.0, 4.0], list("abcde")) == [None]
    assert median_intervals([1.0, 1.0, 2.0, INF, INF], list("abcde")) == [(1.0, INF)]


def test_few_patients_have_no_interval_or_one_with_a_warning():
    values = np.linspace(0.5, 0.9, 14)
    for n in range(1, 15):
        known = n >= FEWEST_PATIENTS
        table = np.column_stack([values[:n], values[:n] / 2])
        assert (mean_intervals(values[:n], names(n))[0] is not None) is known
        assert (median_intervals(values[:n], names(n))[0] is not None) is known
        assert (mean_of_means_interval(table, names(n)) is not None) is known
        assert few_patients(n).startswith(f"Few patients ({n})" if known else "Too few patients")
    assert few_patients(15) == ""


def test_coverage_falls_below_the_promise_where_patients_are_called_few():
    """The reason for the warning: with five patients about 15 % of 95 % intervals miss, with fifteen about 8 %."""
    rng = np.random.default_rng(14)

    def coverage(n: int) -> float:
        bounds = [mean_intervals(rng.normal(0, 1, n), names(n), resamples=300)[0] for _ in range(200)]
        return float(np.mean([low <= 0 <= high for low, high in bounds]))

    assert 0.75 < coverage(FEWEST_PATIENTS) < 0.9 < coverage(FEW_PATIENTS) < 0.98


def test_columns_do_not_disturb_each_other():
    rng = np.random.default_rng(5)
    table = rng.random((20, 4))
    table[3, 1] = NAN
    table[:5, 2] = INF
    table[:, 3] = 0.25
    patients = [f"p{i // 2}" for i in range(20)]
    together = mean_intervals(table, patients), median_intervals(table, patients)
    apart = [(mean_intervals(c, patients)[0], median_intervals(c, patients)[0]) for c in table.T]
    assert list(zip(*together, strict=True)) == apart
    assert together[0][2] is None
    assert (together[0][3], together[1][3]) == (None, (0.25, 0.25))


def test_a_patient_without_a_value_does_not_count():
    values = [0.1, 0.5, 0.9, 0.2, 0.3]
    assert mean_intervals([*values, NAN], list("abcdef")) == mean_intervals(values, list("abcde")) != [None]
    assert mean_intervals([*values[:4], NAN], list("abcde")) == [None]


def test_summary_by_hand():
    hd95_mm, dice = describe([[1.0, 0.5], [2.0, 0.7], [4.0, NAN], [INF, 0.0]], list("abcd"))
    assert (hd95_mm.n, hd95_mm.infinite, hd95_mm.undefined) == (4, 1, 0)
    assert (hd95_mm.median, hd95_mm.q1, hd95_mm.minimum, hd95_mm.maximum) == (3.0, 1.75, 1.0, INF)
    assert hd95_mm.q3 == INF
    assert math.isnan(hd95_mm.mean)
    assert math.isnan(hd95_mm.sd)
    assert hd95_mm.interval_mean is None
    assert (dice.n, dice.undefined, dice.mean) == (3, 1, pytest.approx(0.4))
    assert dice.sd == pytest.approx(np.std([0.5, 0.7, 0.0], ddof=1))
    one = describe([0.5], ["a"])[0]
    assert (one.mean, one.median, one.interval_mean) == (0.5, 0.5, None)
    assert math.isnan(one.sd)
    nothing = describe([NAN, NAN], ["a", "b"])[0]
    assert (nothing.n, nothing.undefined) == (0, 2)
    assert math.isnan(nothing.median)


def test_the_mean_distance_does_not_improve_by_missing_a_structure():
    honest = describe([2.0, 3.0, 40.0], list("abc"))[0]
    missing = describe([2.0, 3.0, INF], list("abc"))[0]
    assert missing.median >= honest.median
    assert missing.maximum > honest.maximum
    assert math.isnan(missing.mean)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_numpys_where_all_is_finite(values, q):
    assert quantile(np.sort(values), q) == pytest.approx(np.quantile(values, q), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1)), min_size=2, max_size=20), st.randoms())
def test_the_order_of_cases_does_not_matter(cases, random):
    def intervals(rows):
        patients, values = zip(*rows, strict=True)
        return [*mean_intervals(values, patients, resamples=99), *median_intervals(values, patients, resamples=99)]

    shuffled = random.sample(cases, len(cases))
    first, second = intervals(cases), intervals(shuffled)
    assert [x is None for x in first] == [x is None for x in second]
    for a, b in zip(first, second, strict=True):
        assert a is None or a == pytest.approx(b, abs=1e-6)


def test_patients_are_numbered_by_name():
    clusters = Clusters.of(["q", "a", "q"])
    assert (clusters.index.tolist(), clusters.size) == ([1, 0, 1], 2)
    assert clusters.sums(np.array([[1.0], [2.0], [3.0]])).tolist() == [[2.0], [4.0]]
