"""A label map held against its series and its labels, before it becomes a DICOM object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import MAX_ID, Naming
from medseg3d.errors import DicomError

__all__ = ["checked_mask", "label_counts", "require_known", "text_of_64"]

LO_CHARACTERS = 64  # the longest value of DICOM's Long String


def checked_mask(mask: NDArray[Any], grid: SeriesGrid) -> NDArray[Any]:
    """The mask; of a bool one the voxels become label 1.

    Raises:
        DicomError: another shape than the grid's, or values that are no label ids.
    """
    if mask.shape != grid.shape:
        raise DicomError(
            f"The mask has {'×'.join(map(str, mask.shape))} voxels, the series {'×'.join(map(str, grid.shape))}."
        )
    if mask.dtype.kind not in "iub":
        raise DicomError(f"The mask holds {mask.dtype} numbers: label ids are whole ones.")
    mask = mask.astype(np.uint8) if mask.dtype.kind == "b" else mask
    low, high = int(mask.min(initial=0)), int(mask.max(initial=0))
    if low < 0 or high > MAX_ID:
        raise DicomError(f"The mask has values from {low} to {high}: 0 to {MAX_ID} are possible.")
    return mask


def label_counts(mask: NDArray[Any]) -> NDArray[np.intp]:
    """Number of voxels of each id from 0; slice by slice, as counting needs eight bytes a voxel.

    >>> label_counts(np.array([[[0, 2], [2, 2]]])).tolist()
    [1, 0, 3]
    """
    counts = np.zeros(int(mask.max(initial=0)) + 1, dtype=np.intp)
    for k in range(mask.shape[2]):
        counts += np.bincount(mask[:, :, k].ravel(), minlength=len(counts))
    return counts


def require_known(counts: NDArray[np.intp], labels: Mapping[str, int]) -> None:
    """Do nothing where every id in a mask is that of a label.

    Raises:
        UsageError: ids or names that no label can have.
        DicomError: ids without a label, and a label's name of more than 64 characters.
    """
    Naming(labels)
    for name in labels:
        text_of_64(name, "label name")
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - {0} - set(labels.values()))
    if unknown:
        raise DicomError(
            f"The mask has the values {', '.join(map(str, unknown[:10]))}, which no label has; "
            f"the labels are {', '.join(f'{name} = {number}' for name, number in labels.items())}."
        )


def text_of_64(value: str, what: str) -> str:
    """``value``, which DICOM's Long String can hold.

    Raises:
        DicomError: no text, more than 64 characters, or a backslash: it parts values.
    """
    if not value.strip() or len(value) > LO_CHARACTERS or "\\" in value:
        raise DicomError(f"The {what} {value!r} has {len(value)} characters: 1 to 64 are possible, without backslash.")
    return value
