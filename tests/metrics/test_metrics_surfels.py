"""Areas of surface elements: by hand, against DeepMind's table, and the laws of geometry."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from surface_distance import lookup_tables

from medseg3d.metrics.surfels import neighbour_codes, surfel_sizes

LAW = settings(max_examples=40, deadline=None)
SPACINGS = st.tuples(*[st.floats(0.2, 8.0)] * 3)
CUBES = arrays(bool, (2, 2, 2))


def code_of(cube: np.ndarray) -> int:
    return int(neighbour_codes(cube).item())


@LAW
@given(SPACINGS)
def test_areas_are_those_of_surface_distance(spacing):
    assert surfel_sizes(spacing) == pytest.approx(
        lookup_tables.create_table_neighbour_code_to_surface_area(spacing), rel=1e-12
    )


@LAW
@given(SPACINGS)
def test_lengths_are_those_of_surface_distance(spacing):
    assert surfel_sizes(spacing[:2]) == pytest.approx(
        lookup_tables.create_table_neighbour_code_to_contour_length(spacing[:2]), rel=1e-12
    )


@LAW
@given(CUBES, SPACINGS)
def test_inside_and_outside_have_one_area(cube, spacing):
    sizes = surfel_sizes(spacing)
    assert sizes[code_of(cube)] == pytest.approx(sizes[code_of(~cube)], rel=1e-12)


@LAW
@given(CUBES, SPACINGS, st.sampled_from(list(permutations(range(3)))), st.sets(st.integers(0, 2)))
def test_turning_and_mirroring_changes_no_area(cube, spacing, order, flipped):
    turned = np.flip(cube.transpose(order), tuple(flipped))
    before = surfel_sizes(spacing)[code_of(cube)]
    assert surfel_sizes([spacing[axis] for axis in order])[code_of(turned)] == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize(("axis", "area"), [(0, 4.0 * 5.0), (1, 3.0 * 5.0), (2, 3.0 * 4.0)])
def test_a_plane_between_voxels_has_their_cross_section(axis, area):
    cube = np.zeros((2, 2, 2), bool)
    np.moveaxis(cube, axis, 0)[0] = True
    assert surfel_sizes((3.0, 4.0, 5.0))[code_of(cube)] == pytest.approx(area)


def test_a_corner_is_cut_off_by_a_triangle():
    cube = np.zeros((2, 2, 2), bool)
    cube[0, 0, 0] = True
    # Through (1, 0, 0), (0, 2, 0) and (0, 0, 3): half of |(-1, 2, 0) × (-1, 0, 3)| = |(6, 3, 2)| / 2.
    assert surfel_sizes((2.0, 4.0, 6.0))[code_of(cube)] == pytest.approx(3.5)


def test_an_l_of_three_corners_is_cut_into_a_triangle_and_a_trapezium():
    cube = np.zeros((2, 2, 2), bool)
    cube[0, 0, 0] = cube[1, 0, 0] = cube[0, 1, 0] = True
    trapezium = (np.sqrt(2) + np.sqrt(0.5)) / 2 * np.sqrt(0.375)
    assert surfel_sizes((1.0, 1.0, 1.0))[code_of(cube)] == pytest.approx(0.5 + trapezium)


def test_the_surface_of_a_box_is_its_faces_with_edges_and_corners_cut():
    mask = np.zeros((8, 8, 8), bool)
    mask[2:6, 2:6, 2:6] = True
    # Around 4³ voxels lie 6·3² points on faces, 12·3 on edges (each √½) and 8 on corners (each √3/8).
    expected = 6 * 9 + 36 * np.sqrt(0.5) + 8 * np.sqrt(3) / 8
    assert surfel_sizes((1.0, 1.0, 1.0))[neighbour_codes(mask)].sum() == pytest.approx(expected)


def test_the_surface_of_a_ball_is_near_its_own():
    radius = 20.3
    squared = sum(axis**2 for axis in np.ogrid[-24:25, -24:25, -24:25])
    area = surfel_sizes((1.0, 1.0, 1.0))[neighbour_codes(squared < radius**2)].sum()
    # Marching cubes of a binary mask overestimates a curved surface by several per cent; counting faces does by 50 %.
    assert 1.0 < area / (4 * np.pi * radius**2) < 1.12


@LAW
@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=5)))
def test_codes_are_read_from_the_eight_voxels_around(mask):
    codes = neighbour_codes(mask)
    assert codes.shape == tuple(n - 1 for n in mask.shape)
    for i, j, k in np.ndindex(codes.shape):
        bits = mask[i : i + 2, j : j + 2, k : k + 2].ravel()
        assert codes[i, j, k] == int("".join("01"[bit] for bit in bits.astype(int)), 2)
