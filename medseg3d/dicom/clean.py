"""One data set without what identifies a person: the profile applied to every attribute at every depth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from medseg3d.dicom.attributes import texts
from medseg3d.dicom.identifiers import ID_TAGS, LEAST_NAME, Identifiers, looks_identifying
from medseg3d.dicom.plausible import PATTERN_VRS, is_age, is_binary, is_code, is_known_code, is_well_formed
from medseg3d.dicom.profile import TEXT_VRS, Action, Options, action_of, in_dictionary
from medseg3d.dicom.pseudonyms import Pseudonyms
from medseg3d.dicom.safe_private import safe_private_tags

__all__ = ["Changes", "clean_dataset", "identifiers_of", "identity_of"]

Changes = Counter[tuple[int, str]]  # (tag, what was done) → how often

PIXEL_DATA = 0x7FE00010
DUMMY_TEXT = "ANONYMIZED"
_DUMMIES: dict[str, Any] = {
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
    "UR": "http://anonymized.invalid",  # RFC 2606 keeps .invalid for this
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), b"\0\0\0\0\0\0\0\0"),
}
# Nobody types into these, and names of two letters are units, vendors and versions in them: HU, GE.
_TECHNICAL = frozenset({"LUTLabel", "Manufacturer", "ManufacturerModelName", "RescaleType", "SoftwareVersions"})
LEAST_NAME_IN_TECHNICAL = 3
# Coordinates and tables hold no ids, shorter names turn up in them by chance, and going through them takes long.
MOST_SEARCHED_BYTES = 256
LEAST_NAME_IN_BYTES = 4

OLDEST_AGE_YEARS = 90  # older people are few enough to be found by their age (HIPAA, 45 CFR 164.514)
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?")
# Malformed values make pydicom raise these while it decodes an element.
_UNDECODABLE = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError, EOFError)


@dataclass(frozen=True)
class _Cleaner:
    pseudonyms: Pseudonyms
    options: Options
    identity: str  # whose file it is: what pseudonym and shift are made from
    echoes: Identifiers
    changes: Changes = field(default_factory=Counter)


def clean_dataset(
    dataset: Dataset,
    *,
    pseudonyms: Pseudonyms,
    options: Options = Options(),
    identifiers: Identifiers | None = None,
) -> Changes:
    """Apply the profile to a data set in place, sequences included, and count what was done.

    UIDs become those of ``pseudonyms``; patient id and name become its pseudonym, also where there was none, so that
    patients stay apart; private and unknown attributes go, and values that are not what their VR says; text and
    numbers that stay are searched for names, ids and dates of this file. The file meta information is not touched:
    write a new one.

    Args:
        identifiers: what is searched for in text; those of the data set itself by default.
    """
    cleaner = _Cleaner(pseudonyms, options, identity_of(dataset), identifiers or identifiers_of(dataset))
    _clean(dataset, cleaner)
    dataset.PatientID = dataset.PatientName = pseudonyms.patient(cleaner.identity)
    return cleaner.changes


def identity_of(dataset: Dataset) -> str:
    """What tells the patient of a file from others: the id; without one, name and birth date; else the study.

    Blanks and case are levelled, so that the same id in a CT and in contours made elsewhere is the same patient.
    """
    patient_id = _text(dataset, "PatientID")
    if patient_id:
        return f"id {patient_id}"
    name = _text(dataset, "PatientName")
    return (
        f"name {name} {_text(dataset, 'PatientBirthDate')}" if name else f"study {_text(dataset, 'StudyInstanceUID')}"
    )


def identifiers_of(dataset: Dataset) -> Identifiers:
    """Names, ids and dates anywhere in a data set, private attributes included where their VR is known."""
    elements = list(_elements(dataset))
    return Identifiers.of(
        names=(value for element in elements if element.VR == "PN" for value in _values(element)),
        ids=(value for element in elements if int(element.tag) in ID_TAGS for value in _values(element)),
        dates=(value for element in elements if element.VR in ("DA", "DT") for value in _values(element)),
    )


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Those elements that can hold an identifier or an item, without decoding the others."""
    for tag in list(dataset.keys()):
        vr = _vr(dataset, tag)
        if vr not in ("PN", "DA", "DT", "SQ") and int(tag) not in ID_TAGS:
            continue
        element = _decoded(dataset, tag)
        if element is None:
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _clean(dataset: Dataset, cleaner: _Cleaner, *, dummy: bool = False) -> None:
    """Go through a data set; with ``dummy``, every value that is no UID becomes a dummy."""
    safe = safe_private_tags(dataset) if cleaner.options.safe_private and not dummy else frozenset()
    for tag in list(dataset.keys()):
        if tag in safe:
            continue
        if tag.element == 0:  # group lengths, retired, and wrong after the first change
            del dataset[tag]
            continue
        vr = _vr(dataset, tag)
        action = action_of(int(tag), vr, cleaner.options)
        if dummy and action in ("keep", "clean", "shift", "empty") and vr not in ("SQ", "UI"):
            action = "dummy"
        if action == "keep" and vr not in TEXT_VRS and vr not in ("AS", "SQ"):
            _keep_plausible(dataset, tag, vr, cleaner)
            continue
        element = None if action == "remove" else _decoded(dataset, tag)
        if element is None:
            del dataset[tag]
            cleaner.changes[int(tag), "removed"] += 1
        elif element.VR == "SQ":
            _clean_sequence(element, action, cleaner, dummy=dummy)
        elif not element.is_empty:
            _replace(element, action, cleaner)


