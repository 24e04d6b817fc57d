"""Published weights to start a detector from: downloaded, or from a file; the head for the classes stays random."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_V2_Weights,
    SSD300_VGG16_Weights,
    SSDLite320_MobileNet_V3_Large_Weights,
)

from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.errors import CheckpointError, UsageError
from medseg3d.options import flag
from medseg3d.transforms2d import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["load_detector_weights"]

logger = logging.getLogger("medseg3d")

State = dict[str, torch.Tensor]

# Detectors published as trained on COCO; the SSDs have backbones of their own.
COCO: dict[tuple[str, str], Any] = {
    ("fcos", "resnet50"): FCOS_ResNet50_FPN_Weights,
    ("retinanet", "resnet50"): RetinaNet_ResNet50_FPN_V2_Weights,
    ("faster_rcnn", "resnet50"): FasterRCNN_ResNet50_FPN_Weights,
}
COCO_SSD: dict[str, Any] = {"ssd300": SSD300_VGG16_Weights, "ssdlite": SSDLite320_MobileNet_V3_Large_Weights}
# What depends on classes or anchors, or counts batches: may be absent, or of another shape and then stays as it is.
OWN = re.compile(
    r"cls_logits|cls_score|bbox_reg\.|bbox_pred|(classification|regression)_head\.module_list|anchor_generator\."
    r"|num_batches_tracked$"
)
# Our networks alone have their anchors in the state dict: such weights know normalised images already.
OURS = "anchor_generator.shapes"
BODY = "backbone.body."
STATE_KEYS = ("network", "model", "state_dict")
CLASSIFIER = ("fc.", "classifier.")  # the last layers of torchvision's ResNets and MobileNets
NAMED_KEYS = 3


def load_detector_weights(
    network: nn.Module,
    *,
    architecture: str,
    backbone: str,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
) -> nn.Module:
    """Start a detector from published weights or from a file; without either it stays as it is.

    Args:
        network: by ``detector``; changed in place.
        architecture, backbone: as given to ``detector``.
        pretrained: take torchvision's weights from its cache or the internet: of the whole detector, trained on COCO,
            where it was published with this backbone (ResNet-50 with the default pyramid, and both SSDs), else of the
            backbone, trained on ImageNet.
        weights: a file with either of these instead, or of a detector trained here, perhaps for other classes.

    Returns:
        ``network``.

    Raises:
        CheckpointError: the weights cannot be fetched or read, or are of another network.
        UsageError: both are asked for, or nothing was published for this backbone.
    """
    wanted = flag(pretrained, "pretrained")
    if wanted and weights:
        raise UsageError("Both pretrained and initial_weights are asked for; leave one of them out.")
    if not wanted and not weights:
        return network
    if weights:
        state, source = _read(Path(weights)), str(weights)
    else:
        state, source = _download(architecture, backbone)
    own = network.state_dict()
    taken = _fitting(own, _named_as_ours(state), source)
    if architecture in COCO_SSD and not any(key.endswith(OURS) for key in state):
        taken = _for_normalised_images(taken, architecture)
    network.load_state_dict(own | taken)
    logger.info("Started from %s: %d of %d tensors; the others are new.", source, len(taken), len(own))
    return network


def _download(architecture: str, backbone: str) -> tuple[State, str]:
    published = COCO_SSD.get(architecture) or COCO.get((architecture, backbone))
    what = f"{architecture} on COCO" if published else f"{backbone} on ImageNet"
    try:
        chosen = (published or get_model_weights(backbone)).DEFAULT
    except ValueError as error:
        raise UsageError(
            f"No weights of {backbone} are published. Take another backbone, such as resnet18, or --pretrained false."
        ) from error
    try:
        return chosen.get_state_dict(progress=False, check_hash=True), f"the published weights of {what}"
    except (OSError, RuntimeError, ValueError) as error:  # no network is a URLError, a damaged download a RuntimeError
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"The published weights of {what} could not be fetched ({reason}). Is there a network? Without one, "
            f"download {chosen.url} elsewhere and give the file (--initial_weights FILE), or start from random weights "
            "(--pretrained false)."
        ) from error


def _read(path: Path) -> State:
    content: Any = load_checkpoint(path)
    content = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _named_as_ours(state: State) -> State:
    """A classifier's weights under the names that they have below a pyramid; a detector's as they are."""
    if any(key.startswith("backbone.") for key in state):
        return state
    return {BODY + k.removeprefix("features."): v for k, v in state.items() if not k.startswith(CLASSIFIER)}


def _fitting(own: State, state: State, source: str) -> State:
    """The part of ``state`` to take.

    Raises:
        CheckpointError: something of the network that does not depend on the classes is missing or of another shape.
    """
    whole = any(not key.startswith(BODY) for key in state)
    wanted = [key for key in own if (whole or key.startswith(BODY)) and not OWN.search(key)]
    unfit = [key for key in wanted if key not in state or state[key].shape != own[key].shape]
    unfit += [key for key in state if key not in own and not OWN.search(key)]
    if unfit or not state:
        shown = ", ".join(unfit[:NAMED_KEYS]) + (", …" if len(unfit) > NAMED_KEYS else "")
        raise CheckpointError(
            f"{source}: of another network: {len(unfit)} weights do not fit, {len(wanted)} are wanted ({shown}). Give "
            "architecture, backbone, levels, fpn_channels and head_convs as they were trained; detectors on COCO have "
            "256 channels, 4 convolutions and the levels 3 to 7 (faster_rcnn: 2 to 6, 3 anchors a cell)."
        )
    return {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}


def _for_normalised_images(state: State, architecture: str) -> State:
    """Weights of an SSD changed so that it answers images normalised for ImageNet as it answered its own.

    SSD300 was trained on pixels 0 to 255 less their mean, SSDLite on -1 to 1. The first convolution takes up the
    scale, and SSDLite's first normalisation the shift; SSD300's means differ by 0.003, which is left out.
    """
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if architecture == "ssd300":
        first = "backbone.features.0.weight"
        return state | {first: state[first] * (255 * std).reshape(1, 3, 1, 1)}
    first, shifted = "backbone.features.0.0.0.weight", "backbone.features.0.0.1.running_mean"
    shift = (state[first].sum(dim=(2, 3)) * (mean - 0.5) / 0.5).sum(dim=1)
    return state | {first: state[first] * (std / 0.5).reshape(1, 3, 1, 1), shifted: state[shifted] - shift}
