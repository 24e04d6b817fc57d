"""On which grid to train: the target spacing, the size of images on it, and a coarser one for large images.

Source: Isensee et al. 2021, nnU-Net, and ``ExperimentPlanner`` of nnunetv2 2.8.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.topology import Topology

__all__ = [
    "ANISOTROPY", "LOWRES_BELOW", "Grid", "coarse_axis", "low_resolution", "planning_order", "target_grid"
]  # fmt: skip

ANISOTROPY = 3.0
"""From this ratio on between the coarsest axis and the next one, images count as anisotropic."""

FINE_PERCENTILE = 10
"""Percentile of the spacings along the coarse axis of anisotropic images."""

LOWRES_BELOW = 0.25
"""A patch that covers less of the median image sees too little of what is around it."""

LOWRES_STEP = 1.03
SIMILAR_SPACINGS = 2.0
LOWRES_LEAST_GAIN = 2.0
"""A coarser grid must hold at most half of the voxels to be worth a training of its own."""


@dataclass(frozen=True)
class Grid:
    """A spacing, and how large the data set's median image is on it.

    Attributes:
        spacing_mm: left-right, back-front, foot-head.
        median_shape: voxels; halves are possible.
        reason: why this spacing.
    """

    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    reason: str

    @property
    def voxels(self) -> float:
        return math.prod(self.median_shape)


def target_grid(fingerprint: Fingerprint) -> Grid:
    """The median spacing of every axis; along the coarse axis of anisotropic images, a fine one.

    Where one axis is more than three times as coarse as the others and has less than a third of their voxels, the
    median would blur the finer scans along it: the 10th percentile is taken, but never finer than the other axes.
    """
    spacings, shapes = fingerprint.spacings_mm, fingerprint.cropped_shapes
    target, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    coarse = coarse_axis(target)
    others = [axis for axis in range(3) if axis != coarse]
    next_spacing = float(target[others].max())
    reason = f"the median of {len(spacings)} cases along each axis"
    if target[coarse] > ANISOTROPY * next_spacing and size[coarse] * ANISOTROPY < size[others].min():
        fine = float(np.percentile(spacings[:, coarse], FINE_PERCENTILE))
        name = ("left-right", "back-front", "foot-head")[coarse]
        reason = (
            f"{reason}, but the {FINE_PERCENTILE}th percentile {name} (median {target[coarse]:.4g} mm): that axis is "
            f"more than {ANISOTROPY:g} times as coarse as the others and has less than a third of their voxels"
        )
        # nnU-Net's margin keeps this axis the coarsest, which decides where ties are broken.
        target[coarse] = max(fine, next_spacing + 1e-5) if fine < next_spacing else fine
    spacing = tuple(round(float(mm), 5) for mm in target)
    resampled = [
        [round(mm / to * n) for mm, to, n in zip(case, spacing, shape, strict=True)]
        for case, shape in zip(spacings.tolist(), shapes.tolist(), strict=True)
    ]
    return Grid(spacing, tuple(float(n) for n in np.median(resampled, axis=0)), f"{reason}.")


def coarse_axis(spacing_mm: Sequence[float]) -> int:
    """The axis with the largest spacing; of equal ones the last, so that slices of cubes are axial."""
    return max(range(len(spacing_mm)), key=lambda axis: (spacing_mm[axis], axis))


def planning_order(spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Axes as nnU-Net holds them: the coarsest first, the others from foot-head to left-right. It decides ties."""
    coarse = coarse_axis(spacing_mm)
    return (coarse, *(axis for axis in (2, 1, 0) if axis != coarse))


def low_resolution(grid: Grid, patch_of: Callable[[Grid], Topology]) -> tuple[Grid, Topology] | None:
    """The finest coarser grid on which a patch covers a quarter of the median image; None where none is needed.

    Axes that are at least half as fine as the coarsest grow first, 3 % a step, then all. A grid with more than half of
    the voxels is not worth it.

    Args:
        grid: at full resolution.
        patch_of: patch and network for a grid.
    """
    if math.prod(patch_of(grid).patch_size) / grid.voxels >= LOWRES_BELOW:
        return None
    for coarser in _coarser(grid):
        found = patch_of(coarser)
        if math.prod(found.patch_size) / _exact_voxels(grid, coarser) >= LOWRES_BELOW:
            return (coarser, found) if grid.voxels / _exact_voxels(grid, coarser) >= LOWRES_LEAST_GAIN else None
    return None


def _coarser(grid: Grid) -> Iterator[Grid]:
    spacing = list(grid.spacing_mm)
    while True:
        coarsest = max(spacing)
        lagging = [coarsest / mm > SIMILAR_SPACINGS for mm in spacing]
        spacing = [
            mm * LOWRES_STEP if not any(lagging) or lags else mm for mm, lags in zip(spacing, lagging, strict=True)
        ]
        shape = tuple(
            float(round(n * fine / mm)) for n, fine, mm in zip(grid.median_shape, grid.spacing_mm, spacing, strict=True)
        )
        yield Grid(tuple(round(mm, 5) for mm in spacing), shape, "")


def _exact_voxels(grid: Grid, coarser: Grid) -> float:
    return grid.voxels * math.prod(grid.spacing_mm) / math.prod(coarser.spacing_mm)
