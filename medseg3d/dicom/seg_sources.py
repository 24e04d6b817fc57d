"""The images that a mask was made from, as highdicom wants them to write a SEG that refers to them.

highdicom reads the images' headers itself, and stops at the first value that breaks a rule: an empty character set, a
name of one part, functional groups in another place. It is given headers with only what it needs of them: identity and
geometry. Patient and study are copied afterwards, as they stand there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef
from medseg3d.dicom.seg_files import damage_as_error, read_dataset
from medseg3d.dicom.seg_frames import functional_group
from medseg3d.errors import DicomError
from medseg3d.volume import GRID_TOLERANCE_MM

__all__ = ["lean_sources", "read_headers", "renumber_frames"]

# What highdicom asks of an image and copies: filled with nothing here, and with the real values afterwards.
FILLED_LATER = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
                "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator")  # fmt: skip
COPIED = ("Modality", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def read_headers(grid: SeriesGrid) -> dict[FileRef, Any]:
    """Header of every file of a grid, read again.

    Raises:
        DicomError: a grid without slices (resampled), or without study or frame of reference; a file that is gone,
            damaged or another one by now; frames of several multi-frame instances.
    """
    if not grid.slices:
        raise DicomError(
            f"The grid of series {grid.series_uid} was resampled: its slices are no images that a SEG can refer to. "
            "Bring the mask back onto the grid of the series first."
        )
    for name, uid in (("study", grid.study_uid), ("frame of reference", grid.frame_of_reference_uid)):
        if not uid:
            raise DicomError(
                f"Series {grid.series_uid} has no UID of its {name}, and a SEG must name it: write the mask as NIfTI, "
                "or export the series again."
            )
    headers: dict[FileRef, Any] = {}
    for ref in grid.slices:
        if ref.file not in headers:
            headers[ref.file] = _header(ref)
    if len(headers) > 1 and any(ref.frame is not None for ref in grid.slices):
        raise DicomError(f"Series {grid.series_uid} has {len(headers)} multi-frame files: a SEG is written over one.")
    return headers


def lean_sources(grid: SeriesGrid, headers: dict[FileRef, Any]) -> list[Any]:
    """What highdicom needs of the images: one data set a slice, or one multi-frame one with the grid's frames only."""
    first = headers[grid.slices[0].file]
    if grid.slices[0].frame is None:
        sources = [_lean(ref, headers[ref.file], grid) for ref in grid.slices]
        for k, (source, ref) in enumerate(zip(sources, grid.slices, strict=True)):
            source.update(_plane(headers[ref.file], None, grid, k))
        return sources
    source = _lean(grid.slices[0], first, grid)
    planes = [_plane(*_groups(first, ref.frame), grid, k) for k, ref in enumerate(grid.slices)]
    shared = _dataset(
        PixelMeasuresSequence=[_part(planes[0], "PixelSpacing", "SliceThickness")],
        PlaneOrientationSequence=[_part(planes[0], "ImageOrientationPatient")],
    )
    source.NumberOfFrames = len(planes)
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = [
        _dataset(PlanePositionSequence=[_part(plane, "ImagePositionPatient")]) for plane in planes
    ]
    return [source]


def renumber_frames(seg: Any, grid: SeriesGrid) -> None:
    """Turn references to the n-th frame of a lean multi-frame source into those to the real one's frames."""
    images = [
        image
        for groups in seg.PerFrameFunctionalGroupsSequence
        for derivation in groups.get("DerivationImageSequence", ())
        for image in derivation.SourceImageSequence
        if "ReferencedFrameNumber" in image
    ]
    # Frames of several segments in one plane share one item: each is turned once.
    for image in {id(image): image for image in images}.values():
        number = image.ReferencedFrameNumber
        listed = number if isinstance(number, Sequence) else [number]
        image.ReferencedFrameNumber = [grid.slices[int(n) - 1].frame for n in listed]


def _header(ref: SliceRef) -> Any:
    with damage_as_error(ref.file, "an image of the series"):
        header = read_dataset(ref.file, stop_before_pixels=True)
        if str(header.SOPInstanceUID) != ref.sop_instance_uid:
            raise DicomError(f"holds the instance {header.SOPInstanceUID}, not {ref.sop_instance_uid} as before.")
    return header


def _lean(ref: SliceRef, header: Any, grid: SeriesGrid) -> Any:
    source = _dataset(
        SOPClassUID=ref.sop_class_uid,
        SOPInstanceUID=ref.sop_instance_uid,
        StudyInstanceUID=grid.study_uid,
        SeriesInstanceUID=grid.series_uid,
        FrameOfReferenceUID=grid.frame_of_reference_uid,
        Columns=grid.shape[0],
        Rows=grid.shape[1],
        SpecificCharacterSet="ISO_IR 192",
        **dict.fromkeys(FILLED_LATER),
    )
    for keyword in COPIED:
        if keyword in header:
            source[keyword] = header[keyword]
    return source


def _groups(header: Any, frame: int | None) -> tuple[Any, Any]:
    """Functional groups of a frame, and those that all frames share."""
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), None)
    return header.PerFrameFunctionalGroupsSequence[(frame or 1) - 1], shared


def _plane(groups: Any, shared: Any, grid: SeriesGrid, k: int) -> Any:
    """Position, orientation and pixels of slice ``k`` as the image gives them, else as the grid does.

    The image's own numbers go first: viewers may compare them digit by digit.
    """
    affine, spacing = grid.affine_lps, grid.spacing_mm
    axes = affine[:3, :3] / spacing
    from_grid = {
        "ImagePositionPatient": affine[:3] @ (0, 0, k, 1),
        "ImageOrientationPatient": np.concatenate([axes[:, 0], axes[:, 1]]),
        "PixelSpacing": (spacing[1], spacing[0]),
        "SliceThickness": spacing[2],
    }
    holders = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
        "SliceThickness": "PixelMeasuresSequence",
    }
    plane = _dataset()
    for keyword, ours in from_grid.items():
        holder = groups if shared is None and keyword in groups else functional_group(holders[keyword], groups, shared)
        theirs = holder.get(keyword) if holder is not None else None
        setattr(plane, keyword, theirs if _agree(theirs, ours) else _decimal(ours))
    return plane


def _agree(theirs: Any, ours: Any) -> bool:
    """Whether an image's numbers are those of the grid; they are not where it is a mosaic or lacks them."""
    if theirs is None or np.shape(theirs) != np.shape(ours):
        return False
    return bool(np.allclose(np.asarray(theirs, dtype=np.float64), ours, rtol=0, atol=GRID_TOLERANCE_MM))


def _decimal(values: Any) -> Any:
    from pydicom.valuerep import format_number_as_ds

    if np.ndim(values) == 0:
        return format_number_as_ds(float(values))
    return [format_number_as_ds(float(value)) for value in values]


def _part(plane: Any, *keywords: str) -> Any:
    return _dataset(**{keyword: plane[keyword].value for keyword in keywords})


def _dataset(**attributes: Any) -> Any:
    from pydicom import Dataset

    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset
