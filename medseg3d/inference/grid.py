"""From the network's grid back to the grid of the image file.

Probabilities are resampled, not labels: a linear blend of labels would invent classes, and nearest-neighbour labels
leave steps. The way back is computed from the two affines alone, so it is right for whatever the preprocessing did
(reorient, resample, crop, pad), as long as MONAI's transforms kept the affine with the voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import ArrayLike, NDArray

from medseg3d.errors import GeometryError
from medseg3d.geometry import check_affine
from medseg3d.inference.regions import Regions, regions_on_grid

__all__ = ["GridMap", "ToImageGridd", "image_grid", "labels_on_grid", "map_to_image_grid", "probabilities_on_grid"]

# Coordinates nearer than this to a voxel centre, in voxels, are that voxel: headers store affines as float32.
SNAP_VOXELS = 1e-3
# A slab of general resampling holds about this many voxels, 16 bytes each.
SLAB_VOXELS = 4_000_000

Block = tuple[slice, slice, slice]


@dataclass(frozen=True)
class GridMap:
    """Linear interpolation from one voxel grid to another of the same millimetre space.

    Target voxels more than one source voxel outside of the source grid get the value ``outside``; nearer ones that of
    the edge (resampling to a coarser grid may leave up to half a voxel uncovered).

    Attributes:
        matrix: 4×4, from target voxel indices to source voxel indices.
        source_shape: voxels along each axis of the grid that values are known on.
        target_shape: the same of the grid that they are wanted on.
    """

    matrix: NDArray[np.float64]
    source_shape: tuple[int, int, int]
    target_shape: tuple[int, int, int]

    @classmethod
    def between(
        cls,
        source_affine: ArrayLike,
        source_shape: Sequence[int],
        target_affine: ArrayLike,
        target_shape: Sequence[int],
    ) -> GridMap:
        """The map between two grids by their affines.

        Raises:
            GeometryError: an affine is impossible.
        """
        matrix = np.linalg.solve(check_affine(source_affine), check_affine(target_affine))
        return cls(np.asarray(matrix, dtype=np.float64), _triple(source_shape), _triple(target_shape))

    @property
    def everything(self) -> Block:
        """The block of the whole target grid."""
        i, j, k = (slice(0, n) for n in self.target_shape)
        return i, j, k

    def block_of(self, source_mask: torch.Tensor) -> Block | None:
        """The smallest block of target voxels that true voxels of ``source_mask`` can reach; None if there are none."""
        if not source_mask.any():
            return None
        bounds = []
        for axis in range(3):
            used = source_mask.any(dim=tuple(a for a in range(3) if a != axis)).nonzero()
            low, high = int(used.min()), int(used.max())
            bounds.append((low - 1, high + 1))
        corners = np.array([(*corner, 1.0) for corner in product(*bounds)]).T
        indices = np.linalg.solve(self.matrix, corners)[:3]
        starts = np.floor(indices.min(axis=1)).astype(int).clip(0)
        stops = np.minimum(np.ceil(indices.max(axis=1)).astype(int) + 1, self.target_shape)
        i, j, k = (slice(int(a), max(int(a), int(b))) for a, b in zip(starts, stops, strict=True))
        return i, j, k

    def sample(self, values: torch.Tensor, block: Block, *, outside: float = 0.0) -> torch.Tensor:
        """``values`` (source grid, float) at the target voxels of ``block``."""
        axes = self._source_axes()
        if axes is None:
            return self._sample_oblique(values, block, outside)
        return self._sample_by_axis(values, block, outside, axes)

    def _source_axes(self) -> tuple[int, int, int] | None:
        """The source axis that each target axis runs along, or None if any runs across several."""
        reach = np.abs(self.matrix[:3, :3]) * np.maximum(np.array(self.target_shape) - 1, 1)
        axes = tuple(int(a) for a in np.abs(self.matrix[:3, :3]).argmax(axis=0))
        across = reach.copy()
        across[list(axes), [0, 1, 2]] = 0
        return _triple(axes) if sorted(axes) == [0, 1, 2] and across.max() < SNAP_VOXELS else None

    def _sample_by_axis(
        self, values: torch.Tensor, block: Block, outside: float, axes: tuple[int, int, int]
    ) -> torch.Tensor:
        result = values.permute(axes).contiguous()
        coordinates = [
            self.matrix[source, target] * np.arange(part.start, part.stop) + self.matrix[source, 3]
            for target, (source, part) in enumerate(zip(axes, block, strict=True))
        ]
        # The axis that shrinks most first: the intermediate volumes stay small.
        for axis in sorted(range(3), key=lambda a: len(coordinates[a]) / values.shape[axes[a]]):
            result = _interpolate(result, coordinates[axis], axis)
        for axis, coordinate in enumerate(coordinates):
            beyond = (coordinate <= -1) | (coordinate >= values.shape[axes[axis]])
            if beyond.any():
                result.index_fill_(axis, torch.from_numpy(beyond.nonzero()[0]).to(result.device), outside)
        return result

    def _sample_oblique(self, values: torch.Tensor, block: Block, outside: float) -> torch.Tensor:
        result = torch.empty([part.stop - part.start for part in block], dtype=values.dtype, device=values.device)
        for slab in _slabs(block):
            indices = torch.meshgrid(
                *(torch.arange(p.start, p.stop, dtype=values.dtype, device=values.device) for p in slab), indexing="ij"
            )
            coordinates = [
                a * indices[0] + b * indices[1] + c * indices[2] + d for a, b, c, d in self.matrix[:3].tolist()
            ]
            sizes = values.shape
            normalised = [2 * c / max(n - 1, 1) - 1 for c, n in zip(coordinates, sizes, strict=True)]
            sampled = torch.nn.functional.grid_sample(
                values[None, None],
                torch.stack(normalised[::-1], dim=-1)[None],  # grid_sample wants the last axis first
                mode="bilinear",
                padding_mode="border",
                align_corners=True,
            )[0, 0]
            for coordinate, size in zip(coordinates, sizes, strict=True):
                sampled.masked_fill_((coordinate <= -1) | (coordinate >= size), outside)
            result[slab[0].start - block[0].start : slab[0].stop - block[0].start] = sampled
        return result


def labels_on_grid(probabilities: torch.Tensor, grid_map: GridMap) -> torch.Tensor:
    """The most probable class of each target voxel: channel numbers, the smallest integer type.

    Classes are resampled one after another against the best so far, so memory does not grow with their number; and a
    class only where it can win: at least 1 / classes somewhere near.

    Args:
        probabilities: (class, x, y, z), summing to 1 over the classes; class 0 is the background, and what lies
            outside of the source grid.
        grid_map: to the wanted grid.
    """
    classes = len(probabilities)
    best = grid_map.sample(probabilities[0], grid_map.everything, outside=1.0).clone()
    labels = torch.zeros(grid_map.target_shape, dtype=_label_dtype(classes), device=probabilities.device)
    for label in range(1, classes):
        block = grid_map.block_of(probabilities[label] >= (1 - 1e-3) / classes)
        if block is None:
            continue
        candidate = grid_map.sample(probabilities[label], block)
        labels[block].masked_fill_(candidate > best[block], label)
        best[block] = torch.maximum(best[block], candidate)
    return labels


def probabilities_on_grid(
    probabilities: torch.Tensor, grid_map: GridMap, *, exclusive: bool = True
) -> Iterator[torch.Tensor]:
    """Each class's probability on the target grid, one after another; outside of the source grid is background.

    With ``exclusive`` channel 0 is the background, otherwise there is no such channel.
    """
    for label, channel in enumerate(probabilities):
        yield grid_map.sample(channel, grid_map.everything, outside=float(exclusive and label == 0))


def image_grid(image: torch.Tensor) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Affine (RAS) and shape of the file that a preprocessed image was loaded from.

    Raises:
        GeometryError: the image does not carry them, so a mask could not be put back.
    """
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if "original_affine" in meta and "spatial_shape" in meta:
        return check_affine(np.asarray(meta["original_affine"])), _triple(np.asarray(meta["spatial_shape"]))
    raise GeometryError(
        "The preprocessed image does not know the grid of its file, so its mask cannot be put back. Load it with "
        "medseg3d.transforms.LoadVolumed or LoadImaged, and keep MetaTensors through the preprocessing."
    )


