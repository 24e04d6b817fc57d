"""Fine-tuning in stages: what of a network learns, when, and how fast.

A network's stages are its parts in the order of the data, from the stem to the head. They are read off its modules,
so that one rule serves every backbone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Events

from medseg3d.errors import ConfigError, UsageError

__all__ = ["StagedUnfreezing", "freeze_but_last", "frozen_modules", "parameter_groups", "stages_of"]

logger = logging.getLogger("medseg3d")

Stage = dict[str, torch.nn.Parameter]
# A list of modules with more of the parameters than this is a trunk, whose children are the stages; a module of another
# kind may be a block of layers that belong together, and is one only if it is nearly the whole network.
TRUNK_SHARE, WHOLE_SHARE = 0.5, 0.8


def stages_of(network: torch.nn.Module) -> list[Stage]:
    """The parameters by stage, from the stem to the head, each under its name in ``network``.

    A stage is a module with weights; a list of modules that holds more than half of them is taken apart instead.
    Normalisations belong to what comes before them, and parameters that lie in no submodule (class tokens, positions)
    to the stem.

    Raises:
        ConfigError: the network has no weights.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    >>> [list(stage) for stage in stages_of(net)]
    [['0.weight', '0.bias', '1.weight', '1.bias'], ['2.weight', '2.bias']]
    """
    total = sum(p.numel() for p in network.parameters())
    stages: list[Stage] = []
    loose: Stage = {}
    _collect(network, "", total, stages, loose)
    if not stages:
        raise ConfigError(f"{type(network).__name__} has no layer with weights: nothing in it can learn or be frozen.")
    stages[0] |= loose
    return stages


def _collect(module: torch.nn.Module, prefix: str, total: int, stages: list[Stage], loose: Stage) -> None:
    loose |= {prefix + name: p for name, p in module.named_parameters(recurse=False)}
    for name, child in module.named_children():
        own: Stage = {f"{prefix}{name}.{key}": p for key, p in child.named_parameters()}
        if sum(p.numel() for p in own.values()) > _share_of_trunk(child) * total:
            _collect(child, f"{prefix}{name}.", total, stages, loose)
        elif stages and all(p.ndim <= 1 for p in own.values()):
            stages[-1] |= own
        elif own:
            stages.append(own)


def _share_of_trunk(module: torch.nn.Module) -> float:
    if not any(True for _ in module.children()):
        return 1.0
    return TRUNK_SHARE if isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList)) else WHOLE_SHARE


def freeze_but_last(network: torch.nn.Module, stages: int) -> None:
    """Let the last ``stages`` learn and freeze what lies before them; 1 is feature extraction: the head alone learns.

    Normalisations with frozen weights go to evaluation mode, as ``ImageClassifier.train`` keeps them: their statistics
    would drift otherwise, though nothing learns.
    """
    parts = stages_of(network)
    for depth, part in enumerate(reversed(parts)):
        for parameter in part.values():
            parameter.requires_grad_(depth < stages)
            if depth >= stages:
                parameter.grad = None
    for module in frozen_modules(network):
        module.eval()


def frozen_modules(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Batch normalisations whose weights are frozen."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                yield module


def parameter_groups(
    network: torch.nn.Module, *, learning_rate: float, weight_decay: float = 0.01, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer: smaller rates towards the stem, and no weight decay of biases and normalisations.

    Args:
        learning_rate: of the head.
        layer_decay: each stage before the head learns at this share of the rate of the stage after it; 1 is one rate
            for all. Between 0.65 and 0.9 is usual for fine-tuning.

    Returns:
        From the head to the stem, so that the first group has ``learning_rate``. A schedule that sets rates wants them
        a group: ``max_lr: "$[group['lr'] for group in @optimizer.param_groups]"``.

    Raises:
        UsageError: ``layer_decay`` is not above 0 and at most 1.
    """
    if not 0 < layer_decay <= 1:
        raise UsageError(f"layer_decay is {layer_decay:g}; it lies above 0 and is at most 1.")
    groups: list[dict[str, Any]] = []
    for depth, stage in enumerate(reversed(stages_of(network))):
        rate = learning_rate * layer_decay**depth
        for decays, strength in ((True, weight_decay), (False, 0.0)):
            parameters = [p for p in stage.values() if (p.ndim > 1) is decays]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": strength})
    return groups


class StagedUnfreezing:
    """First the head alone learns, then the network: at once, or a stage after the other from the head down.

    A handler for ``train_handlers``. What learns follows from the number of the epoch alone, so that a resumed run
    goes on rightly.

    Args:
        network: with the parameters that the optimizer has, all of them.
        frozen_epochs: epochs with the head alone; 0 freezes nothing, ``max_epochs`` is pure feature extraction.
        epochs_per_stage: after them, epochs until one more stage learns; 0 frees all at once.
    """

    def __init__(self, network: torch.nn.Module, *, frozen_epochs: int = 0, epochs_per_stage: int = 0) -> None:
        if min(frozen_epochs, epochs_per_stage) < 0:
            raise UsageError(
                f"frozen_epochs is {frozen_epochs}, epochs_per_stage {epochs_per_stage}: they are not below 0."
            )
        self.network = network
        self.frozen_epochs, self.epochs_per_stage = frozen_epochs, epochs_per_stage
        self.stages = len(stages_of(network))
        self.learning = -1

    def attach(self, engine: Any) -> None:
        """Called by the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)

    def trained_stages(self, epoch: int) -> int:
        """How many stages, counted from the head, learn in ``epoch`` (from 1)."""
        if epoch <= self.frozen_epochs:
            return 1
        if not self.epochs_per_stage:
            return self.stages
        return min(self.stages, 2 + (epoch - self.frozen_epochs - 1) // self.epochs_per_stage)

    def _start_epoch(self, engine: Any) -> None:
        wanted = self.trained_stages(engine.state.epoch)
        if wanted == self.learning:
            return
        freeze_but_last(self.network, wanted)
        if wanted < self.stages or self.learning > 0:
            logger.info("Epoch %d: %d of %d stages learn.", engine.state.epoch, wanted, self.stages)
        self.learning = wanted
