"""Losses of 2D segmentation by name: MONAI's and torch's own, with pixels left out that nobody labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.losses import DiceLoss, FocalLoss
from monai.networks import one_hot
from torch import nn
from torch.nn import functional

from medseg3d.errors import ConfigError

__all__ = ["LOSSES", "MaskLoss"]

LOSSES: Mapping[str, tuple[str, ...]] = {
    "ce": ("ce",),
    "bce": ("bce",),
    "dice": ("dice",),
    "jaccard": ("jaccard",),
    "focal": ("focal",),
    "dice_ce": ("dice", "ce"),
    "bce_dice": ("bce", "dice"),
    "dice_focal": ("dice", "focal"),
}
"""The names, and the terms that each is the sum of."""

# The same loss for the other kind of output.
TWINS = {"ce": "bce", "bce": "ce", "dice_ce": "bce_dice", "bce_dice": "dice_ce"}
# So that a label that neither a batch nor its prediction has costs nothing, and one falsely found by a few pixels does.
SMOOTH = 1e-5


class MaskLoss(nn.Module):
    """A loss of logits against label maps, or against masks that may overlap.

    Label maps (batch, 1, height, width) of ids go with a softmax over channels, channel 0 the background. With
    ``multi_label`` each label has a channel of its own, by a sigmoid, in the order of the ids from 1; the target is
    either (batch, label, height, width) of zeros and ones or, where masks do not overlap, a label map.

    Dice and Jaccard are MONAI's over the whole batch (Drozdzal et al. 2016), without the background of a softmax; cross
    entropies are torch's, focal is MONAI's (Lin et al. 2017), and each is a mean over pixels. A sum has weight 1 for
    each of its terms.

    Args:
        name: of ``LOSSES``. ``ce`` needs a softmax, ``bce`` sigmoids.
        multi_label: sigmoids instead of a softmax.
        class_weights: of a softmax, one a channel with the background; of sigmoids, one a label. They weigh the pixels
            of a class in the mean that ``ce`` is (torch's definition), the positive pixels of ``bce``, the channels of
            ``focal``, and the labels of ``dice`` and ``jaccard``.
        ignore_index: an id in label maps whose pixels count nowhere.
        gamma: of focal.

    Raises:
        ConfigError: no such loss, or one for the other kind of output; weights that are no positive numbers.

    >>> logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
    >>> round(float(MaskLoss("dice_ce")(logits, torch.tensor([[[[0, 1]]]]))), 3)
    0.0
    """

    def __init__(
        self,
        name: str = "dice_ce",
        *,
        multi_label: bool = False,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        if name not in LOSSES:
            raise ConfigError(f"There is no loss {name!r}. There are {', '.join(LOSSES)}.")
        self.terms = LOSSES[name]
        if ("ce" if multi_label else "bce") in self.terms:
            output = "sigmoids (multi_label is true)" if multi_label else "a softmax (multi_label is false)"
            raise ConfigError(f"{name} does not go with {output}: choose {TWINS[name]}, or change multi_label.")
        if class_weights is not None and not all(weight >= 0 for weight in class_weights):
            raise ConfigError(f"class_weights are {list(class_weights)}; each is a number of 0 or more.")
        self.multi_label = multi_label
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor([float(w) for w in class_weights])
        self.weights: torch.Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        options = {"include_background": True, "batch": True, "smooth_nr": SMOOTH, "smooth_dr": SMOOTH}
        regions = None if weights is None else weights if multi_label else weights[1:]
        self.dice = DiceLoss(weight=regions, **options)
        self.jaccard = DiceLoss(weight=regions, jaccard=True, **options)
        self.focal = FocalLoss(gamma=gamma, use_softmax=not multi_label, reduction="none")

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of logits (batch, channel, height, width).

        Raises:
            ConfigError: weights or masks of another number than the channels, or ids beyond them.
        """
        logits = logits.float()
        self._require_weights(logits.shape[1])
        valid = self._valid(target)
        masks = self._masks(logits, target)
        return torch.stack([self._term(term, logits, masks, valid) for term in self.terms]).sum()

    def _term(self, term: str, logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if term in ("dice", "jaccard"):
            return self._region(getattr(self, term), logits, masks, valid)
        if term == "ce":
            ids = torch.where(valid[:, 0], masks.argmax(1), -1)
            # A batch without a labelled pixel gives 0/0: it has nothing to learn from.
            return functional.cross_entropy(logits, ids, weight=self._weights_on(logits), ignore_index=-1).nan_to_num()
        if term == "bce":
            weight = self._weights_on(logits)
            positive = None if weight is None else weight.reshape(-1, 1, 1)
            pixels = functional.binary_cross_entropy_with_logits(logits, masks, pos_weight=positive, reduction="none")
        else:
            pixels = self.focal(logits, masks)
            if (weight := self._weights_on(logits)) is not None:
                pixels = pixels * weight.reshape(-1, 1, 1)
            if not self.multi_label:  # one of the channels is the pixel's own, the others are 0
                return (pixels * valid).sum() / valid.sum().clamp(min=1)
        return (pixels * valid).sum() / (valid.sum() * logits.shape[1]).clamp(min=1)

    def _region(self, loss: nn.Module, logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(1)
        first = 0 if self.multi_label else 1
        return loss((probabilities * valid)[:, first:], (masks * valid)[:, first:])

    def _valid(self, target: torch.Tensor) -> torch.Tensor:
        """1 where a pixel is labelled: (batch, 1, height, width)."""
        if self.ignore_index is None or target.shape[1] > 1:
            return torch.ones_like(target[:, :1], dtype=torch.bool)
        return target != self.ignore_index

    def _masks(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Zeros and ones, a channel of ``logits`` each."""
        channels = logits.shape[1]
        if target.shape[1] > 1 or (self.multi_label and channels == 1 and self.ignore_index is None):
            if target.shape[1] != channels or not self.multi_label:
                raise ConfigError(
                    f"There are {target.shape[1]} masks an image, but the network has {channels} channels "
                    f"{'by sigmoids' if self.multi_label else 'by a softmax'}. Masks that overlap need multi_label "
                    "true and a channel a label."
                )
            return target.float()
        ids = target.long()
        if self.ignore_index is not None:
            ids = torch.where(target == self.ignore_index, 0, ids)
        highest, classes = int(ids.max()), channels + self.multi_label
        if highest >= classes:
            raise ConfigError(f"A mask holds the id {highest}; the network's channels are for ids up to {classes - 1}.")
        return one_hot(ids, classes)[:, int(self.multi_label) :].float()

    def _require_weights(self, channels: int) -> None:
        if self.weights is not None and len(self.weights) != channels:
            what = "a label" if self.multi_label else "a class, the background among them"
            raise ConfigError(f"There are {len(self.weights)} class_weights for {channels} channels: give one {what}.")

    def _weights_on(self, logits: torch.Tensor) -> torch.Tensor | None:
        return None if self.weights is None else self.weights.to(logits.device)
