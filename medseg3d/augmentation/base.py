"""What every augmentation of a batch has: a probability, ranges, and draws of its own for every sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from medseg3d.errors import UsageError

__all__ = ["ChannelTransform", "Range", "SampleTransform", "about_one", "require_range", "uniform"]

Range = Sequence[float]
"""Smallest and largest value of a uniform draw."""


class SampleTransform(Protocol):
    """Changes one sample of a batch, and may write into what it is given."""

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image (channel, *spatial) and the label map (1, *spatial), changed or as they were.

        Behind the label map may lie masks of an earlier network, which move with it.
        """


@dataclass(frozen=True, kw_only=True)
class ChannelTransform(ABC):
    """Changes the intensities of a sample's channels, each with draws of its own; labels stay.

    A channel that is 0 everywhere, because the case lacks it or ``DropChannels`` took it away, stays so.

    Attributes:
        prob: probability that a sample is changed.
        channel_prob: probability that a channel of such a sample is.
        channels: places of the channels that may be changed, from 0 on; None for all. A place that a sample does not
            have is passed over.
    """

    prob: float
    channel_prob: float = 1.0
    channels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, value in (("prob", self.prob), ("channel_prob", self.channel_prob)):
            if not 0 <= value <= 1:
                raise UsageError(f"{type(self).__name__}: {name} is {value}; a probability is between 0 and 1.")
        if self.channels is not None and min(self.channels, default=0) < 0:
            raise UsageError(f"{type(self).__name__}: channels is {list(self.channels)}; they are counted from 0.")

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if random.random() < self.prob:
            for channel in image if self.channels is None else (image[i] for i in self.channels if i < len(image)):
                if random.random() < self.channel_prob and bool(channel.any()):
                    channel.copy_(self.changed(channel, random))
        return image, label

    @abstractmethod
    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """The channel (*spatial) after one draw; it is not written into."""


def uniform(random: np.random.Generator, bounds: Range) -> float:
    """A number between the bounds."""
    low, high = bounds
    return float(random.uniform(low, high))


def about_one(random: np.random.Generator, bounds: Range) -> float:
    """A factor that is below 1 as often as above, uniform on either side (nnU-Net's ``BGContrast``).

    Bounds on one side of 1 give a uniform draw between them.
    """
    low, high = bounds
    if low < 1 < high:
        low, high = (low, 1.0) if random.random() < 0.5 else (1.0, high)
    return uniform(random, (low, high))


def require_range(owner: object, name: str, bounds: Range, *, lowest: float = -np.inf, highest: float = np.inf) -> None:
    """Refuse what is no range from smallest to largest, or leaves what is possible.

    Raises:
        UsageError: with the transform, the argument and what it may be.
    """
    if len(bounds) != 2 or not lowest <= bounds[0] <= bounds[1] <= highest:
        raise UsageError(
            f"{type(owner).__name__}: {name} is {list(bounds)}; write [smallest, largest] between {lowest:g} and "
            f"{highest:g}."
        )
