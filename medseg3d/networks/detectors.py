"""Detectors of torchvision by one value, with the head for a data set's classes.

Every network takes a list of images (3, h, w), already normalised and of any sizes, and in training their targets
(``boxes`` (n, 4) xyxy, ``labels`` (n,) ids from 1). It gives a dict of losses in training, and else a dict an image:
``boxes``, ``scores`` and ``labels``, in pixels of the image that it was given. The parameters have the names that
torchvision gives them, so that published weights load, and ``torch.jit.script`` exports the network.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn
from torchvision.models import mobilenet_v3_large, resnet, vgg16
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from medseg3d.errors import UsageError
from medseg3d.networks.anchors import Anchors
from medseg3d.networks.detector_heads import (
    AsGiven,
    Float32BoxPredictor,
    Float32FcosHead,
    Float32RetinaNetHead,
    Float32RpnHead,
    Float32SsdHead,
    Float32SsdLiteHead,
    NoExtraLevel,
)

__all__ = ["ARCHITECTURES", "BACKBONES", "Architecture", "Backbone", "detector"]

Architecture = Literal["retinanet", "fcos", "faster_rcnn", "ssd300", "ssdlite"]
Backbone = Literal["resnet10", "resnet18", "resnet34", "resnet50", "mobilenet_v3_large"]
Shapes = list[list[tuple[float, float]]]

ARCHITECTURES = ("retinanet", "fcos", "faster_rcnn", "ssd300", "ssdlite")
BACKBONES = ("resnet10", "resnet18", "resnet34", "resnet50", "mobilenet_v3_large")
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "frozen_batch": FrozenBatchNorm2d,
    "group": partial(nn.GroupNorm, 8),
}
BACKBONE_LEVELS = range(2, 6)
# Side of an anchor over the stride of its level, as published: COCO's objects are larger than cells of the pyramid.
RETINANET_SIDE, FASTER_RCNN_SIDE = 4, 8


def detector(
    *,
    architecture: Architecture,
    out_channels: int,
    in_channels: int = 3,
    backbone: Backbone = "resnet18",
    levels: Sequence[int] = (3, 4, 5, 6, 7),
    fpn_channels: int = 256,
    head_convs: int = 4,
    norm: Literal["batch", "frozen_batch", "group"] = "batch",
    anchors_per_cell: int = 9,
    score_threshold: float = 0.05,
    nms_iou: float = 0.5,
    max_detections: int = 300,
) -> nn.Module:
    """A detector with random weights.

    Args:
        architecture: ``retinanet``, ``fcos`` (no anchor boxes) and ``faster_rcnn`` (two stages) on a feature pyramid;
            ``ssd300`` (VGG16) and ``ssdlite`` (MobileNetV3), which resize every image to 300 and 320 pixels and
            ignore the arguments of backbone and pyramid.
        out_channels: one more than the highest label id, 0 being the background.
        in_channels: 3, always: grey images are repeated to three channels.
        backbone: under the pyramid. ``resnet10`` is ResNet-18 with one block a stage, for training on a CPU.
        levels: of the pyramid; level k has a cell every 2**k pixels. 2 to 5 are the backbone's; after them one or two
            more may follow, made by further strides.
        fpn_channels: of the pyramid and the head; a multiple of 32.
        head_convs: convolutions of each branch of FCOS's head; RetinaNet's has four.
        norm: of the backbone. ``group`` for batches of one or two images, ``frozen_batch`` to fine-tune published
            weights.
        anchors_per_cell: of RetinaNet and Faster R-CNN; ``fit_anchors`` gives them shapes.
        score_threshold: detections below it are not returned.
        nms_iou: of two detections of a class that overlap more than this the lower-scored is dropped.
        max_detections: most detections an image.

    Raises:
        UsageError: an unknown name, or levels that the pyramid cannot have.
    """
    _require(architecture, ARCHITECTURES, "architecture")
    _require(backbone, BACKBONES, "backbone")
    _require(norm, tuple(NORMS), "norm")
    if in_channels != 3:
        raise UsageError(f"in_channels is {in_channels}; detectors take 3: load grey images with channels=3.")
    limits = {"score_thresh": score_threshold, "nms_thresh": nms_iou, "detections_per_img": max_detections}
    if architecture == "ssd300":
        return _ssd300(out_channels, limits)
    if architecture == "ssdlite":
        return _ssdlite(out_channels, limits)
    levels = _checked_levels(levels, most_extra=1 if architecture == "faster_rcnn" else 2)
    if fpn_channels % 32:
        raise UsageError(f"fpn_channels is {fpn_channels}; the head normalises in 32 groups: take a multiple of 32.")
    pyramid = _pyramid(architecture, backbone, levels, fpn_channels, NORMS[norm])
    if architecture == "fcos":
        network = _fcos(pyramid, out_channels, levels, head_convs, limits)
    elif architecture == "retinanet":
        network = _retinanet(pyramid, out_channels, levels, anchors_per_cell, limits)
    else:
        network = _faster_rcnn(pyramid, out_channels, levels, anchors_per_cell, limits)
    network.transform = AsGiven(1, 1, [0.0] * 3, [1.0] * 3)
    return network


def _fcos(pyramid: nn.Module, out_channels: int, levels: Sequence[int], convs: int, limits: dict[str, Any]) -> FCOS:
    anchors = Anchors([[(2.0**level, 2.0**level)] for level in levels])
    head = Float32FcosHead(pyramid.out_channels, 1, out_channels, convs)
    return FCOS(pyramid, out_channels, anchor_generator=anchors, head=head, **limits)


def _retinanet(
    pyramid: nn.Module, out_channels: int, levels: Sequence[int], count: int, limits: dict[str, Any]
) -> RetinaNet:
    anchors = Anchors([_shapes(RETINANET_SIDE * 2**level, count) for level in levels])
    head = Float32RetinaNetHead(pyramid.out_channels, count, out_channels, norm_layer=partial(nn.GroupNorm, 32))
    return RetinaNet(pyramid, out_channels, anchor_generator=anchors, head=head, **limits)


def _faster_rcnn(
    pyramid: nn.Module, out_channels: int, levels: Sequence[int], count: int, limits: dict[str, Any]
) -> FasterRCNN:
    # The last level, when it is made by pooling, proposes regions but is too coarse to pool features from.
    pooled = [str(i) for i, level in enumerate(levels) if level in BACKBONE_LEVELS]
    return FasterRCNN(
        pyramid,
        rpn_anchor_generator=Anchors([_shapes(FASTER_RCNN_SIDE * 2**level, count) for level in levels]),
        rpn_head=Float32RpnHead(pyramid.out_channels, count),
        box_roi_pool=MultiScaleRoIAlign(featmap_names=pooled, output_size=7, sampling_ratio=2),
        box_predictor=Float32BoxPredictor(1024, out_channels),
        **{f"box_{name}": value for name, value in limits.items()},
    )


def _ssd300(out_channels: int, limits: dict[str, Any]) -> SSD:
    features = SSDFeatureExtractorVGG(vgg16(weights=None).features, highres=False)
    defaults = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    anchors = Anchors(_default_shapes(defaults, 300), defaults.steps)
    head = Float32SsdHead(retrieve_out_channels(features, (300, 300)), anchors.counts, out_channels)
    return _ssd(features, anchors, (300, 300), out_channels, head, limits)


def _ssdlite(out_channels: int, limits: dict[str, Any]) -> SSD:
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    body = mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=True).features
    features = SSDLiteFeatureExtractorMobileNet(body, _strided(body)[-1], norm)
    defaults = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    anchors = Anchors(_default_shapes(defaults, 320), [320 / cells for cells in (20, 10, 5, 3, 2, 1)])
    head = Float32SsdLiteHead(retrieve_out_channels(features, (320, 320)), anchors.counts, out_channels, norm)
    return _ssd(features, anchors, (320, 320), out_channels, head, limits)


def _ssd(
    features: nn.Module,
    anchors: Anchors,
    size: tuple[int, int],
    out_channels: int,
    head: nn.Module,
    limits: dict[str, Any],
) -> SSD:
    normalised = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return SSD(features, anchors, size, out_channels, head=head, **normalised, **limits)


def _pyramid(
    architecture: Architecture, backbone: Backbone, levels: Sequence[int], channels: int, norm: Callable[..., nn.Module]
) -> BackboneWithFPN:
    body, names, widths = _backbone(backbone, norm)
    own = [level for level in levels if level in BACKBONE_LEVELS]
    extra: ExtraFPNBlock
    match len(levels) - len(own):
        case 0:
            extra = NoExtraLevel()
        case 1:
            extra = LastLevelMaxPool()
        case _:
            # As published: RetinaNet strides on from the backbone, FCOS from the pyramid.
            extra = LastLevelP6P7(widths[own[-1]] if architecture == "retinanet" else channels, channels)
    returned = {names[level]: str(i) for i, level in enumerate(own)}
    return BackboneWithFPN(body, returned, [widths[level] for level in own], channels, extra_blocks=extra)


def _backbone(name: Backbone, norm: Callable[..., nn.Module]) -> tuple[nn.Module, dict[int, str], dict[int, int]]:
    """The network, and for each level of the pyramid the name and the channels of the layer that gives it."""
    if name == "mobilenet_v3_large":
        body = mobilenet_v3_large(weights=None, norm_layer=norm).features
        # The last block before the next that halves the image.
        ends = dict(zip(BACKBONE_LEVELS, [i - 1 for i in _strided(body)[2:]] + [len(body) - 1], strict=True))
        widths = {level: int(body[end].out_channels) for level, end in ends.items()}
        return body, {level: str(end) for level, end in ends.items()}, widths
    if name == "resnet10":
        body = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    else:
        body = getattr(resnet, name)(weights=None, norm_layer=norm)
    first = body.inplanes // 8
    widths = {level: first * 2**i for i, level in enumerate(BACKBONE_LEVELS)}
    return body, {level: f"layer{level - 1}" for level in BACKBONE_LEVELS}, widths


def _strided(body: nn.Sequential) -> list[int]:
    """Places of MobileNet's blocks that halve the image, and of the first convolution, which does too."""
    return [0] + [i for i, block in enumerate(body) if getattr(block, "_is_cn", False)]


