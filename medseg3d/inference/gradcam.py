"""Where a classifier looked: Grad-CAM of convolutional networks, attention of vision transformers, drawn over it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.errors import ConfigError
from medseg3d.files import whole_or_not_at_all

__all__ = ["AttentionMaps", "attention_modules", "feature_maps", "overlay", "rollout", "write_overlay"]

Floats = NDArray[np.float32]
OPACITY = 0.5  # of the warmest place
SKEW = 1.5  # between the proportions of a map and of its image, which rounding makes


class AttentionMaps:
    """What spoke for a class, as a map over the image.

    Grad-CAM (Selvaraju et al. 2017, MONAI's) on a copy of the network, in float32; or, of networks that attend over
    patches, attention rollout, which shows what was looked at, for whichever class.

    Args:
        network: any classifier of images.
        example: (1, channel, h, w), an image as the network takes it.
        layer: module whose output Grad-CAM looks at; by default the last with a map of more than one pixel.

    Raises:
        ConfigError: no layer has such a map.
    """

    def __init__(self, network: torch.nn.Module, example: torch.Tensor, *, layer: str = "") -> None:
        if not layer and attention_modules(network):
            self.layer, self.network = "", copy.deepcopy(network).eval()
            return
        for self.layer in [layer] if layer else feature_maps(network, example)[::-1]:
            try:
                self._observe(network)
                self(example, 0)
            except RuntimeError as error:
                # Some networks overwrite a layer's output, which autograd then cannot look at: take the one before.
                if "modified inplace" not in str(error):
                    raise
            else:
                return
        raise ConfigError(f"{type(network).__name__} has no layer that Grad-CAM could look at. Leave overlays out.")

    def _observe(self, network: torch.nn.Module) -> None:
        from monai.visualize import GradCAM

        # A copy: MONAI's hooks stay on it, and gradients are wanted where the network may be frozen.
        self.network = copy.deepcopy(network).eval().requires_grad_(True)
        self._cam = GradCAM(nn_module=self.network, target_layers=self.layer, postprocessing=lambda heat: heat)

    def __call__(self, image: torch.Tensor, class_index: int) -> Floats:
        """(1, channel, h, w) → (h, w), from 0 (nothing) to 1 (the most in this image)."""
        if not self.layer:
            return rollout(self.network, image)
        with torch.enable_grad():
            heat = self._cam(x=image.float(), class_idx=class_index)
        return _to_unit(heat[0, 0].detach().float().cpu().numpy())


def feature_maps(network: torch.nn.Module, image: torch.Tensor) -> list[str]:
    """Names of the modules whose output is a map of more than one pixel, in the order in which they finish.

    Modules that are used more than once have no gradient of their own and are left out.

    Raises:
        ConfigError: there is none, or the last maps have their channels last, where Grad-CAM does not look for them.
    """
    found: list[tuple[str, bool]] = []
    wanted = image.shape[2] / image.shape[3]

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] > 1:
                # A map has the proportions of its image; of (batch, row, column, channel) the last two have not.
                is_map = 1 / SKEW < output.shape[2] / output.shape[3] / wanted < SKEW and output.shape[3] > 1
                found.append((name, is_map))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(keep(name)).remove)
        network(image)
    if found and not found[-1][1]:
        raise ConfigError(
            f"{type(network).__name__} keeps its maps with the channels last, which Grad-CAM cannot read. Leave "
            "overlays out, or take the backbone from torchvision."
        )
    times = Counter(name for name, _ in found)
    names = [name for name, is_map in found if is_map and times[name] == 1]
    if not names:
        raise ConfigError(
            f"{type(network).__name__} keeps no map of more than one pixel of images of {tuple(image.shape[2:])}: "
            "there is nothing to draw. Give larger images (image_size)."
        )
    return names


def attention_modules(network: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The self-attention layers of a vision transformer with one grid of patches: torchvision's and timm's."""
    # Where every timm 1.x has it; timm.layers has it in later ones only.
    from timm.models.vision_transformer import Attention

    kinds = (torch.nn.MultiheadAttention, Attention)
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]


