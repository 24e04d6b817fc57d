"""Synthetic torso studies in CT and MRI: data to learn the tools on, and to test them with.

Each case is a cartoon of a torso, made from implicit shapes in millimetres: body wall and ribs, spine, lungs, heart,
liver, spleen, kidneys, aorta, and what lies between them (stomach, bowel, muscle, fat). Organs share their
intensities with each other and with their neighbours, and their size, place and field of view differ by case, so a
threshold or an atlas does not find them: a network has to look at shapes and borders.

Nobody was imaged: nothing here says how well a method works on patients.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg3d.errors import UsageError
from medseg3d.geometry import Affine

__all__ = ["LABELS", "MIN_SIZE", "Modality", "PhantomCase", "make_case", "write_study"]

Modality = Literal["ct", "mri"]
Size = tuple[int, int, int]
Field = NDArray[np.float32]

LABELS = {
    "liver": 1,
    "spleen": 2,
    "left_kidney": 3,
    "right_kidney": 4,
    "aorta": 5,
    "lungs": 6,
    "spine": 7,
    "lesion": 8,
}
MIN_SIZE: Size = (32, 32, 16)  # below this a voxel is wider than the aorta
LESION_FRACTION = 0.6

_AXIAL = ("RAS", "LPS", "LAS", "RPS", "LPI", "RAI")
_REFORMATTED = ("RSA", "LIP", "PIR", "ASL")
_FAR_MM = 1e3


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic study; image and label share one grid.

    Attributes:
        image: int16 Hounsfield units (CT) or float32 in arbitrary units (MRI).
        label: uint8 ids as in ``LABELS``.
        affine: 4×4, voxel index to mm in RAS+.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8]
    affine: Affine


def make_case(
    modality: Modality, seed: int, index: int, *, size: Sequence[int] = (128, 128, 64), lesions: bool = True
) -> PhantomCase:
    """Make case ``index`` of the study with ``seed``: the same arguments always give the same voxels.

    The anatomy depends on ``(seed, index)`` alone: CT and MRI, and every ``size``, show the same torso.

    Args:
        modality: ``"ct"`` or ``"mri"`` (T1-weighted).
        seed: of the study, at least 0.
        index: of the case in the study, at least 0.
        size: voxels from left to right, back to front and foot to head; the stored order of axes differs by case.
        lesions: whether livers may have a lesion; about six in ten then do.

    Raises:
        UsageError: an unknown modality, a negative number, or a size below ``MIN_SIZE``.

    >>> case = make_case("ct", 0, 0, size=(32, 32, 16))
    >>> case.image.shape == case.label.shape, case.image.dtype.name
    (True, 'int16')
    """
    size = _check(modality, seed, index, size)
    rng_scan, rng_anatomy, rng_tissue = map(np.random.default_rng, np.random.SeedSequence((seed, index)).spawn(3))
    scan = _draw_scan(rng_scan, size)
    space = _make_space(rng_anatomy, scan)
    tissue = _ct_tissue(rng_tissue) if modality == "ct" else _mri_tissue(rng_tissue)
    canvas = _paint_torso(space, tissue, rng_anatomy, lesions=lesions)
    image = _ct_image(canvas.value, rng_tissue) if modality == "ct" else _mri_image(canvas.value, space, rng_tissue)
    return _store(scan, image, canvas.label)


def _check(modality: str, seed: int, index: int, size: Sequence[int]) -> Size:
    if modality not in get_args(Modality):
        raise UsageError(f"There is no modality {modality!r}: choose 'ct' or 'mri'.")
    if seed < 0 or index < 0:
        raise UsageError(f"Seed {seed} and case index {index} must both be at least 0.")
    if len(size) != 3 or any(n < least for n, least in zip(size, MIN_SIZE, strict=True)):
        raise UsageError(
            f"A phantom of {'×'.join(map(str, size))} voxels is too small to show the organs: "
            f"use at least {'×'.join(map(str, MIN_SIZE))}."
        )
    return int(size[0]), int(size[1]), int(size[2])


# --- The scan: which part of the world is imaged, and how it is stored ------------------------------------------------


@dataclass(frozen=True)
class _Scan:
    size: Size
    spacing_mm: NDArray[np.float64]
    affine: Affine  # of the grid before it is put into its stored order
    stored_as: str

    @property
    def extent_mm(self) -> NDArray[np.float64]:
        return self.spacing_mm * self.size


def _draw_scan(rng: np.random.Generator, size: Size) -> _Scan:
    in_plane_mm = rng.uniform(350, 450)
    bottom_mm, top_mm = rng.uniform(-190, -120), rng.uniform(95, 180)
    extent_mm = np.array([in_plane_mm, in_plane_mm * size[1] / size[0], top_mm - bottom_mm])
    # A grid that is not square must still show the whole body from back to front.
    extent_mm[1] = max(extent_mm[1], 300.0)
    spacing = np.round(extent_mm / size, 4)
    centre = np.array([rng.uniform(-22, 22), rng.uniform(-22, 22), (bottom_mm + top_mm) / 2])
    oblique = rng.random() < 0.35
    rotation = _rotation(rng.uniform(-8, 8, 3)) if oblique else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return _Scan(size, spacing, affine, str(rng.choice(_AXIAL if rng.random() < 0.75 else _REFORMATTED)))


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def _store(scan: _Scan, image: NDArray[Any], label: NDArray[np.uint8]) -> PhantomCase:
    """Permute and flip the axes into the order of the file; every voxel stays where it is in the world."""
    from nibabel import orientations as o

    turn = o.ornt_transform(o.axcodes2ornt("RAS"), o.axcodes2ornt(scan.stored_as))
    affine = scan.affine @ o.inv_ornt_aff(turn, scan.size)
    image, label = (np.ascontiguousarray(o.apply_orientation(array, turn)) for array in (image, label))
    return PhantomCase(image, label, affine)


# --- Space: the patient's own coordinates at every voxel, and smooth noise --------------------------------------------


@dataclass(frozen=True)
class _Space:
    """Patient coordinates in mm: x to the right, y to the front, z to the head, 0 at the first lumbar vertebra."""

    x: Field
    y: Field
    z: Field
    scan: _Scan

    def noise(self, rng: np.random.Generator, period_mm: float) -> Field:
        """A random field of mean 0 and standard deviation 1 that changes over about ``period_mm``."""
        return _smooth_noise(rng, self.scan, period_mm)


def _make_space(rng: np.random.Generator, scan: _Scan) -> _Space:
    pose = _rotation(rng.normal(0, (3, 3, 7), 3)) * rng.uniform(0.92, 1.08, 3)
    to_patient = pose @ scan.affine[:3, :3]
    offset = pose @ scan.affine[:3, 3]
    i, j, k = (np.arange(n, dtype=np.float32) for n in scan.size)
    bend_mm = rng.uniform(3, 7)
    x, y, z = (
        (row[0] * i[:, None, None] + row[1] * j[:, None] + (row[2] * k + shift)).astype(np.float32)
        + np.float32(bend_mm) * _smooth_noise(rng, scan, 80.0)
        for row, shift in zip(to_patient, offset, strict=True)
    )
    return _Space(x, y, z, scan)


def _smooth_noise(rng: np.random.Generator, scan: _Scan, period_mm: float) -> Field:
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


# --- Shapes: signed distances in mm, negative inside, exact enough near the surface -----------------------------------


def _ellipsoid(space: _Space, centre: Sequence[Any], radii: ArrayLike, turn_deg: Sequence[float] = ()) -> Field:
    p = np.stack([space.x - centre[0], space.y - centre[1], space.z - centre[2]])
    if len(turn_deg):
        p = np.tensordot(_rotation(np.asarray(turn_deg)).astype(np.float32), p, 1)
    half_axes = np.asarray(radii, np.float32)[:, None, None, None]
    p /= half_axes
    k = np.sqrt(np.einsum("cijk,cijk->ijk", p, p))
    p /= half_axes
    gradient = np.sqrt(np.einsum("cijk,cijk->ijk", p, p))
    tiny = np.float32(1e-6)
    return (k - 1) * (k + tiny * half_axes.min()) / (gradient + tiny)


def _tube(space: _Space, x: Any, y: Any, rx: Any, ry: Any) -> Field:
    """An upright tube around the line (x(z), y(z)) with half axes rx and ry."""
    return np.asarray((np.hypot((space.x - x) / rx, (space.y - y) / ry) - 1) * np.minimum(rx, ry), dtype=np.float32)


def _meet(*distances: Any) -> Field:
    """Intersection."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return np.asarray(result, dtype=np.float32)


