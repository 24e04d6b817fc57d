"""What made a result: the bundle, this package and the device, as sidecars name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medseg3d.errors import ConfigError

__all__ = ["bundle_identity", "device_name"]


def bundle_identity(metadata: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """Name and version of the bundle for the sidecar; a bundle without a name has that of its folder."""
    name = None
    if isinstance(metadata, (str, Path)):
        path = Path(metadata)
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: the bundle's metadata cannot be read ({error}).") from error
        name = path.resolve().parent.parent.name
    content: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    return {
        "bundle": content.get("name", name),
        "bundle_version": content.get("version"),
        "medseg3d_version": version("medseg3d"),
    }


def device_name(device: torch.device) -> str:
    """A GPU by its model; else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
