"""The parts of a cascade: the mask as a channel, as channels, moved, spoilt, and made by a first network."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.bundle import run
from monai.data import Dataset, MetaTensor
from monai.networks.nets import DynUNet
from monai.transforms import ClassesToIndicesd, Compose, Orientationd, ScaleIntensityd, Spacingd
from scipy import ndimage

from medseg3d.augmentation import BatchAugmentation, Brightness, GaussianNoise, Mirror, RemoveComponent, ReshapeMask
from medseg3d.augmentation.masks import dilated, eroded
from medseg3d.errors import CaseError, CheckpointError, ConfigError, UsageError
from medseg3d.inference import FirstStaged, Partner, Segmenter, SlidingWindow, ToImageGridd
from medseg3d.inference.checks import input_channels
from medseg3d.inference.weights import combined_sha256, file_sha256
from medseg3d.losses import SegmentationLoss
from medseg3d.networks import WithPrevious
from medseg3d.spatial import RandSpatialPatchd
from medseg3d.transforms import AddPreviousd, LoadVolumed

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
LABELS = {"shell": 1, "core": 2}
SHAPE = (14, 12, 10)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 0, 2.0, -7], [0, 1.2, 0, 3], [0, 0, 0, 1.0]])


def balls(shape=SHAPE) -> np.ndarray:
    """A core in a shell."""
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    distance = np.sqrt((i - 6) ** 2 + (j - 5) ** 2 + (k - 4) ** 2)
    return ((distance < 4.5).astype(np.uint8) + (distance < 2.5)).astype(np.uint8)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def noise(seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# A channel a label ----------------------------------------------------------------------------------------------------


def test_the_mask_becomes_a_channel_a_label_and_padding_none():
    image = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 2.0, -1.0]]).reshape(1, 2, 4, 1, 1)
    shown = WithPrevious(torch.nn.Identity(), LABELS)(image).squeeze()
    assert shown.tolist() == [[0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_weights_are_those_of_the_network_alone_and_the_image_has_its_own_channels():
    network = torch.nn.Conv3d(3, 2, 1)
    both = WithPrevious(network, LABELS)
    assert set(both.state_dict()) == {f"network.{key}" for key in network.state_dict()}
    assert input_channels(both) == 1
    assert input_channels(network) == 3


def test_it_can_be_traced():
    both = WithPrevious(torch.nn.Conv3d(3, 2, 3, padding=1), LABELS).eval()
    image = torch.cat([torch.randn(1, 1, *SHAPE), torch.from_numpy(balls())[None, None]], dim=1)
    traced = torch.jit.trace(both, torch.zeros(1, 2, 8, 8, 8))
    torch.testing.assert_close(traced(image), both(image))


# The mask beside the image --------------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path):
    write(tmp_path / "images" / "p1.nii.gz", noise())
    write(tmp_path / "masks" / "p1.nii.gz", balls())
    return {"case": "p1", "image": str(tmp_path / "images" / "p1.nii.gz")}


def prepared(case: dict, add: AddPreviousd | None, *, spacing=None) -> dict:
    transforms = [LoadVolumed("image"), Orientationd("image", axcodes="RAS", labels=None)]
    transforms += [Spacingd("image", pixdim=spacing, mode="bilinear")] if spacing else []
    data = Compose(transforms)(dict(case))
    return data if add is None else add(data)


def test_the_mask_is_the_last_channel_and_is_not_normalised(case, tmp_path):
    add = AddPreviousd("image", LABELS, tmp_path / "masks", normalize=ScaleIntensityd("image", minv=5, maxv=6))
    data, alone = prepared(case, add), prepared(case, None)["image"]
    image = data["image"]
    assert image.shape == (2, *alone.shape[1:])
    assert (float(image[0].min()), float(image[0].max())) == (5.0, 6.0)
    back = np.flip(np.asarray(image[1]), 0).transpose(0, 2, 1)  # RAS of these axes: the first turned, two exchanged
    np.testing.assert_array_equal(back, balls())
    assert torch.equal(image.affine, alone.affine)
    np.testing.assert_allclose(image.meta["original_affine"], AFFINE, atol=1e-6)
    assert data["previous_channels"] == 1


# Spacings with which no voxel lies halfway between two others.
@pytest.mark.parametrize("spacing", [(1.07, 1.83, 1.31), (3.1, 2.3, 2.9)])
def test_on_another_grid_it_lies_where_a_label_would(case, tmp_path, spacing):
    image = prepared(case, AddPreviousd("image", LABELS, tmp_path / "masks"), spacing=spacing)["image"]
    load = LoadVolumed("label", labels=LABELS)
    turned = Orientationd("label", axcodes="RAS", labels=None)(load({"label": str(tmp_path / "masks" / "p1.nii.gz")}))
    label = Spacingd("label", pixdim=spacing, mode="nearest")(turned)["label"]
    assert label.unique().tolist() == [0, 1, 2]
    torch.testing.assert_close(image[1:].as_tensor(), label.as_tensor().float())


def test_a_case_may_have_its_own_mask(case, tmp_path):
    loaded = prepared(case, None)
    own = LoadVolumed("label")({"label": write(tmp_path / "own.nii.gz", np.full(SHAPE, 2, np.uint8))})["label"]
    image = AddPreviousd("image", LABELS)({**loaded, "previous": own})["image"]
    assert image[1].unique().tolist() == [2]


def test_a_missing_mask_is_named_with_its_case(case, tmp_path):
    with pytest.raises(CaseError, match=r"p2: there is no mask of the first stage, .*masks/p2\.nii\.gz\. Segment"):
        prepared(case | {"case": "p2"}, AddPreviousd("image", LABELS, tmp_path / "masks"))
    with pytest.raises(ConfigError, match="pass --previous_dir"):
        prepared(case, AddPreviousd("image", LABELS))


@pytest.mark.parametrize(
    ("voxels", "shift", "message"),
    [
        (balls()[:-1], 0, r"p1: .*p1\.nii\.gz has 13×12×10 voxels, its image 14×12×10"),
        (balls(), 2, r"p1: .*p1\.nii\.gz lies up to 2\.00 mm away from its image\. Masks of the first stage lie on"),
        (balls() * 3, 0, r"p1\.nii\.gz: holds ids \[3, 6\], which labels does not name"),
    ],
    ids=["shape", "place", "ids"],
)
def test_a_mask_of_another_grid_or_other_labels_is_refused(case, tmp_path, voxels, shift, message):
    moved = AFFINE + shift * np.eye(4)[:, :1] @ np.eye(4)[3:]
    write(tmp_path / "masks" / "p1.nii.gz", voxels, moved)
    with pytest.raises(CaseError, match=message):
        prepared(case, AddPreviousd("image", LABELS, tmp_path / "masks"))


# Patches --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([(8, 8, 8), (20, 9, 16), (10, 12, 1)]), st.sampled_from([0.0, 0.6]))
def test_the_mask_moves_with_the_label_and_the_image_as_without_it(seed, size, angle):
    options = {"rotate_range": (angle,) * 3, "scale_range": 0.3, "affine_prob": float(angle > 0), "padding_value": -1.0}
    label = torch.from_numpy(balls())[None]
    image = torch.from_numpy(noise(1))[None]
    data = ClassesToIndicesd("label", num_classes=3)({"image": image, "label": label})
    seen = {**data, "image": torch.cat([image, label.float()]), "previous_channels": 1}
    patch = RandSpatialPatchd(["image", "label"], size, flip_axes=(0, 1, 2), **options)
    alone, both = (patch.set_random_state(seed=seed)(dict(sample)) for sample in (data, seen))
    assert torch.equal(both["image"][1:], both["label"].float())
    assert torch.equal(both["image"][:1], alone["image"])
    assert torch.equal(both["label"], alone["label"])
    assert "previous_channels" not in both


# Faults of the mask ---------------------------------------------------------------------------------------------------


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.from_numpy(np.stack([balls(), np.roll(balls(), 2, 0)]))[:, None]
    return torch.cat([torch.from_numpy(noise(2, (2, 1, *SHAPE))), masks.float()], dim=1), masks.clone()


def test_what_changes_intensities_leaves_the_mask_alone():
    image, label = batch()
    augment = BatchAugmentation([Brightness(prob=1), GaussianNoise(prob=1, std=(1, 1))], image_channels=1)
    changed, same = augment(image, label, [3, 4])
    assert torch.equal(changed[:, 1:], image[:, 1:])
    assert (changed[:, 0] != image[:, 0]).float().mean() > 0.99
    alone, _ = BatchAugmentation(augment.transforms)(image[:, :1], label, [3, 4])
    assert torch.equal(changed[:, :1], alone)
    assert torch.equal(same, label)


def test_what_moves_the_label_moves_the_mask():
    image, label = batch()
    changed, moved = BatchAugmentation([Mirror(axes=(0, 2), prob=1.0)], image_channels=1)(image, label, [1, 2])
    assert torch.equal(moved, label.flip([2, 4]))
    assert torch.equal(changed, image.flip([2, 4]))


def ball(radius: float) -> np.ndarray:
    steps = np.arange(-int(radius), int(radius) + 1)
    i, j, k = np.meshgrid(steps, steps, steps, indexing="ij")
    return i**2 + j**2 + k**2 <= radius**2


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 1.5, 2.3, 3.0, 8.0]), st.sampled_from([0.002, 0.05, 0.7, 1.0]))
@example(0, 8.0, 0.0)
def test_dilation_and_erosion_by_a_ball_are_scipys(seed, radius, share):
    mask = np.random.default_rng(seed).random(SHAPE) < share
    tensor = torch.from_numpy(mask)
    np.testing.assert_array_equal(dilated(tensor, radius), ndimage.binary_dilation(mask, ball(radius)))
    # Beyond the patch nothing is known: it takes nothing away.
    np.testing.assert_array_equal(eroded(tensor, radius), ndimage.binary_erosion(mask, ball(radius), border_value=1))


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_a_reshaped_label_takes_and_leaves_and_others_stay_among_themselves(seed):
    before, random = torch.from_numpy(balls()), np.random.default_rng(seed)
    after = before.clone()
    ReshapeMask(prob=1).change(after, 2, random)
    changed = after != before
    assert set(after[changed].tolist()) <= {0, 2}
    assert (before[changed & (after == 0)] == 2).all()  # only its own voxels become background


def test_every_operation_is_drawn_and_does_what_it_is_called():
    core = torch.from_numpy(balls()) == 2
    found = set()
    for seed in range(40):
        mask = core.to(torch.uint8)
        ReshapeMask(prob=1, radius=(1, 1)).change(mask, 1, np.random.default_rng(seed))
        found.add(int(mask.sum()))
    opened, closed = dilated(eroded(core, 1), 1), eroded(dilated(core, 1), 1)
    assert found == {int(m.sum()) for m in (dilated(core, 1), eroded(core, 1), opened, closed)}


def test_a_small_component_goes_and_a_large_one_stays():
    mask = torch.zeros(10, 10, 10, dtype=torch.uint8)
    mask[:4, :, :] = 1  # 400 of 1000 voxels
    mask[6:8, :2, :2] = 1  # 8
    mask[9, 9, 9] = 1  # 1
    mask[9, 5, 5] = 2
    remove, sizes = RemoveComponent(prob=1, max_share=0.15), set()
    for seed in range(20):
        left = mask.clone()
        remove.change(left, 1, np.random.default_rng(seed))
        sizes.add(int((mask == 1).sum() - (left == 1).sum()))
        assert (left[:4] == 1).all()
        assert left[9, 5, 5] == 2
    assert sizes == {1, 8}
    alone = mask[:4].clone()
    remove.change(alone, 1, np.random.default_rng(0))
    assert alone.all()


def test_faults_are_the_masks_alone_and_follow_the_seed():
    image, label = batch()
    faults = [ReshapeMask(prob=1, label_prob=0.5), RemoveComponent(prob=1, label_prob=0.5)]
    augment = BatchAugmentation(faults, image_channels=1)
    first, same = augment(image, label, [5, 6])
    again, _ = augment(image.flip(0), label.flip(0), [6, 5])
    assert torch.equal(same, label)
    assert torch.equal(first[:, :1], image[:, :1])
    assert (first[:, 1:] != image[:, 1:]).flatten(1).any(dim=1).all()
    assert torch.equal(again.flip(0), first)


def test_without_a_mask_nothing_is_drawn():
    image, label = batch()
    random = np.random.default_rng(0)
    for transform in (ReshapeMask(prob=1), RemoveComponent(prob=1)):
        transform(image[0], label[0], random)
    assert random.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(("value", "message"), [({"prob": 1.1}, "prob is 1.1"), ({"radius": (3, 1)}, r"radius is \[3")])
def test_impossible_faults_are_refused(value, message):
    with pytest.raises(UsageError, match=f"ReshapeMask: {message}"):
        ReshapeMask(**({"prob": 0.5} | value))


# Learning and answering -----------------------------------------------------------------------------------------------


def test_a_network_learns_from_the_mask_what_the_image_does_not_show():
    """The image is noise; the mask is the truth. What is learnt on some masks holds for another one."""
    torch.manual_seed(0)
    inner = DynUNet(3, 3, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 8, 8], norm_name="instance")
    network, random = WithPrevious(inner, LABELS), np.random.default_rng(0)
    optimizer, loss_function = torch.optim.Adam(network.parameters(), lr=0.02), SegmentationLoss()

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        coarse = random.integers(0, 3, (2, 1, 4, 4, 4))
        truth = torch.from_numpy(coarse.repeat(4, 2).repeat(4, 3).repeat(4, 4))
        return torch.cat([torch.randn(2, 1, 16, 16, 16), truth.float()], dim=1), truth

    for _ in range(40):
        image, truth = drawn()
        optimizer.zero_grad()
        loss_function(network(image), truth).backward()
        optimizer.step()
    image, truth = drawn()
    with torch.no_grad():
        seen, blind = (network.eval()(x).argmax(dim=1, keepdim=True) for x in (image, image * torch.tensor([1.0, 0])
                       .reshape(1, 2, 1, 1, 1)))  # fmt: skip
    assert (seen == truth).float().mean() > 0.95
    assert (blind == truth).float().mean() < 0.6


class ReadsValues(torch.nn.Module):
    """The label of a voxel is the value of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 3, 1)  # the last of (x - c)² that is linear: 2cx - c²
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0, 0] = 60.0 * torch.arange(3)
            self.conv.bias[:] = -30.0 * torch.arange(3) ** 2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


