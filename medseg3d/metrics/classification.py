"""Classification of whole images: rates at a threshold, curves, calibration. Scores and truth in, numbers out.

Curves and areas are scikit-learn's. A class that only one side has leaves the areas undefined: NaN, never 0 or 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.errors import UsageError

__all__ = ["Curve", "Rates", "auprc", "auroc", "choose_threshold", "confusion_matrix", "precision_recall_curve",
           "rates_at", "roc_curve", "threshold_table"]  # fmt: skip

NAN = float("nan")
ROUNDING = 1e-9


@dataclass(frozen=True)
class Rates:
    """Counts of a yes-or-no decision, and what follows from them.

    A rate without a case to count, such as the sensitivity without any positive, is NaN.

    Attributes:
        threshold: scores of at least this are called positive.
        true_positives, false_positives, true_negatives, false_negatives: images.
    """

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def positives(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        return self.true_negatives + self.false_positives

    @property
    def accuracy(self) -> float:
        return _share(self.true_positives + self.true_negatives, self.positives + self.negatives)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of sensitivity and specificity."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def sensitivity(self) -> float:
        """Share of the positives that are called positive; also recall."""
        return _share(self.true_positives, self.positives)

    @property
    def specificity(self) -> float:
        """Share of the negatives that are called negative."""
        return _share(self.true_negatives, self.negatives)

    @property
    def ppv(self) -> float:
        """Positive predictive value, also precision. Holds for this sample's prevalence only."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def npv(self) -> float:
        """Negative predictive value. Holds for this sample's prevalence only."""
        return _share(self.true_negatives, self.true_negatives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of PPV and sensitivity; NaN where there is neither a positive nor a call."""
        hits = 2 * self.true_positives
        return _share(hits, hits + self.false_positives + self.false_negatives)


@dataclass(frozen=True)
class Curve:
    """A curve over all thresholds, in the order of falling thresholds.

    Attributes:
        x, y: false-positive rate and sensitivity (ROC), or sensitivity and PPV (precision-recall).
        thresholds: the score at and above which a point calls positive.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def rates_at(scores: ArrayLike, truth: ArrayLike, threshold: float) -> Rates:
    """Count the decisions ``score >= threshold`` against the truth.

    >>> rates_at([0.1, 0.4, 0.8], [0, 1, 1], 0.5).sensitivity
    0.5
    """
    called, positive = np.asarray(scores) >= threshold, np.asarray(truth, dtype=bool)
    return Rates(
        float(threshold),
        int(np.count_nonzero(called & positive)),
        int(np.count_nonzero(called & ~positive)),
        int(np.count_nonzero(~called & ~positive)),
        int(np.count_nonzero(~called & positive)),
    )


def auroc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    NaN unless both classes occur. Source: Hanley and McNeil 1982.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores)) if _both_classes(truth) else NAN


def auprc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Average precision: the area under the precision-recall curve as a sum of steps, without interpolation.

    Chance is the prevalence, not 0.5. NaN unless both classes occur.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, scores)) if _both_classes(truth) else NAN


def roc_curve(scores: ArrayLike, truth: ArrayLike) -> Curve:
    """False-positive rate and sensitivity over the thresholds; empty unless both classes occur."""
    from sklearn.metrics import roc_curve as sklearn_roc_curve

    if not _both_classes(truth):
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    return Curve(*sklearn_roc_curve(truth, scores, drop_intermediate=False))


def precision_recall_curve(scores: ArrayLike, truth: ArrayLike) -> Curve:
    """Sensitivity and PPV over the thresholds; empty unless both classes occur."""
    from sklearn.metrics import precision_recall_curve as sklearn_pr_curve

    if not _both_classes(truth):
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    precision, recall, thresholds = sklearn_pr_curve(truth, scores)
    # The last point (recall 0, precision 1) stands for no call at all and has no threshold.
    return Curve(recall[-2::-1], precision[-2::-1], thresholds[::-1])


def choose_threshold(
    scores: ArrayLike, truth: ArrayLike, *, sensitivity: float | None = None, specificity: float | None = None
) -> float:
    """The threshold for a stated sensitivity or specificity; Youden's (largest sum of the two) when none is stated.

    Of the thresholds that reach the stated rate, the one that is best in the other rate. Choose it on other images
    than those that are reported.

    Raises:
        UsageError: both rates are stated, one is not between 0 and 1, or the truth has one class only.
    """
    _require_choice(truth, sensitivity, specificity)
    roc = roc_curve(scores, truth)
    # The first point, threshold infinity, calls nothing positive. A share such as 9/10 may differ from 0.9 by rounding.
    if sensitivity is not None:
        return float(roc.thresholds[np.argmax(roc.y >= sensitivity - ROUNDING)])
    if specificity is not None:
        return float(roc.thresholds[np.flatnonzero(1 - roc.x >= specificity - ROUNDING)[-1]])
    return float(roc.thresholds[np.argmax(roc.y - roc.x)])


def threshold_table(scores: ArrayLike, truth: ArrayLike, *, rows: int = 21) -> list[Rates]:
    """Rates at evenly spaced thresholds from 0 to 1."""
    return [rates_at(scores, truth, float(threshold)) for threshold in np.linspace(0, 1, rows)]


def confusion_matrix(predicted: Sequence[str], truth: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Images by true class (row) and predicted class (column).

    >>> confusion_matrix(["b", "b"], ["a", "b"], ["a", "b"]).tolist()
    [[0, 1], [0, 1]]
    """
    from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

    return np.asarray(sklearn_confusion_matrix(list(truth), list(predicted), labels=list(classes)), dtype=np.int64)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def _both_classes(truth: ArrayLike) -> bool:
    positive = np.asarray(truth, dtype=bool)
    return bool(positive.any() and not positive.all())


def _require_choice(truth: ArrayLike, sensitivity: float | None, specificity: float | None) -> None:
    if sensitivity is not None and specificity is not None:
        raise UsageError("State a sensitivity or a specificity for the operating point, not both.")
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        if value is not None and not 0 < value <= 1:
            raise UsageError(f"The {name} of the operating point is {value:g}; it lies between 0 and 1.")
    if not _both_classes(truth):
        raise UsageError("No operating point can be chosen: the images are all positive or all negative.")
