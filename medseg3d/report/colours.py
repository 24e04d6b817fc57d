"""One colour a structure, in every table, chart, picture and surface of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Palette", "palette_of"]


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``.

    Attributes:
        by_name: of labels and overlapping regions.
        by_id: of the ids in a label map.
        names: of the ids; an id that occurs only inside regions is named by its number.
    """

    by_name: Mapping[str, str]
    by_id: Mapping[int, str]
    names: Mapping[int, str]


def palette_of(regions: Sequence[Mapping[str, Any]]) -> Palette:
    """Colours of regions (``name``, ``ids``): a single id has that of ``label_colours``; joined ones follow after.

    >>> palette_of([{"name": "core", "ids": [1]}, {"name": "whole", "ids": [1, 2]}]).by_name
    {'core': '#e69f00', 'whole': '#009e73'}
    """
    from matplotlib.colors import to_hex

    from medseg3d.report.figures import label_colours

    ids = sorted({int(i) for region in regions for i in region["ids"]})
    joined = [region["name"] for region in regions if len(region["ids"]) != 1]
    after = {name: max(ids, default=0) + 1 + n for n, name in enumerate(joined)}
    colours = label_colours({**{str(i): i for i in ids}, **{f"joined {name}": i for name, i in after.items()}})
    single = {int(region["ids"][0]): region["name"] for region in regions if len(region["ids"]) == 1}
    of_name = {
        region["name"]: after.get(region["name"], int(region["ids"][0]) if region["ids"] else 0) for region in regions
    }
    return Palette(
        {name: to_hex(colours[i]) for name, i in of_name.items()},
        {i: to_hex(colours[i]) for i in ids},
        {i: single.get(i, f"label {i}") for i in ids},
    )
