"""What a training says of itself: weights, and the ``run.json`` beside them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.errors import CheckpointError

__all__ = ["COMPANIONS", "TrainedWeights", "find_weights", "shown_command"]

# Files that belong to weights and travel with them.
COMPANIONS = ("calibration.json", "thresholds.json")
# One path, or one of several in a list or behind an equals sign; folders may have spaces in their names.
_WHOLE = re.compile(r"/[^,\[]*/([^/,\[]+/?)")
_ABSOLUTE = re.compile(r"(?<![\w.])(?:/[^/'\",\]]+)+/([^/'\",\]]+)")
# What the shell reads, or takes for something else, between double quotes; "!" only where it is typed.
_READ_BY_THE_SHELL = frozenset('"$`\\!')


@dataclass(frozen=True)
class TrainedWeights:
    """A weights file and, where it lies in the folder of a run, the record of that run (else empty)."""

    path: Path
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was made with, merged and with its overrides; empty if not known."""
        config = self.record.get("config")
        return dict(config) if isinstance(config, Mapping) else {}

    @property
    def command(self) -> str:
        """The command that the run was last started with; empty if not known."""
        starts = self.record.get("starts") or [{}]
        return str(starts[-1].get("command", ""))


def find_weights(path: Path) -> TrainedWeights:
    """Weights by their file, or by the folder of a run, of which ``best.pt`` is taken.

    Raises:
        CheckpointError: no such file, or a ``run.json`` beside it that cannot be read.
    """
    file = path / "best.pt" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no weights there. Train first, or name a file or the folder of a run.")
    record = file.with_name("run.json")
    if not record.is_file():
        return TrainedWeights(file)
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{record}: cannot be read ({error}). Remove it to pack without its record.") from error
    return TrainedWeights(file, content if isinstance(content, dict) else {})


def shown_command(command: str) -> str:
    """A command as a person would type it, without the folders of the machine that it ran on.

    Folders may name people and hospitals. Words with quotes in them stand between double quotes, which ``shlex.join``
    never writes.

    >>> shown_command("python -m monai.bundle run --datalist '/home/ann lee/list.json' --output_dir runs/fold0")
    'python -m monai.bundle run --datalist list.json --output_dir runs/fold0'
    >>> print(shown_command(shlex.join(["run", "--config_file", "['train.yaml','plan.yaml']"])))
    run --config_file "['train.yaml','plan.yaml']"
    """
    try:
        words = shlex.split(command)
    except ValueError:  # it was written by something else, and does not end its quotes
        return " ".join(map(_without_folders, command.split()))
    return " ".join(_typed(_without_folders(word)) for word in words)


def _without_folders(word: str) -> str:
    whole = _WHOLE.fullmatch(word)
    return whole[1] if whole else _ABSOLUTE.sub(r"\1", word)


def _typed(word: str) -> str:
    quoted = shlex.quote(word)
    return f'"{word}"' if quoted != word and not _READ_BY_THE_SHELL & set(word) else quoted
