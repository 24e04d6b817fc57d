"""Hide the border of images, where markers, collimation and scanner frames give answers away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg3d.errors import UsageError
from medseg3d.transforms2d.values import with_values

__all__ = ["MaskBorderd"]


class MaskBorderd(MapTransform):
    """Fill the border of images with the mean of what lies inside, channel by channel.

    A classifier that is as good without the border does not live on it; one that falls does.

    Args:
        keys: images of shape (channel, row, column).
        share: of the rows at the top and at the bottom each, and of the columns at either side; 0 hides nothing.

    Raises:
        UsageError: ``share`` is below 0, or leaves nothing.

    >>> MaskBorderd("image", 0.25)({"image": torch.arange(16.0).reshape(1, 4, 4)})["image"][0, 0].tolist()
    [7.5, 7.5, 7.5, 7.5]
    """

    def __init__(self, keys: KeysCollection, share: float = 0.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= share < 0.5:
            raise UsageError(f"border is {share:g}; it is a share of the image from 0 to below 0.5.")
        self.share = share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        if self.share:
            for key in self.key_iterator(sample):
                sample[key] = self._masked(sample[key])
        return sample

    def _masked(self, image: torch.Tensor) -> torch.Tensor:
        pixels = torch.as_tensor(image).as_subclass(torch.Tensor)
        rows, columns = (round(self.share * n) for n in pixels.shape[1:])
        inside = (slice(None), slice(rows, pixels.shape[1] - rows), slice(columns, pixels.shape[2] - columns))
        masked = pixels[inside].mean(dim=(1, 2), keepdim=True).expand_as(pixels).clone()
        masked[inside] = pixels[inside]
        return with_values(image, masked)
