"""Which cases a path means, and what a header tells before any voxel is read."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medseg3d.errors import CaseError, CheckpointError, GeometryError
from medseg3d.inference import find_cases, load_weights
from medseg3d.inference.cases import read_case_header


def write(path: Path, *, shape=(6, 5, 4), affine=None) -> Path:
    voxels = np.zeros(shape, np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_one_file(tmp_path):
    path = write(tmp_path / "p01.nii.gz")
    assert find_cases(path) == [{"case": "p01", "image": str(path)}]


def test_a_folder_of_formats_without_what_is_no_image(tmp_path):
    for name in ("b.nii", "a.nii.gz"):
        write(tmp_path / name)
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / "c.mha"))
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / "d.nrrd"))
    for name in ("._a.nii.gz", "notes.txt", "dataset.json"):
        (tmp_path / name).write_text("")
    assert [case["case"] for case in find_cases(tmp_path)] == ["a", "b", "c", "d"]


def test_nnunet_channels_are_grouped(tmp_path):
    for name in ("p1_0000", "p1_0001", "p2_0000", "p2_0001"):
        write(tmp_path / f"{name}.nii.gz")
    assert find_cases(tmp_path) == [
        {"case": case, "image": [str(tmp_path / f"{case}_000{i}.nii.gz") for i in range(2)]} for case in ("p1", "p2")
    ]


def test_numbers_that_do_not_begin_at_zero_are_case_names(tmp_path):
    for name in ("scan_0001", "scan_0002"):
        write(tmp_path / f"{name}.nii.gz")
    assert [case["case"] for case in find_cases(tmp_path)] == ["scan_0001", "scan_0002"]


def test_a_missing_channel_is_named(tmp_path):
    for name in ("p1_0000", "p1_0002"):
        write(tmp_path / f"{name}.nii.gz")
    with pytest.raises(CaseError, match=r"Case 'p1'.*p1_0001 is missing"):
        find_cases(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    write(tmp_path / "a.nii")
    write(tmp_path / "a.nii.gz")
    with pytest.raises(CaseError, match="would both be case 'a'"):
        find_cases(tmp_path)


def test_nothing_to_find_says_where_to_look(tmp_path):
    with pytest.raises(CaseError, match=r"no image .*in this folder"):
        find_cases(tmp_path)
    (tmp_path / "slice1").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(CaseError, match=r"DICOM, but no image that can be read\. 1 files are damaged; slice1, for one"):
        find_cases(tmp_path)
    with pytest.raises(CaseError, match=r"slice1: DICOM, but no image that can be read"):
        find_cases(tmp_path / "slice1")
    (tmp_path / "slice1").unlink()
    (tmp_path / "notes").write_text("no image")
    (tmp_path / "patient7").mkdir()
    write(tmp_path / "patient7" / "t1.nii.gz")
    with pytest.raises(CaseError, match="patient7/ has some"):
        find_cases(tmp_path)
    with pytest.raises(CaseError, match="no such file or folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(CaseError, match="not an image that can be read"):
        find_cases(tmp_path / "notes")


@pytest.mark.parametrize("with_testing", [True, False])
def test_a_data_list_gives_its_testing_cases_or_else_its_training_cases(tmp_path, with_testing):
    for name in ("a", "a_label", "b"):
        write(tmp_path / f"{name}.nii.gz")
    content = {
        "name": "study",
        "modality": "MRI",
        "labels": {"organ": 1},
        "channels": ["T1"],
        "training": [{"case": "a", "patient": "a", "image": "a.nii.gz", "label": "a_label.nii.gz", "fold": 0}],
        "testing": [{"case": "b", "patient": "b", "image": "b.nii.gz"}] if with_testing else [],
    }
    datalist = tmp_path / "dataset.json"
    datalist.write_text(json.dumps(content))
    (case,) = find_cases(datalist)
    if with_testing:
        assert case == {"case": "b", "image": str(tmp_path / "b.nii.gz")}
    else:
        assert case == {"case": "a", "image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "a_label.nii.gz")}


def test_header_of_several_channels(tmp_path):
    paths = [write(tmp_path / f"p_000{i}.nii.gz", affine=np.diag([2.0, 2, 3, 1])) for i in range(2)]
    header = read_case_header(paths)
    assert (header.shape, header.channels) == ((6, 5, 4), 2)
    np.testing.assert_array_equal(header.affine_ras, np.diag([2.0, 2, 3, 1]))


def test_a_fourth_axis_is_the_channels(tmp_path):
    assert read_case_header([write(tmp_path / "a.nii.gz", shape=(6, 5, 4, 3))]).channels == 3
    assert read_case_header([write(tmp_path / "b.nii.gz", shape=(6, 5, 4, 1))]).channels == 1


def test_itk_headers_are_turned_to_ras(tmp_path):
    image = sitk.Image(6, 5, 4, sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    header = read_case_header([tmp_path / "a.mha"])
    expected = np.array([[-2, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    assert header.shape == (6, 5, 4)
    np.testing.assert_allclose(header.affine_ras, expected)


def test_impossible_images_are_refused(tmp_path):
    with pytest.raises(GeometryError, match="2 dimensions"):
        read_case_header([write(tmp_path / "flat.nii.gz", shape=(6, 5))])
    with pytest.raises(GeometryError, match="6×5×1 voxels are one slice"):
        read_case_header([write(tmp_path / "slice.nii.gz", shape=(6, 5, 1))])
    with pytest.raises(GeometryError, match="5 dimensions"):
        read_case_header([write(tmp_path / "tensor.nii.gz", shape=(6, 5, 4, 3, 2))])
    (tmp_path / "text.nii.gz").write_text("this is not an image")
    with pytest.raises(CaseError, match=r"text\.nii\.gz: "):
        read_case_header([tmp_path / "text.nii.gz"])


def test_channels_of_different_grids_are_refused(tmp_path):
    first = write(tmp_path / "a.nii.gz")
    with pytest.raises(GeometryError, match=r"a\.nii\.gz has 6×5×4 voxels, b\.nii\.gz 6×5×3"):
        read_case_header([first, write(tmp_path / "b.nii.gz", shape=(6, 5, 3))])
    shifted = np.eye(4)
    shifted[2, 3] = 1.5
    with pytest.raises(GeometryError, match=r"a\.nii\.gz and c\.nii\.gz place the same voxel 1\.50 mm apart"):
        read_case_header([first, write(tmp_path / "c.nii.gz", affine=shifted)])


class TestWeights:
    def test_fitting_weights_are_loaded_and_named_by_hash(self, tmp_path):
        trained, fresh = torch.nn.Conv3d(1, 2, 3), torch.nn.Conv3d(1, 2, 3)
        torch.save(trained.state_dict(), tmp_path / "model.pt")
        sha256 = load_weights(fresh, tmp_path / "model.pt")
        torch.testing.assert_close(fresh.weight, trained.weight)
        assert len(sha256) == 64

    def test_a_training_checkpoint_gives_its_network(self, tmp_path):
        trained, fresh = torch.nn.Conv3d(1, 2, 3), torch.nn.Conv3d(1, 2, 3)
        torch.save({"epoch": 3, "network": trained.state_dict()}, tmp_path / "best.pt")
        load_weights(fresh, tmp_path / "best.pt")
        torch.testing.assert_close(fresh.weight, trained.weight)

    def test_what_does_not_fit_is_named(self, tmp_path):
        torch.save({"weight": torch.zeros(2, 3, 3, 3, 3), "extra": torch.zeros(1)}, tmp_path / "model.pt")
        network = torch.nn.Conv3d(1, 2, 3)
        before = network.weight.clone()
        with pytest.raises(CheckpointError) as caught:
            load_weights(network, tmp_path / "model.pt")
        for part in (
            "model.pt: these weights are of another network",
            "1 of 2 keys missing (bias)",
            "1 of 2 keys unknown to the network (extra)",
            "weight is (2, 3, 3, 3, 3) in the file and (2, 1, 3, 3, 3) in the network",
        ):
            assert part in str(caught.value)
        torch.testing.assert_close(network.weight, before)

    def test_code_in_a_file_is_not_run(self, tmp_path):
        torch.save(torch.nn.Conv3d(1, 2, 3), tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match="refused because unpickling runs code"):
            load_weights(torch.nn.Conv3d(1, 2, 3), tmp_path / "model.pt")

    @pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 a broken archive"])
    def test_damaged_files(self, tmp_path, content):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pt: "):
            load_weights(torch.nn.Conv3d(1, 2, 3), tmp_path / "model.pt")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no weights there\. Train first"):
            load_weights(torch.nn.Conv3d(1, 2, 3), tmp_path / "model.pt")
