"""What is made of the sarcoma study's masks: DICOM read back, a picture, a summary."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_HU, WINDOW_SUV = (-160.0, 240.0), (0.0, 10.0)
COLOURS = {"reference": "#FFFFFF", "ct_pet": "#E69F00", "ct": "#56B4E9"}


# DICOM ---------------------------------------------------------------------------------------------------------------


def read_back(dicom: Path, masks: Path, arm: str) -> Iterator[dict[str, Any]]:
    """A row an object: whether its mask on the original CT's grid is the NIfTI's, and what it refers to.

    Errors of the validator that the CT's own files have too are the data's: the object copies patient and study.
    """
    from medseg3d.dicom import read_rtstruct, read_seg
    from medseg3d.inference import find_cases

    for case in find_cases(dicom, modality="CT"):
        name, grid = case["case"], case["image"].grid
        wanted = _voxels(masks / f"{name}.nii.gz") > 0
        images = {ref.sop_instance_uid for ref in grid.slices}
        inherited = set(_dciodvfy(grid.slices[0].file.path) or ())
        for kind, read in (("seg", read_seg), ("rtstruct", read_rtstruct)):
            path = masks / f"{name}.{kind}.dcm"
            found = np.zeros(grid.shape, bool)
            for segment in read(path, grid).segments:
                found |= segment.mask
            references, errors = _referenced_images(path), _dciodvfy(path)
            yield {
                "arm": arm,
                "case": name,
                "object": kind,
                "equal": bool(np.array_equal(found, wanted)),
                "voxels": int(wanted.sum()),
                "referenced_images": len(references & images),
                "foreign_references": len(references - images),
                "dciodvfy_errors": None if errors is None else [line for line in errors if line not in inherited],
            }


def _referenced_images(path: Path) -> set[str]:
    import pydicom

    dataset = pydicom.dcmread(path)
    image_classes = {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"}  # CT, enhanced CT
    return {
        item.ReferencedSOPInstanceUID
        for item in _items(dataset)
        if "ReferencedSOPInstanceUID" in item and item.get("ReferencedSOPClassUID") in image_classes
    }


def _items(dataset: Any) -> Iterator[Any]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _dciodvfy(path: Path) -> list[str] | None:
    """Errors that the validator of dicom3tools prints; None where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        return None
    result = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    return [line for line in result.stderr.splitlines() if line.startswith("Error")]


# Picture -------------------------------------------------------------------------------------------------------------


