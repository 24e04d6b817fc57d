"""Measures of label maps: this project beside MONAI, DeepMind's surface-distance and panoptica, on the same masks.

The masks are made here, with fixed seeds: deformed ellipsoids on a jittered grid, from a few voxels to organ size, and
a prediction whose surfaces are those of the reference, moved and roughened by about a voxel (in one case by eight).
Each tool runs in a process of its own, the tools one after another in every round. The seconds are the best of the
rounds and hold the scoring alone, without imports and reading; they are seconds of processor time, so that other work
on the machine does not count (every tool is held to one thread). Peak memory is what scoring adds to what was held
before it (Linux only).

panoptica's dependencies clash with this project's, so it lives in an environment of its own::

    python -m venv peers-venv && peers-venv/bin/python -m pip install -r scripts/benchmarks/peers.txt
    .venv/bin/python scripts/benchmarks/bench_metrics.py --peers-python peers-venv/bin/python

Numbers are compared label by label with the peer that computes the same definition. Peers take one label after another,
so on the large case they may be asked for every n-th label only, and their seconds are scaled up (``--peers-every``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

HERE = Path(__file__).resolve().parent
TOLERANCE_MM = 2.0
LESION_OVERLAP = 0.1

CASES: dict[str, dict[str, Any]] = {
    "8 labels, 256×256×160": {"shape": (256, 256, 160), "labels": 8, "spacing_mm": (1.0, 1.0, 2.0), "seed": 1},
    "104 labels, 512×512×300": {"shape": (512, 512, 300), "labels": 104, "spacing_mm": (0.8, 0.8, 1.5), "seed": 2},
    "8 labels, poor prediction": {
        "shape": (256, 256, 160),
        "labels": 8,
        "spacing_mm": (1.0, 1.0, 2.0),
        "seed": 1,
        "error_voxels": 8.0,
    },
    "60 lesions, 256×256×160": {"shape": (256, 256, 160), "lesions": 60, "spacing_mm": (1.0, 1.0, 2.0), "seed": 3},
}
TOOLS = ("medseg3d", "MONAI", "surface-distance", "panoptica")
Scores = dict[str, dict[str, float]]
Task = dict[str, Any]
Parts = dict[str, float]
"""Seconds by measure, from tools that compute one after the other."""


def main() -> None:
    options = parse_options()
    if options.worker:
        work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        results = [run_case(name, Path(scratch), options) for name in options.cases]
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.system()}; one thread a tool",
        "rounds": options.rounds,
        "tolerance_mm": TOLERANCE_MM,
        "cases": results,
    }
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    table = make_table(content)
    options.out.with_suffix(".md").write_text(table)
    print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", type=Path, help="Python of the environment with panoptica; left out without")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-every", type=int, default=8, help="n: every n-th label, where there are more than 20")
    parser.add_argument("--scratch", type=Path, help="folder for the masks, 160 MB")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "metrics", help="table goes to OUT.md and OUT.json"
    )
    parser.add_argument("--worker", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def run_case(name: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    reference, prediction = make_lesions(case) if "lesions" in case else make_organs(case)
    np.save(scratch / "reference.npy", reference)
    np.save(scratch / "prediction.npy", prediction)
    ids = [int(i) for i in np.unique(reference) if i]
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for tool in tools_for(case, options):
            every = options.peers_every if tool not in ("medseg3d", "panoptica") and len(ids) > 20 else 1
            print(f"{name}: {tool}, round {number + 1}", file=sys.stderr, flush=True)
            runs.setdefault(tool, []).append(run_worker(tool, case, ids[::every], len(ids), scratch, options))
    return {
        "case": name,
        "ids": len(ids),
        "tools": {tool: summary(found) for tool, found in runs.items()},
        "disagreement": disagreements({tool: found[-1]["scores"] for tool, found in runs.items()}),
    }


def tools_for(case: dict[str, Any], options: argparse.Namespace) -> list[str]:
    tools = ["medseg3d", "panoptica"] if "lesions" in case else list(TOOLS)
    return [tool for tool in tools if tool != "panoptica" or options.peers_python]


def run_worker(
    tool: str, case: dict[str, Any], ids: list[int], of: int, scratch: Path, options: argparse.Namespace
) -> dict[str, Any]:
    task = scratch / "task.json"
    task.write_text(json.dumps({"ids": ids, "of": of, "spacing_mm": case["spacing_mm"], "lesions": "lesions" in case}))
    python = options.peers_python if tool == "panoptica" else sys.executable
    command = [str(python), __file__, "--worker", tool, "--task", str(task)]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    found = subprocess.run(command, check=False, env={**os.environ, **one_thread}).returncode
    if found:
        sys.exit(f"{tool} failed; its own message stands above.")
    result: dict[str, Any] = json.loads(task.with_name("result.json").read_text())
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(runs, key=lambda r: r["seconds"])
    return {key: value for key, value in best.items() if key != "scores"} | {
        "all_seconds": [round(r["seconds"], 3) for r in runs],
        "wall_seconds": min(r["wall_seconds"] for r in runs),
        "peak_mib": max(r["peak_mib"] for r in runs),
    }


# What runs in a process of its own.


def work(options: argparse.Namespace) -> None:
    task = json.loads(options.task.read_text())
    reference, prediction = (np.load(options.task.with_name(f"{side}.npy")) for side in ("reference", "prediction"))
    score = {
        "medseg3d": medseg3d_scorer,
        "MONAI": monai_scorer,
        "surface-distance": surface_distance_scorer,
        "panoptica": panoptica_scorer,
    }[options.worker]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = memory_mib("VmRSS")
    start, wall = cpu_seconds(), time.perf_counter()
    parts: Parts = {}
    scores = score(reference, prediction, task, parts)
    seconds, wall = cpu_seconds() - start, time.perf_counter() - wall
    peak = memory_mib("VmHWM") - before
    share = task["of"] / len(task["ids"])
    result = {
        "version": version({"MONAI": "monai"}.get(options.worker, options.worker)),
        "seconds": seconds * share,
        "wall_seconds": wall * share,
        "parts": {part: value * share for part, value in parts.items()},
        "labels_scored": len(task["ids"]),
        "peak_mib": peak,
        "scores": scores,
    }
    options.task.with_name("result.json").write_text(json.dumps(result))


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def memory_mib(kind: str) -> float:
    """What Linux says this process holds (``VmRSS``) or has held at most (``VmHWM``).

    ``getrusage`` would not do: its peak outlives exec, so that a small child reports its large parent.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) / 1024


