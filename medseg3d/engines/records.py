"""What a training writes down: metrics.csv, TensorBoard, and a line or a bar for the person who waits."""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events

if TYPE_CHECKING:
    from medseg3d.engines.training import ResumableTrainer

__all__ = ["EpochRecord", "MetricsCsv", "Progress", "TensorBoard", "default_records"]

logger = logging.getLogger("medseg3d")

MAP_DIMENSIONS = 3  # channel, height, width: the least that can be drawn


class EpochRecord:
    """Something that hears of every epoch. Each method may be left as it is."""

    def attach(self, engine: ResumableTrainer) -> None:
        """Called once, before training; register ignite events here."""

    def resume(self, engine: ResumableTrainer) -> None:
        """Called when ``engine`` has gone back to a checkpoint: forget what came after ``engine.state.epoch``."""

    def epoch(self, engine: ResumableTrainer, *, train_loss: float, metrics: Mapping[str, float]) -> None:
        """Called after each epoch; ``metrics`` is empty where it was not validated."""


def default_records(output_dir: Path, labels: Mapping[str, int]) -> list[EpochRecord]:
    """The records that every run keeps."""
    return [MetricsCsv(output_dir / "metrics.csv"), TensorBoard(output_dir / "tensorboard", labels), Progress()]


class MetricsCsv(EpochRecord):
    """One row an epoch: epoch, iteration, seconds, learning rate, loss, and the measures of validation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    def attach(self, engine: ResumableTrainer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)

    def _start(self) -> None:
        self.started = time.monotonic()

    def resume(self, engine: ResumableTrainer) -> None:
        rows = [row for row in self._rows() if int(row["epoch"]) <= engine.state.epoch]
        self._write(rows)

    def epoch(self, engine: ResumableTrainer, *, train_loss: float, metrics: Mapping[str, float]) -> None:
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": f"{time.monotonic() - self.started:.2f}",
            "learning_rate": f"{engine.optimizer.param_groups[0]['lr']:.6g}",
            "train_loss": f"{train_loss:.6f}",
        }
        # NaN means that no validation case has the label: an empty field, since CSV has no agreed spelling of it.
        row |= {name: "" if math.isnan(value) else f"{value:.6f}" for name, value in metrics.items()}
        self._write([*self._rows(), row] if engine.state.epoch > 1 else [row])

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text.getvalue())
        temporary.replace(self.path)


class TensorBoard(EpochRecord):
    """Scalars of every epoch, and after a validation one case as image, reference and prediction in three planes."""

    def __init__(self, folder: Path, labels: Mapping[str, int]) -> None:
        self.folder, self.labels = folder, dict(labels)
        self.first_epoch = 1
        self.sample: dict[str, np.ndarray] = {}
        self._writer: Any = None

    def attach(self, engine: ResumableTrainer) -> None:
        engine.add_event_handler(Events.COMPLETED, self._close)
        if engine.evaluator is not None:
            engine.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._keep_sample)

    def resume(self, engine: ResumableTrainer) -> None:
        self.first_epoch = engine.state.epoch + 1

    def epoch(self, engine: ResumableTrainer, *, train_loss: float, metrics: Mapping[str, float]) -> None:
        writer, epoch = self._open(), engine.state.epoch
        writer.add_scalar("train/loss", train_loss, epoch)
        writer.add_scalar("train/learning_rate", engine.optimizer.param_groups[0]["lr"], epoch)
        for name, value in metrics.items():
            if not math.isnan(value):
                writer.add_scalar(f"validation/{name}", value, epoch)
        if self.sample and metrics:
            writer.add_image("validation/case", self._panel(), epoch, dataformats="HWC")
        writer.flush()

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Entries of epochs that a resumed run repeats would appear twice: purge_step drops the old ones.
            self._writer = SummaryWriter(str(self.folder), purge_step=self.first_epoch)
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _keep_sample(self, evaluator: Any) -> None:
        result = evaluator.state.output[0]
        if any(getattr(result.get(key), "ndim", 0) < MAP_DIMENSIONS for key in ("label", "pred")):
            return  # a class or a list of boxes: no map to draw
        # The first case, or where that has none, the first with something to find.
        if (evaluator.state.iteration - 1) % evaluator.state.epoch_length == 0 or (
            not self.sample["label"].any() and bool(result["label"].any())
        ):
            self.sample = {key: result[key].float().cpu().numpy() for key in ("image", "label", "pred")}

    def _panel(self) -> np.ndarray:
        image, *maps = (self.sample[key] for key in ("image", "label", "pred"))
        if image.ndim == MAP_DIMENSIONS:
            from medseg3d.masks2d import mask_layers
            from medseg3d.report.pictures_of_masks import mask_panel

            return mask_panel(image, [mask_layers(one, self.labels) for one in maps])
        from medseg3d.report.figures import case_panel, to_rgb

        label, prediction = (one[0].astype(np.int16) for one in maps)
        return to_rgb(case_panel(image[0], label, prediction, labels=self.labels))


class Progress(EpochRecord):
    """A bar with loss, best validation and time left on a terminal; a line an epoch in a log."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.started, self.first_iteration = time.monotonic(), 0

    def attach(self, engine: ResumableTrainer) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def epoch(self, engine: ResumableTrainer, *, train_loss: float, metrics: Mapping[str, float]) -> None:
        if metrics and engine.evaluator is not None:
            name = engine.evaluator.state.key_metric_name
            parts = [f"{key.removeprefix(name + '_')} {value:.3f}" for key, value in metrics.items() if key != name]
            star = " (best)" if engine.state.best_metric_epoch == engine.state.epoch else ""
            listed = f" [{', '.join(parts)}]" if parts else ""
            score = f"  {_shown_name(name)} {metrics[name]:.4f}{listed}{star}"
        else:
            score = ""
        line = f"Epoch {engine.state.epoch}/{engine.state.max_epochs}  loss {train_loss:.4f}{score}"
        if self.bar is None:
            logger.info("%s  %s left", line, self._time_left(engine))
        else:  # through the bar, which a line from elsewhere would tear
            self.bar.console.print(line, highlight=False, markup=False)

    def _start(self, engine: ResumableTrainer) -> None:
        self.started, self.first_iteration = time.monotonic(), engine.state.iteration
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
        total = engine.state.max_epochs * engine.state.epoch_length
        self.task = self.bar.add_task("Training", total=total, completed=engine.state.iteration)
        self.bar.start()

    def _advance(self, engine: ResumableTrainer) -> None:
        if self.bar is not None:
            best = (
                f"  best {_shown_name(engine.evaluator.state.key_metric_name)} {engine.state.best_metric:.3f}"
                if engine.state.best_metric_epoch > 0 and engine.evaluator is not None
                else ""
            )
            loss = engine.state.output[0]["loss"]
            text = f"Epoch {engine.state.epoch}/{engine.state.max_epochs}  loss {loss:.3f}{best}"
            self.bar.update(self.task, completed=engine.state.iteration, description=text)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _fail(self, engine: ResumableTrainer, error: BaseException) -> None:
        self._stop()
        raise error

    def _time_left(self, engine: ResumableTrainer) -> str:
        done = max(1, engine.state.iteration - self.first_iteration)
        left = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        return str(timedelta(seconds=round((time.monotonic() - self.started) / done * left)))


def _shown_name(metric: str) -> str:
    """A measure's name for people.

    >>> _shown_name("val_mean_dice"), _shown_name("val_auroc")
    ('Dice', 'AUROC')
    """
    words = metric.removeprefix("val_").removeprefix("mean_").replace("_", " ")
    return words.upper() if words in ("auroc", "map", "map50") else words.capitalize()
