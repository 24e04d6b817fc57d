"""Hippocampus in 300 iterations of batch 9 on a CPU: medseg3d beside nnU-Net v2, same cases, same machine, one run.

One fold of the split is held out. Each method trains for the same number of iterations on the other folds and is scored
on the held-out cases, on the images' own grids. nnU-Net lives in an environment of its own::

    python -m venv nnunet-venv && nnunet-venv/bin/python -m pip install torch nnunetv2
    .venv/bin/medseg3d datalist split $MEDSEG3D_DATA/mri_hippocampus/dataset.json -o hippocampus.json
    .venv/bin/python scripts/benchmarks/bench_budget.py --datalist hippocampus.json \\
        --nnunet-python nnunet-venv/bin/python

It takes about 65 minutes on 2 cores, nnU-Net 30 of them. Parts that are done are kept in ``--work`` and not repeated.
The time that counts against medseg3d is the whole process (imports, caching, training, validation); that of nnU-Net is
its training iterations alone. ``--without-nnunet`` measures medseg3d only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from training_runs import BUNDLE, DATA, HERE, bundle_scores, machine, run_bundle, run_nnunet, write_results

ITERATIONS_PER_EPOCH = 50


def main() -> None:
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    results = [] if options.without_nnunet else [nnunet_row(options)]
    results += [medseg3d_row(options, seed, "3d") for seed in options.seeds]
    if options.with_2d:
        results.append(medseg3d_row(options, options.seeds[0], "2d"))
    content = {
        "machine": machine(),
        "iterations": options.iterations,
        "batch_size": options.batch_size,
        "fold": options.fold,
        "results": results,
    }
    write_results(options.out, content, make_table(content))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True, help="data list with folds")
    parser.add_argument("--fold", type=int, default=0, help="fold that is held out")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=9)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training of medseg3d for each")
    parser.add_argument("--with-2d", action="store_true", help="train the 2D overlay too, with the first seed")
    parser.add_argument("--nnunet-python", type=Path, default=Path("nnunet-venv/bin/python"))
    parser.add_argument(
        "--nnunet-iterations", type=int, help="train nnU-Net for fewer and scale its time up; its Dice is then of fewer"
    )
    parser.add_argument("--without-nnunet", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_budget"))
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "budget", help="table goes to OUT.md and OUT.json"
    )
    return parser.parse_args()


def nnunet_row(options: argparse.Namespace) -> dict[str, Any]:
    length = {"iterations": options.nnunet_iterations or options.iterations, "batch-size": options.batch_size}
    found = run_nnunet(
        options.work, python=options.nnunet_python, datalist=options.datalist, fold=options.fold, options=length
    )
    scale = options.iterations / found["iterations"]
    validation = found["seconds_epoch_validation"] + found["seconds_epoch_bookkeeping"]
    return {
        "method": "nnU-Net v2",
        "iterations": found["iterations"],
        "versions": found["versions"],
        "seed": found["seed"],
        "seconds": scale * found["seconds_training_wall"],
        "seconds_with_validation": found["seconds_training_setup"]
        + scale * (found["seconds_training_wall"] + validation),
        "dice": found["dice"],
        "mean_dice": found["dice_mean_foreground"],
    }


def medseg3d_row(options: argparse.Namespace, seed: int, overlay: str) -> dict[str, Any]:
    folder = options.work / f"medseg3d_{overlay}_seed{seed}"
    timing = folder / "seconds.json"
    files = [BUNDLE / "configs" / "train.yaml", *([BUNDLE / "configs" / "unet_2d.yaml"] if overlay == "2d" else [])]
    typed = {
        "bundle_root": BUNDLE,
        "datalist": options.datalist.resolve(),
        "fold": options.fold,
        "seed": seed,
        "batch_size": options.batch_size,
        "iterations_per_epoch": ITERATIONS_PER_EPOCH,
        "max_epochs": options.iterations // ITERATIONS_PER_EPOCH,
        "output_dir": folder,
        "device": "cpu",
    }
    if not timing.is_file():
        start = time.monotonic()
        run_bundle("training", files, typed)
        timing.write_text(json.dumps(time.monotonic() - start))
    run_bundle("evaluating", [*files, BUNDLE / "configs" / "evaluate.yaml"], typed)
    seconds = json.loads(timing.read_text())
    return {
        "method": "medseg3d" if overlay == "3d" else "medseg3d, unet_2d.yaml",
        "iterations": options.iterations,
        "versions": json.loads((folder / "run.json").read_text())["versions"],
        "seed": seed,
        "seconds": seconds,
        "seconds_with_validation": seconds,
        **bundle_scores(folder),
    }


def make_table(content: dict[str, Any]) -> str:
    results = content["results"]
    labels = list(results[0]["dice"])
    lines = [
        f"{DATA}, fold {content['fold']} held out, {content['iterations']} iterations "
        f"of batch {content['batch_size']}, {content['machine']}.",
        "",
        f"| method | iterations | seed | {' | '.join(f'Dice {n}' for n in labels)} | mean | min | with validation |",
        "|---|---|---|" + "---|" * (len(labels) + 3),
    ]
    for r in results:
        dice = " | ".join(f"{r['dice'][name]:.4f}" for name in labels)
        times = f"{r['seconds'] / 60:.1f} | {r['seconds_with_validation'] / 60:.1f}"
        lines.append(f"| {r['method']} | {r['iterations']} | {r['seed']} | {dice} | {r['mean_dice']:.4f} | {times} |")
    lines += ["", *summary_lines(results)]
    return "\n".join(lines) + "\n"


def summary_lines(results: list[dict[str, Any]]) -> list[str]:
    methods = dict.fromkeys(r["method"] for r in results if r["method"] != "nnU-Net v2")
    peer = next((r for r in results if r["method"] == "nnU-Net v2"), None)
    lines = []
    for method in methods:
        own = [r for r in results if r["method"] == method]
        dice, seconds = statistics.mean(r["mean_dice"] for r in own), statistics.mean(r["seconds"] for r in own)
        line = f"{method}: mean Dice {dice:.4f} over {len(own)} seeds, {seconds / 60:.1f} minutes"
        if peer is not None:
            line += f"; {seconds / peer['seconds']:.2f} of nnU-Net's time"
            line += f" ({seconds / peer['seconds_with_validation']:.2f} with its validation)"
        lines.append(line + ".")
    if peer is not None:
        note = (
            "Minutes of medseg3d: the whole process. Of nnU-Net: training iterations; then with set-up and validation"
        )
        if peer["iterations"] < results[-1]["iterations"]:
            note += f", scaled up from {peer['iterations']} iterations, after which its Dice was taken"
        lines += ["", note + "."]
    return lines


if __name__ == "__main__":
    main()
