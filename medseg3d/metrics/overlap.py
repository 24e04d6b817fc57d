"""Overlap of segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.metrics.regions import require_same_shape

__all__ = ["LabelOverlap", "Status", "dice", "label_overlaps"]

Status = Literal["scored", "both_empty", "missed", "spurious"]


@dataclass(frozen=True)
class LabelOverlap:
    """Voxel counts of one label in a reference, in a prediction, and in both.

    ``status`` names the empty cases: ``missed`` when only the reference has the label, ``spurious`` when only the
    prediction has it, ``both_empty`` when neither has.
    """

    reference: int
    prediction: int
    intersection: int

    @property
    def status(self) -> Status:
        if not self.reference:
            return "spurious" if self.prediction else "both_empty"
        return "scored" if self.prediction else "missed"

    @property
    def dice(self) -> float:
        """2·|A∩B| / (|A|+|B|); NaN when both are empty, 0 when one is."""
        return _ratio(2 * self.intersection, self.reference + self.prediction)

    @property
    def iou(self) -> float:
        """|A∩B| / |A∪B| (Jaccard 1912); NaN when both are empty, 0 when one is."""
        return _ratio(self.intersection, self.reference + self.prediction - self.intersection)

    @property
    def sensitivity(self) -> float:
        """Share of the reference that the prediction holds (recall); NaN where the reference is empty."""
        return _ratio(self.intersection, self.reference)

    @property
    def precision(self) -> float:
        """Share of the prediction that the reference holds (PPV); NaN where the prediction is empty."""
        return _ratio(self.intersection, self.prediction)

    def specificity(self, voxels: int) -> float:
        """Share of the voxels outside the reference, of ``voxels`` in all, that the prediction leaves out.

        It grows with the field of view, so it tells little of a segmentation (Taha and Hanbury 2015). NaN where the
        reference fills everything.
        """
        outside = voxels - self.reference
        return _ratio(outside - (self.prediction - self.intersection), outside)


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Overlap of two masks of one shape, 0 (disjoint) to 1 (equal).

    Two empty masks score NaN: nothing to find, so means skip the case. Source: Dice 1945; Metrics Reloaded (Maier-Hein
    et al. 2024).

    Raises:
        GeometryError: the shapes differ.

    >>> round(dice(np.array([1, 1, 0], bool), np.array([1, 0, 0], bool)), 3)
    0.667
    """
    require_same_shape(reference, prediction)
    both = int(np.count_nonzero(reference & prediction))
    return LabelOverlap(int(np.count_nonzero(reference)), int(np.count_nonzero(prediction)), both).dice


def label_overlaps(
    reference: NDArray[np.integer], prediction: NDArray[np.integer], labels: Sequence[int]
) -> list[LabelOverlap]:
    """Voxel counts for each of ``labels`` in two label maps of one shape, in one pass.

    Raises:
        GeometryError: the shapes differ.

    >>> label_overlaps(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), [1, 2])[1].dice
    0.6666666666666666
    """
    require_same_shape(reference, prediction)
    size = 1 + max([int(reference.max(initial=0)), int(prediction.max(initial=0)), *labels])
    in_reference = np.bincount(reference.ravel(), minlength=size)
    in_prediction = np.bincount(prediction.ravel(), minlength=size)
    in_both = np.bincount(reference[reference == prediction].ravel(), minlength=size)
    return [LabelOverlap(int(in_reference[i]), int(in_prediction[i]), int(in_both[i])) for i in labels]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
