"""Whether probabilities and confidences of held-out cases mean what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.crossval.candidates import Structures
from medseg3d.inference.calibration import Calibration as Temperature
from medseg3d.inference.calibration import fit_temperature, log_loss
from medseg3d.metrics import Calibration, calibration
from medseg3d.statistics.curves import weighted_areas

__all__ = ["CONFIDENCE", "Calibrated", "Confidence", "Sample", "calibrate", "judge_confidence"]

# More voxels than these do not move one number, and their logits fill memory.
FITTED_VOXELS = 200_000
# Probabilities in half precision; below this they are taken as this.
LEAST = 1e-6
POOR_SHARE = 0.2

CONFIDENCE = (
    "The confidence of a case is the mean, over the structures found, of the Dice that their masks are worth by their "
    "own calibrated probabilities, 2·Σp inside the mask / (voxels of the mask + Σp), over the voxels on and near "
    "structures: no reference is needed for it."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Voxels of and near the structures of one held-out case.

    Attributes:
        probabilities: (voxels, channels).
        truth: (voxels,), label ids.
    """

    case: str
    fold: int
    probabilities: NDArray[Any]
    truth: NDArray[Any]


@dataclass(frozen=True)
class Calibrated:
    """A temperature, and what it does to held-out probabilities.

    Attributes:
        temperature: fitted on all samples, and shipped; 1 where the held-out log loss does not fall with ``by_fold``.
        by_fold: fitted without each fold; those make the numbers after.
        log_loss: before and after.
        ece: structure → expected calibration error before and after.
        bins: structure → reliability diagram after, as a report draws it.
        error_auroc: how well a voxel's entropy tells wrong from right; NaN where none is wrong.
        voxels: that were looked at.
    """

    temperature: float
    by_fold: Mapping[int, float]
    log_loss: tuple[float, float]
    ece: Mapping[str, tuple[float, float]]
    bins: Mapping[str, list[dict[str, float | int | None]]]
    error_auroc: float
    voxels: int

    @property
    def mean_ece(self) -> tuple[float, float]:
        """Mean over the structures, before and after."""
        before, after = np.array(list(self.ece.values())).mean(axis=0)
        return float(before), float(after)


@dataclass(frozen=True)
class Confidence:
    """How a case's confidence goes with its Dice, over held-out cases.

    Attributes:
        cases: with a Dice.
        rank_correlation: Spearman's; NaN with fewer than three cases.
        p_value: of that against no correlation.
        poor_below: Dice of the lowest fifth of the cases, and
        poor_auroc: how well a low confidence tells those from the others; NaN where all are alike.
        quarters: mean Dice of the cases by quarters of confidence, the least confident first.
    """

    cases: int
    rank_correlation: float
    p_value: float
    poor_below: float
    poor_auroc: float
    quarters: tuple[float, ...]


def calibrate(samples: Sequence[Sample], *, structures: Structures, exclusive: bool) -> Calibrated:
    """Fit the temperature, and measure it on folds that it was not fitted on.

    Args:
        structures: label or region → ids; with ``exclusive`` channels are label ids, else structures in this order.
    """
    logits = [_logits(sample.probabilities, exclusive) for sample in samples]
    truth = [_one_hot(sample, structures, exclusive) for sample in samples]
    folds = np.array([sample.fold for sample in samples])
    everything = _fit(logits, truth, exclusive)
    by_fold = {}
    for fold in sorted(set(folds.tolist())):
        others = np.flatnonzero(folds != fold)
        by_fold[fold] = _fit([logits[i] for i in others], [truth[i] for i in others], exclusive) if len(others) else 1.0
    before = [_probabilities(z, 1.0, exclusive) for z in logits]
    after = [_probabilities(z, by_fold[fold], exclusive) for z, fold in zip(logits, folds.tolist(), strict=True)]
    found = {name: [_reliability(parts, samples, place, name, structures, exclusive) for parts in (before, after)]
             for place, name in enumerate(structures)}  # fmt: skip
    joined = np.concatenate(truth)
    losses = [log_loss(np.concatenate(parts), joined, multi_label=not exclusive) for parts in (before, after)]
    return Calibrated(
        temperature=round(everything, 4) if losses[1] < losses[0] else 1.0,
        by_fold=by_fold,
        log_loss=(losses[0], losses[1]),
        ece={name: (old.ece, new.ece) for name, (old, new) in found.items()},
        bins={name: _bins(new) for name, (_, new) in found.items()},
        error_auroc=_error_auroc(np.concatenate(after), joined, exclusive),
        voxels=len(joined),
    )


