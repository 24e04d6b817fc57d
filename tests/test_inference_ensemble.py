"""Several networks as one: means worked out by hand, and what is written of them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import Dataset
from monai.transforms import Compose, EnsureTyped, Orientationd, Spacingd

from medseg3d.errors import CheckpointError, ConfigError
from medseg3d.inference import Partner, Segmenter, SlidingWindow, ToImageGridd, find_cases
from medseg3d.inference.ensemble import Members, as_logits, as_probabilities, entropy, expected_dice, pool
from medseg3d.transforms import LoadVolumed


class Constant(torch.nn.Module):
    """The same logits at every voxel, whatever the image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, len(logits), 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def of(*probabilities: float) -> tuple[float, ...]:
    return tuple(math.log(p) for p in probabilities)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "p01.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 8, 7), np.float32), np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return path


def preprocessing(spacing=None) -> Compose:
    resample = [Spacingd(keys="image", pixdim=spacing)] if spacing else []
    return Compose([
        LoadVolumed(keys="image"), Orientationd(keys="image", axcodes="RAS", labels=None), *resample,
        EnsureTyped(keys="image"),
    ])  # fmt: skip


def segment(image: Path, output: Path, *, network=None, weights=None, **options) -> dict:
    Segmenter(
        dataset=Dataset(find_cases(image), preprocessing()),
        network=network or Constant(0, 0, 0),
        inferer=options.pop("inferer", SlidingWindow((8, 8, 8))),
        postprocessing=options.pop("postprocessing", ToImageGridd("pred")),
        labels=options.pop("labels", {"a": 1, "b": 2}),
        output_dir=output,
        weights=weights,
        amp=False,
        **options,
    ).run()
    return json.loads((output / "p01.json").read_text())


def saved(folder: Path, *members: Constant, dtype=torch.float32) -> list[Path]:
    paths = []
    for number, network in enumerate(members):
        state = {key: value.to(dtype) for key, value in network.state_dict().items()}
        torch.save(state, folder / f"fold{number}.pt")
        paths.append(folder / f"fold{number}.pt")
    return paths


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


