"""Evaluation and comparison folders as their contract describes them, small and quick to make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

COLUMNS = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "volume_ml",
    "reference_ml",
    "volume_difference_ml",
    "hd95_mm",
    "nsd",
)


def scored_row(
    case: str, label: str, label_id: int, reference: np.ndarray, prediction: np.ndarray, ml: float
) -> dict[str, Any]:
    """Overlap and volumes of one label; distances are stand-ins that follow the policy for empty masks."""
    ours, truth, both = (int(np.count_nonzero(m)) for m in (prediction, reference, reference & prediction))
    status = {(True, True): "scored", (False, True): "missed", (True, False): "spurious", (False, False): "both_empty"}[
        ours > 0, truth > 0
    ]
    dice = 2 * both / (ours + truth) if ours + truth else math.nan
    distance = {"scored": 10 * (1 - dice), "both_empty": math.nan}.get(status, math.inf)
    return {
        "case": case, "patient": f"P-{case}", "label_id": label_id, "label": label, "status": status, "dice": dice,
        "iou": both / (ours + truth - both) if ours + truth else math.nan,
        "sensitivity": both / truth if truth else math.nan, "precision": both / ours if ours else math.nan,
        "volume_ml": ours * ml, "reference_ml": truth * ml, "volume_difference_ml": (ours - truth) * ml,
        "hd95_mm": distance, "nsd": dice,
    }  # fmt: skip


def write_evaluation(
    folder: Path, rows: Sequence[Mapping[str, Any]], regions: Mapping[str, Sequence[int]], **more: Any
) -> Path:
    """``cases.csv`` and ``summary.json`` from rows; ``more`` replaces parts of the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "cases.csv", index=False)
    labels = {name: _label(frame[frame["label"] == name]) for name in regions}
    means = [label["dice_mean"] for label in labels.values() if label["dice_mean"] is not None]
    mean = float(np.mean(means)) if means else None
    summary = {
        "schema": "medseg3d.evaluation/1", "name": "A", "cases": int(frame["case"].nunique()),
        "patients": int(frame["patient"].nunique()), "mean_dice": mean, "failed": {},
        "regions": [{"name": name, "ids": list(ids)} for name, ids in regions.items()],
        "tolerance_mm": dict.fromkeys(regions, 2.0),
        "headline": {"metric": "dice", "over": "labels", "value": mean, "interval": _around(mean), "level": 0.95,
                     "resamples": 2000, "method": "percentile bootstrap over patients",
                     "missed": int((frame["status"] == "missed").sum()),
                     "spurious": int((frame["status"] == "spurious").sum())},
        "labels": labels, "dataset": None, "calibration": None, "subgroups": {}, "problems": [], "inputs": [],
        "lesions": None,
        "run": None,
        "provenance": {"medseg3d": "0.1.0", "python": "3.11", "command": "medseg3d evaluate pred ref --out out",
                       "started": "2025-01-02T03:04:05", "seconds": 12.5, "packages": {"numpy": "2.0"}},
    } | more  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
    return folder


def _label(rows: pd.DataFrame) -> dict[str, Any]:
    counts = rows["status"].value_counts()
    metrics = {m: _spread(rows[m]) for m in COLUMNS if m in rows}
    difference = rows["volume_difference_ml"][rows["status"] != "both_empty"]
    sd = float(difference.std()) if len(difference) > 1 else 0.0
    bias = float(difference.mean()) if len(difference) else 0.0
    agreement = {"bias_ml": bias, "sd_ml": sd, "limits_ml": [bias - 1.96 * sd, bias + 1.96 * sd],
                 "bias_interval_ml": None, "icc": 0.95, "icc_interval": [0.9, 0.98],
                 "icc_form": "ICC(2,1)"}  # fmt: skip
    return {
        "status": {s: int(counts.get(s, 0)) for s in ("scored", "missed", "spurious", "both_empty")},
        "dice_mean": metrics["dice"]["mean"], "metrics": metrics,
        "volume_agreement": agreement if len(difference) > 1 else None,
    }  # fmt: skip


def _spread(values: pd.Series) -> dict[str, Any]:
    known = values.dropna()
    infinite = int(np.isinf(known).sum())
    q1, median, q3 = (float(v) for v in known.quantile([0.25, 0.5, 0.75])) if len(known) else (math.nan,) * 3
    mean = None if infinite or not len(known) else float(known.mean())
    finite = {"q1": q1, "median": median, "q3": q3}
    return {
        "n": len(known), "mean": mean, "sd": None, **{k: v if math.isfinite(v) else None for k, v in finite.items()},
        "interval_mean": _around(mean), "infinite": infinite, "undefined": int(values.isna().sum()),
        **({"status": "infinite"} if math.isinf(median) else {}),
    }  # fmt: skip


def _around(value: float | None) -> list[float] | None:
    return None if value is None else [value - 0.01, value + 0.01]


def write_case(
    folder: Path, case: str, image: np.ndarray | None, reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray
) -> dict[str, Any]:
    """Write a case's files; returns its entry of ``inputs``."""
    folder.mkdir(parents=True, exist_ok=True)
    entry: dict[str, Any] = {"case": case, "patient": f"P-{case}", "image": None}
    for name, voxels in (("image", image), ("reference", reference), ("prediction", prediction)):
        if voxels is not None:
            path = folder / f"{len(list(folder.iterdir()))}_{name}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
            entry[name] = str(path)
    return entry


def write_comparison(folder: Path, runs: Mapping[str, Path]) -> Path:
    """``comparison.json`` of two evaluation folders, Dice alone."""
    tables = {name: pd.read_csv(run / "cases.csv").set_index(["case", "label"]) for name, run in runs.items()}
    (a, first), (b, second) = tables.items()
    joined = first.join(second["dice"].rename("dice_b")).reset_index()
    pairs = []
    for label, rows in joined.groupby("label", sort=False):
        apart = rows["dice"] - rows["dice_b"]
        pairs.append({
            "a": a, "b": b, "label": label, "metric": "dice", "n": len(rows), "mean_a": rows["dice"].mean(),
            "mean_b": rows["dice_b"].mean(), "difference": apart.mean(), "interval": _around(apart.mean()),
            "median_difference": apart.median(), "wilcoxon_p": 0.01, "p_holm": 0.02, "significant": True,
            "wins_a": int((apart > 0).sum()), "ties": int((apart == 0).sum()), "wins_b": int((apart < 0).sum()),
            "status": "compared",
        })  # fmt: skip
    content = {
        "schema": "medseg3d.comparison/1", "methods": [a, b], "runs": {name: str(run) for name, run in runs.items()},
        "cases": int(joined["case"].nunique()), "patients": int(joined["patient"].nunique()),
        "left_out": {a: [], b: []},
        "metric": "dice", "level": 0.95, "pairs": pairs,
        "ranking": {"dice": {"mean_rank": {a: 1.9, b: 1.1}, "rank_share": {a: [0.05, 0.95], b: [0.95, 0.05]}}},
        "cases_table": [
            {"case": r.case, "patient": r.patient, "label": r.label, "metric": "dice",
             "values": {a: r.dice, b: r.dice_b}}
            for r in joined.itertuples()
        ],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return folder
