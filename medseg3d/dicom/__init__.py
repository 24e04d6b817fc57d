"""DICOM in and out: series to volumes, annotations to label maps, masks to SEG and RTSTRUCT. No torch, no MONAI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import DicomVolume, FileRef, SeriesGrid, SliceRef

if TYPE_CHECKING:
    from medseg3d.dicom.annotation import Annotation, Segment, to_label_map
    from medseg3d.dicom.conversion import Converted, ConvertOptions
    from medseg3d.dicom.converting import convert
    from medseg3d.dicom.deidentifying import Deidentified, deidentify
    from medseg3d.dicom.frames import Annotated, Frame, Series, SeriesInfo, Stack
    from medseg3d.dicom.naming import Naming, read_naming
    from medseg3d.dicom.orient import to_series_grid
    from medseg3d.dicom.rescale import ValueRangeError
    from medseg3d.dicom.rtstruct_read import read_rtstruct
    from medseg3d.dicom.rtstruct_write import write_rtstruct
    from medseg3d.dicom.scanning import Scan, scan
    from medseg3d.dicom.seg_read import read_seg
    from medseg3d.dicom.seg_write import write_seg
    from medseg3d.dicom.volume import iter_slices, read_grid, read_series, read_stack, stack_dtype

# Where each function lives. It is imported when it is asked for: importing the package takes no pydicom.
_HOMES = {
    "Annotated": "frames",
    "Annotation": "annotation",
    "ConvertOptions": "conversion",
    "Converted": "conversion",
    "Deidentified": "deidentifying",
    "Frame": "frames",
    "Naming": "naming",
    "Scan": "scanning",
    "Segment": "annotation",
    "Series": "frames",
    "SeriesInfo": "frames",
    "Stack": "frames",
    "ValueRangeError": "rescale",
    "convert": "converting",
    "deidentify": "deidentifying",
    "iter_slices": "volume",
    "read_grid": "volume",
    "read_naming": "naming",
    "read_rtstruct": "rtstruct_read",
    "read_seg": "seg_read",
    "read_series": "volume",
    "read_stack": "volume",
    "scan": "scanning",
    "stack_dtype": "volume",
    "to_label_map": "annotation",
    "to_series_grid": "orient",
    "write_rtstruct": "rtstruct_write",
    "write_seg": "seg_write",
}

__all__ = [
    "Annotated",
    "Annotation",
    "ConvertOptions",
    "Converted",
    "Deidentified",
    "DicomVolume",
    "FileRef",
    "Finding",
    "Frame",
    "Naming",
    "Scan",
    "Segment",
    "Series",
    "SeriesGrid",
    "SeriesInfo",
    "SliceRef",
    "Stack",
    "ValueRangeError",
    "convert",
    "deidentify",
    "iter_slices",
    "read_grid",
    "read_naming",
    "read_rtstruct",
    "read_seg",
    "read_series",
    "read_stack",
    "scan",
    "stack_dtype",
    "to_label_map",
    "to_series_grid",
    "write_rtstruct",
    "write_seg",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
