"""A study on disk: images, labels and the data list."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medseg3d.errors import UsageError
from medseg3d.geometry import Affine
from medseg3d.phantom.case import check, make_case
from medseg3d.phantom.model import LABELS, Modality, Size

__all__ = ["write_study"]


def write_study(
    out: Path,
    *,
    modality: Modality,
    cases: int,
    test_cases: int = 0,
    seed: int = 0,
    size: Sequence[int] = (128, 128, 64),
    lesions: bool = True,
    workers: int = 1,
    overwrite: bool = False,
    on_case: Callable[[str], None] | None = None,
) -> Path:
    """Write a study with its data list and return the path of ``dataset.json``.

    ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` are filled as in the Medical Segmentation Decathlon, but
    the labels of the test cases are there too. The files are byte for byte the same for the same arguments, whatever
    ``workers`` is. ``dataset.json`` is written last: a study that has one is whole.

    Args:
        out: folder of the study; made if absent.
        cases: how many to train on, at least 1.
        test_cases: how many more to keep apart.
        size: as in ``make_case``.
        workers: processes; with more than one, a script needs the usual ``if __name__ == "__main__":``.
        overwrite: replace the phantoms of an earlier study in ``out``; other files there stay.
        on_case: called with the name of each case that has been written.

    Raises:
        UsageError: ``out`` is not an empty folder and ``overwrite`` is false, or an argument is out of range.
    """
    out = Path(out)
    size = check(modality, seed, 0, size)
    if cases < 1 or test_cases < 0 or workers < 1:
        raise UsageError(
            f"A study needs at least 1 case, 0 test cases and 1 worker; got {cases}, {test_cases} and {workers}."
        )
    _clear(out, overwrite=overwrite)
    entries = [_entry(modality, index, "Tr" if index < cases else "Ts") for index in range(cases + test_cases)]
    jobs = [(out, entry, modality, seed, index, size, lesions) for index, entry in enumerate(entries)]
    for entry in _run(jobs, workers):
        if on_case is not None:
            on_case(entry["case"])
    document = {
        "name": f"phantom_{modality}",
        "description": "Synthetic torsos made by medseg3d phantom: no patient was imaged",
        "licence": "CC0-1.0",
        "modality": "CT" if modality == "ct" else "MR",
        "channels": ["CT" if modality == "ct" else "T1"],
        "labels": {name: id_ for name, id_ in LABELS.items() if lesions or name != "lesion"},
        "phantom": {"seed": seed, "size": list(size), "lesions": lesions},
        "training": entries[:cases],
        "testing": entries[cases:],
    }
    path = out / "dataset.json"
    _write(path, (json.dumps(document, indent=2) + "\n").encode())
    return path


def _entry(modality: str, index: int, part: Literal["Tr", "Ts"]) -> dict[str, str]:
    case = f"{modality}_{index + 1:03d}"
    file = f"{case}.nii.gz"
    patient = f"phantom_{index + 1:03d}"
    return {"case": case, "patient": patient, "image": f"images{part}/{file}", "label": f"labels{part}/{file}"}


def _clear(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder for the study.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty: name another folder, or pass --overwrite to replace the phantoms in it.")
    (out / "dataset.json").unlink(missing_ok=True)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        for path in (out / folder).glob("*.nii.gz"):
            if re.fullmatch(r"(ct|mri)_\d{3,}\.nii\.gz", path.name):
                path.unlink()


Job = tuple[Path, dict[str, str], Modality, int, int, Size, bool]


def _run(jobs: Sequence[Job], workers: int) -> Iterable[dict[str, str]]:
    if workers == 1:
        yield from starmap(_write_case, jobs)
        return
    # A fresh interpreter for each worker: forking while a progress bar's thread runs can deadlock.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_case, *zip(*jobs, strict=True))


def _write_case(
    out: Path, entry: dict[str, str], modality: Modality, seed: int, index: int, size: Size, lesions: bool
) -> dict[str, str]:
    case = make_case(modality, seed, index, size=size, lesions=lesions)
    _write(out / entry["image"], _nifti(case.image, case.affine))
    _write(out / entry["label"], _nifti(case.label, case.affine))
    return entry


def _nifti(voxels: NDArray[Any], affine: Affine) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"medseg3d phantom: synthetic, no patient"
    # A gzip header normally holds the time: without it, equal voxels are equal files.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
