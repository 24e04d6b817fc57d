"""Folds: laws of the split, refusals of leakage, and the items that bundles are fed."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.datalist import (
    Case,
    DataList,
    check_folds,
    read_datalist,
    split,
    testing_items,
    training_items,
    validation_items,
    write_datalist,
)
from medseg3d.errors import DataListError, UsageError


def make_list(patients: list[int], **changes: object) -> DataList:
    """A list with ``patients[p]`` cases of patient p."""
    cases = tuple(
        Case(f"c{p}_{n}", f"p{p}", (Path(f"/d/i{p}_{n}.nii.gz"),), Path(f"/d/l{p}_{n}.nii.gz"))
        for p, count in enumerate(patients)
        for n in range(count)
    )
    return replace(DataList(Path("/d/list.json"), "d", "CT", {"a": 1, "b": 2}, training=cases), **changes)


def folds_of(datalist: DataList) -> dict[str, int | None]:
    return {case.case: case.fold for case in datalist.training}


@st.composite
def splits(draw):
    folds = draw(st.integers(2, 6))
    datalist = make_list(draw(st.lists(st.integers(1, 4), min_size=folds, max_size=30)))
    labels = st.frozensets(st.integers(1, 4))
    presence = {case.case: draw(labels) for case in datalist.training}
    return datalist, folds, draw(st.integers(0, 5)), draw(st.sampled_from([presence, None]))


@settings(max_examples=200, deadline=None)
@given(splits(), st.randoms(use_true_random=False))
def test_laws_of_a_split(drawn, shuffler: random.Random):
    datalist, folds, seed, presence = drawn
    done = split(datalist, folds=folds, seed=seed, presence=presence)
    # Every case keeps everything but its fold, and has one; no fold is empty.
    assert tuple(replace(case, fold=None) for case in done.training) == datalist.training
    assert done.folds == tuple(range(folds))
    # No patient is in two folds.
    per_patient = defaultdict(set)
    for case in done.training:
        per_patient[case.patient].add(case.fold)
    assert all(len(found) == 1 for found in per_patient.values())
    # Sizes differ by no more than the largest patient.
    sizes = Counter(case.fold for case in done.training)
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(c.patient for c in done.training).values())
    # The order of the cases does not matter.
    shuffled = list(datalist.training)
    shuffler.shuffle(shuffled)
    again = split(replace(datalist, training=tuple(shuffled)), folds=folds, seed=seed, presence=presence)
    assert folds_of(again) == folds_of(done)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 6), st.lists(st.booleans(), min_size=6, max_size=60), st.integers(0, 3))
def test_a_label_is_spread_as_evenly_as_can_be(folds, having, seed):
    datalist = make_list([1] * len(having))
    presence = {c.case: frozenset({1} if has else ()) for c, has in zip(datalist.training, having, strict=True)}
    done = split(datalist, folds=folds, seed=seed, presence=presence)
    counts = [sum(1 in presence[c.case] for c in done.training if c.fold == fold) for fold in range(folds)]
    assert max(counts) - min(counts) <= 1


def test_rare_labels_reach_every_fold():
    """5 of 40 cases have label 2, and 20 have label 1: one and four a fold, by hand."""
    datalist = make_list([1] * 40)
    presence = {
        case.case: frozenset(({1} if i % 2 else set()) | ({2} if i % 8 == 3 else set()))
        for i, case in enumerate(datalist.training)
    }
    done = split(datalist, folds=5, seed=0, presence=presence)
    for fold in range(5):
        cases = [case for case in done.training if case.fold == fold]
        assert [sum(i in presence[case.case] for case in cases) for i in (1, 2)] == [4, 1]


def test_sizes_are_bounded_where_the_labels_would_have_it_otherwise():
    """The labels alone would put two patients of 3 cases into one fold, and leave 3 and 2 cases for the others."""
    ids = [{1}, {1}, {1}, {1, 3}, {3}, set(), {1, 2, 3}, {1, 2, 3}, {3}, {1}, set()]
    datalist = make_list([3, 3, 3, 2])
    presence = {case.case: frozenset(found) for case, found in zip(datalist.training, ids, strict=True)}
    done = split(datalist, folds=3, presence=presence)
    assert sorted(Counter(case.fold for case in done.training).values()) == [3, 3, 5]


def test_another_seed_gives_other_folds_and_the_same_seed_the_same():
    datalist = make_list([1] * 20)
    assert split(datalist, folds=5, seed=0) == split(datalist, folds=5, seed=0)
    assert folds_of(split(datalist, folds=5, seed=0)) != folds_of(split(datalist, folds=5, seed=1))


def test_testing_cases_are_left_alone():
    testing = (Case("t", "t", (Path("/d/t.nii.gz"),)),)
    assert split(make_list([1, 1], testing=testing), folds=2).testing == testing


def test_split_refusals():
    with pytest.raises(UsageError, match="1 folds were asked for: a split needs at least 2"):
        split(make_list([1, 1]), folds=1)
    with pytest.raises(DataListError, match=r"3 patients cannot be split into 5 folds.*ask for at most 3 folds"):
        split(make_list([4, 4, 4]), folds=5)
    with pytest.raises(DataListError, match="has 1 patients to train on: a split needs at least 2"):
        split(make_list([9]), folds=2)
    done = split(make_list([1] * 4), folds=2)
    with pytest.raises(DataListError, match=r"is split already, into the folds 0, 1: .*--replace"):
        split(done, folds=4)
    assert split(done, folds=4, replace_existing=True).folds == (0, 1, 2, 3)
    with pytest.raises(DataListError, match=r"Case c1_0 is not in presence"):
        split(make_list([1, 1]), folds=2, presence={"c0_0": frozenset()})


def test_one_image_under_two_patients_is_refused():
    datalist = make_list([1, 1, 1])
    contents = {"c0_0": ("x",), "c1_0": ("y",), "c2_0": ("x",)}
    with pytest.raises(DataListError, match=r"c0_0 \(patient p0\) and c2_0 \(patient p2\) have the same image"):
        split(datalist, folds=2, contents=contents)
    first, second, third = datalist.training
    with pytest.raises(DataListError, match="have the same image"):
        split(replace(datalist, training=(first, replace(second, image=first.image), third)), folds=2)
    same_patient = replace(datalist, training=(first, second, replace(third, patient="p0")))
    assert split(same_patient, folds=2, contents=contents).folds == (0, 1)


def test_a_patient_in_two_folds_is_refused():
    leaking = make_list([2, 1])
    leaking = replace(leaking, training=tuple(replace(c, fold=i) for i, c in enumerate(leaking.training)))
    with pytest.raises(DataListError, match=r"1 patients are in more than one fold \(p0 in folds 0, 1\)"):
        check_folds(leaking)
    with pytest.raises(DataListError, match="p0 in folds 0, 1"):
        split(leaking, folds=2)
    assert split(leaking, folds=2, replace_existing=True).folds == (0, 1)


@pytest.fixture
def listed(tmp_path):
    def write(datalist: DataList) -> Path:
        write_datalist(datalist, tmp_path / "list.json")
        return tmp_path / "list.json"

    return write


def test_items_of_a_list_with_folds(listed):
    path = listed(split(make_list([2] * 6), folds=3))
    for fold in range(3):
        train, held_out = training_items(path, fold=fold), validation_items(path, fold=fold)
        assert len(train) == 8
        assert len(held_out) == 4
        assert not {item["patient"] for item in train} & {item["patient"] for item in held_out}
    assert held_out[0] == {
        "case": held_out[0]["case"],
        "patient": held_out[0]["patient"],
        "image": f"/d/i{held_out[0]['case'][1:]}.nii.gz",
        "label": f"/d/l{held_out[0]['case'][1:]}.nii.gz",
    }


def test_folds_are_made_where_there_are_none(listed, caplog):
    path = listed(make_list([1] * 10))
    with caplog.at_level(logging.INFO, logger="medseg3d"):
        held_out = validation_items(path, fold=1, folds=2, seed=3)
    assert caplog.messages == ["list.json has no folds: made 2 by patient with seed 3"]
    expected = {c.case for c in split(read_datalist(path), folds=2, seed=3).training if c.fold == 1}
    assert {item["case"] for item in held_out} == expected
    assert {item["case"] for item in training_items(path, fold=1, folds=2, seed=3)} | expected == {
        f"c{p}_0" for p in range(10)
    }


def test_fold_minus_one_trains_on_all(listed):
    path = listed(make_list([1] * 3))
    assert len(training_items(path, fold=-1)) == 3
    assert validation_items(path, fold=-1) == []


def test_items_of_several_channels_and_of_testing(listed):
    ct, pet = Path("/d/ct.nii.gz"), Path("/d/pet.nii.gz")
    cases = (Case("a", "a", (ct, pet), Path("/d/l.nii.gz")), Case("b", "b", (ct, pet)))
    channels = ("ct", "pet")
    path = listed(
        DataList(Path("/x.json"), "d", "", {"a": 1}, channels=channels, training=cases[:1], testing=cases[1:])
    )
    assert training_items(path, fold=-1)[0]["image"] == [str(ct), str(pet)]
    assert testing_items(path) == [{"case": "b", "patient": "b", "image": [str(ct), str(pet)]}]
    with pytest.raises(DataListError, match="has 1 patients to train on"):
        training_items(path, fold=0)


def test_items_refusals(listed):
    path = listed(split(make_list([1] * 4), folds=2))
    with pytest.raises(UsageError, match="has no fold 2: there are 0, 1, and -1 trains on all"):
        training_items(path, fold=2)
    one_fold = make_list([1, 1])
    path = listed(replace(one_fold, training=tuple(replace(case, fold=0) for case in one_fold.training)))
    with pytest.raises(DataListError, match="has only fold 0, so that nothing is left to train on"):
        training_items(path, fold=0)
    leaking = make_list([2, 1])
    path = listed(replace(leaking, training=tuple(replace(c, fold=i) for i, c in enumerate(leaking.training))))
    with pytest.raises(DataListError, match="p0 in folds 0, 1"):
        validation_items(path, fold=0)
    testing = (Case("t", "t", (Path("/d/t.nii.gz"),)),)
    path = listed(replace(leaking, training=(), testing=testing))
    with pytest.raises(DataListError, match="has no training cases, only 1 for testing"):
        training_items(path, fold=-1)
