"""What 2D segmentation is made of: images found, patches, layers, pictures, scores; the segmenter without a bundle."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose
from PIL import Image

from medseg3d.engines import MaskDice
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.evaluation import evaluate_masks2d
from medseg3d.inference import Segmenter2d, SlidingWindow, find_images
from medseg3d.masks2d import mask_layers, read_layers
from medseg3d.report.pictures_of_masks import mask_panel
from medseg3d.transforms2d import LoadImage2Dd, RandPatch2Dd, Resize2Dd


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Images to segment ---------------------------------------------------------------------------------------------------


def test_every_page_and_slice_is_an_image(tmp_path: Path):
    pages = [Image.fromarray(np.full((4, 5), n, np.uint8)) for n in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), tmp_path / "volume.nii.gz")
    save(tmp_path / "one.PNG", np.zeros((4, 5), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    found = find_images(tmp_path)
    assert [case["case"] for case in found] == [
        "one", "stack_p0000", "stack_p0001", "stack_p0002", "volume_p0000", "volume_p0001"
    ]  # fmt: skip
    assert found[2]["image"].endswith("stack.tif#page=1")


def test_what_is_no_image_is_refused(tmp_path: Path, mri_datalist: Path):
    with pytest.raises(CaseError, match=r"no image .*in this folder; subfolders are not searched"):
        find_images(tmp_path)
    with pytest.raises(CaseError, match="no such file or folder"):
        find_images(tmp_path / "none")
    with pytest.raises(UsageError, match="a data list of volumes"):
        find_images(mri_datalist)
    save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    save(tmp_path / "a.jpg", np.zeros((4, 5), np.uint8))
    with pytest.raises(CaseError, match="would both be case 'a'"):
        find_images(tmp_path)


# Patches -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 1000),
)
def test_image_and_mask_are_cut_alike(rows, columns, size, seed):
    # Each pixel has its own number, from 1, so that the mask can be compared with the image.
    numbers = torch.arange(1, rows * columns + 1).reshape(1, rows, columns)
    meta = {"value_range": torch.tensor([[0.0], [1000.0]])}
    transform = RandPatch2Dd(size=size, foreground_prob=0.5)
    transform.set_random_state(seed)
    cut = transform({"image": MetaTensor(numbers.float(), meta=meta), "label": numbers})
    assert cut["image"].shape == cut["label"].shape == (1, *size)
    assert torch.equal(torch.as_tensor(cut["image"]).as_subclass(torch.Tensor), cut["label"].float())
    assert (cut["label"] > 0).sum() == min(rows, size[0]) * min(columns, size[1])


def test_patches_lie_around_every_label_alike():
    mask = torch.zeros(1, 200, 200, dtype=torch.uint8)
    mask[0, :150] = 1
    mask[0, 190, 190] = 2  # one pixel
    transform = RandPatch2Dd(size=(16, 16), foreground_prob=1.0)
    transform.set_random_state(0)
    seen = [2 in transform({"image": MetaTensor(mask.float()), "label": mask})["label"] for _ in range(300)]
    assert 0.4 < np.mean(seen) < 0.6


def test_an_ignored_id_is_no_foreground_and_fills_up():
    mask = torch.full((1, 100, 100), 255, dtype=torch.uint8)
    mask[0, 50, 50] = 1
    transform = RandPatch2Dd(size=(4, 120), foreground_prob=1.0, ignore_index=255, mask_fill=255)
    for seed in range(20):
        transform.set_random_state(seed)
        patch = transform({"image": MetaTensor(torch.zeros(1, 100, 100)), "label": mask})["label"]
        assert (patch == 1).sum() == 1
        assert (patch[..., 100:] == 255).all()


def test_overlapping_masks_are_cut_around_any_of_them():
    masks = torch.zeros(2, 60, 60, dtype=torch.uint8)
    masks[1, 30, 30] = 1
    transform = RandPatch2Dd(size=(8, 8), foreground_prob=1.0)
    for seed in range(10):
        transform.set_random_state(seed)
        assert transform({"image": MetaTensor(torch.zeros(1, 60, 60)), "label": masks})["label"][1].sum() == 1


@pytest.mark.parametrize(
    ("options", "message"), [({"size": (0, 4)}, "A patch of"), ({"size": (4, 4), "foreground_prob": 2}, "probability")]
)
def test_patches_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        RandPatch2Dd(**options)


# Layers and pictures -------------------------------------------------------------------------------------------------


def test_layers_of_a_label_map_and_of_files(tmp_path: Path):
    ids = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    path = save(tmp_path / "mask.png", ids)
    layers = read_layers(path, {"b": 2, "a": 1})
    assert np.array_equal(layers, np.stack([ids == 1, ids == 2]))
    paths = [save(tmp_path / f"{i}.png", np.where(ids == i, np.uint8(255), np.uint8(0))) for i in (1, 2)]
    assert np.array_equal(read_layers(paths, {"a": 1, "b": 2}), layers)
    with pytest.raises(CaseError, match="2 masks of 2×3 pixels for 3 labels"):
        read_layers(paths, {"a": 1, "b": 2, "c": 3})
    assert np.array_equal(mask_layers(np.array([[[0, 1]]]), {"only": 7}, multi_label=True), [[[False, True]]])


def test_a_picture_shows_outlines_over_the_image():
    image = np.zeros((1, 300, 300))
    mask = np.zeros((1, 300, 300), bool)
    mask[0, 100:200, 100:200] = True
    panel = mask_panel(image, [mask, ~mask])
    assert panel.shape == (300, 3 * 300 + 12, 3)
    outline, inside, outside = panel[100, 306 + 100], panel[150, 306 + 150], panel[50, 306 + 50]
    assert outline.tolist() == [0xE6, 0x9F, 0x00]
    assert 0 < inside[0] < outline[0]
    assert not outside.any()
    assert mask_panel(np.zeros((3, 2000, 1000)), [None]).shape == (500, 250, 3)


# Scores --------------------------------------------------------------------------------------------------------------


def scored(tmp_path: Path, truth: np.ndarray, found: np.ndarray, **options):
    item = {"case": "a", "patient": "p", "image": str(save(tmp_path / "image.png", np.zeros(truth.shape, np.uint8)))}
    item["label"] = str(save(tmp_path / "truth.png", truth))
    save(tmp_path / "out" / "a.png", found)
    summary = evaluate_masks2d([item], tmp_path / "out", **options)
    return {row["label"]: row for row in csv.DictReader((tmp_path / "out" / "cases.csv").open())}, summary


def test_scores_of_squares_are_those_worked_by_hand(tmp_path: Path):
    truth, found = np.zeros((2, 30, 40), np.uint8)
    truth[5:15, 5:15] = 1
    found[5:15, 7:17] = 1  # two columns further: 80 of 100 pixels in both
    found[20:25, 20:25] = 2
    rows, summary = scored(tmp_path, truth, found, labels={"square": 1, "other": 2})
    assert float(rows["square"]["dice"]) == pytest.approx(0.8)
    assert float(rows["square"]["iou"]) == pytest.approx(80 / 120)
    assert float(rows["square"]["hd95_mm"]) == pytest.approx(2.0)
    assert float(rows["square"]["volume_ml"]) == pytest.approx(0.1)
    assert rows["other"]["status"] == "spurious"
    assert summary.content["dataset"]["miou"] == pytest.approx((80 / 120 + 0) / 2)
    assert [problem.code for problem in summary.problems] == ["no-spacing"]
    assert summary.ok


def test_ignored_pixels_are_not_scored(tmp_path: Path):
    truth = np.zeros((30, 40), np.uint8)
    truth[5:15, 5:15], truth[15:] = 1, 255
    found = truth * (truth == 1)
    found[20:30] = 1
    rows, _ = scored(tmp_path, truth, found, labels={"square": 1, "other": 2}, ignore_index=255)
    assert float(rows["square"]["dice"]) == 1.0


def test_of_one_label_255_is_ignored_where_it_is_told_to_be(tmp_path: Path):
    truth = np.zeros((30, 40), np.uint8)
    truth[:10] = 255  # and the label nowhere
    rows, _ = scored(tmp_path, truth, truth * 0, labels={"square": 1}, ignore_index=255)
    assert rows["square"]["status"] == "both_empty"


def test_masks_that_overlap_have_a_mean_of_their_own(tmp_path: Path):
    """Of 2×2 pixels: label a is found as it is, of label b half is."""
    a, b, half = np.zeros((3, 6, 8), np.uint8)
    a[1:3, 1:3] = b[2:4, 2:4] = half[2:4, 2] = 255
    item = {"case": "x", "patient": "p", "image": str(save(tmp_path / "x.png", np.zeros((6, 8), np.uint8)))}
    item["label"] = [str(save(tmp_path / f"t_{name}.png", mask)) for name, mask in (("a", a), ("b", b))]
    for name, mask in (("a", a), ("b", half)):
        save(tmp_path / "out" / f"x_{name}.png", mask)
    summary = evaluate_masks2d([item], tmp_path / "out", labels={"a": 1, "b": 2}, multi_label=True)
    assert summary.dice == pytest.approx({"a": 1.0, "b": 2 / 3})
    assert summary.mean_dice == pytest.approx(5 / 6)
    assert summary.content["headline"]["value"] == pytest.approx(5 / 6)
    assert summary.content["dataset"]["miou"] == pytest.approx(0.75)
    assert summary.content["dataset"]["confusion"]["labels"][1:] == ["a alone", "b alone", "a + b"]


def test_labels_that_overlap_may_be_given_as_a_label_map_with_ignored_pixels(tmp_path: Path):
    truth = np.zeros((6, 8), np.uint8)
    truth[1:3, 1:3], truth[4:] = 1, 255
    item = {
        "case": "x",
        "image": str(save(tmp_path / "x.png", truth * 0)),
        "label": str(save(tmp_path / "t.png", truth)),
    }
    save(tmp_path / "out" / "x_a.png", np.where(truth > 0, np.uint8(255), np.uint8(0)))
    save(tmp_path / "out" / "x_b.png", truth * 0)
    options: Any = {"labels": {"a": 1, "b": 2}, "multi_label": True, "ignore_index": 255}
    summary = evaluate_masks2d([item], tmp_path / "out", **options)
    assert summary.dice["a"] == 1.0
    save(tmp_path / "out" / "x_a.png", truth[:4])
    with pytest.raises(CaseError, match="the others: 2 masks of"):
        evaluate_masks2d([item], tmp_path / "out", **options)


@pytest.mark.parametrize(("spacing", "unit", "area", "distance"), [(None, "px", 100, "px"), (0.5, "mm²", 25, "mm")])
def test_the_report_shows_areas(tmp_path: Path, spacing: float | None, unit: str, area: float, distance: str):
    truth, found = np.zeros((2, 30, 40), np.uint8)
    truth[5:15, 5:15], found[5:15, 7:17] = 1, 1
    image = save(tmp_path / "image.png", truth)
    if spacing is not None:
        image = tmp_path / "image.nii"
        nibabel.save(nibabel.Nifti1Image(truth.T[..., None], np.diag([spacing, spacing, 1, 1])), image)
    item = {"case": "x", "image": str(image), "label": str(save(tmp_path / "t.png", truth))}
    save(tmp_path / "out" / "x.png", found)
    summary = evaluate_masks2d([item], tmp_path / "out", labels={"square": 1})
    assert float(pd.read_csv(tmp_path / "out" / "cases.csv")["reference_ml"][0]) == pytest.approx(area / 1000)
    page = summary.report.read_text(encoding="utf-8")
    assert f"Area ({unit})" in page
    assert f"HD95 ({distance})" in page
    assert f"of {area:.1f}" in page  # beside a picture: the area of the prediction, of that of the reference
    assert "difference of the areas" in page
    assert not re.search(r"Volume \(|Volumes<|Voxels|volumes against", page)


def test_images_that_cannot_be_scored_are_named_and_the_others_are_done(tmp_path: Path):
    mask = np.ones((6, 8), np.uint8)
    items = []
    for case in ("good", "absent", "small"):
        image = save(tmp_path / f"{case}.png", np.zeros((6, 8), np.uint8))
        label = save(tmp_path / f"{case}_mask.png", mask)
        items.append({"case": case, "patient": case, "image": str(image), "label": str(label)})
    save(tmp_path / "out" / "good.png", mask)
    save(tmp_path / "out" / "small.png", mask[:3])
    with pytest.raises(CaseError) as caught:
        evaluate_masks2d(items, tmp_path / "out", labels={"a": 1})
    assert "2 of 3 images could not be scored" in str(caught.value)
    assert "absent.png: no such file" in str(caught.value)
    assert "small.png has 3×8 pixels, the reference 6×8" in str(caught.value)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases"] == 1


def test_many_overlapping_labels_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="11 labels that may overlap; at most 10"):
        evaluate_masks2d([{"case": "a"}], tmp_path, labels={str(i): i for i in range(1, 12)}, multi_label=True)
    with pytest.raises(UsageError, match="no image to evaluate"):
        evaluate_masks2d([], tmp_path, labels={"a": 1})


def test_validation_accumulates_counts_and_leaves_out_ignored_pixels():
    metric = MaskDice({"b": 2, "a": 1}, ignore_index=255)
    for truth, found in (([1, 1, 0, 0], [1, 0, 0, 0]), ([1, 1, 1, 255], [1, 1, 1, 2]), ([2, 0, 0, 0], [0, 0, 0, 0])):
        metric.update([{"label": torch.tensor([[truth]]), "pred": torch.tensor([[found]])}])
    # a: 4 pixels in both, 5 in either; b: none of one. Dice a: 2/3 and 1, absent in the third image.
    assert metric.miou() == pytest.approx((4 / 5 + 0) / 2)
    assert metric.label_means() == {"b": 0.0, "a": pytest.approx((2 / 3 + 1) / 2)}


# The segmenter -------------------------------------------------------------------------------------------------------


class Brighter(torch.nn.Module):
    """Logits of bright pixels (more than 100) against the others."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([100 - image[:, :1], image[:, :1] - 100], dim=1)


