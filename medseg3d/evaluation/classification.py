"""Scores of an image classifier against true classes: ``cases.csv``, ``summary.json`` and ``report.html``."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.errors import UsageError
from medseg3d.evaluation.files import write_table
from medseg3d.evaluation.image_tables import Answers, read_answers
from medseg3d.evaluation.provenance import file_provenance
from medseg3d.evaluation.summary import json_number
from medseg3d.files import write_json
from medseg3d.images import ImageRef
from medseg3d.metrics import calibration
from medseg3d.metrics.classification import (
    Curve,
    Rates,
    auprc,
    auroc,
    choose_threshold,
    precision_recall_curve,
    rates_at,
    roc_curve,
    threshold_table,
)
from medseg3d.report.classification import write_classification_report
from medseg3d.statistics.bootstrap import LEVEL, RESAMPLES, Interval
from medseg3d.statistics.curves import area_intervals, sum_intervals

__all__ = ["OperatingPoint", "evaluate_classification"]

RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1")
SHOWN_POINTS = 400  # of a curve, in files and figures


@dataclass(frozen=True)
class OperatingPoint:
    """How scores become decisions: a threshold, or the rate that it is to reach on given answers.

    Attributes:
        threshold: used as it is, for every class.
        thresholds: class → threshold, chosen elsewhere; 0.5 for classes that it does not name.
        rule: how ``thresholds`` were chosen, in words.
        sensitivity, specificity: choose the threshold that reaches it.
        tuning: predictions and references to choose it on; the evaluated ones when None, which flatters the rates.
    """

    threshold: float | None = None
    thresholds: Mapping[str, float] | None = None
    rule: str = ""
    sensitivity: float | None = None
    specificity: float | None = None
    tuning: tuple[Path, Path] | None = None


def evaluate_classification(
    predictions: Path,
    references: Path,
    out: Path,
    *,
    name: str = "",
    positive: str | None = None,
    operating_point: OperatingPoint = OperatingPoint(threshold=0.5),
    subgroups: Sequence[str] = (),
    images: Path | Mapping[str, Path] | None = None,
    overlays: Path | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Score a classifier's answers and write the files of an evaluation.

    Args:
        predictions, references: tables as ``read_answers`` takes them.
        out: folder for ``cases.csv``, ``summary.json`` and ``report.html``.
        name: of the method, for the report.
        positive: the class that a single column of scores is for.
        operating_point: how scores become decisions.
        subgroups: columns of the references to compare the AUROC within.
        images: folder of the images, or the image of each case, for pictures of the worst answers.
        overlays: folder of ``<case>.png``, pictures of what the method looked at, to be shown beside them.

    Returns:
        The summary as written.

    Raises:
        CaseError, UsageError: as ``read_answers``, ``choose_threshold``.
    """
    started = datetime.now(UTC)
    answers = read_answers(predictions, references, positive=positive)
    _require_columns(answers, subgroups, references)
    thresholds = _thresholds(answers, operating_point, positive)
    settings = {"level": level, "resamples": resamples}
    labels = {c: _of_class(answers, i, thresholds[i], **settings) for i, c in enumerate(answers.classes)}
    summary = {
        "schema": "medseg3d.classification/1",
        "name": name,
        "cases": len(answers.cases),
        "patients": len(set(answers.patients)),
        "kind": "binary" if answers.binary else "multiclass" if answers.exclusive else "multilabel",
        "headline": _headline(answers, labels, **settings),
        "operating_point": _words(operating_point),
        "labels": labels,
        "overall": _overall(answers, **settings) if answers.exclusive else None,
        "subgroups": {column: _subgroups(answers, column, **settings) for column in subgroups},
        "failed": {p.case: p.message for p in answers.problems},
        "problems": [{"case": p.case, "code": p.code, "message": p.message} for p in answers.problems],
        "inputs": _inputs(answers, images, overlays),
        "provenance": file_provenance((predictions, references), started=started),
    }
    write_table(out / "cases.csv", _table(answers, thresholds))
    write_json(out / "summary.json", summary)
    write_classification_report(out)
    return summary


