"""Rows of one case: every measure by hand, empty masks, labels of one side, regions, grids, and other libraries."""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medseg3d.errors import CaseError, GeometryError, UsageError
from medseg3d.metrics import CaseScores, Region, as_regions, score_labels, surfel_distances, voxel_surface_distances

LABEL_PAIRS = array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3), fill=st.integers(0, 3))] * 2)
)
LAW = settings(max_examples=40, deadline=None)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
REGIONS = as_regions({"one": 1, "two": 2, "three": 3, "core": [2, 3], "whole": [1, 2, 3]})
DISTANCES = ("hd_mm", "hd95_mm", "hd95_weighted_mm", "assd_mm", "centre_distance_mm")
RATIOS = ("dice", "iou", "sensitivity", "precision", "specificity", "nsd", "relative_volume_difference")


def cube(label: int = 1, at: int = 2) -> np.ndarray:
    labels = np.zeros((20, 12, 12), np.uint8)
    labels[at : at + 8, 2:10, 2:10] = label
    return labels


def one(reference: np.ndarray, prediction: np.ndarray, **options: object) -> CaseScores:
    options = {"regions": [Region("organ", (1,))], "spacing_mm": (1.0, 1.0, 1.0)} | options
    (row,) = score_labels(reference, prediction, **options)
    return row


def same(first: CaseScores, second: CaseScores, *, rel: float = 1e-9) -> bool:
    fields = [f.name for f in dataclasses.fields(CaseScores) if f.type == "float"]
    return (first.label, first.ids, first.status) == (second.label, second.ids, second.status) and all(
        getattr(first, name) == pytest.approx(getattr(second, name), rel=rel, abs=1e-12, nan_ok=True) for name in fields
    )


# By hand.


def test_a_shifted_cube():
    row = one(cube(at=2), cube(at=4), spacing_mm=(1.5, 2.0, 0.5), tolerance_mm=2.5)
    assert (row.label, row.ids, row.status, row.nsd_tolerance_mm) == ("organ", (1,), "scored", 2.5)
    assert row.dice == row.sensitivity == row.precision == 0.75
    assert row.iou == pytest.approx(6 / 10)
    assert row.specificity == pytest.approx(1 - 128 / (20 * 12 * 12 - 512))
    assert row.volume_ml == row.reference_ml == pytest.approx(512 * 1.5 / 1000)
    assert row.volume_difference_ml == row.relative_volume_difference == 0.0
    assert row.hd_mm == row.centre_distance_mm == pytest.approx(3.0)
    # Each end face is 3 mm, or as far from the other's sides as it lies inside of them (0.5 mm steps along the last
    # axis: at most 1.75 mm): the surface that is 3 mm away is the face beyond the other cube, on either side.
    assert row.hd95_mm == pytest.approx(3.0)
    assert row.lesions is None


def test_volumes_that_differ():
    row = one(cube(), np.maximum(cube(at=2), cube(at=6)), spacing_mm=(1, 1, 5))
    assert (row.reference_ml, row.volume_ml) == (pytest.approx(2.56), pytest.approx(3.84))
    assert row.volume_difference_ml == pytest.approx(1.28)
    assert row.relative_volume_difference == pytest.approx(0.5)
    assert (row.sensitivity, row.precision) == (1.0, pytest.approx(2 / 3))
    assert row.centre_distance_mm == pytest.approx(2.0)


def test_one_voxel_each():
    reference, prediction = np.zeros((2, 5, 5, 5), int)
    reference[0, 0, 0] = prediction[3, 4, 0] = 1
    row = one(reference, prediction, spacing_mm=(1, 1, 7))
    assert row.hd_mm == row.hd95_mm == row.hd95_weighted_mm == row.assd_mm == row.centre_distance_mm == 5.0
    assert (row.dice, row.status) == (0.0, "scored")
    # Each voxel's four corners in the plane are (3, 4), (3, 3), (2, 4) and (2, 3) mm from the nearest of the other.
    for tolerance, share in ((5.0, 1.0), (4.9, 0.75), (4.3, 0.5), (4.0, 0.25), (3.6, 0.0)):
        assert one(reference, prediction, spacing_mm=(1, 1, 7), tolerance_mm=tolerance).nsd == pytest.approx(share)


