"""The training engine: mixed precision, validation, checkpoints, resume, early stopping."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import Inferer

from medseg3d.engines.checkpoint import load_checkpoint, random_states, restore_random_states, save_atomically
from medseg3d.engines.device import amp_dtype
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.engines.parallel import bare_network
from medseg3d.engines.records import EpochRecord, default_records
from medseg3d.engines.step import training_step
from medseg3d.engines.warm_start import WarmStart, start_from
from medseg3d.errors import CheckpointError, UsageError
from medseg3d.options import flag
from medseg3d.processes import process_count, process_rank, summed_over_processes

__all__ = ["ResumableTrainer", "require_free", "require_unseen", "trainer"]

LAST, BEST = "last.pt", "best.pt"

logger = logging.getLogger("medseg3d")


def trainer(
    *,
    device: torch.device | str,
    max_epochs: int,
    train_data_loader: Any,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any,
    loss_function: torch.nn.Module,
    inferer: Inferer,
    output_dir: str | Path,
    evaluator: SupervisedEvaluator | None = None,
    val_interval: int = 1,
    resume: bool = False,
    warm_start: str | Path | None = None,
    amp: bool = True,
    clip_grad_norm: float = 12.0,
    early_stopping_patience: int = 0,
    labels: dict[str, int] | None = None,
    train_handlers: Sequence[Any] = (),
    batch_transform: Callable[..., Any] | None = None,
    iteration_update: Callable[..., Any] = training_step,
) -> ResumableTrainer:
    """Build the trainer that bundles run, with checkpoints, metrics.csv, TensorBoard and progress attached.

    Where several processes train together (``medseg3d.engines.join_processes``) the first one alone writes.

    Args:
        device: where to train.
        max_epochs: epochs in all, those before a resume included.
        train_data_loader: see ``medseg3d.data.training_loader``.
        lr_scheduler: stepped after every iteration.
        inferer: how the network is called in training, normally MONAI's ``SimpleInferer``.
        output_dir: run folder: ``last.pt``, ``best.pt``, ``metrics.csv``, ``tensorboard/``.
        evaluator: validation; without one the last epoch is the best.
        val_interval: epochs between validations; the last epoch is always validated.
        resume: go on from ``output_dir/last.pt`` where it exists. Without it a run that is there is refused.
        warm_start: weights that a new run starts from, see ``medseg3d.engines.start_from``; None: random ones.
        amp: bfloat16 autocast (float16 with loss scaling on GPUs that lack it).
        clip_grad_norm: largest norm of the gradient; 12 is nnU-Net's. 0 does not clip.
        early_stopping_patience: stop after so many epochs without a better validation; 0 never stops.
        labels: name → id, for the picture panels.
        train_handlers: further handlers, attached last.
        batch_transform: what augments a batch on the device, see ``medseg3d.augmentation.BatchAugmentation``; None
            leaves it as it was loaded.
        iteration_update: what is done with a batch, for networks that are not called with images and compared with
            labels; it ends in ``medseg3d.engines.take_step``.

    Raises:
        CheckpointError: ``output_dir`` holds a run and ``resume`` is false; or it was of other data or another network;
            or ``warm_start`` does not fit.
    """
    if evaluator is not None and len(evaluator.data_loader) == 0:
        evaluator = None  # fold -1 holds out no case
    if val_interval < 1:
        raise UsageError(f"val_interval is {val_interval}; at least one epoch lies between validations.")
    output_dir, resume = Path(output_dir), flag(resume, "resume")
    require_free(output_dir, resume=resume)
    engine = ResumableTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=train_data_loader,
        network=network,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        loss_function=loss_function,
        inferer=inferer,
        evaluator=evaluator,
        val_interval=val_interval,
        amp=flag(amp, "amp"),
        clip_grad_norm=clip_grad_norm,
        early_stopping_patience=early_stopping_patience,
        output_dir=output_dir,
        batch_transform=batch_transform,
        iteration_update=iteration_update,
    )
    for record in default_records(output_dir, labels or {}) if process_rank() == 0 else ():
        engine.add_record(record)
    for handler in train_handlers:
        handler.attach(engine)
    last = output_dir / LAST
    if resume and last.exists():
        engine.restore(last)
    elif warm_start:
        engine.warm_start = start_from(network, warm_start)
    return engine


def require_free(output_dir: str | Path, *, resume: bool | str = False) -> None:
    """Refuse to start a run where one lies already. Bundles ask before they load any data.

    Raises:
        CheckpointError: ``output_dir`` holds a run and ``resume`` is false.
    """
    if (Path(output_dir) / LAST).exists() and not flag(resume, "resume"):
        raise CheckpointError(
            f"{output_dir} already holds a run. Add --resume true to go on with it, or choose another --output_dir."
        )


def require_unseen(weights: str | Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to evaluate on cases that the weights were trained on, as far as the checkpoint names them.

    Raises:
        CheckpointError: some of ``items`` were trained on, or the file cannot be read.
    """
    trained = set(load_checkpoint(weights).get("training_cases", ()))
    seen = [name for name in _names(items) if name in trained]
    if seen:
        raise CheckpointError(
            f"{weights}: {len(seen)} of the {len(items)} cases to evaluate were trained on ({', '.join(seen[:3])}, …). "
            "Evaluate with the data list and fold of the training."
        )


