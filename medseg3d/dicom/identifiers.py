"""Values that identify a person, as one file gives them, and where they are repeated in other words.

A technician types the patient's name into a description, a scanner repeats the accession number in a protocol: the
profile says which attributes hold an identity, this module finds its echo in those that do not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import tag_for_keyword

__all__ = ["ID_TAGS", "LEAST_NAME", "Identifiers", "looks_identifying"]

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

# Shorter ones stand in too many words that mean something else. A name of two letters is a name in many languages.
LEAST_NAME, LEAST_ID = 2, 4
# Shorter numbers are equal by chance.
TELLING_DIGITS = 6
# A part of a name with digits in it ("CT01") is hardly a name.
LEAST_BESIDE_DIGITS = 3
# Titles, fillers, and words that a phantom's or an unknown patient's name is made of.
_NO_NAMES = frozenset({
    "anonymized", "anonymous", "ct", "dr", "frau", "herr", "ii", "iii", "iv", "jr", "md", "med", "mme", "mr", "mri",
    "mrs", "ms", "pet", "phantom", "phd", "prof", "pt", "sr", "test", "unknown",
})  # fmt: skip
# Words of other names, and names where they stand alone.
_PARTICLES = frozenset({
    "al", "and", "ben", "bin", "da", "das", "de", "del", "della", "den", "der", "des", "di", "do", "dos", "du", "el",
    "ibn", "la", "las", "le", "los", "of", "op", "st", "te", "ten", "ter", "the", "und", "van", "von", "zu", "zum",
    "zur",
})  # fmt: skip

# Letters that are another letter with a mark, but that Unicode does not take apart.
_MARKED = str.maketrans({"æ": "ae", "ð": "d", "ø": "o", "þ": "th", "đ": "d", "ħ": "h", "ı": "i", "ł": "l", "œ": "oe"})
# How they are written where a keyboard lacks them.
_TYPED = str.maketrans({"ä": "ae", "å": "aa", "ö": "oe", "ø": "oe", "ü": "ue"})

_DATE_LIKE = re.compile(r"\d{4}[-./]?\d{2}[-./]?\d{2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d{6,}")
_TITLE = re.compile(r"\b(dr|prof|mr|mrs|ms|herr|frau|mme)\b\.?\s+\w", re.IGNORECASE)


@dataclass(frozen=True)
class Identifiers:
    """Identifying values of one file.

    Attributes:
        words: parts of names, in lower case and without accents, at least two letters.
        values: ids, places and dates, likewise, at least four characters.
        spelled: all of them as the file spells them, in lower case.
    """

    words: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    spelled: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, names: Iterable[str], ids: Iterable[str], dates: Iterable[str]) -> Identifiers:
        """From person names, ids and dates (``YYYYMMDD…``) as the file spells them.

        >>> found = Identifiers.of(names=["Doe-Müller^Jane"], ids=["MRN-4711"], dates=["20240131"])
        >>> found.echo_in("CT of jane, 31.01.2024"), found.echo_in("Mueller 2024-01-31"), found.echo_in("Doenitz")
        (True, True, False)
        """
        tokens = {token for name in names for token in _tokens(name)}
        words = {word for token in tokens for word in _words(token)}
        numbered = {token for token in tokens if not token.isalpha()}  # hyphens, apostrophes and digits too
        values = {value.strip().lower() for value in ids} | {text for date in dates for text in _spellings(date)}
        values = {value for value in values | numbered if len(value) >= LEAST_ID}
        return cls(
            frozenset(folded for word in words for folded in _folded(word)),
            frozenset(folded for value in values for folded in _folded(value)),
            frozenset(words | values),
        )

    def echo_in(self, text: str, *, least_name: int = LEAST_NAME) -> bool:
        """Whether a text repeats one of the values as a word, or as words, of its own; case and accents do not count.

        Args:
            text: that is searched.
            least_name: shorter parts of names are not searched for.
        """
        words = frozenset(word for word in self.words if len(word) >= least_name)
        pattern = _pattern(words, self.values)
        return pattern is not None and any(pattern.search(folded) for folded in _folded(text))

    def is_number(self, text: str) -> bool:
        """Whether a number is one of the ids and dates, and of so many digits that this is no chance."""
        return len(text) >= TELLING_DIGITS and text.lower() in self.values

    def long_ones(self, *, at_least: int) -> list[str]:
        """Values so long that they are in no file by chance, as the file spells them in lower case."""
        return sorted(value for value in self.spelled if len(value) >= at_least)


@lru_cache(maxsize=64)
def _pattern(words: frozenset[str], values: frozenset[str]) -> re.Pattern[str] | None:
    """What finds any of them; the files of a study share it.

    Letters beside a name make another word of it, digits do not. Scripts without upper case have no word ends to rely
    on.
    """
    alone = [word for word in words if word.upper() != word]
    parts = [
        rf"(?<![^\W\d_])(?:{_any_of(alone)})(?![^\W\d_])" if alone else "",
        _any_of(words.difference(alone)),
        rf"(?<![^\W_])(?:{_any_of(values)})(?![^\W_])" if values else "",
    ]
    return re.compile("|".join(filter(None, parts))) if any(parts) else None


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(texts)))


def _tokens(name: str) -> Iterator[str]:
    """What stands between blanks and carets in a person name, in lower case, without titles and particles."""
    for component in re.split(r"[\^=]", name.lower()):
        tokens = [token.strip(".'’-_") for token in re.split(r"[\s,;/]+", component)]
        tokens = [token for token in tokens if token and token not in _NO_NAMES]
        yield from (token for token in tokens if len(tokens) == 1 or token not in _PARTICLES)


def _words(token: str) -> Iterator[str]:
    """The parts of ``meier-schulz`` or ``o'brien``, and all its letters in one."""
    parts = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", token))
    least = LEAST_BESIDE_DIGITS if any(map(str.isdigit, token)) else LEAST_NAME
    parts = [part for part in parts if part not in _NO_NAMES and (len(parts) == 1 or part not in _PARTICLES)]
    yield from (part for part in {*parts, "".join(parts)} if len(part) >= least)


def _folded(text: str) -> set[str]:
    """A text in lower case without accents: as they are left out, and as they are typed without a key for them."""
    if text.isascii():
        return {text.lower()}
    text = unicodedata.normalize("NFC", text).casefold()
    return {_without_accents(text), _without_accents(text.translate(_TYPED))}


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.translate(_MARKED))
    return unicodedata.normalize("NFC", "".join(letter for letter in apart if not unicodedata.combining(letter)))


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
