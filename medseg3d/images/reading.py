"""Lists of 2D images as JSON: read, written, valid once read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg3d.datalist.model import absolute, relative, write_json
from medseg3d.datalist.reading import kind_of, load_json
from medseg3d.errors import DataListError
from medseg3d.images.model import TASKS, Box, ImageItem, ImageList, ImageRef

__all__ = ["is_image_list", "read_image_list", "write_image_list"]

KEYS = ("name", "task", "labels", "multi_label", "training", "testing")
ENTRY_KEYS = ("case", "patient", "image", "fold", "classes", "mask", "boxes")
BOX_KEYS = ("xyxy", "label", "difficult")


def is_image_list(path: str | Path) -> bool:
    """Whether a JSON file is a list of 2D images, which says its task, and not one of volumes."""
    return load_json(absolute(path)).get("task") in TASKS


def read_image_list(path: str | Path) -> ImageList:
    """Read a list of 2D images; no image is opened (``check_image_list`` does that).

    Raises:
        DataListError: the file is missing or malformed; the message names the entry and what to do.
    """
    path = absolute(path)
    values = load_json(path)
    if values.get("task") not in TASKS:
        raise DataListError(
            f"{path} is no list of 2D images: its task is {values.get('task')!r}, not one of {', '.join(TASKS)}. "
            "Make one with `medseg3d datalist build`."
        )
    _refuse_unknown(values, KEYS, "the list", path)
    multi_label = values.get("multi_label", False)
    if not isinstance(multi_label, bool):
        raise DataListError(f'{path}: "multi_label" is {kind_of(multi_label)}, it must be true or false.')
    return ImageList(
        path=path,
        name=str(values.get("name") or path.stem),
        task=values["task"],
        labels=_labels(values, path),
        multi_label=multi_label,
        training=_items(values, "training", path),
        testing=_items(values, "testing", path),
    )


def write_image_list(images: ImageList, path: str | Path) -> None:
    """Write ``images`` as JSON to ``path``; the file appears whole or not at all. Paths are relative to it.

    Raises:
        DataListError: the file cannot be written.
    """
    path = absolute(path)
    values = {
        "name": images.name,
        "task": images.task,
        "labels": dict(images.labels),
        "multi_label": images.multi_label,
        "training": [_to_json(item, path.parent) for item in images.training],
        "testing": [_to_json(item, path.parent) for item in images.testing],
    }
    write_json(values, path)


def _to_json(item: ImageItem, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"case": item.case, "patient": item.patient, "image": _shown(item.image, folder)}
    if item.fold is not None:
        values["fold"] = item.fold
    if item.classes is not None:
        values["classes"] = list(item.classes)
    if item.masks is not None:
        masks = [_shown(mask, folder) for mask in item.masks]
        values["mask"] = masks[0] if len(masks) == 1 else masks
    if item.boxes is not None:
        values["boxes"] = [{"xyxy": list(b.xyxy), "label": b.label, "difficult": b.difficult} for b in item.boxes]
    return values


def _shown(image: ImageRef, folder: Path) -> str:
    return str(ImageRef(Path(relative(image.path, folder)), image.page))


def _labels(values: Mapping[str, Any], path: Path) -> dict[str, int]:
    labels = values.get("labels")
    if not isinstance(labels, dict) or not labels or not all(type(i) is int for i in labels.values()):
        raise DataListError(f'{path}: "labels" must map names to ids, as in {{"RBC": 1, "WBC": 2}}.')
    return dict(sorted(labels.items(), key=lambda entry: entry[1]))


def _items(values: Mapping[str, Any], part: str, path: Path) -> tuple[ImageItem, ...]:
    entries = values.get(part) or []
    if not isinstance(entries, list):
        raise DataListError(f"{path}: {part!r} is {kind_of(entries)}, it must be a list of images.")
    return tuple(_item(entry, f"{part}[{i}]", path) for i, entry in enumerate(entries))


def _item(entry: Any, where: str, path: Path) -> ImageItem:
    if not isinstance(entry, dict):
        raise DataListError(f'{path}: {where} is {kind_of(entry)}, it must be an object with "case" and "image".')
    _refuse_unknown(entry, ENTRY_KEYS, where, path)
    fold, classes, masks, boxes = (entry.get(key) for key in ("fold", "classes", "mask", "boxes"))
    if fold is not None and type(fold) is not int:
        raise DataListError(f'{path}: {where}: "fold" is {fold!r}, it must be a whole number from 0 on.')
    if classes is not None and not _are_texts(classes):
        raise DataListError(f'{path}: {where}: "classes" must be a list of names.')
    masks = [masks] if isinstance(masks, str) else masks
    if masks is not None and (not masks or not _are_texts(masks)):
        raise DataListError(f'{path}: {where}: "mask" must be a path, or a list of one a label.')
    if boxes is not None and not isinstance(boxes, list):
        raise DataListError(f'{path}: {where}: "boxes" is {kind_of(boxes)}, it must be a list.')
    case = _text(entry, "case", where, path)
    return ImageItem(
        case=case,
        patient=_text(entry, "patient", where, path) if "patient" in entry else case,
        image=_ref(_text(entry, "image", where, path), path),
        fold=fold if where.startswith("training") else None,
        classes=None if classes is None else tuple(classes),
        masks=None if masks is None else tuple(_ref(mask, path) for mask in masks),
        boxes=None if boxes is None else tuple(_box(b, f"{where}: boxes[{i}]", path) for i, b in enumerate(boxes)),
    )


def _box(entry: Any, where: str, path: Path) -> Box:
    if not isinstance(entry, dict):
        raise DataListError(f'{path}: {where} is {kind_of(entry)}, it must be an object with "xyxy" and "label".')
    _refuse_unknown(entry, BOX_KEYS, where, path)
    xyxy, difficult = entry.get("xyxy"), entry.get("difficult", False)
    if not isinstance(xyxy, list) or len(xyxy) != 4 or not all(type(v) in (int, float) for v in xyxy):
        raise DataListError(f'{path}: {where}: "xyxy" must be four numbers: left, top, right, bottom in pixels.')
    if not isinstance(difficult, bool):
        raise DataListError(f'{path}: {where}: "difficult" is {kind_of(difficult)}, it must be true or false.')
    left, top, right, bottom = map(float, xyxy)
    return Box((left, top, right, bottom), _text(entry, "label", where, path), difficult)


def _text(entry: Mapping[str, Any], key: str, where: str, path: Path) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataListError(f"{path}: {where}: {key!r} is {value!r}, it must be text.")
    return value


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and value for value in values)


def _ref(text: str, path: Path) -> ImageRef:
    ref = ImageRef.parse(text)
    return ImageRef(absolute(ref.path, folder=path.parent), ref.page)


def _refuse_unknown(entry: Mapping[str, Any], known: Iterable[str], where: str, path: Path) -> None:
    """A misspelt ``patient`` would let folds share patients: every key must be known."""
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise DataListError(f"{path}: {where} has the key {key!r}: {hint}")
