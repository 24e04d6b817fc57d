"""Which prediction is held against which reference: folders, data lists, and what a bundle wrote."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg3d.datalist import DataList, read_datalist, validation_items
from medseg3d.datalist.model import Case, shorten
from medseg3d.errors import UsageError
from medseg3d.evaluation.model import EvaluationCase, Problem
from medseg3d.volume import SUFFIXES, case_name

__all__ = ["Pairing", "find_labels", "match_images", "method_name", "pair", "patients_of", "run_of", "with_patients"]

# Maps that a segmentation writes beside its masks.
MAPS = ("_probability", "_uncertainty")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Pairing:
    """The cases to evaluate, and what could not be paired.

    Attributes:
        cases: in the order of the data list, or of the references' names.
        problems: predictions without a reference. A reference without a prediction is a case, whose scoring reports it.
        datalist: the data list that the references come from, if they do.
        predictions: the folder of the predictions.
        part: what of the data list is evaluated, in words.
    """

    cases: tuple[EvaluationCase, ...]
    problems: tuple[Problem, ...]
    predictions: Path
    datalist: DataList | None = None
    part: str = ""


def pair(predictions: Path, reference: Path, *, fold: int | None = None) -> Pairing:
    """Match predictions with references by name.

    Args:
        predictions: a folder of masks (a bundle's output, or a run folder with ``evaluation/``), or one mask.
        reference: a folder of label maps, one label map, or a data list. Of a data list the testing cases are taken
            when a prediction is named after one; otherwise the training cases; of these only the fold that all
            predictions are in, if there is one.
        fold: of the data list, only the cases held out in this fold (-1 for all of training).

    Raises:
        UsageError: nothing there to evaluate, two files of one case, or a fold without a data list.
        DataListError: the data list is malformed.
    """
    for path in (predictions, reference):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.")
    if predictions.is_file() and reference.is_file() and not _is_json(reference):
        case = EvaluationCase(case_name(reference), case_name(reference), reference.absolute(), predictions.absolute())
        return Pairing((case,), (), predictions.absolute().parent)
    if predictions.is_file():
        raise UsageError(f"{predictions} is a file, {reference} is not a label map: give two files, or a folder first.")
    folder = _masks_of(predictions)
    masks = _volumes_in(folder)
    if _is_json(reference):
        return _with_datalist(folder, masks, reference, fold)
    if fold is not None:
        raise UsageError(f"--fold {fold} needs a data list as the reference; {reference} is none.")
    references = _volumes_in(reference)
    cases = tuple(
        EvaluationCase(name, name, path.absolute(), masks.get(name)) for name, path in sorted(references.items())
    )
    return Pairing(cases, _extra(masks, references, reference), folder)


def _named_once(datalist: DataList) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels, and the regions that are not one of them: nnU-Net's lists name ``"enhancing": 3`` among both."""
    regions = {name: ids for name, ids in datalist.regions.items() if name not in datalist.labels}
    return dict(datalist.labels), regions


def find_labels(pairing: Pairing, reference: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels and regions where they were not given: from the data list, a ``dataset.json``, or the masks' sidecars.

    Raises:
        UsageError: none of these names any.
    """
    if pairing.datalist is not None:
        return _named_once(pairing.datalist)
    folder = reference if reference.is_dir() else reference.parent
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            return _named_once(read_datalist(path))
    for case in pairing.cases:
        labels = sidecar_of(case.prediction).get("labels")
        if isinstance(labels, dict) and labels:
            return {str(name): int(label) for name, label in labels.items()}, {}
    raise UsageError(
        f"What the labels mean is not known: neither {folder} has a dataset.json nor the masks sidecars. "
        "Name them: --labels liver=1,spleen=2."
    )


def sidecar_of(prediction: Path | None) -> dict[str, Any]:
    """The JSON that lies beside a mask of ours; empty where there is none."""
    if prediction is None:
        return {}
    path = prediction.parent / f"{case_name(prediction)}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):  # some other program's file
        return {}
    return content if isinstance(content, dict) else {}


def run_of(predictions: Path) -> Path | None:
    """The training run that a folder of predictions belongs to, if it is in one."""
    for folder in (predictions, predictions.parent):
        if (folder / "run.json").is_file():
            return folder
    return None


def method_name(predictions: Path) -> str:
    """What a method is called where nobody says: by the folder of its predictions, or of the run that made them."""
    run = run_of(predictions)
    return predictions.name if run is None else run.name


def match_images(cases: Iterable[EvaluationCase], folder: Path) -> tuple[EvaluationCase, ...]:
    """Add images to cases, ``<case>.*`` or a file a channel, ``<case>_0000.*``, ``<case>_0001.*``, ….

    Raises:
        UsageError: the folder has no image of any case.
    """
    cases = tuple(cases)
    images: dict[str, list[Path]] = {}
    for name, path in sorted(_volumes_in(folder).items()):
        channel = CHANNEL.fullmatch(name)
        images.setdefault(channel["case"] if channel else name, []).append(path)
    matched = tuple(replace(case, images=tuple(images[case.case])) if case.case in images else case for case in cases)
    if cases and not any(case.images for case in matched):
        raise UsageError(
            f"{folder} has no image named after a case ({shorten(case.case for case in cases)}): "
            "names are <case>.nii.gz or <case>_0000.nii.gz."
        )
    return matched


def with_patients(cases: Sequence[EvaluationCase], patients: Mapping[str, str]) -> tuple[EvaluationCase, ...]:
    """The cases with their patients by name of the case; a case that is not named keeps its own."""
    return tuple(replace(case, patient=patients.get(case.case, case.patient)) for case in cases)


def patients_of(text: str, cases: Sequence[EvaluationCase]) -> dict[str, str]:
    """Patients of cases: from a CSV file with columns ``case`` and ``patient``, or by a regular expression.

    The expression's first group, or all that it matches in the case's name, is the patient.

    Raises:
        UsageError: neither a file nor an expression; a case that it says nothing of.
    """
    if text.lower().endswith(".csv"):
        rows = read_rows(Path(text), required=("case", "patient"))
        found = {row["case"]: row["patient"] for row in rows}
    else:
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UsageError(
                f"--patients {text!r} is neither a .csv file nor a regular expression ({error})."
            ) from error
        matches = {case.case: pattern.search(case.case) for case in cases}
        found = {name: m.group(1) if pattern.groups else m.group(0) for name, m in matches.items() if m}
    missing = [case.case for case in cases if not found.get(case.case)]
    if missing:
        raise UsageError(f"--patients {text} names no patient for {len(missing)} cases ({shorten(missing)}).")
    return found


def read_rows(path: Path, *, required: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line.

    Raises:
        UsageError: it cannot be read, or lacks a required column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}).") from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise UsageError(f"{path} has no column {' or '.join(map(repr, missing))}; it has {', '.join(columns)}.")
    return rows


# Parts ---------------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """Cases of a data list that may be meant."""

    words: str
    cases: Sequence[Case] = field(default_factory=list)


def _with_datalist(folder: Path, masks: Mapping[str, Path], path: Path, fold: int | None) -> Pairing:
    datalist = read_datalist(path)
    part = _chosen(datalist, masks, fold)
    cases = tuple(EvaluationCase(c.case, c.patient, c.label, masks.get(c.case), images=c.files) for c in part.cases)
    if not cases:
        raise UsageError(f"{path} has no case to evaluate ({part.words}).")
    extra = _extra(masks, {case.case for case in cases}, path, part.words)
    return Pairing(cases, extra, folder, datalist, part.words)


def _chosen(datalist: DataList, masks: Mapping[str, Path], fold: int | None) -> _Part:
    if fold == -1:
        return _Part("training", datalist.training)
    if fold is not None:
        held_out = {item["case"] for item in validation_items(datalist.path, fold=fold)}
        return _Part(f"fold {fold}", [case for case in datalist.training if case.case in held_out])
    labelled = [case for case in datalist.testing if case.label is not None]
    if any(case.case in masks for case in labelled):
        return _Part("testing", labelled)
    folds = {case.fold for case in datalist.training if case.case in masks}
    if len(folds) == 1 and None not in folds:
        (only,) = folds
        return _Part(f"fold {only}", [case for case in datalist.training if case.fold == only])
    return _Part("training", datalist.training)


def _masks_of(folder: Path) -> Path:
    """The folder itself, or the ``evaluation`` of a run folder that holds no masks itself."""
    inner = folder / "evaluation"
    if (folder / "run.json").is_file() and inner.is_dir() and not _volumes_in(folder, may_be_empty=True):
        return inner.absolute()
    return folder.absolute()


def _volumes_in(folder: Path, *, may_be_empty: bool = False) -> dict[str, Path]:
    """Case → file, without the maps that lie beside masks.

    Raises:
        UsageError: no volume there, or two of one name.
    """
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    names = {case_name(path) for path in files}
    found: dict[str, Path] = {}
    for path in files:
        name = case_name(path)
        if any(name.endswith(kind) and name.removesuffix(kind) in names for kind in MAPS):
            continue
        if name in found:
            raise UsageError(f"{found[name].name} and {path.name} in {folder} are both case {name}: remove one.")
        found[name] = path.absolute()
    if not found and not may_be_empty:
        raise UsageError(f"{folder}: no volume ({', '.join(SUFFIXES)}) in this folder.")
    return found


def _extra(masks: Mapping[str, Path], references: Iterable[str], where: Path, part: str = "") -> tuple[Problem, ...]:
    known = set(references)
    of_part = f" ({part})" if part else ""
    return tuple(
        Problem(
            name,
            "extra-prediction",
            f"{path.name} has no reference in {where.name}{of_part}: it is not evaluated. Is it named otherwise?",
        )
        for name, path in sorted(masks.items())
        if name not in known
    )


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"
