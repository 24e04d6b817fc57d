"""Memory of a training step: by hand, and against measuring each size directly."""

from __future__ import annotations

import math

import pytest
import torch
from recorded_plans import TEMPLATE

from medseg3d.live_bytes import LiveBytes
from medseg3d.plan import topology, training_bytes
from medseg3d.plan.budget import MeasuredBudget
from medseg3d.plan.memory import MemoryModel, nnunet_feature_maps
from medseg3d.plan.template import network_3d, numbers_of

SMALL = topology((1.0, 1.0, 1.0), (32, 32, 32))
NETWORK = numbers_of(network_3d(TEMPLATE, SMALL), in_channels=1, out_channels=3)


def test_live_bytes_count_what_is_alive_and_views_once() -> None:
    with LiveBytes() as live:
        one = torch.empty(1000)
        view = one[:10]
        two = torch.empty(500)
        del one
        assert live.now == 6000  # the view keeps its storage
        del view
        assert live.now == 2000
        three = two + 1
    assert live.peak == 6000
    assert live.now == 4000
    assert three.shape == (500,)


def test_weights_count_four_times_and_one_activation_by_hand() -> None:
    # One convolution of 2 × 3 weights and 3 biases: 9 numbers, with a gradient and two moments each.
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 2, "out_channels": 3, "kernel_size": 1}
    fixed, peak = training_bytes(network, (1, 2, 8, 8, 8), classes=3)
    assert fixed == 9 * 4 * 4
    # At least the image in float32 and bfloat16, and the logits in bfloat16 and float32.
    assert peak > fixed + 512 * (2 * 4 + 2 * 2 + 3 * 2 + 3 * 4)


def test_memory_grows_with_voxels_and_batch() -> None:
    model = MemoryModel(8.0, in_channels=1, classes=3)
    for patch, batch in (((32, 32, 32), 100), ((64, 32, 64), 6), ((128, 96, 160), 2)):
        _, peak = training_bytes(NETWORK, (batch, 1, *patch), classes=3)
        assert model.bytes_of(NETWORK, patch, batch) == pytest.approx(peak, rel=0.03)
    least, _ = training_bytes(NETWORK, (1, 1, 16, 16, 16), classes=3)
    assert model.bytes_of(NETWORK, (16, 16, 16), 1) >= least
    assert len(model.measured) == 1  # the others were scaled from the first


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    model = MemoryModel(1.0, in_channels=1, classes=3)
    most = model.largest_batch(NETWORK, (32, 32, 32))
    assert model.bytes_of(NETWORK, (32, 32, 32), most) <= model.usable_bytes
    assert model.bytes_of(NETWORK, (32, 32, 32), most + 1) > model.usable_bytes
    assert MemoryModel(0.51, 1, 3).largest_batch(NETWORK, (32, 32, 32)) == 0


def test_more_classes_and_residual_blocks_take_more() -> None:
    shape = (8, 1, 64, 64, 64)
    plain = training_bytes(NETWORK, shape, classes=3)[1]
    many = training_bytes({**NETWORK, "out_channels": 30}, shape, classes=30)[1]
    residual = training_bytes({**NETWORK, "res_block": True}, shape, classes=3)[1]
    assert many > 1.3 * plain
    assert residual > plain


def test_feature_maps_by_hand() -> None:
    # Two stages of 32 and 64 channels: 2·32·8³ + 2·64·4³ down, a transposed and two convolutions up, 2 classes.
    found = topology((1, 1, 1), (8, 8, 8))
    assert nnunet_feature_maps(found, classes=2) == 2 * 32 * 512 + 2 * 64 * 64 + 3 * 32 * 512 + 2 * 512


def test_the_explanation_has_the_numbers() -> None:
    budget = MeasuredBudget(8.0, in_channels=1, classes=3)
    text = budget.explain(NETWORK, SMALL, batch_size=2)
    gib = budget.model.bytes_of(NETWORK, SMALL.patch_size, 2) / 2**30
    assert f"holds {gib:.2f} GiB at its peak" in text
    assert "of 8 GiB, 6.00 may be filled" in text
    assert math.isclose(budget.model.usable_bytes / 2**30, 6.0)
