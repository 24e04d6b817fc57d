"""CT and PET of one frame of reference: matched by geometry, resampled, converted, segmented straight from DICOM."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, EnsureTyped
from pet_series import write_pet_series
from typer.testing import CliRunner

from medseg3d.cli import app
from medseg3d.datalist import build_datalist
from medseg3d.dicom import ConvertOptions, convert, read_rtstruct, read_seg
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.coregistered import Coregistered
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.rtstruct_write import write_rtstruct
from medseg3d.errors import CaseError, DicomError, UsageError
from medseg3d.inference import Segmenter, SlidingWindow, ToImageGridd, find_cases
from medseg3d.phantom.dicom import Patient, write_ct_series
from medseg3d.transforms import LoadStudyd

CT_SHAPE, CT_AFFINE = (16, 14, 10), np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1]])
# Twice the voxels, and its first voxel covers the CT's first two along i and j: centres one millimetre apart.
PET_SHAPE, PET_AFFINE = (8, 7, 10), np.array([[-4.0, 0, 0, 9], [0, -4, 0, 19], [0, 0, 3, -30], [0, 0, 0, 1]])
OPTIONS = ConvertOptions(channels=("CT", "PT"), labels=LabelRules(Naming({"tumour": 1}, {"GTV*": "tumour"})))


def tumour() -> np.ndarray:
    mask = np.zeros(CT_SHAPE, np.uint8)
    mask[4:9, 4:10, 3:7] = 1
    return mask


def uptake() -> np.ndarray:
    """SUV that grows along i, so that what stands between two voxels is known."""
    return np.broadcast_to(np.arange(8.0).reshape(8, 1, 1), PET_SHAPE)


def study(folder: Path, patient: str = "one", **changes) -> Path:
    person = Patient(patient)
    grid = write_ct_series(np.full(CT_SHAPE, 40, np.int16), CT_AFFINE, folder / "ct", patient=person)
    write_pet_series(uptake(), PET_AFFINE, folder / "pet", patient=person, **changes)
    write_rtstruct(tumour(), grid, folder / "rtstruct.dcm", labels={"GTV_Mass_CT": 1})
    return folder


def expected() -> np.ndarray:
    """SUV at the CT's centres: a quarter of a PET voxel before and behind each PET centre; the edges go on."""
    line = np.clip((np.arange(16) - 0.5) / 2, 0, 7)
    return np.broadcast_to(line.reshape(16, 1, 1), CT_SHAPE)


def test_a_case_is_the_ct_and_the_pet_on_its_grid(tmp_path):
    (case,) = find_cases(study(tmp_path), modality=["CT", "PET"])
    assert isinstance(case["image"], Coregistered)
    assert case["image"].findings == ()
    image = LoadStudyd("image")(dict(case))["image"]
    assert image.shape == (2, *CT_SHAPE)
    np.testing.assert_allclose(image.affine, CT_AFFINE, atol=1e-6)
    assert torch.equal(image[0], torch.full(CT_SHAPE, 40.0))
    np.testing.assert_allclose(image[1], expected(), atol=1e-5)


def test_one_modality_alone_is_a_series_as_ever(tmp_path):
    study(tmp_path)
    (both,) = find_cases(tmp_path, modality=["CT", "PET"])
    (alone,) = find_cases(tmp_path, modality=["CT"])
    assert both["case"] == alone["case"]
    assert LoadStudyd("image")(alone)["image"].shape == (1, *CT_SHAPE)


def test_two_patients_in_one_folder_are_two_cases(tmp_path):
    study(tmp_path / "a", "one")
    study(tmp_path / "b", "two")
    cases = find_cases(tmp_path, modality=["CT", "PET"])
    assert len(cases) == 2
    for case in cases:
        ct, pet = case["image"].stacks
        assert ct.series.patient == pet.series.patient


def refusal(folder: Path) -> str:
    (case,) = find_cases(folder, modality=["CT", "PET"])
    with pytest.raises(DicomError) as caught:
        case["image"].refuse()
    return str(caught.value)


def test_another_frame_of_reference_is_refused(tmp_path):
    assert "No sound PT series of the study lies in the frame of reference" in refusal(
        study(tmp_path, FrameOfReferenceUID="2.25.1")
    )


