"""Corrections of a label mask that a clinical task may ask for: connected components and holes.

Each works on masks of shape (1, x, y, z), label by label, on the grid they lie on: after ``ToImageGridd`` that is the
image file's, so volumes are true millilitres.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.errors import GeometryError, UsageError
from medseg3d.geometry import voxel_volume_ml

__all__ = [
    "FillHolesd",
    "KeepLargestComponentd",
    "RemoveSmallComponentsd",
    "fill_holes",
    "keep_largest",
    "remove_small",
]

Connectivity = Literal[6, 18, 26]
BoolMask = NDArray[np.bool_]


def keep_largest(mask: BoolMask, *, connectivity: Connectivity = 26) -> BoolMask:
    """The largest connected component of ``mask``; of two equal ones, the first in index order.

    >>> keep_largest(np.array([[[1, 1, 0, 1]]], bool)).astype(int).tolist()
    [[[1, 1, 0, 0]]]
    """
    components, sizes = _components(mask, connectivity)
    return components == 1 + int(np.argmax(sizes)) if len(sizes) else mask


def remove_small(mask: BoolMask, *, min_voxels: float, connectivity: Connectivity = 26) -> BoolMask:
    """``mask`` without its connected components of fewer than ``min_voxels`` voxels.

    >>> remove_small(np.array([[[1, 1, 0, 1]]], bool), min_voxels=2).astype(int).tolist()
    [[[1, 1, 0, 0]]]
    """
    components, sizes = _components(mask, connectivity)
    kept = np.concatenate([[False], sizes >= min_voxels])
    return kept[components]


def fill_holes(mask: BoolMask) -> BoolMask:
    """``mask`` with its cavities filled: voxels from which no path over faces leads out of the array."""
    return np.asarray(ndimage.binary_fill_holes(mask), dtype=bool)


class _PerLabeld(MapTransform):
    """Changes each label's voxels on its own; labels never take voxels from each other."""

    def __init__(
        self, keys: KeysCollection, applied_labels: Sequence[int] | int | None, allow_missing_keys: bool
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.applied_labels = [applied_labels] if isinstance(applied_labels, int) else applied_labels

    def __call__(self, data: Any) -> dict[Any, Any]:
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self._applied(case[key])
        return case

    @abstractmethod
    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The new mask of one label; ``mask`` is cut to the label's bounding box."""

    def _applied(self, tensor: torch.Tensor) -> torch.Tensor:
        voxels = _as_numpy(tensor)
        if voxels.ndim != 4 or len(voxels) != 1:
            raise GeometryError(f"{type(self).__name__} wants a label mask of shape (1, x, y, z), not {voxels.shape}. "
                                "Put it after ToImageGridd.")  # fmt: skip
        labels = voxels[0].copy()
        voxel_ml = voxel_volume_ml(np.asarray(tensor.affine)) if isinstance(tensor, MetaTensor) else float("nan")
        for label, box in _boxes(labels).items():
            if self.applied_labels is None or label in self.applied_labels:
                before = labels[box] == label
                after = self.change(before, voxel_ml)
                labels[box][before & ~after] = 0
                labels[box][after & (labels[box] == 0)] = label
        result = torch.from_numpy(labels[None])
        return MetaTensor(result, meta=tensor.meta) if isinstance(tensor, MetaTensor) else result


class KeepLargestComponentd(_PerLabeld):
    """Keep of each label only its largest connected component.

    Args:
        keys: label masks of shape (1, x, y, z).
        applied_labels: ids of the labels to change; all of them by default.
        connectivity: voxels touch over faces (6), edges too (18), or corners too (26).
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int] | int | None = None,
        connectivity: Connectivity = 26,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, applied_labels, allow_missing_keys)
        self.connectivity = connectivity

    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The largest component."""
        return keep_largest(mask, connectivity=self.connectivity)


class RemoveSmallComponentsd(_PerLabeld):
    """Remove from each label its connected components under a volume.

    Args:
        keys: label masks of shape (1, x, y, z), MetaTensors.
        min_volume_ml: components of less than this many millilitres go.
        applied_labels: ids of the labels to change; all of them by default.
        connectivity: voxels touch over faces (6), edges too (18), or corners too (26).
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_volume_ml: float,
        applied_labels: Sequence[int] | int | None = None,
        connectivity: Connectivity = 26,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, applied_labels, allow_missing_keys)
        if not min_volume_ml >= 0:
            raise UsageError(f"min_volume_ml is {min_volume_ml}; a volume is not negative.")
        self.min_volume_ml = min_volume_ml
        self.connectivity = connectivity

    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The components that are large enough.

        Raises:
            GeometryError: the mask is no MetaTensor, so its voxels have no volume.
        """
        if np.isnan(voxel_ml):
            raise GeometryError(
                "RemoveSmallComponentsd cannot tell millilitres: the mask is not a MetaTensor with an affine."
            )
        # A component of exactly the limit stays, whatever the division rounds to.
        min_voxels = self.min_volume_ml / voxel_ml * (1 - 1e-9)
        return remove_small(mask, min_voxels=min_voxels, connectivity=self.connectivity)


class FillHolesd(_PerLabeld):
    """Fill each label's cavities with it; voxels of other labels inside stay theirs.

    Args:
        keys: label masks of shape (1, x, y, z).
        applied_labels: ids of the labels to change; all of them by default.
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int] | int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, applied_labels, allow_missing_keys)

    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The mask without cavities."""
        return fill_holes(mask)


def _components(mask: BoolMask, connectivity: Connectivity) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Component numbers from 1, and the size of each."""
    # cc3d 4.1.1 raises "maximum length exception" for a mask of one row with a gap; with a margin it never does.
    padded, count = cc3d.connected_components(np.pad(mask, 1), connectivity=connectivity, return_N=True)
    components = padded[1:-1, 1:-1, 1:-1]
    return components, np.bincount(components.ravel(), minlength=count + 1)[1:]


def _boxes(labels: NDArray[Any]) -> dict[int, tuple[slice, ...]]:
    """Bounding box of each label but the background."""
    return {i: box for i, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain.detach().cpu().numpy()
