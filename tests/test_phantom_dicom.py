"""Phantoms as DICOM: valid, exact, and the same as the NIfTI phantoms after conversion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.cli import main
from medseg3d.dicom import read_series
from medseg3d.dicom.orient import to_series_grid
from medseg3d.errors import UsageError
from medseg3d.phantom import LABELS, MIN_SIZE, make_case, write_study
from medseg3d.phantom.dicom import Patient, write_ct_series

NOBODY = Patient("PHANTOM-001")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases to train on and one to test, as DICOM."""
    path = write_study(
        tmp_path_factory.mktemp("dicom"), modality="ct", cases=3, test_cases=1, seed=5, size=MIN_SIZE, format="dicom"
    )
    return path.parent


# --- One series -------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(index=st.integers(0, 200))
def test_what_is_read_is_what_was_made(tmp_path_factory: pytest.TempPathFactory, index: int):
    case = make_case("ct", 1, index, size=MIN_SIZE)
    folder = tmp_path_factory.mktemp("series")
    grid = write_ct_series(case.image, case.affine, folder, patient=NOBODY)
    volume = read_series(folder)
    assert volume.grid.shape == grid.shape
    np.testing.assert_allclose(volume.grid.affine_ras, grid.affine_ras, atol=1e-9)
    assert volume.grid.slices == grid.slices
    # to_series_grid only moves voxels, and refuses another grid.
    np.testing.assert_array_equal(volume.voxels, to_series_grid(case.image, case.affine, volume.grid))
    assert not [finding for finding in volume.findings if finding.severity != "note"]


def test_slices_by_hand(tmp_path: Path):
    """Two slices of 3 columns and 2 rows, 1 × 2 × 5 mm, whose first voxel lies at (10, 20, 30) in RAS."""
    voxels = np.arange(12, dtype=np.int16).reshape(3, 2, 2) - 1024
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    write_ct_series(voxels, affine, tmp_path, patient=NOBODY)
    first, second = (pydicom.dcmread(path) for path in sorted(tmp_path.iterdir()))
    assert (first.Columns, first.Rows, first.PixelSpacing, first.SliceThickness) == (3, 2, [2, 1], 5)
    assert first.ImagePositionPatient == [-10, -20, 30]  # LPS
    assert second.ImagePositionPatient == [-10, -20, 35]
    assert first.ImageOrientationPatient == [-1, 0, 0, 0, -1, 0]
    np.testing.assert_array_equal(first.pixel_array, voxels[:, :, 0].T + 1024)
    assert (first.RescaleIntercept, first.RescaleSlope, first.RescaleType) == (-1024, 1, "HU")


def test_a_left_handed_grid_is_stacked_the_other_way(tmp_path: Path):
    voxels = np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    grid = write_ct_series(voxels, np.diag([-1.0, 1.0, 1.0, 1.0]), tmp_path, patient=NOBODY)
    assert np.linalg.det(grid.affine_ras) > 0
    np.testing.assert_array_equal(read_series(tmp_path).voxels, voxels[:, :, ::-1])


