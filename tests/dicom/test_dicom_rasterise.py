"""The even-odd rule at pixel centres: worked by hand, against exact fractions, and its laws."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.dicom.crossings import crossing_polygons, first_equal, has_channel
from medseg3d.dicom.rasterise import LIMIT_PIXELS, STEPS, fill_even_odd, fill_winding, to_lattice

# Halves and quarters make centres on edges and vertices common.
coordinates = st.integers(-8, 40).map(lambda n: n / 4)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8)


def pixels(*rings: list[tuple[float, float]], shape: tuple[int, int] = (9, 9)) -> np.ndarray:
    return fill_even_odd([to_lattice(ring) for ring in rings], shape)


def inside_by_fractions(ring: list[tuple[float, float]], i: int, j: int) -> bool:
    """One centre against every edge in exact arithmetic: crossings at or left of it."""
    inside = False
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        if (y0 <= j) != (y1 <= j):
            x = Fraction(x0) + (j - Fraction(y0)) * (Fraction(x1) - Fraction(x0)) / (Fraction(y1) - Fraction(y0))
            inside ^= x <= i
    return inside


@given(polygons)
@settings(max_examples=200, deadline=None)
def test_it_agrees_with_exact_fractions_also_where_centres_lie_on_edges(ring):
    expected = [[inside_by_fractions(ring, i, j) for j in range(9)] for i in range(9)]
    np.testing.assert_array_equal(pixels(ring), expected)


@given(polygons, st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_start_and_direction_do_not_matter(ring, turn):
    turned = ring[turn % len(ring) :] + ring[: turn % len(ring)]
    np.testing.assert_array_equal(pixels(turned[::-1]), pixels(ring))


@given(polygons, polygons)
@settings(max_examples=50, deadline=None)
def test_two_polygons_are_the_exclusive_or_of_each(first, second):
    np.testing.assert_array_equal(pixels(first, second), pixels(first) ^ pixels(second))


@given(st.tuples(coordinates, coordinates), polygons)
@settings(max_examples=100, deadline=None)
def test_triangles_that_fan_out_from_a_point_tile_the_polygon(apex, ring):
    fan = [[apex, a, b] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    np.testing.assert_array_equal(np.bitwise_xor.reduce([pixels(t) for t in fan]), pixels(ring))


def test_a_centre_on_an_edge_belongs_to_the_side_of_greater_index():
    square = [(1, 1), (3, 1), (3, 3), (1, 3)]
    assert np.argwhere(pixels(square)).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    beside = [(3, 1), (5, 1), (5, 3), (3, 3)]
    assert not (pixels(square) & pixels(beside)).any()
    np.testing.assert_array_equal(pixels(square) | pixels(beside), pixels([(1, 1), (5, 1), (5, 3), (1, 3)]))


def test_a_vertex_that_misses_a_centre_by_rounding_lies_on_it():
    noise = 1e-9
    square = [(1 + noise, 1 - noise), (3 - noise, 1 + noise), (3 + noise, 3 + noise), (1 - noise, 3 - noise)]
    np.testing.assert_array_equal(pixels(square), pixels([(1, 1), (3, 1), (3, 3), (1, 3)]))


def test_a_polygon_beyond_the_image_is_cut_at_its_border():
    assert pixels([(-5, -5), (20, -5), (20, 20), (-5, 20)], shape=(4, 3)).all()
    assert not pixels([(-5, -5), (-1, -5), (-1, 20), (-5, 20)], shape=(4, 3)).any()
    assert not pixels([(5, -5), (9, -5), (9, 20), (5, 20)], shape=(4, 3)).any()


def test_edges_across_the_largest_image_are_exact():
    # A line from corner to corner passes exactly through the centres of its diagonal.
    size = LIMIT_PIXELS
    triangle = to_lattice([(-size, -size), (size, size), (-size, size)])
    assert np.argwhere(fill_even_odd([triangle], (3, 3))).tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("point", [(np.nan, 0), (np.inf, 0), (LIMIT_PIXELS + 1, 0)])
def test_coordinates_that_are_nowhere_near_are_refused(point):
    with pytest.raises(ValueError, match="more than 8192 pixels"):
        to_lattice([point])


def test_winding_differs_from_even_odd_where_a_line_goes_round_twice():
    twice = [(1, 1), (5, 1), (5, 5), (1, 5)] * 2
    winding = fill_winding([to_lattice(twice)], (7, 7))
    assert set(np.unique(np.abs(winding)).tolist()) == {0, 2}
    assert not pixels(twice).any()


def test_only_true_crossings_count():
    square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    touching = [(4, 1), (6, 1), (6, 3), (4, 3)]
    through = [(2, -1), (3, -1), (3, 5), (2, 5)]
    assert crossing_polygons([to_lattice(square), to_lattice(touching)]).tolist() == []
    assert crossing_polygons([to_lattice(square), to_lattice(through)]).tolist() == [[0, 1]] * 4


@given(polygons)
@settings(max_examples=100, deadline=None)
def test_crossings_are_those_that_every_pair_of_edges_gives(ring):
    edges = list(zip(ring, ring[1:] + ring[:1], strict=True))

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    expected = sum(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for n, (a, b) in enumerate(edges)
        for c, d in edges[:n]
    )
    assert len(crossing_polygons([to_lattice(ring)])) == expected


def test_a_channel_is_an_edge_there_and_back():
    keyhole = [(0, 0), (6, 0), (6, 6), (0, 6), (0, 3), (2, 3), (2, 4), (3, 4), (3, 3), (2, 3), (0, 3)]
    assert has_channel(to_lattice(keyhole))
    assert not has_channel(to_lattice([(0, 0), (6, 0), (6, 6), (0, 6)]))


def test_equal_polygons_are_found_whatever_their_start_and_direction():
    square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    closed_and_turned = [(4, 4), (4, 0), (0, 0), (0, 4), (4, 4)]
    other = [(0, 0), (4, 0), (4, 5), (0, 4)]
    assert first_equal([to_lattice(p) for p in (square, other, closed_and_turned)]) == [0, 1, 0]
    assert to_lattice(square).max() == 4 * STEPS
