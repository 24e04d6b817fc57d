"""A case made ready to be looked at: in RAS+ order, cut to what matters, grey values in 256 levels. Arrays only."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.geometry import Affine, spacing_mm

__all__ = [
    "Grid",
    "Sheet",
    "canonical",
    "colour_levels",
    "encode_sheet",
    "grey_levels",
    "indexed",
    "onto_grid",
    "reduced",
    "windows",
]

# Hounsfield units below this are air outside the patient; no MR, PET or label map has them.
AIR_HU = -300
# Where CT is looked at closely: 160 of 256 levels, 3.75 HU apart, lie here.
SOFT_TISSUE_HU = (-250.0, 350.0)
CT_WINDOWS = (
    ("Soft tissue", -160.0, 240.0), ("Lung", -1350.0, 150.0), ("Bone", -500.0, 1300.0), ("Liver", -45.0, 105.0),
    ("Brain", 0.0, 80.0),
)  # fmt: skip
MARGIN_MM = 25.0


@dataclass(frozen=True)
class Grid:
    """Volumes of one shape and one affine (RAS+ mm).

    Attributes:
        image: grey values, or colours along a fourth axis; None where there is no image.
        maps: label maps by the name under which they are shown, such as ``"reference"`` and ``"prediction"``.
        affine: voxel index → millimetres.
    """

    image: NDArray[Any] | None
    maps: Mapping[str, NDArray[Any]]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_mm(self.affine)

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.maps.values())).shape

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Voxels that are labelled in any map."""
        return np.logical_or.reduce([voxels > 0 for voxels in self.maps.values()])

    def changed(self, change: Callable[[NDArray[Any]], NDArray[Any]], affine: Affine) -> Grid:
        """The grid with ``change`` done to each of its volumes."""
        image = None if self.image is None else change(self.image)
        return Grid(image, {name: change(voxels) for name, voxels in self.maps.items()}, affine)


@dataclass(frozen=True)
class Sheet:
    """Axial slices beside and below each other in one picture: a data URL, and how many stand in a row."""

    url: str
    columns: int


def canonical(grid: Grid) -> Grid:
    """Turn axes so that they grow towards right, anterior and superior as nearly as their order and signs allow.

    No voxel is interpolated: on an oblique grid the planes are the scanner's own, and the letters at their sides name
    the nearest direction.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    turn = io_orientation(grid.affine)
    affine = grid.affine @ inv_ornt_aff(turn, grid.shape)
    return grid.changed(lambda voxels: apply_orientation(voxels, turn), affine)


def onto_grid(
    voxels: NDArray[Any], affine: Affine, *, like: Affine, shape: Sequence[int], linear: bool
) -> NDArray[Any]:
    """Resample onto another grid, by nearest neighbour or linearly; outside its own it is its lowest value."""
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(affine) @ like
    values = voxels.astype(np.float32) if linear else voxels
    low = values.min(initial=0)
    return affine_transform(values, matrix, output_shape=tuple(shape), order=int(linear), mode="constant", cval=low)


def reduced(grid: Grid, *, max_voxels: int) -> Grid:
    """Cut to the labels with a margin, then join voxels, until at most ``max_voxels`` are left.

    A grid that is small enough stays whole. Joining starts on the axis with the finest voxels; images are averaged,
    label maps keep the voxel at the middle of each block.
    """
    if np.prod(grid.shape) > max_voxels:
        grid = _cut(grid)
    factors = np.ones(3, int)
    while np.prod([-(-n // f) for n, f in zip(grid.shape, factors, strict=True)]) > max_voxels:
        # An axis that is one block already, such as the third of a 2D image, has nothing left to join.
        factors[np.argmin(np.where(factors < grid.shape, np.array(grid.spacing_mm) * factors, np.inf))] += 1
    return _joined(grid, factors) if factors.max() > 1 else grid


def _cut(grid: Grid) -> Grid:
    labelled = grid.labelled
    if not labelled.any():
        return grid
    ranges = []
    for axis in range(3):
        along = np.nonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))[0]
        margin = int(MARGIN_MM / grid.spacing_mm[axis])
        ranges.append((max(0, int(along[0]) - margin), min(labelled.shape[axis], int(along[-1]) + margin + 1)))
    offset = np.eye(4)
    offset[:3, 3] = [low for low, _ in ranges]
    box = tuple(slice(low, high) for low, high in ranges)
    return grid.changed(lambda voxels: voxels[box], grid.affine @ offset)


def _joined(grid: Grid, factors: NDArray[np.integer]) -> Grid:
    middle = tuple(slice(int(f) // 2, None, int(f)) for f in factors)
    shape = [len(range(*part.indices(n))) for part, n in zip(middle, grid.shape, strict=True)]
    scale = np.diag([*factors.astype(float), 1.0])
    scale[:3, 3] = (factors - 1) / 2
    affine = grid.affine @ scale
    image = None if grid.image is None else _block_mean(grid.image, factors, shape)
    return replace(grid.changed(lambda voxels: voxels[middle], affine), image=image)


def _block_mean(image: NDArray[Any], factors: NDArray[np.integer], shape: Sequence[int]) -> NDArray[np.float32]:
    """Means of blocks; the last block of an axis is filled up with its last voxel."""
    wanted = [n * int(f) for n, f in zip(shape, factors, strict=True)]
    cropped = image[tuple(slice(0, n) for n in wanted)].astype(np.float32)
    missing = [(0, n - m) for n, m in zip(wanted, cropped.shape, strict=False)]
    padded = np.pad(cropped, [*missing, *((0, 0) for _ in image.shape[3:])], mode="edge")
    parts = [part for n, f in zip(shape, factors, strict=True) for part in (n, int(f))]
    return padded.reshape([*parts, *image.shape[3:]]).mean(axis=(1, 3, 5))


def indexed(voxels: NDArray[Any], ids: Sequence[int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Label ids as places in ``ids``, counted from 1; what is not among them becomes 0."""
    table = np.zeros(1 + max(int(voxels.max(initial=0)), *ids, 0), np.uint8 if len(ids) < 256 else np.uint16)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return table[voxels]


