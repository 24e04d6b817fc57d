"""Whether probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError
from medseg3d.metrics.regions import require_same_shape

__all__ = ["Calibration", "ReliabilityBin", "calibration"]

PART_SIZE = 2**22
"""Voxels that are looked at together: their double-precision copies bound the memory."""

ROUNDING = 1e-3
"""A probability this far outside 0 to 1 is one that was resampled or stored in half precision."""


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
    found = Calibration(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64), 0.0)
    parts = max(1, probability.size // PART_SIZE)
    for p, r in zip(np.array_split(probability.ravel(), parts), np.array_split(reference.ravel(), parts), strict=True):
        found += _count(_require_probability(p), r.astype(bool), bins)
    return found


def _count(probability: NDArray[np.float64], hit: NDArray[np.bool_], bins: int) -> Calibration:
    index = np.minimum((probability * bins).astype(np.intp), bins - 1)
    return Calibration(
        n=np.bincount(index, minlength=bins),
        probability=np.bincount(index, weights=probability, minlength=bins).astype(np.float64),
        positives=np.bincount(index[hit], minlength=bins),
        squared_error=float(np.square(probability - hit).sum()),
    )


def _require_probability(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """``values`` in double precision, with what rounding put outside 0 to 1 put back."""
    if values.size and not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
        raise CaseError(
            f"Probabilities lie from 0 to 1, these from {values.min():.4g} to {values.max():.4g} (nan: the file is "
            "damaged). Pass the output of a softmax or sigmoid, not logits."
        )
    return values.astype(np.float64).clip(0.0, 1.0)
