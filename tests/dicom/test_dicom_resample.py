"""Gaps, uneven spacing and tilt onto a regular grid: linear ramps stay exact, planes stay where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.dicom.resample import SliceLattice, plan_resampling, resampled
from medseg3d.errors import DicomError, GeometryError
from medseg3d.geometry import lps_to_ras

SPACING = (0.7, 1.3)


def lattice(depths, *, tilt_mm_per_mm: float = 0.0, columns: int = 12, rows: int = 16) -> SliceLattice:
    """Axial slices at these depths; a tilt moves each along the columns by its share of the depth."""
    depths = np.asarray(depths, float)
    origins = np.stack([np.full_like(depths, 5), -20 + tilt_mm_per_mm * depths, 100 + depths], axis=1)
    return SliceLattice(columns, rows, SPACING, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), origins)


def sampled(where: SliceLattice, function):
    """Slices (i, j) of a function of the LPS position."""
    i, j = np.meshgrid(np.arange(where.columns), np.arange(where.rows), indexing="ij")
    for origin in where.origins_lps:
        yield function(
            origin
            + i[..., None] * SPACING[0] * np.asarray(where.row_lps)
            + j[..., None] * SPACING[1] * np.asarray(where.column_lps)
        )


def on_grid(plan, function):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in plan.shape), indexing="ij"), axis=-1)
    affine = lps_to_ras(plan.affine_ras)
    return function(index @ affine[:3, :3].T + affine[:3, 3])


def volume(plan, slices, **options):
    return np.stack(list(resampled(slices, plan, **options)), axis=-1)


def ramp(position):
    return position @ np.array([3.0, -2.0, 7.0]) + 11.0


def inside(plan, where: SliceLattice):
    """Voxels of the new grid between the first and the last centre of the slice that reaches them."""
    seen = volume(plan, sampled(where, lambda p: np.ones(p.shape[:2])), fill=0.0) > 0
    for axis, size in ((0, where.columns), (1, where.rows)):
        for k, source in enumerate(plan.sources):
            index = np.arange(plan.shape[axis]) - source.shift_voxels[axis]
            outside = (index < -1e-9) | (index > size - 1 + 1e-9)
            seen[:, :, k][(outside, slice(None)) if axis == 0 else (slice(None), outside)] = False
    return seen


def test_one_missing_slice_is_the_mean_of_its_neighbours_and_the_others_are_untouched():
    where = lattice([0, 2.5, 7.5, 10])
    planes = [np.full((12, 16), value, np.int16) for value in (10, 20, 41, 50)]
    plan = plan_resampling(where)
    assert plan.shape == (12, 16, 5)
    assert plan.step_mm == pytest.approx(2.5)
    assert (plan.largest_gap_mm, plan.copied, plan.tilt_degrees) == (5.0, 4, 0.0)
    new = volume(plan, planes)
    assert new.dtype == np.int16
    assert new[0, 0].tolist() == [10, 20, 30, 41, 50]  # 30.5 rounded to even
    assert plan.affine_ras.round(6).tolist() == [[-0.7, 0, 0, -5], [0, -1.3, 0, 20], [0, 0, 2.5, 100], [0, 0, 0, 1]]


def test_uneven_slices_keep_the_first_and_the_last_place():
    plan = plan_resampling(lattice([0, 2, 4.4, 6, 8.2]))
    assert plan.shape[2] == 5
    assert plan.step_mm == pytest.approx(2.05)
    assert plan.largest_gap_mm == pytest.approx(2.4)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.floats(0.8, 4.0), min_size=1, max_size=9),
    tilt=st.floats(-0.6, 0.6),
)
def test_a_ramp_stays_exact_whatever_the_spacing_and_the_tilt(steps, tilt):
    where = lattice(np.cumsum([0, *steps]), tilt_mm_per_mm=tilt)
    plan = plan_resampling(where)
    known = inside(plan, where)
    new = volume(plan, sampled(where, ramp), fill=np.nan)
    # A slice that is copied may lie a hundredth of a voxel off: 7 per mm along z, 2.6 per voxel along j.
    tolerance = 0.01 * (7 * max(steps) + 2 * SPACING[1]) + 1e-6
    assert known.any()
    np.testing.assert_allclose(new[known], on_grid(plan, ramp)[known], atol=tolerance)


def test_an_upright_wall_under_a_tilted_gantry_is_upright_again():
    def wall(position):  # everything behind y = -12 mm
        return np.where(position[..., 1] > -12.0, 1000, 0).astype(np.int16)

    where = lattice(np.arange(0, 12, 2.0), tilt_mm_per_mm=np.tan(np.deg2rad(20)), rows=24)
    plan = plan_resampling(where)
    assert plan.tilt_degrees == pytest.approx(20.0)
    assert plan.largest_gap_mm == 0.0
    tilted = np.stack(list(sampled(where, wall)), axis=-1)
    edges = (tilted[0] > 500).argmax(axis=0)
    assert edges[0] - edges[-1] == 3  # 10 mm at 20 degrees are 3.6 mm, 2.8 voxels
    new = volume(plan, sampled(where, wall), fill=-1)
    seen = new[0] != -1
    edges = [(new[0, :, k] > 500)[seen[:, k]].argmax() + seen[:, k].argmax() for k in range(plan.shape[2])]
    affine = lps_to_ras(plan.affine_ras)
    for edge in edges:  # first voxel behind the wall, to half a voxel of interpolation
        assert affine[1, 3] + edge * SPACING[1] == pytest.approx(-12.0, abs=SPACING[1])
    assert np.ptp(edges) <= 1


def test_nothing_is_cut_off_by_a_tilt_and_what_no_slice_reaches_is_filled():
    where = lattice([0, 2, 4], tilt_mm_per_mm=1.3)  # two voxels a slice
    plan = plan_resampling(where)
    assert plan.shape == (12, 20, 3)
    planes = [np.full((12, 16), value, np.int16) for value in (1, 2, 3)]
    new = volume(plan, planes, fill=-1024)
    assert new[0, :, 0].tolist() == [1] * 16 + [-1024] * 4
    assert new[0, :, 2].tolist() == [-1024] * 4 + [3] * 16
    below = volume(plan_resampling(lattice([0, 2, 4], tilt_mm_per_mm=-1.3)), planes, fill=0)
    assert below[0, :, 0].tolist() == [0] * 4 + [1] * 16


def test_labels_are_never_mixed():
    plan = plan_resampling(lattice([0, 2, 4, 10, 12], tilt_mm_per_mm=0.3))
    planes = [np.full((12, 16), value, np.uint8) for value in (0, 4, 4, 9, 9)]
    new = volume(plan, planes, mode="nearest")
    assert new.dtype == np.uint8
    assert set(np.unique(new).tolist()) == {0, 4, 9}
    assert new[0, 8].tolist() == [0, 4, 4, 4, 9, 9, 9]


def test_a_gap_beyond_the_limit_is_refused_unless_asked_for():
    where = lattice([0, 3, 6, 21, 24])
    with pytest.raises(DicomError, match=r"Between slices 3 and 4 lie 15\.0 mm, between others 3\.00 mm; up to 10 mm"):
        plan_resampling(where)
    assert plan_resampling(where, max_gap_mm=15).shape[2] == 9
    assert plan_resampling(lattice([0, 12, 24], tilt_mm_per_mm=0.1)).shape[2] == 3  # far apart, but evenly


@pytest.mark.parametrize("depths", [[0], [0, 2, 2, 4], [0, 2, 1]])
def test_what_is_no_lattice_is_refused(depths):
    with pytest.raises(GeometryError, match="two slices at least"):
        plan_resampling(lattice(depths))
