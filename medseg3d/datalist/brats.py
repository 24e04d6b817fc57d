"""The BraTS challenges' layout: a folder a case, a file a channel, names that changed over the years."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from medseg3d.datalist.layouts import Files, Layout

__all__ = ["BRATS_CHANNELS", "brats_labels", "brats_regions", "with_brats_channels"]

BRATS_CHANNELS = ("T1", "T1c", "T2", "FLAIR")
# Until 2021: _t1, _t1ce, _t2, _flair; since 2023: -t1n, -t1c, -t2w, -t2f.
_ENDINGS = {
    "t1": "T1",
    "t1n": "T1",
    "t1ce": "T1c",
    "t1c": "T1c",
    "t1gd": "T1c",
    "t2": "T2",
    "t2w": "T2",
    "flair": "FLAIR",
    "t2f": "FLAIR",
}


def with_brats_channels(layout: Layout) -> Layout | None:
    """The same cases with the channels called T1, T1c, T2 and FLAIR; None where the files are not named as in BraTS.

    They are where every image ends in one of the names that BraTS has given to its channels, and all four occur.
    """
    training, testing = (tuple(map(_renamed, part)) for part in (layout.training, layout.testing))
    cases = [case for case in (*training, *testing) if case is not None]
    found = {channel for case in cases for channel in case.images}
    if len(cases) < len(layout.training) + len(layout.testing) or found != set(BRATS_CHANNELS):
        return None
    return Layout(tuple(filter(None, training)), tuple(filter(None, testing)))


def _renamed(files: Files) -> Files | None:
    names = {name: _ENDINGS.get(name.lower()) for name in files.images}
    channels = {channel: files.images[name] for name, channel in names.items() if channel is not None}
    return replace(files, images=channels) if len(channels) == len(files.images) else None


def brats_labels(ids: Iterable[int]) -> dict[str, int]:
    """Names of the label ids of BraTS; empty for other ids.

    Enhancing tumour is 4 until 2021, and 3 since. Where both occur (resection cavities, since 2024) nothing is named.

    >>> brats_labels([1, 2, 4])
    {'necrotic_core': 1, 'oedema': 2, 'enhancing': 4}
    >>> brats_labels([1, 2, 3, 4])
    {}
    """
    found = set(ids)
    if found not in ({1, 2, 3}, {1, 2, 4}):
        return {}
    return {"necrotic_core": 1, "oedema": 2, "enhancing": max(found)}


def brats_regions(labels: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The nested regions that BraTS scores, from the outermost to the innermost."""
    core, oedema, enhancing = (labels[name] for name in ("necrotic_core", "oedema", "enhancing"))
    return {
        "whole_tumour": (core, oedema, enhancing),
        "tumour_core": (core, enhancing),
        "enhancing_tumour": (enhancing,),
    }
