"""Which correction of the masks is worth it for which structure: tried on held-out cases, taken only where it helps.

Cases are looked at one after another. Of each, all that a decision can need is worked out at once (every correction
alone, and hole filling on top of every other one), and a few numbers are kept; the decisions follow from those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.crossval.candidates import Structures
from medseg3d.crossval.pairs import PairCounter, Pairs
from medseg3d.inference.postprocess import (
    Box,
    box_of,
    fill_holes,
    keep_largest,
    label_boxes,
    redrawn,
    remove_small,
)
from medseg3d.labels import Repainting, repainting

__all__ = ["MAX_LOSS", "MIN_GAIN", "RULE", "Correction", "LabelledCase", "Trial", "choose_corrections", "transforms_of"]

MIN_GAIN = 0.0001
"""Mean Dice over the cases that a correction must gain."""

MAX_LOSS = 0.05
"""Dice that no single case may lose: a second lesion that is thrown away is not made up for by tidier others."""

FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Smallest components that are tried, as parts of the structure's median volume in the references."""

RULE = (
    "What is corrected are labels; where the network answers with regions, these, from the first to the last. A "
    f"correction is taken if the mean Dice of the structures that it touches rises by {MIN_GAIN:g} or more over the "
    f"held-out cases, more cases get better than worse, and no case loses more than {MAX_LOSS:g}. A case in which "
    "neither side has the structure counts as 1 here, so that removing what is not there is worth something. Tried in "
    "this order, each on top of what was taken: largest component, smallest volume (of those that hold, the best), "
    "hole filling."
)

Kind = Literal["largest", "min_size", "fill_holes"]
BoolMask = NDArray[np.bool_]
LabelMap = NDArray[Any]