def medseg3d_scorer() -> Callable[..., Scores]:
    from medseg3d.metrics import Region, score_labels

    def score(reference: np.ndarray, prediction: np.ndarray, task: Task, parts: Parts) -> Scores:
        regions = [Region(str(i), (i,)) for i in task["ids"]]
        rows = score_labels(
            reference,
            prediction,
            regions=regions,
            spacing_mm=task["spacing_mm"],
            tolerance_mm=TOLERANCE_MM,
            lesions=task["lesions"],
            lesion_overlap=LESION_OVERLAP,
        )
        names = ("dice", "iou", "hd_mm", "hd95_mm", "hd95_weighted_mm", "assd_mm", "nsd", "centre_distance_mm")
        scores = {row.label: {name: getattr(row, name) for name in names} for row in rows}
        for row in rows:
            if row.lesions is not None:
                found = row.lesions
                scores[row.label] = {
                    "detected": found.detected,
                    "false_positives": found.false_positives,
                    "missed": found.reference - found.detected,
                    "lesion_dice": found.dice,
                }
        return scores

    return score


def monai_scorer() -> Callable[..., Scores]:
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    torch.set_num_threads(1)

    def score(reference: np.ndarray, prediction: np.ndarray, task: Task, parts: Parts) -> Scores:
        spacing = {"include_background": True, "spacing": task["spacing_mm"]}
        measures = {
            "dice": lambda p, r: compute_dice(p, r),
            "hd95_mm": lambda p, r: compute_hausdorff_distance(p, r, percentile=95, **spacing),
            "assd_mm": lambda p, r: compute_average_surface_distance(p, r, symmetric=True, **spacing),
            "nsd": lambda p, r: compute_surface_dice(p, r, [TOLERANCE_MM], use_subvoxels=True, **spacing),
        }
        scores: Scores = {}
        for i in task["ids"]:
            pair = [torch.from_numpy(labels == i)[None, None] for labels in (prediction, reference)]
            for name, measure in measures.items():
                start = cpu_seconds()
                scores.setdefault(str(i), {})[name] = float(measure(*pair))
                parts[name] = parts.get(name, 0.0) + cpu_seconds() - start
        return scores

    return score


