"""Score masks of 2D images, by the same measures, intervals and report as those of volumes.

A picture is a volume of one slice: its surfaces are contours, and its lesions are areas. What the images and masks are
in is written as NIfTI first, beside the result, so that reports and comparisons can open it again.
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

from medseg3d.datalist.model import absolute
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.evaluation.model import EvaluationCase, Problem, Scoring
from medseg3d.evaluation.pairing import method_name, run_of
from medseg3d.evaluation.run import Summary, make_scoring, run_evaluation
from medseg3d.files import whole_or_not_at_all
from medseg3d.images import Image2D, read_image, read_mask
from medseg3d.masks2d import Layers, mask_files, read_layers
from medseg3d.metrics import Region

__all__ = ["evaluate_masks2d"]

logger = logging.getLogger("medseg3d")

SLICES = "slices"
# Overlapping masks are scored as unions of the combinations that occur: 2**n - 1 of n labels.
MOST_OVERLAPPING = 10


def evaluate_masks2d(
    items: Sequence[Mapping[str, Any]],
    prediction_dir: str | Path,
    *,
    labels: Mapping[str, int],
    multi_label: bool = False,
    ignore_index: int | None = None,
    output_dir: str | Path | None = None,
    name: str = "",
    workers: int = 1,
) -> Summary:
    """Score ``prediction_dir/<case>.png`` for every item; write ``cases.csv``, ``summary.json`` and ``report.html``.

    Distances are in millimetres where the image says its spacing; where it does not, a pixel counts as one, and a
    problem of the summary says so. ``cases.csv`` has the columns of volumes, so that results of both kinds are read and
    compared alike: an image is a slice 1 mm thick there, and 0.001 of ``volume_ml`` is an area of 1 mm² (or 1 pixel).
    The report shows areas in mm², or in pixels where no image says its spacing; so does ``plane_unit`` of the summary.

    Args:
        items: mappings with ``case``, ``image``, ``label`` and ``patient``, as ``medseg3d.images`` gives them.
        labels: name → id.
        multi_label: masks that may overlap, ``<case>_<label>.png`` each.
        ignore_index: an id in references whose pixels do not count.
        output_dir: where to write; the predictions' folder by default.
        name: of the method; that of the run's folder, or else of the predictions' folder, by default.
        workers: processes at most; 0 for one a processor.

    Raises:
        UsageError: there are no items.
        ConfigError: too many labels that may overlap.
        CaseError: some image could not be scored. The others are, and the files are written.
    """
    if not items:
        raise UsageError("There is no image to evaluate: fold -1 holds out none, and a list may have no masks.")
    folder = absolute(prediction_dir)
    target = absolute(output_dir) if output_dir else folder
    scoring = _overlapping(labels) if multi_label else make_scoring(labels, {}, other_labels="background")
    cases: list[EvaluationCase] = []
    problems: list[Problem] = []
    pixels_alone = 0
    for item in items:
        case = str(item["case"])
        try:
            image = read_image(item["image"])
            truth, found = _pair(item, folder, labels, multi_label=multi_label, ignore_index=ignore_index)
        except CaseError as error:
            problems.append(Problem(case, "unreadable", str(error)))
            continue
        pixels_alone += image.spacing_mm is None
        cases.append(_as_slices(item, image, truth, found, target / SLICES))
    if pixels_alone:
        text = f"{pixels_alone} of {len(items)} images do not say their spacing: distances are in pixels for them."
        problems.append(Problem("", "no-spacing", text, severity="note"))
    summary = run_evaluation(
        cases,
        scoring=replace(scoring, plane_unit="px" if pixels_alone == len(cases) else "mm"),
        output_dir=target,
        name=name or method_name(folder),
        problems=problems,
        run=run_of(folder),
        workers=workers,
    )
    _log(summary)
    failed = {problem.case: problem.message for problem in problems if problem.severity == "error"} | summary.failed
    if failed:
        listed = "\n".join(f"  {case}: {reason}" for case, reason in failed.items())
        raise CaseError(f"{len(failed)} of {len(items)} images could not be scored:\n{listed}")
    return summary


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


def _overlapping(labels: Mapping[str, int]) -> Scoring:
    if len(labels) > MOST_OVERLAPPING:
        raise ConfigError(f"{len(labels)} labels that may overlap; at most {MOST_OVERLAPPING} can be scored at once.")
    combinations = range(1, 2 ** len(labels))
    order = sorted(labels, key=lambda name: labels[name])
    regions = tuple(
        Region(name, tuple(code for code in combinations if code >> place & 1)) for place, name in enumerate(order)
    )
    held = {code: [name for place, name in enumerate(order) if code >> place & 1] for code in combinations}
    names = {" + ".join(some) if len(some) > 1 else f"{some[0]} alone": code for code, some in held.items()}
    return Scoring(regions=regions, labels=names)


def _as_slices(
    item: Mapping[str, Any],
    image: Image2D,
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    folder: Path,
) -> EvaluationCase:
    case = str(item["case"])
    grey = image.pixels if image.pixels.ndim == 2 else image.pixels.mean(-1).astype(image.pixels.dtype)
    paths = []
    for kind, pixels in (("images", grey), ("references", truth), ("predictions", found)):
        paths.append(folder / kind / f"{case}.nii")
        _write_slice(paths[-1], pixels, image.spacing_mm or (1.0, 1.0))
    patient = str(item.get("patient", case))
    return EvaluationCase(case, patient, reference=paths[1], prediction=paths[2], images=(paths[0],))


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
