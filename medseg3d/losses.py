"""Losses that MONAI lacks."""

from __future__ import annotations

import torch
from monai.losses import DeepSupervisionLoss

__all__ = ["StackedDeepSupervisionLoss"]


class StackedDeepSupervisionLoss(DeepSupervisionLoss):
    """Deep supervision for networks that stack their heads, as MONAI's ``DynUNet`` does in training.

    The heads arrive as one tensor (batch, head, class, *spatial), finest first, and weigh 1, 1/2, 1/4, 1/8, and 1/16
    from the fifth on, normalised to a sum of 1 (Isensee et al. 2021, nnU-Net). An unstacked prediction
    (batch, class, *spatial), which the network gives in evaluation mode, takes ``loss`` as it is.

    Args:
        loss: loss of one head, called with (prediction, target) of shapes (batch, class, …) and (batch, 1, …).
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__(loss, weight_mode="exp")

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if input.ndim != target.ndim + 1:
            return self.loss(input.float(), target)
        heads = torch.unbind(input, dim=1)
        weights = self.get_weights(len(heads))
        total = torch.stack([w * self.loss(head.float(), target) for w, head in zip(weights, heads, strict=True)]).sum()
        return total / sum(weights)
