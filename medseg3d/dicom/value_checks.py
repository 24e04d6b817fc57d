"""Findings about what stored values mean: rescale, units, lookup tables, real-world values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame, Header

__all__ = ["check_values"]

# float32 holds values to 3e38; no measured quantity comes near.
_GREATEST_FACTOR = 1e30
# Without a rescale, these are no HU and no activity (PS3.3 C.8.2.1 and C.8.9.1 demand one).
_RESCALED_MODALITIES = ("CT", "PT")

_EXPORT = "Export the series again from the archive."


def check_values(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    """What the attributes of one stack's frames say about their values."""
    if any(h.modality_lut for h in headers):
        yield Finding("modality_lut", "refusal", "Values go through a Modality LUT, which is not applied here.",
                      "Export the series with RescaleSlope and RescaleIntercept.")  # fmt: skip
    yield from _units(headers)
    yield from _polarity(frames)
    yield from _unusable(frames)
    yield from _absent(frames, headers)
    yield from _impossible(frames)
    yield from _real_world(frames)


def _units(headers: Sequence[Header]) -> Iterator[Finding]:
    units = {h.unit or "none" for h in headers}
    if len(units) > 1:
        yield Finding("mixed_units", "refusal", f"Slices are in different units: {', '.join(sorted(units))}.", _EXPORT)


def _polarity(frames: Sequence[Frame]) -> Iterator[Finding]:
    inverted = sum(f.layout.photometric == "MONOCHROME1" for f in frames)
    if inverted == len(frames):
        yield Finding("monochrome1", "note", f"{inverted} of {len(frames)} slices are meant to be shown with low "
                      "values bright (MONOCHROME1); the values are as they are.")  # fmt: skip
    elif inverted:
        yield Finding("mixed_photometric", "refusal", f"{inverted} of {len(frames)} slices are MONOCHROME1 (low values "
                      "bright), the others are not: the same tissue may have opposite values.", _EXPORT)  # fmt: skip


def _unusable(frames: Sequence[Frame]) -> Iterator[Finding]:
    for keyword in dict.fromkeys(keyword for f in frames for keyword in f.unusable):
        count = sum(keyword in f.unusable for f in frames)
        yield Finding("contradictory_tags", "refusal", f"{keyword} is there without a usable number in {count} of "
                      f"{len(frames)} slices: nobody knows their values.", _EXPORT)  # fmt: skip


def _absent(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    """Rescale that some slices have and others have not; and that none has of a modality that needs it."""
    nowhere = []
    for keyword in dict.fromkeys(keyword for f in frames for keyword in f.absent):
        count = sum(keyword in f.absent for f in frames)
        if count == len(frames):
            nowhere.append(keyword)
            continue
        yield Finding("missing_tag", "refusal", f"{keyword} is absent in {count} of {len(frames)} slices and there in "
                      "the others: their values cannot be compared.", _EXPORT)  # fmt: skip
    modality, floats = headers[0].modality, any(f.layout.keyword != "PixelData" for f in frames)
    if nowhere and modality in _RESCALED_MODALITIES and not floats and not headers[0].modality_lut:
        what = f"{' and '.join(nowhere)} {'is' if len(nowhere) == 1 else 'are'} absent in all {len(frames)} slices"
        yield Finding("missing_tag", "warning", f"{what}: 1 and 0 are taken, and the values may not be in "
                      f"{'HU' if modality == 'CT' else 'a unit of activity'}.",
                      "Compare the values of air and tissue with what they should be.")  # fmt: skip


def _impossible(frames: Sequence[Frame]) -> Iterator[Finding]:
    odd = [f for f in frames if not 0 < abs(f.slope) < _GREATEST_FACTOR or abs(f.intercept) > _GREATEST_FACTOR]
    if odd:
        yield Finding(
            "contradictory_tags",
            "refusal",
            f"RescaleSlope is {odd[0].slope:g} and RescaleIntercept {odd[0].intercept:g} in {len(odd)} of "
            f"{len(frames)} slices: no values result.",
            _EXPORT,
        )


def _real_world(frames: Sequence[Frame]) -> Iterator[Finding]:
    maps = {(f.real_world.slope, f.real_world.intercept, f.real_world.unit) for f in frames if f.real_world}
    used = {(f.slope, f.intercept) for f in frames}
    other = [m for m in maps if not any(np.allclose(m[:2], u, rtol=1e-6, atol=1e-9) for u in used)]
    if other:
        yield Finding("real_world_values", "note", "The files map stored values to "
                      f"{other[0][2] or 'another unit'} as well (slope {other[0][0]:g}); the rescaled values are "
                      "used.")  # fmt: skip
