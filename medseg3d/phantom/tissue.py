"""How brightly each tissue shows in CT and MRI, and what the scanner adds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg3d.phantom.model import Field
from medseg3d.phantom.scan import Space

__all__ = ["Tissue", "ct_image", "ct_tissue", "mri_image", "mri_tissue"]

Tissue = dict[str, float]

# Mean Hounsfield units: before contrast, in the arterial and in the portal venous phase.
_PHASES_HU: tuple[Tissue, ...] = (
    {"liver": 57, "spleen": 50, "kidney": 42, "aorta": 44, "vein": 42, "vessel": -10, "medulla": -4, "heart": 44},
    {"liver": 72, "spleen": 92, "kidney": 112, "aorta": 175, "vein": 75, "vessel": 10, "medulla": -38, "heart": 150},
    {"liver": 104, "spleen": 108, "kidney": 118, "aorta": 122, "vein": 120, "vessel": 26, "medulla": -8, "heart": 118},
)


def ct_tissue(rng: np.random.Generator) -> Tissue:
    phase = _PHASES_HU[rng.integers(len(_PHASES_HU))]
    tissue = {name: hu * rng.normal(1, 0.13) for name, hu in phase.items()}
    return tissue | {
        "air": -1000.0,
        "gas": -940.0,
        "lung": rng.uniform(-870, -760),
        "lung_vessel": 500.0,
        "fat": rng.uniform(-112, -92),
        "muscle": rng.uniform(48, 68),
        "marrow": rng.uniform(95, 210),
        "cortical": rng.uniform(330, 520),
        "disc": rng.uniform(70, 110),
        "cord": rng.uniform(25, 45),
        "fluid": rng.uniform(2, 18),
        "bowel": (tissue["liver"] + tissue["spleen"]) / 2 * rng.uniform(0.6, 1.0),
        "bowel_spread": 28.0,
        "lesion": rng.choice([-1.0, -1.0, 1.0]) * rng.uniform(32, 60),
        "texture": rng.uniform(3, 6),
        "table": rng.uniform(-300, -50),
    }


def mri_tissue(rng: np.random.Generator) -> Tissue:
    """Relative T1-weighted signal; one hundred is about that of bright fat, so that textures compare with CT's."""
    contrast = rng.random() < 0.5
    tissue = {
        "liver": 56.0,
        "spleen": 52.0 if contrast else 42.0,
        "kidney": 58.0 if contrast else 44.0,
        "aorta": 62.0 if contrast else 22.0,
        "vein": 58.0 if contrast else 24.0,
        "heart": 56.0 if contrast else 34.0,
        "muscle": 38.0,
        "marrow": 62.0,
        "disc": 36.0,
        "fluid": 18.0,
        "cord": 32.0,
        "bowel": 44.0,
        "fat": 98.0,
        "lung": 6.0,
    }
    tissue = {name: signal * rng.normal(1, 0.1) for name, signal in tissue.items()}
    return tissue | {
        "air": 0.0,
        "gas": 2.0,
        "table": 0.0,
        "cortical": 10.0,
        "lung_vessel": 25.0,
        "vessel": 6.0 if contrast else -12.0,
        "medulla": -10.0,
        "bowel_spread": 11.0,
        "lesion": rng.choice([-1.0, -1.0, 1.0]) * rng.uniform(14, 24),
        "texture": rng.uniform(1.5, 3.0),
    }


def ct_image(value: Field, rng: np.random.Generator) -> NDArray[np.int16]:
    """Add noise with the grain of a reconstruction kernel; round to Hounsfield units."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal(value.shape, dtype=np.float32)
    softness = rng.uniform(0.45, 0.8)
    grain = gaussian_filter(white, (softness, softness, 0.3), truncate=3.0)
    grain *= np.float32(rng.uniform(9, 17)) / grain.std()
    return np.clip(np.rint(value + grain), -1024, 3071).astype(np.int16)


def mri_image(value: Field, space: Space, rng: np.random.Generator) -> Field:
    """Shade with a coil's bias field, add Rician noise, and scale as arbitrarily as scanners do."""
    bias = np.exp(np.float32(rng.uniform(0.08, 0.2)) * space.noise(rng, 200.0))
    sigma = np.float32(rng.uniform(2.0, 4.5))
    real, imaginary = (sigma * rng.standard_normal(value.shape, dtype=np.float32) for _ in range(2))
    return np.asarray(np.hypot(value * bias + real, imaginary) * np.float32(10 ** rng.uniform(-1, 1.7)), np.float32)
