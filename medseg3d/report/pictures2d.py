"""2D images for a page: read, made small, boxes drawn over them as vectors."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.images import read_image

__all__ = ["DrawnBox", "Picture2D", "draw_boxes", "picture"]

LONGEST_SIDE = 640
QUALITY = 82


@dataclass(frozen=True)
class DrawnBox:
    """A box over a picture: what was found (``hit``), overlooked (``missed``) or made up (``false``)."""

    kind: Literal["hit", "missed", "false"]
    x: float
    y: float
    width: float
    height: float
    colour: str
    text: str


@dataclass(frozen=True)
class Picture2D:
    """A picture in the coordinates of its own image; ``source`` is a data URL of a smaller JPEG.

    ``beside`` is shown to its right, under the same words.
    """

    title: str
    note: str
    source: str
    width: int
    height: int
    boxes: tuple[DrawnBox, ...] = ()
    beside: Picture2D | None = None


def picture(path: Path, title: str, note: str, boxes: Sequence[DrawnBox] = ()) -> Picture2D:
    """Read an image for a page: any that ``medseg3d.images.read_image`` reads, also ``scan.tif#page=2``.

    Raises:
        CaseError: it is missing, damaged, or of another format.
    """
    from PIL import Image

    pixels = read_image(path).pixels
    height, width = pixels.shape[:2]
    shown = Image.fromarray(pixels if pixels.dtype == np.uint8 else _eight_bit(pixels))
    shown.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    shown.convert("RGB").save(buffer, format="JPEG", quality=QUALITY)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture2D(title, note, source, width, height, tuple(boxes))


def draw_boxes(
    reference: Sequence[Mapping[str, Any]],
    predicted: Sequence[Mapping[str, Any]],
    colours: Mapping[int, str],
    names: Mapping[int, str],
    *,
    iou: float,
) -> list[DrawnBox]:
    """Boxes of one image as hits, misses and false detections; entries have ``xyxy``, ``class`` and ``score``."""
    from medseg3d.metrics.detection import match_boxes

    hits, counts = match_boxes(_boxes(predicted), _boxes(reference), iou=iou)
    drawn = [
        _drawn("hit" if hit >= 0 else "false", entry, colours, f"{names[entry['class']]} {entry['score']:.2f}")
        for entry, hit, counted in zip(predicted, hits, counts, strict=True)
        if counted
    ]
    found = set(hits.tolist())
    return drawn + [
        _drawn("missed", entry, colours, f"{names[entry['class']]}, missed")
        for i, entry in enumerate(reference)
        if i not in found and not entry.get("difficult")
    ]


def _boxes(entries: Sequence[Mapping[str, Any]]) -> Any:
    from medseg3d.metrics.detection import Boxes

    return Boxes(
        np.array([e["xyxy"] for e in entries], dtype=np.float64).reshape(-1, 4),
        np.array([e["class"] for e in entries], dtype=np.int64),
        np.array([e["score"] for e in entries], dtype=np.float64),
        np.array([bool(e.get("difficult")) for e in entries], dtype=bool),
    )


def _drawn(
    kind: Literal["hit", "missed", "false"], entry: Mapping[str, Any], colours: Mapping[int, str], text: str
) -> DrawnBox:
    left, top, right, bottom = entry["xyxy"]
    return DrawnBox(kind, left, top, right - left, bottom - top, colours[entry["class"]], text)


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit and float images between their 1st and 99th percentiles."""
    low, high = np.percentile(pixels, (1, 99))
    scaled = np.clip((pixels.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(scaled * 255, dtype=np.uint8)
