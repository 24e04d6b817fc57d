"""Weights to start from: published ones, or a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from medseg3d.errors import CheckpointError, UsageError
from medseg3d.inference.weights import read_state
from medseg3d.networks.classifiers import ImageClassifier, first_convolution, last_layer
from medseg3d.options import flag

__all__ = ["load_initial_weights"]

logger = logging.getLogger("medseg3d")

State = Mapping[str, torch.Tensor]
NAMED_KEYS = 3
# Heads that are there only in training.
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
POSITIONS = ("encoder.pos_embedding",)


def load_initial_weights(
    network: ImageClassifier, *, pretrained: bool | str = False, weights: str | Path | None = None
) -> ImageClassifier:
    """Start ``network`` from the library's published weights, or from a file; without either it stays as it is.

    The first convolution is adapted to the images' channels: for one channel its weights are summed over red, green
    and blue, which equals repeating the grey image to three channels. The last layer keeps its random weights where
    the number of classes differs; everything else must fit.

    Args:
        pretrained: load the library's weights (ImageNet), from its cache or the internet.
        weights: a file instead: a state dict of the library (.pth, .pt, .safetensors) or a checkpoint of a training.

    Returns:
        ``network``.

    Raises:
        CheckpointError: the weights cannot be fetched or read, or are of another network.
        UsageError: both are asked for.
    """
    wanted = flag(pretrained, "pretrained")
    if wanted and weights:
        raise UsageError("Both pretrained and initial_weights are asked for; leave one of them out.")
    if not wanted and not weights:
        return network
    source = str(weights) if weights else f"the published weights of {network.library}/{network.name}"
    state = _read_file(Path(str(weights))) if weights else _published(network)
    fitted, left = _fit(network, state, source)
    network.model.load_state_dict(fitted)
    logger.info("Started from %s%s.", source, f"; new: {', '.join(left)}" if left else "")
    return network


def _read_file(path: Path) -> State:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return {key.removeprefix("model."): value for key, value in read_state(path).items()}


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path}: no weights there.")
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors, probably damaged ({error}).") from error
    return state


def _published(network: ImageClassifier) -> State:
    if network.library == "monai":
        raise CheckpointError(
            f"monai/{network.name}: MONAI publishes no weights of it. Leave pretrained out, or give a file "
            "(--initial_weights FILE)."
        )
    name = f"{network.library}/{network.name}"
    try:
        return _from_torchvision(network.name) if network.library == "torchvision" else _from_timm(network)
    except (OSError, RuntimeError, ValueError) as error:  # no network: URLError, ConnectionError, LocalEntryNotFound
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"The published weights of {name} could not be fetched ({reason}). Is there a network? Without one, "
            f"download {_address(network)} elsewhere and give the file (--initial_weights FILE), or start from random "
            "weights (--pretrained false)."
        ) from error


def _from_torchvision(name: str) -> State:
    import torchvision

    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    state: State = weights.get_state_dict(progress=False, check_hash=True)
    return state


def _from_timm(network: ImageClassifier) -> State:
    import timm

    size = {"img_size": network.image_size} if hasattr(getattr(network.model, "patch_embed", None), "img_size") else {}
    return timm.create_model(network.name, pretrained=True, **size).state_dict()


def _address(network: ImageClassifier) -> str:
    if network.library == "torchvision":
        import torchvision

        return str(torchvision.models.get_model_weights(network.name)["DEFAULT"].url)
    config = getattr(network.model, "pretrained_cfg", {})
    hub = config.get("hf_hub_id")
    return f"https://huggingface.co/{hub}" if hub else str(config.get("url") or "them")


def _fit(network: ImageClassifier, state: State, source: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The network's own state with everything of ``state``, and the layers that keep their random weights."""
    own = network.model.state_dict()
    head = last_layer(network.model) + "."
    first = first_convolution(network.model) + ".weight"
    given = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    if first in given and given[first].ndim == 4:
        given[first] = _for_channels(given[first], own[first].shape[1])
    for key in POSITIONS:
        if key in given and key in own and given[key].shape != own[key].shape:
            given[key] = _resized_positions(given[key], own[key].shape[1])
    unfit = [k for k in own if k not in given or given[k].shape != own[k].shape]
    new_head = [k for k in unfit if k.startswith(head)]
    problems = [k for k in unfit if not k.startswith(head)] + [k for k in given if k not in own]
    if problems:
        shown = ", ".join(problems[:NAMED_KEYS]) + (", …" if len(problems) > NAMED_KEYS else "")
        raise CheckpointError(
            f"{source}: of another network than {network.library}/{network.name}: {len(problems)} of {len(own)} "
            f"weights do not fit ({shown}). Name the backbone that they were made for, with its options and image_size."
        )
    # Half a head would be worse than none: weight and bias go together.
    taken = {k: v for k, v in given.items() if not (new_head and k.startswith(head))}
    return own | taken, [head.removesuffix(".")] if new_head else []


def _for_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Weights (out, 3, h, w) for another number of channels, the answer to equal channels being the same."""
    given = weight.shape[1]
    if given == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // given), 1, 1)[:, :channels]
    return repeated * (given / channels)


def _resized_positions(positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """Positions of a ViT, (1, 1 + n², width), the class token's first, for another size of image."""
    side, wanted = round((positions.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=True)
    return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).reshape(1, wanted**2, -1)], dim=1)
