"""Folds for cross-validation: no patient in two of them, and each with its share of every label."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from medseg3d.datalist.model import Case, DataList, shorten
from medseg3d.errors import DataListError, UsageError

__all__ = ["check_can_split", "check_folds", "divide", "split"]

T = TypeVar("T")
Trait = tuple[int, bool]
"""A label's id, and whether it occurs. That a common label is absent is as rare as a rare one, and spread as evenly."""


@dataclass(frozen=True)
class _Patient:
    """All cases of one patient, which stay together."""

    name: str
    cases: int
    traits: Mapping[Trait, int]  # in how many of the cases a label occurs, and in how many it does not


def split(
    datalist: DataList,
    *,
    folds: int = 5,
    seed: int = 0,
    presence: Mapping[str, frozenset[int]] | None = None,
    contents: Mapping[str, tuple[str, ...]] | None = None,
    replace_existing: bool = False,
) -> DataList:
    """Give every training case the fold in which it is held out.

    Cases of one patient share a fold. Patients with the rarest labels are placed first, each where its labels are
    most wanted. The result depends on names and ``seed``, not on the order of the cases or on the machine. No fold is
    empty, and the sizes of two folds differ by at most the number of cases of the largest patient: by at most one
    where each patient has one case.

    Args:
        datalist: The list to split; its testing cases are left alone.
        folds: How many folds, at least 2.
        seed: Another seed gives other folds.
        presence: The label ids that occur in each case's label map. Without it, only sizes are balanced: nothing is
            read here.
        contents: Hashes of the images of each case, so that the same image under two patients is found. Without it,
            paths are compared.
        replace_existing: Make new folds where the list has some.

    Raises:
        UsageError: fewer than 2 folds.
        DataListError: fewer patients than folds, folds that exist already or share a patient, one image that is
            listed under two patients, or a case that ``presence`` or ``contents`` lacks.
    """
    check_can_split(datalist, folds=folds, replace_existing=replace_existing)
    return divide(datalist, shares=(1.0,) * folds, seed=seed, presence=presence, contents=contents)


def divide(
    datalist: DataList,
    *,
    shares: Sequence[float],
    seed: int = 0,
    presence: Mapping[str, frozenset[int]] | None = None,
    contents: Mapping[str, tuple[str, ...]] | None = None,
) -> DataList:
    """Give every training case a fold, as ``split`` does, where fold i holds ``shares[i]`` of the cases.

    Shares are relative to each other, as in 70, 15, 15; folds that exist are replaced.

    Raises:
        DataListError: fewer patients than shares, or one image that is listed under two patients.
    """
    check_can_split(datalist, folds=len(shares), replace_existing=True)
    _refuse_shared_images(datalist, _image_keys(datalist, contents))
    fold_of = _assign(_patients(datalist, presence), shares=shares, seed=seed)
    training = tuple(replace(case, fold=fold_of[case.patient]) for case in datalist.training)
    return replace(datalist, training=training)


