"""2D segmentation in pictures: image | truth | prediction, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.report.figures import PALETTE

__all__ = ["colour_table", "in_eight_bits", "mask_panel"]

OPACITY = 0.45
GAP = 6  # pixels between the pictures
SHOWN = 512  # pixels of the longest side, at most
LEGIBLE = 256  # smaller pictures are enlarged by whole numbers up to this


def mask_panel(
    image: NDArray[Any],
    masks: Sequence[NDArray[np.bool_] | None],
    *,
    longest_side: int = SHOWN,
) -> NDArray[np.uint8]:
    """The image, and beside it the image under each of ``masks``: (rows, columns, 3), 8 bits.

    Each label has its colour, by its place; its outline is opaque and its inside lets the image through.

    Args:
        image: (channel, row, column), of any values; one channel, or the first three as red, green and blue.
        masks: (label, row, column) each, such as the truth's and the prediction's; None leaves the place out.

    >>> mask_panel(np.zeros((1, 128, 128)), [np.ones((2, 128, 128), bool), None]).shape
    (256, 518, 3)
    """
    factor = max(1, -(-max(image.shape[1:]) // longest_side))
    enlarged = max(1, min(LEGIBLE, longest_side) // max(1, *image.shape[1:]))
    picture = in_eight_bits(image)[::factor, ::factor]
    shown = [picture, *(_under(picture, mask[:, ::factor, ::factor]) for mask in masks if mask is not None)]
    shown = [one.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for one in shown]
    gap = np.full((len(shown[0]), GAP, 3), 255, np.uint8)
    parts = [part for one in shown for part in (one, gap)][:-1]
    return np.concatenate(parts, axis=1)


def in_eight_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (channel, row, column) between its 1st and 99th percentiles, as (row, column, 3).

    >>> in_eight_bits(np.array([[[0.0, 1.0]]])).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    pixels = np.moveaxis(np.asarray(image[:3] if len(image) >= 3 else image[:1], np.float32), 0, -1)
    low, high = np.percentile(pixels, (1, 99)) if pixels.size else (0.0, 1.0)
    scaled = np.clip((pixels - low) / max(float(high - low), 1e-9), 0, 1)
    return np.broadcast_to(np.round(scaled * 255).astype(np.uint8), (*pixels.shape[:2], 3)).copy()


def colour_table(count: int) -> NDArray[np.uint8]:
    """Colours (count, 3) of labels by their place; after the last of the palette it starts over."""
    hexes = [PALETTE[i % len(PALETTE)].lstrip("#") for i in range(count)]
    return np.array([[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in hexes], np.uint8).reshape(count, 3)


def _under(picture: NDArray[np.uint8], layers: NDArray[np.bool_]) -> NDArray[np.uint8]:
    from scipy import ndimage

    shown = picture.astype(np.float32)
    for layer, colour in zip(layers, colour_table(len(layers)).astype(np.float32), strict=True):
        outline = layer & ~ndimage.binary_erosion(layer)
        shown[layer] = (1 - OPACITY) * shown[layer] + OPACITY * colour
        shown[outline] = colour
    return np.round(shown).astype(np.uint8)
