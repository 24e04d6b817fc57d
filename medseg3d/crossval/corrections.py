"""Which correction of the masks is worth it for which label: tried on held-out cases, taken only where it helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.crossval.candidates import Structures, mask_of
from medseg3d.inference.postprocess import fill_holes, keep_largest, remove_small

__all__ = ["MAX_LOSS", "MIN_GAIN", "RULE", "Correction", "LabelledCase", "Trial", "choose_corrections", "transforms_of"]

MIN_GAIN = 0.0001
"""Mean Dice over the cases that a correction must gain."""

MAX_LOSS = 0.05
"""Dice that no single case may lose: a second lesion that is thrown away is not made up for by tidier others."""

FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Smallest components that are tried, as parts of the label's median volume in the references."""

RULE = (
    f"A correction of a label is taken if the mean Dice of the structures with it rises by {MIN_GAIN:g} or more "
    f"over the held-out cases, more cases get better than worse, and no case loses more than {MAX_LOSS:g}. A case in "
    "which neither side has the structure counts as 1 here, so that removing what is not there is worth something. "
    "Tried in this order, each on top of what was taken: largest component, smallest volume (of those that hold, the "
    "best), hole filling."
)

Kind = Literal["largest", "min_size", "fill_holes"]
BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class Correction:
    """One change of one label's mask; ``min_volume_ml`` belongs to ``min_size``."""

    kind: Kind
    label: str
    label_id: int
    min_volume_ml: float | None = None

    def apply(self, mask: BoolMask, voxel_ml: float) -> BoolMask:
        """The changed mask, by the functions that the transforms of ``transforms_of`` use."""
        if self.kind == "largest":
            return keep_largest(mask)
        if self.kind == "fill_holes":
            return fill_holes(mask)
        return remove_small(mask, min_voxels=float(self.min_volume_ml or 0) / voxel_ml * (1 - 1e-9))


@dataclass(frozen=True)
class Trial:
    """What a correction did to the held-out cases.

    Attributes:
        before, after: mean over cases of the mean Dice of the structures that have the label.
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
    """A held-out case: reference and uncorrected mask as label maps, and a voxel's volume."""

    case: str
    reference: NDArray[Any]
    mask: NDArray[Any]
    voxel_ml: float


@dataclass
class _Boxed:
    """One label of a case, cut to the box in which anything may change."""

    case: str
    reference: NDArray[Any]
    labels: NDArray[Any]
    voxel_ml: float
    outside: Mapping[str, tuple[int, int, int]]  # counts of each structure beyond the box


def choose_corrections(
    cases: Callable[[], Iterable[LabelledCase]],
    *,
    labels: Mapping[str, int],
    structures: Structures,
    median_ml: Mapping[str, float],
) -> list[Trial]:
    """Try every correction of every label; those with ``taken`` make the post-processing.

    Args:
        cases: gives the held-out cases, once a label: they are read again rather than all held in memory.
        labels: name → id.
        structures: that are scored: labels, or regions of several ids.
        median_ml: label → median volume in the references that have it.
    """
    trials: list[Trial] = []
    for name, label_id in labels.items():
        scored = {key: ids for key, ids in structures.items() if label_id in ids}
        boxes = [box for case in cases() if (box := _box(case, label_id, scored)) is not None]
        trials += _for_label(boxes, name, label_id, scored, median_ml.get(name, 0.0)) if boxes else []
    return trials


def transforms_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The corrections that were taken, as a bundle's post-processing spells them."""
    return [_transform(trial.correction) for trial in trials if trial.taken]


def _for_label(boxes: list[_Boxed], name: str, label_id: int, scored: Structures, median_ml: float) -> list[Trial]:
    sizes = [float(f"{fraction * median_ml:.2g}") for fraction in FRACTIONS if median_ml > 0]
    steps: list[list[Correction]] = [
        [Correction("largest", name, label_id)],
        [Correction("min_size", name, label_id, size) for size in sizes],
        [Correction("fill_holes", name, label_id)],
    ]
    done: list[Trial] = []
    for step in steps:
        if step and step[0].kind == "min_size" and any(trial.taken for trial in done):
            continue  # a single component is left
        tried = [_try(boxes, correction, scored) for correction in step]
        best = max((trial for trial in tried if trial.holds), key=lambda trial: trial.after, default=None)
        if best is not None:
            for box in boxes:
                box.labels = _corrected(box, best.correction)
        done += [Trial(**{**vars(trial), "taken": trial is best}) for trial in tried]
    return done


def _try(boxes: Sequence[_Boxed], correction: Correction, scored: Structures) -> Trial:
    before = np.array([_score(box, box.labels, scored) for box in boxes])
    after = np.array([_score(box, _corrected(box, correction), scored) for box in boxes])
    change = after - before
    return Trial(
        correction,
        before=float(before.mean()),
        after=float(after.mean()),
        better=tuple(box.case for box, gain in zip(boxes, change, strict=True) if gain > 1e-9),
        worse=tuple(box.case for box, gain in zip(boxes, change, strict=True) if gain < -1e-9),
        worst_loss=float(max(0.0, -change.min(initial=0.0))),
    )


def _corrected(box: _Boxed, correction: Correction) -> NDArray[Any]:
    """As the transforms do it: labels never take voxels from each other."""
    before = box.labels == correction.label_id
    if not before.any():
        return box.labels
    after = correction.apply(before, box.voxel_ml)
    labels = box.labels.copy()
    labels[before & ~after] = 0
    labels[after & (labels == 0)] = correction.label_id
    return labels


def _box(case: LabelledCase, label_id: int, scored: Structures) -> _Boxed | None:
    """The case around the label's mask; all of it counts where the label was not predicted."""
    found = ndimage.find_objects((case.mask == label_id).astype(np.uint8))
    inside = found[0] if found and found[0] is not None else (slice(0, 0),) * 3
    outside = {
        name: tuple(
            int(np.count_nonzero(mask)) - int(np.count_nonzero(mask[inside]))
            for mask in _masks(case.reference, case.mask, ids)
        )
        for name, ids in scored.items()
    }
    # Copies: a view would keep the whole image of every case in memory.
    reference, mask = case.reference[inside].copy(), case.mask[inside].copy()
    return _Boxed(case.case, reference, mask, case.voxel_ml, outside)  # type: ignore[arg-type]


def _score(box: _Boxed, labels: NDArray[Any], scored: Structures) -> float:
    """Mean Dice over the structures; 1 where neither side has one."""
    values = []
    for name, ids in scored.items():
        inside = [int(np.count_nonzero(mask)) for mask in _masks(box.reference, labels, ids)]
        reference, prediction, both = (a + b for a, b in zip(inside, box.outside[name], strict=True))
        values.append(2 * both / (reference + prediction) if reference + prediction else 1.0)
    return float(np.mean(values))


def _masks(reference: NDArray[Any], labels: NDArray[Any], ids: Sequence[int]) -> tuple[BoolMask, BoolMask, BoolMask]:
    truth, found = mask_of(reference, ids), mask_of(labels, ids)
    return truth, found, truth & found


def _transform(correction: Correction) -> dict[str, Any]:
    target = {
        "largest": "medseg3d.inference.KeepLargestComponentd",
        "min_size": "medseg3d.inference.RemoveSmallComponentsd",
        "fill_holes": "medseg3d.inference.FillHolesd",
    }[correction.kind]
    size = {} if correction.min_volume_ml is None else {"min_volume_ml": correction.min_volume_ml}
    return {"_target_": target, "keys": "pred", **size, "applied_labels": correction.label_id}
