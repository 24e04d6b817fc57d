"""Open one image with its masks and boxes: what they hold, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg3d.datalist.cases import Finding, Severity
from medseg3d.datalist.model import shorten
from medseg3d.errors import CaseError
from medseg3d.images.drafts import Draft, DraftBox
from medseg3d.images.image import read_image
from medseg3d.images.mask import read_mask
from medseg3d.images.model import Box, ImageRef

__all__ = ["Inspected", "inspect", "unknown_ids"]

ROUNDING_PX = 1.0
"""How far a box may reach over the image's edge for a program that counts from 1, or rounds up."""


@dataclass(frozen=True)
class Inspected:
    """What an image's files hold.

    Attributes:
        size: rows and columns; None where the image cannot be read.
        spacing_mm: between rows and columns, where the file says.
        channels: 1 or 3.
        content: a hash of the pixels; None for a constant image, which is equal to others without being the same.
        boxes: those with an area, inside the image.
        mask_pixels: of each mask, the stored values other than 0 and how many pixels have them; None where unreadable.
        findings: what is wrong.
    """

    size: tuple[int, int] | None = None
    spacing_mm: tuple[float, float] | None = None
    channels: int = 0
    content: str | None = None
    boxes: tuple[Box, ...] = ()
    mask_pixels: tuple[Mapping[int, int], ...] | None = None
    findings: tuple[Finding, ...] = ()


@dataclass
class _Notes:
    case: str
    where: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, code: str, message: str, where: str = "") -> None:
        self.findings.append(Finding(severity, self.case, code, f"{where or self.where}: {message}"))


def inspect(draft: Draft) -> Inspected:
    """Read the image and masks of ``draft`` whole, compare their sizes, and cut its boxes to the image."""
    notes = _Notes(draft.case, draft.where)
    try:
        image = read_image(draft.image)
    except CaseError as error:
        code = "missing" if not draft.image.path.is_file() else "unreadable"
        notes.add("error", code, str(error))
        return Inspected(findings=tuple(notes.findings), boxes=tuple(b.box for b in draft.boxes or ()))
    constant = bool(image.pixels.min() == image.pixels.max())
    if constant:
        message = f"{draft.image.name} is {image.pixels.flat[0]:g} in every pixel, so it shows nothing."
        notes.add("error", "constant", f"{message} Export it again, or leave it out.")
    if draft.size is not None and draft.size != image.size:
        message = (
            f"boxes were drawn on {_by(draft.size)} pixels, {draft.image.name} has {_by(image.size)}: they do not "
        )
        notes.add("error", "annotated-size", f"{message}lie where they should. Take the image that was annotated.")
    masks = tuple(_mask(mask, image.size, notes) for mask in draft.masks or ())
    return Inspected(
        size=image.size,
        spacing_mm=image.spacing_mm,
        channels=1 if image.pixels.ndim == 2 else 3,
        content=None if constant else image.content,
        boxes=_boxes(draft.boxes or (), image.size, notes),
        mask_pixels=None if any(mask is None for mask in masks) else tuple(m for m in masks if m is not None),
        findings=tuple(notes.findings),
    )


def _mask(ref: ImageRef, size: tuple[int, int], notes: _Notes) -> Mapping[int, int] | None:
    try:
        mask = read_mask(ref)
    except CaseError as error:
        notes.add("error", "mask-unreadable" if ref.path.is_file() else "missing", str(error))
        return None
    if mask.size != size:
        notes.add(
            "error",
            "mask-size",
            f"{ref.name} has {_by(mask.size)} pixels, its image {_by(size)}: export the mask again at that size.",
        )
        return None
    values, counts = np.unique(mask.pixels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v}


def unknown_ids(pixels: Mapping[int, int], ids: Sequence[int], draft: Draft, mask: ImageRef) -> Finding | None:
    """A finding where a label map holds ids that the list does not name."""
    unknown = {value: n for value, n in pixels.items() if value not in ids}
    if not unknown:
        return None
    named = shorten(f"{value} ({count} pixels)" for value, count in sorted(unknown.items()))
    message = f"{mask.name} holds ids that labels does not name: {named}; known are {shorten(sorted(ids))}."
    return Finding("error", draft.case, "label-unknown", f"{draft.where}: {message}")


def _boxes(boxes: Sequence[DraftBox], size: tuple[int, int], notes: _Notes) -> tuple[Box, ...]:
    kept: list[Box] = []
    for draft in boxes:
        box, (height, width) = draft.box, size
        left, top, right, bottom = box.xyxy
        numbers = f"{box.label} at {left:g}, {top:g}, {right:g}, {bottom:g}"
        if not box.has_area:
            notes.add("warning", "box-without-area", f"{numbers} has no area and is left out.", draft.where)
            continue
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        cut = Box(inside, box.label, box.difficult)
        if not cut.has_area:
            message = f"{numbers} lies outside the image of {width}×{height} and is left out."
            notes.add("warning", "box-outside", message, draft.where)
            continue
        over = max(abs(a - b) for a, b in zip(inside, box.xyxy, strict=True))
        if over > 0:
            severity: Severity = "warning" if over > ROUNDING_PX else "note"
            message = f"{numbers} reaches {over:g} pixels out of the image of {width}×{height} and is cut."
            notes.add(severity, "box-cut", message, draft.where)
        kept.append(cut)
    return tuple(kept)


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
