"""The measures by which a 2D segmentation is validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ignite.engine import Engine

from medseg3d.engines.validation import LabelDice
from medseg3d.masks2d import mask_layers
from medseg3d.metrics.overlap import LabelOverlap

__all__ = ["MaskDice"]


class MaskDice(LabelDice):
    """``LabelDice`` of 2D images, of label maps or of masks that overlap, and the mIoU of accumulated counts.

    Predictions and references are label maps (1, row, column) or masks (label, row, column). After each epoch
    ``engine.state.metrics`` also holds ``val_miou``: of each label the pixels in both over those in either, each summed
    over all images; and of that the mean over the labels that some image has. (The Dice is a mean over images, in which
    a small object weighs as much as a large one.)

    Args:
        labels: name → id of the foreground labels.
        ignore_index: an id in references whose pixels do not count.
    """

    def __init__(self, labels: Mapping[str, int], ignore_index: int | None = None) -> None:
        self.ignore_index = ignore_index
        super().__init__(labels)

    def reset(self) -> None:
        super().reset()
        self.counts = np.zeros((len(self.labels), 3), np.int64)

    def update(self, output: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take decollated results with ``pred`` and ``label``."""
        in_order = np.argsort(np.argsort(list(self.labels.values())))  # layers are in the order of the ids
        for result in output:
            reference, prediction = (result[key].cpu().numpy() for key in ("label", "pred"))
            counted = np.ones(reference.shape[-2:], bool)
            if self.ignore_index is not None and len(reference) == 1:
                counted = reference[0] != self.ignore_index
            to, by = (mask_layers(masks, self.labels)[in_order] & counted for masks in (reference, prediction))
            counts = np.stack([layers.sum((1, 2)) for layers in (to, by, to & by)], axis=1)
            self.counts += counts
            self.scores.append([LabelOverlap(*map(int, row)).dice for row in counts])

    def miou(self) -> float:
        """Mean over labels of the accumulated IoU; NaN where no image has any."""
        ious = [LabelOverlap(*map(int, row)).iou for row in self.counts]
        found = [iou for iou in ious if not np.isnan(iou)]
        return float(np.mean(found)) if found else float("nan")

    def completed(self, engine: Engine, name: str) -> None:
        super().completed(engine, name)
        engine.state.metrics["val_miou"] = self.miou()
