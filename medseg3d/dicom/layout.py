"""How a file stores its pixels, and where in the file they begin."""

from __future__ import annotations

from typing import BinaryIO

from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg3d.dicom.attributes import EMPTY, integer, text
from medseg3d.dicom.files import Inflated
from medseg3d.dicom.frames import PixelKeyword, PixelLayout

__all__ = ["pixel_layout"]

_PIXEL_KEYWORDS: dict[int, PixelKeyword] = {
    0x7FE00010: "PixelData",
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
}


def pixel_layout(ds: Dataset, stream: BinaryIO) -> PixelLayout | None:
    """How and where a file stores its pixels; None where it has none.

    ``stream`` stands where ``pydicom.dcmread(…, stop_before_pixels=True)`` left it.
    """
    located = _locate_pixels(ds, stream)
    if located is None:
        return None
    keyword, offset, length, undefined, vr = located
    meta = getattr(ds, "file_meta", EMPTY)
    syntax = UID(text(meta, "TransferSyntaxUID") or _guessed_syntax(ds), validation_mode=IGNORE)
    bits = integer(ds, "BitsAllocated") or {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(keyword, 16)
    stored = integer(ds, "BitsStored") or bits
    high_bit = integer(ds, "HighBit")
    tables = (ds.get("ExtendedOffsetTable"), ds.get("ExtendedOffsetTableLengths"))
    return PixelLayout(
        rows=integer(ds, "Rows") or 0,
        columns=integer(ds, "Columns") or 0,
        samples=integer(ds, "SamplesPerPixel") or 1,
        frames=max(integer(ds, "NumberOfFrames") or 1, 1),
        photometric=text(ds, "PhotometricInterpretation"),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1 if high_bit is None else high_bit,
        signed=integer(ds, "PixelRepresentation") == 1,
        keyword=keyword,
        transfer_syntax=str(DeflatedExplicitVRLittleEndian) if isinstance(stream, Inflated) else str(syntax),
        offset=offset,
        length=length,
        encapsulated=undefined or (not syntax.is_private and syntax.is_transfer_syntax and syntax.is_compressed),
        swapped=bits <= 8 and vr == "OW" and syntax == ExplicitVRBigEndian,
        extended_offsets=tables if all(isinstance(t, bytes) for t in tables) else None,
    )


def _guessed_syntax(ds: Dataset) -> str:
    """Of a file without file meta information: uncompressed, in the encoding that pydicom found by trying."""
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _locate_pixels(ds: Dataset, stream: BinaryIO) -> tuple[PixelKeyword, int, int, bool, str] | None:
    """Keyword, offset, length in the file, whether it is undefined, and VR ("" if implicit) of the pixel data."""
    implicit, little = ds.original_encoding
    order = "little" if little else "big"
    start = stream.tell()
    head = stream.read(12)
    size = _size(stream)
    if len(head) < 8:
        return None
    group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    keyword = _PIXEL_KEYWORDS.get(group << 16 | element)
    if keyword is None:
        return None
    skip = 8 if implicit else 12
    length = int.from_bytes(head[skip - 4 : skip], order)  # type: ignore[arg-type]
    offset = start + skip
    available = max(size - offset, 0)
    vr = "" if implicit else head[4:6].decode("latin-1")
    return keyword, offset, min(length, available), length == 0xFFFFFFFF, vr


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)
