"""Outlines of masks: filled again they are the mask, for any mask; they cross nothing and waste no point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as MatplotlibPath

from medseg3d.dicom.contours import keyhole, outlines
from medseg3d.dicom.crossings import crossing_polygons, has_channel
from medseg3d.dicom.rasterise import fill_even_odd, to_lattice

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return fill_even_odd([to_lattice(ring) for ring in rings], shape)


@given(masks)
@settings(max_examples=300, deadline=None)
def test_separate_rings_give_the_mask_back(mask):
    np.testing.assert_array_equal(filled([r for part in outlines(mask) for r in part], mask.shape), mask)


@given(masks)
@settings(max_examples=300, deadline=None)
def test_keyholes_give_the_mask_back_and_cross_nothing(mask):
    rings = [keyhole(part) for part in outlines(mask)]
    np.testing.assert_array_equal(filled(rings, mask.shape), mask)
    assert len(crossing_polygons([to_lattice(r) for r in rings])) == 0


@given(masks)
@settings(max_examples=100, deadline=None)
def test_matplotlib_fills_keyholes_to_the_same_mask(mask):
    centres = np.argwhere(np.ones(mask.shape, bool))
    found = np.zeros(mask.size, bool)
    for part in outlines(mask):
        ring = keyhole(part)
        found ^= MatplotlibPath(np.vstack([ring, ring[:1]])).contains_points(centres)
    np.testing.assert_array_equal(found.reshape(mask.shape), mask)


@given(masks)
@settings(max_examples=100, deadline=None)
def test_no_edge_comes_nearer_to_a_centre_than_the_cut_corner(mask):
    centres = np.argwhere(np.ones(mask.shape, bool)).astype(float)
    for part in outlines(mask):
        ring = keyhole(part)
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            t = np.clip((centres - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            distance = np.linalg.norm(centres - (a + t[:, None] * (b - a)), axis=1)
            assert distance.min() > 0.35


def test_a_single_pixel_is_a_diamond_of_half_its_area():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    ((rim,),) = outlines(mask)
    assert sorted(map(tuple, rim.tolist())) == [(1.5, 3.0), (2.0, 2.5), (2.0, 3.5), (2.5, 3.0)]
    assert area(rim) == 0.5


def test_a_rectangle_at_the_border_has_eight_points_and_its_area_less_a_half():
    ((rim,),) = outlines(np.ones((6, 4), bool))
    assert len(rim) == 8
    assert rim.min() == -0.5
    assert area(rim) == 6 * 4 - 0.5


def test_a_hole_runs_the_other_way_and_keeps_its_area_less_a_half():
    mask = np.ones((7, 7), bool)
    mask[2:5, 3] = False
    ((rim, hole),) = outlines(mask)
    signed = [float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 for x, y in (rim.T, hole.T)]
    assert signed == [48.5, -2.5]
    ring = keyhole([rim, hole])
    assert has_channel(to_lattice(ring))
    assert area(ring) == 48.5 - 2.5


def test_pixels_that_touch_at_a_corner_are_two_parts():
    assert [len(part) for part in outlines(np.eye(2, dtype=bool))] == [1, 1]


@pytest.mark.parametrize("columns", [1, 40])
def test_many_holes_in_one_row_are_strung_on_one_line(columns):
    mask = np.ones((2 * columns + 1, 3), bool)
    mask[1::2, 1] = False
    (part,) = outlines(mask)
    assert len(part) == 1 + columns
    ring = keyhole(part)
    # Two on the rim, the top of each hole at start and end, and once more where the next hole is joined to it.
    assert ring[:, 1].tolist().count(0.5) == 2 + 2 * columns + (columns - 1)
    np.testing.assert_array_equal(filled([ring], mask.shape), mask)


def test_an_island_in_a_hole_is_a_part_of_its_own():
    mask = np.ones((9, 9), bool)
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    assert sorted(len(part) for part in outlines(mask)) == [1, 2]


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((3, 4), bool)) == []
