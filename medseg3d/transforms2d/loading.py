"""Images and masks from files as tensors."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.errors import CaseError, UsageError
from medseg3d.images import Image2D, read_image, read_mask

__all__ = ["LoadImage2Dd"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV turn colours into grey


class LoadImage2Dd(MapTransform):
    """Load images and masks, and refuse what does not fit together.

    An image's path becomes a float32 ``MetaTensor`` (channel, row, column) of the file's own values, with
    ``value_range`` (2, channel), ``spacing_mm`` (NaN where unknown), ``original_size``, ``filename_or_obj`` and, where
    one was asked for, ``window`` in its ``meta``. A mask's path becomes a uint8 tensor (1, row, column) of label ids
    (int64 where they exceed 255), and a list of paths, one a label, a uint8 tensor (labels, row, column) of zeros and
    ones.

    Args:
        keys: entries to load.
        mask_keys: those among ``keys`` that are masks.
        channels: 1, colours become grey; or 3, grey is repeated, as pretrained backbones want it.
        labels: name → id; a mask with another id is refused. None takes any.
        ignore_index: an id in masks beside the labels that means "not labelled".
        window: for DICOM and NIfTI, see ``medseg3d.images.read_image``.
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
        self.window = window

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
        image = read_image(path, window=self.window)
        pixels = _channels_first(image, self.channels)
        low, high = image.value_range
        meta = {
            "filename_or_obj": str(path),
            "original_size": torch.tensor(image.size),
            "spacing_mm": torch.tensor(image.spacing_mm or (float("nan"),) * 2),
            "value_range": torch.tensor([[low], [high]]).repeat(1, self.channels),
        }
        if self.window is not None:
            meta["window"] = self.window if isinstance(self.window, str) else [float(n) for n in self.window]
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
