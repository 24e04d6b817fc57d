"""Which patch, with which network, fits into the memory: by measuring the network, or by nnU-Net's constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from medseg3d.plan.memory import GIB, MemoryModel, nnunet_feature_maps
from medseg3d.plan.topology import Topology

__all__ = ["LEAST_BATCH", "Budget", "MeasuredBudget", "NnunetBudget", "batch_size"]

LEAST_BATCH = 2
"""A batch of one gives the Dice loss too little to go by; nnU-Net takes two as well."""

MOST_OF_DATA_SET = 0.05
"""A step that sees more of a small data set at once learns it by heart (nnU-Net's limit)."""

NNUNET_REFERENCE = {3: (560_000_000, 2), 2: (85_000_000, 12)}
"""nnU-Net's feature-map voxels and batch size that count as 8 GB, in 3D and 2D (nnunetv2 2.8.1)."""


class Budget(Protocol):
    """Answers for a network with numbers of channels."""

    def fits(self, network: Mapping[str, Any], topology: Topology) -> bool:
        """Whether the smallest batch fits."""

    def largest_batch(self, network: Mapping[str, Any], topology: Topology) -> int:
        """How many patches fit at once."""

    def explain(self, network: Mapping[str, Any], topology: Topology, *, batch_size: int) -> str:
        """What the batch takes, in words."""


class MeasuredBudget:
    """By the bytes that the network's own training step holds at its peak."""

    def __init__(self, memory_gib: float, *, in_channels: int, classes: int) -> None:
        self.model = MemoryModel(memory_gib, in_channels, classes)

    def fits(self, network: Mapping[str, Any], topology: Topology) -> bool:
        return self.largest_batch(network, topology) >= LEAST_BATCH

    def largest_batch(self, network: Mapping[str, Any], topology: Topology) -> int:
        return self.model.largest_batch(network, topology.patch_size)

    def explain(self, network: Mapping[str, Any], topology: Topology, *, batch_size: int) -> str:
        peak = self.model.bytes_of(network, topology.patch_size, batch_size) / GIB
        return (
            f"A training step of {batch_size} patches in bfloat16 holds {peak:.2f} GiB at its peak, counted on the "
            f"network itself; of {self.model.budget_gib:g} GiB, {self.model.usable_bytes / GIB:.2f} may be filled (the "
            "rest is for the driver, working memory and gaps)."
        )


class NnunetBudget:
    """By the feature maps of nnU-Net's own U-Net: what nnU-Net plans with."""

    def __init__(self, memory_gib: float, *, classes: int) -> None:
        self.memory_gib, self.classes = memory_gib, classes

    def fits(self, network: Mapping[str, Any], topology: Topology) -> bool:
        maps, reference, batch = self._compared(topology)
        return maps / batch * LEAST_BATCH <= reference

    def largest_batch(self, network: Mapping[str, Any], topology: Topology) -> int:
        maps, reference, batch = self._compared(topology)
        return round(reference / maps * batch)

    def explain(self, network: Mapping[str, Any], topology: Topology, *, batch_size: int) -> str:
        maps, reference, batch = self._compared(topology)
        return (
            f"nnU-Net counts {maps / 1e6:.0f} million voxels of feature maps a patch, and takes {reference / 1e6:.0f} "
            f"million with a batch of {batch} for {self.memory_gib:g} GB: {round(reference / maps * batch)} patches."
        )

    def _compared(self, topology: Topology) -> tuple[int, float, int]:
        """Feature maps of one patch; and the reference, with the batch that it stands for."""
        reference, batch = NNUNET_REFERENCE[len(topology.patch_size)]
        return nnunet_feature_maps(topology, classes=self.classes), reference * self.memory_gib / 8, batch


def batch_size(fitting: int, *, voxels: float, patch_voxels: int) -> tuple[int, str]:
    """Patches a step, and why: as many as fit, but at most a twentieth of all voxels of the data set, and at least two.

    Args:
        fitting: how many fit into the memory.
        voxels: of the whole data set.
        patch_voxels: of one patch.
    """
    share = round(voxels * MOST_OF_DATA_SET / patch_voxels)
    if min(fitting, share) < LEAST_BATCH:
        return LEAST_BATCH, "the least that the loss can go by"
    if share < fitting:
        return share, f"{fitting} would fit, but a step sees at most {MOST_OF_DATA_SET:.0%} of the data set"
    return fitting, "as many as fit into the memory"
