"""One random map of the plane for an image, its masks and its boxes: drawn once, applied to each, interpolated once.

torchvision's transforms resample an image once for each of rotation, crop and distortion, and move boxes through an
elastic deformation by looking it up at whole pixels. Here all of it is one map, and boxes follow it to a fraction of a
pixel.

Coordinates are (x, y) in pixels from the top left corner of the image, so that pixel centres lie at halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from numpy.typing import NDArray

__all__ = ["Warp", "draw_warp", "warp_boxes", "warp_image"]

ELASTIC_CELLS = 6
"""Control points of an elastic deformation along the longer side of the image."""

GRID_CELLS = 5
"""Cells of a grid distortion along each side, as in Albumentations."""

EDGE_POINTS = 9
"""Points of each side of a box that are followed through a deformation."""


@dataclass(frozen=True)
class Warp:
    """A map from points of the result to points of the image: an affine one, and a displacement upon it.

    Attributes:
        size: rows and columns, of the image and of the result.
        matrix: 2×3, result → image, in pixels.
        displacement: (2, rows, columns), x and y in pixels of the image, at the centres of the result's pixels; None
            where nothing is bent.
        flips_alone: mirrored left-right and top-bottom, where that is all.
    """

    size: tuple[int, int]
    matrix: NDArray[np.float64]
    displacement: torch.Tensor | None = None
    flips_alone: tuple[bool, bool] | None = None

    def sources(self) -> torch.Tensor:
        """Where in the image each pixel of the result is read: (rows, columns, 2)."""
        rows, columns = self.size
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        matrix = torch.from_numpy(self.matrix).float()
        points = torch.stack([x, y], dim=-1) @ matrix[:, :2].T + matrix[:, 2]
        return points if self.displacement is None else points + self.displacement.permute(1, 2, 0)

    def targets(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points (n, 2) of the image come to lie in the result, inside it or not."""
        linear, shift = np.linalg.inv(self.matrix[:, :2]), self.matrix[:, 2]
        moved = (points - shift) @ linear.T
        if self.displacement is None:
            return moved
        # The displacement is smooth and small, so that this converges by a factor each time.
        for _ in range(8):
            moved = (points - shift - _read(self.displacement, moved)) @ linear.T
        return moved