@pytest.mark.parametrize("lesions", [False, True])
def test_the_policy_for_empty_masks(lesions):
    empty = np.zeros_like(cube())
    missed, spurious, neither = (
        one(*pair, lesions=lesions) for pair in ((cube(), empty), (empty, cube()), (empty, empty))
    )
    assert (missed.status, spurious.status, neither.status) == ("missed", "spurious", "both_empty")
    for row in (missed, spurious):
        assert row.dice == row.iou == row.nsd == 0.0
        assert all(getattr(row, name) == math.inf for name in DISTANCES)
    assert (missed.sensitivity, missed.specificity, missed.relative_volume_difference) == (0.0, 1.0, -1.0)
    assert math.isnan(missed.precision)
    assert spurious.precision == 0.0
    assert math.isnan(spurious.sensitivity)
    assert math.isnan(spurious.relative_volume_difference)
    assert (spurious.reference_ml, spurious.volume_ml, spurious.volume_difference_ml) == (0.0, 0.512, 0.512)
    assert all(math.isnan(getattr(neither, name)) for name in (*DISTANCES, *RATIOS))
    assert neither.volume_ml == neither.reference_ml == neither.volume_difference_ml == 0.0


def test_labels_of_one_side_and_labels_that_no_region_names():
    reference, prediction = cube(1), cube(2)
    reference[0, 0, 0] = 9
    rows = score_labels(reference, prediction, regions=as_regions({"a": 1, "b": 2, "c": 300}), spacing_mm=(1, 1, 1))
    assert [row.status for row in rows] == ["missed", "spurious", "both_empty"]
    assert [row.label for row in rows] == ["a", "b", "c"]


def test_a_region_is_its_labels_taken_together():
    reference, prediction = cube(1), cube(3)
    (row,) = score_labels(reference, prediction, regions=[Region("whole", (1, 2, 3))], spacing_mm=(1, 1, 1))
    assert (row.dice, row.hd_mm, row.ids) == (1.0, 0.0, (1, 2, 3))


def test_tolerances_by_name():
    rows = score_labels(
        np.maximum(cube(), 0), cube(at=4), regions=as_regions({"x": 1, "y": [1]}), spacing_mm=(1, 1, 1),
        tolerance_mm={"x": 1.0, "y": 2.0},
    )  # fmt: skip
    assert [row.nsd_tolerance_mm for row in rows] == [1.0, 2.0]
    assert rows[0].nsd < rows[1].nsd == 1.0


def test_one_slice_is_measured_as_a_picture():
    reference, prediction = np.zeros((2, 1, 30, 30), np.uint8)
    reference[0, 5:25, 5:25] = prediction[0, 5:25, 5:28] = 1
    row = one(reference, prediction, spacing_mm=(8.0, 1.0, 2.0), tolerance_mm=3.0)
    assert row.hd_mm == 6.0
    # The mean is over contours, not over all pixels of the slice: 76 and 82 of them.
    points = voxel_surface_distances(reference[0] > 0, prediction[0] > 0, spacing_mm=(1.0, 2.0))
    assert (points.reference_mm.size, points.prediction_mm.size) == (76, 82)
    assert row.assd_mm == points.mean_mm()
    assert row.nsd == surfel_distances(reference[0] > 0, prediction[0] > 0, spacing_mm=(1.0, 2.0)).overlap(3.0)
    assert row.reference_ml == pytest.approx(400 * 16 / 1000)


