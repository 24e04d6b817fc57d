"""Read data lists as this project, the Medical Segmentation Decathlon, Auto3DSeg and nnU-Net write them."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.datalist.model import Case, DataList, absolute, shorten
from medseg3d.errors import DataListError
from medseg3d.volume import SUFFIXES, case_name

__all__ = ["common_name", "kind_of", "load_json", "read_datalist"]

BACKGROUND_NAMES = frozenset({"background", "bg", "back", "none", "unlabeled", "unlabelled", "clear label"})
IGNORE_NAME = "ignore"
ENTRY_KEYS = ("case", "patient", "image", "label", "fold")
PATIENT_SYNONYMS = frozenset({"subject", "subject_id", "subjectid", "patientid", "patient_name"})


def read_datalist(path: str | Path) -> DataList:
    """Read a data list: the project's own, MSD's, Auto3DSeg's or nnU-Net's ``dataset.json``.

    No image is opened (``check_datalist`` does that). An entry without ``case`` is named after its file, and where no
    entry has a ``patient``, every case is its own. nnU-Net's file lists no cases: they are found in ``imagesTr`` and
    ``labelsTr`` beside it.

    Raises:
        DataListError: the file is missing or malformed; the message names the entry and what to do.
    """
    path = absolute(path)
    values = load_json(path)
    labels, regions = _labels(values, path)
    training = _training_entries(values, path)
    testing = _testing_entries(values, path)
    _check_patients([*training, *testing], path)
    training_cases = tuple(_case(entry, f"training[{i}]", path) for i, entry in enumerate(training))
    testing_cases = tuple(_case(entry, f"testing[{i}]", path) for i, entry in enumerate(testing))
    channels = _channels(values, path, files=max((len(c.image) for c in training_cases + testing_cases), default=1))
    return DataList(
        path=path,
        name=_text(values, "name", path) or path.parent.name,
        modality=_modality(values, path),
        labels=labels,
        regions=regions,
        channels=channels,
        training=training_cases,
        testing=testing_cases,
        ignore_label=_ignore_label(values, path),
    )


def common_name(images: Sequence[str | Path]) -> str:
    """Name a case after its files: what the names of its channels have in common, up to a separator.

    >>> common_name(["imagesTr/liver_001.nii.gz"])
    'liver_001'
    >>> common_name(["p1_t1.nii.gz", "p1_t2.nii.gz"])
    'p1'
    """
    stems = [case_name(image) for image in images]
    if len(stems) == 1:
        return stems[0]
    common = os.path.commonprefix(stems)  # noqa: RUF071 (characters are meant, not folders)
    cut = max(common.rfind(separator) for separator in "_-.")
    return common[:cut].rstrip("_-.") if cut > 0 else Path(images[0]).parent.name


# The file ------------------------------------------------------------------------------------------------------------


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, whatever its keys are.

    Raises:
        DataListError: the file is missing, unreadable, no JSON, no object, or has a key twice in one place.
    """
    if path.is_dir():
        raise DataListError(f"{path} is a folder: name the file in it, or make one with `medseg3d datalist build`.")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_refuse_repeated_keys)
    except FileNotFoundError as error:
        raise DataListError(
            f"{path} does not exist: check the path, or make a data list with `medseg3d datalist build`."
        ) from error
    except OSError as error:
        raise DataListError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataListError(f"{path} is not text in UTF-8, so it is no data list in JSON.") from error
    except json.JSONDecodeError as error:
        raise DataListError(
            f"{path} is no valid JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except _RepeatedKeyError as error:
        raise DataListError(f"{path}: the key {error} stands twice in one place: remove or rename one.") from None
    if not isinstance(values, dict):
        raise DataListError(f"{path} holds {kind_of(values)}, a data list is an object with labels and training.")
    return values


class _RepeatedKeyError(ValueError):
    """JSON would silently keep the last of two equal keys."""


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(repr(next(key for key in keys if keys.count(key) > 1)))
    return values


def kind_of(value: Any) -> str:
    """What a JSON value is, in words.

    >>> kind_of([1, 2])
    'a list'
    """
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _text(values: Mapping[str, Any], key: str, path: Path) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise DataListError(f"{path}: {key!r} is {kind_of(value)}, it must be text.")
    return value


# Labels, regions, channels -------------------------------------------------------------------------------------------


def _labels(values: Mapping[str, Any], path: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    spelled = values.get("labels")
    if spelled is None:
        raise DataListError(
            f'{path} does not say what its labels mean: add for example "labels": {{"liver": 1, "spleen": 2}}.'
        )
    if not isinstance(spelled, dict):
        raise DataListError(f'{path}: "labels" is {kind_of(spelled)}, it must be an object such as {{"liver": 1}}.')
    named = {name: ids for name, ids in _by_name(spelled, path).items() if name.lower() != IGNORE_NAME}
    labels = {name: ids for name, ids in named.items() if isinstance(ids, int)}
    regions = {name: ids for name, ids in named.items() if isinstance(ids, tuple)}
    if regions:  # nnU-Net: once one name is a region, all of them are, and ids need no name of their own
        regions = {name: ids if isinstance(ids, tuple) else (ids,) for name, ids in named.items()}
        labels |= {name: ids[0] for name, ids in regions.items() if len(ids) == 1}
        missing = sorted({i for ids in regions.values() for i in ids} - set(labels.values()))
        labels |= {f"label_{label_id}": label_id for label_id in missing}
    regions |= _own_regions(values, path)
    return dict(sorted(labels.items(), key=lambda item: item[1])), regions


def _by_name(spelled: Mapping[str, Any], path: Path) -> dict[str, int | tuple[int, ...]]:
    """Names to ids (or tuples of ids, nnU-Net's regions), without background, whichever way the file spells it."""
    pairs: list[tuple[str, int | tuple[int, ...]]]
    if all(isinstance(value, str) for value in spelled.values()):
        pairs = [(name, _as_id(text, f"labels: {text!r}: {name!r}", path)) for text, name in spelled.items()]
    else:
        pairs = [(name, _as_ids(value, f"labels: {name!r}", path)) for name, value in spelled.items()]
    foreground: dict[str, int | tuple[int, ...]] = {}
    for name, ids in pairs:
        if ids in (0, (0,)) and name.strip().lower() in BACKGROUND_NAMES:
            continue
        if name in foreground:
            raise DataListError(f"{path}: labels: two ids are named {name!r}: give each its own name.")
        foreground[name] = ids
    return foreground


def _as_ids(value: Any, where: str, path: Path) -> int | tuple[int, ...]:
    if isinstance(value, list):
        return tuple(_as_id(item, where, path) for item in value)
    return _as_id(value, where, path)


def _as_id(value: Any, where: str, path: Path) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return int(value)
    raise DataListError(
        f'{path}: {where}: {value!r} is no label id. Write {{"liver": 1}} (or, as MSD does, {{"1": "liver"}}).'
    )


def _ignore_label(values: Mapping[str, Any], path: Path) -> int | None:
    """The id of voxels that nobody labelled: our ``ignore_label``, or nnU-Net's label of the name "ignore"."""
    own = values.get("ignore_label")
    named = [ids for name, ids in _by_name(values["labels"], path).items() if name.lower() == IGNORE_NAME]
    if own is not None and (not isinstance(own, int) or isinstance(own, bool)):
        raise DataListError(f'{path}: "ignore_label" is {own!r}, it must be the id of voxels that nobody labelled.')
    ids = {i if isinstance(i, int) else i[0] for i in (*named, *([] if own is None else [own]))}
    if len(ids) > 1:
        raise DataListError(f"{path}: voxels to ignore have the ids {sorted(ids)}: one id is possible.")
    return ids.pop() if ids else None


def _own_regions(values: Mapping[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    spelled = values.get("regions") or {}
    if not isinstance(spelled, dict) or not all(isinstance(ids, list) for ids in spelled.values()):
        raise DataListError(f'{path}: "regions" must be an object such as {{"whole tumour": [1, 2]}}.')
    return {name: tuple(_as_id(i, f"regions: {name!r}", path) for i in ids) for name, ids in spelled.items()}


def _numbered(value: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """The values of ``{"0": "T1", "1": "T2"}`` in the order of their numbers, which must be 0, 1, 2, …"""
    try:
        numbered = {int(number): str(name) for number, name in value.items()}
    except ValueError:
        numbered = {}
    if sorted(numbered) != list(range(len(value))) or not numbered:
        raise DataListError(f'{path}: {key!r} must number its channels from 0, as in {{"0": "T1", "1": "T2"}}.')
    return [numbered[number] for number in range(len(numbered))]


def _channels(values: Mapping[str, Any], path: Path, *, files: int) -> tuple[str, ...]:
    spelled = values.get("channels")
    if isinstance(spelled, list) and spelled and all(isinstance(name, str) and name for name in spelled):
        return tuple(spelled)
    if spelled is not None:
        raise DataListError(f'{path}: "channels" must be a list of names such as ["ct", "pet"].')
    for key in ("channel_names", "modality"):
        if isinstance(values.get(key), dict):
            return _made_unique(_numbered(values[key], key, path))
    return ("image",) if files == 1 else tuple(f"channel_{i}" for i in range(files))


def _made_unique(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{name}_{i}" for i, name in enumerate(names))


def _modality(values: Mapping[str, Any], path: Path) -> str:
    for key in ("modality", "channel_names"):
        if isinstance(values.get(key), dict):
            return "+".join(dict.fromkeys(_numbered(values[key], key, path)))
    return _text(values, "modality", path)


# Entries -------------------------------------------------------------------------------------------------------------


def _training_entries(values: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    if values.get("validation"):
        raise DataListError(
            f'{path} has a part "validation": put its entries into training and give every entry a "fold"; '
            "the fold that is held out validates."
        )
    if "training" not in values and ("channel_names" in values or "file_ending" in values):
        return _nnunet_training(values, path)
    return _entries(values, "training", path)


def _testing_entries(values: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    if values.get("testing") and values.get("test"):
        raise DataListError(f'{path} has a part "testing" and a part "test": keep one of them.')
    if "training" not in values and ("channel_names" in values or "file_ending" in values):
        return _nnunet_testing(values, path)
    return _entries(values, "testing" if values.get("testing") else "test", path)


def _entries(values: Mapping[str, Any], part: str, path: Path) -> list[dict[str, Any]]:
    entries = values.get(part) or []
    if not isinstance(entries, list):
        raise DataListError(f"{path}: {part!r} is {kind_of(entries)}, it must be a list of cases.")
    if part == "training":
        return [_checked_keys(entry, f"{part}[{i}]", path) for i, entry in enumerate(entries)]
    # MSD lists its test images as plain strings.
    entries = [{"image": entry} if isinstance(entry, str) else entry for entry in entries]
    return [_checked_keys(entry, f"testing[{i}]", path) for i, entry in enumerate(entries)]


def _checked_keys(entry: Any, where: str, path: Path) -> dict[str, Any]:
    """Refuse a key that is one of ours misspelt: a lost ``patient`` would let folds share patients."""
    if not isinstance(entry, dict):
        raise DataListError(f'{path}: {where} is {kind_of(entry)}, it must be an object with "image" and "label".')
    for key in entry:
        if key in ENTRY_KEYS:
            continue
        near = ["patient"] if key.lower() in PATIENT_SYNONYMS else difflib.get_close_matches(key, ENTRY_KEYS, 1, 0.8)
        if near and near[0] not in entry:
            raise DataListError(f"{path}: {where} has the key {key!r}: did you mean {near[0]!r}? Rename it.")
    return entry


def _check_patients(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    without = [entry for entry in entries if entry.get("patient") is None]
    if without and len(without) < len(entries):
        names = [entry.get("case") or entry.get("image") for entry in without]
        raise DataListError(
            f"{path}: {len(without)} of {len(entries)} entries name no patient ({shorten(names)}). "
            "Without it folds could share a patient: name the patient of every entry, or of none."
        )


def _case(entry: Mapping[str, Any], where: str, path: Path) -> Case:
    images = entry.get("image")
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not any(images) or not all(i is None or _is_path(i) for i in images):
        raise DataListError(
            f'{path}: {where}: "image" must be a path, or a list of one path a channel (null for one that is missing).'
        )
    label = entry.get("label")
    if label is not None and (not isinstance(label, str) or not label):
        raise DataListError(f'{path}: {where}: "label" must be one path.')
    fold = entry.get("fold")
    if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool)):
        raise DataListError(f'{path}: {where}: "fold" is {fold!r}, it must be a whole number from 0 on.')
    name = _name(entry, "case", where, path) or common_name([image for image in images if image is not None])
    try:
        return Case(
            case=name,
            patient=_name(entry, "patient", where, path) or name,
            image=tuple(None if image is None else _absolute(image, path) for image in images),
            label=None if label is None else _absolute(label, path),
            fold=fold if where.startswith("training") else None,
        )
    except DataListError as error:
        raise DataListError(f"{path}: {where}: {error}") from None


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _name(entry: Mapping[str, Any], key: str, where: str, path: Path) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataListError(f"{path}: {where}: {key!r} is {value!r}, it must be a name.")
    return str(value)


def _absolute(text: str, path: Path) -> Path:
    return absolute(text, folder=path.parent)


# nnU-Net: cases are found, not listed --------------------------------------------------------------------------------


def _nnunet_training(values: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    if isinstance(values.get("dataset"), dict):  # nnU-Net's other spelling lists the files of each case
        return _nnunet_listed(values["dataset"], path)
    ending, channels = _nnunet_format(values, path)
    images = _nnunet_images(path.parent / "imagesTr", ending=ending, channels=channels)
    labels = {f.name[: -len(ending)]: f for f in _files(path.parent / "labelsTr", ending)}
    if unlabelled := sorted(set(images) - set(labels)):
        raise DataListError(
            f"{path}: {len(unlabelled)} images in imagesTr have no label in labelsTr: {shorten(unlabelled)}."
        )
    if without_image := sorted(set(labels) - set(images)):
        raise DataListError(
            f"{path}: {len(without_image)} labels in labelsTr have no image in imagesTr: {shorten(without_image)}."
        )
    announced = values.get("numTraining", len(images))
    if announced != len(images):
        raise DataListError(
            f"{path} announces numTraining {announced}, but imagesTr holds {len(images)} cases: "
            "complete the copy, or correct the number."
        )
    return [{"case": case, "image": images[case], "label": str(labels[case])} for case in images]


def _nnunet_testing(values: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    folder = path.parent / "imagesTs"
    if not folder.is_dir():
        return []
    ending, channels = _nnunet_format(values, path)
    images = _nnunet_images(folder, ending=ending, channels=channels)
    labels = {f.name[: -len(ending)]: str(f) for f in _files(path.parent / "labelsTs", ending, may_be_absent=True)}
    return [{"case": case, "image": images[case], "label": labels.get(case)} for case in images]


def _nnunet_listed(dataset: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    for case, entry in dataset.items():
        if not isinstance(entry, dict) or not {"images", "label"} <= set(entry):
            raise DataListError(f'{path}: dataset: {case!r} must be an object with "images" and "label".')
    return [{"case": case, "image": entry["images"], "label": entry["label"]} for case, entry in dataset.items()]


def _nnunet_format(values: Mapping[str, Any], path: Path) -> tuple[str, int]:
    names = values.get("channel_names", values.get("modality"))
    if not isinstance(names, dict):
        raise DataListError(
            f'{path} lists no training cases, and without "channel_names" they cannot be found: '
            'add {"channel_names": {"0": "CT"}}, or a list "training".'
        )
    ending = _text(values, "file_ending", path) or ".nii.gz"
    if ending not in SUFFIXES:
        raise DataListError(f'{path}: "file_ending" is {ending!r}, volumes end in {", ".join(SUFFIXES)}.')
    return ending, len(_numbered(names, "channel_names", path))


def _nnunet_images(folder: Path, *, ending: str, channels: int) -> dict[str, list[str]]:
    """The channel files of each case: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, …"""
    found: dict[str, dict[int, str]] = {}
    for file in _files(folder, ending):
        match = re.fullmatch(r"(.+)_(\d{4})", file.name[: -len(ending)])
        if not match:
            raise DataListError(
                f"{file} does not end in a channel number: nnU-Net names images CASE_0000{ending}, CASE_0001{ending}."
            )
        found.setdefault(match[1], {})[int(match[2])] = str(file)
    for case, files in found.items():
        if sorted(files) != list(range(channels)):
            raise DataListError(
                f"{folder}: case {case} has the channels {sorted(files)}, dataset.json names {channels} "
                f"(0 to {channels - 1}): complete the case, or leave it out."
            )
    return {case: [files[channel] for channel in range(channels)] for case, files in sorted(found.items())}


def _files(folder: Path, ending: str, *, may_be_absent: bool = False) -> list[Path]:
    if not folder.is_dir():
        if may_be_absent:
            return []
        raise DataListError(f"{folder} does not exist: nnU-Net's dataset.json lists no cases, they are found there.")
    return sorted(f for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith("."))