def _join(*distances: Any) -> Field:
    """Union."""
    return -_meet(*(-d for d in distances))


def _blend(a: Field, b: Field, width_mm: float) -> Field:
    """Union with a rounded seam."""
    seam = np.clip(width_mm - np.abs(a - b), 0, None)
    return np.asarray(np.minimum(a, b) - seam**2 / np.float32(4 * width_mm), dtype=np.float32)


class _Canvas:
    """The picture in the making: intensity and label of every voxel, and the distance to the nearest thing in it."""

    def __init__(self, space: _Space, background: float) -> None:
        self.value = np.full(space.scan.size, background, np.float32)
        self.label = np.zeros(space.scan.size, np.uint8)
        self.taken = np.full(space.scan.size, _FAR_MM, np.float32)
        self._edge_mm = np.float32(np.min(space.scan.spacing_mm))

    def paint(self, distance: NDArray[Any], value: Any, label: str | None = None) -> None:
        """Paint the inside; voxels on the border get a share of both sides, as a scanner's would."""
        share = np.clip(0.5 - distance / self._edge_mm, 0, 1)
        self.value += share * (value - self.value)
        if label is not None:
            self.label[distance < 0] = LABELS[label]

    def place(self, distance: NDArray[Any], value: Any, label: str | None = None, *, gap_mm: float = 0.0) -> Field:
        """Paint what other placed things leave free, ``gap_mm`` away from them; return the distance that is left."""
        distance = _meet(distance, np.float32(gap_mm) - self.taken)
        self.paint(distance, value, label)
        self.taken = np.minimum(self.taken, distance)
        return distance