def test_lesions_lie_where_the_whole_volume_has_them():
    for order in "CF":
        reference, prediction = np.zeros((2, 20, 30, 40), np.uint8, order=order)
        reference[2:4, 10:13, 20:24] = prediction[2:4, 10:13, 20:24] = 1
        reference[10, 20, 30] = prediction[19, 29, 39] = 1
        found = one(np.array(reference, order=order), np.array(prediction, order=order), lesions=True).lesions
        assert found is not None
        assert [(x.kind, x.centre_ijk) for x in found.lesions] == [
            ("matched", (2.5, 11.0, 21.5)), ("missed", (10.0, 20.0, 30.0)), ("false_positive", (19.0, 29.0, 39.0)),
        ]  # fmt: skip
        assert [x.reference_ml for x in found.lesions] == pytest.approx([0.024, 0.001, 0.0])


# Against others.


@LAW
@given(LABEL_PAIRS, SPACINGS)
def test_overlaps_are_those_of_scikit_learn(pair, spacing):
    for row in score_labels(*pair, regions=REGIONS, spacing_mm=spacing):
        reference, prediction = (np.isin(labels, row.ids).ravel() for labels in pair)
        either = reference.any() or prediction.any()
        for name, measure in (("dice", f1_score), ("iou", jaccard_score)):
            expected = measure(reference, prediction) if either else math.nan
            assert getattr(row, name) == pytest.approx(expected, nan_ok=True)
        for name, measure in (("sensitivity", recall_score), ("precision", precision_score)):
            expected = measure(reference, prediction, zero_division=np.nan)
            assert getattr(row, name) == pytest.approx(expected, nan_ok=True)
        if either:
            expected = recall_score(~reference, ~prediction, zero_division=np.nan)
            assert row.specificity == pytest.approx(expected, nan_ok=True)


@LAW
@given(LABEL_PAIRS)
def test_overlaps_are_those_of_simpleitk(pair):
    images = [sitk.GetImageFromArray(labels) for labels in pair]
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(images[1], images[0])  # source: the prediction
    for row in score_labels(*pair, regions=REGIONS[:3], spacing_mm=(1, 1, 1)):
        if row.status == "scored":
            label = row.ids[0]
            assert row.dice == pytest.approx(measures.GetDiceCoefficient(label))
            assert row.iou == pytest.approx(measures.GetJaccardCoefficient(label))
            assert 1 - row.sensitivity == pytest.approx(measures.GetFalseNegativeError(label))


@LAW
@given(LABEL_PAIRS, SPACINGS)
def test_centroids_are_those_of_simpleitk(pair, spacing):
    shapes = []
    for labels in pair:
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(spacing[::-1])
        shapes.append(sitk.LabelShapeStatisticsImageFilter())
        shapes[-1].Execute(image)
    for row in score_labels(*pair, regions=REGIONS[:3], spacing_mm=spacing):
        if row.status == "scored":
            centres = [np.array(shape.GetCentroid(row.ids[0])) for shape in shapes]
            assert row.centre_distance_mm == pytest.approx(np.linalg.norm(centres[0] - centres[1]), abs=1e-9)
            assert row.reference_ml == pytest.approx(shapes[0].GetPhysicalSize(row.ids[0]) / 1000)


# Laws.


@LAW
@given(LABEL_PAIRS, SPACINGS)
def test_the_box_around_a_label_gives_what_the_whole_volume_gives(pair, spacing):
    for row in score_labels(*pair, regions=REGIONS, spacing_mm=spacing):
        if row.status == "scored":
            masks = [np.isin(labels, row.ids) for labels in pair]
            assert row.hd95_mm == pytest.approx(voxel_surface_distances(*masks, spacing_mm=spacing).hausdorff_mm(95))
            assert row.nsd == pytest.approx(surfel_distances(*masks, spacing_mm=spacing).overlap(2.0))


@LAW
@given(LABEL_PAIRS, SPACINGS, st.sampled_from(list(permutations(range(3)))), st.sets(st.integers(0, 2)))
def test_turning_the_volume_changes_nothing(pair, spacing, order, flipped):
    plain = score_labels(*pair, regions=REGIONS, spacing_mm=spacing)
    turned = [np.flip(labels.transpose(order), tuple(flipped)) for labels in pair]
    rows = score_labels(*turned, regions=REGIONS, spacing_mm=[spacing[axis] for axis in order])
    assert all(same(*rows) for rows in zip(plain, rows, strict=True))


