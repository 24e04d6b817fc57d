"""Overlap: by hand, against scikit-learn and MONAI, and where masks are empty."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.metrics import compute_dice
from sklearn.metrics import f1_score

from medseg3d.errors import GeometryError
from medseg3d.metrics import LabelOverlap, dice, label_overlaps

MASK_PAIRS = array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(lambda s: st.tuples(*[arrays(bool, s)] * 2))
LABEL_PAIRS = array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda s: st.tuples(*[arrays(np.uint8, s, elements=st.integers(0, 4))] * 2)
)


def cube(at: int) -> np.ndarray:
    mask = np.zeros((10, 10, 10), bool)
    mask[at : at + 4, 2:6, 2:6] = True
    return mask


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)])
def test_shifted_cubes(shift, expected):
    assert dice(cube(1), cube(1 + shift)) == expected


def test_a_cube_inside_another():
    inner = np.zeros((10, 10, 10), bool)
    inner[2:4, 2:4, 2:4] = True
    assert dice(cube(1), inner) == pytest.approx(2 * 8 / (64 + 8))


def test_the_empty_policy():
    empty = np.zeros((10, 10, 10), bool)
    assert math.isnan(dice(empty, empty))
    assert dice(cube(0), empty) == dice(empty, cube(0)) == 0


@pytest.mark.parametrize(
    ("counts", "status", "score"),
    [((4, 4, 3), "scored", 0.75), ((4, 2, 0), "scored", 0.0), ((4, 0, 0), "missed", 0.0), ((0, 2, 0), "spurious", 0.0)],
)
def test_status_names_the_empty_cases(counts, status, score):
    overlap = LabelOverlap(*counts)
    assert (overlap.status, overlap.dice) == (status, score)


def test_neither_has_the_label():
    overlap = LabelOverlap(0, 0, 0)
    assert overlap.status == "both_empty"
    assert math.isnan(overlap.dice)


@given(MASK_PAIRS)
def test_dice_agrees_with_scikit_learn_and_monai(masks):
    reference, prediction = masks
    score = dice(reference, prediction)
    oracle = f1_score(reference.ravel(), prediction.ravel(), zero_division=np.nan)
    assert score == pytest.approx(oracle, nan_ok=True)
    monai = compute_dice(*(torch.as_tensor(m)[None, None].float() for m in (prediction, reference)), ignore_empty=True)
    if reference.any():  # MONAI answers NaN where the reference alone is empty
        assert score == pytest.approx(float(monai))


@given(MASK_PAIRS)
def test_dice_is_symmetric_and_between_0_and_1(masks):
    forward, backward = dice(*masks), dice(*masks[::-1])
    assert forward == pytest.approx(backward, nan_ok=True)
    assert math.isnan(forward) or 0 <= forward <= 1


@given(LABEL_PAIRS, st.permutations([1, 2, 3, 4, 7]))
def test_counts_of_labels_equal_those_of_their_masks(maps, labels):
    reference, prediction = maps
    for label, overlap in zip(labels, label_overlaps(reference, prediction, labels), strict=True):
        in_reference, in_prediction = reference == label, prediction == label
        assert overlap == LabelOverlap(in_reference.sum(), in_prediction.sum(), (in_reference & in_prediction).sum())


@given(LABEL_PAIRS)
def test_counts_do_not_depend_on_the_order_of_voxels_or_on_types(maps):
    plain = label_overlaps(*maps, [1, 2, 3, 4])
    assert label_overlaps(*(m.transpose(2, 0, 1)[::-1] for m in maps), [1, 2, 3, 4]) == plain
    assert label_overlaps(maps[0].astype(np.int16), maps[1].astype(np.int32), [1, 2, 3, 4]) == plain


@pytest.mark.parametrize("measure", [dice, lambda a, b: label_overlaps(a.astype(int), b.astype(int), [1])])
def test_shapes_that_differ_are_refused_rather_than_broadcast(measure):
    with pytest.raises(GeometryError, match=r"reference's shape \(4, 1\) differs from the prediction's \(4, 3\)"):
        measure(np.ones((4, 1), bool), np.ones((4, 3), bool))
