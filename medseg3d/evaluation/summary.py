"""``summary.json``: everything about an evaluation that is not about one case. Pure: rows in, a mapping out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.evaluation.model import CaseResult, Problem, Scoring
from medseg3d.evaluation.tables import LESION_COLUMNS, METRICS, to_table
from medseg3d.metrics import Calibration, DatasetCounts
from medseg3d.statistics import (
    LEVEL,
    RESAMPLES,
    MetricSummary,
    bland_altman,
    describe,
    few_patients,
    icc_agreement,
    mean_of_means_interval,
)
from medseg3d.statistics.agreement import ICC_FORM

__all__ = ["SCHEMA", "STATUSES", "build_summary", "json_number", "metric_json", "patients_known"]

SCHEMA = "medseg3d.evaluation/1"
STATUSES = ("scored", "missed", "spurious", "both_empty")

# Not a result but a setting.
NOT_SUMMED_UP = frozenset({"nsd_tolerance_mm"})
METHOD = "bootstrap over patients: BCa for means (percentile where it does not exist), percentile for medians"
# Fewer scored cases than this are not cut into thirds by size.
FEWEST_BY_SIZE = 9
SIZE_THIRDS = ("smallest third", "middle third", "largest third")
BY_SIZE = "reference volume"
UNREADABLE = "unreadable"


def build_summary(
    results: Sequence[CaseResult],
    scoring: Scoring,
    *,
    name: str,
    problems: Sequence[Problem],
    attributes: Mapping[str, Mapping[str, str]],
    run: str | None,
    provenance: Mapping[str, Any],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The content of ``summary.json``, without NaN or infinity.

    Args:
        attributes: attribute → case → value, for the tables of subgroups.
    """
    scored = [result for result in results if result.scores]
    table = to_table([score for result in scored for score in result.scores], lesions=bool(scoring.lesions))
    options = {"level": level, "resamples": resamples}
    labels = {region.name: _label(table[table.label == region.name], options) for region in scoring.regions}
    headline = _headline(table, scoring, options)
    names = {result.case.case for result in scored}
    return {
        "schema": SCHEMA,
        "name": name,
        "cases": len(scored),
        "patients": len({result.case.patient for result in scored}),
        "patients_known": patients_known((result.case.case, result.case.patient) for result in scored),
        "mean_dice": headline["value"],
        # Pictures that cannot be read are refused before there is a case to score.
        "failed": {p.case: p.message for p in problems if p.code == UNREADABLE and p.case not in names}
        | {result.case.case: result.failed.message for result in results if result.failed},
        "regions": [{"name": region.name, "ids": list(region.ids)} for region in scoring.regions],
        "tolerance_mm": _tolerances(scoring),
        "plane_unit": scoring.plane_unit,
        "headline": headline,
        "labels": labels,
        "dataset": _dataset([result.counts for result in scored if result.counts is not None], scoring),
        "calibration": _calibration(scored),
        "subgroups": _subgroups(table, attributes, scoring, options),
        "problems": [vars(problem) for problem in problems],
        "inputs": [_input(result) for result in scored],
        "lesions": _lesions(table, scoring),
        "run": run,
        "provenance": dict(provenance),
    }


def metric_json(summary: MetricSummary) -> dict[str, Any]:
    """A metric's summary as JSON: null for what is not defined or infinite, and a status for the latter.

    An infinite end of the median's interval is null; ``interval_median_status`` says so.
    """
    content: dict[str, Any] = {
        "n": summary.n,
        "patients": summary.patients,
        "mean": json_number(summary.mean),
        "sd": json_number(summary.sd),
        "median": json_number(summary.median),
        "q1": json_number(summary.q1),
        "q3": json_number(summary.q3),
        "min": json_number(summary.minimum),
        "max": json_number(summary.maximum),
        "interval_mean": _interval(summary.interval_mean),
        "interval_median": _interval(summary.interval_median),
        "infinite": summary.infinite,
        "undefined": summary.undefined,
    }
    if math.isinf(summary.median):
        content["status"] = "infinite"
    if summary.interval_median is not None and math.isinf(summary.interval_median[1]):
        content["interval_median_status"] = "infinite"
    return content


