"""What a column of values over cases is summed up as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.statistics.bootstrap import LEVEL, RESAMPLES, Clusters, Interval, mean_intervals, median_intervals

__all__ = ["MetricSummary", "describe", "quantile"]


@dataclass(frozen=True)
class MetricSummary:
    """One metric over cases.

    Attributes:
        n: Cases with a value, infinite ones included.
        patients: Whose they are.
        mean: NaN where a value is infinite (or there is none): a mean without them would improve with every miss.
        sd: With n - 1; NaN as the mean is, and for a single value.
        median, q1, q3, minimum, maximum: Infinite values rank last, so that these may be infinite.
        interval_mean: None as the mean is NaN, with fewer than five patients, or where all are alike.
        interval_median: None with fewer than five patients; its ends may be infinite.
        infinite: Cases whose distance is infinite, because only one side has the label.
        undefined: Cases without a value (NaN), which count nowhere else.
    """

    n: int
    patients: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float
    minimum: float
    maximum: float
    interval_mean: Interval | None
    interval_median: Interval | None
    infinite: int
    undefined: int


def describe(
    values: ArrayLike,
    patients: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[MetricSummary]:
    """Sum up each column of (cases, columns), with intervals over patients.

    >>> hd95_mm = describe([1.0, 2.0, 4.0, np.inf], ["a", "b", "c", "d"])[0]
    >>> hd95_mm.median, hd95_mm.mean, hd95_mm.infinite
    (3.0, nan, 1)
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    clusters = Clusters.of(patients)
    means = mean_intervals(table, clusters, level=level, resamples=resamples, seed=seed)
    medians = median_intervals(table, clusters, level=level, resamples=resamples, seed=seed)
    return [_summary(column, clusters, *limits) for column, *limits in zip(table.T, means, medians, strict=True)]


def quantile(ranked: NDArray[np.float64], q: float) -> float:
    """Quantile of sorted values by linear interpolation, as NumPy's, but right beside infinite values.

    NumPy computes ``inf - inf`` there. Between a finite value and an infinite one lies infinity; NaN without values.

    >>> quantile(np.array([1.0, 2.0, np.inf]), 0.5), quantile(np.array([1.0, 2.0, np.inf]), 0.75)
    (2.0, inf)
    """
    if not len(ranked):
        return float("nan")
    position = q * (len(ranked) - 1)
    low, part = ranked[int(position)], position - int(position)
    if part == 0:
        return float(low)
    high = ranked[int(position) + 1]
    return float(low) if low == high else float(low + part * (high - low))


def _summary(
    column: NDArray[np.float64], clusters: Clusters, interval_mean: Interval | None, interval_median: Interval | None
) -> MetricSummary:
    ranked = np.sort(column[~np.isnan(column)])
    n, infinite = len(ranked), int(np.isinf(ranked).sum())
    averaged = n > 0 and not infinite
    return MetricSummary(
        n=n,
        patients=clusters.where(~np.isnan(column)).size,
        mean=float(ranked.mean()) if averaged else float("nan"),
        sd=float(ranked.std(ddof=1)) if averaged and n > 1 else float("nan"),
        median=quantile(ranked, 0.5),
        q1=quantile(ranked, 0.25),
        q3=quantile(ranked, 0.75),
        minimum=float(ranked[0]) if n else float("nan"),
        maximum=float(ranked[-1]) if n else float("nan"),
        interval_mean=interval_mean,
        interval_median=interval_median,
        infinite=infinite,
        undefined=len(column) - n,
    )
