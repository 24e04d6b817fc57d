"""Staged fine-tuning: frozen parameters do not move, unfrozen ones do, and rates fall towards the stem."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.nn import functional

from medseg3d.errors import ConfigError, UsageError
from medseg3d.freezing import StagedUnfreezing, freeze_but_last, parameter_groups, stages_of
from medseg3d.networks import ImageClassifier

SMALL_RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 8, 16, 32]}


@pytest.fixture
def network() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("monai/ResNet", options=SMALL_RESNET)


def step(network: ImageClassifier, optimizer: torch.optim.Optimizer) -> None:
    network.train()
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(network(torch.randn(4, 1, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()


def values(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def moved(before: dict[str, torch.Tensor], network: torch.nn.Module) -> set[str]:
    return {name.split(".")[1] for name, value in values(network).items() if not torch.equal(before[name], value)}


def optimizer_of(network: ImageClassifier, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(network, learning_rate=0.01, **options))


def test_stages_are_the_blocks_from_stem_to_head(network: ImageClassifier) -> None:
    firsts = [next(iter(stage)).split(".")[1] for stage in stages_of(network)]
    assert firsts == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert "model.bn1.weight" in stages_of(network)[0]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (1, {"fc"}),
        (2, {"fc", "layer4"}),
        (6, {"fc", "layer4", "layer3", "layer2", "layer1", "conv1", "bn1"}),
    ],
)
def test_what_is_frozen_does_not_move_and_the_rest_does(
    network: ImageClassifier, stages: int, expected: set[str]
) -> None:
    optimizer = optimizer_of(network)
    freeze_but_last(network, stages)
    before = values(network)
    step(network, optimizer)
    # Running means and variances count too: they are in the state dict.
    assert moved(before, network) == expected


def test_what_learnt_before_stays_when_it_is_frozen(network: ImageClassifier) -> None:
    optimizer = optimizer_of(network)
    step(network, optimizer)  # the optimizer has moments and decay of everything now
    freeze_but_last(network, 1)
    before = values(network)
    step(network, optimizer)
    assert moved(before, network) == {"fc"}


def test_the_head_first_then_stage_by_stage(network: ImageClassifier) -> None:
    handler = StagedUnfreezing(network, frozen_epochs=2, epochs_per_stage=2)
    assert [handler.trained_stages(epoch) for epoch in range(1, 13)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    at_once = StagedUnfreezing(network, frozen_epochs=2)
    assert [at_once.trained_stages(epoch) for epoch in range(1, 5)] == [1, 1, 6, 6]
    assert StagedUnfreezing(network).trained_stages(1) == 6
    with pytest.raises(UsageError, match="frozen_epochs is -1"):
        StagedUnfreezing(network, frozen_epochs=-1)


def test_each_epoch_trains_its_stages(network: ImageClassifier) -> None:
    optimizer = optimizer_of(network)
    history = []
    engine = Engine(lambda _engine, _batch: step(network, optimizer))
    before: dict[str, torch.Tensor] = {}
    StagedUnfreezing(network, frozen_epochs=1, epochs_per_stage=1).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: before.update(values(network)))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: history.append(moved(before, network)))
    engine.run([0], max_epochs=3)
    assert history == [{"fc"}, {"fc", "layer4"}, {"fc", "layer4", "layer3"}]


def test_a_resumed_run_goes_on_with_its_stages(network: ImageClassifier) -> None:
    handler = StagedUnfreezing(network, frozen_epochs=1, epochs_per_stage=1)
    handler._start_epoch(SimpleNamespace(state=SimpleNamespace(epoch=3)))
    learning = [any(p.requires_grad for p in stage.values()) for stage in stages_of(network)]
    assert learning == [False, False, False, True, True, True]


def test_rates_fall_towards_the_stem_and_norms_do_not_decay(network: ImageClassifier) -> None:
    groups = parameter_groups(network, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    assert groups[0]["lr"] == 1.0
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert [rates[id(next(iter(stage.values())))] for stage in stages_of(network)] == [
        0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1.0
    ]  # fmt: skip
    for group in groups:
        assert group["weight_decay"] == (0.1 if all(p.ndim > 1 for p in group["params"]) else 0.0)
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in network.parameters())


def test_layer_decay_moves_the_head_most(network: ImageClassifier) -> None:
    optimizer = torch.optim.SGD(parameter_groups(network, learning_rate=0.1, weight_decay=0, layer_decay=0.1))
    before = values(network)
    step(network, optimizer)
    stem, head = "model.conv1.weight", "model.fc.weight"
    gradients = dict(network.named_parameters())
    for name, rate in ((stem, 0.1 * 0.1**5), (head, 0.1)):
        moved_by = before[name] - network.state_dict()[name]
        assert torch.allclose(moved_by, rate * gradients[name].grad, atol=1e-7)


def test_impossible_values_are_refused(network: ImageClassifier) -> None:
    with pytest.raises(UsageError, match=r"layer_decay is 1.5; it lies above 0 and is at most 1"):
        parameter_groups(network, learning_rate=0.1, layer_decay=1.5)
    with pytest.raises(ConfigError, match="Identity has no layer with weights"):
        stages_of(torch.nn.Identity())
