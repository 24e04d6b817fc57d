"""Closed contours on slices to one mask, and what is ambiguous about their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.crossings import crossing_polygons, first_equal, has_channel
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.rasterise import STEPS, Lattice, fill_even_odd, fill_winding
from medseg3d.dicom.rtstruct_place import Placed
from medseg3d.dicom.structure_set import Roi

__all__ = ["check_shapes", "fill_slices", "interpolate_gaps"]


def fill_slices(slices: dict[int, list[Lattice]], grid: SeriesGrid) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """The first voxel of the box around all contours, and the mask in that box."""
    if not slices:
        return (0, 0, 0), np.zeros((0, 0, 0), dtype=bool)
    (i, j), shape = _box([p for polygons in slices.values() for p in polygons], grid)
    first = min(slices)
    mask = np.zeros((*shape, max(slices) - first + 1), dtype=bool)
    for k, polygons in slices.items():
        mask[:, :, k - first] = fill_even_odd([p - (i * STEPS, j * STEPS) for p in polygons], shape)
    return (i, j, first), mask


def _box(polygons: Sequence[Lattice], grid: SeriesGrid) -> tuple[tuple[int, int], tuple[int, int]]:
    """First pixel and number of pixels (i, j) of the box around polygons, cut at the image's border."""
    size = np.array(grid.shape[:2])
    low = np.clip(np.min([p.min(axis=0) for p in polygons], axis=0) // STEPS, 0, size)
    high = np.clip(np.max([p.max(axis=0) for p in polygons], axis=0) // STEPS + 1, low, size)
    (i, j), (columns, rows) = low.tolist(), (high - low).tolist()
    return (i, j), (columns, rows)


def interpolate_gaps(mask: NDArray[np.bool_], contoured: Sequence[int], grid: SeriesGrid) -> NDArray[np.bool_]:
    """Fill the slices between contoured ones by shape-based interpolation (Raya and Udupa 1990).

    Signed distances to the border, in mm, change linearly from one contoured slice to the next.

    Args:
        mask: (i, j, k) of the box around the contours.
        contoured: index in ``mask`` of each slice with a contour, ascending.
        grid: whose spacing it has.
    """
    filled = mask.copy()
    for a, b in pairwise(contoured):
        if b - a > 1:
            before, after = (_signed_distance_mm(mask[:, :, k], grid) for k in (a, b))
            for k in range(a + 1, b):
                part = (k - a) / (b - a)
                filled[:, :, k] = (1 - part) * before + part * after > 0
    return filled


def _signed_distance_mm(mask: NDArray[np.bool_], grid: SeriesGrid) -> NDArray[np.float32]:
    """Distance to the border of a mask (i, j): positive inside. An empty mask is nowhere near."""
    import edt

    spacing = grid.spacing_mm[:2]
    padded = np.pad(mask, 1)
    inside = edt.edt(np.ascontiguousarray(padded), anisotropy=spacing)
    outside = edt.edt(np.ascontiguousarray(~padded), anisotropy=spacing)
    return (inside - outside)[1:-1, 1:-1]


@dataclass
class _Shapes:
    """Counts over the slices of one ROI."""

    duplicates: int = 0
    self_crossings: int = 0
    self_crossing_voxels: int = 0
    crossings: int = 0
    crossing_voxels: int = 0
    channels: int = 0
    nested_slices: int = 0


def check_shapes(
    roi: Roi, placed: Sequence[Placed], grid: SeriesGrid
) -> tuple[dict[int, list[Lattice]], list[Finding]]:
    """Contours by slice, each once, and what is ambiguous about them."""
    by_slice: dict[int, list[Lattice]] = {}
    for contour in placed:
        by_slice.setdefault(contour.k, []).append(contour.polygon)
    counts = _Shapes()
    slices = {k: _check_slice(polygons, counts, grid) for k, polygons in by_slice.items()}
    return slices, list(_shape_findings(roi, counts))


def _check_slice(polygons: Sequence[Lattice], counts: _Shapes, grid: SeriesGrid) -> list[Lattice]:
    equal_to = first_equal(polygons)
    unique = [p for n, p in enumerate(polygons) if equal_to[n] == n]
    counts.duplicates += len(polygons) - len(unique)
    counts.channels += sum(map(has_channel, unique))
    pairs = crossing_polygons(unique)
    crossing_itself = np.unique(pairs[pairs[:, 0] == pairs[:, 1], 0])
    counts.self_crossings += int((pairs[:, 0] == pairs[:, 1]).sum())
    counts.crossings += int((pairs[:, 0] != pairs[:, 1]).sum())
    for n in crossing_itself:
        winding = _filled_box(unique[n], grid, fill_winding)[1]
        counts.self_crossing_voxels += int(((winding != 0) & (winding % 2 == 0)).sum())
    if len(unique) > 1:
        shared = _shared_pixels(unique, grid)
        if (pairs[:, 0] != pairs[:, 1]).any():
            counts.crossing_voxels += shared
        else:
            counts.nested_slices += shared > 0
    return unique


def _shared_pixels(polygons: Sequence[Lattice], grid: SeriesGrid) -> int:
    """Number of pixels inside an even number of polygons, but not none: whether they are inside depends on the rule."""
    covered = np.zeros(grid.shape[:2], dtype=np.uint16)
    for polygon in polygons:
        (i, j), inside = _filled_box(polygon, grid, fill_even_odd)
        covered[i : i + inside.shape[0], j : j + inside.shape[1]] += inside
    return int(((covered > 0) & (covered % 2 == 0)).sum())


def _filled_box(
    polygon: Lattice, grid: SeriesGrid, fill: Callable[[Sequence[Lattice], tuple[int, int]], NDArray[Any]]
) -> tuple[tuple[int, int], NDArray[Any]]:
    """First pixel of the box around a polygon, and what ``fill`` makes of the polygon in it."""
    (i, j), shape = _box([polygon], grid)
    return (i, j), fill([polygon - (i * STEPS, j * STEPS)], shape)


def _shape_findings(roi: Roi, counts: _Shapes) -> Iterator[Finding]:
    if counts.duplicates:
        yield Finding(
            "duplicate_contour",
            "refusal",
            f"{roi}: {counts.duplicates} contours stand there twice; the even-odd rule would cancel them.",
            "Remove the copies in the planning system. If accepted, each is counted once.",
        )
    if counts.self_crossings:
        yield Finding(
            "self_crossing",
            "refusal" if counts.self_crossing_voxels else "warning",
            f"{roi}: contours cross themselves {counts.self_crossings} times; whether {counts.self_crossing_voxels} "
            "voxels are inside depends on the rule.",
            "Correct the contours, or accept: the even-odd rule decides." if counts.self_crossing_voxels else "",
        )
    if counts.crossings:
        yield Finding(
            "crossing_contours",
            "refusal" if counts.crossing_voxels else "warning",
            f"{roi}: contours of one slice cross each other {counts.crossings} times; they share "
            f"{counts.crossing_voxels} voxels, which are inside if the contours are united, and outside if not.",
            "Correct the contours, or accept: the even-odd rule decides." if counts.crossing_voxels else "",
        )
    if counts.channels or counts.nested_slices:
        yield Finding(
            "holes",
            "note",
            f"{roi} has holes: {counts.channels} contours with a keyhole, and contours inside others on "
            f"{counts.nested_slices} slices.",
        )
