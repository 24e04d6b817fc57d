"""Transforms of 2D images: loaded as they are, normalised by hand-worked numbers, moved with masks and boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose
from numpy.testing import assert_allclose
from PIL import Image

from medseg3d.data import SeededCacheDataset
from medseg3d.errors import CaseError, UsageError
from medseg3d.transforms2d import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LoadImage2Dd,
    NormalizeImaged,
    RandAugment2Dd,
    Resize2Dd,
    to_original_boxes,
    to_original_size,
)
from medseg3d.transforms2d.photometry import blurred, clahe, erased, jittered
from medseg3d.transforms2d.warping import draw_warp, warp_boxes, warp_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def saved(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def image_of(pixels, low=0.0, high=1.0) -> MetaTensor:
    pixels = torch.as_tensor(pixels, dtype=torch.float32)
    return MetaTensor(pixels, meta={"value_range": torch.tensor([[low], [high]]).repeat(1, len(pixels))})


# Loading -------------------------------------------------------------------------------------------------------------


def test_colours_and_grey_in_the_channels_that_are_asked_for(tmp_path):
    colour, grey = saved(tmp_path / "c.png", RGB), saved(tmp_path / "g.png", RGB[..., 0])
    loaded = LoadImage2Dd("image")({"image": colour})["image"]
    assert (loaded.dtype, tuple(loaded.shape)) == (torch.float32, (3, 6, 4))
    assert_allclose(loaded.numpy(), np.moveaxis(RGB, -1, 0))
    assert_allclose(loaded.meta["value_range"], [[0, 0, 0], [255, 255, 255]])
    assert_allclose(LoadImage2Dd("image")({"image": grey})["image"].numpy(), np.repeat(RGB[None, ..., 0], 3, axis=0))
    luma = LoadImage2Dd("image", channels=1)({"image": colour})["image"].numpy()
    assert_allclose(luma[0], np.asarray(Image.fromarray(RGB).convert("L")), atol=1)
    with pytest.raises(UsageError, match=r"channels is 2: 1 \(grey\) and 3"):
        LoadImage2Dd("image", channels=2)


def test_masks_are_ids(tmp_path):
    ids = (RGB[..., 0] > 100).astype(np.uint8)
    sample = {"image": saved(tmp_path / "i.png", RGB), "label": saved(tmp_path / "m.png", ids * 255)}
    loaded = LoadImage2Dd(["image", "label"], labels={"cell": 1})(sample)["label"]
    assert (loaded.dtype, tuple(loaded.shape)) == (torch.uint8, (1, 6, 4))
    assert_allclose(loaded[0], ids)
    both = LoadImage2Dd(["image", "label"])(sample | {"label": [sample["label"], sample["label"]]})["label"]
    assert_allclose(both, np.stack([ids, ids]))
    with pytest.raises(CaseError, match="holds ids that labels does not name: 255"):
        LoadImage2Dd(["image", "label"], labels={"a": 1, "b": 2})(sample)
    assert "label" not in LoadImage2Dd(["image", "label"], allow_missing_keys=True)({"image": sample["image"]})


def test_a_mask_of_another_size_is_refused(tmp_path):
    sample = {"image": saved(tmp_path / "i.png", RGB), "label": saved(tmp_path / "m.png", RGB[:5, :, 0])}
    with pytest.raises(CaseError, match=r"m.png has 5×4 pixels, .*i.png 6×4: export the mask again"):
        LoadImage2Dd(["image", "label"])(sample)


def test_samples_of_several_kinds_make_a_batch(tmp_path):
    load = LoadImage2Dd("image")
    paths = [saved(tmp_path / "a.png", RGB), saved(tmp_path / "b.png", RGB[..., 0])]
    batch = list_data_collate([load({"image": path}) for path in paths])["image"]
    assert tuple(batch.shape) == (2, 3, 6, 4)
    assert tuple(batch.meta["value_range"].shape) == (2, 2, 3)


# Normalising ---------------------------------------------------------------------------------------------------------


def test_range_and_imagenet():
    image = image_of(np.array([[[0.0, 51.0]]] * 3), high=255.0)
    assert_allclose(NormalizeImaged("x", "range")({"x": image})["x"][0], [[0, 0.2]], atol=1e-6)
    expected = (np.array([[0, 0.2]] * 3) - np.array(IMAGENET_MEAN)[:, None]) / np.array(IMAGENET_STD)[:, None]
    assert_allclose(NormalizeImaged("x", "imagenet")({"x": image})["x"][:, 0], expected, atol=1e-6)
    grey = image_of(np.array([[[0.0, 51.0]]]), high=255.0)
    assert_allclose(
        NormalizeImaged("x", "imagenet")({"x": grey})["x"][0], [[-0.449 / 0.226, (0.2 - 0.449) / 0.226]], rtol=1e-3
    )


def test_range_and_imagenet_may_follow_each_other():
    image = image_of(np.random.default_rng(0).uniform(0, 4095, (3, 5, 5)), high=4095.0)
    once = NormalizeImaged("x", "imagenet")({"x": image})["x"]
    twice = Compose([NormalizeImaged("x", "range"), NormalizeImaged("x", "imagenet")])({"x": image})["x"]
    assert_allclose(once, twice, atol=1e-5)
    assert_allclose(once.meta["value_range"], twice.meta["value_range"], atol=1e-5)


def test_statistics_of_the_image_itself():
    image = image_of(np.random.default_rng(0).normal(900, 30, (3, 8, 8)))
    normalised = NormalizeImaged("x", "image")({"x": image})["x"]
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normalised.std(correction=0)) == pytest.approx(1, abs=1e-4)
    clipped = NormalizeImaged("x", "percentile", percentiles=(10, 90))({"x": image})["x"]
    low, high = np.percentile(image, (10, 90))
    assert_allclose(clipped, np.clip((image.numpy() - low) / (high - low), 0, 1), atol=1e-4)


@pytest.mark.parametrize("mode", ["image", "percentile"])
def test_a_constant_image_becomes_zero(mode):
    assert (NormalizeImaged("x", mode)({"x": image_of(np.full((1, 3, 3), 7.0))})["x"] == 0).all()


def test_unknown_ways_to_normalise_are_refused():
    with pytest.raises(UsageError, match="known are range, imagenet, image and percentile"):
        NormalizeImaged("x", "zscore")
    with pytest.raises(UsageError, match="mean has 2 values, the image 3 channels"):
        NormalizeImaged("x", mean=(0.1, 0.2))({"x": image_of(np.zeros((3, 2, 2)))})


# Resizing ------------------------------------------------------------------------------------------------------------


def test_resizing_keeps_the_aspect_and_fills_with_the_least_value():
    sample = {
        "image": image_of(np.full((1, 10, 20), 5.0), low=-2.0, high=9.0),
        "label": torch.ones(1, 10, 20, dtype=torch.uint8),
        "boxes": np.array([[2, 1, 20, 10]], np.float32),
    }
    done = Resize2Dd(["image", "label"], (40, 40), boxes_key="boxes")(sample)
    assert_allclose(done["image"][0, :20], 5)
    assert_allclose(done["image"][0, 20:], -2)
    assert done["label"].dtype == torch.uint8
    assert int(done["label"].sum()) == 20 * 40
    assert_allclose(done["boxes"], [[4, 2, 40, 20]])
    stretched = Resize2Dd("image", 40, boxes_key="boxes", keep_aspect=False)(sample)
    assert_allclose(stretched["boxes"], [[4, 4, 40, 40]])


@given(st.integers(5, 60), st.integers(5, 60), st.integers(8, 64), st.booleans())
@settings(max_examples=30, deadline=None)
def test_predictions_come_back_to_the_size_of_the_image(rows, columns, size, keep_aspect):
    boxes = np.array([[0, 0, columns, rows], [1, 2, 4, 5]], np.float32)
    sample = {"image": image_of(np.zeros((1, rows, columns))), "boxes": boxes}
    done = Resize2Dd("image", size, boxes_key="boxes", keep_aspect=keep_aspect)(sample)
    meta = done["image"].meta
    back = to_original_boxes(torch.from_numpy(done["boxes"]), meta["original_size"], meta["inner_size"])
    assert_allclose(back, boxes, atol=1e-3)
    inner_rows, inner_columns = (int(n) for n in meta["inner_size"])
    prediction = torch.zeros(1, size, size, dtype=torch.uint8)
    prediction[:, :inner_rows, :inner_columns] = 3
    restored = to_original_size(prediction, meta["original_size"], meta["inner_size"])
    assert tuple(restored.shape) == (1, rows, columns)
    assert (restored == 3).all()


def test_a_mask_is_resized_without_new_values():
    ids = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 7], (1, 30, 30)).astype(np.uint8))
    done = Resize2Dd("label", 17)({"label": ids})["label"]
    assert set(done.unique().tolist()) <= {0, 3, 7}


# Geometry: one map for all -------------------------------------------------------------------------------------------

GEOMETRY = {
    "rotation": {"rotation_degrees": 40.0}, "scale_crop": {"scale_crop": 0.4}, "elastic": {"elastic": 0.015},
    "grid_distortion": {"grid_distortion": 0.3}, "flips": {"flips": (True, True)},
    "all": {"flips": (True, False), "rotation_degrees": 25.0, "scale_crop": 0.3, "elastic": 0.015,
            "grid_distortion": 0.2},
}  # fmt: skip


def blob(rows=96, columns=128, box=(50, 36, 78, 60)) -> np.ndarray:
    pixels = np.zeros((1, rows, columns), np.float32)
    pixels[0, box[1] : box[3], box[0] : box[2]] = 1
    return pixels


def extent(pixels: torch.Tensor) -> np.ndarray:
    rows, columns = np.nonzero(np.asarray(pixels[0]) > 0.5)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("family", GEOMETRY)
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_image_mask_and_boxes_move_alike(family, seed):
    """The box of the moved object is the moved box of the object, to the rounding of pixels."""
    box = (50, 36, 78, 60)
    warp = draw_warp(np.random.RandomState(seed), (96, 128), **GEOMETRY[family])
    image, mask = torch.from_numpy(blob(box=box)), torch.from_numpy(blob(box=box).astype(np.uint8))
    moved_image, moved_mask = warp_image(image, warp), warp_image(mask, warp, nearest=True)
    [moved_box] = warp_boxes(np.array([box], np.float32), warp)
    assume((moved_box >= 1).all() and (moved_box <= (127, 95, 127, 95)).all())  # not cut by the edge
    assert_allclose(extent(moved_mask), moved_box, atol=1.6)
    assert_allclose(extent(moved_image), moved_box, atol=2.1)
    overlap = ((moved_image > 0.5) == (moved_mask > 0)).float().mean()
    assert overlap > 0.99


@pytest.mark.parametrize("family", ["elastic", "all"])
def test_points_go_there_and_back(family):
    warp = draw_warp(np.random.RandomState(5), (96, 128), **GEOMETRY[family])
    rows, columns = np.array([30, 40, 70]), np.array([40, 64, 90])
    sources = warp.sources()[rows, columns].double().numpy()
    assert_allclose(warp.targets(sources), np.stack([columns, rows], axis=1) + 0.5, atol=0.02)


def test_the_strongest_elastic_deformation_folds_nothing():
    worst = 1.0
    for seed in range(40):
        sources = draw_warp(np.random.RandomState(seed), (128, 128), elastic=0.02).sources()
        dx, dy = sources[1:, 1:] - sources[1:, :-1], sources[1:, 1:] - sources[:-1, 1:]
        worst = min(worst, float((dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]).min()))
    assert worst > 0


def test_flips_alone_are_exact():
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32))
    warp = draw_warp(np.random.RandomState(0), (7, 5), flips=(True, False))
    assert torch.equal(warp_image(pixels, warp), pixels.flip(-1))
    assert_allclose(warp_boxes(np.array([[0, 1, 2, 4]], np.float32), warp), [[3, 1, 5, 4]], atol=1e-5)
    assert torch.equal(warp_image(pixels, draw_warp(np.random.RandomState(0), (7, 5))), pixels)


def test_a_quarter_turn_is_right():
    """45 degrees at most are drawn from: take the map itself."""
    warp = draw_warp(np.random.RandomState(0), (8, 8))
    quarter = type(warp)((8, 8), np.array([[0.0, 1, 0], [-1, 0, 8]]))  # result (x, y) is read at (y, 8 - x)
    pixels = torch.arange(64.0).reshape(1, 8, 8)
    assert_allclose(warp_image(pixels, quarter), torch.rot90(pixels, -1, (1, 2)), atol=1e-4)
    assert_allclose(warp_boxes(np.array([[1, 2, 3, 7]], np.float32), quarter), [[1, 1, 6, 3]], atol=1e-5)


def test_a_circle_turned_keeps_its_size_with_the_ellipse():
    warp = type(draw_warp(np.random.RandomState(0), (8, 8)))((100, 100), np.array([[0.6, -0.8, 60], [0.8, 0.6, -20]]))
    box = np.array([[40, 40, 60, 60]], np.float32)
    ellipse, corners = (warp_boxes(box, warp, outline=outline)[0] for outline in ("ellipse", "corners"))
    assert_allclose(ellipse[2:] - ellipse[:2], 20, atol=0.1)
    assert_allclose(corners[2:] - corners[:2], 28, atol=0.1)


# Values --------------------------------------------------------------------------------------------------------------


def test_jitter_leaves_grey_grey():
    grey = torch.rand(1, 9, 9).repeat(3, 1, 1)
    changed = jittered(grey, np.random.RandomState(1), 0.4)
    assert torch.equal(changed[0], changed[2])
    assert not torch.equal(changed, grey)


def test_clahe_is_opencvs():
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 65535, (64, 64)).astype(np.uint16), (0, 0), 4)
    image = torch.from_numpy(pixels.astype(np.float32) / 65535)[None]
    random = np.random.RandomState(3)
    changed = clahe(image, random, 4.0)
    clip = np.random.RandomState(3).uniform(1, 4)
    expected = cv2.createCLAHE(clipLimit=clip, tileGridSize=(8, 8)).apply(pixels)
    assert_allclose(changed[0] * 65535, expected, atol=1)
    assert changed.std() > image.std()
    colours = clahe(torch.rand(3, 32, 32), np.random.RandomState(0), 3.0)
    assert tuple(colours.shape) == (3, 32, 32)
    assert 0 <= float(colours.min()) <= float(colours.max()) <= 1


def test_blur_and_erasing():
    noise = torch.rand(3, 40, 40)
    blur = blurred(noise, np.random.RandomState(0), 3.0)
    assert blur.std() < noise.std()
    assert float(blur.mean()) == pytest.approx(float(noise.mean()), abs=0.01)
    hidden = erased(noise, np.random.RandomState(0), 0.3)
    same = (hidden == noise).all(dim=0)
    assert 0 < float((~same).float().mean()) <= 0.31
    rows, columns = np.nonzero(~same.numpy())
    assert (~same)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()  # one rectangle


# The whole transform -------------------------------------------------------------------------------------------------

EVERYTHING = {
    "flips": (0.5, 0.5), "rotation": 20.0, "scale_crop": 0.3, "elastic": 0.02, "grid_distortion": 0.2,
    "colour_jitter": 0.3, "blur": 1.5, "erasing": 0.1, "clahe": 3.0,
}  # fmt: skip


def sample_of(rows=64, columns=80) -> dict:
    random = np.random.default_rng(1)
    corners = random.uniform(0, 40, (6, 2))
    return {
        "image": image_of(random.uniform(0, 255, (3, rows, columns)), high=255.0),
        "label": torch.from_numpy(random.choice([0, 1, 5], (1, rows, columns)).astype(np.uint8)),
        "boxes": np.hstack([corners, corners + random.uniform(4, 20, (6, 2))]).astype(np.float32),
        "box_labels": np.arange(6),
        "difficult": np.array([False, True] * 3),
    }


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_what_comes_out_is_well_formed(seed):
    augment = RandAugment2Dd("image", "label", "boxes", **EVERYTHING, prob=0.7)
    augment.set_random_state(seed=seed)
    before = sample_of()
    kept = {key: np.asarray(value).copy() for key, value in before.items()}
    done = augment(before)
    assert done["image"].shape == before["image"].shape
    assert 0 <= float(done["image"].min()) <= float(done["image"].max()) <= 255
    assert set(done["label"].unique().tolist()) <= {0, 1, 5}
    boxes = done["boxes"]
    assert len(boxes) == len(done["box_labels"]) == len(done["difficult"])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (80, 64)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert (done["difficult"] == (done["box_labels"] % 2 == 1)).all()  # each with its own box
    for key, value in kept.items():
        assert_allclose(np.asarray(before[key]), value)  # the cache's copy is untouched


def test_order_of_normalising_and_augmenting_does_not_matter():
    """Values are changed between the least and the greatest that the image can have, whatever they are called."""
    augment, normalise = RandAugment2Dd(**EVERYTHING, prob=1.0), NormalizeImaged("image")
    sample = {"image": sample_of()["image"]}
    augment.set_random_state(seed=4)
    first = normalise(augment(sample))["image"]
    augment.set_random_state(seed=4)
    last = augment(normalise(sample))["image"]
    assert float((first - last).abs().mean()) < 0.01  # but for rounding, which CLAHE's 16 bits pass on


def test_the_draw_determines_the_sample():
    def dataset():
        return SeededCacheDataset([sample_of()] * 2, [RandAugment2Dd("image", "label", "boxes", **EVERYTHING)], seed=3)

    again = dataset()
    first = dataset()[0, 7]
    again[1, 2]
    assert torch.equal(first["image"], again[0, 7]["image"])
    assert_allclose(first["boxes"], again[0, 7]["boxes"])
    assert not torch.equal(first["image"], again[0, 8]["image"])


def test_nothing_to_do_changes_nothing():
    before = sample_of()
    done = RandAugment2Dd("image", "label", "boxes", flips=(0.0, 0.0))(before)
    assert_allclose(done["image"], before["image"])
    assert_allclose(done["boxes"], before["boxes"], atol=1e-4)


def test_images_without_boxes_and_tensors_as_boxes():
    augment = RandAugment2Dd("image", None, "boxes", **EVERYTHING, prob=1.0)
    empty = augment({"image": sample_of()["image"], "boxes": torch.zeros(0, 4), "box_labels": torch.zeros(0).long()})
    assert tuple(empty["boxes"].shape) == (0, 4)
    assert empty["box_labels"].dtype == torch.int64


def test_a_box_that_has_mostly_left_is_left_out():
    sample = sample_of() | {"boxes": np.array([[0, 0, 10, 10], [30, 30, 40, 40]], np.float32)}
    sample |= {"box_labels": np.array([1, 2]), "difficult": np.array([False, False])}
    augment = RandAugment2Dd("image", None, "boxes", flips=(0, 0), scale_crop=1.0, prob=1.0, min_visible=0.99)
    seen = []
    for seed in range(30):
        augment.set_random_state(seed=seed)
        seen.append(tuple(augment(sample)["box_labels"].tolist()))
    assert {(1, 2), (2,)} <= set(seen)


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="prob names rotate; known are rotation, scale_crop"):
        RandAugment2Dd(prob={"rotate": 1.0})
    with pytest.raises(UsageError, match="mirrored objects would have no box"):
        RandAugment2Dd(boxes_key="boxes", padding="reflection")
