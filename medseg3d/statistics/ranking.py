"""Which method comes first, and whether other patients would have made another one win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.statistics.bootstrap import RESAMPLES, Clusters

__all__ = ["Ranking", "rank_methods"]


@dataclass(frozen=True)
class Ranking:
    """Ranks of methods, 1 for the best.

    Attributes:
        rows: Rows (a case and label each) that were ranked: those in which every method has a value.
        mean_rank: (methods,), mean over rows of the rank within a row; equal values share their mean rank.
        rank_share: (methods, methods), share of bootstrap samples of patients in which a method is at rank 1, 2, …;
            methods of equal mean rank are both at the better one.
    """

    rows: int
    mean_rank: NDArray[np.float64]
    rank_share: NDArray[np.float64]


def rank_methods(
    values: ArrayLike,
    patients: Sequence[str],
    *,
    higher_is_better: bool,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank methods in every row, average the ranks, and see how stable that order is over patients.

    Source: rank-then-aggregate and its bootstrap, Wiesenfarth et al. 2021 (challengeR), with patients drawn.

    Args:
        values: (rows, methods); a row with NaN is left out, an infinite distance is the worst.
        patients: of each row.

    >>> rank_methods([[0.9, 0.8], [0.7, 0.6]], ["a", "b"], higher_is_better=True).rank_share.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    from scipy.stats import rankdata

    table = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(table).any(axis=1)
    methods = table.shape[1]
    if not known.any():
        return Ranking(0, np.full(methods, np.nan), np.full((methods, methods), np.nan))
    ranks = rankdata(-table[known] if higher_is_better else table[known], axis=1)
    clusters = Clusters.of(np.asarray(patients)[known])
    sums, counts = clusters.sums(ranks), np.bincount(clusters.index, minlength=clusters.size)
    drawn = np.random.default_rng(seed).multinomial(clusters.size, np.full(clusters.size, 1 / clusters.size), resamples)
    # Rounded, so that sums of the same ranks in another order tie.
    means = np.round((drawn @ sums) / (drawn @ counts)[:, None], 9)
    places = rankdata(means, axis=1, method="min").astype(int)
    share = np.stack([(places == place).mean(axis=0) for place in range(1, methods + 1)], axis=1)
    return Ranking(len(ranks), ranks.mean(axis=0), share)
