"""Large images: what is held in memory at once."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg3d.crossval import predictor
from medseg3d.crossval.candidates import Candidate
from medseg3d.crossval.corrections import LabelledCase, choose_corrections
from medseg3d.crossval.prediction import samples_of
from medseg3d.crossval.predictor import labels_of_mean
from medseg3d.inference import ToImageGridd
from medseg3d.inference.ensemble import stand_in

# Oblique, of unequal spacing: slabs must not move.
AFFINE = torch.tensor(
    [[0.8, 0.3, 0.0, -40.0], [-0.3, 0.8, 0.0, 12.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
)
REGIONS = {"whole": [1, 2], "core": [2]}


def image(*shape: int) -> MetaTensor:
    meta = {"original_affine": AFFINE, "spatial_shape": torch.tensor(shape)}
    return stand_in(MetaTensor(torch.zeros(1, *shape), affine=AFFINE, meta=meta))


@pytest.mark.parametrize("plans", [1, 2, 3])
@pytest.mark.parametrize("slab_voxels", [1, 5 * 6 * 3, 10**6])
def test_slabs_make_the_labels_of_the_mean(monkeypatch, plans, slab_voxels):
    monkeypatch.setattr(predictor, "SLAB_VOXELS", slab_voxels)
    torch.manual_seed(plans)
    parts = [torch.randn(4, 7, 5, 6).mul(2).softmax(0).half() for _ in range(plans)]
    found = labels_of_mean(parts, image(7, 5, 6), ToImageGridd(), exclusive=True)
    assert torch.equal(found.long(), torch.stack(parts).float().mean(0).argmax(0))


def test_slabs_of_regions(monkeypatch):
    monkeypatch.setattr(predictor, "SLAB_VOXELS", 30)
    torch.manual_seed(0)
    parts = [torch.rand(2, 7, 5, 6).half() for _ in range(2)]
    found = labels_of_mean(parts, image(7, 5, 6), ToImageGridd(regions=REGIONS), exclusive=False)
    whole, core = torch.stack(parts).float().mean(0) > 0.5
    assert torch.equal(found.long(), torch.where(core, 2, whole.long()))


def test_never_more_than_a_slab_is_decoded_at_once(monkeypatch):
    monkeypatch.setattr(predictor, "SLAB_VOXELS", 60)
    sizes, decode = [], ToImageGridd()

    def counted(data):
        sizes.append(data["pred"].shape[1:].numel())
        return decode(data)

    parts = [torch.rand(3, 7, 5, 6).half()] * 2
    assert labels_of_mean(parts, image(7, 5, 6), counted, exclusive=True).shape == (7, 5, 6)
    assert sizes == [60, 60, 60, 30]


def test_corrections_keep_no_whole_image():
    read: list[weakref.ref[np.ndarray]] = []
    most = 0

    def cases():
        nonlocal most
        for number in range(6):
            reference, mask = np.zeros((2, 20, 20, 20), np.uint8)
            reference, mask = reference.copy(), mask.copy()
            reference[:3], mask[:4, :4, :4] = 1, 1
            read.extend([weakref.ref(reference), weakref.ref(mask)])
            yield LabelledCase(f"c{number}", reference, mask, 0.001)
            del reference, mask
            most = max(most, sum(array() is not None for array in read))

    choose_corrections(cases, labels={"organ": 1}, structures={"organ": (1,)}, median_ml={"organ": 1.0})
    assert len(read) == 12
    assert most <= 4  # one case's two, and those of the one before while the loop's name still holds it


@pytest.mark.parametrize(("most", "kept"), [(10**9, 4000), (6 * 4000 * 2, 4000), (6 * 4000, 2000), (6 * 1000, 500)])
def test_calibration_looks_at_a_bounded_number_of_values(tmp_path, monkeypatch, most, kept):
    """Six cases of 4,000 voxels and two channels: all of them, every second, every eighth."""
    monkeypatch.setattr("medseg3d.crossval.prediction.MOST_VALUES", most)
    candidate = Candidate(("3d",))
    for number in range(6):
        probabilities, truth = np.full((4000, 2), 0.5, np.float16), np.zeros(4000, np.uint8)
        np.savez_compressed(tmp_path / f"c{number}.npz", truth=truth, **{candidate.key: probabilities})
    records = [SimpleNamespace(case=f"c{number}", fold=0) for number in range(6)]
    found = samples_of(SimpleNamespace(records=records, folder=tmp_path), candidate)
    assert [(sample.probabilities.shape, sample.truth.shape) for sample in found] == [((kept, 2), (kept,))] * 6
