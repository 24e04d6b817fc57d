"""The bundle that a plan is made for: which ids it has, and which network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.errors import ConfigError
from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.topology import MIN_STAGES, Topology

__all__ = ["Template", "network_2d", "network_3d", "numbers_of", "read_template", "regions_of"]

DEEP_SUPERVISION_HEADS = 2
"""Beside the output; DynUNet enlarges each to the full patch, so that further ones cost memory and say little."""

PLAIN = {"_target_": "DynUNet", "in_channels": "$len(@channels)", "out_channels": "$1 + max(@labels.values())",
         "norm_name": "instance"}  # fmt: skip

OF_THE_PLAN = {"spatial_dims", "filters", "kernel_size", "strides", "upsample_kernel_size", "deep_supervision",
               "deep_supr_num"}  # fmt: skip


@dataclass(frozen=True)
class Template:
    """A bundle's ``train.yaml``.

    Attributes:
        folder: of the bundle.
        config: the file's content; references are not resolved.
    """

    folder: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def network(self) -> dict[str, Any]:
        """What every network of the plan shares: the bundle's own, where it is a DynUNet, without its shape."""
        own = self.config.get("network_def")
        if isinstance(own, Mapping) and str(own.get("_target_", "")).rpartition(".")[2] == "DynUNet":
            return {key: value for key, value in own.items() if key not in OF_THE_PLAN}
        return dict(PLAIN)

    @property
    def keeps_network(self) -> bool:
        """Whether the bundle's network is of the kind that the plan shapes."""
        own = self.config.get("network_def")
        return isinstance(own, Mapping) and self.network.get("_target_") == own.get("_target_")


def read_template(bundle: str | Path) -> Template:
    """Find a bundle and read its ``train.yaml``.

    Raises:
        UsageError: no such bundle.
        ConfigError: its ``train.yaml`` is missing, cannot be read, or is not one of volumes.
    """
    from medseg3d.bundles import find_bundle
    from medseg3d.bundles.merge import merge
    from medseg3d.bundles.problems import errors_in, summary

    folder = find_bundle(bundle)
    merged = merge([folder / "configs" / "train.yaml"])
    if errors_in(merged.problems):
        raise ConfigError(summary(merged.problems))
    missing = [name for name in ("labels", "spacing", "patch_size", "network_def") if name not in merged.config]
    if missing:
        raise ConfigError(
            f"{folder.name}: train.yaml has no {', '.join(missing)}, so that a plan cannot set them: "
            "plans are for bundles that segment volumes."
        )
    return Template(folder, merged.config)


def network_3d(template: Template, topology: Topology) -> dict[str, Any]:
    """The U-Net of a topology, as a bundle names it."""
    shape = topology.with_stages(MIN_STAGES)
    # A value that is the same along every axis is one number; an anisotropic one is a list.
    return {
        **template.network,
        "spatial_dims": len(shape.patch_size),
        "filters": list(shape.filters()),
        "kernel_size": [_short(kernel) for kernel in shape.kernels],
        "strides": [_short(strides) for strides in shape.strides],
        "upsample_kernel_size": [_short(strides) for strides in shape.strides[1:]],
        "deep_supervision": True,
        "deep_supr_num": min(DEEP_SUPERVISION_HEADS, shape.stages - 2),
    }


def network_2d(template: Template, topology: Topology, *, slice_axis: int) -> dict[str, Any]:
    """A 2D U-Net that sees each slice of a volume alone."""
    return {
        "_target_": "medseg3d.networks.SliceWise",
        "slice_axis": slice_axis,
        "network": network_3d(template, topology),
    }


def numbers_of(network: Mapping[str, Any], *, in_channels: int, out_channels: int) -> dict[str, Any]:
    """The network with numbers in place of the expressions that a bundle works its channels out with."""
    return {**network, "in_channels": in_channels, "out_channels": out_channels}


def regions_of(template: Template, fingerprint: Fingerprint) -> dict[str, list[int]]:
    """The regions that the network answers with: of the data list, or else of the bundle; none where it knows none.

    Raises:
        ConfigError: the bundle's regions hold ids that the data list does not name.
    """
    own = template.config.get("regions")
    if not isinstance(own, Mapping) or not own:
        return {}
    regions = {name: list(ids) for name, ids in (fingerprint.regions or own).items()}
    unknown = sorted({i for ids in regions.values() for i in ids} - set(fingerprint.labels.values()))
    if unknown:
        raise ConfigError(
            f"{template.name} trains the regions {dict(own)}, but the data list has no label with id "
            f"{', '.join(map(str, unknown))}: name regions in the data list, or plan another bundle."
        )
    return regions


def _short(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)
