"""Checkpoints from which a killed training goes on as if nothing had happened.

A checkpoint is one dictionary of tensors, numbers, strings and lists, so that ``torch.load(weights_only=True)`` reads
it and nothing is unpickled.
"""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg3d.errors import CheckpointError

__all__ = ["load_checkpoint", "random_states", "restore_random_states", "save_atomically"]


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


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or state dict into main memory, without unpickling.

    Raises:
        CheckpointError: no such file, damaged, or holding objects that only unpickling could read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no weights there. Train first, or name a file with --weights.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and numbers, or is damaged; refused because unpickling runs code. "
            "Save the network's state_dict alone."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"{path}: cannot be read as weights, probably damaged ({reason}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict or checkpoint.")
    return content


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
