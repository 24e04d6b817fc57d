"""DICOM SEG to masks on the grid of their source series: binary, fractional and label maps, overlapping or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.annotation import Annotation, Segment
from medseg3d.dicom.codes import rgb_of_lab
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.seg_files import damage_as_error, read_dataset
from medseg3d.dicom.seg_frames import Frame, Placement, place, read_frames
from medseg3d.dicom.seg_grid import own_grid
from medseg3d.dicom.seg_references import reference_findings
from medseg3d.errors import DicomError

__all__ = ["read_seg"]

SEG_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
}
TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
BACKGROUND_CODE = "125040"  # DCM: of the segment of a label map that stands for "nothing"


def read_seg(file: FileRef | str | Path, grid: SeriesGrid | None = None, *, threshold: float = 0.5) -> Annotation:
    """Read a SEG: each segment as a mask on ``grid``.

    Frames are put on the grid by their position and orientation. Nothing is resampled: pixels that are not voxels of
    the grid are refused.

    Args:
        file: the SEG, alone or in a zip archive.
        grid: of the series it was made from; None for the SEG's own.
        threshold: a voxel of a fractional segment belongs to it from this part of the largest value on, 0 to 1.

    Returns:
        The segments in the order of their numbers, those without voxels too; background is none. Findings:
        ``thresholded``, ``other_series``, ``other_frame_of_reference``, ``missing_source_slices``,
        ``outside_series``, ``undescribed_segment``, ``contradicting_reference``.

    Raises:
        DicomError: not a SEG, damaged, tiled, or not on this grid; two frames that contradict each other.
    """
    if not 0 < threshold <= 1:
        raise DicomError(f"The threshold {threshold} is not a part of the largest value: above 0, at most 1.")
    ref = file if isinstance(file, FileRef) else FileRef(Path(file))
    with damage_as_error(ref, "a DICOM SEG"):
        dataset = read_dataset(ref)
        _require_seg(dataset)
        frames = read_frames(dataset)
        findings = [] if grid is None else list(reference_findings(dataset, frames, grid))
        if grid is None:
            grid = _own_grid(dataset, frames)
        canvas, background = _Canvas(grid), _background(dataset)
        for number, frame, pixels in _decoded(dataset, frames):
            placement = place(frame, number, columns=pixels.shape[1], rows=pixels.shape[0], grid=grid)
            for segment, mask in _masks_of(frame, pixels, dataset, threshold, background):
                canvas.add(segment, placement, mask, number)
        segments, undescribed = _segments(dataset, canvas)
    findings += [*_threshold_findings(dataset, threshold), *canvas.findings(), *undescribed]
    return Annotation(segments, grid, tuple(findings))


@dataclass
class _Canvas:
    """Collects the frames of every segment on a grid, keeping only the boxes that have voxels."""

    grid: SeriesGrid
    parts: dict[int, dict[tuple[int, ...], Segment]] = field(default_factory=dict)  # of each segment, by place
    outside_voxels: int = 0
    outside_frames: int = 0

    def add(self, segment: int, placement: Placement, mask: NDArray[np.bool_], number: int) -> None:
        """Put a frame's mask (row, column) in its place.

        Raises:
            DicomError: another frame of the segment lies at the same place with other voxels.
        """
        slab = placement.turn(mask)
        inside = tuple(
            slice(max(0, -start), max(0, min(size, limit - start)))
            for start, size, limit in zip(placement.start, placement.shape, self.grid.shape, strict=True)
        )
        kept = slab[inside]
        lost = int(np.count_nonzero(mask)) - int(np.count_nonzero(kept))
        self.outside_voxels += lost
        self.outside_frames += lost > 0
        i, j, k = (start + part.start for start, part in zip(placement.start, inside, strict=True))
        part = Segment.of(name="", number=segment, mask=kept, start=(i, j, k), shape=self.grid.shape)
        earlier = self.parts.setdefault(segment, {}).setdefault(placement.start + placement.axes, part)
        if earlier.start != part.start or not np.array_equal(earlier.voxels, part.voxels):
            raise DicomError(
                f"Frame {number} of segment {segment} lies where an earlier frame of it lies, with other voxels: a SEG "
                "of several times or phases, or a damaged one."
            )

    def segment(self, number: int, **described: Any) -> Segment:
        """All frames of a segment as one."""
        parts = [part for part in self.parts.get(number, {}).values() if part.voxels.size]
        if not parts:
            return Segment.of(number=number, mask=np.zeros((0, 0, 0), bool), shape=self.grid.shape, **described)
        i, j, k = np.min([part.start for part in parts], axis=0).tolist()
        end = np.max([np.add(part.start, part.voxels.shape) for part in parts], axis=0)
        mask = np.zeros(end - (i, j, k), dtype=bool)
        for part in parts:
            begin = np.subtract(part.start, (i, j, k))
            mask[tuple(slice(b, b + n) for b, n in zip(begin, part.voxels.shape, strict=True))] |= part.voxels
        return Segment(number=number, shape=self.grid.shape, start=(i, j, k), voxels=mask, **described)

    def findings(self) -> Iterator[Finding]:
        if self.outside_voxels:
            yield Finding(
                "outside_series",
                "warning",
                f"{self.outside_voxels} voxels in {self.outside_frames} frames lie outside the series: left out.",
                "Is a part of the series missing? Export it again, or read the SEG on its own grid.",
            )


def _require_seg(dataset: Any) -> None:
    kind = dataset.get("SOPClassUID")
    if kind not in SEG_CLASSES:
        name = getattr(kind, "name", "") or "no SOP class"
        raise DicomError(f"not a segmentation but {name} (modality {dataset.get('Modality', 'not given')}).")
    if dataset.get("SegmentationType") not in TYPES:
        raise DicomError(f"the segmentation type {dataset.get('SegmentationType')!r} is none of {', '.join(TYPES)}.")
    if dataset.get("TotalPixelMatrixColumns") is not None:
        raise DicomError("a tiled SEG of slide microscopy: it has no volume, and is not read here.")
    if "PixelData" not in dataset:
        raise DicomError("the SEG has no pixel data: the file is damaged, or headers only.")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1:
        raise DicomError(f"{frames} frames of {columns}×{rows} pixels: the file is damaged.")


def _own_grid(dataset: Any, frames: Sequence[Frame]) -> SeriesGrid:
    series = [str(item.get("SeriesInstanceUID", "")) for item in dataset.get("ReferencedSeriesSequence") or ()]
    return own_grid(
        frames,
        columns=int(dataset.Columns),
        rows=int(dataset.Rows),
        study_uid=str(dataset.get("StudyInstanceUID", "")),
        series_uid=series[0] if len(series) == 1 else "",
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID", "")),
    )


def _decoded(dataset: Any, frames: Sequence[Frame]) -> Iterator[tuple[int, Frame, NDArray[Any]]]:
    """Number from 1, header and stored values (row, column) of every frame, one at a time."""
    from pydicom.pixels import iter_pixels
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    packed = dataset.BitsAllocated == 1 and not syntax.is_compressed
    # raw: the values themselves, also where a label map has a palette. GDCM, which pydicom would ask first, ends the
    # whole process on some damaged run lengths.
    options = {"raw": True, "decoding_plugin": "pydicom" if syntax == RLELossless else ""}
    decoded = _unpacked(dataset, len(frames)) if packed else iter_pixels(dataset, **options)
    for number, frame in enumerate(frames, start=1):
        pixels = next(decoded, None)
        if pixels is None:
            raise DicomError(f"the SEG describes {len(frames)} frames and holds {number - 1}: it is truncated.")
        yield number, frame, pixels


def _unpacked(dataset: Any, count: int) -> Iterator[NDArray[np.uint8]]:
    """Frames (row, column) of one bit a pixel, which follow each other without regard to bytes (PS3.5 8.1.1).

    pydicom 3.0 stops at frames that do not begin at a byte.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    size = rows * columns
    data = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    for begin in range(0, min(count, 8 * len(data) // size) * size, size):
        first, last = begin // 8, -(-(begin + size) // 8)
        bits = np.unpackbits(data[first:last], bitorder="little")[begin % 8 :][:size]
        yield bits.reshape(rows, columns)


def _masks_of(
    frame: Frame, pixels: NDArray[Any], dataset: Any, threshold: float, background: set[int]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Number and mask of each segment that a frame holds."""
    if frame.segment is None:
        for value in np.flatnonzero(np.bincount(pixels.ravel())).tolist():
            if value not in background:
                yield value, pixels == value
    elif dataset.SegmentationType == "BINARY":
        yield frame.segment, pixels != 0
    else:
        yield frame.segment, pixels >= threshold * _largest(dataset)


def _largest(dataset: Any) -> int:
    largest = int(dataset.get("MaximumFractionalValue") or 0)
    if largest < 1:
        raise DicomError(
            "a fractional SEG without its largest value (MaximumFractionalValue): it cannot be thresholded."
        )
    return largest


def _segments(dataset: Any, canvas: _Canvas) -> tuple[tuple[Segment, ...], list[Finding]]:
    described = _described(dataset)
    unknown = sorted(set(canvas.parts) - set(described))
    findings = [
        Finding(
            "undescribed_segment",
            "warning",
            f"The SEG has voxels of segment {number} and does not describe it: it is named 'segment {number}'.",
        )
        for number in unknown
    ]
    segments = [canvas.segment(number, **_description(item, number)) for number, item in sorted(described.items())]
    segments += [canvas.segment(number, name=f"segment {number}") for number in unknown]
    return tuple(segments), findings


def _described(dataset: Any) -> dict[int, Any]:
    """Number and description of every segment that is not background."""
    background = _background(dataset)
    items = dataset.get("SegmentSequence") or ()
    return {int(item.SegmentNumber): item for item in items if int(item.SegmentNumber) not in background}


def _background(dataset: Any) -> set[int]:
    """Values of a label map that mean no segment: its padding, segments of that code, and 0 unless it is described."""
    if dataset.SegmentationType != "LABELMAP":
        return set()
    codes = {
        int(item.SegmentNumber): str(kinds[0].get("CodeValue", "")) if kinds else ""
        for item in dataset.get("SegmentSequence") or ()
        for kinds in [item.get("SegmentedPropertyTypeCodeSequence")]
    }
    values = {number for number, code in codes.items() if code == BACKGROUND_CODE}
    padding = dataset.get("PixelPaddingValue")
    return values | ({0} - set(codes)) | ({int(padding)} if padding is not None else set())


def _description(item: Any, number: int) -> dict[str, Any]:
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or ()
    lab = item.get("RecommendedDisplayCIELabValue")
    return {
        "name": str(item.get("SegmentLabel") or f"segment {number}"),
        "meaning": str(kinds[0].get("CodeMeaning", "")) if kinds else "",
        "color_rgb": rgb_of_lab(lab) if lab and len(lab) == 3 else None,
    }


def _threshold_findings(dataset: Any, threshold: float) -> Iterator[Finding]:
    if dataset.SegmentationType == "FRACTIONAL":
        kind = str(dataset.get("SegmentationFractionalType", "fraction")).lower()
        yield Finding(
            "thresholded",
            "note",
            f"The segments hold a {kind} from 0 to {_largest(dataset)}: a voxel is in from {threshold:g} of that on.",
        )
