"""A phantom study as a hospital would send it: CT series with contours, those to test on apart.

::

    OUT/training/<case>/CT/CT_0001.dcm …    a series
    OUT/training/<case>/RTSTRUCT.dcm        its labels as contours
    OUT/testing/<case>/…                    likewise; the contours are the truth to score masks by
    OUT/labels.yaml                         names and ids, for medseg3d dicom convert --labels
    OUT/study.json                          what was made; written last

Images are byte for byte the same for the same arguments. Contours get new UIDs and the time of writing.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from medseg3d.phantom.case import make_case
from medseg3d.phantom.dicom import Patient, write_ct_series
from medseg3d.phantom.model import LABELS, Size

__all__ = ["FOLDERS", "dicom_entry", "labels_of", "write_dicom_case", "write_labels"]

FOLDERS = ("training", "testing")
LEAST_AGE, AGES = 20, 70  # years


def dicom_entry(case: str, number: int, *, training: bool) -> dict[str, str]:
    """Where the files of a case lie, relative to the study."""
    folder = f"{FOLDERS[0] if training else FOLDERS[1]}/{case}"
    patient = f"PHANTOM-{number:03d}"
    return {"case": case, "patient": patient, "series": f"{folder}/CT", "contours": f"{folder}/RTSTRUCT.dcm"}


def write_dicom_case(out: Path, entry: dict[str, str], seed: int, index: int, size: Size, lesions: bool) -> None:
    """Make one CT case and write its series, and its labels as contours."""
    from medseg3d.dicom.orient import to_series_grid
    from medseg3d.dicom.rtstruct_write import write_rtstruct

    case = make_case("ct", seed, index, size=size, lesions=lesions)
    grid = write_ct_series(case.image, case.affine, out / entry["series"], patient=_patient(entry, seed, index))
    write_rtstruct(
        to_series_grid(case.label, case.affine, grid),
        grid,
        out / entry["contours"],
        labels=labels_of(lesions=lesions),
        series_description="Truth of a phantom",
    )


def write_labels(path: Path, *, lesions: bool) -> None:
    """Names and ids as the YAML that ``medseg3d dicom convert --labels`` reads."""
    import yaml

    from medseg3d.files import whole_or_not_at_all

    with whole_or_not_at_all(path) as temporary:
        temporary.write_text(yaml.safe_dump({"labels": labels_of(lesions=lesions)}, sort_keys=False), encoding="utf-8")


def labels_of(*, lesions: bool) -> dict[str, int]:
    """Names and ids of the labels of a study; without lesions, without that name."""
    return {name: id_ for name, id_ in LABELS.items() if lesions or name != "lesion"}


def _patient(entry: dict[str, str], seed: int, index: int) -> Patient:
    # Drawn apart from the anatomy: the voxels are those of the NIfTI study.
    draw = Random(f"{seed}/{index}")
    return Patient(
        patient_id=entry["patient"],
        name=f"PHANTOM^{entry['case'].upper()}",
        sex=draw.choice("MF"),
        age_years=LEAST_AGE + draw.randrange(AGES),
        study=f"{seed}-{index + 1}",
    )
