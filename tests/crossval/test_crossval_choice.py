"""Which plan, which correction, which temperature: hand-made held-out cases whose right answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg3d.crossval.candidates import Candidate, CaseRecord, all_candidates
from medseg3d.crossval.choice import choose_candidate, score_candidates
from medseg3d.crossval.corrections import MAX_LOSS, LabelledCase, choose_corrections, transforms_of
from medseg3d.crossval.honesty import Sample, calibrate, judge_confidence

THREE, TWO, BOTH = Candidate(("3d",)), Candidate(("2d",)), Candidate(("3d", "2d"))
FLIPS = {"3d": 1, "2d": 1}


def records(**dice: list[float]) -> list[CaseRecord]:
    """Cases with one structure; a list of Dice a candidate."""
    keys = {"three": THREE.key, "two": TWO.key, "both": BOTH.key, "mirrored": "3d_mirrored"}
    cases = len(next(iter(dice.values())))
    return [
        CaseRecord(f"c{i}", f"c{i}", i % 2, "", {keys[k]: {"organ": v[i]} for k, v in dice.items()}, {"organ": 1.0})
        for i in range(cases)
    ]


def chosen(found: list[CaseRecord], *candidates: Candidate) -> Candidate:
    return choose_candidate(score_candidates(found, candidates, flip_axes=FLIPS)).candidate


class TestCandidates:
    def test_every_combination_and_its_mirror_image(self):
        names = [c.name for c in all_candidates(["3d", "2d"], can_mirror=True)]
        assert names == ["3d", "2d", "3d+2d", "3d, mirrored", "2d, mirrored", "3d+2d, mirrored"]

    def test_costs_are_passes_through_a_network(self):
        assert Candidate(("3d", "2d"), mirrored=True).passes({"3d": 3, "2d": 2}) == 8 + 4
        assert Candidate(("3d", "2d")).passes({"3d": 3, "2d": 2}) == 2

    def test_the_ensemble_wins_where_it_is_better(self):
        assert chosen(records(three=[0.8, 0.9], two=[0.9, 0.8], both=[0.9, 0.9]), THREE, TWO, BOTH) == BOTH

    def test_a_dearer_one_must_gain_half_a_thousandth(self):
        assert chosen(records(three=[0.8, 0.8], both=[0.8004, 0.8004]), THREE, BOTH) == THREE
        assert chosen(records(three=[0.8, 0.8], both=[0.8006, 0.8006]), THREE, BOTH) == BOTH

    def test_of_equally_dear_ones_the_better(self):
        assert chosen(records(three=[0.8], two=[0.8001]), THREE, TWO) == TWO

    def test_mirroring_that_hurts_is_left_out(self):
        assert chosen(records(three=[0.9], mirrored=[0.8]), THREE, Candidate(("3d",), mirrored=True)) == THREE

    def test_a_missed_structure_counts_and_an_absent_one_does_not(self):
        (score,) = score_candidates(records(three=[0.8, 0.0, math.nan]), [THREE], flip_axes=FLIPS)
        assert score.mean_dice == pytest.approx(0.4)

    def test_a_candidate_without_any_score_is_never_better(self):
        assert chosen(records(three=[0.5], both=[math.nan]), THREE, BOTH) == THREE


def cube(*places: tuple[int, int], size: int = 12) -> np.ndarray:
    """Cubes along the diagonal: (start, length) each."""
    mask = np.zeros((size, size, size), np.uint8)
    for start, length in places:
        mask[(slice(start, start + length),) * 3] = 1
    return mask


def trials(*pairs: tuple[np.ndarray, np.ndarray], labels=None, structures=None, median_ml=None):
    cases = [LabelledCase(f"c{i}", reference, mask, 0.001) for i, (reference, mask) in enumerate(pairs)]
    labels = labels or {"organ": 1}
    return choose_corrections(
        lambda: iter(cases),
        labels=labels,
        structures=structures or {name: (i,) for name, i in labels.items()},
        median_ml=median_ml or {"organ": 0.1},
    )


class TestCorrections:
    def test_largest_component_where_masks_have_debris(self):
        found = trials(*[(cube((1, 4)), cube((1, 4), (9, 2)))] * 3)
        (taken,) = [t for t in found if t.taken]
        assert (taken.correction.kind, taken.better, taken.worse) == ("largest", ("c0", "c1", "c2"), ())
        # 64 of 64 + 8 voxels: Dice 128 / 136 before.
        assert (taken.before, taken.after) == (pytest.approx(128 / 136), 1.0)
        assert transforms_of(found) == [
            {"_target_": "medseg3d.inference.KeepLargestComponentd", "keys": "pred", "applied_labels": 1}
        ]

    def test_two_real_parts_are_kept_and_only_debris_goes(self):
        # Two organs of 64 and 27 voxels, and a speck of 1: the largest component would lose the second organ.
        reference, mask = cube((1, 4), (6, 3)), cube((1, 4), (6, 3), (11, 1))
        found = trials(*[(reference, mask)] * 3, median_ml={"organ": 0.091})
        (taken,) = [t for t in found if t.taken]
        assert taken.correction.kind == "min_size"
        # Fractions 0.02, 0.05 and 0.1 of 0.091 ml drop a voxel of 0.001 ml: equally good, the first is taken.
        assert taken.correction.min_volume_ml == pytest.approx(0.0018)
        assert next(t for t in found if t.correction.kind == "largest").worst_loss > MAX_LOSS

    def test_one_big_loss_forbids_what_helps_on_average(self):
        good = [(cube((1, 4)), cube((1, 4), (9, 2)))] * 9
        bad = [(cube((1, 4), (6, 4)), cube((1, 4), (6, 4)))]
        largest = next(t for t in trials(*good, *bad) if t.correction.kind == "largest")
        assert largest.after > largest.before
        assert (len(largest.better), len(largest.worse), largest.taken) == (9, 1, False)

    def test_a_hole_is_filled_where_the_reference_has_none(self):
        hollow = cube((1, 6))
        hollow[3, 3, 3] = 0
        found = trials(*[(cube((1, 6)), hollow)] * 2)
        assert [t.correction.kind for t in found if t.taken] == ["fill_holes"]

    def test_a_hole_that_is_there_stays(self):
        hollow = cube((1, 6))
        hollow[3, 3, 3] = 0
        assert not any(t.taken for t in trials(*[(hollow, hollow)] * 2))

    def test_nothing_is_taken_from_perfect_masks(self):
        found = trials(*[(cube((1, 4)), cube((1, 4)))] * 3)
        assert [t.better + t.worse for t in found] == [()] * len(found)
        assert transforms_of(found) == []

    def test_removing_what_is_not_there_is_worth_something(self):
        found = trials((cube(), cube((5, 1))), (cube((1, 4)), cube((1, 4))), median_ml={"organ": 0.064})
        (taken,) = [t for t in found if t.taken]
        assert (taken.correction.kind, taken.better) == ("min_size", ("c0",))
        assert (taken.before, taken.after) == (0.5, 1.0)

    def test_each_label_is_judged_alone(self):
        reference, mask = cube((1, 4)), cube((1, 4), (9, 2))
        reference[0, 8:, 8:] = mask[0, 8:, 8:] = 2
        reference[8:, 0, 8:] = mask[8:, 0, 8:] = 2
        found = trials(*[(reference, mask)] * 2, labels={"organ": 1, "pair": 2}, median_ml={"organ": 0.1, "pair": 0.03})
        assert [(t.correction.structure, t.correction.kind) for t in found if t.taken] == [("organ", "largest")]

    def test_regions_are_judged_with_all_their_labels(self):
        # The speck is of label 2 and lies in the reference of label 1: without it the whole is worse.
        reference, mask = cube((1, 4)), cube((1, 4))
        mask[1, 1, 1] = 2
        mask[9:11, 9:11, 9:11] = reference[9:11, 9:11, 9:11] = 2
        found = trials(
            *[(reference, mask)] * 2,
            labels={"edema": 1, "core": 2},
            structures={"whole": (1, 2), "core": (2,)},
            median_ml={"core": 0.008, "edema": 0.06},
        )
        taken = next(t for t in found if t.taken)
        assert (taken.correction.structure, taken.correction.kind) == ("core", "largest")
        # Core: Dice 16/17 → 1; whole: 1 → 2·71/(72 + 71).
        assert taken.after == pytest.approx((1 + 142 / 143) / 2)


def sample(case: str, fold: int, logits: np.ndarray, truth: np.ndarray) -> Sample:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Sample(case, fold, p / p.sum(axis=1, keepdims=True), truth)


def drawn(case: str, fold: int, *, overconfidence: float, seed: int) -> Sample:
    """Truth drawn from honest probabilities; the network's logits are ``overconfidence`` times too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6000, 3)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (p.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1)
    return sample(case, fold, logits * overconfidence, truth)


