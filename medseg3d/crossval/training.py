"""Train every fold, each in a process of its own; what is finished is recognised, what was killed goes on."""

from __future__ import annotations

import csv
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medseg3d.crossval.cascade import previous_dir, require_same_masks
from medseg3d.crossval.configuration import inference_config, training_config
from medseg3d.crossval.study import CASCADE, FoldRun, Study
from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.errors import CheckpointError, MedsegError

__all__ = ["FoldState", "fold_state", "train_folds", "training_command"]

Progress = Callable[[int, int], None]

# What prediction must have as training had it, as far as both name it.
FOR_PREDICTION = (
    "labels", "file_labels", "regions", "channels", "spacing", "patch_size", "window_hu", "value_ranges", "normalize",
    "background", "network_def",
)  # fmt: skip
LOG = "train.log"
LOG_TAIL = 12
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class FoldState:
    """How far a training is.

    Attributes:
        epochs: that are done.
        max_epochs: that its configuration wants.
        finished: all of them, or stopped early as configured.
    """

    epochs: int
    max_epochs: int
    finished: bool


def fold_state(study: Study, run: FoldRun) -> FoldState:
    """How far the training of ``run`` is, from its checkpoint.

    Raises:
        CheckpointError: the folder holds a training of other cases, or one whose network or grid is another than the
            plan's, so that its weights could not answer here.
    """
    wanted = _wanted(training_config(study, run.configuration))
    last = run.folder / "last.pt"
    if not last.is_file():
        return FoldState(0, wanted["max_epochs"], finished=False)
    saved = load_checkpoint(last)
    _require_same_cases(study, run, saved)
    _require_same_plan(study, run)
    done = int(saved.get("epoch", 0))
    finished = run.weights.is_file() and (done >= wanted["max_epochs"] or _stopped_early(saved, wanted))
    return FoldState(done, wanted["max_epochs"], finished)


def training_command(study: Study, run: FoldRun) -> list[str]:
    """The command that trains a fold, or goes on with it; as a person would type it."""
    files = [str(study.bundle / "configs" / "train.yaml"), str(run.configuration.plan)]
    masks = ["--previous_dir", str(previous_dir(study))] if run.configuration.name == CASCADE else []
    return [
        sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", repr(files),
        "--bundle_root", str(study.bundle), "--datalist", str(study.datalist), "--fold", str(run.fold),
        "--output_dir", str(run.folder), "--resume", "true", *masks,
    ]  # fmt: skip


def train_folds(
    study: Study, *, jobs: int = 1, devices: Sequence[str] = (), progress: Progress | None = None
) -> list[FoldRun]:
    """Train what is not finished: each fold in a process, ``jobs`` at a time, with ``train.log`` in its folder.

    A fold that fails does not stop the others. An interruption (Ctrl-C) ends the processes; started again, each goes
    on from its last epoch.

    Args:
        jobs: trainings at a time.
        devices: what ``CUDA_VISIBLE_DEVICES`` may be, one a training at a time; empty leaves it as it is, and the
            processors are shared out among the jobs.
        progress: called with the epochs that are done and all epochs.

    Returns:
        The runs that were trained here.

    Raises:
        CheckpointError: a folder holds another training.
        MedsegError: some training failed; the message has the last lines of its log.
    """
    states = {run: fold_state(study, run) for run in study.runs()}
    waiting = [run for run, state in states.items() if not state.finished]
    if not waiting:
        return []
    slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(devices[slot % len(devices)] if devices else None)
    counter = _Epochs({run: state.max_epochs for run, state in states.items()}, progress)
    stop = threading.Event()
    with ThreadPoolExecutor(jobs, thread_name_prefix="fold") as pool:
        futures = {run: pool.submit(_train, study, run, slots, jobs, counter, stop) for run in waiting}
        try:
            statuses = {run: future.result() for run, future in futures.items()}
        except BaseException:
            stop.set()  # the threads end their processes; the pool waits for them
            raise
    _require_trained(study, statuses)
    return waiting


def _train(
    study: Study,
    run: FoldRun,
    slots: queue.SimpleQueue[str | None],
    jobs: int,
    counter: _Epochs,
    stop: threading.Event,
) -> int:
    """Exit status of one training; -1 where it was stopped before it began."""
    if stop.is_set():
        return -1
    device = slots.get()
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with (run.folder / LOG).open("ab") as log:
            _lock(log, run)
            process = subprocess.Popen(
                training_command(study, run), stdout=log, stderr=subprocess.STDOUT, env=_environment(device, jobs)
            )
            return _watched(process, run, counter, stop)
    finally:
        slots.put(device)