@LAW
@given(LABEL_PAIRS, st.sampled_from(["?", "i1", "u2", ">i2", "i4", "u8"]), st.sampled_from("CF"))
def test_types_and_memory_order_change_nothing(pair, dtype, order):
    if dtype == "?":
        pair = tuple(np.minimum(labels, 1) for labels in pair)
    plain = score_labels(*pair, regions=REGIONS, spacing_mm=(1, 2, 3))
    other = [labels.astype(dtype, order=order) for labels in pair]
    rows = score_labels(*other, regions=REGIONS, spacing_mm=(1, 2, 3))
    assert all(same(*rows) for rows in zip(plain, rows, strict=True))


@LAW
@given(LABEL_PAIRS)
def test_swapping_the_sides_swaps_what_has_a_side(pair):
    forward = score_labels(*pair, regions=REGIONS, spacing_mm=(1, 2, 3))
    backward = score_labels(*pair[::-1], regions=REGIONS, spacing_mm=(1, 2, 3))
    for a, b in zip(forward, backward, strict=True):
        assert (a.sensitivity, a.volume_ml) == pytest.approx((b.precision, b.reference_ml), nan_ok=True)
        for name in ("dice", "iou", "nsd", *DISTANCES):
            assert getattr(a, name) == pytest.approx(getattr(b, name), nan_ok=True)


# Grids and usage.


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_an_oblique_affine_measures_like_its_spacing():
    affine = np.eye(4)
    affine[:3, :3] = rotation(20) @ np.roll(rotation(50), 1, (0, 1)) @ np.diag([1.5, -2.0, 0.5])
    affine[:3, 3] = (5, 7, -300)
    row = one(cube(), cube(at=4), spacing_mm=None, affine=affine)
    assert same(row, one(cube(), cube(at=4), spacing_mm=(1.5, 2.0, 0.5)))


def test_a_sheared_grid_is_refused():
    tilted = np.eye(4)
    tilted[1, 2] = np.tan(np.radians(12.5))  # a CT gantry tilted by 12.5°
    with pytest.raises(GeometryError, match=r"12\.50° off right angles.*Resample"):
        one(cube(), cube(), spacing_mm=None, affine=tilted)
    tilted[1, 2] = 1e-4  # rounding of a header
    assert one(cube(), cube(), spacing_mm=None, affine=tilted).dice == 1.0


@pytest.mark.parametrize(
    ("reference", "prediction", "error", "message"),
    [
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), GeometryError, r"\(2, 2, 2\) differs from .* \(2, 2, 3\)"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), GeometryError, "have 2 axes"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), CaseError, "reference holds float64, not integers"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), "f4"), CaseError, "prediction holds float32, not integers"),
    ],
)
def test_arrays_that_are_no_pair_of_label_maps(reference, prediction, error, message):
    with pytest.raises(error, match=message):
        one(reference, prediction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing_mm": None}, "either the affine or the spacing"),
        ({"affine": np.eye(4)}, "either the affine or the spacing"),
        ({"tolerance_mm": {"liver": 2.0}}, "organ needs an NSD tolerance of 0 mm or more; None was given"),
        ({"tolerance_mm": -1.0}, r"organ needs an NSD tolerance of 0 mm or more; -1\.0 was given"),
        ({"tolerance_mm": math.nan}, "nan was given"),
        ({"regions": as_regions({"a": 1}) * 2}, "Two regions have one name: a, a"),
    ],
)
def test_calls_that_mean_nothing(options, message):
    with pytest.raises(UsageError, match=message):
        one(cube(), cube(), **options)


def test_spacing_that_no_grid_has():
    with pytest.raises(GeometryError, match="singular"):
        one(cube(), cube(), spacing_mm=(1, 0, 1))


@pytest.mark.parametrize("ids", [(), (0,), (-1, 2), (3, 3)])
def test_ids_that_make_no_region(ids):
    with pytest.raises(UsageError, match="make no region"):
        Region("organ", ids)
