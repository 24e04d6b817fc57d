"""Plans of medseg3d beside nnU-Net's own, for the same data.

Two environments: this project's, and one with nnunetv2, which the script calls for fingerprint and plan::

    python -m venv nnunet-venv && nnunet-venv/bin/python -m pip install torch nnunetv2
    python scripts/benchmarks/nnunet_plans.py --nnunet-python nnunet-venv/bin/python --work work \
        --datalist hippocampus=DATA/mri_hippocampus/dataset.json --datalist sarcoma=sarcoma.json

Each data list is planned by nnU-Net's ``DatasetFingerprintExtractor`` and ``ExperimentPlanner`` with 8 GB, and by
medseg3d twice: with nnU-Net's constants for the memory, where patch and network must be equal, and with the memory that
is measured on the network. ``--record`` writes nnU-Net's answers, with the spacing and size of every case, to the file
that ``tests/plan`` compares with. ``IMAGINED`` are data sets of numbers alone, for rules that the real ones do not
reach.

nnU-Net takes axes as files store them: its copies are written in RAS order first, as the bundles do when they load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORY_GB = 8
DATASET_ID = 800
RECORD = Path("tests/plan/data/nnunet_plans.json")
RESULTS = Path("scripts/benchmarks/results/nnunet_plans.md")

# Spacings (mm) and sizes of cases as nnU-Net stores them: foot-head, back-front, left-right.
IMAGINED: dict[str, dict[str, Any]] = {
    "thick_slices": {  # short-axis cine MRI of the heart: ten slices of 5 to 10 mm
        "spacings": [[10, 1.5, 1.5]] * 6 + [[5, 1.3, 1.3]] * 3 + [[7, 1.6, 1.6]] * 2,
        "shapes": [[10, 220, 216]] * 6 + [[14, 256, 256]] * 3 + [[9, 200, 180]] * 2,
        "channels": ["MRI"],
        "labels": ["rv", "myocardium", "lv"],
    },
    "large_ct": {
        "spacings": [[1.0, 0.78, 0.78]] * 20 + [[2.5, 0.7, 0.7]] * 11 + [[0.8, 0.9, 0.9]] * 9,
        "shapes": [[520, 512, 512]] * 20 + [[210, 512, 512]] * 11 + [[800, 512, 512]] * 9,
        "channels": ["CT"],
        "labels": ["liver", "tumour"],
    },
    "large_anisotropic_ct": {
        "spacings": [[5.0, 0.75, 0.75]] * 15 + [[3.0, 0.8, 0.8]] * 15,
        "shapes": [[95, 512, 512]] * 15 + [[160, 512, 512]] * 15,
        "channels": ["CT"],
        "labels": ["kidney", "tumour", "cyst"],
    },
    "brain_four_channels": {
        "spacings": [[1.0, 1.0, 1.0]] * 60,
        "shapes": [[140, 172, 137]] * 30 + [[138, 169, 138]] * 30,
        "channels": ["T1", "T1ce", "T2", "FLAIR"],
        "labels": ["edema", "core", "enhancing"],
        "kept": 0.25,
    },
    "sagittal_knee": {  # slices from left to right
        "spacings": [[0.4, 0.4, 3.0]] * 12,
        "shapes": [[384, 384, 28]] * 12,
        "channels": ["PD"],
        "labels": ["femur", "cartilage"],
    },
    "single_case": {
        "spacings": [[2.0, 0.9, 0.9]],
        "shapes": [[61, 301, 277]],
        "channels": ["CT"],
        "labels": ["lesion"],
    },
    "one_slice": {
        "spacings": [[1.0, 0.5, 0.5]] * 30,
        "shapes": [[1, 640, 480]] * 30,
        "channels": ["XR"],
        "labels": ["lung"],
    },
    "small_and_odd": {
        "spacings": [[0.9, 0.6, 0.6]] * 7 + [[1.1, 0.6, 0.6]] * 6,
        "shapes": [[33, 71, 50]] * 7 + [[21, 64, 49]] * 6,
        "channels": ["MRI"],
        "labels": ["a", "b"],
    },
}


def main() -> None:
    """Plan every data set with both, and print them side by side."""
    options = parse_options()
    if options.peer:
        return plan_as_peer(options.peer)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if options.recorded else ask_nnunet(options)
    table = compare(record, measuring=not options.without_measuring)
    sys.stdout.write(table)
    if options.record:
        write_record(record)
        RESULTS.write_text(table, encoding="utf-8")
    return None


def ask_nnunet(options: argparse.Namespace) -> dict[str, Any]:
    """nnU-Net's plans of the data lists and of the imagined data sets."""
    given = dict(text.partition("=")[::2] for text in options.datalist)
    options.work.mkdir(parents=True, exist_ok=True)
    for number, (name, path) in enumerate(given.items()):
        write_raw_dataset(options.work, f"Dataset{DATASET_ID + number}_{name}", Path(path))
    first = DATASET_ID + len(given)
    for number, (name, facts) in enumerate(IMAGINED.items()):
        write_imagined(options.work, f"Dataset{first + number}_{name}", facts)
    names = [*given, *IMAGINED]
    subprocess.run([options.nnunet_python, __file__, "--peer", options.work], check=True, stdout=subprocess.DEVNULL)
    record = {"memory_gb": MEMORY_GB, **json.loads((options.work / "peer.json").read_text(encoding="utf-8"))}
    record["data_sets"] = {name: record["data_sets"][name] for name in names}
    for name in given:
        record["data_sets"][name]["fingerprint_equal"] = fingerprints_equal(record["data_sets"][name], given[name])
    return record


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", action="append", default=[], help="NAME=PATH of a data list; repeat it")
    parser.add_argument("--work", type=Path, default=Path("nnunet-plans"), help="folder for nnU-Net's copies")
    parser.add_argument("--nnunet-python", type=Path, default=Path("nnunet-venv/bin/python"))
    parser.add_argument("--record", action="store_true", help=f"write {RECORD} and {RESULTS}")
    parser.add_argument("--recorded", action="store_true", help="take nnU-Net's answers from the record")
    parser.add_argument("--without-measuring", action="store_true", help="nnU-Net's constants alone: in seconds")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- what nnU-Net reads --------------------------------------------------------------------------------------------