def _lock(log: BinaryIO, run: FoldRun) -> None:
    """Keep two trainings out of one folder.

    The training inherits the open log, and the lock with it: a command that was killed alone leaves its training
    behind, which goes on to hold the lock until it ends.

    Raises:
        CheckpointError: a training holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CheckpointError(
            f"{run.folder} is being trained by another process, probably left by a command that was killed. Wait until "
            "it is done, or end it; then start again."
        ) from error


def _watched(process: subprocess.Popen[bytes], run: FoldRun, counter: _Epochs, stop: threading.Event) -> int:
    while True:
        try:
            status = process.wait(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            counter.show()
            if not stop.is_set():
                continue
            process.terminate()
            status = process.wait()
        counter.show()
        return status


def _environment(device: str | None, jobs: int) -> dict[str, str]:
    environment = dict(os.environ)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    elif jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


class _Epochs:
    """Counts the epochs of all folds, from the tables that the trainings write."""

    def __init__(self, wanted: Mapping[FoldRun, int], progress: Progress | None) -> None:
        self.wanted = dict(wanted)
        self.progress = progress
        self._lock = threading.Lock()
        self._shown = -1

    def show(self) -> None:
        if self.progress is None:
            return
        with self._lock:
            done = sum(min(_epochs_in(run.folder / "metrics.csv"), wanted) for run, wanted in self.wanted.items())
            if done > max(self._shown, 0):
                self._shown = done
                self.progress(done, sum(self.wanted.values()))


def _epochs_in(table: Path) -> int:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or a line half written
        return 0
    return max(epochs, default=0)


def _require_trained(study: Study, statuses: Mapping[FoldRun, int]) -> None:
    failed = {run: status for run, status in statuses.items() if status or not run.weights.is_file()}
    if failed:
        parts = [
            f"{run.name} (exit status {status}, {run.folder / LOG}):\n{_tail(run)}" for run, status in failed.items()
        ]
        raise MedsegError(
            f"{len(failed)} of {len(statuses)} trainings failed. The others are done; once the reason is gone, start "
            f"again and these go on.\n" + "\n".join(parts)
        )


def _tail(run: FoldRun) -> str:
    """The end of a log: from the line with the error on, where there is one."""
    try:
        lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "  (no log)"
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    return "\n".join(f"  {line}" for line in (lines[errors[-1] :] if errors else lines[-LOG_TAIL:]))


def _wanted(config: Mapping[str, Any]) -> dict[str, int]:
    from monai.bundle import ConfigParser

    parser = ConfigParser(dict(config))
    return {
        key: int(parser.get_parsed_content(key)) for key in ("max_epochs", "val_interval", "early_stopping_patience")
    }


def _stopped_early(saved: Mapping[str, Any], wanted: Mapping[str, int]) -> bool:
    """As ``ResumableTrainer.stops_early``, for a checkpoint."""
    done, best = int(saved["epoch"]), int(saved["best_epoch"])
    waited = done - done % wanted["val_interval"] - best
    return 0 < wanted["early_stopping_patience"] <= waited and best > 0


def _require_same_cases(study: Study, run: FoldRun, saved: Mapping[str, Any]) -> None:
    trained, wanted = list(saved.get("training_cases", ())), study.trained_on(run.fold)
    if trained != wanted:
        leaked = sorted(set(trained) & {item["case"] for item in study.held_out(run.fold)})
        what = f"{len(leaked)} cases that it should hold out were trained on" if leaked else "its cases are others"
        raise CheckpointError(
            f"{run.folder} holds a training on {len(trained)} cases; {study.datalist} gives {run.name} {len(wanted)}: "
            f"{what}. Move the folder away, or put the data list back."
        )


def _require_same_plan(study: Study, run: FoldRun) -> None:
    """Compare what prediction needs: labels, grid and network. The rest is the trainer's, which says so on resuming."""
    try:
        trained = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run.folder}: its run.json cannot be read ({error}); train this fold anew.") from error
    require_same_masks(study, run, trained)
    planned = inference_config(study, run.configuration)
    compared = [key for key in FOR_PREDICTION if key in planned and key in trained]
    for key in compared:
        if trained[key] != planned[key]:
            where, old, new = _first_difference(key, trained[key], planned[key])
            raise CheckpointError(
                f"{run.folder} was trained with another {where}: {_short(old)}, the plan has {_short(new)}. "
                "Move the folder away to train anew, or put the plan back."
            )


def _first_difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The innermost id in which two values differ, and both."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for inner in dict.fromkeys([*old, *new]):
            if old.get(inner) != new.get(inner):
                return _first_difference(f"{key}::{inner}", old.get(inner), new.get(inner))
    return key, old, new


def _short(value: Any, length: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= length else text[: length - 1] + "…"
