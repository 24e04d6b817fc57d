"""Images, masks and boxes at one size, and predictions back at theirs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg3d.transforms2d.values import value_range_of, with_values

__all__ = ["Resize2Dd", "to_original_boxes", "to_original_size"]


class Resize2Dd(MapTransform):
    """Bring images, masks and boxes to one size.

    Images are interpolated linearly, and averaged where they shrink, so that fine structures do not alias; masks by
    nearest neighbour alone. The image's ``meta`` remembers where it lies in the result, so that ``to_original_size``
    and ``to_original_boxes`` bring predictions back.

    Args:
        keys: images and masks.
        size: rows and columns of the result, or one number for both.
        mask_keys: those among ``keys`` that are masks.
        boxes_key: entry with boxes, xyxy in pixels of the image.
        keep_aspect: scale both axes alike and fill the rest, with the least value that the image can have; the image
            stays undistorted, at the top left. Otherwise each axis is scaled to fit.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int],
        mask_keys: KeysCollection = ("label",),
        boxes_key: str | None = None,
        *,
        keep_aspect: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.mask_keys = (mask_keys,) if isinstance(mask_keys, str) else tuple(mask_keys)
        self.boxes_key, self.keep_aspect = boxes_key, keep_aspect

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        before: Sequence[int] = self.size
        for key in self.key_iterator(sample):
            before = sample[key].shape[-2:]
            sample[key] = self._resized(sample[key], nearest=key in self.mask_keys)
        if self.boxes_key is not None and self.boxes_key in sample:
            rows, columns = self._inner(before)
            scale = np.array([columns / before[1], rows / before[0]] * 2, np.float32)
            boxes = sample[self.boxes_key]
            sample[self.boxes_key] = boxes * (torch.from_numpy(scale) if isinstance(boxes, torch.Tensor) else scale)
        return sample

    def _inner(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that the image itself has in the result."""
        if not self.keep_aspect:
            return self.size
        scale = min(self.size[0] / size[0], self.size[1] / size[1])
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _resized(self, image: torch.Tensor, *, nearest: bool) -> torch.Tensor:
        from torchvision.transforms.v2 import InterpolationMode, functional

        pixels = torch.as_tensor(image).as_subclass(torch.Tensor)
        inner = self._inner(pixels.shape[-2:])
        mode = InterpolationMode.NEAREST_EXACT if nearest else InterpolationMode.BILINEAR
        resized = functional.resize(pixels, list(inner), interpolation=mode, antialias=not nearest)
        rest = [0, self.size[1] - inner[1], 0, self.size[0] - inner[0]]
        if nearest:
            return torch.nn.functional.pad(resized, rest)
        low = value_range_of(image)[0][:, None, None]
        padded = torch.nn.functional.pad(resized - low, rest) + low
        changed = with_values(image, padded, value_range_of(image))
        changed.meta["inner_size"] = torch.tensor(inner)
        changed.meta.setdefault("original_size", torch.tensor(pixels.shape[-2:]))
        return changed


def to_original_size(
    prediction: torch.Tensor, original_size: Sequence[int], inner_size: Sequence[int], *, nearest: bool = True
) -> torch.Tensor:
    """A prediction (channel, row, column) for an image from ``Resize2Dd``, at the size that the image came in.

    Args:
        original_size, inner_size: from the image's ``meta``.
        nearest: for label ids; probabilities are interpolated linearly.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    rows, columns = (int(n) for n in inner_size)
    mode = InterpolationMode.NEAREST_EXACT if nearest else InterpolationMode.BILINEAR
    size = [int(n) for n in original_size]
    return functional.resize(prediction[..., :rows, :columns], size, interpolation=mode, antialias=False)


def to_original_boxes(xyxy: torch.Tensor, original_size: Sequence[int], inner_size: Sequence[int]) -> torch.Tensor:
    """Boxes (n, 4) found in an image from ``Resize2Dd``, in pixels of the image as it came in, cut to it."""
    rows, columns = (float(n) for n in original_size)
    scale = torch.tensor([columns / float(inner_size[1]), rows / float(inner_size[0])] * 2, dtype=xyxy.dtype)
    limit = torch.tensor([columns, rows] * 2, dtype=xyxy.dtype, device=xyxy.device)
    return torch.minimum((xyxy * scale.to(xyxy.device)).clamp(min=0), limit)
