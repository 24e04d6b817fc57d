"""From a planned study to a bundle: train, predict out of fold, choose, calibrate, evaluate, pack."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg3d.crossval.candidates import Candidate, Structures
from medseg3d.crossval.cascade import in_order_of_training, previous_dir
from medseg3d.crossval.choice import MIN_GAIN, CandidateScore, choose_candidate, score_candidates
from medseg3d.crossval.configuration import training_config
from medseg3d.crossval.corrections import RULE, Trial, choose_corrections, transforms_of
from medseg3d.crossval.honesty import CONFIDENCE, Calibrated, Confidence, calibrate, judge_confidence
from medseg3d.crossval.prediction import Predictions, predict_folds, predict_out_of_fold, samples_of
from medseg3d.crossval.ship import Shipped, ship
from medseg3d.crossval.study import CASCADE, FIRST_STAGE, Study
from medseg3d.crossval.training import train_folds
from medseg3d.datalist import read_datalist
from medseg3d.errors import CheckpointError, UsageError
from medseg3d.evaluation import Summary, evaluate
from medseg3d.files import write_json
from medseg3d.labels import map_regions

__all__ = ["CrossValidation", "cross_validate"]

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
SCHEMA = "medseg3d.crossval/1"


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found.

    Attributes:
        scores: of every candidate.
        chosen: the candidate that is shipped.
        trials: of corrections; those with ``taken`` are shipped.
        calibrated: temperature, and what it does.
        confidence: how a case's confidence goes with its Dice.
        summary: the evaluation of the out-of-fold masks.
        shipped: the bundle.
        report: ``STUDY/crossval/report.html``.
    """

    scores: tuple[CandidateScore, ...]
    chosen: CandidateScore
    trials: tuple[Trial, ...]
    calibrated: Calibrated
    confidence: Confidence
    summary: Summary
    shipped: Shipped
    report: Path


def cross_validate(
    study: Study,
    *,
    train: bool = True,
    jobs: int = 1,
    devices: Sequence[str] = (),
    device: str | None = None,
    mirror: bool = True,
    uncertainty: bool = False,
    float16: bool = True,
    workers: int = 1,
    bar: Bar | None = None,
) -> CrossValidation:
    """Cross-validate a study; every stage takes up what an earlier, interrupted run has done.

    Args:
        train: False takes the ``best.pt`` that are there, finished or not.
        jobs, devices: see ``train_folds``.
        device: of predictions; None leaves it to the bundle.
        mirror: also try averaging over mirror images.
        uncertainty: write uncertainty maps of the out-of-fold masks.
        float16: store the shipped weights in half precision.
        workers: processes that score, at most; 0 for one a processor.
        bar: gives a context with a function to call with what is done and all, for a description of the work.

    Raises:
        MedsegError: a training failed, weights are missing, or a case cannot be predicted.
        UsageError: ``device`` is CUDA, and there is none.
    """
    bar = bar or _no_bar
    _require_device(device)
    _require_labels(study)
    for stage in in_order_of_training(study):
        is_second = stage.configurations[0].name == CASCADE
        if is_second:
            _write_masks(study, device=device)
        if train:
            with bar("Training the cascade" if is_second else "Training") as progress:
                train_folds(stage, jobs=jobs, devices=devices, progress=progress)
        _require_weights(stage)
    ignored = read_datalist(study.datalist).ignore_label
    with bar("Predicting held-out cases") as progress:
        predictions = predict_folds(study, mirror=mirror, device=device, ignore_label=ignored, progress=progress)
    scores = score_candidates(predictions.records, predictions.candidates, flip_axes=predictions.flip_axes)
    chosen = choose_candidate(scores)
    candidate = chosen.candidate
    trials = choose_corrections(
        predictions.cases(candidate),
        labels=predictions.labels,
        structures=predictions.structures,
        median_ml=predictions.median_ml(),
        exclusive=predictions.exclusive,
    )
    samples = samples_of(predictions, candidate)
    calibrated = calibrate(samples, structures=predictions.structures, exclusive=predictions.exclusive)
    masks = study.output / "predictions"
    settings = {
        "candidate": candidate.key,
        "corrections": transforms_of(trials),
        "temperature": calibrated.temperature,
        # Beside the weights these cover the configurations (windows, overlap) and the images.
        "made_by": [record.made_by for record in predictions.records],
    }
    _clear_if_changed(masks, settings | {"uncertainty": uncertainty})
    predict_out_of_fold(
        predictions,
        candidate,
        corrections=transforms_of(trials),
        temperature=calibrated.temperature,
        output=masks,
        uncertainty=uncertainty,
        device=device,
    )
    summary = evaluate(
        [item for fold in study.folds for item in study.held_out(fold)],
        masks,
        labels=predictions.file_labels,
        regions=_scored_regions(predictions),
        ignore_label=ignored,
        output_dir=study.output / "evaluation",
        name=f"{study.folder.name}, {candidate.name}, out of fold",
        workers=workers,
    )
    confidence = _confidence(masks, summary, predictions.structures)
    shipped = ship(
        study,
        predictions,
        candidate,
        corrections=transforms_of(trials),
        temperature=calibrated.temperature,
        evaluation=study.output / "evaluation",
        float16=float16,
    )
    content = _content(study, scores, chosen, trials, calibrated, confidence, summary, shipped)
    write_json(study.output / "crossval.json", content)
    return CrossValidation(
        tuple(scores), chosen, tuple(trials), calibrated, confidence, summary, shipped, _write_report(study.output)
    )


def _no_bar(description: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, total: None)


