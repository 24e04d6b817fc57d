"""Phantoms as DICOM: valid CT image series, as a scanner writes them, of patients that do not exist.

The attributes are those of PS3.3's CT Image IOD. Names, ids and descriptions say that nobody was imaged. Everything is
made from the arguments: the same phantom gives the same files, UIDs and times included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from medseg3d import __version__
from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef
from medseg3d.errors import UsageError
from medseg3d.files import whole_or_not_at_all
from medseg3d.geometry import Affine, check_affine, lps_to_ras

__all__ = ["Patient", "write_ct_series"]

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
RESCALE_INTERCEPT = -1024  # HU of the stored value 0, as scanners do
DATE, TIME = "20240102", "101500"
AXIAL_COSINE = 0.95  # slices whose normal is nearer to the body's axis are called axial


@dataclass(frozen=True)
class Patient:
    """Who a series is said to show: nobody.

    Attributes:
        patient_id: at most 64 characters; the UIDs are made from it and from ``study``.
        name: ``Family^Given``.
        sex: ``M``, ``F`` or ``O``.
        age_years: in the year of the study.
        study: tells the studies of a patient apart.
    """

    patient_id: str
    name: str = "PHANTOM^SYNTHETIC"
    sex: str = "O"
    age_years: int = 50
    study: str = "1"


def write_ct_series(
    voxels_hu: NDArray[np.integer[Any]], affine_ras: Affine, folder: str | Path, *, patient: Patient
) -> SeriesGrid:
    """Write a CT series, one file a slice, and return its grid with the slices that were written.

    The values are kept exactly: stored is HU + 1024 in 16 bits. So are the voxels' places, within the 16 characters
    that DICOM gives a number. Slices are stacked along the third axis of the array; where the array is left-handed, in
    the opposite order, since DICOM has no left-handed volumes.

    Args:
        voxels_hu: array (i, j, k) of Hounsfield units, integers from -1024 to 31743; at least one slice.
        affine_ras: 4×4, voxel index → RAS+ mm; without shear.
        folder: made if absent; gets ``CT_0001.dcm``, ….
        patient: whom it is said to show.

    Raises:
        UsageError: no integers, values out of range, no three axes; axes that are not at right angles.
    """
    folder = Path(folder)
    voxels, affine_lps = _right_handed(_checked(voxels_hu), lps_to_ras(check_affine(affine_ras)))
    _require_right_angles(affine_lps)
    folder.mkdir(parents=True, exist_ok=True)
    common = _common(patient, voxels.shape, affine_lps)
    slices = tuple(_written_slices(voxels, affine_lps, folder, common, patient))
    return SeriesGrid(
        shape=(voxels.shape[0], voxels.shape[1], voxels.shape[2]),
        affine_ras=lps_to_ras(affine_lps),
        study_uid=str(common["StudyInstanceUID"]),
        series_uid=str(common["SeriesInstanceUID"]),
        frame_of_reference_uid=str(common["FrameOfReferenceUID"]),
        slices=slices,
    )


def _checked(voxels: NDArray[Any]) -> NDArray[Any]:
    voxels = np.asarray(voxels)
    if voxels.ndim != 3 or not voxels.size or voxels.dtype.kind not in "iu":
        raise UsageError(f"A CT series needs integers on three axes; got {voxels.dtype} of shape {voxels.shape}.")
    low, high = int(voxels.min()), int(voxels.max())
    if low < RESCALE_INTERCEPT or high > np.iinfo(np.int16).max + RESCALE_INTERCEPT:
        raise UsageError(f"Hounsfield units from {low} to {high} do not fit: -1024 to 31743 do.")
    return voxels


def _right_handed(voxels: NDArray[Any], affine_lps: Affine) -> tuple[NDArray[Any], Affine]:
    """The same voxels at the same places, in an order whose third axis is the cross product of the first two."""
    if np.linalg.det(affine_lps[:3, :3]) > 0:
        return voxels, affine_lps
    affine_lps = affine_lps.copy()
    affine_lps[:3, 3] += (voxels.shape[2] - 1) * affine_lps[:3, 2]
    affine_lps[:3, 2] *= -1
    return voxels[:, :, ::-1], affine_lps


def _require_right_angles(affine_lps: Affine) -> None:
    axes = affine_lps[:3, :3] / np.linalg.norm(affine_lps[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > 1e-4:
        degrees = np.degrees(np.arcsin(min(cosine, 1.0)))
        raise UsageError(f"The grid's axes are {degrees:.2f} degrees off right angles: no scanner makes such a CT.")


def _written_slices(
    voxels: NDArray[Any], affine_lps: Affine, folder: Path, common: dict[str, Any], patient: Patient
) -> Iterator[SliceRef]:
    for k in range(voxels.shape[2]):
        path = folder / f"CT_{k + 1:04d}.dcm"
        instance_uid = _uid(patient, "instance", str(k))
        position = affine_lps[:3, 3] + k * affine_lps[:3, 2]
        own = {
            "SOPInstanceUID": instance_uid,
            "InstanceNumber": k + 1,
            "ImagePositionPatient": _decimals(position),
            "PixelData": _stored(voxels[:, :, k]),
        }
        if "SliceLocation" in common:
            own["SliceLocation"] = _decimal(position[2])
        _write(path, common | own)
        yield SliceRef(FileRef(path), CT_IMAGE_STORAGE, instance_uid)


def _stored(plane: NDArray[Any]) -> bytes:
    """Bytes of one slice, row by row."""
    return (plane.T.astype(np.int32) - RESCALE_INTERCEPT).astype("<u2").tobytes()


def _common(patient: Patient, shape: tuple[int, ...], affine_lps: Affine) -> dict[str, Any]:
    """What all slices share, by module of the CT Image IOD (PS3.3 section A.3)."""
    width, height, depth = np.linalg.norm(affine_lps[:3, :3], axis=0)
    cosines = affine_lps[:3, :2] / (width, height)
    return {
        **_patient_and_study(patient),
        # General and CT series, frame of reference, equipment
        "SeriesDate": DATE,
        "SeriesTime": TIME,
        "Modality": "CT",
        "SeriesDescription": "Phantom CT",
        "SeriesInstanceUID": _uid(patient, "series"),
        "SeriesNumber": 1,
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": _uid(patient, "frame of reference"),
        "PositionReferenceIndicator": "",
        "Manufacturer": "medseg3d",
        "ManufacturerModelName": "phantom",
        "SoftwareVersions": __version__,
        # Image plane and pixels
        "ImageOrientationPatient": _decimals((*cosines[:, 0], *cosines[:, 1])),
        "PixelSpacing": _decimals((height, width)),  # between rows, then between columns
        "SliceThickness": _decimal(depth),
        "SpacingBetweenSlices": _decimal(depth),
        "Rows": shape[1],
        "Columns": shape[0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        # CT image
        "SOPClassUID": CT_IMAGE_STORAGE,
        "ImageType": ["ORIGINAL" if _plane(affine_lps) == "AXIAL" else "DERIVED", "PRIMARY", _plane(affine_lps)],
        "AcquisitionNumber": 1,
        "AcquisitionDate": DATE,
        "AcquisitionTime": TIME,
        "ContentDate": DATE,
        "ContentTime": TIME,
        "InstanceCreationDate": DATE,
        "InstanceCreationTime": TIME,
        "BodyPartExamined": "ABDOMEN",
        "BurnedInAnnotation": "NO",
        "RescaleIntercept": RESCALE_INTERCEPT,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
        "KVP": 120,
        **({"SliceLocation": 0} if _plane(affine_lps) == "AXIAL" else {}),
    }


def _patient_and_study(patient: Patient) -> dict[str, Any]:
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": patient.name,
        "PatientID": patient.patient_id,
        "PatientBirthDate": f"{int(DATE[:4]) - patient.age_years}0101",
        "PatientSex": patient.sex,
        "PatientAge": f"{patient.age_years:03d}Y",
        "PatientComments": "Synthetic: made by medseg3d phantom",
        "StudyInstanceUID": _uid(patient, "study"),
        "StudyDate": DATE,
        "StudyTime": TIME,
        "StudyID": patient.study,
        "StudyDescription": "Synthetic: no patient was imaged",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
    }


def _plane(affine_lps: Affine) -> str:
    """What CT calls its slices (PS3.3 section C.8.2.1.1.1)."""
    normal = affine_lps[:3, 2] / np.linalg.norm(affine_lps[:3, 2])
    return "AXIAL" if abs(normal[2]) > AXIAL_COSINE else "REFORMATTED"


def _decimals(values: Any) -> list[str]:
    return [_decimal(value) for value in values]


def _decimal(value: float) -> str:
    from pydicom.valuerep import format_number_as_ds

    # 16 characters at most; + 0.0 makes a positive zero of a negative one.
    return format_number_as_ds(float(value) + 0.0)


def _uid(patient: Patient, *what: str) -> str:
    """A UID below 2.25, made from what it names: the same phantom has the same UIDs."""
    name = "\0".join(("medseg3d phantom", patient.patient_id, patient.study, *what))
    return f"2.25.{UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4).int}"


def _write(path: Path, attributes: dict[str, Any]) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with whole_or_not_at_all(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
