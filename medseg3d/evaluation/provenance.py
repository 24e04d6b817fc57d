"""What an evaluation's numbers rest on: data, weights, configuration, versions, command, time."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg3d.errors import UsageError
from medseg3d.evaluation.model import CaseResult
from medseg3d.evaluation.pairing import sidecar_of
from medseg3d.versions import command_line, package_version

__all__ = ["file_provenance", "provenance", "read_run", "versions"]

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "SimpleITK", "edt", "connected-components-3d", "scikit-learn",
            "pycocotools", "plotly")  # fmt: skip
# Of a run's configuration, what a reader of a result asks for; all of it is in run.json.
CONFIGURATION = (
    "datalist", "fold", "seed", "labels", "spacing", "patch_size", "window_hu", "batch_size", "iterations_per_epoch",
    "max_epochs", "learning_rate", "amp",
)  # fmt: skip


def provenance(
    results: Sequence[CaseResult],
    *,
    started: datetime,
    run: Path | None,
    split: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What goes into ``summary.json``.

    Args:
        started: when the evaluation began, with a time zone.
        run: the training run of the predictions.
        split: data list and part that were evaluated.
        settings: of the evaluation itself.
    """
    sidecars = [sidecar_of(result.case.prediction) for result in results if result.scores]
    content = versions() | {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "data_sha256": _data_sha256(results),
        "bundle": _one_of(s.get("bundle") for s in sidecars),
        "bundle_version": _one_of(s.get("bundle_version") for s in sidecars),
        "weights_sha256": _one_of(s.get("weights_sha256") for s in sidecars),
        "split": dict(split),
        "settings": dict(settings),
    }
    if run is None:
        return content
    training = _training(run)
    if content["weights_sha256"] is None and (run / "best.pt").is_file():
        content["weights_sha256"] = _file_sha256(run / "best.pt")
    return content | {"config": training.pop("config"), "training": training}


def file_provenance(files: Sequence[Path], *, started: datetime) -> dict[str, Any]:
    """What goes into ``summary.json`` where the inputs are single files: their hash, versions, command, time."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return versions() | {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "data_sha256": digest.hexdigest(),
    }


def versions() -> dict[str, Any]:
    """What computes: versions of this package, Python, the platform and other packages; and the command."""
    return {
        "medseg3d": package_version("medseg3d"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "command": command_line(),
    }


def read_run(run: Path) -> dict[str, Any]:
    """``run.json`` of a run folder.

    Raises:
        UsageError: it is not there, or damaged.
    """
    path = run / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{run} is no run folder: {path.name} cannot be read ({error}).") from error
    return content if isinstance(content, dict) else {}


def _training(run: Path) -> dict[str, Any]:
    """What ``run.json`` says of the training: its own data, configuration, versions and command."""
    record = read_run(run)
    config = record.get("config", {})
    starts = record.get("starts", [])
    kept = ("seed", "cases", "data_sha256", "config_sha256", "code_sha256", "python", "platform", "versions")
    return {
        **{key: record.get(key) for key in kept},
        "config": {key: config[key] for key in CONFIGURATION if key in config},
        "command": starts[0].get("command") if starts else None,
        "started": starts[0].get("time") if starts else None,
        "device": starts[-1].get("device") if starts else None,
        "starts": len(starts),
    }


def _data_sha256(results: Sequence[CaseResult]) -> str | None:
    """Over voxels and grids of all references and predictions that were scored, in the order of the cases' names."""
    scored = sorted((r.case.case, r.sha256) for r in results if r.sha256)
    return hashlib.sha256(json.dumps(scored).encode()).hexdigest() if scored else None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_of(values: Iterable[Any]) -> Any:
    """The value that all share; a list of them where they differ; None without any."""
    found = sorted({str(value) for value in values if value is not None})
    return found[0] if len(found) == 1 else found or None
