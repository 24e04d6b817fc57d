"""The U-Net with a residual encoder of "nnU-Net Revisited" (Isensee et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.nn import functional

from medseg3d.errors import ConfigError

__all__ = ["ResidualEncoderUNet"]

# Blocks of the encoder's stages in nnU-Net's presets ResEnc M, L and XL; deeper networks repeat the last.
BLOCKS = (1, 3, 4, 6, 6, 6)

CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOLS: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

Sizes = Sequence[int | Sequence[int]]


class ResidualEncoderUNet(nn.Module):
    """U-Net whose encoder is a ResNet-D, with instance normalisation, and whose decoder is plain.

    The network of nnU-Net's ResEnc presets (``ResidualEncoderUNet`` of dynamic-network-architectures, with the biases
    that nnU-Net's plans ask for). M, L and XL differ in what fits a GPU of 8, 24 and 40 GB, which is patch size, number
    of stages and batch size, and not in the network. Arguments are called as those of MONAI's ``DynUNet``, and as there
    the heads of deep supervision are stacked in training, brought to the full resolution by nearest neighbour:
    (batch, head, class, *spatial), finest first, for ``medseg3d.losses.StackedDeepSupervisionLoss``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image.
        out_channels: logits a voxel.
        filters: channels of each stage; nnU-Net doubles from 32 up to 320 (512 in 2D).
        kernel_size: of each stage's convolutions, a number or one an axis; odd.
        strides: of each stage, a number or one an axis; the first is 1. The image's size must be divisible by their
            product.
        blocks: residual blocks of each encoder stage; None: 1, 3, 4, 6, 6, 6, …
        decoder_convs: convolutions of each decoder stage.
        deep_supervision: answer with several heads in training.
        deep_supr_num: heads beside the finest, from fine to coarse; fewer than the stages of the decoder.
        upsample_kernel_size: as ``DynUNet`` wants them, which must be ``strides`` but the first; None: those.

    Raises:
        ConfigError: the stages do not fit together.

    >>> small = ResidualEncoderUNet(2, 1, 3, filters=[4, 8, 8], kernel_size=[3, 3, 3], strides=[1, 2, 2])
    >>> small(torch.zeros(1, 1, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        filters: Sequence[int],
        kernel_size: Sizes,
        strides: Sizes,
        blocks: Sequence[int] | None = None,
        decoder_convs: int = 1,
        deep_supervision: bool = False,
        deep_supr_num: int = 1,
        upsample_kernel_size: Sizes | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in CONVOLUTIONS:
            raise ConfigError(f"spatial_dims is {spatial_dims}; the network is made for 2 or 3.")
        stages = len(strides)
        kernels, steps = (_by_axis(sizes, spatial_dims) for sizes in (kernel_size, strides))
        blocks = [BLOCKS[min(i, len(BLOCKS) - 1)] for i in range(stages)] if blocks is None else list(blocks)
        _require_fit(filters, kernels, steps, blocks)
        _require_heads(deep_supervision, deep_supr_num, stages)
        if upsample_kernel_size is not None and _by_axis(upsample_kernel_size, spatial_dims) != steps[1:]:
            raise ConfigError(
                f"upsample_kernel_size is {list(upsample_kernel_size)}; the decoder undoes the strides after the "
                f"first, which are {list(strides)[1:]}."
            )
        self.in_channels, self.out_channels, self.deep_supervision = in_channels, out_channels, deep_supervision
        self.stem = _convolution(spatial_dims, in_channels, filters[0], kernels[0])
        inputs = [filters[0], *filters[:-1]]
        self.encoder = nn.ModuleList(
            _residual_stage(spatial_dims, inputs[i], filters[i], kernels[i], steps[i], blocks[i]) for i in range(stages)
        )
        self.decoder = nn.ModuleList(
            _DecoderStage(spatial_dims, filters[i + 1], filters[i], kernels[i], steps[i + 1], decoder_convs)
            for i in reversed(range(stages - 1))
        )
        heads = 1 + deep_supr_num if deep_supervision else 1
        self.heads = nn.ModuleList(CONVOLUTIONS[spatial_dims](filters[i], out_channels, 1) for i in range(heads))
        self.apply(_initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, *spatial) to logits (batch, class, *spatial), or to stacked heads in training."""
        x = self.stem(image)
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        features: list[torch.Tensor] = []
        for level, step in enumerate(self.decoder):
            x = step(x, skips[-2 - level])
            if self.training:
                features.append(x)
        logits: torch.Tensor = self.heads[0](x)
        if not (self.training and self.deep_supervision):
            return logits
        stacked = [logits]
        for level, head in enumerate(self.heads):
            if level > 0:
                stacked.append(functional.interpolate(head(features[-1 - level]), logits.shape[2:]))
        return torch.stack(stacked, dim=1)


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which is pooled and projected where the block changes size (He et al. 2019)."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.first = _convolution(dims, inputs, outputs, kernel, stride)
        self.second = _convolution(dims, outputs, outputs, kernel, activation=False)
        shortcut: list[nn.Module] = [POOLS[dims](stride, stride)] if prod(stride) > 1 else []
        if inputs != outputs:
            shortcut.append(_convolution(dims, inputs, outputs, (1,) * dims, activation=False, bias=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return out


class _DecoderStage(nn.Module):
    """Bring the features below to this resolution, and merge them with the encoder's."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...], convolutions: int
    ) -> None:
        super().__init__()
        self.upsample = TRANSPOSED[dims](inputs, outputs, stride, stride)
        merged = [2 * outputs, *[outputs] * (convolutions - 1)]
        self.merge = nn.Sequential(*[_convolution(dims, channels, outputs, kernel) for channels in merged])

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.merge(torch.cat([self.upsample(below), skip], dim=1))
        return out


def _convolution(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...] | int = 1,
    *,
    activation: bool = True,
    bias: bool = True,
) -> nn.Sequential:
    padding = tuple((size - 1) // 2 for size in kernel)
    layers = [
        CONVOLUTIONS[dims](inputs, outputs, kernel, stride, padding, bias=bias),
        NORMS[dims](outputs, affine=True),
    ]
    return nn.Sequential(*layers, *([nn.LeakyReLU(0.01, inplace=True)] if activation else []))


def _residual_stage(
    dims: int, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...], count: int
) -> nn.Sequential:
    first = _ResidualBlock(dims, inputs, outputs, kernel, stride)
    return nn.Sequential(
        first, *[_ResidualBlock(dims, outputs, outputs, kernel, (1,) * dims) for _ in range(count - 1)]
    )


