"""Classify a list of images with a bundle's parts: ``predictions.csv``, pictures of where the network looked."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.engines.device import autocast
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.files import write_json
from medseg3d.images import read_image
from medseg3d.inference.calibration import (
    DIGITS,
    Calibration,
    fit_temperature,
    read_calibration,
    write_calibration,
)
from medseg3d.inference.checks import plain
from medseg3d.inference.class_tables import Classified, CountingBar, print_predictions, write_predictions
from medseg3d.inference.failures import CASE_ERRORS, reason, reraise_if_general
from medseg3d.inference.gradcam import AttentionMaps, write_overlay
from medseg3d.inference.origin import bundle_identity, device_name
from medseg3d.inference.report import make_console
from medseg3d.inference.views import View, views_of
from medseg3d.inference.weights import load_weights
from medseg3d.metrics.classification import choose_threshold
from medseg3d.options import flag
from medseg3d.transforms2d import to_original_size

__all__ = ["Classifier"]

logger = logging.getLogger(__name__)

BLANK = 1e-5  # a preprocessed image with a smaller range shows nothing but rounding
PREDICTIONS, RECORD, OVERLAYS = "predictions.csv", "predictions.json", "overlays"


class Classifier:
    """Runs a classifier over a dataset and writes a table of probabilities and decisions.

    Args:
        dataset: a MONAI ``Dataset`` over the list of ``find_images``, whose transform is the preprocessing; all images
            leave it at one size.
        network: gives logits, one a class, in the order of their ids.
        labels: id of each class by name, from 0.
        output_dir: where ``predictions.csv``, ``predictions.json`` and ``overlays/<case>.png`` go.
        multi_label: an image may have several classes or none.
        device: where the network runs.
        amp: mixed precision, see ``medseg3d.engines.autocast``.
        weights: state dict or checkpoint to load into the network first; None to use it as it is.
        calibration: a file by ``fit_calibration`` with temperature and thresholds; where it is absent, nothing is
            calibrated and 0.5 decides.
        views: images that each is shown as, whose answers are averaged; see ``views_of``. 1 is the image alone.
        flip_axes: 1 where mirroring left-right is a view that training had too.
        overlays: of how many images to draw where the network looked, the first ones; -1 for all.
        overlay_class: the class whose evidence is drawn; by default that which is called.
        batch_size: images at once.
        metadata: the bundle's ``metadata.json``: name and version go into ``predictions.json``.
        image_key: the image in a case's dict.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        network: torch.nn.Module,
        labels: Mapping[str, int],
        output_dir: str | Path,
        multi_label: bool = False,
        device: torch.device | str = "cpu",
        amp: bool = True,
        weights: str | Path | None = None,
        calibration: str | Path | None = None,
        views: int = 1,
        flip_axes: Sequence[int] = (),
        overlays: int = 0,
        overlay_class: str = "",
        batch_size: int = 32,
        metadata: Mapping[str, Any] | str | Path | None = None,
        image_key: str = "image",
    ) -> None:
        self.dataset = dataset
        self.network = network
        self.classes = sorted(labels, key=lambda name: labels[name])
        if [labels[name] for name in self.classes] != list(range(len(labels))):
            raise ConfigError(f"labels are {dict(labels)}; classes have the ids 0, 1, … each once.")
        self.output_dir = Path(output_dir)
        self.multi_label = flag(multi_label, "multi_label")
        self.device = torch.device(device)
        self.amp = flag(amp, "amp")
        self.weights = weights
        self.calibration_path = calibration
        self.views: tuple[View, ...] = views_of(views, flips=1 in flip_axes)
        self.overlays = overlays
        if overlay_class and overlay_class not in labels:
            raise UsageError(f"overlay_class is {overlay_class!r}; the classes are {', '.join(self.classes)}.")
        self.overlay_class = overlay_class
        self.batch_size = batch_size
        self.metadata = metadata
        self.image_key = image_key
        self.console = make_console()
        self._origin: dict[str, Any] = {}

    def run(self) -> Classified:
        """Classify every image, write the files, print the table, and only then complain about those that failed.

        Raises:
            CaseError: some image failed; the others are done.
            CheckpointError: the weights do not fit the network.
            ConfigError: network and labels do not fit together.
        """
        answers = self.classify()
        print_predictions(self.console, self.output_dir / PREDICTIONS, answers, self.classes)
        if answers.failed:
            reasons = "\n".join(f"  {case}: {why}" for case, why in answers.failed.items())
            total = len(answers.failed) + len(answers.cases)
            raise CaseError(f"{len(answers.failed)} of {total} images failed, the others are done:\n{reasons}")
        return answers

    def classify(self) -> Classified:
        """Classify every image and write the files; failed ones are in the result, not raised."""
        started = time.perf_counter()
        calibration = read_calibration(self.calibration_path)
        answers = self.logits()
        probabilities = calibration.probabilities(answers.logits, multi_label=self.multi_label).round(DIGITS)
        called = calibration.decide(probabilities, self.classes, multi_label=self.multi_label)
        write_predictions(self.output_dir / PREDICTIONS, answers, self.classes, probabilities, called)
        record = {
            "schema": "medseg3d.class_predictions/1",
            "classes": self.classes,
            "multi_label": self.multi_label,
            **self._origin,
            "calibration": asdict(calibration),
            "views": len(self.views),
            "device": device_name(self.device),
            "images": len(answers.cases),
            "failed": dict(answers.failed),
            "seconds": round(time.perf_counter() - started, 2),
        }
        write_json(self.output_dir / RECORD, record)
        self._write_overlays(answers, called)
        return answers

    def fit_calibration(
        self, path: str | Path, *, sensitivity: float | None = None, specificity: float | None = None
    ) -> Calibration:
        """Fit temperature and thresholds on the dataset, whose labels are known, and write them.

        Use validation images: neither those that were trained on nor those that are reported.

        Args:
            path: the file, for ``calibration``.
            sensitivity, specificity: what each class's threshold is to reach; Youden's best sum when neither is given.

        Raises:
            CaseError: some image failed.
            UsageError: a class that all or no images have, or both rates are given.
        """
        answers = self.logits()
        if answers.failed:
            raise CaseError(f"{len(answers.failed)} images cannot be read: {'; '.join(answers.failed.values())}")
        truth = self._truth(answers)
        temperature = fit_temperature(answers.logits, truth, multi_label=self.multi_label)
        p = Calibration(temperature).probabilities(answers.logits, multi_label=self.multi_label)
        rates = {"sensitivity": sensitivity, "specificity": specificity}
        chosen = range(len(self.classes)) if self.multi_label else [1] if len(self.classes) == 2 else []
        # Down to the digits of files, so that the image at the threshold stays above it.
        floor = 10**DIGITS
        thresholds = {
            self.classes[i]: math.floor(choose_threshold(p[:, i], truth[:, i], **rates) * floor) / floor for i in chosen
        }
        stated = [f"{name} {value:g}" for name, value in rates.items() if value is not None]
        rule = f"{stated[0]} on validation images" if stated else "the largest sum of sensitivity and specificity"
        calibration = Calibration(temperature, thresholds, rule if chosen else "largest probability", len(truth))
        write_calibration(path, calibration)
        logger.info("Temperature %.3f, thresholds %s, on %d images: %s.", temperature, thresholds, len(truth), path)
        return calibration

    def logits(self) -> Classified:
        """The network's answers, without files."""
        self._prepare_network()
        cases = self._cases()
        done: list[Mapping[str, Any]] = []
        rows: list[NDArray[np.float64]] = []
        failed: dict[str, str] = {}
        with CountingBar(len(cases), self.console) as advance:
            batch: list[tuple[Mapping[str, Any], torch.Tensor]] = []
            for case, loaded in self._loaded(cases):
                if isinstance(loaded, str):
                    failed[case["case"]] = loaded
                else:
                    batch.append((case, loaded))
                if len(batch) == self.batch_size:
                    rows.append(self._answer(batch))
                    done += [c for c, _ in batch]
                    batch = []
                advance()
            if batch:
                rows.append(self._answer(batch))
                done += [c for c, _ in batch]
        return Classified(tuple(done), np.concatenate(rows) if rows else np.empty((0, len(self.classes))), failed)

    def _prepare_network(self) -> None:
        sha256 = load_weights(self.network, self.weights) if self.weights is not None else None
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network.to(self.device).eval()
        self._origin = {**bundle_identity(self.metadata), "weights_sha256": sha256}

    def _cases(self) -> list[dict[str, Any]]:
        cases = [dict(case) for case in self.dataset.data]
        names = [case["case"] for case in cases]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"Case {double!r} is there twice: each image needs its own name.")
        return cases

    def _loaded(self, cases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], torch.Tensor | str]]:
        """Each case with its preprocessed image, or with why there is none; threads read ahead."""
        ahead = 2 * self.batch_size
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="preprocessing") as pool:
            for start in range(0, len(cases), ahead):
                part = cases[start : start + ahead]
                yield from zip(part, pool.map(self._load, range(start, start + len(part))), strict=True)

    def _load(self, index: int) -> torch.Tensor | str:
        try:
            image = plain(self.dataset[index][self.image_key]).float()
            if not bool(torch.isfinite(image).all()):
                return "Preprocessing made NaN or infinity of it: is the image constant?"
            if float(image.max() - image.min()) < BLANK:
                return "All its pixels are equal: there is nothing to classify. Was it exported rightly?"
            return image
        except CASE_ERRORS as error:
            reraise_if_general(error)
            logger.debug("image %d failed", index, exc_info=True)
            return reason(error)

    def _answer(self, batch: Sequence[tuple[Mapping[str, Any], torch.Tensor]]) -> NDArray[np.float64]:
        """Logits (images, classes), averaged over the views."""
        sizes = {tuple(image.shape) for _, image in batch}
        if len(sizes) > 1:
            raise ConfigError(f"Preprocessing gives images of several sizes ({', '.join(map(str, sorted(sizes)))}); "
                              "end it with Resize2Dd.")  # fmt: skip
        images = torch.stack([image for _, image in batch]).to(self.device)
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            logits = torch.stack([self.network(view(images)).float() for view in self.views]).mean(dim=0)
        if logits.shape[1] != len(self.classes):
            raise ConfigError(f"The network gives {logits.shape[1]} logits for {len(self.classes)} classes "
                              f"({', '.join(self.classes)}). Make labels and network_def agree.")  # fmt: skip
        return np.asarray(logits.cpu().numpy(), dtype=np.float64)

    def _truth(self, answers: Classified) -> NDArray[np.int64]:
        rows = np.zeros(answers.logits.shape, dtype=np.int64)
        for row, case in zip(rows, answers.cases, strict=True):
            if "label" not in case:
                raise UsageError(f"{case['case']}: its class is not known; a calibration needs it for every image.")
            label = np.asarray(case["label"])
            row[label > 0 if label.ndim else int(label)] = 1
        return rows

    def _write_overlays(self, answers: Classified, called: Sequence[str]) -> None:
        wanted = len(answers.cases) if self.overlays < 0 else min(self.overlays, len(answers.cases))
        if not wanted:
            return
        numbers = {case["case"]: index for index, case in enumerate(self.dataset.data)}
        maps: AttentionMaps | None = None
        for case, answer in list(zip(answers.cases, called, strict=True))[:wanted]:
            loaded = self.dataset[numbers[case["case"]]][self.image_key]
            image = plain(loaded).float()[None].to(self.device)
            maps = maps or AttentionMaps(self.network, image)
            name = self.overlay_class or answer.split("|")[0] or self.classes[0]
            heat = torch.from_numpy(maps(image, self.classes.index(name)))[None]
            meta = getattr(loaded, "meta", {})
            pixels = read_image(case["image"], window=meta.get("window")).pixels
            inner = meta.get("inner_size", heat.shape[1:])
            heat = to_original_size(heat, pixels.shape[:2], [int(n) for n in inner], nearest=False)
            write_overlay(self.output_dir / OVERLAYS / f"{case['case']}.png", pixels, heat[0].numpy())