class SeesMask(torch.nn.Module):
    """The label of a voxel is that of the mask, with the two labels exchanged; the image is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 3, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[1, 2], self.conv.weight[2, 1] = 40.0, 40.0
            self.conv.bias[:] = torch.tensor([20.0, 0, 0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


def cascade(**stage) -> Compose:
    """Preprocessing whose first stage reads the image's values, on a grid of its own."""
    loading = [LoadVolumed("image"), Orientationd("image", axcodes="RAS", labels=None)]
    coarse = Compose([*loading, Spacingd("image", pixdim=(1.5, 1.0, 1.2), mode="nearest")])
    first = Partner(coarse, ReadsValues(), SlidingWindow((16, 16, 16)), **stage)
    return Compose([FirstStaged("image", first), *loading, AddPreviousd("image", LABELS)])


def test_both_stages_in_one_call(tmp_path):
    source = write(tmp_path / "p1.nii.gz", balls().astype(np.int16))
    write(tmp_path / "two.nii.gz", np.stack([balls(), balls()], axis=-1).astype(np.int16))
    cases = [{"case": "p1", "image": str(source)}, {"case": "two", "image": str(tmp_path / "two.nii.gz")}]
    segmenter = Segmenter(
        dataset=Dataset(cases, cascade()),
        network=WithPrevious(SeesMask(), LABELS),
        inferer=SlidingWindow((16, 16, 16), cval=-1.0),
        postprocessing=ToImageGridd("pred"),
        labels=LABELS,
        output_dir=tmp_path / "out",
    )
    done, refused = segmenter.segment().cases
    assert done.status == "done"
    mask = np.asanyarray(nibabel.load(tmp_path / "out" / "p1.nii.gz").dataobj)
    exchanged = np.array([0, 2, 1])[balls()]
    # The first stage's grid has the image's spacing along two axes, and half of it along the third.
    np.testing.assert_array_equal(mask, exchanged)
    assert (refused.status, refused.error) == ("failed", "The image has 2 channel(s), the network takes 1.")
    with pytest.raises(CaseError, match=r"The image has 2 channel\(s\), the first stage's network takes 1\."):
        cascade().transforms[0]({"image": cases[1]["image"]})


