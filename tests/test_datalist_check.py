"""Checking data lists: each thing that can be wrong with the files is found, named and graded."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg3d.datalist import Case, DataList, check_datalist, read_datalist
from medseg3d.datalist.cases import label_values

SHAPE = (6, 5, 4)


def image_of(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label_of(*ids: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    for i, label_id in enumerate(ids):
        label[i, :2, 0] = label_id
    return label


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def shifted(mm: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = mm
    return affine


@pytest.fixture
def make(tmp_path):
    """Two good cases, a and b, of two patients; arguments are other voxels (or files) for them."""

    def build(*, channels=("image",), **files: np.ndarray | Path | None) -> DataList:
        cases = []
        for seed, name in enumerate("ab"):
            images = [
                _file(files.get(f"image_{name}{c or ''}"), tmp_path / f"{name}_{c}.nii.gz", image_of(10 * seed + c))
                for c in range(len(channels))
            ]
            label = _file(files.get(f"label_{name}"), tmp_path / f"{name}_label.nii.gz", label_of(1, 2))
            cases.append(Case(name, f"patient {name}", tuple(images), label))
        return DataList(
            tmp_path / "list.json", "d", "CT", {"liver": 1, "lesion": 2}, channels=channels, training=tuple(cases)
        )

    return build


def _file(given: np.ndarray | Path | None, path: Path, otherwise: np.ndarray) -> Path:
    return given if isinstance(given, Path) else save(path, otherwise if given is None else given)


def only_finding(datalist: DataList):
    findings = check_datalist(datalist, workers=1).findings
    assert len(findings) == 1, findings
    return findings[0]


def test_good_list(make):
    seen = []
    report = check_datalist(make(), progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert report.findings == ()
    assert seen == [(1, 2), (2, 2)]
    facts = report.cases[0]
    assert (facts.case, facts.shape, facts.spacing_mm, facts.orientation) == ("a", SHAPE, (1.0, 1.0, 1.0), "RAS")
    assert facts.voxels == {1: 2, 2: 2}
    assert (report.label_cases(2), report.label_voxels(2)) == (2, 4)
    assert report.ranges()["shape_voxels"]["median"] == SHAPE


@pytest.mark.parametrize(
    ("changes", "severity", "code", "message"),
    [
        ({"label_a": np.zeros(SHAPE, np.uint8)}, "warning", "label-empty", "a_label.nii.gz is empty"),
        (
            {"label_a": label_of(1, 7)},
            "error",
            "label-unknown",
            r"labels that the list does not name: 7 \(2 voxels\). It names liver = 1, lesion = 2",
        ),
        ({"label_a": label_of(1) * 0.5}, "error", "label-not-integer", r"no whole numbers \(0.5 \(2 voxels\)\)"),
        ({"label_a": label_of(1).astype(np.float32)}, "note", "label-as-float", "whole numbers as float32"),
        (
            {"label_a": np.where(label_of(1) > 0, np.nan, 1).astype(np.float32)},
            "error",
            "label-not-finite",
            "has 2 voxels that are NaN or infinite",
        ),
        ({"label_a": np.zeros((6, 5, 3), np.uint8) + 1}, "error", "shape-mismatch", "6×5×3 voxels, a_0.nii.gz 6×5×4"),
        ({"image_a": np.full(SHAPE, 3, np.int16)}, "error", "constant", "a_0.nii.gz is 3 in every voxel"),
        (
            {"image_a": np.where(label_of(1) > 0, np.inf, image_of(0)).astype(np.float32)},
            "error",
            "not-finite",
            "2 of 120 voxels that are NaN or infinite",
        ),
        ({"image_a": image_of(0, (*SHAPE, 2))}, "error", "unreadable", "6×5×4×2 voxels, 4 axes"),
        (
            {"image_b": image_of(0)},
            "error",
            "duplicate",
            "b has the same image as a; they are listed as the patients patient a and patient b",
        ),
    ],
)
def test_one_thing_wrong(make, changes, severity, code, message):
    finding = only_finding(make(**changes))
    assert (finding.severity, finding.code) == (severity, code)
    assert finding.case == ("b" if "image_b" in changes else "a")
    assert re.search(message, finding.message)


def test_an_image_listed_as_label(make):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20))
    codes = {f.code for f in check_datalist(make(label_a=noise)).findings}
    assert codes == {"label-is-image", "shape-mismatch"}
    datalist = make()
    first = datalist.training[0]
    datalist = replace(datalist, training=(replace(first, label=first.image[0]), datalist.training[1]))
    messages = [f.message for f in check_datalist(datalist).findings if f.code == "label-is-image"]
    assert len(messages) == 1
    assert messages[0].endswith("a_0.nii.gz is listed as image and as label: correct one of them.")


def test_grids_are_compared_in_millimetres(make, tmp_path):
    near = save(tmp_path / "near.nii.gz", label_of(1, 2), shifted(0.04))
    assert check_datalist(make(label_a=near)).findings == ()
    far = save(tmp_path / "far.nii.gz", label_of(1, 2), shifted(2.5))
    finding = only_finding(make(label_a=far))
    assert (finding.severity, finding.code) == ("error", "grid-mismatch")
    assert "far.nii.gz lies up to 2.50 mm away from a_0.nii.gz" in finding.message
    assert "tolerance 0.05 mm" in finding.message


def test_missing_truncated_and_foreign_files(make, tmp_path):
    assert (
        "gone.nii.gz does not exist: complete the copy" in only_finding(make(image_a=tmp_path / "gone.nii.gz")).message
    )
    whole = save(tmp_path / "whole.nii.gz", image_of(5, (40, 40, 40)))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole.read_bytes()[:20000])
    finding = only_finding(make(image_a=cut))
    assert (finding.severity, finding.code) == ("error", "unreadable")
    assert "cut.nii.gz" in finding.message
    text = tmp_path / "text.nii.gz"
    text.write_text("not an image")
    assert only_finding(make(image_a=text)).code == "unreadable"
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    finding = only_finding(make(image_a=save(tmp_path / "rgb.nii.gz", colours)))
    assert "write plain numbers" in finding.message


def test_singular_affine(make, tmp_path):
    image = nibabel.Nifti1Image(image_of(0), np.eye(4))
    data = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]))
    header["srow_z"] = 0  # nibabel itself does not write such a header
    data[:348] = header.binaryblock
    flat = tmp_path / "flat.nii"
    flat.write_bytes(data)
    finding = only_finding(make(image_a=flat))
    assert (finding.severity, finding.code) == ("error", "bad-affine")
    assert "singular" in finding.message


def test_headers_that_programs_read_differently(make, tmp_path):
    image = nibabel.Nifti1Image(image_of(0), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(shifted(5), 1)
    nibabel.save(image, tmp_path / "two.nii.gz")
    finding = only_finding(make(image_a=tmp_path / "two.nii.gz"))
    assert (finding.severity, finding.code) == ("warning", "two-affines")
    assert "5.00 mm apart" in finding.message

    image = nibabel.Nifti1Image(image_of(0), np.eye(4))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "micron.nii.gz")
    finding = only_finding(make(image_a=tmp_path / "micron.nii.gz"))
    assert (finding.severity, finding.code) == ("warning", "units")

    voxels, labels = (nibabel.Nifti1Image(v, None) for v in (image_of(0), label_of(1, 2)))
    nibabel.save(voxels, tmp_path / "lost.nii.gz")
    nibabel.save(labels, tmp_path / "lost_label.nii.gz")
    report = check_datalist(make(image_a=tmp_path / "lost.nii.gz", label_a=tmp_path / "lost_label.nii.gz"))
    assert {(f.severity, f.code) for f in report.findings} == {("note", "no-orientation")}


def test_channels(make):
    two = ("ct", "pet")
    assert check_datalist(make(channels=two)).findings == ()
    finding = only_finding(make(channels=two, image_a1=image_of(0)))
    assert (finding.severity, finding.code) == ("warning", "channels-equal")
    finding = only_finding(make(channels=two, image_a1=np.zeros(SHAPE, np.int16)))
    assert (finding.severity, finding.code) == ("warning", "constant")
    finding = only_finding(make(channels=two, image_a1=image_of(3, (6, 5, 5))))
    assert finding.code == "shape-mismatch"
    finding = only_finding(make(channels=two, image_b1=image_of(1)))
    assert (finding.severity, finding.code) == ("error", "duplicate")


def test_a_missing_channel_filled_with_zeros_is_no_duplicate(make):
    empty = np.zeros(SHAPE, np.int16)
    report = check_datalist(make(channels=("ct", "pet"), image_a1=empty, image_b1=empty))
    assert [(f.severity, f.case, f.code) for f in report.findings] == [
        ("warning", "a", "constant"),
        ("warning", "b", "constant"),
    ]


def test_the_same_volume_in_another_file_format_orientation_and_type(make, tmp_path):
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned = save(tmp_path / "turned.nii", image_of(0)[::-1, ::-1].astype(np.float32), flipped)
    label = save(tmp_path / "turned_label.nii", label_of(1, 2), flipped)
    assert only_finding(make(image_b=turned, label_b=label)).code == "duplicate"

    itk = sitk.GetImageFromArray(image_of(0).T)
    itk.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # LPS to RAS: the grid of an identity affine
    for suffix in ("nrrd", "mha"):
        sitk.WriteImage(itk, str(tmp_path / f"x.{suffix}"))
        finding = only_finding(make(image_b=tmp_path / f"x.{suffix}"))
        assert (finding.case, finding.code) == ("b", "duplicate")


def test_duplicates_are_graded_by_what_they_spoil(make):
    datalist = make(image_b=image_of(0))
    a, b = datalist.training
    one_patient = (a, replace(b, patient=a.patient))
    finding = only_finding(replace(datalist, training=one_patient))
    assert (finding.severity, "counts twice in training" in finding.message) == ("warning", True)
    two_folds = tuple(replace(case, fold=i) for i, case in enumerate(one_patient))
    found = {(f.severity, f.code) for f in check_datalist(replace(datalist, training=two_folds)).findings}
    assert found == {("error", "duplicate"), ("error", "patient-in-folds")}
    report = check_datalist(replace(datalist, training=(a,), testing=(b,)))
    assert [f.code for f in report.findings] == ["duplicate"]
    assert "one is in training, the other in testing" in report.findings[0].message
    assert not report.ok


def test_patients_in_training_and_testing(make):
    datalist = make()
    a, b = datalist.training
    finding = only_finding(replace(datalist, training=(a,), testing=(replace(b, patient=a.patient),)))
    assert (finding.severity, finding.code) == ("error", "patient-in-testing")
    assert "Patient patient a is in training and in testing" in finding.message


def test_labels_that_cannot_be_learnt_or_validated(make):
    finding = only_finding(replace(make(), labels={"liver": 1, "lesion": 2, "cyst": 3}))
    assert (finding.severity, finding.code) == ("warning", "label-absent")
    assert "Label cyst (3) is in none of the 2 training cases" in finding.message
    datalist = make(label_b=label_of(1))
    datalist = replace(datalist, training=tuple(replace(c, fold=i) for i, c in enumerate(datalist.training)))
    finding = only_finding(datalist)
    assert (finding.severity, finding.code) == ("warning", "label-not-in-fold")
    assert "Label lesion (2) is in 1 cases, none of them in fold 1" in finding.message


def test_gravest_first_and_as_json(make, tmp_path):
    report = check_datalist(make(image_a=tmp_path / "gone.nii.gz", label_b=label_of(1, 2).astype(np.float32)))
    assert [f.severity for f in report.findings] == ["error", "note"]
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["ok"] is False
    assert values["counts"] == {"error": 1, "warning": 0, "note": 1}
    assert values["cases"] == {"training": 2, "testing": 0}
    assert values["labels"][0] == {"label": "liver", "label_id": 1, "cases": 2, "voxels": 4}
    assert values["per_case"][0]["shape"] is None
    assert values["per_case"][1]["voxels"] == {"1": 2, "2": 2}
    assert values["findings"][0]["code"] == "missing"


def test_label_values_by_hand():
    voxels = np.array([[[0, 1, 2]], [[2, np.nan, 0.25]]])
    values = label_values(voxels)
    assert values.voxels == {1: 1, 2: 2}
    assert values.fractions == {0.25: 1}
    assert values.not_finite == 1
    assert label_values(np.array([[[-3, 0]]])).voxels == {-3: 1}


@pytest.mark.real_data
def test_hippocampus_has_nothing_but_notes(data_dir):
    datalist = read_datalist(data_dir / "mri_hippocampus" / "dataset.json")
    report = check_datalist(datalist)
    assert len(report.cases) == 208
    assert report.ok
    found = {(f.severity, f.case, f.code) for f in report.findings}
    assert found == {("note", f"hippocampus_{n}", "label-as-float") for n in ("003", "243")}
    assert report.ranges()["shape_voxels"]["median"] == (35, 50, 36)


def saved(path: Path, voxels: np.ndarray) -> str:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path.name


def test_files_of_several_channels_missing_channels_and_ignored_voxels(tmp_path):
    """As in Task01 of the Decathlon, and as partly annotated and incomplete studies are."""
    random = np.random.default_rng(0)
    label = np.zeros((4, 4, 4), np.uint8)
    label.ravel()[:3] = 1, 9, 9
    four = saved(tmp_path / "four.nii.gz", random.normal(size=(4, 4, 4, 2)).astype(np.float32))
    three = saved(tmp_path / "three.nii.gz", random.normal(size=(4, 4, 4, 3)).astype(np.float32))
    alone = saved(tmp_path / "alone.nii.gz", random.normal(size=(4, 4, 4)).astype(np.float32))
    seg = saved(tmp_path / "seg.nii.gz", label)
    entries = [
        {"case": "four", "image": four, "label": seg},
        {"case": "three", "image": three, "label": seg},
        {"case": "lacking", "image": [alone, None], "label": seg},
    ]
    values = {"labels": {"tumour": 1}, "channels": ["T1", "T2"], "ignore_label": 9, "training": entries}
    (tmp_path / "list.json").write_text(json.dumps(values))
    report = check_datalist(read_datalist(tmp_path / "list.json"))
    found = {(finding.case, finding.severity, finding.code): finding.message for finding in report.findings}
    assert found.keys() == {("three", "error", "channels"), ("lacking", "warning", "channel-missing")}
    assert "three.nii.gz holds 3 channel(s), the list names 2 (T1, T2)" in found["three", "error", "channels"]
    assert "lacking lacks T2" in found["lacking", "warning", "channel-missing"]
    assert len(report.cases[0].contents) == 2
