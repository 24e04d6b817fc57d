"""Random patches: where, how turned, scaled, bent and mirrored, in one resampling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray

from medseg3d.errors import UsageError

__all__ = ["RandSpatialPatchd", "bspline_basis", "rotation_matrix"]


class RandSpatialPatchd(Randomizable, MapTransform):
    """Cut a random patch from a volume, with rotation, scaling, elastic bending and mirroring in one interpolation.

    The same as crop, affine, elastic deformation and flips one after another, with two differences. The patch is read
    from the whole volume, so turning it brings in the tissue around it instead of padding. And it costs one pass over
    the patch instead of several.

    Rotations and deformations are in millimetres, so they are rigid and smooth on anisotropic grids too. Images are
    interpolated linearly, labels by nearest neighbour. Outside the volume images are ``padding_value`` and labels 0.

    Args:
        keys: entries of shape (channel, x, y, z), all on one grid.
        spatial_size: voxels of the patch. An axis of 1 makes it a slice, which is turned and bent only in its plane.
        label_key: entry with labels, among ``keys``.
        indices_key: entry with the flat voxel indices of each class, background first, as MONAI's ``ClassesToIndicesd``
            gives them.
        foreground_prob: probability that the patch is centred on a voxel of a label, each label in the image being as
            likely as the others (nnU-Net forces a third). The other patches lie anywhere.
        spacing: voxel size in mm.
        rotate_range: largest angle about each axis in radians.
        scale_range: largest relative change of size, e.g. 0.2 for 0.8 to 1.25 times.
        affine_prob: probability of rotating and scaling.
        elastic_range: largest standard deviation of the deformation in mm.
        elastic_cell: distance in mm between the control points of its cubic B-spline; a standard deviation of up to a
            fifth of it folds no tissue in practice.
        elastic_prob: probability of deforming.
        flip_axes: axes mirrored with probability ½ each.
        padding_value: of images outside the volume.
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
        elastic_range: float = 0.0,
        elastic_cell: float = 16.0,
        elastic_prob: float = 0.0,
        flip_axes: Sequence[int] = (),
        padding_value: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.spatial_size = np.array(spatial_size, dtype=int)
        self.label_key, self.indices_key = label_key, indices_key
        self.foreground_prob = foreground_prob
        self.spacing = np.array(spacing, dtype=float)
        self.rotate_range, self.scale_range, self.affine_prob = np.array(rotate_range), scale_range, affine_prob
        self.elastic_range, self.elastic_cell, self.elastic_prob = elastic_range, elastic_cell, elastic_prob
        self.flip_axes = tuple(flip_axes)
        self.padding_value = padding_value
        if len(self.spatial_size) != 3 or (self.spatial_size < 1).any():
            raise UsageError(f"spatial_size is {list(spatial_size)}; a patch has three sizes of at least 1 voxel.")
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise UsageError(f"flip_axes is {list(flip_axes)}; a volume has the axes 0, 1 and 2.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        shape = np.array(sample[self.label_key].shape[1:])
        points = self._points(self._centre(sample[self.indices_key], shape))
        del sample[self.indices_key]
        index = points.round().long()
        inside = ((index >= 0) & (index < torch.from_numpy(shape))).all(dim=-1)
        for key in self.key_iterator(sample):
            if key == self.label_key:
                sample[key] = _nearest(sample[key], index, inside)
            else:
                sample[key] = _linear(sample[key], points).masked_fill_(~inside, self.padding_value)
        return sample

    def _centre(self, indices: Sequence[NDArray | torch.Tensor], shape: NDArray) -> NDArray:
        """Middle of the patch in voxels, such that it covers as much of the volume as it can."""
        half = (self.spatial_size - 1) / 2
        spare = (shape - self.spatial_size) / 2
        middle = (shape - 1) / 2
        present = [i for i in indices[1:] if len(i)]
        if present and self.R.random() < self.foreground_prob:
            voxels = present[self.R.randint(len(present))]
            voxel = int(voxels[self.R.randint(len(voxels))])
            wanted = np.array(np.unravel_index(voxel, shape)) + self.R.uniform(-0.25, 0.25, 3) * (self.spatial_size - 1)
            # Whole steps from the grid's own positions, so that an undeformed patch is not blurred.
            wanted = np.round(wanted - half) + half
        else:
            places = np.abs(shape - self.spatial_size) + 1
            wanted = np.floor(self.R.uniform(0, 1, 3) * places) - np.abs(spare) + middle
        return np.clip(wanted, middle - np.abs(spare), middle + np.abs(spare))

    def _points(self, centre: NDArray) -> torch.Tensor:
        """Where each voxel of the patch is read, in voxels of the volume: shape (x, y, z, 3)."""
        matrix = self._matrix() if self.R.random() < self.affine_prob else np.eye(3)
        signs = [-1.0 if axis in self.flip_axes and self.R.random() < 0.5 else 1.0 for axis in range(3)]
        axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in self.spatial_size]
        columns = torch.as_tensor(matrix @ np.diag(signs), dtype=torch.float32)
        points = torch.as_tensor(centre, dtype=torch.float32) + sum(
            axis.reshape([-1 if i == d else 1 for i in range(3)] + [1]) * columns[:, d] for d, axis in enumerate(axes)
        )
        if self.R.random() < self.elastic_prob:
            points = points + self._displacement()
        return points

    def _matrix(self) -> NDArray:
        """Rotation and scaling in mm, as it acts on voxel offsets."""
        angles = self.R.uniform(-1, 1, 3) * self.rotate_range
        for thin in np.flatnonzero(self.spatial_size == 1):
            angles[[a for a in range(3) if a != thin]] = 0
        factor = np.exp(self.R.uniform(-1, 1) * np.log1p(self.scale_range))
        return np.diag(1 / self.spacing) @ rotation_matrix(angles) @ np.diag(self.spacing) * factor

    def _displacement(self) -> torch.Tensor:
        """A smooth random displacement of every voxel, in voxels: shape (x, y, z, 3)."""
        extent_mm = (self.spatial_size - 1) * self.spacing
        cells = extent_mm / self.elastic_cell
        bases = [bspline_basis(n, count) for n, count in zip(self.spatial_size, cells, strict=True)]
        controls = self.R.normal(0, self.R.uniform(0, self.elastic_range), [*(b.shape[1] for b in bases), 3])
        controls = controls * (self.spatial_size > 1) / self.spacing
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


def _nearest(label: torch.Tensor, index: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    _, ny, nz = label.shape[1:]
    flat = (index[..., 0] * ny + index[..., 1]) * nz + index[..., 2]
    values = label.reshape(label.shape[0], -1)[:, flat.masked_fill_(~inside, 0).reshape(-1)]
    return values.reshape(label.shape[0], *inside.shape).masked_fill_(~inside, 0)


def _linear(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    sizes = torch.tensor(image.shape[1:], dtype=torch.float32)
    # grid_sample counts axes from the last and places voxel centres at (2i + 1) / n - 1.
    grid = ((2 * points + 1) / sizes - 1).flip(-1)
    batch = image[None].float()
    return F.grid_sample(batch, grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
