"""Augmentation of a batch: every sample has draws of its own, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from medseg3d.augmentation.base import SampleTransform
from medseg3d.errors import UsageError

__all__ = ["BatchAugmentation"]

STREAM = 1
"""Keeps these draws apart from those that the same seed gave when the patch was read."""


ROUNDING = 1e-5
"""A constant that was interpolated differs by less."""


class BatchAugmentation:
    """Apply transforms to the samples of a batch, on the device where the batch is.

    A sample's result depends on its content and its seed alone: it is the same in another batch, at another place in
    it, in another process, and after a resume. Each transform changes only the samples that it is drawn for (one in
    five or ten, with nnU-Net's probabilities), as tensor operations on whole patches.

    Args:
        transforms: applied in this order.
        absent: what a channel is filled with that a case lacks. Transforms are shown 0 there, which they leave alone
            and which ``DropChannels`` writes.
        image_channels: how many channels are of the image; None for all. Those behind them hold label ids, the mask
            of a cascade's first stage: transforms are given them behind the label, and not in the image.

    >>> from medseg3d.augmentation import Brightness
    >>> augment = BatchAugmentation([Brightness(prob=1.0, factor=(2.0, 2.0))])
    >>> image, label = augment(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), seeds=[7])
    >>> image.mean()
    tensor(2.)
    """

    def __init__(
        self, transforms: Iterable[SampleTransform], *, absent: float = 0.0, image_channels: int | None = None
    ) -> None:
        self.transforms = list(transforms)
        self.absent = float(absent)
        self.image_channels = image_channels

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, seeds: torch.Tensor | Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented batch, images in float32; what is given is not written into.

        Args:
            image: (batch, channel, *spatial).
            label: (batch, 1, *spatial).
            seeds: one a sample, as ``medseg3d.data.SeededCacheDataset`` puts them into the batch.

        Raises:
            UsageError: there are more or fewer seeds than samples.
        """
        numbers = _numbers(seeds)
        if len(numbers) != len(image):
            raise UsageError(f"There are {len(numbers)} seeds for {len(image)} samples; give each sample its own.")
        image, label = image.to(torch.float32, copy=True), label.clone()
        with torch.autocast(image.device.type, enabled=False):
            for place, seed in enumerate(numbers):
                self._augment(image, label, place, np.random.default_rng((seed, STREAM)))
        return image, label

    def _augment(self, image: torch.Tensor, label: torch.Tensor, place: int, random: np.random.Generator) -> None:
        own = image.shape[1] if self.image_channels is None else self.image_channels
        sample, masks, labels = image[place, :own], image[place, own:], label[place]
        labels = torch.cat([labels, masks.to(labels.dtype)]) if len(masks) else labels
        was_zero = _is_constant(sample, 0.0) if self.absent else None
        if was_zero is not None:
            sample[_is_constant(sample, self.absent)] = 0
        for transform in self.transforms:
            sample, labels = transform(sample, labels, random)
        if was_zero is not None:
            sample[_is_constant(sample, 0.0) & ~was_zero] = self.absent
        image[place, :own], label[place] = sample, labels[:1]
        masks.copy_(labels[1:])


def _is_constant(image: torch.Tensor, value: float) -> torch.Tensor:
    """Of each channel, whether it is ``value`` everywhere."""
    low, high = torch.aminmax(image.flatten(1), dim=1)
    return (low >= value - ROUNDING) & (high <= value + ROUNDING)


def _numbers(seeds: torch.Tensor | Sequence[int]) -> list[int]:
    return [int(seed) for seed in (seeds.tolist() if isinstance(seeds, torch.Tensor) else seeds)]