def _read(displacement: torch.Tensor, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The displacement (n, 2) at points of the result; outside it, that of its edge."""
    rows, columns = displacement.shape[1:]
    at = torch.from_numpy(points / (columns, rows) * 2 - 1).float()[None, None]
    found = F.grid_sample(displacement[None], at, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0, :, 0].T.double().numpy()


def draw_warp(
    random: RandomState,
    size: tuple[int, int],
    *,
    flips: tuple[bool, bool] = (False, False),
    rotation_degrees: float = 0.0,
    scale_crop: float = 0.0,
    elastic: float = 0.0,
    grid_distortion: float = 0.0,
) -> Warp:
    """Draw a map with the given strengths; see ``RandAugment2Dd``."""
    rows, columns = size
    angle = math.radians(random.uniform(-rotation_degrees, rotation_degrees))
    zoom = math.exp(random.uniform(-1, 1) * math.log1p(scale_crop))
    matrix = np.zeros((2, 3))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[:, :2] = turn / zoom @ np.diag([-1.0 if flip else 1.0 for flip in flips])
    # Enlarged, the window lies anywhere in the image; made smaller, the image lies anywhere in the window.
    slack = np.abs(1 - 1 / zoom) * np.array([columns, rows])
    centre = np.array([columns, rows]) / 2
    shift = random.uniform(-0.5, 0.5, 2) * slack if scale_crop else np.zeros(2)
    matrix[:, 2] = centre + shift - matrix[:, :2] @ centre
    bent = torch.zeros(2, rows, columns)
    bent += _elastic(random, size, elastic) if elastic else 0
    bent += _grid_distortion(random, size, grid_distortion) if grid_distortion else 0
    plain = not (rotation_degrees or scale_crop or elastic or grid_distortion)
    return Warp(size, matrix, bent if elastic or grid_distortion else None, flips if plain else None)


def _elastic(random: RandomState, size: tuple[int, int], strength: float) -> torch.Tensor:
    """Smooth random displacement, with a standard deviation of ``strength`` times the longer side."""
    longest = max(size)
    cells = [max(2, round(ELASTIC_CELLS * side / longest)) + 1 for side in size]
    # Cut at two standard deviations: rare large ones would fold the image.
    points = np.clip(random.normal(0, 1, (1, 2, *cells)), -2, 2) * strength * longest
    smooth = F.interpolate(torch.from_numpy(points).float(), size=size, mode="bicubic", align_corners=True)
    return smooth[0]


def _grid_distortion(random: RandomState, size: tuple[int, int], strength: float) -> torch.Tensor:
    """Rows and columns of a grid stretched by up to ``strength``; the image's outline stays where it is."""
    rows, columns = size
    x = _stretched(random, columns, strength) - (np.arange(columns) + 0.5)
    y = _stretched(random, rows, strength) - (np.arange(rows) + 0.5)
    displacement = np.stack([np.broadcast_to(x, (rows, columns)), np.broadcast_to(y[:, None], (rows, columns))])
    return torch.from_numpy(displacement.astype(np.float32))


def _stretched(random: RandomState, length: int, strength: float) -> NDArray[np.float64]:
    steps = 1 + random.uniform(-strength, strength, GRID_CELLS)
    knots = np.concatenate([[0.0], np.cumsum(steps)]) * (length / steps.sum())
    return np.interp(np.arange(length) + 0.5, np.linspace(0, length, GRID_CELLS + 1), knots)


def warp_image(
    image: torch.Tensor,
    warp: Warp,
    *,
    nearest: bool = False,
    padding: Literal["zeros", "border", "reflection"] = "zeros",
) -> torch.Tensor:
    """The result of ``warp`` for an image or mask (channel, row, column), of the same type.

    Args:
        nearest: for masks: no value appears that was not there.
        padding: outside the image: zeros, its edge, or its mirror image.
    """
    if warp.flips_alone is not None:
        axes = [axis for axis, flip in zip((-1, -2), warp.flips_alone, strict=True) if flip]
        return torch.flip(image, axes) if axes else image
    rows, columns = warp.size
    at = warp.sources() / torch.tensor([columns, rows]) * 2 - 1
    # float64 holds every label id and every 16-bit value.
    pixels = image.double() if image.dtype not in (torch.float32, torch.uint8) else image.float()
    mode = "nearest" if nearest else "bilinear"
    read = F.grid_sample(pixels[None], at[None].to(pixels.dtype), mode=mode, padding_mode=padding, align_corners=False)
    return read[0].to(image.dtype)


def warp_boxes(
    xyxy: NDArray[np.float32], warp: Warp, *, outline: Literal["corners", "ellipse"] = "corners"
) -> NDArray[np.float32]:
    """Boxes (n, 4) around where ``warp`` takes the given ones; they may reach out of the image.

    Args:
        outline: what a box is taken to hold: all of itself, or the ellipse in it. Turned, the box around a box's
            corners is larger than what was in it; for roundish objects such as cells the ellipse is nearer (Kalra et
            al. 2021, Towards Rotation Invariance in Object Detection).
    """
    if not len(xyxy):
        return xyxy
    unit = _outline(outline)
    left_top, size = xyxy[:, None, :2].astype(np.float64), (xyxy[:, None, 2:] - xyxy[:, None, :2]).astype(np.float64)
    points = left_top + unit[None] * size
    moved = warp.targets(points.reshape(-1, 2)).reshape(points.shape)
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)


def _outline(outline: Literal["corners", "ellipse"]) -> NDArray[np.float64]:
    """Points (n, 2) around the unit square, or the circle in it."""
    if outline == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 4 * (EDGE_POINTS - 1), endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    side = np.linspace(0, 1, EDGE_POINTS)
    ends = np.zeros_like(side), np.ones_like(side)
    return np.concatenate([np.stack(pair, axis=1) for end in ends for pair in ((side, end), (end, side))])
