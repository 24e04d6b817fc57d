"""Same network, same iterations: medseg3d beside nnU-Net v2, seconds an iteration, peak memory and Dice.

nnU-Net plans the hippocampus; medseg3d trains the network of that plan, written as MONAI's DynUNet (the same stages,
features, kernels, strides and heads; without the biases of convolutions, which instance normalisation takes away), on
the same patches, batches, cases and threads, for as many iterations. What differs is each one's own: augmentation in
its implementation, sampling, loss, optimizer, precision. The final weights of both are scored on the held-out fold,
without mirroring, on the images' own grids; nnU-Net's Dice with mirroring, its default, stands beside::

    python -m venv nnunet-venv && nnunet-venv/bin/python -m pip install torch nnunetv2
    .venv/bin/medseg3d datalist split $MEDSEG3D_DATA/mri_hippocampus/dataset.json -o hippocampus.json
    .venv/bin/python scripts/benchmarks/bench_training.py --datalist hippocampus.json \\
        --nnunet-python nnunet-venv/bin/python

It takes about 80 minutes on 2 cores, nnU-Net half of them; a GPU is named by ``--device cuda:0``. Parts that are done
are kept in ``--work`` and not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from training_runs import BUNDLE, DATA, HERE, bundle_scores, machine, run, run_bundle, run_nnunet, write_results


def main() -> None:
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    peer = run_nnunet(
        options.work,
        python=options.nnunet_python,
        datalist=options.datalist,
        fold=options.fold,
        options={
            "iterations": options.iterations,
            "batch-size": options.batch_size,
            "threads": options.threads,
            "device": options.device,
            "augmentation-workers": None if options.device == "cpu" else options.nnunet_workers,
            "limit-cases": options.limit_cases,
        },
    )
    if peer["iterations"] != options.iterations:
        sys.exit(f"{options.work} holds {peer['iterations']} iterations of nnU-Net; name another --work.")
    results = [nnunet_row(peer), medseg3d_row(options, peer, "bfloat16"), medseg3d_row(options, peer, "float32")]
    content = {
        "machine": machine(options.device),
        "threads": options.threads,
        "iterations": options.iterations,
        "batch_size": options.batch_size,
        "patch_size": peer["patch_size"],
        "fold": options.fold,
        "cases_scored": peer["cases_scored"],
        "versions": peer["versions"],
        "results": results,
    }
    write_results(options.out, content, make_table(content))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True, help="data list with folds")
    parser.add_argument("--fold", type=int, default=0, help="fold that is held out")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=9, help="9 is the one of nnU-Net's plan")
    parser.add_argument("--threads", type=int, default=2, help="torch threads of either")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nnunet-workers", type=int, default=8, help="processes that augment for nnU-Net, on a GPU")
    parser.add_argument("--nnunet-python", type=Path, default=Path("nnunet-venv/bin/python"))
    parser.add_argument("--limit-cases", type=int, help="score only so many held-out cases (to try it out)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_training"))
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "training", help="table goes to OUT.md and OUT.json"
    )
    return parser.parse_args()


def nnunet_row(found: dict[str, Any]) -> dict[str, Any]:
    plain = found["without_mirroring"]
    return {
        "method": "nnU-Net v2",
        **{name: found[name] for name in MEASURED},
        "dice": plain["dice"],
        "mean_dice": plain["dice_mean_foreground"],
        "mean_dice_mirrored": found["dice_mean_foreground"],
    }


MEASURED = (
    "iterations",
    "precision",
    "parameters",
    "seconds_per_iteration_median",
    "seconds_waiting_median",
    "peak_memory_mb",
)


def medseg3d_row(options: argparse.Namespace, peer: dict[str, Any], precision: str) -> dict[str, Any]:
    folder = options.work / f"medseg3d_{precision}"
    folder.mkdir(exist_ok=True)
    network = options.work / "network.yaml"
    network.write_text(yaml.safe_dump(planned_network(peer), sort_keys=False))
    files = [BUNDLE / "configs" / "train.yaml", network]
    per_epoch = epoch_length(options.iterations)
    typed = {
        "bundle_root": BUNDLE,
        "datalist": options.datalist.resolve(),
        "fold": options.fold,
        "batch_size": options.batch_size,
        "iterations_per_epoch": per_epoch,
        "max_epochs": options.iterations // per_epoch,
        "output_dir": folder.resolve(),
        "device": options.device,
        "amp": precision == "bfloat16",
    }
    result = folder / "times.json"
    if not result.is_file():
        overrides = [f"{name}={json.dumps(value, default=str)}" for name, value in typed.items()]
        runner = [sys.executable, HERE / "medseg3d_runner.py", "--threads", options.threads, "--out", result]
        run([*runner, "--config-file", *files, "--override", *overrides])
    weights = {"weights": folder.resolve() / "last.pt"}
    if options.limit_cases:
        held_out = f"$medseg3d.datalist.validation_items(@datalist, fold=@fold)[:{options.limit_cases}]"
        weights["evaluate::dataset::data"] = held_out
    run_bundle("evaluating", [*files, BUNDLE / "configs" / "evaluate.yaml"], typed | weights)
    found = json.loads(result.read_text())
    return {"method": "medseg3d", **{name: found[name] for name in MEASURED}, **bundle_scores(folder)}


def epoch_length(iterations: int) -> int:
    """The largest divisor up to 50, which is nnU-Net's share of validation too."""
    return next(n for n in range(min(50, iterations), 0, -1) if iterations % n == 0)


