"""Affines: values worked by hand, laws, and what no image can have."""

from __future__ import annotations

from itertools import product

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg3d.errors import GeometryError
from medseg3d.geometry import check_affine, grid_distance_mm, lps_to_ras, orientation, spacing_mm, voxel_volume_ml


@st.composite
def affines(draw) -> np.ndarray:
    """Oblique, flipped, permuted and anisotropic affines of real scanners' sizes."""
    angles = [draw(st.floats(-40, 40)) for _ in range(3)]
    spacing = [draw(st.floats(0.3, 6.0)) for _ in range(3)]
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    order = list(draw(st.permutations(range(3))))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(signs)[:, order] * spacing
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


SHAPES = st.tuples(*[st.integers(1, 5)] * 3)


@given(affines())
def test_lps_ras_is_its_own_inverse(affine):
    np.testing.assert_array_equal(lps_to_ras(lps_to_ras(affine)), affine)


def test_lps_to_ras_negates_the_first_two_world_axes():
    affine = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(lps_to_ras(affine), affine * [[-1], [-1], [1], [1]])


@given(affines())
def test_spacing_is_the_length_of_a_step_along_each_axis(affine):
    steps = [np.linalg.norm(affine @ (*step, 1) - affine @ (0, 0, 0, 1)) for step in np.eye(3)]
    assert spacing_mm(affine) == pytest.approx(steps, rel=1e-6)
    assert spacing_mm(affine) == pytest.approx(nibabel.affines.voxel_sizes(affine))


@given(affines())
def test_volume_of_an_unsheared_voxel_is_the_product_of_its_spacing(affine):
    assert voxel_volume_ml(affine) == pytest.approx(np.prod(spacing_mm(affine)) / 1000)


def test_volume_of_a_sheared_voxel_is_base_times_height():
    # Gantry tilt by 30°: slices 4 mm apart along the table stand 4·cos 30° mm apart.
    tilted = np.diag([2.0, 2.0, 1.0, 1.0])
    tilted[:3, 2] = [0, 4 * np.sin(np.pi / 6), 4 * np.cos(np.pi / 6)]
    assert spacing_mm(tilted) == pytest.approx((2, 2, 4))
    assert voxel_volume_ml(tilted) == pytest.approx(2 * 2 * 4 * np.cos(np.pi / 6) / 1000)


@given(affines())
def test_orientation_agrees_with_nibabel(affine):
    assert orientation(affine) == "".join(nibabel.aff2axcodes(affine))


@pytest.mark.parametrize(
    ("axes", "letters"), [([(-1, 0, 0), (0, -1, 0), (0, 0, 1)], "LPS"), ([(0, 0, -1), (1, 0, 0), (0, 1, 0)], "IRA")]
)
def test_orientation_names_where_each_voxel_axis_goes(axes, letters):
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(axes)
    assert orientation(affine) == letters


@given(affines(), affines(), SHAPES)
def test_grid_distance_is_the_largest_over_all_voxels(first, second, shape):
    voxels = np.array([(*index, 1) for index in product(*map(range, shape))]).T
    largest = np.linalg.norm(((first - second) @ voxels)[:3], axis=0).max()
    assert grid_distance_mm(first, second, shape) == pytest.approx(largest, abs=1e-9)


@given(affines(), affines(), SHAPES)
def test_grid_distance_is_symmetric_and_zero_for_equal_grids(first, second, shape):
    assert grid_distance_mm(first, second, shape) == pytest.approx(grid_distance_mm(second, first, shape))
    assert grid_distance_mm(first, first, shape) == 0


def test_grid_distance_of_a_small_rotation_grows_with_the_grid():
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]]
    # A chord of 0.01 rad at the far corner of 101×101 voxels of 1 mm, 100·√2 mm away.
    assert grid_distance_mm(np.eye(4), turned, (101, 101, 1)) == pytest.approx(2 * 100 * 2**0.5 * np.sin(0.005))


def test_a_good_affine_comes_back_as_float64():
    checked = check_affine([[2, 0, 0, -1], [0, 2, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    assert checked.dtype == np.float64
    assert checked[0].tolist() == [2, 0, 0, -1]


def _with(position: tuple[int, int], value: float) -> np.ndarray:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[position] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "4×4 numbers, this one 3×3"),
        (5.0, "this one none"),
        (_with((0, 3), np.nan), "NaN or infinity: the image's header is damaged"),
        (_with((1, 1), np.inf), "NaN or infinity"),
        (_with((3, 0), 1.0), r"last row is \[1.0, 0.0, 0.0, 1.0\]"),
        (_with((2, 2), 0.0), r"singular \(axis lengths \[2.0, 2.0, 0.0\] mm\): no voxel has a volume"),
        (_with((2, 2), 0.0) + 2 * np.eye(4, k=2) * [0, 0, 1, 0], "singular"),
    ],
)
def test_impossible_affines_are_refused(affine, message):
    with pytest.raises(GeometryError, match=message):
        check_affine(affine)


@pytest.mark.parametrize("function", [spacing_mm, voxel_volume_ml, orientation])
def test_no_measure_is_taken_of_a_singular_affine(function):
    with pytest.raises(GeometryError, match="singular"):
        function(np.diag([1.0, 1.0, 0.0, 1.0]))
