"""Counts over a data set: by hand, against scikit-learn and torchmetrics, and in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from medseg3d.errors import CaseError, GeometryError
from medseg3d.metrics import DatasetCounts, Region, as_regions, count_labels, score_labels

LAW = settings(max_examples=60, deadline=None)
LABEL_PAIRS = array_shapes(min_dims=3, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3), fill=st.integers(0, 3))] * 2)
)
REGIONS = as_regions({"one": 1, "two": 2, "three": 3, "whole": [1, 2, 3]})


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


def test_two_cases_by_hand():
    counts = DatasetCounts.empty(as_regions({"a": 1, "b": 2, "both": [2, 1], "never": 3}))
    counts = counts.add(labels(0, 1, 1, 2, 2), labels(1, 1, 0, 2, 1)).add(labels(1, 1, 1, 1), labels(1, 1, 1, 1))
    assert counts.ids == (1, 2, 3)
    assert counts.matrix.tolist() == [[0, 1, 0, 0], [1, 5, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert counts.iou == pytest.approx({"a": 5 / 8, "b": 1 / 2, "both": 7 / 9, "never": math.nan}, nan_ok=True)
    assert counts.dice == pytest.approx({"a": 10 / 13, "b": 2 / 3, "both": 14 / 16, "never": math.nan}, nan_ok=True)
    assert counts.miou == pytest.approx((5 / 8 + 1 / 2 + 7 / 9) / 3)


def test_accumulated_counts_are_not_the_mean_over_cases():
    small = labels(1, 0), labels(0, 0)
    large = labels(*[1] * 9), labels(*[1] * 9)
    counts = DatasetCounts.empty([Region("a", (1,))]).add(*small).add(*large)
    assert counts.dice["a"] == pytest.approx(18 / 19)
    assert (
        np.mean([score_labels(*c, regions=counts.regions, spacing_mm=(1, 1, 1))[0].dice for c in (small, large)]) == 0.5
    )


def test_ids_that_no_region_names_are_background():
    counts = count_labels(labels(1, 7, 255, 0), labels(7, 1, 255, 0), regions=[Region("a", (1,))])
    assert counts.matrix.tolist() == [[2, 1], [1, 0]]
    signed = np.array([-1, -2, 1, 300], np.int16).reshape(4, 1, 1)
    assert count_labels(signed, signed, regions=[Region("a", (1,))]).matrix.tolist() == [[3, 0], [0, 1]]


def test_an_id_beyond_the_type_of_the_label_map():
    counts = count_labels(labels(1, 0), labels(1, 1), regions=as_regions({"a": 1, "b": 300}))
    assert counts.matrix.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_nothing_counted():
    counts = DatasetCounts.empty(REGIONS)
    assert math.isnan(counts.miou)
    assert all(math.isnan(value) for value in counts.iou.values())
    assert DatasetCounts.empty([]).add(labels(1, 2), labels(0, 2)).matrix.tolist() == [[2]]


def test_counts_of_other_labels_do_not_add():
    with pytest.raises(ValueError, match="different labels"):
        DatasetCounts.empty(REGIONS) + DatasetCounts.empty(REGIONS[:1])


def test_what_is_no_pair_of_label_maps():
    with pytest.raises(GeometryError, match="differs from the prediction's"):
        count_labels(labels(1), labels(1, 2), regions=REGIONS)
    with pytest.raises(CaseError, match="float64, not integers"):
        count_labels(labels(1).astype(float), labels(1), regions=REGIONS)


@LAW
@given(LABEL_PAIRS, st.sampled_from("CF"))
def test_the_matrix_is_that_of_scikit_learn(pair, order):
    counts = count_labels(*(np.array(side, order=order) for side in pair), regions=REGIONS)
    assert (counts.matrix == confusion_matrix(*(side.ravel() for side in pair), labels=[0, 1, 2, 3])).all()
    assert counts.matrix.sum() == pair[0].size


@LAW
@given(LABEL_PAIRS)
def test_iou_is_that_of_torchmetrics(pair):
    counts = count_labels(*pair, regions=REGIONS)
    reference, prediction = (torch.from_numpy(side.astype(np.int64)) for side in pair)
    theirs = multiclass_jaccard_index(prediction, reference, num_classes=4, average=None)[1:]
    for value, expected in zip(list(counts.iou.values())[:3], theirs.tolist(), strict=True):
        assert (0.0 if math.isnan(value) else value) == pytest.approx(expected)


@LAW
@given(LABEL_PAIRS)
def test_counts_of_one_case_score_like_the_case(pair):
    counts = count_labels(*pair, regions=REGIONS)
    rows = score_labels(*pair, regions=REGIONS, spacing_mm=(1, 1, 1))
    assert counts.dice == pytest.approx({row.label: row.dice for row in rows}, nan_ok=True)
    assert counts.iou == pytest.approx({row.label: row.iou for row in rows}, nan_ok=True)


@LAW
@given(LABEL_PAIRS, LABEL_PAIRS)
def test_the_order_of_cases_and_how_they_are_shared_out_do_not_matter(first, second):
    apart = count_labels(*first, regions=REGIONS) + count_labels(*second, regions=REGIONS)
    summed = DatasetCounts.empty(REGIONS).add(*second).add(*first)
    assert (apart.matrix == summed.matrix).all()
