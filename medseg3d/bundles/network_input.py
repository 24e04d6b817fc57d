"""What a network is given, beyond what the image's file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg3d.bundles.merge import lookup
from medseg3d.bundles.values import Values

__all__ = ["network_channels"]


def network_channels(config: Mapping[str, Any], values: Values) -> list[str] | None:
    """Names of the network's channels: ``channels``, and in the second stage of a cascade the mask; None if unknown."""
    channels = values.get("channels")
    if not isinstance(channels, list):
        return None
    sees_mask = str(lookup(config, "network_def::_target_", "")).rpartition(".")[2] == "WithPrevious"
    return [str(channel) for channel in channels] + (["mask of the first stage"] if sees_mask else [])
