"""Brains with tumours: nested regions, channels that differ as sequences do, and the layout of BraTS."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from medseg3d.cli import main
from medseg3d.datalist import check_datalist, read_datalist
from medseg3d.geometry import voxel_volume_ml
from medseg3d.phantom import TUMOUR_LABELS, TUMOUR_REGIONS, PhantomCase, make_case, write_study

SIZE = (48, 56, 42)
T1, T1C, T2, FLAIR = range(4)
CORE, OEDEMA, ENHANCING = TUMOUR_LABELS.values()


def brain(index: int, seed: int = 1) -> PhantomCase:
    return make_case("mri_tumor", seed, index, size=SIZE)


@pytest.fixture(scope="module")
def brains() -> list[PhantomCase]:
    return [brain(index) for index in range(16)]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 999))
def test_every_brain_has_a_tumour_inside_it(seed: int, index: int):
    case = make_case("mri_tumor", seed, index, size=SIZE)
    assert case.image.shape == (4, *case.label.shape)
    assert case.image.dtype == np.float32
    inside = case.image.any(axis=0)
    volume_ml = inside.sum() * voxel_volume_ml(case.affine)
    assert 300 < volume_ml < 1600  # half of an adult's brain is cut off below
    whole = case.label > 0
    assert 1 < whole.sum() * voxel_volume_ml(case.affine) < 0.4 * volume_ml
    assert not (whole & ~inside).any()
    assert (case.label == OEDEMA).any()
    assert np.isin(case.label, (CORE, ENHANCING)).any()


def test_the_core_lies_within_the_oedema(brains: list[PhantomCase]):
    """Grown by a voxel, the core touches mostly oedema: the rest is fluid, which does not swell."""
    for case in brains:
        core = np.isin(case.label, TUMOUR_REGIONS["tumour_core"])
        shell = ndimage.binary_dilation(core) & ~core & case.image.any(axis=0)
        assert (case.label[shell] == OEDEMA).mean() > 0.5


def test_channels_differ_as_sequences_do(brains: list[PhantomCase]):
    def contrast(case: PhantomCase, channel: int, label: int) -> float:
        """Of a label against healthy brain, in its standard deviations."""
        image, healthy = case.image[channel], (case.label == 0) & case.image.any(axis=0)
        return float((image[case.label == label].mean() - np.median(image[healthy])) / image[healthy].std())

    enhancing = [case for case in brains if (case.label == ENHANCING).sum() > 30]
    assert 8 <= len(enhancing) < 16  # some tumours take up no contrast
    assert np.mean([contrast(c, T1C, ENHANCING) for c in enhancing]) > 2
    assert abs(np.mean([contrast(c, T1, ENHANCING) for c in enhancing])) < 1
    oedema = {channel: np.mean([contrast(c, channel, OEDEMA) for c in brains]) for channel in range(4)}
    assert oedema[FLAIR] > 1.5
    assert oedema[T2] > 0.5
    assert oedema[T1C] < 0.5


def test_no_single_channel_shows_every_region(brains: list[PhantomCase]):
    """A forest on voxels and their blurred surroundings finds the labels with four channels and not with one."""

    rng = np.random.default_rng(0)

    def features(case: PhantomCase, channels: list[int]) -> np.ndarray:
        scaled = [case.image[c] / np.median(case.image[c][case.image[c] > 0]) for c in channels]
        return np.stack(
            [f(image) for image in scaled for f in (lambda x: x, lambda x: ndimage.gaussian_filter(x, 1.5))]
        )

    def recall(channels: list[int]) -> float:
        def table(cases: list[PhantomCase]) -> tuple[np.ndarray, np.ndarray]:
            inside = [case.image.any(axis=0) & (rng.random(case.label.shape) < 0.15) for case in cases]
            x = np.concatenate([features(c, channels)[:, i].T for c, i in zip(cases, inside, strict=True)])
            return x, np.concatenate([c.label[i] for c, i in zip(cases, inside, strict=True)])

        forest = RandomForestClassifier(20, max_depth=10, class_weight="balanced", random_state=0)
        x, y = table(brains[8:])
        predicted = forest.fit(*table(brains[:8])).predict(x)
        dice = [2 * ((predicted == i) & (y == i)).sum() / ((predicted == i).sum() + (y == i).sum()) for i in (1, 2, 3)]
        return float(np.mean(dice))

    alone = [recall([channel]) for channel in range(4)]
    assert recall([T1, T1C, T2, FLAIR]) > max(alone) + 0.15


def test_equal_seeds_make_equal_voxels_and_no_tumour_is_possible():
    np.testing.assert_array_equal(brain(3).image, brain(3).image)
    assert not np.allclose(brain(3).image, brain(4).image)
    healthy = make_case("mri_tumor", 1, 3, size=SIZE, lesions=False)
    assert not healthy.label.any()


def test_a_study_is_laid_out_as_in_brats_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = [
        "medseg3d",
        "phantom",
        str(tmp_path / "t"),
        "--modality",
        "mri_tumor",
        "--cases",
        "2",
        "--test-cases",
        "1",
    ]
    monkeypatch.setattr("sys.argv", [*command, "--workers", "1", "--size", "32", "36", "28"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    names = sorted(path.name for path in (tmp_path / "t" / "training" / "mri_tumor_001").iterdir())
    assert names == [f"mri_tumor_001_{end}.nii.gz" for end in ("flair", "seg", "t1", "t1ce", "t2")]
    datalist = read_datalist(tmp_path / "t" / "dataset.json")
    assert datalist.channels == ("T1", "T1c", "T2", "FLAIR")
    assert datalist.regions == {name: tuple(ids) for name, ids in TUMOUR_REGIONS.items()}
    assert [path.name for path in datalist.testing[0].files] == [
        f"mri_tumor_003_{end}.nii.gz" for end in ("t1", "t1ce", "t2", "flair")
    ]
    assert check_datalist(datalist).ok
    shapes = {nibabel.load(path).shape for path in datalist.training[0].files}
    assert len(shapes) == 1


def test_a_study_is_replaced_only_when_asked(tmp_path: Path):
    for cases in (2, 1):
        write_study(tmp_path, modality="mri_tumor", cases=cases, size=(32, 32, 16), overwrite=cases == 1)
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["mri_tumor_001"]
    assert len(json.loads((tmp_path / "dataset.json").read_text())["training"]) == 1
