"""A scan as plain values, for JSON and for tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from medseg3d.dicom.attributes import uid_name
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Series, Stack
from medseg3d.dicom.scanning import Scan
from medseg3d.geometry import orientation

__all__ = ["like_stacks", "report", "stack_findings"]


def report(scan: Scan, *, show_patient: bool = False) -> dict[str, Any]:
    """Everything that a scan found, ready for JSON. Paths and UIDs are those of the files.

    ``show_patient`` gives the patients' ids in place of their pseudonyms.
    """

    def patient(item: Any) -> str:
        return str(item.patient_id if show_patient else item.patient)

    return {
        "series": [{"patient": patient(series), **_series(series)} for series in scan.series],
        "annotations": [
            {
                "patient": patient(a),
                "file": str(a.file),
                "modality": a.modality,
                "description": a.description,
                "study_uid": a.study_uid,
                "series_uid": a.series_uid,
                "referenced_series": list(a.referenced_series),
            }
            for a in scan.annotations
        ],
        "unreadable": [{"file": str(u.file), "reason": u.reason} for u in scan.unreadable],
        "other": [
            {"file": str(o.file), "modality": o.modality, "sop_class": uid_name(o.sop_class_uid)} for o in scan.other
        ],
        "not_dicom": scan.ignored,
    }


def like_stacks(series: Series) -> list[list[Stack]]:
    """Stacks of a series that follow each other and have the same grid but for its place, such as time points."""

    def key(stack: Stack) -> tuple[Any, ...]:
        return (len(stack.frames), _matrix(stack), _rounded(stack))

    return [list(members) for _, members in groupby(series.stacks, key=key)]


def stack_findings(stacks: Sequence[Stack]) -> list[tuple[Finding, list[str]]]:
    """Findings of several stacks, each once, with the labels of those that have it; all of them give []."""
    labels: dict[Finding, list[str]] = {}
    for stack in stacks:
        for finding in stack.findings:
            labels.setdefault(finding, []).append(stack.label)
    return [(finding, [] if len(found) == len(stacks) else found) for finding, found in labels.items()]


def _series(series: Series) -> dict[str, Any]:
    return {
        "study_uid": series.study_uid,
        "study_description": series.study_description,
        "series_uid": series.uid,
        "number": series.number,
        "modality": series.modality,
        "description": series.description,
        "unit": series.unit,
        "transfer_syntaxes": [uid_name(uid) for uid in series.transfer_syntaxes],
        "refused": series.refused,
        "findings": [vars(finding) for finding in series.findings],
        "volumes": [_stack(stack) for stack in series.stacks],
    }


def _stack(stack: Stack) -> dict[str, Any]:
    grid = stack.grid
    return {
        "label": stack.label,
        "slices": len(stack.frames),
        "matrix": list(_matrix(stack)),
        "spacing_mm": [round(s, 6) for s in grid.spacing_mm] if grid else None,
        "orientation": orientation(grid.affine_ras) if grid else None,
        "affine_ras": grid.affine_ras.round(9).tolist() if grid else None,
        "refused": stack.refused,
        "findings": [vars(finding) for finding in stack.findings],
    }


def _matrix(stack: Stack) -> tuple[int, int]:
    return stack.frames[0].columns, stack.frames[0].rows


def _rounded(stack: Stack) -> tuple[float, ...]:
    return tuple(round(s, 3) for s in stack.grid.spacing_mm) if stack.grid else ()
