"""Transforms of 2D images, in MONAI's dictionary style: loading, normalising, resizing, augmentation.

Images are float32 tensors (channel, row, column), masks integer tensors (1 or one a label, row, column), boxes float32
(n, 4): left, top, right, bottom in pixels. Random geometry is one for all of them. An image carries its ``value_range``
(least and greatest value, one column a channel) in its ``meta``, so that normalising and augmentation may come in any
order.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import CaseError, UsageError
from medseg3d.images import Image2D, read_image, read_mask

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "LoadImage2Dd", "NormalizeImaged"]

# Of ImageNet's training images, scaled to 0..1: what torchvision's and timm's weights were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV turn colours into grey


class LoadImage2Dd(MapTransform):
    """Load images and masks, and refuse what does not fit together.

    An image's path becomes a float32 ``MetaTensor`` (channel, row, column) of the file's own values, with
    ``value_range`` (2, channel), ``spacing_mm`` (NaN where unknown), ``original_size`` and ``filename_or_obj`` in its
    ``meta``. A mask's path becomes a uint8 tensor (1, row, column) of label ids (int64 where they exceed 255), and a
    list of paths, one a label, a uint8 tensor (labels, row, column) of zeros and ones.

    Args:
        keys: entries to load.
        mask_keys: those among ``keys`` that are masks.
        channels: 1, colours become grey; or 3, grey is repeated, as pretrained backbones want it.
        labels: name → id; a mask with another id is refused. None takes any.
        ignore_index: an id in masks beside the labels that means "not labelled".
        window: for DICOM, see ``medseg3d.images.read_image``.
        allow_missing_keys: leave out keys that a sample lacks, as inference has no masks.

    Raises:
        CaseError: what ``read_image`` and ``read_mask`` refuse, and a mask of another size than its image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_keys: KeysCollection = ("label",),
        channels: int = 3,
        labels: Mapping[str, int] | None = None,
        ignore_index: int | None = None,
        window: Sequence[float] | str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}: 1 (grey) and 3 (colours, or grey repeated) are possible.")
        self.mask_keys = (mask_keys,) if isinstance(mask_keys, str) else tuple(mask_keys)
        self.channels, self.labels, self.ignore_index = channels, labels, ignore_index
        self.window = tuple(window) if isinstance(window, list) else window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        size: tuple[int, int] | None = None
        for key in self.key_iterator(sample):
            is_mask = key in self.mask_keys
            loaded = self._mask(sample[key]) if is_mask else self._image(sample[key])
            if size is not None and tuple(loaded.shape[1:]) != size:
                raise CaseError(
                    f"{data[key]} has {_by(loaded.shape[1:])} pixels, {data[self.first_key(sample)]} {_by(size)}: "
                    "export the mask again at the size of the image."
                )
            size = size or tuple(loaded.shape[1:])
            sample[key] = loaded
        return sample

    def _image(self, path: Any) -> MetaTensor:
        image = read_image(path, window=self.window)  # type: ignore[arg-type]
        pixels = _channels_first(image, self.channels)
        low, high = image.value_range
        meta = {
            "filename_or_obj": str(path),
            "original_size": torch.tensor(image.size),
            "spacing_mm": torch.tensor(image.spacing_mm or (float("nan"),) * 2),
            "value_range": torch.tensor([[low], [high]]).repeat(1, self.channels),
        }
        return MetaTensor(torch.from_numpy(pixels), meta=meta)

    def _mask(self, path: Any) -> torch.Tensor:
        if isinstance(path, list | tuple):
            masks = [read_mask(one, ids=(1,)).pixels for one in path]
            if len({mask.shape for mask in masks}) > 1:
                raise CaseError(f"The masks of one image have different sizes: {', '.join(map(str, path))}.")
            return torch.from_numpy(np.stack(masks).astype(np.uint8))
        ids: Collection[int] | None = None if self.labels is None else self.labels.values()
        pixels = read_mask(path, ids=ids, ignore=self.ignore_index).pixels
        return torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.int64))[None]


def _channels_first(image: Image2D, channels: int) -> np.ndarray:
    pixels = image.pixels.astype(np.float32)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    if channels == 3:
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return (pixels @ np.asarray(LUMA, np.float32))[None]


def _by(size: Sequence[int]) -> str:
    return "×".join(str(int(n)) for n in size)


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
        offset, scale = offset.reshape(-1, 1, 1), torch.where(scale > 0, scale, 1.0).reshape(-1, 1, 1)
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


def value_range_of(image: torch.Tensor) -> torch.Tensor:
    """Least and greatest value (2, channel) that an image can have: what it carries, or else its own."""
    carried = getattr(image, "meta", {}).get("value_range")
    if carried is not None:
        return torch.as_tensor(carried, dtype=torch.float32)
    flat = torch.as_tensor(image).as_subclass(torch.Tensor).float().flatten(1)
    return torch.stack([flat.min().repeat(len(flat)), flat.max().repeat(len(flat))])


def with_values(image: torch.Tensor, pixels: torch.Tensor, value_range: torch.Tensor | None = None) -> MetaTensor:
    """``pixels`` with the ``meta`` of ``image``, and another value range where one is given."""
    meta = dict(getattr(image, "meta", {}))
    if value_range is not None:
        meta["value_range"] = value_range
    return MetaTensor(pixels.as_subclass(torch.Tensor), meta=meta)
