"""Dice plus cross-entropy: equal to MONAI's where they overlap, and worked by hand for regions and ignored voxels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss
from torch.nn import functional

from medseg3d.errors import UsageError
from medseg3d.losses import SegmentationLoss, StackedDeepSupervisionLoss

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
IGNORED = 9


def sample(*, classes: int = 4, channels: int | None = None, shape=(3, 6, 5, 4), seed: int = 0):
    """Random logits (batch, channel, …) and labels (batch, 1, …) for the batch and spatial sizes in ``shape``."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], channels or classes, *shape[1:], generator=generator)
    return logits, torch.randint(0, classes, (shape[0], 1, *shape[1:]), generator=generator)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("shape", [(2, 6, 5), (3, 6, 5, 4)], ids=["2d", "3d"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)], ids=str)
def test_equals_monai_with_softmax(batch_dice, include_background, shape, weights):
    logits, labels = sample(shape=shape)
    dice, ce = weights
    options = {"softmax": True, "to_onehot_y": True, "include_background": include_background, "batch": batch_dice}
    oracle = DiceCELoss(**options, smooth_nr=1e-5, smooth_dr=1e-5, lambda_dice=dice, lambda_ce=ce)
    ours = SegmentationLoss(
        batch_dice=batch_dice, include_background=include_background, dice_weight=dice, ce_weight=ce, smooth=1e-5
    )
    torch.testing.assert_close(ours(logits, labels), oracle(logits, labels))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_gradient_equals_monai(batch_dice):
    logits, labels = sample()
    gradients = []
    for loss in (
        SegmentationLoss(batch_dice=batch_dice),
        DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=batch_dice),
    ):
        leaf = logits.clone().requires_grad_()
        loss(leaf, labels).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_regions_equal_monai_with_sigmoid(batch_dice):
    logits, labels = sample(channels=3)
    membership = torch.cat([torch.isin(labels, torch.tensor(ids)) for ids in REGIONS.values()], dim=1).float()
    # DiceCELoss takes softmax cross-entropy for several channels, whatever the activation of its Dice.
    expected = DiceLoss(sigmoid=True, batch=batch_dice)(logits, membership)
    expected = expected + functional.binary_cross_entropy_with_logits(logits, membership)
    torch.testing.assert_close(SegmentationLoss(REGIONS, batch_dice=batch_dice)(logits, labels), expected)


def test_two_voxels_of_two_regions_by_hand():
    # Probabilities ½, ¾ for "whole" and ¼, ½ for "core"; voxel 0 is label 1 (whole alone), voxel 1 is label 2 (both).
    logits = torch.tensor([[[[0.0, math.log(3)]], [[-math.log(3), 0.0]]]])
    labels = torch.tensor([[[[1, 2]]]])
    dice_whole = 2 * (1 / 2 + 3 / 4) / (2 + 5 / 4)
    dice_core = 2 * (1 / 2) / (1 + 3 / 4)
    entropy = -(math.log(1 / 2) + math.log(3 / 4) + math.log(3 / 4) + math.log(1 / 2)) / 4
    loss = SegmentationLoss({"whole": [1, 2], "core": [2]}, smooth=0.0)(logits, labels)
    assert loss.item() == pytest.approx(1 - (dice_whole + dice_core) / 2 + entropy, abs=1e-6)


def test_an_ignored_voxel_by_hand():
    # Of three voxels with probability ½, ¾, ¾ of label 1 the last is ignored.
    logits = torch.tensor([[[[0.0, 0.0, 0.0]], [[0.0, math.log(3), math.log(3)]]]])
    labels = torch.tensor([[[[1, 1, IGNORED]]]])
    dice = 2 * (1 / 2 + 3 / 4) / (2 + 5 / 4)
    entropy = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    loss = SegmentationLoss(ignore_label=IGNORED, smooth=0.0)(logits, labels)
    assert loss.item() == pytest.approx(1 - dice + entropy, abs=1e-6)


def nnunet_loss(logits, labels, *, regions, batch_dice):
    """nnU-Net 2.8's ``DC_and_BCE_loss`` and ``DC_and_CE_loss`` with their Dice, written out."""
    mask = labels != IGNORED
    if regions:
        target = torch.cat([torch.isin(labels, torch.tensor(ids)) for ids in regions.values()], dim=1).float()
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy = (entropy * mask).sum() / mask.sum()
        entropy = entropy / len(regions)  # where nnU-Net goes from a mean to a sum over regions
        x = torch.sigmoid(logits)
    else:
        target = functional.one_hot(labels[:, 0].where(mask[:, 0], 0), logits.shape[1]).movedim(-1, 1).float()[:, 1:]
        entropy = functional.cross_entropy(logits, labels[:, 0], ignore_index=IGNORED)
        x = torch.softmax(logits, 1)[:, 1:]
    axes = tuple(range(2, x.ndim))
    intersect, prediction, truth = ((part * mask).sum(axes) for part in (x * target, x, target))
    if batch_dice:
        intersect, prediction, truth = intersect.sum(0), prediction.sum(0), truth.sum(0)
    dice = (2 * intersect + 1e-5) / torch.clip(truth + prediction + 1e-5, 1e-8)
    return entropy - dice.mean()


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["labels", "regions"])
def test_ignoring_follows_nnunet(batch_dice, regions):
    logits, labels = sample(channels=3 if regions else 4)
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = IGNORED
    ours = SegmentationLoss(regions, IGNORED, batch_dice)(logits, labels)
    expected = 1 + nnunet_loss(logits, labels, regions=regions, batch_dice=batch_dice)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["labels", "regions"])
