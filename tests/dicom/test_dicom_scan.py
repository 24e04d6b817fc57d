"""Scanning folders, and ``medseg3d dicom scan``."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from numpy.testing import assert_array_equal
from pydicom.dataset import Dataset
from synthetic_series import SyntheticSeries
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.dicom import read_series, scan, scanning
from medseg3d.dicom.assemble import pseudonym
from medseg3d.errors import DicomError

runner = CliRunner()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A sound series, one with a gap, and a structure set that refers to the first."""
    sound, gap = SyntheticSeries(), SyntheticSeries(seed=1)
    sound.write(tmp_path / "sound")
    gap.write(tmp_path / "gap", only=[0, 1, 2, 4, 5])
    structures = sound.dataset(0)
    structures.SOPClassUID = structures.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    structures.Modality, structures.SeriesInstanceUID = "RTSTRUCT", f"{sound.series_uid[:50]}.9"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(structures, keyword)
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = sound.series_uid
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]
    structures.save_as(tmp_path / "RS", enforce_file_format=True)
    (tmp_path / "sound.uid").write_text(sound.series_uid)
    return tmp_path


def test_annotations_name_their_series(study: Path) -> None:
    found = scan(study)
    (annotation,) = found.annotations
    assert annotation.modality == "RTSTRUCT"
    assert annotation.referenced_series == ((study / "sound.uid").read_text(),)
    assert annotation.patient == found.series[0].patient
    assert len(found.series) == 2


def test_processes_give_what_one_gives(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_FILES_A_TASK", 3)
    calls: list[tuple[int, int]] = []
    one, two = scan(study, workers=1, progress=lambda *n: calls.append(n)), scan(study, workers=2)
    assert [s.uid for s in one.series] == [s.uid for s in two.series]
    assert one.annotations == two.annotations
    assert [str(f) for s in one.series for f in s.stacks[0].findings] == [
        str(f) for s in two.series for f in s.stacks[0].findings
    ]
    assert calls[-1] == (13, 13)


def test_one_of_several_series_is_chosen_by_its_uid(study: Path) -> None:
    uid = (study / "sound.uid").read_text()
    with pytest.raises(DicomError, match=r"2 series: .*CT 'synthetic', [56] slices.*Choose one by its UID"):
        read_series(study)
    with pytest.raises(DicomError, match=r"no series 1\.2\.3\. There are: "):
        read_series(study, series_uid="1.2.3")
    assert read_series(study, series_uid=uid).grid.series_uid == uid


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="no DICOM images here"):
        read_series(tmp_path)


def test_a_single_file_of_several_is_one_slice(study: Path) -> None:
    with pytest.raises(DicomError, match="not a volume: it has one slice"):
        read_series(study / "sound" / "0000.dcm")


def test_pseudonyms_need_a_key_to_differ() -> None:
    assert pseudonym("secret-4711") == pseudonym(" secret-4711 ")
    assert pseudonym("secret-4711") != pseudonym("secret-4712")
    assert "4711" not in pseudonym("secret-4711")
    assert pseudonym("a", key="x") != pseudonym("a", key="y")


def test_the_table_names_series_and_findings(study: Path) -> None:
    result = runner.invoke(app, ["dicom", "scan", str(study)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "7×5" in result.output
    assert "0.5×0.8×2" in result.output
    assert "LPS" in result.output
    assert "Explicit LE" in result.output
    assert "gap: 1 slice is missing between slices 3 and 4 (4.00 mm)" in result.output
    assert "--fix resample" in result.output
    assert "2 series of 11 files; 1 annotations, 0 other objects, 0 unreadable, 1 not DICOM." in result.output
    assert "4711" not in result.output


def test_the_patient_is_shown_on_request(study: Path) -> None:
    result = runner.invoke(app, ["dicom", "scan", str(study), "--show-patient"], env={"COLUMNS": "200"})
    assert "secret-4711" in result.output


def test_a_description_that_names_the_patient_is_not_shown(study: Path) -> None:
    for file in (study).rglob("*"):
        if file.is_file() and file.read_bytes()[128:132] == b"DICM":
            dataset = pydicom.dcmread(file)
            dataset.SeriesDescription = f"CT {dataset.PatientID}"
            dataset.save_as(file)
    hidden = runner.invoke(app, ["dicom", "scan", str(study)], env={"COLUMNS": "200"}).output
    assert "secret-4711" not in hidden
    assert "identifying description" in hidden
    as_json = json.loads(runner.invoke(app, ["dicom", "scan", str(study), "--json"]).stdout)
    assert {s["description"] for s in as_json["series"]} == {""}
    assert (
        "CT secret-4711"
        in runner.invoke(app, ["dicom", "scan", str(study), "--show-patient"], env={"COLUMNS": "200"}).output
    )


def test_json_is_complete_and_alone_on_standard_output(study: Path) -> None:
    result = runner.invoke(app, ["dicom", "scan", str(study), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["not_dicom"] == 1
    by_uid = {s["series_uid"]: s for s in report["series"]}
    sound = by_uid[(study / "sound.uid").read_text()]
    assert sound["modality"] == "CT"
    assert sound["unit"] == "HU"
    assert sound["refused"] is False
    (volume,) = sound["volumes"]
    assert volume["slices"] == 6
    assert volume["matrix"] == [7, 5]
    assert volume["spacing_mm"] == [0.5, 0.8, 2.0]
    assert_array_equal(volume["affine_ras"], [[-0.5, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]])
    (other,) = [s for uid, s in by_uid.items() if uid != sound["series_uid"]]
    assert other["refused"] is True
    assert [f["code"] for f in other["volumes"][0]["findings"]] == ["gap"]
    assert "secret-4711" not in result.stdout


def test_an_unreadable_file_gives_status_1(study: Path) -> None:
    (study / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 400)
    result = runner.invoke(app, ["dicom", "scan", str(study)], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "unreadable" in result.output
    assert "broken.dcm" in result.output
