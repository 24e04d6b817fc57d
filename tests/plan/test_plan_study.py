"""A study on disk: its files, its page, what the command line says, and that a bundle takes the plan."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle, find_bundle
from medseg3d.cli import app
from medseg3d.cli.plan import plan_table
from medseg3d.datalist import read_datalist
from medseg3d.errors import ConfigError, UsageError
from medseg3d.plan import Overrides, extract_fingerprint, make_plan, parse_overrides, read_template
from medseg3d.plan.budget import NnunetBudget
from medseg3d.plan.model import Configuration, Plan, Value
from medseg3d.plan.study import check_study, write_study

ROOT = Path(__file__).resolve().parents[2]
Planned = Callable[..., Path]


@pytest.fixture
def planned(tmp_path: Path, phantom_datalist: Path) -> Planned:
    """Plans the small CT phantoms, by nnU-Net's constants, which need no network."""

    def write(name: str = "study", *overrides: str, bundle: str = "ct_organ_segmentation") -> Path:
        template, datalist = read_template(ROOT / "bundles" / bundle), read_datalist(phantom_datalist)
        given = parse_overrides(overrides, template) if overrides else Overrides({})
        fingerprint = extract_fingerprint(datalist, cache=tmp_path / "cache.json", workers=1)
        plan = make_plan(fingerprint, template, overrides=given, budget=NnunetBudget(8.0, classes=9))
        write_study(tmp_path / name, datalist, fingerprint, plan, template)
        return tmp_path / name

    return write


def test_the_files_of_a_study(planned: Planned) -> None:
    study = planned()
    names = {path.name for path in study.iterdir()}
    assert names == {"dataset.json", "fingerprint.json", "plan.yaml", "plan_2d.yaml", "plan.json", "plan.html"}
    plan = json.loads((study / "plan.json").read_text())
    assert (plan["bundle"], plan["recommended"]) == ("ct_organ_segmentation", "3d")
    assert {name: entry["file"] for name, entry in plan["configurations"].items()} == {
        "3d": "plan.yaml", "2d": "plan_2d.yaml"
    }  # fmt: skip
    for entry in plan["configurations"].values():
        written = yaml.safe_load((study / entry["file"]).read_text())
        assert written == {id_: value["value"] for id_, value in entry["values"].items()}
        assert all(value["reason"] for value in entry["values"].values())
    assert read_datalist(study / "dataset.json").folds == (0, 1, 2, 3, 4)
    assert json.loads((study / "fingerprint.json").read_text())["cases"] == 5


def test_two_runs_write_the_same_bytes(planned: Planned) -> None:
    first, second = planned("one"), planned("two")
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_bundles_take_the_plan(planned: Planned) -> None:
    bundle = find_bundle(ROOT / "bundles" / "ct_organ_segmentation")
    study = planned()
    for name in ("plan.yaml", "plan_2d.yaml"):
        files = [bundle / "configs" / "train.yaml", study / name]
        assert check_bundle(bundle, config_files=files) == []


def test_an_override_is_shown_as_the_users(planned: Planned) -> None:
    study = planned("study", "batch_size=3", "2d:max_epochs=7")
    page = (study / "plan.html").read_text()
    told = re.search(r"Set by the user, over the rules: (.*)\.</li>", page)
    assert told is not None
    assert set(told[1].split("; ")) == {
        "3D: batch_size", "2D, slice by slice: batch_size", "2D, slice by slice: max_epochs"
    }  # fmt: skip
    assert yaml.safe_load((study / "plan.yaml").read_text())["batch_size"] == 3
    assert yaml.safe_load((study / "plan_2d.yaml").read_text())["max_epochs"] == 7
    assert "# Set by the user.\nbatch_size: 3" in (study / "plan.yaml").read_text()


def test_the_page_needs_nothing_beside_it_and_gives_every_reason(planned: Planned) -> None:
    study = planned()
    page = (study / "plan.html").read_text()
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert "<script" not in page
    plan = json.loads((study / "plan.json").read_text())
    text = page.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
    for configuration in plan["configurations"].values():
        for id_, value in configuration["values"].items():
            assert f"<code>{id_}</code>" in page
            assert value["reason"] in text
    assert "left_kidney" in page


