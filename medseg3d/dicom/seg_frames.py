"""Frames of a DICOM SEG: what each says about its segment, plane and source, and where it lies on a grid.

The functional groups of a SEG (PS3.3 C.7.6.16) stand once for all frames, or once a frame. Frames come in any order
and those without voxels are often left out, so the position of a frame, never its place in the file, says which slice
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.errors import DicomError
from medseg3d.geometry import Affine, lps_to_ras

__all__ = ["Frame", "Placement", "Source", "functional_group", "own_grid", "place", "read_frames"]

# How far, in voxels along any axis, a frame may lie from the voxels of the grid it is put on. Positions are rounded in
# files and the spacing of a series is averaged over it; a tenth of a voxel moves no mask.
INDEX_TOLERANCE = 0.1
# Largest difference between direction cosines of frames that are parallel: a thirtieth of a degree.
PARALLEL_TOLERANCE = 5e-4

# Of a grid made from frames alone: a body of two metres at 0.4 mm. One damaged position would ask for millions.
MAX_SLICES = 5000

Source = tuple[str, int | None]  # SOP instance UID, and the number of the frame in it (None: a single-frame instance)


@dataclass(frozen=True)
class Frame:
    """What the headers say about one frame.

    Attributes:
        segment: number of the segment; None in a label map, whose values are the numbers.
        plane_lps: 4×4, (column, row, steps along the normal in mm) → LPS mm; None where the file gives no position.
        sources: the frames of the source series that it was made from.
    """

    segment: int | None
    plane_lps: Affine | None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Placement:
    """How a frame goes onto a grid: transpose, flip, and begin at ``start`` (which may lie outside the grid).

    Attributes:
        axes: of the frame's (column, row, normal), the one along each axis of the grid.
        flips: axes of the grid along which the frame runs backwards.
        start: index of its first voxel in the grid.
        shape: of the frame on the grid: 1 along one of the axes.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    def turn(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """``pixels`` (row, column) as a slab of ``shape``."""
        return np.flip(pixels.T[:, :, None].transpose(self.axes), self.flips)


def read_frames(dataset: Any) -> tuple[Frame, ...]:
    """The frames of a SEG, in the order of the file.

    Raises:
        DicomError: groups that are missing or fewer than the frames; a frame that no segment has.
    """
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), None)
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(per_frame) != count:
        raise DicomError(f"The SEG has {count} frames and describes {len(per_frame)}: the file is damaged.")
    label_map = dataset.get("SegmentationType") == "LABELMAP"
    return tuple(_frame(index, groups, shared, label_map=label_map) for index, groups in enumerate(per_frame))


def own_grid(
    frames: Sequence[Frame], *, columns: int, rows: int, study_uid: str, series_uid: str, frame_of_reference_uid: str
) -> tuple[SeriesGrid, float]:
    """The grid that the frames themselves span, and the distance between its slices in mm.

    Its slices are the frames' positions at the smallest distance between two of them; slices between them that have no
    frame (empty ones are left out of a SEG) count too. A single position has one slice as thick as the frame's step.

    Raises:
        DicomError: frames without a position; not parallel, shifted within their plane, or unevenly spaced.
    """
    planes = [frame.plane_lps for frame in frames]
    known = [plane for plane in planes if plane is not None]
    if not known or len(known) < len(planes):
        raise DicomError(
            f"{len(planes) - len(known)} of {len(planes)} frames of the SEG have no position: give the series it was "
            "made from, on whose slices the frames can be put by reference."
        )
    first, step = known[0], float(np.linalg.norm(known[0][:3, 2]))
    unit = first[:3, 2] / step
    heights = np.array([unit @ (plane[:3, 3] - first[:3, 3]) for plane in known])
    _require_stack(known, heights, unit)
    spacing = _slice_spacing(heights, step)
    affine = first.copy()
    affine[:3, 2] = unit * spacing
    affine[:3, 3] += unit * heights.min()
    slices = round(float(np.ptp(heights)) / spacing) + 1
    if slices > MAX_SLICES:
        raise DicomError(
            f"The frames of the SEG span {slices} slices of {spacing:.4g} mm, and there are {len(frames)} frames: its "
            "positions are damaged, or it belongs to several series. Give the series it was made from."
        )
    grid = SeriesGrid((columns, rows, slices), lps_to_ras(affine), study_uid, series_uid, frame_of_reference_uid)
    return grid, spacing


