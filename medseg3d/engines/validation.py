"""The validation engine and its measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from numpy.typing import NDArray

from medseg3d.engines.device import autocast
from medseg3d.engines.parallel import bare_network
from medseg3d.metrics import dice, label_overlaps
from medseg3d.options import flag
from medseg3d.processes import summed_over_processes

__all__ = ["LabelDice", "evaluator"]


class LabelDice(Metric):
    """Mean Dice over labels, each label's being the mean over cases; written to the engine's metrics with its parts.

    A case that has a label in neither reference nor prediction does not count for it; a label missed, or found where
    there is none, counts 0 (MONAI's ``DiceMetric`` skips the latter). After each epoch ``engine.state.metrics`` holds
    this metric and ``<name>_<label>`` for every label.

    Args:
        labels: name → id of the foreground labels.
        regions: name → ids of unions of labels, which are then scored in place of the labels.
        ignore_label: id of voxels that nobody labelled: they count as background on both sides.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        regions: Mapping[str, Sequence[int]] | None = None,
        ignore_label: int | None = None,
    ) -> None:
        self.labels = dict(labels)
        self.regions = {name: tuple(ids) for name, ids in (regions or {}).items()}
        self.names = list(self.regions or self.labels)
        self.ignore_label = ignore_label
        super().__init__()

    def reset(self) -> None:
        self.scores: list[list[float]] = []

    def update(self, output: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take decollated results with ``pred`` and ``label`` maps of shape (1, *spatial)."""
        for result in output:
            reference, prediction = (result[key].cpu().numpy().astype(np.int16) for key in ("label", "pred"))
            if self.ignore_label is not None:
                ignored = reference == self.ignore_label
                reference[ignored] = prediction[ignored] = 0
            self.scores.append(self._dice(reference, prediction))

    def _dice(self, reference: NDArray[np.int16], prediction: NDArray[np.int16]) -> list[float]:
        if self.regions:
            return [dice(np.isin(reference, ids), np.isin(prediction, ids)) for ids in self.regions.values()]
        return [overlap.dice for overlap in label_overlaps(reference, prediction, list(self.labels.values()))]

    def label_means(self) -> dict[str, float]:
        """Mean Dice of each label over the cases that all processes have seen; NaN for a label that no case has."""
        scores = np.array(self.scores, dtype=float).reshape(-1, len(self.names))
        own = np.stack([np.nansum(scores, axis=0), (~np.isnan(scores)).sum(axis=0)])
        sums, counted = summed_over_processes(torch.from_numpy(own)).numpy()
        return {name: float(s / n) if n else float("nan") for name, s, n in zip(self.names, sums, counted, strict=True)}

    def compute(self) -> float:
        means = [m for m in self.label_means().values() if not np.isnan(m)]
        return float(np.mean(means)) if means else 0.0

    def completed(self, engine: Engine, name: str) -> None:
        engine.state.metrics[name] = self.compute()
        for label, mean in self.label_means().items():
            engine.state.metrics[f"{name}_{label}"] = mean


def evaluator(
    *,
    device: torch.device | str,
    val_data_loader: Any,
    network: torch.nn.Module,
    inferer: Inferer,
    postprocessing: Any,
    key_val_metric: dict[str, Metric],
    amp: bool = True,
    val_handlers: Sequence[Any] = (),
    iteration_update: Callable[..., Any] | None = None,
) -> SupervisedEvaluator:
    """MONAI's ``SupervisedEvaluator``, with mixed precision on every device.

    Args:
        device: where to evaluate.
        val_data_loader: batches with ``image`` and ``label``, as they lie on the network's grid; of one case each
            where their sizes differ.
        inferer: normally ``medseg3d.inference.SlidingWindow``.
        postprocessing: from logits ``pred`` to a label map, or to what the measure compares with ``label``.
        key_val_metric: the measure by which ``best.pt`` is chosen, under its name.
        amp: autocast, see ``medseg3d.engines.autocast``.
        val_handlers: ignite handlers to attach.
        iteration_update: what is done with a batch instead, for networks that are not called with images alone; it
            sets ``engine.state.output`` and fires ``IterationEvents.MODEL_COMPLETED``.
    """

    enabled = flag(amp, "amp")

    def step(engine: SupervisedEvaluator, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        image = batch["image"].to(engine.state.device)
        with engine.mode(engine.network), autocast(engine.state.device, enabled=enabled):
            prediction = engine.inferer(image, engine.network)
        engine.state.output = {"image": image, "label": batch["label"], "pred": prediction}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    return SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=val_data_loader,
        network=bare_network(network),
        inferer=inferer,
        postprocessing=postprocessing,
        key_val_metric=key_val_metric,
        val_handlers=list(val_handlers),
        iteration_update=iteration_update or step,
    )
