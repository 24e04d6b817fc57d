"""The order of the draws, and samples that depend on (seed, draw) alone."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import ClassesToIndicesd, Compose, EnsureTyped, Lambdad, RandGaussianNoised, RandScaleIntensityd

from medseg3d.data import EpochSampler, SeededCacheDataset, default_workers, training_loader
from medseg3d.spatial import RandSpatialPatchd

CASES, SEEDS = st.integers(1, 12), st.integers(0, 5)


def stream(cases: int, per_epoch: int, *, epochs: int, seed: int = 0) -> list[tuple[int, int]]:
    sampler = EpochSampler(cases, per_epoch, seed=seed)
    draws = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        draws += list(sampler)
    return draws


# Order ----------------------------------------------------------------------------------------------------------------


@given(CASES, st.integers(1, 30), st.integers(1, 5), SEEDS)
def test_every_case_is_drawn_once_before_any_is_drawn_twice(cases, per_epoch, epochs, seed):
    seen: Counter[int] = Counter()
    for case, _ in stream(cases, per_epoch, epochs=epochs, seed=seed):
        seen[case] += 1
        assert max(seen.values()) - min(seen[i] for i in range(cases)) <= 1


@given(CASES, st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_the_stream_does_not_depend_on_how_it_is_cut_into_epochs(cases, per_epoch, epochs, seed):
    whole = stream(cases, per_epoch * epochs, epochs=1, seed=seed)
    assert stream(cases, per_epoch, epochs=epochs, seed=seed) == whole
    assert [draw for _, draw in whole] == list(range(per_epoch * epochs))


@given(CASES, st.integers(1, 30), SEEDS, st.integers(0, 9))
def test_an_epoch_is_a_function_of_seed_and_number(cases, per_epoch, seed, epoch):
    first, second = (EpochSampler(cases, per_epoch, seed=seed) for _ in range(2))
    first.set_epoch(epoch)
    second.set_epoch(3)
    list(second)
    second.set_epoch(epoch)
    assert list(first) == list(first) == list(second)
    assert len(list(first)) == len(first) == per_epoch


def test_passes_and_seeds_are_shuffled_differently():
    passes = [[case for case, _ in stream(20, 20, epochs=4)[i : i + 20]] for i in range(0, 80, 20)]
    assert all(a != b for a, b in pairwise(passes))
    assert stream(20, 20, epochs=1, seed=0) != stream(20, 20, epochs=1, seed=1)


# Samples --------------------------------------------------------------------------------------------------------------


def cases(count: int = 5) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"case": f"c{i}", "image": rng.normal(size=(1, 9, 8, 7)).astype(np.float32), "label": _label(i)}
        for i in range(count)
    ]


def _label(i: int) -> np.ndarray:
    label = np.zeros((1, 9, 8, 7), np.uint8)
    label[0, i : i + 3, 2:5, 2:5] = 1
    return label


def transforms() -> list:
    return [
        EnsureTyped(["image", "label"], track_meta=False),
        ClassesToIndicesd("label", num_classes=2),
        RandSpatialPatchd(["image", "label"], (5, 5, 5), rotate_range=(0.3, 0.3, 0.3), flip_axes=(0, 1, 2)),
        RandScaleIntensityd("image", factors=0.3, prob=0.5),
        RandGaussianNoised("image", prob=0.5, std=0.1),
    ]


def dataset(*, seed: int = 0, cache_rate: float = 1.0, extra=()) -> SeededCacheDataset:
    return SeededCacheDataset(cases(), [*extra, *transforms()], seed=seed, cache_rate=cache_rate, num_workers=0)


def same(a: dict, b: dict) -> bool:
    return a["case"] == b["case"] and torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])


def test_a_sample_is_a_function_of_seed_and_draw():
    first, second = dataset(), dataset()
    for draw in ((3, 17), (0, 2), (1, 0)):
        second[draw]
    assert same(first[2, 9], second[2, 9])
    assert same(first[2, 9], first[2, 9])
    assert not torch.equal(first[2, 9]["image"], first[2, 10]["image"])
    assert not torch.equal(first[2, 9]["image"], dataset(seed=1)[2, 9]["image"])
    assert same(first[2], first[2, 0])


def test_global_random_states_neither_matter_nor_change():
    first = dataset()[1, 4]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy state is the one that MONAI could draw from
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert same(dataset()[1, 4], first)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("cache_rate", [0.0, 0.5])
def test_the_cache_does_not_change_the_samples(cache_rate):
    cached, other = dataset(), dataset(cache_rate=cache_rate)
    assert all(same(cached[case, draw], other[case, draw]) for case in range(5) for draw in range(3))


def test_random_transforms_leave_the_cache_as_it_was():
    data = dataset()
    before = deepcopy(data._cache)
    for draw in range(40):
        data[draw % 5, draw]
    for item, old in zip(data._cache, before, strict=True):
        assert set(item) == {"case", "image", "label", "label_cls_indices"}
        assert same(item, old)
        for now, then in zip(item["label_cls_indices"], old["label_cls_indices"], strict=True):
            np.testing.assert_array_equal(now, then)


def test_only_the_deterministic_transforms_are_cached():
    calls = []
    data = dataset(extra=[Lambdad("image", lambda image: calls.append(1) or image)])
    assert len(calls) == 5
    for draw in range(10):
        data[draw % 5, draw]
    assert len(calls) == 5
    assert data._cache[0]["image"].shape == (1, 9, 8, 7)


def test_without_random_transforms_the_cache_is_handed_out_as_copies_of_the_mapping():
    data = SeededCacheDataset(cases(), Compose([EnsureTyped("image")]), num_workers=0)
    data[0, 0]["case"] = "changed"
    assert data[0, 1]["case"] == "c0"


# Loader ---------------------------------------------------------------------------------------------------------------


def batches(num_workers: int, epochs: int = 2) -> list[dict]:
    loader = training_loader(dataset(seed=4), batch_size=2, iterations_per_epoch=4, num_workers=num_workers)
    loaded = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        loaded += list(loader)
    return loaded


def test_any_number_of_workers_gives_the_same_batches():
    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == 8
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert alone[0]["image"].shape == (2, 1, 5, 5, 5)


def test_epochs_differ():
    loaded = batches(0)
    assert not any(torch.equal(a["image"], b["image"]) for a, b in zip(loaded[:4], loaded[4:], strict=True))


def test_samples_carry_their_seed_for_what_is_drawn_later():
    data = dataset()
    assert data[2, 9]["sample_seed"] == data[3, 9]["sample_seed"] != data[2, 10]["sample_seed"]
    assert data[2, 9]["sample_seed"] != dataset(seed=1)[2, 9]["sample_seed"]
    loaded = batches(0)[0]["sample_seed"]
    assert loaded.dtype == torch.int64
    assert loaded.shape == (2,)


def test_workers_read_patches_beside_a_gpu_alone():
    assert default_workers("cpu") == default_workers(torch.device("cpu")) == 0
    assert 1 <= default_workers("cuda:0") <= 8
