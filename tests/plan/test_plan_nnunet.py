"""Plans against nnU-Net's own, recorded by scripts/benchmarks/nnunet_plans.py.

With nnU-Net's constants for the memory everything is equal. With the memory that is measured on our network, these
differences are left, and no other:

- A patch may be a few steps larger or smaller along an axis, since our network's tensors are not nnU-Net's constants:
  DynUNet enlarges the answers of deep supervision to the whole patch, which costs more the more classes there are.
- The batch may be larger or smaller for the same reason; the limit of 5 % of the data set is the same.
- A network has at least three stages, which DynUNet needs.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
from recorded_plans import NAMES, Shape, fingerprint_of, ours, planned_like, read_record, theirs

from medseg3d.plan import Plan
from medseg3d.plan.normalisation import normalize

RECORD = read_record()
DATA_SETS = RECORD["data_sets"]
WITH_IMAGES = ("hippocampus", "sarcoma_ct_pet", "phantom_ct", "phantom_mri_anisotropic")
CONFIGURATIONS = [(name, theirs_) for name, entry in DATA_SETS.items() for theirs_ in entry["plans"]]

each_data_set = pytest.mark.parametrize("name", DATA_SETS)


@cache
def plan_of(name: str, memory: Any) -> Plan:
    return planned_like(DATA_SETS[name], memory=memory)


def pair(name: str, theirs_: str, memory: str) -> tuple[Shape, Shape]:
    return ours(plan_of(name, memory).configurations[NAMES[theirs_]]), theirs(DATA_SETS[name], theirs_)


def test_the_record_says_by_which_version_it_was_made() -> None:
    assert RECORD["versions"]["nnunetv2"].startswith("2.")
    assert set(WITH_IMAGES) <= set(DATA_SETS)
    assert all(DATA_SETS[name]["fingerprint_equal"] for name in WITH_IMAGES)


@each_data_set
def test_the_same_configurations_apply(name: str) -> None:
    assert {NAMES[theirs_] for theirs_ in DATA_SETS[name]["plans"]} == set(plan_of(name, "nnunet").configurations)


@pytest.mark.parametrize(("name", "theirs_"), CONFIGURATIONS)
def test_with_nnunets_constants_everything_is_equal(name: str, theirs_: str) -> None:
    mine, peer = pair(name, theirs_, "nnunet")
    assert mine.spacing == pytest.approx(peer.spacing, abs=1e-4)
    assert mine.patch_size == peer.patch_size
    assert mine.strides == peer.strides
    assert mine.kernels == peer.kernels
    assert mine.filters == peer.filters
    assert mine.batch_size == peer.batch_size


@pytest.mark.parametrize(("name", "theirs_"), [(n, c) for n, c in CONFIGURATIONS if c != "2d"])
def test_the_dice_of_a_batch_is_summed_where_nnunet_sums_it(name: str, theirs_: str) -> None:
    configuration = plan_of(name, "nnunet").configurations[NAMES[theirs_]]
    assert configuration.values["batch_dice"].value == DATA_SETS[name]["plans"][theirs_]["batch_dice"]


@each_data_set
def test_channels_are_normalised_by_the_same_schemes(name: str) -> None:
    entry = DATA_SETS[name]
    plan = next(iter(entry["plans"].values()))
    if "CT" not in entry["channels"] and entry["kept"] >= 0.75:
        rules = normalize(fingerprint_of(entry)).value["channels"]
        assert plan["normalization"] == ["ZScoreNormalization"] * len(rules)
        assert plan["mask_used"] == [rule["nonzero"] for rule in rules]


def check_measured(name: str) -> None:
    for theirs_ in DATA_SETS[name]["plans"]:
        mine, peer = pair(name, theirs_, "measured")
        if theirs_ != "3d_lowres":  # the size of a patch decides how coarse it must be
            assert mine.spacing == pytest.approx(peer.spacing, abs=1e-4)
        steps = [math.prod(column) for column in zip(*peer.strides, strict=True)]
        for n, other, step in zip(mine.patch_size, peer.patch_size, steps, strict=True):
            assert abs(n - other) <= 2 * step
        if mine.patch_size == peer.patch_size:
            assert (mine.strides, mine.kernels, mine.filters) == (peer.strides, peer.kernels, peer.filters)


@pytest.mark.parametrize("name", ["hippocampus"])
def test_with_measured_memory_the_stated_differences_are_left(name: str) -> None:
    check_measured(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "hippocampus"])
def test_with_measured_memory_the_stated_differences_are_left_elsewhere(name: str) -> None:
    check_measured(name)
