"""Open every case of a data list, and say what training or evaluation would get wrong."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist.cases import CaseFacts, Finding, Part, Severity, inspect_case
from medseg3d.datalist.model import Case, DataList, shorten

__all__ = ["CheckReport", "check_datalist", "inspect_cases", "leaks", "mapped"]

Progress = Callable[[int, int], None]
"""Called with how many cases are done, and how many there are."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class CheckReport:
    """All facts and findings about a data list; the gravest findings come first."""

    datalist: DataList
    cases: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return self.count("error") == 0

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def label_cases(self, label_id: int) -> int:
        """In how many cases a label occurs."""
        return sum(label_id in facts.presence for facts in self.cases)

    def label_voxels(self, label_id: int) -> int:
        """How many voxels of a label there are, in all cases."""
        return sum((facts.voxels or {}).get(label_id, 0) for facts in self.cases)

    def ranges(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Minimum, median and maximum of ``shape_voxels`` and ``spacing_mm`` along each axis; empty if none is read."""
        shapes = np.array([facts.shape for facts in self.cases if facts.shape is not None], dtype=float)
        spacings = np.array([facts.spacing_mm for facts in self.cases if facts.spacing_mm is not None])
        named = {"shape_voxels": shapes, "spacing_mm": spacings}
        return {name: _range(values) for name, values in named.items() if len(values)}

    def orientations(self) -> dict[str, int]:
        """In how many cases the axes point where, the most frequent first."""
        return dict(Counter(f.orientation for f in self.cases if f.orientation is not None).most_common())

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "datalist": str(self.datalist.path),
            "name": self.datalist.name,
            "ok": self.ok,
            "cases": {part: sum(f.part == part for f in self.cases) for part in ("training", "testing")},
            "counts": {severity: self.count(severity) for severity in _SEVERITIES},
            **self.ranges(),
            "orientations": self.orientations(),
            "labels": [
                {"label": name, "label_id": i, "cases": self.label_cases(i), "voxels": self.label_voxels(i)}
                for name, i in self.datalist.labels.items()
            ],
            "findings": [asdict(finding) for finding in self.findings],
            "per_case": [_facts_to_json(facts) for facts in self.cases],
        }


def _range(values: NDArray[np.float64]) -> dict[str, tuple[float, ...]]:
    summaries = {"min": values.min(axis=0), "median": np.median(values, axis=0), "max": values.max(axis=0)}
    return {name: tuple(round(float(value), 4) for value in summary) for name, summary in summaries.items()}


def _facts_to_json(facts: CaseFacts) -> dict[str, Any]:
    voxels = None if facts.voxels is None else {str(i): n for i, n in sorted(facts.voxels.items())}
    return asdict(facts) | {"voxels": voxels}


def check_datalist(datalist: DataList, *, workers: int | None = None, progress: Progress | None = None) -> CheckReport:
    """Open every image and label map of ``datalist`` and compare them with each other and with the list.

    Two grids are the same where no voxel lies more than ``GRID_TOLERANCE_MM`` apart. One image under two names is an
    error where a model could be tested on what it was trained on (two patients, two folds, training and testing), and
    a warning within one patient.

    Args:
        datalist: The list to check.
        workers: How many cases are read at once, in threads; as many as there are processors by default.
        progress: Called after each case.
    """
    inspected = inspect_cases(datalist, workers=workers, progress=progress)
    cases = tuple(facts for facts, _ in inspected)
    findings = [finding for _, found in inspected for finding in found]
    findings += [*leaks(datalist, cases), *_missing_labels(datalist, cases)]
    findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return CheckReport(datalist=datalist, cases=cases, findings=tuple(findings))


def inspect_cases(
    datalist: DataList, *, workers: int | None = None, progress: Progress | None = None
) -> list[tuple[CaseFacts, tuple[Finding, ...]]]:
    """What each case's own files hold, and what is wrong with them, in the order of the list."""
    parts: list[tuple[Case, Part]] = [(case, "training") for case in datalist.training]
    parts += [(case, "testing") for case in datalist.testing]
    return mapped(lambda item: inspect_case(*item, datalist), parts, workers=workers, progress=progress)


def mapped(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """``function`` of each item, computed in threads: unpacking and hashing let go of the interpreter's lock."""
    results = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for result in pool.map(function, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results


def leaks(datalist: DataList, cases: Iterable[CaseFacts]) -> Iterator[Finding]:
    """What training would give away of the data that validates or tests it: shared patients, one image twice."""
    yield from _shared_patients(datalist)
    yield from _duplicates(datalist, cases)


def _shared_patients(datalist: DataList) -> Iterator[Finding]:
    folds_of: dict[str, set[int]] = defaultdict(set)
    for case in datalist.training:
        folds_of[case.patient] |= set() if case.fold is None else {case.fold}
    for patient, folds in sorted(folds_of.items()):
        if len(folds) > 1:
            message = f"Patient {patient} is in the folds {', '.join(map(str, sorted(folds)))}: validation would see "
            message += "patients of the training. Make new folds with `medseg3d datalist split --replace`."
            yield Finding(severity="error", case="", code="patient-in-folds", message=message)
    for patient in sorted(folds_of.keys() & {case.patient for case in datalist.testing}):
        message = f"Patient {patient} is in training and in testing: move all of the patient's cases to one of them."
        yield Finding(severity="error", case="", code="patient-in-testing", message=message)


def _duplicates(datalist: DataList, cases: Iterable[CaseFacts]) -> Iterator[Finding]:
    listed = {case.case: case for case in datalist.training + datalist.testing}
    first: dict[str, CaseFacts] = {}
    for facts in cases:
        for content in dict.fromkeys(facts.contents):
            other = first.setdefault(content, facts)
            if other is not facts:
                yield _duplicate(listed[other.case], other.part, listed[facts.case], facts.part)
                break  # one finding a case, however many channels it shares


def _duplicate(first: Case, first_part: Part, second: Case, second_part: Part) -> Finding:
    differences = []
    if first_part != second_part:
        differences.append(f"one is in {first_part}, the other in {second_part}")
    if first.patient != second.patient:
        differences.append(f"they are listed as the patients {first.patient} and {second.patient}")
    if first.fold != second.fold and first_part == second_part:
        differences.append(f"they are in the folds {first.fold} and {second.fold}")
    consequence = " and ".join(differences) or "it counts twice in training"
    return Finding(
        severity="error" if differences else "warning",
        case=second.case,
        code="duplicate",
        message=f"{second.case} has the same image as {first.case}; {consequence}. Remove one of them.",
    )


def _missing_labels(datalist: DataList, cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Labels that no case, or no case of a fold, has: they cannot be learnt, or not be validated there."""
    facts_of = {facts.case: facts for facts in cases}
    read = [case for case in datalist.training if facts_of[case.case].voxels is not None]
    for name, label_id in datalist.labels.items():
        having = [case for case in read if label_id in facts_of[case.case].presence]
        if read and not having:
            message = (
                f"Label {name} ({label_id}) is in none of the {len(read)} training cases: remove it from the list."
            )
            yield Finding(severity="warning", case="", code="label-absent", message=message)
            continue
        without = sorted(set(datalist.folds) - {case.fold for case in having if case.fold is not None})
        if without:
            message = f"Label {name} ({label_id}) is in {len(having)} cases, none of them in fold {shorten(without)}: "
            message += "it is not validated there. Make fewer folds."
            yield Finding(severity="warning", case="", code="label-not-in-fold", message=message)
