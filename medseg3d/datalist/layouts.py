"""Which files make a case: images and labels matched by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg3d.datalist.model import shorten
from medseg3d.errors import DataListError
from medseg3d.volume import SUFFIXES, case_name

__all__ = ["Files", "Layout", "channel_names", "find_layout", "match_files", "volumes_in"]

LABEL_FOLDERS = ("labels", "masks", "segmentations", "label", "mask", "seg", "annotations")
IMAGE_FOLDERS = ("images", "image", "imgs", "volumes")

LABEL_WORD = r"(?:labels?|masks?|seg|segmentation|gt|ground_?truth|annotation)"
IMAGE_WORD = r"(?:images?|img|volume|vol|scan)"
CHANNEL_NUMBER = r"(.+)_(\d{4})"


@dataclass(frozen=True)
class Files:
    """The files of one case, before anything about them is known but their names."""

    case: str
    images: Mapping[str, Path]  # channel name -> file
    label: Path | None


@dataclass(frozen=True)
class Layout:
    """What a folder holds."""

    training: tuple[Files, ...]
    testing: tuple[Files, ...] = ()


def find_layout(folder: Path, channels: Sequence[str]) -> Layout:
    """The cases in ``folder``, by the names of its folders and files.

    Raises:
        DataListError: no layout that is known, labels without an image, or names that mean two things.
    """
    subfolders = {child.name.lower(): child for child in _visible(folder) if child.is_dir()}
    if "imagestr" in subfolders:
        return _decathlon(folder, subfolders, channels)
    images = [subfolders[name] for name in IMAGE_FOLDERS if name in subfolders]
    labels = [subfolders[name] for name in LABEL_FOLDERS if name in subfolders]
    if len(images) == 1 and len(labels) == 1:
        return Layout(training=match_files(volumes_in(images[0]), volumes_in(labels[0]), channels, folder))
    if len(images) > 1 or len(labels) > 1:
        names = ", ".join(child.name for child in (*images, *labels))
        raise DataListError(f"{folder} has several folders of images or of labels ({names}): keep one of each.")
    case_folders = sorted(child for child in subfolders.values() if volumes_in(child))
    if case_folders and not images and not labels:
        return Layout(training=tuple(_case_folder(child, channels) for child in case_folders))
    raise DataListError(
        f"{folder} has no layout that is known: imagesTr/ with labelsTr/, images/ with labels/ (or masks/), or a "
        f"folder a case, with files that end in {', '.join(SUFFIXES)}."
    )


def _decathlon(folder: Path, subfolders: Mapping[str, Path], channels: Sequence[str]) -> Layout:
    """``imagesTr``, ``labelsTr`` and perhaps ``imagesTs`` and ``labelsTs``, as in MSD and nnU-Net."""
    if "labelstr" not in subfolders:
        raise DataListError(f"{folder} has imagesTr but no labelsTr: training needs the label maps.")
    images, labels = volumes_in(subfolders["imagestr"]), volumes_in(subfolders["labelstr"])
    numbered = _are_numbered(images, labels)
    training = match_files(images, labels, channels, folder, numbered=numbered)
    if "imagests" not in subfolders or not (images := volumes_in(subfolders["imagests"])):
        return Layout(training=training)
    labels = volumes_in(subfolders["labelsts"]) if "labelsts" in subfolders else []
    return Layout(training=training, testing=match_files(images, labels, channels, folder, numbered=numbered))


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def volumes_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in _visible(folder) if file.is_file() and file.name.lower().endswith(SUFFIXES)]


# Images and labels in two folders ------------------------------------------------------------------------------------


def match_files(
    images: Sequence[Path],
    labels: Sequence[Path],
    channels: Sequence[str],
    folder: Path,
    *,
    numbered: bool | None = None,
) -> tuple[Files, ...]:
    """Bring images and labels together by name: equal names, or else equal but for words such as ``_seg``."""
    if not images:
        raise DataListError(f"{folder}: the folder of images holds no volumes ({', '.join(SUFFIXES)}).")
    numbered = _are_numbered(images, labels) if numbered is None else numbered
    label_of = _unique(labels, case_name)
    grouped = _grouped(images, channels, keep=frozenset(label_of), numbered=numbered)
    if not set(grouped) & set(label_of):  # no name agrees as it is
        label_of = _unique(labels, lambda file: _bare(case_name(file), LABEL_WORD))
        bare = {case: _bare(case, IMAGE_WORD) for case in grouped}
        _refuse_equal(bare, folder)
        if set(bare.values()) & set(label_of):
            grouped = {bare[case]: files for case, files in grouped.items()}
    if without_image := sorted(set(label_of) - set(grouped)):
        files = shorten(label_of[name].name for name in without_image)
        raise DataListError(
            f"{folder}: {len(without_image)} of {len(label_of)} labels have no image of the same name: {files}. "
            f"Images are named like {images[0].name}: rename the labels, add the images, or, where several files "
            "make one case, name their endings, as in --channels ct,pet."
        )
    return tuple(Files(case=case, images=grouped[case], label=label_of.get(case)) for case in sorted(grouped))


def _are_numbered(images: Sequence[Path], labels: Sequence[Path]) -> bool:
    """Images end in a channel number (``liver_01_0000``) that their labels lack (``liver_01``), as nnU-Net has it."""
    names = {name for file in labels for name in (case_name(file), _bare(case_name(file), LABEL_WORD))}
    matches = [re.fullmatch(CHANNEL_NUMBER, case_name(image)) for image in images]
    return all(matches) and any(match[1] in names for match in matches if match)


def _unique(files: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(key(file), file)
        if other != file:
            raise DataListError(f"{other} and {file.name} have the name {key(file)!r} both: rename or remove one.")
    return found


def _refuse_equal(bare: Mapping[str, str], folder: Path) -> None:
    first: dict[str, str] = {}
    for case, name in bare.items():
        other = first.setdefault(name, case)
        if other != case:
            raise DataListError(f"{folder}: the images {other} and {case} would both be case {name!r}: rename one.")


def _bare(name: str, word: str) -> str:
    """``name`` without a leading or trailing word for what it is, as in ``segmentation-7`` and ``7_seg``."""
    bare = re.sub(rf"^{word}[-_. ]|[-_. ]{word}$", "", name, flags=re.IGNORECASE)
    return bare or name


def _grouped(
    images: Sequence[Path], channels: Sequence[str], *, keep: frozenset[str], numbered: bool
) -> dict[str, dict[str, Path]]:
    """The channel files of each case. A name in ``keep`` is a whole case, whatever it ends in."""
    named = "|".join(re.escape(name) for name in channels)
    ending = CHANNEL_NUMBER if numbered else rf"(.+)[-_. ]({named})"
    grouped: dict[str, dict[str, Path]] = {}
    for image in images:
        name = case_name(image)
        match = re.fullmatch(ending, name, flags=re.IGNORECASE) if numbered or channels else None
        if match is None or name in keep:
            case, channel = name, ""
        else:
            case, channel = match[1], _channel(match[2], channels)
        other = grouped.setdefault(case, {}).setdefault(channel, image)
        if other != image:
            raise DataListError(f"{other} and {image.name} are the same channel of case {case}: rename or remove one.")
    return grouped


def _channel(ending: str, channels: Sequence[str]) -> str:
    if not ending.isdigit():
        return _spelled(ending, channels)
    number = int(ending)
    return channels[number] if number < len(channels) else f"channel_{number}"


# A folder a case -----------------------------------------------------------------------------------------------------


def _case_folder(folder: Path, channels: Sequence[str]) -> Files:
    files = volumes_in(folder)
    names = {file: _within(case_name(file), folder.name) for file in files}
    labels = [file for file in files if re.search(rf"(?:^|[-_. ]){LABEL_WORD}(?:$|[-_. \d])", names[file], re.I)]
    if len(labels) > 1:
        raise DataListError(
            f"{folder} has {len(labels)} files that look like its label ({', '.join(file.name for file in labels)}): "
            "combine them into one label map, or keep one."
        )
    images = {names[file]: file for file in files if file not in labels}
    if not images:
        raise DataListError(f"{folder} has a label, but no image: add the image, or remove the folder.")
    wanted = {name: file for name, file in images.items() if name.lower() in {c.lower() for c in channels}}
    if wanted:  # other files, such as a scan that is not used, may lie beside the channels that are
        images = {_spelled(name, channels): file for name, file in wanted.items()}
    return Files(case=folder.name, images=images, label=labels[0] if labels else None)


def _within(name: str, case: str) -> str:
    """``t1`` for ``BraTS_001_t1`` in the folder ``BraTS_001``."""
    rest = name[len(case) :].lstrip("-_. ") if name.lower().startswith(case.lower()) else name
    return rest or "image"


def _spelled(name: str, channels: Sequence[str]) -> str:
    return next(channel for channel in channels if channel.lower() == name.lower())


def channel_names(
    everything: Sequence[Files], channels: Sequence[str], folder: Path, *, some_missing: bool = False
) -> tuple[str, ...]:
    """The channels of all cases, in the order of ``channels`` where it is given.

    With ``some_missing`` a case may lack some of them, but not all.

    Raises:
        DataListError: cases have different channels, or not those that ``channels`` names.
    """
    found = set(everything[0].images)
    if some_missing:
        found = {name for files in everything for name in files.images}
    for files in everything[1:] if not some_missing else ():
        if set(files.images) != found and max(len(found), len(files.images)) > 1:
            raise DataListError(
                f"{folder}: case {everything[0].case} has the channels {_joined(found)}, case {files.case} "
                f"{_joined(files.images)}: complete or remove one of them, choose with --channels, or write null "
                "for what is missing with --missing-channels."
            )
    if len(found) == 1:
        if len(channels) > 1:
            missing = sorted(set(channels) - found)
            raise DataListError(
                f"{folder}: --channels names {len(channels)}, but each case has one image "
                f"({', '.join(missing)} not found): name that one."
            )
        return tuple(channels) or ("image",)
    if channels and set(channels) != found:
        raise DataListError(f"{folder}: --channels names {_joined(channels)}, the cases have {_joined(found)}.")
    return tuple(channels) or tuple(sorted(found, key=_natural))


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(name or "(none)" for name in names))


def _natural(name: str) -> list[str | int]:
    """Sorts ``channel_2`` before ``channel_10``: text and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]