class TestCalibration:
    @pytest.mark.parametrize("overconfidence", [0.5, 1.0, 2.5])
    def test_finds_the_temperature_that_made_the_logits_too_sure(self, overconfidence):
        samples = [drawn(f"c{i}", i % 2, overconfidence=overconfidence, seed=i) for i in range(4)]
        found = calibrate(samples, structures={"a": (1,), "b": (2,)}, exclusive=True)
        assert found.temperature == pytest.approx(overconfidence, rel=0.05)
        assert set(found.by_fold) == {0, 1}
        before, after = found.mean_ece
        assert after < 0.012
        if overconfidence != 1:
            assert before > 4 * after
            assert found.log_loss[1] < found.log_loss[0]

    def test_each_fold_is_measured_with_a_temperature_of_the_others(self):
        one = [drawn("a", 0, overconfidence=3.0, seed=1), drawn("b", 1, overconfidence=1.0, seed=2)]
        found = calibrate(one, structures={"a": (1,)}, exclusive=True)
        assert found.by_fold[0] == pytest.approx(1.0, rel=0.05)
        assert found.by_fold[1] == pytest.approx(3.0, rel=0.05)

    def test_regions(self):
        rng = np.random.default_rng(5)
        logits = rng.normal(size=(20000, 2)) * 2
        truth_of = rng.random((20000, 2)) < 1 / (1 + np.exp(-logits))
        truth = np.where(truth_of[:, 1], 2, truth_of[:, 0].astype(int))
        inside = np.stack([truth > 0, truth == 2], axis=1)
        nested = np.where(inside, np.abs(logits), -np.abs(logits))  # right, if not more often than it says
        found = calibrate(
            [Sample("a", 0, 1 / (1 + np.exp(-nested * 2)), truth)], structures={"w": (1, 2), "c": (2,)}, exclusive=False
        )
        assert set(found.ece) == {"w", "c"}

    def test_entropy_finds_wrong_voxels(self):
        sure, unsure = np.array([[9.0, 0.0]] * 50), np.array([[0.1, 0.0]] * 50)
        truth = np.array([0] * 50 + [1] * 50)
        found = calibrate(
            [sample("a", 0, np.concatenate([sure, unsure]), truth)], structures={"x": (1,)}, exclusive=True
        )
        assert found.error_auroc == 1.0


class TestConfidence:
    def test_a_perfect_order(self):
        found = judge_confidence([0.5, 0.6, 0.7, 0.8, 0.9], [0.1, 0.5, 0.6, 0.7, 0.8])
        assert (found.rank_correlation, found.poor_auroc) == (pytest.approx(1.0), 1.0)
        assert found.quarters[0] < found.quarters[-1]

    def test_the_wrong_way_round(self):
        found = judge_confidence([0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.5, 0.6, 0.7, 0.8])
        assert (found.rank_correlation, found.poor_auroc) == (pytest.approx(-1.0), 0.0)

    def test_a_case_in_which_nothing_was_found_is_the_least_confident(self):
        found = judge_confidence([math.nan, 0.8, 0.9, 0.95, 0.99], [0.0, 0.7, 0.8, 0.85, 0.9])
        assert found.rank_correlation == pytest.approx(1.0)

    def test_too_few_cases_are_not_judged(self):
        found = judge_confidence([0.9, 0.8], [0.9, 0.8])
        assert math.isnan(found.rank_correlation)
        assert found.quarters == ()
