"""Boxes from COCO's JSON: a reference, and a list of detections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.errors import CaseError, UsageError
from medseg3d.evaluation.model import Problem
from medseg3d.metrics.detection import Boxes

__all__ = ["BoxSet", "read_boxes"]


@dataclass(frozen=True)
class BoxSet:
    """Reference boxes and detections of the same images.

    Attributes:
        cases: file names of the images.
        patients: of each image; the image stands for the patient where none is known.
        classes: name → category id.
        reference, predicted: boxes of each image.
        problems: what was left out, and why.
    """

    cases: tuple[str, ...]
    patients: tuple[str, ...]
    classes: Mapping[str, int]
    reference: tuple[Boxes, ...]
    predicted: tuple[Boxes, ...]
    problems: tuple[Problem, ...]


def read_boxes(predictions: Path, references: Path) -> BoxSet:
    """Read COCO's JSON.

    Args:
        references: an object with ``images`` (``id``, ``file_name``, perhaps ``patient``), ``categories`` and
            ``annotations`` (``image_id``, ``category_id``, ``bbox`` as x, y, width, height in pixels).
        predictions: a list of detections like annotations, each with a ``score``; or an object whose ``annotations``
            are.

    Raises:
        CaseError: a file cannot be read, or an entry lacks a field.
        UsageError: a file is not what COCO's format says.
    """
    truth, found = _load(references), _load(predictions)
    if not isinstance(truth, dict) or not {"images", "categories", "annotations"} <= set(truth):
        raise UsageError(f"{references}: a reference in COCO's format has images, categories and annotations.")
    detections = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(detections, list):
        raise UsageError(f"{predictions}: expected a list of detections with image_id, category_id, bbox and score.")
    problems: list[Problem] = []
    images = _by_id(truth["images"], references, "images")
    categories = _by_id(truth["categories"], references, "categories")
    if not images or not categories:
        raise UsageError(
            f"{references}: {len(images)} images and {len(categories)} categories; at least one of each is needed. "
            "Images without a box are listed, too."
        )
    classes = {str(_field(c, "name", references)): i for i, c in categories.items()}
    if len(classes) < len(categories):
        raise UsageError(f"{references}: two categories share a name; give each its own.")
    names = {i: str(image.get("file_name", i)) for i, image in images.items()}
    reference = _sorted_by_image(truth["annotations"], names, classes, references, problems, scored=False)
    predicted = _sorted_by_image(detections, names, classes, predictions, problems, scored=True)
    return BoxSet(
        tuple(names.values()),
        tuple(str(image.get("patient", names[i])) for i, image in images.items()),
        classes,
        tuple(_boxes(reference[i], scored=False) for i in images),
        tuple(_boxes(predicted[i], scored=True) for i in images),
        tuple(problems),
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise CaseError(f"{path}: no such file.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: not JSON ({error}).") from error


def _by_id(entries: Any, path: Path, what: str) -> dict[int, dict[str, Any]]:
    """Entries by their id.

    Raises:
        CaseError: an entry without an id that is a whole number, or two of one id.
    """
    if not isinstance(entries, list):
        raise CaseError(f"{path}: {what} is no list.")
    ids = [_field(entry, "id", path) for entry in entries]
    if not all(type(i) is int for i in ids) or len(set(ids)) < len(ids):
        raise CaseError(f"{path}: the ids of {what} must be whole numbers, each used once.")
    return dict(zip(ids, entries, strict=True))


def _field(entry: Any, name: str, path: Path) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise CaseError(f"{path}: an entry has no {name!r}: {str(entry)[:80]}")
    return entry[name]


def _sorted_by_image(
    entries: Sequence[Any],
    names: Mapping[Any, str],
    classes: Mapping[str, int],
    path: Path,
    problems: list[Problem],
    *,
    scored: bool,
) -> dict[Any, list[dict[str, Any]]]:
    """Usable entries by image; the others become problems, one for each image and reason."""
    by_image: dict[Any, list[dict[str, Any]]] = {i: [] for i in names}
    wrong: Counter[tuple[str, str, str]] = Counter()
    for entry in entries:
        image = _field(entry, "image_id", path)
        reason = _fault(entry, image, names, classes, path, scored=scored)
        if reason:
            wrong[names[image] if _known(image, names) else str(image), *reason] += 1
        else:
            by_image[image].append(entry)
    problems += [
        Problem(case, code, f"{path.name}: {message} ({n} of its boxes left out).")
        for (case, code, message), n in wrong.items()
    ]
    return by_image


def _fault(
    entry: Any, image: Any, names: Mapping[Any, str], classes: Mapping[str, int], path: Path, *, scored: bool
) -> tuple[str, str] | None:
    if not _known(image, names):
        return "extra-prediction", "the reference has no image of this id"
    if _field(entry, "category_id", path) not in list(classes.values()):
        return "class-unknown", f"category {entry['category_id']} is not in the reference"
    box = _field(entry, "bbox", path)
    listed = box if isinstance(box, list) else []
    numbers = [*listed, _field(entry, "score", path)] if scored else listed
    if len(listed) != 4 or not all(type(v) in (int, float) and np.isfinite(v) for v in numbers):
        return "box-invalid", f"box {str(box)[:60]} is not four finite numbers with a score"
    if min(box[2:]) <= 0:
        return "box-without-area", "a box has no width or no height"
    return None


def _known(image: Any, names: Mapping[Any, str]) -> bool:
    return type(image) is int and image in names


def _boxes(entries: Sequence[Mapping[str, Any]], *, scored: bool) -> Boxes:
    xywh = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    return Boxes(
        np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
        np.array([entry["category_id"] for entry in entries], dtype=np.int64),
        np.array([entry["score"] if scored else 1.0 for entry in entries], dtype=np.float64),
        np.array([not scored and bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool),
    )