def draw(datalist: Path, masks: Mapping[str, Path], titles: Mapping[str, str], path: Path, *, scores: Path) -> None:
    """CT, PET, reference and predictions of the best, the middle and the worst patient of the first arm.

    The plane is the axial one with the largest area of the reference.
    """
    from matplotlib.figure import Figure

    from medseg3d.datalist import training_items

    items = {item["case"]: item for item in training_items(datalist, fold=-1)}
    dice = {row["case"]: float(row["dice"]) for row in _rows(scores)}
    ranked = sorted(dice, key=lambda case: -dice[case])
    shown = {"best": ranked[0], "middle": ranked[len(ranked) // 2], "worst": ranked[-1]}
    figure = Figure(figsize=(12.0, 3.1 * len(shown) + 0.3), dpi=100, facecolor="black", layout="constrained")
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for row, (which, case) in zip(axes, shown.items(), strict=True):
        _draw_case(row, items[case], {name: folder / f"{case}.nii.gz" for name, folder in masks.items()}, titles)
        row[0].set_ylabel(f"{which}: Dice {dice[case]:.2f}", color="white")
    for axis, title in zip(axes[0], ("CT", "PET (SUV)", *titles.values()), strict=True):
        axis.set_title(title, color="white")
    figure.savefig(path)


def _draw_case(axes: Any, item: Mapping[str, Any], masks: Mapping[str, Path], titles: Mapping[str, str]) -> None:
    reference, spacing = _ras(item["label"])
    k = int(np.argmax(reference.sum(axis=(0, 1))))
    ct, pet = (_ras(path)[0][:, :, k].T for path in item["image"])
    low, high = WINDOW_HU
    pictures = [(ct, "gray", low, high), (pet, "inferno", *WINDOW_SUV), *[(ct, "gray", low, high)] * len(titles)]
    aspect = spacing[1] / spacing[0]
    for axis, (voxels, colours, low, high) in zip(axes, pictures, strict=True):
        # Seen from the feet, as radiologists do: the patient's right is on the left.
        axis.imshow(voxels[:, ::-1], cmap=colours, vmin=low, vmax=high, origin="lower", aspect=aspect)
        _outline(axis, reference[:, :, k], COLOURS["reference"])
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, name in zip(axes[2:], titles, strict=True):
        _outline(axis, _ras(masks[name])[0][:, :, k], COLOURS[name])


def _outline(axis: Any, mask: np.ndarray, colour: str) -> None:
    if mask.any():
        axis.contour(mask.T[:, ::-1], levels=[0.5], colors=colour, linewidths=1.2)


def _ras(path: str | Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    import nibabel

    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    x, y, z = (float(size) for size in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj, dtype=np.float32), (x, y, z)


def _voxels(path: Path) -> np.ndarray:
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj)


# Summary -------------------------------------------------------------------------------------------------------------

METRICS = {"dice": ("Dice", "{:.3f}"), "volume_ml": ("volume ml", "{:.0f}"), "hd95_mm": ("HD95 mm", "{:.1f}")}
COMPARED = {
    "dice": ("Dice", "{:+.3f}"),
    "absolute_volume_difference_ml": ("error of the volume, ml", "{:+.1f}"),
    "hd95_mm": ("HD95, mm", "{:+.1f}"),
}


def summarise(out: Path, titles: Mapping[str, str]) -> str:
    """The study's results as Markdown: a row a patient, the means, and what PET adds."""
    tables = {name: {row["case"]: row for row in _rows(out / "evaluation" / name / "cases.csv")} for name in titles}
    columns = [(name, metric) for metric in METRICS for name in titles]
    head = ["patient", "tumour ml", *(f"{METRICS[metric][0]}, {titles[name]}" for name, metric in columns)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for case, row in sorted(next(iter(tables.values())).items()):
        cells = [METRICS[metric][1].format(float(tables[name][case][metric])) for name, metric in columns]
        lines.append("| " + " | ".join([row["patient"], f"{float(row['reference_ml']):.0f}", *cells]) + " |")
    lines.append("")
    for name, table in tables.items():
        missed = sum(row["status"] == "missed" for row in table.values())
        lines.append(f"- {titles[name]}: {_means(out / 'evaluation' / name / 'summary.json')}; "
                     f"{missed} of {len(table)} tumours missed")  # fmt: skip
    return "\n".join([*lines, *_differences(out / "comparison" / "comparison.json")]) + "\n"


def _means(path: Path) -> str:
    """Mean Dice and median HD95 with their intervals."""
    metrics = json.loads(path.read_text(encoding="utf-8"))["labels"]["tumour"]["metrics"]
    dice, hd95 = metrics["dice"], metrics["hd95_mm"]
    return (
        f"mean Dice {_number(dice['mean'], '{:.3f}')} {_interval(dice['interval_mean'], '{:.3f}')}, "
        f"median HD95 {_number(hd95['median'], '{:.1f}')} mm {_interval(hd95['interval_median'], '{:.1f}')}"
    )


def _differences(path: Path) -> Iterator[str]:
    """What PET adds: paired differences with their intervals."""
    from medseg3d.report.pairs import shown_difference

    content = json.loads(path.read_text(encoding="utf-8"))
    for pair in content["pairs"]:
        if pair["metric"] in COMPARED:
            what, form = COMPARED[pair["metric"]]
            shown = shown_difference(pair)
            yield (
                f"- {pair['a']} minus {pair['b']}, {what}: {shown.kind} {_number(shown.value, form)} "
                f"{_interval(shown.bounds, form)}; better in {pair['wins_a']}, worse in {pair['wins_b']} of {pair['n']}"
            )


def _number(value: float | None, form: str) -> str:
    return "∞" if value is None else form.format(value)


def _interval(bounds: Any, form: str) -> str:
    return "" if bounds is None else f"({_number(bounds[0], form)} to {_number(bounds[1], form)})"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
