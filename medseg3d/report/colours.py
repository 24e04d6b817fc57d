"""One colour a structure, in every table, chart, picture and surface of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Palette", "Structure", "on_white", "palette_of"]

# Of thin lines on a white page, as WCAG 2.1 (1.4.11) asks of figures.
LEAST_CONTRAST = 3.0


@dataclass(frozen=True)
class Structure:
    """What pictures show under one name: the ids of a label map that belong to it."""

    name: str
    colour: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``.

    Attributes:
        by_name: of labels and overlapping regions.
        structures: what pictures show: the labels; and the regions that hold an id which no label has alone, such as
            labels that overlap, whose combinations have ids of their own.
    """

    by_name: Mapping[str, str]
    structures: tuple[Structure, ...]


def palette_of(regions: Sequence[Mapping[str, Any]]) -> Palette:
    """Colours of regions (``name``, ``ids``): those of single ids in their order, then those that join several.

    >>> palette = palette_of([{"name": "core", "ids": [1]}, {"name": "whole", "ids": [1, 2]}])
    >>> palette.by_name
    {'core': '#e69f00', 'whole': '#56b4e9'}
    >>> [(structure.name, structure.ids) for structure in palette.structures]  # nobody else has id 2
    [('core', (1,)), ('whole', (1, 2))]
    """
    single = {int(region["ids"][0]): region["name"] for region in regions if len(region["ids"]) == 1}
    joined = [region for region in regions if len(region["ids"]) != 1]
    colours = _first_colours(len(single) + len(joined))
    of_id = dict(zip(sorted(single), colours, strict=False))
    of_joined = dict(zip((region["name"] for region in joined), colours[len(single) :], strict=True))
    by_name = {r["name"]: of_joined.get(r["name"]) or of_id[int(r["ids"][0])] for r in regions}
    shown = [Structure(single[i], colour, (i,)) for i, colour in of_id.items()]
    shown += [
        Structure(region["name"], of_joined[region["name"]], tuple(map(int, region["ids"])))
        for region in joined
        if not single.keys() >= set(map(int, region["ids"]))
    ]
    return Palette(by_name, tuple(shown))


def on_white(colour: str) -> str:
    """The same hue, as dark as a thin line on a white page needs.

    >>> on_white("#0072b2"), on_white("#f0e442")  # the blue is; the yellow is not
    ('#0072b2', '#9d952b')
    """
    from matplotlib.colors import to_hex, to_rgb

    bright = to_rgb(colour)
    factor = 1.0
    while _contrast_to_white([factor * part for part in bright]) < LEAST_CONTRAST:
        factor *= 0.98
    return to_hex([factor * part for part in bright])


def _contrast_to_white(colour: Sequence[float]) -> float:
    """By the relative luminance of WCAG 2.1: 1 for white, 21 for black."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


def _first_colours(count: int) -> list[str]:
    from matplotlib.colors import to_hex

    from medseg3d.report.figures import label_colours

    return [to_hex(colour) for colour in label_colours({str(i): i for i in range(count)}).values()]
