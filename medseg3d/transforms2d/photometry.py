"""Random changes of brightness, colour, sharpness and contrast: of images alone, with values from 0 to 1."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import RandomState

__all__ = ["blurred", "clahe", "erased", "jittered"]

HUE_SHARE = 0.125
"""Hue turns by this much of the jitter's strength: 0.4 gives ±0.05 of the circle; stains must stay recognisable."""

TILES = 8
"""CLAHE's tiles along each side."""

ERASED_ASPECT = (0.3, 3.3)
"""Height over width of an erased rectangle (Zhong et al. 2020, Random Erasing)."""


def jittered(image: torch.Tensor, random: RandomState, strength: float) -> torch.Tensor:
    """Brightness, contrast and saturation times 1 ± ``strength``, and hue turned, by torchvision.

    Brightness and contrast alone where there are no colours.
    """
    from torchvision.transforms.v2 import functional

    brightness, contrast, saturation = random.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    hue = random.uniform(-1, 1) * min(0.5, HUE_SHARE * strength)
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    if len(image) == 3 and not torch.equal(image[0], image[1]):
        image = functional.adjust_hue(functional.adjust_saturation(image, saturation), hue)
    return image


def blurred(image: torch.Tensor, random: RandomState, largest_sigma_px: float) -> torch.Tensor:
    """Gaussian blur of a standard deviation of up to ``largest_sigma_px``."""
    from torchvision.transforms.v2 import functional

    sigma = max(random.uniform(0, largest_sigma_px), 1e-3)
    half = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)  # reflected at the edge, so smaller than the image
    return image if half < 1 else functional.gaussian_blur(image, [2 * half + 1] * 2, [sigma] * 2)


def erased(image: torch.Tensor, random: RandomState, largest_share: float) -> torch.Tensor:
    """A rectangle of up to ``largest_share`` of the image's area replaced by the image's mean."""
    rows, columns = image.shape[1:]
    area = random.uniform(0, largest_share) * rows * columns
    aspect = math.exp(random.uniform(*np.log(ERASED_ASPECT)))
    height, width = min(rows, round(math.sqrt(area * aspect))), min(columns, round(math.sqrt(area / aspect)))
    top, left = random.randint(0, rows - height + 1), random.randint(0, columns - width + 1)
    changed = image.clone()
    changed[:, top : top + height, left : left + width] = image.mean(dim=(1, 2), keepdim=True)
    return changed


def clahe(image: torch.Tensor, random: RandomState, largest_clip: float) -> torch.Tensor:
    """Contrast-limited adaptive histogram equalisation with a clip limit from 1 to ``largest_clip``; of lightness.

    16 bits of it are used, so that no levels are lost. Source: OpenCV; Zuiderveld 1994.
    """
    import cv2

    clip = random.uniform(1, max(largest_clip, 1))
    equalise = cv2.createCLAHE(clipLimit=clip, tileGridSize=(TILES, TILES)).apply
    pixels = np.clip(np.moveaxis(image.numpy(), 0, -1), 0, 1).astype(np.float32)
    if pixels.shape[-1] == 3 and (pixels != pixels[..., :1]).any():
        lab = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2LAB)  # lightness from 0 to 100
        lab[..., 0] = equalise(np.rint(lab[..., 0] * 655.35).astype(np.uint16)) / 655.35
        changed = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)
    else:
        grey = equalise(np.rint(pixels[..., 0] * 65535).astype(np.uint16)).astype(np.float32) / 65535
        changed = np.repeat(grey[..., None], pixels.shape[-1], axis=-1)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(changed, -1, 0)))
