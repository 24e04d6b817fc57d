"""What a training says of itself: weights, and the ``run.json`` beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.errors import CheckpointError

__all__ = ["COMPANIONS", "TrainedWeights", "find_weights", "shown_command"]

# Files that belong to weights and travel with them.
COMPANIONS = ("calibration.json", "thresholds.json")
_ABSOLUTE = re.compile(r"(?<![\w.])(?:/[^\s/'\",\]]+)+/([^\s/'\",\]]+)")


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
    """A command without the folders of the machine that it ran on, which may name people and hospitals.

    >>> shown_command("python -m monai.bundle run --datalist /home/ann/study/list.json --output_dir runs/fold0")
    'python -m monai.bundle run --datalist list.json --output_dir runs/fold0'
    """
    return _ABSOLUTE.sub(r"\1", command)
