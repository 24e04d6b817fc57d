"""Normalisation a channel: against MONAI's transforms, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensityd, ScaleIntensityRanged

from medseg3d.errors import CaseError, UsageError
from medseg3d.intensity import NormalizeChannelsd

IMAGE = torch.from_numpy(np.random.default_rng(0).normal(50.0, 300.0, (2, 5, 6, 7)).astype(np.float32))


def test_fixed_values_clip_and_shift() -> None:
    rule = {"clip": [-100.0, 200.0], "mean": 50.0, "sd": 25.0}
    image = torch.tensor([-500.0, 50.0, 75.0, 900.0]).reshape(1, 4, 1, 1)
    done = NormalizeChannelsd("image", [rule])({"image": image})["image"]
    assert done.flatten().tolist() == [-6.0, 0.0, 1.0, 6.0]
    other = ScaleIntensityRanged("image", a_min=-100, a_max=200, b_min=-6.0, b_max=6.0, clip=True)({"image": image})
    torch.testing.assert_close(done, other["image"].as_tensor())


@pytest.mark.parametrize("nonzero", [False, True])
def test_own_mean_and_spread_are_monais(nonzero: bool) -> None:
    image = IMAGE.clone()
    image[:, :2] = 0
    done = NormalizeChannelsd("image", [{"nonzero": nonzero}] * 2)({"image": image})["image"]
    other = NormalizeIntensityd("image", channel_wise=True, nonzero=nonzero)({"image": image})["image"]
    torch.testing.assert_close(done, torch.as_tensor(other).as_subclass(torch.Tensor))


def test_each_channel_has_its_own_rule_and_the_input_is_left_alone() -> None:
    before = IMAGE.clone()
    rules = [{"mean": 10.0, "sd": 2.0}, {"nonzero": False}]
    done = NormalizeChannelsd("image", rules)({"image": IMAGE})["image"]
    torch.testing.assert_close(done[0], (IMAGE[0] - 10) / 2)
    assert abs(float(done[1].mean())) < 1e-4
    assert torch.equal(IMAGE, before)


def test_a_voxel_that_one_channel_lacks_is_inside_where_another_has_it() -> None:
    image = torch.tensor([[2.0, 0.0, 4.0, 0.0], [1.0, 3.0, 5.0, 0.0]]).reshape(2, 4, 1, 1)
    done = NormalizeChannelsd("image", [{"nonzero": True}] * 2)({"image": image})["image"]
    sd = float(np.std([2, 0, 4]))
    np.testing.assert_allclose(done[0].flatten(), [0.0, -2 / sd, 2 / sd, 0.0], rtol=1e-6)


def test_constant_and_empty_images_become_zero() -> None:
    for rule in ({"nonzero": False}, {"nonzero": True}):
        for value in (0.0, 7.0):
            image = torch.full((1, 3, 3, 3), value)
            assert not NormalizeChannelsd("image", [rule])({"image": image})["image"].any()


def test_the_affine_stays() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
    done = NormalizeChannelsd("image", [{"nonzero": False}] * 2)({"image": MetaTensor(IMAGE, affine=affine)})["image"]
    assert torch.equal(done.affine, affine)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="write mean and sd"):
        NormalizeChannelsd("image", [{"clip": [0, 1]}])
    with pytest.raises(CaseError, match="has 2 channels, normalize has rules for 1"):
        NormalizeChannelsd("image", [{"nonzero": True}])({"image": IMAGE})
