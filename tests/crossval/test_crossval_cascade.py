"""A study with a cascade: masks out of fold, trainings that see them, and one bundle that runs both stages."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from crossval_study import BUNDLE, COARSE, LABELS, make_study, pretend_trained
from monai.bundle import ConfigParser
from monai.bundle import run as run_monai_bundle
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle
from medseg3d.cli import app
from medseg3d.crossval import Study, cross_validate, fold_state, read_study
from medseg3d.crossval.candidates import Candidate, fingerprint
from medseg3d.crossval.cascade import in_order_of_training, previous_dir
from medseg3d.crossval.prediction import Predictions
from medseg3d.crossval.ship import ship
from medseg3d.crossval.training import training_command
from medseg3d.errors import CheckpointError, UsageError
from medseg3d.inference.run import run_bundle
from medseg3d.inference.weights import file_sha256
from medseg3d.plan.cascade import second_stage
from medseg3d.plan.model import Configuration, Value

FILES = {"lowres": "plan.yaml", "cascade": "plan_cascade.yaml"}


def cascade_study(folder: Path, datalist: Path, *, folds: int = 2, **values: Any) -> Path:
    """A study with the plans lowres and cascade, in which the second one is what ``medseg3d plan`` makes of 3d."""
    make_study(folder, datalist, folds=folds, plans={"lowres": COARSE | values, "cascade": values})
    train = ConfigParser.load_config_file(str(BUNDLE / "configs" / "train.yaml"))
    plan = yaml.safe_load((folder / "plan_cascade.yaml").read_text())
    network = train["network_def"] | {"filters": plan.pop("network_def::filters")}
    values_3d = {"normalize": Value(train["normalize"], ""), "network_def": Value(network, "")}
    full = Configuration("3d", "plan.yaml", values_3d)
    plan |= second_stage(full, file="plan_cascade.yaml", own={}).overrides()
    (folder / "plan_cascade.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder


def pretend_cascade_trained(study: Study) -> None:
    for part in in_order_of_training(study):  # the second stage's configuration names the first one's weights
        pretend_trained(part, seed=len(part.configurations[0].name))
    for run in in_order_of_training(study)[1].runs():
        record = json.loads((run.folder / "run.json").read_text())
        record["config"]["previous_dir"] = str(previous_dir(study))
        (run.folder / "run.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def done(tmp_path_factory, mri_datalist):
    """A study with a cascade of random networks, cross-validated."""
    study = read_study(cascade_study(tmp_path_factory.mktemp("study") / "brains", mri_datalist))
    pretend_cascade_trained(study)
    return study, cross_validate(study)


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def test_the_masks_of_a_fold_are_by_the_network_that_has_not_seen_it(done):
    study, _ = done
    for fold in study.folds:
        own = file_sha256(study.folder / "lowres" / f"fold{fold}" / "best.pt")
        for item in study.held_out(fold):
            sidecar = json.loads((previous_dir(study) / f"{item['case']}.json").read_text())
            assert sidecar["weights_sha256"] == own
            mask = nibabel.load(previous_dir(study) / f"{item['case']}.nii.gz")
            np.testing.assert_array_equal(mask.affine, nibabel.load(item["image"]).affine)
            # What the first stage answers alone is what the cascade is given.
            alone = study.output / "candidates" / "lowres" / f"{item['case']}.nii.gz"
            # But for ties: candidates are made of probabilities in half precision.
            assert (np.asanyarray(mask.dataobj) == voxels(alone)).mean() > 0.995


def test_the_cascade_is_a_candidate_alone_and_in_ensembles(done):
    _, found = done
    passes = {score.candidate.name: score.passes for score in found.scores}
    assert passes == {
        "lowres": 1, "cascade": 2, "lowres+cascade": 3,
        "lowres, mirrored": 2, "cascade, mirrored": 3, "lowres+cascade, mirrored": 5,
    }  # fmt: skip
    assert check_bundle(found.shipped.path) == []


def test_the_cascade_is_trained_with_these_masks(done):
    study, _ = done
    first, second = in_order_of_training(study)
    assert [run.name for run in first.runs()] == ["lowres fold 0", "lowres fold 1"]
    for run in second.runs():
        command = training_command(study, run)
        assert command[-2:] == ["--previous_dir", str(previous_dir(study))]
        assert fold_state(study, run).finished
    assert "--previous_dir" not in training_command(study, first.runs()[0])


def test_one_call_of_the_shipped_bundle_equals_both_stages_by_hand(done, tmp_path, mri_datalist):
    study, _ = done
    shipped = ship(
        study,
        Predictions(study, mirror=False),
        Candidate(("cascade",)),
        corrections=[],
        temperature=1.0,
        evaluation=study.output / "evaluation",
        float16=False,
    )
    assert shipped.warnings == ()
    assert list(shipped.weights) == [
        "models/model.pt", "models/model_2.pt", "models/lowres_model.pt", "models/lowres_model_2.pt"
    ]  # fmt: skip
    run_bundle(shipped.path, mri_datalist, tmp_path / "one")
    (mask,) = (tmp_path / "one").glob("*.nii.gz")

    def by_hand(configuration: str, output: Path, **values: Any) -> np.ndarray:
        plan = yaml.safe_load((study.folder / FILES[configuration]).read_text())
        known = ("labels", "spacing", "patch_size", "device", "normalize", "network_def", "network_def::filters")
        weights = [str(study.folder / configuration / f"fold{fold}" / "best.pt") for fold in study.folds]
        run_monai_bundle(
            config_file=str(BUNDLE / "configs" / "inference.yaml"),
            bundle_root=str(BUNDLE),
            dataset_dir=str(mri_datalist),
            output_dir=str(output),
            weights=weights,
            temperature=1.0,
            logging_file=False,
            **{key: plan[key] for key in known if key in plan},
            **values,
        )
        return voxels(output / mask.name)

    first = by_hand("lowres", tmp_path / "first")
    second = by_hand("cascade", tmp_path / "second", previous_dir=str(tmp_path / "first"))
    assert len(np.unique(first)) > 1
    np.testing.assert_array_equal(voxels(mask), second)
    nothing = nibabel.Nifti1Image(np.zeros_like(first), nibabel.load(mask).affine)
    (tmp_path / "nothing").mkdir()
    nibabel.save(nothing, tmp_path / "nothing" / mask.name)
    assert (by_hand("cascade", tmp_path / "third", previous_dir=str(tmp_path / "nothing")) != second).any()

    metadata = json.loads((shipped.path / "configs" / "metadata.json").read_text())
    given = metadata["network_data_format"]["inputs"]["image"]
    assert (given["num_channels"], given["channel_def"]) == (2, {"0": "T1", "1": "mask of the first stage"})
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 1 + len(LABELS)
    card = (shipped.path / "docs" / "README.md").read_text()
    assert "the probabilities of 2 networks are averaged (cascade)" in card
    assert "The networks of lowres together make a mask first, which those of cascade see beside the image." in card
    assert str(study.folder) not in "".join(path.read_text() for path in (shipped.path / "configs").glob("*.yaml"))


def test_an_ensemble_with_the_cascade_is_one_bundle(done, tmp_path, mri_datalist):
    study, _ = done
    shipped = ship(
        study,
        Predictions(study, mirror=True),
        Candidate(("lowres", "cascade"), mirrored=True),
        corrections=[],
        temperature=1.2,
        evaluation=study.output / "evaluation",
    )
    assert shipped.warnings == ()
    assert len(shipped.weights) == 4
    config = yaml.safe_load((shipped.path / "configs" / "inference.yaml").read_text())
    stage = config["plan_cascade"]["plan_first_stage"]
    assert stage["network"] == "$@plan_cascade::plan_first_stage::network_def.to(@device)"
    assert "mirror_axes" not in stage["inferer"]
    run_bundle(shipped.path, mri_datalist, tmp_path / "masks")
    (sidecar,) = (tmp_path / "masks").glob("*.json")
    origin = json.loads(sidecar.read_text())
    # The second stage is a partner here, and its first stage is the other plan without mirroring.
    assert len(origin["members_sha256"]) == 4
    assert origin["first_stage_sha256"] == origin["members_sha256"][:2]


def test_what_was_predicted_is_recognised_once_the_study_lies_elsewhere():
    predictors = {"cascade": SimpleNamespace(sha256="0" * 64)}

    def made_by(masks: str) -> str:
        return fingerprint(predictors, {"cascade": {"labels": LABELS, "previous_dir": masks}})

    assert made_by("here/study/lowres/masks_12ab") == made_by("there/lowres/masks_12ab")
    assert made_by("here/study/lowres/masks_12ab") != made_by("here/study/lowres/masks_34cd")


def test_a_cascade_of_other_masks_is_refused(done, tmp_path, mri_datalist):
    study = read_study(cascade_study(tmp_path / "s", mri_datalist))
    pretend_cascade_trained(study)
    before = previous_dir(study)
    first, second = (part.runs()[0] for part in in_order_of_training(study))
    first.weights.write_bytes((done[0].folder / "lowres" / "fold1" / "best.pt").read_bytes())
    assert previous_dir(study) != before
    with pytest.raises(CheckpointError, match="cascade/fold0 was trained with masks of other networks than"):
        fold_state(study, second)
    first.weights.unlink()
    with pytest.raises(CheckpointError, match=r"lowres/fold0/best\.pt is not there: the networks of lowres in"):
        previous_dir(study)


def test_the_cascade_needs_its_first_stage_and_every_fold(tmp_path, mri_datalist, caplog):
    folder = cascade_study(tmp_path / "s", mri_datalist)
    with pytest.raises(UsageError, match="The first stage of the cascade is lowres: add --configuration lowres"):
        read_study(folder, configurations=["cascade"])
    with pytest.raises(UsageError, match="by networks of lowres that have not seen them: no --folds"):
        read_study(folder, configurations=["lowres", "cascade"], folds=[0])
    assert [c.name for c in read_study(folder, folds=[0]).configurations] == ["lowres"]
    assert "The cascade is left out. It learns from masks of all cases" in caplog.text


def test_regions_are_refused_before_anything_is_trained(tmp_path, mri_datalist, monkeypatch):
    study = read_study(cascade_study(tmp_path / "s", mri_datalist))
    plan = study.configurations[1].plan
    plan.write_text(plan.read_text() + "\nregions: {all: [1, 2]}\n")
    monkeypatch.setattr("medseg3d.crossval.run.train_folds", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(UsageError, match=r"plan_cascade\.yaml is a cascade of regions that overlap"):
        cross_validate(study)


@pytest.mark.slow
def test_both_stages_are_trained_one_after_the_other(tmp_path, mri_datalist):
    folder = cascade_study(tmp_path / "study", mri_datalist)
    result = CliRunner().invoke(app, ["crossval", str(folder), "--workers", "1"])
    assert result.exit_code == 0, result.output
    study = read_study(folder)
    for fold in study.folds:
        record = json.loads((folder / "cascade" / f"fold{fold}" / "run.json").read_text())
        assert record["config"]["previous_dir"] == str(previous_dir(study))
        assert record["config"]["labels"] == LABELS
    assert check_bundle(folder / "bundle") == []
    run_bundle(folder / "bundle", mri_datalist, tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 1
    # Started again, everything is recognised.
    again = CliRunner().invoke(app, ["crossval", str(folder), "--workers", "1"])
    assert again.exit_code == 0, again.output
    starts = [json.loads((folder / "cascade" / f"fold{k}" / "run.json").read_text())["starts"] for k in study.folds]
    assert [len(each) for each in starts] == [1, 1]
