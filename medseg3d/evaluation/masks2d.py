"""Score masks of 2D images, by the same measures, intervals and report as those of volumes.

A picture is a volume of one slice: its surfaces are contours, and its lesions are areas. References and predictions are
written as NIfTI first, beside the result, so that reports and comparisons can open them again; images stay where they
are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medseg3d.datalist.model import absolute, shorten
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.evaluation.model import EvaluationCase, Problem, Scoring
from medseg3d.evaluation.pairing import method_name, run_of
from medseg3d.evaluation.run import Summary, make_scoring, run_evaluation
from medseg3d.evaluation.scoring import Progress
from medseg3d.files import whole_or_not_at_all
from medseg3d.images import (
    Image2D,
    ImageList,
    read_image,
    read_mask,
    testing_items,
    training_items,
    validation_items,
)
from medseg3d.masks2d import Layers, mask_files, read_layers
from medseg3d.metrics import Region
from medseg3d.statistics import RESAMPLES

__all__ = ["choose_items", "evaluate_masks2d", "score_masks2d"]

logger = logging.getLogger("medseg3d")

SLICES = "slices"
# Overlapping masks are scored as unions of the combinations that occur: 2**n - 1 of n labels.
MOST_OVERLAPPING = 10


def choose_items(
    images: ImageList, prediction_dir: Path, *, fold: int | None = None
) -> tuple[list[dict[str, Any]], str]:
    """The items of a list that masks are of, and what part of the list they are in words.

    As of a list of volumes: ``fold`` of the training images (-1 for all), or else the testing images with truth where
    one has a mask, or else the one fold that all masks are of, or all training images.

    Raises:
        UsageError: a list of another task.
        DataListError: there is no such fold.
    """
    if images.task != "segmentation_2d":
        command = {"classification": "evaluate-classification", "detection": "evaluate-detection"}[images.task]
        raise UsageError(f"{images.path} is a list for {images.task}: score its answers with medseg3d {command}.")
    if fold is not None:
        of_fold = training_items if fold == -1 else validation_items
        return of_fold(images.path, fold=fold), "training" if fold == -1 else f"fold {fold}"

    def has_mask(case: str) -> bool:
        files = mask_files(prediction_dir, case, images.labels, multi_label=images.multi_label)
        return any(file.is_file() for file in files)

    testing = [item for item in testing_items(images.path) if "label" in item]
    if any(has_mask(item["case"]) for item in testing):
        return testing, "testing"
    folds = {item.fold for item in images.training if has_mask(item.case)}
    if len(folds) == 1 and None not in folds:
        (only,) = folds
        return validation_items(images.path, fold=int(only or 0)), f"fold {only}"
    return training_items(images.path, fold=-1), "training"


def evaluate_masks2d(
    items: Sequence[Mapping[str, Any]], prediction_dir: str | Path, *, labels: Mapping[str, int], **options: Any
) -> Summary:
    """Score masks as ``score_masks2d`` does, for a bundle: an image that could not be scored is an error in the end.

    Raises:
        CaseError: some image could not be scored. The others are, and the files are written.
        UsageError, ConfigError: as ``score_masks2d``.
    """
    summary = score_masks2d(items, prediction_dir, labels=labels, **options)
    _log(summary)
    failed = {problem.case: problem.message for problem in summary.problems if problem.severity == "error"}
    if failed:
        listed = "\n".join(f"  {case}: {reason}" for case, reason in failed.items())
        raise CaseError(f"{len(failed)} of {len(items)} images could not be scored:\n{listed}")
    return summary


def score_masks2d(
    items: Sequence[Mapping[str, Any]],
    prediction_dir: str | Path,
    *,
    labels: Mapping[str, int],
    multi_label: bool = False,
    ignore_index: int | None = None,
    output_dir: str | Path | None = None,
    name: str = "",
    tolerance_mm: float | Mapping[str, float] = 2.0,
    split: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    resamples: int = RESAMPLES,
) -> Summary:
    """Score ``prediction_dir/<case>.png`` for every item; write ``cases.csv``, ``summary.json`` and ``report.html``.

    Distances are in millimetres where all images say their spacing; where one does not, a pixel counts as one in all of
    them, since a mean of millimetres and pixels means nothing, and a problem of the summary names it. ``cases.csv`` has
    the columns of volumes, so that results of both kinds are read and compared alike: an image is a slice 1 mm thick
    there, and 0.001 of ``volume_ml`` is an area of 1 mm² (or 1 pixel). Reports show areas in mm² or pixels;
    ``plane_unit`` of the summary says which.

    Args:
        items: mappings with ``case``, ``image``, ``label`` and ``patient``, as ``medseg3d.images`` gives them.
        labels: name → id.
        multi_label: masks that may overlap, ``<case>_<label>.png`` each.
        ignore_index: an id in references whose pixels do not count.
        output_dir: where to write; the predictions' folder by default.
        name: of the method; that of the run's folder, or else of the predictions' folder, by default.
        tolerance_mm: of the normalised surface distance, in pixels where distances are; one number or one a label.
        split: data list and part that the items come from, for the record.
        workers: processes at most; 0 for one a processor.
        resamples: of the bootstrap.

    Returns:
        The summary; its problems name the images that could not be scored, and why.

    Raises:
        UsageError: there are no items.
        ConfigError: too many labels that may overlap.
    """
    if not items:
        raise UsageError("There is no image to evaluate: fold -1 holds out none, and a list may have no masks.")
    folder = absolute(prediction_dir)
    target = absolute(output_dir) if output_dir else folder
    scoring = make_scoring(labels, {}, tolerance_mm=tolerance_mm, other_labels="background")
    scoring = _overlapping(labels, scoring) if multi_label else scoring
    cases: list[EvaluationCase] = []
    problems: list[Problem] = []
    unspaced: list[str] = []
    for item in items:
        case = str(item["case"])
        try:
            image = read_image(item["image"])
            truth, found = _pair(item, folder, labels, multi_label=multi_label, ignore_index=ignore_index)
        except CaseError as error:
            problems.append(Problem(case, "unreadable", str(error)))
            continue
        unspaced += [case] if image.spacing_mm is None else []
        cases.append(_as_slices(item, image, truth, found, target / SLICES))
    if unspaced:
        problems.append(_in_pixels(cases, unspaced))
    return run_evaluation(
        cases,
        scoring=replace(scoring, plane_unit="px" if unspaced else "mm"),
        output_dir=target,
        name=name or method_name(folder),
        problems=problems,
        run=run_of(folder),
        split=split,
        workers=workers,
        progress=progress,
        resamples=resamples,
    )


def _pair(
    item: Mapping[str, Any],
    folder: Path,
    labels: Mapping[str, int],
    *,
    multi_label: bool,
    ignore_index: int | None,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Reference and prediction as label maps (row, column), of the combinations of labels where these overlap."""
    if not item.get("label"):
        raise CaseError("The list names no mask to score against.")
    files = mask_files(folder, str(item["case"]), labels, multi_label=multi_label)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CaseError(f"{', '.join(missing)}: no such file in {folder}. Segment the image, too.")
    if multi_label:
        return _coded_pair(item["label"], files, labels, ignore_index=ignore_index)
    truth = read_mask(item["label"], ids=labels.values(), ignore=ignore_index).pixels
    found = read_mask(files[0], ids=labels.values()).pixels
    if truth.shape != found.shape:
        raise CaseError(f"{files[0].name} has {_by(found.shape)} pixels, the reference {_by(truth.shape)}.")
    if ignore_index is not None:
        counted = truth != ignore_index
        truth, found = truth * counted, found * counted
    return truth, found


