"""What the benchmarks of training share: nnU-Net's run in its own environment, this project's runs, their scores."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BUNDLE", "DATA", "HERE", "bundle_scores", "machine", "run", "run_bundle", "run_nnunet", "write_results"]

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parents[1] / "bundles" / "mri_hippocampus_segmentation"
DATA = "Hippocampus (MSD Task04, CC-BY-SA 4.0)"


def machine(device: str = "cpu") -> str:
    """What the numbers were measured on."""
    words = f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.system()}"
    if not device.startswith("cuda"):
        return words
    import torch

    return f"{words}, {torch.cuda.get_device_name(device)}"


def run_nnunet(work: Path, *, python: Path, datalist: Path, fold: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """nnU-Net's result: of ``work``/nnunet.json where it was run before, else of a run of ``nnunet_runner.py`` now.

    Args:
        python: interpreter of an environment with nnunetv2.
        options: further options of ``nnunet_runner.py``, by name; None leaves one out.
    """
    result = work / "nnunet.json"
    if not result.is_file():
        command = [python, HERE / "nnunet_runner.py", "--datalist", datalist, "--fold", fold, "--out", result]
        given = {name: value for name, value in options.items() if value is not None}
        run(
            [
                *command,
                "--work",
                work / "nnunet",
                *(part for name, value in given.items() for part in (f"--{name}", value)),
            ]
        )
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def run_bundle(run_id: str, files: Sequence[Path], typed: Mapping[str, Any]) -> None:
    """``python -m monai.bundle run`` with overrides, as a user types it."""
    overrides = [part for key, value in typed.items() for part in (f"--{key}", value)]
    config_file = [str(file) for file in files]
    run([sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", config_file, *overrides])


def bundle_scores(output_dir: Path) -> dict[str, Any]:
    """Dice by label and their mean, of a run that was evaluated."""
    summary = json.loads((output_dir / "evaluation" / "summary.json").read_text())
    dice = {name: label["dice_mean"] for name, label in summary["labels"].items()}
    return {"dice": dice, "mean_dice": summary["mean_dice"]}


def run(command: Sequence[Any]) -> None:
    """Run and wait; a failure ends the benchmark."""
    typed = [str(part) for part in command]
    print("$", " ".join(typed), flush=True)
    if subprocess.run(typed, check=False).returncode:
        sys.exit("That command failed; its own message stands above.")


def write_results(out: Path, content: Mapping[str, Any], table: str) -> None:
    """``out``.json and ``out``.md, and the table on the screen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    out.with_suffix(".md").write_text(table)
    print(table)
