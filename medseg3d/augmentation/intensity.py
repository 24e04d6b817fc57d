"""Noise, brightness, contrast and gamma: what changes every voxel by its own value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medseg3d.augmentation.base import ChannelTransform, Range, about_one, require_range, uniform

__all__ = ["Brightness", "Contrast", "Gamma", "GaussianNoise", "gamma_corrected", "noise_like", "stretched"]

SMALLEST = 1e-7
"""Ranges and deviations are not divided by where they are smaller: a constant patch stays one (nnU-Net's value)."""


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(ChannelTransform):
    """Add normal noise whose standard deviation is uniform in ``std``.

    nnU-Net: probability 0.1, ``std`` 0 to 0.1 (its argument says variance, and is used as the standard deviation).
    """

    std: Range = (0.0, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "std", self.std, lowest=0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        std = uniform(random, self.std)
        return noise_like(channel, seed=int(random.integers(2**63))).mul_(std).add_(channel)


@dataclass(frozen=True, kw_only=True)
class Brightness(ChannelTransform):
    """Multiply by a factor in ``factor``, as often below 1 as above. nnU-Net: probability 0.15, 0.75 to 1.25.

    Attributes:
        about: the value that stays. Where an image is scaled so that another number than 0 stands for nothing (no
            uptake, no signal), it is that number.
    """

    factor: Range = (0.75, 1.25)
    about: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "factor", self.factor, lowest=0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        factor = about_one(random, self.factor)
        return (channel - self.about).mul_(factor).add_(self.about) if self.about else channel * factor


@dataclass(frozen=True, kw_only=True)
class Contrast(ChannelTransform):
    """Stretch about the mean by a factor in ``factor``, as often below 1 as above.

    nnU-Net: probability 0.15, 0.75 to 1.25, range preserved.

    Attributes:
        preserve_range: cut off what leaves the range that the values had.
    """

    factor: Range = (0.75, 1.25)
    preserve_range: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "factor", self.factor, lowest=0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        return stretched(channel, about_one(random, self.factor), preserve_range=self.preserve_range)


@dataclass(frozen=True, kw_only=True)
class Gamma(ChannelTransform):
    """Raise the values, scaled to 0 to 1, to a power in ``gamma``, as often below 1 as above.

    nnU-Net has it twice: inverted with probability 0.1, then as it is with 0.3; 0.7 to 1.5, statistics kept.

    Attributes:
        invert: of the negative image: bright values are spread where dark ones would be.
        retain_stats: mean and standard deviation are as before.
    """

    gamma: Range = (0.7, 1.5)
    invert: bool = False
    retain_stats: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "gamma", self.gamma, lowest=0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        gamma = about_one(random, self.gamma)
        return gamma_corrected(channel, gamma, invert=self.invert, retain_stats=self.retain_stats)


def noise_like(channel: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Standard normal noise of the same shape, on the same device, from a generator of its own."""
    generator = torch.Generator(device=channel.device).manual_seed(seed)
    return torch.empty_like(channel).normal_(generator=generator)


def stretched(values: torch.Tensor, factor: float, *, preserve_range: bool) -> torch.Tensor:
    """Values with ``factor`` times their distance from their mean.

    >>> stretched(torch.tensor([0.0, 1.0, 2.0]), 1.5, preserve_range=False)
    tensor([-0.5000,  1.0000,  2.5000])
    """
    mean = values.mean()
    result = (values - mean).mul_(factor).add_(mean)
    return result.clamp_(*torch.aminmax(values)) if preserve_range else result


def gamma_corrected(values: torch.Tensor, gamma: float, *, invert: bool, retain_stats: bool) -> torch.Tensor:
    """``((x - min) / range) ** gamma * range + min``, as MONAI's ``AdjustContrast`` and nnU-Net compute it.

    >>> gamma_corrected(torch.tensor([0.0, 1.0, 2.0]), 2.0, invert=False, retain_stats=False)
    tensor([0.0000, 0.5000, 2.0000])
    """
    if invert:
        values = -values
    low, high = torch.aminmax(values)
    extent = high - low
    result = (values - low).div_(extent.clamp(min=SMALLEST)).pow_(gamma).mul_(extent).add_(low)
    if retain_stats:
        (std, mean), (std_now, mean_now) = torch.std_mean(values), torch.std_mean(result)
        result.sub_(mean_now).mul_(std / std_now.clamp(min=SMALLEST)).add_(mean)
    return result.neg_() if invert else result