def test_pet_in_becquerels_is_refused(tmp_path):
    assert "The PET is in BQML, not in SUV by body weight (GML)" in refusal(study(tmp_path, Units="BQML"))


def test_two_pet_series_are_refused_since_nobody_said_which(tmp_path):
    study(tmp_path)
    shutil.copytree(tmp_path / "pet", tmp_path / "uncorrected")
    for path in (tmp_path / "uncorrected").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.SeriesNumber = f"{dataset.SeriesInstanceUID[:-2]}.8", 3
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:-2]}.8"
        dataset.save_as(path)
    assert "2 PT volumes of the study lie in the frame of reference of this one: number 2 'Phantom PET'" in refusal(
        tmp_path
    )


def test_what_the_pet_does_not_cover_is_said(tmp_path):
    person, affine = Patient("one"), PET_AFFINE.copy()
    write_ct_series(np.full(CT_SHAPE, 40, np.int16), CT_AFFINE, tmp_path / "ct", patient=person)
    affine[0, 3] -= 16  # half of the CT along i
    write_pet_series(uptake() + 1, affine, tmp_path / "pet", patient=person)
    (case,) = find_cases(tmp_path, modality=["CT", "PET"])
    assert [str(f) for f in case["image"].findings] == [
        "partly covered: 50.0 % of the voxels lie outside of the PT series and have 0 there."
    ]
    pet = LoadStudyd("image")(case)["image"][1]
    assert (pet[:8] == 0).all()
    assert (pet[8:] > 0).all()


def test_pet_beside_the_ct_is_refused(tmp_path):
    person, affine = Patient("one"), PET_AFFINE.copy()
    write_ct_series(np.full(CT_SHAPE, 40, np.int16), CT_AFFINE, tmp_path / "ct", patient=person)
    affine[2, 3] += 500
    write_pet_series(uptake(), affine, tmp_path / "pet", patient=person)
    assert "The PT series covers no voxel of this one" in refusal(tmp_path)


def test_conversion_writes_a_file_a_channel_on_one_grid_and_the_label(tmp_path):
    out = tmp_path / "out"
    (done,) = convert(study(tmp_path / "in"), out, options=OPTIONS)
    assert done.status == "written"
    ct, pet = (nibabel.load(out / "images" / f"{done.name}_000{n}.nii.gz") for n in (0, 1))
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        f"{done.name}.json", f"{done.name}_0000.nii.gz", f"{done.name}_0001.nii.gz"
    ]  # fmt: skip
    assert np.array_equal(ct.affine, pet.affine)
    np.testing.assert_allclose(pet.get_fdata(), expected(), atol=1e-5)
    label = nibabel.load(out / "labels" / f"{done.name}.nii.gz")
    assert np.array_equal(np.asanyarray(label.dataobj), tumour())
    sidecar = json.loads((out / "images" / f"{done.name}.json").read_text())
    assert [(c["file"], c["modality"], c["unit"]) for c in sidecar["channels"]] == [
        (f"{done.name}_0000.nii.gz", "CT", "HU"), (f"{done.name}_0001.nii.gz", "PT", "GML")
    ]  # fmt: skip
    assert sidecar["channels"][1]["value_outside"] == 0
    built = build_datalist(out, path=out / "dataset.json", name="s", labels={"tumour": 1}, channels=["CT", "PET"])
    assert len(built.datalist.training[0].image) == 2


