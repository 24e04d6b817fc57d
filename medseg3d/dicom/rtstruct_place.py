"""Contours in patient millimetres onto the slices of a grid: any orientation, and only where they truly lie on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SeriesGrid, SliceRef
from medseg3d.dicom.rasterise import LIMIT_PIXELS, Lattice, to_lattice
from medseg3d.dicom.structure_set import Contour, Roi

__all__ = ["Placed", "on_missing_slices", "place_contours", "plane_tolerance_mm"]

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


def place_contours(roi: Roi, parts: Sequence[SeriesGrid]) -> tuple[list[Placed], list[Finding]]:
    """The closed contours of an ROI that lie on slices of a series, and a finding for whatever else it holds.

    Args:
        roi: with its contours.
        parts: of the series: one grid, or several one after another where slices are missing or unevenly apart. Slices
            are counted through.
    """
    intact = [c for c in roi.contours if not c.damage]
    closed = [c for c in intact if c.kind in CLOSED]
    findings = [*_damage(roi), *_open(roi, intact)]
    flat = [c for c in closed if len(c.points_lps) < FEWEST_POINTS]
    if flat:
        fact = f"{roi}: {len(flat)} closed contours have fewer than 3 points: they enclose nothing."
        findings.append(Finding("contour_without_area", "warning", fact))
    contours = [c for c in closed if len(c.points_lps) >= FEWEST_POINTS]
    positions = [_position(c, parts) for c in contours]
    findings += _far_away(roi, positions)
    near = [(c, p) for c, p in zip(contours, positions, strict=True) if not p.far_away]
    findings += [*_off_slice(roi, [p for _, p in near], parts[0]), *_outside(roi, [p for _, p in near])]
    findings += _on_missing_slices(roi, [p for _, p in near])
    kept = [(c, p) for c, p in near if p.on_slice and p.within]
    findings += _contradictions(roi, kept, [ref for part in parts for ref in part.slices])
    return [Placed(p.k, to_lattice(p.index[:, :2])) for _, p in kept], findings


@dataclass(frozen=True)
class _Position:
    """Where a contour lies in a series.

    Attributes:
        index: array (n, 3), voxel indices of its points in the part of the series it is nearest to.
        k: the nearest slice, which need not exist.
        off_mm: greatest distance of a point from that slice's plane.
        tilt_mm: how far its points are apart along the normal.
        away_mm: how far before the first or behind the last slice of the part ``k`` lies; 0 where it exists.
        on_slice: within the tolerance.
        beyond: pixels by which the contour reaches out of the image, 0 where it does not.
        missing: ``k`` lies between two parts, where slices are missing.
    """

    index: NDArray[np.float64]
    k: int
    off_mm: float
    tilt_mm: float
    away_mm: float
    on_slice: bool
    beyond: float
    missing: bool = False

    @classmethod
    def of(cls, contour: Contour, grid: SeriesGrid) -> _Position:
        to_index = np.linalg.inv(grid.affine_lps)
        index = contour.points_lps @ to_index[:3, :3].T + to_index[:3, 3]
        distance_mm = _slice_distance_mm(grid)
        k = int(np.rint(np.median(index[:, 2])))
        off_mm = float(np.abs(index[:, 2] - k).max()) * distance_mm
        last = np.array(grid.shape[:2]) - 0.5
        beyond = max(float((-0.5 - index[:, :2]).max()), float((index[:, :2] - last).max()), 0.0)
        return cls(
            index,
            k,
            off_mm,
            tilt_mm=float(np.ptp(index[:, 2])) * distance_mm,
            away_mm=max(-k, k - grid.shape[2] + 1, 0) * distance_mm,
            on_slice=off_mm <= plane_tolerance_mm(grid),
            beyond=beyond,
        )

    @property
    def within(self) -> bool:
        """Whether slice ``k`` exists."""
        return self.away_mm == 0

    @property
    def far_away(self) -> bool:
        return bool(np.abs(self.index).max() > LIMIT_PIXELS)


def _position(contour: Contour, parts: Sequence[SeriesGrid]) -> _Position:
    """Where a contour lies in the part that has its slice or, without one, in the nearest."""
    each = [_Position.of(contour, part) for part in parts]
    at = min(range(len(parts)), key=lambda n: (each[n].away_mm, not each[n].on_slice, each[n].off_mm))
    missing = each[at].away_mm > 0 and each[0].k >= parts[0].shape[2] and each[-1].k < 0
    return replace(each[at], k=each[at].k + sum(part.shape[2] for part in parts[:at]), missing=missing)


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
    tilted = sum(p.tilt_mm > plane_tolerance_mm(grid) for p in off)
    yield Finding(
        "contour_off_slice",
        "refusal",
        f"{roi}: {len(off)} of {len(positions)} contours lie on no slice of the series: up to {worst.off_mm:.2f} mm "
        f"from slice {worst.k + 1}, tolerance {plane_tolerance_mm(grid):.2f} mm"
        + (f"; {tilted} of them are not in one slice plane." if tilted else "."),
        "Slices may be missing, or it was drawn on another series: give the series it was drawn on. "
        "If accepted, these contours are left out.",
    )


def _on_missing_slices(roi: Roi, positions: Sequence[_Position]) -> Iterator[Finding]:
    missing = sum(p.missing for p in positions)
    if not missing:
        return
    taken = any(p.within and p.on_slice for p in positions)
    yield on_missing_slices(f"{roi}: {missing} of {len(positions)} contours", nothing_left=not taken)


def on_missing_slices(what: str, *, nothing_left: bool) -> Finding:
    """Something was drawn on slices that the series lacks: a refusal where nothing else was drawn of it.

    A label map without a structure that there is would be a false one; one that lacks a slice of it has a gap there.
    """
    return Finding(
        "on_missing_slices",
        "refusal" if nothing_left else "warning",
        f"{what} lie on slices that are missing in the series"
        + (": nothing is left of it." if nothing_left else ": left out."),
        "Export the series again, with all its slices." + (" If accepted, it is left out." if nothing_left else ""),
    )


def _outside(roi: Roi, positions: Sequence[_Position]) -> Iterator[Finding]:
    outside = [p for p in positions if not p.within and not p.missing]
    if outside:
        yield Finding(
            "outside_series",
            "warning",
            f"{roi}: {len(outside)} of {len(positions)} contours lie before the first or behind the last slice, up to "
            f"{max(p.away_mm for p in outside):.1f} mm: left out.",
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


def _contradictions(
    roi: Roi, placed: Sequence[tuple[Contour, _Position]], slices: Sequence[SliceRef]
) -> Iterator[Finding]:
    index: dict[tuple[str, int | None], set[int]] = {}
    for k, ref in enumerate(slices):
        index.setdefault((ref.sop_instance_uid, ref.frame), set()).add(k)
        index.setdefault((ref.sop_instance_uid, None), set()).add(k)
    wrong = 0
    for contour, position in placed:
        named = set().union(*(index.get(image, set()) for image in contour.images))
        wrong += bool(named) and position.k not in named
    if wrong:
        yield Finding(
            "contradicting_reference",
            "warning",
            f"{roi}: {wrong} of {len(placed)} contours lie on another slice than the image they refer to: they are put "
            "where they lie.",
            "Look at the mask over the images.",
        )
