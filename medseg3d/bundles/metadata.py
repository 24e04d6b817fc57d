"""``metadata.json`` and the other files beside a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.bundles.problems import Problem, did_you_mean
from medseg3d.bundles.reading import load_file, shown_path

__all__ = ["REQUIRED_KEYS", "Description", "check_metadata", "describe", "read_metadata"]

REQUIRED_KEYS = (
    "schema",
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)


@dataclass(frozen=True)
class Description:
    """What a list of bundles shows of one."""

    version: str
    task: str


def read_metadata(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """The metadata, or an empty dict with the reason in ``problems``."""
    if not path.is_file():
        remedy = "Every bundle has it beside its configuration; or pass --meta_file."
        problems.append(Problem(shown_path(path), "the file does not exist.", remedy))
        return {}
    return load_file(path, problems, where=shown_path(path))


def check_metadata(metadata: Mapping[str, Any], *, name: str = "configs/metadata.json") -> list[Problem]:
    """Missing keys, a version without an entry in the changelog, a data format without inputs or outputs.

    Problems are reported under ``name``.
    """
    if not metadata:
        return []
    problems = [
        Problem(name, f"has no {key!r}.", did_you_mean(key, set(metadata) - set(REQUIRED_KEYS), otherwise="Add it."))
        for key in REQUIRED_KEYS
        if key not in metadata
    ]
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if version and isinstance(changelog, Mapping) and version not in changelog:
        known = ", ".join(changelog) or "nothing"
        problems.append(Problem(name, f"version {version} is not in the changelog (which has {known}).", "Add a line."))
    data_format = metadata.get("network_data_format")
    for side, channel in (("inputs", "image"), ("outputs", "pred")):
        if isinstance(data_format, Mapping) and channel not in data_format.get(side, {}):
            problems.append(Problem(name, f"network_data_format::{side} has no {channel!r}.", "Add it."))
    return problems


def describe(bundle: Path) -> Description:
    """Version and task of a bundle, from its metadata; "?" where it does not say."""
    try:
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Description("?", "its metadata.json cannot be read")
    if not isinstance(metadata, dict):
        return Description("?", "its metadata.json is no object")
    return Description(str(metadata.get("version", "?")), str(metadata.get("task", "?")))
