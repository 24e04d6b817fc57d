"""Classes of images: a folder a class, or a table (CSV) of labels and patients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medseg3d.datalist.cases import Finding
from medseg3d.datalist.model import shorten
from medseg3d.errors import DataListError, UsageError
from medseg3d.images.drafts import PARTS, Draft, ImageFinder, Part, Source, images_in, problem, visible
from medseg3d.images.model import ImageRef

__all__ = ["folders_with_table", "from_class_folders", "from_table", "has_image_column", "with_patients_of"]

SEPARATOR = "|"  # between the labels of an image that has several
IMAGE_COLUMNS = ("image", "image_path", "path", "filepath", "file", "file_name", "filename", "image_name", "image_id",
                 "image_index", "img", "case", "id")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "classes", "diagnosis", "dx", "finding_labels", "finding", "findings",
                 "category", "target")  # fmt: skip
PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "lesion_id")
PART_COLUMNS = ("split", "set", "subset", "partition", "part")
FOLD_COLUMNS = ("fold",)
MASK_COLUMNS = ("mask", "mask_path", "segmentation")
NO_CLASS = ("", "no_finding", "no_findings", "none")
"""What a multi-label table writes where an image has no class."""


def from_class_folders(folder: Path, part: Part | None = None) -> Source:
    """Images in one folder a class; folders inside a class's folder belong to it.

    Raises:
        DataListError: fewer than two classes.
    """
    classes = [child for child in visible(folder) if child.is_dir()]
    drafts = [
        Draft(ImageRef(file), str(file.relative_to(folder)), part=part, classes=(child.name,))
        for child in classes
        for file in images_in(child, deep=True)
    ]
    names = tuple(dict.fromkeys(name for draft in drafts for name in draft.classes or ()))
    if len(names) < 2:
        raise DataListError(
            f"{folder} has images in {len(names)} folders ({', '.join(names)}): a class each needs two."
        )
    empty = [child.name for child in classes if child.name not in names]
    problems = [problem(str(folder / name), "folder-empty", "holds no images", warning=True) for name in empty]
    return Source("classification", tuple(drafts), names, problems=tuple(problems))


def has_image_column(path: Path) -> bool:
    """Whether a file is a table that names images."""
    if path.suffix.lower() != ".csv":
        return False
    try:
        columns = pd.read_csv(path, dtype=str, nrows=0).columns
    except (OSError, ValueError, UnicodeDecodeError):
        return False
    return _column(columns, IMAGE_COLUMNS) is not None


def from_table(
    path: Path, *, images: Path | None = None, labels: Sequence[str] = (), multi_label: bool = False
) -> Source:
    """Images with their labels, and perhaps patients, parts (train, val, test) and folds, from a CSV.

    Labels stand in one column, several of an image joined by ``|``; or in one column a class, of zeros and ones. With
    a column ``mask`` the table lists masks instead.

    Args:
        images: The folder to find the images in; the table's own by default.
        labels: The classes in the order of their ids; sorted by name by default.
        multi_label: Also where every image happens to have one class.

    Raises:
        DataListError: no table, or no column that names images.
    """
    table = _read(path)
    columns = {name: _column(table.columns, known) for name, known in _KNOWN.items()}
    if columns["image"] is None:
        raise DataListError(f"{path} has no column that names images ({', '.join(IMAGE_COLUMNS[:6])}, …); it has "
                            f"{shorten(table.columns)}.")  # fmt: skip
    finder = ImageFinder(images or path.parent, path.parent)
    if columns["mask"] is not None and columns["label"] is None:
        drafts, problems = _rows(
            path, table, columns, finder, lambda row, where: {"masks": _masks(row, columns, finder)}
        )
        return Source("segmentation_2d", drafts, tuple(labels), problems=tuple(problems))
    named, names = _classes(path, table, columns, multi_label)
    several = multi_label or any(len(classes) != 1 for classes in named)
    drafts, problems = _rows(path, table, columns, finder, lambda row, where: {"classes": named[row.name]})
    if unused := finder.unused():
        message = f"{len(unused)} images of {finder.folder} have no row: {shorten(file.name for file in unused)}"
        problems.append(problem(path.name, "image-without-row", message, warning=True))
    return Source("classification", drafts, tuple(labels) or names, several, tuple(problems))


_KNOWN = {
    "image": IMAGE_COLUMNS, "label": LABEL_COLUMNS, "patient": PATIENT_COLUMNS, "part": PART_COLUMNS,
    "fold": FOLD_COLUMNS, "mask": MASK_COLUMNS,
}  # fmt: skip


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataListError(f"{path}: no such file.") from error
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataListError(f"{path}: not a table of comma-separated values ({error}).") from error


def _column(columns: Iterable[str], known: Sequence[str]) -> str | None:
    spelled = {re.sub(r"[\s\-]+", "_", str(column).strip().lower()): str(column) for column in columns}
    return next((spelled[name] for name in known if name in spelled), None)


def _rows(
    path: Path,
    table: pd.DataFrame,
    columns: dict[str, str | None],
    finder: ImageFinder,
    truth: Callable[[Any, str], dict[str, Any]],
) -> tuple[tuple[Draft, ...], list[Finding]]:
    drafts: list[Draft] = []
    problems: list[Finding] = []
    first: dict[Path, str] = {}
    for number, row in table.iterrows():
        where = f"{path.name}, row {int(number) + 2}"  # the header is row 1
        try:
            image = finder.find(row[columns["image"]])
            draft = Draft(ImageRef(image), where, **_people(row, columns), **truth(row, where))
        except DataListError as error:
            problems.append(problem(where, "row-without-file", str(error)))
            continue
        if (other := first.setdefault(image, where)) != where:
            problems.append(problem(where, "row-repeated", f"{image.name} stands in {other.split(', ')[-1]} too"))
        else:
            drafts.append(draft)
    return tuple(drafts), problems


def _people(row: Any, columns: dict[str, str | None]) -> dict[str, Any]:
    values = {name: str(row[column]).strip() if column else "" for name, column in columns.items()}
    if columns["patient"] and not values["patient"]:
        raise DataListError("no patient: name one in every row, or remove the column.")
    if values["part"] and values["part"].lower() not in PARTS:
        raise DataListError(f"part {values['part']!r} is none of train, val and test.")
    if values["fold"] and not values["fold"].isdecimal():
        raise DataListError(f"fold {values['fold']!r} is no whole number from 0 on.")
    return {
        "patient": values["patient"] or None,
        "part": PARTS.get(values["part"].lower()),
        "fold": int(values["fold"]) if values["fold"] else None,
    }


def _masks(row: Any, columns: dict[str, str | None], finder: ImageFinder) -> tuple[ImageRef, ...]:
    return tuple(ImageRef(finder.find(text)) for text in row[columns["mask"]].split(SEPARATOR))


def _classes(
    path: Path, table: pd.DataFrame, columns: dict[str, str | None], multi_label: bool
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The classes of each row, and all of them."""
    if columns["label"] is None:
        return _one_hot(path, table, columns)
    texts = [str(text) for text in table[columns["label"]]]
    parts = [[part.strip() for part in text.split(SEPARATOR)] for text in texts]
    several = multi_label or any(len(row) > 1 for row in parts)
    empty = NO_CLASS if several else ("",)
    named = [tuple(dict.fromkeys(p for p in row if _plain(p) not in empty)) for row in parts]
    if not several and (without := [number + 2 for number, row in enumerate(named) if not row]):
        raise DataListError(
            f"{path}: no label in {len(without)} rows ({shorten(without)}): name a class, or pass --multi-label where "
            "an image may have none."
        )
    return named, tuple(sorted({name for row in named for name in row}))


