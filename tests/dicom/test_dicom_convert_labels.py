"""Label maps of studies with faults: what is drawn and not in the label map is told or refused, never lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from annotated_study import RAS, SHAPE, label_of, only, organs, refusals, slice_file, study
from numpy.testing import assert_array_equal
from pydicom import Dataset
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.dicom import Converted, ConvertOptions, convert
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.matching import unmatched_annotations
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.scanning import scan

NAMES = ("liver", "GTV 1", "met")
MISSING = 5


def with_metastasis() -> np.ndarray:
    """The organs, and a lesion on slice 5 alone."""
    mask = organs()
    mask[4:6, 9:11, MISSING] = 3
    return mask


def resampling(naming: Naming | None = None, **rules) -> ConvertOptions:
    return ConvertOptions(resample=True, labels=LabelRules(naming, **rules))


def warnings(result: Converted, code: str) -> list[str]:
    return [f.message for f in result.findings if (f.code, f.severity) == (code, "warning")]


def edit_contours(folder: Path, name: str, edit: Callable[[Dataset], None]) -> None:
    """Change the item of the ROI Contour Sequence that belongs to the ROI of that name."""
    ds = pydicom.dcmread(folder / "rtstruct.dcm")
    number = {roi.ROIName: roi.ROINumber for roi in ds.StructureSetROISequence}[name]
    (item,) = (item for item in ds.ROIContourSequence if item.ReferencedROINumber == number)
    edit(item)
    ds.save_as(folder / "rtstruct.dcm")


class TestMissingSlices:
    @pytest.mark.parametrize(("kind", "what"), [
        ("rtstruct", "ROI 'met': 1 of 1 contours lie on slices that are missing in the series: nothing is left of it"),
        ("seg", "Segment 'met': 4 of 4 voxels lie on slices that are missing in the series: nothing is left of it"),
    ])  # fmt: skip
    def test_a_structure_on_missing_slices_alone_refuses_the_label_map(self, tmp_path, kind, what):
        folder = study(tmp_path / "in", names=NAMES, kind=kind, mask=with_metastasis())
        slice_file(folder, MISSING).unlink()
        result = only(convert(folder, tmp_path / "out", options=resampling()))
        assert (result.status, result.label, result.failed) == ("written", None, True)
        assert what in refusals(result)
        assert not (tmp_path / "out" / "labels.json").exists()

        accepted = only(convert(folder, tmp_path / "2", options=resampling(accept=("on_missing_slices",))))
        assert not accepted.failed
        assert set(np.unique(label_of(accepted))) == {0, 1, 2}
        assert any(message.startswith(what) for message in warnings(accepted, "on_missing_slices"))

    @pytest.mark.parametrize(("kind", "lost"), [("rtstruct", "1 of 6 contours"), ("seg", "20 of 120 voxels")])
    def test_a_structure_that_loses_a_slice_is_told(self, tmp_path, kind, lost):
        folder = study(tmp_path / "in", kind=kind)
        slice_file(folder, MISSING).unlink()
        result = only(convert(folder, tmp_path / "out", options=resampling()))
        assert not result.failed
        (liver, gtv) = warnings(result, "on_missing_slices")
        assert f"'liver': {lost} lie on slices that are missing in the series: left out" in liver
        assert "'GTV 1': " in gtv
        kept = [k for k in range(SHAPE[2]) if k != MISSING]
        assert_array_equal(label_of(result)[..., kept], organs()[..., kept])

    def test_what_nobody_asked_for_refuses_nothing(self, tmp_path):
        folder = study(tmp_path / "in", names=NAMES, mask=with_metastasis())
        slice_file(folder, MISSING).unlink()
        result = only(convert(folder, tmp_path / "out", options=resampling(Naming({"liver": 1, "GTV 1": 2}))))
        assert not result.failed
        assert set(np.unique(label_of(result))) == {0, 1, 2}

    def test_a_structure_without_a_voxel_on_any_part_is_told(self, tmp_path):
        folder = study(tmp_path / "in", names=NAMES, mask=with_metastasis())
        slice_file(folder, MISSING).unlink()
        x, y, z = RAS[:3] @ (5.4, 9.4, 2.0, 1.0) * (-1, -1, 1)  # between the centres of four voxels of slice 2

        def shrink(item: Dataset) -> None:
            (contour,) = item.ContourSequence
            contour.NumberOfContourPoints = 3
            contour.ContourData = [x, y, z, x + 0.2, y, z, x, y + 0.2, z]

        edit_contours(folder, "met", shrink)
        result = only(convert(folder, tmp_path / "out", options=resampling()))
        assert warnings(result, "empty_mask") == ["ROI 'met': its contours enclose no voxel centre of the series."]

    def test_contours_beyond_the_ends_are_told_as_in_a_sound_series(self, tmp_path):
        folder = study(tmp_path / "in")
        for k in (0, 1, 2, MISSING):  # the liver begins on slice 2
            slice_file(folder, k).unlink()
        result = only(convert(folder, tmp_path / "out", options=resampling()))
        (message,) = warnings(result, "outside_series")
        assert "ROI 'liver': 1 of 6 contours lie before the first or behind the last slice, up to 3.0 mm" in message


class TestStructuresThatAreNotMapped:
    def test_a_fault_in_one_does_no_harm(self, tmp_path):
        folder = study(tmp_path / "in", names=("liver", "Couch"))

        def open_one(item: Dataset) -> None:
            item.ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"

        edit_contours(folder, "Couch", open_one)
        assert "1 OPEN_PLANAR" in refusals(only(convert(folder, tmp_path / "all")))
        options = ConvertOptions(labels=LabelRules(Naming({"liver": 7})))
        result = only(convert(folder, tmp_path / "out", options=options))
        assert_array_equal(label_of(result), np.array([0, 7, 0])[organs()])
        assert warnings(result, "unmapped_name") == ["No label is known by the name 'Couch': it is left out."]

    @pytest.mark.parametrize("kind", ["rtstruct", "seg"])
    def test_none_that_is_mapped_refuses_the_label_map(self, tmp_path, kind):
        folder = study(tmp_path / "in", names=("Leber", "Couch"), kind=kind)
        options = ConvertOptions(labels=LabelRules(Naming({"liver": 1})))
        result = only(convert(folder, tmp_path / "out", options=options))
        assert "None of the names in the annotation ('Leber', 'Couch') means one of the labels liver" in refusals(
            result
        )


def test_gaps_between_contours_are_interpolated_on_request(tmp_path):
    folder = study(tmp_path / "in")

    def every_other(item: Dataset) -> None:
        item.ContourSequence = sorted(item.ContourSequence, key=lambda c: float(c.ContourData[2]))[::2]

    edit_contours(folder, "GTV 1", every_other)  # of slices 3 to 6 there are 3 and 5

    def run(*words: str) -> tuple[str, np.ndarray]:
        out = tmp_path / f"out{len(words)}"
        shown = CliRunner().invoke(app, ["dicom", "convert", str(folder), str(out), *words], env={"COLUMNS": "250"})
        assert shown.exit_code == 0, shown.output
        (label,) = (out / "labels").iterdir()
        return re.sub(r"\s+", " ", shown.output), np.asanyarray(nibabel.load(label).dataobj)

    shown, label = run()
    assert "1 slices (of 10) without contour between contoured ones (between 4 and 6): left empty." in shown
    assert "pass --interpolate-contours" in shown
    assert not (label[..., 4] == 2).any()
    shown, label = run("--interpolate-contours")
    assert "interpolated." in shown
    assert_array_equal(label[..., 4] == 2, organs()[..., 4] == 2)


class TestAnnotationsWithoutASeries:
    """Structure sets without RTReferencedSeriesSequence, which is optional."""

    def unnamed(self, folder: Path, *, images: bool) -> Path:
        ds = pydicom.dcmread(study(folder) / "rtstruct.dcm")
        for frame in ds.ReferencedFrameOfReferenceSequence:
            del frame.RTReferencedStudySequence
        for item in () if images else ds.ROIContourSequence:
            for contour in item.ContourSequence:
                del contour.ContourImageSequence
        ds.save_as(folder / "rtstruct.dcm")
        return folder

    def test_the_images_of_the_contours_say_which_series_it_is(self, tmp_path):
        folder = self.unnamed(tmp_path / "in" / "a", images=True)
        study(tmp_path / "in" / "b", patient="other")
        of_a = [r for r in convert(tmp_path / "in", tmp_path / "out") if r.series.patient_id == "one"]
        assert_array_equal(label_of(only(of_a)), organs())
        assert unmatched_annotations(scan(folder)) == []

    def test_its_frame_of_reference_may_differ_as_with_a_named_series(self, tmp_path):
        folder = self.unnamed(tmp_path / "in", images=True)
        ds = pydicom.dcmread(folder / "rtstruct.dcm")
        for roi in ds.StructureSetROISequence:
            roi.ReferencedFrameOfReferenceUID = "1.2.3"
        ds.save_as(folder / "rtstruct.dcm")
        result = only(convert(folder, tmp_path / "out"))
        assert_array_equal(label_of(result), organs())
        assert len(warnings(result, "other_frame_of_reference")) == 1

    def test_without_images_too_it_is_named_and_a_failure(self, tmp_path):
        folder = self.unnamed(tmp_path / "in", images=False)
        words = ["dicom", "convert", str(folder), str(tmp_path / "out")]
        shown = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
        assert shown.exit_code == 1
        assert "rtstruct.dcm: this RTSTRUCT names no series, nor an image that is here, no label" in shown.output
        assert "Wrote 1 of 1 volumes" in shown.output


class TestSidecar:
    NAMES = ("liver", "GTV Doe Jane")

    def convert(self, tmp_path: Path, **options) -> tuple[Converted, str]:
        """A conversion whose label map is refused, and its sidecar."""
        folder = study(tmp_path / "Doe_Jane", names=self.NAMES)

        def open_one(item: Dataset) -> None:
            item.ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"

        edit_contours(folder, "GTV Doe Jane", open_one)
        result = only(convert(folder, tmp_path / "out", options=ConvertOptions(**options)))
        return result, result.image.with_name(f"{result.name}.json").read_text()

    def test_it_has_codes_and_counts_instead_of_names(self, tmp_path):
        result, text = self.convert(tmp_path)
        assert "Doe_Jane/rtstruct.dcm" in refusals(result)
        assert "GTV Doe Jane" in refusals(result)
        assert "doe" not in text.lower()
        remedy = "The image is written, without a label."
        first, second = json.loads(text)["findings"]
        assert first == {"code": "no_label", "severity": "refusal", "count": 1, "remedy": remedy}
        assert (second["code"], second["severity"], second["count"]) == ("open_contour", "refusal", 1)

    def test_accepted_and_mapped_it_has_neither(self, tmp_path):
        naming = Naming({"liver": 1, "tumour": 2}, {"GTV*": "tumour"})
        result, text = self.convert(tmp_path, labels=LabelRules(naming, accept=("open_contour",)))
        assert result.label is not None
        assert len(warnings(result, "open_contour")) == 1
        assert "doe" not in text.lower()

    def test_names_are_kept_on_request(self, tmp_path):
        _, text = self.convert(tmp_path, keep_uids=True)
        assert "1 OPEN_PLANAR among 4 contours" in text
        assert "GTV Doe Jane" in text