def rollout(network: torch.nn.Module, image: torch.Tensor) -> Floats:
    """Attention rollout (Abnar and Zuidema 2020): how much of each patch reached the answer."""
    with _recorded_attention(network) as layers, torch.no_grad():
        network(image.float())
    tokens = layers[0].shape[-1]
    total = torch.eye(tokens)
    for attention in layers:
        mixed = attention[0].mean(dim=0) if attention.ndim == 4 else attention[0]
        # Half goes past the layer, through its residual connection.
        total = (0.5 * mixed.float().cpu() + 0.5 * torch.eye(tokens)) @ total
    patches = _grid(total, image.shape[2], image.shape[3])
    heat = torch.nn.functional.interpolate(patches[None, None], size=tuple(image.shape[2:]), mode="bilinear")
    return _to_unit(heat[0, 0].numpy())


def _grid(total: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """What the class token (or, without one, the mean token) took from each patch, as the patches lie."""
    for extra in (1, 0, 2, 5):  # class token; none; class and distillation; class and four registers
        side = ((total.shape[0] - extra) * rows / columns) ** 0.5
        if side >= 1 and abs(side - round(side)) < 1e-6 and (total.shape[0] - extra) % round(side) == 0:
            row = total[0, extra:] if extra else total.mean(dim=0)
            return row.reshape(round(side), -1)
    raise ConfigError(f"{total.shape[0]} tokens are no grid of patches with a class token; Grad-CAM needs a layer=.")


@contextmanager
def _recorded_attention(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The attention of each layer, in order, of what is run inside."""
    layers: list[torch.Tensor] = []

    def ask(_module: torch.nn.Module, inputs: Any, keywords: dict[str, Any]) -> Any:
        return inputs, keywords | {"need_weights": True, "average_attn_weights": False}

    def keep_weights(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        layers.append(output[1].detach())

    def keep_input(_module: torch.nn.Module, inputs: Any, _output: Any) -> None:
        layers.append(inputs[0].detach())

    with ExitStack() as hooks:
        for _name, module in attention_modules(network):
            if isinstance(module, torch.nn.MultiheadAttention):
                hooks.callback(module.register_forward_pre_hook(ask, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(keep_weights).remove)
            else:
                layer: Any = module
                hooks.callback(setattr, layer, "fused_attn", layer.fused_attn)
                layer.fused_attn = False  # the fused one computes no weights that could be looked at
                hooks.callback(layer.attn_drop.register_forward_hook(keep_input).remove)
        yield layers


def overlay(pixels: NDArray[Any], heat: Floats) -> NDArray[np.uint8]:
    """An image (h, w) or (h, w, 3) with the heat over it, as (h, w, 3); the warmer the place, the less shines through.

    Images that are not 8-bit are shown between their least and greatest value.
    """
    from matplotlib import colormaps

    grey = np.asarray(pixels, dtype=np.float32)
    low, high = (0.0, 255.0) if pixels.dtype == np.uint8 else (float(grey.min()), float(grey.max()))
    shown = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    shown = np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown
    colours = np.asarray(colormaps["inferno"](heat), dtype=np.float32)[..., :3]
    share = OPACITY * heat[..., None]
    return np.asarray((shown * (1 - share) + colours * share) * 255 + 0.5, dtype=np.uint8)


def write_overlay(path: Path, pixels: NDArray[Any], heat: Floats) -> None:
    """Write an overlay as PNG."""
    from PIL import Image

    with whole_or_not_at_all(path) as temporary:
        Image.fromarray(overlay(pixels, heat)).save(temporary)


def _to_unit(heat: NDArray[Any]) -> Floats:
    low, high = float(heat.min()), float(heat.max())
    return np.asarray((heat - low) / (high - low) if high > low else np.zeros_like(heat), dtype=np.float32)