@dataclass(frozen=True)
class Correction:
    """One change of one structure's extent.

    Attributes:
        structure: label or region that is corrected.
        rule: its ids, and what becomes of voxels that it gains or loses.
        is_region: whether it is a region of a network that answers with regions.
        min_volume_ml: of ``min_size``.
    """

    kind: Kind
    structure: str
    rule: Repainting
    is_region: bool = False
    min_volume_ml: float | None = None

    def apply(self, labels: LabelMap, voxel_ml: float) -> LabelMap:
        """A copy of the label map with the structure corrected, as the transforms of ``transforms_of`` do it."""
        return redrawn(labels, self.rule, lambda mask: self._changed(mask, voxel_ml))

    def _changed(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        if self.kind == "largest":
            return keep_largest(mask)
        if self.kind == "fill_holes":
            return fill_holes(mask)
        return remove_small(mask, min_voxels=float(self.min_volume_ml or 0) / voxel_ml * (1 - 1e-9))


@dataclass(frozen=True)
class Trial:
    """What a correction did to the held-out cases.

    Attributes:
        before, after: mean over cases of the mean Dice of the structures that share a label with the corrected one.
        better, worse: names of the cases whose Dice rose or fell.
        worst_loss: the most that a case lost; 0 where none did.
        taken: whether it holds against the rule, and nothing better of its kind was taken.
    """

    correction: Correction
    before: float
    after: float
    better: tuple[str, ...]
    worse: tuple[str, ...]
    worst_loss: float
    taken: bool = False

    @property
    def holds(self) -> bool:
        """Whether the rule allows it."""
        gained = self.after - self.before >= MIN_GAIN - 1e-12
        return gained and len(self.better) > len(self.worse) and self.worst_loss <= MAX_LOSS


@dataclass(frozen=True)
class LabelledCase:
    """A held-out case: reference and uncorrected mask as label maps, and a voxel's volume.

    Attributes:
        counted: voxels that are scored; all of them where it is None. The rest is corrected along.
    """

    case: str
    reference: LabelMap
    mask: LabelMap
    voxel_ml: float
    counted: BoolMask | None = None


Chain = tuple[Correction, ...]
"""Corrections of one structure, one on top of the other."""


@dataclass(frozen=True)
class _Target:
    """What may be done to one structure, and what is scored."""

    steps: tuple[tuple[Correction, ...], ...]  # largest component, smallest volumes, hole filling
    scored: Structures

    @property
    def rule(self) -> Repainting:
        return self.steps[0][0].rule

    @property
    def removals(self) -> list[Chain]:
        """What hole filling may come on top of: nothing, or one correction."""
        return [(), *((correction,) for step in self.steps[:-1] for correction in step)]


@dataclass(frozen=True)
class _Outcome:
    """The mean Dice of a case after each chain."""

    case: str
    scores: Mapping[Chain, float]


def choose_corrections(
    cases: Callable[[], Iterable[LabelledCase]],
    *,
    labels: Mapping[str, int],
    structures: Structures,
    median_ml: Mapping[str, float],
    exclusive: bool = True,
) -> list[Trial]:
    """Try every correction; those with ``taken`` make the post-processing.

    In memory are one case at a time, with copies of the box around one structure, and of every other case fourteen
    numbers a structure.

    Args:
        cases: gives the held-out cases, one after another: once, or once a region, since a region is tried on top of
            what was taken of those before it.
        labels: name → id; what is corrected where labels exclude each other.
        structures: that are scored: labels, or regions of several ids.
        median_ml: label or region → median volume in the references that have it.
        exclusive: False where the network answers with the regions in ``structures``: these are corrected then.
    """
    corrected = {name: (label,) for name, label in labels.items()} if exclusive else structures
    targets = [_target(name, corrected, structures, median_ml.get(name, 0.0), exclusive) for name in corrected]
    trials: list[Trial] = []
    for group in [targets] if exclusive else [[target] for target in targets]:
        taken = [trial.correction for trial in trials if trial.taken]
        outcomes: list[list[_Outcome]] = [[] for _ in group]
        for case in cases():
            _add(outcomes, case if exclusive else _corrected(case, taken), group)
        trials += [
            trial for target, rows in zip(group, outcomes, strict=True) if rows for trial in _judge(target, rows)
        ]
    return trials


def transforms_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The corrections that were taken, as a bundle's post-processing spells them."""
    return [_transform(trial.correction) for trial in trials if trial.taken]


def _target(name: str, corrected: Structures, structures: Structures, median_ml: float, exclusive: bool) -> _Target:
    base = Correction(
        "largest", name, repainting({name: corrected[name]} if exclusive else corrected, name), not exclusive
    )
    sizes = [float(f"{fraction * median_ml:.2g}") for fraction in FRACTIONS if median_ml > 0]
    return _Target(
        steps=(
            (base,),
            tuple(replace(base, kind="min_size", min_volume_ml=size) for size in sizes),
            (replace(base, kind="fill_holes"),),
        ),
        scored={key: ids for key, ids in structures.items() if set(ids) & set(corrected[name])},
    )


# One case -------------------------------------------------------------------------------------------------------------


def _add(outcomes: Sequence[list[_Outcome]], case: LabelledCase, group: Sequence[_Target]) -> None:
    """Append to each target's list what its corrections make of a case."""
    counter = PairCounter(ids for target in group for ids in target.scored.values())
    whole, boxes = counter.pairs(case.reference, case.mask, case.counted), label_boxes(case.mask)
    for target, rows in zip(group, outcomes, strict=True):
        rows.append(_outcome(case, target, counter, whole, box_of(boxes, tuple(target.rule.leaves))))


def _outcome(case: LabelledCase, target: _Target, counter: PairCounter, whole: Pairs, box: Box | None) -> _Outcome:
    (fill,) = target.steps[-1]
    if box is None:  # not predicted: nothing to correct
        score = counter.mean_dice(whole, target.scored)
        return _Outcome(case.case, {chain: score for first in target.removals for chain in (first, (*first, fill))})
    reference, labels = case.reference[box], case.mask[box]
    counted = None if case.counted is None else case.counted[box]
    outside = whole - counter.pairs(reference, labels, counted)

    def score_of(changed: LabelMap) -> float:
        return counter.mean_dice(outside + counter.pairs(reference, changed, counted), target.scored)

    # By what the mask is then: most removals remove nothing, or the same as another one.
    known: dict[bytes, tuple[float, float]] = {}
    scores: dict[Chain, float] = {}
    for chain in target.removals:
        changed = chain[0].apply(labels, case.voxel_ml) if chain else labels
        key = hashlib.sha256(changed.tobytes()).digest()
        if key not in known:
            known[key] = score_of(changed), score_of(fill.apply(changed, case.voxel_ml))
        scores[chain], scores[(*chain, fill)] = known[key]
    return _Outcome(case.case, scores)


def _corrected(case: LabelledCase, corrections: Sequence[Correction]) -> LabelledCase:
    """The case as what was taken so far leaves it."""
    mask = case.mask
    for correction in corrections:
        box = box_of(label_boxes(mask), tuple(correction.rule.leaves))
        if box is not None:
            mask = mask.copy()
            mask[box] = correction.apply(mask[box], case.voxel_ml)
    return replace(case, mask=mask)


# All cases ------------------------------------------------------------------------------------------------------------


def _judge(target: _Target, outcomes: Sequence[_Outcome]) -> list[Trial]:
    """The trials of one structure: each step on top of what the steps before it took."""
    done: list[Trial] = []
    taken: Chain = ()
    for step in target.steps:
        if taken and step and step[0].kind == "min_size":
            continue  # a single component is left
        tried = [_trial(outcomes, taken, correction) for correction in step]
        best = max((trial for trial in tried if trial.holds), key=lambda trial: trial.after, default=None)
        if best is not None:
            taken = (*taken, best.correction)
        done += [replace(trial, taken=trial is best) for trial in tried]
    return done


def _trial(outcomes: Sequence[_Outcome], taken: Chain, correction: Correction) -> Trial:
    before = np.array([outcome.scores[taken] for outcome in outcomes])
    after = np.array([outcome.scores[(*taken, correction)] for outcome in outcomes])
    changes = list(zip(outcomes, after - before, strict=True))
    return Trial(
        correction,
        before=float(before.mean()),
        after=float(after.mean()),
        better=tuple(outcome.case for outcome, gain in changes if gain > 1e-9),
        worse=tuple(outcome.case for outcome, gain in changes if gain < -1e-9),
        worst_loss=float(max(0.0, -(after - before).min(initial=0.0))),
    )


def _transform(correction: Correction) -> dict[str, Any]:
    target = {
        "largest": "medseg3d.inference.KeepLargestComponentd",
        "min_size": "medseg3d.inference.RemoveSmallComponentsd",
        "fill_holes": "medseg3d.inference.FillHolesd",
    }[correction.kind]
    size = {} if correction.min_volume_ml is None else {"min_volume_ml": correction.min_volume_ml}
    of: dict[str, Any] = {"applied_labels": correction.rule.paints}
    if correction.is_region:
        of = {"regions": "@regions", "applied_regions": correction.structure}
    return {"_target_": target, "keys": "pred", **size, **of}
