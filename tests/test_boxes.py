"""Spellings of boxes: truths by hand, torchvision and MONAI as oracles, laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data.box_utils import convert_box_mode
from numpy.testing import assert_allclose
from torchvision.ops import box_area, box_convert, clip_boxes_to_image

from medseg3d.boxes import (
    as_boxes,
    box_areas,
    clip_boxes,
    cxcywh_to_xyxy,
    has_area,
    scale_boxes,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

EMPTY = np.zeros((0, 4), dtype=np.float32)


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    """Boxes of at least a pixel, partly outside an image of 100 × 80."""
    count = draw(st.integers(0, 6))
    corners = draw(arrays(np.float64, (count, 2), elements=st.floats(-50, 120)))
    sides = draw(arrays(np.float64, (count, 2), elements=st.floats(1, 90)))
    return np.hstack([corners, corners + sides])


@given(boxes())
def test_conversions_are_each_others_inverses(xyxy: np.ndarray) -> None:
    assert_allclose(xywh_to_xyxy(xyxy_to_xywh(xyxy)), xyxy, atol=1e-9)
    assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(xyxy)), xyxy, atol=1e-9)
    assert_allclose(scale_boxes(scale_boxes(xyxy, factor_xy=(0.5, 3)), factor_xy=(2, 1 / 3)), xyxy, atol=1e-9)


@given(boxes())
def test_conversions_agree_with_torchvision_and_monai(xyxy: np.ndarray) -> None:
    tensor = torch.from_numpy(xyxy)
    assert_allclose(xyxy_to_xywh(xyxy), box_convert(tensor, "xyxy", "xywh").numpy())
    assert_allclose(xyxy_to_cxcywh(xyxy), box_convert(tensor, "xyxy", "cxcywh").numpy())
    assert_allclose(box_areas(xyxy), box_area(tensor).numpy())
    assert_allclose(clip_boxes(xyxy, width=100, height=80), clip_boxes_to_image(tensor, (80, 100)).numpy())
    if len(xyxy):
        assert_allclose(xyxy_to_xywh(xyxy), convert_box_mode(xyxy, src_mode="xyxy", dst_mode="xywh"))
        assert_allclose(xyxy_to_cxcywh(xyxy), convert_box_mode(xyxy, src_mode="xyxy", dst_mode="ccwh"))


@given(boxes())
def test_clipping_twice_changes_nothing_and_no_area_grows(xyxy: np.ndarray) -> None:
    clipped = clip_boxes(xyxy, width=100, height=80)
    assert_allclose(clip_boxes(clipped, width=100, height=80), clipped)
    assert (box_areas(clipped) <= box_areas(xyxy) + 1e-9).all()


def test_a_box_outside_the_image_has_no_area_left() -> None:
    outside = clip_boxes([[120, 10, 150, 20], [-9, -9, -1, -1], [90, 70, 130, 90]], width=100, height=80)
    assert box_areas(outside).tolist() == [0, 0, 100]
    assert has_area(outside).tolist() == [False, False, True]


def test_no_boxes_and_types() -> None:
    for function in (xyxy_to_xywh, xywh_to_xyxy, xyxy_to_cxcywh, cxcywh_to_xyxy):
        assert function(EMPTY).shape == (0, 4)
        assert function(np.ones((1, 4), dtype=np.float32)).dtype == np.float32
    assert scale_boxes(np.ones((1, 4), np.float32), factor_xy=(2.0, 2.0)).dtype == np.float32
    assert clip_boxes(np.ones((1, 4), np.float32), width=3.0, height=3.0).dtype == np.float32
    assert has_area(EMPTY).shape == (0,)
    assert as_boxes([[1, 2, 3, 4]]).dtype == np.float64


def test_three_numbers_are_no_box() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3\), \(n, 4\) is wanted"):
        as_boxes([[1, 2, 3]])
