"""One volume brought onto another's grid, where both lie in one space: PET onto CT, one MRI sequence onto another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.errors import GeometryError
from medseg3d.geometry import Affine, check_affine

__all__ = ["resampled_onto", "share_outside"]

# Rows of a slab are computed together: about this many voxels, three coordinates of 8 bytes each.
SLAB_VOXELS = 1_000_000
# A voxel centre this near to the rim of the source, in voxels, lies on it: affines are rounded.
ON_RIM = 1e-3


def resampled_onto(
    voxels: NDArray[np.generic], affine: Affine, *, shape: Sequence[int], onto: Affine, outside: float
) -> NDArray[np.float32]:
    """``voxels`` interpolated linearly at the voxel centres of another grid, as float32.

    Values are concentrations and densities, not counts: they are interpolated and keep their unit, whatever the
    voxels' sizes. A voxel fills its whole volume, so that within half a voxel of the outermost centres the edge's
    values go on; further out is ``outside``.

    Args:
        voxels: array (i, j, k).
        affine: voxel index of ``voxels`` → RAS+ mm.
        shape: voxels of the wanted grid.
        onto: voxel index of the wanted grid → RAS+ mm.
        outside: value where the source has none.

    Raises:
        GeometryError: an affine is impossible, or ``voxels`` is no volume.

    >>> line = np.array([0.0, 10.0]).reshape(2, 1, 1)
    >>> fine = np.diag([0.5, 1.0, 1.0, 1.0])
    >>> resampled_onto(line, np.eye(4), shape=(5, 1, 1), onto=fine, outside=-1).ravel().tolist()
    [0.0, 5.0, 10.0, 10.0, -1.0]
    """
    if voxels.ndim != 3:
        raise GeometryError(f"Resampling takes volumes of three axes; this array has {voxels.ndim}.")
    values = np.asarray(voxels, dtype=np.float32)
    result = np.empty(tuple(shape), dtype=np.float32)
    for rows, points in _slabs(affine, shape, onto):
        sampled = ndimage.map_coordinates(values, points, order=1, mode="nearest", output=np.float32)
        result[rows] = np.where(_inside(points, values.shape), sampled, np.float32(outside))
    return result


def share_outside(source_shape: Sequence[int], affine: Affine, *, shape: Sequence[int], onto: Affine) -> float:
    """Share of the voxels of a grid, 0 to 1, whose centres no voxel of a source grid covers.

    >>> share_outside((2, 1, 1), np.eye(4), shape=(4, 1, 1), onto=np.eye(4))
    0.5
    """
    outside = sum(int(np.count_nonzero(~_inside(points, source_shape))) for _, points in _slabs(affine, shape, onto))
    return outside / int(np.prod(shape))


def _slabs(affine: Affine, shape: Sequence[int], onto: Affine) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Rows of the wanted grid, and where their voxel centres lie in voxels of the source: (3, rows, j, k)."""
    matrix = np.linalg.solve(check_affine(affine), check_affine(onto))
    step = max(1, SLAB_VOXELS // int(np.prod(shape[1:])))
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        i, j, k = np.ogrid[rows, : shape[1], : shape[2]]
        yield rows, np.stack([a * i + b * j + c * k + d for a, b, c, d in matrix[:3]])


def _inside(points: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    sizes = np.reshape(shape, (3, 1, 1, 1))
    return np.asarray(((points >= -0.5 - ON_RIM) & (points <= sizes - 0.5 + ON_RIM)).all(axis=0))
