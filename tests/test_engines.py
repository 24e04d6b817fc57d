"""Training, validation, checkpoints and resume, on a network and data that take milliseconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose, EnsureTyped, RandGaussianNoised

from medseg3d.data import SeededCacheDataset, training_loader
from medseg3d.engines import LabelDice, ResumableTrainer, evaluator, require_unseen, trainer
from medseg3d.engines.checkpoint import load_checkpoint, save_atomically
from medseg3d.errors import CheckpointError, MedsegError

LABELS = {"inside": 1}


def cases(n: int) -> list[dict[str, Any]]:
    """Bright cubes on a dark background; ``label`` is the cube."""
    rng = np.random.default_rng(5)
    made = []
    for index in range(n):
        label = np.zeros((1, 8, 8, 8), np.uint8)
        start = rng.integers(0, 4, 3)
        label[0, start[0] : start[0] + 4, start[1] : start[1] + 4, start[2] : start[2] + 4] = 1
        image = label + rng.normal(0, 0.1, label.shape)
        made.append({"case": f"c{index}", "image": image.astype(np.float32), "label": label})
    return made


def make_trainer(
    folder: Path, *, seed: int = 0, device: str = "cpu", network: torch.nn.Module | None = None, **options: Any
) -> ResumableTrainer:
    torch.manual_seed(options.pop("process_seed", seed))
    arguments: dict[str, Any] = {"max_epochs": 4, "iterations_per_epoch": 3, "learning_rate": 0.05, "data": cases(5)}
    arguments |= {key: options.pop(key) for key in list(options) if key in arguments}
    # Dropout, so that torch's global random state matters too.
    network = network or torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Dropout(0.2), torch.nn.Conv3d(4, 2, 1)
    )
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments["learning_rate"])
    total = arguments["max_epochs"] * arguments["iterations_per_epoch"]
    if options.pop("schedule", "one_cycle") == "poly":
        schedule: Any = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=total, power=0.9)
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments["learning_rate"], total_steps=total)
    noisy = Compose([EnsureTyped(("image", "label"), track_meta=False), RandGaussianNoised("image", prob=0.8)])
    dataset = SeededCacheDataset(arguments["data"], noisy, seed=seed)
    plain = CacheDataset(cases(2), EnsureTyped(("image", "label"), track_meta=False), progress=False)
    validation = evaluator(
        device=device,
        val_data_loader=DataLoader(plain, batch_size=1),
        network=network,
        inferer=SimpleInferer(),
        postprocessing=AsDiscreted("pred", argmax=True),
        key_val_metric={"val_mean_dice": LabelDice(LABELS)},
    )
    defaults: dict[str, Any] = {"evaluator": validation, "labels": LABELS}
    return trainer(
        device=device,
        max_epochs=arguments["max_epochs"],
        train_data_loader=training_loader(
            dataset, batch_size=2, iterations_per_epoch=arguments["iterations_per_epoch"]
        ),
        network=network,
        optimizer=optimizer,
        lr_scheduler=schedule,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        inferer=SimpleInferer(),
        output_dir=folder,
        **(defaults | options),
    )


def weights_of(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / name)["network"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stop_after(engine: ResumableTrainer, epoch: int, iteration: int = 0) -> None:
    """Run until something breaks in the middle of a later epoch, as a power cut would."""
    from ignite.engine import Events

    class PowerCut(Exception):
        pass

    def cut(running: ResumableTrainer) -> None:
        if running.state.iteration == epoch * running.state.epoch_length + iteration:
            raise PowerCut

    engine.add_event_handler(Events.ITERATION_COMPLETED, cut)
    with pytest.raises(PowerCut):
        engine.run()


def test_training_learns_and_writes_its_run_folder(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_epochs=20).run()
    history = rows(tmp_path)
    assert [int(row["epoch"]) for row in history] == list(range(1, 21))
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    assert float(history[-1]["val_mean_dice"]) > 0.9
    assert history[-1]["val_mean_dice"] == history[-1]["val_mean_dice_inside"]
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "best.pt", "metrics.csv", "tensorboard"}


def test_best_checkpoint_is_the_best_epochs(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_epochs=6).run()
    best = load_checkpoint(tmp_path / "best.pt")
    dice = [float(row["val_mean_dice"]) for row in rows(tmp_path)]
    assert best["epoch"] == best["best_epoch"] == 1 + int(np.argmax(dice))
    assert best["best_metric"] == pytest.approx(max(dice), abs=1e-6)


@pytest.mark.parametrize(("epoch", "iteration"), [(1, 1), (2, 2), (3, 1)])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, epoch: int, iteration: int) -> None:
    make_trainer(tmp_path / "whole").run()
    stop_after(make_trainer(tmp_path / "cut"), epoch, iteration)
    # Other first weights and another global state, as a new process has: everything comes from the checkpoint.
    resumed = make_trainer(tmp_path / "cut", process_seed=99, resume=True)
    assert resumed.state.epoch == epoch
    resumed.run()
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(tmp_path / "cut")]
    assert without_time == [{k: v for k, v in row.items() if k != "seconds"} for row in rows(tmp_path / "whole")]


def test_a_finished_run_is_not_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(tmp_path).run()
    before = (tmp_path / "last.pt").read_bytes()
    with caplog.at_level("INFO", logger="medseg3d"):
        make_trainer(tmp_path, resume=True).run()
    assert "complete after 4 epochs: nothing to do" in caplog.text
    assert (tmp_path / "last.pt").read_bytes() == before


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match=r"already holds a run\. Add --resume true"):
        make_trainer(tmp_path)


def test_resume_refuses_other_cases(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="trained on other cases, another fold or another seed"):
        make_trainer(tmp_path, resume=True, data=cases(4))


def test_resume_refuses_another_epoch_length(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="has 3 iterations an epoch, this run 2"):
        make_trainer(tmp_path, resume=True, iterations_per_epoch=2)


def test_resume_refuses_another_network(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="another network or optimizer"):
        make_trainer(tmp_path, resume=True, network=torch.nn.Conv3d(1, 2, 1))


def rates(folder: Path) -> list[float]:
    return [float(row["learning_rate"]) for row in rows(folder)]


@pytest.mark.parametrize("schedule", ["one_cycle", "poly"])
def test_added_epochs_follow_the_longer_schedule(tmp_path: Path, schedule: str) -> None:
    make_trainer(tmp_path / "whole", schedule=schedule, max_epochs=6).run()
    make_trainer(tmp_path / "longer", schedule=schedule, max_epochs=4).run()
    make_trainer(tmp_path / "longer", schedule=schedule, max_epochs=6, resume=True).run()
    assert rates(tmp_path / "longer")[4:] == pytest.approx(rates(tmp_path / "whole")[4:], rel=1e-4)


@pytest.mark.parametrize("schedule", ["one_cycle", "poly"])
def test_a_new_learning_rate_holds_from_the_resume_on(tmp_path: Path, schedule: str) -> None:
    make_trainer(tmp_path / "slow", schedule=schedule, learning_rate=0.001).run()
    stop_after(make_trainer(tmp_path / "cut", schedule=schedule, learning_rate=0.05), 2, 1)
    make_trainer(tmp_path / "cut", schedule=schedule, learning_rate=0.001, resume=True).run()
    assert rates(tmp_path / "cut")[2:] == pytest.approx(rates(tmp_path / "slow")[2:], rel=1e-4)


def test_fewer_epochs_than_are_done_are_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="4 epochs are done, max_epochs is 3"):
        make_trainer(tmp_path, resume=True, max_epochs=3)


def test_another_schedule_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="AdamW and OneCycleLR, this run has AdamW and PolynomialLR"):
        make_trainer(tmp_path, resume=True, schedule="poly")


@pytest.mark.parametrize(("text", "resumes"), [("true", True), ("false", False)])
def test_true_and_false_as_typed(tmp_path: Path, text: str, resumes: bool) -> None:
    make_trainer(tmp_path).run()
    if resumes:
        assert make_trainer(tmp_path, resume=text, amp="false").state.epoch == 4
    else:
        with pytest.raises(CheckpointError, match="already holds a run"):
            make_trainer(tmp_path, resume=text)


def test_cases_that_were_trained_on_are_not_evaluated(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    require_unseen(tmp_path / "best.pt", [{"case": "other"}])
    with pytest.raises(CheckpointError, match="1 of the 2 cases to evaluate were trained on"):
        require_unseen(tmp_path / "best.pt", [{"case": "c1"}, {"case": "other"}])


def test_early_stopping_waits_for_a_validation(tmp_path: Path) -> None:
    options = {"max_epochs": 8, "early_stopping_patience": 3, "learning_rate": 1e-9, "val_interval": 2}
    make_trainer(tmp_path / "whole", **options).run()
    stop_after(make_trainer(tmp_path / "cut", **options), 5, 1)
    make_trainer(tmp_path / "cut", resume=True, **options).run()
    assert len(rows(tmp_path / "whole")) == len(rows(tmp_path / "cut")) == 6


def test_early_stopping_holds_after_a_resume(tmp_path: Path) -> None:
    options = {"max_epochs": 30, "early_stopping_patience": 2, "learning_rate": 1e-9}
    make_trainer(tmp_path, **options).run()
    assert len(rows(tmp_path)) == 3  # the first is the best, two without a better one follow
    make_trainer(tmp_path, resume=True, **options).run()
    assert len(rows(tmp_path)) == 3


def test_validation_is_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_epochs=5, val_interval=2).run()
    assert [bool(row["val_mean_dice"]) for row in rows(tmp_path)] == [False, True, False, True, True]


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    make_trainer(tmp_path, evaluator=None).run()
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 4


def test_a_loss_of_nan_stops_with_what_to_do(tmp_path: Path) -> None:
    broken = cases(5)
    broken[0]["image"][:] = np.nan
    with pytest.raises(MedsegError, match=r"The loss is nan in epoch \d, iteration \d+. Lower --learning_rate"):
        make_trainer(tmp_path, data=broken).run()


def test_a_step_with_an_infinite_gradient_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Explodes(torch.nn.Conv3d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            output = super().forward(input)
            if self.training and explode.pop():
                output.register_hook(lambda gradient: gradient * torch.inf)
            return output

    explode = [False, True, False]  # taken from the end
    with caplog.at_level("WARNING", logger="medseg3d"):
        make_trainer(tmp_path, network=Explodes(1, 2, 1), max_epochs=1).run()
    assert "Left out the step of iteration 2" in caplog.text
    assert all(torch.isfinite(value).all() for value in weights_of(tmp_path).values())

    explode = [True] * 30
    with pytest.raises(MedsegError, match="10 gradients in a row were not finite"):
        make_trainer(tmp_path / "always", network=Explodes(1, 2, 1), max_epochs=10).run()


@pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_mixed_precision_reaches_the_activations_on_a_cpu(tmp_path: Path, amp: bool, dtype: torch.dtype) -> None:
    seen = set()
    network = torch.nn.Conv3d(1, 2, 1)
    network.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype) if network.training else None)
    make_trainer(tmp_path, network=network, amp=amp, max_epochs=1).run()
    assert seen == {dtype}


def test_tensorboard_has_scalars_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, max_epochs=2).run()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate", "validation/val_mean_dice"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert events.Tags()["images"] == ["validation/case"]


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_atomically({"epoch": 1}, path)
    with pytest.raises(AttributeError):  # a lambda cannot be written: as good as a full disk
        save_atomically({"epoch": 2, "bad": lambda: None}, path)
    assert load_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"network": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="refused because unpickling runs code"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    make_trainer(tmp_path).run()
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be read as weights"):
        make_trainer(tmp_path, resume=True)


def test_label_dice_counts_misses_and_skips_what_is_nowhere() -> None:
    measure = LabelDice({"a": 1, "b": 2, "c": 3})
    label = torch.tensor([[1, 1, 0, 0]])
    measure.update([{"label": label, "pred": torch.tensor([[1, 0, 0, 2]])}])  # a: 2/3, b spurious: 0, c nowhere
    measure.update([{"label": label, "pred": torch.tensor([[1, 1, 0, 0]])}])  # a: 1, b and c nowhere
    means = measure.label_means()
    assert means["a"] == pytest.approx((2 / 3 + 1) / 2)
    assert means["b"] == 0
    assert np.isnan(means["c"])
    assert measure.compute() == pytest.approx((means["a"] + 0) / 2)


@pytest.mark.gpu
def test_training_and_resume_on_a_gpu(tmp_path: Path) -> None:
    stop_after(make_trainer(tmp_path, device="cuda", max_epochs=20), 2, 1)
    again = make_trainer(tmp_path, device="cuda", max_epochs=20, resume=True)
    assert again.state.epoch == 2
    again.run()
    assert float(rows(tmp_path)[-1]["val_mean_dice"]) > 0.9


@pytest.mark.gpu
def test_a_full_gpu_is_told_with_what_to_do(tmp_path: Path) -> None:
    class Greedy(torch.nn.Conv3d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            torch.empty(2**45, device=input.device)
            return super().forward(input)

    with pytest.raises(MedsegError, match="Lower --batch_size or --patch_size"):
        make_trainer(tmp_path, device="cuda", network=Greedy(1, 2, 1)).run()
