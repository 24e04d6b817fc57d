"""Augmentation of batches: MONAI, TorchIO and SciPy as oracles, and what must hold for any draw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchio
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.networks.nets import UNet
from monai.transforms import (
    AdjustContrast,
    EnsureTyped,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
    ScaleIntensity,
)
from scipy import ndimage
from torch.testing import assert_close

from medseg3d.augmentation import (
    BatchAugmentation,
    BiasField,
    Brightness,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    Ghosting,
    LowResolution,
    Mirror,
    Motion,
    RemoveComponent,
    ReshapeMask,
    Spike,
)
from medseg3d.augmentation.artefacts import bias_field, ghosted, moved, repositioned, spiked
from medseg3d.augmentation.base import about_one
from medseg3d.augmentation.intensity import gamma_corrected, noise_like, stretched
from medseg3d.augmentation.sharpness import blurred, coarsened
from medseg3d.data import SeededCacheDataset, training_loader
from medseg3d.engines import trainer
from medseg3d.engines.checkpoint import load_checkpoint
from medseg3d.engines.step import training_step
from medseg3d.errors import UsageError
from medseg3d.spatial import rotation_matrix

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
SHAPE = (14, 12, 10)

ALWAYS = [
    GaussianNoise(prob=1),
    GaussianBlur(prob=1),
    Brightness(prob=1),
    Contrast(prob=1),
    LowResolution(prob=1, zoom=(0.4, 0.6)),
    Gamma(prob=1),
    Gamma(prob=1, invert=True),
    BiasField(prob=1),
    Ghosting(prob=1),
    Motion(prob=1),
    Spike(prob=1),
]
each_transform = pytest.mark.parametrize("transform", ALWAYS, ids=lambda t: type(t).__name__)


def nnunet(prob: float = 1.0) -> BatchAugmentation:
    transforms = [
        GaussianNoise(prob=0.1 * prob),
        GaussianBlur(prob=0.2 * prob, channel_prob=0.5),
        Brightness(prob=0.15 * prob),
        Contrast(prob=0.15 * prob),
        LowResolution(prob=0.25 * prob, channel_prob=0.5),
        Gamma(prob=0.1 * prob, invert=True),
        Gamma(prob=0.3 * prob),
        Motion(prob=0.1 * prob),
        Mirror(axes=(0, 1, 2), prob=0.5 * prob),
    ]
    return BatchAugmentation(transforms)


def scan(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(1, 2, shape).astype(np.float32))


def batch(size: int = 4, channels: int = 2, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    labels = np.random.default_rng(1).integers(0, 4, (size, 1, *shape)).astype(np.uint8)
    return scan(2, (size, channels, *shape)), torch.from_numpy(labels)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Other libraries answer the same --------------------------------------------------------------------------------------


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("retain_stats", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_is_monais(gamma, retain_stats, invert):
    expected = AdjustContrast(gamma, invert_image=invert, retain_stats=retain_stats)(scan())
    result = gamma_corrected(scan(), gamma, invert=invert, retain_stats=retain_stats)
    assert_close(result, torch.as_tensor(expected), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("preserve_range", [False, True])
@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_is_monais_scaling_about_the_mean(factor, preserve_range):
    scale = RandScaleIntensityFixedMean(prob=1.0, factors=(factor - 1, factor - 1), preserve_range=preserve_range)
    expected = torch.as_tensor(scale(scan()[None]))[0]
    assert_close(stretched(scan(), factor, preserve_range=preserve_range), expected, atol=1e-5, rtol=1e-5)


def test_brightness_is_monais_scaling():
    expected = torch.as_tensor(ScaleIntensity(minv=None, maxv=None, factor=0.25)(scan()))
    assert_close(Brightness(prob=1, factor=(1.25, 1.25)).changed(scan(), random()), expected)


@pytest.mark.parametrize("sigma", [(0.5, 1.0, 0.7), (0.0, 2.0, 1.0), (6.0, 0.0, 0.0)])
def test_blur_is_scipys(sigma):
    radius = [int(np.ceil(3 * s)) for s in sigma]
    expected = ndimage.gaussian_filter(scan().numpy().astype(float), sigma, mode="mirror", radius=radius)
    np.testing.assert_allclose(blurred(scan(), sigma), expected, atol=1e-5)


@pytest.mark.parametrize("zoom", [0.5, 0.73, 1.0])
def test_low_resolution_is_monais(zoom):
    lower = RandSimulateLowResolution(prob=1.0, downsample_mode="nearest-exact", zoom_range=(zoom, zoom))
    expected = torch.as_tensor(lower(scan()[None]))[0]
    result = LowResolution(prob=1, zoom=(zoom, zoom)).changed(scan(), random())
    assert_close(result, expected, atol=1e-6, rtol=1e-5)


def test_bias_field_is_torchios():
    values = list(np.random.default_rng(3).uniform(-0.5, 0.5, 20))
    coefficients, left = np.zeros((4, 4, 4)), iter(values)
    for x in range(4):
        for y in range(4 - x):
            for z in range(4 - x - y):
                coefficients[x, y, z] = next(left)
    expected = torchio.BiasField(values, 3)(scan()[None])[0]
    assert_close(scan() * bias_field(scan(), coefficients), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ghosts", [2, 4, 7])
def test_ghosts_are_torchios(ghosts, axis):
    expected = torchio.Ghosting(num_ghosts=ghosts, axis=axis, intensity=0.6, restore=None)(scan()[None])[0]
    assert_close(ghosted(scan(), ghosts, axis=axis, intensity=0.6), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [(3, 7, 2), (7, 6, 5), (0, 0, 9)])
def test_spikes_are_torchios(index):
    places = (np.array([index]) + 0.5) / SHAPE
    expected = torchio.Spike(spikes_positions=places, intensity=0.4)(scan()[None])[0]
    frequency = [i - n // 2 for i, n in zip(index, SHAPE, strict=True)]
    assert_close(spiked(scan(), frequency, intensity=0.4), expected, atol=1e-4, rtol=1e-4)


# Motion ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_motion_stitches_k_space_from_positions(axis):
    """The whole of it in NumPy: full Fourier transforms, and shifts by whole voxels."""
    image = scan()
    shifts = [np.column_stack([np.eye(3), shift]) for shift in ([2.0, 0, 0], [0, -1.0, 0])]
    low = image.min().item()
    first = np.full(SHAPE, low)
    first[:-2] = image[2:]
    second = np.full(SHAPE, low)
    second[:, 1:] = image[:, :-1]
    # Two thirds of the way comes after the middle of k-space: the image's own position is the second of three.
    bounds = np.round(np.array([0, 0.3, 0.7, 1]) * SHAPE[axis]).astype(int)
    stitched = np.zeros(SHAPE, complex)
    for source, start, stop in zip((first, image.numpy(), second), bounds, bounds[1:], strict=False):
        lines = [slice(None)] * 3
        lines[axis] = slice(start, stop)
        stitched[tuple(lines)] = np.fft.fftshift(np.fft.fftn(source))[tuple(lines)]
    expected = np.fft.ifftn(np.fft.ifftshift(stitched)).real
    result = moved(image, shifts, times=np.array([0.3, 0.7]), axis=axis)
    np.testing.assert_allclose(result, expected, atol=2e-4)


def test_a_position_is_read_as_scipy_reads_it():
    turn, shift, middle = rotation_matrix((0.1, -0.2, 0.3)), np.array([0.5, -1.0, 0.25]), (np.array(SHAPE) - 1) / 2
    image, offset = scan() - scan().min(), middle - turn @ middle + shift
    expected = ndimage.affine_transform(image.numpy().astype(float), turn, offset, order=1, mode="grid-constant")
    result = repositioned(image, np.column_stack([turn, shift]))
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_without_moving_motion_changes_nothing():
    still = [np.column_stack([np.eye(3), np.zeros(3)])] * 2
    assert_close(moved(scan(), still, times=np.array([0.2, 0.8]), axis=1), scan(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_move_in_their_plane(axis):
    size = [24, 24, 24]
    size[axis] = 4
    image = torch.zeros(size)
    image.movedim(axis, 0)[1] = scan(4, (24, 24)).abs()
    for seed in range(5):
        changed = Motion(prob=1, degrees=20, translation=4).changed(image, random(seed)).movedim(axis, 0)
        assert changed[1].abs().max() > 1
        assert changed[[0, 2, 3]].abs().max() < 1e-4


# Laws -----------------------------------------------------------------------------------------------------------------


@each_transform
def test_every_transform_changes_finite_images_into_finite_ones(transform):
    image = scan()
    changed = transform.changed(image.clone(), random())
    assert changed.shape == image.shape
    assert changed.isfinite().all()
    assert (changed - image).abs().max() > 1e-3


@each_transform
@pytest.mark.parametrize("shape", [(9,) * 3, (7, 1, 8), (16, 15)])
def test_constant_thin_and_flat_patches_are_fine(transform, shape):
    assert transform.changed(torch.full(shape, 2.0), random()).isfinite().all()


@each_transform
def test_a_channel_that_is_given_is_not_written_into(transform):
    image = scan()
    transform.changed(image, random())
    assert torch.equal(image, scan())


def test_probability_zero_is_the_identity():
    image, label = batch()
    augmented = nnunet(prob=0)(image, label, [1, 2, 3, 4])
    assert torch.equal(augmented[0], image)
    assert torch.equal(augmented[1], label)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.permutations(range(4)))
def test_a_sample_is_bitwise_the_same_in_any_batch(seeds, order):
    image, label = batch()
    augment = nnunet()
    together, labels = augment(image, label, torch.tensor(seeds))
    shuffled, _ = augment(image[order], label[order], torch.tensor(seeds)[order])
    assert torch.equal(shuffled, together[order])
    for i, seed in enumerate(seeds):
        alone, its_label = augment(image[i : i + 1], label[i : i + 1], [seed])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(its_label[0], labels[i])


def test_seeds_decide():
    image, label = batch()
    image = image[:1].repeat(4, 1, 1, 1, 1)
    augment = BatchAugmentation([GaussianNoise(prob=1)])
    result, _ = augment(image, label, [5, 5, 6, 2**32 - 1])
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])
    assert not torch.equal(result[0, 0] - image[0, 0], result[0, 1] - image[0, 1])  # channels have noise of their own


def test_what_is_given_is_not_written_into_and_global_states_stay():
    image, label = batch()
    before = image.clone(), label.clone(), torch.get_rng_state()
    nnunet(prob=2.5)(image, label, range(4))
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_image_and_label_are_mirrored_together_and_labels_keep_their_values(seed):
    _, label = batch(1)
    image = label.to(torch.float32)
    mirrored, labels = BatchAugmentation([Mirror(axes=(0, 2))])(image, label, [seed])
    assert torch.equal(mirrored, labels.to(torch.float32))
    assert labels.dtype == torch.uint8
    options = [label, label.flip(2), label.flip(4), label.flip(2, 4)]
    assert any(torch.equal(labels, option) for option in options)


def test_labels_stay_but_for_mirroring():
    image, label = batch()
    assert torch.equal(BatchAugmentation(ALWAYS)(image, label, range(4))[1], label)


def test_half_precision_comes_back_in_single():
    image, label = batch()
    with torch.autocast("cpu", torch.bfloat16):
        augmented, _ = nnunet()(image.to(torch.bfloat16), label, range(4))
    assert augmented.dtype == torch.float32


def test_samples_and_channels_are_changed_as_often_as_asked():
    image, label = torch.ones(1000, 2, 2, 2, 2), torch.zeros(1000, 1, 2, 2, 2, dtype=torch.uint8)
    changed, _ = BatchAugmentation([Brightness(prob=0.3, channel_prob=0.5)])(image, label, range(1000))
    channels = (changed[:, :, 0, 0, 0] != 1).numpy()
    # 1000 × 0.3 × ½ in each channel, and half of those in both; four standard deviations are 45 and 34.
    assert abs(channels[:, 0].sum() - 150) < 45
    assert abs(channels.all(axis=1).sum() - 75) < 34


def test_factors_are_below_one_as_often_as_above():
    drawn = np.array([about_one(random(i), (0.7, 1.5)) for i in range(1000)])
    assert drawn.min() >= 0.7
    assert drawn.max() <= 1.5
    assert abs((drawn < 1).sum() - 500) < 64  # four standard deviations of a fair coin
    assert min(about_one(random(i), (1.2, 1.5)) for i in range(50)) >= 1.2


def test_noise_is_standard_normal_and_its_seeds_decide():
    noise = noise_like(torch.empty(60, 60, 60), seed=3)
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert torch.equal(noise_like(torch.empty(4, 4), seed=3), noise_like(torch.ones(4, 4), seed=3))


def test_gamma_keeps_mean_and_deviation_and_contrast_the_range():
    corrected = Gamma(prob=1).changed(scan(), random())
    assert_close(torch.stack(torch.std_mean(corrected)), torch.stack(torch.std_mean(scan())), atol=1e-5, rtol=1e-5)
    stretch = Contrast(prob=1, factor=(1.2, 1.2)).changed(scan(), random())
    assert torch.equal(torch.stack(torch.aminmax(stretch)), torch.stack(torch.aminmax(scan())))


def test_a_thin_axis_keeps_its_slices_at_low_resolution():
    ramp = torch.arange(4.0)[None, None].expand(20, 20, 4) * 10 + scan(5, (20, 20, 1))
    changed = LowResolution(prob=1, zoom=(0.5, 0.5)).changed(ramp, random())
    # Every slice is the coarse version of itself: they differ by 10 from each other as before.
    assert_close(changed.diff(dim=2), torch.full((20, 20, 3), 10.0), atol=1e-4, rtol=1e-4)
    assert_close(changed[:, :, 1], coarsened(ramp[:, :, 1], (10, 10)), atol=1e-4, rtol=1e-4)


# What cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gamma(prob=1.5), "Gamma: prob is 1.5; a probability is between 0 and 1"),
        (lambda: GaussianBlur(prob=0.2, channel_prob=-1), "GaussianBlur: channel_prob is -1"),
        (lambda: Brightness(prob=1, factor=(1.2, 0.8)), r"Brightness: factor is \[1.2, 0.8\]; write"),
        (lambda: LowResolution(prob=1, zoom=(0.5, 2.0)), r"LowResolution: zoom is \[0.5, 2.0\].*between 0 and 1"),
        (lambda: GaussianNoise(prob=1, std=(0.1,)), r"GaussianNoise: std is \[0.1\]"),
        (lambda: Mirror(axes=(3,)), r"Mirror: axes is \[3\]; a volume has the axes 0, 1 and 2"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("seeds", [[1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_sample_without_a_seed_of_its_own_is_refused(seeds):
    with pytest.raises(UsageError, match=f"There are {len(seeds)} seeds for 4 samples"):
        nnunet()(*batch(), seeds)


# In training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", ["mri_hippocampus_segmentation", "ct_organ_segmentation"])
def test_bundles_have_nnunets_set_with_its_probabilities(bundle):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs" / "train.yaml"))
    transforms = parser.get_parsed_content("train#batch_transforms").transforms
    artefacts = (BiasField, Ghosting, Motion, Spike)
    assert [t for t in transforms if not isinstance(t, artefacts)] == [
        GaussianNoise(prob=0.1, std=[0.0, 0.1]),
        GaussianBlur(prob=0.2, channel_prob=0.5, sigma=[0.5, 1.0]),
        Brightness(prob=0.15, factor=[0.75, 1.25]),
        Contrast(prob=0.15, factor=[0.75, 1.25]),
        LowResolution(prob=0.25, channel_prob=0.5, zoom=[0.5, 1.0]),
        Gamma(prob=0.1, gamma=[0.7, 1.5], invert=True),
        Gamma(prob=0.3, gamma=[0.7, 1.5]),
        ReshapeMask(prob=0.4, label_prob=0.5, radius=[1, 8]),  # these two of a cascade's first mask
        RemoveComponent(prob=0.2, label_prob=0.5, max_share=0.15),
    ]
    spatial = parser["train"]["random_transforms"][0]
    assert (spatial["rotate_prob"], spatial["scale_prob"], spatial["scale_range"]) == (0.2, 0.2, 0.4)
    assert parser["rotate_range"] == [0.52] * 3


def tiny_training(folder: Path, *, epochs: int, workers: int = 0, resume: bool = False) -> dict[str, torch.Tensor]:
    """Weights after a training of a few steps with every augmentation."""
    torch.manual_seed(0)
    items = [{"case": f"c{i}", "image": scan(i, (1, 8, 8, 8)), "label": scan(i, (1, 8, 8, 8)) > 2} for i in range(4)]
    data = SeededCacheDataset(items, [EnsureTyped(["image", "label"], track_meta=False)], num_workers=0)
    network = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    engine = trainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=training_loader(data, batch_size=2, iterations_per_epoch=3, num_workers=workers),
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        loss_function=lambda logits, label: torch.nn.functional.cross_entropy(logits.float(), label[:, 0].long()),
        inferer=SimpleInferer(),
        output_dir=folder,
        resume=resume,
        batch_transform=nnunet(prob=2),
    )
    engine.run()
    return load_checkpoint(folder / "last.pt")["network"]


def test_training_augments_and_resumes_to_the_same_weights_with_any_number_of_workers(tmp_path):
    whole = tiny_training(tmp_path / "whole", epochs=2)
    tiny_training(tmp_path / "cut", epochs=1)
    assert_equal_weights(tiny_training(tmp_path / "cut", epochs=2, resume=True), whole)
    assert_equal_weights(tiny_training(tmp_path / "workers", epochs=2, workers=1), whole)


def test_a_batch_without_seeds_is_refused_by_name():
    image, label = batch()
    engine = SimpleNamespace(
        state=SimpleNamespace(device=torch.device("cpu")),
        non_blocking=False,
        network=torch.nn.Identity(),
        batch_transform=nnunet(),
    )
    with pytest.raises(UsageError, match=r"no 'sample_seed', only \['image', 'label'\]. Load it with medseg3d.data"):
        training_step(engine, {"image": image, "label": label})


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(first[name], second[name]) for name in second)