class ResumableTrainer(SupervisedTrainer):
    """MONAI's ``SupervisedTrainer`` that writes a complete checkpoint after every epoch and goes on from it.

    Made by ``trainer``, which documents the arguments.
    """

    def __init__(
        self,
        *,
        train_data_loader: Any,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: SupervisedEvaluator | None,
        val_interval: int,
        amp: bool,
        clip_grad_norm: float,
        early_stopping_patience: int,
        output_dir: Path,
        batch_transform: Callable[..., Any] | None = None,
        **engine: Any,
    ) -> None:
        super().__init__(
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            amp=False,  # MONAI's own autocasts "cuda" only
            decollate=False,
            **engine,
        )
        device = self.state.device
        if device.type == "cpu":
            keep_freed_memory()
        self.lr_scheduler = lr_scheduler
        # As configured, before any step or restored state changes them.
        self.hyperparameters = [_numbers(group) for group in optimizer.param_groups]
        self.evaluator = evaluator
        self.val_interval = val_interval
        self.amp_enabled = amp
        self.clip_grad_norm = clip_grad_norm
        self.early_stopping_patience = early_stopping_patience
        self.output_dir = output_dir
        self.batch_transform = batch_transform
        self.loss_scaler = torch.amp.GradScaler(device.type, enabled=amp and amp_dtype(device) is torch.float16)
        self.warm_start: WarmStart | None = None
        self.records: list[EpochRecord] = []
        self.loss_sum = 0.0
        self.skipped_steps = 0
        self.add_event_handler(Events.EPOCH_STARTED, _start_epoch)
        self.add_event_handler(Events.ITERATION_COMPLETED, _count_loss)
        self.add_event_handler(Events.EPOCH_COMPLETED, _finish_epoch)

    def add_record(self, record: EpochRecord) -> None:
        """Attach something that writes down what happens; it hears of epochs in the order of attachment."""
        self.records.append(record)
        record.attach(self)

    def run(self) -> None:
        """Train from the current epoch to the last; return at once when the run was finished before."""
        if self.state.epoch >= self.state.max_epochs or self.stops_early():
            logger.info("The run in %s is complete after %d epochs: nothing to do.", self.output_dir, self.state.epoch)
            return
        super().run()

    def stops_early(self) -> bool:
        """Whether ``early_stopping_patience`` epochs have gone by without a better validation."""
        validated = self.state.epoch - self.state.epoch % self.val_interval
        waited = validated - self.state.best_metric_epoch
        return 0 < self.early_stopping_patience <= waited and self.state.best_metric_epoch > 0

    def checkpoint(self) -> dict[str, Any]:
        """Everything that ``restore`` needs."""
        return {
            "format": "medseg3d.run/1",
            "network": bare_network(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "types": [type(self.optimizer).__name__, type(self.lr_scheduler).__name__],
            "hyperparameters": self.hyperparameters,
            "loss_scaler": self.loss_scaler.state_dict(),
            "random_states": random_states(),
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "iterations_per_epoch": self.state.epoch_length,
            "max_epochs": self.state.max_epochs,
            "best_metric": float(self.state.best_metric),
            "best_epoch": int(self.state.best_metric_epoch),
            "data": self.data_fingerprint(),
            "training_cases": _names(self.data_loader.dataset.data),
        }

    def restore(self, path: Path) -> None:
        """Take up the run where ``path`` left it.

        Raises:
            CheckpointError: unreadable, or of other data, another network or other epochs.
        """
        saved = load_checkpoint(path)
        self._require_same_run(saved, path)
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            bare_network(self.network).load_state_dict(saved["network"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: was written with another network or optimizer ({str(error).splitlines()[0]}). "
                "Resume with the configuration it was started with."
            ) from error
        if saved["loss_scaler"]:  # empty where the run was in bfloat16 so far
            self.loss_scaler.load_state_dict(saved["loss_scaler"])
        same = (saved["max_epochs"], saved["hyperparameters"]) == (self.state.max_epochs, self.hyperparameters)
        if same:
            self.lr_scheduler.load_state_dict(saved["lr_scheduler"])
        else:
            self._follow_new_schedule(fresh, saved["iteration"])
        self.state.epoch, self.state.iteration = saved["epoch"], saved["iteration"]
        self.state.best_metric, self.state.best_metric_epoch = saved["best_metric"], saved["best_epoch"]
        for record in self.records:
            record.resume(self)
        restore_random_states(saved["random_states"])
        logger.info("Resumed %s after epoch %d of %d.", path, saved["epoch"], self.state.max_epochs)

    def _follow_new_schedule(self, fresh: list[dict[str, Any]], iteration: int) -> None:
        """Take the rates as they are configured now, and step the schedule to where the run is."""
        logger.info("max_epochs or rates have changed: the learning rate follows the new schedule from here.")
        for group, values in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(values)
        with warnings.catch_warnings():
            # torch warns of schedule steps without optimizer steps: those were taken before the checkpoint.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(iteration):
                self.lr_scheduler.step()

    def data_fingerprint(self) -> str:
        """SHA-256 over the names of the training and validation cases, in order, and the seed of the draws."""
        train = self.data_loader.dataset
        validation = self.evaluator.data_loader.dataset.data if self.evaluator is not None else []
        names = [_names(train.data), _names(validation)]
        return hashlib.sha256(json.dumps([names, getattr(train, "seed", 0)]).encode()).hexdigest()

    def _require_same_run(self, saved: dict[str, Any], path: Path) -> None:
        if saved.get("format") != "medseg3d.run/1":
            raise CheckpointError(f"{path}: is not a run's checkpoint; weights alone cannot be resumed.")
        if saved["data"] != self.data_fingerprint():
            raise CheckpointError(
                f"{path}: was trained on other cases, another fold or another seed. Resume with the same data list, "
                "fold and seed, or start anew in another --output_dir."
            )
        types = [type(self.optimizer).__name__, type(self.lr_scheduler).__name__]
        if saved["types"] != types:
            raise CheckpointError(
                f"{path}: was trained with {' and '.join(saved['types'])}, this run has {' and '.join(types)}: another "
                "network or optimizer cannot go on with it. Resume with the configuration it was started with."
            )
        if saved["epoch"] > self.state.max_epochs:
            raise CheckpointError(
                f"{path}: {saved['epoch']} epochs are done, max_epochs is {self.state.max_epochs}. Raise --max_epochs."
            )
        if saved["iterations_per_epoch"] != self.state.epoch_length:
            raise CheckpointError(
                f"{path}: has {saved['iterations_per_epoch']} iterations an epoch, this run {self.state.epoch_length}. "
                "Resume with the iterations_per_epoch it was started with."
            )


def _start_epoch(engine: ResumableTrainer) -> None:
    sampler = engine.data_loader.sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(engine.state.epoch - 1)
    engine.loss_sum = 0.0


def _count_loss(engine: ResumableTrainer) -> None:
    engine.loss_sum += float(engine.state.output[0]["loss"])


def _finish_epoch(engine: ResumableTrainer) -> None:
    state = engine.state
    due = state.epoch % engine.val_interval == 0 or state.epoch == state.max_epochs
    metrics = _validate(engine.evaluator, state.epoch) if due else {}
    key = metrics[engine.evaluator.state.key_metric_name] if metrics and engine.evaluator is not None else math.nan
    better = engine.evaluator is None or (due and (state.best_metric_epoch < 0 or key > state.best_metric))
    if better:
        state.best_metric, state.best_metric_epoch = key, state.epoch
    losses = summed_over_processes(torch.tensor(engine.loss_sum, dtype=torch.float64)).item()
    for record in engine.records:
        record.epoch(engine, train_loss=losses / process_count() / state.epoch_length, metrics=metrics)
    if process_rank() == 0:
        _save(engine, better=better)
    if due and engine.stops_early():
        logger.info("Stopped early: no better validation since epoch %d.", state.best_metric_epoch)
        engine.terminate()


def _save(engine: ResumableTrainer, *, better: bool) -> None:
    """Write the checkpoints; best before last: a run killed between the two repeats the epoch and writes both again."""
    checkpoint = engine.checkpoint()
    if better:
        save_atomically(checkpoint, engine.output_dir / BEST)
    save_atomically(checkpoint, engine.output_dir / LAST)


def _validate(evaluator: SupervisedEvaluator | None, epoch: int) -> dict[str, float]:
    """The metrics of a validation; handlers of the evaluator (MLflow's) are told which epoch it is of."""
    if evaluator is None:
        return {}
    evaluator.run(epoch)
    return dict(evaluator.state.metrics)


def _names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(item.get("case", item.get("image"))) for item in items]


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """The rates of a parameter group; schedules keep theirs there too."""
    return {key: float(value) for key, value in group.items() if isinstance(value, (int, float)) and key != "params"}
