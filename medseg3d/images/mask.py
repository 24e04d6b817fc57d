"""Reading masks as label ids, whichever way programs write them: ids, palettes, black and white."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist.model import shorten
from medseg3d.errors import CaseError
from medseg3d.images.image import Image2D, read_image
from medseg3d.images.model import ImageRef

__all__ = ["read_mask"]

Ids = NDArray[Any]
"""(rows, columns) of label ids: uint8, or int32 where they exceed 255."""


def read_mask(path: str | Path | ImageRef, *, ids: Collection[int] | None = None, ignore: int | None = None) -> Image2D:
    """Read a label map: ``pixels`` are label ids, uint8, or int32 where they exceed 255.

    A palette's indices are the ids (as in Pascal VOC), and equal colour channels count as one. Where there is one
    label, black and white (0 and 255, or two colours of a 1-bit file) means background and it, unless 255 is an id or
    ignored. A JPEG blurs what it
    stores: it is taken for black and white, cut at half, and refused where there are several labels.

    Args:
        path: The file, perhaps with ``#page=``.
        ids: Label ids that may occur; another one is refused. None takes any.
        ignore: An id beside them that means "not labelled".

    Raises:
        CaseError: as ``read_image``; colours that differ, values that are no whole numbers from 0 on, unknown ids.
    """
    ref = ImageRef.parse(path)
    image, lossy = _stored(ref)
    values = _integers(image)
    single = ids is not None and len(ids) == 1
    if lossy:
        if (ids is not None and not single) or not _is_black_and_white(values):
            raise CaseError(
                f"{ref}: a JPEG changes the numbers it stores, so it cannot hold several labels: write PNG."
            )
        values = np.where(values > 127, np.uint8(255), np.uint8(0))
    black_and_white = not np.isin(values, (0, 255), invert=True).any() and 255 not in (*(ids or ()), ignore)
    if single and ids is not None and black_and_white:
        values = np.where(values == 255, *_as_type(next(iter(ids))))
    if ids is not None:
        _refuse_unknown(values, {0, *ids, *(() if ignore is None else (ignore,))}, ref)
    return Image2D(values, image.value_range, image.spacing_mm, ref.path)


def _as_type(label_id: int) -> tuple[Any, Any]:
    dtype = np.uint8 if label_id < 256 else np.int32
    return dtype(label_id), dtype(0)


def _stored(ref: ImageRef) -> tuple[Image2D, bool]:
    """The stored numbers, and whether they went through a JPEG."""
    from medseg3d.images.image import RASTER_SUFFIXES
    from medseg3d.images.raster import open_raster

    if not ref.path.name.lower().endswith(RASTER_SUFFIXES) or not ref.path.is_file():
        return read_image(ref), False
    with open_raster(ref.path, ref.page) as (image, _):
        lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"
        if image.mode not in ("P", "PA", "1"):
            return read_image(ref), lossy
        from PIL import ImageOps

        turned = np.asarray(ImageOps.exif_transpose(image))
    indices = turned[..., 0] if turned.ndim == 3 else turned.astype(np.uint8)
    return Image2D(np.ascontiguousarray(indices), (0.0, 255.0), None, ref.path), lossy


def _is_black_and_white(values: Ids) -> bool:
    """Whether nearly all pixels of a JPEG are nearly black or white; the rest lies along edges."""
    return bool(np.mean((values < 32) | (values > 223)) > 0.9)


def _integers(image: Image2D) -> Ids:
    values = image.pixels
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise CaseError(
                f"{image.path}: a mask with colours. Write label ids (0 is background) as grey values or palette "
                "indices."
            )
        values = values[..., 0]
    rounded = np.rint(values)
    if (rounded != values).any() or rounded.min(initial=0) < 0:
        raise CaseError(
            f"{image.path}: values are not whole numbers from 0 on. Was it resampled by interpolation? Use nearest "
            "neighbour."
        )
    return np.ascontiguousarray(rounded, dtype=np.uint8 if rounded.max(initial=0) < 256 else np.int32)


def _refuse_unknown(values: Ids, known: set[int], ref: ImageRef) -> None:
    found, counts = np.unique(values, return_counts=True)
    unknown = {int(v): int(n) for v, n in zip(found, counts, strict=True) if int(v) not in known}
    if unknown:
        named = shorten(f"{value} ({count} pixels)" for value, count in unknown.items())
        raise CaseError(
            f"{ref}: holds ids that labels does not name: {named}; known are {shorten(sorted(known))}. Name them in "
            "labels, or set those pixels to another id."
        )
