"""What training a classifier has of its own: mixed images, and the measures of validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch.nn import functional

from medseg3d.engines.step import training_step
from medseg3d.errors import UsageError
from medseg3d.metrics.classification import auroc

if TYPE_CHECKING:
    from medseg3d.engines.training import ResumableTrainer

__all__ = ["ClassAuroc", "MixupStep"]


class MixupStep:
    """A training step on blends of two images with blended labels (mixup, Zhang et al. 2018).

    The blends are drawn from torch's global generator, whose state is in the checkpoint: a resumed run goes on with
    what it would have drawn.

    Args:
        classes: how many there are.
        alpha: of the Beta(alpha, alpha) that the share of the first image is drawn from; 0 mixes nothing.
    """

    def __init__(self, classes: int, *, alpha: float = 0.0) -> None:
        if alpha < 0:
            raise UsageError(f"mixup is {alpha:g}; it is not below 0, and 0 mixes nothing.")
        self.classes, self.alpha = classes, alpha

    def __call__(self, engine: ResumableTrainer, batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return training_step(engine, self.mixed(batch) if self.alpha else batch)

    def mixed(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with each image blended with another; ``label`` becomes probabilities (batch, class)."""
        image, label = batch["image"], batch["label"]
        target = (functional.one_hot(label.long(), self.classes) if label.ndim == 1 else label).float()
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        other = torch.randperm(len(image))
        blend = {
            "image": share * image + (1 - share) * image[other],
            "label": share * target + (1 - share) * target[other],
        }
        return {**batch, **blend}


class ClassAuroc(Metric):
    """Area under the ROC curve over the whole epoch: of two classes that of the second, else the mean over classes.

    Classes that all or no images have leave the mean; without any other it is 0.5, which says nothing. After each epoch
    ``engine.state.metrics`` also holds ``<name>_<class>`` where there are more than two, and ``val_log_loss``.

    Args:
        labels: name → id, from 0.
        multi_label: an image may have several classes or none.
    """

    def __init__(self, labels: Mapping[str, int], *, multi_label: bool = False) -> None:
        self.labels = {name: int(id_) for name, id_ in sorted(labels.items(), key=lambda item: item[1])}
        self.multi_label = multi_label
        super().__init__()

    def reset(self) -> None:
        self.logits: list[torch.Tensor] = []
        self.truth: list[torch.Tensor] = []

    def update(self, output: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take decollated results with logits ``pred`` (class,) and ``label``, an id or a vector (class,)."""
        for result in output:
            label = torch.as_tensor(result["label"]).cpu()
            self.logits.append(torch.as_tensor(result["pred"]).detach().float().cpu())
            self.truth.append(label if label.ndim else functional.one_hot(label.long(), len(self.labels)))

    def class_areas(self) -> dict[str, float]:
        """AUROC of each class against the others; NaN for a class that all or no images have."""
        logits, truth = torch.stack(self.logits), torch.stack(self.truth).numpy() > 0.5
        scores = (logits.sigmoid() if self.multi_label else logits.double().softmax(dim=1)).numpy()
        return {name: auroc(scores[:, i], truth[:, i]) for name, i in self.labels.items()}

    def log_loss(self) -> float:
        """Mean negative logarithm of the probability of the truth."""
        logits, truth = torch.stack(self.logits), torch.stack(self.truth).float()
        if self.multi_label:
            return float(functional.binary_cross_entropy_with_logits(logits, truth))
        return float(functional.cross_entropy(logits, truth))

    def compute(self) -> float:
        areas = list(self.class_areas().values())
        asked = areas[1:] if self._is_binary else areas
        known = [area for area in asked if not np.isnan(area)]
        return float(np.mean(known)) if known else 0.5

    def completed(self, engine: Engine, name: str) -> None:
        engine.state.metrics[name] = self.compute()
        if not self._is_binary:
            engine.state.metrics |= {f"{name}_{label}": area for label, area in self.class_areas().items()}
        engine.state.metrics["val_log_loss"] = self.log_loss()

    @property
    def _is_binary(self) -> bool:
        return len(self.labels) == 2 and not self.multi_label