def place(frame: Frame, number: int, *, columns: int, rows: int, grid: SeriesGrid) -> Placement:
    """Where a frame lies on a grid: by its position or, without one, by the slice it was made from.

    Args:
        frame: its header.
        number: of the frame in its file, from 1, for messages.
        columns, rows: of the frame.
        grid: to put it on.

    Raises:
        DicomError: its pixels are not voxels of the grid, with the distance; or it has neither position nor source.
    """
    if frame.plane_lps is None:
        return _place_by_source(frame, number, columns=columns, rows=rows, grid=grid)
    size = np.array([columns, rows, 1])
    to_grid = np.linalg.inv(grid.affine_lps) @ frame.plane_lps
    turn = _turn_of(to_grid[:3, :2])
    if turn is None:
        raise DicomError(f"{_frame_text(number)} has other axes or pixels than the grid. {_remedy(frame, grid)}")
    first = np.rint(to_grid[:3, 3])
    corners = np.array([(i, j) for i in (0, columns - 1) for j in (0, rows - 1)], dtype=np.float64)
    exact = corners @ to_grid[:3, :2].T + to_grid[:3, 3]
    error = np.abs(exact - (corners @ turn[:, :2].T + first)).max(axis=0)
    if error.max() > INDEX_TOLERANCE:
        axis = int(error.argmax())
        raise DicomError(
            f"{_frame_text(number)} lies {error[axis]:.2f} voxels beside the grid along its axis {'ijk'[axis]}. "
            f"{_remedy(frame, grid)}"
        )
    last = first + turn @ (size - 1)
    axes = [int(np.flatnonzero(row)[0]) for row in turn]
    start = [int(n) for n in np.minimum(first, last)]
    return Placement(
        axes=(axes[0], axes[1], axes[2]),
        flips=tuple(a for a in range(3) if turn[a].sum() < 0),
        start=(start[0], start[1], start[2]),
        shape=(int(size[axes[0]]), int(size[axes[1]]), int(size[axes[2]])),
    )


