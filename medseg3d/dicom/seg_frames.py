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
from medseg3d.geometry import Affine

__all__ = ["Frame", "Placement", "Source", "functional_group", "place", "read_frames"]

# How far, in voxels along any axis, a frame may lie from the voxels of the grid it is put on. Positions are rounded in
# files and the spacing of a series is averaged over it; a tenth of a voxel moves no mask.
INDEX_TOLERANCE = 0.1
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