def _thresholds(answers: Answers, point: OperatingPoint, positive: str | None) -> list[float]:
    if point.threshold is not None:
        return [point.threshold] * len(answers.classes)
    if point.thresholds is not None:
        return [point.thresholds.get(name, 0.5) for name in answers.classes]
    on = read_answers(*point.tuning, positive=positive) if point.tuning else answers
    if on.classes != answers.classes:
        raise UsageError(f"The answers to choose the threshold on are of the classes {', '.join(on.classes)}, those to "
                         f"evaluate of {', '.join(answers.classes)}.")  # fmt: skip
    rates = {"sensitivity": point.sensitivity, "specificity": point.specificity}
    return [choose_threshold(on.scores[:, i], on.truth[:, i], **rates) for i in range(len(on.classes))]


def _words(point: OperatingPoint) -> str:
    where = "on other images" if point.tuning else "on these very images, which flatters the rates"
    if point.threshold is not None:
        return f"a threshold of {point.threshold:g}"
    if point.thresholds is not None:
        return f"given thresholds ({point.rule or 'chosen elsewhere'})"
    if point.sensitivity is not None:
        return f"a sensitivity of {point.sensitivity:g}, chosen {where}"
    if point.specificity is not None:
        return f"a specificity of {point.specificity:g}, chosen {where}"
    return f"the largest sum of sensitivity and specificity, chosen {where}"


def _of_class(answers: Answers, column: int, threshold: float, **settings: Any) -> dict[str, Any]:
    scores, truth, patients = answers.scores[:, column], answers.truth[:, column], answers.patients
    areas = dict(zip(("auroc", "auprc"), area_intervals(scores, truth, patients, **settings), strict=True))
    metrics = {
        "auroc": _number(auroc(scores, truth), areas["auroc"]),
        "auprc": _number(auprc(scores, truth), areas["auprc"]),
    }
    called = scores >= threshold
    decisions = np.stack([called & truth, called & ~truth, ~called & ~truth, ~called & truth], axis=1)
    limits = sum_intervals(decisions, _rates, patients, **settings)
    rates = rates_at(scores, truth, threshold)
    metrics |= {rate: _number(getattr(rates, rate), limit) for rate, limit in zip(RATES, limits, strict=True)}
    return {
        "positives": rates.positives,
        "negatives": rates.negatives,
        "threshold": json_number(threshold),
        "decisions": {name: getattr(rates, name) for name in Rates.__dataclass_fields__ if name != "threshold"},
        "metrics": metrics,
        "roc": _points(roc_curve(scores, truth)),
        "pr": _points(precision_recall_curve(scores, truth)),
        "calibration": _calibration(scores, truth),
        "thresholds": [
            {"threshold": r.threshold, **{rate: json_number(getattr(r, rate)) for rate in RATES}}
            for r in threshold_table(scores, truth)
        ],
    }


