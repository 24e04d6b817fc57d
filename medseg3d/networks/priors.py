"""Where the training of rare structures begins."""

from __future__ import annotations

import math

import torch

from medseg3d.errors import ConfigError

__all__ = ["start_rare"]


def start_rare(network: torch.nn.Module, *, channels: int, probability: float = 0.01) -> torch.nn.Module:
    """Let the sigmoids of a new network answer ``probability`` on average, and not ½, everywhere.

    A region fills a hundredth of a patch or less. From ½ on, the first thousand iterations go into teaching every
    background voxel its zero, and Dice has little gradient for the structures until then. The bias of the heads takes
    that away; so Lin et al. 2017 (focal loss) begin. A softmax needs it less: its background channel rises while the
    others fall.

    Args:
        network: its heads are the 1×1 convolutions with ``channels`` outputs and a bias; changed in place.
        channels: as many as regions.
        probability: of each region at the start, above 0 and below 1.

    Returns:
        ``network``.

    Raises:
        ConfigError: no head is found.

    >>> net = torch.nn.Conv3d(4, 2, kernel_size=1)
    >>> round(start_rare(net, channels=2).bias.sigmoid()[0].item(), 4)
    0.01
    """
    biases = [bias for module in network.modules() if (bias := _head_bias(module, channels)) is not None]
    if not biases:
        raise ConfigError(
            f"{type(network).__name__} has no 1×1 convolution with {channels} outputs and a bias, so where its answers "
            "begin cannot be set. Use @network_def as it is for network, without start_rare."
        )
    for bias in biases:
        torch.nn.init.constant_(bias, math.log(probability / (1 - probability)))
    return network


def _head_bias(module: torch.nn.Module, channels: int) -> torch.Tensor | None:
    if not isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
        return None
    return module.bias if module.out_channels == channels and set(module.kernel_size) == {1} else None
