"""Evaluate predictions against references, from files to files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medseg3d.datalist.model import absolute
from medseg3d.errors import CaseError, UsageError
from medseg3d.evaluation.files import write_evaluation
from medseg3d.evaluation.model import CaseResult, EvaluationCase, LabelScore, Problem, Scoring
from medseg3d.evaluation.pairing import method_name, run_of
from medseg3d.evaluation.provenance import provenance, read_run
from medseg3d.evaluation.scoring import Progress, score_cases, score_files
from medseg3d.evaluation.summary import build_summary
from medseg3d.evaluation.tables import to_table
from medseg3d.metrics import as_regions
from medseg3d.statistics import LEVEL, RESAMPLES
from medseg3d.volume import SUFFIXES

__all__ = ["Summary", "evaluate", "make_scoring", "run_evaluation", "score_case"]

# score_labels' own: voxels that share a face, an edge or a corner are one lesion.
LESION_CONNECTIVITY = 26

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class Summary:
    """What an evaluation found.

    Attributes:
        dice: mean over cases, for each label and region; NaN where no case has it.
        mean_dice: mean of ``dice`` over the labels that some case has.
        scores: all rows, a label of a case each.
        failed: case → why it could not be scored.
        problems: everything that a person should know about the input.
        content: ``summary.json``.
        folder: where the files are.
        report: ``report.html``.
    """

    dice: dict[str, float]
    mean_dice: float
    scores: tuple[LabelScore, ...]
    failed: dict[str, str]
    problems: tuple[Problem, ...]
    content: Mapping[str, Any]
    folder: Path
    report: Path

    @property
    def ok(self) -> bool:
        """Whether everything could be evaluated; notes do not count."""
        return not any(problem.severity == "error" for problem in self.problems)


def evaluate(
    items: Sequence[Mapping[str, Any]],
    prediction_dir: str | Path,
    *,
    labels: Mapping[str, int],
    regions: Mapping[str, Sequence[int]] | None = None,
    output_dir: str | Path | None = None,
    name: str = "",
    workers: int = 1,
    ignore_label: int | None = None,
) -> Summary:
    """Score ``prediction_dir/<case>.nii.gz`` for every item; write ``cases.csv``, ``summary.json`` and ``report.html``.

    This is what the bundles' ``evaluating`` calls, with its settings; ``run_evaluation`` has all of them.

    Args:
        items: mappings with ``case``, ``image``, ``label`` (path) and ``patient``, as ``medseg3d.datalist`` gives them.
        labels: name → id.
        regions: name → ids of unions of labels.
        output_dir: where to write; the predictions' folder by default.
        name: of the method; that of the run's folder, or else of the predictions' folder, by default.
        workers: processes at most; 0 for one a processor.
        ignore_label: id of voxels that nobody labelled; they do not count.

    Raises:
        UsageError: there are no items.
        CaseError: some case could not be scored. The others are, and the files are written.
    """
    if not items:
        raise UsageError("There is no case to evaluate: fold -1 holds out none, and a data list may have no labels.")
    folder = absolute(prediction_dir)
    summary = run_evaluation(
        [_case_of(item, _mask_of(item, folder)) for item in items],
        scoring=make_scoring(labels, regions or {}, other_labels="background", ignore_label=ignore_label),
        output_dir=absolute(output_dir) if output_dir else folder,
        name=name or method_name(folder),
        run=run_of(folder),
        workers=workers,
    )
    parts = ", ".join(f"{label} {value:.4f}" for label, value in summary.dice.items())
    logger.info("Mean Dice %.4f [%s] over %d cases", summary.mean_dice, parts, summary.content["cases"])
    if summary.failed:
        listed = "\n".join(f"  {case}: {reason}" for case, reason in summary.failed.items())
        raise CaseError(f"{len(summary.failed)} of {len(items)} cases could not be scored:\n{listed}")
    return summary


def run_evaluation(
    cases: Sequence[EvaluationCase],
    *,
    scoring: Scoring,
    output_dir: Path,
    name: str,
    problems: Sequence[Problem] = (),
    attributes: Mapping[str, Mapping[str, str]] | None = None,
    run: Path | None = None,
    split: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Summary:
    """Score all cases and write the evaluation folder; what is wrong with some of them is in ``Summary.problems``.

    Args:
        cases: see ``medseg3d.evaluation.pair``.
        problems: that were found while the cases were paired.
        attributes: attribute → case → value, for subgroups.
        run: the training run of the predictions.
        split: data list and part that the cases come from, for the record.
        workers: processes at most; 0 for one a processor.
        level: of the intervals.
        resamples: of the bootstrap.

    Raises:
        UsageError: ``run`` is no run folder.
    """
    started = datetime.now(UTC)
    if run is not None:
        read_run(run)  # refused before the scoring, not after it
    results = score_cases(cases, scoring, workers=workers, progress=progress)
    found = [*problems, *(problem for result in results for problem in result.problems)]
    scores = [score for result in results for score in result.scores]
    summary = build_summary(
        results,
        scoring,
        name=name,
        problems=found,
        attributes=attributes or {},
        run=None if run is None else str(run),
        provenance=provenance(results, started=started, run=run, split=split or {}, settings=_settings(scoring)),
        level=level,
        resamples=resamples,
    )
    write_evaluation(
        output_dir,
        table=to_table(scores, lesions=bool(scoring.lesions)),
        lesions=[row for result in results for row in result.lesions] if scoring.lesions else None,
        summary=summary,
    )
    return _summary_of(summary, results, found, output_dir)


def score_case(item: Mapping[str, Any], prediction: Path, *, labels: Mapping[str, int]) -> list[LabelScore]:
    """Score one mask against ``item["label"]``; nothing is written.

    Raises:
        CaseError: a file is missing or unreadable, holds no integers, or the two lie on different grids.
    """
    result = score_files(_case_of(item, prediction), make_scoring(labels, {}, other_labels="background"))
    if result.failed:
        raise CaseError(result.failed.message)
    return list(result.scores)


def make_scoring(
    labels: Mapping[str, int],
    regions: Mapping[str, Sequence[int]],
    *,
    tolerance_mm: float | Mapping[str, float] = 2.0,
    lesions: Sequence[str] = (),
    lesion_overlap: float = 0.1,
    resample: bool = False,
    other_labels: Literal["refuse", "background"] = "refuse",
    calibration: bool = False,
    ignore_label: int | None = None,
) -> Scoring:
    """Check names against each other and make the settings; labels come first, then the regions.

    Args:
        tolerance_mm: of the normalised surface distance; one by name leaves 2 mm to the others.
        lesions: names of labels and regions whose components are lesions.
        ignore_label: id of reference voxels that do not count.

    Raises:
        UsageError: no label; an id of two labels, or of one that is ignored; a name that is used twice or not known;
            ids that no label has; impossible numbers.
    """
    if not labels:
        raise UsageError("No label is named: give at least one, as in liver=1.")
    _require_own_ids(labels)
    if ignore_label is not None and ignore_label in (0, *labels.values()):
        raise UsageError(f"ignore_label is {ignore_label}, which background or a label has too: {dict(labels)}.")
    unknown = {name: ids for name, ids in regions.items() if not set(ids) <= set(labels.values())}
    if unknown:
        name, ids = next(iter(unknown.items()))
        raise UsageError(f"Region {name!r} names the ids {list(ids)}; the labels are {dict(labels)}.")
    if twice := labels.keys() & regions.keys():
        raise UsageError(f"{', '.join(sorted(twice))} is a label and a region: rename one of them.")
    names = [*labels, *regions]
    by_name = dict(tolerance_mm) if isinstance(tolerance_mm, Mapping) else dict.fromkeys(names, tolerance_mm)
    for what, given in (("tolerance", by_name), ("lesions", lesions)):
        if wrong := [name for name in given if name not in names]:
            raise UsageError(f"{what}: there is no label or region {wrong[0]!r}; there are {', '.join(names)}.")
    if any(not (math.isfinite(mm) and mm >= 0) for mm in by_name.values()):
        raise UsageError(f"Tolerances are {by_name}: each must be a distance of 0 mm or more.")
    if not 0 < lesion_overlap <= 1:
        raise UsageError(f"The overlap of lesions is {lesion_overlap}: an IoU above 0 and up to 1 is possible.")
    return Scoring(
        regions=as_regions({**labels, **regions}),
        labels=dict(labels),
        tolerance_mm=dict.fromkeys(names, 2.0) | by_name,
        lesions=frozenset(lesions),
        lesion_overlap=lesion_overlap,
        resample=resample,
        other_labels=other_labels,
        calibration=calibration,
        ignore_label=ignore_label,
    )


# Parts ---------------------------------------------------------------------------------------------------------------


def _require_own_ids(labels: Mapping[str, int]) -> None:
    """A structure under two names would weigh twice in every mean over labels."""
    names: dict[int, list[str]] = {}
    for name, label_id in labels.items():
        names.setdefault(label_id, []).append(name)
    if shared := [(label_id, of_id) for label_id, of_id in names.items() if len(of_id) > 1]:
        label_id, of_id = shared[0]
        raise UsageError(f"Labels: {' and '.join(of_id)} share the id {label_id}. Give each label an id of its own.")


def _case_of(item: Mapping[str, Any], prediction: Path) -> EvaluationCase:
    images = item.get("image") or ()
    images = (images,) if isinstance(images, (str, Path)) else tuple(images)
    return EvaluationCase(
        case=str(item["case"]),
        patient=str(item.get("patient", item["case"])),
        reference=absolute(item["label"]) if item.get("label") else None,
        prediction=prediction,
        images=tuple(absolute(image) for image in images if image is not None),
    )


def _mask_of(item: Mapping[str, Any], folder: Path) -> Path:
    """The mask of a case in any format that is read; ``<case>.nii.gz`` where there is none, for the message."""
    candidates = [folder / f"{item['case']}{suffix}" for suffix in (".nii.gz", *SUFFIXES)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _settings(scoring: Scoring) -> dict[str, Any]:
    return {
        "lesions": sorted(scoring.lesions),
        "lesion_overlap_iou": scoring.lesion_overlap if scoring.lesions else None,
        "lesion_connectivity": LESION_CONNECTIVITY if scoring.lesions else None,
        "resample": scoring.resample,
        "other_labels": scoring.other_labels,
        "ignore_label": scoring.ignore_label,
    }


def _summary_of(
    content: Mapping[str, Any], results: Sequence[CaseResult], problems: Sequence[Problem], folder: Path
) -> Summary:
    def dice_of(label: Mapping[str, Any]) -> float:
        return math.nan if label["dice_mean"] is None else float(label["dice_mean"])

    summary = Summary(
        dice={name: dice_of(label) for name, label in content["labels"].items()},
        mean_dice=math.nan if content["mean_dice"] is None else float(content["mean_dice"]),
        scores=tuple(score for result in results for score in result.scores),
        failed=dict(content["failed"]),
        problems=tuple(problems),
        content=content,
        folder=folder,
        report=folder / "report.html",
    )
    return replace(summary, report=_write_report(folder))


def _write_report(folder: Path) -> Path:
    # Here, since pictures and figures take a second to import, and errors shall come before that.
    from medseg3d.report import write_evaluation_report

    return write_evaluation_report(folder)
