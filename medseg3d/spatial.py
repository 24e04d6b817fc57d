"""Random patches: where, how turned, scaled, bent and mirrored, in one resampling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray

from medseg3d.errors import UsageError

__all__ = ["RandSpatialPatchd", "bspline_basis", "rotation_matrix", "thin_axes"]

THIN = 3.0
"""A patch whose longest side has more than so many times the voxels of its shortest is thin along that (nnU-Net's)."""


class RandSpatialPatchd(Randomizable, MapTransform):
    """Cut a random patch from a volume, with rotation, scaling, elastic bending and mirroring in one interpolation.

    The same as crop, affine, elastic deformation and flips one after another, with two differences. The patch is read
    from the whole volume, so turning it brings in the tissue around it instead of padding. And it costs one pass over
    the patch instead of several. A patch that is neither turned, scaled nor bent is cut out and mirrored, exactly and
    without any interpolation: with nnU-Net's probabilities that is two of three.

    Rotations and deformations are in millimetres, so they are rigid and smooth on anisotropic grids too. Images are
    interpolated linearly, labels by nearest neighbour. Outside the volume images are ``padding_value`` and labels 0.

    The mask of a cascade's first stage, the image's last channel (``medseg3d.transforms.AddPreviousd``), holds label
    ids and is read as labels are. A channel a label comes only later: 0 and 1, turned and interpolated, would be
    neither, and several times the memory.

    Args:
        keys: entries of shape (channel, x, y, z), all on one grid.
        spatial_size: voxels of the patch. An axis of 1 makes it a slice, which is turned and bent only in its plane.
        label_key: entry with labels, among ``keys``.
        indices_key: entry with the flat voxel indices of each class, background first, as MONAI's ``ClassesToIndicesd``
            gives them.
        foreground_prob: probability that the patch is centred on a voxel of a label, each label in the image being as
            likely as the others (nnU-Net forces a third). The other patches lie anywhere; where ``annotated_key`` is
            there, which ``medseg3d.transforms.LabelIndicesd`` gives of partly labelled cases, around one of its voxels.
        spacing: voxel size in mm.
        rotate_range: largest angle about each axis in radians.
        scale_range: largest relative change of size, e.g. 0.2 for 0.8 to 1.25 times.
        affine_prob: probability of rotating and scaling, both at once.
        rotate_prob: probability of rotating alone, instead of ``affine_prob``; nnU-Net's is 0.2.
        scale_prob: probability of scaling alone, instead of ``affine_prob``; nnU-Net's is 0.2.
        elastic_range: largest standard deviation of the deformation in mm.
        elastic_cell: distance in mm between the control points of its cubic B-spline; a standard deviation of up to a
            fifth of it folds no tissue in practice.
        elastic_prob: probability of deforming.
        flip_axes: axes mirrored with probability ½ each.
        padding_value: of images outside the volume.
        annotated_key: entry with the flat indices of voxels that are labelled, of cases where some are not.
        previous_key: entry with the number of an image's last channels that hold label ids, where some do.
        in_plane: whether to turn, scale and bend slices along the shortest axis only in their plane. None does so where
            they are few (``thin_axes``), as nnU-Net does ("dummy 2D"): to interpolate between them would blur them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        label_key: str = "label",
        indices_key: str = "label_cls_indices",
        *,
        foreground_prob: float = 0.5,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        rotate_range: Sequence[float] = (0.0, 0.0, 0.0),
        scale_range: float = 0.0,
        affine_prob: float = 1.0,
        rotate_prob: float | None = None,
        scale_prob: float | None = None,
        elastic_range: float = 0.0,
        elastic_cell: float = 16.0,
        elastic_prob: float = 0.0,
        flip_axes: Sequence[int] = (),
        padding_value: float = 0.0,
        in_plane: bool | None = None,
        annotated_key: str = "label_annotated_indices",
        previous_key: str = "previous_channels",
    ) -> None:
        MapTransform.__init__(self, keys)
        self.spatial_size = np.array(spatial_size, dtype=int)
        self.label_key, self.indices_key, self.annotated_key = label_key, indices_key, annotated_key
        self.previous_key = previous_key
        self.foreground_prob = foreground_prob
        self.spacing = np.array(spacing, dtype=float)
        self.rotate_range, self.scale_range = np.array(rotate_range), scale_range
        self.affine_prob, self.rotate_prob, self.scale_prob = affine_prob, rotate_prob, scale_prob
        self.elastic_range, self.elastic_cell, self.elastic_prob = elastic_range, elastic_cell, elastic_prob
        self.flip_axes = tuple(flip_axes)
        self.padding_value = padding_value
        if len(self.spatial_size) != 3 or (self.spatial_size < 1).any():
            raise UsageError(f"spatial_size is {list(spatial_size)}; a patch has three sizes of at least 1 voxel.")
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise UsageError(f"flip_axes is {list(flip_axes)}; a volume has the axes 0, 1 and 2.")
        self.thin = thin_axes(self.spatial_size, threshold=THIN if in_plane is None else 1.0 if in_plane else np.inf)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        shape = np.array(sample[self.label_key].shape[1:])
        annotated = sample.pop(self.annotated_key, None)
        masks = int(sample.pop(self.previous_key, 0))
        centre = self._centre(sample.pop(self.indices_key), shape, annotated)
        matrix = self._matrix()
        flips = [axis for axis in range(3) if axis in self.flip_axes and self.R.random() < 0.5]
        displacement = self._displacement() if self.R.random() < self.elastic_prob else None
        if matrix is None and displacement is None:
            return self._cut(sample, centre, flips, masks)
        return self._resample(sample, centre, np.eye(3) if matrix is None else matrix, flips, displacement, masks)

    def _cut(
        self, sample: dict[Hashable, Any], centre: NDArray, flips: Sequence[int], masks: int
    ) -> dict[Hashable, Any]:
        first = np.round(centre - (self.spatial_size - 1) / 2).astype(int)
        for key in self.key_iterator(sample):
            is_label = key == self.label_key
            image, ids = _apart(sample[key], 0 if is_label else masks)
            patch = _crop(image, first, self.spatial_size, padding=0 if is_label else self.padding_value)
            if len(ids):
                patch = torch.cat([patch, _crop(ids, first, self.spatial_size, padding=0)])
            patch = patch.flip([axis + 1 for axis in flips])  # a copy, also without any axis
            sample[key] = patch if is_label else patch.float()
        return sample

    def _resample(
        self,
        sample: dict[Hashable, Any],
        centre: NDArray,
        matrix: NDArray,
        flips: Sequence[int],
        displacement: torch.Tensor | None,
        masks: int,
    ) -> dict[Hashable, Any]:
        matrix = matrix * [-1.0 if axis in flips else 1.0 for axis in range(3)]
        bent = np.zeros(3) if displacement is None else displacement.abs().amax(dim=(0, 1, 2)).numpy()
        # What the patch can reach, so that the rest of the volume need not be converted or looked at.
        reach = np.abs(matrix) @ ((self.spatial_size - 1) / 2) + bent + 2
        shape = np.array(sample[self.label_key].shape[1:])
        first = np.clip(np.floor(centre - reach), 0, shape - 1).astype(int)
        last = np.clip(np.ceil(centre + reach), first, shape - 1).astype(int)
        near = (slice(None), *(slice(a, b + 1) for a, b in zip(first, last, strict=True)))
        grid = self._grid(centre - first, matrix, displacement, last - first + 1)
        # Shifted by 1, so that 0 is left for what lies outside.
        label = _read(sample[self.label_key][near].float() + 1, grid, mode="nearest")
        outside = label == 0
        for key in self.key_iterator(sample):
            volume = sample[key]
            if key == self.label_key:
                sample[key] = (label - 1).clamp_(min=0).to(volume.dtype)
            else:
                image, ids = _apart(volume, masks)
                patch = _read(image[near].float(), grid, mode="bilinear").masked_fill_(outside, self.padding_value)
                sample[key] = torch.cat([patch, _read(ids[near].float(), grid, mode="nearest")]) if masks else patch
        return sample

    def _centre(
        self,
        indices: Sequence[NDArray | torch.Tensor],
        shape: NDArray,
        annotated: NDArray | torch.Tensor | None = None,
    ) -> NDArray:
        """Middle of the patch in voxels, such that it covers as much of the volume as it can."""
        half = (self.spatial_size - 1) / 2
        spare = (shape - self.spatial_size) / 2
        middle = (shape - 1) / 2
        present = [i for i in indices[1:] if len(i)]
        voxels = annotated
        if present and self.R.random() < self.foreground_prob:
            voxels = present[self.R.randint(len(present))]
        if voxels is not None and len(voxels):
            voxel = int(voxels[self.R.randint(len(voxels))])
            wanted = np.array(np.unravel_index(voxel, shape)) + self.R.uniform(-0.25, 0.25, 3) * (self.spatial_size - 1)
            # Whole steps from the grid's own positions, so that an undeformed patch is not blurred.
            wanted = np.round(wanted - half) + half
        else:
            places = np.abs(shape - self.spatial_size) + 1
            wanted = np.floor(self.R.uniform(0, 1, 3) * places) - np.abs(spare) + middle
        return np.clip(wanted, middle - np.abs(spare), middle + np.abs(spare))

    def _matrix(self) -> NDArray | None:
        """Rotation and scaling in mm, as it acts on voxel offsets; None where neither is drawn."""
        both = self.R.random() < self.affine_prob
        rotate = both if self.rotate_prob is None else self.R.random() < self.rotate_prob
        scale = both if self.scale_prob is None else self.R.random() < self.scale_prob
        angles = self.R.uniform(-1, 1, 3) * self.rotate_range
        factor = np.exp(self.R.uniform(-1, 1) * np.log1p(self.scale_range))
        # To turn about an axis moves the two others.
        angles = np.where([rotate and self.thin <= {axis} for axis in range(3)], angles, 0)
        factors = np.where([scale and axis not in self.thin for axis in range(3)], factor, 1)
        if not angles.any() and (factors == 1).all():
            return None
        return np.diag(1 / self.spacing) @ rotation_matrix(angles) @ np.diag(self.spacing * factors)

    def _grid(
        self, centre: NDArray, matrix: NDArray, displacement: torch.Tensor | None, shape: NDArray
    ) -> torch.Tensor:
        """Where each voxel of the patch is read in a volume of ``shape``, as ``grid_sample`` counts."""
        # It counts axes from the last, and places voxel centres at (2i + 1) / n - 1.
        steps = matrix * self.spatial_size / shape[:, None]
        middle = (2 * centre + 1) / shape - 1
        theta = np.column_stack([steps[::-1, ::-1], middle[::-1]])
        grid = F.affine_grid(
            torch.as_tensor(theta, dtype=torch.float32)[None], [1, 1, *self.spatial_size.tolist()], align_corners=False
        )
        if displacement is not None:
            grid = grid + (displacement * torch.as_tensor(2 / shape, dtype=torch.float32)).flip(-1)
        return grid

    def _displacement(self) -> torch.Tensor:
        """A smooth random displacement of every voxel, in voxels: shape (x, y, z, 3)."""
        extent_mm = (self.spatial_size - 1) * self.spacing
        cells = extent_mm / self.elastic_cell
        bases = [bspline_basis(n, count) for n, count in zip(self.spatial_size, cells, strict=True)]
        controls = self.R.normal(0, self.R.uniform(0, self.elastic_range), [*(b.shape[1] for b in bases), 3])
        controls = controls * [axis not in self.thin for axis in range(3)] / self.spacing
        field = torch.as_tensor(controls, dtype=torch.float32)
        # One axis after another: a single einsum over all of them would build their outer product.
        for basis, equation in zip(bases, ("xa,abcd->xbcd", "yb,xbcd->xycd", "zc,xycd->xyzd"), strict=True):
            field = torch.einsum(equation, torch.as_tensor(basis, dtype=torch.float32), field)
        return field


def rotation_matrix(angles: Sequence[float] | NDArray) -> NDArray:
    """Rotation about the first, then the second, then the third axis, by ``angles`` in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def bspline_basis(points: int, cells: float) -> NDArray:
    """Weights of uniform cubic B-spline control points at ``points`` places spread evenly over ``cells`` cells.

    Shape (points, controls), scaled so that controls of standard deviation 1 give displacements of about 1.

    >>> bspline_basis(9, 2.0).shape
    (9, 5)
    """
    cells = max(cells, 1e-6)
    position = np.linspace(0, cells, points) if points > 1 else np.zeros(1)
    distance = np.abs(position[:, None] - (np.arange(int(np.ceil(cells)) + 3) - 1)[None, :])
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    basis = np.where(distance < 1, near, far)
    return basis / np.sqrt((basis**2).sum(axis=1, keepdims=True))


def thin_axes(size: Sequence[int] | NDArray, *, threshold: float = THIN) -> set[int]:
    """Axes along which a patch has few slices: the shortest, if the longest is over ``threshold`` times as long.

    Axes of one voxel always are.

    >>> thin_axes((128, 128, 20)), thin_axes((64, 64, 32)), thin_axes((64, 1, 64))
    ({2}, set(), {1})
    """
    sizes = [int(n) for n in size]
    thin = {axis for axis, n in enumerate(sizes) if n == 1}
    return thin | ({sizes.index(min(sizes))} if max(sizes) > threshold * min(sizes) else set())


def _apart(volume: torch.Tensor, masks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The image's channels, and its last ``masks`` ones, which hold label ids."""
    first = len(volume) - masks
    return volume[:first], volume[first:]


def _crop(volume: torch.Tensor, first: NDArray, size: NDArray, *, padding: float) -> torch.Tensor:
    """``size`` voxels from ``first``, which may lie outside: there is ``padding``."""
    shape = np.array(volume.shape[1:])
    start, stop = np.clip(first, 0, shape), np.clip(first + size, 0, shape)
    inside = volume[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    if (stop - start == size).all():
        return inside
    before, after = start - first, first + size - stop
    return F.pad(inside, [int(n) for pair in zip(before[::-1], after[::-1], strict=True) for n in pair], value=padding)


def _read(volume: torch.Tensor, grid: torch.Tensor, *, mode: Literal["nearest", "bilinear"]) -> torch.Tensor:
    """Labels are 0 outside the volume; images go on there as at its border."""
    padding = "zeros" if mode == "nearest" else "border"
    return F.grid_sample(volume[None], grid, mode=mode, padding_mode=padding, align_corners=False)[0]
