"""How much surface lies between voxel centres: the elements ("surfels") of marching cubes, by neighbour code.

A point between voxel centres has 2×2×2 voxels around it, inside or outside the object: 256 neighbour codes. Marching
cubes (Lorensen & Cline 1987) cuts that cube with triangles through the middles of the edges whose ends differ; their
area is the weight of the point in a surface-area-weighted measure (Nikolov et al. 2018/2021, DeepMind's
surface-distance, whose table of areas this one equals). In a plane the 2×2 pixels give 16 codes and lengths of contour.

The table is made here, not written down:

- Inside and outside cut alike: a code and its complement have one area, so at most four corners are inside.
- Corners that share no edge of the cube are cut off apart; so areas add up over edge-connected groups.
- The cut around one group is a closed polygon of edge middles. Where it is not flat, it is divided into the triangles
  of largest total area at unit spacing, which are those that keep its flat parts whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["neighbour_codes", "surfel_sizes"]

Corner = tuple[int, ...]
Point = tuple[float, ...]


def neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Code of the 2×2×2 (2×2) voxels around every point between voxel centres; one shorter than ``mask`` on each axis.

    The bit of the corner (i, j, k) of the cube is ``1 << (7 - 4i - 2j - k)``, so 0 is outside and 255 inside.

    >>> neighbour_codes(np.array([[0, 0, 0], [0, 1, 0]], bool))
    array([[1, 2]], dtype=uint8)
    """
    codes = mask.view(np.uint8)
    for axis in reversed(range(mask.ndim)):
        bits = 2 ** (mask.ndim - 1 - axis)
        low, high = (np.moveaxis(codes, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        codes = np.moveaxis((low << bits) | high, 0, axis)
    return codes


def surfel_sizes(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Area in mm² (three axes) or length in mm (two axes) of the boundary at a point, by its neighbour code.

    >>> surfel_sizes((1.0, 1.0, 1.0))[[0, 1, 15, 255]].round(3)
    array([0.   , 0.217, 1.   , 0.   ])
    >>> surfel_sizes((3.0, 4.0))[[1, 3, 5]]  # a corner cut off, and the two ways to halve the square
    array([2.5, 4. , 3. ])
    """
    spacing = np.asarray(spacing_mm, float)
    if spacing.size == 2:
        return np.array([_contour_length(code, *spacing) for code in range(16)])
    # A normal as long as its triangle's area scales with the two spacings across each of its components.
    return np.linalg.norm(_normals() * (spacing.prod() / spacing), axis=-1).sum(axis=1)


def _contour_length(code: int, first: float, second: float) -> float:
    corner = 0.5 * float(np.hypot(first, second))
    return {0: 0.0, 3: second, 5: first, 6: 2 * corner}.get(min(code, 15 - code), corner)


@cache
def _normals() -> NDArray[np.float64]:
    """Normals at unit spacing, as long as their triangles' areas: 256 codes × 4 triangles (unused ones are 0) × 3."""
    normals = np.zeros((256, 4, 3))
    corners = list(product((0, 1), repeat=3))
    for code in range(256):
        inside = {c for bit, c in enumerate(corners) if code >> (7 - bit) & 1}
        inside = inside if len(inside) <= 4 else set(corners) - inside
        triangles = [t for group in _edge_connected(inside) for t in _triangles(frozenset(group))]
        normals[code, : len(triangles)] = np.reshape(triangles, (-1, 3))
    return normals


def _edge_connected(corners: set[Corner]) -> Iterator[set[Corner]]:
    """Groups of corners that hang together by edges of the cube."""
    left = set(corners)
    while left:
        group, front = set(), {left.pop()}
        while front:
            group |= front
            front = {c for c in left if any(_is_edge(c, other) for other in front)}
            left -= front
        yield group


def _is_edge(a: Corner, b: Corner) -> bool:
    return sum(x != y for x, y in zip(a, b, strict=True)) == 1


@cache
def _triangles(group: frozenset[Corner]) -> NDArray[np.float64]:
    """Normals, of the length of the area, of the triangles that cut ``group`` off from the other corners."""
    polygon = _polygon(group)
    divisions = [np.array(division) for division in _divisions(polygon)]
    normals = [np.cross(d[:, 1] - d[:, 0], d[:, 2] - d[:, 0]) / 2 for d in divisions]
    return max(normals, key=lambda n: round(float(np.linalg.norm(n, axis=1).sum()), 9))


def _polygon(group: frozenset[Corner]) -> list[Point]:
    """Middles of the edges between ``group`` and the other corners, in the order in which the faces join them."""
    cut = [(a, b) for a in sorted(group) for b in product((0, 1), repeat=3) if b not in group and _is_edge(a, b)]
    middles = [tuple((x + y) / 2 for x, y in zip(a, b, strict=True)) for a, b in cut]
    ordered = [middles.pop(0)]
    while middles:
        # Each face that this polygon crosses holds two of its corners: those are neighbours in it.
        after = next(m for m in middles if _share_face(ordered[-1], m))
        middles.remove(after)
        ordered.append(after)
    return ordered


def _share_face(a: Point, b: Point) -> bool:
    return any(x == y and x in (0, 1) for x, y in zip(a, b, strict=True))


def _divisions(polygon: list[Point]) -> Iterator[list[tuple[Point, Point, Point]]]:
    """All ways to divide a polygon into triangles by its diagonals."""
    if len(polygon) < 3:
        yield []
        return
    for apex in range(1, len(polygon) - 1):
        for before, after in product(_divisions(polygon[: apex + 1]), list(_divisions(polygon[apex:]))):
            yield [*before, (polygon[0], polygon[apex], polygon[-1]), *after]
