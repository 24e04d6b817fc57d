"""Patches of 2D images, for training on images of different sizes or too large for memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from medseg3d.errors import UsageError
from medseg3d.transforms2d.values import value_range_of, with_values

__all__ = ["RandPatch2Dd"]


class RandPatch2Dd(Randomizable, MapTransform):
    """Cut one patch out of an image and its mask; smaller images are filled up below and to the right.

    With probability ``foreground_prob`` the patch lies around a pixel of one of the labels that the mask has, each
    label being as likely as the others, so that a rare one is seen as often as a common one; else anywhere.

    Args:
        image_key: (channel, row, column).
        mask_key: (1 or labels, row, column), of the same rows and columns.
        size: rows and columns of the patch.
        foreground_prob: 0 to 1.
        ignore_index: an id that is no label.
        image_fill: beyond the image; with 0 after normalising, what a sliding window fills small images up with.
        mask_fill: normally 0, the background, or ``ignore_index``.

    Raises:
        UsageError: a size below 1, or a probability outside 0 to 1.
    """

    def __init__(
        self,
        image_key: str = "image",
        mask_key: str = "label",
        *,
        size: Sequence[int],
        foreground_prob: float = 0.5,
        ignore_index: int | None = None,
        image_fill: float = 0.0,
        mask_fill: int = 0,
    ) -> None:
        MapTransform.__init__(self, [image_key, mask_key])
        if len(size) != 2 or min(size) < 1:
            raise UsageError(f"A patch of {list(size)} is not possible: give rows and columns, each 1 or more.")
        if not 0 <= foreground_prob <= 1:
            raise UsageError(f"foreground_prob is {foreground_prob}: a probability is from 0 to 1.")
        self.image_key, self.mask_key = image_key, mask_key
        self.size = (int(size[0]), int(size[1]))
        self.foreground_prob, self.ignore_index = foreground_prob, ignore_index
        self.image_fill, self.mask_fill = image_fill, mask_fill
        self.start = (0, 0)

    def randomize(self, data: torch.Tensor) -> None:
        """Choose where the patch begins in a mask of the image's size."""
        room = [max(0, int(n) - size) for n, size in zip(data.shape[-2:], self.size, strict=True)]
        anywhere = [int(self.R.randint(n + 1)) for n in room]
        around = self._labelled_pixel(data) if self.R.rand() < self.foreground_prob else None
        if around is not None:
            # The pixel is anywhere in the patch, not always in its middle.
            begin = [pixel - int(self.R.randint(size)) for pixel, size in zip(around, self.size, strict=True)]
            anywhere = [min(max(0, n), most) for n, most in zip(begin, room, strict=True)]
        self.start = (anywhere[0], anywhere[1])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        image, mask = sample[self.image_key], torch.as_tensor(sample[self.mask_key]).as_subclass(torch.Tensor)
        self.randomize(mask)
        pixels = self._cut(torch.as_tensor(image).as_subclass(torch.Tensor))
        sample[self.image_key] = with_values(image, self._filled(pixels, self.image_fill), value_range_of(image))
        sample[self.mask_key] = self._filled(self._cut(mask), self.mask_fill)
        return sample

    def _labelled_pixel(self, mask: torch.Tensor) -> tuple[int, int] | None:
        labelled = mask.numpy()
        if len(labelled) == 1:
            ids = [i for i in np.unique(labelled).tolist() if i not in (0, self.ignore_index)]
            candidates = [labelled[0] == i for i in ids]
        else:
            candidates = [channel > 0 for channel in labelled if channel.any()]
        if not candidates:
            return None
        pixels = np.flatnonzero(candidates[self.R.randint(len(candidates))])
        row, column = np.unravel_index(pixels[self.R.randint(len(pixels))], labelled.shape[-2:])
        return int(row), int(column)

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        (top, left), (rows, columns) = self.start, self.size
        return pixels[..., top : top + rows, left : left + columns]

    def _filled(self, pixels: torch.Tensor, value: float) -> torch.Tensor:
        below, right = self.size[0] - pixels.shape[-2], self.size[1] - pixels.shape[-1]
        return torch.nn.functional.pad(pixels, [0, right, 0, below], value=value).contiguous()
