"""DICOM in and out: series to volumes, annotations to label maps, masks to SEG and RTSTRUCT. No torch, no MONAI."""

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import DicomVolume, FileRef, SeriesGrid, SliceRef

__all__ = ["DicomVolume", "FileRef", "Finding", "SeriesGrid", "SliceRef"]
