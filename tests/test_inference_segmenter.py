"""From image files to mask files, with networks whose answer is known."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import Dataset
from monai.transforms import Compose, EnsureTyped, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd
from scipy.spatial.transform import Rotation

from medseg3d.errors import CaseError, CheckpointError, ConfigError
from medseg3d.inference import Segmenter, SlidingWindow, ToImageGridd, find_cases
from medseg3d.transforms import LoadVolumed

LABELS = {"shell": 1, "core": 2}


class ReadsValues(torch.nn.Module):
    """The label of a voxel is its value: the image shows the mask that is wanted. Sure of it by ``certainty``."""

    def __init__(self, classes: int = 3, certainty: float = 30.0) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, classes, 1)  # the last of (x - c)² that is linear: 2cx - c²
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0, 0] = certainty * 2 * torch.arange(classes)
            self.conv.bias[:] = -certainty * torch.arange(classes) ** 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def nested_balls(shape=(26, 24, 22)) -> np.ndarray:
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    distance = np.sqrt((i - 12) ** 2 + (j - 11) ** 2 + (k - 10) ** 2)
    return ((distance < 9).astype(np.int16) + (distance < 5)).astype(np.int16)


def oblique(spacing=(0.9, 1.2, 2.5)) -> np.ndarray:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", (10, -20, 15), degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag([-1, 1, 1])[:, [1, 2, 0]] * spacing
    affine[:3, 3] = (-31.5, 120.25, -700)
    return affine


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, oblique() if affine is None else affine), path)
    return path


def preprocessing(spacing=None, load=None, normalize=False) -> Compose:
    transforms = [load or LoadVolumed(keys="image"), Orientationd(keys="image", axcodes="RAS", labels=None)]
    transforms += [Spacingd(keys="image", pixdim=spacing, mode="nearest")] if spacing else []
    transforms += [NormalizeIntensityd(keys="image")] if normalize else []
    return Compose([*transforms, EnsureTyped(keys="image")])


def segmenter(source: Path, output: Path, *, transform=None, network=None, **options) -> Segmenter:
    return Segmenter(
        dataset=Dataset(find_cases(source), transform or preprocessing()),
        network=network or ReadsValues(),
        inferer=options.pop("inferer", SlidingWindow((16, 16, 16), 2)),
        postprocessing=options.pop("postprocessing", ToImageGridd("pred")),
        labels=options.pop("labels", LABELS),
        output_dir=output,
        **options,
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


class TestMask:
    def test_is_the_known_truth_on_the_images_own_grid(self, tmp_path):
        source = write(tmp_path / "in" / "p01.nii.gz", nested_balls())
        report = segmenter(source, tmp_path / "out").run()
        mask = nibabel.load(tmp_path / "out" / "p01.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), nested_balls())
        np.testing.assert_array_equal(mask.affine, nibabel.load(source).affine)
        assert [c.status for c in report.cases] == ["done"]

    @pytest.mark.parametrize(
        "load", [None, LoadImaged(keys="image", ensure_channel_first=True)], ids=["ours", "MONAI's"]
    )
    def test_survives_another_spacing(self, tmp_path, load):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        segmenter(source, tmp_path / "out", transform=preprocessing((1.1, 1.0, 1.3), load)).run()
        mask = voxels(tmp_path / "out" / "p01.nii.gz")
        assert mask.shape == nested_balls().shape
        for label in LABELS.values():
            assert dice(mask == label, nested_balls() == label) > 0.9

    def test_keeps_both_forms_their_codes_and_the_units(self, tmp_path):
        image = nibabel.Nifti1Image(nested_balls(), oblique())
        image.set_sform(oblique(), code=4)
        image.set_qform(oblique() @ np.diag([1, 1, 1.1, 1]), code=1)  # disagrees on purpose
        image.header.set_xyzt_units("micron", "msec")
        nibabel.save(image, tmp_path / "p01.nii.gz")
        segmenter(tmp_path / "p01.nii.gz", tmp_path / "out").run()
        before = nibabel.load(tmp_path / "p01.nii.gz").header
        after = nibabel.load(tmp_path / "out" / "p01.nii.gz").header
        assert (int(after["sform_code"]), int(after["qform_code"])) == (4, 1)
        for name in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "xyzt_units"):
            assert before[name].tobytes() == after[name].tobytes(), name
        np.testing.assert_array_equal(before["pixdim"][:4], after["pixdim"][:4])

    def test_image_with_only_a_qform(self, tmp_path):
        image = nibabel.Nifti1Image(nested_balls(), None)
        image.set_qform(oblique(), code=2)
        image.set_sform(None, code=0)
        nibabel.save(image, tmp_path / "p01.nii.gz")
        segmenter(tmp_path / "p01.nii.gz", tmp_path / "out").run()
        mask = nibabel.load(tmp_path / "out" / "p01.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), nested_balls())
        np.testing.assert_array_equal(mask.affine, nibabel.load(tmp_path / "p01.nii.gz").affine)
        assert int(mask.header["sform_code"]) == 0

    @pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
    def test_other_formats_lie_where_itk_says(self, tmp_path, suffix):
        image = sitk.GetImageFromArray(nested_balls().T)
        image.SetSpacing((0.8, 0.9, 2.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(Rotation.from_euler("z", 12, degrees=True).as_matrix().ravel())
        sitk.WriteImage(image, str(tmp_path / f"p01{suffix}"))
        segmenter(tmp_path / f"p01{suffix}", tmp_path / "out").run()
        mask = sitk.ReadImage(str(tmp_path / "out" / "p01.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask).T, nested_balls())
        np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), atol=1e-6)

    def test_ids_above_255_take_two_bytes(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", (nested_balls() == 2).astype(np.int16) * 300)
        network = ReadsValues(classes=301, certainty=1.0)
        segmenter(source, tmp_path / "out", network=network, labels={"core": 300}, amp=False).run()
        mask = nibabel.load(tmp_path / "out" / "p01.nii.gz")
        assert mask.get_data_dtype() == np.uint16
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj) == 300, nested_balls() == 2)

    def test_without_the_way_back_is_refused(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        run = segmenter(source, tmp_path / "out", transform=preprocessing((2, 2, 2)), postprocessing=Compose([]))
        with pytest.raises(CaseError, match=r"Does the post-processing begin with medseg3d\.inference\.ToImageGridd"):
            run.run()
        assert not (tmp_path / "out").exists()


class TestSidecar:
    def test_says_what_the_mask_is_and_by_what(self, tmp_path):
        source = write(tmp_path / "ward 7" / "p01.nii.gz", nested_balls(), np.diag([1.0, 2.0, 2.5, 1.0]))
        torch.save(ReadsValues().state_dict(), tmp_path / "model.pt")
        metadata = tmp_path / "my_bundle" / "configs" / "metadata.json"
        metadata.parent.mkdir(parents=True)
        metadata.write_text('{"version": "0.2.0"}')
        segmenter(source, tmp_path / "out", weights=tmp_path / "model.pt", metadata=metadata).run()
        text = (tmp_path / "out" / "p01.json").read_text()
        sidecar = json.loads(text)
        assert sidecar["labels"] == LABELS
        # Voxels of 1×2×2.5 mm hold 0.005 ml.
        assert sidecar["volume_ml"]["core"] == pytest.approx((nested_balls() == 2).sum() * 0.005)
        assert (sidecar["case"], sidecar["source"]) == ("p01", "p01.nii.gz")
        assert (sidecar["bundle"], sidecar["bundle_version"]) == ("my_bundle", "0.2.0")
        assert len(sidecar["weights_sha256"]) == 64
        assert sidecar["device"] == "cpu"
        assert sidecar["inference_s"] > 0
        assert sidecar["findings"] == []
        assert "ward 7" not in text  # folders name patients often enough

    def test_findings(self, tmp_path):
        cut = np.zeros((20, 20, 20), np.int16)
        cut[0:5, 5:10, 5:10] = 1
        report = segmenter(write(tmp_path / "p01.nii.gz", cut), tmp_path / "out").run()
        expected = ["core: not found", "shell: reaches the edge of the image, may be cut off"]
        assert json.loads((tmp_path / "out" / "p01.json").read_text())["findings"] == expected
        assert list(report.cases[0].findings) == expected


class TestMaps:
    def test_only_on_request(self, tmp_path):
        segmenter(write(tmp_path / "p01.nii.gz", nested_balls()), tmp_path / "out").run()
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p01.json", "p01.nii.gz"]

    def test_probabilities_are_of_the_mask_and_sum_to_one(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        transform = preprocessing((1.1, 1.0, 1.3))
        network = ReadsValues(certainty=2.0)
        segmenter(
            source, tmp_path / "out", transform=transform, network=network, save_probability=True, amp=False
        ).run()
        image = nibabel.load(tmp_path / "out" / "p01_probability.nii.gz")
        probability = np.asanyarray(image.dataobj)
        assert probability.dtype == np.float32
        assert probability.shape == (*nested_balls().shape, 3)
        np.testing.assert_array_equal(image.affine, nibabel.load(source).affine)
        np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=2e-3)
        winner = np.take_along_axis(
            probability, voxels(tmp_path / "out" / "p01.nii.gz")[..., None].astype(int), axis=-1
        )
        np.testing.assert_allclose(winner[..., 0], probability.max(axis=-1), atol=1e-3)

    def test_uncertainty_is_the_normalised_entropy(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        network = ReadsValues(certainty=1.0)
        segmenter(source, tmp_path / "out", network=network, save_uncertainty=True, amp=False).run()
        uncertainty = voxels(tmp_path / "out" / "p01_uncertainty.nii.gz")
        # A voxel of value 1 has logits 0, 1, 0 (2cx - c² for x = 1).
        p = np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
        np.testing.assert_allclose(uncertainty[nested_balls() == 1], -(p * np.log(p)).sum() / np.log(3), rtol=1e-4)

    def test_of_an_earlier_mask_do_not_stay(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        segmenter(source, tmp_path / "out", save_uncertainty=True).run()
        segmenter(source, tmp_path / "out").run()
        assert not (tmp_path / "out" / "p01_uncertainty.nii.gz").exists()


class TestBadCases:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """Five bad images, each for its own reason, between two good ones."""
        folder = tmp_path / "in"
        write(folder / "a_good.nii.gz", nested_balls())
        noise = np.random.default_rng(0).integers(0, 3, (30, 30, 30), np.int16)
        whole = write(folder / "b_truncated.nii.gz", noise).read_bytes()
        (folder / "b_truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
        nan = nested_balls().astype(np.float32)
        nan[3, 3, 3:5] = np.nan
        write(folder / "c_nan.nii.gz", nan)
        write(folder / "d_channels.nii.gz", np.stack([nested_balls()] * 2, axis=-1))
        write(folder / "e_flat.nii.gz", nested_balls()[..., 0])
        image = nibabel.Nifti1Image(nested_balls(), None)
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = (
            [1, 0, 0, 0],
            [1, 0, 0, 0],
            [0, 0, 1, 0],
        )
        (folder / "f_singular.nii").write_bytes(_with_header(image))
        write(folder / "g_good.nii.gz", nested_balls())
        return folder

    @pytest.mark.parametrize(
        "load", [None, LoadImaged(keys="image", ensure_channel_first=True)], ids=["ours", "MONAI's"]
    )
    def test_are_named_with_their_reason_and_do_not_stop_the_others(self, folder, tmp_path, load):
        run = segmenter(folder, tmp_path / "out", transform=preprocessing(load=load, normalize=True))
        report = run.segment()
        errors = {c.case: c.error for c in report.failed}
        assert list(errors) == ["b_truncated", "c_nan", "d_channels", "e_flat", "f_singular"]
        assert "Compressed file ended before the end-of-stream marker" in errors["b_truncated"]
        assert "2 voxel" in errors["c_nan"]
        assert "NaN" in errors["c_nan"]
        assert errors["d_channels"] == "The image has 2 channel(s), the network takes 1."
        assert "2 dimensions (26×24)" in errors["e_flat"]
        assert "affine is singular" in errors["f_singular"]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "a_good.json", "a_good.nii.gz", "g_good.json", "g_good.nii.gz"
        ]  # fmt: skip

    def test_end_the_run_with_an_error_after_the_table(self, folder, tmp_path, capsys):
        with pytest.raises(CaseError, match=r"5 of 7 cases failed, the others are done") as caught:
            segmenter(folder, tmp_path / "out").run()
        assert "  d_channels: The image has 2 channel(s)" in str(caught.value)
        shown = capsys.readouterr().err
        assert "2 of 7 cases segmented" in shown
        assert "[1/7] a_good: done in" in shown
        assert "[4/7] d_channels: failed: The image has 2 channel(s)" in shown

    def test_a_mask_never_takes_the_place_of_its_image(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        before = source.read_bytes()
        with pytest.raises(CaseError, match="the mask would overwrite its image"):
            segmenter(tmp_path, tmp_path).run()
        assert source.read_bytes() == before


def _with_header(image: nibabel.Nifti1Image) -> bytes:
    """The file's bytes with the header's geometry as it is; nibabel would repair it on writing."""
    header = image.header.copy()
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4) + np.asanyarray(image.dataobj).tobytes(order="F")


class TestRun:
    def test_the_next_case_loads_while_one_is_computed(self, tmp_path):
        for name in "ab":
            write(tmp_path / "in" / f"{name}.nii.gz", nested_balls())
        second_loaded = threading.Event()
        transform = preprocessing()

        def load(case):
            loaded = transform(case)
            if case["case"] == "b":
                second_loaded.set()
            return loaded

        class Waits(ReadsValues):
            def forward(self, x):
                assert second_loaded.wait(timeout=30)
                return super().forward(x)

        report = segmenter(tmp_path / "in", tmp_path / "out", transform=load, network=Waits()).run()
        assert [c.case for c in report.cases] == ["a", "b"]

    def test_kept_masks_are_those_of_the_same_weights(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        torch.save(ReadsValues().state_dict(), tmp_path / "one.pt")
        torch.save(ReadsValues(certainty=9.0).state_dict(), tmp_path / "two.pt")
        statuses = []
        for weights in ("one.pt", "one.pt", "two.pt"):
            report = segmenter(source, tmp_path / "out", weights=tmp_path / weights, overwrite=False).run()
            statuses.append(report.cases[0].status)
        assert statuses == ["done", "kept", "done"]

    def test_a_failed_case_leaves_no_half_mask_and_none_of_an_earlier_run(self, tmp_path, monkeypatch):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        segmenter(source, tmp_path / "out").run()

        def full_disk(image, path):
            Path(path).write_bytes(b"half a f")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(nibabel, "save", full_disk)
        with pytest.raises(CaseError, match=r"p01: .*No space left on device"):
            segmenter(source, tmp_path / "out").run()
        assert list((tmp_path / "out").iterdir()) == []

    def test_equal_runs_make_equal_bytes(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        for out in ("one", "two"):
            segmenter(source, tmp_path / out).run()
        first, second = ((tmp_path / out / "p01.nii.gz").read_bytes() for out in ("one", "two"))
        assert gzip.decompress(first) == gzip.decompress(second)

    @pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_mixed_precision_reaches_the_network(self, tmp_path, amp, dtype):
        network, seen = ReadsValues(), []
        network.conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        segmenter(write(tmp_path / "p01.nii.gz", nested_balls()), tmp_path / "out", network=network, amp=amp).run()
        assert set(seen) == {dtype}

    def test_a_gpu_too_full_for_the_images_grid_leaves_it_to_the_cpu(self, tmp_path, caplog):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        calls = []

        def full_at_first(case):
            calls.append(case)
            if len(calls) == 1:
                raise RuntimeError("applying transform") from torch.cuda.OutOfMemoryError("CUDA out of memory")
            return ToImageGridd("pred")(case)

        segmenter(source, tmp_path / "out", postprocessing=full_at_first).run()
        assert "doing that on the CPU" in caplog.text
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "p01.nii.gz"), nested_balls())

    def test_what_concerns_every_case_stops_the_run(self, tmp_path):
        source = write(tmp_path / "p01.nii.gz", nested_balls())
        with pytest.raises(ConfigError, match="The network gives 2 channels; labels up to 2 and the background make 3"):
            segmenter(source, tmp_path / "out", network=ReadsValues(classes=2)).run()
        with pytest.raises(CheckpointError, match="no weights there"):
            segmenter(source, tmp_path / "out", weights=tmp_path / "absent.pt").run()

    def test_two_cases_of_one_name_are_refused(self, tmp_path):
        run = segmenter(write(tmp_path / "p01.nii.gz", nested_balls()), tmp_path / "out")
        run.dataset.data = run.dataset.data * 2
        with pytest.raises(ConfigError, match="Case 'p01' is there twice"):
            run.run()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_of_the_gpu_are_those_of_the_cpu(tmp_path):
    source = write(tmp_path / "p01.nii.gz", nested_balls())
    for device in ("cpu", "cuda"):
        transform = preprocessing((1.1, 1.0, 1.3))
        segmenter(source, tmp_path / device, transform=transform, device=device, amp=False).run()
    cpu, gpu = (voxels(tmp_path / device / "p01.nii.gz") for device in ("cpu", "cuda"))
    for label in LABELS.values():
        assert dice(cpu == label, gpu == label) >= 0.999
