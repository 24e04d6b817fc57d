"""From DICOM series to masks in NIfTI, SEG and RTSTRUCT, with a network whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, EnsureTyped, Orientationd

from medseg3d.dicom import Stack, scan
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.dicom.seg_read import read_seg
from medseg3d.errors import CaseError, ConfigError, DicomError, UsageError
from medseg3d.inference import Segmenter, SlidingWindow, ToImageGridd, find_cases
from medseg3d.inference.studies import RefusedSeries
from medseg3d.phantom.dicom import Patient, write_ct_series
from medseg3d.transforms import LoadStudyd

LABELS = {"liver": 1, "spleen": 2}
SHAPE = (20, 18, 12)
OBLIQUE = np.array([[-0.9, 0.0, 0.0, 30], [0, -0.96, 0.7, 12], [0, 0.28, 2.4, -80], [0, 0, 0, 1]])


class ReadsValues(torch.nn.Module):
    """The label of a voxel is its value in HU: the image shows the mask that is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 3, 1)  # what is linear of (x - c)²: 2cx - c²
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0, 0] = 60.0 * torch.arange(3)
            self.conv.bias[:] = -30.0 * torch.arange(3) ** 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def wanted() -> np.ndarray:
    """A box with a hole, and a small box apart."""
    mask = np.zeros(SHAPE, np.int16)
    mask[2:14, 3:15, 2:9] = 1
    mask[6:9, 7:11, 4:7] = 0
    mask[15:19, 2:6, 5:11] = 2
    return mask


@pytest.fixture
def study(tmp_path) -> Path:
    write_ct_series(wanted(), OBLIQUE, tmp_path / "study" / "b", patient=Patient("one"))
    return tmp_path / "study"


def segmenter(source: Path, output: Path, **options) -> Segmenter:
    transforms = [LoadStudyd("image"), Orientationd("image", axcodes="RAS", labels=None), EnsureTyped("image")]
    return Segmenter(
        dataset=Dataset(find_cases(source, modality="CT"), Compose(transforms)),
        network=ReadsValues(),
        inferer=SlidingWindow((16, 16, 16), 2),
        postprocessing=ToImageGridd("pred"),
        labels=LABELS,
        output_dir=output,
        metadata={"name": "ct_test_segmentation", "version": "0.3.0"},
        **options,
    )


def gapped(folder: Path) -> None:
    """The same series without one slice in the middle."""
    files = sorted(folder.rglob("*.dcm"), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    files[5].unlink()


def test_masks_in_every_format_are_the_truth_on_the_grid_of_the_series(study, tmp_path):
    report = segmenter(study, tmp_path / "out", formats=["nifti", "seg", "rtstruct"]).run()
    (case,) = (result.case for result in report.cases)
    stack = scan(study).series[0].stacks[0]
    mask = nibabel.load(tmp_path / "out" / f"{case}.nii.gz")
    np.testing.assert_allclose(mask.affine, stack.grid.affine_ras, atol=1e-4)
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-4)
    truth = wanted()
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), truth)
    seg = read_seg(tmp_path / "out" / f"{case}.seg.dcm", stack.grid)
    contours = read_rtstruct(tmp_path / "out" / f"{case}.rtstruct.dcm", stack.grid)
    for annotation in (seg, contours):
        assert {s.name: s.count for s in annotation.segments} == {
            name: int((truth == number).sum()) for name, number in LABELS.items()
        }
        for segment in annotation.segments:
            np.testing.assert_array_equal(segment.mask, truth == LABELS[segment.name])


