"""Paired tests, Holm's adjustment and ranks: scipy, hand values, and infinite distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medseg3d.statistics import holm, mean_intervals, paired_test, rank_methods

INF, NAN = math.inf, math.nan


def names(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


@pytest.mark.parametrize("n", [8, 30, 80])
def test_one_case_a_patient_is_scipys_wilcoxon(n):
    rng = np.random.default_rng(n)
    a, b = rng.beta(8, 2, n), rng.beta(7, 2, n)
    test = paired_test(a, b, names(n))
    assert test.p == pytest.approx(stats.wilcoxon(a, b).pvalue, rel=1e-12)
    assert (test.n, test.patients, test.status) == (n, n, "tested")
    assert test.difference == pytest.approx(a.mean() - b.mean())
    assert [test.interval] == mean_intervals(a - b, names(n))


def test_differences_of_zero_are_ranked_after_pratt():
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5])
    b = np.array([0.8, 0.6, 0.4, 0.8, 0.5, 0.5, 0.5, 0.5])
    assert paired_test(a, b, names(8)).p == pytest.approx(
        stats.wilcoxon(np.round(a - b, 9), zero_method="pratt").pvalue
    )
    assert paired_test(a, b, names(8)).ties == 4


def test_cases_of_a_patient_are_averaged_before_the_test():
    rng = np.random.default_rng(2)
    a, b = rng.random((12, 3)), rng.random((12, 3))
    patients = [name for name in names(12) for _ in range(3)]
    test = paired_test(a.ravel(), b.ravel(), patients)
    assert test.p == pytest.approx(stats.wilcoxon((a - b).mean(axis=1)).pvalue, rel=1e-12)
    assert (test.n, test.patients) == (36, 12)


def test_an_infinite_difference_is_the_greatest_one():
    finite = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    test = paired_test([*finite, INF], [*np.zeros(7), 0.0], names(8))
    assert test.p == stats.wilcoxon([*finite, 1000.0]).pvalue
    assert math.isnan(test.difference)
    assert test.interval is None
    assert (test.median_difference, test.infinite, test.greater_a) == (4.5, 1, 8)


def test_two_misses_do_not_differ():
    test = paired_test([INF, 1.0], [INF, 2.0], ["a", "b"])
    assert (test.ties, test.greater_b, test.infinite) == (1, 1, 1)


def test_misses_of_one_patient_on_both_sides_cancel():
    test = paired_test([INF, 1.0, 1.0], [1.0, INF, 1.0], ["a", "a", "b"])
    assert (test.p, test.status) == (1.0, "equal")


def test_what_cannot_be_tested_says_so():
    assert paired_test([0.5, 0.6], [0.5, 0.6], ["a", "b"]).status == "equal"
    assert paired_test([0.5, 0.6], [0.5, 0.6], ["a", "b"]).p == 1.0
    few = paired_test([0.9] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], list("abcde"))
    assert (few.status, few.p) == ("too_few", 0.0625)
    none = paired_test([NAN, 0.5], [0.5, NAN], ["a", "b"])
    assert (none.status, none.n, none.undefined) == ("none", 0, 2)
    assert math.isnan(none.p)


def test_the_p_value_keeps_its_promise():
    """Two methods that do not differ: at most about 5 % of studies find a difference at 0.05."""
    rng = np.random.default_rng(8)
    found = [paired_test(rng.random(20), rng.random(20), names(20), resamples=20).p < 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(found) <= 0.08


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04, which is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([0.01, NAN, 0.04]) == pytest.approx([0.02, NAN, 0.04], nan_ok=True)
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (adjusted <= np.minimum(np.array(p_values) * len(p_values), 1.0) + 1e-12).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_ranks_by_hand():
    # Rows: ranks (1, 2, 3), (1, 2.5, 2.5), (3, 1, 2).
    ranking = rank_methods([[0.9, 0.8, 0.7], [0.9, 0.5, 0.5], [0.1, 0.9, 0.5]], ["a", "b", "c"], higher_is_better=True)
    assert ranking.mean_rank == pytest.approx([5 / 3, 5.5 / 3, 7.5 / 3])
    assert ranking.rank_share.shape == (3, 3)
    assert ranking.rank_share.sum(axis=1) == pytest.approx([1, 1, 1])
    assert ranking.rank_share[0, 0] > ranking.rank_share[2, 0]


def test_an_infinite_distance_ranks_last_and_nan_is_left_out():
    ranking = rank_methods([[INF, 3.0], [1.0, 2.0], [NAN, 1.0]], ["a", "b", "c"], higher_is_better=False)
    assert ranking.rows == 2
    assert ranking.mean_rank == pytest.approx([1.5, 1.5])
    nothing = rank_methods([[NAN, 1.0]], ["a"], higher_is_better=False)
    assert nothing.rows == 0
    assert np.isnan(nothing.mean_rank).all()


def test_a_method_that_always_wins_is_first_in_every_draw():
    values = np.random.default_rng(0).random((30, 1)) + np.array([[0.0, 1.0, 2.0]])
    share = rank_methods(values, names(30), higher_is_better=False).rank_share
    assert share.tolist() == np.eye(3).tolist()
