"""Corrections of a label mask that a clinical task may ask for: connected components and holes.

Each works on masks of shape (1, x, y, z), label by label or region by region, on the grid they lie on: after
``ToImageGridd`` that is the image file's, so volumes are true millilitres.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from medseg3d.labels import Repainting, repainting

__all__ = [
    "FillHolesd",
    "KeepLargestComponentd",
    "RemoveSmallComponentsd",
    "box_of",
    "fill_holes",
    "keep_largest",
    "label_boxes",
    "mask_of",
    "redrawn",
    "remove_small",
]

Connectivity = Literal[6, 18, 26]
BoolMask = NDArray[np.bool_]
Box = tuple[slice, ...]


def mask_of(labels: NDArray[Any], ids: Sequence[int]) -> BoolMask:
    """Where a label map has one of ``ids``; of a single id a hundred times as fast as ``numpy.isin``.

    >>> mask_of(np.array([0, 1, 2]), [2]).tolist(), mask_of(np.array([0, 1, 2]), [1, 2]).tolist()
    ([False, False, True], [False, True, True])
    """
    return np.asarray(labels == ids[0] if len(ids) == 1 else np.isin(labels, list(ids)))


def redrawn(labels: NDArray[Any], rule: Repainting, change: Callable[[BoolMask], BoolMask]) -> NDArray[Any]:
    """A copy of a label map in which one structure has the extent that ``change`` gives it.

    Where the structure is nowhere, ``change`` is not asked.

    >>> whole = Repainting(paints=2, takes=(0,), leaves={1: 0, 2: 0})  # a core, id 1, with oedema around it
    >>> redrawn(np.array([[[2, 1, 2, 0, 1]]]), whole, keep_largest).tolist()
    [[[2, 1, 2, 0, 0]]]
    """
    before = mask_of(labels, tuple(rule.leaves))
    if not before.any():
        return labels.copy()
    after, result = change(before), labels.copy()
    result[after & ~before & mask_of(labels, rule.takes)] = rule.paints
    for left, becomes in rule.leaves.items():
        result[(labels == left) & ~after] = becomes
    return result


def label_boxes(labels: NDArray[Any]) -> dict[int, Box]:
    """Bounding box of each label but the background."""
    return {i: box for i, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}


def box_of(boxes: Mapping[int, Box], ids: Sequence[int]) -> Box | None:
    """The box around several labels together; None where there is none of them."""
    found = [boxes[i] for i in ids if i in boxes]
    if not found:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))


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


class _PerStructured(MapTransform):
    """Changes each structure on its own: a label, or with ``regions`` a region.

    Labels never take voxels from each other. Of regions, ``medseg3d.labels.repainting`` says what becomes of the
    voxels that one gains or loses.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int] | int | None,
        regions: Mapping[str, Sequence[int]] | None,
        applied_regions: Sequence[str] | str | None,
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if regions and applied_labels is not None:
            raise UsageError(f"{type(self).__name__} corrects labels or regions: give applied_regions with regions.")
        if applied_regions is not None and not regions:
            raise UsageError(f"{type(self).__name__}: applied_regions needs regions, their names and label ids.")
        self.applied_labels = [applied_labels] if isinstance(applied_labels, int) else applied_labels
        chosen = [applied_regions] if isinstance(applied_regions, str) else applied_regions
        self.rules = (
            [repainting(regions, name) for name in (regions if chosen is None else chosen)] if regions else None
        )

    def __call__(self, data: Any) -> dict[Any, Any]:
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self._applied(case[key])
        return case

    @abstractmethod
    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The new mask of one structure; ``mask`` is cut to the structure's bounding box."""

    def _applied(self, tensor: torch.Tensor) -> torch.Tensor:
        voxels = _as_numpy(tensor)
        if voxels.ndim != 4 or len(voxels) != 1:
            raise GeometryError(f"{type(self).__name__} wants a label mask of shape (1, x, y, z), not {voxels.shape}. "
                                "Put it after ToImageGridd.")  # fmt: skip
        labels = voxels[0].copy()
        voxel_ml = voxel_volume_ml(np.asarray(tensor.affine)) if isinstance(tensor, MetaTensor) else float("nan")
        for rule, box in self._structures(labels):
            labels[box] = redrawn(labels[box], rule, lambda mask: self.change(mask, voxel_ml))
        result = torch.from_numpy(labels[None])
        return MetaTensor(result, meta=tensor.meta) if isinstance(tensor, MetaTensor) else result

    def _structures(self, labels: NDArray[Any]) -> Iterator[tuple[Repainting, Box]]:
        """What is corrected, one after another, with its box in ``labels`` as they are by then."""
        if self.rules is None:
            for label, box in label_boxes(labels).items():
                if self.applied_labels is None or label in self.applied_labels:
                    yield repainting({"label": [label]}, "label"), box
        for rule in self.rules or ():
            box_now = box_of(label_boxes(labels), tuple(rule.leaves))
            if box_now is not None:
                yield rule, box_now


