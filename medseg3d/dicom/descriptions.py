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
    """The series, without descriptions of series or study that repeat the patient's name, an id or the birth date.

    Reads the header of one file of each series that is described. A file that cannot be read any more takes the
    descriptions with it: nobody knows what they repeat. That a series has lost its own is a finding.
    """
    with Opener() as opener:
        return [_without_echoes(one, opener) for one in series]


def _without_echoes(series: Series, opener: Opener) -> Series:
    texts = {text for text in (series.description, series.study_description) if text}
    echoes = _echoes(texts, series, opener) if texts else set()
    if not echoes:
        return series
    kept = ["" if text in echoes else text for text in (series.description, series.study_description)]
    remark = "The description of the series repeats the patient's name, id or date of birth: it is left out."
    finding = [Finding("identifying_description", "note", remark)] if series.description in echoes else []
    stacks = tuple(
        replace(stack, series=replace(stack.series, description=kept[0], study_description=kept[1]))
        for stack in series.stacks
    )
    findings = (*series.findings, *finding)
    return replace(series, description=kept[0], study_description=kept[1], stacks=stacks, findings=findings)


def _echoes(texts: set[str], series: Series, opener: Opener) -> set[str]:
    """Those of the texts that say who the patient is."""
    try:
        with values_as_they_are(), opener.open(series.stacks[0].frames[0].source.file) as stream:
            header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_WHO))
            who = identifiers_of(header)
            return {text for text in texts if who.echo_in(text)}
    except FILE_ERRORS:
        return texts