# --- Tissue: what shines how brightly ---------------------------------------------------------------------------------

Tissue = dict[str, float]

# Mean Hounsfield units: before contrast, in the arterial and in the portal venous phase.
_PHASES_HU: tuple[Tissue, ...] = (
    {"liver": 57, "spleen": 50, "kidney": 42, "aorta": 44, "vein": 42, "vessel": -10, "medulla": -4, "heart": 44},
    {"liver": 72, "spleen": 92, "kidney": 112, "aorta": 175, "vein": 75, "vessel": 10, "medulla": -38, "heart": 150},
    {"liver": 104, "spleen": 108, "kidney": 118, "aorta": 122, "vein": 120, "vessel": 26, "medulla": -8, "heart": 118},
)


def _ct_tissue(rng: np.random.Generator) -> Tissue:
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


def _mri_tissue(rng: np.random.Generator) -> Tissue:
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


def _ct_image(value: Field, rng: np.random.Generator) -> NDArray[np.int16]:
    """Add noise with the grain of a reconstruction kernel; round to Hounsfield units."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal(value.shape, dtype=np.float32)
    softness = rng.uniform(0.45, 0.8)
    grain = gaussian_filter(white, (softness, softness, 0.3), truncate=3.0)
    grain *= np.float32(rng.uniform(9, 17)) / grain.std()
    return np.clip(np.rint(value + grain), -1024, 3071).astype(np.int16)


def _mri_image(value: Field, space: _Space, rng: np.random.Generator) -> Field:
    """Shade with a coil's bias field, add Rician noise, and scale as arbitrarily as scanners do."""
    bias = np.exp(np.float32(rng.uniform(0.08, 0.2)) * space.noise(rng, 200.0))
    sigma = np.float32(rng.uniform(2.0, 4.5))
    real, imaginary = (sigma * rng.standard_normal(value.shape, dtype=np.float32) for _ in range(2))
    return np.asarray(np.hypot(value * bias + real, imaginary) * np.float32(10 ** rng.uniform(-1, 1.7)), np.float32)


