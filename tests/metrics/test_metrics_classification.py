"""Rates and curves against hand-worked counts and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.errors import UsageError
from medseg3d.metrics.classification import (
    auprc,
    auroc,
    choose_threshold,
    confusion_matrix,
    precision_recall_curve,
    rates_at,
    roc_curve,
    threshold_table,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
TRUTH = np.array([1, 1, 0, 1, 0, 1, 0, 0])


@st.composite
def answers(draw):
    """Scores with ties, and a truth that has both classes."""
    n = draw(st.integers(2, 40))
    scores = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), min_size=n, max_size=n))
    truth = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda t: any(t) and not all(t)))
    return np.array(scores), np.array(truth)


def test_rates_by_hand():
    rates = rates_at(SCORES, TRUTH, 0.5)
    counts = (rates.true_positives, rates.false_positives, rates.true_negatives, rates.false_negatives)
    assert counts == (3, 1, 3, 1)
    assert (rates.sensitivity, rates.specificity, rates.ppv, rates.npv) == (0.75, 0.75, 0.75, 0.75)
    assert rates.accuracy == rates.balanced_accuracy == rates.f1 == 0.75


def test_a_score_equal_to_the_threshold_is_positive():
    assert rates_at([0.5], [1], 0.5).true_positives == 1


def test_rates_without_cases_are_undefined_not_zero():
    rates = rates_at([0.1, 0.2], [0, 0], 0.5)
    assert math.isnan(rates.sensitivity)
    assert math.isnan(rates.ppv)
    assert math.isnan(rates.f1)
    assert rates.specificity == 1.0


@given(answers())
def test_rates_agree_with_scikit_learn(answer):
    scores, truth = answer
    rates, called = rates_at(scores, truth, 0.5), scores >= 0.5
    assert rates.accuracy == pytest.approx(sklearn.metrics.accuracy_score(truth, called))
    assert rates.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, called))
    assert rates.sensitivity == pytest.approx(sklearn.metrics.recall_score(truth, called))
    assert rates.f1 == pytest.approx(sklearn.metrics.f1_score(truth, called))
    if called.any():
        assert rates.ppv == pytest.approx(sklearn.metrics.precision_score(truth, called))


@given(answers())
def test_auroc_is_the_share_of_pairs_in_order(answer):
    scores, truth = answer
    pairs = scores[truth][:, None] - scores[~truth][None]
    assert auroc(scores, truth) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


@given(answers())
def test_the_curves_enclose_their_areas(answer):
    scores, truth = answer
    roc = roc_curve(scores, truth)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(auroc(scores, truth))
    pr = precision_recall_curve(scores, truth)
    steps = np.diff(pr.x, prepend=0.0)
    assert np.sum(steps * pr.y) == pytest.approx(auprc(scores, truth))
    for threshold, recall, precision in zip(pr.thresholds, pr.x, pr.y, strict=True):
        rates = rates_at(scores, truth, threshold)
        assert (rates.sensitivity, rates.ppv) == (pytest.approx(recall), pytest.approx(precision))


def test_one_class_alone_has_no_area():
    assert math.isnan(auroc([0.1, 0.9], [1, 1]))
    assert math.isnan(auprc([0.1, 0.9], [0, 0]))
    assert len(roc_curve([0.1], [1]).x) == len(precision_recall_curve([0.1], [1]).x) == 0


def test_operating_points_by_hand():
    # Three of four positives need 0.6, at which one of four negatives is called.
    assert choose_threshold(SCORES, TRUTH, sensitivity=0.75) == 0.6
    # No false call at 0.8 and above; 0.8 finds more than 0.9.
    assert choose_threshold(SCORES, TRUTH, specificity=1.0) == 0.8
    assert choose_threshold(SCORES, TRUTH) in (0.8, 0.6)


@given(answers(), st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_an_operating_point_keeps_its_promise_and_is_the_best_that_does(answer, wanted):
    scores, truth = answer
    table = [rates_at(scores, truth, t) for t in [*np.unique(scores), np.inf]]
    chosen = rates_at(scores, truth, choose_threshold(scores, truth, sensitivity=wanted))
    assert chosen.sensitivity >= wanted - 1e-9
    assert chosen.specificity == max(r.specificity for r in table if r.sensitivity >= wanted - 1e-9)
    chosen = rates_at(scores, truth, choose_threshold(scores, truth, specificity=wanted))
    assert chosen.specificity >= wanted - 1e-9
    assert chosen.sensitivity == max(r.sensitivity for r in table if r.specificity >= wanted - 1e-9)


def test_an_impossible_operating_point_is_refused():
    with pytest.raises(UsageError, match="not both"):
        choose_threshold(SCORES, TRUTH, sensitivity=0.9, specificity=0.9)
    with pytest.raises(UsageError, match="specificity of the operating point is 90"):
        choose_threshold(SCORES, TRUTH, specificity=90)
    with pytest.raises(UsageError, match="all positive or all negative"):
        choose_threshold([0.5, 0.6], [1, 1])


def test_the_threshold_table_goes_from_all_to_few():
    table = threshold_table(SCORES, TRUTH)
    assert [r.threshold for r in table[:3]] == [0.0, 0.05, 0.1]
    assert table[0].sensitivity == 1.0
    assert table[-1].specificity == 1.0


def test_confusion_has_the_truth_in_rows():
    matrix = confusion_matrix(["cat", "cat", "dog"], ["cat", "dog", "dog"], ["dog", "cat", "bird"])
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
