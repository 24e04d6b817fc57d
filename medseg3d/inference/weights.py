"""Load a bundle's weights, all of them or none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.errors import CheckpointError

__all__ = ["combined_sha256", "file_sha256", "fitting_state", "load_weights", "read_state"]

# Where training checkpoints keep the network's state dict; a bundle's models/model.pt is the state dict itself.
STATE_KEYS = ("network", "model", "state_dict")
# A message names this many keys of each kind; more would hide the reason.
NAMED_KEYS = 3


def load_weights(network: torch.nn.Module, path: str | Path) -> str:
    """Load a state dict, or a training checkpoint with one, into ``network``; every key and shape must fit.

    Returns:
        The file's SHA-256 in hexadecimal, by which results name their weights.

    Raises:
        CheckpointError: no such file, not readable without unpickling code, or of another network.
    """
    state, sha256 = fitting_state(network, Path(path))
    network.load_state_dict(state, strict=True)
    return sha256


def fitting_state(network: torch.nn.Module, path: Path) -> tuple[Mapping[str, torch.Tensor], str]:
    """The state dict of a file, in the precision in which it is stored, and the file's SHA-256.

    Raises:
        CheckpointError: as ``load_weights``.
    """
    state = read_state(path)
    wanted = network.state_dict()
    problems = [*_key_problems(wanted, state), *_shape_problems(wanted, state)]
    if problems:
        raise CheckpointError(f"{path}: these weights are of another network: {'; '.join(problems)}. "
                              "Compare network_def with the one that was trained.")  # fmt: skip
    return state, file_sha256(path)


def combined_sha256(hashes: Sequence[str]) -> str | None:
    """One hash for several files in their order; that of a single file is its own, and without files there is none."""
    if len(hashes) < 2:
        return next(iter(hashes), None)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> Mapping[str, torch.Tensor]:
    """The state dict in a file of weights, or in a training checkpoint.

    Raises:
        CheckpointError: no such file, not readable without unpickling code, or no state dict in it.
    """
    content: Any = load_checkpoint(path)
    for key in STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: no state dict of a network in it.")
    return content


def _key_problems(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    missing = [key for key in wanted if key not in state]
    unknown = [key for key in state if key not in wanted]
    return [
        f"{len(keys)} of {len(total)} keys {what} ({', '.join(keys[:NAMED_KEYS] + ['…'] * (len(keys) > NAMED_KEYS))})"
        for keys, total, what in ((missing, wanted, "missing"), (unknown, state, "unknown to the network"))
        if keys
    ]


def _shape_problems(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(tensor.shape)} in the network"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ][:NAMED_KEYS]
