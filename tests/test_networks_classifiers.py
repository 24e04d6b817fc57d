"""Classifiers by name: they build, train a step, export, load back strictly, and start from published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch.nn import functional

from medseg3d.errors import CheckpointError, ConfigError, UsageError
from medseg3d.freezing import stages_of
from medseg3d.inference import load_weights
from medseg3d.networks import ImageClassifier, load_initial_weights
from medseg3d.networks.classifiers import first_convolution, last_layer

SMALL_RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 8, 16, 32]}
# backbone, size of image, options; every family that the issue names, as small as it comes.
BACKBONES: list[tuple[str, int, dict[str, Any]]] = [
    ("torchvision/resnet18", 64, {}),
    ("torchvision/resnet50", 64, {}),
    ("torchvision/mobilenet_v2", 64, {}),
    ("torchvision/efficientnet_b0", 64, {}),
    ("torchvision/convnext_tiny", 64, {}),
    ("torchvision/inception_v3", 80, {}),
    ("torchvision/vit_b_16", 32, {}),
    ("timm/mobilenetv2_100", 64, {}),
    ("timm/convnext_atto", 64, {}),
    ("timm/vit_tiny_patch16_224", 32, {}),
    ("monai/ResNet", 64, SMALL_RESNET),
    ("monai/DenseNet121", 64, {}),
    ("monai/EfficientNetBN", 64, {"model_name": "efficientnet-b0"}),
]

each_backbone = pytest.mark.parametrize(("backbone", "side", "options"), BACKBONES, ids=[b[0] for b in BACKBONES])


def make(backbone: str, side: int = 64, options: dict[str, Any] | None = None, **more: Any) -> ImageClassifier:
    arguments = {"in_channels": 1, "out_channels": 3, "image_size": (side, side)} | more
    return ImageClassifier(backbone, options=options, **arguments)


@each_backbone
def test_a_backbone_has_stages_trains_a_step_exports_and_loads_back(
    backbone: str, side: int, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make(backbone, side, options)
    stages = stages_of(network)
    assert f"model.{first_convolution(network.model)}.weight" in stages[0]
    assert f"model.{last_layer(network.model)}.weight" in stages[-1]
    assert len(stages) >= 4
    names = [name for stage in stages for name in stage]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())

    image = torch.randn(2, 1, side, side)
    head = network.model.get_parameter(last_layer(network.model) + ".weight")
    before = head.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001)
    functional.cross_entropy(network.train()(image), torch.tensor([0, 2])).backward()
    # Batch normalisation of two values has gradients without measure: a step of their size would end in NaN.
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    assert not torch.equal(head, before)

    network.eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    again = make(backbone, side, options).eval()
    load_weights(again, tmp_path / "model.pt")
    with torch.no_grad():
        expected = network(image)
        traced = torch.jit.trace(again, image)
        torch.jit.save(traced, tmp_path / "model.ts")
        assert expected.shape == (2, 3)
        assert expected.isfinite().all()
        assert torch.allclose(torch.jit.load(tmp_path / "model.ts")(image), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet18", {}, "write library/name"),
        ("keras/resnet18", {}, "write library/name"),
        ("torchvision/resnet19", {}, "Did you mean 'resnet1"),
        ("timm/convnext_tinny", {}, "Did you mean 'convnext_tiny'"),
        ("monai/DenseNet122", {}, "Did you mean '[dD]ense[nN]et"),
        ("torchvision/resnet18", {"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_an_unknown_backbone_is_named(backbone: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(backbone, options=options)


def test_an_oblong_image_is_refused_where_squares_are_wanted() -> None:
    with pytest.raises(ConfigError, match="takes square images; image_size is 32×48"):
        make("torchvision/vit_b_16", image_size=(32, 48))


def test_a_local_file_of_the_library_fits_other_channels_and_classes(tmp_path: Path) -> None:
    """As the published weights: three channels, a thousand classes."""
    torch.manual_seed(0)
    published = torchvision.models.resnet18(num_classes=10).eval()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    network = load_initial_weights(make("torchvision/resnet18"), weights=tmp_path / "resnet18.pth").eval()

    grey = torch.randn(2, 1, 64, 64)
    features = torch.nn.Sequential(*list(published.children())[:-1])
    ours = torch.nn.Sequential(*list(network.model.children())[:-1])
    with torch.no_grad():
        # One channel with summed weights answers as three equal channels do.
        assert torch.allclose(ours(grey), features(grey.repeat(1, 3, 1, 1)), atol=1e-4)
    assert network.model.fc.out_features == 3


def test_equal_classes_keep_the_head_of_the_file(tmp_path: Path) -> None:
    published = torchvision.models.resnet18(num_classes=3)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    network = load_initial_weights(make("torchvision/resnet18"), weights=tmp_path / "resnet18.pth")
    assert torch.equal(network.model.fc.weight, published.fc.weight)


def test_a_checkpoint_of_ones_own_is_a_start_too(tmp_path: Path) -> None:
    first = make("monai/ResNet", options=SMALL_RESNET, out_channels=5)
    torch.save({"network": first.state_dict(), "epoch": 3}, tmp_path / "best.pt")
    second = load_initial_weights(make("monai/ResNet", options=SMALL_RESNET), weights=tmp_path / "best.pt")
    assert torch.equal(first.model.layer4[0].conv1.weight, second.model.layer4[0].conv1.weight)


def test_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    published = make("timm/mobilenetv2_100", in_channels=3, out_channels=7)
    save_file(published.model.state_dict(), tmp_path / "model.safetensors")
    network = load_initial_weights(make("timm/mobilenetv2_100"), weights=tmp_path / "model.safetensors")
    assert torch.equal(network.model.bn1.weight, published.model.bn1.weight)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_initial_weights(network, weights=tmp_path / "model.safetensors")


def test_positions_of_a_vit_fit_another_image_size(tmp_path: Path) -> None:
    published = torchvision.models.vit_b_16(image_size=64, num_classes=4)
    torch.nn.init.normal_(published.encoder.pos_embedding)
    torch.save(published.state_dict(), tmp_path / "vit.pth")
    network = load_initial_weights(make("torchvision/vit_b_16", 32), weights=tmp_path / "vit.pth")
    expected = torchvision.models.vision_transformer.interpolate_embeddings(32, 16, published.state_dict())
    assert torch.allclose(network.model.encoder.pos_embedding, expected["encoder.pos_embedding"], atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"of another network than torchvision/resnet50: \d+ of \d+ weights"):
        load_initial_weights(make("torchvision/resnet50"), weights=tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match="no weights there"):
        load_initial_weights(make("torchvision/resnet18"), weights=tmp_path / "absent.pth")


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    network = make("torchvision/resnet18")
    with pytest.raises(CheckpointError, match=r"Is there a network\?.*resnet18-f37072fd.pth.*--initial_weights FILE"):
        load_initial_weights(network, pretrained="true")


def test_without_a_network_timm_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("timm/convnext_atto")

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("cannot find the requested files")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(CheckpointError, match=r"timm/convnext_atto could not be fetched .cannot find.*huggingface.co"):
        load_initial_weights(network, pretrained=True)


def test_monai_has_no_published_weights() -> None:
    with pytest.raises(CheckpointError, match="MONAI publishes no weights of it"):
        load_initial_weights(make("monai/ResNet", options=SMALL_RESNET), pretrained=True)


def test_only_one_start_can_be_asked_for(tmp_path: Path) -> None:
    network = make("monai/ResNet", options=SMALL_RESNET)
    with pytest.raises(UsageError, match="leave one of them out"):
        load_initial_weights(network, pretrained=True, weights=tmp_path)
    assert load_initial_weights(network) is network
