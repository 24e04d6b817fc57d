"""Whether two volumes lie on one grid, and putting one onto the other's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.geometry import Affine, grid_distance_mm
from medseg3d.volume import GRID_TOLERANCE_MM, Volume

__all__ = ["grid_difference", "onto_box"]


def grid_difference(reference: Volume, shape: Sequence[int], affine: Affine, path: Path) -> tuple[str, str]:
    """How the grid of ``path`` differs from the reference's: a code and a sentence, both empty where it does not."""
    if tuple(shape) != reference.voxels.shape:
        sizes = ["×".join(map(str, size)) for size in (shape, reference.voxels.shape)]
        return (
            "shape-mismatch",
            f"{path.name} has {sizes[0]} voxels, its reference ({reference.path.name}) {sizes[1]}.",
        )
    distance = grid_distance_mm(reference.affine, affine, shape)
    if distance > GRID_TOLERANCE_MM:
        return (
            "grid-mismatch",
            f"{path.name} lies up to {distance:.2f} mm away from its reference ({reference.path.name}; "
            f"tolerance {GRID_TOLERANCE_MM} mm): their headers disagree.",
        )
    return "", ""


def onto_box(
    voxels: NDArray[Any], affine: Affine, *, like: Affine, box: Sequence[slice], linear: bool = False
) -> NDArray[Any]:
    """The voxels at those of ``box`` in the grid ``like``, by nearest neighbour or linearly; 0 outside of their own."""
    from scipy.ndimage import affine_transform

    # Rounded, so that grids that differ by axes only are copied exactly.
    matrix = np.round(np.linalg.solve(affine, like), 9)
    start = np.array([part.start for part in box])
    return affine_transform(
        voxels,
        matrix[:3, :3],
        offset=matrix[:3, :3] @ start + matrix[:3, 3],
        output_shape=tuple(part.stop - part.start for part in box),
        order=int(linear),
        mode="constant" if linear else "grid-constant",
        prefilter=False,
    )
