"""What a label is, in codes that a PACS understands: SNOMED CT, and a colour to show it in.

A label's name decides: ``left_kidney``, ``kidney_left`` and ``Kidney, L`` are SNOMED CT 64033007 "Kidney" with the
modifier "Left". A name that is not known gets the general concept "Tissue"; its own words stay in the segment's label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from medseg3d.dicom.code_table import CATEGORIES, LATERALITY, MODIFIERS, STRUCTURES
from medseg3d.errors import UsageError

__all__ = ["Code", "LabelCode", "code_label", "code_labels", "lab_of_rgb", "read_codes", "rgb_of_lab"]

RGB = tuple[int, int, int]
Words = frozenset[str]

# Of labels that are not known: 3D Slicer's colours of generic regions, which are far apart.
OTHER_COLORS: tuple[RGB, ...] = (
    (185, 232, 61), (0, 226, 255), (251, 159, 255), (230, 169, 29), (0, 194, 113), (104, 160, 249), (221, 108, 158),
    (137, 142, 0), (230, 70, 0), (0, 147, 0), (0, 147, 248), (231, 0, 206), (129, 78, 0),
)  # fmt: skip
DARKER = 0.75  # of the colour before it, where two labels of one file would look the same
KEYS = ("category", "type", "modifier", "region", "region_modifier", "color")


@dataclass(frozen=True)
class Code:
    """A coded concept: value, meaning and the scheme that defines it (SCT = SNOMED CT)."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class LabelCode:
    """What a label is.

    Attributes:
        category: anatomical structure, tissue, morphologically abnormal structure, …
        type: what is segmented: "Kidney", "Neoplasm".
        modifier: of the type: "Left", "Anterior"; None where there is none.
        region: where an abnormality is: "Liver"; None where the type says it.
        region_modifier: "Left"; None where there is none.
        color_rgb: to show it in, 0 to 255.
        known: whether the name was recognised; else type and category are the general "Tissue".
    """

    category: Code
    type: Code
    color_rgb: RGB
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None
    known: bool = True


def code_label(name: str, *, context: str = "") -> LabelCode:
    """The code of a label's name.

    Args:
        name: in any case and order of words, singular or plural.
        context: name of the data set or bundle, which says what a bare "anterior" is a part of.

    >>> code = code_label("left_kidney")
    >>> code.type.meaning, code.modifier.meaning
    ('Kidney', 'Left')
    >>> code_label("liver tumour").region.meaning
    'Liver'
    >>> code_label("anterior", context="mri_hippocampus_segmentation").type.meaning
    'Hippocampus'
    """
    words = _words(name)
    if words and all(word in LATERALITY or word in MODIFIERS for word in words):
        return _in_context(words, _words(context)) or _unknown(name)
    return _structure(words, plural=_is_plural(name)) or _abnormality(words) or _unknown(name)


