"""Weights that a 2D segmentation network starts from: published ones, or a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import nn

from medseg3d.errors import CheckpointError, UsageError
from medseg3d.inference.weights import read_state
from medseg3d.networks.segmenters2d import TORCHVISION, SegmentationNetwork
from medseg3d.options import flag

__all__ = ["load_segmenter_weights"]

logger = logging.getLogger("medseg3d")

# The layers that depend on the classes; they keep their random weights where the number of classes differs.
HEADS = ("segmentation_head.", "final_conv.", "network.classifier.")
# By which the names in a file may differ from a network's: ours have one more, a published encoder's some less.
PREFIXES = ("", "network.", "encoder.", "encoder.model.")


def load_segmenter_weights(
    network: SegmentationNetwork, *, pretrained: bool | str = False, weights: str | Path | None = None
) -> SegmentationNetwork:
    """Start ``network`` from the library's published weights, or from a file; without either it stays as it is.

    Published are encoders (ImageNet) for ``<decoder>:<encoder>``, and whole networks (COCO) for torchvision's, of which
    the head stays new where the classes differ. The first convolution, made for colour, is adapted: a grey image gives
    the activations that three equal channels would.

    Args:
        network: made by ``segmenter2d``.
        pretrained: load them from the library's cache or the internet.
        weights: a file instead: such published weights, or those of a training of ours with any classes.

    Returns:
        ``network``.

    Raises:
        CheckpointError: the weights cannot be fetched or read, or are of another network.
        UsageError: both are asked for, or published weights of ``unet``, which has none.
    """
    wanted = flag(pretrained, "pretrained")
    if wanted and weights:
        raise UsageError("Both pretrained and initial_weights are asked for; leave one of them out.")
    if weights:
        _take_over(network.network, read_state(Path(weights)), source=str(weights))
    elif wanted:
        source = f"The published weights for {network.architecture}"
        _take_over(network.network, _published(network.architecture), source=source)
    return network


def _published(architecture: str) -> Mapping[str, torch.Tensor]:
    encoder = architecture.partition(":")[2]
    if not encoder and architecture not in TORCHVISION:
        raise UsageError(
            f"{architecture} has no published weights: train from random ones (--pretrained false), give a file "
            "(--initial_weights FILE), or choose an architecture on a published encoder, such as unet:resnet34."
        )
    try:
        return _of_encoder(encoder) if encoder else _of_torchvision(architecture)
    except (OSError, RuntimeError, ValueError) as error:  # no network: URLError, LocalEntryNotFound, ConnectionError
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"The published weights for {architecture} could not be fetched ({reason}). Is there a network? Without "
            "one, load them elsewhere and give the file (--initial_weights FILE), or start from random weights "
            "(--pretrained false)."
        ) from error


def _of_encoder(name: str) -> Mapping[str, torch.Tensor]:
    from segmentation_models_pytorch.encoders import get_encoder

    encoder: nn.Module = get_encoder(name, weights="imagenet")
    return encoder.state_dict()


def _of_torchvision(name: str) -> Mapping[str, torch.Tensor]:
    from torchvision.models import get_model_weights

    state: Mapping[str, torch.Tensor] = get_model_weights(name)["DEFAULT"].get_state_dict(
        progress=False, check_hash=True
    )
    return state


def _take_over(network: nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load published weights: those of the encoder alone, or of the whole network but a head of other classes.

    Raises:
        CheckpointError: beyond the head, something is missing or has another shape.
    """
    wanted = network.state_dict()
    named = _best_naming(wanted, state)
    fitting = {key: fitted for key in wanted if (fitted := _fitted(named.get(key), wanted[key])) is not None}
    encoder_alone = not any(key in wanted and not key.startswith("encoder.") for key in named)
    needed = [key for key in wanted if key.startswith("encoder.")] if encoder_alone else list(wanted)
    missing = [key for key in needed if key not in fitting and not key.startswith(HEADS)]
    if missing or not fitting:
        raise CheckpointError(
            f"{source}: weights of another network; {len(missing) or len(wanted)} of {len(wanted)} tensors are missing "
            f"or have another shape ({', '.join(missing[:3]) or 'all of them'}). Choose the architecture they are of."
        )
    network.load_state_dict({**wanted, **fitting})
    new = [key for key in wanted if key not in fitting]
    logger.info("Started from %s%s.", source, f"; {len(new)} of {len(wanted)} tensors are new" if new else "")


def _best_naming(wanted: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` under the names of ``wanted``: a prefix put before them, or taken away."""
    namings: list[dict[str, torch.Tensor]] = []
    for prefix in PREFIXES:
        namings.append({prefix + key: value for key, value in state.items()})
        namings.append({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    return max(namings, key=lambda naming: len(naming.keys() & wanted.keys()))


def _fitted(tensor: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor | None:
    """``tensor`` in the wanted shape: as it is, or a first convolution adapted to other channels; None if neither."""
    if tensor is None or tensor.shape == wanted.shape:
        return tensor
    if tensor.ndim == 4 and wanted.ndim == 4 and tensor.shape[1] == 3:
        adapted: torch.Tensor = adapt_input_conv(wanted.shape[1], tensor)
        return adapted if adapted.shape == wanted.shape else None
    return None
