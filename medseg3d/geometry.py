"""Voxel grids in millimetres: affines, spacing, orientation. Pure numpy.

An affine is a 4×4 matrix that maps voxel indices (i, j, k, 1) to millimetres. NIfTI and MONAI measure in RAS+ (right,
anterior, superior are positive), DICOM and ITK in LPS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.errors import GeometryError

__all__ = ["check_affine", "grid_distance_mm", "lps_to_ras", "orientation", "spacing_mm", "voxel_volume_ml"]

Affine = NDArray[np.float64]


def check_affine(affine: ArrayLike) -> Affine:
    """Return ``affine`` as a float64 4×4 array.

    Raises:
        GeometryError: not 4×4, not finite, last row not (0, 0, 0, 1), or singular (an axis of no length).
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"An affine has 4×4 numbers, this one {'×'.join(map(str, matrix.shape)) or 'none'}.")
    if not np.isfinite(matrix).all():
        raise GeometryError("The affine contains NaN or infinity: the image's header is damaged.")
    if not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(f"The affine's last row is {matrix[3].tolist()}, not [0, 0, 0, 1].")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise GeometryError(
            f"The affine is singular (axis lengths {lengths.round(4).tolist()} mm): no voxel has a volume."
        )
    return matrix


def spacing_mm(affine: ArrayLike) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxel centres along each voxel axis.

    >>> spacing_mm(np.diag([2.0, 2.0, 5.0, 1.0]))
    (2.0, 2.0, 5.0)
    """
    i, j, k = np.linalg.norm(check_affine(affine)[:3, :3], axis=0)
    return float(i), float(j), float(k)


def voxel_volume_ml(affine: ArrayLike) -> float:
    """Volume of one voxel in millilitres; right for sheared grids too.

    >>> round(voxel_volume_ml(np.diag([2.0, 2.0, 5.0, 1.0])), 6)
    0.02
    """
    return float(abs(np.linalg.det(check_affine(affine)[:3, :3])) / 1000.0)


def orientation(affine: ArrayLike) -> str:
    """Direction towards which each voxel axis mostly grows, as in nibabel: ``"RAS"``, ``"LPI"``, …

    >>> orientation(np.diag([-1.0, -1.0, 1.0, 1.0]))
    'LPS'
    """
    import nibabel

    return "".join(nibabel.aff2axcodes(check_affine(affine)))


def lps_to_ras(affine_lps: ArrayLike) -> Affine:
    """Turn an affine in DICOM's and ITK's LPS+ into NIfTI's RAS+, or back: the map is its own inverse."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine_lps, dtype=np.float64)


def grid_distance_mm(affine_a: ArrayLike, affine_b: ArrayLike, shape: Sequence[int]) -> float:
    """How far apart two affines put the same voxel, at worst, over a grid of ``shape`` voxels, in mm.

    The distance is a convex function of the index, so it is greatest at one of the grid's eight corners.

    >>> shifted = np.eye(4); shifted[0, 3] = 0.5
    >>> grid_distance_mm(np.eye(4), shifted, (10, 10, 10))
    0.5
    """
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape[:3]))], dtype=np.float64)
    difference = (check_affine(affine_a) - check_affine(affine_b)) @ corners.T
    return float(np.linalg.norm(difference[:3], axis=0).max())
