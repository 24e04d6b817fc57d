"""Counts of red cells against a full recount of some images of BCCD, whose own boxes leave many cells out.

    python scripts/count_red_cells.py cells.json runs/cells

reads the recount (``docs/red_cells.csv`` of the bundle: how many red cells are marked in an image, and how many are
visible), chooses the score from which a detection counts on the recounted training images, and prints the count error
on the recounted validation images: mean |counted − visible| over the mean visible. Beside it stand the error of a
constant, and of a perfect count against the marks; and of all images of the list, how far the marks themselves lie from
those of the images nearest by number, which are likely fields of the same slides.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medseg3d.errors import CaseError, MedsegError
from medseg3d.images import training_items, validation_items
from medseg3d.metrics.detection import Boxes

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "image_detection_2d"
RED_CELL = {"RBC": 2}
FOLD = 0  # of the list: the images of BCCD's val.txt
NEIGHBOURS = (1, 3, 5, 9, 25)


@dataclass(frozen=True)
class Counts:
    """What was counted in the recounted images of one part of the list."""

    visible: np.ndarray
    marked: np.ndarray
    found: Sequence[Boxes]

    def error(self, score: float) -> float:
        """Mean |counted − visible| over the mean visible, with detections from ``score`` on."""
        return count_error([int((boxes.scores >= score).sum()) for boxes in self.found], self.visible)


def count_error(counted: Sequence[int] | np.ndarray, true: np.ndarray) -> float:
    """Mean |counted − true| over the mean true.

    >>> count_error([3, 5], np.array([4, 4]))
    0.25
    """
    return float(np.abs(np.asarray(counted) - true).sum() / true.sum())


def file_number(case: str) -> int:
    """The number in a file's name, which follows the order in which fields were photographed.

    >>> file_number("BloodImage_00029")
    29
    """
    digits = re.findall(r"\d+", case)
    if not digits:
        raise CaseError(f"{case}: no number in its name, so that nothing can be said of its neighbours.")
    return int(digits[-1])


def neighbours_error(training: Mapping[int, int], held_out: Mapping[int, int], *, neighbours: int) -> float:
    """Count error of saying the median of what is marked in the nearest training images, by file number.

    Args:
        training, held_out: file number → marks. Of two that are equally near the lower number comes first.

    >>> neighbours_error({1: 10, 2: 20, 9: 90}, {3: 18, 8: 70}, neighbours=1)  # says 20 and 90
    0.25
    """
    said = []
    for number in held_out:
        nearest = sorted(training, key=lambda other: (abs(other - number), other))[:neighbours]
        said.append(float(np.median([training[other] for other in nearest])))
    return count_error(np.array(said), np.array(list(held_out.values())))


def neighbour_report(datalist: Path) -> str:
    """How far the marks of the held-out images lie from those of their neighbours, in words."""
    training, held_out = (
        {file_number(item["case"]): int((item["box_labels"] == RED_CELL["RBC"]).sum()) for item in items}
        for items in (training_items(datalist, fold=FOLD), validation_items(datalist, fold=FOLD))
    )
    errors = ", ".join(f"{neighbours_error(training, held_out, neighbours=k):.3f} ({k})" for k in NEIGHBOURS)
    return (
        f"Error of the median marked in the training images nearest by number, against the marks of {len(held_out)} "
        f"held-out images (of so many neighbours): {errors}"
    )


def detect(cases: Sequence[Mapping[str, object]], run: Path) -> list[Boxes]:
    """The red cells that the network of a run finds in images, with its own scores."""
    from monai.bundle import ConfigParser
    from monai.data import Dataset

    from medseg3d.inference import ObjectDetector, WholeImage

    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.yaml")
    detector = ObjectDetector(
        dataset=Dataset(cases, parser.get_parsed_content("preprocessing")),
        network=parser.get_parsed_content("network_def"),
        inferer=WholeImage(),
        labels=parser["labels"],
        output_dir=run,
        weights=run / "best.pt",
    )
    answers = detector.boxes()
    if answers.failed:
        raise CaseError("; ".join(answers.failed.values()))
    return [image.boxes.of_class(RED_CELL["RBC"]) for image in answers.images]


def counts_of(part: str, recount: pd.DataFrame, images: Mapping[str, Mapping[str, object]], run: Path) -> Counts:
    """Marks, recount and detections of the recounted images of ``train`` or ``val``."""
    rows = recount[recount["list"] == part]
    missing = [name for name in rows["image"] if name not in images]
    if missing:
        raise CaseError(f"The list lacks {', '.join(missing)}: build it from the whole of BCCD.")
    found = detect([images[name] for name in rows["image"]], run)
    return Counts(rows["visible"].to_numpy(), rows["marked"].to_numpy(), found)


def report(training: Counts, held_out: Counts) -> str:
    """The errors in words."""
    from medseg3d.inference.counting import choose_thresholds

    # Only the numbers of boxes matter for it.
    known = [Boxes(np.zeros((n, 4)), np.full(n, RED_CELL["RBC"]), np.ones(n)) for n in training.visible]
    score = choose_thresholds(training.found, known, RED_CELL).of("RBC")
    middle = np.median(training.visible)
    visible = np.concatenate([training.visible, held_out.visible])
    marked = np.concatenate([training.marked, held_out.marked])
    shares = marked / visible
    constant = count_error(np.full(len(held_out.visible), middle), held_out.visible)
    perfect = min(count_error(visible * factor, marked) for factor in np.arange(0.05, 1.2, 0.01))
    return "\n".join([
        f"{len(visible)} images: {visible.sum()} red cells are visible and {marked.sum()} marked, "
        f"{shares.min():.0%} to {shares.max():.0%} of an image's.",
        f"Score {score:.3f}, chosen on {len(training.visible)} training images, "
        f"where the error is {training.error(score):.3f}",
        f"Error on {len(held_out.visible)} held-out images: {held_out.error(score):.3f}",
        f"Error of always saying {middle:g}: {constant:.3f}",
        f"Error of the marks against the recount: {count_error(held_out.marked, held_out.visible):.3f}",
        f"Error of the recount, times the best factor, against the marks: {perfect:.3f}",
    ])  # fmt: skip


def main() -> int:
    """Print the report; a refusal is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path, help="of BCCD, by medseg3d datalist build")
    parser.add_argument("run", type=Path, help="folder of a training of image_detection_2d, with best.pt")
    parser.add_argument("--recount", type=Path, default=BUNDLE / "docs" / "red_cells.csv")
    arguments = parser.parse_args()
    try:
        images = {str(item["case"]): item for item in training_items(arguments.datalist, fold=-1)}
        recount = pd.read_csv(arguments.recount)
        parts = [counts_of(part, recount, images, arguments.run) for part in ("train", "val")]
        print(report(*parts))
        print(neighbour_report(arguments.datalist))
    except MedsegError as error:
        print(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