def test_weights_of_the_first_stage_are_loaded_and_must_fit(tmp_path):
    torch.save(torch.nn.Conv3d(1, 3, 1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: these weights are of another network"):
        cascade(weights=tmp_path / "other.pt")


def test_a_mask_is_not_kept_once_the_first_stage_has_other_weights(tmp_path):
    source = write(tmp_path / "p1.nii.gz", balls().astype(np.int16))
    files = [tmp_path / name for name in ("second.pt", "first.pt", "other.pt")]
    for file, network in zip(files, (WithPrevious(SeesMask(), LABELS), ReadsValues(), ReadsValues()), strict=True):
        torch.save(network.state_dict() | ({"conv.bias": torch.zeros(3)} if file == files[2] else {}), file)

    def segmented(first: Path) -> tuple[str, dict]:
        segmenter = Segmenter(
            dataset=Dataset([{"case": "p1", "image": str(source)}], cascade(weights=first)),
            network=WithPrevious(SeesMask(), LABELS),
            inferer=SlidingWindow((16, 16, 16)),
            postprocessing=ToImageGridd("pred"),
            labels=LABELS,
            output_dir=tmp_path / "out",
            weights=files[0],
            overwrite=False,
        )
        (case,) = segmenter.segment().cases
        return case.status, json.loads((tmp_path / "out" / "p1.json").read_text())

    second, first, other = (file_sha256(file) for file in files)
    status, sidecar = segmented(files[1])
    assert (status, sidecar["first_stage_sha256"]) == ("done", [first])
    assert sidecar["weights_sha256"] == combined_sha256([second, first])
    assert "members_sha256" not in sidecar  # of the networks that are averaged
    assert segmented(files[1])[0] == "kept"
    status, sidecar = segmented(files[2])
    assert (status, sidecar["first_stage_sha256"]) == ("done", [other])


def test_the_mean_of_several_first_networks(tmp_path):
    source = write(tmp_path / "p1.nii.gz", balls().astype(np.int16))
    zero = {key: torch.zeros_like(value) for key, value in ReadsValues().state_dict().items()}
    for name, state in (("a", ReadsValues().state_dict()), ("b", zero)):  # the second says nothing: a third each
        torch.save(state, tmp_path / f"{name}.pt")
    staged = cascade(weights=[tmp_path / "a.pt", tmp_path / "b.pt"]).transforms[0]
    previous = staged({"case": "p1", "image": str(source)})["previous"]
    assert isinstance(previous, MetaTensor)
    np.testing.assert_array_equal(previous[0], balls())
    np.testing.assert_allclose(previous.affine, AFFINE, atol=1e-6)


# Bundles --------------------------------------------------------------------------------------------------------------


def test_the_overlay_trains_evaluates_and_segments(phantom_datalist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, content = BUNDLES / "ct_organ_segmentation", json.loads(phantom_datalist.read_text())
    (tmp_path / "masks").mkdir()
    for item in content["training"] + content["testing"]:
        (tmp_path / "masks" / f"{item['case']}.nii.gz").symlink_to(phantom_datalist.parent / item["label"])
    shared = {
        "bundle_root": str(bundle), "labels": content["labels"], "spacing": [8.0] * 3, "patch_size": [32] * 3,
        "previous_dir": str(tmp_path / "masks"), "device": "cpu", "network_def::network::filters": [4] * 5,
    }  # fmt: skip
    training = shared | {
        "datalist": str(phantom_datalist), "output_dir": str(tmp_path / "run"), "batch_size": 2, "max_epochs": 1,
        "iterations_per_epoch": 2,
    }  # fmt: skip
    files = {name: str(bundle / "configs" / f"{name}.yaml") for name in ("train", "cascade", "evaluate", "inference")}
    over_train = [files["train"], files["cascade"]]
    run(run_id="training", config_file=over_train, logging_file=False, **training)
    run(run_id="evaluating", config_file=[*over_train, files["evaluate"]], logging_file=False, **training)
    assert json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())["cases"] == 1
    inference = shared | {
        "dataset_dir": str(phantom_datalist), "weights": str(tmp_path / "run" / "best.pt"),
        "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    run(config_file=[files["inference"], files["cascade"]], logging_file=False, **inference)
    (test,) = content["testing"]
    assert (tmp_path / "out" / f"{test['case']}.nii.gz").is_file()

    (tmp_path / "masks" / f"{test['case']}.nii.gz").unlink()
    with pytest.raises(RuntimeError) as caught:
        run(config_file=[files["inference"], files["cascade"]], logging_file=False, **inference)
    assert f"{test['case']}: there is no mask of the first stage" in str(caught.value.__cause__)
