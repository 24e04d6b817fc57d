"""Does the data keep the network waiting? A whole training step beside the bare forward and backward, and nnU-Net's.

A step of a bundle's training reads a batch, augments it, and trains on it (forward, loss, backward, clipping,
optimizer); bare are forward, loss and backward alone, on the same tensors. Both run in one process, in turns, so that
a noisy machine disturbs both alike; before each turn the batches that workers have ready are taken away. ::

    .venv/bin/medseg3d datalist split $MEDSEG3D_DATA/mri_hippocampus/dataset.json -o hippocampus.json
    .venv/bin/python scripts/benchmarks/bench_step.py --datalist hippocampus.json --num-workers 0 1

``--nnunet-python nnunet-venv/bin/python`` adds nnU-Net v2 with its own network, its step beside its step without the
wait for the batch. It takes about 2 minutes for each number of workers on 2 cores, and nnU-Net 5 (of which 3 prepare
its data). ``--device cuda:0`` measures a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from training_runs import BUNDLE, DATA, HERE, machine, run_nnunet, write_results

from medseg3d.data import SAMPLE_SEED
from medseg3d.engines import ResumableTrainer, autocast
from medseg3d.engines.step import training_step

PREFETCHED = 2
"""Batches that a worker of torch's DataLoader has ready."""


class Stepper:
    """Whole steps and bare ones of a bundle's trainer, timed."""

    def __init__(self, engine: ResumableTrainer, *, clock: Callable[[], float]) -> None:
        self.engine, self.device, self.clock = engine, engine.state.device, clock
        self.batches = self._endless()
        self.tensors = self._augmented(next(self.batches))

    def _endless(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch = 0
        while True:
            self.engine.data_loader.sampler.set_epoch(epoch)
            yield from self.engine.data_loader
            epoch += 1

    def _augmented(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (batch[key].to(self.device) for key in ("image", "label"))
        transform = self.engine.batch_transform
        return (image, label) if transform is None else transform(image, label, batch[SAMPLE_SEED])

    def whole(self) -> None:
        """One step of the training, with its batch."""
        training_step(self.engine, next(self.batches))

    def bare(self) -> None:
        """Forward, loss and backward on tensors that are ready."""
        image, label = self.tensors
        self.engine.network.train()
        with autocast(self.device, enabled=self.engine.amp_enabled):
            prediction = self.engine.inferer(image, self.engine.network)
        loss = self.engine.loss_function(prediction, label)
        self.engine.optimizer.zero_grad(set_to_none=True)
        self.engine.loss_scaler.scale(loss).backward()
        loss.item()

    def data(self) -> None:
        """A batch, read and augmented."""
        self.tensors = self._augmented(next(self.batches))

    def take_what_is_ready(self) -> None:
        """So that no batch was made while something else was timed."""
        for _ in range(PREFETCHED * self.engine.data_loader.num_workers):
            next(self.batches)

    def seconds(self, part: Callable[[], None], steps: int) -> float:
        """Mean of ``steps`` calls."""
        self._wait()
        start = self.clock()
        for _ in range(steps):
            part()
        self._wait()
        return (self.clock() - start) / steps

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(options: argparse.Namespace, num_workers: int) -> dict[str, Any]:
    """Medians over the rounds, each of which times all parts."""
    clock = time.process_time if options.busy else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(build_trainer(options, num_workers, Path(folder)), clock=clock)
        for _ in range(2):
            stepper.whole()
        rounds: dict[str, list[float]] = {"whole": [], "bare": [], "data": []}
        for _ in range(options.rounds):
            for name in rounds:
                stepper.take_what_is_ready()
                rounds[name].append(stepper.seconds(getattr(stepper, name), options.steps))
    ratios = [whole / bare for whole, bare in zip(rounds["whole"], rounds["bare"], strict=True)]
    medians = {f"seconds_{name}": statistics.median(values) for name, values in rounds.items()}
    return {"method": "medseg3d", "num_workers": num_workers, **medians, "ratio": statistics.median(ratios)}


def build_trainer(options: argparse.Namespace, num_workers: int, folder: Path) -> ResumableTrainer:
    parser = ConfigParser()
    parser.read_config([str(file) for file in options.config_file])
    parser.update(
        {
            "bundle_root": str(options.config_file[0].parents[1]),
            "datalist": str(options.datalist),
            "fold": -1,
            "output_dir": str(folder),
            "device": options.device,
            "num_workers": num_workers,
        }
    )
    if options.batch_size:
        parser["batch_size"] = options.batch_size
    trainer: ResumableTrainer = parser.get_parsed_content("train#trainer")
    return trainer


def nnunet_row(options: argparse.Namespace) -> dict[str, Any]:
    length = {"iterations": options.rounds * options.steps, "batch-size": options.batch_size or 9, "limit-cases": 1}
    where = {"device": options.device, "threads": options.threads}
    if options.device != "cpu":
        where["augmentation-workers"] = max(options.num_workers)
    found = run_nnunet(
        options.work, python=options.nnunet_python, datalist=options.datalist, fold=0, options=length | where
    )
    whole, wait = found["seconds_per_iteration_median"], found["seconds_waiting_median"]
    return {
        "method": "nnU-Net v2, its own network",
        "num_workers": found["augmentation_workers"],
        "seconds_whole": whole,
        "seconds_bare": whole - wait,
        "seconds_data": wait,
        "ratio": whole / (whole - wait),
    }


def make_table(content: dict[str, Any]) -> str:
    lines = [
        f"{content['data']}, batch {content['batch']}, {content['threads']} threads, {content['machine']}; medians of "
        f"{content['clock']} in {content['rounds']} rounds of {content['steps']} steps.",
        "",
        "| method | workers | s/step | s bare | s data alone | step / bare |",
        "|---|---|---|---|---|---|",
    ]
    for r in content["results"]:
        times = " | ".join(f"{r[f'seconds_{name}']:.3f}" for name in ("whole", "bare", "data"))
        lines.append(f"| {r['method']} | {r['num_workers']} | {times} | {r['ratio']:.3f} |")
    lines += [
        "",
        "Bare: forward, loss and backward; of nnU-Net with clipping and optimizer. The step has both, and data.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    results = [measure(options, workers) for workers in options.num_workers]
    if options.nnunet_python:
        results.append(nnunet_row(options))
    content = {
        "data": DATA if options.config_file[0].parents[1] == BUNDLE else options.config_file[0].parents[1].name,
        "machine": machine(options.device),
        "clock": "processor seconds" if options.busy else "seconds",
        "threads": options.threads,
        "batch": options.batch_size or "as configured",
        "rounds": options.rounds,
        "steps": options.steps,
        "results": results,
    }
    write_results(options.out, content, make_table(content))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--config-file", type=Path, nargs="+", default=[BUNDLE / "configs" / "train.yaml"])
    parser.add_argument("--num-workers", type=int, nargs="+", default=[0], help="measure with each of these")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--busy", action="store_true", help="count processor time, where others use the machine; without workers"
    )
    parser.add_argument("--batch-size", type=int, help="instead of the bundle's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    parser.add_argument("--nnunet-python", type=Path, help="measure nnU-Net with this interpreter too")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_step"), help="for nnU-Net's files")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "step", help="table goes to OUT.md and OUT.json")
    options = parser.parse_args()
    if options.busy and (options.threads > 1 or max(options.num_workers) > 0 or options.device != "cpu"):
        parser.error("--busy counts this process alone: add --threads 1, and leave workers and GPUs out.")
    return options


if __name__ == "__main__":
    main()
