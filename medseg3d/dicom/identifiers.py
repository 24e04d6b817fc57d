"""Values that identify a person, as one file gives them, and where they are repeated in other words.

A technician types the patient's name into a description, a scanner repeats the accession number in a protocol: the
profile says which attributes hold an identity, this module finds its echo in those that do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword

__all__ = ["ID_TAGS", "Identifiers", "looks_identifying"]

# Attributes whose value, or a part of it, points at a person, a visit, an order or a place.
_ID_KEYWORDS = (
    "AccessionNumber", "AdmissionID", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "CurrentPatientLocation", "DeviceSerialNumber",
    "FillerOrderNumberImagingServiceRequest", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName",
    "InsurancePlanIdentification", "MedicalRecordLocator", "OtherPatientIDs", "PatientAddress", "PatientID",
    "PatientTelephoneNumbers", "PerformedProcedureStepID", "PlacerOrderNumberImagingServiceRequest",
    "RequestedProcedureID", "ScheduledProcedureStepID", "ServiceEpisodeID", "StationName", "StudyID",
)  # fmt: skip
ID_TAGS = frozenset(int(tag) for tag in map(tag_for_keyword, _ID_KEYWORDS) if tag is not None)

# Shorter ones stand in too many words that mean something else.
LEAST_NAME, LEAST_ID = 3, 4
# Titles and fillers that people put into names, and words that a phantom's or an unknown patient's name is made of.
_NO_NAMES = frozenset({"and", "anonymous", "anonymized", "phantom", "prof", "test", "the", "unknown", "van", "von"})

_DATE_LIKE = re.compile(r"\d{4}[-./]?\d{2}[-./]?\d{2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d{6,}")
_TITLE = re.compile(r"\b(dr|prof|mr|mrs|ms|herr|frau|mme)\b\.?\s+\w", re.IGNORECASE)


@dataclass(frozen=True)
class Identifiers:
    """Identifying values of one file, in lower case.

    Attributes:
        words: parts of names, at least three letters.
        values: ids, places and dates, at least four characters.
    """

    words: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, names: Iterator[str], ids: Iterator[str], dates: Iterator[str]) -> Identifiers:
        """From person names, ids and dates (``YYYYMMDD…``) as the file spells them.

        >>> found = Identifiers.of(names=iter(["Doe^Jane"]), ids=iter(["MRN-4711"]), dates=iter(["20240131"]))
        >>> found.echo_in("CT of jane, 31.01.2024"), found.echo_in("CT 2024-01-31"), found.echo_in("Doenitz")
        (True, True, False)
        """
        parts = (part.lower() for name in names for part in re.split(r"[\^=\s,;]+", name))
        words = {part for part in parts if len(part) >= LEAST_NAME and part not in _NO_NAMES}
        values = {value.strip().lower() for value in ids}
        values = {value for value in values if len(value) >= LEAST_ID}
        return cls(frozenset(words), frozenset(values | {text for date in dates for text in _spellings(date)}))

    def echo_in(self, text: str) -> bool:
        """Whether a text repeats one of the values as a word, or as words, of its own."""
        text = text.lower()
        known = self.words | self.values
        return any(word in text and re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text) for word in known)

    def long_ones(self, *, at_least: int) -> list[str]:
        """Values so long that they are in no file by chance."""
        return sorted(value for value in self.words | self.values if len(value) >= at_least)


def looks_identifying(text: str) -> bool:
    """Whether a free text has a date, a number of six or more digits, or a title before a word in it.

    >>> looks_identifying("Abdomen 3.0 mm"), looks_identifying("Abdomen 31.01.24"), looks_identifying("by Dr. Who")
    (False, True, True)
    """
    return bool(_DATE_LIKE.search(text) or _TITLE.search(text))


def _spellings(date: str) -> Iterator[str]:
    """``20240131…`` as people write it."""
    found = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", date)
    if found is None:
        return
    year, month, day = found.groups()
    yield year + month + day
    for separator in "-./":
        yield from (separator.join(parts) for parts in ((year, month, day), (day, month, year), (month, day, year)))
        yield separator.join((day, month, year[2:]))
