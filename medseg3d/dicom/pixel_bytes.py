"""What can hide behind the pixels: overlays in unused bits, bytes after the last pixel."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medseg3d.dicom.attributes import integer, text
from medseg3d.errors import DicomError

__all__ = ["clear_hidden_bits", "trim_pixel_data"]

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
BIT_POSITION = 0x0102


def trim_pixel_data(dataset: Dataset, syntax: UID) -> bool:
    """Cut off what follows the last pixel of uncompressed pixel data; whether there was anything.

    Raises:
        DicomError: fewer bytes than the header speaks of, or rows and columns but no pixels: a part of a file.
    """
    if "PixelData" not in dataset:
        if integer(dataset, "Rows") and not ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
            raise DicomError("it has rows and columns but no pixels: is it a whole file?")
        return False
    used = None if syntax.is_compressed else _pixel_bytes(dataset)
    if used is None:
        return False
    element = dataset["PixelData"]
    content = element.value
    if len(content) < used:
        raise DicomError(f"it has {len(content)} of {used} bytes of pixels: is it a whole file?")
    if not any(content[used:]):  # a zero pads an odd number of bytes, and zeros name nobody
        return False
    element.value = content[:used] + bytes(used % 2)
    return True


def _pixel_bytes(dataset: Dataset) -> int | None:
    """How many bytes uncompressed pixels take; None where the header does not say."""
    size = [integer(dataset, key) for key in ("Rows", "Columns", "BitsAllocated")]
    if None in size or text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        return None
    repeats = [integer(dataset, key) or 1 for key in ("NumberOfFrames", "SamplesPerPixel")]
    return (math.prod([n or 0 for n in (*size, *repeats)]) + 7) // 8


def clear_hidden_bits(dataset: Dataset, syntax: UID) -> bool:
    """Clear the bits of each pixel that hold an overlay (graphics, text) instead of the image; whether there were any.

    Raises:
        DicomError: such bits in compressed pixels, or in pixels of another size than 8 or 16 bits.
    """
    if not any(integer(dataset, (group << 16) + BIT_POSITION) for group in OVERLAY_GROUPS):
        return False
    allocated, stored, high = (integer(dataset, key) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if syntax.is_compressed or allocated not in (8, 16) or stored is None or high is None:
        raise DicomError("an overlay lies in the bits of its pixels, and they are compressed or of an unusual size")
    mask = ((1 << stored) - 1) << (high + 1 - stored) & ((1 << allocated) - 1)
    order = "<" if syntax.is_little_endian else ">"
    element = dataset["PixelData"]
    pixels = np.frombuffer(element.value, dtype=f"{order}u{allocated // 8}")
    element.value = (pixels & pixels.dtype.type(mask)).astype(pixels.dtype).tobytes()
    return True
