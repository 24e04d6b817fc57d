"""Two scans half a spacing apart are named; slices of one volume that were acquired in turns are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from synthetic_series import SyntheticSeries

from medseg3d.dicom import Finding, scan


def findings(folder: Path) -> list[Finding]:
    ((stack,),) = [series.stacks for series in scan(folder).series]
    assert not stack.refused
    return [f for f in stack.findings if f.code == "interleaved_volumes"]


def in_turns(truth: SyntheticSeries, scans: int, folder: Path, **values: Any) -> list[Finding]:
    """Slices 1 mm apart, each scan's ``scans`` mm."""

    def edit(ds: Dataset, k: int) -> None:
        ds.AcquisitionNumber, ds.AcquisitionDate = k % scans + 1, "20240101"
        ds.AcquisitionTime = f"12{10 * (k % scans):02}00"
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    truth.write(folder, edit)
    return findings(folder)


@pytest.mark.parametrize("thickness", [None, 2.0])
def test_two_acquisitions_half_a_spacing_apart_are_named(tmp_path: Path, thickness: float | None) -> None:
    (finding,) = in_turns(SyntheticSeries(slices=12, step_mm=1.0), 2, tmp_path, SliceThickness=thickness)
    assert finding.severity == "warning"
    assert finding.message == (
        "Slices alternate in acquisition along the normal (6, 6 slices): those that are alike are 2 mm apart, all of "
        f"them 1 mm, {'2 mm thick' if thickness else 'of unknown thickness'}. They may be 2 scans."
    )


def test_three_of_which_one_has_a_slice_more(tmp_path: Path) -> None:
    (finding,) = in_turns(SyntheticSeries(slices=10, step_mm=1.0), 3, tmp_path, SliceThickness=3.0)
    assert "(4, 3, 3 slices): those that are alike are 3 mm apart" in finding.message


def test_an_mr_acquired_in_turns_is_one_volume(tmp_path: Path) -> None:
    assert in_turns(SyntheticSeries(slices=12, step_mm=1.0), 2, tmp_path, SliceThickness=1.0, Modality="MR") == []


@pytest.mark.parametrize(
    "number",
    [lambda k: 1, lambda k: k + 1, lambda k: 1 + k // 6, lambda k: 1 + (k == 3), lambda k: 1 + k // 2 % 2],
    ids=["one", "each", "halves", "one other", "pairs"],
)
def test_an_ordinary_overlapping_ct_is_one_volume(tmp_path: Path, number: Any) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.AcquisitionNumber, ds.SliceThickness = number(k), 5.0

    SyntheticSeries(slices=12).write(tmp_path, edit)
    assert findings(tmp_path) == []
