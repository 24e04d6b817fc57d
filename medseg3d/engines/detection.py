"""What training a detector has of its own: batches of images of any size, the step, the validation and its measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator

from medseg3d.boxes import has_area
from medseg3d.engines.device import autocast
from medseg3d.engines.step import named_out_of_memory, take_step
from medseg3d.freezing import frozen_modules
from medseg3d.metrics.detection import Boxes, average_precision
from medseg3d.options import flag

if TYPE_CHECKING:
    from medseg3d.engines.training import ResumableTrainer

__all__ = ["BoxPrecision", "DetectionValidation", "collate_images", "detection_step", "training_targets"]

Sample = Mapping[str, Any]


def collate_images(samples: Sequence[Sample]) -> list[Sample]:
    """A batch as a list of samples: images differ in size and in the number of their boxes."""
    return list(samples)


def training_targets(sample: Sample) -> dict[str, torch.Tensor]:
    """``boxes`` and ``labels`` of a sample for torchvision's detectors; boxes without area are left out.

    An image without boxes gives empty tensors: all of it is background.
    """
    boxes = np.asarray(sample["boxes"], dtype=np.float32).reshape(-1, 4)
    keep = has_area(boxes)
    labels = np.asarray(sample["box_labels"], dtype=np.int64)
    return {"boxes": torch.from_numpy(boxes[keep]), "labels": torch.from_numpy(labels[keep])}


def detection_step(engine: ResumableTrainer, batch: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """One step of a detector, which compares images with their boxes itself and answers with its losses."""
    device = engine.state.device
    images = [_plain(sample["image"]).to(device, non_blocking=engine.non_blocking) for sample in batch]
    targets = [{key: value.to(device) for key, value in training_targets(sample).items()} for sample in batch]
    engine.network.train()
    for module in frozen_modules(engine.network):
        module.eval()  # their statistics would drift otherwise, though nothing learns
    with named_out_of_memory((len(images), *images[0].shape)):
        with autocast(device, enabled=engine.amp_enabled):
            losses = engine.network(images, targets)
        return take_step(engine, torch.stack([loss.float() for loss in losses.values()]).sum())


class DetectionValidation:
    """A step of validation: the detections of each image of a batch, beside what it should show.

    Args:
        amp: autocast, see ``medseg3d.engines.autocast``.
    """

    def __init__(self, *, amp: bool = True) -> None:
        self.amp = flag(amp, "amp")

    def __call__(self, engine: SupervisedEvaluator, batch: Sequence[Sample]) -> list[dict[str, Any]]:
        device = engine.state.device
        images = [_plain(sample["image"]).to(device) for sample in batch]
        # torchvision's and MONAI's non-maximum suppression has no gradient.
        with engine.mode(engine.network), torch.no_grad(), autocast(device, enabled=self.amp):
            found = engine.network(images)
        engine.state.output = [{**sample, "found": result} for sample, result in zip(batch, found, strict=True)]
        return list(engine.state.output)


class BoxPrecision(Metric):
    """Mean over the classes of the average precision at an overlap of 0.5, by pycocotools.

    After each epoch ``engine.state.metrics`` also holds ``<name>_<class>`` and, as ``val_map``, the mean over the
    overlaps 0.5, 0.55, … 0.95. A class without boxes leaves the mean.

    Args:
        labels: name → id, from 1.
    """

    def __init__(self, labels: Mapping[str, int]) -> None:
        self.labels = dict(labels)
        super().__init__()

    def reset(self) -> None:
        self.found: list[Boxes] = []
        self.truth: list[Boxes] = []
        self.precision: dict[str, tuple[float, float]] = {}

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Take samples with the detector's answer under ``found``."""
        for result in output:
            found = {key: value.detach().float().cpu().numpy() for key, value in result["found"].items()}
            scores = found["scores"].astype(np.float64)
            self.found.append(Boxes(found["boxes"].astype(np.float64), found["labels"].astype(np.int64), scores))
            boxes = np.asarray(result["boxes"], dtype=np.float64).reshape(-1, 4)
            labels = np.asarray(result["box_labels"], dtype=np.int64)
            difficult = np.asarray(result.get("difficult", np.zeros(len(boxes))), dtype=bool)
            self.truth.append(Boxes(boxes, labels, np.ones(len(boxes)), difficult))

    def compute(self) -> float:
        precision = average_precision(self.found, self.truth, self.labels)
        self.precision = {name: (value.ap50, value.ap) for name, value in precision.items()}
        return _mean([ap50 for ap50, _ in self.precision.values()])

    def completed(self, engine: Engine, name: str) -> None:
        engine.state.metrics[name] = self.compute()
        engine.state.metrics |= {f"{name}_{label}": ap50 for label, (ap50, _) in self.precision.items()}
        engine.state.metrics["val_map"] = _mean([ap for _, ap in self.precision.values()])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else 0.0


def _plain(image: torch.Tensor) -> torch.Tensor:
    """Without MONAI's metadata, which would be copied by every operation of the network."""
    return torch.as_tensor(image).as_subclass(torch.Tensor)
