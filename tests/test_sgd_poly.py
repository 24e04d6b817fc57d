"""The overlay sgd_poly.yaml is nnU-Net's optimizer and schedule."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medseg3d.engines import trainer

BUNDLES = [
    path.parents[1] for path in (Path(__file__).resolve().parents[1] / "bundles").glob("*/configs/sgd_poly.yaml")
]
EPOCHS, ITERATIONS = 20, 5


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def optimizer_and_schedule(request: pytest.FixtureRequest):
    parser = ConfigParser()
    parser.read_config([str(request.param / "configs" / f"{name}.yaml") for name in ("train", "sgd_poly")])
    parser["device"], parser["max_epochs"], parser["iterations_per_epoch"] = "cpu", EPOCHS, ITERATIONS
    parser["network"] = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    return parser.get_parsed_content("optimizer"), parser.get_parsed_content("lr_scheduler")


def test_the_optimizer_is_nnunets(optimizer_and_schedule):
    """``nnUNetTrainer`` of nnU-Net 2.8: SGD(lr 0.01, momentum 0.99, Nesterov, weight decay 3e-5), clipped at 12."""
    optimizer, _ = optimizer_and_schedule
    assert type(optimizer) is torch.optim.SGD
    expected = {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5, "dampening": 0}
    assert {key: optimizer.param_groups[0][key] for key in expected} == pytest.approx(expected)
    assert inspect.signature(trainer).parameters["clip_grad_norm"].default == 12


def test_the_schedule_is_nnunets_at_the_start_of_every_epoch(optimizer_and_schedule):
    """``PolyLRScheduler`` of nnU-Net 2.8: 0.01 (1 − epoch / epochs) ** 0.9; ours goes on falling within the epoch."""
    optimizer, schedule = optimizer_and_schedule
    for epoch in range(EPOCHS):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - epoch / EPOCHS) ** 0.9)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(ITERATIONS):
                schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0
