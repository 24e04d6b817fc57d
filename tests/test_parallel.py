"""Two processes train as one: the same draws, losses, gradients, measures and checkpoints, in any mixture."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import parallel_worker
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import medseg3d.bundles.run
import medseg3d.processes
from medseg3d.data import EpochSampler
from medseg3d.engines import bare_network, distribute, join_processes, process_device
from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.errors import UsageError
from medseg3d.processes import ProcessSampler, own_share, process_count, summed_over_processes


def pretend(patch: pytest.MonkeyPatch, *, rank: int, count: int) -> None:
    patch.setattr(medseg3d.processes, "process_rank", lambda: rank)
    patch.setattr(medseg3d.processes, "process_count", lambda: count)


# Shares ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_the_parts_of_every_batch_make_the_batch_of_one_process(count, own, batches, cases):
    batch_size = own * count
    whole = EpochSampler(cases, batch_size * batches, seed=1)
    whole.set_epoch(2)
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(count):
            pretend(patch, rank=rank, count=count)
            sampler = ProcessSampler(EpochSampler(cases, batch_size * batches, seed=1), batch_size)
            sampler.set_epoch(2)
            parts.append(list(sampler))
            assert len(parts[-1]) == len(sampler) == own * batches
    together = [draw for b in range(batches) for part in parts for draw in part[b * own : (b + 1) * own]]
    assert together == list(whole)


@given(st.integers(1, 5), st.integers(0, 20))
def test_every_case_is_validated_equally_often(count, cases):
    with pytest.MonkeyPatch.context() as patch:
        taken = []
        for rank in range(count):
            pretend(patch, rank=rank, count=count)
            taken += own_share(cases)
    times = 1 if cases >= count else count
    assert sorted(taken) == sorted(list(range(cases)) * times)


def test_a_batch_that_cannot_be_split(monkeypatch):
    pretend(monkeypatch, rank=0, count=2)
    with pytest.raises(UsageError, match=r"batch_size is 3, and 2 processes train.* multiple of 2 \(such as 4\)"):
        ProcessSampler(EpochSampler(5, 6), 3)


# One process ----------------------------------------------------------------------------------------------------------


def test_one_process_changes_nothing():
    values, network = torch.ones(3), torch.nn.Conv2d(1, 1, 1)
    assert process_count() == 1
    assert summed_over_processes(values) is values
    assert distribute(network, "cpu") is network
    assert bare_network(network) is network


@pytest.mark.parametrize("start", [process_device, lambda: join_processes("cpu", batch_size=2)])
def test_without_torchrun(monkeypatch, start):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UsageError, match=r"Start it with: torchrun --nproc_per_node=2 -m monai.bundle run training"):
        start()


@pytest.mark.parametrize(("gpus", "advice"), [(0, "--device cpu"), (2, "--nproc_per_node=2")])
def test_more_processes_than_gpus(monkeypatch, gpus, advice):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UsageError, match=f"started 4 processes, and torch finds {gpus} GPUs here. Use .*{advice}"):
        process_device()


def test_each_process_has_its_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_device() == torch.device("cuda:1")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_wrong_everywhere_is_said_by_the_first_process_before_the_others(monkeypatch, capsys, rank):
    """torchrun ends the others while they wait; how fast it is depends on the machine."""
    said_before = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(
        medseg3d.bundles.run.time, "sleep", lambda _seconds: said_before.append(capsys.readouterr().err)
    )
    medseg3d.bundles.run._say(UsageError("The batch is wrong."))
    assert said_before == ([] if rank == "0" else [""])
    assert capsys.readouterr().err == "\nerror: The batch is wrong.\n"


# Two processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they computed, and one process before and after them."""
    folder = tmp_path_factory.mktemp("parallel")
    parallel_worker.make_trainer(folder / "one").run()
    parallel_worker.make_trainer(folder / "one_then_two", stop_after=2).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = str(Path(parallel_worker.__file__))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, worker, str(folder)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    parallel_worker.make_trainer(folder / "two_then_one", resume=True).run()
    return folder


@pytest.mark.parametrize("name", parallel_worker.LOSSES)
def test_losses_and_gradients_are_those_of_the_whole_batch(folder, name):
    two = torch.load(folder / "losses.pt", weights_only=True)[name]
    one = parallel_worker.loss_and_gradients(name)
    assert two.keys() == one.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key].detach(), rtol=1e-5, atol=1e-7)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["two", "two_then_one", "one_then_two"])
def test_training_is_the_same_in_any_number_of_processes(folder, name):
    """Also when it is cut after two epochs and goes on with another number."""
    one, other = (load_checkpoint(folder / which / "last.pt") for which in ("one", name))
    assert one["network"].keys() == other["network"].keys()
    for key in one["network"]:
        torch.testing.assert_close(other["network"][key], one["network"][key], rtol=1e-4, atol=1e-6)
    for key in ("epoch", "iteration", "iterations_per_epoch", "data", "training_cases", "best_epoch"):
        assert one[key] == other[key]
    expected = rows(folder / "one")
    assert [row["epoch"] for row in expected] == [1, 2, 3, 4]
    for row, wanted in zip(rows(folder / name), expected, strict=True):
        assert row == pytest.approx(wanted, abs=2e-6)  # as many decimals as are written


def test_the_first_process_alone_writes(folder):
    assert {path.name for path in (folder / "two").iterdir()} == {"last.pt", "best.pt", "metrics.csv", "tensorboard"}
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1


# A bundle -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_trains_in_two_processes_and_goes_on_in_one(mri_datalist: Path, tmp_path: Path) -> None:
    """As a user types it; what happens is said once, and a resumed run may have another number of processes."""
    configs = Path(__file__).resolve().parents[1] / "bundles" / "mri_hippocampus_segmentation" / "configs"
    both = f"['{configs}/train.yaml','{configs}/multi_gpu_train.yaml']"
    options = {
        "bundle_root": str(configs.parent),
        "datalist": str(mri_datalist),
        "labels": "{'liver':1,'spleen':2,'left_kidney':3,'right_kidney':4,'aorta':5,'lungs':6,'spine':7,'lesion':8}",
        "spacing": "[8.0,8.0,8.0]",
        "patch_size": "[32,32,32]",
        "network_def::filters": "[4,4,4,4]",
        "output_dir": str(tmp_path),
        "device": "cpu",
        "batch_size": "2",
        "iterations_per_epoch": "2",
        "val_interval": "1",
    }

    def start(*program: str, files: str, **changed: str) -> subprocess.CompletedProcess[str]:
        typed = [part for key, value in (options | changed).items() for part in (f"--{key}", value)]
        command = [sys.executable, "-m", *program, "run", "training", "--config_file", files, *typed]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")
    wrong = start(*torchrun, files=both, max_epoch="1")
    assert wrong.returncode != 0
    assert "Did you mean 'max_epochs'" in wrong.stderr
    two = start(*torchrun, files=both, max_epochs="1")
    assert two.returncode == 0, two.stderr[-2000:]
    output = two.stdout + two.stderr
    assert output.count("2 processes train together, each on 1 of the 2 samples of a batch.") == 1
    assert output.count("Epoch 1/1") == 1
    one = start("monai.bundle", files=str(configs / "train.yaml"), max_epochs="2", resume="true")
    assert one.returncode == 0, one.stderr[-2000:]
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    record = json.loads((tmp_path / "run.json").read_text())
    assert [begin["processes"] for begin in record["starts"]] == [2, 1]
