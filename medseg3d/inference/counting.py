"""From which score on a detection counts, chosen so that images of known counts are counted rightly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from medseg3d.errors import CaseError
from medseg3d.files import write_json
from medseg3d.metrics.detection import Boxes

__all__ = ["COUNTS", "Thresholds", "choose_thresholds", "read_thresholds", "write_thresholds"]

COUNTS = 0.5  # the score from which a detection counts, after rescaling


@dataclass(frozen=True)
class Thresholds:
    """Scores from which detections count.

    Attributes:
        scores: class → the network's score, above 0 and below 1; 0.5 where none is given.
        rule: how they were chosen, in words.
        images: how many images they were chosen on.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    rule: str = "0.5, not chosen on any images"
    images: int = 0

    def of(self, name: str) -> float:
        """The network's score from which a detection of the class counts."""
        return self.scores.get(name, COUNTS)

    def rescaled(self, boxes: Boxes, labels: Mapping[str, int]) -> Boxes:
        """The same boxes with scores of which 0.5 and more count, whatever the class.

        Each class's scores are stretched in two straight pieces, so that their order, and with it average precision,
        stays as it is.

        >>> boxes = Boxes(np.zeros((2, 4)), np.array([1, 1]), np.array([0.2, 0.6]))
        >>> Thresholds({"cell": 0.2}).rescaled(boxes, {"cell": 1}).scores.tolist()
        [0.5, 0.75]
        """
        of_class = np.full(max([*labels.values(), *boxes.classes.tolist()], default=0) + 1, COUNTS)
        for name, class_id in labels.items():
            of_class[class_id] = self.of(name)
        cut = of_class[boxes.classes]
        above = COUNTS + (1 - COUNTS) * (boxes.scores - cut) / (1 - cut)
        scores = np.where(boxes.scores < cut, COUNTS * boxes.scores / cut, above)
        return Boxes(boxes.xyxy, boxes.classes, scores, boxes.difficult)


def choose_thresholds(found: Sequence[Boxes], truth: Sequence[Boxes], labels: Mapping[str, int]) -> Thresholds:
    """For each class the score at which the counts of the images are nearest to their true counts.

    What is least is the sum over the images of |counted − true|. Where several scores are as good, the middle of the
    widest range of them is taken. A class that no image has keeps 0.5. Difficult boxes do not count.

    Args:
        found: detections of each image, with scores down to a low one.
        truth: its reference boxes.
        labels: name → id.
    """
    scores = {
        name: _best_score(found, truth, class_id)
        for name, class_id in labels.items()
        if any((boxes.classes == class_id).any() for boxes in truth)
    }
    return Thresholds(scores, "least error of the counts", len(truth))


def _best_score(found: Sequence[Boxes], truth: Sequence[Boxes], class_id: int) -> float:
    scores = [boxes.scores[boxes.classes == class_id] for boxes in found]
    wanted = [_count(boxes, class_id) for boxes in truth]
    borders = np.unique(np.concatenate([[0.0], *scores, [1.0]]))
    middles = (borders[:-1] + borders[1:]) / 2  # counts change only at scores that occur
    counts = np.stack([len(s) - np.searchsorted(np.sort(s), middles) for s in scores])
    errors = np.abs(counts - np.array(wanted)[:, None]).sum(axis=0)
    low, high = _widest_run(errors == errors.min(), borders)
    return float(np.clip((low + high) / 2, 1e-4, 1 - 1e-4))


def _count(boxes: Boxes, class_id: int) -> int:
    chosen = boxes.of_class(class_id)
    return len(chosen) - int(chosen.difficult.sum())


def _widest_run(best: np.ndarray, borders: np.ndarray) -> tuple[float, float]:
    """Limits of the widest range of scores in which every interval is among the best."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], best, [False]]).astype(np.int8)))
    runs = [(borders[start], borders[end]) for start, end in edges.reshape(-1, 2)]
    return max(runs, key=lambda run: run[1] - run[0])


def write_thresholds(path: str | Path, thresholds: Thresholds) -> None:
    """Write thresholds as JSON."""
    write_json(Path(path), {"schema": "medseg3d.thresholds/1", **asdict(thresholds)})


def read_thresholds(path: str | Path | None) -> Thresholds:
    """Thresholds from a file; those of 0.5 where there is none.

    Raises:
        CaseError: the file is not what ``write_thresholds`` writes.
    """
    if path is None or not Path(path).is_file():
        return Thresholds()
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        scores = {str(name): float(score) for name, score in content["scores"].items()}
        if not all(0 < score < 1 for score in scores.values()):
            raise ValueError(f"scores are {scores}, not between 0 and 1")
        return Thresholds(scores, str(content["rule"]), int(content["images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(
            f"{path}: no thresholds that can be read ({error}). Choose them again, or remove it."
        ) from error
