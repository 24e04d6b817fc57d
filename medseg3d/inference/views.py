"""Test-time augmentation of classifiers: the images that each image is also shown as."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from medseg3d.errors import UsageError

__all__ = ["View", "views_of"]

View = Callable[[torch.Tensor], torch.Tensor]
# Scale, and shift to the right and down as shares of the size: what training's augmentation does, in small steps.
STEPS = ((1.0, 0.0, 0.0), (0.94, 0.0, 0.0), (1.0, 0.04, 0.0), (1.0, -0.04, 0.0), (1.0, 0.0, 0.04), (1.0, 0.0, -0.04))


def views_of(number: int, *, flips: bool = False) -> tuple[View, ...]:
    """The first ``number`` views: the image, a closer look, shifts to four sides; each also mirrored with ``flips``.

    Args:
        flips: left and right may be exchanged, as in training.

    Raises:
        UsageError: fewer than 1 or more than there are.

    >>> [tuple(view(torch.zeros(2, 1, 8, 8)).shape) for view in views_of(2)]
    [(2, 1, 8, 8), (2, 1, 8, 8)]
    """
    steps = [(step, mirror) for step in STEPS for mirror in ((False, True) if flips else (False,))]
    if not 1 <= number <= len(steps):
        raise UsageError(f"views is {number}; there are 1 (the image alone) to {len(steps)}.")
    return tuple(_view(*step, mirror=mirror) for step, mirror in steps[:number])


def _view(scale: float, right: float, down: float, *, mirror: bool) -> View:
    moves = (scale, right, down) != (1.0, 0.0, 0.0)

    def view(images: torch.Tensor) -> torch.Tensor:
        shown = images.flip(-1) if mirror else images
        if not moves:
            return shown
        matrix = torch.tensor([[scale, 0, -2 * right], [0, scale, -2 * down]], dtype=images.dtype, device=images.device)
        grid = functional.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return functional.grid_sample(shown, grid, padding_mode="border", align_corners=False)

    return view
