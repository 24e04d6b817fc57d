"""Masks of 2D images: a label map, or masks a label that may overlap; as layers, whichever way they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.images import read_mask

__all__ = ["Layers", "mask_files", "mask_layers", "read_layers"]

Layers = NDArray[np.bool_]
"""(label, row, column), in the order of the ids."""


def mask_files(folder: Path, case: str, labels: Mapping[str, int], *, multi_label: bool) -> list[Path]:
    """What the mask of a case is called: ``<case>.png``, or ``<case>_<label>.png`` each, in the order of the ids."""
    if not multi_label:
        return [folder / f"{case}.png"]
    return [folder / f"{case}_{name}.png" for name in sorted(labels, key=lambda name: labels[name])]


def mask_layers(mask: NDArray[Any], labels: Mapping[str, int], *, multi_label: bool = False) -> Layers:
    """Layers of a label map (1, row, column), or of masks a label; one mask alone is both.

    Args:
        multi_label: what is not 0 belongs to the label, whatever number it has.

    >>> mask_layers(np.array([[[0, 2, 5]]]), {"b": 5, "a": 2}).astype(int).tolist()
    [[[0, 1, 0]], [[0, 0, 1]]]
    """
    ids = sorted(labels.values())
    if len(mask) == len(ids) and (multi_label or len(ids) > 1):
        return np.asarray(mask) > 0
    return np.stack([np.asarray(mask)[0] == label for label in ids])


def read_layers(
    label: str | Path | Sequence[str | Path],
    labels: Mapping[str, int],
    *,
    ignore_index: int | None = None,
) -> Layers:
    """Layers from the path of a label map, or from a list of one path a label in the order of the ids.

    Raises:
        CaseError: what ``read_mask`` refuses; masks of different sizes, or of another number than labels.
    """
    if isinstance(label, (str, Path)):
        return mask_layers(read_mask(label, ids=labels.values(), ignore=ignore_index).pixels[None], labels)
    masks = [read_mask(path, ids=(1,)).pixels > 0 for path in label]
    if len(masks) != len(labels) or len({mask.shape for mask in masks}) > 1:
        sizes = ", ".join(sorted({"×".join(map(str, mask.shape)) for mask in masks}))
        raise CaseError(f"{label[0]} and the others: {len(masks)} masks of {sizes} pixels for {len(labels)} labels.")
    return np.stack(masks)
