"""Damaged files: a clear error or a right volume, never a traceback, a hang, or more than 2 GiB of memory.

Right: a slice of a file that was not damaged holds the values that pydicom gives, whatever became of the others.

One process reads them all, so that its limits hold for the decoders as well, and a crash of one is seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_series import SyntheticSeries

pytest.importorskip("resource", reason="limits of memory are set on POSIX systems")

PROGRAM = """
import collections, json, random, resource, shutil, signal, sys, tempfile, warnings
from pathlib import Path

MEMORY_LIMIT = 2 * 2**30
SECONDS_A_FILE = 30
resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))

import numpy as np
import pydicom

from medseg3d.dicom import read_stack, scan
from medseg3d.dicom.pixels import stored_frames
from medseg3d.errors import MedsegError


def hang(*_):
    raise TimeoutError(f"more than {SECONDS_A_FILE} s")


def truth_of(path):
    # The values of each frame as pydicom gives them, (row, column).
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.astype(np.float64)
    frames = pixels if ds.get("NumberOfFrames", 1) > 1 else pixels[None]
    groups = ds.get("PerFrameFunctionalGroupsSequence") or [ds] * len(frames)
    macros = [g.PixelValueTransformationSequence[0] if "PixelValueTransformationSequence" in g else ds for g in groups]
    return [f * float(m.get("RescaleSlope", 1)) + float(m.get("RescaleIntercept", 0)) for f, m in zip(frames, macros)]


def check_values(stack, volume, truth, outcomes):
    for k, frame in enumerate(stack.frames):
        name = frame.source.file.path.name
        if name in truth:
            row, column = frame.tile or (0, 0)
            expected = truth[name][frame.index][row : row + frame.rows, column : column + frame.columns]
            np.testing.assert_allclose(volume.voxels[:, :, k].T, expected, rtol=2.0**-22)
            outcomes["right"] += 1


def read(path, outcomes, truth):
    found = scan(path, workers=1)
    outcomes["unreadable"] += bool(found.unreadable)
    for series in found.series:
        for stack in series.stacks:
            try:
                volume = read_stack(stack, workers=1)
                assert volume.voxels.shape == volume.grid.shape
                check_values(stack, volume, truth, outcomes)
                outcomes["volume"] += 1
            except MedsegError as error:
                assert len(str(error)) > 30, error
                outcomes["refused"] += 1
            try:
                # Refused stacks too: whatever the headers say, decoding must not run wild.
                outcomes["frames"] += sum(1 for _ in stored_frames(stack.frames[:20]))
            except MedsegError as error:
                assert len(str(error)) > 30, error
                outcomes["undecodable"] += 1


def damaged(data, generator):
    data = bytearray(data)
    if generator.random() < 0.3:
        del data[generator.randrange(len(data)):]
    for _ in range(generator.choice([1, 1, 3, 10, 50])):
        # Most of a file is pixels; its header is where damage confuses.
        end = len(data) if generator.random() < 0.4 else min(len(data), 3000)
        if end:
            data[generator.randrange(end)] = generator.randrange(256)
    return bytes(data)


def main(mode, rounds, *paths):
    signal.signal(signal.SIGALRM, hang)
    outcomes, failures = collections.Counter(), []
    generator = random.Random(0)
    sources = [Path(p) for p in paths]
    truths = {source: truth_of(source) for source in sources} if mode == "damage" else {}
    for n in range(rounds if mode == "damage" else len(sources)):
        source = sources[n % len(sources)]
        folder = Path(tempfile.mkdtemp())
        data = source.read_bytes()
        (folder / "a.dcm").write_bytes(damaged(data, generator) if mode == "damage" else data)
        truth = {}
        if mode == "damage":
            # The other slices of its folder, or of an only one itself, stay as they were.
            others = [s for s in sources if s.parent == source.parent and s != source] or [source]
            for other in others:
                shutil.copy(other, folder / f"good-{other.name}")
                truth[f"good-{other.name}"] = truths[other]
        signal.alarm(SECONDS_A_FILE)
        try:
            read(folder, outcomes, truth)
        except BaseException as error:
            kept = Path(tempfile.mkdtemp()) / f"{n}.dcm"
            shutil.copy(folder / "a.dcm", kept)
            failures.append(f"{source.name} round {n} ({kept}): {type(error).__name__}: {str(error)[:200]}")
        finally:
            signal.alarm(0)
            shutil.rmtree(folder)
    print(json.dumps({"outcomes": outcomes, "failures": failures}))


main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
"""


def fuzz(mode: str, rounds: int, paths: list[Path]) -> dict[str, int]:
    """Run the program; its outcomes, once it has ended well and without failures."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, str(rounds), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["failures"] == []
    outcomes: dict[str, int] = result["outcomes"]
    return outcomes


def test_damaged_uncompressed_files(tmp_path: Path) -> None:
    outcomes = fuzz("damage", 300, SyntheticSeries(slices=4, rows=16, columns=16).write(tmp_path))
    assert outcomes["refused"] > 30
    assert outcomes["volume"] > 100
    assert outcomes["right"] > 3 * 100
    assert outcomes["unreadable"] > 5


def test_pydicoms_own_test_files() -> None:
    from pydicom.data import get_testdata_files

    files = [Path(f) for f in get_testdata_files() if Path(f).is_file() and not f.endswith(".zip")]
    assert len(files) > 150
    outcomes = fuzz("asis", 0, files)
    assert outcomes["frames"] > 50
    assert outcomes["unreadable"] > 3


@pytest.mark.real_data
def test_damaged_files_of_every_transfer_syntax(data_dir: Path) -> None:
    folder = data_dir / "dicom_conformance"
    generic = folder / "dicom2nifti/generic"
    files = [
        folder / "dicom2nifti/hitachi/anatomical/001/001.dcm",
        folder / "dicom2nifti/hyperfine/anatomical/001/001.dcm",
        folder / "dcm_qa_enh/In/Siemens/XA10/6_1.dcm",
        folder / "dcm_qa_ts/In/3.dcm",
        *(generic / f"compressed_{kind}/001/IM-0001-0001-0001.dcm" for kind in ("j2k", "jpeg", "jpegls", "rle")),
    ]
    outcomes = fuzz("damage", 160, files)
    assert outcomes["frames"] > 100
    assert outcomes["undecodable"] > 5
