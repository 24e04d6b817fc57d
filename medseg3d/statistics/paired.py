"""Two methods on the same cases: differences, and whether chance could make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.statistics.bootstrap import LEVEL, RESAMPLES, Clusters, Interval, mean_intervals, median_intervals
from medseg3d.statistics.describe import quantile

__all__ = ["PairedTest", "holm", "paired_test"]

Status = Literal["tested", "equal", "too_few", "none"]

# The smallest two-sided p-value of an exact Wilcoxon test on n patients is 2 / 2**n: five cannot get below 0.05.
FEWEST_PATIENTS = 6


@dataclass(frozen=True)
class PairedTest:
    """``a`` minus ``b`` over the cases that both have a value for.

    Attributes:
        n: Cases compared.
        patients: Patients they are of.
        undefined: Cases left out because one or both values are NaN.
        infinite: Cases of ``n`` with an infinite value on either side.
        infinite_a, infinite_b: Those in which a's, and b's, is infinite.
        mean_a, mean_b, difference: NaN where a value is infinite.
        interval: Of the mean difference over cases, by bootstrap over patients; None as ``difference`` is NaN.
        median_difference: An infinite difference ranks first or last; two infinite values do not differ.
        median_interval: Of that, its ends may be infinite.
        p: Two-sided Wilcoxon signed-rank test on the patients' mean differences; NaN without cases.
        greater_a, ties, greater_b: Cases in which a's value is greater, equal, smaller.
        status: ``tested``; ``equal`` (no case differs, p is 1); ``too_few`` (fewer than six patients: the test cannot
            reach 0.05); ``none`` (no case in common).
    """

    n: int
    patients: int
    undefined: int
    infinite: int
    infinite_a: int
    infinite_b: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval | None
    median_difference: float
    median_interval: Interval | None
    p: float
    greater_a: int
    ties: int
    greater_b: int
    status: Status


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    patients: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Compare two methods' values of the same cases.

    Several cases of a patient are averaged before the Wilcoxon test, which takes its pairs for independent; infinite
    differences are the greatest ones there. Differences of zero are ranked and then left out of the sums (Pratt 1959),
    so that many equal cases do not make the few others look certain. How the p-value is computed is scipy's choice
    (``method="auto"``): exactly up to 50 patients where no differences tie and none is zero, by all permutations of
    signs up to 13 otherwise, and by the normal approximation beyond.

    >>> test = paired_test([0.9, 0.8, 0.7, 0.9, 0.8, 0.6], [0.8, 0.6, 0.4, 0.5, 0.3, 0.0], list("abcdef"))
    >>> round(test.difference, 3), test.p, test.greater_a
    (0.35, 0.03125, 6)
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = ~(np.isnan(first) | np.isnan(second))
    left_out, first, second = int((~known).sum()), first[known], second[known]
    clusters = Clusters.of(np.asarray(patients)[known])
    difference = _differences(first, second)
    infinite = np.isinf(first) | np.isinf(second)
    averaged = len(first) > 0 and not infinite.any()
    options = {"level": level, "resamples": resamples, "seed": seed}
    p, status = _wilcoxon(_patient_means(difference, clusters))
    return PairedTest(
        n=len(first),
        patients=clusters.size,
        undefined=left_out,
        infinite=int(infinite.sum()),
        infinite_a=int(np.isinf(first).sum()),
        infinite_b=int(np.isinf(second).sum()),
        mean_a=float(first.mean()) if averaged else float("nan"),
        mean_b=float(second.mean()) if averaged else float("nan"),
        difference=float(difference.mean()) if averaged else float("nan"),
        interval=mean_intervals(difference, clusters, **options)[0] if averaged else None,  # type: ignore[arg-type]
        median_difference=quantile(np.sort(difference), 0.5),
        median_interval=median_intervals(difference, clusters, **options)[0],  # type: ignore[arg-type]
        p=p,
        greater_a=int((difference > 0).sum()),
        ties=int((difference == 0).sum()),
        greater_b=int((difference < 0).sum()),
        status=status,
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for their number by Holm's step-down method (1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    # A larger p-value is never adjusted to less than a smaller one.
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def _differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    both = np.isinf(a) & (a == b)
    with np.errstate(invalid="ignore"):
        return np.where(both, 0.0, a - b)


def _patient_means(difference: NDArray[np.float64], clusters: Clusters) -> NDArray[np.float64]:
    """Mean difference of each patient; one whose infinite differences point both ways has none (0)."""
    if not len(difference):
        return difference
    infinite = np.isinf(difference)
    net = clusters.sums(np.where(infinite, np.sign(difference), 0.0)[:, None])[:, 0]
    any_infinite = clusters.sums(infinite.astype(float)[:, None])[:, 0] > 0
    finite = clusters.sums(np.where(infinite, 0.0, difference)[:, None])[:, 0]
    means = finite / np.bincount(clusters.index, minlength=clusters.size)
    return np.where(any_infinite, np.where(net == 0, 0.0, np.copysign(np.inf, net)), means)


def _wilcoxon(differences: NDArray[np.float64]) -> tuple[float, Status]:
    from scipy.stats import wilcoxon

    if not len(differences):
        return float("nan"), "none"
    if not differences.any():
        return 1.0, "equal"
    # Ranks say as much as values here, and ranks of infinite differences are finite.
    p = float(wilcoxon(_signed_ranks(differences), zero_method="pratt").pvalue)
    return p, "tested" if len(differences) >= FEWEST_PATIENTS else "too_few"


def _signed_ranks(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = np.sign(differences) * rankdata(np.abs(differences))
    return ranks
