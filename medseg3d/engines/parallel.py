"""Training on several GPUs: a process a GPU, as ``torchrun`` starts them, and gradients averaged over all of them."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from medseg3d.errors import UsageError
from medseg3d.processes import own_batch_size, process_count

__all__ = ["bare_network", "distribute", "join_processes", "leave_processes", "process_device"]

# The others wait while one validates a large case, or fills its cache from a slow disk.
LONGEST_WAIT = timedelta(hours=2)

logger = logging.getLogger("medseg3d")


def process_device() -> torch.device:
    """The GPU of this process: ``torchrun`` numbers the processes of a machine.

    Raises:
        UsageError: started without ``torchrun``, or by more processes than the machine has GPUs.
    """
    _require_torchrun()
    number, count = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    if count > gpus:
        few = f"--nproc_per_node={gpus}" if gpus else "train.yaml alone, or several slow processes with --device cpu"
        raise UsageError(f"torchrun started {count} processes, and torch finds {gpus} GPUs here. Use {few}.")
    return torch.device("cuda", number)


def join_processes(device: torch.device | str, *, batch_size: int) -> None:
    """Let the processes find each other.

    Args:
        device: where this process trains; the processes talk through NCCL for GPUs, else through Gloo.
        batch_size: samples in a batch of all processes together; looked at before any data is loaded.

    Raises:
        UsageError: started without ``torchrun``, or the batch cannot be split evenly.
    """
    _require_torchrun()
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        # Gloo beside NCCL: numbers on the CPU are summed too.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    count, own = process_count(), own_batch_size(batch_size)
    logger.info("%d processes train together, each on %d of the %d samples of a batch.", count, own, batch_size)


def leave_processes() -> None:
    """End what ``join_processes`` began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def distribute(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """``network`` on ``device``, wrapped such that all processes start from the first one's weights and learn alike.

    A single process gets the network itself. Parameters that take no part in the loss are found once: the graph must be
    the same in every iteration.
    """
    network = network.to(device)
    if process_count() == 1:
        return network
    return DistributedDataParallel(network, static_graph=True)


def bare_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network without its wrapper, as checkpoints hold it and validation runs it.

    The wrapper's forward pass waits for the other processes, which have other cases.
    """
    module: torch.nn.Module = network.module if isinstance(network, DistributedDataParallel) else network
    return module


def _require_torchrun() -> None:
    if "LOCAL_RANK" not in os.environ:
        raise UsageError(
            "multi_gpu_train.yaml needs a process a GPU. Start it with: torchrun --nproc_per_node=2 -m monai.bundle "
            "run training --config_file \"['configs/train.yaml','configs/multi_gpu_train.yaml']\""
        )