def _shapes(side: float, count: int) -> list[tuple[float, float]]:
    """Anchors of one level as published: three ratios, and as many sizes within an octave as fit into ``count``.

    A count that is no multiple of three gives squares. The order is torchvision's: ratios first, then sizes.
    """
    ratios = (0.5, 1.0, 2.0) if count % 3 == 0 else (1.0,)
    steps = count // len(ratios)
    sides = [int(side * 2 ** (i / steps)) for i in range(steps)]
    return [(2.0 * round(s * r**-0.5 / 2), 2.0 * round(s * r**0.5 / 2)) for r in ratios for s in sides]


def _default_shapes(generator: DefaultBoxGenerator, size: int) -> Shapes:
    return [[(float(w) * size, float(h) * size) for w, h in level.clamp(0, 1)] for level in generator._wh_pairs]


def _checked_levels(levels: Sequence[int], *, most_extra: int) -> list[int]:
    levels = list(levels)
    own = [level for level in levels if level in BACKBONE_LEVELS]
    consecutive = levels == list(range(levels[0], levels[0] + len(levels))) if levels else False
    extra = len(levels) - len(own)
    if not own or not consecutive or extra > most_extra or (extra and own[-1] != BACKBONE_LEVELS[-1]):
        raise UsageError(
            f"levels are {levels}; wanted are consecutive ones that begin at 2 to 5, such as [3, 4, 5], "
            f"and end at {BACKBONE_LEVELS[-1] + most_extra} at most."
        )
    return levels


def _require(value: str, known: Sequence[str], name: str) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; there are {', '.join(known)}.")
