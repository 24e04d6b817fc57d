"""The values that an image can have, which it carries in its ``meta``."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

__all__ = ["value_range_of", "with_values"]


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
