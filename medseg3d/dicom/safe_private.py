"""Private attributes that hold numbers of physics and nothing else: b-values, gradients, PET and MR scale factors.

Without them diffusion series of several vendors cannot be sorted and some PET cannot be scaled. PS3.15 section E.3.10
(Retain Safe Private Option) has a table of such attributes; here are those of it that are numbers and that images are
read by, and Philips' gradient directions.
"""

from __future__ import annotations

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from medseg3d.dicom.attributes import PARSE_ERRORS, text

__all__ = ["safe_private_tags"]

_SAFE: dict[tuple[int, str], frozenset[int]] = {
    (0x0019, "SIEMENS MR HEADER"): frozenset({0x0C, 0x0E, 0x27}),  # b-value, gradient direction, b-matrix
    (0x0043, "GEMS_PARM_01"): frozenset({0x39}),  # b-value
    (0x2001, "Philips Imaging DD 001"): frozenset({0x03}),  # b-value
    (0x2005, "Philips MR Imaging DD 001"): frozenset({0x0D, 0x0E, 0xB0, 0xB1, 0xB2}),  # intercept, slope, gradient
    (0x7053, "Philips PET Private Group"): frozenset({0x00, 0x09}),  # SUV and activity concentration factors
}
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"})


def safe_private_tags(dataset: Dataset) -> frozenset[BaseTag]:
    """Tags of this data set, not of its sequences, that hold safe numbers; and those of their private creators."""
    safe: set[BaseTag] = set()
    for tag in dataset.keys():  # noqa: SIM118 - a data set iterates over decoded elements
        if tag.is_private and tag.element >= 0x1000:
            creator = Tag(tag.group, tag.element >> 8)
            known = _SAFE.get((tag.group, text(dataset, int(creator))), frozenset())
            if tag.element & 0xFF in known and _is_number(dataset, tag):
                safe |= {tag, creator}
    return frozenset(safe)


def _is_number(dataset: Dataset, tag: BaseTag) -> bool:
    try:
        with config.disable_value_validation():
            element = dataset[tag]  # pydicom's private dictionary gives the VR where the file does not
            if element.VR not in _NUMBERS or element.is_empty:
                return False
            values = element.value if element.VM > 1 else [element.value]
            return all(isinstance(float(value), float) for value in values)
    except PARSE_ERRORS:
        return False
