"""Compressed images without what is no image: comments, application data, bytes behind the end. Pixels stay.

Nothing is decoded: a stream is gone through marker by marker. JPEG and JPEG-LS by ISO 10918-1 annex B and ISO 14495-1
annex C, JPEG 2000 by ISO 15444-1 annex A, RLE by DICOM PS3.5 annex G.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from medseg3d.errors import DicomError

__all__ = ["BareStream", "bare_rle", "bare_stream"]


@dataclass(frozen=True)
class BareStream:
    """A compressed image that is nothing else.

    Attributes:
        content: the stream.
        tables: those parts of it that are not pixels: sizes, quantisation and code tables.
    """

    content: bytes
    tables: bytes = b""


# --- JPEG and JPEG-LS -------------------------------------------------------------------------------------------------

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _COM, _JPEG_LS = 0xDA, 0xFE, 0xF7
_APPLICATION = range(0xE0, 0xF0)
# Frame headers (C0 to CF without C8, F7), tables (C4, CC, DB, F8), scans, line counts, restarts, hierarchies.
_NEEDED = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0), _JPEG_LS, 0xF8}) - {0xC8}
# A scan goes on until 0xFF and a byte that cannot follow it there; restart markers (D0 to D7) are a part of it.
_SCAN_END = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_SCAN_END_LS = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")


def bare_stream(stream: bytes) -> BareStream:
    """A JPEG, JPEG-LS or JPEG 2000 stream, told by its first bytes, without comments and what follows its end.

    Raises:
        DicomError: it is none of these, or has a part that the standards do not know.
    """
    if stream.startswith(_SOI):
        parts = list(_jpeg_parts(stream))
    elif stream.startswith(_SOC):
        parts = list(_jpeg2000_parts(stream))
    else:
        raise DicomError(f"a frame of its compressed pixels begins with the bytes {stream[:4].hex(' ')}: {_UNKNOWN}")
    return BareStream(b"".join(part for part, _ in parts), b" ".join(part for part, is_table in parts if is_table))


_UNKNOWN = "it cannot be searched for text. Decompress the file first (gdcmconv --raw), or leave it out"


def _jpeg_parts(stream: bytes) -> Iterator[tuple[bytes, bool]]:
    """The parts to keep, each with whether it can be searched for text."""
    yield _SOI, False
    at, scan_end = len(_SOI), _SCAN_END
    while (at := stream.find(b"\xff", at)) >= 0:
        while stream[at : at + 1] == b"\xff":  # any number of them may stand before a marker
            at += 1
        marker = stream[at] if at < len(stream) else _EOI[1]
        if marker == _EOI[1]:
            yield _EOI, False
            return
        payload = _payload(stream, at + 1, marker)
        at += 3 + len(payload)
        if marker in _APPLICATION:
            payload = _without_text(marker, payload)
        elif marker not in _NEEDED and marker != _COM:
            raise DicomError(f"its compressed pixels have an unknown part (FF{marker:02X}): {_UNKNOWN}")
        if payload and marker != _COM:
            yield struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload, True
        if marker == _JPEG_LS:
            scan_end = _SCAN_END_LS
        if marker == _SOS:
            found = scan_end.search(stream, at)
            end = found.start() if found else len(stream)
            yield stream[at:end], False
            at = end


def _payload(stream: bytes, at: int, marker: int) -> bytes:
    """What follows a marker: two bytes of its length, themselves counted, and the content."""
    length = int.from_bytes(stream[at : at + 2], "big")
    content = stream[at + 2 : at + length]
    if length < 2 or len(content) != length - 2:
        raise DicomError(f"its compressed pixels end within a part (FF{marker:02X}): is it a whole file?")
    return content


def _without_text(marker: int, payload: bytes) -> bytes:
    """Application data that decoders take the colours from, written anew; nothing of all other."""
    if marker == 0xE0 and payload.startswith(b"JFIF\0"):
        return b"JFIF\0\1\2\0\0\1\0\1\0\0"  # version 1.2, square pixels, no thumbnail
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
        return b"Adobe\0\x64\0\0\0\0" + payload[11:12]  # version 100, no flags, the colour transform
    if marker == 0xE8 and payload.startswith(b"mrfx"):
        return payload[:5]  # the colour transform of HP's JPEG-LS
    return b""


# --- JPEG 2000 --------------------------------------------------------------------------------------------------------

_SOC, _SOT, _SOD = b"\xff\x4f", b"\xff\x90", 0x93
_COM_2000 = 0x64
_PACKETS = frozenset({0x57, 0x58, 0x60, 0x61})  # lengths and headers of packets: as good as random
_NEEDED_2000 = frozenset({*range(0x50, 0x64), *range(0x70, 0x7A)})
_SOT_BYTES = 12


def _jpeg2000_parts(stream: bytes) -> Iterator[tuple[bytes, bool]]:
    """The parts, those of comments filled with zeros: the lengths of tile parts are stated in several places."""
    yield _SOC, False
    at = yield from _headers(stream, len(_SOC), _SOT[1])
    while stream.startswith(_SOT, at):
        yield stream[at : at + _SOT_BYTES], False
        packets = yield from _headers(stream, at + _SOT_BYTES, _SOD)
        end = _packets_end(stream, at, packets)
        yield stream[packets:end], False
        at = max(end, packets)
    yield _EOI, False  # EOC has the same code


def _headers(stream: bytes, at: int, until: int) -> Generator[tuple[bytes, bool], None, int]:
    """Marker segments up to a marker; returns the place of it."""
    while stream[at : at + 2] != bytes((0xFF, until)):
        marker = stream[at + 1] if stream[at : at + 1] == b"\xff" and at + 1 < len(stream) else 0
        if marker not in _NEEDED_2000 and marker != _COM_2000:
            raise DicomError(f"its compressed pixels have an unknown part ({stream[at : at + 2].hex()}): {_UNKNOWN}")
        payload = _payload(stream, at + 2, marker)
        at += 4 + len(payload)
        content = bytes(len(payload)) if marker == _COM_2000 else payload
        yield struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + content, marker not in _PACKETS
    return at


def _packets_end(stream: bytes, at: int, packets: int) -> int:
    """Where a tile part at ``at`` ends: by its length, which may be 0 in the last one; before the end of the stream,
    whose code no packet can contain."""
    length = int.from_bytes(stream[at + 6 : at + 10], "big")
    end = stream.find(_EOI, packets)
    end = end if end >= 0 else len(stream)
    return min(at + length, end) if length else end


# --- RLE --------------------------------------------------------------------------------------------------------------

_RLE_HEADER = struct.Struct("<16I")


def bare_rle(stream: bytes, *, plane_bytes: int) -> BareStream:
    """An RLE frame without bytes before, between and behind its segments.

    Args:
        stream: of one frame.
        plane_bytes: how many bytes each segment decodes to: rows times columns.

    Raises:
        DicomError: the header does not fit the stream.
    """
    count, *starts = _RLE_HEADER.unpack_from(stream.ljust(_RLE_HEADER.size, b"\0"))
    starts = starts[:count]
    if not 0 < len(starts) == count or starts != sorted(starts) or starts[-1] > len(stream):
        raise DicomError("the header of its RLE pixels does not fit them: is it a whole file?")
    segments = [stream[start : _packbits_end(stream, start, plane_bytes)] for start in starts]
    segments = [segment + bytes(len(segment) % 2) for segment in segments]
    lengths = [_RLE_HEADER.size, *map(len, segments)]
    offsets = [sum(lengths[: n + 1]) for n in range(count)]
    return BareStream(_RLE_HEADER.pack(count, *offsets, *[0] * (15 - count)) + b"".join(segments))


def _packbits_end(stream: bytes, at: int, size: int) -> int:
    """Where ``size`` bytes have been decoded: a code below 128 has that many literals and one more, 128 says nothing,
    a code above it repeats the next byte 257 - code times."""
    while size > 0 and at < len(stream):
        code = stream[at]
        if code < 128:
            at, size = at + code + 2, size - code - 1
        else:
            at, size = at + (2 if code > 128 else 1), size - (257 - code) * (code > 128)
    return at
