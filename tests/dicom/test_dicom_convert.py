"""DICOM to NIfTI as a user has it: files, sidecars, labels, refusals and what repairs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from annotated_study import RAS, SHAPE, body, label_of, only, organs, refusals, study
from numpy.testing import assert_allclose, assert_array_equal
from synthetic_series import SyntheticSeries
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.datalist import build_datalist, check_datalist
from medseg3d.datalist.model import write_datalist
from medseg3d.dicom import ConvertOptions, convert
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.gradients import fsl_gradients
from medseg3d.dicom.matching import unmatched_annotations
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.scanning import scan
from medseg3d.dicom.seg_write import write_seg
from medseg3d.dicom.sidecar import hashed_uid
from medseg3d.errors import DicomError, UsageError
from medseg3d.phantom.dicom import Patient, write_ct_series


class TestImage:
    @pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
    def test_voxels_and_place_are_those_of_the_slices(self, tmp_path, suffix):
        series = SyntheticSeries(row=(0.0, 0.96, 0.28), column=(0.0, -0.28, 0.96))
        series.write(tmp_path / "in")
        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(suffix=suffix)))
        image = nibabel.load(result.image)
        assert (result.status, result.shape, result.slices) == ("written", (7, 5, 6), 6)
        assert image.get_data_dtype() == np.int16
        assert_array_equal(np.asanyarray(image.dataobj), series.values)
        for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            assert code == 1
            assert_allclose(form, series.affine_ras, atol=1e-4)
        assert re.fullmatch(rf"P[0-9a-f]{{8}}_3_synthetic_[0-9a-f]{{8}}{re.escape(suffix)}", result.image.name)

    def test_values_beyond_int16_get_a_wider_type(self, tmp_path):
        series = SyntheticSeries()

        def wide(ds, k):
            ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 16, 15, -1024
            ds.PixelData = (series.stored[k] + np.uint16(60000)).tobytes()

        series.write(tmp_path / "in", wide)
        image = nibabel.load(only(convert(tmp_path / "in", tmp_path / "out")).image)
        assert image.get_data_dtype() == np.int32
        assert_array_equal(np.asanyarray(image.dataobj), series.values + 60000)

    def test_the_sidecar_leads_back_and_names_nobody(self, tmp_path):
        series = SyntheticSeries()
        series.write(tmp_path / "DOE_JANE")
        result = only(convert(tmp_path / "DOE_JANE", tmp_path / "out"))
        sidecar = result.image.with_name(result.name + ".json")
        content, text = json.loads(sidecar.read_text()), sidecar.read_text()
        assert content["slices"]["sop_instance_uids"] == [
            hashed_uid(series.dataset(k).SOPInstanceUID) for k in range(6)
        ]
        assert content["series_uid"] == hashed_uid(series.series_uid)
        assert (content["shape"], content["spacing_mm"], content["orientation"]) == ([7, 5, 6], [0.5, 0.8, 2.0], "LPS")
        assert_allclose(content["affine_ras"], series.affine_ras, atol=1e-6)
        for secret in ("Doe", "DOE", "4711", series.series_uid, series.study_uid, series.reference_uid):
            assert secret not in text
            assert secret not in result.image.name

    @pytest.mark.parametrize("description", ["CT of Doe, Jane", "THORAX_DOE", "scan secret-4711", "born 31.01.1970"])
    def test_a_description_that_says_who_it_is_is_left_out(self, tmp_path, description):
        def tell(ds, k):
            ds.SeriesDescription, ds.PatientBirthDate = description, "19700131"

        SyntheticSeries().write(tmp_path / "in", tell)
        result = only(convert(tmp_path / "in", tmp_path / "out"))
        sidecar = result.image.with_name(result.name + ".json").read_text()
        assert re.fullmatch(r"P[0-9a-f]{8}_3_CT_[0-9a-f]{8}", result.name)
        assert json.loads(sidecar)["description"] == ""
        assert [f.code for f in result.findings] == ["identifying_description"]
        assert not any(word in sidecar.lower() for word in ("doe", "jane", "4711", "1970"))

    def test_uids_and_files_are_kept_on_request(self, tmp_path):
        series = SyntheticSeries()
        series.write(tmp_path / "in")
        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(keep_uids=True)))
        content = json.loads(result.image.with_name(result.name + ".json").read_text())
        assert content["series_uid"] == series.series_uid
        assert [Path(file).name for file in content["files"]] == [f"{k:04}.dcm" for k in range(6)]

    def test_nothing_is_replaced_unless_asked(self, tmp_path):
        SyntheticSeries().write(tmp_path / "in")
        first = only(convert(tmp_path / "in", tmp_path / "out"))
        before = first.image.read_bytes()
        again = only(convert(tmp_path / "in", tmp_path / "out"))
        assert again.status == "refused"
        assert "exists: pass --force to replace it" in refusals(again)
        assert first.image.read_bytes() == before
        uncompressed = ConvertOptions(suffix=".nii", force=True)
        third = only(convert(tmp_path / "in", tmp_path / "out", options=uncompressed))
        assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == [
            f"{third.name}.json",
            third.image.name,
        ]

    def test_equal_names_are_told_apart(self, tmp_path):
        for number in range(3):
            SyntheticSeries(seed=number).write(tmp_path / "in" / str(number))
        names = [result.name for result in convert(tmp_path / "in", tmp_path / "out")]
        assert len(set(names)) == 3
        assert all(re.fullmatch(r"P\w+_3_synthetic_[0-9a-f]{8}", name) for name in names)

    def test_one_series_of_several_is_chosen_by_its_uid_or_the_hash_of_it(self, tmp_path):
        a, b = SyntheticSeries(seed=1), SyntheticSeries(seed=2)
        a.write(tmp_path / "in" / "a")
        b.write(tmp_path / "in" / "b")
        for uid in (b.series_uid, hashed_uid(b.series_uid)):
            options = ConvertOptions(series_uid=uid, force=True)
            image = nibabel.load(only(convert(tmp_path / "in", tmp_path / "out", options=options)).image)
            assert_array_equal(np.asanyarray(image.dataobj), b.values)
        with pytest.raises(DicomError, match=r"No series here has the UID 1\.2\.3\. There are:"):
            convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(series_uid="1.2.3"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(DicomError, match="no DICOM image series here"):
            convert(tmp_path / "empty", tmp_path / "out")

    def test_a_single_slice_is_left_out_and_does_not_count_as_a_failure(self, tmp_path):
        SyntheticSeries().write(tmp_path / "in" / "ct")
        SyntheticSeries(slices=1).write(tmp_path / "in" / "scout")
        statuses = {result.status: result.failed for result in convert(tmp_path / "in", tmp_path / "out")}
        assert statuses == {"written": False, "left out": False}


class TestRepair:
    def test_a_gap_is_refused_then_filled_and_stated(self, tmp_path):
        series = SyntheticSeries(slices=8)
        series.write(tmp_path / "in", only=[0, 1, 2, 4, 5, 6, 7])
        refused = only(convert(tmp_path / "in", tmp_path / "out"))
        assert (refused.status, refused.image) == ("refused", None)
        assert not (tmp_path / "out").exists()
        assert "1 slice is missing between slices 3 and 4 (4.00 mm)" in refusals(refused)

        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(resample=True)))
        voxels = np.asanyarray(nibabel.load(result.image).dataobj)
        kept = [0, 1, 2, 4, 5, 6, 7]
        assert_array_equal(voxels[..., kept], series.values[..., kept])
        assert_array_equal(voxels[..., 3], np.rint((series.values[..., 2] + series.values[..., 4]) / 2))
        stated = json.loads(result.image.with_name(result.name + ".json").read_text())["resampled"]
        assert stated["largest_gap_interpolated_over_mm"] == 4.0
        assert (stated["slices"], stated["slices_copied_unchanged"]) == (8, 7)
        assert not result.failed

    def test_a_tilted_gantry_becomes_upright(self, tmp_path):
        series = SyntheticSeries(slices=5, rows=12)
        series.stored[:] = 500

        def tilt(ds, k):
            ds.ImagePositionPatient = [series.origin_mm[0], series.origin_mm[1] + 0.8 * k, series.origin_mm[2] + 2 * k]

        series.write(tmp_path / "in", tilt)
        assert "gantry tilt" in refusals(only(convert(tmp_path / "in", tmp_path / "out")))
        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(resample=True)))
        image = nibabel.load(result.image)
        assert image.shape == (7, 16, 5)
        assert int(image.header["qform_code"]) == 1
        assert_allclose(image.affine[:3, :3], np.diag([-0.5, -0.8, 2]), atol=1e-6)
        voxels = np.asanyarray(image.dataobj)
        for k in range(5):  # a row a slice further back; air where no slice reaches
            assert_array_equal(voxels[0, :, k], [-1024] * k + [500 - 1024] * 12 + [-1024] * (4 - k))

    def test_a_gap_beyond_the_limit_stays_refused(self, tmp_path):
        SyntheticSeries(slices=12).write(tmp_path / "in", only=[0, 1, 2, 9, 10, 11])
        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(resample=True)))
        assert "up to 10 mm are interpolated over" in refusals(result)
        wider = ConvertOptions(resample=True, max_gap_mm=14)
        assert only(convert(tmp_path / "in", tmp_path / "out", options=wider)).shape == (7, 5, 12)

    def test_mixed_orientations_are_split_on_request(self, tmp_path):
        axial = SyntheticSeries()
        coronal = SyntheticSeries(row=(1.0, 0, 0), column=(0, 0, -1.0), seed=1, series_uid=axial.series_uid)
        coronal.study_uid, coronal.reference_uid = axial.study_uid, axial.reference_uid

        def renamed(ds, k):
            ds.SOPInstanceUID += ".9"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID

        axial.write(tmp_path / "in" / "a")
        coronal.write(tmp_path / "in" / "c", renamed)
        assert "Slices differ in orientation" in refusals(only(convert(tmp_path / "in", tmp_path / "out")))
        results = convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(split=True))
        assert [result.status for result in results] == ["written", "written"]
        for result, truth in zip(results, (axial, coronal), strict=True):
            assert_array_equal(np.asanyarray(nibabel.load(result.image).dataobj), truth.values)
            finding = next(f for f in result.findings if f.code == "mixed_orientation")
            assert (finding.severity, finding.remedy) == ("warning", "")
        assert not any(result.failed for result in results)


class TestLabels:
    @pytest.mark.parametrize("kind", ["rtstruct", "seg"])
    def test_the_study_is_ready_for_a_data_list(self, tmp_path, kind):
        for patient in ("one", "three"):
            study(tmp_path / "in" / patient, patient=patient, kind=kind)
        results = convert(tmp_path / "in", tmp_path / "out")
        for result in results:
            assert_array_equal(label_of(result), organs())
            assert_allclose(nibabel.load(result.label).affine, nibabel.load(result.image).affine)
            assert not result.failed
        labels = json.loads((tmp_path / "out" / "labels.json").read_text())
        assert labels == {"liver": 1, "GTV 1": 2}
        path = tmp_path / "out" / "dataset.json"
        built = build_datalist(tmp_path / "out", path=path, labels=labels, modality="CT", patient_regex="^([^_]+)_")
        write_datalist(built.datalist, path)
        assert len({case.patient for case in built.datalist.training}) == 2
        assert [f for f in check_datalist(built.datalist).findings if f.severity == "error"] == []

    def test_names_are_mapped_by_the_naming(self, tmp_path):
        study(tmp_path / "in", names=("Hepar", "GTV 1"))
        naming = Naming({"tumour": 5, "liver": 3}, {"GTV*": "tumour", "hepar": "liver"})
        options = ConvertOptions(labels=LabelRules(naming))
        result = only(convert(tmp_path / "in", tmp_path / "out", options=options))
        assert_array_equal(label_of(result), np.array([0, 3, 5])[organs()])
        assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"tumour": 5, "liver": 3}

    def test_a_name_has_one_id_in_every_case_and_run(self, tmp_path):
        first = study(tmp_path / "1", patient="one", names=("liver", "spleen"))
        second = study(tmp_path / "2", patient="two", names=("spleen", "aorta"))
        convert(first, tmp_path / "out")
        result = only(convert(second, tmp_path / "out"))
        assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"liver": 1, "spleen": 2, "aorta": 3}
        assert_array_equal(label_of(result), np.array([0, 2, 3])[organs()])

    def test_labels_of_a_repaired_gap_are_those_of_the_nearest_slice(self, tmp_path):
        folder = study(tmp_path / "in")
        files = sorted((folder / "ct").iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
        files[5].unlink()
        result = only(convert(folder, tmp_path / "out", options=ConvertOptions(resample=True)))
        assert not result.failed, refusals(result)
        found = label_of(result)
        assert found.shape == SHAPE
        kept = [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert_array_equal(found[..., kept], organs()[..., kept])
        assert_array_equal(found[..., 5], organs()[..., 6])
        assert "resampled_labels" in [finding.code for finding in result.findings]

    def test_two_annotations_are_put_together_unless_they_hold_one_name(self, tmp_path):
        grid = write_ct_series(body(), RAS, tmp_path / "in" / "ct", patient=Patient("one"))
        write_seg((organs() == 1).astype(np.uint8), grid, tmp_path / "in" / "liver.dcm", labels={"liver": 1})
        write_seg((organs() == 2).astype(np.uint8), grid, tmp_path / "in" / "gtv.dcm", labels={"GTV": 1})
        result = only(convert(tmp_path / "in", tmp_path / "out"))
        ids = json.loads((tmp_path / "out" / "labels.json").read_text())
        assert_array_equal(label_of(result) == ids["liver"], organs() == 1)
        assert_array_equal(label_of(result) == ids["GTV"], organs() == 2)
        write_seg((organs() == 1).astype(np.uint8), grid, tmp_path / "in" / "other.dcm", labels={"Liver": 1})
        result = only(convert(tmp_path / "in", tmp_path / "out2"))
        assert result.image is not None
        assert result.label is None
        assert result.failed
        assert "in two annotations of the series" in refusals(result)
        chosen = ConvertOptions(annotation="other.dcm")
        assert not only(convert(tmp_path / "in", tmp_path / "out3", options=chosen)).failed

    def test_overlapping_structures_refuse_the_label_and_not_the_image(self, tmp_path):
        grid = write_ct_series(body(), RAS, tmp_path / "in" / "ct", patient=Patient("one"))
        write_seg((organs() == 1).astype(np.uint8), grid, tmp_path / "in" / "a.dcm", labels={"liver": 1})
        write_seg((organs() >= 1).astype(np.uint8), grid, tmp_path / "in" / "b.dcm", labels={"body": 1})
        result = only(convert(tmp_path / "in", tmp_path / "out"))
        assert result.image.is_file()
        assert result.label is None
        assert "liver and body share" in refusals(result) or "body and liver share" in refusals(result)
        naming = Naming({"body": 1, "liver": 2})
        options = ConvertOptions(labels=LabelRules(naming, "last"), force=True)
        repaired = only(convert(tmp_path / "in", tmp_path / "out", options=options))
        assert_array_equal(label_of(repaired), np.array([0, 2, 1])[organs()])

    def test_an_annotation_of_another_series_is_named(self, tmp_path):
        folder = study(tmp_path / "in")
        other = study(tmp_path / "elsewhere", patient="two")
        (other / "rtstruct.dcm").rename(folder / "foreign.dcm")
        assert [file.file.path.name for file in unmatched_annotations(scan(folder))] == ["foreign.dcm"]

    def test_a_damaged_list_of_ids_is_not_written_over(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "labels.json").write_text('{"liver": "one"}')
        with pytest.raises(UsageError, match="not names of labels with their ids"):
            convert(study(tmp_path / "in"), tmp_path / "out")


class TestFourD:
    def write_diffusion(self, folder: Path, b_values, directions) -> list[SyntheticSeries]:
        volumes = []
        for number, (b, direction) in enumerate(zip(b_values, directions, strict=True)):
            volume = SyntheticSeries(seed=number, series_uid="1.2.3.4")
            volume.study_uid = volume.reference_uid = "1.2.3"

            def diffusion(ds, k, number=number, b=b, direction=direction):
                ds.Modality, ds.RescaleIntercept = "MR", 0
                ds.InstanceNumber = 100 * number + k + 1
                ds.SOPInstanceUID = f"1.2.3.4.{number}.{k}"
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
                ds.DiffusionBValue = float(b)
                if any(direction):
                    ds.DiffusionGradientOrientation = [float(d) for d in direction]

            volume.write(folder / str(number), diffusion)
            volumes.append(volume)
        return volumes

    def test_volumes_of_one_grid_are_one_file_with_their_gradients(self, tmp_path):
        directions = [(0, 0, 0), (1, 0, 0), (0, 0.6, 0.8)]
        volumes = self.write_diffusion(tmp_path / "in", (0, 1000, 1000), directions)
        result = only(convert(tmp_path / "in", tmp_path / "out", options=ConvertOptions(four_d=True)))
        image = nibabel.load(result.image)
        assert image.shape == (7, 5, 6, 3)
        for t, volume in enumerate(volumes):
            assert_array_equal(np.asanyarray(image.dataobj)[..., t], volume.values + 1024)
        stem = result.image.with_name(result.name)
        assert stem.with_name(result.name + ".bval").read_text() == "0 1000 1000\n"
        # A right-handed grid: FSL reverses the first axis.
        assert_allclose(np.loadtxt(f"{stem}.bvec").T, [(0, 0, 0), (-1, 0, 0), (0, 0.6, 0.8)], atol=1e-6)
        assert json.loads(Path(f"{stem}.json").read_text())["volumes"] == ["b0", "b1000_d01", "b1000_d02"]

    def test_without_asking_each_volume_is_a_file(self, tmp_path):
        self.write_diffusion(tmp_path / "in", (0, 1000), [(0, 0, 0), (1, 0, 0)])
        results = convert(tmp_path / "in", tmp_path / "out")
        assert [result.name.rsplit("_", 1)[1] for result in results] == ["b0", "b1000"]
        assert not list((tmp_path / "out" / "images").glob("*.bv*"))

    @pytest.mark.parametrize("flip", [1, -1])
    def test_gradients_mean_the_same_direction_for_either_handedness(self, flip):
        affine = np.diag([-2.0, -2.0 * flip, 3.0, 1.0])
        vectors = fsl_gradients([[0.0, 0.6, 0.8], [1, 0, 0]], affine)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        in_voxels = vectors * [[-1 if np.linalg.det(affine) > 0 else 1], [1], [1]]
        assert_allclose((axes @ in_voxels).T, [[0, -0.6, 0.8], [-1, 0, 0]], atol=1e-12)


class TestCommand:
    def invoke(self, *words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["dicom", "convert", *map(str, words)], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)

    def test_a_refused_series_is_named_and_the_others_are_written(self, tmp_path):
        SyntheticSeries().write(tmp_path / "in" / "good")
        SyntheticSeries(slices=8).write(tmp_path / "in" / "gap", only=[0, 1, 2, 4, 5, 6, 7])
        status, shown = self.invoke(tmp_path / "in", tmp_path / "out")
        assert status == 1
        assert "gap: 1 slice is missing between slices 3 and 4" in shown
        assert "convert with --fix resample" in shown
        assert "Wrote 1 of 2 volumes" in shown
        assert len(list((tmp_path / "out" / "images").glob("*.nii.gz"))) == 1
        assert self.invoke(tmp_path / "in", tmp_path / "fixed", "--fix", "resample")[0] == 0

    def test_labels_by_a_yaml_and_what_to_do_next(self, tmp_path):
        study(tmp_path / "in", names=("Hepar", "GTV 1"))
        (tmp_path / "names.yaml").write_text('labels: {liver: 1, tumour: 2}\nnames: {"GTV*": tumour, hepar: liver}\n')
        out = tmp_path / "out"
        status, shown = self.invoke(tmp_path / "in", out, "--labels", tmp_path / "names.yaml", "--no-compress")
        assert status == 0
        assert f"Next: medseg3d datalist build {out} -o {out}/dataset.json --labels {out}/labels.json" in shown
        assert len(list((out / "labels").glob("*.nii"))) == 1

    def test_a_file_that_cannot_be_read_is_a_failure(self, tmp_path):
        *_, last = SyntheticSeries().write(tmp_path / "in")
        last.write_bytes(last.read_bytes()[:300])
        status, shown = self.invoke(tmp_path / "in", tmp_path / "out")
        assert status == 1
        assert "0005.dcm: not readable, a slice may be missing" in shown
        assert "Wrote 1 of 1 volumes" in shown
        (sidecar,) = (tmp_path / "out" / "images").glob("*.json")
        (finding,) = json.loads(sidecar.read_text())["findings"]
        assert (finding["code"], finding["severity"]) == ("unreadable_file", "warning")
        assert "1 file beside it could not be read" in finding["message"]
        assert str(last) not in sidecar.read_text()

    def test_an_annotation_that_is_not_there_is_wrong_usage(self, tmp_path):
        with pytest.raises(UsageError, match=r"No RTSTRUCT or SEG here is 'seg\.dcm'; there is rtstruct\.dcm"):
            self.invoke(study(tmp_path / "in"), tmp_path / "out", "--annotation", "seg.dcm")

    def test_what_cannot_be_accepted_is_wrong_usage(self, tmp_path):
        with pytest.raises(UsageError, match="crossing cannot be accepted; what can is"):
            self.invoke(study(tmp_path / "in"), tmp_path / "out", "--accept", "crossing")
        assert not (tmp_path / "out").exists()

    def test_only_what_is_no_volume_is_a_failure_too(self, tmp_path):
        SyntheticSeries(slices=1).write(tmp_path / "in")
        status, shown = self.invoke(tmp_path / "in", tmp_path / "out")
        assert status == 1
        assert "left out" in shown
        assert "it has one slice" in shown
