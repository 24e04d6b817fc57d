"""Networks whose sigmoids begin at the share of what they look for."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet

from medseg3d.errors import ConfigError
from medseg3d.networks import ResidualEncoderUNet, start_rare

SHAPE = {
    "spatial_dims": 3, "in_channels": 2, "out_channels": 3, "filters": [4, 8, 16], "strides": [1, 2, 2],
    "kernel_size": [3, 3, 3], "deep_supervision": True,
}  # fmt: skip
NETWORKS = {
    "DynUNet": lambda: DynUNet(**SHAPE, upsample_kernel_size=[2, 2], deep_supr_num=1, norm_name="instance"),
    "ResidualEncoderUNet": lambda: ResidualEncoderUNet(**SHAPE, blocks=[1, 1, 1], deep_supr_num=1),
    "SegResNet": lambda: SegResNet(spatial_dims=3, init_filters=8, in_channels=2, out_channels=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_head_answers_about_the_stated_probability(name):
    torch.manual_seed(0)
    image = torch.randn(2, 2, 16, 16, 16)
    network = NETWORKS[name]()
    before = network.train()(image).sigmoid()
    after = start_rare(network, channels=3, probability=0.02)(image).sigmoid()
    assert 0.2 < before.median().item() < 0.8
    heads = after.unbind(1) if after.ndim == 6 else [after]
    for head in heads:
        assert 0.005 < head.median().item() < 0.08


def test_only_heads_are_touched():
    network = NETWORKS["DynUNet"]()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_rare(network, channels=3)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith("conv.conv.bias") for name in changed)


def test_a_network_without_such_heads_is_refused_by_name():
    with pytest.raises(ConfigError, match="Conv3d has no 1×1 convolution with 5 outputs"):
        start_rare(torch.nn.Conv3d(2, 3, 1), channels=5)
