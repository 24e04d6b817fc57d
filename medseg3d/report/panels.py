"""Pictures of a case: what ``viewer.js`` needs to draw its planes and surfaces."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError, GeometryError
from medseg3d.geometry import Affine
from medseg3d.images import read_image
from medseg3d.report.colours import Palette, Structure
from medseg3d.report.surface import surface
from medseg3d.report.volumes import (
    MARGIN_MM,
    Grid,
    canonical,
    colour_levels,
    encode_sheet,
    grey_levels,
    indexed,
    onto_grid,
    reduced,
    windows,
)
from medseg3d.report.words import Units
from medseg3d.volume import Volume, label_map, read_channels, read_volume, require_same_grid

__all__ = ["Budget", "Panel", "panel", "read_grid"]

# int16 holds ±3276 mm at this fineness.
VERTEX_MM = 0.1


@dataclass(frozen=True)
class Budget:
    """What one case may cost: voxels shown, bytes of its picture, triangles of all its surfaces."""

    voxels: int = 6_000_000
    image_bytes: int = 1_300_000
    triangles: int = 60_000


@dataclass(frozen=True)
class Panel:
    """One case to look at: ``payload`` is JSON for the script, ``notes`` are sentences for the reader."""

    case: str
    payload: Mapping[str, Any]
    notes: tuple[str, ...]


def read_grid(
    reference: str | Path,
    predictions: Mapping[str, str | Path],
    image: str | Path | Sequence[str | Path] | None,
    *,
    planar: bool = False,
) -> tuple[Grid, tuple[str, ...]]:
    """Read a case onto the reference's grid; an image that cannot be read is left out, and the note says so.

    Args:
        reference: label map.
        predictions: label maps by the name under which they are shown; one called ``reference``, which the reference
            is shown under, becomes ``reference (prediction)``.
        image: a file, or the channels of an image, of which the first is shown.
        planar: the label maps are slices of a 2D image, which is a file that ``medseg3d.images`` reads.

    Raises:
        CaseError: the reference or a prediction cannot be read.
    """
    truth = read_volume(reference)
    notes: list[str] = []
    maps = {"reference": label_map(truth)}
    for given, path in predictions.items():
        name = f"{given} (prediction)" if given == "reference" else given
        maps[name] = label_map(_on_grid_of(truth, read_volume(path), name, notes, linear=False))
    picture: NDArray[Any] | None = None
    if image:
        first = Path(image if isinstance(image, str | Path) else image[0])
        try:
            if planar:
                picture = _as_slice(first, truth.voxels.shape)
            else:
                picture = _on_grid_of(truth, _first_channel(first), "image", notes, linear=True).voxels
        except CaseError as error:
            notes.append(f"The image is not shown: {str(error).replace(str(first), first.name)}")
    else:
        notes.append("The evaluation was given no images: only the labels are shown.")
    return Grid(picture, maps, truth.affine), tuple(notes)


def _as_slice(path: Path, shape: Sequence[int]) -> NDArray[Any]:
    """The pixels of a 2D image as a volume of one slice, colours along a fourth axis: columns first, then rows."""
    voxels = np.swapaxes(read_image(path).pixels, 0, 1)[:, :, None]
    if voxels.shape[:3] != tuple(shape):
        columns, rows = voxels.shape[:2]
        raise CaseError(f"{path} has {rows}×{columns} pixels, the reference {shape[1]}×{shape[0]}.")
    return voxels


def _first_channel(path: Path) -> Volume:
    channels = read_channels(path)
    return Volume(channels.voxels[0], channels.affine, channels.path)


def _on_grid_of(truth: Volume, other: Volume, name: str, notes: list[str], *, linear: bool) -> Volume:
    try:
        require_same_grid(truth, other)
    except GeometryError:
        notes.append(f"{name.capitalize()}: on another grid than the reference, and resampled for these pictures.")
        shape = truth.voxels.shape
        voxels = onto_grid(other.voxels, other.affine, like=truth.affine, shape=shape, linear=linear)
        return Volume(voxels, truth.affine, other.path)
    return other


def panel(
    case: str,
    grid: Grid,
    palette: Palette,
    *,
    notes: Sequence[str] = (),
    budget: Budget | None = None,
    units: Units | None = None,
) -> Panel:
    """Everything that the page needs to show a case, at most about as large as ``budget`` says.

    Args:
        units: of 2D images they are planar; such a case is shown in one plane, without surfaces.
    """
    budget, units = budget or Budget(), units or Units()
    whole = canonical(grid)
    shown = reduced(whole, max_voxels=budget.voxels)
    ids = sorted({i for structure in palette.structures for i in structure.ids})
    payload: dict[str, Any] = {
        "case": case,
        "shape": list(shown.shape),
        "spacing": [round(s, 5) for s in shown.spacing_mm],
        "affine": shown.affine.round(5).tolist(),
        "labels": [{"name": structure.name, "colour": structure.colour} for structure in palette.structures],
        # Which of the labels a voxel belongs to, by its value less one: several where they overlap.
        "held": [[n for n, structure in enumerate(palette.structures) if i in structure.ids] for i in ids],
        "maps": [{"name": name, "voxels": _bytes(indexed(voxels, ids))} for name, voxels in shown.maps.items()],
        "wide": len(ids) > 255,
        "plane_unit": units.distance if units.planar else "",
        "centre": _centre(shown),
        "image": _image(shown.image, budget) if shown.image is not None else None,
        "surfaces": [] if units.planar else _surfaces(shown, palette.structures, budget.triangles),
    }
    return Panel(case, payload, (*notes, *_notes(whole, shown, units)))


def _notes(whole: Grid, shown: Grid, units: Units) -> list[str]:
    notes = []
    if not np.allclose(whole.spacing_mm, shown.spacing_mm):
        sizes = "×".join(f"{s:.2f}" for s in shown.spacing_mm[: 2 if units.planar else 3])
        notes.append(
            f"Shown with {units.element}s of {sizes} {units.distance} to keep this file small; the numbers come from "
            f"the full {'image' if units.planar else 'grid'}."
        )
    elif whole.shape != shown.shape:
        notes.append(f"Cut to the labels and {MARGIN_MM:g} {units.distance} around them to keep this file small.")
    tilt = np.abs(whole.affine[:3, :3]) / np.linalg.norm(whole.affine[:3, :3], axis=0)
    degrees = float(np.degrees(np.arccos(np.clip(tilt.max(axis=0), 0, 1)).max()))
    if degrees > 2:
        notes.append(f"The grid is oblique (up to {degrees:.0f}°): its own planes are shown, under the nearest names.")
    return notes


def _image(image: NDArray[Any], budget: Budget) -> Mapping[str, Any]:
    """Grey values as slices; colours as slices of red, then of green, then of blue."""
    colours = image.ndim == 4
    levels, values = colour_levels(image) if colours else grey_levels(image)
    slices = np.concatenate(np.moveaxis(levels, -1, 0), axis=2) if colours else levels
    sheet = encode_sheet(slices, max_bytes=budget.image_bytes)
    whole = {"name": "As stored", "low": float(values[0]), "high": float(values[-1])}
    return {
        "url": sheet.url,
        "columns": sheet.columns,
        "colours": colours,
        "levels": [round(float(v), 4) for v in values],
        "windows": [whole] if colours else windows(image),
    }


def _centre(grid: Grid) -> list[int]:
    """The slices to begin with: along each axis the one where the maps differ most.

    A voxel counts by its share of its structure, so that a small one that is missed outweighs the rim of a large one.
    Without a difference it is the slice with most of the labels; the middle where nothing is labelled.
    """
    first, *others = grid.maps.values()
    weight = np.zeros(grid.shape, np.float32)
    for other in others:
        differs = first != other
        for voxels in (first, other):
            sizes = np.bincount(voxels.ravel())
            sizes[0] = 0  # background is no structure
            weight += differs * np.divide(1.0, sizes, out=np.zeros(len(sizes)), where=sizes > 0)[voxels]
    for chosen in (weight, grid.labelled):
        if chosen.any():
            sums = [chosen.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
            return [int(s.argmax()) for s in sums]
    return [n // 2 for n in grid.shape]


def _surfaces(grid: Grid, structures: Sequence[Structure], triangles: int) -> list[Mapping[str, Any]]:
    """Surfaces of every structure in every map; larger ones get more triangles, by the root of their volume."""
    from scipy.ndimage import find_objects

    highest = max((i for structure in structures for i in structure.ids), default=0)
    found = []
    for side, voxels in grid.maps.items():
        boxes = find_objects(voxels, max_label=highest)
        for structure in structures:
            own = [boxes[i - 1] for i in structure.ids if i > 0 and boxes[i - 1] is not None]
            if own:
                box = _around(own)
                found.append((side, structure, box, np.isin(voxels[box], structure.ids)))
    weights = np.sqrt([np.count_nonzero(mask) for *_, mask in found])
    surfaces = []
    for (side, structure, box, mask), weight in zip(found, weights, strict=True):
        offset = np.eye(4)
        offset[:3, 3] = [part.start for part in box]
        share = max(300, int(triangles * weight / weights.sum()))
        surfaces.append(_surface(mask, grid.affine @ offset, side, structure, share))
    return surfaces


def _around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The box around boxes."""
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))


def _surface(
    mask: NDArray[np.bool_], affine: Affine, side: str, structure: Structure, triangles: int
) -> Mapping[str, Any]:
    mesh = surface(mask, affine, max_triangles=triangles)
    wide = len(mesh.vertices_mm) > np.iinfo(np.uint16).max
    return {
        "side": side,
        "name": structure.name,
        "colour": structure.colour,
        "vertices": _bytes(np.rint(mesh.vertices_mm / VERTEX_MM).astype(np.int16)),
        "triangles": _bytes(mesh.triangles.astype(np.uint32 if wide else np.uint16)),
        "wide": wide,
    }


def _bytes(values: NDArray[Any]) -> str:
    """Little-endian bytes, the first axis running fastest for volumes (x, y, z) as a picture's rows do."""
    ordered = values.ravel(order="F" if values.ndim == 3 else "C")
    return base64.b64encode(ordered.astype(ordered.dtype.newbyteorder("<")).tobytes()).decode("ascii")
