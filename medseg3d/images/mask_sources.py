"""Masks of images: two folders whose files are matched by name."""

from __future__ import annotations

from pathlib import Path

from medseg3d.datalist.layouts import IMAGE_FOLDERS, LABEL_FOLDERS, match_files
from medseg3d.datalist.model import shorten
from medseg3d.errors import DataListError
from medseg3d.images.drafts import Draft, Part, Source, images_in, problem, visible
from medseg3d.images.model import ImageRef

__all__ = ["from_mask_folders", "mask_folders"]


def mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and masks in ``folder``; None where there are not one of each."""
    children = {child.name.lower(): child for child in visible(folder) if child.is_dir()}
    if "imagestr" in children and "labelstr" in children:
        return children["imagestr"], children["labelstr"]
    images = [children[name] for name in IMAGE_FOLDERS if name in children]
    masks = [children[name] for name in LABEL_FOLDERS if name in children]
    return (images[0], masks[0]) if len(images) == len(masks) == 1 and images_in(masks[0], deep=True) else None


def from_mask_folders(images: Path, masks: Path, part: Part | None = None) -> Source:
    """Images and label maps of the same name, in two folders; or a folder of masks a label, which may overlap.

    Names are compared, not merely sorted: a mask without an image, and an image without a mask, are named.

    Raises:
        DataListError: no images, a mask that no image belongs to, names that mean two things.
    """
    labels = [child for child in visible(masks) if child.is_dir() and images_in(child)]
    files = images_in(images)
    if not files:
        raise DataListError(f"{images} holds no images.")
    groups = [images_in(child) for child in labels] or [images_in(masks)]
    # Suffixes differ (a.jpg, a.png), and so may words around the name (a_mask.png): what labels of volumes may.
    matched = [match_files(files, group, (), images.parent, numbered=False) for group in groups]
    by_image = [{next(iter(m.images.values())): m.label for m in found} for found in matched]
    drafts: list[Draft] = []
    problems = []
    for file in files:
        found = [masks_of.get(file) for masks_of in by_image]
        if any(mask is None for mask in found):
            missing = shorten(child.name for child, mask in zip(labels, found, strict=False) if mask is None)
            message = f"no mask of this name in {masks}" + (f" for {missing}" if missing else "")
            problems.append(problem(str(file.name), "mask-missing", f"{message}: add it, or remove the image."))
            continue
        refs = tuple(ImageRef(mask) for mask in found if mask is not None)
        drafts.append(Draft(ImageRef(file), f"{file.name} and {refs[0].path.name}", part=part, masks=refs))
    names = tuple(child.name for child in labels)
    return Source("segmentation_2d", tuple(drafts), names, multi_label=bool(labels), problems=tuple(problems))
