"""What nobody meant as a volume is left out, with the reason, and is no failure; a volume with faults is one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from annotated_study import only, refusals
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from synthetic_series import Edit, SyntheticSeries
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.dicom import convert
from medseg3d.inference import find_cases

SAGITTAL, CORONAL = ((0.0, 1, 0), (0.0, 0, -1)), ((1.0, 0, 0), (0.0, 0, -1))


def write_planes(folder: Path, *planes: SyntheticSeries, edit: Edit) -> None:
    """Planes as the slices of one series."""
    for number, plane in enumerate(planes):
        plane.series_uid, plane.study_uid, plane.reference_uid = "1.2.3.4", "1.2.3", "1.2.3.5"

        def renumbered(ds: Dataset, k: int, number: int = number) -> None:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}.{k}"
            edit(ds, k)

        plane.write(folder / str(number), renumbered)


def localizer(ds: Dataset, _k: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def three_planes(folder: Path) -> None:
    """Three slices in each plane, as MR scanners plan on."""
    row_column = [((1.0, 0, 0), (0.0, 1, 0)), SAGITTAL, CORONAL]
    planes = [SyntheticSeries(slices=3, row=r, column=c, seed=n) for n, (r, c) in enumerate(row_column)]
    write_planes(folder, *planes, edit=localizer)


def front_and_side(folder: Path) -> None:
    """Two scouts of different size; the scanner does not call them localizers."""
    front = SyntheticSeries(slices=1, row=CORONAL[0], column=CORONAL[1])
    side = SyntheticSeries(slices=1, row=SAGITTAL[0], column=SAGITTAL[1], columns=9)
    write_planes(folder, front, side, edit=lambda ds, k: None)


def screenshots(folder: Path) -> None:
    """Two pictures in colour, without a place."""

    def picture(ds: Dataset, k: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
            del ds[keyword]
        ds.ImageType = ["DERIVED", "SECONDARY"]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = np.full((5, 7, 3), 40 + k, np.uint8).tobytes() + b"\0"

    SyntheticSeries(slices=2).write(folder, picture)


@pytest.mark.parametrize("write", [three_planes, front_and_side, screenshots])
def test_it_is_left_out_and_does_not_count_as_a_failure(tmp_path, write):
    SyntheticSeries().write(tmp_path / "in" / "ct")
    write(tmp_path / "in" / "other")
    results = {result.status: result for result in convert(tmp_path / "in", tmp_path / "out")}
    assert set(results) == {"written", "left out"}
    assert not any(result.failed for result in results.values())
    assert "This is not a volume: it " in refusals(results["left out"])
    shown = CliRunner().invoke(app, ["dicom", "convert", str(tmp_path / "in"), str(tmp_path / "again")])
    assert shown.exit_code == 0
    assert "left out" in re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    (case,) = find_cases(tmp_path / "in", modality="CT")
    assert case["case"] == results["written"].name


def test_two_planes_of_many_slices_are_a_failure(tmp_path):
    axial = SyntheticSeries(slices=4)
    coronal = SyntheticSeries(slices=4, row=CORONAL[0], column=CORONAL[1])
    write_planes(tmp_path / "in", axial, coronal, edit=lambda ds, k: None)
    result = only(convert(tmp_path / "in", tmp_path / "out"))
    assert (result.status, result.failed) == ("refused", True)
    assert "Slices differ in orientation" in refusals(result)
