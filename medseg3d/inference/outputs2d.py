"""What a segmented 2D image is written as: label maps with a palette, maps of numbers, tables of objects."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medseg3d.files import whole_or_not_at_all
from medseg3d.instances import Instance
from medseg3d.report.pictures_of_masks import colour_table

__all__ = ["entropy", "indexed", "save_image", "segment_info", "write_instances"]

NOTHING = Instance(0, 0, 0, (0.0, 0.0), (0, 0, 0, 0), 0.0, 0.0, 0.0, False)  # for the names of its columns


def write_instances(path: Path, objects: Mapping[str, Sequence[Instance]], labels: Mapping[str, int]) -> None:
    """Write a CSV with a row an object of every case; the header alone where there are none."""
    names = {label: name for name, label in labels.items()}
    rows = [{"case": case, **_row(one), "label": names[one.label]} for case, found in objects.items() for one in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", *_row(NOTHING)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with whole_or_not_at_all(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _row(one: Instance) -> dict[str, Any]:
    """An object as a row of a table: places in columns of their own."""
    left, top, right, bottom = one.box
    place = {"centre_row": one.centre[0], "centre_column": one.centre[1], "left": left, "top": top, "right": right,
             "bottom": bottom}  # fmt: skip
    sizes = {key: value for key, value in asdict(one).items() if key not in ("id", "label", "centre", "box")}
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in (place | sizes).items()}
    return {"id": one.id, "label": one.label, **rounded}


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image, whole or not at all; its suffix says the format."""
    with whole_or_not_at_all(path) as temporary:
        image.save(temporary, **options)


def indexed(ids: NDArray[np.integer], labels: Sequence[int]) -> Image.Image:
    """A label map whose palette's indices are the ids; 16 bits of grey where they exceed 255."""
    if max(labels) > 255:
        return Image.fromarray(ids.astype(np.uint16))
    palette = np.zeros((256, 3), np.uint8)
    palette[list(labels)] = colour_table(len(labels))
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(palette.ravel().tolist())
    return image


def entropy(probabilities: torch.Tensor, *, binary: bool) -> NDArray[np.float32]:
    """0 (sure) to 1 (even) over the classes; of masks that overlap the greatest over the labels."""
    p = probabilities.clamp(0, 1)
    if binary:
        bits = ((torch.special.entr(p) + torch.special.entr(1 - p)) / np.log(2)).amax(0)
    else:
        bits = torch.special.entr(p).sum(0) / np.log(len(p))
    return np.asarray(bits.clamp(0, 1).numpy(), np.float32)


def segment_info(instance: Instance) -> dict[str, Any]:
    """A segment as COCO's panoptic format describes it."""
    left, top, right, bottom = instance.box
    box = [left, top, right - left, bottom - top]
    return {"id": instance.id, "category_id": instance.label, "area": instance.area_px, "bbox": box, "iscrowd": 0}