def _turn_of(in_plane: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """3×3 signed permutation whose first two columns are ``in_plane`` rounded; None where those are no such columns."""
    rounded = np.rint(in_plane)
    if np.abs(in_plane - rounded).max() > INDEX_TOLERANCE or not (np.abs(rounded).sum(axis=0) == 1).all():
        return None
    used = np.abs(rounded).sum(axis=1)
    if used.max() > 1:
        return None
    return np.column_stack([rounded, used == 0])


def _place_by_source(frame: Frame, number: int, *, columns: int, rows: int, grid: SeriesGrid) -> Placement:
    index = {(ref.sop_instance_uid, ref.frame): k for k, ref in enumerate(grid.slices)}
    found = {index[source] for source in frame.sources if source in index}
    if len(found) != 1:
        raise DicomError(
            f"{_frame_text(number)} has no position and refers to {len(found)} slices of the series: "
            "where it lies is not known."
        )
    if (columns, rows) != grid.shape[:2]:
        raise DicomError(
            f"{_frame_text(number)} has no position and {columns}×{rows} pixels; the slice it refers to has "
            f"{grid.shape[0]}×{grid.shape[1]}."
        )
    return Placement(axes=(0, 1, 2), flips=(), start=(0, 0, found.pop()), shape=(columns, rows, 1))


def _frame(index: int, groups: Any, shared: Any, *, label_map: bool) -> Frame:
    segment = None
    if not label_map:
        identification = functional_group("SegmentIdentificationSequence", groups, shared)
        if identification is None or identification.get("ReferencedSegmentNumber") is None:
            raise DicomError(f"{_frame_text(index + 1)} of the SEG says not which segment it belongs to.")
        segment = int(identification.ReferencedSegmentNumber)
    return Frame(segment, _plane(groups, shared), _sources(groups, shared))


def _plane(groups: Any, shared: Any) -> Affine | None:
    position = _numbers(functional_group("PlanePositionSequence", groups, shared), "ImagePositionPatient", 3)
    cosines = _numbers(functional_group("PlaneOrientationSequence", groups, shared), "ImageOrientationPatient", 6)
    measures = functional_group("PixelMeasuresSequence", groups, shared)
    spacing = _numbers(measures, "PixelSpacing", 2)
    if position is None or cosines is None or spacing is None:
        return None
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    if not (spacing > 0).all() or np.linalg.norm(normal) < 0.9:
        raise DicomError(
            f"A frame of the SEG has pixels of {spacing.tolist()} mm and the orientation {cosines.tolist()}: damaged."
        )
    plane = np.eye(4)
    # PixelSpacing is (between rows, between columns): the second number is the step from one column to the next.
    plane[:3, 0], plane[:3, 1] = row * spacing[1], column * spacing[0]
    plane[:3, 2] = normal / np.linalg.norm(normal) * _step(measures)
    plane[:3, 3] = position
    return plane


def _step(measures: Any) -> float:
    """Distance in mm that the file gives between slices; 1 where it gives none."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = measures.get(keyword)
        if value and np.isfinite(float(value)):
            return abs(float(value))
    return 1.0


def _numbers(group: Any, keyword: str, count: int) -> NDArray[np.float64] | None:
    value = group.get(keyword) if group is not None else None
    if value is None:
        return None
    numbers = np.array(value, dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise DicomError(f"A frame of the SEG has the {keyword} {value}: {count} finite numbers are needed.")
    return numbers


def _sources(groups: Any, shared: Any) -> tuple[Source, ...]:
    derivations = groups.get("DerivationImageSequence") or (shared or {}).get("DerivationImageSequence") or ()
    found: list[Source] = []
    for derivation in derivations:
        for image in derivation.get("SourceImageSequence") or ():
            numbers = image.get("ReferencedFrameNumber")
            listed = [None] if numbers is None else numbers if isinstance(numbers, Sequence) else [numbers]
            found += [(str(image.get("ReferencedSOPInstanceUID")), None if n is None else int(n)) for n in listed]
    return tuple(found)


def functional_group(keyword: str, groups: Any, shared: Any) -> Any:
    """First item of a functional group: the frame's own, else the one that all frames share, else None."""
    for holder in (groups, shared):
        items = holder.get(keyword) if holder is not None else None
        if items:
            return items[0]
    return None


def _require_stack(planes: Sequence[Affine], heights: NDArray[np.float64], unit: NDArray[np.float64]) -> None:
    first = planes[0]
    pixel = np.linalg.norm(first[:3, :2], axis=0)
    for number, (plane, height) in enumerate(zip(planes, heights, strict=True), start=1):
        if np.abs((plane[:3, :2] - first[:3, :2]) / pixel).max() > PARALLEL_TOLERANCE:
            raise DicomError(f"{_frame_text(number)} of the SEG is not parallel to the first, or has other pixels.")
        aside = plane[:3, 3] - first[:3, 3] - height * unit
        if np.linalg.norm(aside) > INDEX_TOLERANCE * pixel.min():
            raise DicomError(
                f"{_frame_text(number)} of the SEG lies {np.linalg.norm(aside):.2f} mm beside the first, within its "
                "plane: the frames are no rectangular stack. Give the series they were made from."
            )


def _slice_spacing(heights: NDArray[np.float64], step: float) -> float:
    """Distance between slices in mm: the file's own where positions are multiples of it, else the smallest gap."""
    ordered = np.sort(heights)
    gaps = np.diff(ordered)
    gaps = gaps[gaps > INDEX_TOLERANCE * step]
    if not gaps.size:
        return step
    for spacing in (step, float(gaps.min())):
        multiples = (ordered - ordered[0]) / spacing
        if np.abs(multiples - np.rint(multiples)).max() <= INDEX_TOLERANCE:
            count = float(np.rint(multiples[-1]))
            return float(ordered[-1] - ordered[0]) / count
    raise DicomError(
        f"The frames of the SEG are {gaps.min():.3f} to {gaps.max():.3f} mm apart, not multiples of one distance: give "
        "the series they were made from."
    )


def _frame_text(number: int) -> str:
    return f"Frame {number}"


def _remedy(frame: Frame, grid: SeriesGrid) -> str:
    plane = frame.plane_lps
    size = "" if plane is None else "×".join(f"{s:.4g}" for s in np.linalg.norm(plane[:3, :2], axis=0))
    series = " × ".join(f"{s:.4g}" for s in grid.spacing_mm)
    return (
        f"Its pixels are {size} mm, the grid's voxels {series} mm. Is it a SEG of this series? Read without a series "
        "it comes on its own grid, and can be resampled from there."
    )