class KeepLargestComponentd(_PerStructured):
    """Keep of each label, or each region, only its largest connected component.

    Args:
        keys: label masks of shape (1, x, y, z).
        applied_labels: ids of the labels to change; all of them by default.
        connectivity: voxels touch over faces (6), edges too (18), or corners too (26).
        allow_missing_keys: skip keys that are not there.
        regions: name → ids of a network that answers with regions: these are corrected instead of labels.
        applied_regions: names of the regions to change, in this order; all of them by default.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int] | int | None = None,
        connectivity: Connectivity = 26,
        allow_missing_keys: bool = False,
        *,
        regions: Mapping[str, Sequence[int]] | None = None,
        applied_regions: Sequence[str] | str | None = None,
    ) -> None:
        super().__init__(keys, applied_labels, regions, applied_regions, allow_missing_keys)
        self.connectivity = connectivity

    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The largest component."""
        return keep_largest(mask, connectivity=self.connectivity)


class RemoveSmallComponentsd(_PerStructured):
    """Remove from each label, or each region, its connected components under a volume.

    Args:
        keys: label masks of shape (1, x, y, z), MetaTensors.
        min_volume_ml: components of less than this many millilitres go.
        applied_labels: ids of the labels to change; all of them by default.
        connectivity: voxels touch over faces (6), edges too (18), or corners too (26).
        allow_missing_keys: skip keys that are not there.
        regions: name → ids of a network that answers with regions: these are corrected instead of labels.
        applied_regions: names of the regions to change, in this order; all of them by default.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_volume_ml: float,
        applied_labels: Sequence[int] | int | None = None,
        connectivity: Connectivity = 26,
        allow_missing_keys: bool = False,
        *,
        regions: Mapping[str, Sequence[int]] | None = None,
        applied_regions: Sequence[str] | str | None = None,
    ) -> None:
        super().__init__(keys, applied_labels, regions, applied_regions, allow_missing_keys)
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


class FillHolesd(_PerStructured):
    """Fill each label's, or each region's, cavities with it; voxels of other labels inside stay theirs.

    A region takes what lies inside of it from the regions around it: a core is filled though oedema was found in it.

    Args:
        keys: label masks of shape (1, x, y, z).
        applied_labels: ids of the labels to change; all of them by default.
        allow_missing_keys: skip keys that are not there.
        regions: name → ids of a network that answers with regions: these are corrected instead of labels.
        applied_regions: names of the regions to change, in this order; all of them by default.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int] | int | None = None,
        allow_missing_keys: bool = False,
        *,
        regions: Mapping[str, Sequence[int]] | None = None,
        applied_regions: Sequence[str] | str | None = None,
    ) -> None:
        super().__init__(keys, applied_labels, regions, applied_regions, allow_missing_keys)

    def change(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The mask without cavities."""
        return fill_holes(mask)


def _components(mask: BoolMask, connectivity: Connectivity) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Component numbers from 1, and the size of each."""
    # cc3d 4.1.1 raises "maximum length exception" for a mask of one row with a gap; with a margin it never does.
    padded, count = cc3d.connected_components(np.pad(mask, 1), connectivity=connectivity, return_N=True)
    components = padded[1:-1, 1:-1, 1:-1]
    return components, np.bincount(components.ravel(), minlength=count + 1)[1:]


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain.detach().cpu().numpy()
