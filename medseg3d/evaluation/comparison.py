"""Methods compared on the same cases: from evaluation folders to a comparison folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg3d.errors import UsageError
from medseg3d.evaluation.files import write_table
from medseg3d.evaluation.methods import HIGHER, METRICS, Method, common_values, read_methods
from medseg3d.evaluation.provenance import versions
from medseg3d.evaluation.summary import json_number, patients_known
from medseg3d.files import write_json
from medseg3d.statistics import LEVEL, RESAMPLES, PairedTest, holm, paired_test, rank_methods

__all__ = ["SCHEMA", "Comparison", "compare_runs"]

SCHEMA = "medseg3d.comparison/1"

FAMILY = "Holm's adjustment over all labels and pairs of methods, for each metric"
TEST = (
    "two-sided Wilcoxon signed-rank test on patients' mean differences; differences of zero are ranked and left out of "
    "the sums (Pratt); an infinite difference is the greatest"
)


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        content: ``comparison.json``.
        folder: where the files are.
        report: ``report.html``.
    """

    content: Mapping[str, Any]
    folder: Path
    report: Path


def compare_runs(
    folders: Sequence[Path],
    *,
    output_dir: Path,
    metric: str = "dice",
    names: Sequence[str] = (),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare evaluation folders on the cases and labels that all of them have.

    Every pair of methods is tested for every label and metric; p-values are adjusted over labels and pairs.

    Args:
        folders: two or more, as ``medseg3d evaluate`` writes them.
        output_dir: for ``comparison.csv``, ``comparison.json`` and ``report.html``.
        metric: the one that comes first in the report.
        names: of the methods; those of their evaluations by default.
        level: of the intervals; 1 - level is the threshold of significance.
        resamples: of the bootstrap.

    Raises:
        UsageError: fewer than two folders, one that is none, two methods of one name, no case or label in common,
            other references, tolerances or overlaps of lesions, or a metric that is not there.
    """
    methods = read_methods(folders, names)
    values, left_out, left_out_labels = common_values(methods)
    metrics = [m for m in METRICS if all((m, method.name) in values.columns for method in methods)]
    if metric not in metrics:
        raise UsageError(f"--metric {metric}: not in all folders; there are {', '.join(metrics)}.")
    metrics = [metric, *(m for m in metrics if m != metric)]
    options = {"level": level, "resamples": resamples}
    pairs = [row for m in metrics for row in _pairs(values[m], m, methods, options)]
    content = {
        "schema": SCHEMA,
        "methods": [method.name for method in methods],
        "runs": {method.name: str(method.folder) for method in methods},
        "cases": int(values.index.get_level_values("case").nunique()),
        "patients": int(values.index.get_level_values("patient").nunique()),
        "patients_known": patients_known(zip(*map(values.index.get_level_values, ("case", "patient")), strict=True)),
        "left_out": left_out,
        "left_out_labels": left_out_labels,
        "plane_unit": methods[0].plane_unit,
        "metric": metric,
        "metrics": {m: "higher" if m in HIGHER else "lower" for m in metrics},
        "level": level,
        "resamples": resamples,
        "difference_is": "a - b",
        "test": TEST,
        "family": FAMILY,
        "pairs": pairs,
        "ranking": {m: _ranking(values[m], m, methods, resamples) for m in metrics},
        "cases_table": [row for m in metrics for row in _case_rows(values[m], m, methods)],
        "provenance": versions() | {"time": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    for name in ("report.html", "comparison.json"):  # of an earlier comparison: they would pass for this one's
        (output_dir / name).unlink(missing_ok=True)
    write_table(output_dir / "comparison.csv", _pair_table(pairs))
    write_json(output_dir / "comparison.json", content)
    return Comparison(content, output_dir, _write_report(output_dir))


# Computing -----------------------------------------------------------------------------------------------------------


def _pairs(
    values: pd.DataFrame, metric: str, methods: Sequence[Method], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row a label and pair of methods, adjusted together."""
    rows = []
    for label, part in values.groupby(level="label", sort=False):
        patients = part.index.get_level_values("patient").tolist()
        for a, b in combinations([method.name for method in methods], 2):
            test = paired_test(part[a], part[b], patients, **options)
            rows.append({"a": a, "b": b, "label": str(label), "metric": metric, **_test_json(test, metric)})
    adjusted = holm([math.nan if row["wilcoxon_p"] is None else row["wilcoxon_p"] for row in rows])
    alpha = 1 - options["level"]
    return [
        row | {"p_holm": json_number(p), "significant": None if math.isnan(p) else bool(p < alpha)}
        for row, p in zip(rows, adjusted, strict=True)
    ]


def _test_json(test: PairedTest, metric: str) -> dict[str, Any]:
    """Field by field as JSON; who wins a case depends on where a good value lies."""
    content = {
        key: json_number(value) if isinstance(value, float) else value
        for key, value in asdict(test).items()
        if key not in ("p", "greater_a", "greater_b", "ties", "interval", "median_interval", "status")
    }
    wins = (test.greater_a, test.greater_b) if metric in HIGHER else (test.greater_b, test.greater_a)
    return content | {
        "interval": _bounds(test.interval),
        "median_difference_infinite": _infinite(test.median_difference),
        "median_interval": _bounds(test.median_interval),
        "median_interval_infinite": test.median_interval and [_infinite(bound) for bound in test.median_interval],
        "wilcoxon_p": json_number(test.p),
        "wins_a": wins[0],
        "ties": test.ties,
        "wins_b": wins[1],
        "status": "infinite" if test.status == "tested" and test.infinite else test.status,
    }


def _bounds(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [json_number(bound) for bound in interval]


def _infinite(value: float) -> str | None:
    """What JSON's null stands for: ``inf`` or ``-inf``; None for a finite value, and for none."""
    return str(value) if math.isinf(value) else None


def _ranking(values: pd.DataFrame, metric: str, methods: Sequence[Method], resamples: int) -> dict[str, Any]:
    names = [method.name for method in methods]
    patients = values.index.get_level_values("patient").tolist()
    ranking = rank_methods(values[names], patients, higher_is_better=metric in HIGHER, resamples=resamples)
    return {
        "rows": ranking.rows,
        "mean_rank": {name: json_number(float(rank)) for name, rank in zip(names, ranking.mean_rank, strict=True)},
        "rank_share": {
            name: [json_number(float(share)) for share in shares]
            for name, shares in zip(names, ranking.rank_share, strict=True)
        },
    }


def _case_rows(values: pd.DataFrame, metric: str, methods: Sequence[Method]) -> list[dict[str, Any]]:
    names = [method.name for method in methods]
    rows = []
    for (case, patient, label), row in zip(values.index, values[names].to_numpy(float), strict=True):
        content = {"case": case, "patient": patient, "label": label, "metric": metric}
        content["values"] = {name: json_number(value) for name, value in zip(names, row, strict=True)}
        if np.isinf(row).any():
            content["infinite"] = [name for name, value in zip(names, row, strict=True) if math.isinf(value)]
        rows.append(content)
    return rows


def _pair_table(pairs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """``comparison.csv``: the pairs with intervals in two columns each; CSV can hold what is infinite."""
    rows = []
    for pair in pairs:
        row = dict(pair)
        if infinite := row.pop("median_difference_infinite"):
            row["median_difference"] = float(infinite)
        signs = row.pop("median_interval_infinite") or (None, None)
        for key in ("interval", "median_interval"):
            low, high = row.pop(key) or (None, None)
            row |= {f"{key}_low": low, f"{key}_high": high}
        row |= {f"median_interval_{end}": float(sign) for end, sign in zip(("low", "high"), signs, strict=True) if sign}
        rows.append(row)
    return pd.DataFrame(rows)


def _write_report(folder: Path) -> Path:
    # Here, since figures take a second to import, and errors shall come before that.
    from medseg3d.report import write_comparison_report

    return write_comparison_report(folder)
