"""Which image series the annotations of a scan were drawn on."""

from __future__ import annotations

from dataclasses import replace

from medseg3d.dicom.frames import Annotated
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.scanning import Scan
from medseg3d.errors import DicomError

__all__ = ["matched_annotations", "unmatched_annotations"]


def matched_annotations(found: Scan) -> tuple[Annotated, ...]:
    """The annotations of a scan, each with the series it refers to.

    A structure set may name no series (the sequence is optional), but the images of its contours: then it refers to
    the series that have them.
    """
    unnamed = [file for file in found.annotations if file.modality == "RTSTRUCT" and not file.referenced_series]
    if not unnamed:
        return found.annotations
    series_of = {
        frame.source.sop_instance_uid: series.uid
        for series in found.series
        for stack in series.stacks
        for frame in stack.frames
    }
    return tuple(
        replace(file, referenced_series=_series_of_contours(file.file, series_of)) if file in unnamed else file
        for file in found.annotations
    )


def unmatched_annotations(found: Scan) -> list[Annotated]:
    """Annotations that refer to none of the series that were found: no label map is made of them."""
    known = {series.uid for series in found.series}
    return [file for file in matched_annotations(found) if not known & set(file.referenced_series)]


def _series_of_contours(file: FileRef, series_of: dict[str, str]) -> tuple[str, ...]:
    """The series with the images of a structure set's contours, each once; none where the file is damaged."""
    # Most scans have no such file, and its reader takes a while to import.
    from medseg3d.dicom.structure_set import read_structure_set

    try:
        rois = read_structure_set(file).rois
    except DicomError:
        return ()
    images = dict.fromkeys(uid for roi in rois for contour in roi.contours for uid, _ in contour.images)
    return tuple(dict.fromkeys(series_of[uid] for uid in images if uid in series_of))
