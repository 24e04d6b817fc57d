"""Deep supervision: one loss over the heads of a network at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DeepSupervisionLoss
from torch.nn import functional

__all__ = ["StackedDeepSupervisionLoss"]


class StackedDeepSupervisionLoss(DeepSupervisionLoss):
    """Deep supervision for networks that stack their heads, as MONAI's ``DynUNet`` does in training, or list them.

    The heads arrive as one tensor (batch, head, class, *spatial) or as a list of (batch, class, *spatial), finest
    first, and weigh 1, 1/2, 1/4, 1/8, and 1/16 from the fifth on, normalised to a sum of 1 (Isensee et al. 2021,
    nnU-Net). Listed heads may be of lower resolution (MONAI's ``MedNeXt``): their labels are the nearest ones, so an
    ignore label stays itself. A single prediction (batch, class, *spatial), which the network gives in evaluation mode,
    takes ``loss`` as it is.

    Args:
        loss: loss of one head, called with (prediction, target) of shapes (batch, class, …) and (batch, 1, …).
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__(loss, weight_mode="exp")

    def forward(self, input: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if isinstance(input, torch.Tensor):
            if input.ndim != target.ndim + 1:
                return self.loss(input.float(), target)
            input = torch.unbind(input, dim=1)
        weights = self.get_weights(len(input))
        parts = [w * self.loss(head.float(), _at(head, target)) for w, head in zip(weights, input, strict=True)]
        return torch.stack(parts).sum() / sum(weights)


def _at(head: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The target on the grid of ``head``, by nearest neighbour."""
    size = head.shape[2:]
    if target.shape[2:] == size:
        return target
    # Through float32, which holds every label id and is what nearest interpolation takes on every device.
    return functional.interpolate(target.float(), size=size, mode="nearest-exact").to(target.dtype)