def test_what_is_ignored_changes_nothing_and_learns_nothing(batch_dice, regions):
    logits, labels = sample(channels=3 if regions else 4)
    labels[:, :, 3:] = IGNORED
    loss = SegmentationLoss(regions, IGNORED, batch_dice)
    leaf = logits.clone().requires_grad_()
    whole = loss(leaf, labels)
    whole.backward()
    assert not leaf.grad[:, :, 3:].any()
    cropped = loss(logits[:, :, :3], labels[:, :, :3])
    torch.testing.assert_close(whole, cropped)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("regions", [None, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("smooth", [1e-5, 0.0])
def test_nothing_annotated_costs_nothing(batch_dice, regions, smooth):
    logits, labels = sample(channels=3 if regions else 4)
    leaf = logits.requires_grad_()
    loss = SegmentationLoss(regions, IGNORED, batch_dice, smooth=smooth)(leaf, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss.item() == (0.0 if smooth else 1.0)
    assert not leaf.grad.any()
    assert torch.isfinite(leaf.grad).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch_dice=st.booleans(), with_regions=st.booleans())
def test_the_order_of_the_batch_does_not_matter(seed, batch_dice, with_regions):
    regions = REGIONS if with_regions else None
    logits, labels = sample(channels=3 if regions else 4, shape=(3, 4, 3), seed=seed)
    loss = SegmentationLoss(regions, 2 if not regions else IGNORED, batch_dice)
    torch.testing.assert_close(loss(logits.flip(0), labels.flip(0)), loss(logits, labels))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_sample_dice_is_the_mean_over_samples(seed):
    logits, labels = sample(shape=(4, 4, 3), seed=seed)
    loss = SegmentationLoss(batch_dice=False)
    parts = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(loss(logits, labels), parts.mean())


def test_autocast_does_not_round_it():
    logits, labels = sample(shape=(2, 16, 16, 16))
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SegmentationLoss()(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, SegmentationLoss()(half.float(), labels))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_labels_may_have_any_number_type(kind):
    logits, labels = sample()
    torch.testing.assert_close(SegmentationLoss()(logits, labels.to(kind)), SegmentationLoss()(logits, labels))


def test_stacked_heads_ignore_too():
    logits, labels = sample()
    labels[:, :, 3:] = IGNORED
    loss = SegmentationLoss(ignore_label=IGNORED)
    stacked = torch.stack([logits, logits], dim=1)
    torch.testing.assert_close(StackedDeepSupervisionLoss(loss)(stacked, labels), loss(logits, labels))


def test_lower_heads_see_the_nearest_label_and_ignored_stays_ignored():
    fine, labels = sample(shape=(2, 8, 8, 8))
    labels[:, :, 4:] = IGNORED
    coarse, _ = sample(shape=(2, 4, 4, 4), seed=1)
    loss = SegmentationLoss(ignore_label=IGNORED)
    # nearest-exact at half resolution takes the second of each two voxels
    nearest = labels[:, :, 1::2, 1::2, 1::2]
    expected = (loss(fine, labels) + 0.5 * loss(coarse, nearest)) / 1.5
    torch.testing.assert_close(StackedDeepSupervisionLoss(loss)([fine, coarse], labels), expected)
    as_bytes = StackedDeepSupervisionLoss(loss)([fine, coarse], labels.to(torch.uint8))
    torch.testing.assert_close(as_bytes, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": {"whole": []}}, "Region whole is made of the labels \\[\\]; it needs at least one"),
        ({"regions": {"whole": [1, 9]}, "ignore_label": 9}, "none that is ignored"),
        ({"ce_weight": -1.0}, "none may be negative"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(UsageError, match=message):
        SegmentationLoss(**options)


@pytest.mark.parametrize(
    ("regions", "channels", "message"),
    [(REGIONS, 4, "4 channels, and there are 3 regions .whole, core, enhancing."), (None, 1, "Make out_channels 2")],
)
def test_channels_that_do_not_fit(regions, channels, message):
    logits, labels = sample(channels=channels)
    with pytest.raises(UsageError, match=message):
        SegmentationLoss(regions)(logits, labels)


def test_a_one_hot_target_is_refused():
    logits, labels = sample()
    with pytest.raises(UsageError, match=r"need a label map of shape \(3, 1, 6, 5, 4\); it has \(3, 4, 6, 5, 4\)"):
        SegmentationLoss()(logits, labels.expand(-1, 4, -1, -1, -1))
