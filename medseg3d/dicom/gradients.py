"""Diffusion weights beside a 4D volume: FSL's ``.bval`` and ``.bvec``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.files import whole_or_not_at_all
from medseg3d.geometry import check_affine, lps_to_ras

__all__ = ["fsl_gradients", "write_gradients"]


def fsl_gradients(directions_lps: ArrayLike, affine_ras: ArrayLike) -> NDArray[np.float64]:
    """Gradient directions in the axes of an image, as FSL wants them: shape (3, n).

    FSL's axes are those of the voxels, the first one reversed where the affine has a positive determinant (where the
    voxels, in FSL's words, are stored in "neurological" order).

    Args:
        directions_lps: unit vectors in DICOM's patient coordinates, shape (n, 3); zeros without weighting.
        affine_ras: of the image; without shear.

    Source: FSL, FDT user guide, "What conventions do the bvecs use?".

    >>> fsl_gradients([[1, 0, 0], [0, 0, 1]], np.diag([-1.0, -1.0, 2.0, 1.0])).T.tolist()
    [[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    affine_lps = lps_to_ras(check_affine(affine_ras))[:3, :3]
    axes = affine_lps / np.linalg.norm(affine_lps, axis=0)
    vectors = axes.T @ np.asarray(directions_lps, dtype=np.float64).T
    # LPS and RAS have the same determinant: two axes differ in sign.
    if np.linalg.det(affine_lps) > 0:
        vectors[0] *= -1
    return vectors + 0.0  # no minus zero in the file


def write_gradients(
    path: Path, b_values: Sequence[float], directions_lps: ArrayLike, affine_ras: ArrayLike
) -> tuple[Path, Path]:
    """Write ``<path>.bval`` (s/mm²) and ``<path>.bvec`` for the volumes of a 4D file in their order; their paths."""
    vectors = fsl_gradients(directions_lps, affine_ras)
    bval, bvec = path.with_name(f"{path.name}.bval"), path.with_name(f"{path.name}.bvec")
    _write_rows(bval, [b_values])
    _write_rows(bvec, vectors.tolist())
    return bval, bvec


def _write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with whole_or_not_at_all(path) as temporary:
        temporary.write_text("".join(" ".join(f"{value:.6g}" for value in row) + "\n" for row in rows))
