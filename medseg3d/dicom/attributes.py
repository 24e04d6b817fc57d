"""Attributes of a data set as plain Python values: absent, empty and malformed ones give a default, never an error.

pydicom keeps an element as raw bytes until it is asked for. These functions read the bytes themselves: it takes half
the time of pydicom's own conversion, warns about nothing, and a malformed number is simply not there, so that the
checks can name it as missing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

__all__ = [
    "EMPTY",
    "PARSE_ERRORS",
    "Key",
    "first",
    "integer",
    "is_block_of",
    "items",
    "number",
    "numbers",
    "text",
    "texts",
    "uid_name",
    "words",
]

Key = str | int

# What pydicom, and the libraries below it, raise on malformed data.
PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "US or SS": "H"}


@cache
def _tag(key: Key) -> BaseTag:
    return Tag(key)


@cache
def _dictionary_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


# Shared, and never written to: without, a fifth of a scan goes into making them.
EMPTY = Dataset()


def texts(ds: Dataset, key: Key) -> tuple[str, ...]:
    """Every value of a text attribute, stripped; () where it is absent or empty. For codes, UIDs and numbers."""
    value = _raw(ds, _tag(key))
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("latin-1").split("\\")
    elif isinstance(value, str) or not isinstance(value, Iterable):
        value = (value,)
    return tuple(str(v).strip(" \0") for v in value)


def text(ds: Dataset, key: Key) -> str:
    """The first value of a text attribute, or ""."""
    values = texts(ds, key)
    return values[0] if values else ""


def words(ds: Dataset, key: Key) -> str:
    """A text that people wrote, such as a description, decoded by the file's character set."""
    tag = _tag(key)
    if tag not in ds:
        return ""
    try:
        return " ".join(str(ds[tag].value or "").split())
    except PARSE_ERRORS:
        return text(ds, key)


def numbers(ds: Dataset, key: Key, *, vr: str = "") -> tuple[float, ...] | None:
    """Every value of a numeric attribute; None where it is absent, empty, malformed or not finite.

    ``vr`` says how the bytes of a private or ambiguous attribute are to be read where the file does not.
    """
    tag = _tag(key)
    value = _raw(ds, tag)
    if value is None:
        return None
    try:
        if isinstance(value, bytes):
            value = _unpack(value, vr or _vr(ds, tag), little_endian=_is_little_endian(ds, tag))
        elif isinstance(value, str) or not isinstance(value, Iterable):
            value = (value,)
        result = tuple(float(v) for v in value)
    except (ValueError, TypeError, struct.error, OverflowError):
        return None
    return result if result and all(map(math.isfinite, result)) else None


def number(ds: Dataset, key: Key, *, vr: str = "") -> float | None:
    """The first value of a numeric attribute, or None."""
    values = numbers(ds, key, vr=vr)
    return values[0] if values else None


def integer(ds: Dataset, key: Key, *, vr: str = "") -> int | None:
    """The first value of a numeric attribute as an integer; None where it is none."""
    value = number(ds, key, vr=vr)
    return int(value) if value is not None and value == int(value) else None


def items(ds: Dataset, key: Key) -> list[Dataset]:
    """The items of a sequence; [] where it is absent or malformed."""
    tag = _tag(key)
    if tag not in ds:
        return []
    try:
        value = ds[tag].value
    except PARSE_ERRORS:
        return []
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, Iterable) else []


def first(ds: Dataset, key: Key) -> Dataset:
    """The first item of a sequence, or ``EMPTY``: to be read only."""
    found = items(ds, key)
    return found[0] if found else EMPTY


def is_block_of(ds: Dataset, tag: int, creator: str) -> bool:
    """Whether the block that a private tag lies in is reserved by ``creator``, or by one that begins so."""
    group, element = tag >> 16, tag & 0xFFFF
    return text(ds, group << 16 | element >> 8).upper().startswith(creator.upper())


def uid_name(uid: str) -> str:
    """What the standard calls a UID; the UID itself where it is none of the standard's, or malformed.

    >>> uid_name("1.2.840.10008.1.2.5")
    'RLE Lossless'
    """
    return str(UID(uid, validation_mode=IGNORE).name)


def _raw(ds: Dataset, tag: BaseTag) -> Any:
    if tag not in ds:
        return None
    value = ds.get_item(tag).value
    return None if value in (b"", "", None) else value


def _vr(ds: Dataset, tag: BaseTag) -> str:
    vr = ds.get_item(tag).VR
    return vr if vr and vr != "UN" else _dictionary_vr(tag)


def _is_little_endian(ds: Dataset, tag: BaseTag) -> bool:
    element = ds.get_item(tag)
    return element.is_little_endian if isinstance(element, RawDataElement) else True


def _unpack(value: bytes, vr: str, *, little_endian: bool) -> tuple[Any, ...]:
    code = _FORMATS.get(vr)
    if code is None:
        return tuple(value.decode("ascii").strip(" \0").split("\\"))
    count, rest = divmod(len(value), struct.calcsize(code))
    if rest:
        raise ValueError(f"{len(value)} bytes are no whole number of {vr} values")
    return struct.unpack(f"{'<' if little_endian else '>'}{count}{code}", value)
