"""Masks as DICOM SEG: binary (what every PACS reads) or label map, over the images they were made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d import __version__
from medseg3d.dicom.attributes import integer
from medseg3d.dicom.codes import Code, LabelCode, code_labels
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.label_mask import LO_CHARACTERS, checked_mask, label_counts, require_known, text_of_64
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.seg_sources import lean_sources, read_headers, renumber_frames
from medseg3d.dicom.source import copy_source_modules, values_as_they_are
from medseg3d.errors import DicomError, MedsegError
from medseg3d.files import whole_or_not_at_all

__all__ = ["Algorithm", "SegKind", "write_seg"]

SegKind = Literal["binary", "labelmap"]

MANUFACTURER = "medseg3d"
CREATOR = "medseg3d^Algorithm"  # a person name has a family and a given part
# A SEG must have a serial number (type 1 of the enhanced general equipment module); software has none.
SERIAL_NUMBER = "none"
# Series numbers are for people; this keeps the mask behind the series it was made from.
SERIES_NUMBER_STEP = 1000
# highdicom 0.28 packs frames of fewer voxels one by one, where PS3.5 section 8.1.1 wants no gaps between them.
LEAST_PACKED_VOXELS = 8


@dataclass(frozen=True)
class Algorithm:
    """What made the mask, for the SEG's algorithm identification.

    Attributes:
        name: of the algorithm or bundle, at most 64 characters.
        version: of it.
        family: of algorithms (CID 7162).
        type: whether a person had a part in it.
        parameters: name → value of what else identifies it, such as the hash of the weights.
    """

    name: str = "medseg3d"
    version: str = __version__
    family: Code = field(default_factory=lambda: Code("123110", "Artificial Intelligence", "DCM"))
    type: Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"] = "AUTOMATIC"
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("version", self.version)):
            if not 0 < len(value) <= LO_CHARACTERS:
                raise DicomError(f"The {what} of the algorithm has {len(value)} characters: 1 to 64 are possible.")


def write_seg(
    mask: NDArray[Any],
    grid: SeriesGrid,
    path: str | Path,
    *,
    labels: Mapping[str, int],
    kind: SegKind = "binary",
    codes: Mapping[str, LabelCode] | None = None,
    context: str = "",
    algorithm: Algorithm | None = None,
    series_description: str = "Segmentation",
    series_number: int | None = None,
) -> tuple[Finding, ...]:
    """Write a label map as a SEG that refers to the images of its series; frames without voxels are left out.

    The patient and study modules are copied from the images, whose headers are read again; UIDs are new. A binary SEG
    numbers its segments from 1 in the order of ``labels``; in a label map they have their ids. The file appears whole
    or not at all.

    Args:
        mask: label ids (i, j, k) on ``grid``: see ``to_series_grid``.
        grid: of the series, with the slices it was read from.
        path: of the file.
        labels: name → id, 1 to 32767; names of at most 64 characters.
        kind: ``"binary"``: a bit a voxel and label, readable everywhere; ``"labelmap"``: a number a voxel, smaller
            where labels are many, new in DICOM and not known to many viewers yet.
        codes: of labels that shall not be coded by their names.
        context: name of the bundle or data set, see ``code_label``.
        algorithm: what made the mask.
        series_description: at most 64 characters.
        series_number: 1000 more than that of the images where it is not given.

    Returns:
        Findings: ``empty_segment`` (a label without voxels: it is described, and has no frame), ``uncoded_label``.

    Raises:
        DicomError: a mask of another shape, with values that are no labels; images that are gone or lack what a SEG
            needs; a binary SEG of slices of fewer than 8 voxels.
        UsageError: ``codes`` for unknown labels.
    """
    mask = checked_mask(mask, grid)
    _require_packable(grid, kind)
    counts = label_counts(mask)
    require_known(counts, labels)
    coded = code_labels(list(labels), codes=codes, context=context)
    findings = tuple(_findings(counts, labels, coded))
    headers = read_headers(grid)
    first = headers[grid.slices[0].file]
    pixels = np.ascontiguousarray(_segment_numbers(mask, labels, kind).transpose(2, 1, 0))
    description = text_of_64(series_description, "series description")
    with _highdicom_as_error(grid), values_as_they_are(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="highdicom")
        sources = lean_sources(grid, headers)
        number = series_number or max(0, integer(first, "SeriesNumber") or 0) + SERIES_NUMBER_STEP
        seg = _build(pixels, sources, labels, kind, coded, algorithm or Algorithm(), description, number)
        copy_source_modules(first, seg, grid)
        renumber_frames(seg, grid)
        with whole_or_not_at_all(Path(path)) as temporary:
            seg.save_as(temporary)
    return findings


def _require_packable(grid: SeriesGrid, kind: SegKind) -> None:
    columns, rows, _ = grid.shape
    if kind == "binary" and columns * rows < LEAST_PACKED_VOXELS:
        raise DicomError(
            f"Slices of {columns}×{rows} voxels are too small for a binary SEG, which takes {LEAST_PACKED_VOXELS} or "
            "more: write one of the kind labelmap."
        )


def _build(
    pixels: NDArray[Any],
    sources: Sequence[Any],
    labels: Mapping[str, int],
    kind: SegKind,
    coded: Mapping[str, LabelCode],
    algorithm: Algorithm,
    series_description: str,
    series_number: int,
) -> Any:
    import highdicom as hd
    from pydicom.uid import generate_uid

    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="LABELMAP" if kind == "labelmap" else "BINARY",
        segment_descriptions=[
            _described(name, number, coded[name], algorithm)
            for number, name in sorted((_number(i, labels[name], kind), name) for i, name in enumerate(labels))
        ],
        # A prefix of None makes UIDs from UUIDs (2.25.…), which need no registration (PS3.5 B.2).
        series_instance_uid=generate_uid(prefix=None),
        series_number=series_number,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=__version__,
        device_serial_number=SERIAL_NUMBER,
        series_description=series_description,
        content_label="SEGMENTATION",
        content_description=f"Segmentation by {algorithm.name}"[:LO_CHARACTERS],
        content_creator_name=CREATOR,
        omit_empty_frames=True,
    )


def _described(name: str, number: int, code: LabelCode, algorithm: Algorithm) -> Any:
    import highdicom as hd
    from pydicom.uid import generate_uid

    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=text_of_64(name, "label name"),
        segmented_property_category=_concept(code.category),
        segmented_property_type=_concept(code.type),
        algorithm_type=algorithm.type,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=_concept(algorithm.family),
            version=algorithm.version,
            parameters=dict(algorithm.parameters) or None,
        ),
        tracking_id=name,
        tracking_uid=generate_uid(prefix=None),
        anatomic_regions=[_concept(code.region)] if code.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*code.color_rgb),
    )
    if code.modifier:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(code.modifier)]
    if code.region and code.region_modifier:
        item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_concept(code.region_modifier)]
    return item


@contextmanager
def _highdicom_as_error(grid: SeriesGrid) -> Iterator[None]:
    """Turn highdicom's refusals of the images, and the disk's of the file, into a message."""
    try:
        yield
    except MedsegError:
        raise
    except OSError as error:
        raise DicomError(f"The SEG cannot be written: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DicomError(
            f"No SEG can be written over series {grid.series_uid}: {error} Its images lack what a "
            "SEG must copy from them."
        ) from error


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _number(index: int, label_id: int, kind: SegKind) -> int:
    """Number of the segment of the label at ``index``: PS3.3 wants those of a binary SEG to run from 1 without gaps."""
    return label_id if kind == "labelmap" else index + 1


def _segment_numbers(mask: NDArray[Any], labels: Mapping[str, int], kind: SegKind) -> NDArray[Any]:
    """The mask with segment numbers in place of label ids, in the smallest unsigned type."""
    numbers = {label_id: _number(index, label_id, kind) for index, label_id in enumerate(labels.values())}
    dtype = np.uint8 if max(numbers.values()) < 256 else np.uint16
    if all(label_id == number for label_id, number in numbers.items()):
        return mask.astype(dtype, copy=False)
    table = np.zeros(max(numbers) + 1, dtype=dtype)
    table[list(numbers)] = list(numbers.values())
    return table[mask]


def _findings(counts: NDArray[np.intp], labels: Mapping[str, int], coded: Mapping[str, LabelCode]) -> Iterator[Finding]:
    for name, number in labels.items():
        if number >= len(counts) or not counts[number]:
            yield Finding("empty_segment", "note", f"No voxel is {name}: its segment is described and has no frame.")
    for name, code in coded.items():
        if not code.known:
            yield Finding(
                "uncoded_label",
                "note",
                f"No SNOMED CT code is known for {name!r}: it is coded as {code.type.meaning}, its name is the label.",
                "Give its code in a YAML file.",
            )
