"""Which of the known layouts a folder or a file of 2D images has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg3d.datalist.model import absolute, shorten
from medseg3d.errors import DataListError
from medseg3d.images.box_sources import from_coco, from_voc, from_yolo, is_coco, is_voc, is_yolo
from medseg3d.images.class_sources import (
    folders_with_table,
    from_class_folders,
    from_table,
    has_image_column,
    with_patients_of,
)
from medseg3d.images.drafts import PARTS, Part, Source, images_in, visible
from medseg3d.images.image import RASTER_SUFFIXES
from medseg3d.images.mask_sources import from_mask_folders, mask_folders
from medseg3d.images.model import Task
from medseg3d.volume import SUFFIXES as VOLUMES

__all__ = ["describes_images", "find_source"]


def describes_images(source: Path) -> bool:
    """Whether a folder or file describes 2D images, by its names alone; volumes come first where both would do."""
    if source.is_file():
        return has_image_column(source) or (source.suffix.lower() == ".json" and is_coco(source))
    if not source.is_dir() or (source / "dataset.json").is_file():
        return False
    if is_voc(source) or is_yolo(source):
        return True
    pair = mask_folders(source)
    files = images_in(pair[0]) if pair else images_in(source, deep=True)
    # DICOM alone is more often a series a folder than an image: then --task says that images are meant.
    rasters = any(file.name.lower().endswith(RASTER_SUFFIXES) for file in files)
    return rasters and not any(file.name.lower().endswith(VOLUMES) for file in files)


def find_source(
    source: Path,
    *,
    task: Task | None = None,
    labels: Sequence[str] | Mapping[str, int] = (),
    multi_label: bool = False,
    images: str | Path | None = None,
) -> Source:
    """What a folder or file describes, without opening an image.

    Raises:
        DataListError: no layout that is known, or not for this task.
    """
    names = tuple(labels)
    folder = None if images is None else absolute(images)
    found = (
        _of_file(source, folder, names, multi_label)
        if source.is_file()
        else _of_folder(source, folder, names, multi_label, task)
    )
    if found is None:
        raise DataListError(
            f"{source}: no layout of 2D images that is known"
            + (f" for {task}" if task else "")
            + ": a folder a class, a CSV with a column image, images/ with masks/, Annotations/*.xml (VOC), a COCO "
            "file, or images/ with labels/*.txt (YOLO)."
        )
    if task is not None and found.task != task:
        raise DataListError(f"{source} describes {found.task}, not {task}.")
    return found


def _of_file(source: Path, images: Path | None, names: tuple[str, ...], multi_label: bool) -> Source | None:
    if has_image_column(source):
        return from_table(source, images=images, labels=names, multi_label=multi_label)
    return from_coco(source, images=images) if source.suffix.lower() == ".json" and is_coco(source) else None


def _of_folder(
    folder: Path, images: Path | None, names: tuple[str, ...], multi_label: bool, task: Task | None
) -> Source | None:
    if not folder.is_dir():
        raise DataListError(f"{folder} does not exist: name a folder of images, a CSV or a COCO file.")
    tables = [file for file in visible(folder) if has_image_column(file)]
    annotated = _annotated(folder, images)
    if annotated is not None and task in (None, annotated.task):
        return with_patients_of(annotated, tables[0], folder) if len(tables) == 1 else annotated
    if len(tables) > 1:
        raise DataListError(
            f"{folder} has several tables of images ({shorten(t.name for t in tables)}): name the file."
        )
    if tables and task in (None, "classification"):
        return folders_with_table(folder, tables[0], names, multi_label)
    split = [
        (child, PARTS[child.name.lower()])
        for child in visible(folder)
        if child.name.lower() in PARTS and child.is_dir()
    ]
    if split:
        return _joined([_unsplit(child, part, task) for child, part in split], folder)
    return _unsplit(folder, None, task)


def _annotated(folder: Path, images: Path | None) -> Source | None:
    """Boxes or masks in files of their own, which say more than a table beside them."""
    if is_voc(folder):
        return from_voc(folder, images=images)
    if is_yolo(folder):
        return from_yolo(folder)
    pair = mask_folders(folder)
    return from_mask_folders(*pair) if pair else None


def _unsplit(folder: Path, part: Part | None, task: Task | None) -> Source | None:
    pair = mask_folders(folder)
    if pair and task in (None, "segmentation_2d"):
        return from_mask_folders(*pair, part)
    coco = [file for file in visible(folder) if file.suffix.lower() == ".json" and is_coco(file)]
    if len(coco) == 1 and task in (None, "detection"):
        return from_coco(coco[0], images=folder, part=part)
    classes = [child for child in visible(folder) if child.is_dir() and images_in(child, deep=True)]
    return from_class_folders(folder, part) if classes and task in (None, "classification") else None


def _joined(sources: Sequence[Source | None], folder: Path) -> Source | None:
    """The parts of a data set that is already split, as one."""
    known = [source for source in sources if source is not None]
    if not known or len(known) < len(sources):
        return None
    if len({(source.task, source.multi_label) for source in known}) > 1:
        raise DataListError(f"{folder}: its parts describe different tasks ({', '.join(s.task for s in known)}).")
    labels = tuple(dict.fromkeys(name for source in known for name in source.labels))
    return Source(
        known[0].task,
        tuple(draft for source in known for draft in source.drafts),
        tuple(sorted(labels)) if known[0].task == "classification" else labels,
        known[0].multi_label,
        tuple(finding for source in known for finding in source.problems),
    )
