"""Boxes of objects in images: the spellings of their coordinates, moved, scaled, clipped, and tested for area.

A box is ``xyxy``: left, top, right, bottom in pixels, where pixel (row, column) covers the square from (column, row)
to (column + 1, row + 1). So an image of w × h pixels is the box (0, 0, w, h), and a width is right − left, nothing
added.
Arrays of boxes have the shape (n, 4), n may be 0. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SMALLEST_SIDE",
    "as_boxes",
    "box_areas",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "has_area",
    "scale_boxes",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_xywh",
]

Floats = NDArray[np.floating[Any]]

# Below this a box has no area to learn from; a rounding error of float32 at image coordinates is of this order.
SMALLEST_SIDE = 1e-3


def as_boxes(values: ArrayLike) -> Floats:
    """``values`` as floats of shape (n, 4); float32 stays float32.

    Raises:
        ValueError: not four numbers a box.

    >>> as_boxes([]).shape
    (0, 4)
    """
    boxes = np.asarray(values)
    if not np.issubdtype(boxes.dtype, np.floating):
        boxes = boxes.astype(np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}, (n, 4) is wanted")
    return boxes


def xyxy_to_xywh(boxes: ArrayLike) -> Floats:
    """Left, top, right, bottom → left, top, width, height, as in COCO's files.

    >>> xyxy_to_xywh([[10, 20, 40, 60]]).tolist()
    [[10.0, 20.0, 30.0, 40.0]]
    """
    boxes = as_boxes(boxes)
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def xywh_to_xyxy(boxes: ArrayLike) -> Floats:
    """Left, top, width, height (COCO) → left, top, right, bottom.

    >>> xywh_to_xyxy([[10, 20, 30, 40]]).tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    """
    boxes = as_boxes(boxes)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def xyxy_to_cxcywh(boxes: ArrayLike) -> Floats:
    """Left, top, right, bottom → centre x, centre y, width, height (YOLO's order; YOLO divides by the image's size).

    >>> xyxy_to_cxcywh([[10, 20, 40, 60]]).tolist()
    [[25.0, 40.0, 30.0, 40.0]]
    """
    boxes = as_boxes(boxes)
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])


def cxcywh_to_xyxy(boxes: ArrayLike) -> Floats:
    """Centre x, centre y, width, height → left, top, right, bottom.

    >>> cxcywh_to_xyxy([[25, 40, 30, 40]]).tolist()
    [[10.0, 20.0, 40.0, 60.0]]
    """
    boxes = as_boxes(boxes)
    half = boxes[:, 2:] / 2
    return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])


def scale_boxes(boxes: ArrayLike, *, factor_xy: tuple[float, float]) -> Floats:
    """Boxes of an image that is resampled to ``factor_xy`` times its width and height.

    >>> scale_boxes([[10, 20, 40, 60]], factor_xy=(0.5, 2)).tolist()
    [[5.0, 40.0, 20.0, 120.0]]
    """
    boxes = as_boxes(boxes)
    return boxes * np.array([*factor_xy, *factor_xy], dtype=boxes.dtype)


def clip_boxes(boxes: ArrayLike, *, width: float, height: float) -> Floats:
    """The part of each box inside an image; a box outside it ends up without area, at its edge.

    >>> clip_boxes([[-5, 10, 20, 200]], width=100, height=80).tolist()
    [[0.0, 10.0, 20.0, 80.0]]
    """
    boxes = as_boxes(boxes)
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=boxes.dtype))


def box_areas(boxes: ArrayLike) -> Floats:
    """Areas in square pixels; 0 where right is not right of left, or bottom not below top.

    >>> box_areas([[0, 0, 3, 4], [5, 5, 5, 9]]).tolist()
    [12.0, 0.0]
    """
    boxes = as_boxes(boxes)
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)


def has_area(boxes: ArrayLike, *, smallest_side: float = SMALLEST_SIDE) -> NDArray[np.bool_]:
    """Whether each box is at least ``smallest_side`` pixels wide and high; False where a number is not finite.

    >>> has_area([[0, 0, 3, 4], [5, 5, 5, 9], [0, 0, float("nan"), 4]]).tolist()
    [True, False, False]
    """
    boxes = as_boxes(boxes)
    with np.errstate(invalid="ignore"):
        large = (boxes[:, 2:] - boxes[:, :2] >= smallest_side).all(axis=1)
    return np.asarray(large & np.isfinite(boxes).all(axis=1))
