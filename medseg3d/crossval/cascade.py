"""The cascade of a study: a second stage, trained with masks that the first one made out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from medseg3d.crossval.study import CASCADE, FIRST_STAGE, FoldRun, Study
from medseg3d.errors import CheckpointError
from medseg3d.inference.weights import combined_sha256, file_sha256

__all__ = ["in_order_of_training", "needed_configurations", "previous_dir", "require_same_masks"]


def in_order_of_training(study: Study) -> list[Study]:
    """The study with the configurations that stand alone, and the study with the cascade alone, if it has one."""
    second = tuple(c for c in study.configurations if c.name == CASCADE)
    first = tuple(c for c in study.configurations if c not in second)
    return [replace(study, configurations=part) for part in (first, second) if part]


def needed_configurations(names: tuple[str, ...]) -> tuple[str, ...]:
    """Configurations whose networks are needed to answer with ``names``.

    >>> needed_configurations(("3d", "cascade"))
    ('3d', 'cascade', 'lowres')
    """
    return tuple(dict.fromkeys((*names, FIRST_STAGE))) if CASCADE in names else names


def previous_dir(study: Study) -> Path:
    """Where the first stage's masks are; of other weights in another folder, so that no training changes its masks.

    Raises:
        CheckpointError: a fold of the first stage has no weights.
    """
    files = [study.folder / FIRST_STAGE / f"fold{fold}" / "best.pt" for fold in study.folds]
    if missing := next((file for file in files if not file.is_file()), None):
        raise CheckpointError(
            f"{missing} is not there: the networks of {FIRST_STAGE} in all folds make the cascade's masks. Let them be "
            "trained, or name the other configurations with --configuration."
        )
    stats = [file.stat() for file in files]
    hashes = [_sha256(file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)]
    return study.folder / FIRST_STAGE / f"masks_{(combined_sha256(hashes) or '')[:12]}"


@cache  # a checkpoint is large, and asked for many times
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def require_same_masks(study: Study, run: FoldRun, trained: Mapping[str, Any]) -> None:
    """Refuse a training of the cascade that saw masks of other networks than the first stage's are now.

    Args:
        trained: the configuration that it was trained with.

    Raises:
        CheckpointError: they were others.
    """
    if run.configuration.name == CASCADE and Path(str(trained.get("previous_dir"))).name != previous_dir(study).name:
        raise CheckpointError(
            f"{run.folder} was trained with masks of other networks than those of {FIRST_STAGE} are now. Move the "
            "folder away to train anew, or put the networks back."
        )
