"""Detections on disk: COCO's JSON, tables, pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg3d.boxes import box_areas, xyxy_to_xywh
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.images import ImageRef
from medseg3d.inference.counting import COUNTS
from medseg3d.metrics.detection import Boxes

__all__ = ["DetectedImage", "coco_content", "common_folder", "draw_detections", "write_tables"]

DECIMALS = 2  # of coordinates: hundredths of a pixel
LINE_SHARE = 300  # a line is one pixel wide for each so many of the image's shorter side


@dataclass(frozen=True)
class DetectedImage:
    """One image and what was found in it.

    Attributes:
        case, patient: its name and whose it is; the latter may be empty.
        image: its path, perhaps with ``#page=``.
        size: rows and columns.
        boxes: by falling score; they count from a score of 0.5 on.
    """

    case: str
    patient: str
    image: str
    size: tuple[int, int]
    boxes: Boxes

    def counts(self, labels: Mapping[str, int]) -> dict[str, int]:
        """How many of each class count."""
        return {name: int((self.boxes.of_class(class_id).scores >= COUNTS).sum()) for name, class_id in labels.items()}


def coco_content(
    images: Sequence[DetectedImage], labels: Mapping[str, int], *, scored: bool, info: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Images, categories and annotations as COCO's format has them; with ``case`` and ``patient`` of each image.

    ``file_name`` is relative to the folder that all images share. Without ``scored`` the boxes are a reference.
    """
    folder = common_folder(image.image for image in images)
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        annotations += _annotations(image.boxes, image_id, first_id=len(annotations) + 1, scored=scored)
    return {
        "info": dict(info or {}),
        "images": [
            {
                "id": image_id,
                "file_name": _relative(image.image, folder),
                "height": image.size[0],
                "width": image.size[1],
                "case": image.case,
                **({"patient": image.patient} if image.patient else {}),
            }
            for image_id, image in enumerate(images, start=1)
        ],
        "categories": [{"id": class_id, "name": name} for name, class_id in labels.items()],
        "annotations": annotations,
    }


def _annotations(boxes: Boxes, image_id: int, *, first_id: int, scored: bool) -> list[dict[str, Any]]:
    corners = np.asarray(boxes.xyxy, dtype=np.float64).round(DECIMALS)
    xywh, areas = xyxy_to_xywh(corners).round(DECIMALS).tolist(), box_areas(corners).round(DECIMALS).tolist()
    hard = boxes.difficult.tolist() or [False] * len(boxes)
    rows = zip(xywh, areas, boxes.classes.tolist(), boxes.scores.tolist(), hard, strict=True)
    return [
        {"id": number, "image_id": image_id, "category_id": class_id, "bbox": bbox, "area": area, "iscrowd": int(crowd)}
        | ({"score": round(score, 5)} if scored else {})
        for number, (bbox, area, class_id, score, crowd) in enumerate(rows, start=first_id)
    ]


def common_folder(images: Iterable[str]) -> Path:
    """The innermost folder that holds all images."""
    folders = {str(ImageRef.parse(image).path.resolve().parent) for image in images}
    return Path(os.path.commonpath(folders)) if folders else Path()


def _relative(image: str, folder: Path) -> str:
    reference = ImageRef.parse(image)
    path = reference.path.resolve().relative_to(folder)
    return str(ImageRef(path, reference.page))


def write_tables(
    images: Sequence[DetectedImage],
    labels: Mapping[str, int],
    folder: Path,
    *,
    info: Mapping[str, Any],
) -> None:
    """Write ``detections.json`` (COCO), ``detections.csv`` (a row a box) and ``counts.csv`` (a row an image)."""
    write_json(folder / "detections.json", coco_content(images, labels, scored=True, info=info))
    names = {class_id: name for name, class_id in labels.items()}
    boxes = [row for image in images for row in _rows(image, names)]
    columns = ["case", "label", "score", "left", "top", "right", "bottom", "counted"]
    counts = [
        {"case": image.case}
        | ({"patient": image.patient} if any(i.patient for i in images) else {})
        | {f"n_{name}": count for name, count in image.counts(labels).items()}
        for image in images
    ]
    for name, table in (("detections.csv", pd.DataFrame(boxes, columns=columns)), ("counts.csv", pd.DataFrame(counts))):
        with whole_or_not_at_all(folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def _rows(image: DetectedImage, names: Mapping[int, str]) -> list[tuple[Any, ...]]:
    boxes = image.boxes
    rows = zip(boxes.classes.tolist(), boxes.scores.tolist(), boxes.xyxy.round(DECIMALS).tolist(), strict=True)
    return [
        (image.case, names[class_id], round(score, 5), *xyxy, int(score >= COUNTS)) for class_id, score, xyxy in rows
    ]


def draw_detections(path: Path, pixels: NDArray[Any], boxes: Boxes, labels: Mapping[str, int]) -> None:
    """Write a picture of the image with the boxes that count, their scores, and the counts below the image."""
    from PIL import Image, ImageDraw, ImageFont

    from medseg3d.report.figures import label_colours
    from medseg3d.report.pictures_of_masks import in_eight_bits

    colours = {i: tuple(round(255 * part) for part in rgb[:3]) for i, rgb in label_colours(labels).items()}
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else in_eight_bits(_channels_first(pixels))).convert(
        "RGB"
    )
    line = max(1, round(min(image.size) / LINE_SHARE))
    font_size = max(10, 7 * line)
    font, strip = ImageFont.load_default(size=font_size), 2 * font_size
    picture = Image.new("RGB", (image.width, image.height + strip), "white")
    picture.paste(image)
    draw = ImageDraw.Draw(picture)
    x = float(line)
    for name, class_id in labels.items():
        chosen = boxes.of_class(class_id)
        counted = chosen.scores >= COUNTS
        for xyxy, score in zip(chosen.xyxy[counted].tolist(), chosen.scores[counted], strict=True):
            draw.rectangle(xyxy, outline=colours[class_id], width=line)
            draw.text((xyxy[0] + 2 * line, xyxy[1] + line), f"{score:.2f}", fill=colours[class_id], font=font)
        text = f"{name}: {int(counted.sum())}"
        draw.text((x, image.height + strip / 4), text, fill=colours[class_id], font=font)
        x += draw.textlength(text + "    ", font=font)
    with whole_or_not_at_all(path) as temporary:
        picture.save(temporary)


def _channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
