"""Open every image of a list, and say what training or evaluation would get wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg3d.datalist.cases import CaseFacts, Finding, Severity
from medseg3d.datalist.check import leaks, mapped
from medseg3d.datalist.model import shorten
from medseg3d.images.drafts import Draft, DraftBox
from medseg3d.images.inspect import Inspected, inspect, unknown_ids
from medseg3d.images.model import ImageItem, ImageList, as_datalist

__all__ = ["ImageReport", "check_image_list", "inspect_items", "report_on"]

Progress = Callable[[int, int], None]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class ImageReport:
    """All facts and findings about a list of 2D images; the gravest findings come first.

    Attributes:
        facts: of each image, training first: ``shape`` is rows and columns, ``voxels`` counts what there is of each
            label: 1 for a class, boxes, or pixels of masks.
        channels: 1 or 3 of each image; 0 where it cannot be read.
    """

    images: ImageList
    facts: tuple[CaseFacts, ...]
    channels: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return self.count("error") == 0

    @property
    def presence(self) -> dict[str, frozenset[int]]:
        """The label ids of each image."""
        return {facts.case: facts.presence for facts in self.facts}

    @property
    def contents(self) -> dict[str, tuple[str, ...]]:
        """Hashes of each image's pixels, for ``into_folds`` and ``into_shares``."""
        return {facts.case: facts.contents for facts in self.facts}

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def label_images(self, label_id: int) -> int:
        """In how many images a label occurs."""
        return sum(label_id in facts.presence for facts in self.facts)

    def label_amount(self, label_id: int) -> int:
        """How many images, boxes or pixels of a label there are, by the list's task."""
        return sum((facts.voxels or {}).get(label_id, 0) for facts in self.facts)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Least, median and greatest rows and columns; empty if no image is read."""
        shapes = np.array([facts.shape for facts in self.facts if facts.shape is not None])
        if not len(shapes):
            return {}
        summary = {"min": shapes.min(axis=0), "median": np.median(shapes, axis=0), "max": shapes.max(axis=0)}
        return {name: (int(values[0]), int(values[1])) for name, values in summary.items()}

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "datalist": str(self.images.path),
            "name": self.images.name,
            "task": self.images.task,
            "ok": self.ok,
            "cases": {part: sum(f.part == part for f in self.facts) for part in ("training", "testing")},
            "counts": {severity: self.count(severity) for severity in _SEVERITIES},
            "size_pixels": self.sizes(),
            "colour": sum(channels == 3 for channels in self.channels),
            "labels": [
                {
                    "label": name,
                    "label_id": i,
                    "images": self.label_images(i),
                    UNITS[self.images.task]: self.label_amount(i),
                }
                for name, i in self.images.labels.items()
            ],
            "findings": [asdict(finding) for finding in self.findings],
        }


UNITS = {"classification": "count", "detection": "boxes", "segmentation_2d": "pixels"}
"""What ``label_amount`` counts."""


def check_image_list(images: ImageList, *, workers: int | None = None, progress: Progress | None = None) -> ImageReport:
    """Decode every image and mask of ``images``, and compare them with each other and with the list.

    One image under two names is an error where a model could be tested on what it was trained on (two patients, two
    folds, training and testing), and a warning within one patient.

    Args:
        workers: How many images are read at once, in threads; as many as there are processors by default.
        progress: Called after each image.
    """
    items = (*images.training, *images.testing)
    drafts = [_draft(item) for item in items]
    return report_on(images, drafts, inspect_items(drafts, workers=workers, progress=progress))


def inspect_items(
    drafts: Sequence[Draft], *, workers: int | None = None, progress: Progress | None = None
) -> list[Inspected]:
    """What each image's files hold, in their order."""
    return mapped(inspect, drafts, workers=workers, progress=progress)