def is_ct(image: NDArray[Any]) -> bool:
    """Whether values look like Hounsfield units: air is at least 1 % of any scan of a body."""
    return bool(np.percentile(image, 1) < AIR_HU)


def grey_levels(image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The image in 256 levels, and the value that each level stands for.

    CT gets most of them where soft tissue lies; other images spread them evenly between their 0.1st and 99.9th
    percentiles. Values that are not finite count as the lowest.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8), np.arange(256, dtype=np.float32)
    image = np.nan_to_num(image, nan=finite.min(), posinf=finite.max(), neginf=finite.min())
    if is_ct(image):
        low, high = SOFT_TISSUE_HU
        parts = (np.linspace(-1024, low, 48, False), np.linspace(low, high, 160, False), np.linspace(high, 2000, 48))
        levels = np.concatenate(parts)
    else:
        low, high = np.percentile(image, (0.1, 99.9))
        levels = np.linspace(low, high if high > low else low + 1, 256)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, image)
    return nearest.astype(np.uint8), levels.astype(np.float32)


def colour_levels(image: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colours in 256 levels of their whole range, alike for red, green and blue, so that hues stay as they are.

    >>> levels, values = colour_levels(np.array([0, 20, 255], np.uint8))
    >>> levels.tolist(), values[20].item()
    ([0, 20, 255], 20.0)
    """
    finite = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = min(float(finite.min(initial=0)), 0.0), float(finite.max(initial=0))
    high = max(high, 255.0) if high > 1 else 1.0  # whole numbers, or shares
    values = np.linspace(low, high, 256, dtype=np.float32)
    return np.rint((finite - low) / (high - low) * 255).astype(np.uint8), values


def windows(image: NDArray[Any]) -> list[Mapping[str, Any]]:
    """Windows to choose from, the first to begin with: ``name``, ``low``, ``high`` in the image's own values."""
    values = image[np.isfinite(image)]
    if not values.size:
        return [{"name": "All", "low": 0.0, "high": 1.0}]
    if is_ct(values):
        return [{"name": name, "low": low, "high": high} for name, low, high in CT_WINDOWS]
    shares: tuple[tuple[str, float, float], ...] = (("1–99 %", 1, 99), ("5–95 %", 5, 95), ("0.1–99.9 %", 0.1, 99.9))
    return [_window(name, *np.percentile(values, (low, high))) for name, low, high in shares]


def _window(name: str, low: float, high: float) -> Mapping[str, Any]:
    """A flat image has a window of some width as well."""
    return {"name": name, "low": float(low), "high": float(max(high, low + 1e-6 * (1 + abs(low))))}


def encode_sheet(levels: NDArray[np.uint8], *, max_bytes: int) -> Sheet:
    """Write a volume as one picture: PNG where that fits, else JPEG, worse the less room there is.

    Args:
        levels: (x, y, z); slices along z are laid out row by row, each with y downwards and x to the right.
        max_bytes: of the file, before base64 makes it a third larger. JPEG at its lowest quality may exceed it.
    """
    from PIL import Image

    nx, ny, nz = levels.shape
    columns = max(1, min(nz, round((nz * ny / nx) ** 0.5)))
    rows = -(-nz // columns)
    tiles = np.zeros((rows * columns, ny, nx), np.uint8)
    tiles[:nz] = levels.transpose(2, 1, 0)
    picture = Image.fromarray(
        tiles.reshape(rows, columns, ny, nx).transpose(0, 2, 1, 3).reshape(rows * ny, columns * nx)
    )
    options: list[tuple[str, dict[str, Any]]] = [("png", {"compress_level": 9})]
    options += [("jpeg", {"quality": quality}) for quality in (92, 85, 75, 60, 45)]
    for kind, option in options:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **option)
        if buffer.tell() <= max_bytes:
            break
    return Sheet(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", columns)