def planned_network(peer: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net's plain U-Net as values of a bundle."""
    plan = peer["architecture"]
    return {
        "patch_size": peer["patch_size"],
        "network_def": {
            "_target_": "DynUNet",
            "spatial_dims": 3,
            "in_channels": "$len(@channels)",
            "out_channels": "$1 + max(@labels.values())",
            "filters": plan["features_per_stage"],
            "kernel_size": plan["kernel_sizes"],
            "strides": plan["strides"],
            "upsample_kernel_size": plan["strides"][1:],
            "norm_name": ["instance", {"affine": True}],  # MONAI's own has no scale and shift
            "res_block": False,
            "deep_supervision": True,
            "deep_supr_num": plan["n_stages"] - 2,
        },
    }


def make_table(content: dict[str, Any]) -> str:
    results = content["results"]
    labels = list(results[0]["dice"])
    size = "×".join(map(str, content["patch_size"]))
    lines = [
        f"{DATA}, fold {content['fold']} held out ({content['cases_scored']} cases scored), {content['iterations']} "
        f"iterations of batch {content['batch_size']} of {size}, {content['threads']} threads, {content['machine']}.",
        "",
        f"| method | precision | parameters | s/iteration | of it waiting | peak memory, GB | "
        f"{' | '.join(f'Dice {n}' for n in labels)} | mean | mirrored |",
        "|---" * (len(labels) + 8) + "|",
    ]
    for r in results:
        dice = " | ".join(f"{r['dice'][name]:.4f}" for name in labels)
        mirrored = f"{r['mean_dice_mirrored']:.4f}" if "mean_dice_mirrored" in r else "–"
        lines.append(
            f"| {r['method']} | {r['precision']} | {r['parameters']:,} | {r['seconds_per_iteration_median']:.2f} | "
            f"{r['seconds_waiting_median']:.3f} | {r['peak_memory_mb'] / 1024:.2f} | {dice} | {r['mean_dice']:.4f} | "
            f"{mirrored} |"
        )
    peer = results[0]["seconds_per_iteration_median"]
    ratios = ", ".join(f"{r['seconds_per_iteration_median'] / peer:.2f} in {r['precision']}" for r in results[1:])
    lines += ["", f"An iteration of medseg3d takes of nnU-Net's time: {ratios}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