class TestSeveralWeights:
    def test_probabilities_are_averaged_not_logits(self, image, tmp_path):
        # The mean of the logits would let the background win, by √(0.28 · 0.42).
        weights = saved(tmp_path, Constant(*of(0.28, 0.02, 0.70)), Constant(*of(0.42, 0.56, 0.02)))
        sidecar = segment(image, tmp_path / "out", weights=weights, save_probability=True)
        mean = voxels(tmp_path / "out" / "p01_probability.nii.gz")
        np.testing.assert_allclose(mean[4, 4, 4], [0.35, 0.29, 0.36], atol=1e-3)
        assert (voxels(tmp_path / "out" / "p01.nii.gz") == 2).all()
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
        assert sidecar["members_sha256"] == hashes
        assert sidecar["weights_sha256"] == hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def test_one_file_in_a_list_is_that_file(self, image, tmp_path):
        (path,) = saved(tmp_path, Constant(0, 1, 2))
        alone = segment(image, tmp_path / "alone", weights=path)
        listed = segment(image, tmp_path / "listed", weights=[path])
        assert alone["weights_sha256"] == listed["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert "members_sha256" not in listed

    def test_half_precision_files_answer_alike(self, image, tmp_path):
        members = Constant(*of(0.5, 0.3, 0.2)), Constant(*of(0.2, 0.5, 0.3))
        for name, dtype in (("full", torch.float32), ("half", torch.float16)):
            (tmp_path / name).mkdir()
            weights = saved(tmp_path / name, *members, dtype=dtype)
            segment(image, tmp_path / name / "out", weights=weights, save_probability=True)
        full, half = (voxels(tmp_path / name / "out" / "p01_probability.nii.gz") for name in ("full", "half"))
        np.testing.assert_allclose(full, half, atol=1e-3)

    def test_weights_of_another_network_are_named(self, image, tmp_path):
        weights = saved(tmp_path, Constant(0, 0, 0), Constant(0, 0, 0, 0))
        with pytest.raises(CheckpointError, match=r"fold1\.pt: these weights are of another network"):
            segment(image, tmp_path / "out", weights=weights)

    def test_compiled_members_have_networks_of_their_own(self, tmp_path):
        weights = saved(tmp_path, Constant(1, 0, 0), Constant(0, 1, 0))
        members = Members(Constant(0, 0, 0), weights, copies=True)
        assert len({id(network) for network in members}) == len(members) == 2
        assert [network.conv.bias.tolist() for network in members] == [[1, 0, 0], [0, 1, 0]]

    def test_an_ensemble_is_not_kept_for_one_of_its_members(self, image, tmp_path):
        weights = saved(tmp_path, Constant(0, 1, 0), Constant(0, 0, 1))
        segment(image, tmp_path / "out", weights=weights)
        before = (tmp_path / "out" / "p01.nii.gz").stat().st_mtime_ns
        segment(image, tmp_path / "out", weights=weights, overwrite=False)
        assert (tmp_path / "out" / "p01.nii.gz").stat().st_mtime_ns == before
        segment(image, tmp_path / "out", weights=weights[0], overwrite=False)
        assert (tmp_path / "out" / "p01.nii.gz").stat().st_mtime_ns > before


class TestTemperature:
    def test_softens_the_mean_and_not_the_mask(self, image, tmp_path):
        weights = saved(tmp_path, Constant(*of(0.1, 0.8, 0.1)), Constant(*of(0.3, 0.6, 0.1)))
        segment(image, tmp_path / "out", weights=weights, temperature=2.0, save_probability=True)
        expected = np.sqrt([0.2, 0.7, 0.1]) / np.sqrt([0.2, 0.7, 0.1]).sum()
        found = voxels(tmp_path / "out" / "p01_probability.nii.gz")[4, 4, 4]
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert (voxels(tmp_path / "out" / "p01.nii.gz") == 1).all()

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
    def test_must_divide(self, image, tmp_path, temperature):
        with pytest.raises(ConfigError, match="temperature is"):
            segment(image, tmp_path / "out", temperature=temperature)


class TestUncertainty:
    def test_mutual_information_is_what_sure_members_disagree_about(self, image, tmp_path):
        sure = 30.0
        weights = saved(tmp_path, Constant(sure, 0, 0), Constant(0, sure, 0))
        segment(image, tmp_path / "out", weights=weights, save_uncertainty=True)
        one_bit = math.log(2) / math.log(3)  # two of three classes are left
        np.testing.assert_allclose(voxels(tmp_path / "out" / "p01_uncertainty.nii.gz"), one_bit, atol=1e-4)
        np.testing.assert_allclose(voxels(tmp_path / "out" / "p01_mutual_information.nii.gz"), one_bit, atol=1e-4)

    def test_members_that_doubt_alike_have_none(self, image, tmp_path):
        weights = saved(tmp_path, Constant(0, 0, 0), Constant(0, 0, 0))
        segment(image, tmp_path / "out", weights=weights, save_uncertainty=True)
        np.testing.assert_allclose(voxels(tmp_path / "out" / "p01_uncertainty.nii.gz"), 1, atol=1e-4)
        np.testing.assert_allclose(voxels(tmp_path / "out" / "p01_mutual_information.nii.gz"), 0, atol=1e-4)

    def test_a_single_member_has_no_such_map_and_removes_an_earlier_one(self, image, tmp_path):
        weights = saved(tmp_path, Constant(0, 1, 0), Constant(0, 0, 1))
        segment(image, tmp_path / "out", weights=weights, save_uncertainty=True)
        segment(image, tmp_path / "out", weights=weights[0], save_uncertainty=True)
        assert not (tmp_path / "out" / "p01_mutual_information.nii.gz").exists()


class TestPlans:
    def test_every_plan_counts_alike_on_the_images_own_grid(self, image, tmp_path):
        first = saved(tmp_path, Constant(*of(0.6, 0.3, 0.1)), Constant(*of(0.4, 0.5, 0.1)))  # mean 0.5, 0.4, 0.1
        (tmp_path / "coarse").mkdir()
        (other,) = saved(tmp_path / "coarse", Constant(*of(0.1, 0.8, 0.1)))
        partner = Partner(preprocessing((2.0, 2.0, 2.0)), Constant(0, 0, 0), SlidingWindow((8, 8, 8)), other)
        sidecar = segment(
            image, tmp_path / "out", weights=first, partners=[partner], save_probability=True, save_uncertainty=True
        )
        mean = voxels(tmp_path / "out" / "p01_probability.nii.gz")
        assert mean.shape == (9, 8, 7, 3)
        np.testing.assert_allclose(mean[4, 4, 4], [0.3, 0.6, 0.1], atol=1e-3)
        assert (voxels(tmp_path / "out" / "p01.nii.gz")[1:-1, 1:-1, 1:-1] == 1).all()
        assert len(sidecar["members_sha256"]) == 3
        assert (tmp_path / "out" / "p01_mutual_information.nii.gz").exists()

    def test_plans_that_agree_give_the_mask_of_one(self, tmp_path):
        from test_inference_segmenter import ReadsValues, nested_balls, oblique

        path = tmp_path / "p01.nii.gz"
        nibabel.save(nibabel.Nifti1Image(nested_balls(), oblique()), path)
        partner = Partner(preprocessing(), ReadsValues(), SlidingWindow((16, 16, 16)))
        segment(path, tmp_path / "out", network=ReadsValues(), partners=[partner])
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "p01.nii.gz"), nested_balls())


