"""Patch and shape of a U-Net, by nnU-Net's rules.

Source: Isensee et al. 2021, nnU-Net (Nature Methods 18), and ``get_pool_and_conv_props`` of nnunetv2 2.8.1. Axes are
handled in the order they are given in, in which ties are broken too: the last of equal axes is shrunk first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medseg3d.errors import UsageError

__all__ = ["Topology", "fit_patch", "initial_patch", "topology"]

MIN_EDGE = 4
"""No axis is halved below this many voxels."""

MIN_STAGES = 3
"""MONAI's DynUNet has at least an input block, one stage and the bottleneck."""

INITIAL_VOXELS = {3: 256**3, 2: 2048**2}
"""Volume of the patch that shrinking starts from."""

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Patch, strides and kernels of a U-Net, stage by stage from full resolution to the bottleneck.

    Attributes:
        patch_size: voxels along each axis, divisible by the product of the strides.
        strides: by what each stage reduces each axis; the first is 1 everywhere.
        kernels: size of each stage's convolutions along each axis.
    """

    patch_size: Ints
    strides: tuple[Ints, ...]
    kernels: tuple[Ints, ...]

    @property
    def stages(self) -> int:
        return len(self.strides)

    @property
    def divisor(self) -> Ints:
        """By what each axis of a patch must be divisible."""
        return tuple(math.prod(column) for column in zip(*self.strides, strict=True))

    def filters(self, *, base: int = 32) -> Ints:
        """Channels of each stage: doubled from stage to stage, up to 320 in 3D and 512 in 2D."""
        most = 320 if len(self.patch_size) == 3 else 512
        return tuple(min(base * 2**stage, most) for stage in range(self.stages))

    def reordered(self, order: Sequence[int]) -> Topology:
        """With axis ``order[0]`` first, and so on."""

        def pick(values: Ints) -> Ints:
            return tuple(values[axis] for axis in order)

        return Topology(pick(self.patch_size), tuple(map(pick, self.strides)), tuple(map(pick, self.kernels)))

    def with_stages(self, least: int) -> Topology:
        """With further stages before the bottleneck that keep the resolution, where there are fewer than ``least``."""
        missing = max(least - self.stages, 0)
        ones, kernel = (1,) * len(self.patch_size), self.kernels[-1]
        return replace(self, strides=self.strides + (ones,) * missing, kernels=self.kernels + (kernel,) * missing)


def topology(spacing_mm: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Strides and kernels for a patch, which is rounded up to what they divide.

    An axis is halved while it has at least twice ``MIN_EDGE`` voxels (three times, when it is alone), and only while
    its spacing is less than twice the finest of the others: thick slices are left alone until the plane is as coarse.
    Kernels are 1 along an axis until then, 3 from there on.

    >>> topology((1, 1, 1), (40, 56, 40)).strides
    ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    >>> topology((5, 1, 1), (16, 64, 64)).kernels[:3]
    ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    """
    axes = range(len(patch_size))
    spacing, size = list(spacing_mm), list(patch_size)
    kernel = [1] * len(size)
    strides, kernels = [tuple(kernel)], []
    while True:
        halved = _axes_to_halve(spacing, size)
        if not halved:
            break
        # A kernel that has become 3 stays 3.
        kernel = [3 if k == 3 or mm / min(spacing) < 2 else 1 for k, mm in zip(kernel, spacing, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        spacing = [mm * stride for mm, stride in zip(spacing, strides[-1], strict=True)]
        size = [math.ceil(n / stride) for n, stride in zip(size, strides[-1], strict=True)]
    kernels.append((3,) * len(size))  # the bottleneck
    divisor = [math.prod(column) for column in zip(*strides, strict=True)]
    padded = tuple(math.ceil(n / step) * step for n, step in zip(patch_size, divisor, strict=True))
    return Topology(padded, tuple(strides), tuple(kernels))


def _axes_to_halve(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    large = [axis for axis, n in enumerate(size) if n >= 2 * MIN_EDGE]
    finest = min((spacing[axis] for axis in large), default=0.0)
    near = [axis for axis in large if spacing[axis] / finest < 2]
    return [] if len(near) == 1 and size[near[0]] < 3 * MIN_EDGE else near


def initial_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """A cube in mm of 256³ voxels (a square of 2048²), cut down to the median image, which may lie between two sizes.

    >>> initial_patch((1.0, 1.0, 1.0), (35.5, 50, 36))
    (35.5, 50, 36)
    """
    per_mm = [1 / mm for mm in spacing_mm]
    scale = (INITIAL_VOXELS[len(per_mm)] / math.prod(per_mm)) ** (1 / len(per_mm))
    return tuple(min(round(n * scale), median) for n, median in zip(per_mm, median_shape, strict=True))


def fit_patch(
    spacing_mm: Sequence[float], median_shape: Sequence[float], *, fits: Callable[[Topology], bool]
) -> Topology:
    """The first patch that fits, shrinking the axis that covers most of the median image, one step after another.

    Args:
        spacing_mm: of the images that the network sees.
        median_shape: of these images, in voxels.
        fits: whether a patch with its network fits into the memory.

    Raises:
        UsageError: not even the smallest patch fits.
    """
    found = topology(spacing_mm, initial_patch(spacing_mm, median_shape))
    while not fits(found):
        found = _shrunk(found, spacing_mm, median_shape)
    return found


def _shrunk(found: Topology, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Topology:
    covered = [n / median for n, median in zip(found.patch_size, median_shape, strict=True)]
    for axis in sorted(range(len(covered)), key=lambda axis: (covered[axis], axis), reverse=True):
        # One step of the present divisor may skip sizes that a shallower network allows: 256 - 64 = 192, but 224 is
        # a size too. So the step is that of the network which the smaller patch would have.
        smaller = list(found.patch_size)
        smaller[axis] -= found.divisor[axis]
        if smaller[axis] < MIN_EDGE:
            continue
        step = topology(spacing_mm, smaller).divisor[axis]
        patch = list(found.patch_size)
        patch[axis] -= step
        return topology(spacing_mm, patch)
    raise UsageError(
        f"Not even a patch of {'×'.join(map(str, found.patch_size))} voxels fits into the memory: "
        "give more with --memory."
    )
