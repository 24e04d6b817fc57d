"""A brain with a tumour in four channels of MRI: nested regions of which no channel shows all.

Skull-stripped and co-registered, as the BraTS challenge gives its cases: T1, T1 with contrast, T2 and FLAIR. Oedema is
bright in T2 and FLAIR and looks like grey matter in T1; the rim that takes up contrast is bright only in T1c, where
vessels and the choroid plexus are bright too; the necrotic core is dark in T1 and bright in T2, as fluid is. Some
tumours take up no contrast. White matter beside the ventricles may be bright in FLAIR without a tumour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.phantom.model import TUMOUR_LABELS, Field
from medseg3d.phantom.scan import Space
from medseg3d.phantom.shapes import Canvas, ellipsoid, join, meet
from medseg3d.phantom.tissue import mri_image

__all__ = ["paint_brain"]

# Relative signal in T1, T1c, T2 and FLAIR.
_SIGNAL: dict[str, tuple[float, float, float, float]] = {
    "white": (72, 74, 46, 50),
    "grey": (55, 57, 60, 63),
    "deep_grey": (61, 63, 53, 57),
    "fluid": (22, 22, 96, 15),
    "vessel": (48, 125, 24, 30),
    "choroid": (48, 112, 70, 54),
    "scar": (64, 66, 66, 80),
    "oedema": (55, 57, 79, 88),
    "enhancing": (56, 116, 66, 72),
    "necrotic": (36, 39, 86, 58),
    "core": (46, 49, 78, 74),
}
_RING, _SOLID = 0.65, 0.88  # shares: ring-enhancing, then solid; the rest takes up no contrast

Tissue = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Brain:
    """What a tumour is placed by."""

    surface: Field  # signed distance to the brain's surface
    fluid: Field  # and to sulci and ventricles
    deep: Field  # and to the boundary of grey and white matter: negative in white matter
    ripple: Field  # unevenness, standard deviation 1
    grain: Field  # slow changes of brightness within tissue, standard deviation 1


def paint_brain(
    space: Space, rng_anatomy: np.random.Generator, rng_tissue: np.random.Generator, *, tumour: bool
) -> tuple[Field, NDArray[np.uint8]]:
    """Four channels (channel, x, y, z), 0 outside the brain, and the label map."""
    tissue = _draw_tissue(rng_tissue)
    canvas = Canvas(space, np.zeros((4, 1, 1, 1), np.float32), TUMOUR_LABELS)
    brain = _paint_healthy(canvas, space, tissue, rng_anatomy)
    if tumour:
        _paint_tumour(canvas, space, brain, tissue, rng_anatomy)
    inside = brain.surface < 0
    canvas.label[~inside] = 0
    channels = [mri_image(value, space, rng_tissue) * inside for value in canvas.value]
    return np.stack(channels).astype(np.float32), canvas.label


def _draw_tissue(rng: np.random.Generator) -> Tissue:
    """Signals of one scan: sequences differ, and so do tissues in each."""
    return {
        name: np.float32(np.array(signal) * rng.normal(1, 0.07, 4)).reshape(4, 1, 1, 1)
        for name, signal in _SIGNAL.items()
    }


def _paint_healthy(canvas: Canvas, space: Space, tissue: Tissue, rng: np.random.Generator) -> _Brain:
    ripple, grain = space.noise(rng, 34.0), space.noise(rng, 12.0)
    half_axes = np.array([64.0, 82.0, 60.0]) * rng.normal(1, 0.035, 3)
    # The base of the brain is flatter than its vertex.
    base = (-38 - space.z + 0.12 * space.y) * np.float32(0.9)
    surface = meet(ellipsoid(space, (0, 0, 0), half_axes) + 1.5 * ripple, base)
    folds = join(*(np.abs(space.noise(rng, period)) * 0.6 * period for period in (17.0, 23.0))) - rng.uniform(0.8, 1.5)
    sulci = meet(folds, -surface - rng.uniform(14, 22))
    fissure = meet(np.abs(space.x) - 1.2, 4 - space.z + 0.1 * np.abs(space.y))
    ventricles = _ventricles(space, rng)
    fluid = join(sulci, fissure, ventricles)
    cortex_mm = rng.uniform(3.0, 4.2)
    deep = meet(surface + cortex_mm, cortex_mm - join(sulci, fissure), surface)
    textured = 1 + np.float32(0.035) * grain
    canvas.paint(surface, tissue["grey"] * textured)
    canvas.paint(deep, tissue["white"] * textured)
    for side in (-1, 1):
        nucleus = ellipsoid(
            space, (side * rng.uniform(21, 26), rng.uniform(-4, 12), -2), (8, 17, 11), (0, 0, side * 12)
        )
        canvas.paint(meet(nucleus + ripple, -ventricles), tissue["deep_grey"] * textured)
    _paint_lookalikes(canvas, space, surface, deep, ventricles, tissue, rng)
    canvas.paint(meet(fluid, surface), tissue["fluid"])
    choroid = meet(ventricles + 2, np.abs(space.y + rng.uniform(12, 26)) - 9, np.abs(space.z - 10) - 5)
    canvas.paint(choroid, tissue["choroid"])
    return _Brain(surface, fluid, deep, ripple, grain)


def _ventricles(space: Space, rng: np.random.Generator) -> Field:
    width, length = rng.uniform(4.5, 9.5), rng.uniform(27, 36)
    horns = [
        ellipsoid(space, (side * (width + 4.5), -4, 10), (width, length, 9.5), (8, 0, side * 10)) for side in (-1, 1)
    ]
    third = ellipsoid(space, (0, -4, -4), (2.4, 13, 9))
    return join(*horns, third)


def _paint_lookalikes(
    canvas: Canvas,
    space: Space,
    surface: Field,
    deep: Field,
    ventricles: Field,
    tissue: Tissue,
    rng: np.random.Generator,
) -> None:
    """Vessels, which are bright in T1c, and old scars beside the ventricles, which are bright in FLAIR."""
    scars = meet(ventricles - rng.uniform(0, 4.5), deep, 10 - np.abs(space.y + rng.uniform(-6, 6)))
    canvas.paint(scars, tissue["scar"])
    strands = np.hypot(space.noise(rng, 42.0), space.noise(rng, 42.0)) * 16 - rng.uniform(1.2, 2.2)
    canvas.paint(meet(strands, surface), tissue["vessel"])
    sinus = meet(np.hypot(space.x, (surface + 3)) - 3.2, -10 - space.z)
    canvas.paint(meet(sinus, surface), tissue["vessel"])


def _paint_tumour(canvas: Canvas, space: Space, brain: _Brain, tissue: Tissue, rng: np.random.Generator) -> None:
    kind, where = rng.random(), rng.random()
    core_mm = rng.uniform(9, 19)
    spread_mm = rng.uniform(6, 16) if kind < _SOLID else rng.uniform(5, 10)
    centre = _place(space, brain, core_mm, where)
    shape = ellipsoid(space, centre, core_mm * rng.normal(1, 0.16, 3), rng.uniform(0, 90, 3).tolist())
    uneven = space.noise(rng, 15.0)
    core = meet(shape + 1.9 * uneven, brain.surface + 1)
    # Oedema runs along the white matter, in fingers, and stops at grey matter and fluid.
    fingers = shape - spread_mm + 4 * space.noise(rng, 26.0) + 0.6 * np.clip(brain.deep + 1, 0, 9)
    whole = join(core, meet(join(fingers, core - 2), brain.surface + 1, 0.8 - brain.fluid))
    textured = 1 + np.float32(0.06) * brain.grain
    canvas.paint(whole, tissue["oedema"] * textured, "oedema")
    if kind >= _SOLID:
        canvas.paint(core, tissue["core"] * textured, "necrotic_core")
        return
    canvas.paint(core, tissue["necrotic"] * textured, "necrotic_core")
    rim_mm = rng.uniform(2.6, 5.0) if kind < _RING else 0.8 * core_mm
    rim = meet(core, -(core + rim_mm + 1.4 * space.noise(rng, 18.0)))
    canvas.paint(rim, tissue["enhancing"] * textured, "enhancing")


def _place(space: Space, brain: _Brain, core_mm: float, where: float) -> tuple[float, float, float]:
    """Patient coordinates of a point in white matter, about a radius deep; ``where`` from 0 to 1 chooses which."""
    possible = (brain.deep < -1) & (brain.surface < -0.8 * core_mm) & (brain.fluid > 2) & (space.z > -25)
    candidates = np.flatnonzero(possible.ravel())
    if not len(candidates):
        candidates = np.flatnonzero(brain.surface.ravel() <= 0.7 * float(brain.surface.min()))
    chosen = candidates[int(where * len(candidates))]
    return float(space.x.flat[chosen]), float(space.y.flat[chosen]), float(space.z.flat[chosen])
