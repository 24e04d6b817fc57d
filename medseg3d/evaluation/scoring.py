"""Score one case from its files; every refusal has a code. And many cases, in as many processes as memory allows."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist.model import shorten
from medseg3d.errors import CaseError, GeometryError, MedsegError
from medseg3d.evaluation.calibrating import calibrate
from medseg3d.evaluation.grids import grid_difference, onto_box
from medseg3d.evaluation.model import (
    CaseResult,
    EvaluationCase,
    LabelScore,
    Problem,
    RefusedError,
    Scoring,
    Severity,
)
from medseg3d.metrics import Calibration, CaseScores, count_labels, score_labels
from medseg3d.volume import Volume, label_map, read_geometry, read_volume

__all__ = ["Progress", "score_cases", "score_files"]

Progress = Callable[[int, int], None]

# Two label maps as they are read, in float while they are checked, and the distances in the largest box.
BYTES_A_VOXEL = 32
# What scoring takes, measured; a process must save more than the seconds in which it starts and imports.
SECONDS_A_VOXEL = 8e-8
SECONDS_A_REGION = 0.008
SECONDS_WORTH_A_PROCESS = 5.0


def score_cases(
    cases: Sequence[EvaluationCase],
    scoring: Scoring,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[CaseResult]:
    """Score all cases, in their order.

    Args:
        workers: processes at most; 0 for one a processor. Fewer are started where memory or the work is small.
        progress: called with the cases done and all cases, after each.

    Raises:
        MedsegError: a worker was killed, most likely for want of memory.
    """
    processes = _processes(cases, workers, len(scoring.regions))
    score = partial(score_files, scoring=scoring)
    if processes == 1:
        return list(_reported(map(score, cases), len(cases), progress))
    # Spawned: a fork of a process that has threads, as torch's, may hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures: list[Future[CaseResult]] = [pool.submit(score, case) for case in cases]
            for _ in _reported(as_completed(futures), len(cases), progress):
                pass
            return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise MedsegError(
            f"A process that scored cases was killed, probably because memory ran out with {processes} at once. "
            "Start again with --workers 1."
        ) from error


def score_files(case: EvaluationCase, scoring: Scoring) -> CaseResult:
    """Read, compare and score one case; what is wrong with it is in the result."""
    try:
        return _scored(case, scoring)
    except RefusedError as error:
        return CaseResult(case, problems=(Problem(case.case, error.code, str(error)),))
    except GeometryError as error:
        return CaseResult(case, problems=(Problem(case.case, "bad-affine", str(error)),))
    except CaseError as error:
        return CaseResult(case, problems=(Problem(case.case, "unreadable", str(error)),))


def _scored(case: EvaluationCase, scoring: Scoring) -> CaseResult:
    reference_path, prediction_path = _existing(case)
    reference, prediction = read_volume(reference_path), read_volume(prediction_path)
    sha256 = _sha256(reference, prediction)
    notes: list[Problem] = []
    prediction = _on_grid_of(reference, prediction, case.case, scoring.resample, notes)
    truth, found = (_labels_of(volume, case.case, scoring, notes) for volume in (reference, prediction))
    if scoring.ignore_label is not None:
        ignored = truth == scoring.ignore_label
        truth, found = (np.where(ignored, 0, labels).astype(labels.dtype) for labels in (truth, found))
    scores = _score_regions(truth, found, reference, scoring)
    return CaseResult(
        case,
        scores=tuple(LabelScore(case.case, case.patient, row) for row in scores),
        lesions=tuple(_lesion_rows(case, scores, reference)),
        counts=count_labels(truth, found, regions=scoring.regions),
        calibration=_calibrated(case, truth, found, reference, scoring, notes) if scoring.calibration else {},
        problems=tuple(notes),
        sha256=sha256,
    )


def _existing(case: EvaluationCase) -> tuple[Path, Path]:
    if case.reference is None:
        raise RefusedError("no-reference", "The data list names no reference label to score against.")
    if not case.reference.is_file():
        raise RefusedError("no-reference", f"{case.reference}: no such file. Complete the references.")
    if case.prediction is None:
        raise RefusedError(
            "missing-prediction",
            "There is no prediction of this name. Segment the case, too, or leave it out of the reference.",
        )
    if not case.prediction.is_file():
        raise RefusedError("missing-prediction", f"{case.prediction}: no such file. Segment the case, too.")
    return case.reference, case.prediction


def _on_grid_of(reference: Volume, prediction: Volume, case: str, resample: bool, notes: list[Problem]) -> Volume:
    """The prediction, refused or resampled where it lies on another grid than the reference."""
    code, message = grid_difference(reference, prediction.voxels.shape, prediction.affine, prediction.path)
    if not code:
        return prediction
    if not resample:
        raise RefusedError(code, f"{message} Write masks on the image's own grid, or pass --resample.")
    notes.append(
        Problem(case, "resampled", f"{message} It was resampled onto the reference's grid (nearest).", severity="note")
    )
    whole = tuple(slice(0, n) for n in reference.voxels.shape)
    voxels = onto_box(prediction.voxels, prediction.affine, like=reference.affine, box=whole)
    return Volume(voxels, reference.affine, prediction.path)


def _labels_of(volume: Volume, case: str, scoring: Scoring, notes: list[Problem]) -> NDArray[Any]:
    try:
        labels = label_map(volume)
    except CaseError as error:
        raise RefusedError("label-not-integer", str(error)) from error
    if volume.voxels.dtype.kind == "f":
        message = f"{volume.path.name} stores its labels as {volume.voxels.dtype}; all are whole numbers."
        notes.append(Problem(case, "label-as-float", message, severity="note"))
    _check_ids(labels, volume.path, case, scoring, notes)
    return labels


def _check_ids(labels: NDArray[Any], path: Path, case: str, scoring: Scoring, notes: list[Problem]) -> None:
    """Refuse, or note, ids that have no name."""
    counts = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    for slab in labels:  # bincount makes 8 bytes of every voxel
        counts += np.bincount(slab.ravel(), minlength=len(counts))
    known = {0, scoring.ignore_label, *scoring.labels.values()}
    unknown = [int(i) for i in np.flatnonzero(counts) if int(i) not in known]
    if not unknown:
        return
    found = shorten(f"{i} ({counts[i]} voxels)" for i in unknown)
    listed = ", ".join(f"{name} = {i}" for name, i in scoring.labels.items())
    message = f"{path.name} has labels that are not named: {found}; named are {listed}."
    if scoring.other_labels == "refuse":
        raise RefusedError(
            "label-unknown", f"{message} Name them, or count them as background with --other-labels background."
        )
    notes.append(Problem(case, "label-ignored", f"{message} They count as background.", severity="note"))


def _score_regions(
    reference: NDArray[Any], prediction: NDArray[Any], grid: Volume, scoring: Scoring
) -> list[CaseScores]:
    """Scores in the order of the regions; lesions only where they were asked for."""
    rows: dict[str, CaseScores] = {}
    for lesions in (False, True):
        regions = [region for region in scoring.regions if (region.name in scoring.lesions) is lesions]
        if regions:
            scored = score_labels(
                reference,
                prediction,
                regions=regions,
                affine=grid.affine,
                tolerance_mm=scoring.tolerance_mm,
                lesions=lesions,
                lesion_overlap=scoring.lesion_overlap,
            )
            rows |= {row.label: row for row in scored}
    return [rows[region.name] for region in scoring.regions]


def _calibrated(
    case: EvaluationCase,
    truth: NDArray[Any],
    found: NDArray[Any],
    grid: Volume,
    scoring: Scoring,
    notes: list[Problem],
) -> dict[str, Calibration]:
    """Calibration, or a problem beside the scores, which do not need the probabilities."""
    try:
        return calibrate(case, truth, found, grid, scoring)
    except RefusedError as error:
        severity: Severity = "note" if error.code == "no-probability" else "error"
        notes.append(Problem(case.case, error.code, f"{error} The masks are scored without it.", severity=severity))
        return {}


def _lesion_rows(case: EvaluationCase, scores: Sequence[CaseScores], grid: Volume) -> Iterator[Mapping[str, Any]]:
    for row in scores:
        for number, lesion in enumerate(row.lesions.lesions if row.lesions else (), start=1):
            x, y, z, _ = grid.affine @ [*lesion.centre_ijk, 1.0]
            yield {
                "case": case.case,
                "patient": case.patient,
                "label": row.label,
                "lesion": number,
                "kind": lesion.kind,
                "reference_ml": lesion.reference_ml,
                "predicted_ml": lesion.predicted_ml,
                "dice": lesion.dice,
                "x_mm": round(float(x), 3),
                "y_mm": round(float(y), 3),
                "z_mm": round(float(z), 3),
            }


def _sha256(*volumes: Volume) -> str:
    """Of voxels and grids as they were read: a header may keep its voxels in another file, and gzip writes the time."""
    digest = hashlib.sha256()
    for volume in volumes:
        # Zero has no sign here, and writers round affines differently.
        grid = np.round(volume.affine, 3) + 0.0
        digest.update(f"{volume.voxels.dtype} {volume.voxels.shape} {grid.tolist()}".encode())
        for plane in np.moveaxis(volume.voxels, -1, 0):  # readers give Fortran order: no copy
            digest.update(np.ascontiguousarray(plane.T).data)
    return digest.hexdigest()


def _processes(cases: Sequence[EvaluationCase], workers: int, regions: int) -> int:
    """How many processes to start: what was asked for, what memory holds, and what the work is worth."""
    wanted = workers or os.cpu_count() or 1
    if wanted == 1 or len(cases) < 2:
        return 1
    import psutil

    voxels = [_voxels(case.reference) for case in cases]
    seconds = sum(voxels) * SECONDS_A_VOXEL + len(cases) * regions * SECONDS_A_REGION
    worth = int(seconds // SECONDS_WORTH_A_PROCESS)
    held = int(psutil.virtual_memory().available // (BYTES_A_VOXEL * max(*voxels, 1)))
    return max(1, min(wanted, len(cases), worth, held))


def _voxels(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        return math.prod(read_geometry(path)[0])
    except CaseError:  # reported when the case's turn comes
        return 0


def _reported(results: Any, total: int, progress: Progress | None) -> Iterator[Any]:
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(done, total)
        yield result
