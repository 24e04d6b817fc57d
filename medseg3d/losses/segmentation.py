"""Loss of segmentations: Dice and cross-entropy of label maps, with overlapping regions and an ignore label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from medseg3d.errors import UsageError
from medseg3d.processes import process_count, summed_over_processes

__all__ = ["SegmentationLoss"]


class SegmentationLoss(torch.nn.Module):
    """Dice plus cross-entropy of logits against a label map, computed in float32 also under autocast.

    Without ``regions`` a channel stands for a label id (channel 0 is background), and the channels exclude one another:
    softmax, Dice and cross-entropy, as MONAI's ``DiceCELoss``. With ``regions`` a channel stands for a region, which is
    a set of label ids, and regions may overlap: sigmoid, Dice and binary cross-entropy. The formulae are nnU-Net's
    (Isensee et al. 2021; ``DC_and_CE_loss`` and ``DC_and_BCE_loss`` of nnU-Net 2.8), plus 1 so that a perfect answer
    scores 0; but binary cross-entropy is the mean over regions with an ignore label too, where nnU-Net then sums them.

    Voxels of ``ignore_label`` count in neither part: cross-entropy is the mean over the other voxels. Where all are
    ignored the loss is 0 (with ``smooth`` above 0), and so is its gradient.

    In a training of several processes the sums of batch Dice, and the number of voxels that count, are gathered over
    all of them, so that loss and gradient, averaged over the processes, are those of one process with all samples;
    every process must then call the loss equally often.

    Args:
        regions: name → ids of the labels that make it, in the order of the channels; None or empty: a channel a label.
        ignore_label: id of voxels that nobody has annotated; None: every voxel counts.
        batch_dice: sum over the batch before Dice is computed, as if it were one large image, which suits patches of
            which many lack a structure; else the mean of each sample's Dice.
        include_background: let channel 0 count in Dice; with ``regions``, where no channel is background, all count.
        dice_weight: of 1 − Dice.
        ce_weight: of the cross-entropy.
        smooth: added to numerator and denominator of Dice: a structure that is neither there nor found scores 1.

    Raises:
        UsageError: a region is empty or holds the ignore label, or a weight or ``smooth`` is below 0.

    >>> loss = SegmentationLoss({"whole": [1, 2], "core": [2]}, ignore_label=9)
    >>> labels = torch.tensor([[[[0, 1, 2, 9]]]])
    >>> logits = torch.tensor([[[[-20.0, 20, 20, 0]], [[-20.0, -20, 20, 0]]]])
    >>> round(loss(logits, labels).item(), 4)
    0.0
    """

    def __init__(
        self,
        regions: Mapping[str, Sequence[int]] | None = None,
        ignore_label: int | None = None,
        batch_dice: bool = True,
        *,
        include_background: bool = False,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.regions = {name: tuple(ids) for name, ids in (regions or {}).items()}
        self.ignore_label, self.batch_dice, self.include_background = ignore_label, batch_dice, include_background
        self.dice_weight, self.ce_weight, self.smooth = dice_weight, ce_weight, smooth
        for name, ids in self.regions.items():
            if not ids or ignore_label in ids:
                raise UsageError(
                    f"Region {name} is made of the labels {list(ids)}; it needs at least one, and none that is ignored "
                    f"(ignore_label is {ignore_label})."
                )
        if min(dice_weight, ce_weight, smooth) < 0:
            raise UsageError(
                f"dice_weight, ce_weight and smooth are {dice_weight}, {ce_weight} and {smooth}; none may be negative."
            )

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over the batch.

        Args:
            logits: (batch, channel, *spatial).
            target: label ids, (batch, 1, *spatial).

        Raises:
            UsageError: the shapes do not belong together, or there are not as many channels as regions.
        """
        self._require_match(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            return self._loss(logits.float(), target.long())

    def _loss(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        counted = None if self.ignore_label is None else ids != self.ignore_label
        if counted is not None:
            ids = ids.masked_fill(~counted, 0)
        if self.regions:
            truth = self._membership(ids)
            probability = logits.sigmoid()
            entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        else:
            truth = torch.zeros_like(logits).scatter_(1, ids, 1.0)
            log_probability = logits.log_softmax(dim=1)
            probability = log_probability.exp()
            entropy = -log_probability.gather(1, ids)
            if not self.include_background:
                probability, truth = probability[:, 1:], truth[:, 1:]
        dice = self._dice(probability, truth, counted)
        return self.dice_weight * (1 - dice) + self.ce_weight * _mean(entropy, counted)

    def _membership(self, ids: torch.Tensor) -> torch.Tensor:
        """1.0 where a voxel belongs to a region: (batch, region, *spatial)."""
        inside = [torch.stack([ids == member for member in members]).any(dim=0) for members in self.regions.values()]
        return torch.cat(inside, dim=1).float()

    def _dice(self, probability: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
        """Mean soft Dice over channels, and over samples unless they are summed first."""
        if counted is not None:
            probability, truth = probability * counted, truth * counted
        axes = tuple(range(2, probability.ndim))
        sums = torch.stack([(probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)])
        if self.batch_dice:
            sums = summed_over_processes(sums.sum(dim=1))
        overlap, size = sums
        # The clip is for smooth = 0, where nothing by nothing would be NaN.
        return ((2 * overlap + self.smooth) / (size + self.smooth).clamp(min=1e-8)).mean()

    def _require_match(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        expected = (logits.shape[0], 1, *logits.shape[2:])
        if target.shape != expected:
            raise UsageError(
                f"Logits of shape {tuple(logits.shape)} need a label map of shape {tuple(expected)}; it has "
                f"{tuple(target.shape)}."
            )
        channels = logits.shape[1]
        if self.regions and channels != len(self.regions):
            raise UsageError(
                f"The network answers with {channels} channels, and there are {len(self.regions)} regions "
                f"({', '.join(self.regions)}): make out_channels their number."
            )
        if not self.regions and channels < 2:
            raise UsageError(
                "The network answers with 1 channel; softmax needs one for the background too. Make out_channels 2, "
                "or name the structure under regions."
            )


def _mean(entropy: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """Mean over channels and the voxels that count, which may be more or fewer in other processes."""
    if counted is None:
        return entropy.mean()
    total = (entropy * counted).mean(dim=1).sum()
    voxels = summed_over_processes(counted.sum().float()) / process_count()
    return total / voxels.clamp(min=1 / process_count())
