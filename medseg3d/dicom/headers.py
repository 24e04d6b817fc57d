"""Reading what a file says, without its pixels: single-frame images, multi-frame ones, and the rest."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
)

from medseg3d.dicom.attributes import (
    EMPTY,
    PARSE_ERRORS,
    first,
    integer,
    items,
    number,
    numbers,
    text,
    texts,
    uid_name,
    words,
)
from medseg3d.dicom.files import Opener, is_dicom
from medseg3d.dicom.frames import Frame, Header, PixelLayout, RealWorldMap
from medseg3d.dicom.layout import pixel_layout
from medseg3d.dicom.model import FileRef, SliceRef
from medseg3d.dicom.mosaic import is_mosaic, mosaic_frames
from medseg3d.dicom.traits import frame_traits
from medseg3d.errors import DicomError

__all__ = ["FILE_ERRORS", "Other", "Unreadable", "read_file", "reason_of"]

FILE_ERRORS = (*PARSE_ERRORS, DicomError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is DICOM, or meant to be, and cannot be read."""

    file: FileRef
    reason: str


@dataclass(frozen=True, slots=True)
class Other:
    """A DICOM object that is no image: reports, structure sets, segmentations, …"""

    file: FileRef
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    modality: str
    description: str
    referenced_series: tuple[str, ...] = ()
    patient_id: str = field(repr=False, default="")


_CUT_SHORT = "without pixel data: the file is cut short or holds the header alone"

# No scanner is a kilometre wide: a coordinate beyond it is damage.
_FARTHEST_MM = 1e6


def read_file(ref: FileRef, opener: Opener) -> Header | Other | Unreadable | None:
    """What a file is and says; None for a file that is not DICOM."""
    try:
        with opener.open(ref) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = stream.read(140)
            if not is_dicom(head):
                return None
            stream.seek(0)
            return _read(ref, stream)
    except FILE_ERRORS as error:
        return Unreadable(ref, reason_of(error))