def write_raw_dataset(work: Path, folder: str, path: Path) -> None:
    """nnU-Net's raw data set of a data list, in RAS order."""
    import nibabel

    from medseg3d.datalist import read_datalist

    datalist, raw = read_datalist(path), work / "raw" / folder
    if (raw / "dataset.json").is_file():
        return
    for case in datalist.training:
        for channel, image in enumerate(case.image):
            canonical = nibabel.as_closest_canonical(nibabel.load(image))
            save(canonical.dataobj, canonical.affine, raw / "imagesTr" / f"{case.case}_{channel:04d}.nii.gz")
        label = nibabel.as_closest_canonical(nibabel.load(case.label))
        save(label.dataobj, label.affine, raw / "labelsTr" / f"{case.case}.nii.gz", as_labels=True)
    write_dataset(raw, channels=datalist.channels, labels=datalist.labels, cases=len(datalist.training))


def save(voxels: Any, affine: Any, path: Path, *, as_labels: bool = False) -> None:
    import nibabel
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asanyarray(voxels)
    kind = np.uint8 if as_labels else np.float32 if array.dtype.kind == "f" else array.dtype
    nibabel.save(nibabel.Nifti1Image(array.astype(kind), affine), path)


def write_imagined(work: Path, folder: str, facts: dict[str, Any]) -> None:
    """nnU-Net's fingerprint of a data set that has no images."""
    preprocessed = work / "preprocessed" / folder
    preprocessed.mkdir(parents=True, exist_ok=True)
    labels = {name: i for i, name in enumerate(facts["labels"], start=1)}
    cases = len(facts["spacings"])
    write_dataset(work / "raw" / folder, channels=facts["channels"], labels=labels, cases=cases)
    intensities = {"mean": 0.0, "median": 0.0, "std": 1.0, "min": 0.0, "max": 0.0}
    fingerprint = {
        "spacings": [[float(mm) for mm in case] for case in facts["spacings"]],
        "shapes_after_crop": facts["shapes"],
        "foreground_intensity_properties_per_channel": dict.fromkeys(
            map(str, range(len(facts["channels"]))), intensities
        ),
        "median_relative_size_after_cropping": facts.get("kept", 1.0),
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")


def write_dataset(raw: Path, *, channels: Any, labels: Any, cases: int) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "imagesTr").mkdir(exist_ok=True)
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, **labels},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if not any((raw / "imagesTr").iterdir()):
        # nnU-Net asks for the name of one image, and with a given reader never opens it.
        content["dataset"] = {"none": {"images": ["none_0000.nii.gz"], "label": "none.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


# --- nnU-Net, in its own environment -------------------------------------------------------------------------------


def plan_as_peer(work: Path) -> None:
    """Fingerprints and plans of every data set in ``work``, as ``peer.json``."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    import importlib.metadata

    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    found = {}
    for raw in sorted((work / "raw").iterdir()):
        fingerprint = work / "preprocessed" / raw.name / "dataset_fingerprint.json"
        if not fingerprint.is_file():
            DatasetFingerprintExtractor(raw.name, num_processes=1).run()
        plans = ExperimentPlanner(raw.name, gpu_memory_target_in_gb=MEMORY_GB).plan_experiment()
        found[raw.name.partition("_")[2]] = recorded(
            json.loads(fingerprint.read_text()), plans, json.loads((raw / "dataset.json").read_text())
        )
    versions = {"nnunetv2": importlib.metadata.version("nnunetv2")}
    (work / "peer.json").write_text(json.dumps({"versions": versions, "data_sets": found}), encoding="utf-8")


def recorded(fingerprint: dict[str, Any], plans: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """What the tests compare with."""
    configurations = {}
    for name, plan in plans["configurations"].items():
        if "patch_size" not in plan:
            continue  # the cascade inherits from full resolution
        network = plan["architecture"]["arch_kwargs"]
        configurations[name] = {
            "spacing": plan["spacing"],
            "median_shape": plan["median_image_size_in_voxels"],
            "patch_size": plan["patch_size"],
            "batch_size": plan["batch_size"],
            "batch_dice": plan["batch_dice"],
            "filters": network["features_per_stage"],
            "kernels": network["kernel_sizes"],
            "strides": network["strides"],
            "normalization": plan["normalization_schemes"],
            "mask_used": plan["use_mask_for_norm"],
        }
    return {
        "channels": list(dataset["channel_names"].values()),
        "labels": {name: i for name, i in dataset["labels"].items() if name != "background"},
        "spacings": fingerprint["spacings"],
        "shapes_after_crop": fingerprint["shapes_after_crop"],
        "kept": fingerprint["median_relative_size_after_cropping"],
        "intensities": list(fingerprint["foreground_intensity_properties_per_channel"].values()),
        "transpose_forward": plans["transpose_forward"],
        "plans": configurations,
    }


def write_record(record: dict[str, Any]) -> None:
    """A line a case, so that the file stays small and a change of it can be read."""
    text = json.dumps(record, indent=1)
    for _ in range(3):  # innermost lists of numbers in one line
        text = joined(text)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(text + "\n", encoding="utf-8")


def joined(text: str) -> str:
    import re

    return re.sub(r"\[\s+([-\d.,\s\[\]e]+?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)


# --- both, side by side --------------------------------------------------------------------------------------------


def fingerprints_equal(entry: dict[str, Any], datalist: str) -> bool:
    """Whether medseg3d reads the same spacings and cropped sizes from the files as nnU-Net."""
    import numpy as np

    from medseg3d.datalist import read_datalist
    from medseg3d.plan import extract_fingerprint

    ours = extract_fingerprint(read_datalist(datalist))
    shapes = sorted(map(tuple, np.array(entry["shapes_after_crop"])[:, ::-1].tolist()))
    spacings = sorted(map(tuple, np.round(np.array(entry["spacings"])[:, ::-1], 4).tolist()))
    return shapes == sorted(map(tuple, ours.cropped_shapes.tolist())) and spacings == sorted(
        map(tuple, np.round(ours.spacings_mm, 4).tolist())
    )


def compare(record: dict[str, Any], *, measuring: bool = True) -> str:
    """A Markdown table: a row a configuration."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "plan"))
    from recorded_plans import NAMES, ours, planned_like, theirs

    lines = [
        "# Plans beside nnU-Net's",
        "",
        f"`nnunet_plans.py`, nnunetv2 {record['versions']['nnunetv2']}, {record['memory_gb']} GB. Axes are left-right, "
        "back-front, foot-head.",
        "*Constants*: medseg3d with nnU-Net's constants for the memory; *measured*: with the memory that its own",
        "network takes, which is what `medseg3d plan` does. *Same*: strides, kernels, channels of every stage.",
        "",
        "| data set | configuration | spacing, mm | patch of nnU-Net | constants | measured | stages | same | batch of "
        "nnU-Net | constants | measured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in record["data_sets"].items():
        plans = [planned_like(entry, memory="nnunet")]
        if (
            measuring and "fingerprint_equal" in entry
        ):  # it has images; what is measured of the others, the slow tests hold
            plans.append(planned_like(entry, memory="measured"))
        for theirs_, ours_ in NAMES.items():
            peer = theirs(entry, theirs_) if theirs_ in entry["plans"] else None
            lines.append(row([name, ours_], peer, *(shape_of(plan, ours_, ours) for plan in plans)))
    lines += ["", *equal_fingerprints(record)]
    return "\n".join(line for line in lines if line is not None) + "\n"


def shape_of(plan: Any, name: str, ours: Any) -> Any:
    return ours(plan.configurations[name]) if name in plan.configurations else None


def row(cells: list[str], peer: Any, constants: Any, measured: Any = None) -> str | None:
    """One configuration; None where nobody has it."""
    shapes = (peer, constants, measured)
    if not any(shapes):
        return None
    cells.append(by(next(shape for shape in shapes if shape).spacing))
    cells += [by(shape.patch_size) if shape else "–" for shape in shapes]
    cells.append("/".join(str(len(shape.strides)) if shape else "–" for shape in shapes))
    networks = [(s.strides, s.kernels, s.filters) if s else None for s in shapes]
    cells.append("/".join("–" if n is None else "yes" if n == networks[0] else "no" for n in networks[1:]))
    cells += [str(shape.batch_size) if shape else "–" for shape in shapes]
    return f"| {' | '.join(cells)} |"


def by(values: Any) -> str:
    return "×".join(f"{value:.4g}" for value in values)


def equal_fingerprints(record: dict[str, Any]) -> list[str]:
    found = {
        name: entry["fingerprint_equal"] for name, entry in record["data_sets"].items() if "fingerprint_equal" in entry
    }
    return [f"Spacings and cropped sizes of every case read alike by both: {found}."] if found else []


if __name__ == "__main__":
    main()