def code_labels(
    names: Sequence[str], *, codes: Mapping[str, LabelCode] | None = None, context: str = ""
) -> dict[str, LabelCode]:
    """The code of each label of one file, no two of them in the same colour.

    Args:
        names: of the labels, in order.
        codes: for labels that shall not be looked up by name; their colours stay as they are.
        context: as in ``code_label``.

    Raises:
        UsageError: ``codes`` names a label that is not among ``names``.
    """
    codes = codes or {}
    unknown = [name for name in codes if name not in names]
    if unknown:
        raise UsageError(f"Codes are given for {', '.join(unknown)}, but the labels are {', '.join(names)}.")
    found = {name: codes[name] if name in codes else code_label(name, context=context) for name in names}
    taken = {code.color_rgb for code in codes.values()}
    others = iter(OTHER_COLORS * (1 + len(names) // len(OTHER_COLORS)))
    for name in names:
        if name not in codes:
            wanted = found[name].color_rgb if found[name].known else next(others)
            found[name] = replace(found[name], color_rgb=_free_color(wanted, taken))
            taken.add(found[name].color_rgb)
    return found


def read_codes(path: str | Path) -> dict[str, LabelCode]:
    """Read codes of a data set's own labels from YAML.

    ::

        anterior:
          type: [5366008, Hippocampus]              # code and meaning; SNOMED CT, or a third item names the scheme
          category: [91723000, Anatomical Structure]
          modifier: [255549009, Anterior]           # and region, region_modifier
          color: [200, 200, 215]

    Only ``type`` is needed; the category is then "Anatomical Structure".

    Raises:
        UsageError: not readable, an unknown key, or a code or colour that is none.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not readable as YAML ({error}).") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: no mapping of labels to codes.")
    return {str(name): _parsed(str(name), entry, path) for name, entry in content.items()}


def lab_of_rgb(color_rgb: RGB) -> tuple[int, int, int]:
    """CIELab as DICOM stores it, 0 to 65535 each, of an sRGB colour.

    >>> lab_of_rgb((0, 0, 0))
    (0, 32896, 32896)
    """
    from highdicom.color import CIELabColor

    lightness, a, b = CIELabColor.from_rgb(*color_rgb).value
    return lightness, a, b


def rgb_of_lab(lab: Sequence[int]) -> RGB:
    """The inverse of ``lab_of_rgb``, to the nearest 8-bit colour.

    >>> rgb_of_lab(lab_of_rgb((221, 130, 101)))
    (221, 130, 101)
    """
    from highdicom.color import CIELabColor

    red, green, blue = CIELabColor.from_dicom_value([int(value) for value in lab]).to_rgb()
    return red, green, blue


def _words(name: str) -> Words:
    """Lower-case words of a name without plural endings: ``"Kidneys, L"`` → {kidney, l}."""
    return frozenset(_singular(word) for word in re.findall(r"[a-z0-9]+", name.lower()))


def _singular(word: str) -> str:
    keep = len(word) < 4 or not word.endswith("s") or word.endswith(("us", "is", "as", "ss"))
    return word if keep else word[:-1]


def _is_plural(name: str) -> bool:
    return any(_singular(word) != word for word in re.findall(r"[a-z0-9]+", name.lower()))


@cache
def _table() -> dict[Words, tuple[str, str, str, RGB]]:
    return {_words(name): row[1:] for row in STRUCTURES for name in row[0].split("|")}


# Of which there are a left and a right one, so that the plural means both.
PAIRED = frozenset({"64033007", "39607008", "23451007", "79652003", "76752008", "15497006"})


def _structure(words: Words, *, plural: bool = False) -> LabelCode | None:
    """A structure of the table, with at most one side or position as its modifier."""
    row = _table().get(words)
    modifier = None
    if row is None:
        # Sides first: the "right lateral ventricle" is the brain's, not a lateral part of the heart's right one.
        sides_first = [*sorted(words & LATERALITY.keys()), *sorted(words & MODIFIERS.keys())]
        extra = next((word for word in sides_first if words - {word} in _table()), None)
        row = _table()[words - {extra}] if extra is not None else None
        modifier = _modifier(extra) if extra is not None else None
    if row is None:
        return None
    if modifier is None and plural and row[1] in PAIRED:
        modifier = Code(*LATERALITY["bilateral"])
    category, code, meaning, color = row
    scheme = "NCIt" if code.startswith("C") else "SCT"
    return LabelCode(Code(*CATEGORIES[category]), Code(code, meaning, scheme), color, modifier)


def _abnormality(words: Words) -> LabelCode | None:
    """An abnormality in a structure: ``liver tumour``, ``kidney cyst left``."""
    for word in sorted(words):
        abnormal, region = _structure(frozenset({word})), _structure(words - {word})
        if abnormal is not None and abnormal.category.value == CATEGORIES["morphology"][0] and region is not None:
            return replace(abnormal, region=region.type, region_modifier=region.modifier)
    return None


def _in_context(words: Words, context: Words) -> LabelCode | None:
    """A bare side or position: of the one structure that the context names."""
    found = [part for word in sorted(context) if (part := _structure(words | {word})) is not None]
    return found[0] if len(found) == 1 else None


def _unknown(name: str) -> LabelCode:
    tissue = Code(*CATEGORIES["tissue"])
    return LabelCode(tissue, tissue, OTHER_COLORS[0], known=False)


def _modifier(word: str) -> Code:
    return Code(*(LATERALITY.get(word) or MODIFIERS[word]))


def _free_color(color_rgb: RGB, taken: set[RGB]) -> RGB:
    """``color_rgb``, or the first darker shade that is not taken."""
    red, green, blue = color_rgb
    while (red, green, blue) in taken and max(red, green, blue) > 0:
        red, green, blue = int(red * DARKER), int(green * DARKER), int(blue * DARKER)
    return red, green, blue


def _parsed(name: str, entry: Any, path: Path) -> LabelCode:
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise UsageError(f"{path}: {name} has no type, such as type: [10200004, Liver].")
    unknown = [str(key) for key in entry if key not in KEYS]
    if unknown:
        raise UsageError(f"{path}: {name} has the unknown key {', '.join(unknown)}; known are {', '.join(KEYS)}.")
    codes = {key: _parsed_code(name, key, entry[key], path) for key in KEYS[:-1] if key in entry}
    color = entry.get("color", OTHER_COLORS[0])
    if not isinstance(color, Sequence) or len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
        raise UsageError(f"{path}: the color of {name} is {color!r}: three numbers from 0 to 255 are needed.")
    category = codes.pop("category", Code(*CATEGORIES["anatomy"]))
    return LabelCode(category=category, color_rgb=(color[0], color[1], color[2]), **codes)  # type: ignore[arg-type]


def _parsed_code(name: str, key: str, value: Any, path: Path) -> Code:
    items = [str(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
    # DICOM's Code Value (SH) holds 16 characters, Code Meaning (LO) 64.
    if len(items) not in (2, 3) or not all(items) or len(items[0]) > 16 or len(items[1]) > 64:
        raise UsageError(
            f"{path}: the {key} of {name} is {value!r}: a code of at most 16 characters and its meaning of at most 64 "
            "are needed, such as [10200004, Liver]."
        )
    return Code(*items)
