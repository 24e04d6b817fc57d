"""Lesion by lesion: which connected components of a reference a prediction found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import UsageError

__all__ = ["Connectivity", "Lesion", "LesionScores", "score_lesions"]

Connectivity = Literal[6, 18, 26]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """One lesion of the reference, found or not, or one component of the prediction that is none.

    Attributes:
        reference_ml, predicted_ml: volumes; 0 on the side that has no such lesion.
        dice: of the matched pair; 0 for the others.
        centre_ijk: voxel index of the centroid, of the reference's lesion where there is one.
    """

    kind: Literal["matched", "missed", "false_positive"]
    reference_ml: float
    predicted_ml: float
    dice: float
    centre_ijk: Triple


@dataclass(frozen=True)
class LesionScores:
    """Detection of lesions in one case.

    Attributes:
        reference, predicted: number of lesions on each side.
        detected: pairs that match, so the lesions of the reference that were found.
        false_positives: lesions of the prediction that match none.
        lesions: matched and missed ones in the order of the reference's labels, then the false positives.
    """

    reference: int
    predicted: int
    detected: int
    false_positives: int
    lesions: tuple[Lesion, ...]

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that were found; NaN where there are none."""
        return self.detected / self.reference if self.reference else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that match one; NaN where none is predicted."""
        return self.detected / self.predicted if self.predicted else float("nan")

    @property
    def f1(self) -> float:
        """2·TP / (2·TP + FP + FN), the lesion-wise F1; NaN where neither side has a lesion, 0 where one has none."""
        total = self.reference + self.predicted
        return 2 * self.detected / total if total else float("nan")

    @property
    def dice(self) -> float:
        """Mean Dice of the matched lesions; NaN where none matched."""
        matched = [lesion.dice for lesion in self.lesions if lesion.kind == "matched"]
        return float(np.mean(matched)) if matched else float("nan")


def score_lesions(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    voxel_ml: float,
    overlap: float = 0.1,
    connectivity: Connectivity = 26,
) -> LesionScores:
    """Match the connected components of two three-dimensional masks of one shape, one to one.

    A pair may match when its IoU is ``overlap`` or more. Pairs are taken by falling IoU, and neither partner is taken
    twice: of two predictions that share a lesion the better one matches it and the other is a false positive; a
    prediction that runs over two lesions finds one of them. Source: Metrics Reloaded, greedy matching by score;
    panoptica's naive threshold matching (Kofler et al. 2023).

    Raises:
        UsageError: an overlap outside 0 to 1, or another connectivity than 6, 18 or 26.

    >>> a, b = np.zeros((2, 9, 9, 9), bool)
    >>> a[1:3, 1:3, 1:3] = a[6:8, 6:8, 6:8] = b[1:3, 1:3, 1:4] = True
    >>> found = score_lesions(a, b, voxel_ml=0.001)
    >>> found.sensitivity, found.precision, round(found.dice, 3)
    (0.5, 1.0, 0.8)
    """
    if not 0 <= overlap <= 1 or connectivity not in (6, 18, 26):
        raise UsageError(
            f"Lesions match from an IoU of 0 to 1 ({overlap} was given) and hang together by 6, 18 or 26 neighbours "
            f"({connectivity} was given)."
        )
    ours, theirs = _components(reference, connectivity), _components(prediction, connectivity)
    both = reference & prediction
    pairs = _matched_pairs(ours.labels[both], theirs.labels[both], ours.sizes, theirs.sizes, overlap=overlap)
    lesions = []
    for i in range(1, ours.count + 1):
        j, dice = pairs.get(i, (0, 0.0))
        volumes = float(ours.sizes[i] * voxel_ml), float(theirs.sizes[j] * voxel_ml)
        lesions.append(Lesion("matched" if j else "missed", *volumes, dice, ours.centre(i)))
    for j in sorted(set(range(1, theirs.count + 1)) - {j for j, _ in pairs.values()}):
        lesions.append(Lesion("false_positive", 0.0, float(theirs.sizes[j] * voxel_ml), 0.0, theirs.centre(j)))
    return LesionScores(ours.count, theirs.count, len(pairs), theirs.count - len(pairs), tuple(lesions))


@dataclass(frozen=True)
class _Components:
    """Connected components of a mask, from 1; index 0 stands for "no lesion" and has no voxels."""

    labels: NDArray[np.integer]
    sizes: NDArray[np.int64]
    centres: NDArray[np.float64]

    @property
    def count(self) -> int:
        return self.sizes.size - 1

    def centre(self, index: int) -> Triple:
        i, j, k = self.centres[index].tolist()
        return i, j, k


def _components(mask: NDArray[np.bool_], connectivity: Connectivity) -> _Components:
    labels, count = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)
    at = np.unravel_index(np.flatnonzero(mask), mask.shape)
    component = labels[at]
    sizes = np.bincount(component, minlength=count + 1)
    sums = [np.bincount(component, weights=axis, minlength=count + 1) for axis in at]
    return _Components(labels, sizes, np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None])


def _matched_pairs(
    in_reference: NDArray, in_prediction: NDArray, sizes: NDArray, predicted_sizes: NDArray, *, overlap: float
) -> dict[int, tuple[int, float]]:
    """Component of the reference → its component of the prediction and their Dice, from the voxels that both have."""
    keys = in_reference.astype(np.int64) * predicted_sizes.size + in_prediction
    found, shared = np.unique(keys, return_counts=True)
    i, j = np.divmod(found, predicted_sizes.size)
    total = sizes[i] + predicted_sizes[j]
    iou = shared / (total - shared)
    pairs: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for n in np.lexsort((j, i, -iou)):
        if iou[n] >= overlap and int(i[n]) not in pairs and int(j[n]) not in taken:
            pairs[int(i[n])] = (int(j[n]), float(2 * shared[n] / total[n]))
            taken.add(int(j[n]))
    return pairs
