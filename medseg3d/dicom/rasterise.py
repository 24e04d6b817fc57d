"""Polygons to pixels by the even-odd rule at pixel centres: exact, in integers. Pure numpy.

A pixel belongs to a set of closed polygons when a ray from its centre crosses their edges an odd number of times, so
that a polygon inside another is a hole, and the two coinciding edges of a keyhole's channel cancel.

Coordinates are pixel indices: (0, 0) is the centre of the first pixel, (-0.5, -0.5) its outer corner. They are rounded
to a lattice of 1/65,536 pixel: what a decimal string and the inverse of an affine move a vertex by stays far below
that, so that a vertex meant to lie on a centre lies on it. On the lattice every crossing is decided exactly.

**A centre on an edge** belongs to the side of greater index, along either axis: the square from (0, 0) to (2, 2)
holds the centres 0 and 1, not 2. Polygons that share an edge therefore share no pixel and leave none out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LIMIT_PIXELS", "Lattice", "fill_even_odd", "fill_winding", "to_lattice"]

# Steps of the lattice in a pixel, and how far from the first pixel a vertex may lie. Differences of coordinates then
# stay within 2^30, and products of two of them, and sums of those, within 64 bits.
STEPS_BITS = 16
STEPS = 1 << STEPS_BITS
LIMIT_PIXELS = 8192

Lattice = NDArray[np.int64]


def to_lattice(points: ArrayLike) -> Lattice:
    """Round pixel coordinates, array (n, 2), to the lattice.

    >>> to_lattice([[0.5, 2.0]]).tolist()
    [[32768, 131072]]

    Raises:
        ValueError: a coordinate is not finite, or further than ``LIMIT_PIXELS`` from the first pixel.
    """
    points = np.asarray(points, dtype=np.float64)
    if not (np.abs(points) <= LIMIT_PIXELS).all():  # false for NaN too
        raise ValueError(f"Vertices lie more than {LIMIT_PIXELS} pixels from the first one, or nowhere.")
    return np.rint(points * STEPS).astype(np.int64)


def fill_even_odd(polygons: Sequence[Lattice], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres lie inside an odd number of ``polygons``.

    Args:
        polygons: vertices, arrays (n, 2) of lattice coordinates along (i, j); the last is joined to the first.
        shape: pixels along (i, j). Polygons may reach beyond.

    >>> square = to_lattice([[0, 0], [2, 0], [2, 2], [0, 2]])
    >>> fill_even_odd([square], (3, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    first, row, _ = _crossings(polygons, shape)
    toggles = np.zeros(shape, dtype=np.uint8)
    np.add.at(toggles, (first, row), 1)  # wraps at 256, which keeps the parity
    return np.bitwise_xor.accumulate(toggles & 1, axis=0).astype(bool)


def fill_winding(polygons: Sequence[Lattice], shape: tuple[int, int]) -> NDArray[np.int64]:
    """How often the polygons wind around each centre, with sign: where it is even but not 0, the rules disagree."""
    first, row, direction = _crossings(polygons, shape)
    steps = np.zeros(shape, dtype=np.int64)
    np.add.at(steps, (first, row), direction)
    return np.cumsum(steps, axis=0)


def _crossings(
    polygons: Sequence[Lattice], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where edges cross the rows of centres: first i at or beyond the crossing, row j, and +1 upwards or -1 down.

    A row crosses the edges that begin at or before it and end beyond it, whichever way they run. Crossings right of
    the last pixel are left out, those left of the first one count for it.
    """
    columns, rows = shape
    edges = [np.hstack([p, np.roll(p, -1, axis=0)]) for p in polygons if len(p)]
    if not edges:
        return (np.empty(0, np.int64),) * 3
    x0, y0, x1, y1 = np.concatenate(edges).T
    direction = np.sign(y1 - y0)
    down = direction < 0
    x0, y0, x1, y1 = np.where(down, (x1, y1, x0, y0), (x0, y0, x1, y1))
    start = np.clip(_pixel_at_or_beyond(y0), 0, rows)
    count = np.clip(_pixel_at_or_beyond(y1), 0, rows) - start
    edge = np.repeat(np.arange(len(x0)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + start[edge]
    rise = (row << STEPS_BITS) - y0[edge]
    # ceil of the crossing's coordinate; only whether a centre is before or after it counts, and centres are integers.
    x = x0[edge] - (-rise * (x1 - x0)[edge]) // (y1 - y0)[edge]
    first = np.maximum(_pixel_at_or_beyond(x), 0)
    inside = first < columns
    return first[inside], row[inside], direction[edge][inside]


def _pixel_at_or_beyond(coordinate: Lattice) -> Lattice:
    return -((-coordinate) >> STEPS_BITS)
