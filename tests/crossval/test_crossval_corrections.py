"""Corrections case by case: the choices of the straightforward search, regions, and voxels that do not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

import medseg3d.inference
from medseg3d.crossval.corrections import (
    FRACTIONS,
    Correction,
    LabelledCase,
    Trial,
    choose_corrections,
    transforms_of,
)
from medseg3d.crossval.pairs import PairCounter
from medseg3d.inference.postprocess import fill_holes, keep_largest, remove_small
from medseg3d.labels import repainting

LABELS = {"left": 1, "right": 2, "lesion": 300}
BRATS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
PARTS = {"necrotic": 1, "oedema": 2, "enhancing_part": 3}
Found = list[tuple[str, str, float | None, float, float, tuple[str, ...], tuple[str, ...], float, bool]]


# As it was done before, with every case in memory ---------------------------------------------------------------------


def choose_with_all_in_memory(
    cases: Sequence[LabelledCase], labels: Mapping[str, int], structures: Mapping[str, Sequence[int]], median_ml: float
) -> Found:
    """The rule written down directly: label by label, step by step, every case anew for every correction."""
    found: Found = []
    for name, label in labels.items():
        scored = [ids for ids in structures.values() if label in ids]
        masks, taken = [case.mask for case in cases], []
        sizes = [float(f"{fraction * median_ml:.2g}") for fraction in FRACTIONS]
        for kind, amounts in (("largest", [None]), ("min_size", sizes), ("fill_holes", [None])):
            if kind == "min_size" and taken:
                continue
            tried = []
            for ml in amounts:
                changed = [
                    by_hand(mask, label, kind, ml, case.voxel_ml) for case, mask in zip(cases, masks, strict=True)
                ]
                before = [mean_dice(case.reference, mask, scored) for case, mask in zip(cases, masks, strict=True)]
                after = [mean_dice(case.reference, mask, scored) for case, mask in zip(cases, changed, strict=True)]
                gains = np.array(after) - np.array(before)
                better = tuple(case.case for case, gain in zip(cases, gains, strict=True) if gain > 1e-9)
                worse = tuple(case.case for case, gain in zip(cases, gains, strict=True) if gain < -1e-9)
                loss = float(max(0.0, -gains.min()))
                means = float(np.mean(before)), float(np.mean(after))
                holds = means[1] - means[0] >= 0.0001 - 1e-12 and len(better) > len(worse) and loss <= 0.05
                tried.append((holds, (kind, name, ml, *means, better, worse, loss), changed))
            best = max((one for one in tried if one[0]), key=lambda one: one[1][4], default=None)
            if best is not None:
                taken, masks = [best], best[2]
            found += [(*one[1], one is best) for one in tried]
    return found


def by_hand(mask: NDArray, label: int, kind: str, ml: float | None, voxel_ml: float) -> NDArray:
    before = mask == label
    if not before.any():
        return mask
    after = {
        "largest": keep_largest,
        "fill_holes": fill_holes,
        "min_size": lambda m: remove_small(m, min_voxels=(ml or 0) / voxel_ml * (1 - 1e-9)),
    }[kind](before)
    result = np.where(before & ~after, 0, mask)
    result[after & (result == 0)] = label
    return result


def mean_dice(reference: NDArray, mask: NDArray, scored: Sequence[Sequence[int]]) -> float:
    values = []
    for ids in scored:
        truth, found = np.isin(reference, ids), np.isin(mask, ids)
        total = int(truth.sum()) + int(found.sum())
        values.append(2 * int((truth & found).sum()) / total if total else 1.0)
    return float(np.mean(values))


def as_found(trials: Sequence[Trial]) -> Found:
    return [
        (t.correction.kind, t.correction.structure, t.correction.min_volume_ml, t.before, t.after, t.better, t.worse,
         t.worst_loss, t.taken)
        for t in trials
    ]  # fmt: skip


def blotches(random: np.random.Generator, ids: Sequence[int], density: float) -> NDArray:
    """Lumps of labels with holes and debris."""
    smooth = ndimage.gaussian_filter(random.normal(size=(14, 13, 12)), 1.5)
    labels = np.zeros(smooth.shape, np.uint16)
    for number, label in enumerate(ids):
        cuts = np.quantile(smooth, [density * number, density * (number + 0.8)])
        labels[(smooth > cuts[0]) & (smooth < cuts[1])] = label
    return labels


def drawn(seed: int, ids: Sequence[int], cases: int = 6) -> list[LabelledCase]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(cases):
        reference = blotches(random, ids, 0.25)
        if seed % 3 == 0:  # of one piece each
            reference = sum(np.where(keep_largest(reference == label), label, 0) for label in ids)
        mask = np.where(random.random(reference.shape) < 0.04, random.choice([0, *ids], reference.shape), reference)
        if number == cases - 1:
            mask[np.isin(mask, ids[:1])] = 0  # a label that is not found
        made.append(LabelledCase(f"c{number}", reference.astype(np.uint16), mask.astype(np.uint16), 0.003))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_the_choices_are_those_of_the_straightforward_search(seed):
    cases = drawn(seed, list(LABELS.values()))
    structures = {name: (i,) for name, i in LABELS.items()} if seed % 2 else {"both": (1, 2), "lesion": (300,)}
    found = choose_corrections(
        lambda: iter(cases), labels=LABELS, structures=structures, median_ml=dict.fromkeys(LABELS, 0.4)
    )
    assert as_found(found) == choose_with_all_in_memory(cases, LABELS, structures, 0.4)
    assert any(trial.taken for trial in found)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_pairs_score_as_masks_do(seed, slab_voxels):
    reference, mask = np.random.default_rng(seed).choice([0, 1, 2, 7, 300], (2, 5, 4, 3)).astype(np.int16)
    structures = {"a": (1,), "b": (2, 300)}
    counter = PairCounter(structures.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg3d.crossval.pairs.SLAB_VOXELS", slab_voxels)
        pairs = counter.pairs(reference, mask)
    assert pairs.sum() == reference.size
    assert counter.mean_dice(pairs, structures) == mean_dice(reference, mask, list(structures.values()))


def test_cases_are_read_once_for_labels_and_once_a_region():
    reads = []

    def cases():
        reads.append(1)
        yield from drawn(0, [1, 2, 3], cases=2)

    medians = {"necrotic": 0.1}
    choose_corrections(cases, labels=PARTS, structures=BRATS, median_ml=medians)
    assert len(reads) == 1
    choose_corrections(cases, labels=PARTS, structures=BRATS, median_ml=medians, exclusive=False)
    assert len(reads) == 1 + 3


def test_without_cases_nothing_is_chosen():
    assert choose_corrections(lambda: iter(()), labels=LABELS, structures=BRATS, median_ml={}) == []


# Regions --------------------------------------------------------------------------------------------------------------


def tumour(*places: int, size: int = 24) -> NDArray:
    """Nested cubes of oedema (6 wide), core (4) and enhancing (2) from the given places on along the diagonal."""
    labels = np.zeros((size, 14, 14), np.uint8)
    for place in places:
        for inset, label in ((0, 2), (1, 1), (2, 3)):
            labels[place + inset : place + 6 - inset, 3 + inset : 9 - inset, 3 + inset : 9 - inset] = label
    return labels


def regions_of(*pairs: tuple[NDArray, NDArray], counted: NDArray | None = None) -> list[Trial]:
    cases = [LabelledCase(f"c{i}", reference, mask, 0.001, counted) for i, (reference, mask) in enumerate(pairs)]
    return choose_corrections(
        lambda: iter(cases), labels=PARTS, structures=BRATS, median_ml={"whole": 0.216}, exclusive=False
    )


def test_a_false_tumour_goes_as_a_whole_and_nothing_is_left_to_correct():
    false = tumour(1)
    false[14:18, 4:8, 4:8] = 2
    false[15:17, 5:7, 5:7] = 1
    (taken,) = [trial for trial in regions_of(*[(tumour(1), false)] * 3) if trial.taken]
    assert (taken.correction.structure, taken.correction.kind) == ("whole", "largest")
    # Whole 216 of 216 + 64 voxels, core 64 of 64 + 8; enhancing is right already.
    assert taken.before == pytest.approx((2 * 216 / (216 + 280) + 2 * 64 / (64 + 72) + 1) / 3)
    assert taken.after == 1.0
    (transform,) = transforms_of([taken])
    assert transform == {
        "_target_": "medseg3d.inference.KeepLargestComponentd",
        "keys": "pred",
        "regions": "@regions",
        "applied_regions": "whole",
    }


def test_oedema_in_two_parts_about_a_core_is_one_tumour():
    """Label by label, the largest component of oedema would take away the other part of it."""
    split = tumour(1)
    split[3:5] = np.where(split[3:5] == 2, 1, split[3:5])  # the core reaches through, and parts the oedema
    debris = split.copy()
    debris[20, 12, 12] = 2
    chosen = [trial for trial in regions_of(*[(split, debris)] * 3) if trial.taken]
    assert [(trial.correction.structure, trial.correction.kind) for trial in chosen] == [("whole", "largest")]
    by_label = choose_corrections(
        lambda: iter([LabelledCase("c", split, debris, 0.001)]), labels=PARTS, structures=BRATS, median_ml={}
    )
    largest = next(t for t in by_label if (t.correction.structure, t.correction.kind) == ("oedema", "largest"))
    assert largest.worst_loss > 0.05


def test_a_core_that_is_none_becomes_oedema():
    truth = tumour(1)
    truth[7:10, 3:9, 3:9] = 2
    spoiled = truth.copy()
    spoiled[9, 8, 8] = 1  # a speck of core at the edge of the oedema
    trials = regions_of(*[(truth, spoiled)] * 3)
    (taken,) = [trial for trial in trials if trial.taken]
    assert (taken.correction.structure, taken.correction.kind, taken.after) == ("core", "largest", 1.0)
    np.testing.assert_array_equal(taken.correction.apply(spoiled, 0.001), truth)


def test_a_region_is_judged_on_top_of_what_the_one_before_it_took():
    """Two cores are real. Beside a false tumour with a core, keeping the largest core alone would look like a gain."""
    two = tumour(1)
    two[1:7, 3:13, 3:9] = 2
    two[2:6, 4:8, 4:8], two[3:5, 10:12, 4:6] = 1, 1  # 64 and 8 voxels
    seen = two.copy()
    seen[14:20, 3:9, 3:9], seen[15:19, 4:8, 4:8] = 2, 1
    trials = regions_of(*[(two, seen)] * 3)
    assert [(t.correction.structure, t.correction.kind) for t in trials if t.taken] == [("whole", "largest")]
    core = next(t for t in trials if (t.correction.structure, t.correction.kind) == ("core", "largest"))
    assert (core.before, core.better, len(core.worse)) == (1.0, (), 3)


def test_what_does_not_count_is_no_reason_for_a_correction():
    false = tumour(1, 14)
    counted = np.ones(false.shape, bool)
    counted[12:] = False
    assert any(trial.taken for trial in regions_of(*[(tumour(1), false)] * 3))
    trials = regions_of(*[(tumour(1), false)] * 3, counted=counted)
    assert [trial.better + trial.worse for trial in trials] == [()] * len(trials)


@pytest.mark.parametrize("kind", ["largest", "min_size", "fill_holes"])
@pytest.mark.parametrize("name", BRATS)
def test_the_transform_does_what_was_tried(name, kind):
    tried = Correction(
        kind, name, repainting(BRATS, name), is_region=True, min_volume_ml=0.06 if kind == "min_size" else None
    )
    (spelt,) = transforms_of([Trial(tried, 0, 1, ("c",), (), 0, taken=True)])
    make: Callable = getattr(medseg3d.inference, spelt.pop("_target_").rpartition(".")[2])
    affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0], dtype=torch.float64))  # 0.003 ml
    changed = 0
    for seed in range(3):
        labels = drawn(seed, [1, 2, 3])[0].mask.astype(np.uint8)
        mask = MetaTensor(torch.from_numpy(labels[None].copy()), affine=affine)
        found = make(**spelt | {"regions": BRATS})({"pred": mask})["pred"][0].numpy()
        np.testing.assert_array_equal(found, tried.apply(labels, 0.003))
        changed += int((found != labels).sum())
    assert changed > 0


def test_an_empty_list_of_regions_is_none_of_them_as_of_labels():
    mask = torch.from_numpy(tumour(1, 14))[None]
    for options in ({"regions": BRATS, "applied_regions": []}, {"applied_labels": []}):
        assert torch.equal(medseg3d.inference.KeepLargestComponentd("pred", **options)({"pred": mask})["pred"], mask)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(BRATS)), st.booleans())
@example(0, "core", True)
def test_other_regions_keep_what_they_can(seed, name, grows):
    """Outer regions stay as they are, inner ones lose what the region loses, and one grows as far as it may."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 3], (4, 5, 6)).astype(np.uint8)
    wanted = random.random(labels.shape) < 0.5
    rule = repainting(BRATS, name)
    target = np.isin(labels, BRATS[name])
    wanted = target | wanted if grows else target & wanted
    result = medseg3d.inference.postprocess.redrawn(labels, rule, lambda _: wanted)
    for other, ids in BRATS.items():
        before, after = np.isin(labels, ids), np.isin(result, ids)
        if other == name:
            np.testing.assert_array_equal(after, target | (wanted & np.isin(labels, rule.takes)) if grows else wanted)
        elif set(ids) > set(BRATS[name]):
            np.testing.assert_array_equal(after, before | (np.isin(result, BRATS[name]) & ~target))
        else:
            np.testing.assert_array_equal(after, before & np.isin(result, BRATS[name]))