def patients_known(cases: Iterable[tuple[str, str]]) -> bool:
    """Whether any case has a patient other than itself: where nobody names patients, each case is taken for one.

    >>> patients_known([("a", "a"), ("b", "b")]), patients_known([("a", "P1")])
    (False, True)
    """
    return any(case != patient for case, patient in cases)


def json_number(value: float) -> float | None:
    """None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


# Parts ---------------------------------------------------------------------------------------------------------------


def _interval(bounds: tuple[float, float] | None) -> list[float | None] | None:
    return None if bounds is None else [json_number(bound) for bound in bounds]


def _summarised(table: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every metric over the cases of one label."""
    columns = [c for c in table.columns if c in (*METRICS, *LESION_COLUMNS) and c not in NOT_SUMMED_UP]
    values = table[columns].to_numpy(dtype=np.float64)
    columns, values = _with_values(columns, values)
    if not len(table):
        return {}
    summaries = describe(values, table["patient"].tolist(), **options)
    return {column: metric_json(summary) for column, summary in zip(columns, summaries, strict=True)}


def _with_values(columns: list[str], values: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
    """Without the columns of lesions where they were not asked for of this label."""
    kept = [i for i, column in enumerate(columns) if column in METRICS or not np.isnan(values[:, i]).all()]
    return [columns[i] for i in kept], values[:, kept]


def _label(table: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, Any]:
    metrics = _summarised(table, options)
    return {
        "status": {status: int((table.status == status).sum()) for status in STATUSES},
        "dice_mean": metrics["dice"]["mean"] if metrics else None,
        "metrics": metrics,
        "volume_agreement": _agreement(table[table.status != "both_empty"], options),
    }


def _agreement(table: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Volumes of the cases in which either side has the label: zeros on both sides would flatter the correlation."""
    if not len(table):
        return None
    volumes = table["volume_ml"].to_numpy(float), table["reference_ml"].to_numpy(float), table["patient"].tolist()
    agreement, correlation = bland_altman(*volumes, **options), icc_agreement(*volumes, **options)
    return {
        "n": agreement.n,
        "bias_ml": json_number(agreement.bias),
        "sd_ml": json_number(agreement.sd),
        "limits_ml": _interval(agreement.limits) if math.isfinite(agreement.sd) else None,
        "bias_interval_ml": _interval(agreement.bias_interval),
        "lower_limit_interval_ml": _interval(agreement.lower_interval),
        "upper_limit_interval_ml": _interval(agreement.upper_interval),
        "icc": json_number(correlation.value),
        "icc_interval": _interval(correlation.interval),
        "icc_form": ICC_FORM,
    }


def _headline(table: pd.DataFrame, scoring: Scoring, options: Mapping[str, Any]) -> dict[str, Any]:
    """Mean Dice over the labels, each label's being the mean over its cases; regions would count voxels twice."""
    of_labels = table[table.label.isin(scoring.averaged)]
    wide = of_labels.pivot(index=["case", "patient"], columns="label", values="dice")
    means = wide.mean().dropna()
    interval = None
    if len(means):
        patients = wide.index.get_level_values("patient").tolist()
        interval = mean_of_means_interval(wide[means.index].to_numpy(float), patients, **options)
    return {
        "metric": "dice",
        "over": "labels",
        "value": json_number(float(means.mean())) if len(means) else None,
        "interval": _interval(interval),
        "level": options["level"],
        "resamples": options["resamples"],
        "method": METHOD,
        "warning": few_patients(int(wide.dropna(how="all").index.get_level_values("patient").nunique())) or None,
        "missed": int((of_labels.status == "missed").sum()),
        "spurious": int((of_labels.status == "spurious").sum()),
    }


def _tolerances(scoring: Scoring) -> dict[str, float]:
    given = scoring.tolerance_mm
    return {r.name: float(given[r.name] if isinstance(given, Mapping) else given) for r in scoring.regions}


def _dataset(counts: Sequence[DatasetCounts], scoring: Scoring) -> dict[str, Any]:
    total = sum(counts, start=DatasetCounts.empty(scoring.regions))
    iou, dice = total.iou, total.dice
    known = [iou[name] for name in scoring.averaged if not math.isnan(iou[name])]
    names = {label_id: name for name, label_id in scoring.labels.items()}
    return {
        "miou": json_number(float(np.mean(known))) if known else None,
        "labels": {
            r.name: {"iou": json_number(iou[r.name]), "dice": json_number(dice[r.name])} for r in scoring.regions
        },
        "confusion": {"labels": ["background", *(names[i] for i in total.ids)], "matrix": total.matrix.tolist()},
    }


def _calibration(results: Sequence[CaseResult]) -> dict[str, Any] | None:
    totals: dict[str, Calibration] = {}
    for result in results:
        for name, part in result.calibration.items():
            totals[name] = totals[name] + part if name in totals else part
    if not totals:
        return None
    return {
        name: {
            "ece": json_number(total.ece),
            "brier": json_number(total.brier),
            "bins": [
                vars(b) | {"confidence": json_number(b.confidence), "frequency": json_number(b.frequency)}
                for b in total.bins
            ],
        }
        for name, total in totals.items()
    }


def _subgroups(
    table: pd.DataFrame,
    attributes: Mapping[str, Mapping[str, str]],
    scoring: Scoring,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for attribute, values in attributes.items():
        of_case = table["case"].map(values)
        groups[attribute] = {
            value: {
                region.name: _summarised(table[(of_case == value) & (table.label == region.name)], options)
                for region in scoring.regions
            }
            for value in dict.fromkeys(values.values())
            if (of_case == value).any()
        }
    by_size = _by_size(table, scoring, options)
    return groups | ({BY_SIZE: by_size} if by_size else {})


def _by_size(table: pd.DataFrame, scoring: Scoring, options: Mapping[str, Any]) -> dict[str, Any]:
    """Thirds of each label's cases by the volume of the reference: small structures are the hard ones."""
    groups: dict[str, dict[str, Any]] = {}
    for region in scoring.regions:
        rows = table[(table.label == region.name) & (table.reference_ml > 0)]
        if len(rows) < FEWEST_BY_SIZE or rows.reference_ml.nunique() < FEWEST_BY_SIZE:
            continue
        third = pd.qcut(rows.reference_ml.rank(method="first"), 3, labels=SIZE_THIRDS)
        for name in SIZE_THIRDS:
            groups.setdefault(name, {})[region.name] = _summarised(rows[third == name], options)
    return groups


def _lesions(table: pd.DataFrame, scoring: Scoring) -> dict[str, Any] | None:
    """Lesions of all cases together, so that a case with many weighs more."""
    if not scoring.lesions:
        return None
    content = {}
    for region in (r for r in scoring.regions if r.name in scoring.lesions):
        rows = table[table.label == region.name]
        reference, predicted, detected, false = (int(rows[column].sum()) for column in LESION_COLUMNS[:4])
        content[region.name] = {
            "reference": reference,
            "predicted": predicted,
            "detected": detected,
            "false_positives": false,
            "sensitivity": detected / reference if reference else None,
            "precision": detected / predicted if predicted else None,
            "f1": 2 * detected / (reference + predicted) if reference + predicted else None,
            "false_positives_per_case": false / len(rows) if len(rows) else None,
        }
    return content


def _input(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "case": case.case,
        "patient": case.patient,
        "image": str(case.images[0]) if case.images else None,
        "images": [str(path) for path in case.images],
        "reference": str(case.reference),
        "prediction": str(case.prediction),
    }
