"""Blur and simulated low resolution: what takes detail away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from medseg3d.augmentation.base import ChannelTransform, Range, require_range, uniform
from medseg3d.spatial import thin_axes

__all__ = ["GaussianBlur", "LowResolution", "blurred", "coarsened"]

TRUNCATE = 3.0
"""Standard deviations at which the Gaussian ends."""

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(ChannelTransform):
    """Blur with a Gaussian whose standard deviation along each axis is uniform in ``sigma``.

    nnU-Net: probability 0.2, ``channel_prob`` 0.5, 0.5 to 1 voxels.

    Attributes:
        sigma: in voxels.
    """

    sigma: Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "sigma", self.sigma, lowest=0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        return blurred(channel, [uniform(random, self.sigma) for _ in channel.shape])


@dataclass(frozen=True, kw_only=True)
class LowResolution(ChannelTransform):
    """Sample down to a share of the voxels along each axis (nearest neighbour) and up again (linear).

    nnU-Net: probability 0.25, ``channel_prob`` 0.5, 0.5 to 1. A thin axis (``medseg3d.spatial.thin_axes``) keeps its
    voxels, as there.

    Attributes:
        zoom: share of the voxels that is kept, the same along all axes.
    """

    zoom: Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "zoom", self.zoom, lowest=0, highest=1)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        zoom, thin = uniform(random, self.zoom), thin_axes(channel.shape)
        sizes = enumerate(channel.shape)
        return coarsened(channel, [n if axis in thin else max(1, round(n * zoom)) for axis, n in sizes])


def blurred(values: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Blurred along each axis by its own standard deviation in voxels, mirrored at the borders.

    A standard deviation of 0 leaves an axis as it is, and so does an axis of one voxel.
    """
    for axis, deviation in enumerate(sigma):
        radius = math.ceil(TRUNCATE * deviation)
        if radius and values.shape[axis] > 1:
            values = _blurred_along(values, axis, _weights(deviation, radius))
    return values


def _weights(deviation: float, radius: int) -> list[float]:
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    return (weights / weights.sum()).tolist()


def _blurred_along(values: torch.Tensor, axis: int, weights: Sequence[float]) -> torch.Tensor:
    size, radius = values.shape[axis], len(weights) // 2
    # Mirrored about the outermost voxels; a fold of the plain distance, so that any radius works on any size.
    places = torch.arange(-radius, size + radius, device=values.device).remainder_(2 * size - 2)
    padded = values.index_select(axis, torch.minimum(places, 2 * size - 2 - places))
    result = padded.narrow(axis, 0, size) * weights[0]
    for shift, weight in enumerate(weights[1:], start=1):
        result.add_(padded.narrow(axis, shift, size), alpha=weight)
    return result


def coarsened(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Sampled to ``size`` voxels by nearest neighbour, and linearly back to the shape it had."""
    small = functional.interpolate(values[None, None], size=tuple(size), mode="nearest-exact")
    return functional.interpolate(small, size=tuple(values.shape), mode=LINEAR[values.ndim])[0, 0]
