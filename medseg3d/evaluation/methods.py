"""Evaluation folders to be compared: read, checked against each other, brought onto the cases that all have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg3d.datalist.model import shorten
from medseg3d.errors import UsageError
from medseg3d.evaluation.files import read_cases
from medseg3d.evaluation.summary import SCHEMA

__all__ = ["HIGHER", "LOWER", "Method", "common_values", "read_methods"]

HIGHER = ("dice", "iou", "sensitivity", "precision", "nsd", "lesion_f1", "lesion_sensitivity", "lesion_precision")
LOWER = (
    "hd_mm", "hd95_mm", "hd95_weighted_mm", "assd_mm", "centre_distance_mm", "absolute_volume_difference_ml",
    "lesion_false_positives",
)  # fmt: skip
METRICS = (*HIGHER, *LOWER)
# Two references of one case: the same file up to the rounding of a volume.
SAME_VOLUME = 1e-6


@dataclass(frozen=True)
class Method:
    """One evaluation folder: ``cases.csv`` and ``summary.json``."""

    name: str
    folder: Path
    table: pd.DataFrame
    summary: Mapping[str, Any]

    @property
    def plane_unit(self) -> str:
        """What distances in 2D images are in, mm or px; empty for volumes."""
        return str(self.summary.get("plane_unit") or "")


def read_methods(folders: Sequence[Path], names: Sequence[str]) -> list[Method]:
    """Read evaluation folders that can be compared.

    Args:
        names: of the methods; those of their evaluations where there are none.

    Raises:
        UsageError: fewer than two folders, one that is none, two methods of one name, or other units, tolerances or
            overlaps of lesions.
    """
    if len(folders) < 2:
        raise UsageError(f"{len(folders)} evaluation folder was given: a comparison needs two or more.")
    if names and len(names) != len(folders):
        raise UsageError(f"{len(names)} names were given for {len(folders)} folders: give one each.")
    summaries = [_read_summary(folder) for folder in folders]
    own = [str(summary.get("name") or folder.name) for folder, summary in zip(folders, summaries, strict=True)]
    called = list(names) or own
    if len(set(called)) < len(called):
        raise UsageError(f"Methods are called {', '.join(called)}: give different names with --names a,b.")
    tables = [_with_absolute_volumes(read_cases(folder)) for folder in folders]
    methods = [Method(*parts) for parts in zip(called, folders, tables, summaries, strict=True)]
    _require_same_units(methods)
    _require_same_tolerances(methods)
    _require_same_overlap(methods)
    return methods


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is no evaluation folder: {path.name} cannot be read ({error}).") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not of the form {SCHEMA}: evaluate again, with this version.")
    return content


def _with_absolute_volumes(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(absolute_volume_difference_ml=table["volume_difference_ml"].abs())


def _require_same_units(methods: Sequence[Method]) -> None:
    first = methods[0]
    for other in methods[1:]:
        if other.plane_unit != first.plane_unit:
            kinds = {"": "volumes", "mm": "2D images in mm", "px": "2D images in pixels"}
            mine, theirs = (kinds[method.plane_unit] for method in (first, other))
            raise UsageError(
                f"{first.name} was evaluated on {mine}, {other.name} on {theirs}: evaluate both on the same images."
            )


def _require_same_tolerances(methods: Sequence[Method]) -> None:
    first = methods[0]
    for other in methods[1:]:
        mine, theirs = first.summary.get("tolerance_mm", {}), other.summary.get("tolerance_mm", {})
        differing = [label for label in mine.keys() & theirs.keys() if mine[label] != theirs[label]]
        if differing:
            label = sorted(differing)[0]
            unit = first.plane_unit or "mm"
            raise UsageError(
                f"{label} was scored with an NSD tolerance of {mine[label]} {unit} in {first.name} and of "
                f"{theirs[label]} {unit} in {other.name}: evaluate both with the same."
            )


def _require_same_overlap(methods: Sequence[Method]) -> None:
    """The same IoU makes a lesion found; a method that was not scored lesion by lesion has none."""
    found = {}
    for method in methods:
        settings = (method.summary.get("provenance") or {}).get("settings") or {}
        if settings.get("lesion_overlap_iou") is not None:
            found[method.name] = settings["lesion_overlap_iou"]
    if len(set(found.values())) > 1:
        listed = " and ".join(f"of {overlap} in {name}" for name, overlap in found.items())
        raise UsageError(f"Lesions were matched from an IoU {listed}: evaluate both with the same --lesion-overlap.")


def common_values(methods: Sequence[Method]) -> tuple[pd.DataFrame, dict[str, list[str]], dict[str, list[str]]]:
    """Values by (case, patient, label) and (metric, method) of the rows that all have; cases and labels left out.

    Raises:
        UsageError: no case and label in common, other references, or other patients.
    """
    keys = ["case", "label"]
    indexed = [method.table.set_index(keys) for method in methods]
    shared = indexed[0].index
    for other in indexed[1:]:
        shared = shared[shared.isin(other.index)]
    if not len(shared):
        raise UsageError(
            "The evaluations have no case and label in common: "
            + "; ".join(
                f"{m.name} has {shorten(m.table.case.unique())} ({shorten(m.table.label.unique())})" for m in methods
            )
        )
    cases = set(shared.get_level_values("case"))
    left_out = {method.name: sorted(set(method.table.case) - cases) for method in methods}
    labels = set(shared.get_level_values("label"))
    left_out_labels = {method.name: sorted(set(method.table.label) - labels) for method in methods}
    parts = {method.name: table.loc[shared] for method, table in zip(methods, indexed, strict=True)}
    _require_same_references(parts, methods[0].summary)
    metrics = [m for m in METRICS if all(m in part.columns for part in parts.values())]
    values = pd.concat({(m, name): part[m] for m in metrics for name, part in parts.items()}, axis=1)
    patients = next(iter(parts.values()))["patient"]
    values.index = pd.MultiIndex.from_arrays(
        [shared.get_level_values("case"), patients.to_numpy(), shared.get_level_values("label")],
        names=["case", "patient", "label"],
    )
    return values, left_out, left_out_labels


def _require_same_references(parts: Mapping[str, pd.DataFrame], summary: Mapping[str, Any]) -> None:
    """Volumes of the references tell whether they are the same; and so do the patients."""
    (first, mine), *others = parts.items()
    for name, theirs in others:
        # Relative alone: under a microscope whole structures are smaller than NumPy's own absolute tolerance.
        differ = ~np.isclose(mine["reference_ml"], theirs["reference_ml"], rtol=SAME_VOLUME, atol=0.0)
        if differ.any():
            case, label = mine.index[differ][0]
            sizes = " and ".join(_sizes([part["reference_ml"][differ].iloc[0] for part in (mine, theirs)], summary))
            raise UsageError(
                f"{first} and {name} were evaluated against other references: {label} of {case} has {sizes} "
                f"({int(differ.sum())} rows differ). Evaluate both against the same."
            )
        if (mine["patient"] != theirs["patient"]).any():
            raise UsageError(
                f"{first} and {name} name other patients for the same cases: evaluate both with the same --patients."
            )


def _sizes(volumes_ml: Sequence[float], summary: Mapping[str, Any]) -> list[str]:
    """Volumes, or areas of 2D images, for a message."""
    # Here, since the package of reports takes a second to import.
    from medseg3d.report.words import units_of

    units = units_of(summary)
    digits = 1 if units.planar else 3
    sizes = [volume * units.per_ml for volume in volumes_ml]
    texts = [f"{size:.{digits}f}" for size in sizes]
    if len(set(texts)) == 1:
        texts = [f"{size:.7g}" for size in sizes]
    return [*texts[:-1], f"{texts[-1]} {units.size}"]