# --- Anatomy ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Torso:
    """What the organs are placed by."""

    half_width_mm: float  # of the cavity inside the body wall
    half_depth_mm: float
    skin: Field  # signed distance to the body's surface
    cavity: Field  # and to the cavity's wall
    lungs_base_mm: float  # height of the diaphragm's rim
    diaphragm: Field  # height above the diaphragm
    spine_x: Field
    spine_y: Field  # centre of the vertebral bodies
    ripple: Field  # unevenness of surfaces, in mm
    grain: Field  # slow changes of brightness within tissue, standard deviation 1
    strands: tuple[Field, Field]  # vessels and bowel run where both are near 0

    def at(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A point given as shares of the cavity's half axes, and mm in height."""
        return x * self.half_width_mm, y * self.half_depth_mm, z


def _paint_torso(space: _Space, tissue: Tissue, rng: np.random.Generator, *, lesions: bool) -> _Canvas:
    canvas = _Canvas(space, tissue["air"])
    torso = _paint_body_wall(canvas, space, tissue, rng)
    _paint_spine(canvas, space, torso, tissue, rng)
    _paint_great_vessels(canvas, space, torso, tissue, rng)
    _paint_chest(canvas, space, torso, tissue, rng)
    _paint_kidneys(canvas, space, torso, tissue, rng)
    _paint_spleen(canvas, space, torso, tissue, rng)
    _paint_liver(canvas, space, torso, tissue, rng, lesion=rng.random() < LESION_FRACTION and lesions)
    _paint_stomach_and_bowel(canvas, space, torso, tissue, rng)
    _drop_specks(canvas.label)
    return canvas


def _drop_specks(label: NDArray[np.uint8]) -> None:
    """Where neighbours are carved out of an organ, single voxels can come off: unlabel them, in place."""
    from scipy.ndimage import find_objects
    from scipy.ndimage import label as connect

    for id_, box in enumerate(find_objects(label), start=1):
        if box is None or id_ == LABELS["lesion"]:
            continue
        organ = label[box]
        # A lesion inside the liver does not cut it in two.
        pieces, _ = connect((organ == id_) | (organ == LABELS["lesion"]), np.ones((3, 3, 3)))
        voxels = np.bincount(pieces.ravel())
        organ[(voxels < 0.03 * voxels[1:].max())[pieces] & (organ == id_)] = 0


def _paint_body_wall(canvas: _Canvas, space: _Space, tissue: Tissue, rng: np.random.Generator) -> _Torso:
    half_width, half_depth = rng.uniform(112, 145), rng.uniform(80, 108)
    fat_mm, wall_mm = rng.uniform(6, 34), rng.uniform(10, 15)
    ripple = space.noise(rng, 26.0) * np.float32(1.6)
    power = np.float32(rng.uniform(2.1, 2.7))
    # The chest narrows towards the neck, and the waist a little.
    narrowing = 1 - 0.0007 * np.clip(space.z - 60, 0, None) - 0.06 * np.exp(-(((space.z + 70) / 50) ** 2))
    radius = ((np.abs(space.x) / half_width) ** power + (np.abs(space.y) / half_depth) ** power) ** (1 / power)
    cavity = np.asarray((radius / narrowing - 1) * (half_width * half_depth) ** 0.5, np.float32)
    fat_here = fat_mm * (1 + 0.15 * space.noise(rng, 90.0))
    skin = cavity - wall_mm - fat_here
    _paint_table(canvas, space, half_depth + wall_mm + fat_mm, tissue, rng)
    canvas.paint(skin, tissue["muscle"])
    grain = space.noise(rng, 14.0)
    canvas.paint(skin + 2.5, tissue["fat"] + 0.7 * tissue["texture"] * grain)
    canvas.paint(cavity - wall_mm + ripple, tissue["muscle"] + 1.3 * tissue["texture"] * grain)
    canvas.paint(cavity, tissue["fat"] + 0.7 * tissue["texture"] * grain)
    rim = rng.uniform(5, 45)
    bend = rng.normal(0, 9) * np.sin(space.z / rng.uniform(60, 110) + rng.uniform(0, 6)) + rng.normal(0, 7)
    return _Torso(
        half_width_mm=half_width,
        half_depth_mm=half_depth,
        skin=skin,
        cavity=cavity,
        lungs_base_mm=rim,
        diaphragm=_height_above_diaphragm(space, half_width, half_depth, rim, rng),
        spine_x=bend.astype(np.float32),
        spine_y=(-half_depth + rng.uniform(20, 30) + rng.uniform(3, 10) * np.cos(space.z / 75 + 0.8)).astype(
            np.float32
        ),
        ripple=ripple,
        grain=grain,
        strands=(space.noise(rng, 30.0), space.noise(rng, 30.0)),
    )


def _paint_table(canvas: _Canvas, space: _Space, back_mm: float, tissue: Tissue, rng: np.random.Generator) -> None:
    surface = space.y + back_mm + rng.uniform(6, 16) - 0.0012 * space.x**2
    if rng.random() < 0.6:
        canvas.paint(np.abs(surface.astype(np.float32)) - 4, tissue["table"])


def _height_above_diaphragm(
    space: _Space, half_width: float, half_depth: float, rim_mm: float, rng: np.random.Generator
) -> Field:
    right, left = rng.uniform(42, 64), rng.uniform(34, 54)
    from_front = ((space.y - 0.15 * half_depth) / (0.85 * half_depth)) ** 2
    dome = right * np.exp(-(((space.x - 0.5 * half_width) / (0.5 * half_width)) ** 2) - from_front)
    dome += left * np.exp(-(((space.x + 0.5 * half_width) / (0.5 * half_width)) ** 2) - from_front)
    return np.asarray((space.z - rim_mm - dome) * 0.8, np.float32)


def _paint_spine(canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    x, y, grain = torso.spine_x, torso.spine_y, torso.grain
    rx, ry, pitch_mm = rng.uniform(17, 23), rng.uniform(13, 17), rng.uniform(27, 34)
    level = np.mod(space.z / pitch_mm + rng.random(), 1.0)
    from_middle = (np.abs(level - 0.5) * pitch_mm).astype(np.float32)  # half a pitch in the discs
    waist = 1 - 0.1 * (1 - (2 * from_middle / pitch_mm) ** 2)
    for side in (-1, 1):
        canvas.paint(_tube(space, x + side * 30, y - 24, 24, 19) + torso.ripple, tissue["muscle"] + grain * 4)
        width = np.clip(10 - 0.12 * space.z, 4, 26).astype(np.float32)
        psoas = _meet(_tube(space, x + side * (rx + 12 + 0.4 * width), y - 4, width, width * 0.9), space.z - 15)
        canvas.place(psoas, tissue["muscle"] + grain * 4)
    body = _tube(space, x, y, rx * waist, ry * waist)
    canal_y = y - ry - 7
    arch = _tube(space, x, canal_y, 14, 12)
    process = _meet(np.abs(space.x - x) - 4, np.abs(space.y - canal_y + 22) - 14, from_middle - 8)
    wings = _meet(np.abs(space.x - x) - 38, np.abs(space.y - canal_y) - 5, from_middle - 6)
    spine = _meet(_join(_blend(body, arch, 5), process, wings), torso.skin + 6)
    canvas.place(spine, tissue["marrow"] + 4 * tissue["texture"] * grain, "spine")
    canvas.paint(_meet(spine, -2.2 - spine), tissue["cortical"])
    canvas.paint(_meet(body, pitch_mm / 2 - 4.5 - from_middle), tissue["disc"])
    canvas.paint(_tube(space, x, canal_y, 8, 7), tissue["cord"])


def _paint_great_vessels(
    canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator
) -> None:
    radius, vein_radius = rng.uniform(8.5, 13), rng.uniform(8, 12)
    sway = space.noise(rng, 70.0) * 3
    behind = 1 / (1 + np.exp(-(space.z - 60) / 18))  # in the chest the aorta runs beside the spine
    x = torso.spine_x - 9 - 17 * behind + sway
    y = torso.spine_y + 16 + radius + 2 - 12 * behind
    end = rng.uniform(-150, -85)
    blood = tissue["aorta"] + tissue["texture"] * torso.grain
    canvas.place(_meet(_tube(space, x, y, radius, radius), end - space.z), blood, "aorta", gap_mm=1.5)
    apart = 0.45 * np.clip(end - space.z, 0, None)
    for side in (-1, 1):
        iliac = _tube(space, x + side * (3 + apart), y, radius * 0.6, radius * 0.6)
        canvas.place(_meet(iliac, space.z - end), blood, gap_mm=0)
    vein = _tube(space, torso.spine_x + 10 + radius + 0.5 * vein_radius + sway, y + 1, vein_radius, vein_radius * 0.8)
    canvas.place(_meet(vein, torso.diaphragm - 20), tissue["vein"] + tissue["texture"] * torso.grain, gap_mm=2.5)


def _paint_chest(canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    _paint_ribs(canvas, space, torso, tissue, rng)
    heart_at = (
        rng.uniform(-30, -14),
        rng.uniform(0.05, 0.4) * torso.half_depth_mm,
        torso.lungs_base_mm + rng.uniform(58, 78),
    )
    heart = _ellipsoid(space, heart_at, (54, 42, 44), (0, 20, 30)) + torso.ripple
    column = _tube(space, torso.spine_x, 0.1 * torso.half_depth_mm, 26, 0.85 * torso.half_depth_mm)
    mediastinum = _meet(_blend(heart, column, 15), 2 - torso.diaphragm, torso.cavity + 2)
    lungs = _meet(torso.cavity + 3 + 0.5 * torso.ripple, 3 - torso.diaphragm, 4 - mediastinum)
    branches = np.exp(-4 * (torso.strands[0] ** 2 + torso.strands[1] ** 2))
    fine = tissue["texture"] * 4 * torso.grain if tissue["lung_vessel"] > 100 else 0.0
    canvas.paint(_meet(torso.cavity, 3 - torso.diaphragm, -canvas.taken), tissue["fat"])
    canvas.place(lungs, tissue["lung"] + fine + tissue["lung_vessel"] * branches, "lungs", gap_mm=2)
    canvas.place(_meet(heart, 2 - torso.diaphragm), tissue["heart"] + tissue["texture"] * torso.grain, gap_mm=2)
    # The diaphragm itself: a sheet of muscle under the lungs.
    sheet = _meet(np.abs(torso.diaphragm) - 1.5, torso.cavity)
    canvas.paint(_meet(sheet, 1 - canvas.taken), tissue["muscle"])


def _paint_ribs(canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    pitch_mm = rng.uniform(25, 31)
    along = np.mod((space.z + rng.uniform(0.3, 0.6) * space.y) / pitch_mm + rng.random(), 1.0)
    across = np.abs(along - 0.5) * pitch_mm - rng.uniform(4.5, 6.5)
    lowest = rng.uniform(-50, -10) + 0.6 * (space.y + torso.half_depth_mm)
    ribs = _meet(np.abs(torso.cavity - 5.5) - 4.5, across, lowest - space.z)
    sternum = _meet(np.abs(torso.cavity - 6) - 5, np.abs(space.x) - 15, -space.y, 60 - space.z)
    bone = _join(ribs, sternum)
    canvas.paint(bone, tissue["cortical"])
    canvas.paint(bone + 2, tissue["marrow"])


def _paint_kidneys(canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    for name, side, height in (("left_kidney", -1, -28), ("right_kidney", 1, -42)):
        scale = rng.normal(1, 0.1)
        lateral = torso.spine_x + side * (rng.uniform(50, 72))
        centre = lateral, rng.uniform(-0.62, -0.3) * torso.half_depth_mm, height + rng.uniform(-28, 28)
        radii = np.array([28.0, 24.0, 54.0]) * scale * rng.normal(1, 0.06, 3)
        turn = (rng.normal(8, 6), side * rng.uniform(4, 18), rng.normal(0, 10))
        outer = _ellipsoid(space, centre, radii, turn) + torso.ripple
        hilum_at = (lateral - side * 0.75 * radii[0], centre[1] + 5, centre[2])
        hilum = _ellipsoid(space, hilum_at, (0.62 * radii[0], 0.5 * radii[1], 0.42 * radii[2]), turn)
        kidney = _meet(outer, -hilum, torso.cavity + 4)
        deep = np.clip((-7 - outer) / 4, 0, 1)
        value = tissue["kidney"] + tissue["medulla"] * deep + tissue["texture"] * torso.grain
        canvas.place(kidney, value, name, gap_mm=4)
        pelvis = _ellipsoid(space, hilum_at, (0.4 * radii[0], 0.25 * radii[1], 0.22 * radii[2]), turn)
        canvas.place(pelvis, tissue["fluid"], gap_mm=2)


def _paint_spleen(canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    scale = rng.uniform(0.85, 1.25)
    centre = torso.at(rng.uniform(-0.82, -0.62), rng.uniform(-0.5, -0.05), torso.lungs_base_mm + rng.uniform(-35, 5))
    radii = np.array([35.0, 50.0, 52.0]) * scale * rng.normal(1, 0.08, 3)
    turn = (rng.normal(-15, 12), rng.normal(0, 10), rng.normal(25, 12))
    outer = _ellipsoid(space, centre, radii, turn)
    # The stomach's side is hollow: the spleen is a shell along the wall.
    stomach_side = (centre[0] + 1.45 * radii[0], centre[1] + 0.4 * radii[1], centre[2])
    hollow = _ellipsoid(space, stomach_side, (radii[0], radii[1] * 0.9, radii[2] * 1.1), turn)
    spleen = _meet(outer + 1.5 * torso.ripple, 3 - hollow, torso.cavity + 4, torso.diaphragm + 5)
    canvas.place(spleen, tissue["spleen"] + tissue["texture"] * torso.grain, "spleen", gap_mm=4)


def _paint_liver(
    canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator, *, lesion: bool
) -> None:
    bladder_at = torso.at(rng.uniform(0.25, 0.45), rng.uniform(0.2, 0.5), rng.uniform(-45, -5))
    canvas.place(_ellipsoid(space, bladder_at, (14, 20, 22), (30, 0, 20)), tissue["fluid"], gap_mm=3)
    liver = _liver_shape(space, torso, rng)
    veins = np.exp(-14 * (torso.strands[0] ** 2 + torso.strands[1] ** 2))
    value = tissue["liver"] + tissue["vessel"] * veins + 1.2 * tissue["texture"] * torso.grain
    liver = canvas.place(liver, value, "liver", gap_mm=3.5)
    # Drawn in any case: the torso is the same with and without its lesion.
    radii, where = rng.uniform(11, 22) * rng.normal(1, 0.12, 3), rng.random()
    if lesion:
        spot = _ellipsoid(space, _deep_point(space, liver, where), radii) + 1.5 * torso.ripple
        value = tissue["liver"] + tissue["lesion"] + tissue["texture"] * torso.grain
        canvas.paint(_meet(spot, liver), value, "lesion")


def _liver_shape(space: _Space, torso: _Torso, rng: np.random.Generator) -> Field:
    top = torso.lungs_base_mm + rng.uniform(-10, 25)
    right = _ellipsoid(
        space,
        torso.at(rng.uniform(0.42, 0.6), rng.uniform(-0.2, 0.15), top - 25),
        np.array([0.58 * torso.half_width_mm, 0.9 * torso.half_depth_mm, 85]) * rng.normal(1, 0.08, 3),
        (0, rng.normal(0, 8), 0),
    )
    left = _ellipsoid(
        space,
        torso.at(rng.uniform(-0.15, 0.15), rng.uniform(0.3, 0.55), top + rng.uniform(0, 20)),
        np.array([rng.uniform(0.45, 0.75) * torso.half_width_mm, 0.42 * torso.half_depth_mm, 34]),
        (0, rng.normal(12, 8), rng.normal(0, 10)),
    )
    # The lower face climbs from the right flank to the left, and from the front to the back.
    lowest = (
        rng.uniform(-85, -25)
        + 5 * space.noise(rng, 60.0)
        + rng.uniform(0.35, 0.75) * (0.8 * torso.half_width_mm - space.x)
    )
    lower_face = (lowest - rng.uniform(0.0, 0.35) * space.y - space.z) * 0.8
    return _meet(_blend(right, left, 18) + 2 * torso.ripple, lower_face, torso.cavity + 4, torso.diaphragm + 5)


def _deep_point(space: _Space, distance: Field, where: float) -> tuple[float, float, float]:
    """Patient coordinates of a voxel well inside a shape; ``where`` from 0 to 1 chooses which."""
    deep = np.flatnonzero(distance.ravel() <= max(-12.0, 0.6 * float(distance.min())))
    chosen = deep[int(where * len(deep))]
    return float(space.x.flat[chosen]), float(space.y.flat[chosen]), float(space.z.flat[chosen])


def _paint_stomach_and_bowel(
    canvas: _Canvas, space: _Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator
) -> None:
    inside = _meet(torso.cavity + 3, torso.diaphragm + 5)
    contents = space.noise(rng, 38.0)
    soft = tissue["bowel"] + tissue["bowel_spread"] * contents + tissue["texture"] * torso.grain
    stomach_at = torso.at(rng.uniform(-0.55, -0.3), rng.uniform(0.2, 0.5), rng.uniform(-5, 35))
    stomach = _meet(_ellipsoid(space, stomach_at, (44, 34, 55), (15, 25, -20)) + 2 * torso.ripple, inside)
    stomach = canvas.place(stomach, soft, gap_mm=3)
    level = rng.uniform(0.2, 0.75) * torso.half_depth_mm  # gas collects in front: the patient lies on the back
    canvas.paint(_meet(stomach + 4, level - space.y), tissue["gas"])
    first, second = space.noise(rng, 40.0), space.noise(rng, 40.0)
    loops = (np.hypot(first, second) - rng.uniform(0.7, 1.0)) * 26
    colon = _join(
        *(_tube(space, side * 0.8 * torso.half_width_mm, -0.15 * torso.half_depth_mm, 20, 22) for side in (-1, 1))
    )
    below = (space.z + 10 - rng.uniform(0, 40)) * 0.9
    bowel = _meet(_join(loops, colon + 3 * torso.ripple), inside, below, -0.45 * torso.half_depth_mm - space.y)
    bowel = canvas.place(bowel.astype(np.float32), soft, gap_mm=3)
    canvas.paint(_meet(bowel + 4, 9 * (1.1 - contents)), tissue["gas"])


# --- Files ------------------------------------------------------------------------------------------------------------


def write_study(
    out: Path,
    *,
    modality: Modality,
    cases: int,
    test_cases: int = 0,
    seed: int = 0,
    size: Sequence[int] = (128, 128, 64),
    lesions: bool = True,
    workers: int = 1,
    overwrite: bool = False,
    on_case: Callable[[str], None] | None = None,
) -> Path:
    """Write a study with its data list and return the path of ``dataset.json``.

    ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` are filled as in the Medical Segmentation Decathlon, but
    the labels of the test cases are there too. The files are byte for byte the same for the same arguments, whatever
    ``workers`` is. ``dataset.json`` is written last: a study that has one is whole.

    Args:
        out: folder of the study; made if absent.
        cases: how many to train on, at least 1.
        test_cases: how many more to keep apart.
        size: as in ``make_case``.
        workers: processes; with more than one, a script needs the usual ``if __name__ == "__main__":``.
        overwrite: replace the phantoms of an earlier study in ``out``; other files there stay.
        on_case: called with the name of each case that has been written.

    Raises:
        UsageError: ``out`` is not an empty folder and ``overwrite`` is false, or an argument is out of range.
    """
    out = Path(out)
    size = _check(modality, seed, 0, size)
    if cases < 1 or test_cases < 0 or workers < 1:
        raise UsageError(
            f"A study needs at least 1 case, 0 test cases and 1 worker; got {cases}, {test_cases} and {workers}."
        )
    _clear(out, overwrite=overwrite)
    entries = [_entry(modality, index, "Tr" if index < cases else "Ts") for index in range(cases + test_cases)]
    jobs = [(out, entry, modality, seed, index, size, lesions) for index, entry in enumerate(entries)]
    for entry in _run(jobs, workers):
        if on_case is not None:
            on_case(entry["case"])
    document = {
        "name": f"phantom_{modality}",
        "description": "Synthetic torsos made by medseg3d phantom: no patient was imaged",
        "licence": "CC0-1.0",
        "modality": "CT" if modality == "ct" else "MR",
        "channels": ["CT" if modality == "ct" else "T1"],
        "labels": {name: id_ for name, id_ in LABELS.items() if lesions or name != "lesion"},
        "phantom": {"seed": seed, "size": list(size), "lesions": lesions},
        "training": entries[:cases],
        "testing": entries[cases:],
    }
    path = out / "dataset.json"
    _write(path, (json.dumps(document, indent=2) + "\n").encode())
    return path


def _entry(modality: str, index: int, part: Literal["Tr", "Ts"]) -> dict[str, str]:
    case = f"{modality}_{index + 1:03d}"
    file = f"{case}.nii.gz"
    patient = f"phantom_{index + 1:03d}"
    return {"case": case, "patient": patient, "image": f"images{part}/{file}", "label": f"labels{part}/{file}"}


def _clear(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder for the study.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty: name another folder, or pass --overwrite to replace the phantoms in it.")
    (out / "dataset.json").unlink(missing_ok=True)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        for path in (out / folder).glob("*.nii.gz"):
            if re.fullmatch(r"(ct|mri)_\d{3,}\.nii\.gz", path.name):
                path.unlink()


Job = tuple[Path, dict[str, str], Modality, int, int, Size, bool]


def _run(jobs: Sequence[Job], workers: int) -> Iterable[dict[str, str]]:
    if workers == 1:
        yield from starmap(_write_case, jobs)
        return
    # A fresh interpreter for each worker: forking while a progress bar's thread runs can deadlock.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_case, *zip(*jobs, strict=True))


def _write_case(
    out: Path, entry: dict[str, str], modality: Modality, seed: int, index: int, size: Size, lesions: bool
) -> dict[str, str]:
    case = make_case(modality, seed, index, size=size, lesions=lesions)
    _write(out / entry["image"], _nifti(case.image, case.affine))
    _write(out / entry["label"], _nifti(case.label, case.affine))
    return entry


def _nifti(voxels: NDArray[Any], affine: Affine) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"medseg3d phantom: synthetic, no patient"
    # A gzip header normally holds the time: without it, equal voxels are equal files.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
