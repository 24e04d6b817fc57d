"""Masks as RTSTRUCT: contours that a planning system or viewer opens over the images they were made from.

Reading the file by the even-odd rule at pixel centres gives the mask back, voxel for voxel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.dataelem import DataElement
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medseg3d import __version__
from medseg3d.dicom.codes import Code, LabelCode, code_labels
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.label_mask import checked_mask, label_counts, require_known, text_of_64
from medseg3d.dicom.model import SeriesGrid, SliceRef
from medseg3d.dicom.rtstruct_encode import EncodedContour, Holes, encode_labels
from medseg3d.dicom.seg_write import MANUFACTURER, SERIES_NUMBER_STEP, Algorithm
from medseg3d.dicom.source import copy_source_modules, source_header, values_as_they_are
from medseg3d.dicom.structure_set import CONTOUR_DATA
from medseg3d.errors import DicomError
from medseg3d.files import whole_or_not_at_all

__all__ = ["write_rtstruct"]

# RT Referenced Study Sequence wants a class for the study; this retired one is what every system writes there.
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
SH_CHARACTERS = 16  # the longest value of DICOM's Short String
TARGETS = ("GTV", "CTV", "PTV")  # terms of RT ROI Interpreted Type that a name may begin with
GROSS_TUMOUR = frozenset({"Neoplasm", "Mass"})


def write_rtstruct(
    mask: NDArray[Any],
    grid: SeriesGrid,
    path: str | Path,
    *,
    labels: Mapping[str, int],
    holes: Holes = "keyhole",
    codes: Mapping[str, LabelCode] | None = None,
    context: str = "",
    algorithm: Algorithm | None = None,
    series_description: str = "Contours",
    series_number: int | None = None,
    structure_set_label: str = MANUFACTURER,
) -> tuple[Finding, ...]:
    """Write a label map as a structure set that refers to the images of its series.

    Patient, study and frame of reference are copied from the first image, whose header is read again; UIDs are new. A
    label's id is its ROI number. Outlines run midway between inside and outside pixels (see
    ``medseg3d.dicom.contours``). The file appears whole or not at all.

    Args:
        mask: label ids (i, j, k) on ``grid``: see ``to_series_grid``.
        grid: of the series, with the slices it was read from.
        path: of the file.
        labels: name → id, 1 to 32767; names of at most 64 characters.
        holes: ``"keyhole"``, which every system reads: PS3.3 C.8.8.6.3 has always had it; or ``"xor"``: contours
            inside others, of type CLOSEDPLANAR_XOR, which is newer (PS3.3 2018e has no word of it) and refused by
            many systems and by ``dciodvfy``.
        codes: of labels that shall not be coded by their names.
        context: name of the bundle or data set, see ``code_label``.
        algorithm: what made the mask.
        series_description: at most 64 characters.
        series_number: 1000 more than that of the images where it is not given.
        structure_set_label: what a planning system lists it by; at most 16 characters.

    Returns:
        The finding ``empty_segment`` for each label without voxels: its ROI is there and has no contour.

    Raises:
        DicomError: a mask of another shape, or with values that are no labels; a resampled grid; a series without
            frame of reference; images that are gone.
        UsageError: ids or names that no label can have; ``codes`` for unknown labels.
    """
    mask = checked_mask(mask, grid)
    require_known(label_counts(mask), labels)
    if len(structure_set_label) > SH_CHARACTERS:
        raise DicomError(f"The structure set label {structure_set_label!r} has more than {SH_CHARACTERS} characters.")
    coded = code_labels(list(labels), codes=codes, context=context)
    algorithm = algorithm or Algorithm()
    dataset = _header(grid, algorithm, text_of_64(series_description, "series description"), series_number)
    dataset.StructureSetLabel = structure_set_label
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(grid)]
    contours = encode_labels(mask, grid, labels, holes=holes)
    dataset.StructureSetROISequence = [_roi(name, n, grid, algorithm) for name, n in labels.items()]
    dataset.ROIContourSequence = [_roi_contours(n, coded[name], contours[name], grid) for name, n in labels.items()]
    dataset.RTROIObservationsSequence = [_observation(name, n, coded[name]) for name, n in labels.items()]
    dataset.ApprovalStatus = "UNAPPROVED"
    with values_as_they_are(), whole_or_not_at_all(Path(path)) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return tuple(_empty(name) for name in labels if not contours[name])


def _empty(name: str) -> Finding:
    return Finding("empty_segment", "note", f"No voxel is {name}: its ROI has no contour.")


def _header(grid: SeriesGrid, algorithm: Algorithm, series_description: str, series_number: int | None) -> Dataset:
    """Everything but the structures: who, when, by what."""
    source = source_header(grid)
    dataset = Dataset()
    copy_source_modules(source, dataset, grid)
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    dataset.SOPClassUID = RTStructureSetStorage
    # A prefix of None makes UIDs from UUIDs (2.25.…), which need no registration (PS3.5 B.2).
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesDescription = series_description
    dataset.SeriesNumber = series_number or _integer(source.get("SeriesNumber")) + SERIES_NUMBER_STEP
    dataset.InstanceNumber = 1
    dataset.OperatorsName = None
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = algorithm.name
    dataset.SoftwareVersions = __version__
    dataset.file_meta = FileMetaDataset()
    # Explicit VR has 16 bits for the length of Contour Data, which a long contour exceeds (PS3.3 C.8.8.6).
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _integer(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _referenced_frame(grid: SeriesGrid) -> Dataset:
    """The frame of reference, in it the study, in it the series, in it every image."""
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = grid.series_uid
    series.ContourImageSequence = list(_images(grid.slices))
    study.ReferencedSOPClassUID = STUDY_CLASS
    study.ReferencedSOPInstanceUID = grid.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = grid.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _images(slices: Sequence[SliceRef]) -> Iterator[Dataset]:
    """One item an instance; of a multi-frame one with the numbers of its frames."""
    frames: dict[tuple[str, str], list[int]] = {}
    for ref in slices:
        numbers = frames.setdefault((ref.sop_class_uid, ref.sop_instance_uid), [])
        if ref.frame is not None:
            numbers.append(ref.frame)
    for (sop_class, uid), numbers in frames.items():
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = uid
        if numbers:
            item.ReferencedFrameNumber = sorted(numbers)
        yield item


def _roi(name: str, number: int, grid: SeriesGrid, algorithm: Algorithm) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = grid.frame_of_reference_uid
    item.ROIName = name
    item.ROIGenerationAlgorithm = algorithm.type
    item.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:64]
    return item


def _roi_contours(number: int, code: LabelCode, contours: Sequence[EncodedContour], grid: SeriesGrid) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(code.color_rgb)
    if contours:
        item.ContourSequence = [_contour(n, contour, grid) for n, contour in enumerate(contours, start=1)]
    return item


def _contour(number: int, contour: EncodedContour, grid: SeriesGrid) -> Dataset:
    item = Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = list(_images([grid.slices[contour.k]]))
    item.ContourGeometricType = contour.kind
    item.NumberOfContourPoints = contour.points
    # As one text, past pydicom's object for each number: a body contour has hundreds of thousands.
    item[CONTOUR_DATA] = DataElement(CONTOUR_DATA, "DS", contour.data, already_converted=True)
    return item


def _observation(name: str, number: int, code: LabelCode) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [_concept(code.type)]
    item.RTROIInterpretedType = _interpreted_type(name, code)
    item.ROIInterpreter = None
    return item


def _interpreted_type(name: str, code: LabelCode) -> str:
    """What a planning system takes the structure for: a target by its name or code, else an organ."""
    target = next((target for target in TARGETS if name.upper().startswith(target)), "")
    if target:
        return target
    return "GTV" if code.type.meaning in GROSS_TUMOUR else "ORGAN"


def _concept(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item