def segmenter(folder: Path, images: list[dict], *transforms, **options) -> Segmenter2d:
    loading = Compose([LoadImage2Dd(keys="image", channels=1), *transforms])
    settings_ = {"labels": {"bright": 1}, "postprocessing": Compose([]), "amp": False} | options
    return Segmenter2d(
        dataset=Dataset(images, loading),
        network=Brighter(),
        inferer=SlidingWindow(roi_size=(16, 16)),
        output_dir=folder,
        **settings_,
    )


@pytest.fixture
def blocks(tmp_path: Path) -> list[dict]:
    """An image of 40×64 pixels with two bright blocks."""
    pixels = np.full((40, 64), 20, np.uint8)
    pixels[8:24, 8:24] = pixels[8:24, 40:56] = 200
    return find_images(save(tmp_path / "in" / "blocks.png", pixels))


@pytest.mark.parametrize("size", [None, (40, 40), (80, 128), (100, 60)])
def test_masks_have_the_size_of_the_image_whatever_the_network_saw(size, blocks, tmp_path: Path):
    resized = [] if size is None else [Resize2Dd(keys="image", size=size)]
    segmenter(tmp_path / "out", blocks, *resized).run()
    mask = np.asarray(Image.open(tmp_path / "out" / "blocks.png"))
    assert mask.shape == (40, 64)
    truth = np.asarray(Image.open(blocks[0]["image"])) > 100
    overlap = 2 * ((mask == 1) & truth).sum() / ((mask == 1).sum() + truth.sum())
    assert overlap == 1 if size is None else overlap > 0.93


