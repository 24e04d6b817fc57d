"""Loss of classes of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from medseg3d.errors import UsageError

__all__ = ["ClassificationLoss"]


class ClassificationLoss(torch.nn.Module):
    """Loss of classes of whole images, computed in float32 also under autocast.

    Args:
        name: ``cross_entropy``; or ``focal``, which counts what is answered well already for less (Lin et al. 2017).
        multi_label: an image may have several classes or none: each is a yes-or-no question of its own (binary
            cross-entropy, binary focal loss).
        class_weights: of each class; with ``multi_label`` of its positive answers.
        label_smoothing: share of certainty that is taken from the true class and spread over all of them.
        gamma: how fast the focal loss falls with the probability of the right answer.

    Raises:
        UsageError: the name is unknown.

    >>> round(ClassificationLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # log 2
    0.6931
    """

    def __init__(
        self,
        name: Literal["cross_entropy", "focal"] = "cross_entropy",
        *,
        multi_label: bool = False,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        if name not in ("cross_entropy", "focal"):
            raise UsageError(f"The loss is {name!r}; known are cross_entropy and focal.")
        self.name, self.multi_label = name, multi_label
        self.label_smoothing, self.gamma = label_smoothing, gamma
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over the batch.

        Args:
            logits: (batch, class).
            target: ids (batch,), or probabilities (batch, class): several classes, or mixed images.
        """
        logits = logits.float()
        classes = logits.shape[1]
        if target.ndim == 1:
            target = functional.one_hot(target.long(), classes)
        target = target.to(logits)
        spread = 0.5 if self.multi_label else 1 / classes
        target = target * (1 - self.label_smoothing) + spread * self.label_smoothing
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        return self._binary(logits, target, weights) if self.multi_label else self._exclusive(logits, target, weights)

    def _exclusive(self, logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        log_probability = logits.log_softmax(dim=1)
        parts = -target * log_probability * self._focus(log_probability)
        if weights is None:
            return parts.sum(dim=1).mean()
        # Divided by the weights in the batch, as torch's own cross-entropy with ids: the rate keeps its meaning.
        return (parts * weights).sum() / (target * weights).sum()

    def _binary(self, logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        positive = target * yes * self._focus(yes) * (1 if weights is None else weights)
        return -(positive + (1 - target) * no * self._focus(no)).mean()

    def _focus(self, log_probability: torch.Tensor) -> torch.Tensor | float:
        return (1 - log_probability.exp()) ** self.gamma if self.name == "focal" else 1.0
