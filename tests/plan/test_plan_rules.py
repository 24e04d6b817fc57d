"""The rules of a plan on data sets made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_plans import TEMPLATE, case_of

from medseg3d.errors import ConfigError, DataListError, UsageError
from medseg3d.plan import (
    CaseFingerprint,
    Fingerprint,
    Overrides,
    Plan,
    make_plan,
    parse_memory,
    parse_overrides,
    topology,
)
from medseg3d.plan.anatomy import flip_axes, repeat_weights, tolerances_mm
from medseg3d.plan.budget import NnunetBudget, batch_size
from medseg3d.plan.case import ChannelIntensities
from medseg3d.plan.grids import target_grid
from medseg3d.plan.normalisation import background, normalize
from medseg3d.plan.template import regions_of
from medseg3d.plan.topology import Topology, fit_patch

Triple = tuple[float, float, float]


def data_set(cases: Sequence[CaseFingerprint], **changes: object) -> Fingerprint:
    named = tuple(replace(case, case=f"case_{number}") for number, case in enumerate(cases))
    return replace(Fingerprint("made by hand", "MRI", ("MRI",), {"organ": 1}, named, {}), **changes)  # type: ignore[arg-type]


def plan_of(fingerprint: Fingerprint, *overrides: str, memory_gib: float = 8.0) -> Plan:
    """By nnU-Net's constants for the memory: they need no network."""
    budget = NnunetBudget(memory_gib, classes=1 + max(fingerprint.labels.values()))
    given_ = parse_overrides(overrides, TEMPLATE) if overrides else Overrides({})
    return make_plan(fingerprint, TEMPLATE, memory_gib=memory_gib, overrides=given_, budget=budget)


# Spacing ------------------------------------------------------------------------------------------------------------


def test_target_spacing_is_the_median() -> None:
    grid = target_grid(data_set([case_of((1, 1, z), (100, 100, 60)) for z in (1.0, 2.0, 2.5)]))
    assert grid.spacing_mm == (1.0, 1.0, 2.0)
    assert grid.median_shape == (100, 100, 60)  # 30, 60 and 75 slices on that grid


def test_along_a_coarse_and_short_axis_it_is_the_tenth_percentile() -> None:
    spacings = [4.0, 8.0, 8.0, 8.0, 8.0]  # the 10th percentile lies 0.4 of the way from 4 to 8
    grid = target_grid(data_set([case_of((1, 1, z), (200, 200, 20)) for z in spacings]))
    assert grid.spacing_mm == (1.0, 1.0, 5.6)
    assert "10th percentile foot-head (median 8 mm)" in grid.reason


def test_a_coarse_axis_with_many_voxels_stays_at_the_median() -> None:
    grid = target_grid(data_set([case_of((1, 1, z), (200, 200, 70)) for z in (4.0, 8.0, 8.0)]))
    assert grid.spacing_mm == (1.0, 1.0, 8.0)


def test_the_fine_percentile_is_never_finer_than_the_plane() -> None:
    cases = [case_of((2, 2, 0.5), (200, 200, 60))] * 4 + [case_of((2, 2, 8), (200, 200, 20))] * 16
    grid = target_grid(data_set(cases))
    assert grid.spacing_mm == (2.0, 2.0, 2.00001)


# Network and patch --------------------------------------------------------------------------------------------------


def test_thick_slices_are_halved_once_the_plane_is_as_coarse() -> None:
    found = topology((1.0, 1.0, 5.0), (128, 128, 16))
    # 1, 2 and 4 mm in the plane: only then is 5 mm less than twice as coarse.
    assert found.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert [kernel[2] for kernel in found.kernels] == [1, 1, 3, 3, 3, 3]
    assert found.divisor == (32, 32, 4)


def test_a_lone_axis_needs_twelve_voxels_to_be_halved() -> None:
    assert topology((1, 1, 1), (11, 4, 4)).stages == 1
    assert topology((1, 1, 1), (12, 4, 4)).strides == ((1, 1, 1), (2, 1, 1))