def test_two_runs_leave_one_result_and_keep_leaves_it_alone(blocks, tmp_path: Path):
    out = tmp_path / "out"
    segmenter(out, blocks, instances=["bright"], save_probability=True).run()
    table = (out / "instances.csv").read_text()
    assert table.count("bright") == 2
    before = (out / "blocks.png").stat().st_mtime_ns
    report = segmenter(out, blocks, instances=["bright"], overwrite=False).run()
    assert (report.cases[0].status, (out / "blocks.png").stat().st_mtime_ns) == ("kept", before)
    assert (out / "instances.csv").read_text() == table
    segmenter(out, blocks, pictures=False).run()
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "blocks.json",
        "blocks.png",
        "instances.csv",
    ]
    assert not list((out / "pictures").iterdir())


def test_masks_never_replace_their_image(blocks, tmp_path: Path):
    image = Path(blocks[0]["image"])
    content = image.read_bytes()
    with pytest.raises(CaseError, match="would overwrite its image"):
        segmenter(image.parent, blocks).run()
    assert image.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": ["dark"]}, "instances names dark; the labels are bright"),
        ({"instances": ["bright"], "multi_label": True}, "cannot be told apart"),
        ({"formats": ["nifti"]}, "written as png, not as nifti"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        segmenter(tmp_path, [], **options)


def test_a_network_of_other_channels_is_refused(blocks, tmp_path: Path):
    with pytest.raises(ConfigError, match="gives 2 channels; labels up to 2 and the background make 3"):
        segmenter(tmp_path / "out", blocks, labels={"a": 1, "b": 2}).run()
