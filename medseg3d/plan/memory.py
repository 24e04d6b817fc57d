"""How much memory a training step takes: the network's own tensors, counted without a GPU and without computing.

``training_bytes`` runs forward, loss and backward on fake tensors, which have shapes and types but no values, and
counts what is alive at once. ``nnunet_feature_maps`` is the number that nnU-Net uses instead, for comparison.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg3d.plan.topology import Topology

__all__ = ["RESERVED_BYTES", "WORKING_SHARE", "MemoryModel", "nnunet_feature_maps", "parse_memory", "training_bytes"]

GIB = 2**30

RESERVED_BYTES = GIB // 2
"""What a CUDA context with cuDNN's kernels takes before anything is trained."""

WORKING_SHARE = 0.8
"""Share of the rest that tensors may fill: convolutions need working memory, and freed blocks do not fit together."""


MEASURED_VOXELS = 128**3
"""Voxels of a batch that is measured: a network's weights are little beside its activations then."""


def parse_memory(text: str) -> float:
    """Gibibytes, as they are typed.

    >>> parse_memory("8GB"), parse_memory("512 MB"), parse_memory("11")
    (8.0, 0.5, 11.0)

    Raises:
        UsageError: not a positive number of GB or MB.
    """
    import re

    from medseg3d.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:(G|M)i?B?)?\s*", text, flags=re.IGNORECASE)
    gib = float(match[1]) / (1024 if (match[2] or "G").upper() == "M" else 1) if match else 0.0
    if gib <= 0:
        raise UsageError(f"--memory {text!r} cannot be read: write for example 8GB.")
    return gib


@dataclass(frozen=True)
class _Line:
    """Peak memory as a straight line of the voxels of a batch, never below what training takes without any."""

    least: float
    fixed: float
    per_voxel: float

    def at(self, voxels: int) -> float:
        return max(self.least, self.fixed + self.per_voxel * voxels)


@dataclass
class MemoryModel:
    """Peak memory of training one kind of network, measured once a topology and scaled by voxels.

    All that grows with the patch grows in proportion to its voxels, and with the batch likewise; weights, gradients and
    the optimiser's moments do not. So two batches a topology give the line, both large enough that activations are
    most of the memory.

    Args:
        budget_gib: memory of the device.
        in_channels, classes: of input and output.
    """

    budget_gib: float
    in_channels: int
    classes: int
    measured: dict[str, _Line] = field(default_factory=dict)

    @property
    def usable_bytes(self) -> int:
        """What tensors may fill."""
        return int((self.budget_gib * GIB - RESERVED_BYTES) * WORKING_SHARE)

    def bytes_of(self, network_def: Mapping[str, Any], patch_size: Sequence[int], batch_size: int) -> int:
        """Peak of one training step."""
        return int(self._line(network_def, patch_size).at(math.prod(patch_size) * batch_size))

    def largest_batch(self, network_def: Mapping[str, Any], patch_size: Sequence[int]) -> int:
        """Patches that fit into the budget at once; 0 when not even one does."""
        line = self._line(network_def, patch_size)
        if line.least > self.usable_bytes:
            return 0
        return max(int((self.usable_bytes - line.fixed) / (line.per_voxel * math.prod(patch_size))), 0)

    def _line(self, network_def: Mapping[str, Any], patch_size: Sequence[int]) -> _Line:
        key = json.dumps(network_def, sort_keys=True)
        if key not in self.measured:
            voxels = math.prod(patch_size)
            batch = math.ceil(MEASURED_VOXELS / voxels)
            least, first = self._training_bytes(network_def, patch_size, batch)
            _, second = self._training_bytes(network_def, patch_size, 2 * batch)
            slope = (second - first) / (voxels * batch)
            self.measured[key] = _Line(least, first - slope * voxels * batch, slope)
        return self.measured[key]

    def _training_bytes(self, network_def: Mapping[str, Any], patch_size: Sequence[int], batch: int) -> tuple[int, int]:
        return training_bytes(network_def, (batch, self.in_channels, *patch_size), classes=self.classes)


def training_bytes(network_def: Mapping[str, Any], shape: Sequence[int], *, classes: int) -> tuple[int, int]:
    """Bytes of a training step with AdamW in bfloat16: what stays whatever the patch, and the peak.

    What stays are weights, gradients and two moments in float32. The peak adds the input, the activations that the
    backward pass needs, the loss (cross-entropy and soft Dice of every head, in float32) and what the backward pass
    holds at its highest point. No value is computed: 0.5 to 2 seconds for any size.

    Args:
        network_def: ``_target_`` and arguments, as in a bundle; references are resolved already.
        shape: (batch, channel, x, y[, z]) of the input.
        classes: channels of the output.
    """
    import torch
    from monai.bundle import ConfigParser
    from torch._subclasses.fake_tensor import FakeTensorMode

    from medseg3d.live_bytes import LiveBytes

    with FakeTensorMode():
        network = ConfigParser({"network_def": dict(network_def)}).get_parsed_content("network_def").train()
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        with LiveBytes() as live:
            image = torch.empty(tuple(shape))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(image)
            _loss(logits, classes).backward()
    moments = 2 * weights
    # Gradients of the weights are among the tensors that were made while counting; weights and moments are not.
    return weights * 2 + moments, weights + moments + live.peak


def _loss(logits: Any, classes: int) -> Any:
    """Cross-entropy and soft Dice in float32, for each head of deep supervision: (b, [head,] class, …)."""
    import torch

    heads = [logits] if logits.shape[1] == classes and logits.ndim in (4, 5) else list(torch.unbind(logits, 1))
    total: Any = 0.0
    for head in heads:
        target = torch.empty((head.shape[0], *head.shape[2:]), dtype=torch.long)
        one_hot = torch.nn.functional.one_hot(target, classes).movedim(-1, 1).to(torch.float32)
        probabilities = torch.softmax(head.float(), dim=1)
        overlap = (probabilities * one_hot).sum() / (probabilities + one_hot).sum()
        total = total + torch.nn.functional.cross_entropy(head.float(), target) - overlap
    return total


def nnunet_feature_maps(topology: Topology, *, classes: int, base: int = 32) -> int:
    """Voxels of all convolutions' outputs of nnU-Net's plain U-Net, with which it stands for memory.

    Two convolutions a stage on the way down and up, transposed convolutions, and the outermost output.
    Source: ``compute_conv_feature_map_size`` of dynamic-network-architectures.
    """
    filters = topology.filters(base=base)
    sizes = [list(topology.patch_size)]
    for strides in topology.strides[1:]:
        sizes.append([n // step for n, step in zip(sizes[-1], strides, strict=True)])
    voxels = [math.prod(size) for size in sizes]
    down = sum(2 * channels * n for channels, n in zip(filters, voxels, strict=True))
    up = sum(3 * channels * n for channels, n in zip(filters[:-1], voxels[:-1], strict=True))
    return down + up + classes * voxels[0]
