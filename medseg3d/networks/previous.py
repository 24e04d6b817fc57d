"""A network that sees the mask of an earlier one beside the image: the second stage of a cascade."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["WithPrevious"]


class WithPrevious(torch.nn.Module):
    """Give a network the mask of an earlier one as a channel a label, 1 where the mask has the label.

    The last channel of an image holds the mask as label ids (``medseg3d.transforms.AddPreviousd``). It becomes channels
    only here, so that an image in memory grows by one channel and not by one a label; and a number that is no label's
    id, as windows are padded with, is background.

    Args:
        network: takes the image's channels, then one for each id from 1 to the highest; called as it would be alone.
        labels: name → id.

    Source: Isensee et al. 2021, nnU-Net's 3d_cascade_fullres.

    >>> shown = WithPrevious(torch.nn.Identity(), {"liver": 1, "spleen": 2})
    >>> shown(torch.tensor([[7.0], [2.0]]).reshape(1, 2, 1, 1, 1)).flatten().tolist()
    [7.0, 0.0, 1.0]
    """

    def __init__(self, network: torch.nn.Module, labels: Mapping[str, int]) -> None:
        super().__init__()
        self.network = network
        ids = torch.arange(1, max(labels.values()) + 1, dtype=torch.float32)
        self.register_buffer("ids", ids.reshape(1, -1, 1, 1, 1), persistent=False)

    @property
    def mask_channels(self) -> int:
        """How many of the network's input channels are not of the image."""
        return self.get_buffer("ids").shape[1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The network's answer to (batch, channel, x, y, z), whose last channel is the mask."""
        mask = (image[:, -1:] == self.get_buffer("ids")).to(image.dtype)
        answer: torch.Tensor = self.network(torch.cat([image[:, :-1], mask], dim=1))
        return answer
