"""Building data lists from folders: names are matched and checked, not merely sorted."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg3d.datalist import build_datalist
from medseg3d.datalist.build import parse_labels
from medseg3d.errors import DataListError, UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def build(folder: Path, **options):
    return build_datalist(folder, path=folder / "list.json", **({"labels": {"liver": 1}, "modality": "CT"} | options))


def pairs(folder: Path, **options) -> dict[str, tuple[list[str], str | None]]:
    datalist = build(folder, **options).datalist
    cases = datalist.training + datalist.testing
    return {c.case: ([p.name for p in c.image], c.label and c.label.name) for c in cases}


@pytest.mark.parametrize(
    ("images", "labels", "case"),
    [
        ("imagesTr/x_01.nii.gz", "labelsTr/x_01.nii.gz", "x_01"),
        ("imagesTr/x_01_0000.nii.gz", "labelsTr/x_01.nii.gz", "x_01"),
        ("imagesTr/x_0001.nii.gz", "labelsTr/x_0001.nii.gz", "x_0001"),
        ("images/x.nrrd", "labels/x.nii.gz", "x"),
        ("images/x.mha", "masks/x_mask.mha", "x"),
        ("images/volume-7.nii", "segmentations/segmentation-7.nii", "7"),
        ("Images/x_img.nii.gz", "Labels/x_seg.nii.gz", "x"),
        ("x/image.nii.gz", "x/label.nii.gz", "x"),
        ("x/x_ct.nii.gz", "x/x_ct_seg.nii.gz", "x"),
    ],
)
def test_an_image_and_its_label(tmp_path, images, labels, case):
    touch(tmp_path, images, labels)
    assert pairs(tmp_path) == {case: ([Path(images).name], Path(labels).name)}


def test_msd_with_testing(tmp_path):
    touch(
        tmp_path,
        "imagesTr/a.nii.gz",
        "labelsTr/a.nii.gz",
        "imagesTs/b.nii.gz",
        "imagesTs/c.nii.gz",
        "labelsTs/c.nii.gz",
    )
    datalist = build(tmp_path).datalist
    assert [c.case for c in datalist.training] == ["a"]
    assert [(c.case, c.label) for c in datalist.testing] == [("b", None), ("c", tmp_path / "labelsTs/c.nii.gz")]


def test_nnunet_channels(tmp_path):
    touch(tmp_path, *(f"imagesTr/{n}_000{c}.nii.gz" for n in "ab" for c in range(2)), "labelsTr/a.nii.gz")
    touch(tmp_path, "labelsTr/b.nii.gz", "imagesTs/t_0000.nii.gz", "imagesTs/t_0001.nii.gz")
    assert pairs(tmp_path)["b"] == (["b_0000.nii.gz", "b_0001.nii.gz"], "b.nii.gz")
    assert pairs(tmp_path)["t"] == (["t_0000.nii.gz", "t_0001.nii.gz"], None)
    assert build(tmp_path).datalist.channels == ("channel_0", "channel_1")
    assert build(tmp_path, channels=["ct", "pet"]).datalist.channels == ("ct", "pet")


def test_named_channels_keep_the_order_asked_for(tmp_path):
    touch(tmp_path, "images/p_PET.nii.gz", "images/p_ct.nii.gz", "labels/p.nii.gz")
    assert pairs(tmp_path, channels=["pet", "ct"]) == {"p": (["p_PET.nii.gz", "p_ct.nii.gz"], "p.nii.gz")}


def test_brats_like_folders(tmp_path):
    for case in ("B_1", "B_2"):
        touch(tmp_path, *(f"{case}/{case}_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")))
    assert build(tmp_path).datalist.channels == ("T1", "T1c", "T2", "FLAIR")
    chosen = pairs(tmp_path, channels=["t1ce", "flair"])
    assert chosen["B_2"] == (["B_2_t1ce.nii.gz", "B_2_flair.nii.gz"], "B_2_seg.nii.gz")


BRATS_2021 = ("{0}/{0}_{1}.nii.gz", ("t1", "t1ce", "t2", "flair"))
BRATS_2023 = ("{0}/{0}-{1}.nii.gz", ("t1n", "t1c", "t2w", "t2f"))


@pytest.mark.parametrize(("pattern", "endings"), [BRATS_2021, BRATS_2023], ids=["2021", "2023"])
@pytest.mark.parametrize("enhancing", [3, 4])
def test_brats_of_every_year_gets_its_channels_labels_and_regions(tmp_path, pattern, endings, enhancing):
    for case in ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000"):
        touch(tmp_path, *(pattern.format(case, ending) for ending in endings))
        label = np.zeros((3, 3, 3), np.uint8)
        label.ravel()[:3] = 1, 2, enhancing
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / pattern.format(case, "seg"))
    built = build_datalist(tmp_path, path=tmp_path / "list.json")
    datalist = built.datalist
    assert (datalist.modality, datalist.channels) == ("MRI", ("T1", "T1c", "T2", "FLAIR"))
    assert [path.name for path in datalist.training[1].image] == [
        Path(pattern.format("BraTS-GLI-00001-000", ending)).name for ending in endings
    ]
    assert datalist.labels == {"necrotic_core": 1, "oedema": 2, "enhancing": enhancing}
    assert datalist.regions == {
        "whole_tumour": (1, 2, enhancing),
        "tumour_core": (1, enhancing),
        "enhancing_tumour": (enhancing,),
    }
    assert f"named as in BraTS: necrotic_core = 1, oedema = 2, enhancing = {enhancing}" in built.warnings[0]


def test_a_case_without_a_channel_is_refused_or_gets_null(tmp_path):
    for case in ("a", "b"):
        touch(tmp_path, *(f"{case}/{case}_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")))
    (tmp_path / "b" / "b_t1ce.nii.gz").unlink()
    with pytest.raises(DataListError, match=r"case a has the channels FLAIR, T1, T1c, T2, case b FLAIR, T1, T2"):
        build(tmp_path)
    datalist = build(tmp_path, missing_channels=True).datalist
    assert [path and path.name for path in datalist.training[1].image] == [
        "b_t1.nii.gz",
        None,
        "b_t2.nii.gz",
        "b_flair.nii.gz",
    ]
    assert datalist.training[1].missing(datalist.channels) == ("T1c",)
    assert None not in datalist.training[0].image


def test_unlabelled_images_are_refused_or_tested_on(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz")
    with pytest.raises(
        DataListError, match=r"1 of 2 images have no label of the same name: b. .*--unlabelled-to-testing"
    ):
        build(tmp_path)
    datalist = build(tmp_path, unlabelled_to_testing=True).datalist
    assert [c.case for c in datalist.training] == ["a"]
    assert [c.case for c in datalist.testing] == ["b"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz"], {}, "1 of 2 labels have no image .*: b.nii.gz"),
        (
            ["images/p_ct.nii.gz", "images/p_pet.nii.gz", "labels/p.nii.gz"],
            {},
            "named like p_ct.nii.gz.*--channels ct,pet",
        ),
        (["images/a.nii.gz", "labels/a.nii.gz", "labels/a.nrrd"], {}, "a.nrrd have the name 'a' both"),
        (
            ["images/a.nii.gz", "images/a.nrrd", "labels/a.nrrd"],
            {},
            "a.nii.gz and a.nrrd are the same channel of case a",
        ),
        (["images/a_img.nii", "images/a_vol.nii", "labels/a_seg.nii"], {}, "a_img and a_vol would both be case 'a'"),
        (["images/.keep", "labels/a.nii.gz"], {}, "the folder of images holds no volumes"),
        (["imagesTr/a.nii.gz"], {}, "has imagesTr but no labelsTr"),
        (["images/a.nii", "labels/a.nii", "masks/a.nii"], {}, r"several folders .* \(images, labels, masks\)"),
        (["readme.txt"], {}, "has no layout that is known: imagesTr/ with labelsTr/"),
        (["images/a.nii.gz", "other/a.nii.gz"], {}, "has no layout that is known"),
        (
            ["x/image.nii", "x/label.nii", "x/label_2.nii"],
            {},
            r"2 files that look like its label \(label.nii, label_2.nii\)",
        ),
        (["x/label.nii"], {}, "x has a label, but no image"),
        (["x/ct.nii"], {"unlabelled_to_testing": True}, "no image has a label: nothing could be trained on"),
        (
            ["x/ct.nii", "x/pet.nii", "x/seg.nii", "y/ct.nii", "y/seg.nii"],
            {},
            "case x has the channels ct, pet, case y ct: complete or remove",
        ),
        (
            ["images/a.nii", "labels/a.nii"],
            {"channels": ["ct", "pet"]},
            "--channels names 2, but each case has one image",
        ),
        (
            ["imagesTr/a_0000.nii", "imagesTr/a_0001.nii", "labelsTr/a.nii"],
            {"channels": ["t1"]},
            "--channels names t1, the cases have channel_1, t1",
        ),
        (["images/a.nii", "labels/a.nii"], {"patient_regex": "P(\\d+)"}, "finds no patient in the case name 'a'"),
    ],
)
def test_refused(tmp_path, files, options, message):
    touch(tmp_path, *files)
    with pytest.raises(DataListError, match=message):
        build(tmp_path, **options)


def test_no_folder_and_no_regular_expression(tmp_path):
    with pytest.raises(DataListError, match="gone is no folder"):
        build(tmp_path / "gone")
    touch(tmp_path, "images/a.nii", "labels/a.nii")
    with pytest.raises(UsageError, match=r"--patient-regex '\(' is no regular expression"):
        build(tmp_path, patient_regex="(")


def test_patients_by_regular_expression(tmp_path):
    names = ["P1_day1", "P1_day2", "P2_day1"]
    touch(tmp_path, *(f"{part}/{name}.nii" for part in ("images", "labels") for name in names))
    for pattern in (r"^(P\d+)_", r"^P\d+"):
        built = build(tmp_path, patient_regex=pattern)
        assert [case.patient for case in built.datalist.training] == ["P1", "P1", "P2"]
        assert built.warnings == ()
    assert build(tmp_path).warnings[0].startswith("Every case counts as a patient of its own.")


def test_labels_without_names_are_read_and_named(tmp_path):
    touch(tmp_path, "images/a.nii", "images/b.mha")
    (tmp_path / "labels").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, 1, 5]]], np.uint8), np.eye(4)), tmp_path / "labels/a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0, 2]]], np.uint8)), str(tmp_path / "labels/b.mha"))
    built = build(tmp_path, labels=None, modality="")
    assert built.datalist.labels == {"label_1": 1, "label_2": 2, "label_5": 5}
    assert "label_1, label_2, label_5 were found" in built.warnings[0]
    assert "--labels name1=1,name2=2,name5=5" in built.warnings[0]
    assert "pass --modality CT" in built.warnings[-1]


@pytest.mark.parametrize(
    ("voxels", "message"),
    [(np.full((2, 2, 2), 0.5), "such as 0.5"), (np.full((2, 2, 2), -1, np.int16), "no label map"),
     (np.zeros((2, 2, 2), np.uint8), "All 1 label maps are empty: say with --labels")],
)  # fmt: skip
def test_labels_that_cannot_be_named(tmp_path, voxels, message):
    touch(tmp_path, "images/a.nii", "labels/a.nii")
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "labels/a.nii")
    with pytest.raises(DataListError, match=message):
        build(tmp_path, labels=None)


def test_a_dataset_json_is_believed_and_checked(tmp_path):
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "ab"]
    values = {"modality": {"0": "MRI"}, "labels": {"1": "spleen"}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTr/c.nii.gz")
    with pytest.raises(DataListError, match=r"lists 1 files that do not exist: labelsTr/b.nii.gz"):
        build(tmp_path)
    touch(tmp_path, "labelsTr/b.nii.gz")
    built = build(tmp_path, labels=None, modality="", name="Spleens")
    assert (built.datalist.name, built.datalist.modality) == ("Spleens", "MRI")
    assert built.datalist.labels == {"spleen": 1}
    assert built.datalist.path == tmp_path / "list.json"
    assert "imagesTr holds 1 files that dataset.json does not list: c.nii.gz." in built.warnings
    assert build(tmp_path, channels=["t1"]).datalist.channels == ("t1",)
    with pytest.raises(DataListError, match=r"has 1 channels \(MRI\), --channels names 2"):
        build(tmp_path, channels=["t1", "t2"])


def test_labels_as_text_and_as_files(tmp_path):
    assert parse_labels("liver=1,left kidney=3") == {"liver": 1, "left kidney": 3}
    file = tmp_path / "labels.yaml"
    file.write_text("background: 0\nliver: 1\n")
    assert parse_labels(str(file)) == {"liver": 1}
    file.write_text("labels: {spleen: 2}\n")
    assert parse_labels(str(file)) == {"spleen": 2}
    for text in ("liver", "liver=0", "liver=x", "a=1,a=2", "=1"):
        with pytest.raises(UsageError, match="write each name once, as in liver=1,spleen=2"):
            parse_labels(text)
    for content in ("- a\n", "liver: one\n", ""):
        file.write_text(content)
        with pytest.raises(UsageError, match="must map names to ids"):
            parse_labels(str(file))
    for path in (tmp_path / "gone.yaml", tmp_path / "bad.yaml"):
        (tmp_path / "bad.yaml").write_text("{")
        with pytest.raises(UsageError, match=f"{path.name} cannot be read"):
            parse_labels(str(path))
