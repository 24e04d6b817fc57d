"""Several networks as one: the mean of their probabilities, how far they disagree, and what a case's mask is worth.

Labels exclude each other (a softmax over the channels, the first of which is the background) or overlap (a sigmoid a
channel, with ``regions``); ``exclusive`` tells which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from medseg3d.inference.grid import GridMap, image_grid, probabilities_on_grid
from medseg3d.inference.weights import combined_sha256, fitting_state

__all__ = ["Members", "Partner", "Pooled", "Weights", "as_logits", "as_probabilities", "entropy", "expected_dice",
           "pool", "pool_on_image_grid", "stand_in"]  # fmt: skip

# How far from a structure its probabilities are calibrated, in voxels of the network's grid.
NEAR_VOXELS = 2

Weights = str | Path | Sequence[str | Path] | None

# Logarithms of a probability of 0 are cut here; a softmax of them is 0 again in single precision.
LEAST = 1e-30
# Of a sigmoid: the nearest to 0 and 1 that single precision tells from them.
EDGE = 1e-7


@dataclass(frozen=True)
class Partner:
    """A further plan (2D beside 3D, low resolution beside full) whose probabilities count as much as the first's.

    Attributes:
        preprocessing: from a case's dict to one with the image as this plan's network wants it.
        network: of this plan.
        inferer: of this plan, with its window and its mirroring.
        weights: of its members.
    """

    preprocessing: Callable[[dict[str, Any]], dict[str, Any]]
    network: torch.nn.Module
    inferer: Callable[..., torch.Tensor]
    weights: Weights = None


class Members:
    """Networks that differ in their weights alone, given one after another.

    One network is on the device; the members' weights wait in main memory, as their files store them, and are put into
    it in turn. A compiled network would be compiled anew for each, so there every member has a network of its own.

    Args:
        network: takes the weights of each member.
        weights: a file, several, or None for the network as it is.
        copies: whether each member has a network of its own.

    Raises:
        CheckpointError: a file is missing, damaged, or of another network.
    """

    def __init__(self, network: torch.nn.Module, weights: Weights = None, *, copies: bool = False) -> None:
        paths = [weights] if isinstance(weights, (str, Path)) else list(weights or ())
        found = [fitting_state(network, Path(path)) for path in paths]
        self.hashes = tuple(sha256 for _, sha256 in found)
        self.networks = [network]
        self._states = [state for state, _ in found]
        if copies and len(found) > 1:
            self.networks = [network, *(deepcopy(network) for _ in found[1:])]
        if len(self.networks) == len(found):
            for one, state in zip(self.networks, self._states, strict=True):
                one.load_state_dict(state)
            self._states = []

    def __len__(self) -> int:
        return max(len(self.networks), len(self._states))

    def __iter__(self) -> Iterator[torch.nn.Module]:
        """Each member as a network; it is that member until the next one is asked for."""
        if not self._states:
            yield from self.networks
        for state in self._states:
            self.networks[0].load_state_dict(state)
            yield self.networks[0]

    def to(self, device: torch.device) -> Members:
        """The same, computing on ``device``, with dropout and the like switched off."""
        for network in self.networks:
            network.to(device).eval()
        return self

    @property
    def sha256(self) -> str | None:
        """By which results name the weights: the file's hash, or one over the hashes of several in their order."""
        return combined_sha256(self.hashes)


@dataclass(frozen=True)
class Pooled:
    """What members say together.

    Attributes:
        logits: (channel, x, y, z), whose softmax or sigmoid is the mean of the members' probabilities.
        member_entropy: (x, y, z), mean over members of the entropy of each alone; None of a single member.
    """

    logits: torch.Tensor
    member_entropy: torch.Tensor | None = None


def pool(answers: Iterable[torch.Tensor], *, exclusive: bool) -> Pooled:
    """The mean of the probabilities of several members, from their logits (channel, x, y, z), one at a time.

    A single member's logits are returned as they are. Of several, three such volumes are held at once.

    >>> sure, even = torch.tensor([9.0, -9.0]).reshape(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    >>> pool([sure, even], exclusive=True).logits.softmax(0).flatten().round(decimals=3).tolist()
    [0.75, 0.25]
    """
    iterator = iter(answers)
    first = next(iterator)
    mean: torch.Tensor | None = None
    member_entropy = torch.empty(0)
    for count, logits in enumerate(iterator, start=2):
        if mean is None:
            mean = as_probabilities(first, exclusive=exclusive)
            member_entropy = entropy(mean, exclusive=exclusive)
        probabilities = as_probabilities(logits, exclusive=exclusive)
        member_entropy += (entropy(probabilities, exclusive=exclusive) - member_entropy) / count
        mean += probabilities.sub_(mean).div_(count)
    if mean is None:
        return Pooled(first)
    return Pooled(as_logits(mean, exclusive=exclusive), member_entropy)


