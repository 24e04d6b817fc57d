"""Artefacts of MRI: uneven coils, ghosts, motion and spikes, as tensor operations.

The formulas are TorchIO's (Pérez-García et al. 2021). Ghosts and motion act along one phase-encoding axis, so one
Fourier transform along it does what TorchIO does with three; a spike is added as the cosine that it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medseg3d.augmentation.base import ChannelTransform, Range, require_range, uniform
from medseg3d.spatial import rotation_matrix, thin_axes

__all__ = ["BiasField", "Ghosting", "Motion", "Spike", "bias_field", "ghosted", "moved", "repositioned", "spiked"]


@dataclass(frozen=True, kw_only=True)
class BiasField(ChannelTransform):
    """Multiply by the exponential of a polynomial in space, as uneven coils do.

    Attributes:
        coefficient: of each term, uniform in plus and minus this.
        order: of the polynomial.
    """

    coefficient: float = 0.5
    order: int = 3

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        coefficients = random.uniform(-self.coefficient, self.coefficient, [self.order + 1] * channel.ndim)
        coefficients[np.indices(coefficients.shape).sum(axis=0) > self.order] = 0
        return channel * bias_field(channel, coefficients)


@dataclass(frozen=True, kw_only=True)
class Ghosting(ChannelTransform):
    """Weaken every n-th line of k-space along a random axis: n copies of the image, faintly shifted.

    Attributes:
        ghosts: smallest and largest number of them.
        intensity: share that those lines lose.
    """

    ghosts: Sequence[int] = (4, 10)
    intensity: Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "ghosts", self.ghosts, lowest=2)
        require_range(self, "intensity", self.intensity, lowest=0, highest=1)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        ghosts = int(random.integers(self.ghosts[0], self.ghosts[1] + 1))
        return ghosted(channel, ghosts, axis=_encoding_axis(channel, random), intensity=uniform(random, self.intensity))


@dataclass(frozen=True, kw_only=True)
class Motion(ChannelTransform):
    """Let the patient move while k-space is read line by line along a random axis.

    The lines about the middle of k-space, which carry the shapes, are those of the position that the label has.

    Attributes:
        degrees: largest rotation about each axis.
        translation: largest shift along each axis in mm.
        moves: how often the patient moves.
        spacing: voxel size in mm.
    """

    degrees: float = 5.0
    translation: float = 3.0
    moves: int = 2
    spacing: Sequence[float] = (1.0, 1.0, 1.0)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        steps = np.arange(1, self.moves + 1) + random.uniform(-0.3, 0.3, self.moves)  # TorchIO's irregularity
        matrices = [self._move(channel, random) for _ in range(self.moves)]
        return moved(channel, matrices, times=steps / (self.moves + 1), axis=_encoding_axis(channel, random))

    def _move(self, channel: torch.Tensor, random: np.random.Generator) -> NDArray:
        """Rotation and shift, shape (n, n + 1), from voxels to voxels about the middle; of slices in their plane."""
        dimensions, thin = channel.ndim, thin_axes(channel.shape)
        spacing = np.asarray(self.spacing, dtype=float)[:dimensions]
        angles = np.radians(random.uniform(-self.degrees, self.degrees, 3))
        in_plane = {2} if dimensions == 2 else thin
        if in_plane:
            angles[[axis for axis in range(3) if axis not in in_plane]] = 0
        shift_mm = random.uniform(-self.translation, self.translation, dimensions)
        shift_mm[list(thin)] = 0
        turn = rotation_matrix(angles)[:dimensions, :dimensions]
        return np.column_stack([turn * spacing / spacing[:, None], shift_mm / spacing])


@dataclass(frozen=True, kw_only=True)
class Spike(ChannelTransform):
    """Add one wrong point to k-space: stripes over the whole image.

    Attributes:
        intensity: of the point, as a multiple of the largest in k-space.
    """

    intensity: Range = (0.1, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self, "intensity", self.intensity)

    def changed(self, channel: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        frequency = [int(random.integers(n)) - n // 2 for n in channel.shape]
        return spiked(channel, frequency, intensity=uniform(random, self.intensity))


def bias_field(channel: torch.Tensor, coefficients: NDArray) -> torch.Tensor:
    """``exp(Σ c[i, j, …] x^i y^j …)`` over places that run from -1 to 1 along each axis of ``channel``."""
    field = torch.as_tensor(coefficients, dtype=channel.dtype, device=channel.device)
    for size in channel.shape:
        end = 1.0 if size > 1 else 0.0  # a slice lies in the middle
        places = torch.linspace(-end, end, size, dtype=channel.dtype, device=channel.device)
        powers = torch.stack([places**i for i in range(len(coefficients))])
        # The first axis of powers becomes the last of places, so after all axes the order is the image's.
        field = torch.tensordot(field, powers, dims=([0], [0]))
    return field.exp_()


def ghosted(channel: torch.Tensor, ghosts: int, *, axis: int, intensity: float) -> torch.Tensor:
    """Every ``ghosts``-th line of k-space along ``axis`` times ``1 - intensity``; the middle one stays."""
    size = channel.shape[axis]
    factors = torch.ones(size, dtype=channel.dtype, device=channel.device)
    factors[::ghosts] = 1 - intensity
    factors[size // 2] = 1
    spectrum = torch.fft.fft(channel, dim=axis) * _along(torch.fft.ifftshift(factors), axis, channel.ndim)
    return torch.fft.ifft(spectrum, dim=axis).real


def moved(channel: torch.Tensor, matrices: Sequence[NDArray], *, times: NDArray, axis: int) -> torch.Tensor:
    """The image as read from positions that change at ``times`` (0 to 1, rising) of the way through k-space.

    Args:
        matrices: where each position but the image's own reads the image, see ``Motion``; one a time.
    """
    size = channel.shape[axis]
    bounds = [0, *(round(t * size) for t in times), size]
    middle = next(i for i, end in enumerate(bounds[1:]) if size // 2 < end)
    images = [repositioned(channel, matrix) for matrix in matrices]
    images.insert(middle, channel)
    spectrum = torch.zeros(channel.shape, dtype=torch.complex64, device=channel.device)
    for image, first, last in zip(images, bounds, bounds[1:], strict=False):
        lines = torch.fft.fftshift(torch.fft.fft(image, dim=axis), dim=axis)
        spectrum.narrow(axis, first, last - first).copy_(lines.narrow(axis, first, last - first))
    return torch.fft.ifft(torch.fft.ifftshift(spectrum, dim=axis), dim=axis).real


def spiked(channel: torch.Tensor, frequency: Sequence[int], *, intensity: float) -> torch.Tensor:
    """With ``intensity`` times the largest value of k-space added at ``frequency`` (periods along each axis)."""
    height = intensity * torch.fft.rfftn(channel).abs().max() / channel.numel()
    phase = torch.zeros((), dtype=channel.dtype, device=channel.device)
    for axis, (periods, size) in enumerate(zip(frequency, channel.shape, strict=True)):
        turns = torch.arange(size, dtype=channel.dtype, device=channel.device) * (2 * math.pi * periods / size)
        phase = phase + _along(turns, axis, channel.ndim)
    return channel + height * phase.cos()


def repositioned(channel: torch.Tensor, matrix: NDArray) -> torch.Tensor:
    """Read linearly at ``matrix`` @ (place, 1), places in voxels from the middle; outside is the smallest value."""
    # affine_grid counts axes from the last, and places from -1 to 1 between the outer faces.
    half = np.array(channel.shape) / 2
    relative = np.column_stack([matrix[:, :-1] * half / half[:, None], matrix[:, -1] / half])
    reverse = relative[::-1, [*range(channel.ndim - 1, -1, -1), channel.ndim]].copy()
    theta = torch.as_tensor(reverse, dtype=channel.dtype, device=channel.device)
    grid = functional.affine_grid(theta[None], [1, 1, *channel.shape], align_corners=False)
    low = channel.min()
    return functional.grid_sample((channel - low)[None, None], grid, align_corners=False)[0, 0] + low


def _encoding_axis(channel: torch.Tensor, random: np.random.Generator) -> int:
    """Any axis but the one along which slices are few."""
    thin = thin_axes(channel.shape)
    return int(random.choice([axis for axis in range(channel.ndim) if axis not in thin]))


def _along(values: torch.Tensor, axis: int, dimensions: int) -> torch.Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(dimensions)])
