"""Transforms of images whose channels are different quantities, each in its own unit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg3d.errors import CaseError, UsageError

__all__ = ["ScaleChannelsd"]


class ScaleChannelsd(MapTransform):
    """Bring a range of values of each channel linearly to −1 … 1, and clip what lies outside.

    For quantities whose numbers mean the same in every patient, as Hounsfield units and SUV do. Statistics of the
    image, as a z-score takes them, would make a value depend on how much of the tumour is in the picture.

    A channel that is 0 everywhere, as one is that a case lacks, becomes −1 everywhere, whatever its range.

    Args:
        keys: images of shape (channel, i, j, k).
        ranges: (lowest, highest) value of each channel, in the channel's own unit.

    Raises:
        UsageError: a range that is empty or upside down.
        CaseError: an image with another number of channels.

    >>> image = torch.tensor([-160.0, 40.0, 5.0]).reshape(1, 1, 1, 3).repeat(2, 1, 1, 1)
    >>> ScaleChannelsd("image", [(-160, 240), (0, 10)])({"image": image})["image"].flatten().tolist()
    [-1.0, 0.0, -0.17500001192092896, -1.0, 1.0, 0.0]
    """

    def __init__(
        self, keys: KeysCollection, ranges: Sequence[Sequence[float]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ranges = [(float(low), float(high)) for low, high in ranges]
        for low, high in self.ranges:
            if not low < high:
                raise UsageError(f"The range {low:g} to {high:g} of a channel is empty: give (lowest, highest).")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._scaled(sample[key])
        return sample

    def _scaled(self, image: torch.Tensor) -> torch.Tensor:
        if len(image) != len(self.ranges):
            raise CaseError(f"The image has {len(image)} channel(s), ranges are given for {len(self.ranges)}. Give one "
                            "file a channel, or the channels that the images have.")  # fmt: skip
        low, high = (image.new_tensor(bounds).reshape(-1, 1, 1, 1) for bounds in zip(*self.ranges, strict=True))
        scaled = ((image - low) / (high - low) * 2 - 1).clamp(-1, 1)
        scaled[[not bool(channel.any()) for channel in image]] = -1
        return scaled
