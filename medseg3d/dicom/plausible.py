"""Whether a value is one that its VR and its attribute can have: what is not may be anything, a name too."""

from __future__ import annotations

import re

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medseg3d.dicom.attributes import texts
from medseg3d.dicom.profile import in_dictionary

__all__ = ["PATTERN_VRS", "is_age", "is_binary", "is_code", "is_known_code", "is_well_formed"]

_NUMBER = rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_PAD = rb"[ \0]*"


def _values_of(pattern: bytes) -> re.Pattern[bytes]:
    """One or more values between backslashes, padded or empty ones too."""
    value = _PAD + rb"(?:" + pattern + _PAD + rb")?"
    return re.compile(value + rb"(?:\\" + value + rb")*")


# Longer numbers than the standard allows, and decimals for integers, are common and harmless.
_PATTERNS = {"DS": _values_of(_NUMBER), "IS": _values_of(_NUMBER), "UI": _values_of(rb"\d[\d.]*")}
PATTERN_VRS = frozenset(_PATTERNS)

_AGE = re.compile(r"\d{1,3}[DWMY]")
# As the standard wants it, and with hyphens; or one word of any case, which many scanners write.
_CODE = re.compile(r"[A-Z0-9_ -]{0,16}|[\w./+*^-]{1,64}", re.ASCII)
_LONG_NUMBER = re.compile(r"\d{6}")

# Codes by which an object is read. PS3.3 section C.7.3.1.1.1, C.7.3.1.1.2, C.7.6.1.1.2, C.7.6.3.1.2, C.12.1.1.2.
_MODALITIES = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG "
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TEXTUREMAP TG US "
    "VA XA XAPROTOCOL XC"
)
_PHOTOMETRIC = (
    "MONOCHROME1 MONOCHROME2 RGB HSV ARGB CMYK XYB YBR_FULL YBR_FULL_422 YBR_ICT YBR_PARTIAL_420 YBR_PARTIAL_422 "
    "YBR_RCT"
)
_POSITIONS = (
    "HFP HFS HFDR HFDL HFV HFI FFP FFS FFDR FFDL FFV FFI LFP LFS LFDR LFDL RFP RFS RFDR RFDL AFP AFS AFDR AFDL PFP PFS "
    "PFDR PFDL"
)
_KNOWN: dict[str, frozenset[str]] = {
    "ImageType": frozenset(["ORIGINAL", "DERIVED", "MIXED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER"]),
    "Modality": frozenset(_MODALITIES.split()),
    "PatientPosition": frozenset(_POSITIONS.split()),
    "PhotometricInterpretation": frozenset(["PALETTE COLOR", *_PHOTOMETRIC.split()]),
    "SpecificCharacterSet": frozenset(python_encoding),
}

_NUMBER_BYTES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}


def is_well_formed(dataset: Dataset, tag: BaseTag, vr: str) -> bool:
    """Whether the bytes of a number or UID are made of the characters that such values have.

    Args:
        dataset: that has the attribute, decoded or not.
        tag: of it.
        vr: one of ``PATTERN_VRS``.
    """
    value = dataset.get_item(tag).value
    if not isinstance(value, bytes):
        value = "\\".join(texts(dataset, int(tag))).encode("ascii", "replace")
    return _PATTERNS[vr].fullmatch(value) is not None


def is_binary(dataset: Dataset, tag: BaseTag, vr: str) -> bool:
    """Whether the standard has this attribute as numbers or bytes, and it holds a whole number of them.

    One kind of number may stand for another, as it does in many files, but no bytes for a text.
    """
    if not in_dictionary(tag):
        return False
    standard, stated = (frozenset(name.split(" or ")) for name in (dictionary_VR(tag), vr))
    numbers = _NUMBER_BYTES.keys()
    if not (stated & standard or (stated & numbers and standard & numbers)):
        return False
    value = dataset.get_item(tag).value
    return not isinstance(value, bytes) or len(value) % min(_NUMBER_BYTES.get(name, 1) for name in stated) == 0


def is_age(text: str) -> bool:
    """
    >>> is_age("063Y"), is_age("Anna")
    (True, False)
    """
    return _AGE.fullmatch(text.strip()) is not None


def is_known_code(keyword: str, code: str) -> bool:
    """Whether the standard defines a code of this attribute, by which its object is read.

    >>> is_known_code("Modality", "CT"), is_known_code("Modality", "ANNA"), is_known_code("ScanOptions", "CT")
    (True, False, False)
    """
    return code.strip() in _KNOWN.get(keyword, ())


def is_code(text: str) -> bool:
    """Whether a text can be a code (CS): a short one of capitals and digits, or one word; without a long number.

    >>> is_code("CT_SOM5 SPI"), is_code("Water"), is_code("seen by Anna"), is_code("19610203")
    (True, True, False, False)
    """
    return _CODE.fullmatch(text) is not None and _LONG_NUMBER.search(text) is None
