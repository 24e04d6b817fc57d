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
    """A name for each volume of a series and its stack's label: ``<patient>_<number>_<description>[_<label>]``.

    Names are unique, also where a file system does not tell capital letters apart: those that would be equal, as a
    patient's scan and its repetition a year later are, get six digits of a hash of the series' UID.
    """
    names = [_name(series, label) for series, label in volumes]
    times = Counter(name.casefold() for name in names)
    unique = [
        name if times[name.casefold()] == 1 else _name(series, label, mark=_mark(series.uid))
        for name, (series, label) in zip(names, volumes, strict=True)
    ]
    return _numbered(unique)


def plain(text: str) -> str:
    """Letters, digits and dots of a text, other characters as single hyphens.

    >>> plain("  Thorax/Abdomen  3.0 (Körper) ")
    'Thorax-Abdomen-3.0-Korper'
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.]+", "-", ascii_text).strip("-.")[:LONGEST].strip("-.")


def _name(series: SeriesInfo, label: str, *, mark: str = "") -> str:
    number = "" if series.number is None else str(series.number)
    parts = [series.patient, number, plain(series.description) or plain(series.modality), mark, label]
    return "_".join(plain(part) for part in parts if part) or "volume"


def _mark(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:6]


def _numbered(names: Sequence[str]) -> list[str]:
    """Stacks of one series that have one label too: numbered from the second on."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name.casefold()] += 1
        count = seen[name.casefold()]
        result.append(name if count == 1 else f"{name}_{count}")
    return result