def _initialise(module: nn.Module) -> None:
    """nnU-Net's: He for leaky ReLU, no bias; and every residual block starts as its shortcut."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, _ResidualBlock):  # after its own layers
        nn.init.zeros_(module.second.get_parameter("1.weight"))


def _by_axis(sizes: Sizes, dims: int) -> list[tuple[int, ...]]:
    return [(size,) * dims if isinstance(size, int) else tuple(size) for size in sizes]


def _require_fit(
    filters: Sequence[int], kernels: list[tuple[int, ...]], steps: list[tuple[int, ...]], blocks: Sequence[int]
) -> None:
    counts = {len(filters), len(kernels), len(steps), len(blocks)}
    if len(counts) > 1 or len(steps) < 2:
        raise ConfigError(
            f"There are {len(filters)} filters, {len(kernels)} kernel sizes, {len(steps)} strides and {len(blocks)} "
            "numbers of blocks; give each of at least two stages one."
        )
    if prod(steps[0]) != 1:
        raise ConfigError(f"The first stride is {steps[0]}; it must be 1, so that the answer has the image's size.")
    even = [kernel for kernel in kernels if any(size % 2 == 0 for size in kernel)]
    if even or min(blocks) < 1:
        raise ConfigError(f"Kernel sizes are {kernels}, blocks {list(blocks)}; kernels are odd, blocks at least 1.")


def _require_heads(deep_supervision: bool, deep_supr_num: int, stages: int) -> None:
    if deep_supervision and not 1 <= deep_supr_num < stages - 1:
        raise ConfigError(
            f"deep_supr_num is {deep_supr_num}; a network of {stages} stages has {stages - 1} in its decoder, of which "
            f"the finest always has a head: choose 1 to {stages - 2}."
        )
