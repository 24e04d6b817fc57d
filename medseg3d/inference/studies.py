"""DICOM series as cases: which stacks of a folder tree a bundle segments, and masks in DICOM over them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medseg3d.dicom import Finding, Scan, Series, Stack, scan
from medseg3d.dicom.coregistered import Coregistered, companions_of, modality_code
from medseg3d.dicom.descriptions import shareable
from medseg3d.dicom.jobs import Job, Refusal, jobs_of
from medseg3d.dicom.names import volume_names
from medseg3d.dicom.resample import MAX_GAP_MM
from medseg3d.errors import CaseError, ConfigError, DicomError, UsageError

__all__ = [
    "DICOM_FORMATS",
    "DicomFormat",
    "RefusedSeries",
    "checked_formats",
    "dicom_formats",
    "dicom_mask_path",
    "image_findings",
    "reference_stack",
    "require_dicom",
    "study_cases",
    "write_dicom_mask",
]

logger = logging.getLogger(__name__)

DicomFormat = Literal["seg", "rtstruct"]
DICOM_FORMATS: tuple[DicomFormat, ...] = ("seg", "rtstruct")


@dataclass(frozen=True)
class RefusedSeries:
    """In the place of a case's image: a series that is no sound volume. Reading it raises ``DicomError``.

    Attributes:
        path: where it lies.
        findings: why it is refused.
    """

    path: Path
    findings: tuple[Finding, ...]

    def refuse(self) -> None:
        reasons = " ".join(str(f) for f in self.findings if f.severity == "refusal")
        raise DicomError(f"The series is refused. {reasons}")


def study_cases(path: Path, *, modality: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The volumes in a tree of DICOM files, a zip archive or a file, as cases with a ``Stack`` for ``image``.

    Every series of the modality gives its volumes. One that is no sound volume (gaps, tilt, …) is a case too, with a
    ``RefusedSeries``, so that the run reports it; localizers, screenshots and single slices are left out.

    With several modalities every volume of the first is a case, and ``image`` is a ``Coregistered``: the volume, and
    one of each other modality in the same study and frame of reference. Where one is missing, the case is refused.

    Args:
        modality: CT, MR or PET (DICOM's PT), or several, the channels of an image; None takes any.

    Returns:
        Cases named as ``medseg3d dicom convert`` names files; none where there are no DICOM images at all.

    Raises:
        CaseError: DICOM, but no image series of this modality that makes a volume.
    """
    found = scan(path)
    if not found.series and (found.unreadable or found.annotations or found.other):
        raise CaseError(f"{path}: DICOM, but no image that can be read. {_what_else(found)}")
    for broken in found.unreadable:
        logger.warning("%s: not readable, a slice may be missing: %s", broken.file, broken.reason)
    all_series = shareable(found.series)
    first, *others = map(modality_code, [modality] if isinstance(modality, str) else modality or [""])
    outcomes = [
        outcome
        for series in all_series
        if first in ("", series.modality)
        for outcome in jobs_of(series, split=False, resample=False, max_gap_mm=MAX_GAP_MM, four_d=False)
    ]
    meant = [o for o in outcomes if not (isinstance(o, Refusal) and o.left_out)]
    if all_series and not meant:
        there = ", ".join(dict.fromkeys(f"{s.modality or 'unknown'} {s.description!r}" for s in all_series))
        raise CaseError(f"{path}: no {first or 'DICOM'} series here that makes a volume. There are: {there}.")
    if len(outcomes) > len(meant):
        logger.info("%d series are localizers, screenshots or single slices: left out.", len(outcomes) - len(meant))
    names = volume_names([(outcome.series, outcome.label) for outcome in meant])
    images = [_with_companions(path, _image(path, o, found), all_series, others) for o in meant]
    return [{"case": name, "image": image} for name, image in zip(names, images, strict=True)]


def reference_stack(image: Any) -> Stack | None:
    """The DICOM series whose grid a case's ``image`` has; None for what is no sound series."""
    if isinstance(image, Coregistered):
        return image.reference
    return image if isinstance(image, Stack) else None


def checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Formats of masks, each once.

    Raises:
        ConfigError: none, or one that is not known.
    """
    formats = (formats,) if isinstance(formats, str) else tuple(dict.fromkeys(formats))
    if not formats or not set(formats) <= {"nifti", *DICOM_FORMATS}:
        raise ConfigError(
            f"Masks are written as nifti, {' or '.join(DICOM_FORMATS)}, not as {', '.join(formats) or 'nothing'}."
        )
    return formats


def dicom_formats(formats: Sequence[str]) -> list[DicomFormat]:
    """Those of ``formats`` that are DICOM objects."""
    return [kind for kind in DICOM_FORMATS if kind in formats]


def require_dicom(formats: Sequence[str], images: Sequence[Any]) -> None:
    """Raise ``UsageError`` where a mask in DICOM is wanted of an image that is no DICOM series."""
    others = sum(not isinstance(image, (Stack, Coregistered, RefusedSeries)) for image in images)
    if others and (asked := dicom_formats(formats)):
        raise UsageError(
            f"{others} of {len(images)} images are no DICOM series: a mask as {' or '.join(asked)} refers to the "
            "images of its series. Give the DICOM folder as INPUT, or ask for nifti alone."
        )


def image_findings(image: Any) -> list[str]:
    """What is to know about a case's image: warnings of a DICOM series."""
    findings = image.findings if isinstance(image, (Stack, Coregistered)) else ()
    return [str(finding) for finding in findings if finding.severity == "warning"]


def dicom_mask_path(folder: Path, case: str, kind: DicomFormat) -> Path:
    """``folder/<case>.seg.dcm`` or ``folder/<case>.rtstruct.dcm``."""
    return folder / f"{case}.{kind}.dcm"


def write_dicom_mask(
    path: Path,
    mask: NDArray[Any],
    image: Any,
    kind: DicomFormat,
    *,
    labels: Mapping[str, int],
    origin: Mapping[str, Any],
) -> Iterator[str]:
    """Write a mask as SEG or RTSTRUCT; yields what a reader of it should know.

    Args:
        mask: array (i, j, k) on the image's grid.
        image: a case's DICOM series; of several channels the first, whose images the object refers to.
        labels: name → id.
        origin: ``bundle``, ``bundle_version`` and ``weights_sha256``: the algorithm that the file names.

    Raises:
        DicomError: the images lack what the object must copy from them.
    """
    from medseg3d.dicom.rtstruct_write import write_rtstruct
    from medseg3d.dicom.seg_write import Algorithm, write_seg

    stack = reference_stack(image)
    if stack is None or stack.grid is None:
        raise DicomError("The series has no regular grid that a mask could lie on.")
    bundle = str(origin.get("bundle") or "medseg3d")[:64]
    weights = origin.get("weights_sha256")
    algorithm = Algorithm(
        name=bundle,
        version=str(origin.get("bundle_version") or "unknown")[:64],
        parameters={"weights_sha256": weights} if weights else {},
    )
    write = write_seg if kind == "seg" else write_rtstruct
    findings: Sequence[Finding] = write(
        mask, stack.grid, path, labels=labels, context=bundle, algorithm=algorithm, series_description=bundle
    )
    return (f"{kind}: {finding}" for finding in findings if finding.severity != "note")


def _image(path: Path, outcome: Job | Refusal, found: Scan) -> RefusedSeries | Stack:
    if isinstance(outcome, Refusal):
        return RefusedSeries(path, outcome.findings)
    return replace(outcome.stacks[0], findings=(*outcome.findings, *found.unreadable_beside(outcome.series)))


def _with_companions(
    path: Path, image: RefusedSeries | Stack, all_series: Sequence[Series], modalities: Sequence[str]
) -> RefusedSeries | Stack | Coregistered:
    if not modalities or isinstance(image, RefusedSeries):
        return image
    stacks, findings = companions_of(image, all_series, modalities)
    findings = (*image.findings, *findings)
    return Coregistered((image, *stacks), findings) if stacks else RefusedSeries(path, findings)


def _what_else(found: Scan) -> str:
    if found.unreadable:
        first = found.unreadable[0]
        return f"{len(found.unreadable)} files are damaged; {first.file.path.name}, for one: {first.reason}."
    kinds = [annotation.modality for annotation in found.annotations] + [other.modality for other in found.other]
    modalities = sorted({kind or "unknown" for kind in kinds})
    return f"There are objects of the kinds {', '.join(modalities)}: give the images."
