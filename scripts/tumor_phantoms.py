"""Brain tumours with regions and without, with all channels and without each one, on synthetic brains.

The network of ``mri_tumor_segmentation`` is trained twice on the same phantoms, with the same seed and as many
iterations: with a sigmoid a region, and with a softmax over labels (``labels_softmax.yaml``). Each then segments
unseen brains with all four channels, and again with each channel missing. No test brain chose anything: the last epoch
answers::

    python scripts/tumor_phantoms.py runs/tumor

It takes about 20 minutes of one processor core. What is done is not repeated. ``tumor_results.md`` has the table,
``tumor.png`` some brains, ``comparison/report.html`` the two networks side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.evaluation import evaluate
from medseg3d.evaluation.comparison import compare_runs
from medseg3d.files import write_json
from medseg3d.phantom import TUMOUR_CHANNELS, TUMOUR_LABELS, TUMOUR_REGIONS, write_study

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "mri_tumor_segmentation"
CONFIGS = BUNDLE / "configs"
VARIANTS = {"regions": ["low_resolution"], "softmax": ["low_resolution", "labels_softmax"]}
SETTINGS = ["all channels", *(f"without {channel}" for channel in TUMOUR_CHANNELS)]


def main() -> None:
    options = parse_options()
    out: Path = options.out
    if not (out / "phantoms" / "dataset.json").is_file():
        write_study(out / "phantoms", modality="mri_tumor", cases=options.cases, test_cases=options.test_cases,
                    seed=options.seed, workers=options.workers, overwrite=True)  # fmt: skip
    for setting in SETTINGS:
        write_json(out / "lists" / f"{slug(setting)}.json", listed(out / "phantoms", setting))
    minutes = {variant: trained(options, variant) for variant in VARIANTS}
    rows = [scored(out, variant, setting) for variant in VARIANTS for setting in SETTINGS]
    folders = [out / variant / slug(SETTINGS[0]) for variant in VARIANTS]
    compare_runs(folders, output_dir=out / "comparison", names=list(VARIANTS))
    text = table(rows) + "\n\n" + "; ".join(f"{name}: trained in {m:.1f} minutes" for name, m in minutes.items())
    (out / "tumor_results.md").write_text(text + "\n")
    show(out, out / "tumor.png")
    print(text)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder for everything")
    parser.add_argument("--cases", type=int, default=32, help="brains to train on")
    parser.add_argument("--test-cases", type=int, default=12, help="brains to test on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=50, help="an epoch, of batch 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that make phantoms")
    return parser.parse_args()


def slug(setting: str) -> str:
    return setting.replace(" ", "_")


def listed(phantoms: Path, setting: str) -> dict[str, Any]:
    """The data list of the test brains, the channel that ``setting`` takes away being null."""
    content = json.loads((phantoms / "dataset.json").read_text())
    missing = setting.removeprefix("without ")
    for entry in content["testing"]:
        entry["image"] = [
            None if channel == missing else str((phantoms / path).resolve())
            for channel, path in zip(TUMOUR_CHANNELS, entry["image"], strict=True)
        ]
        entry["label"] = str((phantoms / entry["label"]).resolve())
    return content | {"training": []}


def trained(options: argparse.Namespace, variant: str) -> float:
    """Train on every brain of the training part, unless that is done; minutes it took."""
    run, files = options.out / variant / "run", ["train", *VARIANTS[variant]]
    record = options.out / variant / "minutes.json"
    if record.is_file():
        return float(json.loads(record.read_text())["minutes"])
    started = time.monotonic()
    overrides = {
        "bundle_root": BUNDLE, "dataset_dir": options.out / "phantoms", "output_dir": run, "fold": -1, "resume": True,
        "max_epochs": options.epochs, "iterations_per_epoch": options.iterations, "seed": options.seed,
    }  # fmt: skip
    typed = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    config = "[" + ",".join(f"'{CONFIGS / name}.yaml'" for name in files) + "]"
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", config, *typed], check=True
    )
    minutes = (time.monotonic() - started) / 60
    write_json(record, {"minutes": minutes})
    return minutes


def scored(out: Path, variant: str, setting: str) -> dict[str, Any]:
    """Segment and score the test brains with the channels that ``setting`` leaves; Dice and its interval a region."""
    from medseg3d.inference.run import run_bundle

    folder, datalist = out / variant / slug(setting), out / "lists" / f"{slug(setting)}.json"
    if not (folder / "summary.json").is_file():
        files = [CONFIGS / f"{name}.yaml" for name in VARIANTS[variant]]
        run_bundle(BUNDLE, datalist, folder, weights=out / variant / "run" / "best.pt", config_files=files)
        items = json.loads(datalist.read_text())["testing"]
        for item in items:
            item["image"] = [image for image in item["image"] if image]
        evaluate(items, folder, labels=TUMOUR_LABELS, regions=TUMOUR_REGIONS, name=f"{variant}, {setting}")
    summary = json.loads((folder / "summary.json").read_text())
    return {"variant": variant, "setting": setting} | {
        name: (dice["mean"], *(dice["interval_mean"] or (None, None)))
        for name, label in summary["labels"].items()
        if (dice := label["metrics"]["dice"])
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = [*TUMOUR_REGIONS, *TUMOUR_LABELS]
    lines = ["| network | channels | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for row in rows:
        cells = [cell(*row.get(name, (None, None, None))) for name in names]
        lines.append(f"| {row['variant']} | {row['setting']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean and its interval, as far as they are known: very few brains have none."""
    if mean is None:
        return "–"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def show(out: Path, path: Path) -> None:
    """A brain in T1c and FLAIR, its truth, and the masks of both networks with all channels and without T1c."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    masks = {
        f"{variant}\n{setting}": out / variant / slug(setting)
        for variant in VARIANTS
        for setting in ("all channels", "without T1c", "without FLAIR")
    }
    entries = listed(out / "phantoms", SETTINGS[0])["testing"][:4]
    figure, axes = plt.subplots(len(entries), 3 + len(masks), figsize=(2.1 * (3 + len(masks)), 2.6 * len(entries)))
    for row, entry in zip(axes, entries, strict=True):
        truth = oriented(entry["label"])
        level = int(np.argmax(np.isin(truth, TUMOUR_REGIONS["tumour_core"]).sum(axis=(0, 1))))
        pictures = {"T1c": oriented(entry["image"][1]), "FLAIR": oriented(entry["image"][3]), "truth": truth}
        pictures |= {name: oriented(folder / f"{entry['case']}.nii.gz") for name, folder in masks.items()}
        for axis, (name, voxels) in zip(row, pictures.items(), strict=True):
            grey = name in ("T1c", "FLAIR")
            top = voxels.max() if grey else max(TUMOUR_LABELS.values())
            colours = "gray" if grey else "viridis"
            axis.imshow(voxels[:, :, level].T, cmap=colours, origin="lower", vmin=0, vmax=top, interpolation="nearest")
            axis.set_title(name, fontsize=8)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def oriented(path: str | Path) -> NDArray[Any]:
    import nibabel

    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


if __name__ == "__main__":
    main()
