"""What a run checks of a list of 2D images: it opens, has the fold, the labels and the task, and its files exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.merge import Merged
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.values import Values
from medseg3d.errors import DataListError, UsageError

if TYPE_CHECKING:
    from medseg3d.images import ImageList

__all__ = ["check_images", "shown_labels"]

_SHOWN = 3


def check_images(merged: Merged, values: Values, path: str | Path) -> list[Problem]:
    """What is wrong with the list at ``path`` for this configuration; images are not decoded, only looked for.

    ``medseg3d datalist check`` decodes them all.
    """
    from medseg3d.images import read_image_list, training_items

    where = merged.where("datalist")
    is_training = "train" in merged.config
    try:
        images = read_image_list(path)
        fold = values.get("fold")
        if is_training and isinstance(fold, int):
            training_items(path, fold=fold)
    except DataListError as error:
        return [Problem(where, str(error))]
    except UsageError as error:
        return [Problem(merged.where("fold"), str(error))]
    problems = []
    task, labels = values.get("task"), values.get("labels")
    if isinstance(task, str) and task != images.task:
        what = f"{images.path} is a list for {images.task}, this bundle is for {task}."
        problems.append(Problem(where, what, "Build the list with medseg3d datalist build --task."))
    if isinstance(labels, Mapping) and dict(labels) != dict(images.labels):
        what = f"the labels are {shown_labels(labels)}, but those of {images.path} are {shown_labels(images.labels)}."
        remedy = f'Pass --labels "{shown_labels(images.labels)}", or correct the data list.'
        problems.append(Problem(merged.where("labels"), what, remedy))
    problems += _check_multi_label(merged, values, images)
    items = images.training if is_training else (*images.training, *images.testing)
    files = [ref.path for item in items for ref in (item.image, *(item.masks or ()))]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        first = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        remedy = "Build the list anew, or move the images back."
        problems.append(Problem(where, f"{len(missing)} of its {len(files)} files do not exist: {first}.", remedy))
    return problems


def _check_multi_label(merged: Merged, values: Values, images: ImageList) -> list[Problem]:
    """Classes or masks that exclude each other for a network whose outputs do not, and the reverse.

    Sigmoids may learn from label maps: one structure by binary cross entropy is set up so.
    """
    wanted = values.get("multi_label")
    if not isinstance(wanted, bool) or wanted == images.multi_label:
        return []
    if images.task == "segmentation_2d" and wanted:
        return []
    kinds = {True: "any number of classes an image", False: "one class an image"}
    if images.task == "segmentation_2d":
        kinds = {True: "a mask a label, which may overlap", False: "label maps"}
    what = (
        f"multi_label is {str(wanted).lower()} ({kinds[wanted]}), but in {images.path} it is "
        f"{str(images.multi_label).lower()} ({kinds[images.multi_label]})."
    )
    remedy = f"Pass --multi_label {str(images.multi_label).lower()}, or build the list anew."
    return [Problem(merged.where("multi_label"), what, remedy)]


def shown_labels(labels: Mapping[str, Any]) -> str:
    """Labels as they are typed on the command line."""
    return "{" + ", ".join(f"{name}: {id_}" for name, id_ in labels.items()) + "}"