def reason_of(error: BaseException) -> str:
    """An error as one short line, for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}" if str(error) else type(error).__name__


def _read(ref: FileRef, stream: BinaryIO) -> Header | Other | Unreadable | None:
    ds = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    if text(getattr(ds, "file_meta", EMPTY), "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None  # a DICOMDIR by another name
    sop_class, sop_uid = text(ds, "SOPClassUID"), text(ds, "SOPInstanceUID")
    if not sop_class and not sop_uid and not text(ds, "SeriesInstanceUID"):
        return Unreadable(ref, "neither SOPClassUID, SOPInstanceUID nor SeriesInstanceUID: not a DICOM object")
    if text(ds, "Modality") in ("SEG", "RTSTRUCT"):
        return _other(ref, ds)
    if "Rows" not in ds or "Columns" not in ds:
        cut = uid_name(sop_class).endswith("Image Storage") or not text(ds, "SeriesInstanceUID")
        return Unreadable(ref, f"an image {_CUT_SHORT}") if cut else _other(ref, ds)
    layout = pixel_layout(ds, stream)
    if layout is None:
        return Unreadable(ref, f"an image {_CUT_SHORT}")
    return Header(
        file=ref,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_uid,
        series_uid=text(ds, "SeriesInstanceUID"),
        study_uid=text(ds, "StudyInstanceUID"),
        frame_of_reference_uid=text(ds, "FrameOfReferenceUID"),
        patient_id=words(ds, "PatientID"),
        modality=text(ds, "Modality"),
        description=words(ds, "SeriesDescription"),
        series_number=integer(ds, "SeriesNumber"),
        transfer_syntax=layout.transfer_syntax,
        image_type=texts(ds, "ImageType"),
        lossy=_lossy(ds, layout.transfer_syntax),
        burned_in=text(ds, "BurnedInAnnotation"),
        unit=_unit(ds),
        padding=number(ds, "PixelPaddingValue", vr="SS" if layout.signed else "US"),
        imager_spacing_mm=numbers(ds, "ImagerPixelSpacing"),
        modality_lut=bool(items(ds, "ModalityLUTSequence")),
        frames=_frames(ref, ds, layout),
        study_description=words(ds, "StudyDescription"),
    )


def _other(ref: FileRef, ds: Dataset) -> Other:
    return Other(
        ref,
        text(ds, "SOPClassUID"),
        text(ds, "SOPInstanceUID"),
        text(ds, "SeriesInstanceUID"),
        text(ds, "StudyInstanceUID"),
        text(ds, "Modality"),
        words(ds, "SeriesDescription") or words(ds, "StructureSetLabel"),
        _referenced_series(ds),
        words(ds, "PatientID"),
    )


def _referenced_series(ds: Dataset) -> tuple[str, ...]:
    """Series that a SEG or RTSTRUCT names, each once."""
    found = [text(item, "SeriesInstanceUID") for item in items(ds, "ReferencedSeriesSequence")]
    for frame in items(ds, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            found += [text(item, "SeriesInstanceUID") for item in items(study, "RTReferencedSeriesSequence")]
    return tuple(dict.fromkeys(uid for uid in found if uid))


# These code streams always, or unless the image denies it, lose information.
_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
_LOSSY_UNLESS_DENIED = {JPEG2000, HTJ2K}


def _lossy(ds: Dataset, syntax: str) -> str:
    """How the image was compressed with loss, in words; "" where it was not."""
    flag = text(ds, "LossyImageCompression")
    if flag != "01":
        lost = syntax in _LOSSY or (syntax in _LOSSY_UNLESS_DENIED and flag != "00")
        return uid_name(syntax) if lost else ""
    method, ratio = "/".join(texts(ds, "LossyImageCompressionMethod")), number(ds, "LossyImageCompressionRatio")
    return f"{method or 'method not given'}, {f'ratio {ratio:g}' if ratio else 'ratio not given'}"


def _unit(ds: Dataset) -> str:
    """Unit of the values: what the files call it, HU for a rescaled CT, "" where they do not say."""
    shared = first(ds, "SharedFunctionalGroupsSequence")
    transformation = first(shared, "PixelValueTransformationSequence")
    named = text(ds, "Units") or text(ds, "RescaleType") or text(transformation, "RescaleType")
    if named:
        return named
    mapping = first(ds, "RealWorldValueMappingSequence")
    if "RescaleSlope" not in ds and len(mapping):
        return text(first(mapping, "MeasurementUnitsCodeSequence"), "CodeValue")
    return "HU" if text(ds, "Modality") == "CT" else ""


def _frames(ref: FileRef, ds: Dataset, layout: PixelLayout) -> tuple[Frame, ...]:
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")
    if per_frame:
        shared = first(ds, "SharedFunctionalGroupsSequence")
        return tuple(_frame(ref, ds, layout, n, own, shared) for n, own in enumerate(per_frame[: layout.frames], 1))
    if layout.frames == 1:
        frame = _frame(ref, ds, layout, None, EMPTY, EMPTY)
        return mosaic_frames(ds, frame) if is_mosaic(ds) else (frame,)
    # Frames without functional groups (ultrasound loops, fluoroscopy): nothing says where each lies.
    source = _source(ref, ds, None)
    return tuple(
        Frame(SliceRef(ref, source.sop_class_uid, source.sop_instance_uid, n), layout, layout.rows, layout.columns,
              None, None, None, None)
        for n in range(1, min(layout.frames, _MAX_UNPLACED_FRAMES) + 1)
    )  # fmt: skip


# A header may claim any number of frames; those without a position are refused anyway and need not all be listed.
_MAX_UNPLACED_FRAMES = 10_000


def _source(ref: FileRef, ds: Dataset, frame: int | None) -> SliceRef:
    return SliceRef(ref, text(ds, "SOPClassUID"), text(ds, "SOPInstanceUID"), frame)


_RESCALE = ("RescaleSlope", "RescaleIntercept")


def _frame(ref: FileRef, ds: Dataset, layout: PixelLayout, frame: int | None, own: Dataset, shared: Dataset) -> Frame:
    """One frame from its own functional groups, those it shares, and the attributes of the instance, in this order."""

    def macro(keyword: str) -> Dataset:
        if frame is None:
            return ds
        found = items(own, keyword) or items(shared, keyword)
        return found[0] if found else ds

    position = numbers(macro("PlanePositionSequence"), "ImagePositionPatient")
    orientation = numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient")
    measures = macro("PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing")
    values = macro("PixelValueTransformationSequence")
    real_world = _real_world(
        macro("RealWorldValueMappingSequence") if frame else first(ds, "RealWorldValueMappingSequence")
    )
    slope, intercept = number(values, "RescaleSlope"), number(values, "RescaleIntercept")
    absent = tuple(keyword for keyword in _RESCALE if keyword not in values)
    unusable = tuple(keyword for keyword in _RESCALE if keyword in values and number(values, keyword) is None)
    if absent == _RESCALE and real_world:
        slope, intercept, absent = real_world.slope, real_world.intercept, ()
    pitch = number(measures, "SpacingBetweenSlices")
    traits, b_value, gradient = frame_traits(ds, own, shared, frame)
    return Frame(
        source=_source(ref, ds, frame),
        layout=layout,
        rows=layout.rows,
        columns=layout.columns,
        position_mm=position if position and len(position) == 3 and max(map(abs, position)) < _FARTHEST_MM else None,
        row=orientation[:3] if orientation and len(orientation) == 6 else None,
        column=orientation[3:] if orientation and len(orientation) == 6 else None,
        spacing_mm=spacing if spacing and len(spacing) == 2 else None,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        real_world=real_world,
        instance_number=integer(ds, "InstanceNumber") or 0,
        thickness_mm=number(measures, "SliceThickness"),
        pitch_mm=None if pitch is None else abs(pitch),
        b_value=b_value,
        gradient=gradient,
        traits=traits,
        absent=absent,
        unusable=unusable,
    )


def _real_world(ds: Dataset) -> RealWorldMap | None:
    slope, intercept = number(ds, "RealWorldValueSlope"), number(ds, "RealWorldValueIntercept")
    if slope is None or intercept is None:
        return None
    return RealWorldMap(slope, intercept, text(first(ds, "MeasurementUnitsCodeSequence"), "CodeValue"))
