"""Agreement of two measurements of one quantity, such as a structure's volume: Bland–Altman and intraclass correlation.

Where every patient has one case, intervals are the published ones; where some have several, which those do not allow
for, they are by bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.statistics.bootstrap import FEWEST_PATIENTS, LEVEL, RESAMPLES, Clusters, Interval, cluster_intervals

__all__ = ["ICC_FORM", "BlandAltman", "Icc", "bland_altman", "icc", "icc_agreement"]

Floats = NDArray[np.float64]

ICC_FORM = "ICC(2,1) of Shrout and Fleiss = ICC(A,1) of McGraw and Wong: two-way random, absolute agreement, single"


@dataclass(frozen=True)
class BlandAltman:
    """Differences (first minus second) and the range that holds 95 % of them if they are normal.

    Attributes:
        n: Pairs.
        bias, sd: Mean and standard deviation of the differences; NaN for the latter with one pair.
        limits: bias ± 1.96 sd (at ``level`` 0.95).
        bias_interval, lower_interval, upper_interval: Of the bias and of either limit; None with fewer than two
            patients, or than five where some have several cases.
    """

    n: int
    bias: float
    sd: float
    limits: Interval
    bias_interval: Interval | None
    lower_interval: Interval | None
    upper_interval: Interval | None


@dataclass(frozen=True)
class Icc:
    """Intraclass correlation of form ``ICC_FORM``; NaN where nothing varies, or with one pair."""

    value: float
    interval: Interval | None


def bland_altman(
    first: ArrayLike,
    second: ArrayLike,
    patients: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BlandAltman:
    """Bias and limits of agreement, after Bland and Altman 1986 and 1999 (intervals by their approximation).

    >>> agreement = bland_altman([11.0, 19.0, 33.0], [10.0, 20.0, 30.0], ["a", "b", "c"])
    >>> agreement.bias, agreement.sd
    (1.0, 2.0)
    """
    from scipy.stats import norm, t

    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    n, clusters = len(difference), Clusters.of(patients)
    bias = float(difference.mean()) if n else float("nan")
    sd = float(difference.std(ddof=1)) if n > 1 else float("nan")
    z = float(norm.ppf((1 + level) / 2))
    limits = (bias - z * sd, bias + z * sd)
    if clusters.size < (FEWEST_PATIENTS if clusters.size < n else 2):
        return BlandAltman(n, bias, sd, limits, None, None, None)
    if clusters.size < n:

        def moments(weights: Floats) -> Floats:
            return _limits_of(weights, difference, clusters, z)

        bounds = cluster_intervals(moments, clusters.size, level=level, resamples=resamples, seed=seed)
        return BlandAltman(n, bias, sd, limits, *bounds)
    # Variance of a limit: s²/n for the bias and z²s²/(2(n - 1)) for the standard deviation.
    quantile = float(t.ppf((1 + level) / 2, n - 1))
    of_bias = quantile * sd * float(np.sqrt(1 / n))
    of_limit = quantile * sd * float(np.sqrt(1 / n + z**2 / (2 * (n - 1))))
    around = ((bias, of_bias), (limits[0], of_limit), (limits[1], of_limit))
    return BlandAltman(n, bias, sd, limits, *((value - half, value + half) for value, half in around))


def icc_agreement(
    first: ArrayLike,
    second: ArrayLike,
    patients: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Icc:
    """Intraclass correlation of two measurements of the same cases, with an interval over patients.

    >>> icc_agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["a", "b", "c"]).value
    1.0
    """
    table = np.column_stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    clusters = Clusters.of(patients)
    if clusters.size == len(table):
        return icc(table, level=level)

    def of_drawn(weights: Floats) -> Floats:
        return np.array([[_icc_value(np.repeat(table, counts, axis=0))] for counts in _case_counts(weights, clusters)])

    if clusters.size < FEWEST_PATIENTS:
        return Icc(_icc_value(table), None)
    interval = cluster_intervals(of_drawn, clusters.size, level=level, resamples=resamples, seed=seed)[0]
    return Icc(_icc_value(table), interval)


def icc(table: ArrayLike, *, level: float = LEVEL) -> Icc:
    """ICC(2,1) of a table (subjects, raters) without gaps; its interval after McGraw and Wong 1996, table 7.

    >>> shrout_fleiss = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(icc(shrout_fleiss).value, 2)
    0.29
    """
    from scipy.stats import f

    ratings = np.asarray(table, dtype=np.float64)
    n, k = ratings.shape
    value = _icc_value(ratings)
    if not np.isfinite(value):
        return Icc(value, None)
    rows, columns, error = _mean_squares(ratings)
    if 1 - value < 1e-12:  # equal ratings, but for rounding: nothing varies but the subjects
        return Icc(1.0, (1.0, 1.0))
    a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
    spread = (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    if spread == 0:  # subjects that do not differ, rated without error
        return Icc(value, None)
    v = (a * columns + b * error) ** 2 / spread
    lower_f, upper_f = f.ppf((1 + level) / 2, n - 1, v), f.ppf((1 + level) / 2, v, n - 1)
    between = k * columns + (k * n - k - n) * error
    low = n * (rows - lower_f * error) / (lower_f * between + n * rows)
    high = n * (upper_f * rows - error) / (between + n * upper_f * rows)
    return Icc(value, (float(low), float(high)))


def _icc_value(ratings: Floats) -> float:
    n, k = ratings.shape
    if n < 2:
        return float("nan")
    rows, columns, error = _mean_squares(ratings)
    total = rows + (k - 1) * error + k * (columns - error) / n
    # Equal constants: 0 / 0, whatever rounding makes of it.
    return float((rows - error) / total) if total > 1e-12 * max(1.0, float(np.square(ratings).max())) else float("nan")


def _mean_squares(ratings: Floats) -> tuple[float, float, float]:
    """Mean squares between subjects, between raters, and of the rest, of a two-way table without replication."""
    n, k = ratings.shape
    mean, of_rows, of_columns = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    rest = ratings - of_rows[:, None] - of_columns[None] + mean
    return (
        float(k * np.square(of_rows - mean).sum() / (n - 1)),
        float(n * np.square(of_columns - mean).sum() / (k - 1)),
        float(np.square(rest).sum() / ((n - 1) * (k - 1))),
    )


def _case_counts(weights: Floats, clusters: Clusters) -> NDArray[np.int64]:
    return weights.astype(np.int64)[:, clusters.index]


def _limits_of(weights: Floats, difference: Floats, clusters: Clusters, z: float) -> Floats:
    """Bias and limits of drawn patients: (draws, 3)."""
    powers = np.column_stack([np.ones_like(difference), difference, difference**2])
    n, first, second = (weights @ clusters.sums(powers)).T
    bias = first / n
    sd = np.sqrt(np.maximum(second / n - bias**2, 0.0) * n / (n - 1))
    return np.column_stack([bias, bias - z * sd, bias + z * sd])