def test_the_command_takes_what_people_call_modalities_and_says_how_to_go_on(tmp_path):
    study(tmp_path / "in")
    naming = tmp_path / "names.yaml"
    naming.write_text('labels: {tumour: 1}\nnames: {"GTV*": tumour}\n')
    options = ["--channels", "ct,pet", "--labels", str(naming)]
    done = CliRunner().invoke(app, ["dicom", "convert", str(tmp_path / "in"), str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert "Wrote 1 of 1 volumes" in done.output
    (said,) = (line.removeprefix("Next: medseg3d ") for line in done.output.splitlines() if line.startswith("Next"))
    built = CliRunner().invoke(app, shlex.split(said))
    assert built.exit_code == 0, built.output
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["channels"] == ["ct", "pet"]
    assert len(content["training"][0]["image"]) == 2


def test_a_second_conversion_needs_force_and_then_gives_the_same(tmp_path):
    out = tmp_path / "out"
    study(tmp_path / "in")
    convert(tmp_path / "in", out, options=OPTIONS)
    before = {path.name: path.read_bytes() for path in out.rglob("*.nii.gz")}
    (again,) = convert(tmp_path / "in", out, options=OPTIONS)
    assert "pass --force" in str(again.findings[-1])
    convert(tmp_path / "in", out, options=ConvertOptions(channels=("CT", "PT"), labels=OPTIONS.labels, force=True))
    assert {path.name: path.read_bytes() for path in out.rglob("*.nii.gz")} == before


def test_conversion_refuses_a_ct_without_its_pet(tmp_path):
    study(tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "pet")
    (done,) = convert(tmp_path / "in", tmp_path / "out", options=OPTIONS)
    assert done.failed
    assert done.image is None
    assert "No sound PT series" in str(done.findings[-1])
    shutil.rmtree(tmp_path / "in" / "ct")
    study(tmp_path / "pet_only")
    shutil.rmtree(tmp_path / "pet_only" / "ct")
    with pytest.raises(DicomError, match="There is no CT series here to give the grid of the channels; there are PT"):
        convert(tmp_path / "pet_only", tmp_path / "out", options=OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ("CT",)}, "name two modalities or more"),
        ({"channels": ("CT", "CT")}, "each once"),
        ({"channels": ("CT", "PT"), "four_d": True}, "cannot be combined"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ConvertOptions(**options)


class HotIsTumour(torch.nn.Module):
    """Tumour where SUV is above 3.5, whatever the CT shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(2, 2, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[1, 1] = 8.0
            self.conv.bias[:] = torch.tensor([0.0, -28.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_masks_in_dicom_lie_on_the_ct(tmp_path):
    cases = find_cases(study(tmp_path / "in"), modality=["CT", "PET"])
    segmenter = Segmenter(
        dataset=Dataset(cases, Compose([LoadStudyd("image"), EnsureTyped("image")])),
        network=HotIsTumour(),
        inferer=SlidingWindow((16, 16, 16), 1),
        postprocessing=ToImageGridd("pred"),
        labels={"tumour": 1},
        output_dir=tmp_path / "out",
        formats=["nifti", "seg", "rtstruct"],
        amp=False,
    )
    segmenter.run()
    name, ct = cases[0]["case"], cases[0]["image"].reference
    mask = nibabel.load(tmp_path / "out" / f"{name}.nii.gz")
    wanted = expected() > 3.5
    assert np.array_equal(np.asanyarray(mask.dataobj) > 0, wanted)
    images = {ref.sop_instance_uid for ref in ct.grid.slices}
    for kind, read in (("seg", read_seg), ("rtstruct", read_rtstruct)):
        path = tmp_path / "out" / f"{name}.{kind}.dcm"
        (segment,) = read(path, ct.grid).segments
        assert np.array_equal(segment.mask, wanted)
        assert any(uid in str(pydicom.dcmread(path)) for uid in images)
    sidecar = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert [source["modality"] for source in sidecar["source"]] == ["CT", "PT"]


def test_a_network_for_two_channels_refuses_the_ct_alone(tmp_path):
    cases = find_cases(study(tmp_path / "in"), modality="CT")
    segmenter = Segmenter(
        dataset=Dataset(cases, LoadStudyd("image")),
        network=HotIsTumour(),
        inferer=SlidingWindow((16, 16, 16), 1),
        postprocessing=ToImageGridd("pred"),
        labels={"tumour": 1},
        output_dir=tmp_path / "out",
    )
    with pytest.raises(CaseError, match="1 of 1"):
        segmenter.run()


@pytest.mark.real_data
def test_every_patient_of_the_sarcoma_data_has_a_pet_in_place(data_dir):
    cases = find_cases(data_dir / "ct_pet_mr_sarcoma", modality=["CT", "PET"])
    assert len(cases) == 12
    shares = [f.message for case in cases for f in case["image"].findings if f.code == "partly_covered"]
    assert len(shares) == 5  # PET voxels end up to 2 mm before the CT's
    image = LoadStudyd("image")(cases[0])["image"]
    assert image.shape == (2, 198, 202, 59)
    assert 24 < float(image[1].max()) <= 25.4  # between voxels no value is above those that were measured
