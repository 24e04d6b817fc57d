"""Descriptions of series that may stand in file names and sidecars: those that do not repeat who the patient is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pydicom

from medseg3d.dicom.clean import identifiers_of
from medseg3d.dicom.files import Opener
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Series
from medseg3d.dicom.headers import FILE_ERRORS
from medseg3d.dicom.source import values_as_they_are

__all__ = ["shareable"]

# Who it is, in the patient module and the order. Not the physicians, places and dates of the study: a description like
# "Thorax Siemens" repeats the scanner's name, and says nothing about the patient.
_WHO = (
    "AccessionNumber", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthDate",
    "PatientBirthName", "PatientID", "PatientName",
)  # fmt: skip


def shareable(series: Iterable[Series]) -> list[Series]:
    """The series, without descriptions of series and study where they repeat the patient's name, an id or birth date.

    Reads the header of one file of each series that has a description. A file that cannot be read any more takes the
    descriptions with it: nobody knows what they repeat.
    """
    with Opener() as opener:
        return [_without_descriptions(s) if _is_described(s) and _repeats_who(s, opener) else s for s in series]


def _is_described(series: Series) -> bool:
    return bool(series.description or series.study_description)


def _repeats_who(series: Series, opener: Opener) -> bool:
    try:
        with values_as_they_are(), opener.open(series.stacks[0].frames[0].source.file) as stream:
            header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_WHO))
            who = identifiers_of(header)
            return any(who.echo_in(text) for text in (series.description, series.study_description) if text)
    except FILE_ERRORS:
        return True


def _without_descriptions(series: Series) -> Series:
    remark = "The description of series or study repeats the patient's name, id or date of birth: it is left out."
    stacks = tuple(
        replace(stack, series=replace(stack.series, description="", study_description="")) for stack in series.stacks
    )
    finding = Finding("identifying_description", "note", remark)
    return replace(series, description="", study_description="", stacks=stacks, findings=(*series.findings, finding))
