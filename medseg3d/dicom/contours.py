"""Outlines of masks that give the mask back when they are filled by the even-odd rule at pixel centres.

An outline runs midway between the centres of inside and outside pixels (marching squares at one half), with corners
cut at 45°. No edge comes nearer to a centre than 0.35 pixel, so rounding and any sane rule of filling give the same
pixels; outlines through the centres of border pixels, as image libraries draw them, lose half a pixel all around and
single pixels altogether. A single pixel becomes a diamond. The area of an outline is that of its pixels, less one half.

Pixels that touch at a corner only are separate parts, so outlines never touch each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ring", "keyhole", "outlines"]

# Vertices (n, 2) along (i, j) in pixels, integers and halves; the last is joined to the first.
Ring = NDArray[np.float64]


def outlines(mask: NDArray[Any]) -> list[list[Ring]]:
    """The parts of a 2D mask, each as its rim followed by its holes. They run in opposite directions.

    Args:
        mask: bool (i, j).

    >>> [[ring.tolist() for ring in part] for part in outlines(np.array([[True]]))]
    [[[[-0.5, 0.0], [0.0, -0.5], [0.5, 0.0], [0.0, 0.5]]]]
    """
    from contourpy import FillType, contour_generator

    padded = np.pad(np.asarray(mask, dtype=np.float64), 1)  # closes outlines at the image's border
    generator = contour_generator(z=padded.T, name="serial", fill_type=FillType.OuterOffset)
    filled: Any = generator.filled(0.5, np.inf)  # its type depends on fill_type
    parts, offsets = filled
    return [
        [_without_needless(ring[:-1] - 1.0) for ring in np.split(points, bounds[1:-1])]
        for points, bounds in zip(parts, offsets, strict=True)
    ]


def keyhole(part: Sequence[Ring]) -> Ring:
    """Rim and holes of a part as one closed line, joined by channels of no width.

    Each hole is joined to what lies left of its top: along a line midway between two rows of centres, so that a channel
    comes no nearer to a centre than half a pixel. The line goes there and back over the same points, so that the
    channel has no area even after rounding.
    """
    path = np.rint(2 * part[0]).astype(np.int64)
    holes = [np.rint(2 * hole).astype(np.int64) for hole in part[1:]]
    # Whatever a channel meets on the left is the rim, or a hole whose top comes earlier: it is on the path already.
    for hole in sorted((_from_top(hole) for hole in holes), key=lambda h: (h[0, 1], h[0, 0])):
        edge, meeting = _left_of(path, hole[0])
        path = np.concatenate([path[: edge + 1], [meeting], hole, hole[:1], [meeting], path[edge + 1 :]])
        path = path[(path != np.roll(path, 1, axis=0)).any(axis=1)]
    return path / 2.0


def _without_needless(ring: Ring) -> Ring:
    """The vertices at which the direction changes."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _from_top(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ring from its vertex of least j, and of these of least i."""
    return np.roll(ring, -int(np.lexsort((ring[:, 0], ring[:, 1]))[0]), axis=0)


def _left_of(path: NDArray[np.int64], point: NDArray[np.int64]) -> tuple[int, list[int]]:
    """The edge of ``path`` that a line from ``point`` towards lower i meets first, and where."""
    start, end = path, np.roll(path, -1, axis=0)
    i, j = point.tolist()
    across = (np.minimum(start[:, 1], end[:, 1]) <= j) & (np.maximum(start[:, 1], end[:, 1]) >= j)
    rise = end[:, 1] - start[:, 1]
    # Edges run along the axes or at 45°, so the division is exact; of edges along the line the nearer end counts.
    met = start[:, 0] + (j - start[:, 1]) * (end[:, 0] - start[:, 0]) // np.where(rise == 0, 1, rise)
    met = np.where(rise == 0, np.maximum(start[:, 0], end[:, 0]), met)
    edge = int(np.argmax(np.where(across & (met < i), met, np.iinfo(np.int64).min)))
    return edge, [int(met[edge]), j]