def pool_on_image_grid(plans: Sequence[tuple[Pooled, GridMap]], *, exclusive: bool) -> Pooled:
    """The mean of several plans' probabilities, each on a grid of its own, on the grid of the image file.

    Every plan counts alike, however many members it has. Computed in main memory, which holds one such volume.
    """
    shape = plans[0][1].target_shape
    mean = torch.zeros((len(plans[0][0].logits), *shape))
    member_entropy = torch.zeros(shape)
    for pooled, grid_map in plans:
        probabilities = as_probabilities(pooled.logits.cpu(), exclusive=exclusive)
        for total, channel in zip(
            mean, probabilities_on_grid(probabilities, grid_map, exclusive=exclusive), strict=True
        ):
            total += channel / len(plans)
        alone = entropy(probabilities, exclusive=exclusive) if pooled.member_entropy is None else pooled.member_entropy
        member_entropy += grid_map.sample(alone.cpu(), grid_map.everything) / len(plans)
    return Pooled(as_logits(mean, exclusive=exclusive), member_entropy)


def stand_in(image: torch.Tensor) -> MetaTensor:
    """An image without voxels of its own on the grid of ``image``'s file, to lie beside what is there already."""
    affine, shape = image_grid(image)
    meta = {
        "filename_or_obj": image.meta.get("filename_or_obj", ""),  # type: ignore[attr-defined]
        "original_affine": torch.as_tensor(affine),
        "spatial_shape": torch.as_tensor(shape),
    }
    return MetaTensor(torch.zeros(1).expand(1, *shape), affine=torch.as_tensor(affine), meta=meta)


def as_probabilities(logits: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Softmax over the channels, or a sigmoid each, in single precision."""
    return logits.float().softmax(dim=0) if exclusive else logits.float().sigmoid()


def as_logits(probabilities: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Numbers whose softmax or sigmoid is ``probabilities``: what every post-processing is written for."""
    if exclusive:
        return probabilities.clamp_min(LEAST).log_()
    return torch.logit(probabilities, eps=EDGE)


def entropy(probabilities: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Uncertainty of each voxel, from 0 (sure) to 1 (all classes alike); of regions the mean over them.

    >>> entropy(torch.tensor([[0.5], [0.5]]), exclusive=True).tolist()
    [1.0]
    """
    total = torch.zeros_like(probabilities[0])
    for channel in probabilities:
        p = channel.clamp(0, 1)
        total += torch.special.entr(p) if exclusive else torch.special.entr(p) + torch.special.entr(1 - p)
    return total.div_(math.log(len(probabilities)) if exclusive else len(probabilities) * math.log(2)).clamp_(0, 1)


def expected_dice(probabilities: torch.Tensor, *, exclusive: bool) -> list[float]:
    """The Dice that each channel's mask is worth by its own probabilities; NaN for a mask that is empty.

    The mask is where the channel wins (or is at least even, for regions). If p is the probability of a voxel, the mask
    has n voxels, and s is the sum of p over them, then 2·s / (n + Σp) is what the Dice is, to first order, if the
    probabilities are right. No reference is needed, so it can warn of a case that has none.

    Only voxels in or within ``NEAR_VOXELS`` of some mask count. There a temperature was fitted; far from all structures
    it turns "surely nothing" into a little of everything, and a whole volume of that outweighs the mask.

    >>> p = torch.tensor([[0.1, 0.9, 1.0], [0.9, 0.1, 0.0]]).reshape(2, 3, 1, 1)
    >>> [round(value, 3) for value in expected_dice(p, exclusive=True)]  # 2·1.9/(2 + 2), 2·0.9/(1 + 1)
    [0.95, 0.9]
    """
    found = probabilities.argmax(dim=0) > 0 if exclusive else (probabilities >= 0.5).any(dim=0)
    p = probabilities[:, _near(found)]
    if exclusive:
        best, winner = p.max(dim=0)
        sizes = torch.bincount(winner, minlength=len(p)).double()
        inside = torch.bincount(winner, best.double(), minlength=len(p))
    else:
        masks = p >= 0.5
        sizes = masks.sum(dim=1, dtype=torch.float64)
        inside = (p * masks).sum(dim=1, dtype=torch.float64)
    totals = p.sum(dim=1, dtype=torch.float64)
    values = torch.where(sizes > 0, 2 * inside / (sizes + totals), torch.nan)
    return [float(value) for value in values]


def _near(mask: torch.Tensor) -> torch.Tensor:
    """Voxels of ``mask`` (x, y, z) and the cubes of ``NEAR_VOXELS`` around them."""
    around = F.max_pool3d(mask.float()[None, None], 2 * NEAR_VOXELS + 1, stride=1, padding=NEAR_VOXELS)
    return around[0, 0] > 0
