"""2D images as cases to segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg3d.errors import CaseError, UsageError
from medseg3d.images import count_pages, is_image_list, items
from medseg3d.images.image import SUFFIXES, image_name, is_image_file

__all__ = ["find_images"]


def find_images(path: str | Path) -> list[dict[str, Any]]:
    """The images at ``path``: dicts of ``case`` (a name), ``image`` (a path, perhaps with ``#page=``) and, if known,
    ``label`` and ``patient``.

    ``path`` is an image (PNG, JPEG, TIFF, BMP, DICOM, NIfTI), a folder of them, not searched deeper, or a list of 2D
    images (.json), of which the testing images are taken and, where it has none, the training images. Every page of a
    file with several is a case, ``<name>_p0000`` on.

    Raises:
        CaseError: nothing there, no image in it, or two images of one name.
        DataListError: the list is malformed.
        UsageError: a data list of volumes.
    """
    path = Path(path)
    if not path.exists():
        raise CaseError(
            f"{path}: no such file or folder. Give an image, a folder of images, or a list of images (.json)."
        )
    if path.suffix.lower() == ".json":
        return _of_list(path)
    files = sorted(p for p in path.iterdir() if p.is_file() and is_image_file(p)) if path.is_dir() else [path]
    if not files:
        raise CaseError(f"{path}: no image ({', '.join(SUFFIXES)}) in this folder; subfolders are not searched.")
    cases = [case for file in files for case in _pages(file)]
    seen: dict[str, str] = {}
    for case in cases:
        name, image = case["case"], case["image"]
        if name in seen:
            raise CaseError(f"{seen[name]} and {image} would both be case {name!r}: rename or remove one.")
        seen[name] = image
    return cases


def _of_list(path: Path) -> list[dict[str, Any]]:
    if not is_image_list(path):
        raise UsageError(f"{path}: a data list of volumes; this bundle segments 2D images. Choose a 3D bundle for it.")
    found = items.testing_items(path) or items.training_items(path, fold=-1)
    if not found:
        raise CaseError(f"{path}: the list has no images.")
    return found


def _pages(file: Path) -> list[dict[str, Any]]:
    try:
        pages = count_pages(file)
    except CaseError:
        pages = 1  # unreadable: reported with the other cases, when its turn comes
    if pages == 1:
        return [{"case": image_name(file), "image": str(file)}]
    return [{"case": f"{image_name(file)}_p{page:04d}", "image": f"{file}#page={page}"} for page in range(pages)]
