"""Objects of a mask: separated, counted, measured; truths worked by hand, and laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg3d.errors import GeometryError, UsageError
from medseg3d.instances import Panoptic, count_instances, measure, panoptic, panoptic_to_rgb, separate


def disc(shape, row, column, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def ellipse(shape, row, column, long, short, angle):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    along = (rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)
    across = (columns - column) * np.cos(angle) - (rows - row) * np.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def test_touching_discs_are_two_and_what_hangs_together_widely_is_one():
    shape = (60, 100)
    for distance, count in ((20, 1), (24, 1), (34, 2), (39, 2), (45, 2)):  # radii 20: the neck narrows with distance
        mask = disc(shape, 30, 30, 20) | disc(shape, 30, 30 + distance, 20)
        assert separate(mask).max() == count, distance


def test_the_cut_runs_through_the_neck():
    found = separate(disc((60, 100), 30, 30, 20) | disc((60, 100), 30, 66, 20))
    assert found[30, 10:86].tolist() == [1] * 38 + [2] * 38 or found[30, 10:86].tolist() == [1] * 39 + [2] * 37
    sizes = np.bincount(found.ravel())[1:]
    assert abs(int(sizes[0]) - int(sizes[1])) < 0.05 * sizes.sum()


@settings(max_examples=40, deadline=None)
@given(
    long=st.floats(3.5, 25),
    share=st.floats(0.35, 1),
    angle=st.floats(0, np.pi),
    row=st.floats(28, 32),
    column=st.floats(28, 32),
)
def test_an_ellipse_of_six_pixels_or_wider_is_never_split(long, share, angle, row, column):
    assert separate(ellipse((60, 60), row, column, long, max(3.2, long * share), angle)).max() == 1


@settings(max_examples=40, deadline=None)
@given(first=st.floats(8, 18), share=st.floats(0.6, 1), angle=st.floats(0, 2 * np.pi))
def test_discs_of_any_size_that_barely_touch_are_two(first, share, angle):
    second = first * share
    reach = first + second - 0.5
    mask = disc((130, 130), 65, 65, first) | disc(
        (130, 130), 65 + reach * np.sin(angle), 65 + reach * np.cos(angle), second
    )
    assert separate(mask).max() == 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), neck=st.floats(0, 1))
def test_instances_cover_the_mask_and_each_hangs_together(seed, neck):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), 2)
    mask = noise > 0.05
    found = separate(mask, neck=neck)
    assert np.array_equal(found > 0, mask)
    ids = np.unique(found[found > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert all(ndimage.label(found == i, np.ones((3, 3)))[1] == 1 for i in ids)
    assert found.max() >= ndimage.label(mask, np.ones((3, 3)))[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_neck_separates_more(seed, low, high):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), 2) > 0
    low, high = sorted((low, high))
    assert separate(mask, neck=low).max() <= separate(mask, neck=high).max()


def test_many_touching_cells_are_counted():
    generator = np.random.default_rng(3)
    mask = np.zeros((200, 200), bool)
    for row in range(5):
        for column in range(5):
            mask |= disc(mask.shape, 20 + 38 * row, 20 + 38 * column, generator.uniform(18, 19.5))
    assert ndimage.label(mask)[1] < 25
    assert separate(mask).max() == 25


def test_small_ones_are_left_out_and_ids_stay_in_reading_order():
    mask = np.zeros((10, 20), bool)
    mask[6:9, 1:4] = mask[1:4, 10:14] = mask[8, 18] = True
    found = separate(mask, min_area_px=2)
    assert (found[2, 11], found[7, 2], found[8, 18], found.max()) == (1, 2, 0, 2)


@pytest.mark.parametrize("mask", [np.zeros((5, 7), bool), np.zeros((0, 4), bool)])
def test_an_empty_mask_has_no_objects(mask):
    assert separate(mask).shape == mask.shape
    assert measure(panoptic(mask.astype(np.uint8), things=[1])) == []


def test_a_rectangle_is_measured_in_pixels_and_millimetres():
    classes = np.zeros((20, 30), np.uint8)
    classes[4:8, 10:22] = 2
    (found,) = measure(panoptic(classes, things=[2]), spacing_mm=(0.5, 0.25))
    assert (found.label, found.area_px, found.box, found.centre) == (2, 48, (10, 4, 22, 8), (5.5, 15.5))
    assert found.area_mm2 == pytest.approx(6.0)
    assert found.equivalent_diameter == pytest.approx(2 * np.sqrt(48 / np.pi))
    # A rectangle's second moment is side² / 12, an ellipse's axis² / 16.
    assert (found.major_axis, found.minor_axis) == pytest.approx((12 * 4 / np.sqrt(12), 4 * 4 / np.sqrt(12)))
    assert not found.touches_edge


def test_the_axes_of_a_disc_are_its_diameter():
    (found,) = measure(panoptic(disc((60, 60), 30, 30, 20).astype(np.uint8), things=[1]))
    assert (found.major_axis, found.minor_axis) == pytest.approx((40, 40), rel=0.02)
    assert found.area_mm2 is None


@pytest.mark.parametrize("box", [np.s_[0:3, 4:6], np.s_[4:6, 0:3], np.s_[7:10, 4:6], np.s_[4:6, 7:10]])
def test_what_the_edge_cuts_is_told(box):
    mask = np.zeros((10, 10), np.uint8)
    mask[box] = 1
    assert measure(panoptic(mask, things=[1]))[0].touches_edge


def test_a_panoptic_map_has_things_and_stuff():
    classes = np.zeros((40, 90), np.uint8)
    classes[:, 60:] = 1  # stuff, in two pieces
    classes[:, 75] = 0
    classes[disc(classes.shape, 20, 15, 12) | disc(classes.shape, 20, 37, 12)] = 2
    classes[0, 0] = 2  # a speck
    result = panoptic(classes, things=[2], min_area_px=5)
    found = measure(result)
    assert [(i.label, i.id) for i in found] == [(1, 1), (2, 2), (2, 3)]
    assert count_instances(found, {"stroma": 1, "nucleus": 2, "vessel": 3}) == {"stroma": 1, "nucleus": 2, "vessel": 0}
    assert result.classes[0, 0] == result.instances[0, 0] == 0
    assert np.array_equal(result.classes > 0, result.instances > 0)


def test_cocos_colours_hold_ids_of_three_bytes():
    ids = np.array([[1, 256, 70_000]], np.int32)
    rgb = panoptic_to_rgb(ids).astype(int)
    assert np.array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2], ids)


def test_what_is_no_mask_is_refused():
    with pytest.raises(GeometryError, match="two axes"):
        separate(np.zeros((2, 2, 2), bool))
    with pytest.raises(UsageError, match="neck is 2"):
        separate(np.zeros((2, 2), bool), neck=2)
    assert isinstance(panoptic(np.zeros((2, 2), np.uint8), things=[]), Panoptic)