def judge_confidence(confidence: Sequence[float], dice: Sequence[float]) -> Confidence:
    """Compare the confidence of cases with their Dice; a case without a Dice is left out.

    >>> judge_confidence([0.9, 0.8, 0.7, 0.6, 0.5], [0.95, 0.9, 0.85, 0.8, 0.1]).poor_auroc
    1.0
    """
    from scipy.stats import spearmanr

    said, got = np.asarray(confidence, dtype=float), np.asarray(dice, dtype=float)
    known = ~np.isnan(got)
    said, got = np.nan_to_num(said[known], nan=0.0), got[known]
    if len(got) < 3 or np.ptp(said) == 0 or np.ptp(got) == 0:
        return Confidence(len(got), math.nan, math.nan, math.nan, math.nan, ())
    threshold = float(np.quantile(got, POOR_SHARE))
    poor = got <= threshold
    quarters = [float(got[part].mean()) for part in np.array_split(np.argsort(said, kind="stable"), min(4, len(got)))]
    ranked = spearmanr(said, got)
    return Confidence(
        cases=len(got),
        rank_correlation=float(ranked.statistic),
        p_value=float(ranked.pvalue),
        poor_below=threshold,
        poor_auroc=_auroc(-said, poor),
        quarters=tuple(quarters),
    )


def _logits(probabilities: NDArray[Any], exclusive: bool) -> Floats:
    p = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST, 1 - LEAST)
    return np.log(p) if exclusive else np.log(p) - np.log1p(-p)


def _one_hot(sample: Sample, structures: Structures, exclusive: bool) -> NDArray[np.uint8]:
    if exclusive:
        return (sample.truth[:, None] == np.arange(sample.probabilities.shape[1])).astype(np.uint8)
    return np.stack([np.isin(sample.truth, list(ids)) for ids in structures.values()], axis=1).astype(np.uint8)


def _fit(logits: Sequence[Floats], truth: Sequence[NDArray[np.uint8]], exclusive: bool) -> float:
    values, wanted = np.concatenate(logits), np.concatenate(truth)
    step = max(1, math.ceil(len(values) / FITTED_VOXELS))
    return fit_temperature(values[::step], wanted[::step], multi_label=not exclusive)


def _probabilities(logits: Floats, temperature: float, exclusive: bool) -> Floats:
    return Temperature(temperature=temperature).probabilities(logits, multi_label=not exclusive)


def _reliability(
    parts: Sequence[Floats], samples: Sequence[Sample], place: int, name: str, structures: Structures, exclusive: bool
) -> Calibration:
    ids = list(structures[name])
    columns = [p[:, ids].sum(axis=1) if exclusive else p[:, place] for p in parts]
    inside = np.concatenate([np.isin(sample.truth, ids) for sample in samples])
    return calibration(np.concatenate(columns), inside)


def _bins(found: Calibration) -> list[dict[str, float | int | None]]:
    return [
        {"n": b.n, "confidence": None if math.isnan(b.confidence) else b.confidence,
         "frequency": None if math.isnan(b.frequency) else b.frequency}
        for b in found.bins
    ]  # fmt: skip


def _error_auroc(probabilities: Floats, truth: NDArray[np.uint8], exclusive: bool) -> float:
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    if exclusive:
        wrong = truth[np.arange(len(p)), p.argmax(axis=1)] == 0
        doubt = -(p * np.log(p)).sum(axis=1)
    else:
        wrong = ((p >= 0.5) != truth.astype(bool)).any(axis=1)
        doubt = -(p * np.log(p) + (1 - p) * np.log1p(-p)).sum(axis=1)
    return _auroc(doubt, wrong)


def _auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    if positive.all() or not positive.any():
        return math.nan
    return float(weighted_areas(scores, positive, np.ones((1, len(scores))))[0, 0])
