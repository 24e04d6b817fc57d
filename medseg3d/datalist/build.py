"""Make a data list from the folders that people have: MSD, nnU-Net, images beside labels, a folder a case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg3d.datalist.brats import BRATS_CHANNELS, brats_labels, brats_regions, with_brats_channels
from medseg3d.datalist.cases import label_values
from medseg3d.datalist.check import Progress, mapped
from medseg3d.datalist.layouts import Files, Layout, channel_names, find_layout, volumes_in
from medseg3d.datalist.model import Case, DataList, absolute, shorten
from medseg3d.datalist.reading import read_datalist
from medseg3d.errors import DataListError, UsageError
from medseg3d.volume import read_volume

__all__ = ["Built", "build_datalist", "parse_labels", "patient_in"]


@dataclass(frozen=True)
class Built:
    """A data list, and what a person should still say or look at."""

    datalist: DataList
    warnings: tuple[str, ...]


def build_datalist(
    folder: str | Path,
    *,
    path: str | Path,
    name: str = "",
    modality: str = "",
    labels: Mapping[str, int] | None = None,
    channels: Sequence[str] = (),
    patient_regex: str = "",
    unlabelled_to_testing: bool = False,
    missing_channels: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Find the cases in ``folder`` and describe them as the data list that ``path`` is to hold. Nothing is written.

    Understood are a ``dataset.json`` (MSD, nnU-Net, this project's), ``imagesTr`` with ``labelsTr`` (and
    ``imagesTs``), ``images`` with ``labels`` or ``masks``, and a folder a case. Images and labels are matched by name:
    ``case_0001``, ``case_0001_seg`` and ``segmentation-0001`` belong together, and what has no partner is refused. The
    names of BraTS (``_t1ce``, ``-t2f``, …) become the channels T1, T1c, T2 and FLAIR, with its labels and regions.

    Args:
        folder: The data.
        path: Where the data list will lie; its paths are relative to there.
        name: Name of the data set; the folder's by default.
        modality: ``"CT"``, ``"MRI"``, …
        labels: Names and ids; without them, and without a ``dataset.json``, the ids are read from the label maps.
        channels: Names of the channels, in the order wanted; found in the file names where they are not given.
        patient_regex: Finds the patient in the name of the case: its first group, or all that it matches.
        unlabelled_to_testing: Images without a label become testing cases; otherwise they are refused.
        missing_channels: A channel that some case lacks is null in its entry; otherwise that is refused.
        workers: Label maps that are read at once.
        progress: Called after each label map that is read.

    Raises:
        UsageError: the regular expression is none.
        DataListError: no known layout, files without a partner, ambiguous names, channels that some case lacks.
    """
    folder, path = absolute(folder), absolute(path)
    if not folder.is_dir():
        raise DataListError(f"{folder} is no folder: name the one that holds the images and the labels.")
    warnings: list[str] = []
    described = folder / "dataset.json"
    if described.is_file():
        datalist = replace(_described(described, channels, labels, warnings), path=path)
    else:
        layout, named = find_layout(folder, channels), channels
        if not channels and (brats := with_brats_channels(layout)) is not None:
            layout, named, modality = brats, BRATS_CHANNELS, modality or "MRI"
        cases = _usable(layout, folder, unlabelled_to_testing)
        names = channel_names((*cases.training, *cases.testing), named, folder, some_missing=missing_channels)
        datalist = _found(cases, folder, path, names, labels, workers, progress, warnings)
    datalist = replace(datalist, name=name or datalist.name, modality=modality or datalist.modality)
    datalist = _with_patients(datalist, patient_regex, warnings)
    if not datalist.modality:
        warnings.append("The modality is not known: pass --modality CT (or MRI, PET, …), planning depends on it.")
    return Built(datalist=datalist, warnings=tuple(warnings))


def parse_labels(text: str) -> dict[str, int]:
    """Names and ids of labels, from ``"liver=1,spleen=2"`` or from a YAML or JSON file that maps names to ids.

    >>> parse_labels("liver=1, spleen=2")
    {'liver': 1, 'spleen': 2}

    Raises:
        UsageError: neither a file nor pairs of a name and a whole number from 1 on.
    """
    if text.lower().endswith((".yaml", ".yml", ".json")):
        return _labels_of_file(Path(text).expanduser())
    pairs = [part.rpartition("=") for part in text.split(",")]
    labels: dict[str, int] = {}
    for name, _, label_id in pairs:
        name, label_id = name.strip(), label_id.strip()
        if not name or not re.fullmatch(r"[1-9]\d*", label_id) or name in labels:
            raise UsageError(f"--labels {text!r} cannot be read: write each name once, as in liver=1,spleen=2.")
        labels[name] = int(label_id)
    return labels


def _labels_of_file(path: Path) -> dict[str, int]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--labels: {path} cannot be read ({error}).") from error
    values = values.get("labels", values) if isinstance(values, dict) else values
    valid = isinstance(values, dict) and values and all(type(label_id) is int for label_id in values.values())
    if not valid:
        raise UsageError(f"--labels: {path} must map names to ids, one a line, as in `liver: 1`.")
    return {str(name): label_id for name, label_id in values.items() if label_id != 0}


# A dataset.json says it all ------------------------------------------------------------------------------------------


