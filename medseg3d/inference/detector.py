"""Detect objects in a list of images with a bundle's parts: boxes, counts, pictures; a bad image stops no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medseg3d.boxes import clip_boxes, has_area
from medseg3d.engines.device import autocast
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.files import write_json
from medseg3d.images import read_image
from medseg3d.inference.box_tables import DetectedImage, coco_content, common_folder, draw_detections, write_tables
from medseg3d.inference.checks import plain
from medseg3d.inference.counting import Thresholds, choose_thresholds, read_thresholds, write_thresholds
from medseg3d.inference.failures import CASE_ERRORS, reason, reraise_if_general
from medseg3d.inference.origin import bundle_identity, device_name
from medseg3d.inference.report import make_console
from medseg3d.inference.weights import load_weights
from medseg3d.metrics.detection import Boxes
from medseg3d.options import flag
from medseg3d.transforms2d import to_original_boxes

__all__ = ["Detected", "ObjectDetector", "evaluate_detections"]

logger = logging.getLogger("medseg3d")

PICTURES, REFERENCES = "pictures", "references.json"
SHOWN_ROWS = 20


@dataclass(frozen=True)
class Detected:
    """Answers of a run: the images that could be read, and case → reason of the others."""

    images: tuple[DetectedImage, ...]
    failed: Mapping[str, str]


class ObjectDetector:
    """Runs a detector over a dataset and writes boxes, counts and pictures.

    ``OUT/detections.json`` is COCO's format, with images, categories and boxes of any score that the network gives;
    ``detections.csv`` the same as a table. Scores are rescaled so that a box counts from 0.5 on, see ``Thresholds``;
    ``counts.csv`` counts them, ``pictures/`` shows them. Where the list knows the true boxes, ``references.json`` holds
    them under the same image ids, so that ``medseg3d evaluate-detection`` compares the two.

    Args:
        dataset: a MONAI ``Dataset`` over the list of ``find_images``, whose transform is the preprocessing.
        network: see ``medseg3d.networks.detector``.
        inferer: called as ``inferer(image, network)``: ``WholeImage`` or ``TiledImage``.
        labels: id of each class by name, from 1.
        output_dir: where the files go.
        device: where the network runs.
        amp: mixed precision, see ``medseg3d.engines.autocast``.
        weights: state dict or checkpoint to load into the network first; None to use it as it is.
        thresholds: a file by ``fit_thresholds``; where it is absent, the network's own 0.5 counts.
        pictures: of how many images to draw the boxes, the first ones; -1 for all.
        metadata: the bundle's ``metadata.json``: name and version go into ``detections.json``.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        network: torch.nn.Module,
        inferer: Callable[[torch.Tensor, torch.nn.Module], dict[str, torch.Tensor]],
        labels: Mapping[str, int],
        output_dir: str | Path,
        device: torch.device | str = "cpu",
        amp: bool = True,
        weights: str | Path | None = None,
        thresholds: str | Path | None = None,
        pictures: int = -1,
        metadata: Mapping[str, Any] | str | Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.network = network
        self.inferer = inferer
        self.labels = dict(labels)
        if min(self.labels.values(), default=0) < 1:
            raise ConfigError(f"labels are {self.labels}; ids of objects begin at 1, 0 is the background.")
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.amp = flag(amp, "amp")
        self.weights = weights
        self.thresholds_path = thresholds
        self.pictures = pictures
        self.metadata = metadata
        self.console = make_console()
        self._origin: dict[str, Any] = {}
        self._window: Any = None  # what the preprocessing shows of CT, for the pictures

    def run(self) -> Detected:
        """Detect in every image, write the files, print the counts, and only then complain about those that failed.

        Raises:
            CaseError: some image failed; the others are done.
            CheckpointError: the weights do not fit the network.
        """
        answers = self.detect()
        self._print(answers)
        _raise_for_failed(answers)
        return answers

    def detect(self) -> Detected:
        """Detect in every image and write the files; failed ones are in the result, not raised."""
        thresholds = read_thresholds(self.thresholds_path)
        answers = _rescaled(self.boxes(), self.labels, thresholds)
        info = {**self._origin, "device": device_name(self.device), "thresholds": asdict(thresholds)}
        info["failed"] = dict(answers.failed)
        write_tables(answers.images, self.labels, self.output_dir, info=info)
        self._write_references(answers)
        for image in answers.images[: None if self.pictures < 0 else self.pictures]:
            pixels = read_image(image.image, window=self._window).pixels
            path = self.output_dir / PICTURES / f"{image.case}.png"
            draw_detections(path, pixels, image.boxes, self.labels)
        return answers

    def fit_thresholds(self, path: str | Path) -> Thresholds:
        """Choose from which score each class counts, on the dataset, whose boxes are known, and write it.

        Take training images: thresholds chosen on images that are reported flatter the result.

        Raises:
            CaseError: some image failed.
            UsageError: an image whose boxes are not known.
        """
        answers = self.boxes()
        _raise_for_failed(answers)
        truth = [_reference(case) for case in self.dataset.data]
        thresholds = choose_thresholds([image.boxes for image in answers.images], truth, self.labels)
        write_thresholds(path, thresholds)
        shown = ", ".join(f"{name} {score:.3f}" for name, score in thresholds.scores.items())
        logger.info("Thresholds on %d images: %s.", thresholds.images, shown)
        return thresholds

    def boxes(self) -> Detected:
        """The boxes of every image, in its own pixels and with the network's scores, without files."""
        self._prepare_network()
        cases = self._cases()
        done: list[DetectedImage] = []
        failed: dict[str, str] = {}
        columns = TextColumn("detecting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True) as bar:
            for index in bar.track(range(len(cases)), description="detecting"):
                try:
                    done.append(self._image(index, cases[index]))
                except CASE_ERRORS as error:
                    reraise_if_general(error)
                    logger.debug("image %d failed", index, exc_info=True)
                    failed[cases[index]["case"]] = reason(error)
        return Detected(tuple(done), failed)

    def _prepare_network(self) -> None:
        sha256 = load_weights(self.network, self.weights) if self.weights is not None else None
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network.to(self.device).eval()
        self._origin = {**bundle_identity(self.metadata), "weights_sha256": sha256}

    def _cases(self) -> list[Mapping[str, Any]]:
        names = [case["case"] for case in self.dataset.data]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"Case {double!r} is there twice: each image needs its own name.")
        return list(self.dataset.data)

    def _image(self, index: int, case: Mapping[str, Any]) -> DetectedImage:
        image = self.dataset[index]["image"]
        meta = image.meta
        pixels = plain(image).float()
        if not bool(torch.isfinite(pixels).all()):
            raise CaseError("Preprocessing made NaN or infinity of it: is the image constant?")
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            found = self.inferer(pixels.to(self.device), self.network)
        self._window = meta.get("window")
        rows, columns = (int(n) for n in meta["original_size"])
        inner = meta.get("inner_size", pixels.shape[-2:])
        corners = to_original_boxes(found["boxes"].float().cpu(), (rows, columns), [int(n) for n in inner]).numpy()
        corners = clip_boxes(corners.astype(np.float64), width=columns, height=rows)
        scores = found["scores"].float().cpu().numpy().astype(np.float64)
        order = np.argsort(-scores, kind="stable")
        order = order[has_area(corners[order])]
        classes = found["labels"].cpu().numpy().astype(np.int64)
        boxes = Boxes(corners[order].astype(np.float64), classes[order], scores[order])
        return DetectedImage(
            str(case["case"]), str(case.get("patient", "")), str(case["image"]), (rows, columns), boxes
        )

    def _write_references(self, answers: Detected) -> None:
        """The true boxes of the same images, where all are known."""
        cases = {case["case"]: case for case in self.dataset.data}
        if not answers.images or any("boxes" not in cases[image.case] for image in answers.images):
            return
        truth = [
            DetectedImage(image.case, image.patient, image.image, image.size, _reference(cases[image.case]))
            for image in answers.images
        ]
        write_json(self.output_dir / REFERENCES, coco_content(truth, self.labels, scored=False))

    def _print(self, answers: Detected) -> None:
        total = len(answers.images) + len(answers.failed)
        table = Table(title=f"Counts in {len(answers.images)} of {total} images")
        table.add_column("case", no_wrap=True)
        for name in self.labels:
            table.add_column(escape(name), justify="right")
        for image in answers.images[:SHOWN_ROWS]:
            counts = image.counts(self.labels)
            table.add_row(escape(image.case), *(str(counts[name]) for name in self.labels))
        self.console.print(table)
        if len(answers.images) > SHOWN_ROWS:
            more = len(answers.images) - SHOWN_ROWS
            self.console.print(f"{more} more in {self.output_dir / 'counts.csv'}", markup=False)


