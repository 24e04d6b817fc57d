"""From what a network answers to label ids: the most probable label, or overlapping regions painted over each other.

A network with regions has a sigmoid a region, and a voxel may be in several. Regions become labels as nnU-Net makes
them with its ``regions_class_order``: in the order in which they are listed, each region paints its id
(``medseg3d.labels.region_label_ids``) wherever its probability is above ½, over what is there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import ConfigError
from medseg3d.labels import region_label_ids

if TYPE_CHECKING:
    from medseg3d.inference.grid import GridMap

__all__ = ["Regions", "ToLabelsd", "labels_of_regions", "regions_on_grid"]

Regions = Mapping[str, Sequence[int]]


def labels_of_regions(probabilities: torch.Tensor, regions: Regions) -> torch.Tensor:
    """Label ids of (region, *spatial) probabilities, shape (*spatial).

    >>> whole_and_core = torch.tensor([[0.9, 0.9, 0.2, 0.2], [0.1, 0.8, 0.8, 0.5]])
    >>> labels_of_regions(whole_and_core, {"whole": [1, 2], "core": [1]}).tolist()
    [2, 1, 1, 0]

    Raises:
        ConfigError: not as many channels as regions.
        UsageError: it is not clear which id a region paints, see ``region_label_ids``.
    """
    ids = _ids(probabilities, regions)
    labels = torch.zeros(probabilities.shape[1:], dtype=_dtype(ids), device=probabilities.device)
    for probability, label_id in zip(probabilities, ids, strict=True):
        labels.masked_fill_(probability > 0.5, label_id)
    return labels


def regions_on_grid(probabilities: torch.Tensor, grid_map: GridMap, regions: Regions) -> torch.Tensor:
    """Label ids on another grid: probabilities are resampled, one region at a time, and then painted.

    Args:
        probabilities: (region, x, y, z); outside of this grid nothing is.
        grid_map: to the wanted grid.
    """
    ids = _ids(probabilities, regions)
    labels = torch.zeros(grid_map.target_shape, dtype=_dtype(ids), device=probabilities.device)
    for probability, label_id in zip(probabilities, ids, strict=True):
        # A linear blend is above ½ only where one of its parts is.
        block = grid_map.block_of(probability > 0.5)
        if block is not None:
            labels[block].masked_fill_(grid_map.sample(probability, block) > 0.5, label_id)
    return labels


class ToLabelsd(MapTransform):
    """Turn logits into a label map on the same grid, as validation compares it.

    Args:
        keys: logits of shape (channel, *spatial).
        regions: name → ids, a channel a region; None for a channel a label id, of which the highest wins.
    """

    def __init__(
        self, keys: KeysCollection = "pred", regions: Regions | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.regions = regions or None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        for key in self.key_iterator(case):
            logits = case[key].as_tensor() if isinstance(case[key], MetaTensor) else case[key]
            if self.regions is None:
                case[key] = logits.argmax(dim=0, keepdim=True)
            else:
                case[key] = labels_of_regions(logits.float().sigmoid(), self.regions)[None]
        return case


def _ids(probabilities: torch.Tensor, regions: Regions) -> tuple[int, ...]:
    if len(probabilities) != len(regions):
        raise ConfigError(
            f"The network gives {len(probabilities)} channels, there are {len(regions)} regions "
            f"({', '.join(regions)}): make regions and network_def agree."
        )
    return region_label_ids(regions)


def _dtype(ids: Sequence[int]) -> torch.dtype:
    return torch.uint8 if max(ids) < 256 else torch.int32
