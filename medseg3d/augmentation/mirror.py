"""Mirroring of image and label together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medseg3d.errors import UsageError

__all__ = ["Mirror"]


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Mirror image and label along each of ``axes`` with probability ``prob``.

    For data sets that do not read their patches with ``RandSpatialPatchd``, which mirrors itself.

    Attributes:
        axes: of space, counted from 0; only those that no label tells the sides of.
    """

    axes: Sequence[int]
    prob: float = 0.5

    def __post_init__(self) -> None:
        if not set(self.axes) <= {0, 1, 2}:
            raise UsageError(f"Mirror: axes is {list(self.axes)}; a volume has the axes 0, 1 and 2.")

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dims = [axis + 1 for axis in self.axes if random.random() < self.prob]
        return (image.flip(dims), label.flip(dims)) if dims else (image, label)
