"""From a study to its bundle: what is recognised, refused, written, and taken up again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from crossval_study import COARSE, make_study, pretend_trained, two_plans
from monai.bundle import ConfigParser
from monai.bundle import run as run_monai_bundle
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle
from medseg3d.cli import app
from medseg3d.crossval import cross_validate, fold_state, read_study, train_folds
from medseg3d.crossval.candidates import Candidate
from medseg3d.crossval.configuration import EnsemblePart, ensemble_config, inference_config, training_config
from medseg3d.crossval.prediction import predict_folds
from medseg3d.crossval.ship import ship
from medseg3d.errors import CaseError, CheckpointError, ConfigError, MedsegError, OutputError, UsageError
from medseg3d.inference.run import run_bundle
from medseg3d.inference.weights import file_sha256, read_state


@pytest.fixture(scope="module")
def done(tmp_path_factory, mri_datalist):
    """A study of two plans, cross-validated."""
    study = two_plans(tmp_path_factory.mktemp("study") / "brains", mri_datalist)
    return study, cross_validate(study)


class TestStudy:
    def test_a_folder_without_a_plan(self, tmp_path):
        with pytest.raises(UsageError, match=r"no plan\.json\. Make one: medseg3d plan"):
            read_study(tmp_path)

    def test_configurations_and_folds_can_be_chosen_and_must_exist(self, tmp_path, mri_datalist):
        folder = make_study(tmp_path / "s", mri_datalist, folds=3, plans={"3d": {}, "lowres": COARSE})
        study = read_study(folder, configurations=["lowres"], folds=[2, 0])
        assert [run.name for run in study.runs()] == ["lowres fold 0", "lowres fold 2"]
        with pytest.raises(UsageError, match="no configuration '2d': there are 3d, lowres"):
            read_study(folder, configurations=["2d"])
        with pytest.raises(UsageError, match="no fold 7: there are 0, 1, 2"):
            read_study(folder, folds=[7])

    def test_a_bundle_elsewhere_is_named(self, tmp_path, mri_datalist):
        folder = make_study(tmp_path / "s", mri_datalist, folds=2, plans={"3d": {}})
        plan = json.loads((folder / "plan.json").read_text())
        (folder / "plan.json").write_text(json.dumps(plan | {"bundle": "somebodys_own"}))
        with pytest.raises(UsageError, match="no bundle 'somebodys_own'"):
            read_study(folder)
        assert read_study(folder, bundle=plan["bundle"]).bundle == Path(plan["bundle"])

    def test_a_damaged_plan(self, tmp_path, mri_datalist):
        folder = make_study(tmp_path / "s", mri_datalist, folds=2, plans={"3d": {}})
        (folder / "plan.json").write_text('{"bundle": "x", "recommended": "4d", "configurations": {}}')
        with pytest.raises(UsageError, match="no configuration '4d'"):
            read_study(folder)


class TestConfiguration:
    @pytest.fixture
    def study(self, tmp_path, mri_datalist):
        return read_study(make_study(tmp_path / "s", mri_datalist, folds=2, plans={"3d": {}, "lowres": COARSE}))

    def test_inference_takes_of_a_plan_what_it_knows(self, study):
        config = inference_config(study, study.configurations[0])
        assert config["network_def"]["filters"] == [4, 4, 4, 4]
        assert config["spacing"] == [8.0, 8.0, 8.0]
        assert not {"batch_size", "max_epochs", "network_def::filters"} & set(config)
        assert config["device"] != "cpu"  # where to compute is the user's
        assert training_config(study, study.configurations[0])["batch_size"] == 1

    def test_a_partner_has_its_own_grid_and_network_and_shares_the_rest(self, study):
        parts = [
            EnsemblePart(c.name, inference_config(study, c), [f"{c.name}_a.pt", f"{c.name}_b.pt"])
            for c in study.configurations
        ]
        config = ensemble_config(parts, mirrored=True, corrections=[{"_target_": "X"}], temperature=1.5)
        section = config["plan_lowres"]
        assert section["spacing"] == [12.0, 12.0, 12.0]
        assert section["network_def"]["filters"] == [6, 6, 6, 6]
        assert section["network_def"]["in_channels"] == "$len(@channels)"
        assert section["network"] == "$@plan_lowres::network_def.to(@device)"
        assert {"pixdim": "@plan_lowres::spacing"}.items() <= section["preprocessing"]["transforms"][2].items()
        assert section["inferer"]["mirror_axes"] == config["inferer"]["mirror_axes"] == "@flip_axes"
        assert "labels" not in section
        assert config["weights"] == ["3d_a.pt", "3d_b.pt"]
        stated = config["evaluator"]["temperature"]
        assert (config["temperature"] if stated == "@temperature" else stated) == 1.5
        (partner,) = config["evaluator"]["partners"]
        assert partner["network"] == "@plan_lowres::network"
        assert config["postprocessing"]["transforms"][1:] == [{"_target_": "X"}]
        assert list(config).index("plan_lowres") < list(config).index("evaluator")

    def test_a_single_plan_stays_as_it_was(self, study):
        config = inference_config(study, study.configurations[0])
        alone = ensemble_config([EnsemblePart("3d", config, ["a.pt"])], mirrored=False, corrections=[])
        assert alone["weights"] == "a.pt"
        assert set(alone) == set(config)
        assert alone["inferer"] == config["inferer"]


def test_corrections_take_the_place_of_the_bundles_own_and_leave_the_rest():
    decode, rename = {"_target_": "medseg3d.inference.ToImageGridd"}, {"_target_": "medseg3d.transforms.ToFileLabelsd"}
    own, new = ({"_target_": f"medseg3d.inference.{n}"} for n in ("RemoveSmallComponentsd", "FillHolesd"))
    config = {"postprocessing": {"transforms": [decode, own, rename]}, "evaluator": {}}
    made = ensemble_config([EnsemblePart("3d", config, ["a.pt"])], mirrored=False, corrections=[new])
    assert made["postprocessing"]["transforms"] == [decode, new, rename]
    with pytest.raises(ConfigError, match="no postprocessing::transforms"):
        ensemble_config([EnsemblePart("3d", {"evaluator": {}}, ["a.pt"])], mirrored=False, corrections=[])


@pytest.mark.parametrize("chosen", [1.0, 1.25])
def test_the_temperature_of_the_weights_that_a_bundle_came_with_is_not_taken_over(chosen):
    rest = {"postprocessing": {"transforms": [{"_target_": "medseg3d.inference.ToImageGridd"}]}}
    by_name = rest | {"temperature": 1.73, "evaluator": {"temperature": "@temperature"}}
    made = ensemble_config([EnsemblePart("3d", by_name, ["a"])], mirrored=False, corrections=[], temperature=chosen)
    assert (made["temperature"], made["evaluator"]["temperature"]) == (chosen, "@temperature")
    written = rest | {"evaluator": {"temperature": 1.73}}
    made = ensemble_config([EnsemblePart("3d", written, ["a"])], mirrored=False, corrections=[], temperature=chosen)
    assert made["evaluator"]["temperature"] == chosen
    none = rest | {"evaluator": {}}
    made = ensemble_config([EnsemblePart("3d", none, ["a"])], mirrored=False, corrections=[], temperature=chosen)
    assert made["evaluator"].get("temperature", 1.0) == chosen


class TestFolds:
    @pytest.fixture
    def study(self, tmp_path, mri_datalist):
        study = read_study(make_study(tmp_path / "s", mri_datalist, folds=2, plans={"3d": {}}))
        pretend_trained(study)
        return study

    def test_finished_ones_are_recognised(self, study, monkeypatch):
        states = [fold_state(study, run) for run in study.runs()]
        assert [(state.epochs, state.finished) for state in states] == [(2, True), (2, True)]
        monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("nothing is left to train"))
        assert train_folds(study) == []

    def test_more_epochs_are_still_to_be_trained(self, study):
        plan = study.configurations[0].plan
        plan.write_text(plan.read_text().replace("max_epochs: 2", "max_epochs: 3"))
        state = fold_state(study, study.runs()[0])
        assert (state.epochs, state.max_epochs, state.finished) == (2, 3, False)

    def test_early_stopping_is_an_end(self, study):
        run = study.runs()[0]
        plan = run.configuration.plan
        plan.write_text(plan.read_text().replace("max_epochs: 2", "max_epochs: 90\nearly_stopping_patience: 4"))
        content = torch.load(run.folder / "last.pt", weights_only=True)
        for best, finished in ((2, True), (4, False)):
            torch.save(content | {"epoch": 6, "best_epoch": best}, run.folder / "last.pt")
            assert fold_state(study, run).finished is finished

    def test_of_other_cases_are_refused(self, study):
        first, second = study.runs()
        shutil.copy(second.folder / "last.pt", first.folder / "last.pt")
        with pytest.raises(CheckpointError, match=r"3d fold 0 .* cases that it should hold out were trained on"):
            train_folds(study)

    def test_of_another_network_are_refused_with_both_values(self, study):
        plan = study.configurations[0].plan
        plan.write_text(plan.read_text().replace("- 4\n- 4\n- 4\n- 4", "- 8\n- 8\n- 8\n- 8"))
        with pytest.raises(CheckpointError, match=r"another network_def::filters: \[4, 4, 4, 4\], the plan has \[8, 8"):
            train_folds(study)

    def test_without_weights_nothing_is_predicted(self, study):
        study.runs()[1].weights.unlink()
        with pytest.raises(CheckpointError, match=r"1 of 2 folds have no weights \(3d fold 1"):
            cross_validate(study, train=False)

    def test_the_message_of_a_training_that_fails_is_shown(self, study, monkeypatch):
        shutil.rmtree(study.runs()[0].folder)
        script = "import sys; print('much'); print('error: the trainer says why'); sys.exit(2)"
        monkeypatch.setattr(
            "medseg3d.crossval.training.training_command", lambda study, run: [sys.executable, "-c", script]
        )
        with pytest.raises(
            MedsegError, match=r"1 of 1 trainings failed.*\n3d fold 0 \(exit status 2.*\n  error: the tra"
        ):
            train_folds(study)

    def test_two_trainings_never_share_a_folder(self, study, monkeypatch):
        fcntl = pytest.importorskip("fcntl")
        (run, _) = study.runs()
        run.weights.unlink()
        monkeypatch.setattr(
            "medseg3d.crossval.training.training_command", lambda study, run: [sys.executable, "-c", "pass"]
        )
        with (run.folder / "train.log").open("ab") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            left_behind = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log)
        with pytest.raises(CheckpointError, match="fold0 is being trained by another process"):
            train_folds(study)
        left_behind.communicate(b"\n")
        with pytest.raises(MedsegError, match="1 of 1 trainings failed"):  # it ran, and wrote no weights
            train_folds(study)

    def test_jobs_run_side_by_side_one_a_device(self, study, monkeypatch):
        for run in study.runs():
            shutil.rmtree(run.folder)
        # Each waits for the other's sign: one after the other, neither would end well.
        script = (
            "import os, sys, time; from pathlib import Path; me = Path(sys.argv[1]);"
            "(me / 'device').write_text(os.environ['CUDA_VISIBLE_DEVICES']); (me / 'best.pt').touch();"
            "other = me.with_name('fold1' if me.name == 'fold0' else 'fold0') / 'device'; end = time.time() + 60\n"
            "while not other.exists() and time.time() < end: time.sleep(0.05)\n"
            "sys.exit(not other.exists())"
        )
        monkeypatch.setattr(
            "medseg3d.crossval.training.training_command",
            lambda study, run: [sys.executable, "-c", script, str(run.folder)],
        )
        assert len(train_folds(study, jobs=2, devices=["5", "7"])) == 2
        assert {(run.folder / "device").read_text() for run in study.runs()} == {"5", "7"}


class TestCrossValidation:
    def test_every_case_is_predicted_by_the_fold_that_has_not_seen_it(self, done):
        study, _ = done
        masks = study.output / "predictions"
        held_out = {item["case"]: fold for fold in study.folds for item in study.held_out(fold)}
        assert {path.name.removesuffix(".nii.gz") for path in masks.glob("*.nii.gz")} == set(held_out)
        for case in held_out:
            sidecar = json.loads((masks / f"{case}.json").read_text())
            assert {"confidence", "expected_dice", "weights_sha256"} <= set(sidecar)

    def test_masks_are_those_of_the_candidate_with_its_corrections(self, done):
        study, found = done
        candidate, taken = found.chosen.candidate, [trial for trial in found.trials if trial.taken]
        for item in study.held_out(0):
            final = np.asanyarray(nibabel.load(study.output / "predictions" / f"{item['case']}.nii.gz").dataobj)
            raw = nibabel.load(study.output / "candidates" / candidate.key / f"{item['case']}.nii.gz")
            corrected = np.asanyarray(raw.dataobj)
            voxel_ml = abs(np.linalg.det(raw.affine[:3, :3])) / 1000
            for trial in taken:
                corrected = trial.correction.apply(corrected, voxel_ml)
            assert (final != corrected).mean() < 0.01  # half precision decides the ties of random networks

    def test_the_report_names_every_candidate_and_links_the_evaluation(self, done):
        study, found = done
        page = found.report.read_text()
        for score in found.scores:
            assert score.candidate.name in page
        assert 'href="evaluation/report.html"' in page
        assert "the epoch with the best validation on them" in page
        assert (study.output / "evaluation" / "report.html").is_file()
        content = json.loads((study.output / "crossval.json").read_text())
        assert [c["name"] for c in content["candidates"] if c["chosen"]] == [found.chosen.candidate.name]
        assert len(content["candidates"]) == 6  # two plans and both together, with and without mirror images

    def test_again_nothing_is_predicted_twice(self, done, monkeypatch):
        study, found = done
        monkeypatch.setattr("medseg3d.crossval.prediction.predict_case", lambda *a, **k: pytest.fail("done before"))
        before = {path: path.stat().st_mtime_ns for path in (study.output / "predictions").glob("*.nii.gz")}
        again = cross_validate(study)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert again.summary.dice == pytest.approx(found.summary.dice, nan_ok=True)

    def test_a_case_whose_label_map_changed_is_done_again(self, done, monkeypatch):
        study, _ = done
        item = study.held_out(0)[-1]
        label, again = Path(item["label"]), []
        times = (label.stat().st_atime_ns, label.stat().st_mtime_ns)

        def stop(item, **_):
            again.append(item["case"])
            raise CaseError("stopped here")

        monkeypatch.setattr("medseg3d.crossval.prediction.predict_case", stop)
        os.utime(label, ns=(times[0], times[1] + 10**9))
        try:
            with pytest.raises(CaseError, match="stopped here"):
                predict_folds(study)
        finally:
            os.utime(label, ns=times)
        assert again == [item["case"]]
        assert len(predict_folds(study).records) == 5

    def test_masks_are_not_kept_when_configurations_change(self, done, tmp_path, monkeypatch):
        study, found = done
        shutil.copytree(study.folder, tmp_path / "copy")
        changed = read_study(tmp_path / "copy")
        for configuration in changed.configurations:
            configuration.plan.write_text(configuration.plan.read_text() + "\ninferer::overlap: 0.49\n")

        def stop(*_, **__):
            raise CaseError("stopped here")

        # The same candidate with the same corrections and temperature: nothing but the configuration differs.
        monkeypatch.setattr("medseg3d.crossval.run.choose_candidate", lambda scores: found.chosen)
        monkeypatch.setattr("medseg3d.crossval.run.choose_corrections", lambda *_, **__: found.trials)
        monkeypatch.setattr("medseg3d.crossval.run.calibrate", lambda *_, **__: found.calibrated)
        monkeypatch.setattr("medseg3d.crossval.run.predict_out_of_fold", stop)
        assert len(list((changed.output / "predictions").glob("*.nii.gz"))) == 5
        with pytest.raises(CaseError, match="stopped here"):
            cross_validate(changed)
        assert not list((changed.output / "predictions").glob("*.nii.gz"))

    def test_the_bundle_passes_the_check_and_holds_every_fold_as_bare_half_precision(self, done):
        study, found = done
        assert check_bundle(found.shipped.path) == []
        assert (found.shipped.path / "models" / "model.pt").is_file()
        for file, name in found.shipped.weights.items():
            state = torch.load(found.shipped.path / file, weights_only=True)
            assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
            configuration, _, fold = name.partition(", without fold ")
            original = read_state(study.folder / configuration / f"fold{fold}" / "best.pt")
            for key, value in state.items():
                torch.testing.assert_close(value.to(original[key].dtype), original[key], rtol=1e-3, atol=1e-6)
            # DynUNet names most weights twice: a file with both would be larger than the numbers of one network.
            unique = {value.data_ptr(): value.numel() * value.element_size() for value in state.values()}
            assert sum(unique.values()) < sum(v.numel() * v.element_size() for v in state.values())

    def test_segment_and_monai_bundle_run_make_the_same_masks(self, done, tmp_path, mri_datalist):
        _, found = done
        run_bundle(found.shipped.path, mri_datalist, tmp_path / "ours")
        run_monai_bundle(
            config_file=str(found.shipped.path / "configs" / "inference.yaml"),
            bundle_root=str(found.shipped.path),
            dataset_dir=str(mri_datalist),
            output_dir=str(tmp_path / "monai"),
            logging_file=False,
        )
        (mask,) = (tmp_path / "ours").glob("*.nii.gz")
        np.testing.assert_array_equal(
            np.asanyarray(nibabel.load(mask).dataobj),
            np.asanyarray(nibabel.load(tmp_path / "monai" / mask.name).dataobj),
        )
        sidecar = json.loads(mask.with_name(mask.name.replace(".nii.gz", ".json")).read_text())
        assert len(sidecar["members_sha256"]) == len(found.shipped.weights)


class TestShip:
    def test_an_ensemble_of_plans_with_mirroring_is_one_bundle(self, done, tmp_path, mri_datalist):
        study, _ = done
        shipped = ship(
            study,
            predict_folds(study),
            Candidate(("3d", "lowres"), mirrored=True),
            corrections=[{"_target_": "medseg3d.inference.KeepLargestComponentd", "keys": "pred", "applied_labels": 1}],
            temperature=1.25,
            evaluation=study.output / "evaluation",
            float16=False,
        )
        assert list(shipped.weights) == [
            "models/model.pt", "models/model_2.pt", "models/lowres_model.pt", "models/lowres_model_2.pt"
        ]  # fmt: skip
        assert shipped.warnings == ()
        config = yaml.safe_load((shipped.path / "configs" / "inference.yaml").read_text())
        assert config["inferer"]["mirror_axes"] == "@flip_axes"
        run_bundle(shipped.path, mri_datalist, tmp_path / "masks", save_uncertainty=True)
        (sidecar,) = (tmp_path / "masks").glob("*.json")
        assert len(json.loads(sidecar.read_text())["members_sha256"]) == 4
        assert len(list((tmp_path / "masks").glob("*_mutual_information.nii.gz"))) == 1
        alone = shipped.path / "models" / "model.pt"
        run_bundle(shipped.path, mri_datalist, tmp_path / "alone", weights=alone)
        (sidecar,) = (tmp_path / "alone").glob("*.json")
        assert json.loads(sidecar.read_text())["weights_sha256"] == file_sha256(alone)  # no partner speaks along
        card = (shipped.path / "docs" / "README.md").read_text()
        assert "models/lowres_model_2.pt" in card
        assert "out of fold" in card
        assert "validation on the fold it holds out" in card

    def test_what_is_not_its_own_is_not_overwritten(self, tmp_path, mri_datalist):
        study = two_plans(tmp_path / "s", mri_datalist)
        (study.folder / "bundle").mkdir()
        with pytest.raises(OutputError, match="no bundle of a cross-validation"):
            ship(
                study, None, Candidate(("3d",)), corrections=[], temperature=1.0, evaluation=tmp_path
            )  # fmt: skip


KILLED_AT_THE_THIRD_EPOCH = """
import os, signal, sys

