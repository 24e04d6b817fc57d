"""Networks that segment 2D images, by one name: from scratch, or on an encoder with published weights.

``unet`` is MONAI's; ``decoder:encoder`` is segmentation-models-pytorch's (``unet``, ``unetplusplus``, ``fpn`` or
``deeplabv3plus`` on any of its encoders, timm's as ``tu-<name>``); the others are torchvision's. Each takes images of
any height and width, odd ones too, and gives logits of that size. All but ``unetplusplus`` can be scripted; that one is
exported with ``ckpt_export --use_trace True``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from medseg3d.errors import ConfigError

__all__ = ["DECODERS", "TORCHVISION", "SegmentationNetwork", "segmenter2d"]

DECODERS = ("deeplabv3plus", "fpn", "unet", "unetplusplus")
"""Decoders of segmentation-models-pytorch, written before a colon and the encoder."""

TORCHVISION = (
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
"""Networks of torchvision."""

UNET_LEVELS = 5
# Below this size the deepest level is one pixel, which has no mean and variance to normalise by.
SMALLEST = 32


class SegmentationNetwork(nn.Module):
    """A network for images of any size: they are padded below and to the right, and the logits are cut.

    Args:
        network: gives logits of its input's size.
        architecture: by which ``segmenter2d`` made it.
        stride: what height and width must be divisible by.
        frozen: parts that do not learn; they also stay in evaluation mode, so that their statistics do not move.
    """

    def __init__(
        self, network: nn.Module, *, architecture: str, stride: int = 1, frozen: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.stride = stride
        self.smallest = SMALLEST  # of the instance, where TorchScript sees it
        self._frozen = tuple(frozen)
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, class, height, width) of images (batch, channel, height, width)."""
        height, width = image.shape[-2], image.shape[-1]
        below = max(self.smallest, -(-height // self.stride) * self.stride) - height
        right = max(self.smallest, -(-width // self.stride) * self.stride) - width
        padded = functional.pad(image, [0, right, 0, below], mode="replicate")
        return self.network(padded)[..., :height, :width]

    def train(self, mode: bool = True) -> SegmentationNetwork:
        """Set the mode of all but the frozen parts."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


class _OutputOf(nn.Module):
    """Of the dictionary that torchvision's networks give, the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)["out"]


def segmenter2d(
    architecture: str = "unet",
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    freeze_encoder: bool = False,
    filters: Sequence[int] = (64, 128, 256, 512, 512),
    upsample: Literal["transposed", "bilinear"] = "transposed",
    dropout: float = 0.0,
) -> SegmentationNetwork:
    """A network by name.

    Args:
        architecture: ``unet``; ``<decoder>:<encoder>``, such as ``unet:resnet34``, ``unetplusplus:efficientnet-b0``,
            ``fpn:tu-convnext_tiny`` or ``deeplabv3plus:mobilenet_v2``; or a name in ``TORCHVISION``.
        in_channels: 1 for grey, 3 for colour images.
        out_channels: classes with the background, or labels where masks overlap.
        freeze_encoder: train the decoder alone.
        filters: of ``unet``, channels of its five levels.
        upsample: of ``unet``.
        dropout: of ``unet``.

    Raises:
        ConfigError: no such architecture, encoder or up-sampling.

    >>> network = segmenter2d("unet", filters=(4, 8, 16, 32, 32), upsample="bilinear")
    >>> network(torch.zeros(2, 1, 37, 51)).shape
    torch.Size([2, 2, 37, 51])
    """
    decoder, colon, encoder = architecture.partition(":")
    if colon and decoder in DECODERS:
        network, stride = _smp(decoder, encoder, in_channels, out_channels)
    elif architecture in TORCHVISION:
        network, stride = _torchvision(architecture, in_channels, out_channels), 1
    elif architecture == "unet":
        network, stride = _unet(in_channels, out_channels, filters, upsample, dropout), 1
    else:
        raise ConfigError(
            f"There is no architecture {architecture!r}. There are unet; {', '.join(DECODERS)} with an encoder, as in "
            f"unet:resnet34; {', '.join(TORCHVISION)}."
        )
    frozen = _encoder_parts(network) if freeze_encoder else ()
    return SegmentationNetwork(network, architecture=architecture, stride=stride, frozen=frozen)


def _unet(
    in_channels: int,
    out_channels: int,
    filters: Sequence[int],
    upsample: str,
    dropout: float,
) -> nn.Module:
    from monai.networks.nets import BasicUNet

    modes = {"transposed": "deconv", "bilinear": "nontrainable"}
    if upsample not in modes:
        raise ConfigError(f"upsample is {upsample!r}; there are {' and '.join(modes)}.")
    if len(filters) != UNET_LEVELS:
        raise ConfigError(f"unet has {UNET_LEVELS} levels; filters {list(filters)} are {len(filters)}.")
    return BasicUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        features=(*filters, filters[0]),
        dropout=dropout,
        upsample=modes[upsample],
    )


def _smp(decoder: str, encoder: str, in_channels: int, out_channels: int) -> tuple[nn.Module, int]:
    import segmentation_models_pytorch as smp

    try:
        network = smp.create_model(
            decoder, encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=out_channels
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{decoder}:{encoder} cannot be made ({' '.join(str(error).split())[:300]}). Encoders are those of "
            "segmentation-models-pytorch, and timm's as tu-<name>; some decoders want one with dilations."
        ) from error
    return network, int(network.encoder.output_stride)


def _torchvision(name: str, in_channels: int, out_channels: int) -> nn.Module:
    from torchvision.models import get_model

    network = _OutputOf(get_model(name, weights=None, weights_backbone=None, num_classes=out_channels))
    _adapt_first_convolution(network, in_channels)
    return network


def _adapt_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution, made for three channels, by one for ``in_channels``."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != in_channels:
                fresh = nn.Conv2d(
                    in_channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    stride=module.stride,  # type: ignore[arg-type]
                    padding=module.padding,  # type: ignore[arg-type]
                    bias=module.bias is not None,
                )
                parent, _, last = name.rpartition(".")
                setattr(network.get_submodule(parent), last, fresh)
            return


def _encoder_parts(network: nn.Module) -> list[nn.Module]:
    names = ("encoder", "network.backbone", "conv_0", "down_1", "down_2", "down_3", "down_4")
    return [part for name, part in network.named_modules() if name in names]
