"""A 2D network run over the slices of a volume."""

from __future__ import annotations

import torch

__all__ = ["SliceWise"]


class SliceWise(torch.nn.Module):
    """Run a 2D network on every slice of a volume, as if it were a 3D network.

    With it a 2D U-Net is one value of a 3D bundle: loaders, sliding window, post-processing and export stay as they
    are. Slices along ``slice_axis`` become items of the batch, so memory grows with their number: make ``patch_size``
    1 along that axis for training.

    Args:
        network: 2D network from (batch, channel, h, w) to (batch, class, h, w), or to (batch, head, class, h, w) when
            it is trained with deep supervision.
        slice_axis: spatial axis that is sliced: 0, 1 or 2. With volumes oriented RAS, 2 gives axial slices.
    """

    def __init__(self, network: torch.nn.Module, slice_axis: int = 2) -> None:
        super().__init__()
        if slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis is {slice_axis}; a volume has the spatial axes 0, 1 and 2.")
        self.network = network
        self.slice_axis = slice_axis

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, x, y, z) to (batch, [head,] class, x, y, z)."""
        slices = torch.movedim(volume, 2 + self.slice_axis, 1)
        output = self.network(slices.flatten(0, 1))
        stacked = output.unflatten(0, (slices.shape[0], slices.shape[1]))
        # From (batch, slice, …, h, w) back to where the slices came from, counted from the end.
        return torch.movedim(stacked, 1, self.slice_axis - 3)
