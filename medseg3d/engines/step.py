"""One step of a training: forward, loss, backward, clipped and checked, optimizer and schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from medseg3d.data import SAMPLE_SEED
from medseg3d.engines.device import autocast
from medseg3d.errors import MedsegError, UsageError

if TYPE_CHECKING:
    from medseg3d.engines.training import ResumableTrainer

__all__ = ["named_out_of_memory", "take_step", "training_step"]

MANY_STEPS = 10

Result = list[dict[str, torch.Tensor]]

logger = logging.getLogger("medseg3d")


def training_step(engine: ResumableTrainer, batch: dict[str, torch.Tensor]) -> Result:
    """The step of a network that is called with ``image`` and whose answer the loss compares with ``label``.

    The engine's ``batch_transform`` changes both first, on the device.
    """
    device = engine.state.device
    image = batch["image"].to(device, non_blocking=engine.non_blocking)
    label = batch["label"].to(device, non_blocking=engine.non_blocking)
    engine.network.train()
    with named_out_of_memory(tuple(image.shape)):
        if engine.batch_transform is not None:
            image, label = engine.batch_transform(image, label, _sample_seeds(batch))
        with autocast(device, enabled=engine.amp_enabled):
            prediction = engine.inferer(image, engine.network)
        return take_step(engine, engine.loss_function(prediction, label))


def take_step(engine: ResumableTrainer, loss: torch.Tensor) -> Result:
    """Go down the gradient of ``loss``; a gradient that is not finite is left out.

    Returns:
        The loss as MONAI's handlers (MLflow's among them) read it, from the first of a list of results.

    Raises:
        MedsegError: the loss is not finite, or many gradients in a row are not.
    """
    _require_finite(loss, engine)
    engine.optimizer.zero_grad(set_to_none=True)
    engine.loss_scaler.scale(loss).backward()
    result = [{"loss": loss.detach()}]
    if engine.clip_grad_norm:
        engine.loss_scaler.unscale_(engine.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), engine.clip_grad_norm)
        if not engine.loss_scaler.is_enabled() and not _is_usable(norm, engine):
            engine.lr_scheduler.step()
            return result
    engine.loss_scaler.step(engine.optimizer)
    engine.loss_scaler.update()
    engine.lr_scheduler.step()
    return result


def _sample_seeds(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if SAMPLE_SEED not in batch:
        raise UsageError(
            f"A batch_transform draws from the samples' own seeds, and this batch has no {SAMPLE_SEED!r}, only "
            f"{sorted(batch)}. Load it with medseg3d.data.SeededCacheDataset, which adds them."
        )
    return batch[SAMPLE_SEED]


@contextmanager
def named_out_of_memory(shape: tuple[int, ...]) -> Iterator[None]:
    """Say what to do when the GPU's memory is full."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MedsegError(
            f"The GPU's memory is too small for batches of shape {shape}. Lower --batch_size or --patch_size."
        ) from error


def _is_usable(norm: torch.Tensor, engine: ResumableTrainer) -> bool:
    """Whether the gradient is finite. Else the step is left out, as a loss scaler does; many in a row stop the run.

    An empty patch can do it: instance normalisation divides by a standard deviation of almost 0.
    """
    finite = bool(torch.isfinite(norm))
    engine.skipped_steps = 0 if finite else engine.skipped_steps + 1
    if finite:
        return True
    logger.warning("Left out the step of iteration %d: its gradient is %s.", engine.state.iteration, norm.item())
    if engine.skipped_steps >= MANY_STEPS:
        raise MedsegError(
            f"{MANY_STEPS} gradients in a row were not finite, up to iteration {engine.state.iteration}. "
            "Lower --learning_rate, or add --amp false. To go on from the epoch before, add --resume true."
        )
    return False


def _require_finite(loss: torch.Tensor, engine: ResumableTrainer) -> None:
    value = loss.item()
    if not math.isfinite(value):
        raise MedsegError(
            f"The loss is {value} in epoch {engine.state.epoch}, iteration {engine.state.iteration}. "
            "Lower --learning_rate, or add --amp false. To go on from the epoch before, add --resume true."
        )
