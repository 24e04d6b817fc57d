"""Loading samples whose parts fit together, and TorchIO's artefacts under MONAI's seeds."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
import torch
import torchio
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from medseg3d import dicom
from medseg3d.dicom import ConvertOptions, convert
from medseg3d.errors import CaseError, DicomError, GeometryError
from medseg3d.phantom.dicom import Patient, write_ct_series
from medseg3d.transforms import LoadStudyd, LoadVolumed, RandTorchIOd

SHAPE = (6, 7, 8)
AFFINE = np.array([[0.0, -2.0, 0.0, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1]])


@pytest.fixture
def write(tmp_path):
    def save(name: str, array, affine=AFFINE) -> str:
        nibabel.save(nibabel.Nifti1Image(np.asarray(array), affine), tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def image(write) -> str:
    return write("image.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16))


def labels() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:4, 2:4] = 2
    return label


def test_images_are_float32_and_labels_uint8_with_their_affine(write, image):
    sample = LoadVolumed(["image", "label"])({"image": image, "label": write("label.nii.gz", labels()), "case": "a"})
    assert isinstance(sample["image"], MetaTensor)
    assert sample["image"].shape == sample["label"].shape == (1, *SHAPE)
    assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.uint8)
    assert sample["image"].max() == np.prod(SHAPE) - 1
    np.testing.assert_array_equal(sample["label"][0], labels())
    for key in ("image", "label"):
        np.testing.assert_allclose(sample[key].affine, AFFINE)
        np.testing.assert_array_equal(sample[key].meta["spatial_shape"], SHAPE)
    assert sample["image"].meta["filename_or_obj"] == image
    assert sample["case"] == "a"


def test_paths_in_a_list_become_channels(write, image):
    second = write("second.nii.gz", np.full(SHAPE, 7.0, np.float32))
    loaded = LoadVolumed("image")({"image": [image, second]})["image"]
    assert loaded.shape == (2, *SHAPE)
    assert (loaded[1] == 7).all()


def test_labels_stored_as_floats_and_ids_above_255(write, image):
    stored = labels().astype(np.float32) * 150
    loaded = LoadVolumed(["image", "label"])({"image": image, "label": write("label.nii.gz", stored)})["label"]
    assert loaded.dtype == torch.int16
    assert loaded.max() == 300


def shifted() -> np.ndarray:
    return AFFINE + 1.0 * np.eye(4, k=3)


@pytest.mark.parametrize(
    ("label", "affine", "error", "message"),
    [
        (labels(), shifted(), GeometryError, r"label.nii.gz lies up to 1.00 mm away from image.nii.gz"),
        (labels()[:-1], AFFINE, GeometryError, r"label.nii.gz has 5×7×8 voxels, image.nii.gz 6×7×8"),
        (labels() * np.float32(0.5) + np.float32(0.25), AFFINE, CaseError, r"label.nii.gz: label values are not int"),
        (np.where(labels(), np.nan, 0).astype(np.float32), AFFINE, CaseError, r"label.nii.gz: label values are not"),
        (-labels().astype(np.int16), AFFINE, CaseError, r"label ids from -2 to 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(write, image, label, affine, error, message):
    with pytest.raises(error, match=message):
        LoadVolumed(["image", "label"])({"image": image, "label": write("label.nii.gz", label, affine)})


def test_images_with_nan_are_refused_and_counted(write):
    values = np.zeros(SHAPE, np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(CaseError, match=r"image.nii.gz: 3 voxels are NaN or infinite"):
        LoadVolumed("image")({"image": write("image.nii.gz", values)})


def test_missing_keys_only_where_they_are_allowed(image):
    assert "label" not in LoadVolumed(["image", "label"], allow_missing_keys=True)({"image": image})
    with pytest.raises(KeyError, match="label"):
        LoadVolumed(["image", "label"])({"image": image})


def test_a_refusal_keeps_its_reason_inside_compose(tmp_path):
    # MONAI's Compose wraps what a transform raises; the reason is its cause.
    with pytest.raises(RuntimeError, match="LoadVolumed") as raised:
        Compose([LoadVolumed("image")])({"image": str(tmp_path / "no.nii")})
    assert isinstance(raised.value.__cause__, CaseError)
    assert "no.nii: no such file" in str(raised.value.__cause__)


# TorchIO -------------------------------------------------------------------------------------------------------------

ARTEFACTS = [
    torchio.RandomBiasField(),
    torchio.RandomSpike(),
    torchio.RandomGhosting(),
    torchio.RandomMotion(degrees=5, translation=3),
]


def scan() -> dict[str, torch.Tensor]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(0, 3, n) for n in (20, 22, 18)], indexing="ij"))
    return {"image": (2 + grid.sin().sum(0, keepdim=True)), "label": (grid[:1] > 1).to(torch.uint8)}


def artefact(transform, prob=1.0, seed=3) -> RandTorchIOd:
    return RandTorchIOd("image", transform, prob).set_random_state(seed=seed)


@pytest.mark.parametrize("transform", ARTEFACTS, ids=lambda t: type(t).__name__)
class TestArtefacts:
    def test_it_changes_the_image_alone_and_keeps_shape_and_type(self, transform):
        changed = artefact(transform)(scan())
        assert changed["image"].shape == scan()["image"].shape
        assert changed["image"].dtype == torch.float32
        assert not torch.allclose(changed["image"], scan()["image"], atol=1e-3)
        torch.testing.assert_close(changed["label"], scan()["label"])

    def test_the_seed_decides_and_torchs_own_state_does_not(self, transform):
        torch.manual_seed(0)
        first = artefact(transform)(scan())["image"]
        torch.manual_seed(1)
        torch.testing.assert_close(artefact(transform)(scan())["image"], first, rtol=0, atol=0)
        assert not torch.equal(artefact(transform, seed=4)(scan())["image"], first)

    def test_torchs_own_state_is_untouched(self, transform):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        artefact(transform)(scan())
        torch.testing.assert_close(torch.get_rng_state(), before)

    def test_the_input_is_not_written_into(self, transform):
        sample = scan()
        artefact(transform)(sample)
        torch.testing.assert_close(sample["image"], scan()["image"], rtol=0, atol=0)

    def test_probability_zero_is_the_identity(self, transform):
        sample = scan()
        assert artefact(transform, prob=0.0)(sample)["image"] is sample["image"]


def test_successive_samples_differ():
    transform = artefact(torchio.RandomBiasField())
    assert not torch.equal(transform(scan())["image"], transform(scan())["image"])


def test_it_is_applied_as_often_as_asked():
    transform = artefact(lambda image: image + 1, prob=0.3)
    applied = sum(bool((transform({"image": torch.zeros(1, 2, 2, 2)})["image"] == 1).all()) for _ in range(1000))
    # Four standard deviations of a binomial of 1000 at 0.3: 58.
    assert abs(applied - 300) < 58


def test_keys_are_changed_alike():
    transform = RandTorchIOd(["a", "b"], torchio.RandomGhosting(), 1.0).set_random_state(seed=0)
    changed = transform({"a": scan()["image"], "b": scan()["image"]})
    torch.testing.assert_close(changed["a"], changed["b"], rtol=0, atol=0)


def test_gpus_are_not_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(0)
    assert seeded == [0]  # what would happen inside
    artefact(torchio.RandomBiasField())(scan())
    assert seeded == [0]


@pytest.mark.gpu
def test_the_gpus_state_is_untouched():
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    artefact(torchio.RandomBiasField())(scan())
    torch.testing.assert_close(torch.cuda.get_rng_state(), before)


def test_ids_without_a_name_are_refused(write, image):
    label = write("label.nii.gz", labels() * 2)  # 0, 2 and 4
    sample = {"image": image, "label": label}
    assert LoadVolumed(("image", "label"), labels={"a": 2, "b": 4})(sample)["label"].max() == 4
    with pytest.raises(CaseError, match=r"holds ids \[4\], which labels does not name"):
        LoadVolumed(("image", "label"), labels={"a": 2})(sample)


class TestLoadStudyd:
    """NIfTI and DICOM with the same geometry, and no way around a refusal."""

    @pytest.fixture
    def series(self, tmp_path):
        voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
        write_ct_series(voxels, AFFINE, tmp_path / "study" / "ct", patient=Patient("one"))
        return tmp_path / "study"

    def test_a_series_is_what_its_nifti_is(self, series, tmp_path):
        (converted,) = convert(series, tmp_path / "nifti", options=ConvertOptions(suffix=".nii"))
        (stack,) = dicom.scan(series).series[0].stacks
        sources = (str(series), str(converted.image), stack)
        loaded = [LoadStudyd("image")({"image": source})["image"] for source in sources]
        for image in loaded:
            assert isinstance(image, MetaTensor)
            assert (image.shape, image.dtype) == ((1, *SHAPE), torch.float32)
            np.testing.assert_array_equal(image, loaded[0])
            np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
            np.testing.assert_array_equal(image.meta["spatial_shape"], SHAPE)
        assert loaded[0].flatten().tolist() == list(range(np.prod(SHAPE)))

    def test_a_zip_archive_and_channels_of_both_kinds(self, series, tmp_path):
        (converted,) = convert(series, tmp_path / "nifti")
        archive = shutil.make_archive(str(tmp_path / "study"), "zip", series)
        loaded = LoadStudyd("image")({"image": [archive, str(converted.image)]})["image"]
        assert loaded.shape == (2, *SHAPE)
        np.testing.assert_array_equal(loaded[0], loaded[1])

    def test_labels_and_volumes_load_as_before(self, write, image):
        sample = {"image": image, "label": write("label.nii.gz", labels())}
        ours, theirs = (load(["image", "label"])(sample) for load in (LoadStudyd, LoadVolumed))
        for key in sample:
            assert ours[key].dtype == theirs[key].dtype
            np.testing.assert_array_equal(ours[key], theirs[key])

    def test_several_series_in_a_folder_are_listed(self, series):
        write_ct_series(np.ones(SHAPE, np.int16), AFFINE, series / "other", patient=Patient("two"))
        with pytest.raises(DicomError, match=r"2 series: .*CT 'Phantom CT', 8 slices.*Choose one by its UID"):
            LoadStudyd("image")({"image": str(series)})

    def test_the_transform_for_volumes_says_which_one_loads_a_series(self, series):
        (stack,) = dicom.scan(series).series[0].stacks
        with pytest.raises(CaseError, match=r"must load it with medseg3d\.transforms\.LoadStudyd"):
            LoadVolumed("image")({"image": stack})

    @pytest.mark.real_data
    def test_a_refusal_comes_through_where_monai_reads_at_a_false_spacing(self, data_dir):
        folder = str(data_dir / "dicom_conformance/dicom2nifti/failing/sliceincrement/001")
        with pytest.raises(DicomError, match=r"gap: 1 slice is missing between slices 3 and 4 \(10\.00 mm\)"):
            LoadStudyd("image")({"image": folder})
        # Four slices at 0, 5, 10 and 20 mm: MONAI spreads them evenly and says nothing.
        monai = LoadImaged("image", ensure_channel_first=True, reader="PydicomReader")({"image": folder})["image"]
        assert monai.shape[-1] == 4
        assert np.linalg.norm(monai.affine[:3, 2]) == pytest.approx(20 / 3, abs=0.01)