def map_to_image_grid(image: torch.Tensor) -> GridMap:
    """The map from a preprocessed image's (and its prediction's) grid to that of its file."""
    affine, shape = image_grid(image)
    return GridMap.between(np.asarray(image.affine), image.shape[1:], affine, shape)  # type: ignore[attr-defined]


class ToImageGridd(MapTransform):
    """Turn logits on the preprocessed grid into a label mask on the grid of the image file.

    The mask is a MetaTensor of shape (1, x, y, z) with exactly the file's shape and affine, of the smallest unsigned
    type, its values the channel numbers; or, with ``regions``, the ids that these paint.

    Args:
        keys: logits of shape (class, x, y, z), on the grid of ``image_key``.
        image_key: the preprocessed image, as loaded by ``LoadImaged``.
        allow_missing_keys: skip keys that are not there.
        regions: name → ids, where channels are overlapping regions and not classes; see ``medseg3d.inference.regions``.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        image_key: str = "image",
        allow_missing_keys: bool = False,
        regions: Regions | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.regions = regions or None

    def __call__(self, data: Any) -> dict[Any, Any]:
        """The same case with masks in place of logits.

        Raises:
            GeometryError: logits and image do not share a grid, or the image does not know its file's grid.
        """
        case = dict(data)
        image = case[self.image_key]
        affine, _ = image_grid(image)
        for key in self.key_iterator(case):
            logits = _plain(case[key])
            if logits.shape[1:] != image.shape[1:]:
                raise GeometryError(
                    f"The prediction has {'×'.join(map(str, logits.shape[1:]))} voxels, "
                    f"the preprocessed image {'×'.join(map(str, image.shape[1:]))}."
                )
            with torch.autocast(logits.device.type, enabled=False):  # where the caller left it on
                labels = self._labels(logits.float(), map_to_image_grid(image))
            meta = {
                "filename_or_obj": image.meta.get("filename_or_obj", ""),
                "original_affine": torch.as_tensor(affine),
            }
            case[key] = MetaTensor(labels[None], affine=torch.as_tensor(affine), meta=meta)
        return case

    def _labels(self, logits: torch.Tensor, grid_map: GridMap) -> torch.Tensor:
        if self.regions is None:
            return labels_on_grid(logits.softmax(dim=0), grid_map)
        return regions_on_grid(logits.sigmoid(), grid_map, self.regions)


def _interpolate(volume: torch.Tensor, coordinate: NDArray[np.float64], axis: int) -> torch.Tensor:
    """Linear interpolation along one axis, the edge's value outside. The volume itself when nothing changes."""
    size = volume.shape[axis]
    nearest = np.rint(coordinate)
    inside = np.where(np.abs(coordinate - nearest) < SNAP_VOXELS, nearest, coordinate).clip(0, size - 1)
    if np.array_equal(inside, np.arange(size)):
        return volume
    lower = np.floor(inside).astype(np.int64)
    upper = np.minimum(lower + 1, size - 1)
    weight = inside - lower
    if axis == 2:
        # Gathering along the contiguous axis is several times slower on a CPU than a product with a matrix of weights.
        weights = np.zeros((size, len(inside)), dtype=np.float32)
        np.add.at(weights, (lower, np.arange(len(inside))), 1 - weight)
        np.add.at(weights, (upper, np.arange(len(inside))), weight)
        return volume @ torch.from_numpy(weights).to(volume)
    below = volume.index_select(axis, torch.from_numpy(lower).to(volume.device))
    if not weight.any():
        return below
    above = volume.index_select(axis, torch.from_numpy(upper).to(volume.device))
    return below.lerp_(above, torch.from_numpy(weight).to(volume).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1]))


def _slabs(block: Block) -> Iterator[Block]:
    first, second, third = block
    thickness = max(1, SLAB_VOXELS // max(1, (second.stop - second.start) * (third.stop - third.start)))
    for start in range(first.start, first.stop, thickness):
        yield slice(start, min(start + thickness, first.stop)), second, third


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # MetaTensor dispatches every operation in Python, and copies its metadata each time.
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _label_dtype(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def _triple(values: Sequence[int] | NDArray[Any]) -> tuple[int, int, int]:
    i, j, k = (int(v) for v in values)
    return i, j, k
