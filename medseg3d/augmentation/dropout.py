"""Modality dropout: channels that are taken away, so that a network learns to go without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medseg3d.errors import UsageError

__all__ = ["DropChannels"]


@dataclass(frozen=True, kw_only=True)
class DropChannels:
    """Make channels of a sample 0, as a channel is that a case lacks; at least one that is not empty stays.

    Put it first: later transforms leave empty channels as they are.

    Attributes:
        prob: probability that a channel is dropped, each on its own; where all would go, one of them stays.

    Source: Neverova et al. 2016, ModDrop.
    """

    prob: float

    def __post_init__(self) -> None:
        if not 0 <= self.prob < 1:
            raise UsageError(
                f"DropChannels: prob (modality_dropout_prob) is {self.prob}; it is at least 0 and below 1."
            )

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image (channel, *spatial) without some of its channels; the labels as they were."""
        dropped = random.random(len(image)) < self.prob
        kept = int(random.integers(len(image)))
        if not dropped.any():
            return image, label
        present = np.array([bool(channel.any()) for channel in image])
        if present.any() and (dropped | ~present).all():
            dropped[np.flatnonzero(present)[kept % int(present.sum())]] = False
        image[torch.from_numpy(dropped).to(image.device)] = 0
        return image, label
