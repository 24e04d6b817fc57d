"""Siemens mosaics: a whole volume as tiles of one large image. Its geometry is in the private CSA header."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medseg3d.dicom.attributes import PARSE_ERRORS, is_block_of, number, text, texts
from medseg3d.dicom.frames import Frame

__all__ = ["is_mosaic", "mosaic_frames"]

# The slice normal is the plane's normal or its opposite, up to rounding; anything else is damage.
NORMAL_TOLERANCE = 1e-2


def is_mosaic(ds: Dataset) -> bool:
    """Whether an image is a mosaic: its image type says so, and Siemens made it."""
    return "MOSAIC" in texts(ds, "ImageType") and "SIEMENS" in text(ds, "Manufacturer").upper()


def mosaic_frames(ds: Dataset, whole: Frame) -> tuple[Frame, ...]:
    """The tiles of a mosaic as frames, each with its own position; ``whole`` without a position where that fails.

    Tiles fill the image row by row. The image's position is that of a plane as large as the whole mosaic and centred
    where the first slice is, so that the first tile begins half the difference further in (NiBabel's documentation
    of the DICOM mosaic derives this). Which way the slices go on, the slice normal of the CSA header alone says:
    without it there are no positions.
    """
    tiles, slice_normal = _csa(ds)
    pitch = whole.pitch_mm or whole.thickness_mm
    if not tiles or whole.position_mm is None or whole.row is None or whole.column is None or not whole.spacing_mm:
        return (replace(whole, position_mm=None),)
    across = math.ceil(math.sqrt(tiles))
    rows, columns = whole.rows // across, whole.columns // across
    if not pitch or rows * across != whole.rows or columns * across != whole.columns:
        return (replace(whole, position_mm=None),)
    row, column = np.array(whole.row), np.array(whole.column)
    first = (
        np.array(whole.position_mm)
        + row * whole.spacing_mm[1] * (whole.columns - columns) / 2
        + column * whole.spacing_mm[0] * (whole.rows - rows) / 2
    )
    along = 0.0 if slice_normal is None else float(np.dot(np.cross(row, column), slice_normal))
    if not math.isclose(abs(along), 1, abs_tol=NORMAL_TOLERANCE):
        return (replace(whole, position_mm=None),)
    step = np.cross(row, column) * math.copysign(pitch, along)
    trait = {**whole.traits, "file": (whole.instance_number, whole.source.sop_instance_uid)}
    return tuple(
        replace(
            whole,
            rows=rows,
            columns=columns,
            tile=(n // across * rows, n % across * columns),
            position_mm=tuple((first + n * step).tolist()),
            traits=trait,
        )
        for n in range(tiles)
    )


def _csa(ds: Dataset) -> tuple[int, Any]:
    """Number of tiles, and the slice normal or None, from the public copies or the CSA image header."""
    from nibabel.nicom import csareader

    tiles = number(ds, 0x0019100A, vr="US") if is_block_of(ds, 0x0019100A, "SIEMENS MR HEADER") else None
    try:
        header = csareader.get_csa_header(ds, "image")
        if header is None:
            return int(tiles or 0), None
        normal = csareader.get_slice_normal(header)
        return int(tiles or csareader.get_n_mosaic(header) or 0), normal
    except (*PARSE_ERRORS, csareader.CSAError):
        return int(tiles or 0), None
