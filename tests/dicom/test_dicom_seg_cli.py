"""``medseg3d dicom seg`` and the mask files it takes: labels, axis orders, and messages that say what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from seg_phantom import LABELS, make_mask, make_series
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.dicom.mask_file import parse_labels, read_mask
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.seg_read import read_seg
from medseg3d.errors import CaseError, GeometryError, OutputError, UsageError

SIDECAR = {"labels": LABELS, "bundle": "ct_organ_segmentation", "bundle_version": "0.3.0", "weights_sha256": "abc123"}


@pytest.fixture
def series(tmp_path) -> SeriesGrid:
    return make_series(tmp_path / "ct")


@pytest.fixture
def mask(tmp_path, series) -> Path:
    """As ``medseg3d segment`` writes it, except that the axes are turned to RAS."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(make_mask(), series.affine_ras))
    nibabel.save(image, tmp_path / "case.nii.gz")
    (tmp_path / "case.json").write_text(json.dumps(SIDECAR))
    return tmp_path / "case.nii.gz"


def run(*words: object) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["dicom", "seg", *map(str, words)], env={"COLUMNS": "200"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output), result.exception


def refused(error: type[Exception], message: str, *words: object) -> None:
    _, _, raised = run(*words)
    assert isinstance(raised, error)
    assert re.search(message, str(raised))


def assert_is_the_mask(path: Path, series: SeriesGrid) -> None:
    for segment in read_seg(path, series).segments:
        np.testing.assert_array_equal(segment.mask, make_mask() == LABELS[segment.name])


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_mask_with_its_sidecar(tmp_path, series, mask, kind):
    status, output, _ = run(mask, "--series", tmp_path / "ct", "-o", tmp_path / "out" / "seg.dcm", "--kind", kind)
    assert (status, output.split()[-1]) == (0, "written.")
    assert_is_the_mask(tmp_path / "out" / "seg.dcm", series)
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    item = seg.SegmentSequence[-1].SegmentationAlgorithmIdentificationSequence[0]
    assert (item.AlgorithmName, item.AlgorithmVersion) == ("ct_organ_segmentation", "0.3.0")
    assert "weights_sha256=abc123" in str(item.AlgorithmParameters)


def test_the_quickest_way_with_labels_and_codes(tmp_path, series, mask):
    mask.with_name("case.json").unlink()
    (tmp_path / "codes.yaml").write_text("thing: {type: [78961009, Spleen]}")
    words = ["--labels", "liver=1", "--labels", "left_kidney=2", "--labels", "thing=3", "--description", "Made by hand"]
    status, output, _ = run(mask, "--series", tmp_path / "ct", "-o", tmp_path / "s.dcm", *words)
    assert status == 0
    assert "note: uncoded label: No SNOMED CT code is known for 'thing'" in output
    to_seg = ["--series", tmp_path / "ct", "-o", tmp_path / "s.dcm", "--force"]
    status, output, _ = run(mask, *to_seg, *words, "--codes", tmp_path / "codes.yaml")
    assert (status, "uncoded" in output) == (0, False)
    found = read_seg(tmp_path / "s.dcm", series)
    assert [(s.name, s.meaning) for s in found.segments][-1] == ("thing", "Spleen")
    assert pydicom.dcmread(tmp_path / "s.dcm").SeriesDescription == "Made by hand"


def test_one_of_several_series(tmp_path, series, mask):
    make_series(tmp_path / "ct" / "other", shape=(9, 9, 9), patient="ANOTHER")
    refused(CaseError, r"2 series", mask, "--series", tmp_path / "ct", "-o", tmp_path / "s.dcm")
    status, _, _ = run(mask, "--series", tmp_path / "ct", "--series-uid", series.series_uid, "-o", tmp_path / "s.dcm")
    assert status == 0
    assert_is_the_mask(tmp_path / "s.dcm", series)


