"""What an RTSTRUCT file says: its ROIs and their contours in patient millimetres. Parsing only, no geometry."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import RTStructureSetStorage

from medseg3d.dicom.attributes import PARSE_ERRORS
from medseg3d.dicom.files import Opener
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.source import values_as_they_are
from medseg3d.errors import DicomError

__all__ = ["Contour", "Roi", "StructureSet", "read_structure_set"]

CONTOUR_DATA = 0x30060050
MAX_COORDINATE_MM = 1e9  # sums and products of smaller ones stay finite

DAMAGE = (*PARSE_ERRORS, BytesLengthException, InvalidDicomError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Contour:
    """One item of a Contour Sequence.

    Attributes:
        kind: Contour Geometric Type, such as ``CLOSED_PLANAR``; empty where it is missing.
        points_lps: array (n, 3), mm; no points where the data is damaged.
        images: SOP Instance UID and frame (None: the whole instance) of the images that the file names for it.
        damage: what is wrong with the data, empty where nothing is.
    """

    kind: str
    points_lps: NDArray[np.float64]
    images: tuple[tuple[str, int | None], ...] = ()
    damage: str = ""


@dataclass(frozen=True)
class Roi:
    """One structure.

    Attributes:
        number, name: as in the file; an empty name becomes ``ROI <number>``.
        frame_of_reference_uid: that its coordinates belong to; empty where the file does not say.
        contours: in the file's order.
        color_rgb: ROI Display Color.
        meaning: what its identification code means, or its interpreted type; may be empty.
    """

    number: int
    name: str
    frame_of_reference_uid: str
    contours: tuple[Contour, ...]
    color_rgb: tuple[int, int, int] | None = None
    meaning: str = ""

    def __str__(self) -> str:
        return f"ROI {self.name!r}"


@dataclass(frozen=True)
class StructureSet:
    """The ROIs of a file, and the series it says they were drawn on."""

    rois: tuple[Roi, ...]
    series_uids: frozenset[str]


def read_structure_set(file: str | Path | FileRef) -> StructureSet:
    """Read the ROIs of an RTSTRUCT file.

    Damage inside one contour is told in that contour; what makes the file as a whole unreadable raises.

    Raises:
        DicomError: no such file, no DICOM file, another kind of object, two ROIs with one number, or damage in the
            file's structure.
    """
    reference = file if isinstance(file, FileRef) else FileRef(Path(file))
    try:
        with values_as_they_are(), Opener() as opener, opener.open(reference) as stream:
            return _structure_set(dcmread(stream), reference)
    except DAMAGE as error:
        raise DicomError(
            f"{reference}: not readable as an RTSTRUCT ({error or type(error).__name__}). "
            "Copy or export it again; it may be truncated."
        ) from error


def _structure_set(dataset: Dataset, reference: FileRef) -> StructureSet:
    kind = dataset.get("SOPClassUID", "")
    if kind != RTStructureSetStorage:
        name = getattr(kind, "name", "") or "an object without SOP Class UID"
        raise DicomError(f"{reference}: this is {name}, not an RT Structure Set.")
    for keyword in ("StructureSetROISequence", "ROIContourSequence"):
        if keyword not in dataset:
            raise DicomError(f"{reference}: the structure set has no {keyword}: it is truncated. Export it again.")
    displays = {int(item.ReferencedROINumber): item for item in dataset.ROIContourSequence or ()}
    observations = {int(i.ReferencedROINumber): i for i in dataset.get("RTROIObservationsSequence") or ()}
    rois: dict[int, Roi] = {}
    for item in dataset.StructureSetROISequence or ():
        number = int(item.ROINumber)
        if number in rois:
            raise DicomError(f"{reference}: two ROIs have the number {number}: whose contours are whose is not known.")
        rois[number] = _roi(item, displays.pop(number, None), observations.get(number))
    if displays:
        listed = ", ".join(map(str, sorted(displays)))
        raise DicomError(
            f"{reference}: contours of ROI number {listed}, which the structure set does not define. "
            "The file is damaged: export it again."
        )
    return StructureSet(tuple(rois.values()), frozenset(_series_uids(dataset)))


def _roi(item: Dataset, display: Dataset | None, observation: Dataset | None) -> Roi:
    number = int(item.ROINumber)
    color = None if display is None else display.get("ROIDisplayColor")
    return Roi(
        number=number,
        name=str(item.get("ROIName") or "").strip() or f"ROI {number}",
        frame_of_reference_uid=str(item.get("ReferencedFrameOfReferenceUID") or ""),
        contours=() if display is None else tuple(_contour(c) for c in display.get("ContourSequence") or ()),
        color_rgb=_color(color),
        meaning=_meaning(observation),
    )


def _color(value: Any) -> tuple[int, int, int] | None:
    numbers = [int(v) for v in value] if value else []
    if len(numbers) != 3 or not all(0 <= n <= 255 for n in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]


def _meaning(observation: Dataset | None) -> str:
    if observation is None:
        return ""
    for code in observation.get("RTROIIdentificationCodeSequence") or ():
        return str(code.get("CodeMeaning") or "")
    return str(observation.get("RTROIInterpretedType") or "")


def _contour(item: Dataset) -> Contour:
    kind = str(item.get("ContourGeometricType") or "").strip()
    images = tuple(_images(item))
    try:
        points = _points(item)
    except ValueError as error:
        return Contour(kind, np.empty((0, 3)), images, str(error))
    stated = item.get("NumberOfContourPoints")
    if stated is not None and int(stated) != len(points):
        return Contour(kind, np.empty((0, 3)), images, f"{len(points)} points where {int(stated)} are announced")
    return Contour(kind, points, images)


def _points(item: Dataset) -> NDArray[np.float64]:
    """Contour Data as numbers, past pydicom's object for each of them: large files have millions."""
    if CONTOUR_DATA not in item:
        return np.empty((0, 3))
    element = item.get_item(CONTOUR_DATA)
    values: list[Any]
    if isinstance(element, RawDataElement):
        text = (element.value or b"").strip(b" \0")
        values = text.split(b"\\") if text else []
    else:
        value = item[CONTOUR_DATA].value
        values = list(value) if not isinstance(value, str | float | None) else [value] if value else []
    try:
        numbers = np.array([float(v) for v in values])
    except ValueError as error:
        raise ValueError(f"a coordinate that is no number ({error})") from error
    if not (np.abs(numbers) < MAX_COORDINATE_MM).all():  # false for NaN too
        raise ValueError(f"a coordinate that is NaN, infinite or beyond {MAX_COORDINATE_MM:g} mm")
    if len(numbers) % 3:
        raise ValueError(f"{len(numbers)} coordinates, which is no multiple of 3")
    return numbers.reshape(-1, 3)


def _images(item: Dataset) -> Iterator[tuple[str, int | None]]:
    for image in item.get("ContourImageSequence") or ():
        uid = str(image.get("ReferencedSOPInstanceUID") or "")
        frames = image.get("ReferencedFrameNumber")
        if frames is None or frames == "":
            yield uid, None
            continue
        for frame in [frames] if isinstance(frames, int) else frames:
            yield uid, int(frame)


def _series_uids(dataset: Dataset) -> Iterator[str]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                if series.get("SeriesInstanceUID"):
                    yield str(series.SeriesInstanceUID)
