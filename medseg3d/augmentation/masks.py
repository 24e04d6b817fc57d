"""Faults of a first network's mask, so that the second stage of a cascade does not take its word for everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cc3d
import numpy as np
import torch

from medseg3d.augmentation.base import Range, require_range, uniform
from medseg3d.errors import UsageError

__all__ = ["RemoveComponent", "ReshapeMask", "dilated", "eroded"]


@dataclass(frozen=True, kw_only=True)
class MaskTransform(ABC):
    """Changes the masks of a sample, label by label in random order; image and label stay.

    The masks of an earlier network lie behind the label, as ``BatchAugmentation(image_channels=…)`` puts them. A sample
    without any is left alone, and nothing is drawn for it.

    Attributes:
        prob: probability that a mask is changed.
        label_prob: probability that a label of such a mask is.
    """

    prob: float
    label_prob: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("prob", self.prob), ("label_prob", self.label_prob)):
            if not 0 <= value <= 1:
                raise UsageError(f"{type(self).__name__}: {name} is {value}; a probability is between 0 and 1.")

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image as it was, and (label, masks) of shape (1 + masks, *spatial)."""
        for mask in label[1:]:
            if random.random() < self.prob:
                present = torch.bincount(mask.flatten()).nonzero().flatten().tolist()
                for label_id in random.permutation([i for i in present if i]).tolist():
                    if random.random() < self.label_prob:
                        self.change(mask, int(label_id), random)
        return image, label

    @abstractmethod
    def change(self, mask: torch.Tensor, label_id: int, random: np.random.Generator) -> None:
        """Write the change of one label into the mask (*spatial)."""


@dataclass(frozen=True, kw_only=True)
class ReshapeMask(MaskTransform):
    """Dilate, erode, close or open a label by a ball, each as likely. What it gains it takes from whatever was there.

    nnU-Net: probability 0.4, of a label 0.5, radius 1 to 8. Its balls of a fractional radius are scaled a little; these
    are all voxels within the radius.

    Attributes:
        radius: of the ball, in voxels.
    """

    radius: Range = (1.0, 8.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "radius", self.radius, lowest=0)

    def change(self, mask: torch.Tensor, label_id: int, random: np.random.Generator) -> None:
        before, radius = mask == label_id, uniform(random, self.radius)
        steps = [(dilated,), (eroded,), (dilated, eroded), (eroded, dilated)][int(random.integers(4))]
        after = before
        for step in steps:
            after = step(after, radius)
        mask[before & ~after] = 0
        mask[after] = label_id


@dataclass(frozen=True, kw_only=True)
class RemoveComponent(MaskTransform):
    """Take a random component of a label away, corners connecting; large ones stay.

    nnU-Net: probability 0.2, of a label 0.5, components below 0.15 of the patch.

    Attributes:
        max_share: of the patch's voxels that a component has less of.
    """

    max_share: float = 0.15

    def change(self, mask: torch.Tensor, label_id: int, random: np.random.Generator) -> None:
        # A margin: cc3d 4.1.1 fails on a mask of one row with a gap.
        padded = np.pad((mask == label_id).cpu().numpy(), 1)
        components = cc3d.connected_components(padded, connectivity=26)[1:-1, 1:-1, 1:-1]
        sizes = np.bincount(components.ravel())[1:]
        small = np.flatnonzero(sizes < self.max_share * mask.numel()) + 1
        if len(small):
            mask[torch.from_numpy(components == random.choice(small)).to(mask.device)] = 0


def dilated(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Voxels within ``radius`` voxels of the mask.

    >>> dilated(torch.tensor([0, 0, 0, 1, 0]) > 0, 2.0).tolist()
    [False, True, True, True, True]
    """
    reach = int(radius)
    far = mask.ndim * (reach + 1) ** 2
    squared = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device).masked_fill_(~mask, far)
    # The squared distance is a sum over the axes, and so its minimum can be taken axis by axis.
    for axis, size in enumerate(mask.shape):
        lines, squared = squared, squared.clone()
        for step in range(1, min(reach, size - 1) + 1):
            for here, there in ((0, step), (step, 0)):
                nearest = squared.narrow(axis, here, size - step)
                torch.minimum(nearest, lines.narrow(axis, there, size - step) + step**2, out=nearest)
    return squared <= radius**2


def eroded(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Voxels farther than ``radius`` from what is not in the mask; the patch's border is none.

    >>> eroded(torch.tensor([1, 1, 1, 1, 0]) > 0, 2.0).tolist()
    [True, True, False, False, False]
    """
    return ~dilated(~mask, radius)
