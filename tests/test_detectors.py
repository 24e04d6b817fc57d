"""Detectors: each builds, learns a step, exports, loads its weights; published ones fit; anchors cover boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import detection, resnet18
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from medseg3d.errors import CheckpointError, DataListError, UsageError
from medseg3d.inference import load_weights
from medseg3d.networks.anchors import Anchors, best_overlaps, cluster_shapes, fit_anchors
from medseg3d.networks.detector_weights import load_detector_weights
from medseg3d.networks.detectors import detector
from medseg3d.transforms2d import IMAGENET_MEAN, IMAGENET_STD

SMALL: dict[str, dict[str, Any]] = {
    "fcos": {"backbone": "resnet10", "levels": [3, 4, 5], "fpn_channels": 32, "head_convs": 1},
    "retinanet": {"levels": [3, 4, 5, 6, 7], "fpn_channels": 32, "anchors_per_cell": 3, "norm": "group"},
    "faster_rcnn": {"backbone": "mobilenet_v3_large", "levels": [3, 4, 5, 6], "fpn_channels": 32},
    "ssd300": {},
    "ssdlite": {},
}
# Published configurations, torchvision's own builder, and the size of an image that ours leaves as it is.
PUBLISHED: dict[str, tuple[dict[str, Any], Any, int]] = {
    "fcos": ({"backbone": "resnet50"}, detection.fcos_resnet50_fpn, 128),
    "retinanet": ({"backbone": "resnet50"}, detection.retinanet_resnet50_fpn_v2, 128),
    "faster_rcnn": (
        {"backbone": "resnet50", "levels": [2, 3, 4, 5, 6], "anchors_per_cell": 3},
        detection.fasterrcnn_resnet50_fpn,
        128,
    ),
    "ssd300": ({}, detection.ssd300_vgg16, 300),
    "ssdlite": ({}, detection.ssdlite320_mobilenet_v3_large, 320),
}


def small(architecture: str, **arguments: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return detector(architecture=architecture, out_channels=4, **(SMALL[architecture] | arguments))


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two images of different sizes, the second without a box."""
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 96, 120, generator=rng), torch.randn(3, 64, 64, generator=rng)]
    boxes = torch.tensor([[5.0, 5, 40, 40], [50, 20, 80, 90]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 3])}, empty]


def anchors_of(network: torch.nn.Module) -> Anchors:
    return next(module for module in network.modules() if isinstance(module, Anchors))


@pytest.mark.parametrize("architecture", SMALL)
def test_each_detector_learns_a_step_exports_and_loads_its_weights(architecture: str, tmp_path: Path) -> None:
    network = small(architecture)
    images, targets = batch()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network.train()(images, targets)
    # In bfloat16 a corner at 300 could not be told from its neighbour: boxes and losses are float32.
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    optimizer.step()
    # Biases of coarse levels may have no gradient where only finer ones match a box.
    weights = {name: weight for name, weight in network.named_parameters() if weight.ndim > 1}
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []

    network.eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    again = small(architecture)
    anchors_of(again).shapes.mul_(2)  # other anchors: those in the file count
    load_weights(again, tmp_path / "model.pt")
    scripted = torch.jit.script(network)
    with torch.no_grad():
        expected, loaded, (_, exported) = network(images), again.eval()(images), scripted(images)
    assert sum(len(result["boxes"]) for result in expected) > 0 or architecture == "retinanet"
    for one, two, three in zip(expected, loaded, exported, strict=True):
        assert set(one) == {"boxes", "scores", "labels"}
        assert (one["labels"] >= 1).all()  # 0 is the background
        for key, value in one.items():
            torch.testing.assert_close(two[key], value)
            torch.testing.assert_close(three[key], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["fcos", "retinanet"])
