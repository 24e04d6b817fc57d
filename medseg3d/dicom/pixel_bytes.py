"""What can hide behind the pixels: overlays in unused bits, bytes after the last pixel, text in compressed streams."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from medseg3d.dicom.attributes import integer, text
from medseg3d.dicom.bare_streams import BareStream, bare_rle, bare_stream
from medseg3d.errors import DicomError

__all__ = ["clear_hidden_bits", "strip_streams", "trim_pixel_data"]

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
BIT_POSITION = 0x0102
# Not video, in which text can hide in too many places.
_STREAMS = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes])  # and HTJ2K
MOST_OFFSET = 2**32 - 1


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


def strip_streams(dataset: Dataset, syntax: UID) -> tuple[bool, bytes]:
    """Take comments, application data and what follows the end out of compressed frames; no pixel changes.

    Each frame becomes one fragment, and the tables of offsets are made anew.

    Returns:
        Whether anything was taken out; and what is left beside the pixels, to be searched for text.

    Raises:
        DicomError: a compression that is not known well enough, a damaged stream, frames that are missing.
    """
    if not syntax.is_compressed or "PixelData" not in dataset:
        return False, b""
    frames = _frames(dataset)
    bare = [_bare(frame, dataset, syntax) for frame in frames]
    contents = [stream.content for stream in bare]
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        dataset.pop(keyword, None)
    few = sum(len(content) + 9 for content in contents) < MOST_OFFSET
    dataset["PixelData"].value = encapsulate(contents, has_bot=few)
    # A zero or two pad a stream to an even length.
    changed = any(old.rstrip(b"\0") != new.rstrip(b"\0") for old, new in zip(frames, contents, strict=True))
    return changed, b" ".join(stream.tables for stream in bare)


def _frames(dataset: Dataset) -> list[bytes]:
    count = integer(dataset, "NumberOfFrames") or 1
    tables = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    offsets = (dataset[tables[0]].value, dataset[tables[1]].value) if all(t in dataset for t in tables) else None
    frames = list(generate_frames(dataset["PixelData"].value, number_of_frames=count, extended_offsets=offsets))
    if len(frames) < count:
        raise DicomError(f"it has {len(frames)} of {count} frames: is it a whole file?")
    return frames[:count]


def _bare(frame: bytes, dataset: Dataset, syntax: UID) -> BareStream:
    if syntax == RLELossless:
        return bare_rle(frame, plane_bytes=(integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0))
    if syntax in _STREAMS:
        return bare_stream(frame)
    raise DicomError(
        f"text may hide in its pixels, which are compressed as {syntax.name}: decompress the file, or leave it out"
    )


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
