"""A study on disk: images, labels and the data list; as NIfTI, or as DICOM."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medseg3d.errors import UsageError
from medseg3d.files import whole_or_not_at_all, write_json
from medseg3d.geometry import Affine
from medseg3d.phantom.case import check, make_case
from medseg3d.phantom.dicom_study import FOLDERS, dicom_entry, labels_of, write_dicom_case, write_labels
from medseg3d.phantom.model import TUMOUR_CHANNELS, TUMOUR_LABELS, TUMOUR_REGIONS, Modality, Size

__all__ = ["Format", "write_study"]

Format = Literal["nifti", "dicom"]

# The file that is written last: a study that has it is whole.
WHOLE: dict[Format, str] = {"nifti": "dataset.json", "dicom": "study.json"}
SIZES: dict[Modality, Size] = {"mri_tumor": (80, 96, 72)}
CASE = re.compile(r"(ct|mri|mri_tumor)_\d{3,}")


def write_study(
    out: Path,
    *,
    modality: Modality,
    cases: int,
    test_cases: int = 0,
    seed: int = 0,
    size: Sequence[int] | None = None,
    lesions: bool = True,
    workers: int = 1,
    overwrite: bool = False,
    format: Format = "nifti",
    on_case: Callable[[str], None] | None = None,
) -> Path:
    """Write a study with its data list and return the path of ``dataset.json``.

    ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` are filled as in the Medical Segmentation Decathlon, but
    the labels of the test cases are there too. The files are byte for byte the same for the same arguments, whatever
    ``workers`` is. ``dataset.json`` is written last: a study that has one is whole.

    Brains with a tumour are laid out as the BraTS challenge does it, a folder a case and a file a channel
    (``training/mri_tumor_001/mri_tumor_001_t1ce.nii.gz``, ``…_seg.nii.gz``), and the list has their regions.

    As DICOM, the same voxels are CT series with contours, laid out as in ``medseg3d.phantom.dicom_study``; the path
    returned is that of ``study.json``, and ``medseg3d dicom convert`` makes images and labels for a data list of it.

    Args:
        out: folder of the study; made if absent.
        cases: how many to train on, at least 1.
        test_cases: how many more to keep apart.
        size: as in ``make_case``; None for (128, 128, 64), of brains (80, 96, 72).
        workers: processes; with more than one, a script needs the usual ``if __name__ == "__main__":``.
        overwrite: replace the phantoms of an earlier study in ``out``; other files there stay.
        format: ``"nifti"``, or ``"dicom"`` for CT.
        on_case: called with the name of each case that has been written.

    Raises:
        UsageError: ``out`` is not an empty folder and ``overwrite`` is false, an argument is out of range, or MRI as
            DICOM.
    """
    out = Path(out)
    size = check(modality, seed, 0, size or SIZES.get(modality, (128, 128, 64)))
    if cases < 1 or test_cases < 0 or workers < 1:
        raise UsageError(
            f"A study needs at least 1 case, 0 test cases and 1 worker; got {cases}, {test_cases} and {workers}."
        )
    if format == "dicom" and modality != "ct":
        raise UsageError("Phantoms are written as DICOM only where they are CT: leave MRI as NIfTI.")
    _clear(out, overwrite=overwrite)
    plan = _Plan(out, modality, seed, size, lesions, format)
    entries = [_entry(plan, index, training=index < cases) for index in range(cases + test_cases)]
    for entry in _run(plan, entries, workers):
        if on_case is not None:
            on_case(entry["case"])
    document = {
        "name": f"phantom_{modality}",
        **_description(modality, lesions),
        "licence": "CC0-1.0",
        "modality": "CT" if modality == "ct" else "MR",
        "phantom": {"seed": seed, "size": list(size), "lesions": lesions},
        "training": entries[:cases],
        "testing": entries[cases:],
    }
    if format == "dicom":
        write_labels(out / "labels.yaml", lesions=lesions)
    path = out / WHOLE[format]
    write_json(path, document)
    return path


def _description(modality: Modality, lesions: bool) -> dict[str, Any]:
    if modality == "mri_tumor":
        return {
            "description": "Synthetic brains with tumours made by medseg3d phantom: no patient was imaged",
            "channels": list(TUMOUR_CHANNELS),
            "labels": TUMOUR_LABELS,
            "regions": TUMOUR_REGIONS,
        }
    return {
        "description": "Synthetic torsos made by medseg3d phantom: no patient was imaged",
        "channels": ["CT" if modality == "ct" else "T1"],
        "labels": labels_of(lesions=lesions),
    }


@dataclass(frozen=True)
class _Plan:
    """What all cases of a study have in common."""

    out: Path
    modality: Modality
    seed: int
    size: Size
    lesions: bool
    format: Format


def _entry(plan: _Plan, index: int, *, training: bool) -> dict[str, Any]:
    case = f"{plan.modality}_{index + 1:03d}"
    if plan.format == "dicom":
        return dicom_entry(case, index + 1, training=training)
    file, part = f"{case}.nii.gz", "Tr" if training else "Ts"
    patient = f"phantom_{index + 1:03d}"
    if plan.modality == "mri_tumor":
        stem = f"{FOLDERS[0] if training else FOLDERS[1]}/{case}/{case}"
        images = [f"{stem}_{ending}.nii.gz" for ending in TUMOUR_CHANNELS.values()]
        return {"case": case, "patient": patient, "image": images, "label": f"{stem}_seg.nii.gz"}
    return {"case": case, "patient": patient, "image": f"images{part}/{file}", "label": f"labels{part}/{file}"}


def _clear(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder for the study.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty: name another folder, or pass --overwrite to replace the phantoms in it.")
    for name in WHOLE.values():
        (out / name).unlink(missing_ok=True)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", *FOLDERS):
        for path in (out / folder).glob("*"):
            if path.is_dir() and CASE.fullmatch(path.name):
                shutil.rmtree(path)
            elif CASE.fullmatch(path.name.removesuffix(".nii.gz")):
                path.unlink()


def _run(plan: _Plan, entries: Sequence[dict[str, Any]], workers: int) -> Iterable[dict[str, Any]]:
    write = partial(_write_case, plan)
    if workers == 1:
        yield from map(write, entries, range(len(entries)))
        return
    # A fresh interpreter for each worker: forking while a progress bar's thread runs can deadlock.
    with ProcessPoolExecutor(min(workers, len(entries)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, entries, range(len(entries)))


def _write_case(plan: _Plan, entry: dict[str, Any], index: int) -> dict[str, Any]:
    if plan.format == "dicom":
        write_dicom_case(plan.out, entry, plan.seed, index, plan.size, plan.lesions)
        return entry
    case = make_case(plan.modality, plan.seed, index, size=plan.size, lesions=plan.lesions)
    images = zip(entry["image"], case.image, strict=True) if case.image.ndim == 4 else [(entry["image"], case.image)]
    for file, voxels in (*images, (entry["label"], case.label)):
        with whole_or_not_at_all(plan.out / file) as temporary:
            temporary.write_bytes(_nifti(voxels, case.affine))
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
