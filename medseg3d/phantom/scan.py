"""Which part of the world is imaged and how it is stored; the patient's own coordinates, and smooth noise in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.geometry import Affine
from medseg3d.phantom.model import AXIAL, REFORMATTED, Field, PhantomCase, Size

__all__ = ["Scan", "Space", "draw_head_scan", "draw_scan", "make_space", "rotation_of", "store"]


@dataclass(frozen=True)
class Scan:
    size: Size
    spacing_mm: NDArray[np.float64]
    affine: Affine  # of the grid before it is put into its stored order
    stored_as: str

    @property
    def extent_mm(self) -> NDArray[np.float64]:
        return self.spacing_mm * self.size


def draw_scan(rng: np.random.Generator, size: Size) -> Scan:
    in_plane_mm = rng.uniform(350, 450)
    bottom_mm, top_mm = rng.uniform(-190, -120), rng.uniform(95, 180)
    extent_mm = np.array([in_plane_mm, in_plane_mm * size[1] / size[0], top_mm - bottom_mm])
    # A grid that is not square must still show the whole body from back to front.
    extent_mm[1] = max(extent_mm[1], 300.0)
    spacing = np.round(extent_mm / size, 4)
    centre = np.array([rng.uniform(-22, 22), rng.uniform(-22, 22), (bottom_mm + top_mm) / 2])
    oblique = rng.random() < 0.35
    rotation = rotation_of(rng.uniform(-8, 8, 3)) if oblique else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return Scan(size, spacing, affine, str(rng.choice(AXIAL if rng.random() < 0.75 else REFORMATTED)))


def draw_head_scan(rng: np.random.Generator, size: Size) -> Scan:
    """A head, from vertex to skull base, in an axis-parallel box as co-registration leaves it."""
    extent_mm = np.array([150.0, 186.0, 136.0]) * rng.uniform(0.98, 1.05)
    spacing = np.round(extent_mm / size, 4)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = rng.uniform(-3, 3, 3) - spacing * ((np.array(size) - 1) / 2)
    return Scan(size, spacing, affine, str(rng.choice(AXIAL)))


def rotation_of(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def store(scan: Scan, image: NDArray[Any], label: NDArray[np.uint8]) -> PhantomCase:
    """Permute and flip the axes into the order of the file; every voxel stays where it is in the world.

    ``image`` may have a first axis of channels.
    """
    from nibabel import orientations as o

    turn = o.ornt_transform(o.axcodes2ornt("RAS"), o.axcodes2ornt(scan.stored_as))
    affine = scan.affine @ o.inv_ornt_aff(turn, scan.size)
    label = np.ascontiguousarray(o.apply_orientation(label, turn))
    channels = [np.ascontiguousarray(o.apply_orientation(c, turn)) for c in (image if image.ndim == 4 else image[None])]
    return PhantomCase(np.stack(channels) if image.ndim == 4 else channels[0], label, affine)


@dataclass(frozen=True)
class Space:
    """Patient coordinates in mm: x to the right, y to the front, z to the head, 0 at the first lumbar vertebra."""

    x: Field
    y: Field
    z: Field
    scan: Scan

    def noise(self, rng: np.random.Generator, period_mm: float) -> Field:
        """A random field of mean 0 and standard deviation 1 that changes over about ``period_mm``."""
        return _smooth_noise(rng, self.scan, period_mm)


def make_space(rng: np.random.Generator, scan: Scan) -> Space:
    pose = rotation_of(rng.normal(0, (3, 3, 7), 3)) * rng.uniform(0.92, 1.08, 3)
    to_patient = pose @ scan.affine[:3, :3]
    offset = pose @ scan.affine[:3, 3]
    i, j, k = (np.arange(n, dtype=np.float32) for n in scan.size)
    bend_mm = rng.uniform(3, 7)
    x, y, z = (
        (row[0] * i[:, None, None] + row[1] * j[:, None] + (row[2] * k + shift)).astype(np.float32)
        + np.float32(bend_mm) * _smooth_noise(rng, scan, 80.0)
        for row, shift in zip(to_patient, offset, strict=True)
    )
    return Space(x, y, z, scan)


def _smooth_noise(rng: np.random.Generator, scan: Scan, period_mm: float) -> Field:
    """Cubic B-splines on a coarse grid of normal numbers: one small matrix product an axis."""
    weights = [_spline_weights(n, extent, period_mm) for n, extent in zip(scan.size, scan.extent_mm, strict=True)]
    wx, wy, wz = weights
    coarse = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    field = np.einsum("jb,iba->ija", wy, np.tensordot(wx, coarse, 1), optimize=True) @ wz.T
    # The mean square of the cubic B-spline is 151/315 an axis.
    return np.asarray(field / np.float32((151 / 315) ** 1.5), dtype=np.float32)


def _spline_weights(voxels: int, extent_mm: float, period_mm: float) -> Field:
    position = (np.arange(voxels) + 0.5) * (extent_mm / voxels / period_mm)
    knots = np.arange(-1, int(extent_mm / period_mm) + 3)
    t = np.abs(position[:, None] - knots)
    inner, outer = (4 - 6 * t**2 + 3 * t**3) / 6, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, inner, outer).astype(np.float32)
