"""Intervals of rates and areas under curves when whole patients are drawn: classification and detection.

Each statistic is written for weights, how often each image was drawn, so that a thousand draws are a few sums over
one sorted list. With weights of one they are scikit-learn's and pycocotools' numbers, which tests hold them against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.statistics.bootstrap import FEWEST_PATIENTS, LEVEL, RESAMPLES, SEED, Clusters, Interval, cluster_intervals

__all__ = ["PooledDetections", "area_intervals", "average_precision_intervals", "sum_intervals", "weighted_areas",
           "weighted_average_precision"]  # fmt: skip

Floats = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)  # where COCO's evaluation reads the precision


def sum_intervals(
    table: ArrayLike,
    numbers: Callable[[Floats], Floats],
    patients: Sequence[str] | Clusters,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Interval | None]:
    """Limits of numbers that follow from sums over images, such as sensitivity from counts of decisions.

    Args:
        table: (images, columns), what is summed.
        numbers: (draws, columns) of sums → (draws, numbers); NaN where a number is not defined.
        patients: of each image.

    Returns:
        Limits a number; None with fewer than ``FEWEST_PATIENTS``, where the number itself is not defined, or where all
        draws agree: a rate of 1 in every patient cannot tell how far other patients may lie.

    >>> hits = [[1, 1], [0, 1], [1, 1], [1, 1], [0, 1], [1, 1]]
    >>> sum_intervals(hits, lambda sums: sums[:, :1] / sums[:, 1:], list("abcdef"), level=0.5)[0] is not None
    True
    """
    clusters = patients if isinstance(patients, Clusters) else Clusters.of(patients)
    sums = clusters.sums(np.asarray(table, dtype=np.float64))
    defined = ~np.isnan(numbers(sums.sum(axis=0, keepdims=True))[0])
    result: list[Interval | None] = [None] * len(defined)
    if clusters.size < FEWEST_PATIENTS or not defined.any():
        return result

    def statistic(weights: Floats) -> Floats:
        return numbers(weights @ sums)[:, defined]

    limits = cluster_intervals(statistic, clusters.size, level=level, resamples=resamples, seed=seed)
    for i, limit in zip(np.flatnonzero(defined), limits, strict=True):
        result[i] = _spread(limit)
    return result


def area_intervals(
    scores: ArrayLike,
    truth: ArrayLike,
    patients: Sequence[str] | Clusters,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Interval | None, Interval | None]:
    """Limits of the AUROC and of the average precision, or of their means over classes.

    Args:
        scores, truth: (images,), or (images, classes); a class that all or no images have is left out.
        patients: of each image.

    Returns:
        None with fewer than ``FEWEST_PATIENTS``, or where no class has both positives and negatives.
    """
    clusters = patients if isinstance(patients, Clusters) else Clusters.of(patients)
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    values, positive = values.reshape(len(values), -1), positive.reshape(len(positive), -1)
    known = np.flatnonzero(positive.any(axis=0) & ~positive.all(axis=0))
    if clusters.size < FEWEST_PATIENTS or not len(known):
        return None, None

    def statistic(weights: Floats) -> Floats:
        drawn = weights[:, clusters.index]
        areas = np.stack([weighted_areas(values[:, c], positive[:, c], drawn) for c in known])
        return _mean_of_known(areas)

    auroc, auprc = cluster_intervals(statistic, clusters.size, level=level, resamples=resamples, seed=seed)
    return _spread(auroc), _spread(auprc)


def weighted_areas(scores: Floats, truth: NDArray[np.bool_], weights: Floats) -> Floats:
    """AUROC and average precision of weighted images: (draws, images) → (draws, 2); NaN without one of the classes.

    >>> weighted_areas(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], bool), np.ones((1, 4))).round(3).tolist()
    [[0.75, 0.833]]
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # equal scores are admitted together
    positives = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negatives = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    total_positives, total_negatives = true_positives[:, -1], false_positives[:, -1]
    below = total_negatives[:, None] - false_positives + negatives / 2
    auroc = _ratio((positives * below).sum(axis=1), total_positives * total_negatives)
    steps = positives * _ratio(true_positives, true_positives + false_positives, empty=0.0)
    auprc = np.where(total_negatives > 0, _ratio(steps.sum(axis=1), total_positives), np.nan)
    return np.stack([auroc, auprc], axis=1)


@dataclass(frozen=True)
class PooledDetections:
    """All detections of one class that count, over all images.

    Attributes:
        scores, hit, image: (detections,): confidence, whether it hits a box, and the number of its image.
        boxes: (images,), reference boxes to find.
    """

    scores: Floats
    hit: NDArray[np.bool_]
    image: NDArray[np.intp]
    boxes: NDArray[np.int64]


def average_precision_intervals(
    pools: Sequence[Sequence[PooledDetections]],
    patients: Sequence[str] | Clusters,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Interval | None]:
    """Limits of means of average precisions, such as the mAP over classes.

    Args:
        pools: for each number wanted, the pools that it is the mean of. Pools without a reference box are left out.
        patients: of each image.

    Returns:
        Limits a number; None with fewer than ``FEWEST_PATIENTS``, or no box at all.
    """
    clusters = patients if isinstance(patients, Clusters) else Clusters.of(patients)
    known = [[pool for pool in group if pool.boxes.any()] for group in pools]
    wanted = [i for i, group in enumerate(known) if group]
    result: list[Interval | None] = [None] * len(known)
    if clusters.size < FEWEST_PATIENTS or not wanted:
        return result

    def statistic(weights: Floats) -> Floats:
        of_images = weights[:, clusters.index]
        return np.stack([_mean_precision(known[i], of_images) for i in wanted], axis=1)

    limits = cluster_intervals(
        statistic, clusters.size, level=level, resamples=resamples, seed=seed, method="percentile"
    )
    for i, limit in zip(wanted, limits, strict=True):
        result[i] = _spread(limit)
    return result


def weighted_average_precision(pool: PooledDetections, weights: Floats) -> Floats:
    """COCO's average precision of weighted images: (draws, images) → (draws,); NaN where no box was drawn."""
    order = np.argsort(-pool.scores, kind="mergesort")
    image, hit = pool.image[order], pool.hit[order]
    boxes = weights @ pool.boxes
    return np.array([_precision_of(row[image], hit, n) for row, n in zip(weights, boxes, strict=True)])


def _mean_precision(pools: Sequence[PooledDetections], weights: Floats) -> Floats:
    return _mean_of_known(np.stack([weighted_average_precision(pool, weights) for pool in pools]))


def _precision_of(weights: Floats, hit: NDArray[np.bool_], boxes: float) -> float:
    if not boxes:
        return float("nan")
    drawn = weights > 0
    weights, hit = weights[drawn], hit[drawn]
    hits = np.cumsum(weights * hit)
    if not len(hits):
        return 0.0
    precision = hits / np.cumsum(weights)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / boxes, RECALLS, side="left")
    return float(np.where(reached < len(hits), best_from_here[np.minimum(reached, len(hits) - 1)], 0.0).mean())


def _spread(limits: Interval | None) -> Interval | None:
    return limits if limits is not None and limits[0] < limits[1] else None


def _mean_of_known(values: Floats) -> Floats:
    """Mean along the first axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _ratio(above: Floats, below: Floats, *, empty: float = np.nan) -> Floats:
    full: NDArray[np.bool_] = below > 0
    return np.where(full, above / np.where(full, below, 1), empty)