def surface_distance_scorer() -> Callable[..., Scores]:
    import surface_distance as sd

    def score(reference: np.ndarray, prediction: np.ndarray, task: Task, parts: Parts) -> Scores:
        scores = {}
        for i in task["ids"]:
            masks = reference == i, prediction == i
            found = sd.compute_surface_distances(*masks, task["spacing_mm"])
            scores[str(i)] = {
                "dice": float(sd.compute_dice_coefficient(*masks)),
                "hd95_weighted_mm": float(sd.compute_robust_hausdorff(found, 95)),
                "nsd": float(sd.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
            }
        return scores

    return score


def panoptica_scorer() -> Callable[..., Scores]:
    import panoptica
    from panoptica import InputType, NaiveThresholdMatching, Panoptica_Evaluator
    from panoptica.metrics import Metric

    # Its HD95, ASSD (the mean of two means) and NSD (over voxels, at the least spacing) are other definitions.
    measures = {
        "dice": Metric.DSC,
        "iou": Metric.IOU,
        "hd_mm": Metric.HD,
        "hd95_its_own": Metric.HD95,
        "assd_its_own": Metric.ASSD,
        "nsd_its_own": Metric.NSD,
        "centre_distance_mm": Metric.CEDI,
    }

    def score_organs(reference: np.ndarray, prediction: np.ndarray, task: Task) -> Scores:
        evaluator = Panoptica_Evaluator(
            expected_input=InputType.MATCHED_INSTANCE,
            instance_metrics=list(measures.values()),
            global_metrics=[],
        )
        found = evaluator.evaluate(prediction, reference, voxelspacing=tuple(task["spacing_mm"]))["ungrouped"]
        every = panoptica.metrics.MetricMode.ALL
        values = {name: found.get_list_metric(metric, mode=every) for name, metric in measures.items()}
        return {str(i): {name: float(v[n]) for name, v in values.items()} for n, i in enumerate(task["ids"])}

    def score_lesions(reference: np.ndarray, prediction: np.ndarray, task: Task) -> Scores:
        evaluator = Panoptica_Evaluator(
            expected_input=InputType.SEMANTIC,
            instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
            instance_matcher=NaiveThresholdMatching(matching_threshold=LESION_OVERLAP),
            instance_metrics=[Metric.DSC, Metric.HD, Metric.HD95, Metric.ASSD, Metric.NSD],
            global_metrics=[],
        )
        found = evaluator.evaluate(prediction, reference, voxelspacing=tuple(task["spacing_mm"]))["ungrouped"]
        counts = {"detected": found.tp, "false_positives": found.fp, "missed": found.fn}
        return {"1": {**counts, "lesion_dice": found.sq_dsc}}

    def score(reference: np.ndarray, prediction: np.ndarray, task: Task, parts: Parts) -> Scores:
        return (score_lesions if task["lesions"] else score_organs)(reference, prediction, task)

    return score


# Masks.


def make_organs(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """One deformed ellipsoid a label on a jittered grid, sizes over a factor of 6; the later label wins."""
    random = np.random.default_rng(case["seed"])
    shape = np.array(case["shape"])
    centres = grid_points(shape, case["labels"], random)
    room = (shape.prod() / case["labels"]) ** (1 / 3)
    pair = np.zeros((2, *shape), np.uint8)
    for label, centre in enumerate(centres, start=1):
        radii = room * np.exp(random.uniform(np.log(0.1), np.log(0.6))) * random.uniform(0.7, 1.3, 3)
        draw_pair(pair, label, centre, np.maximum(radii, 3.0), random, error_voxels=case.get("error_voxels", 1.0))
    return pair[0], pair[1]


def make_lesions(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Small blobs of one label; a fifth of them only in the reference, a fifth only in the prediction."""
    random = np.random.default_rng(case["seed"])
    shape = np.array(case["shape"])
    pair = np.zeros((2, *shape), np.uint8)
    for number, centre in enumerate(grid_points(shape, case["lesions"], random)):
        drawn = pair.copy()
        draw_pair(drawn, 1, centre, random.uniform(2.0, 10.0, 3), random)
        sides = {0: [0], 1: [1]}.get(number % 5, [0, 1])
        pair[sides] = drawn[sides]
    return pair[0], pair[1]


def grid_points(shape: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` of the middles of a grid of boxes, each moved by up to a tenth of its box."""
    step = (shape.prod() / count) ** (1 / 3)
    parts = np.ceil(shape / step).astype(int)
    middles = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) * s / n for n, s in zip(parts, shape, strict=True)]), -1)
    chosen = random.permutation(middles.reshape(-1, 3))[:count]
    return chosen + random.uniform(-0.1, 0.1, chosen.shape) * shape / parts