def report_on(
    images: ImageList, drafts: Sequence[Draft], inspected: Sequence[Inspected], problems: Sequence[Finding] = ()
) -> ImageReport:
    """The report about images that have been opened; ``drafts`` and ``inspected`` in the order of the list.

    Args:
        problems: findings from before the images were opened.
    """
    items = (*images.training, *images.testing)
    facts = tuple(
        _facts(item, seen, images, number < len(images.training))
        for number, (item, seen) in enumerate(zip(items, inspected, strict=True))
    )
    findings = [*problems, *(finding for seen in inspected for finding in seen.findings)]
    findings += [found for draft, seen in zip(drafts, inspected, strict=True) for found in _ids(draft, seen, images)]
    findings += [*leaks(as_datalist(images), facts), *_missing(images, facts), *_mixed(images, inspected)]
    findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return ImageReport(images, facts, tuple(seen.channels for seen in inspected), tuple(findings))


def _draft(item: ImageItem) -> Draft:
    boxes = (
        None if item.boxes is None else tuple(DraftBox(b, f"{item.case}, box {n}") for n, b in enumerate(item.boxes))
    )
    return Draft(item.image, item.image.name, item.case, item.patient, masks=item.masks, boxes=boxes)


def _facts(item: ImageItem, seen: Inspected, images: ImageList, training: bool) -> CaseFacts:
    return CaseFacts(
        case=item.case,
        part="training" if training else "testing",
        shape=seen.size,
        voxels=_amounts(item, seen, images),
        contents=() if seen.content is None else (seen.content,),
    )


def _amounts(item: ImageItem, seen: Inspected, images: ImageList) -> dict[int, int] | None:
    if images.task == "classification":
        return None if item.classes is None else {images.labels[name]: 1 for name in item.classes}
    if images.task == "detection":
        if item.boxes is None:
            return None
        ids = [images.labels[box.label] for box in item.boxes]
        return {label_id: ids.count(label_id) for label_id in set(ids)}
    if item.masks is None or seen.mask_pixels is None or seen.size is None:
        return None
    ids = list(images.labels.values())
    if images.multi_label:
        return {i: n for i, mask in zip(ids, seen.mask_pixels, strict=True) if (n := sum(mask.values()))}
    return {ids[0] if _is_white(v, ids) else v: n for v, n in (seen.mask_pixels[0] if seen.mask_pixels else {}).items()}


def _is_white(value: int, ids: Sequence[int]) -> bool:
    """255 in a list of one label is that label: see ``read_mask``."""
    return len(ids) == 1 and value == 255


def _ids(draft: Draft, seen: Inspected, images: ImageList) -> Iterator[Finding]:
    ids = [1] if images.multi_label else list(images.labels.values())
    for ref, pixels in zip(draft.masks or (), seen.mask_pixels or (), strict=False):
        white = len(ids) == 1 and set(pixels) == {255}
        finding = None if white else unknown_ids(pixels, ids, draft, ref)
        if finding:
            yield finding


def _missing(images: ImageList, facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Labels that no image, or no image of a fold, has: they cannot be learnt, or not be validated there."""
    presence = {f.case: f.presence for f in facts if f.voxels is not None}
    read = [item for item in images.training if item.case in presence]
    for name, label_id in images.labels.items():
        having = [item for item in read if label_id in presence[item.case]]
        if read and not having:
            message = f"{name} ({label_id}) is in none of the {len(read)} training images: remove it from the list."
            yield Finding("warning", "", "label-absent", message)
            continue
        without = sorted(set(images.folds) - {item.fold for item in having if item.fold is not None})
        if having and without:
            message = f"{name} ({label_id}) is in {len(having)} images, none of them in fold {shorten(without)}: it is "
            yield Finding("warning", "", "label-not-in-fold", f"{message}not validated there. Make fewer folds.")


def _mixed(images: ImageList, inspected: Sequence[Inspected]) -> Iterator[Finding]:
    """Some images grey and others in colours: a class may be told by that alone."""
    grey, colour = (sum(seen.channels == n for seen in inspected) for n in (1, 3))
    if grey and colour:
        message = f"{colour} images are stored with colours and {grey} without: a model can learn that difference."
        yield Finding("note", "", "channels-mixed", message)
