"""Slices of NIfTI files."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.images.image import Image2D, value_range

__all__ = ["nifti_pages", "read_nifti"]


def read_nifti(path: Path, page: int | None) -> Image2D:
    """Read a two-dimensional file, or the slice ``page`` along the third axis of a volume.

    Raises:
        CaseError: see ``medseg3d.images.read_image``.
    """
    stat = path.stat()
    voxels, spacing_mm = _read(path, stat.st_mtime_ns, stat.st_size)
    pages = voxels.shape[2]
    if page is None and pages > 1:
        raise CaseError(f"{path} holds {pages} slices: name one, as in {path.name}#page=0.")
    if page is not None and not 0 <= page < pages:
        raise CaseError(f"{path} has no slice {page}: it holds {pages} along its third axis, numbered from 0.")
    pixels = voxels[:, :, page or 0]
    if pixels.dtype.names:  # RGB24
        pixels = np.stack([pixels[name] for name in pixels.dtype.names[:3]], axis=-1)
    pixels = np.ascontiguousarray(np.swapaxes(pixels, 0, 1))
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32)
    return Image2D(pixels, value_range(pixels), spacing_mm, path)


def nifti_pages(path: Path) -> int:
    """How many slices there are along the third axis, from the header."""
    return _shape(_open(path).shape, path)[2]


@lru_cache(maxsize=4)  # the slices of a volume are read one after the other, and each needs all of a .nii.gz unpacked
def _read(path: Path, changed_ns: int, size_bytes: int) -> tuple[NDArray[Any], tuple[float, float]]:
    image = _open(path)
    try:
        voxels = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise CaseError(
            f"{path}: the voxels cannot be read ({error}). The file is probably truncated: copy it again."
        ) from error
    if voxels.dtype.kind not in "biuf" and not voxels.dtype.names:
        raise CaseError(f"{path}: voxels are complex numbers ({voxels.dtype}): write plain numbers.")
    column_mm, row_mm = (float(mm) for mm in image.header.get_zooms()[:2])
    return voxels.reshape(_shape(voxels.shape, path)), (row_mm, column_mm)


def _open(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise CaseError(f"{path}: not a readable NIfTI file ({error}). Is it complete?") from error


def _shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    if len(shape) < 2 or any(n != 1 for n in shape[3:]) or 0 in shape:
        raise CaseError(
            f"{path}: {'×'.join(map(str, shape))} voxels are no image and no volume: write one file a channel or "
            "time point."
        )
    return int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) > 2 else 1