def test_every_number_has_at_most_16_characters(study: Path):
    for path in study.rglob("*.dcm"):
        for element in pydicom.dcmread(path).iterall():
            if element.VR == "DS" and not element.is_empty:
                values = element.value if element.VM > 1 else [element.value]
                assert max(len(str(value)) for value in values) <= 16, element.keyword


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (np.zeros((4, 4)), np.eye(4), "integers on three axes; got float64 of shape"),
        (np.zeros((4, 4, 4)), np.eye(4), "integers on three axes; got float64"),
        (np.full((4, 4, 4), -2000), np.eye(4), "Hounsfield units from -2000 to -2000 do not fit"),
        (np.full((4, 4, 4), 40000), np.eye(4), "40000 do not fit: -1024 to 31743 do"),
        (np.zeros((4, 4, 4), int), np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
         "26.57 degrees off right angles"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_series_is_refused(tmp_path: Path, voxels: np.ndarray, affine: np.ndarray, message: str):
    with pytest.raises(UsageError, match=message):
        write_ct_series(voxels, affine, tmp_path / "series", patient=NOBODY)
    assert not (tmp_path / "series").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_the_validator_finds_no_error(study: Path):
    for path in (*study.glob("*/*/CT/CT_0001.dcm"), *study.glob("*/*/RTSTRUCT.dcm")):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert any(line.startswith(("CTImage", "RTStructureSet")) for line in said)
        assert not [line for line in said if line.startswith("Error")], path


def test_the_files_say_that_nobody_was_imaged(study: Path):
    for path in study.glob("*/*/CT/CT_0001.dcm"):
        ds = pydicom.dcmread(path)
        assert str(ds.PatientName).startswith("PHANTOM^CT_00")
        assert ds.PatientID.startswith("PHANTOM-00")
        assert "no patient was imaged" in ds.StudyDescription
        assert ds.BurnedInAnnotation == "NO"


# --- A study ----------------------------------------------------------------------------------------------------------


def test_converted_it_is_the_nifti_study(study: Path, tmp_path: Path):
    from medseg3d.dicom import ConvertOptions, convert
    from medseg3d.dicom.conversion import LabelRules
    from medseg3d.dicom.naming import read_naming

    listed = json.loads((study / "study.json").read_text())
    plain = write_study(tmp_path / "nifti", modality="ct", cases=3, test_cases=1, seed=5, size=MIN_SIZE).parent
    rules = LabelRules(read_naming(study / "labels.yaml"))
    for entry in (*listed["training"], *listed["testing"]):
        case, part = entry["case"], "Tr" if entry in listed["training"] else "Ts"
        out = tmp_path / "converted" / case
        (converted,) = convert((study / entry["contours"]).parent, out, options=ConvertOptions(labels=rules))
        assert not converted.failed
        for file, folder in ((converted.image, f"images{part}"), (converted.label, f"labels{part}")):
            assert file is not None
            ours = nibabel.as_closest_canonical(nibabel.load(file))
            expected = nibabel.as_closest_canonical(nibabel.load(plain / folder / f"{case}.nii.gz"))
            np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(expected.dataobj))
            np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-3)


def test_the_list_says_where_everything_is(study: Path):
    listed = json.loads((study / "study.json").read_text())
    assert listed["labels"] == yaml.safe_load((study / "labels.yaml").read_text())["labels"] == LABELS
    assert listed["training"][0] == {
        "case": "ct_001",
        "patient": "PHANTOM-001",
        "series": "training/ct_001/CT",
        "contours": "training/ct_001/RTSTRUCT.dcm",
    }
    assert listed["testing"] == [
        {
            "case": "ct_004",
            "patient": "PHANTOM-004",
            "series": "testing/ct_004/CT",
            "contours": "testing/ct_004/RTSTRUCT.dcm",
        }
    ]
    for entry in (*listed["training"], *listed["testing"]):
        assert pydicom.dcmread(study / entry["contours"]).PatientID == entry["patient"]
        assert len(list((study / entry["series"]).iterdir())) == read_series(study / entry["series"]).grid.shape[2]


def test_images_are_the_same_for_the_same_arguments(tmp_path: Path):
    made = []
    for name in ("a", "b"):
        write_study(tmp_path / name, modality="ct", cases=1, test_cases=1, size=MIN_SIZE, format="dicom")
        made.append({path: content for path, content in files(tmp_path / name).items() if "RTSTRUCT" not in path})
    assert made[0] == made[1]
    series = [
        pydicom.dcmread(tmp_path / "a" / part / "CT" / "CT_0001.dcm") for part in ("training/ct_001", "testing/ct_002")
    ]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert series[0][keyword].value != series[1][keyword].value


def test_overwrite_replaces_a_study_of_the_other_format(tmp_path: Path):
    write_study(tmp_path, modality="ct", cases=2, size=MIN_SIZE, format="dicom")
    (tmp_path / "training" / "mine.txt").write_text("kept")
    write_study(tmp_path, modality="ct", cases=1, size=MIN_SIZE, overwrite=True)
    left = {path for path in files(tmp_path) if not path.endswith(".nii.gz")}
    assert left == {"dataset.json", "labels.yaml", "training/mine.txt"}


def test_mri_stays_nifti(tmp_path: Path):
    with pytest.raises(UsageError, match="DICOM only where they are CT"):
        write_study(tmp_path, modality="mri", cases=1, size=MIN_SIZE, format="dicom")
    assert not list(tmp_path.iterdir())


def test_command_writes_dicom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["phantom", tmp_path / "study", "--cases", 1, "--size", *MIN_SIZE, "--format", "dicom", "--workers", 1]
    monkeypatch.setattr(sys, "argv", ["medseg3d", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert f"Wrote 1 cases and 0 test cases: {tmp_path / 'study' / 'study.json'}" in capsys.readouterr().out
    assert len(list((tmp_path / "study" / "training" / "ct_001" / "CT").iterdir())) == MIN_SIZE[2]
