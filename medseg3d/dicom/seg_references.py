"""What a DICOM SEG says about the images it was made from, held against the series it is put on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.seg_frames import Frame
from medseg3d.errors import DicomError

__all__ = ["reference_findings"]


def reference_findings(dataset: Any, frames: Sequence[Frame], grid: SeriesGrid) -> Iterator[Finding]:
    """What the file says about its source, held against the series it is put on.

    Raises:
        DicomError: another frame of reference and another series: the positions mean nothing on this grid.
    """
    series = {str(item.get("SeriesInstanceUID", "")) for item in dataset.get("ReferencedSeriesSequence") or ()}
    same_series = not series or grid.series_uid in series
    frame_of_reference = str(dataset.get("FrameOfReferenceUID", ""))
    same_frame = not frame_of_reference or frame_of_reference == grid.frame_of_reference_uid
    if not same_series and not same_frame:
        raise DicomError(
            f"the SEG was made from the series {', '.join(sorted(series))} in another frame of reference than the "
            f"series {grid.series_uid}: its positions mean nothing there."
        )
    if not same_series:
        yield Finding(
            "other_series",
            "note",
            f"The SEG was made from another series ({', '.join(sorted(series))}) in the same frame of reference.",
        )
    if not same_frame:
        yield Finding(
            "other_frame_of_reference",
            "warning",
            "The SEG refers to this series but has another frame of reference: its positions are taken as they are.",
            "Look at the mask over the images.",
        )
    if same_series:
        yield from _source_findings(frames, grid)


def _source_findings(frames: Sequence[Frame], grid: SeriesGrid) -> Iterator[Finding]:
    if not grid.slices:
        return
    index = {(ref.sop_instance_uid, ref.frame): k for k, ref in enumerate(grid.slices)}
    sources = {source for frame in frames for source in frame.sources}
    missing = sum(source not in index for source in sources)
    if missing:
        yield Finding(
            "missing_source_slices",
            "warning",
            f"{missing} of the {len(sources)} images that the SEG was made from are not in the series.",
            "Export the series again: is it complete?",
        )
    normal = np.linalg.inv(grid.affine_lps)[2]
    wrong = sum(
        frame.plane_lps is not None
        and any(abs(normal @ frame.plane_lps[:, 3] - index[s]) > 0.5 for s in frame.sources if s in index)
        for frame in frames
    )
    if wrong:
        yield Finding(
            "contradicting_reference",
            "warning",
            f"{wrong} of {len(frames)} frames lie elsewhere than the image they refer to: they are put where they lie.",
            "Look at the mask over the images.",
        )
