"""Names of files made from series: a patient's pseudonym, the series' number and what it is called."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from medseg3d.dicom.frames import SeriesInfo

__all__ = ["plain", "volume_names"]

LONGEST = 48  # characters of a description in a file name


def volume_names(volumes: Sequence[tuple[SeriesInfo, str]]) -> list[str]:
    """A name for each volume of a series and its stack's label: ``<patient>_<number>_<description>_<mark>[_<label>]``.

    The mark is eight digits of a hash of the study's and the series' UID: scans of a patient share number and
    description year after year. So a name is the same in every run, whatever else is converted in it, and unique, also
    where a file system does not tell capital letters apart.
    """
    return _numbered([_name(series, label) for series, label in volumes])


def plain(text: str) -> str:
    """Letters, digits and dots of a text, other characters as single hyphens.

    >>> plain("  Thorax/Abdomen  3.0 (Körper) ")
    'Thorax-Abdomen-3.0-Korper'
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.]+", "-", ascii_text).strip("-.")[:LONGEST].strip("-.")


def _name(series: SeriesInfo, label: str) -> str:
    number = "" if series.number is None else str(series.number)
    parts = [series.patient, number, plain(series.description) or plain(series.modality), _mark(series), label]
    return "_".join(plain(part) for part in parts if part)


def _mark(series: SeriesInfo) -> str:
    return hashlib.sha256(f"{series.study_uid} {series.uid}".encode()).hexdigest()[:8]


def _numbered(names: Sequence[str]) -> list[str]:
    """Stacks of one series that have one label too: numbered from the second on."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name.casefold()] += 1
        count = seen[name.casefold()]
        result.append(name if count == 1 else f"{name}_{count}")
    return result