def _require_device(device: str | None) -> None:
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: this machine has no CUDA device, or the installed torch none for it. "
                         "Use --device cpu.")  # fmt: skip


def _require_labels(study: Study) -> None:
    for configuration in study.configurations:
        if configuration.name == CASCADE and training_config(study, configuration).get("regions"):
            raise UsageError(
                f"{configuration.plan} is a cascade of regions that overlap; the mask of a first stage is for labels "
                "that exclude each other. Name the other configurations with --configuration."
            )


def _write_masks(study: Study, *, device: str | None) -> None:
    """Masks of all cases by the first stage's networks that have not seen them, for the second stage."""
    first = replace(study, configurations=tuple(c for c in study.configurations if c.name == FIRST_STAGE))
    predict_out_of_fold(
        Predictions(first, mirror=False),
        Candidate((FIRST_STAGE,)),
        corrections=(),
        temperature=1.0,
        output=previous_dir(study),
        device=device,
    )


def _require_weights(study: Study) -> None:
    missing = [run for run in study.runs() if not run.weights.is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(study.runs())} folds have no weights ({missing[0].name}: {missing[0].weights} is "
            "not there). Let them be trained, or name those that are with --folds."
        )


def _scored_regions(predictions: Predictions) -> dict[str, list[int]]:
    """The network's regions, or else the data list's, in the ids of files and without those that are labels."""
    regions = predictions.study.regions
    if not predictions.exclusive:
        regions = {name: tuple(ids) for name, ids in predictions.structures.items()}
        regions = map_regions(regions, predictions.labels, predictions.file_labels)  # type: ignore[assignment]
    return {name: list(ids) for name, ids in regions.items() if name not in predictions.file_labels}


def _clear_if_changed(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove masks that were made otherwise: by another choice, other configurations, of other images."""
    record = folder.with_name("predictions.json")
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = None
    if earlier != json.loads(json.dumps(settings)):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(record, settings)


def _confidence(masks: Path, summary: Summary, structures: Structures) -> Confidence:
    """Confidence and Dice over the same structures: those that the network answers with."""
    dice: dict[str, list[float]] = {}
    for score in summary.scores:
        if score.scores.label in structures:
            dice.setdefault(score.case, []).append(score.scores.dice)
    said, got = [], []
    for case, values in dice.items():
        sidecar = json.loads((masks / f"{case}.json").read_text(encoding="utf-8"))
        known = [value for value in values if not math.isnan(value)]
        said.append(math.nan if sidecar["confidence"] is None else float(sidecar["confidence"]))
        got.append(float(np.mean(known)) if known else math.nan)
    return judge_confidence(said, got)


def _content(
    study: Study,
    scores: Sequence[CandidateScore],
    chosen: CandidateScore,
    trials: Sequence[Trial],
    calibrated: Calibrated,
    confidence: Confidence,
    summary: Summary,
    shipped: Shipped,
) -> dict[str, Any]:
    """``crossval.json``: everything that the report says, in JSON's types."""
    before, after = calibrated.mean_ece
    return {
        "schema": SCHEMA,
        "study": study.folder.name,
        "bundle": study.bundle.name,
        "configurations": [configuration.name for configuration in study.configurations],
        "folds": list(study.folds),
        "cases": summary.content["cases"],
        "mean_dice": _number(summary.mean_dice),
        "dice": {name: _number(value) for name, value in summary.dice.items()},
        "interval": summary.content["headline"].get("interval"),
        "candidates": [_candidate(score, chosen.candidate) for score in scores],
        "candidate_rule": f"From the cheapest to the dearest, one is taken where its mean Dice is {MIN_GAIN:g} better.",
        "corrections": [_trial(trial) for trial in trials],
        "correction_rule": RULE,
        "calibration": {
            "temperature": calibrated.temperature,
            "temperature_by_fold": {str(fold): value for fold, value in calibrated.by_fold.items()},
            "voxels": calibrated.voxels,
            "log_loss": [_number(value) for value in calibrated.log_loss],
            "mean_ece": [_number(before), _number(after)],
            "ece": {name: [_number(value) for value in pair] for name, pair in calibrated.ece.items()},
            "bins": calibrated.bins,
            "error_auroc": _number(calibrated.error_auroc),
        },
        "confidence": {
            "definition": CONFIDENCE,
            "cases": confidence.cases,
            "rank_correlation": _number(confidence.rank_correlation),
            "p_value": _number(confidence.p_value),
            "poor_below": _number(confidence.poor_below),
            "poor_auroc": _number(confidence.poor_auroc),
            "quarters": [_number(value) for value in confidence.quarters],
        },
        "shipped": shipped.content(),
        "provenance": {key: value for key, value in summary.content["provenance"].items() if key != "settings"},
    }


def _candidate(score: CandidateScore, chosen: Candidate) -> dict[str, Any]:
    return {
        "name": score.candidate.name,
        "configurations": list(score.candidate.configurations),
        "mirrored": score.candidate.mirrored,
        "passes": score.passes,
        "mean_dice": _number(score.mean_dice),
        "dice": {name: _number(value) for name, value in score.dice.items()},
        "chosen": score.candidate == chosen,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "kind": trial.correction.kind,
        "label": trial.correction.structure,
        "min_volume_ml": trial.correction.min_volume_ml,
        "before": trial.before,
        "after": trial.after,
        "better": list(trial.better),
        "worse": list(trial.worse),
        "worst_loss": trial.worst_loss,
        "taken": trial.taken,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write_report(folder: Path) -> Path:
    # Here, since figures take a second to import, and errors shall come before that.
    from medseg3d.report.crossval import write_crossval_report

    return write_crossval_report(folder)
