"""The processes of a training on several GPUs: who this one is, which samples are its own, and sums over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import distributed
from torch.utils.data import Sampler

from medseg3d.errors import UsageError

__all__ = ["ProcessSampler", "own_batch_size", "own_share", "process_count", "process_rank", "summed_over_processes"]


def process_count() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """Which of them this one is, from 0; process 0 alone writes files."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def summed_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of the tensors that all processes call this with; differentiable. The tensor itself in a single process.

    A loss of such sums has the same value in every process. ``DistributedDataParallel`` averages gradients over the
    processes, whereas that loss needs their sum: so the gradient that reaches ``tensor`` is multiplied by the number of
    processes, and the average comes out as the gradient of one process with all samples (nnU-Net's ``AllGatherGrad``
    does the same by summing the processes' gradients).

    Every process must call it equally often, as all collective operations.
    """
    if process_count() == 1:
        return tensor
    total: torch.Tensor = _Sum.apply(tensor)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * process_count()


def own_batch_size(batch_size: int) -> int:
    """Samples that each process takes of a batch of all of them.

    Raises:
        UsageError: the batch cannot be split evenly.
    """
    count = process_count()
    if batch_size % count:
        raise UsageError(
            f"batch_size is {batch_size}, and {count} processes train: each takes the same number of samples. "
            f"Choose a multiple of {count} (such as {-(-batch_size // count) * count}), or another --nproc_per_node."
        )
    return batch_size // count


class ProcessSampler(Sampler[Any]):
    """This process' part of every batch: the batches of all processes, put together by rank, are those of one process.

    Args:
        sampler: draws the samples of all processes, the same in each of them; with ``set_epoch`` where it has one.
        batch_size: samples in a batch of all processes together.

    Raises:
        UsageError: the batch cannot be split evenly.
    """

    def __init__(self, sampler: Sampler[Any], batch_size: int) -> None:
        self.sampler, self.batch_size, self.own_batch_size = sampler, batch_size, own_batch_size(batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration draws."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        whole: int = len(self.sampler)  # type: ignore[arg-type]
        return whole // process_count()

    def __iter__(self) -> Iterator[Any]:
        first = process_rank() * self.own_batch_size
        own = range(first, first + self.own_batch_size)
        draws: Iterable[Any] = self.sampler
        for position, draw in enumerate(draws):
            if position % self.batch_size in own:
                yield draw


def own_share(count: int) -> range:
    """Which of ``count`` cases this process validates: every n-th of n processes.

    With fewer cases than processes each process takes them all, so that none is idle where the others sum with it;
    their mean is the same.

    >>> own_share(3)  # the only process
    range(0, 3)
    """
    return range(process_rank(), count, process_count()) if count >= process_count() else range(count)
