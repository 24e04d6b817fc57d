"""Masks on the grid of their series: every order and direction of the axes, and what is refused."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.orient import to_series_grid
from medseg3d.errors import GeometryError

TURNS = [
    np.array([(axis, flip) for axis, flip in zip(axes, flips, strict=True)])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def make_grid(shape=(4, 5, 6), spacing=(0.8, 0.9, 3.0), angles=(0.0, 0.0, 0.0)) -> SeriesGrid:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = (-120.5, 33.25, 801.0)
    return SeriesGrid(shape, affine, "1.2.3", "1.2.3.4", "1.2.3.5")


@given(
    st.sampled_from(TURNS),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.sampled_from((0.5, 1.0, 5.0))] * 3),
)
def test_any_order_and_direction_of_axes_comes_back(turn, angles, spacing):
    grid = make_grid(spacing=spacing, angles=angles)
    voxels = np.arange(120).reshape(grid.shape)
    # nibabel is the oracle: it turns the voxels and gives the affine that belongs to them.
    turned = nibabel.Nifti1Image(voxels.astype(np.int16), grid.affine_ras).as_reoriented(turn)
    np.testing.assert_array_equal(to_series_grid(np.asarray(turned.dataobj), turned.affine, grid), voxels)


def test_one_turn_worked_by_hand():
    grid = SeriesGrid((2, 3, 1), np.eye(4), "1", "2", "3")
    # The mask's first axis runs against the grid's second one: mask (a, b, 0) is grid (b, 2 - a, 0).
    affine = np.array([[0, 1, 0, 0], [-1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]])
    mask = np.array([[1, 2], [3, 4], [5, 6]])[:, :, None]
    np.testing.assert_array_equal(to_series_grid(mask, affine, grid)[..., 0], [[5, 3, 1], [6, 4, 2]])


def test_rounding_of_headers_is_not_a_difference():
    grid = make_grid(shape=(512, 512, 300), angles=(3, 4, 5))
    rounded = grid.affine_ras.astype(np.float32).astype(np.float64)
    voxels = np.broadcast_to(np.uint8(0), grid.shape)
    assert to_series_grid(voxels, rounded, grid).shape == grid.shape


def test_a_shifted_mask_is_refused_with_its_distance():
    grid = make_grid()
    affine = grid.affine_ras.copy()
    affine[2, 3] += 3.0
    with pytest.raises(
        GeometryError, match=r"up to 3\.00 mm away .*tolerance 0\.05 mm.*Make the mask from this series"
    ):
        to_series_grid(np.zeros(grid.shape), affine, grid)


def test_another_number_of_slices_is_refused_with_both():
    grid = make_grid()
    with pytest.raises(GeometryError, match=r"Mask: 4×5×7 voxels of 0\.8 × 0\.9 × 3 mm; series: 4×5×6 voxels"):
        to_series_grid(np.zeros((4, 5, 7)), grid.affine_ras, grid)


@pytest.mark.parametrize("change", [np.diag([2.0, 1, 1, 1]), np.diag([1.0, 1, 0.5, 1])])
def test_another_spacing_is_refused(change):
    grid = make_grid()
    with pytest.raises(GeometryError, match="axes are not those of the series"):
        to_series_grid(np.zeros(grid.shape), grid.affine_ras @ change, grid)


def test_another_angle_is_refused():
    with pytest.raises(GeometryError, match="axes are not those of the series"):
        to_series_grid(np.zeros((4, 5, 6)), make_grid(angles=(30, 0, 0)).affine_ras, make_grid())


def test_a_small_difference_of_spacing_is_judged_in_millimetres():
    grid = make_grid()
    affine = grid.affine_ras @ np.diag([1.0, 1.0, 1.02, 1.0])
    with pytest.raises(GeometryError, match=r"up to 0\.30 mm away"):  # 5 steps of 3 mm, 2 % too long
        to_series_grid(np.zeros(grid.shape), affine, grid)


def test_four_axes_are_refused():
    with pytest.raises(GeometryError, match=r"4 axes \(4×5×6×2 voxels\)"):
        to_series_grid(np.zeros((4, 5, 6, 2)), make_grid().affine_ras, make_grid())