def _keep_plausible(dataset: Dataset, tag: Any, vr: str, cleaner: _Cleaner) -> None:
    """Leave a number, a UID or bytes where they are what they should be, and no id, date or name of this file."""
    value = dataset.get_item(tag).value
    few = not isinstance(value, bytes) or len(value) <= MOST_SEARCHED_BYTES
    if vr in PATTERN_VRS:
        fits = is_well_formed(dataset, tag, vr)
        if not fits or (few and any(map(cleaner.echoes.is_number, texts(dataset, int(tag))))):
            dataset[tag] = DataElement(tag, vr, None)
            cleaner.changes[int(tag), "emptied"] += 1
        return
    as_text = value.decode("ascii", "replace") if few and isinstance(value, bytes) else ""
    if not is_binary(dataset, tag, vr) or cleaner.echoes.echo_in(as_text, least_name=LEAST_NAME_IN_BYTES):
        del dataset[tag]
        cleaner.changes[int(tag), "removed"] += 1


def _clean_sequence(element: DataElement, action: Action, cleaner: _Cleaner, *, dummy: bool) -> None:
    if action == "empty":
        if element.value:
            cleaner.changes[int(element.tag), "emptied"] += 1
        element.value = Sequence()
        return
    for item in element.value:
        # A preview of some kind; nobody has looked at it, nor searched it for text.
        if item.pop("PixelData", None) is not None:
            cleaner.changes[PIXEL_DATA, "removed"] += 1
        _clean(item, cleaner, dummy=dummy or action == "dummy")


def _replace(element: DataElement, action: Action, cleaner: _Cleaner) -> None:
    """Give one element with a value its new one."""
    before = element.value
    done = "replaced"
    if action == "uid":
        element.value, done = _mapped(before, cleaner.pseudonyms.uid), "new UID"
    elif action == "patient":
        element.value, done = cleaner.pseudonyms.patient(cleaner.identity), "pseudonym"
    elif action == "text":
        element.value, done = _mapped(before, cleaner.pseudonyms.text), "pseudonym"
    elif action == "shift":
        done = _shift(element, cleaner)
    elif action == "empty":
        element.value, done = None, "emptied"
    elif action == "dummy":
        element.value = _DUMMIES.get(element.VR, DUMMY_TEXT)
    elif element.VR == "AS":
        element.value, done = _level_age(str(before)), "age levelled"
    elif element.VR in TEXT_VRS:
        _clean_text(element, cleaner, strictly=action == "clean")
        done = "repeated an identifier"
    if element.value != before:
        cleaner.changes[int(element.tag), done] += 1