@given(
    spacing=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.5, 3.0, 6.0])] * 3),
    size=st.tuples(*[st.integers(4, 300)] * 3),
)
def test_laws_of_a_topology(spacing: Triple, size: tuple[int, int, int]) -> None:
    found = topology(spacing, size)
    assert len(found.strides) == len(found.kernels)
    assert found.strides[0] == (1, 1, 1)
    for n, wanted, step in zip(found.patch_size, size, found.divisor, strict=True):
        assert n % step == 0
        assert wanted <= n < wanted + step
        assert step == 1 or n // step >= 4  # no axis is halved below four voxels
    assert topology(spacing, found.patch_size).patch_size == found.patch_size


@given(size=st.tuples(*[st.integers(8, 300)] * 3), limit=st.integers(20_000, 3_000_000))
def test_a_fitted_patch_fits_and_divides(size: tuple[int, int, int], limit: int) -> None:
    def fits(found: Topology) -> bool:
        return math.prod(found.patch_size) <= limit

    found = fit_patch((1.0, 1.0, 1.0), size, fits=fits)
    assert fits(found)
    assert all(n % step == 0 for n, step in zip(found.patch_size, found.divisor, strict=True))


def test_a_patch_that_cannot_shrink_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Not even a patch of .* fits into the memory: give more with --memory"):
        fit_patch((1, 1, 1), (64, 64, 64), fits=lambda found: False)


def test_a_larger_memory_makes_a_larger_patch() -> None:
    fingerprint = data_set([case_of((1, 1, 1), (300, 300, 300))])
    patches = [
        math.prod(plan_of(fingerprint, memory_gib=gib).configurations["3d"].values["patch_size"].value)
        for gib in (4, 8, 24)
    ]
    assert patches == sorted(patches)
    assert patches[0] < patches[1] < patches[2]


def test_a_network_of_few_stages_gets_as_many_as_dynunet_needs() -> None:
    plan = plan_of(data_set([case_of((1, 1, 1), (9, 9, 9))]))
    network = plan.configurations["3d"].overrides()["network_def"]
    assert network["strides"] == [1, 2, 1]
    assert network["upsample_kernel_size"] == [2, 1]
    assert network["deep_supr_num"] == 1
    assert plan.configurations["3d"].overrides()["patch_size"] == [10, 10, 10]


def test_batches_are_as_large_as_fits_but_small_beside_the_data_set() -> None:
    assert batch_size(40, voxels=100 * 64**3, patch_voxels=64**3) == (
        5, "40 would fit, but a step sees at most 5% of the data set"
    )  # fmt: skip
    assert batch_size(3, voxels=100 * 64**3, patch_voxels=64**3) == (3, "as many as fit into the memory")
    assert batch_size(40, voxels=64**3, patch_voxels=64**3)[0] == 2


# Configurations -----------------------------------------------------------------------------------------------------


def test_large_images_get_a_low_resolution_and_small_ones_do_not() -> None:
    large = plan_of(data_set([case_of((0.8, 0.8, 1.0), (512, 512, 500))] * 20, modality="CT", channels=("CT",)))
    assert list(large.configurations) == ["3d", "2d", "lowres"]
    assert large.advice["cascade"].value is True
    assert large.configurations["3d"].values["batch_dice"].value is True
    low = large.configurations["lowres"]
    assert low.file == "plan_lowres.yaml"
    assert math.prod(low.values["patch_size"].value) >= 0.25 * math.prod(low.facts["median_shape"].value) * 0.99
    small = plan_of(data_set([case_of((1, 1, 1), (120, 120, 120))] * 20))
    assert list(small.configurations) == ["3d", "2d"]
    assert small.advice["cascade"].value is False


def test_few_slices_are_for_2d() -> None:
    thin = plan_of(data_set([case_of((0.7, 0.7, 8.0), (320, 320, 6))] * 10))
    assert thin.recommended == "2d"
    assert "6 slices, too few" in thin.why_recommended
    flat = plan_of(data_set([case_of((0.5, 0.5, 1.0), (320, 320, 1))] * 10))
    assert list(flat.configurations) == ["2d"]
    assert flat.configurations["2d"].file == "plan.yaml"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_across_the_coarsest_axis(axis: int) -> None:
    spacing, shape = [0.5, 0.5, 0.5], [256, 256, 256]
    spacing[axis], shape[axis] = 4.0, 30
    plan = plan_of(data_set([case_of(tuple(spacing), tuple(shape))] * 10))
    values = plan.configurations["2d"].overrides()
    assert values["patch_size"][axis] == 1
    assert values["network_def"]["slice_axis"] == axis
    assert axis not in values["flip_axes"]
    turned = plan.configurations["3d"].overrides()["rotate_range"]
    assert [angle > 0 for angle in turned] == [other == axis for other in range(3)]


