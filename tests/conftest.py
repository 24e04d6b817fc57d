"""What tests share: small phantoms, the real data where it is, and no CUDA test without CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run, so that a change is judged by itself. EXPLORE=1 draws new
# ones instead; what those find wrong becomes an `@example`.
# No deadlines: on a busy machine they fail what is right.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "same")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that MEDSEG3D_DATA names."""
    folder = os.environ.get("MEDSEG3D_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEDSEG3D_DATA names no folder with the real data")
    return Path(folder)


@pytest.fixture(scope="session")
def phantom_datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small CT phantoms to train on and one to segment."""
    from medseg3d.phantom import write_study

    folder = tmp_path_factory.mktemp("phantom_ct")
    return write_study(folder, modality="ct", cases=5, test_cases=1, seed=7, size=(48, 48, 32))


@pytest.fixture(scope="session")
def ct_pet_datalist(phantom_datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CT phantoms with a second channel, as a PET that sees each structure: 5 SUV in it, 1 around it."""
    import json

    import nibabel
    import numpy as np

    folder = tmp_path_factory.mktemp("phantom_ct_pet")
    content = json.loads(phantom_datalist.read_text())
    for item in content["training"] + content["testing"]:
        label = nibabel.load(phantom_datalist.parent / item["label"])
        suv = np.where(np.asanyarray(label.dataobj) > 0, 5, 1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(suv, label.affine), folder / f"{item['case']}_pet.nii.gz")
        ct = str(phantom_datalist.parent / item["image"])
        item |= {"image": [ct, f"{item['case']}_pet.nii.gz"], "label": str(phantom_datalist.parent / item["label"])}
    path = folder / "dataset.json"
    path.write_text(json.dumps(content | {"channels": ["CT", "PET"]}))
    return path


@pytest.fixture(scope="session")
def mri_datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small MRI phantoms to train on and one to segment."""
    from medseg3d.phantom import write_study

    folder = tmp_path_factory.mktemp("phantom_mri")
    return write_study(folder, modality="mri", cases=5, test_cases=1, seed=7, size=(48, 48, 32))


@pytest.fixture(scope="session")
def tumour_datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small brains with a tumour to train on and one to segment, in four channels."""
    from medseg3d.phantom import write_study

    folder = tmp_path_factory.mktemp("phantom_tumour")
    return write_study(folder, modality="mri_tumor", cases=5, test_cases=1, seed=7, size=(48, 56, 42))


@pytest.fixture(scope="session")
def brats_datalist(tumour_datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those brains as real lists are: enhancing tumour is 4, a slab that nobody labelled is 9, channels are missing."""
    import json

    import nibabel
    import numpy as np

    folder, source = tmp_path_factory.mktemp("brats"), tumour_datalist.parent
    content = json.loads(tumour_datalist.read_text())
    entries = content["training"] + content["testing"]
    for entry in entries:
        label = nibabel.load(source / entry["label"])
        voxels = np.asarray(label.dataobj).copy()
        voxels[voxels == 3] = 4
        voxels[:, :, : voxels.shape[2] // 3] = 9
        nibabel.save(nibabel.Nifti1Image(voxels, label.affine), folder / f"{entry['case']}_seg.nii.gz")
        entry["label"] = f"{entry['case']}_seg.nii.gz"
        entry["image"] = [str(source / image) for image in entry["image"]]
    for number, entry in enumerate(content["training"]):
        entry["fold"] = number
    entries[0]["image"][3] = entries[1]["image"][1] = entries[-1]["image"][3] = None  # fold 0 lacks FLAIR
    path = folder / "dataset.json"
    labels = {"necrotic_core": 1, "oedema": 2, "enhancing": 4}
    regions = {"whole_tumour": [1, 2, 4], "tumour_core": [1, 4], "enhancing_tumour": [4]}
    path.write_text(json.dumps(content | {"labels": labels, "regions": regions, "ignore_label": 9}))
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
