"""DICOM to NIfTI: medseg3d beside dcm2niix, dicom2nifti and SimpleITK, seconds and peak memory, in one run.

Synthetic CT series of 512×512 slices, uncompressed and JPEG 2000 (lossless). Each conversion is a process of its own,
from its start to its end, as a user runs it; all write uncompressed ``.nii``. The tools take turns; before the rounds
that count, each runs once (files are in the page cache, bytecode is compiled). The volumes are compared at the end:
a fast wrong answer does not count. dicom2nifti lives in an environment of its own::

    python -m venv peers-venv && peers-venv/bin/python -m pip install -r scripts/benchmarks/peers.txt
    .venv/bin/python scripts/benchmarks/bench_dicom.py --peers-python peers-venv/bin/python

On a machine with other work, compare the seconds of the processor. It takes about twenty minutes on 2 cores, and 3 GB
of disk in ``--work``; series that are there are used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

HERE = Path(__file__).resolve().parent
SIZE = 512
SPACING_MM, STEP_MM = 0.75, 1.25
# Different images in a series, which repeat: encoding a thousand would take longer than the benchmark.
DISTINCT = 24

SIMPLEITK = """
import sys
import SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
sitk.WriteImage(reader.Execute(), sys.argv[2] + "/volume.nii")
"""
DICOM2NIFTI = """
import sys
import dicom2nifti
dicom2nifti.convert_directory(sys.argv[1], sys.argv[2], compression=False, reorient=False)
"""

# The kernel hands over the peak of a process with its exit status; what the parent holds counts as the child's, so the
# parent is a small process of its own. Where a tool decodes in several processes, the proportional shares (PSS) of all
# of them are added up, every 20 ms of the round that warms up.
LAUNCHER = """
import json, os, subprocess, sys, tempfile, time

def tree(pid):
    try:
        children = open(f"/proc/{pid}/task/{pid}/children").read().split()
    except OSError:
        return
    yield pid
    for child in children:
        yield from tree(child)

def held_mb(pid):
    total = 0
    for member in tree(pid):
        try:
            with open(f"/proc/{member}/smaps_rollup") as lines:
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            pass
    return total / 1024

sampled = sys.argv[1] == "sampled"
peak_mb = 0.0
with tempfile.TemporaryFile() as said:
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[2:], stdout=said, stderr=subprocess.STDOUT)
    while sampled and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak_mb = max(peak_mb, held_mb(process.pid))
        time.sleep(0.02)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    said.seek(0)
    text = said.read().decode(errors="replace")[-1000:]
peak_mb = max(peak_mb, usage.ru_maxrss / 1024)
cpu_seconds = usage.ru_utime + usage.ru_stime
print(json.dumps([seconds, cpu_seconds, peak_mb, os.waitstatus_to_exitcode(status), text]))
"""


@dataclass(frozen=True)
class Run:
    """One conversion: seconds from start to end, of the processor, and the most memory that its processes held."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Tool:
    name: str
    version: str
    command: Callable[[Path, Path], list[str]]