def test_one_case_is_enough() -> None:
    plan = plan_of(data_set([case_of((1.0, 1.0, 2.0), (150, 140, 60))]))
    assert plan.configurations["3d"].values["spacing"].value == [1.0, 1.0, 2.0]
    assert plan.configurations["3d"].values["batch_size"].value == 2


def test_no_case_is_refused() -> None:
    with pytest.raises(DataListError, match="no training case"):
        data_set([])


# Labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (["liver", "tumour"], [0, 1, 2]),
        (["left_kidney", "right_kidney"], [1, 2]),
        (["KidneyLeft", "liver"], [1, 2]),
        (["lung l", "lung r"], [1, 2]),
        (["segment l"], [0, 1, 2]),  # one letter alone says nothing
        (["anterior", "posterior"], [0, 2]),
        (["superior lobe", "inferior lobe", "left"], [1]),
        (["cleft", "bright"], [0, 1, 2]),
    ],
)
def test_labels_that_name_a_side_forbid_its_mirror_image(names: list[str], allowed: list[int]) -> None:
    assert flip_axes(names).value == allowed


def test_tolerances_follow_the_size_of_a_label_but_not_below_a_voxel() -> None:
    ones = {1: 1, 2: 1}
    grid = case_of((1, 1, 1), (99, 99, 99))
    cases = [replace(grid, volume_ml={1: 1500.0, 2: 0.05}, components=ones, largest_share=ones)]
    value = tolerances_mm(data_set(cases, labels={"liver": 1, "lesion": 2, "absent": 3}), (1.0, 1.0, 1.0))
    # A ball of 1.5 litres has a diameter of 142 mm.
    assert value.value == {"liver": 7.1, "lesion": 1.0, "absent": 1.0}
    assert tolerances_mm(data_set(cases), (1.0, 1.0, 8.0)).value == {"organ": 7.1}


def test_cases_with_a_rare_label_are_drawn_more_often() -> None:
    common = case_of((1, 1, 1), (64, 64, 64))
    rare = replace(common, volume_ml={1: 10.0, 2: 0.1}, components={1: 1, 2: 3}, largest_share={1: 1.0, 2: 0.5})
    fingerprint = data_set([common] * 24 + [rare], labels={"organ": 1, "lesion": 2})
    assert repeat_weights(fingerprint) == {"case_24": 2.5}  # √(0.25 / 0.04)
    plan = plan_of(fingerprint)
    assert plan.advice["rare_labels"].value == {"lesion": 0.04}
    weights = plan.configurations["3d"].values["train::dataloader::weights"]
    assert weights.value == "$medseg3d.plan.case_weights(@train#dataset#data, {'case_24': 2.5})"
    assert "lesion (4%)" in weights.reason


def test_regions_come_from_the_data_list_or_else_from_the_bundle() -> None:
    template = replace(TEMPLATE, config={**TEMPLATE.config, "regions": {"whole": [1, 2], "core": [2]}})
    fingerprint = data_set([case_of((1, 1, 1), (64, 64, 64))], labels={"edema": 1, "core": 2})
    assert regions_of(template, fingerprint) == {"whole": [1, 2], "core": [2]}
    assert regions_of(template, replace(fingerprint, regions={"all": (1, 2)})) == {"all": [1, 2]}
    assert regions_of(TEMPLATE, replace(fingerprint, regions={"all": (1, 2)})) == {}
    plan = make_plan(fingerprint, template, budget=NnunetBudget(8.0, classes=2))
    assert plan.configurations["3d"].values["regions"].value == {"whole": [1, 2], "core": [2]}
    with pytest.raises(ConfigError, match="the data list has no label with id 2"):
        regions_of(template, replace(fingerprint, labels={"edema": 1}))


