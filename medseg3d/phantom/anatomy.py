"""The torso: what lies where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg3d.phantom.model import LABELS, LESION_FRACTION, Field
from medseg3d.phantom.scan import Space
from medseg3d.phantom.shapes import Canvas, blend, ellipsoid, join, meet, tube
from medseg3d.phantom.tissue import Tissue

__all__ = ["paint_torso"]


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


def paint_torso(space: Space, tissue: Tissue, rng: np.random.Generator, *, lesions: bool) -> Canvas:
    canvas = Canvas(space, tissue["air"])
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


def _paint_body_wall(canvas: Canvas, space: Space, tissue: Tissue, rng: np.random.Generator) -> _Torso:
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


def _paint_table(canvas: Canvas, space: Space, back_mm: float, tissue: Tissue, rng: np.random.Generator) -> None:
    surface = space.y + back_mm + rng.uniform(6, 16) - 0.0012 * space.x**2
    if rng.random() < 0.6:
        canvas.paint(np.abs(surface.astype(np.float32)) - 4, tissue["table"])


def _height_above_diaphragm(
    space: Space, half_width: float, half_depth: float, rim_mm: float, rng: np.random.Generator
) -> Field:
    right, left = rng.uniform(42, 64), rng.uniform(34, 54)
    from_front = ((space.y - 0.15 * half_depth) / (0.85 * half_depth)) ** 2
    dome = right * np.exp(-(((space.x - 0.5 * half_width) / (0.5 * half_width)) ** 2) - from_front)
    dome += left * np.exp(-(((space.x + 0.5 * half_width) / (0.5 * half_width)) ** 2) - from_front)
    return np.asarray((space.z - rim_mm - dome) * 0.8, np.float32)


def _paint_spine(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    x, y, grain = torso.spine_x, torso.spine_y, torso.grain
    rx, ry, pitch_mm = rng.uniform(17, 23), rng.uniform(13, 17), rng.uniform(27, 34)
    level = np.mod(space.z / pitch_mm + rng.random(), 1.0)
    from_middle = (np.abs(level - 0.5) * pitch_mm).astype(np.float32)  # half a pitch in the discs
    waist = 1 - 0.1 * (1 - (2 * from_middle / pitch_mm) ** 2)
    for side in (-1, 1):
        canvas.paint(tube(space, x + side * 30, y - 24, 24, 19) + torso.ripple, tissue["muscle"] + grain * 4)
        width = np.clip(10 - 0.12 * space.z, 4, 26).astype(np.float32)
        psoas = meet(tube(space, x + side * (rx + 12 + 0.4 * width), y - 4, width, width * 0.9), space.z - 15)
        canvas.place(psoas, tissue["muscle"] + grain * 4)
    body = tube(space, x, y, rx * waist, ry * waist)
    canal_y = y - ry - 7
    arch = tube(space, x, canal_y, 14, 12)
    process = meet(np.abs(space.x - x) - 4, np.abs(space.y - canal_y + 22) - 14, from_middle - 8)
    wings = meet(np.abs(space.x - x) - 38, np.abs(space.y - canal_y) - 5, from_middle - 6)
    spine = meet(join(blend(body, arch, 5), process, wings), torso.skin + 6)
    canvas.place(spine, tissue["marrow"] + 4 * tissue["texture"] * grain, "spine")
    canvas.paint(meet(spine, -2.2 - spine), tissue["cortical"])
    canvas.paint(meet(body, pitch_mm / 2 - 4.5 - from_middle), tissue["disc"])
    canvas.paint(tube(space, x, canal_y, 8, 7), tissue["cord"])


def _paint_great_vessels(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    radius, vein_radius = rng.uniform(8.5, 13), rng.uniform(8, 12)
    sway = space.noise(rng, 70.0) * 3
    behind = 1 / (1 + np.exp(-(space.z - 60) / 18))  # in the chest the aorta runs beside the spine
    x = torso.spine_x - 9 - 17 * behind + sway
    y = torso.spine_y + 16 + radius + 2 - 12 * behind
    end = rng.uniform(-150, -85)
    blood = tissue["aorta"] + tissue["texture"] * torso.grain
    canvas.place(meet(tube(space, x, y, radius, radius), end - space.z), blood, "aorta", gap_mm=1.5)
    apart = 0.45 * np.clip(end - space.z, 0, None)
    for side in (-1, 1):
        iliac = tube(space, x + side * (3 + apart), y, radius * 0.6, radius * 0.6)
        canvas.place(meet(iliac, space.z - end), blood, gap_mm=0)
    vein = tube(space, torso.spine_x + 10 + radius + 0.5 * vein_radius + sway, y + 1, vein_radius, vein_radius * 0.8)
    canvas.place(meet(vein, torso.diaphragm - 20), tissue["vein"] + tissue["texture"] * torso.grain, gap_mm=2.5)


def _paint_chest(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    _paint_ribs(canvas, space, torso, tissue, rng)
    heart_at = (
        rng.uniform(-30, -14),
        rng.uniform(0.05, 0.4) * torso.half_depth_mm,
        torso.lungs_base_mm + rng.uniform(58, 78),
    )
    heart = ellipsoid(space, heart_at, (54, 42, 44), (0, 20, 30)) + torso.ripple
    column = tube(space, torso.spine_x, 0.1 * torso.half_depth_mm, 26, 0.85 * torso.half_depth_mm)
    mediastinum = meet(blend(heart, column, 15), 2 - torso.diaphragm, torso.cavity + 2)
    lungs = meet(torso.cavity + 3 + 0.5 * torso.ripple, 3 - torso.diaphragm, 4 - mediastinum)
    branches = np.exp(-4 * (torso.strands[0] ** 2 + torso.strands[1] ** 2))
    fine = tissue["texture"] * 4 * torso.grain if tissue["lung_vessel"] > 100 else 0.0
    canvas.paint(meet(torso.cavity, 3 - torso.diaphragm, -canvas.taken), tissue["fat"])
    canvas.place(lungs, tissue["lung"] + fine + tissue["lung_vessel"] * branches, "lungs", gap_mm=2)
    canvas.place(meet(heart, 2 - torso.diaphragm), tissue["heart"] + tissue["texture"] * torso.grain, gap_mm=2)
    # The diaphragm itself: a sheet of muscle under the lungs.
    sheet = meet(np.abs(torso.diaphragm) - 1.5, torso.cavity)
    canvas.paint(meet(sheet, 1 - canvas.taken), tissue["muscle"])


def _paint_ribs(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    pitch_mm = rng.uniform(25, 31)
    along = np.mod((space.z + rng.uniform(0.3, 0.6) * space.y) / pitch_mm + rng.random(), 1.0)
    across = np.abs(along - 0.5) * pitch_mm - rng.uniform(4.5, 6.5)
    lowest = rng.uniform(-50, -10) + 0.6 * (space.y + torso.half_depth_mm)
    ribs = meet(np.abs(torso.cavity - 5.5) - 4.5, across, lowest - space.z)
    sternum = meet(np.abs(torso.cavity - 6) - 5, np.abs(space.x) - 15, -space.y, 60 - space.z)
    bone = join(ribs, sternum)
    canvas.paint(bone, tissue["cortical"])
    canvas.paint(bone + 2, tissue["marrow"])


def _paint_kidneys(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    for name, side, height in (("left_kidney", -1, -28), ("right_kidney", 1, -42)):
        scale = rng.normal(1, 0.1)
        lateral = torso.spine_x + side * (rng.uniform(50, 72))
        centre = lateral, rng.uniform(-0.62, -0.3) * torso.half_depth_mm, height + rng.uniform(-28, 28)
        radii = np.array([28.0, 24.0, 54.0]) * scale * rng.normal(1, 0.06, 3)
        turn = (rng.normal(8, 6), side * rng.uniform(4, 18), rng.normal(0, 10))
        outer = ellipsoid(space, centre, radii, turn) + torso.ripple
        hilum_at = (lateral - side * 0.75 * radii[0], centre[1] + 5, centre[2])
        hilum = ellipsoid(space, hilum_at, (0.62 * radii[0], 0.5 * radii[1], 0.42 * radii[2]), turn)
        kidney = meet(outer, -hilum, torso.cavity + 4)
        deep = np.clip((-7 - outer) / 4, 0, 1)
        value = tissue["kidney"] + tissue["medulla"] * deep + tissue["texture"] * torso.grain
        canvas.place(kidney, value, name, gap_mm=4)
        pelvis = ellipsoid(space, hilum_at, (0.4 * radii[0], 0.25 * radii[1], 0.22 * radii[2]), turn)
        canvas.place(pelvis, tissue["fluid"], gap_mm=2)


def _paint_spleen(canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator) -> None:
    scale = rng.uniform(0.85, 1.25)
    centre = torso.at(rng.uniform(-0.82, -0.62), rng.uniform(-0.5, -0.05), torso.lungs_base_mm + rng.uniform(-35, 5))
    radii = np.array([35.0, 50.0, 52.0]) * scale * rng.normal(1, 0.08, 3)
    turn = (rng.normal(-15, 12), rng.normal(0, 10), rng.normal(25, 12))
    outer = ellipsoid(space, centre, radii, turn)
    # The stomach's side is hollow: the spleen is a shell along the wall.
    stomach_side = (centre[0] + 1.45 * radii[0], centre[1] + 0.4 * radii[1], centre[2])
    hollow = ellipsoid(space, stomach_side, (radii[0], radii[1] * 0.9, radii[2] * 1.1), turn)
    spleen = meet(outer + 1.5 * torso.ripple, 3 - hollow, torso.cavity + 4, torso.diaphragm + 5)
    canvas.place(spleen, tissue["spleen"] + tissue["texture"] * torso.grain, "spleen", gap_mm=4)


def _paint_liver(
    canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator, *, lesion: bool
) -> None:
    bladder_at = torso.at(rng.uniform(0.25, 0.45), rng.uniform(0.2, 0.5), rng.uniform(-45, -5))
    canvas.place(ellipsoid(space, bladder_at, (14, 20, 22), (30, 0, 20)), tissue["fluid"], gap_mm=3)
    liver = _liver_shape(space, torso, rng)
    veins = np.exp(-14 * (torso.strands[0] ** 2 + torso.strands[1] ** 2))
    value = tissue["liver"] + tissue["vessel"] * veins + 1.2 * tissue["texture"] * torso.grain
    liver = canvas.place(liver, value, "liver", gap_mm=3.5)
    # Drawn in any case: the torso is the same with and without its lesion.
    radii, where = rng.uniform(11, 22) * rng.normal(1, 0.12, 3), rng.random()
    if lesion:
        spot = ellipsoid(space, _deep_point(space, liver, where), radii) + 1.5 * torso.ripple
        value = tissue["liver"] + tissue["lesion"] + tissue["texture"] * torso.grain
        canvas.paint(meet(spot, liver), value, "lesion")


def _liver_shape(space: Space, torso: _Torso, rng: np.random.Generator) -> Field:
    top = torso.lungs_base_mm + rng.uniform(-10, 25)
    right = ellipsoid(
        space,
        torso.at(rng.uniform(0.42, 0.6), rng.uniform(-0.2, 0.15), top - 25),
        np.array([0.58 * torso.half_width_mm, 0.9 * torso.half_depth_mm, 85]) * rng.normal(1, 0.08, 3),
        (0, rng.normal(0, 8), 0),
    )
    left = ellipsoid(
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
    return meet(blend(right, left, 18) + 2 * torso.ripple, lower_face, torso.cavity + 4, torso.diaphragm + 5)


def _deep_point(space: Space, distance: Field, where: float) -> tuple[float, float, float]:
    """Patient coordinates of a voxel well inside a shape; ``where`` from 0 to 1 chooses which."""
    deep = np.flatnonzero(distance.ravel() <= max(-12.0, 0.6 * float(distance.min())))
    chosen = deep[int(where * len(deep))]
    return float(space.x.flat[chosen]), float(space.y.flat[chosen]), float(space.z.flat[chosen])


def _paint_stomach_and_bowel(
    canvas: Canvas, space: Space, torso: _Torso, tissue: Tissue, rng: np.random.Generator
) -> None:
    inside = meet(torso.cavity + 3, torso.diaphragm + 5)
    contents = space.noise(rng, 38.0)
    soft = tissue["bowel"] + tissue["bowel_spread"] * contents + tissue["texture"] * torso.grain
    stomach_at = torso.at(rng.uniform(-0.55, -0.3), rng.uniform(0.2, 0.5), rng.uniform(-5, 35))
    stomach = meet(ellipsoid(space, stomach_at, (44, 34, 55), (15, 25, -20)) + 2 * torso.ripple, inside)
    stomach = canvas.place(stomach, soft, gap_mm=3)
    level = rng.uniform(0.2, 0.75) * torso.half_depth_mm  # gas collects in front: the patient lies on the back
    canvas.paint(meet(stomach + 4, level - space.y), tissue["gas"])
    first, second = space.noise(rng, 40.0), space.noise(rng, 40.0)
    loops = (np.hypot(first, second) - rng.uniform(0.7, 1.0)) * 26
    colon = join(
        *(tube(space, side * 0.8 * torso.half_width_mm, -0.15 * torso.half_depth_mm, 20, 22) for side in (-1, 1))
    )
    below = (space.z + 10 - rng.uniform(0, 40)) * 0.9
    bowel = meet(join(loops, colon + 3 * torso.ripple), inside, below, -0.45 * torso.half_depth_mm - space.y)
    bowel = canvas.place(bowel.astype(np.float32), soft, gap_mm=3)
    canvas.paint(meet(bowel + 4, 9 * (1.1 - contents)), tissue["gas"])