def _rates(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of (true positives, false positives, true negatives, false negatives) → the rates, in the order of RATES."""
    tp, fp, tn, fn = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        accuracy = (tp + tn) / sums.sum(axis=1)
        f1 = 2 * tp / (2 * tp + fp + fn)
        columns = (accuracy, (sensitivity + specificity) / 2, sensitivity, specificity, tp / (tp + fp), tn / (tn + fn))
        return np.stack([*columns, f1], axis=1)


def _calibration(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> dict[str, Any] | None:
    """None where the scores are no probabilities."""
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    found = calibration(scores, truth, bins=10)
    return {
        "ece": json_number(found.ece),
        "brier": json_number(found.brier),
        "bins": [{key: json_number(value) for key, value in vars(b).items()} for b in found.bins],
    }


def _overall(answers: Answers, **settings: Any) -> dict[str, Any]:
    """Accuracy, balanced accuracy and macro F1 of the class with the largest score, and the confusion matrix."""
    k = len(answers.classes)
    truth, called = answers.truth.argmax(axis=1), answers.scores.argmax(axis=1)
    cells = np.zeros((len(truth), k * k))
    cells[np.arange(len(truth)), truth * k + called] = 1

    def numbers(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = sums.reshape(-1, k, k)
        hits = np.diagonal(matrix, axis1=1, axis2=2)
        in_truth, in_calls = matrix.sum(axis=2), matrix.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, f1 = hits / in_truth, 2 * hits / (in_truth + in_calls)
        accuracy = hits.sum(axis=1) / matrix.sum(axis=(1, 2))
        # Classes that no image has leave the means, as in scikit-learn's balanced accuracy.
        return np.stack([accuracy, _mean_known(recall), _mean_known(f1)], axis=1)

    values = numbers(cells.sum(axis=0, keepdims=True))[0]
    limits = sum_intervals(cells, numbers, answers.patients, **settings)
    names = ("accuracy", "balanced_accuracy", "f1_macro")
    confusion = {"labels": list(answers.classes), "matrix": cells.sum(axis=0).reshape(k, k).astype(int).tolist()}
    metrics = {n: _number(float(v), limit) for n, v, limit in zip(names, values, limits, strict=True)}
    return {"metrics": metrics, "confusion": confusion}


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _headline(answers: Answers, labels: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """The AUROC, or its mean over the classes that have both positives and negatives."""
    values = [v for label in labels.values() if (v := label["metrics"]["auroc"]["value"]) is not None]
    interval, _ = area_intervals(answers.scores, answers.truth, answers.patients, **settings)
    return {
        "metric": "auroc",
        "over": answers.classes[0] if answers.binary else "classes",
        "value": float(np.mean(values)) if values else None,
        "interval": list(interval) if interval else None,
        **settings,
        "method": "bootstrap over patients",
    }


def _subgroups(answers: Answers, column: str, **settings: Any) -> dict[str, Any]:
    groups = {}
    for value, rows in answers.attributes.groupby(column, sort=True).indices.items():
        scores, truth = answers.scores[rows], answers.truth[rows]
        patients = [answers.patients[i] for i in rows]
        areas = [auroc(scores[:, c], truth[:, c]) for c in range(len(answers.classes))]
        interval, _ = area_intervals(scores, truth, patients, **settings)
        mean = float(np.mean([a for a in areas if not np.isnan(a)] or [np.nan]))
        groups[str(value)] = {
            "cases": len(rows),
            "patients": len(set(patients)),
            "positives": int(truth[:, 0].sum()) if answers.binary else None,
            "auroc": _number(mean, interval),
        }
    return groups


def _table(answers: Answers, thresholds: Sequence[float]) -> pd.DataFrame:
    def joined(flags: NDArray[np.bool_]) -> str:
        names = "|".join(c for c, flag in zip(answers.classes, flags, strict=True) if flag)
        return names or (f"not {answers.classes[0]}" if answers.binary else "")

    if answers.exclusive:
        called = np.eye(len(answers.classes), dtype=bool)[answers.scores.argmax(axis=1)]
    else:
        called = answers.scores >= np.array(thresholds)
    table = pd.DataFrame({"case": answers.cases, "patient": answers.patients})
    table["truth"] = [joined(row) for row in answers.truth]
    table["predicted"] = [joined(row) for row in called]
    table["correct"] = (called == answers.truth).all(axis=1)
    for i, name in enumerate(answers.classes):
        table[f"p_{name}"] = answers.scores[:, i]
    return table


def _points(curve: Curve) -> dict[str, list[float | None]]:
    """A curve thinned to what a figure shows, ends included."""
    keep = np.unique(np.linspace(0, max(len(curve.x) - 1, 0), min(len(curve.x), SHOWN_POINTS)).astype(int))
    columns = {"x": curve.x[keep], "y": curve.y[keep], "threshold": curve.thresholds[keep]}
    return {name: [json_number(float(v)) for v in values] for name, values in columns.items()}


def _number(value: float, interval: Interval | None) -> dict[str, Any]:
    return {"value": json_number(value), "interval": list(interval) if interval else None}


def _inputs(answers: Answers, images: Path | Mapping[str, Path] | None, overlays: Path | None) -> list[dict[str, Any]]:
    def found(path: Path | None) -> str | None:
        return ImageRef.parse(path).found if path else None

    def image(case: str) -> Path | None:
        if images is None or isinstance(images, Mapping):
            return images.get(case) if images else None
        # A table may name images without their suffix.
        return next(
            iter([p for p in (images / case, *sorted(images.glob(f"{glob.escape(case)}.*"))) if p.is_file()]), None
        )

    return [
        {"case": c, "patient": p, "image": found(image(c)),
         **({"overlay": found(overlays / f"{c}.png")} if overlays else {})}
        for c, p in zip(answers.cases, answers.patients, strict=True)
    ]  # fmt: skip


def _require_columns(answers: Answers, columns: Sequence[str], path: Path) -> None:
    for column in columns:
        if column not in answers.attributes.columns:
            known = ", ".join(answers.attributes.columns) or "none"
            raise UsageError(f"{path}: no column {column!r} to make subgroups of (there are: {known}).")
