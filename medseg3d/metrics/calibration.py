"""Whether probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.metrics.regions import require_same_shape

__all__ = ["Calibration", "ReliabilityBin", "calibration"]


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability diagram.

    Attributes:
        low, high: the bin's edges; ``low`` belongs to it, ``high`` to the next (1.0 to the last).
        n: voxels with such a probability.
        confidence: their mean probability; NaN in an empty bin.
        frequency: share of them that the reference has; NaN in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float
    frequency: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Sums from which calibration is computed; those of several cases add up with ``+``.

    Attributes:
        n, probability, positives: for each bin of equal width from 0 to 1, the number of voxels, the sum of their
            probabilities, and how many of them the reference has.
        squared_error: sum over all voxels of (probability − reference)².
    """

    n: NDArray[np.int64]
    probability: NDArray[np.float64]
    positives: NDArray[np.int64]
    squared_error: float

    def __add__(self, other: Calibration) -> Calibration:
        if self.n.size != other.n.size:
            raise ValueError(f"Calibration in {self.n.size} and in {other.n.size} bins cannot be added.")
        return Calibration(
            self.n + other.n,
            self.probability + other.probability,
            self.positives + other.positives,
            self.squared_error + other.squared_error,
        )

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over voxels of |confidence − frequency| of their bin; NaN without voxels.

        Source: Naeini et al. 2015; Metrics Reloaded. Here the confidence is the label's probability, not that of the
        winning class.
        """
        total = int(self.n.sum())
        return float(np.abs(self.probability - self.positives).sum() / total) if total else float("nan")

    @property
    def brier(self) -> float:
        """Brier score: mean squared error of the probability (Brier 1950); NaN without voxels."""
        total = int(self.n.sum())
        return self.squared_error / total if total else float("nan")

    @property
    def bins(self) -> tuple[ReliabilityBin, ...]:
        edges = np.linspace(0.0, 1.0, self.n.size + 1)
        some = np.where(self.n > 0, self.n, np.nan)
        columns = (edges[:-1], edges[1:], self.n, self.probability / some, self.positives / some)
        return tuple(
            ReliabilityBin(float(low), float(high), int(n), float(confidence), float(frequency))
            for low, high, n, confidence, frequency in zip(*columns, strict=True)
        )


def calibration(probability: NDArray[np.floating], reference: NDArray[np.bool_], *, bins: int = 15) -> Calibration:
    """Compare the probability of one label, voxel by voxel, with where the reference has it.

    In a volume that is mostly background most voxels are certain, and the ECE is small whatever the model does at the
    border: pass the voxels of a region of interest to judge that.

    Raises:
        GeometryError: the shapes differ.
        CaseError: values that are no probabilities (NaN, below 0 or above 1).

    >>> found = calibration(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, True, True, True]), bins=2)
    >>> round(found.ece, 3), round(found.brier, 3), found.bins[0].frequency
    (0.25, 0.21, 0.5)
    """
    require_same_shape(reference, probability)
    flat, hit = probability.ravel(), reference.ravel().astype(bool)
    if flat.size and not (flat.min() >= 0 and flat.max() <= 1):
        raise CaseError(
            f"Probabilities lie from 0 to 1, these from {flat.min():.4g} to {flat.max():.4g} (NaN means damaged): "
            "pass the output of a softmax or sigmoid, not logits."
        )
    index = np.minimum((flat * bins).astype(np.intp), bins - 1)
    return Calibration(
        n=np.bincount(index, minlength=bins),
        probability=np.bincount(index, weights=flat, minlength=bins).astype(np.float64),
        positives=np.bincount(index[hit], minlength=bins),
        squared_error=float(np.square(flat - hit, dtype=np.float64).sum()),
    )