def test_the_table_is_whole_in_80_columns() -> None:
    network = {"strides": [1, 2, 2, 2, 2, 2]}
    values = {"spacing": [0.703125, 0.703125, 2.5], "patch_size": [128, 160, 112], "batch_size": 2,
              "flip_axes": [0, 1, 2], "network_def": network}  # fmt: skip
    configuration = Configuration("lowres", "plan_lowres.yaml", {k: Value(v, "") for k, v in values.items()}, {})
    made = Plan("ct_organ_segmentation", 8.0, "lowres", "", {"lowres": configuration}, {})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(plan_table(made))
    text = console.export_text()
    assert "…" not in text
    for words in ("lowres", "plan_lowres.yaml", "0.7031,", "128,", "160,", "112", "patch", "batch", "flip", "stages"):
        assert words in text


def test_an_earlier_plans_runs_are_not_left_beside_a_new_plan(planned: Planned) -> None:
    study = planned()
    check_study(study)
    (study / "3d" / "fold0").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has runs of an earlier plan \(3d\).*--overwrite"):
        check_study(study)
    check_study(study, overwrite=True)


def test_a_configuration_that_no_longer_applies_leaves_no_file(planned: Planned) -> None:
    study = planned()
    (study / "plan_lowres.yaml").write_text("spacing: [9, 9, 9]\n")
    assert not (planned() / "plan_lowres.yaml").exists()


def test_a_bundle_of_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="plans are for bundles that segment volumes"):
        read_template(ROOT / "bundles" / "image_classification_2d")


@pytest.mark.parametrize("bundle", ["mri_hippocampus_segmentation", "ct_organ_segmentation"])
def test_ids_that_a_bundle_lacks_are_left_out(bundle: str, planned: Planned) -> None:
    written = yaml.safe_load((planned(bundle=bundle) / "plan.yaml").read_text())
    train = yaml.safe_load((ROOT / "bundles" / bundle / "configs" / "train.yaml").read_text())
    assert {id_.partition("::")[0] for id_ in written} <= set(train)
    assert ("background" in written) == ("background" in train)
    assert written["network_def"].get("res_block") == train["network_def"].get("res_block")


def test_the_command_says_what_is_wrong(tmp_path: Path, phantom_datalist: Path) -> None:
    def raised(*words: str) -> Exception | None:
        result = CliRunner().invoke(app, ["plan", str(phantom_datalist), "-o", str(tmp_path / "study"), *words])
        return result.exception  # type: ignore[return-value]

    with pytest.raises(UsageError, match="write for example 8GB"):
        raise raised("--bundle", "ct_organ_segmentation", "--memory", "much") or AssertionError
    with pytest.raises(UsageError, match=r"has no such id\. Did you mean 'patch_size'"):
        raise raised("--bundle", "ct_organ_segmentation", "--set", "patchsize=[1]") or AssertionError
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["plan.yaml", "plan_2d.yaml"])
def test_a_plan_trains(file: str, tmp_path: Path, phantom_datalist: Path) -> None:
    from monai.bundle import run

    from medseg3d.engines.checkpoint import load_checkpoint

    study = tmp_path / "study"
    words = ["plan", str(phantom_datalist), "--bundle", "ct_organ_segmentation", "-o", str(study), "--workers", "1"]
    words += ["--set", "max_epochs=1", "--set", "iterations_per_epoch=1", "--set", "2d:batch_size=2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "Recommended: 3d" in result.output
    bundle = ROOT / "bundles" / "ct_organ_segmentation"
    files = [str(bundle / "configs" / "train.yaml"), str(study / file)]
    overrides = {
        "bundle_root": str(bundle),
        "datalist": str(study / "dataset.json"),
        "output_dir": str(tmp_path / "run"),
    }
    run(run_id="training", config_file=files, logging_file=False, device="cpu", **overrides)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 1
