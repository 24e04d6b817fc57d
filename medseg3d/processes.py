"""The processes of a training on several GPUs, as ``torchrun`` starts them: who this one is, and sums over all."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

__all__ = ["process_count", "process_rank", "summed_over_processes"]


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
