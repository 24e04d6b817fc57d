"""Stored values of frames: native ones read by their offset, encapsulated ones by pydicom's decoders."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.config import IGNORE
from pydicom.uid import UID

from medseg3d.dicom.files import Opener
from medseg3d.dicom.frames import Frame, PixelLayout
from medseg3d.dicom.headers import FILE_ERRORS, reason_of
from medseg3d.errors import DicomError

__all__ = ["MAX_FRAME_BYTES", "stored_frames"]

# A frame that decodes to more than this is a damaged header, not an image: 16 times that of a 4096×4096 radiograph.
MAX_FRAME_BYTES = 512 * 2**20

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}


def stored_frames(frames: Iterable[Frame]) -> Iterator[NDArray[Any]]:
    """The (rows, columns) arrays of stored values, in the order of ``frames``; each file is opened once in a row.

    Raises:
        DicomError: a frame cannot be decoded; it names the file, the frame and the reason.
    """
    with Opener() as opener:
        for file, members in groupby(frames, key=lambda f: f.source.file):
            try:
                with opener.open(file) as stream:
                    yield from _of_file(stream, members)
            except FILE_ERRORS as error:
                if isinstance(error, DicomError):
                    raise
                raise DicomError(
                    f"{file}: the pixels cannot be read ({reason_of(error)}). Copy the file again."
                ) from error


def _of_file(stream: BinaryIO, frames: Iterable[Frame]) -> Iterator[NDArray[Any]]:
    last: tuple[int, NDArray[Any]] | None = None
    for frame in frames:
        # The tiles of a mosaic come from one frame.
        if last is None or last[0] != frame.index or frame.tile is None:
            last = (frame.index, _whole(stream, frame))
        yield _tile(last[1], frame)


def _tile(whole: NDArray[Any], frame: Frame) -> NDArray[Any]:
    if frame.tile is None:
        return whole
    row, column = frame.tile
    return whole[row : row + frame.rows, column : column + frame.columns]


def _whole(stream: BinaryIO, frame: Frame) -> NDArray[Any]:
    layout = frame.layout
    if not 0 < layout.frame_bytes <= MAX_FRAME_BYTES:
        raise DicomError(f"{_name(frame)}: {layout.rows}×{layout.columns} pixels of {layout.bits_allocated} bits are "
                         "no possible image: the header is damaged.")  # fmt: skip
    pixels = _encapsulated(stream, frame) if layout.encapsulated else _native(stream, frame)
    if pixels.shape != (layout.rows, layout.columns):
        raise DicomError(f"{_name(frame)} decodes to {'×'.join(map(str, pixels.shape))} pixels; the header says "
                         f"{layout.rows}×{layout.columns}. Export the file again.")  # fmt: skip
    return pixels


def _native(stream: BinaryIO, frame: Frame) -> NDArray[Any]:
    layout = frame.layout
    start = frame.index * layout.frame_bytes
    data = _unswapped(stream, layout, start) if layout.swapped else _read(stream, layout, start, layout.frame_bytes)
    if len(data) < layout.frame_bytes:
        raise DicomError(
            f"{_name(frame)} is cut short: {len(data)} of {layout.frame_bytes} bytes. Copy the file again."
        )
    return np.frombuffer(data, _dtype(layout)).reshape(layout.rows, layout.columns)


def _read(stream: BinaryIO, layout: PixelLayout, start: int, count: int) -> bytes:
    stream.seek(layout.offset + start)
    return stream.read(count)


def _unswapped(stream: BinaryIO, layout: PixelLayout, start: int) -> bytes:
    """The bytes of one frame out of 16-bit words whose bytes are swapped; a frame may begin in the middle of one."""
    before = start % 2
    words = -(-(before + layout.frame_bytes) // 2)
    data = _read(stream, layout, start - before, 2 * words)
    swapped = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    return swapped[before : before + layout.frame_bytes]


def _dtype(layout: PixelLayout) -> np.dtype[Any]:
    kind = _FLOATS.get(layout.keyword) or f"{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    return np.dtype(kind).newbyteorder(">" if layout.transfer_syntax == _BIG_ENDIAN else "<")


def _encapsulated(stream: BinaryIO, frame: Frame) -> NDArray[Any]:
    layout = frame.layout
    syntax = UID(layout.transfer_syntax, validation_mode=IGNORE)
    stream.seek(layout.offset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels, _ = _decoder(syntax).as_array(
                stream, index=frame.index, raw=True, decoding_plugin=_plugin(syntax), **_options(layout)
            )
    except FILE_ERRORS as error:
        if isinstance(error, DicomError):
            raise
        raise DicomError(
            f"{_name(frame)} cannot be decoded ({syntax.name}): {reason_of(error)}. Export the file again, or "
            "uncompressed."
        ) from error
    return pixels


def _plugin(syntax: UID) -> str:
    """The one library that decodes a transfer syntax: the same everywhere, and none tries what another refused."""
    from pydicom.uid import JPEGLSTransferSyntaxes, RLELossless

    from medseg3d.dicom import openjpeg_plugin

    if syntax in openjpeg_plugin.SYNTAXES:
        openjpeg_plugin.register()
        return openjpeg_plugin.LABEL
    if syntax == RLELossless:
        return "pydicom"
    return "pyjpegls" if syntax in JPEGLSTransferSyntaxes else "gdcm"


def _decoder(syntax: UID) -> Any:
    from pydicom.pixels import get_decoder

    # pydicom logs each failure with its traceback; the error that is raised here says the same in one line.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        return get_decoder(UID(syntax))
    except NotImplementedError as error:
        raise DicomError(
            f"No decoder for the transfer syntax {UID(syntax).name}: export the series uncompressed."
        ) from error


def _options(layout: PixelLayout) -> dict[str, Any]:
    options = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "number_of_frames": layout.frames,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "pixel_keyword": layout.keyword,
    }
    return options | ({"extended_offsets": layout.extended_offsets} if layout.extended_offsets else {})


def _name(frame: Frame) -> str:
    number = f", frame {frame.source.frame}" if frame.source.frame else ""
    return f"{frame.source.file}{number}"
