"""Label maps: ids as files have them, and where each of them lies."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import UsageError
from medseg3d.labels import file_ids

__all__ = ["LabelIndicesd", "ToFileLabelsd"]


class ToFileLabelsd(MapTransform):
    """Give the labels of a mask the ids that they have in files: what ``LoadVolumed(file_labels=…)`` maps, back.

    Args:
        keys: masks of shape (1, *spatial) with the network's ids.
        labels: name → the network's id.
        file_labels: name → id in files; None leaves the ids as they are.

    Raises:
        UsageError: the two do not name the same labels.

    >>> to_files = ToFileLabelsd("pred", {"core": 1, "enhancing": 3}, {"core": 1, "enhancing": 4})
    >>> to_files({"pred": torch.tensor([[0, 1, 3]], dtype=torch.uint8)})["pred"].tolist()
    [[0, 1, 4]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        file_labels: Mapping[str, int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        ids = file_ids(labels, file_labels or labels)
        self.table = torch.zeros(max(ids) + 1, dtype=torch.int32)
        self.table[list(ids)] = torch.tensor(list(ids.values()), dtype=torch.int32)
        self.is_needed = any(ours != theirs for ours, theirs in ids.items())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        for key in self.key_iterator(case) if self.is_needed else ():
            mask = case[key]
            voxels = torch.as_tensor(mask.as_tensor() if isinstance(mask, MetaTensor) else mask)
            mapped = self.table.to(voxels.device)[voxels.long()]
            mapped = mapped.to(torch.uint8 if int(self.table.max()) < 256 else torch.int32)
            case[key] = MetaTensor(mapped, meta=mask.meta) if isinstance(mask, MetaTensor) else mapped
        return case


class LabelIndicesd(MapTransform):
    """List where the voxels of every label id lie, for ``medseg3d.spatial.RandSpatialPatchd`` to centre patches on.

    As MONAI's ``ClassesToIndicesd``, but voxels of ``ignore_label`` are in no list; and where a case has such voxels,
    the others are listed too, so that no patch is drawn around what nobody labelled.

    Args:
        keys: label maps of shape (1, *spatial). To ``<key>_cls_indices`` goes a list of flat voxel indices of each id,
            from 0 (background) to the highest, and to ``<key>_annotated_indices`` that of all labelled voxels, of cases
            with some that are not.
        labels: name → id.
        ignore_label: id of voxels that nobody labelled.
        max_samples: indices kept of each id, evenly spread.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        ignore_label: int | None = None,
        max_samples: int = 10_000,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if max_samples < 1:
            raise UsageError(f"max_samples is {max_samples}; at least one voxel of each label is needed.")
        self.highest, self.ignore_label, self.max_samples = max(labels.values()), ignore_label, max_samples

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            flat = np.asarray(sample[key]).reshape(-1)
            sample[f"{key}_cls_indices"] = [self._some(flat == i) for i in range(self.highest + 1)]
            if self.ignore_label is not None and (flat == self.ignore_label).any():
                sample[f"{key}_annotated_indices"] = self._some(flat != self.ignore_label)
        return sample

    def _some(self, inside: np.ndarray) -> np.ndarray:
        found = np.flatnonzero(inside)
        if len(found) <= self.max_samples:
            return found
        return found[np.round(np.linspace(0, len(found) - 1, self.max_samples)).astype(int)]
