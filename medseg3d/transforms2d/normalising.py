"""From a file's values to those that a network wants."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import UsageError
from medseg3d.transforms2d.values import value_range_of, with_values

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "NormalizeImaged"]

# Of ImageNet's training images, scaled to 0..1: what torchvision's and timm's weights were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


ROUNDING = 2.5e-7  # of float32 values after resampling, relative to the greatest


class NormalizeImaged(MapTransform):
    """Bring images to the values that a network wants.

    - ``"range"``: 0 to 1 over what the file's format can hold.
    - ``"imagenet"``: that, less ImageNet's mean and over its standard deviation (their averages for one channel).
    - ``"image"``: mean 0 and standard deviation 1 over all pixels and channels of the image.
    - ``"percentile"``: 0 to 1 between two percentiles of the image, clipped: for 16-bit and MRI, whose range says
      little.

    They may follow each other: ``"percentile"`` and then ``"imagenet"``. A constant image becomes 0.

    Args:
        keys: images of shape (channel, row, column).
        mode: see above.
        percentiles: for ``"percentile"``.
        mean, std: replace ImageNet's, one a channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: Literal["range", "imagenet", "image", "percentile"] = "imagenet",
        *,
        percentiles: Sequence[float] = (0.5, 99.5),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mode not in ("range", "imagenet", "image", "percentile"):
            raise UsageError(f"mode is {mode!r}; known are range, imagenet, image and percentile.")
        self.mode, self.percentiles, self.mean, self.std = mode, tuple(percentiles), mean, std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._normalised(sample[key])
        return sample

    def _normalised(self, image: torch.Tensor) -> MetaTensor:
        pixels = torch.as_tensor(image).as_subclass(torch.Tensor).float()
        value_range = value_range_of(image)
        clip = self.mode == "percentile"
        offset, scale = self._offset_and_scale(pixels, value_range)
        # What resizing leaves of a constant image's values differs by rounding, which must not be blown up.
        scale = torch.where(scale > ROUNDING * pixels.abs().max(), scale, 1.0)
        offset, scale = offset.reshape(-1, 1, 1), scale.reshape(-1, 1, 1)
        changed, low_high = (pixels - offset) / scale, (value_range - offset[:, 0, 0]) / scale[:, 0, 0]
        if clip:
            changed, low_high = changed.clamp(0, 1), low_high.clamp(0, 1)
            low_high = torch.stack([torch.zeros_like(low_high[0]), torch.ones_like(low_high[1])])
        return with_values(image, changed, low_high)

    def _offset_and_scale(self, pixels: torch.Tensor, value_range: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        channels = len(pixels)
        if self.mode == "image":
            return pixels.mean().repeat(channels), pixels.std(correction=0).repeat(channels)
        if self.mode == "percentile":
            low, high = np.percentile(pixels.numpy(), self.percentiles)
            return torch.tensor([float(low)] * channels), torch.tensor([float(high - low)] * channels)
        low, span = value_range[0], value_range[1] - value_range[0]
        if self.mode == "range":
            return low, span
        mean = _a_channel(self.mean or IMAGENET_MEAN, channels, "mean")
        std = _a_channel(self.std or IMAGENET_STD, channels, "std")
        return low + mean * span, std * span


def _a_channel(values: Sequence[float], channels: int, name: str) -> torch.Tensor:
    if channels == 1 and len(values) == 3:
        return torch.tensor([sum(values) / 3])
    if len(values) != channels:
        raise UsageError(f"{name} has {len(values)} values, the image {channels} channels: give one a channel.")
    return torch.tensor(values)
