"""Parallel slices with gaps, uneven spacing or a tilted gantry, brought onto a regular grid at right angles.

The slices are taken as a lattice: between two of them the position of a voxel moves in a straight line, and so does its
value. That is trilinear interpolation in the lattice, exact for every intensity that changes linearly in space. A slice
that lies on the new grid already is copied, not interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import DicomError, GeometryError
from medseg3d.geometry import Affine, lps_to_ras

__all__ = ["MAX_GAP_MM", "Resampling", "SliceLattice", "Vector", "plan_resampling", "resampled"]

# A gap is filled by guessing what lies in it. Ten millimetres are two slices of a common CT, and less than most organs;
# a larger gap can hide a whole lesion, so that one must ask for it.
MAX_GAP_MM = 10.0
# A distance between slices that is this many times the usual one is a gap.
GAP = 1.5
# Where a slice is off the new grid by less than this part of a voxel it is copied.
ON_GRID = 0.01

ROUNDING_MM = 1e-3  # positions are written as decimals; a gap of "10 mm" may be 10.00001

Mode = Literal["linear", "nearest"]
Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SliceLattice:
    """Where parallel slices of equal in-plane spacing lie, in order along their normal.

    Attributes:
        columns, rows: voxels of a slice along i and j.
        spacing_ij_mm: between voxels along i and j.
        row_lps, column_lps: unit vectors along i and j, at right angles.
        origins_lps: centre of voxel (0, 0) of each slice in mm, shape (slices, 3).
    """

    columns: int
    rows: int
    spacing_ij_mm: tuple[float, float]
    row_lps: Vector
    column_lps: Vector
    origins_lps: Vector

    @property
    def normal_lps(self) -> Vector:
        return np.cross(self.row_lps, self.column_lps)

    @property
    def depths_mm(self) -> Vector:
        """Distance of each slice from the first along the normal."""
        return (self.origins_lps - self.origins_lps[0]) @ self.normal_lps

    @property
    def shifts_voxels(self) -> Vector:
        """How far each slice is shifted in its plane against the first, in voxels along i and j: (slices, 2)."""
        moved = self.origins_lps - self.origins_lps[0]
        return np.stack([moved @ self.row_lps, moved @ self.column_lps], axis=1) / self.spacing_ij_mm


@dataclass(frozen=True)
class Source:
    """Where one new slice comes from: between two old ones, ``weight`` of the way, shifted in the plane."""

    lower: int
    weight: float
    shift_voxels: tuple[float, float]

    @property
    def is_copy(self) -> bool:
        return self.weight == 0 and self.shift_voxels == (0, 0)


@dataclass(frozen=True)
class Resampling:
    """A regular grid that holds all slices of a lattice, and how to fill it.

    Attributes:
        shape: (columns, rows, slices); a tilt makes slices wider, so that nothing is cut off.
        affine_ras: 4×4, voxel index → RAS+ mm, no shear.
        sources: one per new slice.
        step_mm: between new slices.
        largest_gap_mm: the largest distance between two old slices that new ones were interpolated into; 0 where
            nothing but a shift was needed.
        tilt_degrees: between the line of the slices' origins and their normal.
    """

    shape: tuple[int, int, int]
    affine_ras: Affine
    sources: tuple[Source, ...]
    step_mm: float
    largest_gap_mm: float
    tilt_degrees: float

    @property
    def copied(self) -> int:
        """New slices that are old ones, unchanged."""
        return sum(source.is_copy for source in self.sources)


def plan_resampling(lattice: SliceLattice, *, max_gap_mm: float = MAX_GAP_MM) -> Resampling:
    """The regular grid of a lattice: the median distance of its slices, from the first slice to the last.

    Args:
        lattice: two slices at least, in order along the normal.
        max_gap_mm: the largest gap that may be interpolated over. Slices that are evenly apart, however far, have none.

    Raises:
        DicomError: a larger gap, with its place and size.
        GeometryError: less than two slices, or two at one position.
    """
    depths = lattice.depths_mm
    distances = np.diff(depths)
    if len(distances) == 0 or distances.min() <= 0:
        raise GeometryError("A grid needs two slices at least, each further along the normal than the one before.")
    usual = float(np.median(distances))
    _refuse_large_gap(distances, usual, max_gap_mm)
    count = max(round(float(depths[-1]) / usual), 1) + 1
    step = float(depths[-1]) / (count - 1)
    low, extra = _extent(lattice)
    sources = tuple(_measured_from(low, source) for source in _sources(lattice, step * np.arange(count)))
    return Resampling(
        shape=(lattice.columns + extra[0], lattice.rows + extra[1], count),
        affine_ras=_affine_ras(lattice, low, step),
        sources=sources,
        step_mm=step,
        largest_gap_mm=_largest_interpolated(sources, distances),
        tilt_degrees=_tilt_degrees(lattice),
    )


def resampled(
    slices: Iterable[NDArray[Any]], resampling: Resampling, *, mode: Mode = "linear", fill: float = 0
) -> Iterator[NDArray[Any]]:
    """The new slices (i, j), made from the old ones as these come; two old ones are held at a time.

    Args:
        slices: (i, j), in the order of the lattice.
        resampling: of the same lattice.
        mode: ``"linear"``, rounded for integers; or ``"nearest"``, for label maps.
        fill: value of voxels that no old slice reaches.
    """
    fill_value = fill
    for source, lower, upper in _bracketed(slices, resampling.sources):
        if source.is_copy and lower.shape == resampling.shape[:2]:
            yield lower
            continue
        plane = _between(lower, upper, source.weight, mode)
        for axis, shift in enumerate(source.shift_voxels):
            plane = _shifted(plane, shift, axis, resampling.shape[axis], mode, fill_value)
        yield _as_type(plane, lower.dtype)


def _sources(lattice: SliceLattice, new_depths: Vector) -> list[Source]:
    depths, shifts = lattice.depths_mm, lattice.shifts_voxels
    found = []
    for depth in new_depths:
        lower = int(np.clip(np.searchsorted(depths, depth, side="right") - 1, 0, len(depths) - 2))
        weight = float((depth - depths[lower]) / (depths[lower + 1] - depths[lower]))
        if abs(weight - round(weight)) < ON_GRID:
            lower, weight = lower + round(weight), 0.0
        upper = min(lower + 1, len(depths) - 1)
        i, j = (1 - weight) * shifts[lower] + weight * shifts[upper]
        found.append(Source(lower, weight, (float(i), float(j))))
    return found


def _extent(lattice: SliceLattice) -> tuple[Vector, tuple[int, int]]:
    """The least shift along i and j, and how many voxels wider than a slice the grid must be."""
    shifts = lattice.shifts_voxels
    low = shifts.min(axis=0)
    i, j = (max(0, math.ceil(width - ON_GRID)) for width in shifts.max(axis=0) - low)
    return low, (i, j)


def _measured_from(low: Vector, source: Source) -> Source:
    i, j = (0.0 if abs(shift) < ON_GRID else float(shift) for shift in np.asarray(source.shift_voxels) - low)
    return Source(source.lower, source.weight, (i, j))


def _affine_ras(lattice: SliceLattice, low: Vector, step_mm: float) -> Affine:
    i_mm, j_mm = lattice.spacing_ij_mm
    affine = np.eye(4)
    affine[:3, 0] = lattice.row_lps * i_mm
    affine[:3, 1] = lattice.column_lps * j_mm
    affine[:3, 2] = lattice.normal_lps * step_mm
    affine[:3, 3] = lattice.origins_lps[0] + affine[:3, 0] * low[0] + affine[:3, 1] * low[1]
    return lps_to_ras(affine)


def _largest_interpolated(sources: Iterable[Source], distances: Vector) -> float:
    return max((float(distances[source.lower]) for source in sources if source.weight), default=0.0)


def _tilt_degrees(lattice: SliceLattice) -> float:
    line = lattice.origins_lps[-1] - lattice.origins_lps[0]
    across = np.linalg.norm(np.cross(line, lattice.normal_lps))
    return math.degrees(math.atan2(float(across), float(line @ lattice.normal_lps)))


def _refuse_large_gap(distances: Vector, usual_mm: float, max_gap_mm: float) -> None:
    gaps = np.where(distances > GAP * usual_mm, distances, 0)
    if gaps.max() > max_gap_mm + ROUNDING_MM:
        at = int(gaps.argmax())
        raise DicomError(
            f"Between slices {at + 1} and {at + 2} lie {gaps[at]:.1f} mm, between others {usual_mm:.2f} mm; up to "
            f"{max_gap_mm:g} mm are interpolated over. Export the missing slices, or allow more by --max-gap-mm."
        )


def _bracketed(
    slices: Iterable[NDArray[Any]], sources: Iterable[Source]
) -> Iterator[tuple[Source, NDArray[Any], NDArray[Any]]]:
    """Each source with the old slice at or below it and the one above; past the last slice that is the last again."""
    pairs = enumerate(pairwise(_last_twice(slices)))
    index, pair = next(pairs)
    for source in sources:
        while index < source.lower:
            index, pair = next(pairs)
        yield source, *pair


def _last_twice(slices: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    plane = None
    for plane in slices:
        yield plane
    if plane is not None:
        yield plane


def _between(lower: NDArray[Any], upper: NDArray[Any], weight: float, mode: Mode) -> NDArray[Any]:
    if weight == 0:
        return lower
    if mode == "nearest":
        return lower if weight < 0.5 else upper
    return (1 - weight) * lower.astype(np.float64) + weight * upper


def _shifted(plane: NDArray[Any], shift: float, axis: int, length: int, mode: Mode, fill: float) -> NDArray[Any]:
    """``plane`` moved by ``shift`` voxels along an axis that gets ``length`` voxels; half a voxel beyond its edge it
    goes on as at the edge, further out is ``fill``."""
    if shift == 0 and length == plane.shape[axis]:
        return plane
    size = plane.shape[axis]
    index = np.arange(length) - shift
    if mode == "nearest":
        moved = np.take(plane, np.clip(np.rint(index).astype(int), 0, size - 1), axis=axis)
    else:
        lower = np.floor(index).astype(int)
        fraction = float(index[0] - lower[0])
        moved = (1 - fraction) * np.take(plane, np.clip(lower, 0, size - 1), axis=axis) + fraction * np.take(
            plane, np.clip(lower + 1, 0, size - 1), axis=axis
        )
    outside = (index < -0.5) | (index > size - 0.5)
    moved[(outside, slice(None)) if axis == 0 else (slice(None), outside)] = fill
    return moved


def _as_type(plane: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if plane.dtype == dtype:
        return plane
    return np.rint(plane).astype(dtype) if dtype.kind in "iu" else plane.astype(dtype)
