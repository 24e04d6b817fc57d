"""Contours in patient millimetres onto the slices of a grid: any orientation, and only where they truly lie on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.rasterise import LIMIT_PIXELS, Lattice, to_lattice
from medseg3d.dicom.structure_set import Contour, Roi

__all__ = ["Placed", "place_contours", "plane_tolerance_mm"]

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
FEWEST_POINTS = 3

# A contour belongs to a slice when it is this near to its plane: a part of the distance between slices, but at least
# what coordinates written with one decimal need, and never so much that it could belong to a neighbour.
PLANE_TOLERANCE = 0.1
LEAST_TOLERANCE_MM = 0.1
LARGEST_PART = 0.25

# How far beyond the image's edge, in pixels, a vertex may lie before it is worth a remark: rounding, no more.
BORDER_TOLERANCE_PIXELS = 0.01


@dataclass(frozen=True)
class Placed:
    """A closed contour on slice ``k``, its vertices (i, j) on the lattice of the rasteriser."""

    k: int
    polygon: Lattice


def plane_tolerance_mm(grid: SeriesGrid) -> float:
    """How far from a slice's plane a contour may lie and still belong to it, in mm.

    >>> plane_tolerance_mm(SeriesGrid((8, 8, 8), np.diag([1.0, 1.0, 5.0, 1.0]), "", "", ""))
    0.5
    """
    distance = _slice_distance_mm(grid)
    return min(max(PLANE_TOLERANCE * distance, LEAST_TOLERANCE_MM), LARGEST_PART * distance)


def place_contours(roi: Roi, grid: SeriesGrid) -> tuple[list[Placed], list[Finding]]:
    """The closed contours of an ROI that lie on slices of the grid, and a finding for whatever else it holds."""
    intact = [c for c in roi.contours if not c.damage]
    closed = [c for c in intact if c.kind in CLOSED]
    findings = [*_damage(roi), *_open(roi, intact)]
    flat = [c for c in closed if len(c.points_lps) < FEWEST_POINTS]
    if flat:
        fact = f"{roi}: {len(flat)} closed contours have fewer than 3 points: they enclose nothing."
        findings.append(Finding("contour_without_area", "warning", fact))
    contours = [c for c in closed if len(c.points_lps) >= FEWEST_POINTS]
    positions = [_Position.of(c, grid) for c in contours]
    findings += _far_away(roi, positions)
    near = [(c, p) for c, p in zip(contours, positions, strict=True) if not p.far_away]
    findings += [*_off_slice(roi, [p for _, p in near], grid), *_outside(roi, [p for _, p in near], grid)]
    kept = [(c, p) for c, p in near if p.on_slice and p.within]
    findings += _contradictions(roi, kept, grid)
    return [Placed(p.k, to_lattice(p.index[:, :2])) for _, p in kept], findings


@dataclass(frozen=True)
class _Position:
    """Where a contour lies in a grid.

    Attributes:
        index: array (n, 3), voxel indices of its points.
        k: the nearest slice, which need not exist.
        off_mm: greatest distance of a point from that slice's plane.
        on_slice: within the tolerance.
        within: the slice exists.
        beyond: pixels by which the contour reaches out of the image, 0 where it does not.
    """

    index: NDArray[np.float64]
    k: int
    off_mm: float
    on_slice: bool
    within: bool
    beyond: float

    @classmethod
    def of(cls, contour: Contour, grid: SeriesGrid) -> _Position:
        to_index = np.linalg.inv(grid.affine_lps)
        index = contour.points_lps @ to_index[:3, :3].T + to_index[:3, 3]
        k = int(np.rint(np.median(index[:, 2])))
        off_mm = float(np.abs(index[:, 2] - k).max()) * _slice_distance_mm(grid)
        last = np.array(grid.shape[:2]) - 0.5
        beyond = max(float((-0.5 - index[:, :2]).max()), float((index[:, :2] - last).max()), 0.0)
        within = 0 <= k < grid.shape[2]
        return cls(index, k, off_mm, off_mm <= plane_tolerance_mm(grid), within, beyond)

    @property
    def far_away(self) -> bool:
        return bool(np.abs(self.index).max() > LIMIT_PIXELS)


def _slice_distance_mm(grid: SeriesGrid) -> float:
    """Distance between the planes of neighbouring slices; less than the spacing where the grid is sheared."""
    affine = grid.affine_lps
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return float(abs(affine[:3, 2] @ normal) / np.linalg.norm(normal))


def _damage(roi: Roi) -> Iterator[Finding]:
    damaged = [(n, c.damage) for n, c in enumerate(roi.contours, start=1) if c.damage]
    if damaged:
        number, damage = damaged[0]
        yield Finding(
            "damaged_contour",
            "refusal",
            f"{roi}: {len(damaged)} of {len(roi.contours)} contours are damaged; contour {number} has {damage}.",
            "Export the structure set again. If accepted, these contours are left out.",
        )


def _open(roi: Roi, contours: Sequence[Contour]) -> Iterator[Finding]:
    kinds = [c.kind or "no type" for c in contours if c.kind not in CLOSED]
    if not kinds:
        return
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    if len(kinds) == len(roi.contours):
        yield Finding("no_area", "warning", f"{roi} has no closed contour ({counts}): points and lines have no mask.")
        return
    yield Finding(
        "open_contour",
        "refusal",
        f"{roi}: {counts} among {len(roi.contours)} contours: not closed, so they enclose nothing.",
        "Close them in the planning system. If accepted, they are left out.",
    )


def _off_slice(roi: Roi, positions: Sequence[_Position], grid: SeriesGrid) -> Iterator[Finding]:
    off = [p for p in positions if p.within and not p.on_slice]
    if not off:
        return
    worst = max(off, key=lambda p: p.off_mm)
    tilted = sum(float(np.ptp(p.index[:, 2])) * _slice_distance_mm(grid) > plane_tolerance_mm(grid) for p in off)
    yield Finding(
        "contour_off_slice",
        "refusal",
        f"{roi}: {len(off)} of {len(positions)} contours lie on no slice of the series: up to {worst.off_mm:.2f} mm "
        f"from slice {worst.k + 1}, tolerance {plane_tolerance_mm(grid):.2f} mm"
        + (f"; {tilted} of them are not in one slice plane." if tilted else "."),
        "Slices may be missing, or it was drawn on another series: give the series it was drawn on. "
        "If accepted, these contours are left out.",
    )


def _outside(roi: Roi, positions: Sequence[_Position], grid: SeriesGrid) -> Iterator[Finding]:
    outside = [p for p in positions if not p.within]
    if outside:
        distance = max(max(-p.k, p.k - grid.shape[2] + 1) for p in outside) * _slice_distance_mm(grid)
        yield Finding(
            "outside_series",
            "warning",
            f"{roi}: {len(outside)} of {len(positions)} contours lie before the first or behind the last slice, up to "
            f"{distance:.1f} mm: left out.",
            "Is a part of the series missing? Export it again.",
        )
    cut = [p for p in positions if p.within and p.on_slice and p.beyond > BORDER_TOLERANCE_PIXELS]
    if cut:
        yield Finding(
            "contour_outside_image",
            "warning",
            f"{roi}: {len(cut)} contours reach up to {max(p.beyond for p in cut):.1f} pixels out of the image: cut off "
            "at its border.",
            "Was the image cropped after it was contoured?",
        )


def _far_away(roi: Roi, positions: Sequence[_Position]) -> Iterator[Finding]:
    far = sum(p.far_away for p in positions)
    if far:
        yield Finding(
            "damaged_contour",
            "refusal",
            f"{roi}: {far} contours have points more than {LIMIT_PIXELS} voxels away from the series.",
            "Export the structure set again. If accepted, these contours are left out.",
        )


def _contradictions(roi: Roi, placed: Sequence[tuple[Contour, _Position]], grid: SeriesGrid) -> Iterator[Finding]:
    index: dict[tuple[str, int | None], set[int]] = {}
    for k, ref in enumerate(grid.slices):
        index.setdefault((ref.sop_instance_uid, ref.frame), set()).add(k)
        index.setdefault((ref.sop_instance_uid, None), set()).add(k)
    wrong = 0
    for contour, position in placed:
        slices = set().union(*(index.get(image, set()) for image in contour.images))
        wrong += bool(slices) and position.k not in slices
    if wrong:
        yield Finding(
            "contradicting_reference",
            "warning",
            f"{roi}: {wrong} of {len(placed)} contours lie on another slice than the image they refer to: they are put "
            "where they lie.",
            "Look at the mask over the images.",
        )
