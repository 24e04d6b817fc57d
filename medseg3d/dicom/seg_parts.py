"""A DICOM SEG on a series whose slices are no regular grid: read on each regular part, and nothing lost in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from medseg3d.dicom.annotation import Annotation, Segment
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.rtstruct_place import on_missing_slices
from medseg3d.dicom.rtstruct_read import joined, settled
from medseg3d.dicom.seg_read import read_seg

__all__ = ["read_seg_in_parts"]

# Of one part these say nothing: the others may have what it lacks.
OF_THE_WHOLE = frozenset({"outside_series", "missing_source_slices"})


def read_seg_in_parts(
    file: FileRef, parts: Sequence[SeriesGrid], *, select: Callable[[str], bool], accept: Collection[str] = ()
) -> Annotation:
    """``read_seg`` on the slices that there are.

    Args:
        file: the SEG.
        parts: grids one after another, each of a part of the series' slices.
        select: takes a segment's name and tells whether it is wanted: what others lose is not told.
        accept: ``on_missing_slices``, to go on where a segment has voxels on missing slices alone.

    Returns:
        The segments, with one slice for each slice that there is; the finding ``on_missing_slices`` for each wanted
        one that loses voxels.

    Raises:
        DicomError: see ``read_seg``; or a wanted segment has voxels on missing slices alone.
    """
    pieces = [read_seg(file, part) for part in parts]
    drawn = {segment.number: segment.count for segment in read_seg(file).segments}
    segments = [_joined(same) for same in zip(*(piece.segments for piece in pieces), strict=True)]
    findings = [f for piece in pieces for f in piece.findings if f.code not in OF_THE_WHOLE]
    findings += _lost([segment for segment in segments if select(segment.name)], drawn)
    return Annotation(tuple(segments), joined(parts), tuple(settled(dict.fromkeys(findings), accept, str(file))))


def _joined(same: Sequence[Segment]) -> Segment:
    first, mask = same[0], np.concatenate([segment.mask for segment in same], axis=2)
    return Segment.of(name=first.name, number=first.number, mask=mask, meaning=first.meaning, color_rgb=first.color_rgb)


def _lost(segments: Sequence[Segment], drawn: Mapping[int, int]) -> Iterator[Finding]:
    for segment in segments:
        lost = drawn.get(segment.number, 0) - segment.count
        if lost > 0:
            what = f"Segment {segment.name!r}: {lost} of {drawn[segment.number]} voxels"
            yield on_missing_slices(what, nothing_left=not segment.count)
