"""Train a bundle as ``python -m monai.bundle run training`` does, with a clock on every iteration.

This project's half of a benchmark; ``nnunet_runner.py`` is the peer's, and both write the same times::

    python medseg3d_runner.py --config-file configs/train.yaml --override datalist=hippocampus.json --out medseg3d.json

An iteration counts with the wait for its batch, and without validation, checkpoints and set-up. Memory is the largest
of the whole process (with its cached cases and its validations), or the GPU's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow


class IterationClock:
    """Seconds of each training iteration, and of the wait for its batch alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.iterations_s: list[float] = []
        self.waits_s: list[float] = []
        self.start = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._started)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._received)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._completed)

    def _started(self) -> None:
        self.start = time.perf_counter()

    def _received(self) -> None:
        self.waits_s.append(time.perf_counter() - self.start)

    def _completed(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.iterations_s.append(time.perf_counter() - self.start)


def train(config_files: list[str], overrides: dict[str, Any]) -> dict[str, Any]:
    """Run the training and return its times."""
    workflow = ConfigWorkflow(config_file=config_files, workflow_type="train", run_id="training", **overrides)
    workflow.initialize()
    engine = workflow.parser.get_parsed_content("train#trainer")
    clock = IterationClock(engine.state.device)
    clock.attach(engine)
    workflow.run()
    return {
        "iterations": len(clock.iterations_s),
        "batch_size": engine.data_loader.batch_size,
        "parameters": sum(parameter.numel() for parameter in engine.network.parameters()),
        "seconds_training_wall": sum(clock.iterations_s),
        "seconds_per_iteration_median": statistics.median(clock.iterations_s),
        "seconds_waiting_median": statistics.median(clock.waits_s),
        "peak_memory_mb": peak_memory_mb(clock.device),
        "device": str(clock.device),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if engine.amp_enabled else "float32",
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process held: of the GPU, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kilobytes on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", required=True, help="files of the configuration, later ones win")
    parser.add_argument("--override", nargs="*", default=[], metavar="ID=VALUE", help="values, in YAML")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = (pair.split("=", 1) for pair in options.override)
    result = train(options.config_file, {name: yaml.safe_load(value) for name, value in pairs})
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
