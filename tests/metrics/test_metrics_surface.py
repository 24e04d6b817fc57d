"""Distances between surfaces: by hand, against MONAI, surface-distance and SimpleITK, and the laws of distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance as sd
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medseg3d.metrics import surface, surfel_distances, voxel_surface_distances
from medseg3d.metrics.surface import REACH, TIE_MM

# Dense and sparse noise: touching borders, single voxels, far-away pieces, all or almost nothing set.
MASK_PAIRS = array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=9).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape, elements=st.booleans(), fill=st.booleans())] * 2)
)
LAW = settings(max_examples=40, deadline=None)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
NEITHER_EMPTY = MASK_PAIRS.filter(lambda pair: pair[0].any() and pair[1].any())

# MONAI interpolates between ranks in float32: rank 282.05 of 300 is known to about 2e-5 of a step.
RANK_ROUNDING = 2e-5


def box(*corner: int, size: tuple[int, int, int] = (4, 4, 4), shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + n) for start, n in zip(corner, size, strict=True))] = True
    return mask


def blobs(seed: int, *, shape: tuple[int, int, int] = (24, 20, 16)) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random mask, cut by the border, and the same with another level and noise."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    other = field + 0.4 * ndimage.gaussian_filter(np.random.default_rng(seed + 1000).standard_normal(shape), 1)
    return field > 0.02, other > 0.03


def as_monai(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


# By hand.


@pytest.mark.parametrize(("shift", "spacing"), [(1, (1, 1, 1)), (2, (1, 1, 3)), (5, (0.5, 2, 1)), (9, (2, 1, 1))])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cube_and_its_shifted_copy(shift, spacing, axis):
    moved = np.roll(box(2, 2, 2), shift, axis)
    for distances in (voxel_surface_distances, surfel_distances):
        found = distances(box(2, 2, 2), moved, spacing_mm=spacing)
        assert found.hausdorff_mm() == pytest.approx(shift * spacing[axis])


def test_two_voxels_with_anisotropic_spacing():
    found = voxel_surface_distances(box(1, 1, 1, size=(1, 1, 1)), box(4, 5, 1, size=(1, 1, 1)), spacing_mm=(2, 2, 9))
    assert found.hausdorff_mm() == found.hausdorff_mm(95) == found.mean_mm() == pytest.approx(10.0)
    assert found.reference_mm.tolist() == found.prediction_mm.tolist() == pytest.approx([10.0])


def test_directed_percentiles_and_mean_of_a_row_with_one_outlier():
    # Reference: 20 voxels in a row. Prediction: the same and one voxel 10 mm beyond the end.
    reference = box(0, 0, 0, size=(20, 1, 1), shape=(40, 1, 1))
    prediction = reference | box(29, 0, 0, size=(1, 1, 1), shape=(40, 1, 1))
    found = voxel_surface_distances(reference, prediction, spacing_mm=(1, 1, 1))
    assert found.hausdorff_mm() == 10.0
    # Of the 21 distances of the prediction, sorted, rank 0.95·20 = 19 is the last 0; pooled it would be 0 too.
    assert found.hausdorff_mm(95) == 0.0
    # Rank 0.98·20 = 19.6 lies 0.6 of the way from 0 to 10.
    assert found.hausdorff_mm(98) == pytest.approx(6.0)
    assert found.mean_mm() == pytest.approx(10 / 41)


def test_the_greater_of_two_directed_percentiles_not_that_of_the_pooled_distances():
    # All ten voxels of the reference have the prediction at 0 mm; of the prediction's twenty the last lies 10 mm off.
    reference = box(0, 0, 0, size=(10, 1, 1), shape=(30, 1, 1))
    prediction = box(0, 0, 0, size=(20, 1, 1), shape=(30, 1, 1))
    found = voxel_surface_distances(reference, prediction, spacing_mm=(1, 1, 1))
    assert np.sort(found.prediction_mm).tolist() == [0.0] * 10 + list(range(1, 11))
    # Rank 0.95·19 = 18.05 of 0, …, 10 is 9.05; of all thirty distances rank 0.95·29 = 27.55 would be 8.55.
    assert found.hausdorff_mm(95) == pytest.approx(9.05)


def box_area(i: int, j: int, k: int) -> float:
    """Surface of a box of voxels by marching cubes: flat points on faces, √½ on edges, √3/8 at corners."""
    i, j, k = i - 1, j - 1, k - 1
    return 2 * (i * j + j * k + i * k) + 4 * (i + j + k) * math.sqrt(0.5) + math.sqrt(3)


def test_overlap_counts_surface_area_within_the_tolerance():
    # Slabs from border to border, the prediction 3 mm thicker to one side.
    shape = (30, 20, 20)
    thin, thick = box(10, 0, 0, size=(4, 20, 20), shape=shape), box(10, 0, 0, size=(7, 20, 20), shape=shape)
    found = surfel_distances(thin, thick, spacing_mm=(1, 1, 1))
    assert found.reference_weight.sum() == pytest.approx(box_area(4, 20, 20))
    assert found.prediction_weight.sum() == pytest.approx(box_area(7, 20, 20))
    # The prediction's whole outer face is 3 mm off; of the reference's, what is 3 mm or more from the slab's rim.
    far = (19 * 19 + 4 * 19 * math.sqrt(0.5) + math.sqrt(3) / 2) + 15 * 15
    assert found.overlap(2.5) == pytest.approx(1 - far / (box_area(4, 20, 20) + box_area(7, 20, 20)))
    assert found.overlap(3.0) == 1.0


def test_a_tie_with_the_tolerance_is_within_it():
    spacing = np.float32(0.7)  # 0.699999988 or 0.70000005 mm in headers; twice it is not 1.4 in binary either way
    found = surfel_distances(box(2, 2, 2), box(4, 2, 2), spacing_mm=(float(spacing) + 2e-8, 0.7, 0.7))
    assert found.reference_mm.max() > 1.4
    assert found.overlap(1.4) == 1.0
    assert found.overlap(1.4 - 2 * TIE_MM) < 1.0


def test_outside_the_array_is_background():
    full = np.ones((5, 6, 7), bool)
    inner = np.pad(np.ones((3, 4, 5), bool), 1)
    found = voxel_surface_distances(full, inner, spacing_mm=(1, 1, 1))
    assert found.reference_mm.size == full.size - inner.sum()
    assert found.hausdorff_mm() == pytest.approx(math.sqrt(3))
    cut = voxel_surface_distances(box(0, 0, 0), box(1, 0, 0), spacing_mm=(1, 1, 1))
    assert cut.hausdorff_mm() == 1.0


@LAW
@given(NEITHER_EMPTY, SPACINGS)
def test_room_around_the_masks_changes_nothing(pair, spacing):
    for distances in (voxel_surface_distances, surfel_distances):
        tight = distances(*pair, spacing_mm=spacing)
        roomy = distances(*(np.pad(mask, 3) for mask in pair), spacing_mm=spacing)
        for name in ("reference_mm", "prediction_mm", "reference_weight", "prediction_weight"):
            assert getattr(tight, name) == pytest.approx(getattr(roomy, name), rel=1e-6)  # float32 in one


def test_one_empty_mask_is_infinitely_far_and_two_are_undefined():
    empty = np.zeros((16, 16, 16), bool)
    for distances in (voxel_surface_distances, surfel_distances):
        for pair in ((empty, box(2, 2, 2)), (box(2, 2, 2), empty)):
            found = distances(*pair, spacing_mm=(1, 1, 1))
            measures = found.hausdorff_mm(), found.hausdorff_mm(95), found.weighted_hausdorff_mm(), found.mean_mm()
            assert measures == (math.inf,) * 4
            assert found.overlap(5.0) == 0.0
        found = distances(empty, empty, spacing_mm=(1, 1, 1))
        assert math.isnan(found.hausdorff_mm())
        assert math.isnan(found.weighted_hausdorff_mm())
        assert math.isnan(found.mean_mm())
        assert math.isnan(found.overlap(5.0))


# Against others.


@LAW
@given(NEITHER_EMPTY, SPACINGS)
def test_point_wise_measures_are_those_of_monai(pair, spacing):
    found = voxel_surface_distances(*pair, spacing_mm=spacing)
    tensors = as_monai(pair[1]), as_monai(pair[0])
    options = {"include_background": True, "spacing": spacing}
    assert found.hausdorff_mm() == pytest.approx(float(compute_hausdorff_distance(*tensors, **options)), rel=1e-5)
    hd95 = float(compute_hausdorff_distance(*tensors, percentile=95, **options))
    assert found.hausdorff_mm(95) == pytest.approx(hd95, rel=1e-5, abs=RANK_ROUNDING * found.hausdorff_mm())
    mean = float(compute_average_surface_distance(*tensors, symmetric=True, **options))
    assert found.mean_mm() == pytest.approx(mean, rel=1e-5, abs=1e-6)


@LAW
@given(NEITHER_EMPTY, SPACINGS, st.floats(0.1, 6.0))
def test_weighted_measures_are_those_of_surface_distance(pair, spacing, tolerance):
    found = surfel_distances(*pair, spacing_mm=spacing)
    theirs = sd.compute_surface_distances(*pair, spacing)
    assert np.sort(found.reference_mm) == pytest.approx(theirs["distances_gt_to_pred"])
    assert np.sort(found.prediction_mm) == pytest.approx(theirs["distances_pred_to_gt"])
    distances = np.concatenate((found.reference_mm, found.prediction_mm))
    assume((np.abs(distances - tolerance) > 2 * TIE_MM).all())
    assert found.overlap(tolerance) == pytest.approx(sd.compute_surface_dice_at_tolerance(theirs, tolerance))


@pytest.mark.parametrize("seed", range(6))
def test_measures_of_smooth_masks_are_those_of_monai_and_surface_distance(seed):
    pair, spacing = blobs(seed), (0.9, 1.3, 2.5)
    points, area = (d(*pair, spacing_mm=spacing) for d in (voxel_surface_distances, surfel_distances))
    theirs = sd.compute_surface_distances(*pair, spacing)
    tensors, options = (as_monai(pair[1]), as_monai(pair[0])), {"include_background": True, "spacing": spacing}
    for percentile in (50, 95, 100):
        weighted = sd.compute_robust_hausdorff(theirs, percentile)
        assert area.weighted_hausdorff_mm(percentile) == pytest.approx(weighted)
        monai = compute_hausdorff_distance(*tensors, percentile=percentile, **options)
        assert points.hausdorff_mm(percentile) == pytest.approx(float(monai), rel=1e-5)
    for tolerance in (0.5, 1.0, 2.0, 4.0):
        assert area.overlap(tolerance) == pytest.approx(sd.compute_surface_dice_at_tolerance(theirs, tolerance))
        monai = compute_surface_dice(*tensors, [tolerance], use_subvoxels=True, **options)
        assert area.overlap(tolerance) == pytest.approx(float(monai), abs=1e-6)
        monai = compute_surface_dice(*tensors, [tolerance], **options)
        assert points.overlap(tolerance) == pytest.approx(float(monai), abs=1e-6)


@LAW
@given(arrays(bool, (7, 9)), arrays(bool, (7, 9)), st.tuples(st.floats(0.3, 5.0), st.floats(0.3, 5.0)))
def test_pictures_have_contours(reference, prediction, spacing):
    assume(reference.any() and prediction.any())
    found = surfel_distances(reference, prediction, spacing_mm=spacing)
    theirs = sd.compute_surface_distances(reference, prediction, spacing)
    assert np.sort(found.reference_mm) == pytest.approx(theirs["distances_gt_to_pred"])
    assert found.reference_weight.sum() == pytest.approx(theirs["surfel_areas_gt"].sum())
    points = voxel_surface_distances(reference, prediction, spacing_mm=spacing)
    tensors = as_monai(prediction), as_monai(reference)
    monai = compute_hausdorff_distance(*tensors, include_background=True, spacing=spacing, percentile=95)
    assert points.hausdorff_mm(95) == pytest.approx(float(monai), rel=1e-5, abs=RANK_ROUNDING * points.hausdorff_mm())


@LAW
@given(NEITHER_EMPTY, SPACINGS)
def test_hausdorff_distance_of_the_surfaces_is_that_of_simpleitk(pair, spacing):
    # ITK measures between sets of voxels: given the surfaces themselves, its sets are the ones meant here.
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in pair]
    images = [sitk.GetImageFromArray(surface.astype(np.uint8)) for surface in surfaces]
    for image in images:
        image.SetSpacing(spacing[::-1])
    filter_ = sitk.HausdorffDistanceImageFilter()
    filter_.Execute(*images)
    found = voxel_surface_distances(*pair, spacing_mm=spacing)
    assert found.hausdorff_mm() == pytest.approx(filter_.GetHausdorffDistance(), rel=1e-5)


# Laws.


@LAW
@given(NEITHER_EMPTY, SPACINGS)
def test_every_distance_is_that_of_an_exhaustive_search(pair, spacing):
    found = voxel_surface_distances(*pair, spacing_mm=spacing)
    reference, prediction = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.array(spacing) for mask in pair)
    distances = np.linalg.norm(reference[:, None] - prediction[None], axis=-1)
    assert found.reference_mm == pytest.approx(distances.min(axis=1))
    assert found.prediction_mm == pytest.approx(distances.min(axis=0))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.4, 0.4, 5), (5, 0.4, 1), (1, 3.9, 4.1)])
@pytest.mark.parametrize("gap", range(2 * REACH + 2))
def test_near_and_far_are_searched_alike(gap, spacing):
    # One point beside many, from within the reach of the search around a point to beyond it, on and off the axes.
    size = 2 * REACH + 3
    for step in np.ndindex(2, 2, 2):
        a = box(0, 0, 0, size=(1, 1, 1), shape=(size,) * 3)
        b = box(*(gap * s for s in step), size=(1, 1, 1), shape=(size,) * 3)
        expected = np.linalg.norm(gap * np.array(step) * spacing)
        assert voxel_surface_distances(a, b, spacing_mm=spacing).hausdorff_mm() == pytest.approx(expected)


@pytest.mark.parametrize("dense", [0.0, 1.0])
@pytest.mark.parametrize("first_look", [0, 10_000])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.1)])
def test_every_way_of_searching_finds_the_same(monkeypatch, dense, first_look, spacing):
    monkeypatch.setattr(surface, "DENSE", dense)
    monkeypatch.setattr(surface, "FEW", 0)
    monkeypatch.setattr(surface, "FIRST_LOOK", first_look)
    noise = np.random.default_rng(0).random((30, 20, 12)) < 0.4
    reference, prediction = noise & (np.arange(30) < 16)[:, None, None], box(20, 4, 2, shape=noise.shape)
    found = voxel_surface_distances(reference, prediction, spacing_mm=spacing)
    for mask, other, distances in (
        (reference, prediction, found.reference_mm),
        (prediction, reference, found.prediction_mm),
    ):
        points, goals = (m & ~ndimage.binary_erosion(m) for m in (mask, other))
        assert distances == pytest.approx(ndimage.distance_transform_edt(~goals, sampling=spacing)[points], rel=1e-6)


@LAW
@given(NEITHER_EMPTY, SPACINGS)
def test_measures_are_symmetric_and_ordered(pair, spacing):
    for distances in (voxel_surface_distances, surfel_distances):
        forward, backward = distances(*pair, spacing_mm=spacing), distances(*pair[::-1], spacing_mm=spacing)
        assert forward.hausdorff_mm(95) == backward.hausdorff_mm(95)
        assert forward.overlap(2.0) == pytest.approx(backward.overlap(2.0))
        assert 0 <= forward.mean_mm() <= forward.hausdorff_mm() * (1 + 1e-12)
        assert forward.hausdorff_mm(95) <= forward.hausdorff_mm()
        assert forward.weighted_hausdorff_mm() <= forward.hausdorff_mm()
        assert forward.overlap(forward.hausdorff_mm()) == pytest.approx(1.0)
        assert forward.overlap(1.0) <= forward.overlap(2.0)


@LAW
@given(NEITHER_EMPTY, SPACINGS, st.floats(0.5, 3.0))
def test_a_grid_twice_as_coarse_in_mm_has_distances_twice_as_long(pair, spacing, factor):
    found = surfel_distances(*pair, spacing_mm=spacing)
    scaled = surfel_distances(*pair, spacing_mm=[factor * s for s in spacing])
    assert scaled.reference_mm == pytest.approx(factor * found.reference_mm)
    assert scaled.reference_weight == pytest.approx(factor**2 * found.reference_weight)


@LAW
@given(NEITHER_EMPTY)
def test_a_mask_is_at_no_distance_from_itself(pair):
    for distances in (voxel_surface_distances, surfel_distances):
        found = distances(pair[0], pair[0], spacing_mm=(1, 2, 3))
        assert found.hausdorff_mm() == found.mean_mm() == 0.0
        assert found.overlap(0.0) == 1.0
