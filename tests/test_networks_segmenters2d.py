"""Networks for 2D segmentation: each builds, learns a step, takes any size, exports, and takes weights over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medseg3d.errors import CheckpointError, ConfigError, UsageError
from medseg3d.networks import segmenter2d
from medseg3d.networks.segmenter_weights import load_segmenter_weights
from medseg3d.networks.segmenters2d import TORCHVISION, SegmentationNetwork

NARROW = (4, 8, 16, 32, 32)
SMP = ("unet:resnet18", "unetplusplus:mobilenet_v2", "fpn:tu-resnet18", "deeplabv3plus:resnet18")
SMALL_TORCHVISION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
SMALL = ("unet", *SMP, *SMALL_TORCHVISION)


def make(architecture: str, **options) -> SegmentationNetwork:
    torch.manual_seed(0)
    return segmenter2d(architecture, **({"filters": NARROW} if architecture == "unet" else {}), **options)


@pytest.mark.parametrize("architecture", SMALL)
def test_odd_sizes_give_logits_of_their_own_size(architecture):
    network = make(architecture, in_channels=3, out_channels=4).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 65, 47)).shape == (2, 4, 65, 47)
        assert network(torch.randn(1, 3, 7, 40)).shape == (1, 4, 7, 40)


@pytest.mark.parametrize("architecture", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_large_networks_of_torchvision_build(architecture):
    network = make(architecture, in_channels=1, out_channels=2).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 33, 40)).shape == (1, 2, 33, 40)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_step_moves_every_parameter_that_learns(architecture):
    network = make(architecture)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(2):  # ReLU units that one image leaves silent
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(2, 1, 64, 64)), torch.randint(0, 2, (2, 64, 64))).backward()
        optimizer.step()
    still = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert still == []


@pytest.mark.parametrize("architecture", SMALL)
def test_a_frozen_encoder_stands_still_and_the_rest_moves(architecture):
    network = make(architecture, freeze_encoder=True).train()
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    nn.functional.cross_entropy(network(torch.randn(2, 1, 64, 64)), torch.randint(0, 2, (2, 64, 64))).backward()
    optimizer.step()
    frozen = ("network.encoder.", "network.network.backbone.", "network.conv_0.", "network.down_")
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith(frozen)]


@pytest.mark.parametrize("architecture", SMALL)
def test_exported_and_loaded_strictly_it_computes_the_same(architecture, tmp_path: Path):
    network = make(architecture).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    again = segmenter2d(architecture, **({"filters": NARROW} if architecture == "unet" else {})).eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    image = torch.randn(1, 1, 50, 33)
    # UNet++ of segmentation-models-pytorch cannot be scripted: it is traced, for images of one size.
    exported = torch.jit.trace(again, image) if "plusplus" in architecture else torch.jit.script(again)
    exported.save(tmp_path / "model.ts")
    with torch.no_grad():
        assert torch.allclose(torch.jit.load(tmp_path / "model.ts")(image), network(image), atol=1e-5)


def test_up_sampling_is_transposed_or_bilinear():
    transposed, bilinear = (make("unet", upsample=name) for name in ("transposed", "bilinear"))
    assert any(isinstance(module, nn.ConvTranspose2d) for module in transposed.modules())
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in bilinear.modules())
    assert any(isinstance(m, nn.Upsample) and m.mode == "bilinear" for m in bilinear.modules())


def test_the_unet_goes_from_64_to_512_channels():
    encoder = [m.out_channels for name, m in segmenter2d("unet").named_modules() if name.endswith("conv_1.conv")]
    assert encoder[:5] == [64, 128, 256, 512, 512]


def test_a_grey_image_sees_the_colour_weights_of_three_equal_channels(tmp_path: Path):
    colour = make("unet:resnet18", in_channels=3)
    torch.save(colour.state_dict(), tmp_path / "colour.pt")
    grey = load_segmenter_weights(segmenter2d("unet:resnet18"), weights=tmp_path / "colour.pt")
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(grey.eval()(image), colour.eval()(image.expand(-1, 3, -1, -1)), atol=1e-4)


def test_a_published_encoder_is_taken_from_a_file(tmp_path: Path):
    from torchvision.models import resnet18

    published = resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    network = segmenter2d("unet:resnet18", in_channels=3)
    load_segmenter_weights(network, weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(network.network.encoder.layer3[0].conv1.weight, published.layer3[0].conv1.weight)


def test_published_weights_of_torchvision_leave_the_head_alone(tmp_path: Path):
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    published = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(published.state_dict(), tmp_path / "coco.pth")
    network = segmenter2d("deeplabv3_mobilenet_v3_large", in_channels=3, out_channels=2)
    load_segmenter_weights(network, weights=tmp_path / "coco.pth")
    inner = network.network.network
    assert torch.equal(inner.classifier[0].project[0].weight, published.classifier[0].project[0].weight)
    assert inner.classifier[-1].weight.shape[0] == 2


def test_weights_of_another_network_are_refused(tmp_path: Path):
    torch.save(make("unet:resnet18").state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(
        CheckpointError, match=r"resnet18.pt: weights of another network; \d+ of \d+ tensors are missing"
    ):
        load_segmenter_weights(make("unet:mobilenet_v2"), weights=tmp_path / "resnet18.pt")


@pytest.mark.parametrize("architecture", ["unet:resnet18", "lraspp_mobilenet_v3_large"])
def test_without_a_network_published_weights_are_explained(architecture, monkeypatch: pytest.MonkeyPatch):
    import segmentation_models_pytorch.encoders
    from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(segmentation_models_pytorch.encoders, "get_encoder", unreachable)
    monkeypatch.setattr(LRASPP_MobileNet_V3_Large_Weights, "get_state_dict", unreachable)
    with pytest.raises(
        CheckpointError, match=r"could not be fetched \(Name or service not known\). Is there a network"
    ):
        load_segmenter_weights(make(architecture), pretrained=True)


def test_published_encoders_and_networks_are_taken_over(monkeypatch: pytest.MonkeyPatch):
    import segmentation_models_pytorch.encoders
    from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large

    encoder = segmentation_models_pytorch.encoders.get_encoder("tu-resnet18", weights=None)
    monkeypatch.setattr(segmentation_models_pytorch.encoders, "get_encoder", lambda *_, **__: encoder)
    unet = load_segmenter_weights(make("unet:tu-resnet18", in_channels=3), pretrained="true")
    assert all(
        torch.equal(value, unet.network.encoder.state_dict()[name]) for name, value in encoder.state_dict().items()
    )
    whole = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).state_dict()
    monkeypatch.setattr(LRASPP_MobileNet_V3_Large_Weights, "get_state_dict", lambda *_, **__: whole)
    lraspp = load_segmenter_weights(make("lraspp_mobilenet_v3_large", in_channels=3), pretrained=True).network.network
    assert torch.equal(lraspp.classifier.cbr[0].weight, whole["classifier.cbr.0.weight"])
    assert torch.equal(lraspp.backbone["4"].block[0][0].weight, whole["backbone.4.block.0.0.weight"])


def test_one_source_of_weights_at_a_time():
    with pytest.raises(UsageError, match="Both pretrained and initial_weights"):
        load_segmenter_weights(make("unet"), pretrained=True, weights="model.pt")
    with pytest.raises(UsageError, match="unet has no published weights"):
        load_segmenter_weights(make("unet"), pretrained=True)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("unett", {}, "There is no architecture 'unett'. There are unet; deeplabv3plus, fpn"),
        ("unet:resnot", {}, "unet:resnot cannot be made"),
        ("unet", {"filters": (8, 8)}, "unet has 5 levels"),
        ("unet", {"upsample": "cubic"}, "upsample is 'cubic'; there are transposed and bilinear"),
    ],
)
def test_what_cannot_be_made_is_refused(architecture, options, message):
    with pytest.raises(ConfigError, match=message):
        segmenter2d(architecture, **options)


def test_every_name_of_torchvision_is_there():
    from torchvision.models import list_models

    assert set(TORCHVISION) == {name for name in list_models() if name.startswith(("deeplabv3", "fcn", "lraspp"))}