def _clean_text(element: DataElement, cleaner: _Cleaner, *, strictly: bool) -> None:
    keyword, echoes = element.keyword, cleaner.echoes
    least_name = LEAST_NAME_IN_TECHNICAL if keyword in _TECHNICAL else LEAST_NAME

    def identifies(text: str) -> bool:
        if element.VR == "CS" and not is_code(text):
            return True
        return echoes.echo_in(text, least_name=least_name) or (strictly and looks_identifying(text))

    def clean(text: str) -> str:
        return DUMMY_TEXT if not is_known_code(keyword, text) and identifies(text) else text

    element.value = _mapped(element.value, clean)


def _shift(element: DataElement, cleaner: _Cleaner) -> str:
    """Move dates into the past by the patient's own number of days; what is no full date gets the profile's action."""
    days = timedelta(days=cleaner.pseudonyms.shift_days(cleaner.identity))
    values = [_shifted(value, element.VR, days) for value in _values(element)]
    if None in values:
        rule = action_of(int(element.tag), element.VR)
        # An unlisted date has to go; an empty value does that wherever its attribute may be absent.
        element.value = None if rule in ("empty", "remove") else _DUMMIES[element.VR]
        return "replaced"
    element.value = values if len(values) > 1 else values[0]
    return "shifted"


def _shifted(value: str, vr: str, by: timedelta) -> str | None:
    """A DA, DT or TM some days earlier, None where it is not one.

    >>> _shifted("20240301", "DA", timedelta(days=1)), _shifted("20240301101500.5+0100", "DT", timedelta(days=366))
    ('20240229', '20230301101500.5+0100')
    """
    if vr == "TM":
        return value if _TIME.fullmatch(value.strip()) else None
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})([\d.]*(?:[+-]\d{4})?)", value.strip())
    if found is None or (vr == "DA" and found[4]):
        return None
    try:
        date = datetime(int(found[1]), int(found[2]), int(found[3])) - by
    except (ValueError, OverflowError):
        return None
    return f"{date:%Y%m%d}{found[4]}" if date.year >= 1000 else None


def _level_age(age: str) -> str:
    """No age at all where it is none: whatever else it is."""
    if not is_age(age):
        return ""
    years = re.fullmatch(r"(\d{3})Y", age.strip())
    return f"{OLDEST_AGE_YEARS:03d}Y" if years and int(years[1]) > OLDEST_AGE_YEARS else age


def _vr(dataset: Dataset, tag: Any) -> str:
    """VR of an element without decoding it: the file's, or the dictionary's where the file has none or ``UN``."""
    vr = dataset.get_item(tag).VR
    if vr in (None, "UN") and not tag.is_private and in_dictionary(tag):
        try:
            return dictionary_VR(tag)
        except KeyError:
            return "UN"
    return str(vr or "UN")


def _decoded(dataset: Dataset, tag: Any) -> DataElement | None:
    """The element with its value decoded; None where the value is not what its VR says."""
    try:
        with config.disable_value_validation():
            element = dataset[tag]
            if element.VR != "SQ":
                _values(element)
    except _UNDECODABLE:
        return None
    return element if element.VR != "UN" else None


def _values(element: DataElement) -> list[str]:
    value = element.value
    if element.is_empty:
        return []
    return [str(v) for v in value] if isinstance(value, (MultiValue, list)) else [str(value)]


def _mapped(value: Any, change: Any) -> Any:
    """Each value of a single or multiple one changed, the others left as they are."""
    if isinstance(value, (MultiValue, list)):
        return [change(str(v)) for v in value]
    return change(str(value))


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return re.sub(r"\s+", " ", str(value)).strip().casefold() if value is not None else ""
