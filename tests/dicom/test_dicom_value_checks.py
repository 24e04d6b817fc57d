"""Values: a rescale that is absent, unusable or in some slices only never passes in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal
from pydicom.dataset import Dataset
from synthetic_series import SyntheticSeries, codes

from medseg3d.dicom import Finding, Stack, read_stack, scan
from medseg3d.errors import DicomError


def only_stack(folder: Path) -> Stack:
    ((stack,),) = [series.stacks for series in scan(folder).series]
    return stack


def findings(stack: Stack, severity: str) -> list[Finding]:
    return [f for f in stack.findings if f.severity == severity]


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_one_slice_lacks_is_refused(tmp_path: Path, keyword: str) -> None:
    SyntheticSeries(slices=8).write(tmp_path, lambda ds, k: delattr(ds, keyword) if k == 3 else None)
    stack = only_stack(tmp_path)
    with pytest.raises(DicomError, match=f"{keyword} is absent in 1 of 8 slices and there in the others"):
        read_stack(stack)
    assert codes(stack.findings) == ["missing_tag"]


@pytest.mark.parametrize("value", [b"2,5 ", b"", b"nan ", b"twice "])
def test_an_unusable_slope_is_refused(tmp_path: Path, value: bytes) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Modality, ds.RescaleSlope = "PT", "2.25"

    for k, file in enumerate(SyntheticSeries().write(tmp_path, edit)):
        if k in (1, 4):
            # What pydicom would not write: the bytes of the value, behind tag, VR and length.
            tag = b"\x28\x00\x53\x10DS"
            data = file.read_bytes()
            assert data.count(tag + b"\x04\x002.25") == 1
            file.write_bytes(data.replace(tag + b"\x04\x002.25", tag + len(value).to_bytes(2, "little") + value))
    stack = only_stack(tmp_path)
    with pytest.raises(DicomError, match="RescaleSlope is there without a usable number in 2 of 6 slices"):
        read_stack(stack)


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU"), ("PT", "a unit of activity")])
def test_a_modality_that_needs_a_rescale_warns_without(tmp_path: Path, modality: str, unit: str) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Modality = modality
        del ds.RescaleSlope, ds.RescaleIntercept

    truth = SyntheticSeries()
    truth.write(tmp_path, edit)
    stack = only_stack(tmp_path)
    (warning,) = findings(stack, "warning")
    assert warning.message == (
        "RescaleSlope and RescaleIntercept are absent in all 6 slices: 1 and 0 are taken, and the values may not be in "
        f"{unit}."
    )
    assert_array_equal(read_stack(stack).voxels, truth.stored.T)


def test_an_mr_needs_no_rescale(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Modality = "MR"
        del ds.RescaleSlope, ds.RescaleIntercept

    SyntheticSeries().write(tmp_path, edit)
    assert only_stack(tmp_path).findings == ()


def with_real_world_map(ds: Dataset, **values: Any) -> None:
    ds.Modality = "PT"
    mapping = Dataset()
    for keyword, value in values.items():
        setattr(mapping, keyword, value)
    ds.RealWorldValueMappingSequence = [mapping]


def test_a_real_world_map_serves_where_there_is_no_rescale(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept
        with_real_world_map(ds, RealWorldValueSlope=2.0, RealWorldValueIntercept=1.0)

    truth = SyntheticSeries()
    truth.write(tmp_path, edit)
    stack = only_stack(tmp_path)
    assert stack.findings == ()
    assert_array_equal(read_stack(stack).voxels, truth.stored.T.astype(int) * 2 + 1)


def test_a_real_world_map_replaces_no_damaged_rescale(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope = ds.RescaleIntercept = None
        with_real_world_map(ds, RealWorldValueSlope=2.0, RealWorldValueIntercept=1.0)

    SyntheticSeries().write(tmp_path, edit)
    assert codes(only_stack(tmp_path).findings) == ["contradictory_tags"] * 2
