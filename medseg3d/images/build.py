"""Make a list of 2D images from what people have: folders, a table, masks, boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg3d.datalist.build import patient_in
from medseg3d.datalist.cases import Finding
from medseg3d.datalist.model import absolute, shorten
from medseg3d.errors import CaseError, DataListError, UsageError
from medseg3d.images.check import ImageReport, Progress, inspect_items, report_on
from medseg3d.images.drafts import Draft, Source, problem
from medseg3d.images.image import count_pages, image_name, patient_of
from medseg3d.images.inspect import Inspected
from medseg3d.images.layouts import find_source
from medseg3d.images.model import ImageItem, ImageList, ImageRef, Task
from medseg3d.images.splitting import SplitFile, into_folds, into_shares, parts_of, placed

__all__ = ["Split", "build_image_list"]


@dataclass(frozen=True)
class Split:
    """How to divide the images; nothing is divided where nothing is given."""

    folds: int = 0
    shares: tuple[float, float, float] | None = None
    files: tuple[SplitFile, ...] = ()
    seed: int = 0


def build_image_list(
    source: str | Path,
    *,
    path: str | Path,
    task: Task | None = None,
    name: str = "",
    labels: Sequence[str] | Mapping[str, int] = (),
    multi_label: bool = False,
    images: str | Path | None = None,
    patient_regex: str = "",
    split: Split | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageReport:
    """Find the images that ``source`` describes, open each, and make the list that ``path`` is to hold.

    Nothing is written, and where the report has errors nothing should be. Understood are: a folder a class (with a
    table of patients beside them); a table (CSV) of images and labels; ``images`` with ``masks``; Pascal VOC, COCO and
    YOLO boxes; each also below ``train``, ``val`` and ``test``. Files of several pages become an image a page.

    Args:
        source: A folder, a CSV or a COCO file.
        path: Where the list will lie; its paths are relative to there.
        task: What is to be learnt, where the source allows several.
        name: Name of the data set; the source's by default.
        labels: Names in the order of their ids, or names and ids; found in the source by default.
        multi_label: An image may have several classes, also where each happens to have one.
        images: The folder of the images that a table or annotations name.
        patient_regex: Finds the patient in the name of the image: its first group, or all that it matches.
        split: How to divide the images.

    Raises:
        UsageError: options that mean nothing together, or a regular expression that is none.
        DataListError: no source that is known; a split that cannot be made, or that would leak.
    """
    source, path, split = absolute(source), absolute(path), split or Split()
    found = find_source(source, task=task, labels=labels, multi_label=multi_label, images=images)
    drafts, problems = _drafts(found, labels, patient_regex, split.files)
    if not drafts:
        raise _nothing(source, problems)
    inspected = inspect_items(drafts, workers=workers, progress=progress)
    ids, unnamed = _label_ids(found, labels, inspected)
    problems += unnamed
    items = _items(drafts, inspected)
    tested = sum(draft.part == "testing" for draft in drafts)
    listed = ImageList(
        path=path,
        name=name or source.stem,
        task=found.task,
        labels=ids,
        multi_label=found.multi_label,
        training=tuple(items[: len(items) - tested]),
        testing=tuple(items[len(items) - tested :]),
    )
    report = report_on(listed, drafts, inspected, problems)
    return _split(report, drafts, inspected, split, problems) if report.ok else report


def _drafts(
    found: Source, labels: Sequence[str] | Mapping[str, int], patient_regex: str, files: Sequence[SplitFile]
) -> tuple[list[Draft], list[Finding]]:
    """One draft an image, with its name and patient, those for testing last; and what is wrong with the others."""
    drafts, unreadable = _pages(found.drafts)
    drafts = _with_patients(_with_cases(drafts), patient_regex)
    drafts, unlisted = _with_parts(drafts, files)
    drafts, unknown = _with_known_classes(drafts, labels)
    problems = [*found.problems, *unreadable, *unlisted, *unknown, *_no_patients(drafts, patient_regex)]
    return sorted(drafts, key=lambda draft: draft.part == "testing"), problems


def _nothing(source: Path, problems: Sequence[Finding]) -> DataListError:
    reasons = shorten((finding.message for finding in problems), limit=3)
    return DataListError(f"{source}: no image that can be used{f' ({reasons})' if reasons else ''}.")


# Pages, names, patients, parts ---------------------------------------------------------------------------------------

SEVERAL_PAGES = (".tif", ".tiff", ".dcm", ".dicom", ".nii", ".nii.gz")


def _pages(drafts: Sequence[Draft]) -> tuple[list[Draft], list[Finding]]:
    """An image for every page of a file; its pages are one patient, and masks have as many."""
    single: list[Draft] = []
    problems: list[Finding] = []
    for draft in drafts:
        try:
            single += _pages_of(draft)
        except CaseError as error:
            problems.append(problem(draft.where, "unreadable", str(error)))
    return single, problems


def _pages_of(draft: Draft) -> list[Draft]:
    path = draft.image.path
    may_have = path.name.lower().endswith(SEVERAL_PAGES) or not path.suffix
    pages = count_pages(path) if may_have and draft.image.page is None else 1
    if pages == 1:
        return [draft]
    if draft.boxes is not None:
        raise CaseError(
            f"{path} holds {pages} pages, and nothing says which one the boxes are on: write one file a page."
        )
    for mask in draft.masks or ():
        if (others := count_pages(mask.path)) != pages:
            raise CaseError(f"{mask.path} has {others} pages, {path.name} {pages}: a mask needs one for each.")
    stem = image_name(path)
    return [
        replace(
            draft,
            image=ImageRef(path, page),
            case=f"{stem}_{page:03d}",
            patient=draft.patient or stem,
            masks=None if draft.masks is None else tuple(ImageRef(mask.path, page) for mask in draft.masks),
        )
        for page in range(pages)
    ]


def _with_cases(drafts: Sequence[Draft]) -> list[Draft]:
    """Name images after their files, with one or two folders before where several files have one name."""
    stems = names = [draft.case or image_name(draft.image.path) for draft in drafts]
    for folders in (1, 2):
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else "_".join([*draft.image.path.parent.parts[-folders:], stem])
            for name, stem, draft in zip(names, stems, drafts, strict=True)
        ]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataListError(
            f"{len(repeated)} names stand for several images ({shorten(repeated)}): list each image once, and give "
            "files of one folder different names, not only different suffixes."
        )
    return [replace(draft, case=name) for name, draft in zip(names, drafts, strict=True)]


def _with_patients(drafts: Sequence[Draft], patient_regex: str) -> list[Draft]:
    if not patient_regex:
        return [replace(d, patient=d.patient or patient_of(d.image.path) or d.case) for d in drafts]
    try:
        pattern = re.compile(patient_regex)
    except re.error as error:
        raise UsageError(f"--patient-regex {patient_regex!r} is no regular expression: {error}.") from None
    return [replace(draft, patient=patient_in(draft.case, pattern)) for draft in drafts]


def _no_patients(drafts: Sequence[Draft], patient_regex: str) -> list[Finding]:
    if patient_regex or any(draft.patient != draft.case for draft in drafts):
        return []
    message = "every image counts as a patient of its own. If a patient has several, name them in a column patient, or "
    message += "pass --patient-regex, as in --patient-regex '^([0-9]+)_', so that folds do not share patients."
    return [problem("patients", "patients-unknown", message, warning=True)]


def _with_parts(drafts: Sequence[Draft], files: Sequence[SplitFile]) -> tuple[list[Draft], list[Finding]]:
    if not files:
        return list(drafts), []
    names = {draft.case: (draft.case, draft.image.path.name, image_name(draft.image.path)) for draft in drafts}
    parts, problems = parts_of(files, names)
    return [replace(draft, part=parts[draft.case]) for draft in drafts if draft.case in parts], problems


def _with_known_classes(
    drafts: Sequence[Draft], labels: Sequence[str] | Mapping[str, int]
) -> tuple[list[Draft], list[Finding]]:
    """Images whose classes and boxes all have one of the ``labels``; the rows of the others."""
    if not labels:
        return list(drafts), []
    known: list[Draft] = []
    problems: list[Finding] = []
    for draft in drafts:
        named = [(name, draft.where) for name in draft.classes or ()]
        named += [(box.box.label, box.where) for box in draft.boxes or ()]
        unknown = [(name, where) for name, where in named if name not in labels]
        problems += [
            problem(where, "class-unknown", f"class {name!r} is none of {shorten(labels)}.") for name, where in unknown
        ]
        known += [] if unknown else [draft]
    return known, problems


# The list ------------------------------------------------------------------------------------------------------------


def _items(drafts: Sequence[Draft], inspected: Sequence[Inspected]) -> list[ImageItem]:
    # Parts become folds only where there is one to validate on: otherwise training is still to be split.
    validated = any(draft.part == "validation" for draft in drafts)
    return [
        placed(
            ImageItem(
                case=draft.case,
                patient=draft.patient or draft.case,
                image=draft.image,
                fold=draft.fold,
                classes=draft.classes,
                masks=draft.masks,
                boxes=None if draft.boxes is None else tuple(box for box in seen.boxes if box.has_area),
            ),
            draft.part if validated else None,
        )
        for draft, seen in zip(drafts, inspected, strict=True)
    ]


def _label_ids(
    found: Source, labels: Sequence[str] | Mapping[str, int], inspected: Sequence[Inspected]
) -> tuple[dict[str, int], list[Finding]]:
    """Names and ids: as they are given, as the source names them, or by the values of the masks."""
    if isinstance(labels, Mapping):
        return dict(labels), []
    start = 0 if found.task == "classification" else 1
    if names := tuple(labels) or found.labels:
        return {name: number for number, name in enumerate(names, start)}, []
    values = sorted({value for seen in inspected for mask in seen.mask_pixels or () for value in mask})
    if found.task != "segmentation_2d" or not values:
        raise DataListError(f"No label is found in {len(inspected)} images: name them with --labels.")
    if values in ([1], [255]):
        return {"foreground": 1}, []
    ids = {f"label_{value}": value for value in values}
    message = f"they have no names: {', '.join(ids)} were found. Name them, as in --labels name=1,other=2."
    return ids, [problem("labels", "labels-unnamed", message, warning=True)]


def _split(
    report: ImageReport,
    drafts: Sequence[Draft],
    inspected: Sequence[Inspected],
    split: Split,
    problems: Sequence[Finding],
) -> ImageReport:
    images = report.images
    if not split.folds and split.shares is None:
        return report
    if images.folds:
        raise UsageError("The data set says how it is split already: leave --split and --folds out.")
    if split.shares is not None:
        done = into_shares(images, split.shares, seed=split.seed, presence=report.presence, contents=report.contents)
    else:
        done = into_folds(
            images, folds=split.folds, seed=split.seed, presence=report.presence, contents=report.contents
        )
    seen_of = {draft.case: (draft, seen) for draft, seen in zip(drafts, inspected, strict=True)}
    pairs = [seen_of[item.case] for item in (*done.training, *done.testing)]
    return report_on(done, [draft for draft, _ in pairs], [seen for _, seen in pairs], problems)
