"""The residual encoder U-Net against nnU-Net's own, and any network of MONAI through ``network_def``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export

from medseg3d.errors import ConfigError
from medseg3d.losses import SegmentationLoss, StackedDeepSupervisionLoss
from medseg3d.networks import ResidualEncoderUNet

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"

# Thin slices: the first two stages neither see across slices nor merge them.
ANISOTROPIC: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 4,
    "filters": [8, 16, 24, 24],
    "kernel_size": [[1, 3, 3], 3, 3, 3],
    "strides": [1, [1, 2, 2], 2, 2],
    "blocks": [1, 2, 2, 1],
    "decoder_convs": 2,
    "deep_supervision": True,
    "deep_supr_num": 2,
}


def small(**changed: Any) -> ResidualEncoderUNet:
    options: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "filters": [4, 8, 8],
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
    }
    return ResidualEncoderUNet(**(options | changed))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Counted in ResidualEncoderUNet of dynamic-network-architectures 0.4.4 (of nnU-Net 2.8.1), with conv_bias and affine
# instance normalisation as nnU-Net's plans have them, and blocks 1, 3, 4, 6, 6, 6: the topology of preset ResEnc M.
@pytest.mark.parametrize(
    ("dims", "filters", "classes", "stem", "encoder", "decoder"),
    [
        pytest.param(
            3,
            [32, 64, 128, 256, 320, 320],
            3,
            960,
            [55488, 611584, 3329280, 20391424, 32718720, 33189120],
            [6350080, 4195328, 1147392, 286976, 71808],
            id="3d",
        ),
        pytest.param(
            2,
            [32, 64, 128, 256, 512, 512, 512],
            2,
            384,
            [18624, 206080, 1117440, 6825472, 27282432, 28329984, 28329984],
            [5769216, 5769216, 1704960, 426496, 106752, 26752],
            id="2d",
        ),
    ],
)
def test_every_stage_has_as_many_parameters_as_nnunets(dims, filters, classes, stem, encoder, decoder):
    stages = len(filters)
    with torch.device("meta"):
        network = ResidualEncoderUNet(
            dims, 1, classes, filters=filters, kernel_size=[3] * stages, strides=[1] + [2] * (stages - 1)
        )
    assert parameters(network.stem) == stem
    assert [parameters(stage) for stage in network.encoder] == encoder
    assert [parameters(stage) for stage in network.decoder] == decoder
    assert parameters(network.heads) == classes * (filters[0] + 1)


def waves(function: Any, shape: tuple[int, ...], start: int = 0) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return function(torch.arange(start, start + count, dtype=torch.float64)).float().reshape(shape)


@torch.no_grad()
def test_answers_as_nnunets_with_the_same_weights():
    """Three voxels and the mean size of each head, as dynamic-network-architectures 0.4.4 (torch 2.14.1) gives them."""
    network, start = ResidualEncoderUNet(**ANISOTROPIC), 0
    for parameter in network.parameters():
        parameter.copy_(0.1 * waves(torch.sin, tuple(parameter.shape), start))
        start += parameter.numel()
    heads = network(waves(torch.cos, (2, 2, 8, 32, 24)))
    assert heads.shape == (2, 3, 4, 8, 32, 24)
    # The lower heads of nnU-Net have their own resolution: their voxels are every second and fourth of ours.
    lower = [heads[:, 0], heads[:, 1, :, :, ::2, ::2], heads[:, 2, :, ::2, ::4, ::4]]
    expected = [
        ([0.031243, 0.026221, 0.009726], 0.083674),
        ([-0.080705, -0.075917, -0.099658], 0.05173),
        ([-0.143771, -0.158439, -0.156702], 0.087031),
    ]
    for head, (voxels, size) in zip(lower, expected, strict=True):
        torch.testing.assert_close(head[1, 2, 0, 1, :3], torch.tensor(voxels), atol=2e-5, rtol=0)
        assert head.abs().mean().item() == pytest.approx(size, abs=2e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_heads_are_stacked_in_training_alone(dims):
    network = small(spatial_dims=dims, deep_supervision=True)
    image = torch.randn(2, 1, *[16] * dims)
    assert network(image).shape == (2, 2, 3, *[16] * dims)
    assert network.eval()(image).shape == (2, 3, *[16] * dims)


def test_a_state_dict_loads_into_another_of_the_kind():
    first, second = small(deep_supervision=True).eval(), small(deep_supervision=True).eval()
    second.load_state_dict(first.state_dict(), strict=True)
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(first(image), second(image))
    assert all(value.dtype == torch.float32 for value in first.state_dict().values())


def test_every_residual_block_starts_as_its_shortcut():
    block = small().encoder[1][1]
    x = torch.randn(1, 8, 4, 4, 4)
    torch.testing.assert_close(block(x), torch.nn.functional.leaky_relu(x, 0.01))


def test_every_parameter_learns():
    network = small(deep_supervision=True)
    torch.manual_seed(0)
    with torch.no_grad():  # blocks start as their shortcuts: the first convolution's gradient is 0
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    loss = StackedDeepSupervisionLoss(SegmentationLoss())
    loss(network(torch.randn(2, 1, 16, 16, 16)), torch.randint(0, 3, (2, 1, 16, 16, 16))).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims is 1"),
        ({"strides": [1, 2]}, "3 filters, 3 kernel sizes, 2 strides and 2 numbers of blocks"),
        ({"strides": [2, 2, 2]}, r"The first stride is \(2, 2, 2\)"),
        ({"kernel_size": [3, 4, 3]}, "kernels are odd"),
        ({"blocks": [1, 0, 1]}, "blocks at least 1"),
        ({"deep_supervision": True, "deep_supr_num": 2}, "deep_supr_num is 2; a network of 3 stages.*choose 1 to 1"),
        ({"upsample_kernel_size": [2, 4]}, r"the decoder undoes the strides after the first, which are \[2, 2\]"),
    ],
)
def test_stages_that_do_not_fit(changed, message):
    with pytest.raises(ConfigError, match=message):
        small(**changed)


def test_takes_what_dynunet_is_given():
    assert parameters(small(upsample_kernel_size=[2, 2])) == parameters(small())


@torch.no_grad()
def test_scripted_it_answers_the_same():
    network = small(deep_supervision=True).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_the_overlay_exports_to_torchscript(tmp_path: Path):
    configs = BUNDLES / "mri_hippocampus_segmentation" / "configs"
    files = [str(configs / "inference.yaml"), str(configs / "residual_encoder.yaml")]
    parser = ConfigParser()
    parser.read_config(files)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=files,
        use_trace=True,
        input_shape=[1, 1, 16, 16, 16],
    )
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    image = torch.randn(1, 1, 24, 16, 32)  # another size than it was traced with
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image), rtol=1e-4, atol=1e-4)


# Any network of MONAI -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network_def",
    [
        pytest.param({"_target_": "SegResNet", "init_filters": 8}, id="SegResNet"),
        pytest.param({"_target_": "SegResNetDS", "init_filters": 8, "dsdepth": 3}, id="SegResNetDS, heads in a list"),
        pytest.param({"_target_": "SwinUNETR", "feature_size": 12}, id="SwinUNETR"),
        pytest.param(
            {"_target_": "MedNeXt", "init_filters": 8, "deep_supervision": True}, id="MedNeXt, heads in a list"
        ),
        pytest.param({"_target_": "AttentionUnet", "channels": [8, 16], "strides": [2]}, id="AttentionUnet"),
    ],
)
def test_any_network_trains_a_step(network_def: dict[str, Any]):
    """With the bundle's own loss and optimizer, as ``--network_def`` on the command line puts it."""
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / "mri_hippocampus_segmentation" / "configs" / "train.yaml"))
    channels = {"spatial_dims": 3, "in_channels": "$len(@channels)", "out_channels": "$1 + max(@labels.values())"}
    parser["network_def"] = channels | network_def
    parser["device"], parser["learning_rate"] = "cpu", 1e-4
    network, loss, optimizer = (parser.get_parsed_content(id_) for id_ in ("network", "loss_function", "optimizer"))
    shape = (1, 1, 64, 32, 32)  # SwinUNETR goes down to a 32nd, and normalises at least two voxels there
    image, label = torch.randn(shape), torch.randint(0, 3, shape)
    before = loss(network.train()(image), label)
    before.backward()
    optimizer.step()
    assert torch.isfinite(before)
    assert loss(network(image), label) < before
    assert network.eval()(image).shape == (1, 3, 64, 32, 32)