def test_a_detector_learns_one_image_by_heart(architecture: str) -> None:
    network = small(architecture, norm="group", levels=[3, 4, 5], score_threshold=0.3)
    image = torch.zeros(3, 96, 96)
    boxes = torch.tensor([[8.0, 8, 40, 40], [50, 40, 90, 88]])
    for (left, top, right, bottom), value in zip(boxes.int().tolist(), (1.0, -1.0), strict=True):
        image[:, top:bottom, left:right] = value
    target = {"boxes": boxes, "labels": torch.tensor([1, 3])}
    fit_anchors(network, [target])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(network.train()([image], [target]).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = network.eval()([image])[0]
    overlaps = box_iou(found["boxes"], boxes)
    assert overlaps.max(dim=0).values.min() > 0.7
    best = overlaps.argmax(dim=0)
    assert found["labels"][best].tolist() == [1, 3]


def test_images_are_taken_as_they_are_in_training_and_evaluation() -> None:
    network = small("fcos")
    images, _ = batch()
    for mode in (True, False):
        given, _ = network.train(mode).transform(images)
        assert given.tensors.shape == (2, 3, 96, 128)
        assert torch.equal(given.tensors[0, :, :96, :120], images[0])
        assert given.image_sizes == [(96, 120), (64, 64)]


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_published_weights_fit_and_give_the_published_features_and_anchors(architecture: str, tmp_path: Path) -> None:
    arguments, builder, side = PUBLISHED[architecture]
    torch.manual_seed(0)
    published = builder(weights=None, weights_backbone=None, num_classes=91).eval()
    file = tmp_path / "published.pth"
    torch.save(published.state_dict(), file)
    ours = detector(architecture=architecture, out_channels=4, norm="frozen_batch", **arguments)
    random_head = {k: v.clone() for k, v in ours.state_dict().items() if "cls_logits" in k or "cls_score" in k}
    backbone = arguments.get("backbone", "resnet18")
    assert load_detector_weights(ours, architecture=architecture, backbone=backbone, weights=file) is ours
    ours.eval()
    if architecture != "faster_rcnn":  # its proposals know no classes: that layer is taken
        assert all(torch.equal(ours.state_dict()[k], v) for k, v in random_head.items())

    image = torch.rand(3, side, side)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (image - mean) / std
    own_range = published.transform.normalize(image) if architecture.startswith("ssd") else normalised
    with torch.no_grad():
        expected, features = (
            list(network.backbone(pixels[None]).values())
            for network, pixels in ((published, own_range), (ours, normalised))
        )
    for one, two in zip(expected, features, strict=True):
        # SSD: the borders are padded with another grey.
        assert (one - two).abs().max() <= (0.03 if architecture.startswith("ssd") else 1e-4) * one.abs().max()
    images = ImageList(image[None], [(side, side)])
    generators = [(n.rpn if architecture == "faster_rcnn" else n).anchor_generator for n in (published, ours)]
    torch.testing.assert_close(*(g(images, expected)[0] for g in generators), atol=1e-3, rtol=0)


def test_weights_of_a_classifier_go_into_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    network = small("retinanet", norm="batch")
    load_detector_weights(network, architecture="retinanet", backbone="resnet18", weights=tmp_path / "resnet18.pth")
    assert torch.equal(network.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)
    with pytest.raises(CheckpointError, match=r"resnet18\.pth: of another network: .* weights do not fit"):
        load_detector_weights(
            small("fcos"), architecture="fcos", backbone="resnet10", weights=tmp_path / "resnet18.pth"
        )


def test_pretrained_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    network = small("retinanet", norm="batch")
    with pytest.raises(
        CheckpointError, match=r"resnet18 on ImageNet could not be fetched .*download https://.*elsewhere"
    ):
        load_detector_weights(network, architecture="retinanet", backbone="resnet18", pretrained="true")
    with pytest.raises(UsageError, match="No weights of resnet10 are published"):
        load_detector_weights(network, architecture="fcos", backbone="resnet10", pretrained=True)
    with pytest.raises(UsageError, match="leave one of them out"):
        load_detector_weights(network, architecture="fcos", backbone="x", pretrained=True, weights="x.pt")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_detector_weights(network, architecture="fcos", backbone="resnet18", pretrained=False)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "yolo"}, "architecture is 'yolo'; there are retinanet, fcos"),
        ({"backbone": "resnet19"}, "backbone is 'resnet19'; there are resnet10"),
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"levels": [3, 5]}, r"levels are \[3, 5\]; wanted are consecutive"),
        ({"levels": [3, 4, 6]}, "wanted are consecutive"),
        ({"levels": [6, 7]}, "that begin at 2 to 5"),
        ({"levels": [3, 4, 5, 6, 7], "architecture": "faster_rcnn"}, "end at 6 at most"),
        ({"levels": []}, "wanted are consecutive"),
        ({"fpn_channels": 48}, "fpn_channels is 48"),
    ],
)
def test_what_no_detector_can_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        detector(**({"architecture": "fcos", "out_channels": 2} | arguments))


def test_clusters_are_the_shapes_that_boxes_have() -> None:
    sizes = np.array([[10.0, 10], [11, 11], [12, 12], [40, 20], [42, 20], [44, 20], [90, 90]])
    shapes = cluster_shapes(sizes, 3)
    assert shapes.tolist() == [[11, 11], [42, 20], [90, 90]]
    assert best_overlaps(sizes, shapes).mean() > 0.9
    assert cluster_shapes(sizes[:1], 4).tolist() == [[10, 10]] * 4


def test_anchors_fitted_to_boxes_cover_them_and_are_part_of_the_weights() -> None:
    rng = np.random.default_rng(0)
    sides = rng.lognormal(np.log(30), 0.4, (200, 2))
    targets = [{"boxes": np.hstack([np.zeros((200, 2)), sides])}]
    network = small("retinanet")
    before = best_overlaps(sides, anchors_of(network).shapes.numpy()).mean()
    shapes = fit_anchors(network, targets)
    assert best_overlaps(sides, shapes).mean() > max(0.75, before + 0.1)
    assert torch.equal(network.state_dict()["anchor_generator.shapes"], torch.from_numpy(shapes).float())
    with pytest.raises(DataListError, match="No training image has a box"):
        fit_anchors(network, [{"boxes": np.zeros((0, 4))}])


def test_anchors_of_an_ssd_are_fitted_to_boxes_at_its_own_size() -> None:
    network = small("ssdlite")  # 320 × 320, whatever the image
    target = {"image": torch.zeros(3, 80, 160), "boxes": np.array([[10.0, 10, 20, 30]])}
    assert np.unique(fit_anchors(network, [target]), axis=0).tolist() == [[20, 80]]


def test_fcos_has_no_anchors_to_fit() -> None:
    network = small("fcos")
    fit_anchors(network, [{"boxes": np.array([[0.0, 0, 7, 9]])}])
    assert anchors_of(network).shapes.tolist() == [[8, 8], [16, 16], [32, 32]]