def evaluate_detections(
    detections: str | Path, items: Sequence[Mapping[str, Any]], *, name: str = "", iou: float = 0.5
) -> dict[str, Any]:
    """Score the detections that ``ObjectDetector.detect`` left in a folder, and write the report there.

    Args:
        detections: the folder, with ``detections.json`` and ``references.json``.
        items: the images as listed, to show them.
        name: of the data set, for the report.
        iou: overlap from which a detection is a hit, for counts.

    Raises:
        CaseError: the folder lacks a file.
    """
    from medseg3d.evaluation.detection import evaluate_detection

    folder = Path(detections)
    images = common_folder(str(item["image"]) for item in items)
    return evaluate_detection(
        folder / "detections.json", folder / REFERENCES, folder, name=name, iou=iou, images=images
    )


def _reference(case: Mapping[str, Any]) -> Boxes:
    if "boxes" not in case:
        raise UsageError(f"{case['case']}: its boxes are not known; thresholds are chosen where they are.")
    boxes = np.asarray(case["boxes"], dtype=np.float64).reshape(-1, 4)
    difficult = np.asarray(case.get("difficult", np.zeros(len(boxes))), dtype=bool)
    return Boxes(boxes, np.asarray(case["box_labels"], dtype=np.int64), np.ones(len(boxes)), difficult)


def _rescaled(answers: Detected, labels: Mapping[str, int], thresholds: Thresholds) -> Detected:
    images = tuple(replace(image, boxes=thresholds.rescaled(image.boxes, labels)) for image in answers.images)
    return Detected(images, answers.failed)


def _raise_for_failed(answers: Detected) -> None:
    if answers.failed:
        reasons = "\n".join(f"  {case}: {why}" for case, why in answers.failed.items())
        total = len(answers.failed) + len(answers.images)
        raise CaseError(f"{len(answers.failed)} of {total} images failed, the others are done:\n{reasons}")
