"""Bringing a mask onto the grid of its series when only the order and direction of its axes differ.

NIfTI tools store the same grid in many ways: RAS, LPS, or whatever the last transform left. The voxels are the same, so
they are moved, never interpolated; any other difference is refused with its numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.errors import GeometryError
from medseg3d.geometry import check_affine, grid_distance_mm, spacing_mm
from medseg3d.volume import GRID_TOLERANCE_MM

__all__ = ["to_series_grid"]


def to_series_grid(
    voxels: NDArray[Any], affine_ras: ArrayLike, grid: SeriesGrid, *, tolerance_mm: float = GRID_TOLERANCE_MM
) -> NDArray[Any]:
    """The voxels of a mask in the axis order of ``grid``: a view where nothing moves or axes only turn.

    Args:
        voxels: (i, j, k) in the mask's own axis order.
        affine_ras: the mask's 4×4, voxel index → RAS+ mm.
        grid: of the series.
        tolerance_mm: how far apart the two may place a voxel, at worst.

    Raises:
        GeometryError: the mask has not the grid of the series: another spacing, angle, number of voxels or place.
    """
    affine = check_affine(affine_ras)
    if voxels.ndim != 3:
        raise GeometryError(f"The mask has {voxels.ndim} axes ({_by(voxels.shape)} voxels); three are needed.")
    to_grid_index = np.linalg.inv(grid.affine_ras) @ affine
    turn = _signed_permutation(to_grid_index[:3, :3])
    if turn is None:
        raise GeometryError(f"The mask's axes are not those of the series. {_both(voxels.shape, affine, grid)}")
    axes = [int(np.flatnonzero(row)[0]) for row in turn]  # axis of the mask along each axis of the grid
    turned = voxels.transpose(axes)
    if turned.shape != grid.shape:
        raise GeometryError(f"The mask has another number of voxels. {_both(voxels.shape, affine, grid)}")
    flipped = tuple(a for a in range(3) if turn[a].sum() < 0)
    back = _to_mask_index(turn, voxels.shape)
    distance = grid_distance_mm(affine @ back, grid.affine_ras, grid.shape)
    if distance > tolerance_mm:
        raise GeometryError(
            f"The mask lies up to {distance:.2f} mm away from the series (tolerance {tolerance_mm} mm). "
            f"{_both(voxels.shape, affine, grid)}"
        )
    return np.flip(turned, flipped) if flipped else turned


def _signed_permutation(matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """``matrix`` rounded, if that has one ±1 in each row and column: axes that are only reordered and flipped."""
    rounded = np.rint(matrix)
    ones = np.abs(rounded)
    single = (ones.sum(axis=0) == 1).all() and (ones.sum(axis=1) == 1).all() and np.isin(ones, (0, 1)).all()
    # Beyond this, the spacing or the angle is another one; what is below it, the distance in millimetres judges.
    return rounded if single and np.abs(matrix - rounded).max() < 0.1 else None


def _to_mask_index(turn: NDArray[np.float64], mask_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """4×4 that maps an index of the turned and flipped voxels to the mask's own."""
    back = np.eye(4)
    back[:3, :3] = turn.T
    reversed_axes = turn.T.sum(axis=1) < 0
    back[:3, 3] = np.where(reversed_axes, np.array(mask_shape) - 1, 0)
    return back


def _both(shape: tuple[int, ...], affine: NDArray[np.float64], grid: SeriesGrid) -> str:
    ours, theirs = (" × ".join(f"{s:.4g}" for s in spacing) for spacing in (spacing_mm(affine), grid.spacing_mm))
    return (
        f"Mask: {_by(shape)} voxels of {ours} mm; series: {_by(grid.shape)} voxels of {theirs} mm. "
        "Make the mask from this series, or resample it by nearest neighbour first."
    )


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
