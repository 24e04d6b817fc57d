"""The images that a mask was made from, as highdicom wants them to write a SEG that refers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef
from medseg3d.dicom.seg_files import damage_as_error, read_dataset
from medseg3d.errors import DicomError

__all__ = ["frame_numbers", "read_sources", "renumber_frames"]

# Attributes that every image must have, if only empty (PS3.3, type 2 of the patient and study modules). Many files lack
# some of them, and highdicom asks for all.
MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
                "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator")  # fmt: skip


def read_sources(grid: SeriesGrid) -> list[Any]:
    """Headers of the instances of a grid: one a slice, or the one multi-frame instance cut to the grid's frames.

    Raises:
        DicomError: a grid without slices (resampled); a file that is gone, damaged or another one by now; frames of
            several multi-frame instances.
    """
    if not grid.slices:
        raise DicomError(
            f"The grid of series {grid.series_uid} was resampled: its slices are no images that a SEG can refer to. "
            "Bring the mask back onto the grid of the series first."
        )
    headers: dict[FileRef, Any] = {}
    for ref in grid.slices:
        if ref.file not in headers:
            headers[ref.file] = _header(ref)
    if frame_numbers(grid) is None:
        return [headers[ref.file] for ref in grid.slices]
    if len(headers) > 1:
        raise DicomError(
            f"The volume of series {grid.series_uid} comes from {len(headers)} multi-frame files: a SEG needs one."
        )
    return [_cut(next(iter(headers.values())), grid)]


def frame_numbers(grid: SeriesGrid) -> list[int] | None:
    """Number of the frame that each slice of the grid came from; None for single-frame instances."""
    numbers = [ref.frame for ref in grid.slices if ref.frame is not None]
    return numbers if len(numbers) == len(grid.slices) else None


def renumber_frames(seg: Any, numbers: Sequence[int]) -> None:
    """Turn references to the n-th frame of the cut source into references to ``numbers[n - 1]`` of the real one."""
    for groups in seg.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence", ()):
            for image in derivation.SourceImageSequence:
                referenced = image.get("ReferencedFrameNumber")
                if referenced is not None:
                    listed = referenced if isinstance(referenced, Sequence) else [referenced]
                    image.ReferencedFrameNumber = [numbers[int(n) - 1] for n in listed]


def _header(ref: SliceRef) -> Any:
    with damage_as_error(ref.file, "an image of the series"):
        header = read_dataset(ref.file, stop_before_pixels=True)
        if str(header.SOPInstanceUID) != ref.sop_instance_uid:
            raise DicomError(
                f"holds the instance {header.SOPInstanceUID}, not {ref.sop_instance_uid} as before: it was "
                "changed meanwhile."
            )
        for keyword in MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, None)
    return header


def _cut(header: Any, grid: SeriesGrid) -> Any:
    """A multi-frame header with only the grid's frames, in the grid's order."""
    groups = list(header.PerFrameFunctionalGroupsSequence)
    header.PerFrameFunctionalGroupsSequence = [groups[number - 1] for number in frame_numbers(grid) or ()]
    header.NumberOfFrames = len(grid.slices)
    return header
