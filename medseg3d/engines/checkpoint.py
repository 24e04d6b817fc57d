"""Checkpoints from which a killed training goes on as if nothing had happened.

A checkpoint is one dictionary of tensors, numbers, strings and lists, so that ``torch.load(weights_only=True)`` reads
it and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from medseg3d.errors import CheckpointError

__all__ = ["file_sha256", "load_checkpoint", "load_weights", "random_states", "restore_random_states", "save_atomically"]


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` beside ``path``, flush it to the disk, then rename: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint or state dict without unpickling.

    Raises:
        CheckpointError: no such file, damaged, or holding objects that only unpickling could read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Train first, or name the weights with --weights.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason}). It is damaged, or holds objects other than tensors and "
            "numbers, which are refused because unpickling runs code."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict or checkpoint.")
    return content


def load_weights(network: torch.nn.Module, path: str | Path) -> torch.nn.Module:
    """Load a bare state dict, or the network of a checkpoint, strictly; return the network.

    Raises:
        CheckpointError: unreadable, or of another network, with the names and shapes that differ.
    """
    content = load_checkpoint(path)
    weights = content.get("network", content)
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{k}: {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the network"
        for k in sorted(own.keys() & weights.keys())
        if own[k].shape != weights[k].shape
    ]
    if missing or unknown or shapes:
        details = [
            *(f"missing in the file: {k}" for k in missing[:3]),
            *(f"unknown to the network: {k}" for k in unknown[:3]),
            *shapes[:3],
        ]
        raise CheckpointError(
            f"{path}: does not fit the network ({len(missing)} missing, {len(unknown)} unknown, {len(shapes)} of another "
            f"shape; {'; '.join(details)}). Use the network_def and labels that it was trained with."
        )
    network.load_state_dict(weights)
    return network


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def random_states() -> dict[str, Any]:
    """The global random states of Python, NumPy and torch, in types that load without unpickling."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - others may draw from it
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(k) for k in keys], position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put back what ``random_states`` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