def _coded_pair(
    label: str | Sequence[str], files: Sequence[Path], labels: Mapping[str, int], *, ignore_index: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Reference and prediction of labels that may overlap; of the reference there may be a label map instead."""
    truth, found = _coded(read_layers(label, labels, ignore_index=ignore_index)), _coded(read_layers(files, labels))
    if truth.shape != found.shape:
        raise CaseError(f"{files[0].name} has {_by(found.shape)} pixels, the reference {_by(truth.shape)}.")
    if ignore_index is not None and isinstance(label, str):
        found = found * (read_mask(label).pixels != ignore_index)
    return truth, found


def _coded(layers: Layers) -> NDArray[np.uint16]:
    """One number a combination of labels: 2 to the power of each label's place, summed."""
    weights = (1 << np.arange(len(layers))).astype(np.uint16)
    return np.tensordot(weights, layers.astype(np.uint16), axes=1).astype(np.uint16)


def _overlapping(labels: Mapping[str, int], scoring: Scoring) -> Scoring:
    """Settings of labels that may overlap: each is the union of the combinations that it is part of."""
    if len(labels) > MOST_OVERLAPPING:
        raise ConfigError(f"{len(labels)} labels that may overlap; at most {MOST_OVERLAPPING} can be scored at once.")
    combinations = range(1, 2 ** len(labels))
    order = sorted(labels, key=lambda name: labels[name])
    regions = tuple(
        Region(name, tuple(code for code in combinations if code >> place & 1)) for place, name in enumerate(order)
    )
    held = {code: [name for place, name in enumerate(order) if code >> place & 1] for code in combinations}
    names = {" + ".join(some) if len(some) > 1 else f"{some[0]} alone": code for code, some in held.items()}
    return replace(scoring, regions=regions, labels=names)


def _as_slices(
    item: Mapping[str, Any],
    image: Image2D,
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    folder: Path,
) -> EvaluationCase:
    case = str(item["case"])
    paths = []
    for kind, pixels in (("references", truth), ("predictions", found)):
        paths.append(folder / kind / f"{case}.nii")
        _write_slice(paths[-1], pixels, image.spacing_mm or (1.0, 1.0))
    patient = str(item.get("patient", case))
    source = absolute(str(item["image"]))
    return EvaluationCase(case, patient, reference=paths[0], prediction=paths[1], images=(source,))


def _in_pixels(cases: Sequence[EvaluationCase], unspaced: Sequence[str]) -> Problem:
    """Measure all cases in pixels, since some images do not say their spacing; returns what is to be said of it."""
    if len(unspaced) == len(cases):
        text = f"None of the {len(cases)} images says its spacing: distances and areas are in pixels."
        return Problem("", "no-spacing", text, severity="note")
    for case in cases:
        for path in filter(None, (case.reference, case.prediction)):
            if case.case not in unspaced:
                _write_slice(path, np.asarray(nibabel.load(path).dataobj)[:, :, 0].T, (1.0, 1.0))
    text = (
        f"{len(unspaced)} of {len(cases)} images do not say their spacing ({shorten(unspaced)}): distances and areas "
        "of all are in pixels. For millimetres evaluate those that do alone."
    )
    return Problem("", "no-spacing", text, severity="note")


def _write_slice(path: Path, pixels: NDArray[Any], spacing_mm: tuple[float, float]) -> None:
    row_mm, column_mm = spacing_mm
    # Columns run to the patient's left and rows to the back, as an axial picture is looked at: so it stays upright.
    affine = np.diag([-column_mm, -row_mm, 1.0, 1.0])
    stored = pixels.astype(np.int32) if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 2 else pixels
    with whole_or_not_at_all(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(stored.T[:, :, None], affine), temporary)


def _log(summary: Summary) -> None:
    parts = ", ".join(f"{label} {value:.4f}" for label, value in summary.dice.items())
    if not math.isnan(summary.mean_dice):
        logger.info("Mean Dice %.4f [%s] over %d images", summary.mean_dice, parts, summary.content["cases"])


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