def _described(
    described: Path, channels: Sequence[str], labels: Mapping[str, int] | None, warnings: list[str]
) -> DataList:
    datalist = read_datalist(described)
    cases = datalist.training + datalist.testing
    files = {file for case in cases for file in (*case.files, *([case.label] if case.label else []))}
    if missing := sorted(str(file.relative_to(described.parent)) for file in files if not file.is_file()):
        raise DataListError(
            f"{described} lists {len(missing)} files that do not exist: {shorten(missing)}. "
            "Complete the copy, or remove their entries."
        )
    for part in ("imagesTr", "labelsTr"):
        if unlisted := sorted(file.name for file in volumes_in(described.parent / part) if file not in files):
            warnings.append(f"{part} holds {len(unlisted)} files that dataset.json does not list: {shorten(unlisted)}.")
    if channels and len(channels) != len(datalist.channels):
        raise DataListError(
            f"{described} has {len(datalist.channels)} channels ({', '.join(datalist.channels)}), "
            f"--channels names {len(channels)}: name each one."
        )
    return replace(datalist, channels=tuple(channels) or datalist.channels, labels=labels or datalist.labels)


# Otherwise the names of files and folders do -------------------------------------------------------------------------


def _usable(layout: Layout, folder: Path, unlabelled_to_testing: bool) -> Layout:
    """The layout with every training case labelled."""
    labelled = tuple(files for files in layout.training if files.label is not None)
    unlabelled = tuple(files for files in layout.training if files.label is None)
    if unlabelled and not unlabelled_to_testing:
        raise DataListError(
            f"{folder}: {len(unlabelled)} of {len(layout.training)} images have no label of the same name: "
            f"{shorten(files.case for files in unlabelled)}. Add the labels, or pass --unlabelled-to-testing."
        )
    if not labelled:
        raise DataListError(f"{folder}: no image has a label: nothing could be trained on.")
    return Layout(labelled, (*unlabelled, *layout.testing))


def _found(
    cases: Layout,
    folder: Path,
    path: Path,
    channels: tuple[str, ...],
    labels: Mapping[str, int] | None,
    workers: int | None,
    progress: Progress | None,
    warnings: list[str],
) -> DataList:
    regions: dict[str, tuple[int, ...]] = {}
    if not labels:
        labels = _labels_of_maps([files.label for files in cases.training if files.label], workers, progress)
        brats = brats_labels(labels.values()) if channels == BRATS_CHANNELS else {}
        if brats:
            labels, regions = brats, brats_regions(brats)
            shown = ", ".join(f"{name} = {label_id}" for name, label_id in brats.items())
            warnings.append(f"The labels are named as in BraTS: {shown}. Pass --labels where they mean something else.")
        else:
            warnings.append(
                f"The labels have no names: {', '.join(labels)} were found. "
                f"Name them, as in --labels {','.join(f'name{i}={i}' for i in labels.values())}."
            )
    return DataList(
        path=path,
        name=folder.name,
        modality="",
        labels=labels,
        regions=regions,
        channels=channels,
        training=tuple(_to_case(files, channels) for files in cases.training),
        testing=tuple(_to_case(files, channels) for files in cases.testing),
    )


def _to_case(files: Files, channels: Sequence[str]) -> Case:
    several = len(channels) > 1
    images = tuple(map(files.images.get, channels)) if several else tuple(files.images.values())
    return Case(case=files.case, patient=files.case, image=images, label=files.label)


# Labels and patients ------------------------------------------------------------------------------------------


def _labels_of_maps(files: Sequence[Path], workers: int | None, progress: Progress | None) -> dict[str, int]:
    """``label_1``, ``label_2``, … for the ids that occur in the label maps."""
    found = mapped(_ids, files, workers=workers, progress=progress)
    ids = sorted(set().union(*found))
    if not ids:
        raise DataListError(f"All {len(files)} label maps are empty: say with --labels what they would hold.")
    return {f"label_{label_id}": label_id for label_id in ids}


def _ids(file: Path) -> frozenset[int]:
    values = label_values(read_volume(file).voxels)
    if values.too_many or values.fractions or values.not_finite or min(values.voxels, default=1) < 0:
        example = f", such as {min(values.fractions):g}" if values.fractions else ""
        raise DataListError(f"{file} is no label map: it holds values that are no whole numbers from 0 on{example}.")
    return frozenset(values.voxels)


def _with_patients(datalist: DataList, patient_regex: str, warnings: list[str]) -> DataList:
    if not patient_regex:
        cases = datalist.training + datalist.testing
        if all(case.patient == case.case for case in cases):
            warnings.append(
                "Every case counts as a patient of its own. If a patient has several, pass --patient-regex, as in "
                "--patient-regex '^(P\\d+)_', so that folds do not share patients."
            )
        return datalist
    try:
        pattern = re.compile(patient_regex)
    except re.error as error:
        raise UsageError(f"--patient-regex {patient_regex!r} is no regular expression: {error}.") from None
    return replace(
        datalist,
        training=tuple(replace(case, patient=patient_in(case.case, pattern)) for case in datalist.training),
        testing=tuple(replace(case, patient=patient_in(case.case, pattern)) for case in datalist.testing),
    )


def patient_in(case: str, pattern: re.Pattern[str]) -> str:
    """The first group of ``pattern`` in the name of a case, or all that it matches.

    Raises:
        DataListError: it matches nothing.
    """
    match = pattern.search(case)
    patient = match and (match[1] if pattern.groups else match[0])
    if not patient:
        raise DataListError(
            f"--patient-regex {pattern.pattern!r} finds no patient in the case name {case!r}: widen it."
        )
    return patient