def main() -> None:
    options = parse_options()
    tools = make_tools(options)
    content: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.system()}",
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "rounds": options.rounds,
        "rounds_compressed": options.rounds_compressed,
        "versions": {tool.name: tool.version for tool in tools},
        "series": [],
    }
    for slices in options.slices:
        for syntax in (ExplicitVRLittleEndian, JPEG2000Lossless):
            folder = make_series(options.work, slices, syntax)
            content["series"].append(measure(folder, slices, syntax, tools, options))
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    table = make_table(content)
    options.out.with_suffix(".md").write_text(table)
    print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[300, 1000], help="length of the series")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tool that count")
    parser.add_argument("--rounds-compressed", type=int, default=3, help="the same for JPEG 2000, which takes longer")
    parser.add_argument("--peers-python", type=Path, default=Path("peers-venv/bin/python"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench_dicom"))
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "dicom", help="table goes to OUT.md and OUT.json"
    )
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def make_tools(options: argparse.Namespace) -> list[Tool]:
    peers = options.peers_python
    asked = "from importlib.metadata import version; print(version('dcm2niix'), version('dicom2nifti'))"
    found = subprocess.run([str(peers), "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    dcm2niix = str(peers.parent / "dcm2niix")
    return [
        Tool(
            "medseg3d",
            version("medseg3d"),
            lambda series, out: [sys.executable, "-m", "medseg3d", "dicom", "convert", str(series), str(out),
                                 "--no-compress"],
        ),
        Tool("dcm2niix", found[0], lambda series, out: [dcm2niix, "-z", "n", "-o", str(out), str(series)]),
        Tool("SimpleITK", version("SimpleITK"), lambda series, out: [sys.executable, "-c", SIMPLEITK, str(series),
                                                                     str(out)]),
        Tool("dicom2nifti", found[1], lambda series, out: [str(peers), "-c", DICOM2NIFTI, str(series), str(out)]),
    ]  # fmt: skip


def measure(folder: Path, slices: int, syntax: UID, tools: list[Tool], options: argparse.Namespace) -> dict[str, Any]:
    runs: dict[str, list[Run]] = {tool.name: [] for tool in tools}
    failures: dict[str, str] = {}
    outputs = {tool.name: options.work / "out" / tool.name for tool in tools}
    rounds = options.rounds_compressed if syntax == JPEG2000Lossless else options.rounds
    for round_number in range(rounds + 1):
        for tool in tools:
            if tool.name in failures:
                continue
            try:
                run = timed(tool.command(folder, outputs[tool.name]), outputs[tool.name], sampled=not round_number)
            except ConversionError as error:
                failures[tool.name] = str(error)
                continue
            runs[tool.name].append(run)
            print(f"{folder.name}  {tool.name:12} {run.seconds:6.2f} s {run.peak_mb:7.0f} MB", flush=True)
    truth = expected_volume(slices)
    results = []
    for tool in tools:
        if tool.name in failures:
            results.append({"tool": tool.name, "failed": failures[tool.name]})
            continue
        counted = runs[tool.name][1:]  # the first one warmed up
        results.append(
            {
                "tool": tool.name,
                "seconds_median": statistics.median(run.seconds for run in counted),
                "seconds_best": min(run.seconds for run in counted),
                "cpu_seconds": statistics.median(run.cpu_seconds for run in counted),
                "peak_mb": max(run.peak_mb for run in runs[tool.name]),
                "voxels_right": is_right(outputs[tool.name], truth),
            }
        )
    shutil.rmtree(options.work / "out")
    return {"slices": slices, "transfer_syntax": syntax.name, "results": results}


class ConversionError(Exception):
    """A tool ended with an error, or wrote no volume."""


def timed(command: list[str], out: Path, *, sampled: bool) -> Run:
    """Run a command into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCHER, "sampled" if sampled else "timed", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, cpu_seconds, peak_mb, status, said = json.loads(launched.stdout)
    if status or not list(out.rglob("*.nii")):
        raise ConversionError(" ".join(said.split())[-200:] or f"exit status {status}")
    return Run(seconds, cpu_seconds, peak_mb)


# Series ---------------------------------------------------------------------------------------------------------------


def make_series(work: Path, slices: int, syntax: UID) -> Path:
    """Write the series unless it is there; files are named so that their order says nothing."""
    folder = work / f"{'jpeg2000' if syntax == JPEG2000Lossless else 'uncompressed'}_{slices}"
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    stored = [encoded(image, syntax) for image in images()]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(slices):
        dataset = slice_dataset(k, study, series, frame, syntax)
        dataset.PixelData = stored[k % DISTINCT]
        dataset["PixelData"].VR = "OB" if syntax == JPEG2000Lossless else "OW"
        dataset.save_as(unfinished / f"{dataset.SOPInstanceUID[-12:]}.dcm", enforce_file_format=True)
    unfinished.rename(folder)
    return folder


def images() -> Iterator[np.ndarray]:
    """CT-like slices (row, column), as they are stored: a body with organs and noise of 20 HU."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for number in range(DISTINCT):
        hu = np.full((SIZE, SIZE), -1000.0)
        hu[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = 40
        for cx, cy, radius, value in ((-0.35, -0.1, 0.25, -800), (0.35, -0.1, 0.25, -800), (0, 0.4, 0.1, 700)):
            hu[(x - cx) ** 2 + (y - cy) ** 2 < (radius * (1 - 0.01 * number)) ** 2] = value
        yield (hu + rng.normal(0, 20, hu.shape) + 1024).clip(0, 4095).astype(np.uint16)


def encoded(image: np.ndarray, syntax: UID) -> bytes:
    if syntax != JPEG2000Lossless:
        return image.tobytes()
    from openjpeg.utils import encode_array

    return encapsulate([encode_array(image, bits_stored=12, photometric_interpretation=2)])


def slice_dataset(k: int, study: UID, series: UID, frame: UID, syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.PatientName, dataset.PatientID = "Bench^Mark", "bench"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20240101"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "120000"
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription = "CT", "synthetic", "benchmark"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 2, k + 1, 1
    dataset.ImagePositionPatient = [-191.625, -191.625, -300 + k * STEP_MM]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [SPACING_MM, SPACING_MM], STEP_MM
    dataset.Rows = dataset.Columns = SIZE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    return dataset


def expected_volume(slices: int) -> nibabel.Nifti1Image:
    distinct = [image.T.astype(np.int16) - 1024 for image in images()]
    volume = np.stack([distinct[k % DISTINCT] for k in range(slices)], axis=-1)
    affine = np.diag([-SPACING_MM, -SPACING_MM, STEP_MM, 1.0])
    affine[:3, 3] = 191.625, 191.625, -300
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, affine))


def is_right(out: Path, truth: nibabel.Nifti1Image) -> bool:
    files = list(out.rglob("*.nii"))
    found = nibabel.as_closest_canonical(nibabel.load(files[0]))
    if len(files) != 1 or found.shape != truth.shape or not np.allclose(found.affine, truth.affine, atol=1e-3):
        return False
    # Slice by slice: a thousand slices in float64 would not fit.
    return all(np.array_equal(found.dataobj[..., k], truth.dataobj[..., k]) for k in range(truth.shape[2]))


# Table ----------------------------------------------------------------------------------------------------------------


def make_table(content: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    lines = [
        f"DICOM to uncompressed NIfTI, synthetic CT of {SIZE}×{SIZE} slices, {content['machine']}; median of "
        f"{content['rounds']} rounds ({content['rounds_compressed']} of JPEG 2000), whole process, warm; "
        f"load average at the start {content['load_average_at_start']}. {versions}.",
        "",
        "| slices | transfer syntax | tool | s | best s | medseg3d / it | CPU s | peak MB | voxels and affine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for series in content["series"]:
        own = series["results"][0].get("seconds_median", float("nan"))
        for row in series["results"]:
            start = f"| {series['slices']} | {series['transfer_syntax']} | {row['tool']} |"
            if "failed" in row:
                lines.append(f"{start} – | – | – | – | – | failed: {row['failed']} |")
                continue
            seconds = row["seconds_median"]
            lines.append(
                f"{start} {seconds:.2f} | {row['seconds_best']:.2f} | {own / seconds:.2f} | {row['cpu_seconds']:.2f} | "
                f"{row['peak_mb']:.0f} | {'right' if row['voxels_right'] else 'WRONG'} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
