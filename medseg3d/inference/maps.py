"""Maps beside a mask, on the grid of its image: probabilities, uncertainty, and what members disagree about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.inference.cases import ImageHeader
from medseg3d.inference.ensemble import Pooled, as_probabilities, entropy
from medseg3d.inference.export import mask_path, write_nifti
from medseg3d.inference.grid import GridMap, probabilities_on_grid

__all__ = ["MAPS", "write_maps"]

PROBABILITY, UNCERTAINTY, INFORMATION = "probability", "uncertainty", "mutual_information"
MAPS = (PROBABILITY, UNCERTAINTY, INFORMATION)
"""Kinds of maps, by the ends of their files' names."""


def write_maps(
    folder: Path,
    case: str,
    pooled: Pooled,
    grid_map: GridMap,
    header: ImageHeader,
    *,
    probability: bool,
    uncertainty: bool,
    exclusive: bool,
) -> None:
    """Write the maps that are wanted, and remove those of an earlier mask, which would not belong to this one.

    Args:
        pooled: the members' answer on the grid that ``grid_map`` leads from.
        probability: a volume a channel.
        uncertainty: entropy of the mean probability, and of several members the mutual information: that entropy less
            the mean of the members' own, which is high where each is sure of something else (Houlsby et al. 2011).
    """
    several = pooled.member_entropy is not None
    makers: dict[str, tuple[bool, Callable[[], NDArray[Any]]]] = {
        PROBABILITY: (probability, lambda: _probability(pooled, grid_map, exclusive)),
        UNCERTAINTY: (uncertainty, lambda: _uncertainty(pooled, grid_map, exclusive)),
        INFORMATION: (uncertainty and several, lambda: _information(pooled, grid_map, exclusive)),
    }
    for kind, (wanted, make) in makers.items():
        path = mask_path(folder, case, kind)
        if wanted:
            write_nifti(path, make(), header)
        else:
            path.unlink(missing_ok=True)


def _probability(pooled: Pooled, grid_map: GridMap, exclusive: bool) -> NDArray[Any]:
    # float16 in memory, float32 in the file: a channel of a large CT alone is half a gigabyte.
    probabilities = as_probabilities(pooled.logits.cpu(), exclusive=exclusive)
    volumes = np.empty((*grid_map.target_shape, len(probabilities)), dtype=np.float16, order="F")
    for index, channel in enumerate(probabilities_on_grid(probabilities, grid_map, exclusive=exclusive)):
        volumes[..., index] = channel.numpy()
    return volumes


def _uncertainty(pooled: Pooled, grid_map: GridMap, exclusive: bool) -> NDArray[Any]:
    # Of the probabilities on the image's grid, channel by channel: where two grids differ, a border is less sure.
    probabilities = as_probabilities(pooled.logits.cpu(), exclusive=exclusive)
    total = torch.zeros(grid_map.target_shape)
    for channel in probabilities_on_grid(probabilities, grid_map, exclusive=exclusive):
        p = channel.clamp(0, 1)
        total += torch.special.entr(p) if exclusive else torch.special.entr(p) + torch.special.entr(1 - p)
    total /= np.log(len(probabilities)) if exclusive else len(probabilities) * np.log(2)
    return total.clamp_(0, 1).numpy()


def _information(pooled: Pooled, grid_map: GridMap, exclusive: bool) -> NDArray[Any]:
    if pooled.member_entropy is None:
        raise ValueError("A single member has no mutual information.")
    mean = entropy(as_probabilities(pooled.logits, exclusive=exclusive), exclusive=exclusive)
    information = (mean - pooled.member_entropy).clamp_(0, 1).cpu()
    return grid_map.sample(information, grid_map.everything).numpy()
