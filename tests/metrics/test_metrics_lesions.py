"""Lesions: matching by hand, components as SimpleITK finds them, and the laws of one-to-one matching."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg3d.errors import UsageError
from medseg3d.metrics import score_lesions

LAW = settings(max_examples=60, deadline=None)
MASK_PAIRS = array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=8).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape, elements=st.booleans(), fill=st.just(False))] * 2)
)


def row(*runs: tuple[int, int]) -> np.ndarray:
    """A mask of one row in which each (start, length) is a lesion."""
    mask = np.zeros((40, 1, 1), bool)
    for start, length in runs:
        mask[start : start + length] = True
    return mask


def kinds(found) -> list[str]:
    return [lesion.kind for lesion in found.lesions]


def test_one_found_one_missed_one_false():
    found = score_lesions(row((0, 4), (10, 4)), row((1, 4), (20, 2)), voxel_ml=0.5)
    assert (found.reference, found.predicted, found.detected, found.false_positives) == (2, 2, 1, 1)
    assert (found.sensitivity, found.precision, found.f1, found.dice) == (0.5, 0.5, 0.5, 0.75)
    assert kinds(found) == ["matched", "missed", "false_positive"]
    matched, missed, false_positive = found.lesions
    assert (matched.reference_ml, matched.predicted_ml, matched.centre_ijk) == (2.0, 2.0, (1.5, 0.0, 0.0))
    assert (missed.reference_ml, missed.predicted_ml, missed.dice, missed.centre_ijk) == (2.0, 0.0, 0.0, (11.5, 0, 0))
    assert (false_positive.reference_ml, false_positive.predicted_ml) == (0.0, 1.0)
    assert false_positive.centre_ijk == (20.5, 0.0, 0.0)


def test_of_two_predictions_in_one_lesion_the_better_one_matches():
    found = score_lesions(row((0, 10)), row((0, 3), (4, 6)), voxel_ml=1.0)
    assert (found.detected, found.false_positives) == (1, 1)
    assert found.lesions[0].dice == pytest.approx(2 * 6 / 16)
    assert found.lesions[1].predicted_ml == 3.0


def test_a_prediction_over_two_lesions_finds_one():
    found = score_lesions(row((0, 6), (7, 3)), row((0, 10)), voxel_ml=1.0)
    assert (found.detected, found.sensitivity, found.precision) == (1, 0.5, 1.0)
    assert kinds(found) == ["matched", "missed"]


def test_the_best_pair_is_taken_first():
    # The first prediction covers 6 of the first lesion's 8 voxels; the second has 2 there and all of the second lesion.
    reference, prediction = np.zeros((2, 3, 20, 1), bool)
    reference[0, 0:8] = reference[0, 10:14] = True
    prediction[0, 0:6] = True
    prediction[0, 7:14] = True
    found = score_lesions(reference, prediction, voxel_ml=1.0)
    assert found.detected == 2
    assert [lesion.dice for lesion in found.lesions] == pytest.approx([2 * 6 / 14, 2 * 4 / 11])


@pytest.mark.parametrize(("overlap", "detected"), [(0.1, 1), (0.25, 1), (0.26, 0), (1.0, 0)])
def test_the_threshold_belongs_to_what_counts(overlap, detected):
    # IoU of 2 / 8.
    assert score_lesions(row((0, 5)), row((3, 5)), voxel_ml=1.0, overlap=overlap).detected == detected


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity, lesions):
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 2, 2] = True  # over an edge, then over a corner
    assert score_lesions(mask, mask, voxel_ml=1.0, connectivity=connectivity).reference == lesions


def test_no_lesions():
    none, some = row(), row((0, 3), (5, 1))
    neither = score_lesions(none, none, voxel_ml=1.0)
    assert all(math.isnan(x) for x in (neither.sensitivity, neither.precision, neither.f1, neither.dice))
    assert neither.lesions == ()
    missed = score_lesions(some, none, voxel_ml=1.0)
    assert (missed.sensitivity, missed.f1, missed.reference, kinds(missed)) == (0.0, 0.0, 2, ["missed"] * 2)
    assert math.isnan(missed.precision)
    spurious = score_lesions(none, some, voxel_ml=1.0)
    assert (spurious.precision, spurious.f1, spurious.false_positives) == (0.0, 0.0, 2)
    assert math.isnan(spurious.sensitivity)


@pytest.mark.parametrize("options", [{"overlap": 1.1}, {"overlap": -0.1}, {"connectivity": 8}])
def test_options_that_mean_nothing(options):
    with pytest.raises(UsageError, match=rf"{next(iter(options.values()))} was given"):
        score_lesions(row((0, 1)), row(), voxel_ml=1.0, **options)


@LAW
@given(MASK_PAIRS)
def test_components_are_those_of_simpleitk(pair):
    found = score_lesions(*pair, voxel_ml=1.0)
    components = sitk.ConnectedComponentImageFilter()
    components.FullyConnectedOn()
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(components.Execute(sitk.GetImageFromArray(pair[0].astype(np.uint8))))
    theirs = [(shapes.GetPhysicalSize(n), shapes.GetCentroid(n)[::-1]) for n in shapes.GetLabels()]
    ours = [(x.reference_ml, x.centre_ijk) for x in found.lesions if x.kind != "false_positive"]
    assert np.array([[size, *centre] for size, centre in sorted(ours)]) == pytest.approx(
        np.array([[size, *centre] for size, centre in sorted(theirs)]), abs=1e-5
    )


@LAW
@given(MASK_PAIRS, st.sampled_from([0.05, 0.1, 0.5]))
def test_matches_are_one_to_one_by_falling_iou(pair, overlap):
    found = score_lesions(*pair, voxel_ml=1.0, overlap=overlap)
    sides = [ndimage.label(mask, np.ones((3, 3, 3))) for mask in pair]
    table = np.array(
        [
            [np.sum((sides[0][0] == i) & (sides[1][0] == j)) / np.sum((sides[0][0] == i) | (sides[1][0] == j))
             for j in range(1, sides[1][1] + 1)]
            for i in range(1, sides[0][1] + 1)
        ]
    ).reshape(sides[0][1], sides[1][1])  # fmt: skip
    candidates = table[table >= overlap]
    assume(len(set(candidates)) == candidates.size)  # who comes first of equal ones is anyone's choice
    expected = []
    while table.size and table.max() >= overlap:
        i, j = np.unravel_index(table.argmax(), table.shape)
        expected.append(table[i, j])
        table[i], table[:, j] = -1, -1
    assert (found.reference, found.predicted) == (sides[0][1], sides[1][1])
    ious = sorted((x.dice / (2 - x.dice) for x in found.lesions if x.kind == "matched"), reverse=True)
    assert ious == pytest.approx(expected)
    assert found.detected == len(ious)
    assert kinds(found).count("missed") == found.reference - found.detected
    assert kinds(found).count("false_positive") == found.false_positives == found.predicted - found.detected


@LAW
@given(MASK_PAIRS)
def test_a_higher_threshold_finds_no_more(pair):
    detected = [score_lesions(*pair, voxel_ml=1.0, overlap=x).detected for x in (0.01, 0.2, 0.5, 0.9)]
    assert all(more >= fewer for more, fewer in pairwise(detected))


@LAW
@given(MASK_PAIRS)
def test_a_mask_finds_all_its_own_lesions(pair):
    found = score_lesions(pair[0], pair[0], voxel_ml=1.0, overlap=1.0)
    assert found.detected == found.reference
    assert found.false_positives == 0
    assert all(lesion.dice == 1.0 for lesion in found.lesions)