def draw_pair(
    pair: np.ndarray,
    label: int,
    centre: np.ndarray,
    radii: np.ndarray,
    random: np.random.Generator,
    *,
    error_voxels: float = 1.0,
) -> None:
    """Draw a bumpy ellipsoid into the reference, and into the prediction with about ``error_voxels`` of error."""
    low = np.maximum(np.floor(centre - 1.6 * radii - 4), 0).astype(int)
    high = np.minimum(np.ceil(centre + 1.6 * radii + 4), pair.shape[1:]).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    size = tuple(high - low)
    bumps = 0.12 * noise(size, 0.5 * radii.mean(), random)
    error = error_voxels * noise(size, 0.25 * radii.mean(), random) / radii.mean()
    moved = error_voxels * random.uniform(-1, 1, 3)
    for side, shift, extra in ((0, np.zeros(3), 0.0), (1, moved, error)):
        axes = [(np.arange(a, b) - c - s) / r for a, b, c, s, r in zip(low, high, centre, shift, radii, strict=True)]
        radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
        pair[side][box][radius < 1 + bumps + extra] = label


def noise(shape: tuple[int, ...], scale: float, random: np.random.Generator) -> np.ndarray:
    """Smooth noise of standard deviation 1 that changes over about ``scale`` voxels."""
    coarse = random.standard_normal([int(n / scale) + 4 for n in shape]).astype(np.float32)
    coarse /= coarse.std()
    axes = [np.linspace(1, n - 2, m, dtype=np.float32) for n, m in zip(coarse.shape, shape, strict=True)]
    return ndimage.map_coordinates(coarse, np.meshgrid(*axes, indexing="ij"), order=1)


# Tables.


def disagreements(scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """Greatest difference from each peer, for the measures that both compute by one definition."""
    found = []
    for tool, theirs in scores.items():
        own = scores["medseg3d"]
        for name in dict.fromkeys(name for values in theirs.values() for name in values):
            differences = [abs(values[name] - own[i][name]) for i, values in theirs.items() if name in own.get(i, {})]
            if tool != "medseg3d" and differences:
                found.append({"peer": tool, "measure": name, "labels": len(differences), "largest": max(differences)})
    return found


def make_table(content: dict[str, Any]) -> str:
    lines = [
        f"Processor seconds and memory to score one case; {content['machine']}; best of {content['rounds']} rounds in "
        f"which the tools took turns; NSD at {content['tolerance_mm']} mm.",
        "",
    ]
    for case in content["cases"]:
        lines += [f"**{case['case']}**", "", *time_lines(case), "", *disagreement_lines(case), ""]
    return "\n".join(lines)


WHAT = {
    "medseg3d": "every measure of `score_labels`",
    "MONAI": "Dice, HD95, ASSD, NSD (sub-voxel)",
    "surface-distance": "Dice, HD95 and NSD by area",
    "panoptica": "Dice, IoU, HD, HD95, MASD, NSD over points, centre distance",
}

WHAT_OF_LESIONS = {
    "medseg3d": "every measure of `score_labels`; matched lesions and their Dice",
    "panoptica": "matched lesions and their Dice, HD, HD95, MASD, NSD over points",
}


def time_lines(case: dict[str, Any]) -> list[str]:
    own = case["tools"]["medseg3d"]["seconds"]
    lines = ["| tool | computes | CPU seconds | × medseg3d | peak memory added, MiB |", "|---|---|---|---|---|"]
    for tool, found in case["tools"].items():
        what = (WHAT_OF_LESIONS if "lesions" in case["case"] else WHAT)[tool]
        scaled = case["ids"] != found["labels_scored"] and f" (scaled up from {found['labels_scored']} labels)"
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["parts"].items())
        seconds = f"{found['seconds']:.2f}{scaled or ''}{f' ({parts})' if parts else ''}"
        ratio, memory = f"{found['seconds'] / own:.1f}", f"{found['peak_mib']:.0f}"
        lines.append(f"| {tool} {found['version']} | {what} | {seconds} | {ratio} | {memory} |")
    return lines


def disagreement_lines(case: dict[str, Any]) -> list[str]:
    lines = ["| measure | peer | labels compared | largest difference |", "|---|---|---|---|"]
    for row in sorted(case["disagreement"], key=lambda r: r["measure"]):
        largest = "NaN" if math.isnan(row["largest"]) else f"{row['largest']:.1e}"
        lines.append(f"| {row['measure']} | {row['peer']} | {row['labels']} | {largest} |")
    return lines


if __name__ == "__main__":
    main()
