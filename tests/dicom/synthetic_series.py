"""Small DICOM series of known geometry and values, written file by file, for the tests of the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Edit = Callable[[Dataset, int], None]


@dataclass
class SyntheticSeries:
    """Slices with random stored values, (slices, rows, columns), on a grid given in LPS."""

    slices: int = 6
    rows: int = 5
    columns: int = 7
    row: tuple[float, ...] = (1.0, 0.0, 0.0)
    column: tuple[float, ...] = (0.0, 1.0, 0.0)
    spacing_mm: tuple[float, float] = (0.8, 0.5)  # between rows, between columns
    step_mm: float = 2.0
    origin_mm: tuple[float, ...] = (-10.0, 20.0, 30.0)
    seed: int = 0
    series_uid: str = field(default_factory=generate_uid)
    study_uid: str = field(default_factory=generate_uid)
    reference_uid: str = field(default_factory=generate_uid)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        self.stored: NDArray[np.uint16] = generator.integers(
            0, 4096, (self.slices, self.rows, self.columns), dtype=np.uint16
        )

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row, self.column)

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """The truth, from the definition in PS3.3 C.7.6.2.1.1."""
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.row) * self.spacing_mm[1]
        affine[:3, 1] = np.array(self.column) * self.spacing_mm[0]
        affine[:3, 2] = self.normal * self.step_mm
        affine[:3, 3] = self.origin_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def values(self) -> NDArray[np.int32]:
        """(columns, rows, slices) in HU."""
        return self.stored.astype(np.int32).T - 1024

    def dataset(self, k: int) -> Dataset:
        """The k-th slice as a CT image."""
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{self.series_uid[:50].rstrip(chr(46))}.{k + 1}"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientID, ds.PatientName = "secret-4711", "Doe^Jane"
        ds.Modality, ds.SeriesDescription, ds.SeriesNumber = "CT", "synthetic", 3
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study_uid, self.series_uid
        ds.FrameOfReferenceUID = self.reference_uid
        ds.InstanceNumber = k + 1
        ds.Rows, ds.Columns = self.rows, self.columns
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelSpacing = list(self.spacing_mm)
        ds.ImageOrientationPatient = [round(float(v), 12) for v in (*self.row, *self.column)]
        ds.ImagePositionPatient = [f"{v:.8f}"[:16] for v in self.origin_mm + self.normal * self.step_mm * k]
        ds.PixelData = self.stored[k].tobytes()
        return ds

    def write(self, folder: Path, edit: Edit | None = None, *, only: list[int] | None = None) -> list[Path]:
        """Write the slices, or ``only`` those with these indices, each after ``edit(dataset, index)``."""
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for k in range(self.slices) if only is None else only:
            ds = self.dataset(k)
            if edit:
                edit(ds, k)
            files.append(folder / f"{k:04}.dcm")
            ds.save_as(files[-1], enforce_file_format=True)
        return files


def codes(findings: object, severity: str = "refusal") -> list[str]:
    """Codes of the findings of one severity."""
    return [f.code for f in findings if f.severity == severity]  # type: ignore[attr-defined]