def test_a_label_that_never_occurs_is_named_and_breaks_nothing() -> None:
    fingerprint = data_set([case_of((1, 1, 1), (64, 64, 64))] * 5, labels={"organ": 1, "lesion": 2})
    facts = fingerprint.label("lesion")
    assert (facts.cases, facts.volume_ml, facts.components) == (0, None, (0.0, 0))
    plan = plan_of(fingerprint)
    assert plan.advice["absent_labels"].value == ["lesion"]
    assert repeat_weights(fingerprint) == {}


# Intensities --------------------------------------------------------------------------------------------------------


def with_intensities(case: CaseFingerprint, *channels: ChannelIntensities | None) -> CaseFingerprint:
    return replace(case, channels=channels)


def flat(value: float, sd: float = 10.0) -> ChannelIntensities:
    return ChannelIntensities(value, sd, value - sd, value + sd, (value - sd, value, value + sd))


GRID = case_of((1, 1, 1), (64, 64, 64))


def test_ct_is_clipped_and_scaled_by_the_data_set_and_pet_by_itself() -> None:
    cases = [with_intensities(GRID, flat(0.0), flat(5.0)), with_intensities(GRID, flat(100.0), flat(2.0))]
    fingerprint = data_set(cases, modality="CT", channels=("CT", "PET"))
    ct, pet = normalize(fingerprint).value["channels"]
    assert pet == {"nonzero": False}
    assert ct["mean"] == 50.0
    assert ct["sd"] == pytest.approx(math.sqrt(10**2 + 50**2), rel=1e-5)
    assert ct["clip"][0] < 0 < 100 < ct["clip"][1]
    assert background(fingerprint).value == pytest.approx((ct["clip"][0] - 50) / ct["sd"], rel=1e-4)


def test_zeros_around_the_tissue_are_left_out() -> None:
    stripped = replace(with_intensities(GRID, flat(5.0)), cropped_shape=(50, 50, 50))
    assert normalize(data_set([stripped])).value["channels"] == [{"nonzero": True}]
    assert background(data_set([stripped])).value == 0.0


def test_ct_without_any_label_and_a_channel_that_a_case_lacks() -> None:
    bare = data_set([GRID], modality="CT", channels=("CT",))
    assert normalize(bare).value["channels"] == [{"nonzero": False}]
    assert "no voxel is labelled" in normalize(bare).reason
    lacking = data_set([with_intensities(GRID, None), with_intensities(GRID, flat(40.0))], channels=("CT",))
    assert normalize(lacking).value["channels"][0]["mean"] == 40.0


# What is typed ------------------------------------------------------------------------------------------------------


def test_what_the_user_sets_wins_and_the_rest_follows() -> None:
    fingerprint = data_set([case_of((1, 1, 1), (120, 120, 120))] * 20)
    plan = plan_of(fingerprint, "spacing=[2,2,2]", "2d:batch_size=7", "max_epochs=3")
    spacing = plan.configurations["3d"].values["spacing"]
    assert (spacing.value, spacing.source) == ([2, 2, 2], "user")
    assert plan.configurations["3d"].values["patch_size"].value == [64, 64, 64]
    assert plan.configurations["2d"].values["batch_size"].value == 7
    assert plan.configurations["3d"].values["batch_size"].source == "rule"
    assert plan.configurations["2d"].values["max_epochs"].source == "user"


def test_a_patch_that_is_set_shapes_the_network() -> None:
    fingerprint = data_set([case_of((1, 1, 1), (120, 120, 120))] * 20)
    values = plan_of(fingerprint, "patch_size=[32,32,16]").configurations["3d"].overrides()
    assert values["network_def"]["strides"] == [1, 2, 2, [2, 2, 1]]
    with pytest.raises(UsageError, match=r"The nearest that fits is \[40, 40, 40\]"):
        plan_of(fingerprint, "patch_size=[33,33,33]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sise=4", "Did you mean 'batch_size'"),
        ("batch_size", "write id=value"),
        ("spacing=[1,2", "is not YAML"),
        ("spacing=2", "give three positive numbers"),
        ("patch_size=[1,2,-3]", "give three positive numbers"),
    ],
)
def test_what_cannot_be_set_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(data_set([GRID]), text)


@pytest.mark.parametrize("text", ["", "-8GB", "eight", "0", "8TB"])
def test_memory_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="write for example 8GB"):
        parse_memory(text)
