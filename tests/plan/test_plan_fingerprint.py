"""What is read of a case, against answers worked out by hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.datalist import Case, DataList, read_datalist
from medseg3d.errors import CaseError
from medseg3d.plan import CaseFingerprint, extract_fingerprint, measure_case


def volume() -> tuple[np.ndarray, np.ndarray]:
    """An image of 12×10×8 voxels that is 0 outside a box of 8×6×4, with two boxes of label 1 and one of label 2."""
    image, labels = np.zeros((1, 12, 10, 8), np.float32), np.zeros((12, 10, 8), np.uint8)
    image[0, 2:10, 2:8, 2:6] = 5.0
    labels[2:4, 2:4, 2:4], labels[6:7, 2:4, 2:4], labels[9, 7, 5] = 1, 1, 2
    image[0, 2:4, 2:4, 2:4] = 10.0
    return image, labels


def test_a_case_by_hand() -> None:
    image, labels = volume()
    found = measure_case(image, labels, affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    assert found.spacing_mm == (1.0, 2.0, 5.0)
    assert found.cropped_shape == (8, 6, 4)
    assert found.kept == pytest.approx(192 / 960)
    assert found.volume_ml == {1: 0.12, 2: 0.01}  # voxels of 10 mm³
    assert found.components == {1: 2, 2: 1}
    assert found.largest_share == {1: pytest.approx(2 / 3), 2: 1.0}
    values = np.array([10.0] * 8 + [5.0] * 5)
    assert found.channels[0].mean == pytest.approx(values.mean(), rel=1e-6)
    assert found.channels[0].sd == pytest.approx(values.std(), rel=1e-6)
    assert (found.channels[0].minimum, found.channels[0].maximum) == (5.0, 10.0)


@given(order=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_how_a_file_stores_its_axes_does_not_matter(order: list[int], flips: tuple[bool, bool, bool]) -> None:
    image, labels = volume()
    plain = measure_case(image, labels, affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    affine = np.diag([1.0, 2.0, 5.0, 1.0])[:, [*order, 3]]
    turned, mask = image.transpose(0, *(axis + 1 for axis in order)), labels.transpose(order)
    for axis, flip in enumerate(flips):
        if flip:
            turned, mask = np.flip(turned, axis + 1), np.flip(mask, axis)
            affine[:, axis] *= -1
    stored = measure_case(turned, mask, affine=affine)
    assert replace(stored, orientation="RAS") == plain


def test_empty_label_maps_and_images_are_told() -> None:
    nothing = measure_case(np.zeros((1, 4, 4, 4)), np.zeros((4, 4, 4), np.uint8), affine=np.eye(4))
    assert nothing.channels == ()
    assert nothing.cropped_shape == (4, 4, 4)
    assert nothing.volume_ml == nothing.components == {}


def test_percentiles_of_all_cases_are_those_of_their_voxels() -> None:
    """Every case counts alike: with as many voxels each, the pool of all voxels is the truth."""
    from medseg3d.plan import Fingerprint

    rng = np.random.default_rng(0)
    values = [rng.normal(100 * case, 50, (1, 20, 20, 20)).astype(np.float32) for case in range(3)]
    cases = tuple(measure_case(image, np.ones((20, 20, 20), np.uint8), affine=np.eye(4)) for image in values)
    found = Fingerprint("x", "", ("a",), {"all": 1}, cases, {}).intensity(0)
    pool = np.concatenate([image.ravel() for image in values]).astype(float)
    assert found is not None
    assert found.mean == pytest.approx(pool.mean(), abs=0.01)
    assert found.sd == pytest.approx(pool.std(), rel=1e-5)
    for name, percent in (("low", 0.5), ("median", 50), ("high", 99.5)):
        assert getattr(found, name) == pytest.approx(np.percentile(pool, percent), abs=1.5)


def test_json_gives_a_case_back() -> None:
    image, labels = volume()
    found = measure_case(image, labels, affine=np.eye(4), case="a", key="b")
    assert CaseFingerprint.from_json(found.to_json()) == found


@pytest.fixture
def small_list(tmp_path: Path) -> DataList:
    image, labels = volume()
    for name in ("a", "b"):
        nibabel.save(nibabel.Nifti1Image(image[0], np.eye(4)), tmp_path / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / f"{name}_label.nii.gz")
    cases = [Case(n, n, (tmp_path / f"{n}.nii.gz",), tmp_path / f"{n}_label.nii.gz") for n in ("a", "b")]
    return DataList(tmp_path / "list.json", "small", "MRI", {"one": 1, "two": 2}, training=tuple(cases))


def test_cases_that_did_not_change_are_not_read_again(small_list: DataList, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    first = extract_fingerprint(small_list, cache=cache, workers=1)
    path = small_list.training[0].image[0]
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))  # the same size and time: nobody looks inside
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert extract_fingerprint(small_list, cache=cache, workers=1) == first
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    again = extract_fingerprint(small_list, cache=cache, workers=1)
    assert again.cases[0].key != first.cases[0].key
    assert again.to_json() == first.to_json()


def test_a_damaged_cache_is_made_again(small_list: DataList, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text('{"schema": "medseg3d.fingerprint/1", "cases": [{}]}')
    first = extract_fingerprint(small_list, cache=cache, workers=1)
    assert extract_fingerprint(small_list, cache=cache, workers=1) == first


def test_a_file_that_is_missing_is_named(small_list: DataList) -> None:
    small_list.training[1].image[0].unlink()
    with pytest.raises(CaseError, match=r"b\.nii\.gz"):
        extract_fingerprint(small_list, workers=1)


def test_voxels_to_ignore_count_as_no_label(small_list: DataList) -> None:
    found = extract_fingerprint(replace(small_list, labels={"one": 1, "ignore": 2}), workers=1)
    assert found.ignore_label == 2
    assert dict(found.labels) == {"one": 1}
    assert set(found.cases[0].volume_ml) == {1}


@pytest.mark.real_data
def test_the_hippocampus_is_read_as_nnunet_reads_it(data_dir: Path) -> None:
    from recorded_plans import read_record

    entry = read_record()["data_sets"]["hippocampus"]
    found = extract_fingerprint(read_datalist(data_dir / "mri_hippocampus" / "dataset.json"))
    assert found.spacings_mm[:, ::-1].tolist() == entry["spacings"]
    assert found.cropped_shapes[:, ::-1].tolist() == entry["shapes_after_crop"]
    ours, theirs = found.intensity(0), entry["intensities"][0]
    assert ours is not None
    assert ours.mean == pytest.approx(theirs["mean"], rel=0.01)
    assert ours.sd == pytest.approx(theirs["std"], rel=0.01)
    assert ours.high == pytest.approx(theirs["percentile_99_5"], rel=0.03)
