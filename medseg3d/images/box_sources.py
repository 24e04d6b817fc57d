"""Boxes in images: Pascal VOC, COCO and YOLO, in this project's coordinates (pixel edges, top left is 0, 0)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medseg3d.datalist.cases import Finding
from medseg3d.datalist.model import shorten
from medseg3d.datalist.reading import load_json
from medseg3d.errors import CaseError, DataListError
from medseg3d.images.drafts import PARTS, Draft, DraftBox, ImageFinder, Part, Source, images_in, problem, visible
from medseg3d.images.image import image_name, read_image
from medseg3d.images.model import Box, ImageRef

__all__ = ["from_coco", "from_voc", "from_yolo", "is_coco", "is_voc", "is_yolo"]

# Pascal VOC ----------------------------------------------------------------------------------------------------------


def is_voc(folder: Path) -> bool:
    """Whether a folder has ``Annotations`` in XML."""
    return any(file.suffix.lower() == ".xml" for file in visible(folder / "Annotations"))


def from_voc(folder: Path, *, images: Path | None = None) -> Source:
    """Pascal VOC: ``Annotations/*.xml`` and ``JPEGImages``.

    VOC counts pixels from 1 and includes the last one, so that a box from xmin to xmax covers xmin - 1 to xmax in
    pixel edges (as Detectron2 converts it too). A box with xmin = xmax is taken for one without area all the same:
    programs write it where a click missed.
    """
    finder = ImageFinder(images or _first_folder(folder, ("JPEGImages", "images", "Images")), folder)
    drafts: list[Draft] = []
    problems: list[Finding] = []
    for file in visible(folder / "Annotations"):
        if file.suffix.lower() != ".xml":
            continue
        try:
            drafts.append(_voc_image(file, finder))
        except DataListError as error:
            problems.append(problem(file.name, "annotation-unusable", str(error)))
    if unused := finder.unused():
        message = f"{len(unused)} images have no annotation: {shorten(image.name for image in unused)}"
        problems.append(problem(finder.folder.name, "image-without-annotation", message, warning=True))
    return Source("detection", tuple(drafts), _names(drafts), problems=tuple(problems))


def _voc_image(file: Path, finder: ImageFinder) -> Draft:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise DataListError(f"no readable XML ({error}).") from error
    boxes = [_voc_box(item, f"{file.name}, object {number}") for number, item in enumerate(root.iter("object"), 1)]
    image = _same_name(finder, file.stem) or finder.find(root.findtext("filename") or file.stem)
    size = _size(root.findtext("size/height"), root.findtext("size/width"))
    return Draft(ImageRef(image), file.name, size=size, boxes=tuple(boxes))


def _same_name(finder: ImageFinder, stem: str) -> Path | None:
    """The image named as its annotation: ``filename`` inside is often of another computer."""
    try:
        return finder.find(stem)
    except DataListError:
        return None


def _voc_box(item: ElementTree.Element, where: str) -> DraftBox:
    name, corners = (item.findtext("name") or "").strip(), item.find("bndbox")
    if not name:
        raise DataListError(f"{where}: no name.")
    try:
        left, top, right, bottom = (float(corners.findtext(k) or "") for k in ("xmin", "ymin", "xmax", "ymax"))  # type: ignore[union-attr]
    except (AttributeError, ValueError) as error:
        raise DataListError(f"{where}: no bndbox with the numbers xmin, ymin, xmax and ymax.") from error
    if right > left and bottom > top:
        left, top = left - 1, top - 1
    return DraftBox(Box((left, top, right, bottom), name, (item.findtext("difficult") or "0").strip() == "1"), where)


# COCO ----------------------------------------------------------------------------------------------------------------


def is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's three lists."""
    try:
        return {"images", "annotations", "categories"} <= set(load_json(path))
    except DataListError:
        return False


def from_coco(path: Path, *, images: Path | None = None, part: Part | None = None) -> Source:
    """COCO: boxes as x, y, width, height; categories are numbered anew from 1, in the order of their ids.

    Raises:
        DataListError: a list lacks a field that it must have.
    """
    values = load_json(path)
    finder = ImageFinder(images or path.parent, path.parent)
    try:
        names = {c["id"]: str(c["name"]) for c in sorted(values["categories"], key=lambda c: c["id"])}
        entries = {entry["id"]: entry for entry in values["images"]}
        annotations: dict[Any, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
        for number, annotation in enumerate(values["annotations"]):
            annotations[annotation["image_id"]].append((number, annotation))
    except (KeyError, TypeError) as error:
        raise DataListError(f"{path}: an entry lacks {error}: COCO's format needs it.") from error
    drafts: list[Draft] = []
    problems = [
        problem(f"{path.name}, annotation {n}", "image-unknown", f"no image has the id {image_id!r}")
        for image_id, found in annotations.items() if image_id not in entries
        for n, _ in found
    ]  # fmt: skip
    for image_id, entry in entries.items():
        where = f"{path.name}, image {image_id}"
        try:
            boxes = [_coco_box(a, names, f"{path.name}, annotation {n}") for n, a in annotations[image_id]]
            image = finder.find(str(entry.get("file_name", "")))
            patient = entry.get("patient", entry.get("patient_id"))
            drafts.append(
                Draft(ImageRef(image), where, patient=None if patient is None else str(patient), part=part,
                      size=_size(entry.get("height"), entry.get("width")),
                      boxes=tuple(boxes))
            )  # fmt: skip
        except DataListError as error:
            problems.append(problem(where, "annotation-unusable", str(error)))
    return Source("detection", tuple(drafts), tuple(names.values()), problems=tuple(problems))


def _coco_box(annotation: Mapping[str, Any], names: Mapping[Any, str], where: str) -> DraftBox:
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
        raise DataListError(f"{where}: bbox is {str(bbox)[:60]}, not x, y, width and height.")
    if annotation.get("category_id") not in names:
        raise DataListError(f"{where}: no category has the id {annotation.get('category_id')!r}.")
    x, y, width, height = map(float, bbox)
    box = Box((x, y, x + width, y + height), names[annotation["category_id"]], bool(annotation.get("iscrowd", 0)))
    return DraftBox(box, where)


# YOLO ----------------------------------------------------------------------------------------------------------------


def is_yolo(folder: Path) -> bool:
    """Whether ``images`` and ``labels`` lie beside each other, and the labels are text files."""
    return _yolo_pairs(folder) != []


def from_yolo(folder: Path) -> Source:
    """YOLO: ``images`` and ``labels`` (perhaps ``train``, ``val`` and ``test`` of each), one text file an image.

    A row is class, x and y of the centre, width and height, as shares of the image; or class and the corners of a
    polygon, which becomes its box. Names come from ``data.yaml``, another ``*.yaml`` with ``names``, or
    ``classes.txt``. An image without a text file has no boxes.

    Raises:
        DataListError: the names are not known.
    """
    names = _yolo_names(folder)
    drafts: list[Draft] = []
    problems: list[Finding] = []
    for images, labels, part in _yolo_pairs(folder):
        files = images_in(images)
        for file in files:
            try:
                drafts.append(_yolo_image(file, labels / f"{image_name(file)}.txt", names, part))
            except (DataListError, CaseError) as error:
                problems.append(problem(file.name, "annotation-unusable", str(error)))
        stems = {image_name(file) for file in files}
        for text in visible(labels):
            if text.suffix == ".txt" and text.stem not in stems and text.name != "classes.txt":
                problems.append(problem(text.name, "row-without-file", f"no image {text.stem!r} in {images}"))
    if names is None:
        drafts, found = _named_by_number(drafts)
        problems.append(problem(folder.name, "names-unknown", "no data.yaml or classes.txt names the classes: they are "
                                f"called {shorten(found)}", warning=True))  # fmt: skip
        return Source("detection", tuple(drafts), found, problems=tuple(problems))
    return Source("detection", tuple(drafts), names, problems=tuple(problems))


def _named_by_number(drafts: list[Draft]) -> tuple[list[Draft], tuple[str, ...]]:
    names = {b.box.label for draft in drafts for b in draft.boxes or ()}
    return drafts, tuple(sorted(names, key=lambda name: int(name.removeprefix("class_"))))


def _yolo_pairs(folder: Path) -> list[tuple[Path, Path, Part | None]]:
    candidates: list[tuple[Path, Path, Part | None]] = [(folder / "images", folder / "labels", None)]
    for name, part in PARTS.items():
        candidates.append((folder / name / "images", folder / name / "labels", part))
        candidates.append((folder / "images" / name, folder / "labels" / name, part))
    return [
        (images, labels, part)
        for images, labels, part in candidates
        if any(file.suffix == ".txt" for file in visible(labels)) and images_in(images)
    ]


def _yolo_names(folder: Path) -> tuple[str, ...] | None:
    import yaml

    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")), key=lambda f: f.stem != "data"):
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataListError(f"{file} cannot be read ({error}).") from error
        names = values.get("names") if isinstance(values, dict) else None
        if isinstance(names, dict):
            names = [names[number] for number in sorted(names)]
        if isinstance(names, list):
            return tuple(map(str, names))
    for file in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if file.is_file():
            return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return None


def _yolo_image(file: Path, labels: Path, names: tuple[str, ...] | None, part: Part | None) -> Draft:
    rows = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
    boxes: list[DraftBox] = []
    if any(row.strip() for row in rows):
        height, width = read_image(file).size
        boxes = [
            _yolo_box(row, f"{labels.name}, row {number}", names, width, height)
            for number, row in enumerate(rows, 1)
            if row.strip()
        ]
    return Draft(ImageRef(file), labels.name if labels.is_file() else file.name, part=part, boxes=tuple(boxes))


def _yolo_box(row: str, where: str, names: tuple[str, ...] | None, width: int, height: int) -> DraftBox:
    parts = row.split()
    try:
        number, values = int(parts[0]), [float(part) for part in parts[1:]]
    except ValueError as error:
        raise DataListError(f"{where}: {row[:60]!r} is not a class and numbers.") from error
    if not all(map(math.isfinite, values)) or (len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2)):
        raise DataListError(f"{where}: {row[:60]!r} is not class, x, y, width and height as shares of the image.")
    if number < 0 or (names is not None and number >= len(names)):
        raise DataListError(f"{where}: class {number} is unknown; {len(names or ())} are named, from 0.")
    if len(values) < 6:  # a fifth number is a confidence
        x, y, w, h = values[:4]
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    if max(map(abs, corners)) > 2:
        raise DataListError(f"{where}: {row[:60]!r} are pixels; YOLO's rows are shares of the image, 0 to 1.")
    left, top, right, bottom = corners
    label = names[number] if names is not None else f"class_{number}"
    return DraftBox(Box((left * width, top * height, right * width, bottom * height), label), where)


# Common --------------------------------------------------------------------------------------------------------------


def _size(rows: Any, columns: Any) -> tuple[int, int] | None:
    """Rows and columns that an annotation names; None where it does not, or writes zeros."""
    try:
        size = int(rows), int(columns)
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path:
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _names(drafts: list[Draft]) -> tuple[str, ...]:
    found = {b.box.label for draft in drafts for b in draft.boxes or ()}
    return tuple(
        sorted(found, key=lambda name: [int(t) if t.isdecimal() else t.lower() for t in re.split(r"(\d+)", name)])
    )
