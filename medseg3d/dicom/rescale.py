"""From stored values to values: unused bits, slope and intercept, and the smallest type that holds them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medseg3d.dicom.frames import Frame, PixelLayout
from medseg3d.errors import DicomError

__all__ = ["ValueRangeError", "clean_bits", "likely_dtype", "rescale", "safe_dtype"]

# int16 before uint16: every reader of NIfTI knows it, and it is what a CT is in.
_INTEGERS = ("uint8", "int16", "uint16", "int32", "uint32")


class ValueRangeError(DicomError):
    """A slice holds values that the chosen type cannot: take ``safe_dtype``."""


def safe_dtype(frames: Sequence[Frame]) -> np.dtype[Any]:
    """The smallest type that holds whatever the frames can hold, by their headers.

    An integer type where slope and intercept are whole numbers, otherwise float32.
    """
    bounds = _bounds(frames)
    return np.dtype(np.float32) if bounds is None else smallest_integer(*bounds)


def likely_dtype(frames: Sequence[Frame]) -> np.dtype[Any]:
    """int16 where the headers would allow more than it holds but 16 bits are stored, otherwise ``safe_dtype``.

    Scanners declare 16 stored bits and an intercept of -1024 for values that fit int16 easily. ``rescale`` checks:
    a slice that does not fit raises ``ValueRangeError``, and one starts again with ``safe_dtype``.
    """
    dtype = safe_dtype(frames)
    narrow = dtype.kind != "f" and dtype.itemsize == 4 and all(f.layout.bits_stored <= 16 for f in frames)
    return np.dtype(np.int16) if narrow else dtype


def smallest_integer(low: float, high: float) -> np.dtype[Any]:
    """The first of uint8, int16, uint16, int32, uint32 that holds both; float32 where none does.

    >>> smallest_integer(-1024, 3071)
    dtype('int16')
    """
    for name in _INTEGERS:
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype(np.float32)


def rescale(stored: NDArray[Any], frame: Frame, dtype: DTypeLike) -> NDArray[Any]:
    """Values of a frame, slope · stored + intercept, as ``dtype``.

    Raises:
        ValueRangeError: an integer ``dtype`` does not hold them.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        if frame.slope == 1 and frame.intercept == 0:
            return stored.astype(dtype)
        return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(dtype)
    if _bounds([frame]) is None:
        raise ValueRangeError(f"{frame.source.file}: its values are not integers and do not fit {dtype}.")
    slope, intercept = int(frame.slope), int(frame.intercept)
    if not _holds(dtype, *_bounds_of(frame)):
        low, high = sorted((int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept))
        if not _holds(dtype, low, high):
            raise ValueRangeError(f"{frame.source.file}: values from {low} to {high} do not fit {dtype}.")
    if slope == 1 and _holds(dtype, *_stored_bounds(frame.layout)) and _holds(dtype, intercept, intercept):
        shifted = stored.astype(dtype)
        if intercept:
            shifted += dtype.type(intercept)
        return shifted
    wide = np.int32 if max(stored.itemsize, dtype.itemsize) < 4 and abs(slope) < 2**14 else np.int64
    values: NDArray[Any] = stored.astype(wide) * slope + intercept
    return values.astype(dtype)


def clean_bits(stored: NDArray[Any], layout: PixelLayout) -> tuple[NDArray[Any], bool]:
    """Samples without the bits that do not belong to them, and whether those bits held anything unexpected.

    A sample is BitsStored bits up to HighBit (PS3.5, 8.1.1). Those above may be zero, copies of the sign, or overlays
    of old; whatever they are, they are not the image.
    """
    width = stored.itemsize * 8
    top = layout.high_bit + 1
    if stored.dtype.kind == "f" or layout.bits_stored >= width or top > width:
        return stored, False
    below, above = top - layout.bits_stored, width - top
    low, high = _stored_bounds(layout)
    if not below and low <= stored.min() and stored.max() <= high:
        return stored, False
    unsigned = stored.view(f"{stored.dtype.byteorder}u{stored.itemsize}")
    surprising = not below and bool((unsigned >> layout.bits_stored).any())
    if stored.dtype.kind == "u":
        return (stored >> below) & stored.dtype.type(2**layout.bits_stored - 1), surprising
    return (stored << above) >> (above + below), surprising


def _bounds(frames: Iterable[Frame]) -> tuple[float, float] | None:
    """Least and greatest value that the frames can hold; None where values are not all integers."""
    kinds = {(f.slope, f.intercept, f.layout.bits_stored, f.layout.signed, f.layout.keyword): f for f in frames}
    if any(f.layout.keyword != "PixelData" or f.slope % 1 or f.intercept % 1 for f in kinds.values()):
        return None
    lows, highs = zip(*map(_bounds_of, kinds.values()), strict=True)
    return min(lows), max(highs)


def _bounds_of(frame: Frame) -> tuple[int, int]:
    low, high = sorted(int(frame.slope) * s + int(frame.intercept) for s in _stored_bounds(frame.layout))
    return low, high


def _stored_bounds(layout: PixelLayout) -> tuple[int, int]:
    bits = layout.bits_stored
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.signed else (0, 2**bits - 1)


def _holds(dtype: np.dtype[Any], low: int, high: int) -> bool:
    return bool(np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)
