"""Losses by name: worked by hand, beside MONAI's, smp's and torch's, and laws of what is left out."""

from __future__ import annotations

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss
from monai.losses import DiceLoss as MonaiDice
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.losses2d import LOSSES, MaskLoss

SOFTMAX = [name for name, terms in LOSSES.items() if "bce" not in terms]
SIGMOID = [name for name, terms in LOSSES.items() if "ce" not in terms]


def batch(seed: int, *, channels: int, ids: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, channels, 6, 7, generator=generator)
    return logits, torch.randint(0, ids, (2, 1, 6, 7), generator=generator)


def test_cross_entropy_of_an_undecided_pixel_is_log_of_the_classes():
    assert MaskLoss("ce")(torch.zeros(1, 4, 3, 3), torch.ones(1, 1, 3, 3)) == pytest.approx(math.log(4))
    assert MaskLoss("bce", multi_label=True)(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)) == pytest.approx(
        math.log(2)
    )


def test_dice_and_jaccard_of_half_overlap():
    # Two pixels predicted, two in the mask, one in both: Dice 2·1/4, Jaccard 1/3.
    logits = torch.tensor([50.0, 50.0, -50.0]).reshape(1, 1, 1, 3)
    target = torch.tensor([0, 1, 1]).reshape(1, 1, 1, 3)
    assert MaskLoss("dice", multi_label=True)(logits, target) == pytest.approx(1 - 0.5, abs=1e-4)
    assert MaskLoss("jaccard", multi_label=True)(logits, target) == pytest.approx(1 - 1 / 3, abs=1e-4)


def test_focal_without_focus_is_cross_entropy():
    logits, target = batch(0, channels=3, ids=3)
    assert MaskLoss("focal", gamma=0.0)(logits, target) == pytest.approx(float(MaskLoss("ce")(logits, target)))


def test_focal_is_that_of_smp():
    logits, target = batch(1, channels=3, ids=2)
    masks = (target == 1).expand(-1, 3, -1, -1).long()
    theirs = smp.losses.FocalLoss("multilabel", gamma=2.0)(logits, masks)
    assert MaskLoss("focal", multi_label=True)(logits, masks) == pytest.approx(float(theirs), rel=1e-5)


def test_dice_is_that_of_smp_with_pixels_left_out():
    logits, target = batch(2, channels=3, ids=3)
    target[:, :, :2] = 255
    theirs = smp.losses.DiceLoss("multiclass", classes=[1, 2], ignore_index=255)(logits, target[:, 0])
    assert MaskLoss("dice", ignore_index=255)(logits, target) == pytest.approx(float(theirs), abs=1e-5)


def test_jaccard_is_that_of_smp():
    logits, target = batch(3, channels=3, ids=3)
    theirs = smp.losses.JaccardLoss("multiclass", classes=[1, 2])(logits, target[:, 0])
    assert MaskLoss("jaccard")(logits, target) == pytest.approx(float(theirs), abs=1e-5)


def test_dice_ce_is_that_of_monai():
    logits, target = batch(4, channels=3, ids=3)
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)(logits, target)
    assert MaskLoss("dice_ce")(logits, target) == pytest.approx(float(theirs), rel=1e-4)


def test_bce_dice_is_the_sum_of_torch_and_monai():
    logits, _ = batch(5, channels=2, ids=2)
    masks = (logits.flip(3) > 0).float()
    theirs = functional.binary_cross_entropy_with_logits(logits, masks) + MonaiDice(sigmoid=True, batch=True)(
        logits, masks
    )
    assert MaskLoss("bce_dice", multi_label=True)(logits, masks) == pytest.approx(float(theirs), rel=1e-4)


def test_class_weights_are_those_of_torch():
    logits, target = batch(6, channels=3, ids=3)
    theirs = functional.cross_entropy(logits, target[:, 0], weight=torch.tensor([0.5, 2.0, 3.0]))
    assert MaskLoss("ce", class_weights=[0.5, 2, 3])(logits, target) == pytest.approx(float(theirs))


def test_a_label_of_weight_0_costs_nothing():
    logits, target = batch(7, channels=3, ids=2)
    other = logits.clone()
    other[:, 2] -= 40  # the label that has no weight is denied
    for name in ("dice", "jaccard"):
        weighted = MaskLoss(name, class_weights=[1, 0, 1])
        assert weighted(other, target) < MaskLoss(name, class_weights=[1, 1, 0])(other, target)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(SOFTMAX))
def test_pixels_left_out_change_nothing(seed: int, name: str):
    logits, target = batch(seed, channels=3, ids=3)
    target[0, 0, :3] = 255
    loss = MaskLoss(name, ignore_index=255)
    changed = torch.where(target == 255, 17.0 * torch.randn(logits.shape), logits)
    assert loss(changed, target) == pytest.approx(float(loss(logits, target)), abs=1e-6)
    logits.requires_grad_()
    loss(logits, target).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :3].any()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_batch_without_a_labelled_pixel_costs_nothing(name: str):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = MaskLoss(name, ignore_index=255)(logits, torch.full((1, 1, 4, 4), 255))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    loss.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize(("name", "multi_label"), [(n, False) for n in SOFTMAX] + [(n, True) for n in SIGMOID])
def test_the_right_answer_costs_almost_nothing_and_the_wrong_one_much(name: str, multi_label: bool):
    target = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1]]).reshape(1, 1, 2, 4)
    masks = functional.one_hot(target[:, 0], 3).permute(0, 3, 1, 2)[:, int(multi_label) :].float()
    loss = MaskLoss(name, multi_label=multi_label)
    right, wrong = loss(20 * (2 * masks - 1), target), loss(20 * (1 - 2 * masks), target)
    assert right < 0.01 < 0.5 < wrong


def test_a_label_map_and_its_masks_cost_the_same():
    logits, target = batch(8, channels=2, ids=3)
    masks = torch.cat([target == 1, target == 2], dim=1)
    loss = MaskLoss("bce_dice", multi_label=True)
    assert loss(logits, target) == loss(logits, masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dise"}, "There is no loss 'dise'. There are ce, bce, dice"),
        ({"name": "bce"}, r"bce does not go with a softmax \(multi_label is false\): choose ce, or change"),
        ({"name": "dice_ce", "multi_label": True}, "dice_ce does not go with sigmoids .*: choose bce_dice, or"),
        ({"name": "ce", "class_weights": [1, -1]}, r"class_weights are \[1, -1\]"),
    ],
)
def test_losses_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MaskLoss(**options)


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (MaskLoss("ce", class_weights=[1, 2]), torch.zeros(1, 1, 4, 4), "2 class_weights for 3 channels"),
        (MaskLoss("ce"), torch.full((1, 1, 4, 4), 3), "holds the id 3; the network's channels are for ids up to 2"),
        (MaskLoss("ce"), torch.zeros(1, 3, 4, 4), "3 masks an image, but the network has 3 channels by a softmax"),
        (MaskLoss("dice", multi_label=True), torch.zeros(1, 2, 4, 4), "2 masks an image, but the network has 3"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, target, message):
    with pytest.raises(ConfigError, match=message):
        loss(torch.zeros(1, 3, 4, 4), target)
