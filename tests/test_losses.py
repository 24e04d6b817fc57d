"""Deep supervision over stacked heads: the weighted mean, worked by hand."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from medseg3d.losses import StackedDeepSupervisionLoss


class MeanDifference(torch.nn.Module):
    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).mean()


def stacked(*heads: float) -> torch.Tensor:
    """Heads of shape (batch 2, class 1, 3, 3, 3), each filled with one number."""
    return torch.stack([torch.full((2, 1, 3, 3, 3), value) for value in heads], dim=1)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ((4.0,), 4.0),
        ((4.0, 1.0), (4 + 0.5 * 1) / 1.5),
        ((4.0, 1.0, 8.0), (4 + 0.5 * 1 + 0.25 * 8) / 1.75),
        ((1.0, 0.0, 0.0, 0.0, 0.0, 16.0), (1 + 16 / 16) / (1 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16 + 1 / 16)),
    ],
)
def test_heads_weigh_half_of_the_one_before(heads, expected):
    loss = StackedDeepSupervisionLoss(MeanDifference())
    assert loss(stacked(*heads), torch.zeros(2, 1, 3, 3, 3)).item() == pytest.approx(expected)


@pytest.mark.parametrize("spatial", [(4, 4), (4, 4, 4)])
def test_an_unstacked_prediction_takes_the_loss_as_it_is(spatial):
    base = DiceCELoss(softmax=True, to_onehot_y=True)
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, *spatial), torch.randint(0, 3, (2, 1, *spatial))
    torch.testing.assert_close(StackedDeepSupervisionLoss(base)(prediction, target), base(prediction, target))


@pytest.mark.parametrize("spatial", [(4, 4), (4, 4, 4)])
def test_equal_heads_score_as_one_of_them(spatial):
    base = DiceCELoss(softmax=True, to_onehot_y=True)
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, *spatial), torch.randint(0, 3, (2, 1, *spatial))
    repeated = torch.stack([prediction] * 3, dim=1)
    torch.testing.assert_close(StackedDeepSupervisionLoss(base)(repeated, target), base(prediction, target))


def test_every_head_learns_in_proportion_to_its_weight():
    heads = stacked(1.0, 1.0, 1.0).requires_grad_()
    StackedDeepSupervisionLoss(MeanDifference())(heads, torch.zeros(2, 1, 3, 3, 3)).backward()
    gradients = heads.grad.abs().sum(dim=(0, 2, 3, 4, 5))
    torch.testing.assert_close(gradients, torch.tensor([1, 0.5, 0.25]) / 1.75)


def test_half_precision_predictions_are_scored_in_float32():
    seen = []

    class Remember(torch.nn.Module):
        def forward(self, prediction, target):
            seen.append(prediction.dtype)
            return prediction.mean()

    loss = StackedDeepSupervisionLoss(Remember())
    loss(stacked(1.0, 2.0).bfloat16(), torch.zeros(2, 1, 3, 3, 3))
    loss(stacked(1.0)[:, 0].bfloat16(), torch.zeros(2, 1, 3, 3, 3))
    assert seen == [torch.float32] * 3
