"""Surfaces of masks as triangles. Pure numpy.

Constrained elastic surface nets (Gibson 1998): every 2×2×2 block of voxels that the surface passes through holds one
vertex, which is smoothed with its neighbours without leaving its block. The smoothing is Taubin's (1995), which does
not shrink. So a structure of one voxel keeps a surface, and no vertex moves by more than half a voxel along an axis,
which blurring before marching cubes would not promise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.geometry import Affine, spacing_mm

__all__ = ["Mesh", "coarsened", "surface"]


@dataclass(frozen=True)
class Mesh:
    """A closed surface: ``vertices_mm`` (n, 3) in the affine's frame, ``triangles`` (m, 3) of vertex numbers."""

    vertices_mm: NDArray[np.float32]
    triangles: NDArray[np.int32]


def surface(mask: NDArray[np.bool_], affine: Affine, *, max_triangles: int = 20_000, smoothing: int = 10) -> Mesh:
    """The surface of a mask in millimetres; an empty mask has no triangles.

    The grid is coarsened, finest axes first, until the surface has at most ``max_triangles``.

    >>> cube = np.zeros((4, 4, 4), bool); cube[1:3, 1:3, 1:3] = True
    >>> len(surface(cube, np.eye(4)).triangles)  # 24 voxel faces, two triangles each
    48
    """
    inside = np.nonzero(mask)
    if not len(inside[0]):
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    low = np.array([axis.min() for axis in inside])
    box = mask[tuple(slice(axis.min(), axis.max() + 1) for axis in inside)]
    offset = np.eye(4)
    offset[:3, 3] = low
    grid, to_mm = box, affine @ offset
    step = 1.0
    while 2 * _faces(grid) > max_triangles and max(grid.shape) > 4:
        step *= 1.25
        grid, to_mm = coarsened(box, affine @ offset, factors=_factors(spacing_mm(affine), step))
    vertices, quads = _net(np.pad(grid, 1))
    vertices = _smooth(vertices, quads, smoothing)
    index = np.c_[vertices - 1.0, np.ones(len(vertices))]  # the padding moved everything by one voxel
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    if np.linalg.det(to_mm[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    return Mesh((index @ to_mm.T)[:, :3].astype(np.float32), triangles.astype(np.int32))


def coarsened(
    mask: NDArray[np.bool_], affine: Affine, *, factors: tuple[int, int, int]
) -> tuple[NDArray[np.bool_], Affine]:
    """Join blocks of voxels into one that is set where at least half of them are; returns its affine as well.

    A mask that would vanish by that keeps every block that it touches.
    """
    padded = np.pad(mask, [(0, -n % f) for n, f in zip(mask.shape, factors, strict=True)])
    shape = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    share = padded.reshape(shape).mean(axis=(1, 3, 5))
    scale = np.diag([*map(float, factors), 1.0])
    scale[:3, 3] = (np.array(factors) - 1) / 2  # the centre of a block is between its voxels' centres
    kept = share >= 0.5
    return (kept if kept.any() else share > 0), affine @ scale


def _factors(spacing: tuple[float, float, float], step: float) -> tuple[int, int, int]:
    """Whole factors that bring each axis to about ``step`` times the finest spacing."""
    target = step * min(spacing)
    i, j, k = (max(1, round(target / s)) for s in spacing)
    return i, j, k


def _faces(mask: NDArray[np.bool_]) -> int:
    """Voxel faces between inside and outside."""
    padded = np.pad(mask, 1)
    return int(sum(np.count_nonzero(np.diff(padded, axis=axis)) for axis in range(3)))


def _net(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices at the centres of mixed blocks, in voxels, and the four around each face, turned outwards."""
    corners = np.zeros(tuple(n - 1 for n in mask.shape), np.uint8)
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                a, b, c = corners.shape
                corners += mask[i : i + a, j : j + b, k : k + c]
    mixed = (corners > 0) & (corners < 8)
    number = np.full(mixed.shape, -1, np.int64)
    number[mixed] = np.arange(np.count_nonzero(mixed))
    return np.argwhere(mixed).astype(np.float64) + 0.5, np.concatenate(
        [_quads(mask, number, axis) for axis in range(3)]
    )


def _quads(mask: NDArray[np.bool_], number: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """A quadrilateral for each pair of neighbours along ``axis`` of which one is inside."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    along = np.diff(mask.astype(np.int8), axis=axis)
    at = np.argwhere(along)
    steps = np.zeros((4, 3), np.int64)
    steps[1, u] = steps[2, u] = steps[2, v] = steps[3, v] = -1
    corners = np.stack([number[tuple((at + step).T)] for step in steps], axis=1)
    leaving = along[tuple(at.T)] < 0  # inside before, outside after: the normal points along the axis
    return np.where(leaving[:, None], corners, corners[:, ::-1])


def _smooth(vertices: NDArray[np.float64], quads: NDArray[np.int64], times: int) -> NDArray[np.float64]:
    """Taubin's smoothing: a step towards the mean of the neighbours, then a slightly longer one away from it."""
    start, n = vertices, len(vertices)
    a, b = quads.ravel(), np.roll(quads, -1, axis=1).ravel()  # both directions of an edge come, from its two faces
    degree = np.bincount(a, minlength=n)[:, None]
    for step in (0.5, -0.53) * times:
        total = np.stack([np.bincount(a, vertices[b, axis], minlength=n) for axis in range(3)], axis=1)
        vertices = vertices + step * (total / degree - vertices)
        vertices = np.clip(vertices, start - 0.5, start + 0.5)
    return vertices