def test_the_objects_name_the_algorithm_and_the_sidecar_the_series(study, tmp_path):
    report = segmenter(study, tmp_path / "out", formats=["seg", "rtstruct"]).run()
    (result,) = report.cases
    assert result.mask == tmp_path / "out" / f"{result.case}.seg.dcm"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{result.case}{suffix}" for suffix in (".json", ".rtstruct.dcm", ".seg.dcm")
    ]
    seg = pydicom.dcmread(result.mask)
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ct_test_segmentation", "0.3.0")
    sidecar = json.loads((tmp_path / "out" / f"{result.case}.json").read_text())
    assert sidecar["source"]["modality"] == "CT"
    source = pydicom.dcmread(next(study.rglob("*.dcm")))
    written = (tmp_path / "out" / f"{result.case}.json").read_text()
    assert source.SeriesInstanceUID not in written
    assert str(source.PatientName) not in written
    assert sidecar["source"]["series_uid"].startswith("sha256:")


def test_a_tree_gives_a_case_a_series_and_a_refused_one_fails_alone(study, tmp_path):
    write_ct_series(wanted(), OBLIQUE, study / "a", patient=Patient("two"))
    gapped(study / "a")
    cases = find_cases(study, modality="CT")
    assert {type(case["image"]) for case in cases} == {Stack, RefusedSeries}
    with pytest.raises(CaseError, match=r"1 of 2 cases failed.*\n.*The series is refused\. gap: 1 slice is missing"):
        segmenter(study, tmp_path / "out").run()
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_only_the_modality_of_the_bundle_is_taken(study):
    assert len(find_cases(study)) == len(find_cases(study, modality="CT")) == 1
    with pytest.raises(CaseError, match=r"no MR series here that makes a volume\. There are: CT"):
        find_cases(study, modality="MR")


def test_a_single_slice_is_no_case(study, tmp_path):
    write_ct_series(wanted()[..., :1], OBLIQUE, study / "scout", patient=Patient("one", study="2"))
    assert len(find_cases(study, modality="CT")) == 1


def test_a_mask_in_dicom_needs_a_series(tmp_path):
    nibabel.save(nibabel.Nifti1Image(wanted(), OBLIQUE), tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match="1 of 1 images are no DICOM series: a mask as seg refers"):
        segmenter(tmp_path, tmp_path / "out", formats=["nifti", "seg"]).run()


@pytest.mark.parametrize("formats", [[], ["nifti", "mgz"]])
def test_unknown_formats_are_refused_at_once(study, tmp_path, formats):
    with pytest.raises(ConfigError, match="Masks are written as nifti, seg or rtstruct, not as"):
        segmenter(study, tmp_path / "out", formats=formats)


def test_masks_of_an_earlier_run_go_with_a_failed_case(study, tmp_path):
    segmenter(study, tmp_path / "out", formats=["nifti", "seg"]).run()
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert len(names) == 3
    gapped(study)
    with pytest.raises(CaseError, match="gap"):
        segmenter(study, tmp_path / "out").run()
    assert list((tmp_path / "out").iterdir()) == []


def test_reading_a_refused_series_raises(tmp_path, study):
    gapped(study)
    with pytest.raises(DicomError, match="gap: 1 slice is missing"):
        LoadStudyd("image")({"image": str(study)})


def test_a_slice_that_cannot_be_read_is_told_of_the_shorter_volume(study, tmp_path, caplog):
    last = max(study.rglob("*.dcm"), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])
    last.write_bytes(last.read_bytes()[:300])
    assert LoadStudyd("image")({"image": str(study)})["image"].shape == (1, *SHAPE[:2], SHAPE[2] - 1)
    assert f"{study}: unreadable file: 1 file beside it could not be read" in caplog.text
    report = segmenter(study, tmp_path / "out").run()
    assert any("unreadable file: 1 file beside it" in finding for finding in report.cases[0].findings)


def test_neither_masks_nor_sidecars_say_who_it_is(study, tmp_path):
    for file in study.rglob("*.dcm"):
        ds = pydicom.dcmread(file)
        ds.PatientName, ds.SeriesDescription = "Doe^Jane", "Thorax of Jane Doe"
        ds.save_as(file)
    (case,) = segmenter(study, tmp_path / "out").run().cases
    assert "jane" not in case.case.lower()
    assert "jane" not in (tmp_path / "out" / f"{case.case}.json").read_text().lower()