saved = 0

def stop(event, arguments):
    global saved
    if event == "os.rename" and os.fspath(arguments[1]).endswith(os.path.join("fold2", "last.pt")):
        saved += 1
        if saved == 3:
            os.killpg(0, signal.SIGKILL)

sys.addaudithook(stop)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_the_third_fold_it_goes_on_there(tmp_path, mri_datalist):
    values = {"max_epochs": 4, "val_interval": 4}
    folder = make_study(tmp_path / "study", mri_datalist, folds=3, plans={"3d": values})
    command = [sys.executable, "-m", "medseg3d", "crossval", str(folder), "--workers", "1"]

    def last(fold: int) -> Path:
        return folder / "3d" / f"fold{fold}" / "last.pt"

    def epochs() -> list[int]:
        return [torch.load(last(fold), weights_only=True)["epoch"] for fold in range(3)]

    # The training of the third fold kills the whole command, itself included, when it is about to save its third epoch:
    # nobody has to watch for the right moment, so that it is the same on a machine of any speed.
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT_THE_THIRD_EPOCH)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    first = subprocess.run(command, env=environment, start_new_session=True, capture_output=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr.decode()
    assert epochs() == [4, 4, 2]
    assert not (folder / "crossval").exists()
    before = {fold: last(fold).stat().st_mtime_ns for fold in (0, 1)}

    second = CliRunner().invoke(app, command[3:])
    assert second.exit_code == 0, second.output
    assert {fold: last(fold).stat().st_mtime_ns for fold in (0, 1)} == before
    starts = json.loads((folder / "3d" / "fold2" / "run.json").read_text())["starts"]
    assert [start["epoch"] for start in starts] == [0, 2]
    assert epochs() == [4, 4, 4]
    with last(2).with_name("metrics.csv").open(newline="") as table:
        assert [int(row["epoch"]) for row in csv.DictReader(table)] == [1, 2, 3, 4]
    assert check_bundle(folder / "bundle") == []
    assert "Chosen: 3d" in second.output
    config = ConfigParser.load_config_file(str(folder / "bundle" / "configs" / "inference.yaml"))
    assert len(config["weights"]) == 3
