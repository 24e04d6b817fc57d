"""Intensities to what networks like: each channel by its own rule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg3d.errors import CaseError, UsageError

__all__ = ["NormalizeChannelsd"]

SMALLEST_SD = 1e-8
"""A constant image has no spread: it becomes 0 everywhere."""

_FIXED, _OWN = {"clip", "mean", "sd"}, {"nonzero"}


class NormalizeChannelsd(MapTransform):
    """Normalise each channel of an image by fixed values, or by its own mean and standard deviation.

    CT is measured in Hounsfield units, which mean the same in every scan: its channel is clipped and shifted by values
    of the whole data set. MRI and PET have no such scale: each image is shifted by its own mean. With one rule a
    channel, CT and PET go into one network.

    Args:
        keys: images of shape (channel, i, j, k).
        channels: a rule a channel, in order: ``{"clip": [low, high], "mean": m, "sd": s}`` of the data set, where the
            clip may be left out; ``{"nonzero": false}`` for the image's own mean and standard deviation, or
            ``{"nonzero": true}`` for those of the voxels that are not 0 in every channel, which alone are changed.

    Raises:
        UsageError: a rule that is neither.
        CaseError: an image with another number of channels.

    Source: nnU-Net's ``CTNormalization`` and ``ZScoreNormalization`` (Isensee et al. 2021).
    """

    def __init__(
        self, keys: KeysCollection, channels: Sequence[Mapping[str, Any]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        for rule in channels:
            if not (set(rule) == _OWN or {"mean", "sd"} <= set(rule) <= _FIXED):
                raise UsageError(
                    f"normalize has the rule {dict(rule)}: write mean and sd (and clip) of the data set, "
                    "or nonzero: true or false for the image's own."
                )
        self.channels = tuple(dict(rule) for rule in channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = torch.as_tensor(sample[key]).to(torch.float32)
            if image.shape[0] != len(self.channels):
                raise CaseError(
                    f"The image has {image.shape[0]} channels, normalize has rules for {len(self.channels)}: "
                    "give one a channel, in their order."
                )
            inside = (image != 0).any(dim=0)
            planes = [_normalised(plane, rule, inside) for plane, rule in zip(image, self.channels, strict=True)]
            normalised = torch.stack([torch.as_tensor(plane).as_subclass(torch.Tensor) for plane in planes])
            # A MetaTensor keeps its affine and its history.
            sample[key] = _like(normalised, image)
        return sample


def _normalised(plane: torch.Tensor, rule: Mapping[str, Any], inside: torch.Tensor) -> torch.Tensor:
    if "mean" in rule:
        low, high = rule.get("clip") or (None, None)
        clipped = plane if low is None else plane.clamp(low, high)
        return (clipped - rule["mean"]) / max(rule["sd"], SMALLEST_SD)
    if not rule["nonzero"]:
        return (plane - plane.mean()) / plane.std(correction=0).clamp(min=SMALLEST_SD)
    values = plane[inside]
    if not len(values):
        return plane
    scaled = (plane - values.mean()) / values.std(correction=0).clamp(min=SMALLEST_SD)
    return torch.where(inside, scaled, torch.zeros_like(plane))


def _like(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    from monai.data import MetaTensor

    return MetaTensor(values).copy_meta_from(image) if isinstance(image, MetaTensor) else values
