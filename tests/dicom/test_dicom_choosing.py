"""Choosing one volume: by the UID of its series, the hash that sidecars have, and the label of the volume."""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from synthetic_series import SyntheticSeries

from medseg3d.dicom import read_grid, read_series, scan
from medseg3d.dicom.sidecar import hashed_uid
from medseg3d.errors import DicomError


@pytest.fixture
def echoes(tmp_path: Path) -> SyntheticSeries:
    """Two echoes of one series: the second holds zeros."""
    truth = SyntheticSeries()

    def edit(ds: Dataset, k: int) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.EchoTime, ds.PixelData = 5.0, bytes(70)

    truth.write(tmp_path / "1", lambda ds, k: setattr(ds, "EchoTime", 2.5))
    truth.write(tmp_path / "2", edit)
    return truth


def test_a_volume_by_its_label(tmp_path: Path, echoes: SyntheticSeries) -> None:
    assert_array_equal(read_series(tmp_path, volume="e1").voxels, echoes.values)
    assert_array_equal(read_series(tmp_path, volume="e2").voxels, echoes.values * 0 - 1024)
    grid = read_grid(tmp_path, volume="e2")
    assert_allclose(grid.affine_ras, echoes.affine_ras, atol=1e-6)
    assert {s.file.path.parent.name for s in grid.slices} == {"2"}


@pytest.mark.parametrize("read", [read_series, read_grid])
def test_the_message_lists_the_labels_and_says_how(tmp_path: Path, echoes: SyntheticSeries, read) -> None:
    with pytest.raises(DicomError, match=r"2 volumes: 'e1' \(6 slices\), 'e2' \(6 slices\)\. Choose one: .* --volume"):
        read(tmp_path)
    with pytest.raises(DicomError, match=r"has no volume 'e3'\. There are: 'e1' \(6 slices\), 'e2' \(6 slices\)\."):
        read(tmp_path, volume="e3")


def test_an_only_volume_has_no_label(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path)
    assert_array_equal(read_series(tmp_path, volume="").voxels, truth.values)
    with pytest.raises(DicomError, match=r"has no volume 'e1'\. There are: '' \(6 slices\)\."):
        read_series(tmp_path, volume="e1")


def test_a_series_by_the_hash_of_its_uid(tmp_path: Path) -> None:
    series = [SyntheticSeries(seed=n) for n in range(2)]
    for n, truth in enumerate(series):
        truth.write(tmp_path / str(n))
    for truth in series:
        for uid in (truth.series_uid, hashed_uid(truth.series_uid)):
            assert_array_equal(read_series(tmp_path, series_uid=uid).voxels, truth.values)
            assert read_grid(tmp_path, series_uid=uid).series_uid == truth.series_uid
    with pytest.raises(DicomError, match="no series 1\\.2\\.3"):
        read_grid(tmp_path, series_uid="1.2.3")


def test_a_part_of_a_mixed_series(tmp_path: Path) -> None:
    """Three slices each in two orientations: refused as one, each part a volume once it is named."""
    truth = SyntheticSeries()

    def edit(ds: Dataset, k: int) -> None:
        if k >= 3:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
            ds.ImagePositionPatient = [5.0 * k, 0, 0]

    truth.write(tmp_path, edit)
    with pytest.raises(DicomError, match="mixed orientation"):
        read_series(tmp_path)
    volume = read_series(tmp_path, volume="part2")
    assert_array_equal(volume.voxels, truth.values[..., 3:])
    mixed = next(f for f in volume.findings if f.code == "mixed_orientation")
    assert mixed.severity == "warning"
    assert [s.label for s in scan(tmp_path).series[0].stacks] == ["part1", "part2"]


def test_a_named_volume_is_refused_with_its_series(tmp_path: Path) -> None:
    """Two patients are no two volumes."""
    SyntheticSeries().write(tmp_path, lambda ds, k: setattr(ds, "PatientID", str(k % 2)))
    with pytest.raises(DicomError, match="mixed patients"):
        read_series(tmp_path, volume="")
