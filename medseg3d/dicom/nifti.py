"""NIfTI files written slice by slice: a volume of any length passes through a few slices' worth of memory."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import DTypeLike, NDArray

from medseg3d.errors import DicomError
from medseg3d.files import whole_or_not_at_all
from medseg3d.geometry import Affine, check_affine, grid_distance_mm
from medseg3d.volume import GRID_TOLERANCE_MM

__all__ = ["NIFTI_SUFFIXES", "nifti_header", "write_nifti"]

NIFTI_SUFFIXES: tuple[Literal[".nii.gz"], Literal[".nii"]] = (".nii.gz", ".nii")

SCANNER = 1  # NIfTI's code of coordinates in the scanner's own frame
DATA_OFFSET = 352  # bytes: the header and four zeros, "no extensions"
LARGEST_AXIS = 32767  # voxels: NIfTI-1 counts them in 16 bits

# zlib's fastest level: a CT takes 2 % more space than at level 6, in a quarter of the time.
GZIP_LEVEL = 1
# Bytes that are compressed at once, by a thread. Smaller ones cost compression, larger ones memory.
CHUNK_BYTES = 4 << 20
SLICES_WAITING = 4  # to be written, at most
GZIP_HEADER = (
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # deflate; no name and no time, so that equal volumes are equal files
)


def nifti_header(
    shape: tuple[int, ...], affine_ras: Affine, dtype: DTypeLike, *, seconds: float | None = None
) -> Nifti1Header:
    """Header of a volume (i, j, k) or a series of volumes (i, j, k, t), in mm and, with a fourth axis, seconds.

    The sform holds the affine. The qform holds it too where a rotation can say the same within
    ``GRID_TOLERANCE_MM``; of a sheared grid it cannot, and then the qform's code is 0, "not known", instead of a lie.

    Args:
        shape: voxels along each axis.
        affine_ras: 4×4, voxel index → RAS+ mm.
        dtype: of the voxels as they are stored; there is no scaling.
        seconds: between two volumes; None where the fourth axis is not time or its step is not known.

    Raises:
        DicomError: an axis of more than 32767 voxels.
        GeometryError: an affine that no image can have.
    """
    if max(shape) > LARGEST_AXIS:
        raise DicomError(f"{'×'.join(map(str, shape))} voxels: NIfTI allows {LARGEST_AXIS} along an axis.")
    affine_ras = check_affine(affine_ras)
    header = Nifti1Header()
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(shape)
    header.set_qform(affine_ras, code=SCANNER, strip_shears=True)
    if grid_distance_mm(header.get_qform(), affine_ras, shape) > GRID_TOLERANCE_MM:
        header["qform_code"] = 0
    header.set_sform(affine_ras, code=SCANNER)
    header.set_slope_inter(1.0, 0.0)
    if len(shape) > 3 and seconds is not None:
        header["pixdim"][4] = seconds
    header.set_xyzt_units("mm", "sec" if len(shape) > 3 and seconds is not None else "unknown")
    header["vox_offset"] = DATA_OFFSET
    return header


def write_nifti(path: Path, header: Nifti1Header, slices: Iterable[NDArray[Any]], *, threads: int = 2) -> None:
    """Write slices (i, j), as they come, into one file: whole or not at all.

    The order is NIfTI's: i fastest, then j, k and t. A name that ends in ``.nii.gz`` is compressed, by several threads
    into one gzip stream.

    Args:
        path: ``.nii`` or ``.nii.gz``; its folder is made if absent, and a file of this name is replaced.
        header: of ``nifti_header``; slices are stored in its type.
        slices: one array of shape (i, j) for each k (and t).
        threads: that compress.

    Raises:
        DicomError: a slice of another shape, or another number of slices than the header tells.
    """
    blocks = _blocks(header, slices, path.name)
    with whole_or_not_at_all(path) as temporary, temporary.open("wb") as file:
        if path.name.endswith(".gz"):
            _write_gzip(file, blocks, threads=threads)
        else:
            _write_plain(file, blocks)


def _blocks(header: Nifti1Header, slices: Iterable[NDArray[Any]], name: str) -> Iterator[memoryview]:
    """The file's bytes: the header with its four zeros, then each slice."""
    yield memoryview(header.binaryblock + bytes(4))
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    wanted = int(np.prod(shape[2:]))
    count = 0
    for plane in slices:
        if plane.shape != shape[:2]:
            raise DicomError(
                f"{name}: slice {count + 1} has {plane.shape[0]}×{plane.shape[1]} voxels, the volume "
                f"{shape[0]}×{shape[1]}."
            )
        count += 1
        # i runs fastest: the transpose is in C order already when the slice came row by row, and nothing is copied.
        yield np.ascontiguousarray(plane.T, dtype=dtype).data.cast("B")
    if count != wanted:
        raise DicomError(f"{name}: {count} slices came, {wanted} were announced. Nothing is written.")


def _write_plain(file: BinaryIO, blocks: Iterable[memoryview]) -> None:
    """Written by a thread of its own, while the next slice is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        waiting: deque[Future[int]] = deque()
        for block in blocks:
            waiting.append(pool.submit(file.write, block))
            if len(waiting) > SLICES_WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def _write_gzip(file: BinaryIO, blocks: Iterable[memoryview], *, threads: int) -> None:
    """One gzip stream whose parts are compressed by several threads (as pigz does; RFC 1951 and 1952).

    A part that ends in a sync flush ends on a whole byte, so that parts join into one valid stream.
    """
    file.write(GZIP_HEADER)
    checksum, length = 0, 0
    with ThreadPoolExecutor(threads, thread_name_prefix="gzip") as pool:
        waiting: deque[Future[bytes]] = deque()
        for chunk in _joined(blocks):
            checksum, length = zlib.crc32(chunk, checksum), length + len(chunk)
            waiting.append(pool.submit(_deflated, chunk))
            if len(waiting) > threads:
                file.write(waiting.popleft().result())
        for future in waiting:
            file.write(future.result())
    file.write(zlib.compressobj(GZIP_LEVEL, wbits=-zlib.MAX_WBITS).flush(zlib.Z_FINISH))
    file.write(struct.pack("<LL", checksum, length & 0xFFFFFFFF))


def _deflated(chunk: bytes | bytearray) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=-zlib.MAX_WBITS)
    return compressor.compress(chunk) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _joined(blocks: Iterable[memoryview]) -> Iterator[bytearray]:
    """Blocks gathered into chunks of at least ``CHUNK_BYTES``, but for the last."""
    chunk = bytearray()
    for block in blocks:
        chunk += block
        if len(chunk) >= CHUNK_BYTES:
            yield chunk
            chunk = bytearray()
    if chunk:
        yield chunk
