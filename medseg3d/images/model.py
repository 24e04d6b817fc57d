"""What a list of 2D images says: images with their classes, masks or boxes, patients and folds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from medseg3d.datalist.model import Case, DataList, shorten
from medseg3d.errors import DataListError

__all__ = ["TASKS", "Box", "ImageItem", "ImageList", "ImageRef", "Task", "as_datalist"]

Task = Literal["classification", "detection", "segmentation_2d"]
TASKS: tuple[Task, ...] = get_args(Task)

_PAGE = re.compile(r"(.+)#page=(\d+)", re.DOTALL)


@dataclass(frozen=True, order=True)
class ImageRef:
    """An image file, or one page of a file that holds several; written ``scan.tif#page=2``.

    Attributes:
        path: the file.
        page: page of a TIFF, frame of a DICOM file or slice (last axis) of a NIfTI, from 0; None where there is one.
    """

    path: Path
    page: int | None = None

    @classmethod
    def parse(cls, text: str | Path | ImageRef) -> ImageRef:
        """Read ``"scan.tif"`` or ``"scan.tif#page=2"``.

        >>> ImageRef.parse("scan.tif#page=2").page
        2
        """
        if isinstance(text, ImageRef):
            return text
        match = _PAGE.fullmatch(str(text))
        return cls(Path(match[1]), int(match[2])) if match else cls(Path(text))

    def __str__(self) -> str:
        return str(self.path) if self.page is None else f"{self.path}#page={self.page}"

    @property
    def found(self) -> str | None:
        """The reference with its absolute path; None where there is no such file."""
        return str(ImageRef(self.path.resolve(), self.page)) if self.path.is_file() else None

    @property
    def name(self) -> str:
        """File name, with the page where there is one."""
        return self.path.name if self.page is None else f"{self.path.name}#page={self.page}"


@dataclass(frozen=True)
class Box:
    """A box around an object.

    Attributes:
        xyxy: left, top, right, bottom in pixels. The image's top left corner is (0, 0), its bottom right corner
            (width, height), so that a box around one pixel has width 1.
        label: name of its class.
        difficult: counts neither as found nor as missed in evaluation (VOC's difficult, COCO's crowd).
    """

    xyxy: tuple[float, float, float, float]
    label: str
    difficult: bool = False

    @property
    def has_area(self) -> bool:
        left, top, right, bottom = self.xyxy
        return right > left and bottom > top


@dataclass(frozen=True)
class ImageItem:
    """One image, whose patient it is, and what is known about it.

    Attributes:
        case: name, unique in the list; predictions are named after it, so it holds no path separator.
        patient: images of one patient are never split over folds.
        image: absolute path.
        fold: in which the image is held out; None before the list is split, and in testing.
        classes: names; in a multi-label list there may be none or several. None where they are not known.
        masks: one label map; in a multi-label list one mask a label, in the order of the ids.
        boxes: perhaps empty, where there is nothing to find; None where it is not known.
    """

    case: str
    patient: str
    image: ImageRef
    fold: int | None = None
    classes: tuple[str, ...] | None = None
    masks: tuple[ImageRef, ...] | None = None
    boxes: tuple[Box, ...] | None = None


@dataclass(frozen=True)
class ImageList:
    """A data set of 2D images.

    Attributes:
        path: the JSON file it was read from, or will be written to; absolute.
        name: of the data set.
        task: what is to be learnt.
        labels: name → id. Classes are numbered from 0; structures and objects from 1, because 0 is background.
        multi_label: an image may have several classes (or none), and masks may overlap.
        training: images with classes, masks or boxes.
        testing: images that are never trained on, with or without them.
    """

    path: Path
    name: str
    task: Task
    labels: Mapping[str, int]
    multi_label: bool = False
    training: tuple[ImageItem, ...] = ()
    testing: tuple[ImageItem, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise DataListError(f"{self.path}: the task is {self.task!r}; known are {', '.join(TASKS)}.")
        _check_labels(self)
        for item in self.training:
            _check_truth(item, self, required=True)
        for item in self.testing:
            _check_truth(item, self, required=False)
        as_datalist(self)  # names, patients, folds: what holds for every list of cases

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that the training images name, sorted; empty where the list is not split."""
        return tuple(sorted({item.fold for item in self.training if item.fold is not None}))


def as_datalist(images: ImageList) -> DataList:
    """The same cases, patients and folds as a ``DataList``: what splits and checks volumes does it for images too.

    Ids of classes are one higher there, because 0 is always background; paths of labels mean nothing.
    """
    shift = 1 if images.task == "classification" else 0
    training, testing = (
        tuple(Case(i.case, i.patient, (Path(str(i.image)),), Path(str(i.image)), i.fold) for i in part)
        for part in (images.training, images.testing)
    )
    return DataList(
        path=images.path,
        name=images.name,
        modality="",
        labels={name: label_id + shift for name, label_id in images.labels.items()},
        training=training,
        testing=testing,
    )


def _check_labels(images: ImageList) -> None:
    start = 0 if images.task == "classification" else 1
    ids = sorted(images.labels.values())
    if images.task == "segmentation_2d" and not images.multi_label:
        # A label map may leave numbers out; what heads are built for is the highest.
        valid = bool(ids) and ids[0] >= start and len(set(ids)) == len(ids)
    else:
        valid = bool(ids) and ids == list(range(start, start + len(ids)))
    if not valid or not all(images.labels):
        why = "" if start == 0 else ", because 0 is background"
        raise DataListError(
            f"{images.path}: labels are {dict(images.labels)}: for {images.task} give names and ids from {start} on"
            f"{why}, each once."
        )


def _check_truth(item: ImageItem, images: ImageList, *, required: bool) -> None:
    where = f"{images.path}: {item.case}"
    truth = {"classification": item.classes, "segmentation_2d": item.masks, "detection": item.boxes}[images.task]
    if truth is None:
        if required:
            key = {"classification": "classes", "segmentation_2d": "mask", "detection": "boxes"}[images.task]
            raise DataListError(f'{where} has no "{key}": add it, or move the image to testing.')
        return
    names = item.classes if images.task == "classification" else [box.label for box in item.boxes or ()]
    if unknown := sorted(set(names or ()) - set(images.labels)):
        raise DataListError(
            f"{where} has the classes {', '.join(unknown)}, which labels does not name "
            f"(it has {shorten(images.labels)})."
        )
    if item.classes is not None and images.task == "classification":
        _check_classes(item, images, where)
    if item.masks is not None and images.task == "segmentation_2d":
        wanted = len(images.labels) if images.multi_label else 1
        if len(item.masks) != wanted:
            raise DataListError(f"{where} has {len(item.masks)} masks: give {wanted}, one a label of a multi-label "
                                "list and otherwise one label map.")  # fmt: skip
    for number, box in enumerate(item.boxes or ()):
        if len(box.xyxy) != 4 or not all(map(math.isfinite, box.xyxy)) or not box.has_area:
            raise DataListError(f"{where}, box {number}: {list(box.xyxy)} is not left, top, right, bottom with "
                                "right > left and bottom > top.")  # fmt: skip


def _check_classes(item: ImageItem, images: ImageList, where: str) -> None:
    repeated = [name for name, count in Counter(item.classes).items() if count > 1]
    if repeated:
        raise DataListError(f"{where} has the class {repeated[0]} twice.")
    if not images.multi_label and len(item.classes or ()) != 1:
        raise DataListError(
            f"{where} has {len(item.classes or ())} classes ({', '.join(item.classes or ()) or 'none'}): give one, "
            'or say "multi_label": true.'
        )