class TestRegions:
    def test_sigmoids_are_averaged_and_the_sidecar_names_regions(self, image, tmp_path):
        def logit(p: float) -> float:
            return math.log(p / (1 - p))

        def decode(case):
            probabilities = case["pred"].sigmoid()
            np.testing.assert_allclose(probabilities[:, 4, 4, 4], [0.7, 0.2], atol=1e-5)
            return ToImageGridd("pred")({**case, "pred": torch.stack([1 - probabilities[0], probabilities[0]]).log()})

        weights = saved(tmp_path, Constant(logit(0.9), logit(0.1)), Constant(logit(0.5), logit(0.3)))
        regions = {"whole": [1, 2], "core": [2]}
        sidecar = segment(
            image, tmp_path / "out", network=Constant(0, 0), weights=weights, regions=regions, postprocessing=decode
        )
        assert sidecar["expected_dice"] == {"whole": pytest.approx(2 * 0.7 / 1.7, abs=1e-3), "core": None}

    def test_a_channel_a_region(self, image, tmp_path):
        with pytest.raises(ConfigError, match="3 channels; there are 2 regions"):
            segment(image, tmp_path / "out", regions={"whole": [1, 2], "core": [2]})


@st.composite
def volumes_of_logits(draw):
    members, channels = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    seed = draw(st.integers(0, 2**16))
    return torch.randn((members, channels, 2, 2, 2), generator=torch.Generator().manual_seed(seed)) * 4


@given(volumes_of_logits(), st.booleans())
def test_pooling_is_the_mean_whatever_the_order(logits, exclusive):
    forth, back = (pool(list(order), exclusive=exclusive) for order in (logits, logits.flip(0)))
    mean = torch.stack([as_probabilities(one, exclusive=exclusive) for one in logits]).mean(0)
    for pooled in (forth, back):
        torch.testing.assert_close(as_probabilities(pooled.logits, exclusive=exclusive), mean, atol=1e-5, rtol=1e-4)
        assert (entropy(mean, exclusive=exclusive) - pooled.member_entropy >= -1e-5).all()  # entropy is concave


@given(volumes_of_logits(), st.booleans())
def test_logits_and_probabilities_are_each_others_inverse(logits, exclusive):
    probabilities = as_probabilities(logits[0], exclusive=exclusive)
    again = as_probabilities(as_logits(probabilities.clone(), exclusive=exclusive), exclusive=exclusive)
    torch.testing.assert_close(again, probabilities, atol=1e-5, rtol=1e-4)


def test_expected_dice_of_sure_and_of_empty_masks():
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).reshape(3, 2, 1, 1)
    background, found, absent = expected_dice(sure, exclusive=True)
    assert (background, found) == (1.0, 1.0)
    assert math.isnan(absent)


def test_what_lies_far_from_every_mask_does_not_count_for_the_expected_dice():
    p = torch.full((40, 40, 40), 0.02)  # what a high temperature leaves of "surely nothing"
    p[18:22, 18:22, 18:22] = 0.9  # 64 voxels
    near = 8**3 - 64  # the cube of two voxels around them
    expected = 2 * 64 * 0.9 / (64 + 64 * 0.9 + near * 0.02)
    assert expected_dice(torch.stack([1 - p, p]), exclusive=True)[1] == pytest.approx(expected, rel=1e-5)
    assert expected_dice(p[None], exclusive=False) == [pytest.approx(expected, rel=1e-5)]


def test_expected_dice_is_the_dice_of_truths_drawn_from_the_probabilities():
    generator = torch.Generator().manual_seed(3)
    p = torch.rand((1, 20, 20, 20), generator=generator) ** 3
    mask = p[0] >= 0.5
    drawn = [torch.rand(mask.shape, generator=generator) < p[0] for _ in range(200)]
    dice = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for truth in drawn]
    assert expected_dice(p, exclusive=False)[0] == pytest.approx(float(np.mean(dice)), abs=0.005)