def test_errors_say_what_to_do(tmp_path, series, mask):
    to_seg = ("--series", tmp_path / "ct", "-o", tmp_path / "s.dcm")
    refused(CaseError, r"none\.nii: no such file", tmp_path / "none.nii", *to_seg)
    refused(CaseError, r"no DICOM images", mask, "--series", _empty(tmp_path), "-o", tmp_path / "s.dcm")
    refused(UsageError, r"is a folder: name a file in it", mask, "--series", tmp_path / "ct", "-o", tmp_path)
    refused(UsageError, r"the mask itself", mask, "--series", tmp_path / "ct", "-o", mask)
    refused(UsageError, r"'liver' is not of the form name=id", mask, *to_seg, "--labels", "liver")
    refused(CaseError, r"values 2, 3, which no label has", mask, *to_seg, "--labels", "liver=1")
    mask.with_name("case.json").unlink()
    refused(UsageError, r"there is no case\.json beside it.*--labels liver=1", mask, *to_seg)
    assert not (tmp_path / "s.dcm").exists()


def test_a_mask_of_another_grid_is_refused(tmp_path, series, mask):
    affine = series.affine_ras.copy()
    affine[2, 3] += 1.5
    nibabel.save(nibabel.Nifti1Image(make_mask(), affine), mask)
    message = r"case\.nii\.gz: The mask lies up to 1\.50 mm away from the series"
    refused(GeometryError, message, mask, "--series", tmp_path / "ct", "-o", tmp_path / "s.dcm")


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


# --- mask files ------------------------------------------------------------------------------------------------------


def test_a_mask_of_itk(tmp_path, series, mask):
    image = sitk.GetImageFromArray(make_mask().T)
    image.SetSpacing(series.spacing_mm)
    image.SetOrigin(series.affine_lps[:3, 3].tolist())
    image.SetDirection((series.affine_lps[:3, :3] / series.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "case.nrrd"))
    np.testing.assert_array_equal(read_mask(tmp_path / "case.nrrd", series).voxels, make_mask())


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", r"sidecar cannot be read"), ('{"labels": [1]}', r"labels are \[1\]"), ("[]", r"what its values mean")],
)
def test_a_damaged_sidecar_is_named(series, mask, content, message):
    mask.with_name("case.json").write_text(content)
    with pytest.raises((CaseError, UsageError), match=message):
        read_mask(mask, series)


def test_given_labels_go_before_the_sidecar(series, mask):
    assert read_mask(mask, series, labels={"a": 1, "b": 2, "c": 3}).labels == {"a": 1, "b": 2, "c": 3}
    assert read_mask(mask, series).labels == LABELS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["liver"], r"'liver' is not of the form name=id"), (["=1"], r"label name '' is not a text"),
        (["a=x"], r"'a=x' is not"), (["a=1", "a=2"], r"label a is given twice"), (["a=0"], r"has the id 0"),
        (["a=1", "b=1"], r"have the same id, 1"),
    ],
)  # fmt: skip
def test_labels_as_they_are_typed(texts, message):
    with pytest.raises(UsageError, match=message):
        parse_labels(texts)


def test_a_name_may_hold_an_equals_sign():
    assert parse_labels(["a=b=3"]) == {"a=b": 3}


def test_the_files_of_the_series_are_left_alone(tmp_path, series, mask):
    before = {p.name: p.read_bytes() for p in (tmp_path / "ct").iterdir()}
    run(mask, "--series", tmp_path / "ct", "-o", tmp_path / "seg.dcm")
    assert {p.name: p.read_bytes() for p in (tmp_path / "ct").iterdir()} == before


@pytest.mark.parametrize("command", ["seg", "rtstruct"])
def test_neither_a_slice_nor_another_file_is_replaced(tmp_path, series, mask, command):
    source = sorted((tmp_path / "ct").iterdir())[0]
    before = source.read_bytes()
    there = tmp_path / "there.dcm"
    there.write_text("keep me")
    words = ["dicom", command, str(mask), "--series", str(tmp_path / "ct"), "-o"]
    raised = CliRunner().invoke(app, [*words, str(source), "--force"]).exception
    assert isinstance(raised, UsageError)
    assert "is a file of the series" in str(raised)
    assert source.read_bytes() == before
    assert "there.dcm exists" in str(CliRunner().invoke(app, [*words, str(there)]).exception)
    assert there.read_text() == "keep me"
    assert CliRunner().invoke(app, [*words, str(there), "--force"]).exit_code == 0
    raised = CliRunner().invoke(app, [*words, str(there / "below" / "a_file.dcm")]).exception
    assert isinstance(raised, OutputError)
    assert "cannot be written (Not a directory)" in str(raised)
