"""Where closed polygons cross themselves or each other, run a channel twice, or stand there twice. Exact; pure numpy.

Such polygons still have an inside by the even-odd rule, but another rule gives another inside: whoever drew them may
have meant that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.rasterise import Lattice

__all__ = ["crossing_polygons", "first_equal", "has_channel"]

# Pairs of edges that are held against each other at once: about 200 MB of int64.
PAIRS_AT_ONCE = 1 << 20


def crossing_polygons(polygons: Sequence[Lattice]) -> NDArray[np.int64]:
    """Which polygons cross, array (n, 2): one row a crossing, with the same index twice where one crosses itself.

    Edges cross where each has the other's ends strictly on both sides. Touching, shared vertices and coinciding edges
    (a keyhole's channel) are no crossings.

    >>> from medseg3d.dicom.rasterise import to_lattice
    >>> bow_tie = to_lattice([[0, 0], [2, 2], [2, 0], [0, 2]])
    >>> crossing_polygons([bow_tie]).tolist()
    [[0, 0]]
    """
    edges = np.concatenate([np.empty((0, 4), np.int64), *(_edges(p) for p in polygons)])
    owner = np.repeat(np.arange(len(polygons)), [len(p) for p in polygons])
    order = np.argsort(np.minimum(edges[:, 1], edges[:, 3]), kind="stable")
    edges, owner = edges[order], owner[order]
    found = [np.empty((0, 2), np.int64)]
    for a, b in _pairs_that_overlap_along_j(edges):
        crossing = _cross(edges[a], edges[b])
        found.append(np.sort(np.stack([owner[a[crossing]], owner[b[crossing]]], axis=1), axis=1))
    return np.concatenate(found)


def has_channel(polygon: Lattice) -> bool:
    """Whether the polygon runs along one edge in both directions, as a keyhole does between its rim and its hole.

    >>> from medseg3d.dicom.rasterise import to_lattice
    >>> has_channel(to_lattice([[0, 0], [4, 0], [4, 4], [0, 4]]))
    False
    """
    edges = _edges(polygon)
    edges = edges[(edges[:, :2] != edges[:, 2:]).any(axis=1)]
    forth = {tuple(edge) for edge in edges.tolist()}
    return any((x1, y1, x0, y0) in forth for x0, y0, x1, y1 in forth)


def first_equal(polygons: Sequence[Lattice]) -> list[int]:
    """For each polygon the index of the first one with the same edges: its own where it is the first.

    Start, direction and repeated vertices do not count.
    """
    seen: dict[bytes, int] = {}
    return [seen.setdefault(_key(polygon), index) for index, polygon in enumerate(polygons)]


def _key(polygon: Lattice) -> bytes:
    edges = _edges(polygon)
    edges = edges[(edges[:, :2] != edges[:, 2:]).any(axis=1)]
    backwards = (edges[:, 0] > edges[:, 2]) | ((edges[:, 0] == edges[:, 2]) & (edges[:, 1] > edges[:, 3]))
    edges[backwards] = edges[backwards][:, [2, 3, 0, 1]]
    return edges[np.lexsort(edges.T)].tobytes()


def _edges(polygon: Lattice) -> Lattice:
    """Array (n, 4): start and end of each edge, the closing one last."""
    return np.hstack([polygon, np.roll(polygon, -1, axis=0)])


def _pairs_that_overlap_along_j(edges: Lattice) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of edges, sorted by their lower end, of which the second begins before the first ends; in blocks."""
    low = np.minimum(edges[:, 1], edges[:, 3])
    end = np.searchsorted(low, np.maximum(edges[:, 1], edges[:, 3]), side="right")
    first = np.arange(len(edges))
    count = end - first - 1
    block = np.cumsum(count) // PAIRS_AT_ONCE
    for chosen in np.split(first, np.flatnonzero(np.diff(block)) + 1):
        a = np.repeat(chosen, count[chosen])
        offset = np.arange(len(a)) - np.repeat(np.cumsum(count[chosen]) - count[chosen], count[chosen])
        b = a + 1 + offset
        beside = (edges[a][:, [0, 2]].max(axis=1) >= edges[b][:, [0, 2]].min(axis=1)) & (
            edges[b][:, [0, 2]].max(axis=1) >= edges[a][:, [0, 2]].min(axis=1)
        )
        yield a[beside], b[beside]


def _cross(a: Lattice, b: Lattice) -> NDArray[np.bool_]:
    """Whether edges a and b, arrays (n, 4), cross each other strictly."""
    b_beside_a = _side(a, b[:, :2]) * _side(a, b[:, 2:])
    a_beside_b = _side(b, a[:, :2]) * _side(b, a[:, 2:])
    return (b_beside_a < 0) & (a_beside_b < 0)


def _side(edge: Lattice, point: Lattice) -> NDArray[np.int64]:
    """+1 or -1 for points beside the line through an edge, 0 for those on it."""
    along, to = edge[:, 2:] - edge[:, :2], point - edge[:, :2]
    return np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])
