"""Which candidate is shipped: the best out of fold, unless a cheaper one is as good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg3d.crossval.candidates import Candidate, CaseRecord

__all__ = ["MIN_GAIN", "CandidateScore", "choose_candidate", "score_candidates"]

MIN_GAIN = 0.0005
"""Mean Dice that a dearer candidate must gain: less does not pay for more networks or mirror images."""


@dataclass(frozen=True)
class CandidateScore:
    """A candidate out of fold.

    Attributes:
        dice: structure → mean over the cases that either side has it in; NaN where none has.
        mean_dice: mean over the structures.
        passes: passes through a network a window costs.
    """

    candidate: Candidate
    dice: Mapping[str, float]
    mean_dice: float
    passes: int


def score_candidates(
    records: Sequence[CaseRecord], candidates: Sequence[Candidate], *, flip_axes: Mapping[str, int]
) -> list[CandidateScore]:
    """Mean Dice of every candidate over all held-out cases; a structure that a candidate misses counts as 0."""
    return [_score(records, candidate, flip_axes) for candidate in candidates]


def choose_candidate(scores: Sequence[CandidateScore]) -> CandidateScore:
    """From the cheapest to the dearest: one is taken where it is ``MIN_GAIN`` better than the one taken so far.

    Of equally dear ones the better is taken, however little better it is.

    Raises:
        ValueError: there are no candidates.
    """
    costs = sorted({score.passes for score in scores})
    chosen: CandidateScore | None = None
    for passes in costs:
        best = max((s for s in scores if s.passes == passes), key=lambda s: _rank(s.mean_dice))
        if chosen is None or _rank(best.mean_dice) - _rank(chosen.mean_dice) >= MIN_GAIN - 1e-12:
            chosen = best
    if chosen is None:
        raise ValueError("There is no candidate to choose from.")
    return chosen


def _rank(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _score(records: Sequence[CaseRecord], candidate: Candidate, flip_axes: Mapping[str, int]) -> CandidateScore:
    names = list(records[0].dice[candidate.key]) if records else []
    table = np.array([[record.dice[candidate.key][name] for name in names] for record in records], dtype=float)
    means = {name: _mean(table[:, column]) for column, name in enumerate(names)}
    return CandidateScore(candidate, means, _mean(np.array(list(means.values()))), candidate.passes(flip_axes))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
