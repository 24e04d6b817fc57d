"""Positions of slices along their normal: order, and the regular grid through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.frames import Frame
from medseg3d.geometry import Affine, lps_to_ras

__all__ = [
    "DUPLICATE_TOLERANCE_MM",
    "Line",
    "distances_mm",
    "duplicate_tolerance_mm",
    "fit_line",
    "grid_affine_ras",
    "normal",
    "position_ids",
]

# Two slices nearer than this are at one position: positions are written to 0.01 mm or finer. Under a microscope slices
# are thinner; there, a tenth of a pixel counts.
DUPLICATE_TOLERANCE_MM = 0.01
DUPLICATE_TOLERANCE_PIXELS = 0.1

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """The straight, evenly spaced line from the first slice of a stack to its last.

    Attributes:
        start_mm: position of the first slice (LPS).
        step_mm: from one slice to the next, a vector: along the normal unless the gantry was tilted.
        residuals_mm: (slices, 3) how far each slice is off its place on the line.
    """

    start_mm: Vectors
    step_mm: Vectors
    residuals_mm: Vectors


def normal(frame: Frame) -> Vectors:
    """Unit vector along which slices follow each other: the cross product of row and column direction."""
    cross = np.cross(np.array(frame.row, dtype=float), np.array(frame.column, dtype=float))
    length = float(np.linalg.norm(cross))
    return cross / length if length > 0 else cross


def distances_mm(frames: Sequence[Frame]) -> Vectors:
    """Distance of each frame along the normal of the first."""
    return np.array([f.position_mm for f in frames], dtype=float) @ normal(frames[0])


def duplicate_tolerance_mm(frame: Frame) -> float:
    """How near slices of this pixel spacing lie that are at one position."""
    if frame.spacing_mm is None:
        return DUPLICATE_TOLERANCE_MM
    return min(DUPLICATE_TOLERANCE_MM, DUPLICATE_TOLERANCE_PIXELS * min(map(abs, frame.spacing_mm)))


def position_ids(distances: Vectors, tolerance_mm: float) -> NDArray[np.intp]:
    """The rank of each frame's position; frames nearer than the tolerance share one.

    >>> position_ids(np.array([5.0, 0.0, 5.001]), 0.01).tolist()
    [1, 0, 1]
    """
    order = np.argsort(distances, kind="stable")
    steps = np.diff(distances[order], prepend=distances[order[0]])
    ids = np.empty(len(distances), dtype=np.intp)
    ids[order] = np.cumsum(steps > tolerance_mm)
    return ids


def fit_line(positions_mm: Vectors) -> Line:
    """The line through ordered positions, (slices, 3) with two slices at least."""
    steps = len(positions_mm) - 1
    step = (positions_mm[-1] - positions_mm[0]) / steps
    expected = positions_mm[0] + np.arange(steps + 1)[:, None] * step
    return Line(positions_mm[0], step, positions_mm - expected)


def grid_affine_ras(frame: Frame, line: Line) -> Affine:
    """Affine (i, j, k) → RAS+ mm of slices on a line; PixelSpacing is (between rows, between columns)."""
    row, column = np.array(frame.row, dtype=float), np.array(frame.column, dtype=float)
    between_rows, between_columns = frame.spacing_mm or (1.0, 1.0)
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = row / np.linalg.norm(row) * between_columns
    affine_lps[:3, 1] = column / np.linalg.norm(column) * between_rows
    affine_lps[:3, 2] = line.step_mm
    affine_lps[:3, 3] = line.start_mm
    return lps_to_ras(affine_lps)
