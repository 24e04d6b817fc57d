"""The plan of a cascade's second stage: the plan at full resolution with the first stage's mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from recorded_plans import TEMPLATE, case_of

from medseg3d.bundles import check_bundle
from medseg3d.datalist import read_datalist
from medseg3d.plan import Fingerprint, Overrides, Plan, Template, make_plan, parse_overrides, read_template
from medseg3d.plan.budget import NnunetBudget
from medseg3d.plan.study import write_study

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SECOND = replace(TEMPLATE, config={**TEMPLATE.config, "previous_dir": None})
LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4, "aorta": 5, "lungs": 6, "spine": 7}


def planned(template: Template, *overrides: str, labels: dict[str, int] | None = None, size: int = 500) -> Plan:
    case = case_of((0.8, 0.8, 1.0), (size, size, size), labels=labels)
    cases = tuple(replace(case, case=f"case_{number}") for number in range(20))
    fingerprint = Fingerprint("made by hand", "CT", ("CT",), labels or {"organ": 1}, cases, {})
    given = parse_overrides(overrides, template) if overrides else Overrides({})
    return make_plan(fingerprint, template, overrides=given, budget=NnunetBudget(8.0, classes=8))


def test_it_is_the_plan_at_full_resolution_that_sees_the_mask() -> None:
    plan = planned(SECOND)
    assert list(plan.configurations) == ["3d", "2d", "lowres", "cascade"]
    full, cascade = (plan.configurations[name].overrides() for name in ("3d", "cascade"))
    assert plan.configurations["cascade"].file == "plan_cascade.yaml"
    assert {id_ for id_ in full if full[id_] != cascade[id_]} == {"normalize", "network_def"}
    assert cascade["normalize"]["normalize"] == full["normalize"]
    assert cascade["network_def"]["network"] == full["network_def"] | {
        "in_channels": "$len(@channels) + max(@labels.values())"
    }
    assert "plan_cascade.yaml is the second stage" in plan.advice["cascade"].reason
    assert plan.recommended == "3d"


def test_small_images_have_none() -> None:
    assert "cascade" not in planned(SECOND, size=100).configurations


@pytest.mark.parametrize("config", [{}, {"previous_dir": None, "regions": {"whole": [1]}}], ids=["hook", "regions"])
def test_only_bundles_of_labels_that_can_read_masks_have_one(config: dict[str, object]) -> None:
    plan = planned(replace(TEMPLATE, config={**TEMPLATE.config, **config}))
    assert list(plan.configurations) == ["3d", "2d", "lowres"]
    assert "No second stage is planned" in plan.advice["cascade"].reason


def test_what_is_set_for_3d_holds_and_what_is_set_for_the_cascade_wins() -> None:
    plan = planned(SECOND, "3d:batch_size=3", "max_epochs=7", "cascade:max_epochs=9")
    full, cascade = plan.configurations["3d"].values, plan.configurations["cascade"].values
    assert (full["batch_size"].value, cascade["batch_size"].value) == (3, 3)
    assert (full["max_epochs"].value, cascade["max_epochs"].value) == (7, 9)
    assert cascade["max_epochs"].source == "user"


@pytest.mark.parametrize("which", ["3d", "cascade"])
def test_parts_that_are_set_reach_the_network_and_the_normalisation_inside(which: str) -> None:
    set_ = [f"{which}:network_def::norm_name=batch", f"{which}:normalize::allow_missing_keys=true"]
    plan = planned(SECOND, *set_)
    cascade = plan.configurations["cascade"].overrides()
    assert cascade["network_def::network::norm_name"] == "batch"
    assert cascade["normalize::normalize::allow_missing_keys"] is True
    assert not {"network_def::norm_name", "normalize::allow_missing_keys"} & set(cascade)


@pytest.mark.parametrize("bundle", ["ct_organ_segmentation", "mri_hippocampus_segmentation"])
def test_bundles_take_the_plan(bundle: str, tmp_path: Path, phantom_datalist: Path) -> None:
    template = read_template(BUNDLES / bundle)
    plan = planned(template, labels=LABELS)
    datalist = read_datalist(phantom_datalist)
    cases = tuple(case_of((1, 1, 1), (9, 9, 9), labels=LABELS, name=case.case) for case in datalist.training)
    fingerprint = Fingerprint("made by hand", "CT", ("CT",), LABELS, cases, {})
    write_study(tmp_path, datalist, fingerprint, plan, template)
    text = (tmp_path / "plan_cascade.yaml").read_text()
    assert "--previous_dir MASKS" in text
    assert yaml.safe_load(text) == plan.configurations["cascade"].overrides()
    files = [template.folder / "configs" / "train.yaml", tmp_path / "plan_cascade.yaml"]
    assert check_bundle(template.folder, config_files=files) == []
    page = (tmp_path / "plan.html").read_text()
    assert "3D after low resolution" in page
    assert "--previous_dir MASKS" in page
