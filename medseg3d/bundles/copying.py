"""An editable copy of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medseg3d.bundles.find import is_bundle
from medseg3d.bundles.pickles import is_weights_file
from medseg3d.errors import UsageError
from medseg3d.files import new_folder_or_none, write_json

__all__ = ["copy_bundle"]

# What trainings and segmentations leave in a bundle's folder, and Python's and the system's own.
LEFT_BEHIND = ("runs", "eval", "__pycache__", ".git", ".DS_Store")
EXPORTS = frozenset({".onnx", ".safetensors"})


def copy_bundle(bundle: Path, folder: Path, *, weights: bool = True) -> Path:
    """Copy a bundle with its overlays, whole or not at all; results of runs in it stay behind.

    Args:
        bundle: the bundle's folder.
        folder: the new bundle; or a folder that is there already, in which it gets the bundle's name.
        weights: also copy what lies in ``models/``: without, the copy is there to be trained.

    Returns:
        The folder of the copy.

    Raises:
        OutputError: something lies there already, or it cannot be written.
        UsageError: the copy would lie inside the bundle.
    """
    target = folder / bundle.name if folder.is_dir() and any(folder.iterdir()) and not is_bundle(folder) else folder
    if target.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(f"{target} lies inside {bundle}: choose a folder outside the bundle.")
    with new_folder_or_none(target) as new:
        shutil.copytree(bundle, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        (new / "models").mkdir(exist_ok=True)
        if not weights:
            _remove_weights(new)
    return target


def _remove_weights(bundle: Path) -> None:
    """Leave ``models/`` empty, and nothing that states the hashes of what is gone."""
    for path in sorted((bundle / "models").rglob("*")):
        if path.is_file() and (is_weights_file(path) or path.suffix in EXPORTS or path.suffix == ".sha256"):
            path.unlink()
    metadata = bundle / "configs" / "metadata.json"
    if metadata.is_file():
        content = json.loads(metadata.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.pop("weights_sha256", None) is not None:
            write_json(metadata, content)
