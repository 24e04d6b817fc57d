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

    Each hole is joined to what lies left of its top: the rim, or a hole whose top comes earlier. A channel runs midway
    between two rows of centres, half a pixel from each, and there and back over the same points, so that it has no area
    even after rounding.
    """
    if len(part) == 1:
        return part[0]
    rings = [_from_top(np.rint(2 * ring).astype(np.int64)) for ring in part]
    ends = np.cumsum([len(ring) for ring in rings])
    firsts = ends - [len(ring) for ring in rings]
    edges, meetings = _left_of_tops(rings, firsts[1:])
    # Nodes are the vertices of all rings and, for each hole, where its channel leaves and meets again, and its top once
    # more. Each is followed by one other, so that walking from the rim's first visits all.
    holes = len(part) - 1
    leaving, meeting, top_again = (ends[-1] + n * holes + np.arange(holes) for n in range(3))
    nodes = np.concatenate([*rings, meetings, meetings, *(ring[:1] for ring in rings[1:])])
    following = np.arange(1, len(nodes) + 1)
    following[ends[0] - 1] = firsts[0]
    following[ends[1:] - 1], following[top_again], following[leaving] = top_again, meeting, firsts[1:]
    # Of channels that meet one edge, the farthest from its start first: each is put right behind the start.
    distance = np.abs(meetings - nodes[edges]).sum(axis=1)
    for hole in np.argsort(-distance, kind="stable").tolist():
        following[meeting[hole]], following[edges[hole]] = following[edges[hole]], leaving[hole]
    path = nodes[_walk(following.tolist())]
    return path[(path != np.roll(path, 1, axis=0)).any(axis=1)] / 2.0


def _walk(following: Sequence[int]) -> list[int]:
    """The nodes in order, from the first one back to it."""
    order, node = [0], following[0]
    while node:
        order.append(node)
        node = following[node]
    return order


def _without_needless(ring: Ring) -> Ring:
    """The vertices at which the direction changes."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _from_top(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ring from its vertex of least j, and of these of least i."""
    return np.roll(ring, -int(np.lexsort((ring[:, 0], ring[:, 1]))[0]), axis=0)


def _left_of_tops(
    rings: Sequence[NDArray[np.int64]], tops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each hole the edge that a line from its top towards lower i meets first, and where, array (n, 2).

    Edges are told by their first node; ``tops`` are the nodes of the holes' tops.
    """
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    edges, meetings = np.empty(len(tops), np.int64), start[tops]
    for j in np.unique(start[tops, 1]):
        near = np.flatnonzero((low <= j) & (high >= j))
        (x0, y0), (x1, y1) = start[near].T, end[near].T
        # Edges run along the axes or at 45°, so the division is exact; of edges along the line the nearer end counts.
        met = np.where(y0 == y1, np.maximum(x0, x1), x0 + (j - y0) * (x1 - x0) // np.where(y0 == y1, 1, y1 - y0))
        order = np.argsort(met, kind="stable")
        here = np.flatnonzero(start[tops, 1] == j)
        before = order[np.searchsorted(met[order], start[tops[here], 0], side="left") - 1]
        edges[here], meetings[here, 0] = near[before], met[before]
    return edges, meetings