def _plain(text: str) -> str:
    return re.sub(r"[\s\-]+", "_", text.strip().lower())


def _one_hot(
    path: Path, table: pd.DataFrame, columns: dict[str, str | None]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    known = set(columns.values())
    names = [c for c in table.columns if c not in known and set(table[c].str.strip()) <= {"0", "1", "0.0", "1.0"}]
    if not names:
        raise DataListError(
            f"{path} has no column of labels ({', '.join(LABEL_COLUMNS[:4])}, …) and none of zeros and ones, one a "
            f"class; it has {shorten(table.columns)}."
        )
    yes = {name: table[name].str.strip().isin(("1", "1.0")) for name in names}
    return [tuple(n for n in names if yes[n].iloc[i]) for i in range(len(table))], tuple(names)


def folders_with_table(folder: Path, table: Path, labels: Sequence[str], multi_label: bool) -> Source:
    """A folder a class, with a table beside it that knows the patients.

    Raises:
        UsageError: the table has no patient.
    """
    source = from_table(table, images=folder, labels=labels, multi_label=multi_label)
    clashes = [
        problem(
            draft.where,
            "class-contradicts-folder",
            f"{draft.image.path.name} has the class {', '.join(draft.classes or ())}, but lies in the folder "
            f"{draft.image.path.parent.name}",
        )
        for draft in source.drafts
        if draft.image.path.parent.name in source.labels and draft.image.path.parent.name not in (draft.classes or ())
    ]
    if not source.drafts:
        raise UsageError(f"{table}: no row names an image of {folder}.")
    return replace(source, problems=(*source.problems, *clashes))


def with_patients_of(source: Source, table: Path, folder: Path) -> Source:
    """The source with the patients that a table beside it names; unchanged where it has no such column."""
    values = _read(table)
    image, patient = _column(values.columns, IMAGE_COLUMNS), _column(values.columns, PATIENT_COLUMNS)
    if image is None or patient is None:
        return source
    finder = ImageFinder(folder, folder)
    patients: dict[Path, str] = {}
    problems: list[Finding] = []
    for number, (text, name) in enumerate(zip(values[image], values[patient], strict=True), 2):
        try:
            patients[finder.find(text)] = name.strip()
        except DataListError as error:
            problems.append(problem(f"{table.name}, row {number}", "row-without-file", str(error)))
    unnamed = [draft.image.path.name for draft in source.drafts if not patients.get(draft.image.path)]
    if unnamed:
        message = f"no patient of {len(unnamed)} images: {shorten(unnamed)}. Name each, or remove the column"
        problems.append(problem(table.name, "patient-missing", message))
    drafts = tuple(replace(draft, patient=patients.get(draft.image.path)) for draft in source.drafts)
    return replace(source, drafts=drafts, problems=(*source.problems, *problems))
