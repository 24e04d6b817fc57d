"""What is checked of a case between its image and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import grid_distance_mm, spacing_mm
from medseg3d.inference.cases import ImageHeader, count_not_finite, image_paths

__all__ = ["check_values", "checked_mask", "input_channels", "mask_findings", "plain"]

# A mask on another grid than its image, by more than this part of a voxel, is not written.
SAME_GRID = 1e-3


def input_channels(network: torch.nn.Module) -> int | None:
    """Channels of an image that a network takes: those of its first convolution; None for one without.

    Those that ``medseg3d.networks.WithPrevious`` makes of a mask are no channels of the image's file.
    """
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            return int(module.in_channels) - int(getattr(network, "mask_channels", 0))
    return None


def check_values(voxels: torch.Tensor, image: Any) -> None:
    """Refuse a preprocessed image that no network can answer to, and say which file brought it.

    Raises:
        GeometryError: not of shape (channel, x, y, z).
        CaseError: NaN or infinity.
    """
    if voxels.ndim != 4:
        raise GeometryError(
            f"After preprocessing the image has shape {tuple(voxels.shape)}; (channel, x, y, z) is wanted."
        )
    if bool(torch.isfinite(plain(voxels)).all()):
        return
    counts = {path.name: count for path in image_paths(image) if (count := count_not_finite(path))}
    if not counts:
        raise CaseError("Preprocessing made NaN or infinity of finite voxels: is the image constant?")
    listed = ", ".join(f"{count} voxel(s) of {name}" for name, count in counts.items())
    raise CaseError(
        f"NaN or infinity in {listed}. Replace them with the background's value, or export the image again."
    )


def checked_mask(pred: torch.Tensor, header: ImageHeader) -> NDArray[Any]:
    """The mask as the smallest integer array (x, y, z), once it surely lies on the image's grid."""
    voxels = plain(pred).squeeze(0).cpu().numpy()
    if voxels.shape != header.shape:
        raise GeometryError(
            f"The mask has {'×'.join(map(str, voxels.shape))} voxels, the image {'×'.join(map(str, header.shape))}. "
            "Does the post-processing begin with medseg3d.inference.ToImageGridd?"
        )
    if isinstance(pred, MetaTensor):
        distance_mm = grid_distance_mm(np.asarray(pred.affine), header.affine_ras, header.shape)
        if distance_mm > SAME_GRID * min(spacing_mm(header.affine_ras)):
            raise GeometryError(f"The mask lies {distance_mm:.3f} mm off its image: a transform lost the affine.")
    return voxels.astype(np.uint8 if voxels.max(initial=0) < 256 else np.uint16)


def mask_findings(mask: NDArray[Any], labels: Mapping[str, int]) -> list[str]:
    """What a reader should know: labels that were not found, or that the image's edge may cut off."""
    faces = [np.take(mask, index, axis=axis) for axis in range(3) for index in (0, -1)]
    at_edge = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    present = set(np.unique(mask).tolist())
    missing = [f"{name}: not found" for name, label in labels.items() if label not in present]
    cut = [
        f"{name}: reaches the edge of the image, may be cut off" for name, label in labels.items() if label in at_edge
    ]
    return missing + cut


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Without the metadata, which MONAI would carry through every operation in Python."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
