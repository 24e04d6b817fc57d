"""A 2D network over a volume equals the 2D network over each of its slices."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet

from medseg3d.networks import SliceWise

SHAPE = (16, 32, 16)


def dynunet(*, deep_supervision: bool) -> DynUNet:
    torch.manual_seed(0)
    return DynUNet(
        spatial_dims=2,
        in_channels=2,
        out_channels=3,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 8],
        norm_name="instance",
        deep_supervision=deep_supervision,
        deep_supr_num=1,
    )


def volume() -> torch.Tensor:
    return torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(1))


def slice_by_slice(network: torch.nn.Module, x: torch.Tensor, axis: int) -> torch.Tensor:
    outputs = [network(x.select(2 + axis, i)) for i in range(x.shape[2 + axis])]
    # Heads, if any, stand before the classes: the slice axis counts from the end.
    return torch.stack(outputs, dim=outputs[0].ndim - 2 + axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_it_equals_the_network_on_each_slice(axis, training, deep_supervision):
    network = dynunet(deep_supervision=deep_supervision).train(training)
    with torch.no_grad():
        whole, sliced = SliceWise(network, axis).train(training)(volume()), slice_by_slice(network, volume(), axis)
    heads = (2,) if deep_supervision and training else ()
    assert whole.shape == (2, *heads, 3, *SHAPE)
    torch.testing.assert_close(whole, sliced, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_output_of_a_pixelwise_network_is_that_of_its_3d_twin(axis):
    # A 1×1 convolution knows no neighbours, so its 2D and 3D forms agree wherever the axes are put back rightly.
    flat, solid = torch.nn.Conv2d(2, 3, 1), torch.nn.Conv3d(2, 3, 1)
    solid.load_state_dict(
        {key: value.reshape(solid.state_dict()[key].shape) for key, value in flat.state_dict().items()}
    )
    torch.testing.assert_close(SliceWise(flat, axis)(volume()), solid(volume()), rtol=1e-5, atol=1e-6)


def test_slices_do_not_see_each_other():
    network = SliceWise(BasicUNet(2, 2, 1, features=(4, 4, 4, 4, 4, 4), norm=("group", {"num_groups": 2})), 2).eval()
    changed = volume()
    changed[..., 5] += 10
    with torch.no_grad():
        difference = (network(changed) - network(volume())).abs().amax(dim=(0, 1, 2, 3))
    assert difference[5] > 1e-3
    assert difference[torch.arange(16) != 5].max() < 1e-5


def test_weights_are_those_of_the_2d_network_under_a_prefix():
    network = dynunet(deep_supervision=False)
    assert set(SliceWise(network).state_dict()) == {f"network.{key}" for key in network.state_dict()}


def test_gradients_reach_the_2d_network():
    network = SliceWise(dynunet(deep_supervision=True).train())
    network(volume()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.ndim > 1)


def test_an_axis_that_no_volume_has_is_refused():
    with pytest.raises(ValueError, match="slice_axis is 3; a volume has the spatial axes 0, 1 and 2"):
        SliceWise(torch.nn.Identity(), 3)
