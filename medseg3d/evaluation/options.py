"""Settings as they are typed on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medseg3d.errors import UsageError

__all__ = ["parse_names", "parse_regions", "parse_tolerance"]


def parse_regions(text: str, labels: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Unions of labels, by id or by name.

    >>> parse_regions("whole=1+2, core=necrosis", {"edema": 1, "necrosis": 2})
    {'whole': (1, 2), 'core': (2,)}

    Raises:
        UsageError: not pairs of a name and ids joined by ``+``, or a label that is not known.
    """
    regions: dict[str, tuple[int, ...]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, members = (piece.strip() for piece in part.partition("="))
        if not name or not members or name in regions:
            raise UsageError(f"--regions {text!r} cannot be read: write each name once, as in whole=1+2,core=2+3.")
        regions[name] = tuple(_label_id(member.strip(), labels, name) for member in members.split("+"))
    return regions


def parse_tolerance(text: str) -> float | dict[str, float]:
    """One tolerance in mm for all, or one by name.

    >>> parse_tolerance("2"), parse_tolerance("liver=3,spleen=1.5")
    (2.0, {'liver': 3.0, 'spleen': 1.5})

    Raises:
        UsageError: neither a number nor pairs of a name and a number.
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {name.strip(): float(mm) for name, _, mm in pairs}
    except ValueError as error:
        raise UsageError(f"--tolerance {text!r} cannot be read: write 2, or liver=3,spleen=1.5 (in mm).") from error


def parse_names(text: str) -> tuple[str, ...]:
    """Names separated by commas.

    >>> parse_names("tumour, cyst")
    ('tumour', 'cyst')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _label_id(member: str, labels: Mapping[str, int], region: str) -> int:
    if member in labels:
        return labels[member]
    if re.fullmatch(r"[1-9]\d*", member):
        return int(member)
    listed = ", ".join(f"{name} = {i}" for name, i in labels.items())
    raise UsageError(f"--regions: {region} names {member!r}, which is no label ({listed}).")