def check_can_split(datalist: DataList, *, folds: int, replace_existing: bool = False) -> None:
    """Refuse what ``split`` cannot do, by names alone: to ask before files are read.

    Raises:
        UsageError: fewer than 2 folds.
        DataListError: fewer patients than folds, or folds that exist already.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds were asked for: a split needs at least 2.")
    if datalist.folds and not replace_existing:
        _refuse_existing(datalist)
    patients = len({case.patient for case in datalist.training})
    if patients < 2:
        raise DataListError(f"{datalist.path} has {patients} patients to train on: a split needs at least 2.")
    if patients < folds:
        raise DataListError(
            f"{datalist.path}: {patients} patients cannot be split into {folds} folds, because one patient's cases "
            f"stay together: ask for at most {patients} folds."
        )


def check_folds(datalist: DataList) -> None:
    """Refuse folds that share a patient: the model would be validated on patients that it was trained on.

    Raises:
        DataListError: names the patients and their folds.
    """
    folds_of: dict[str, set[int]] = defaultdict(set)
    for case in datalist.training:
        if case.fold is not None:
            folds_of[case.patient].add(case.fold)
    shared = {patient: sorted(folds) for patient, folds in folds_of.items() if len(folds) > 1}
    if shared:
        named = [f"{patient} in folds {', '.join(map(str, folds))}" for patient, folds in sorted(shared.items())]
        raise DataListError(
            f"{datalist.path}: {len(shared)} patients are in more than one fold ({shorten(named)}), so that validation "
            "would see patients of the training. Make new folds with `medseg3d datalist split --replace`."
        )


def _refuse_existing(datalist: DataList) -> None:
    check_folds(datalist)
    raise DataListError(
        f"{datalist.path} is split already, into the folds {', '.join(map(str, datalist.folds))}: "
        "use it as it is, or pass --replace to make new folds."
    )


def _image_keys(datalist: DataList, contents: Mapping[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]]:
    if contents is None:
        return {case.case: tuple(map(str, case.files)) for case in datalist.training}
    return {case.case: _looked_up(contents, case, "contents") for case in datalist.training}


def _refuse_shared_images(datalist: DataList, keys: Mapping[str, tuple[str, ...]]) -> None:
    first: dict[str, Case] = {}
    for case in datalist.training:
        for key in keys[case.case]:
            other = first.setdefault(key, case)
            if other.patient != case.patient:
                raise DataListError(
                    f"{datalist.path}: the cases {other.case} (patient {other.patient}) and {case.case} (patient "
                    f"{case.patient}) have the same image, so that folds could share it: remove one of them, or give "
                    "both the same patient."
                )


def _patients(datalist: DataList, presence: Mapping[str, frozenset[int]] | None) -> list[_Patient]:
    grouped: dict[str, list[Case]] = defaultdict(list)
    for case in datalist.training:
        grouped[case.patient].append(case)
    traits = _traits(datalist, {case.case: frozenset() for case in datalist.training} if presence is None else presence)
    return [
        _Patient(name=name, cases=len(cases), traits=Counter(trait for case in cases for trait in traits[case.case]))
        for name, cases in grouped.items()
    ]


def _traits(datalist: DataList, presence: Mapping[str, frozenset[int]]) -> dict[str, list[Trait]]:
    ids_of = {case.case: _looked_up(presence, case, "presence") for case in datalist.training}
    all_ids = sorted(frozenset().union(*ids_of.values()))
    return {case: [(label_id, label_id in ids) for label_id in all_ids] for case, ids in ids_of.items()}


def _looked_up(known: Mapping[str, T], case: Case, what: str) -> T:
    if case.case not in known:
        raise DataListError(f"Case {case.case} is not in {what}: give it for every training case, or leave it out.")
    return known[case.case]


def _assign(patients: Sequence[_Patient], *, shares: Sequence[float], seed: int) -> dict[str, int]:
    totals: Counter[Trait] = Counter()
    for patient in patients:
        totals.update(patient.traits)
    all_cases = sum(patient.cases for patient in patients)
    largest = max(patient.cases for patient in patients)
    folds = range(len(shares))
    sizes = [0] * len(shares)
    loads: list[Counter[Trait]] = [Counter() for _ in folds]
    fold_of: dict[str, int] = {}
    for patient in _rarest_first(patients, totals, seed):
        # Keeps the bound on sizes; the fold that is least filled is always allowed, whatever the division rounds to.
        filled = min(sizes[f] / shares[f] for f in folds) + 1e-9
        allowed = [f for f in folds if sizes[f] + patient.cases <= filled * shares[f] + largest]
        _, chosen = min((_crowding(patient, sizes[f] / all_cases**2, loads[f], totals) / shares[f], f) for f in allowed)
        fold_of[patient.name] = chosen
        sizes[chosen] += patient.cases
        loads[chosen].update(patient.traits)
    return fold_of


def _crowding(patient: _Patient, size: float, load: Mapping[Trait, int], totals: Mapping[Trait, int]) -> float:
    """How much a fold already has of what ``patient`` brings; the least crowded fold gets the patient."""
    # Sorted, since the order of a sum of floats would otherwise let the order of the cases choose.
    traits = sum(n * load[trait] / totals[trait] ** 2 for trait, n in sorted(patient.traits.items()))
    return traits + patient.cases * size


def _rarest_first(patients: Sequence[_Patient], totals: Mapping[Trait, int], seed: int) -> list[_Patient]:
    """Patients with rare traits and many cases first, while there is still a choice; the seed breaks ties."""
    traits = sorted(totals, key=lambda trait: (totals[trait], trait))

    def key(patient: _Patient) -> tuple[tuple[int, ...], int, str]:
        draw = hashlib.sha256(f"{seed}:{patient.name}".encode()).hexdigest()
        return tuple(-patient.traits.get(trait, 0) for trait in traits), -patient.cases, draw

    return sorted(patients, key=key)
