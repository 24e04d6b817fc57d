"""Masks as DICOM SEG: read back by us, dcmqi and highdicom; judged by dciodvfy; nothing written when refused."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.uid import UID
from seg_phantom import LABELS, affine_of, make_mask, make_series, masks_by_dcmqi, on_grid

from medseg3d.dicom.codes import code_label
from medseg3d.dicom.model import FileRef, SeriesGrid
from medseg3d.dicom.orient import to_series_grid
from medseg3d.dicom.scanning import scan
from medseg3d.dicom.seg_read import read_seg
from medseg3d.dicom.seg_write import Algorithm, write_seg
from medseg3d.dicom.volume import read_series
from medseg3d.errors import DicomError, UsageError

KINDS = pytest.mark.parametrize("kind", ["binary", "labelmap"])


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> SeriesGrid:
    return make_series(tmp_path_factory.mktemp("ct") / "series")


def label_map_of(path: Path, grid: SeriesGrid, labels=LABELS) -> np.ndarray:
    voxels = np.zeros(grid.shape, np.uint8)
    for segment in read_seg(path, grid).segments:
        voxels[segment.mask] = labels[segment.name]
    return voxels


def errors_of_dciodvfy(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def elements(dataset: pydicom.Dataset):
    return [element for element in dataset.iterall() if element.VR != "SQ"]


# --- the mask comes back ---------------------------------------------------------------------------------------------

ORIENTATIONS = {
    "axial": {},
    "oblique": {"angles_deg": (12, -7, 31)},
    "left-handed": {"mirror": -1},
    "left-handed oblique": {"mirror": -1, "angles_deg": (4, 50, 3)},
    "sagittal": {"angles_deg": (90, 0, 90)},
    "coronal": {"angles_deg": (90, 0, 0)},
}


@KINDS
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_mask_to_seg_to_mask_is_the_identity(tmp_path, kind, orientation):
    affine = affine_of(**ORIENTATIONS[orientation])
    grid = make_series(tmp_path / "ct", affine=affine)
    mask = to_series_grid(make_mask(), affine, grid)
    write_seg(mask, grid, tmp_path / "seg.dcm", labels=LABELS, kind=kind)
    np.testing.assert_array_equal(label_map_of(tmp_path / "seg.dcm", grid), mask)
    assert read_seg(tmp_path / "seg.dcm", grid).findings == ()
    by_dcmqi = masks_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "dcmqi")
    assert sorted(by_dcmqi) == [1, 2, 3]
    for number, image in by_dcmqi.items():
        np.testing.assert_array_equal(on_grid(image, grid), mask == number)


angles = st.one_of(
    st.sampled_from([tuple(way.get("angles_deg", (0, 0, 0))) for way in ORIENTATIONS.values()]),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
shapes = st.tuples(st.integers(3, 9), st.integers(3, 9), st.integers(2, 4))


@KINDS
@settings(max_examples=40, deadline=None)
@given(
    voxels=arrays(np.uint8, shapes, elements=st.integers(0, 3)),
    angles_deg=angles,
    spacing_mm=st.tuples(*[st.floats(0.3, 6)] * 3),
    mirror=st.sampled_from([-1, 1]),
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
def test_any_mask_on_any_grid_comes_back(kind, voxels, angles_deg, spacing_mm, mirror, axes, flips):
    """Oblique, sagittal and coronal series; masks stored in any order and direction of axes, left-handed ones too."""
    affine = affine_of(angles_deg=angles_deg, spacing_mm=spacing_mm, mirror=mirror)
    turned = nibabel.Nifti1Image(voxels, affine).as_reoriented(np.c_[axes, flips])
    with TemporaryDirectory() as folder:
        grid = make_series(Path(folder, "ct"), shape=voxels.shape, affine=affine)
        mask = to_series_grid(np.asarray(turned.dataobj), turned.affine, grid)
        np.testing.assert_array_equal(mask, to_series_grid(voxels, affine, grid))
        write_seg(mask, grid, Path(folder, "seg.dcm"), labels=LABELS, kind=kind)
        np.testing.assert_array_equal(label_map_of(Path(folder, "seg.dcm"), grid), mask)
        assert read_seg(Path(folder, "seg.dcm"), grid).findings == ()


@KINDS
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_highdicom_reads_the_same(tmp_path, kind, orientation):
    affine = affine_of(**ORIENTATIONS[orientation])
    series = make_series(tmp_path / "ct", affine=affine)
    mask = to_series_grid(make_mask(), affine, series)
    write_seg(mask, series, tmp_path / "seg.dcm", labels=LABELS, kind=kind)
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
    geometry = volume.get_geometry()
    for number in LABELS.values():
        places = np.argwhere(volume.array == number)
        points = geometry.map_indices_to_reference(places)
        exact = np.linalg.inv(series.affine_lps) @ np.c_[points, np.ones(len(points))].T
        np.testing.assert_allclose(exact[:3], np.rint(exact[:3]), atol=0.01)
        found = np.zeros(series.shape, bool)
        found[tuple(np.rint(exact[:3]).astype(int))] = True
        np.testing.assert_array_equal(found, mask == number)


@KINDS
def test_dcmqi_reads_an_empty_segment_and_an_empty_mask(series, tmp_path, kind):
    mask = np.zeros(series.shape, np.uint8)
    findings = write_seg(mask, series, tmp_path / "none.dcm", labels=LABELS, kind=kind)
    assert [f.code for f in findings] == ["empty_segment"] * 3
    assert masks_by_dcmqi(tmp_path / "none.dcm", tmp_path / "none") == {}
    assert [s.count for s in read_seg(tmp_path / "none.dcm", series).segments] == [0, 0, 0]
    mask[2, 3, 4] = 2
    findings = write_seg(mask, series, tmp_path / "one.dcm", labels=LABELS, kind=kind)
    assert [f.message.split(":")[0] for f in findings] == ["No voxel is liver", "No voxel is tumour"]
    assert list(masks_by_dcmqi(tmp_path / "one.dcm", tmp_path / "one")) == [2]


def test_ids_with_gaps_and_above_255(series, tmp_path):
    mask = np.zeros(series.shape, np.int16)
    mask[1, 2, 3], mask[4, 5, 0] = 300, 7
    labels = {"spleen": 300, "liver": 7}
    for kind, numbers in (("binary", [("spleen", 1), ("liver", 2)]), ("labelmap", [("liver", 7), ("spleen", 300)])):
        write_seg(mask, series, tmp_path / "seg.dcm", labels=labels, kind=kind)
        found = read_seg(tmp_path / "seg.dcm", series).segments
        assert [(s.name, s.number) for s in found] == numbers
        assert all(np.argwhere(s.mask).tolist() == np.argwhere(mask == labels[s.name]).tolist() for s in found)


def test_a_mask_of_bools(series, tmp_path):
    mask = make_mask() == 1
    write_seg(mask, series, tmp_path / "seg.dcm", labels={"liver": 1})
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", series).segments[0].mask, mask)


# --- what the file says ----------------------------------------------------------------------------------------------


def test_a_binary_seg_has_no_error(series, tmp_path):
    write_seg(make_mask(), series, tmp_path / "seg.dcm", labels={**LABELS, "something else": 9})
    assert errors_of_dciodvfy(tmp_path / "seg.dcm") == []


def test_frames_without_voxels_are_left_out(series, tmp_path):
    write_seg(make_mask(), series, tmp_path / "seg.dcm", labels=LABELS)
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 4 + 2 + 1


def test_patient_and_study_are_copied_and_uids_are_new(series, tmp_path):
    source = pydicom.dcmread(series.slices[0].file.path)
    for name in ("a.dcm", "b.dcm"):
        write_seg(make_mask(), series, tmp_path / name, labels=LABELS)
    a, b = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    copied = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")
    assert all(a[keyword].value == source[keyword].value for keyword in copied)
    assert a.FrameOfReferenceUID == source.FrameOfReferenceUID
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({a[keyword].value, b[keyword].value, source[keyword].value}) == 3
    assert a.SeriesNumber == (source.SeriesNumber or 0) + 1000


def test_every_value_is_valid(series, tmp_path):
    write_seg(make_mask(), series, tmp_path / "seg.dcm", labels=LABELS)
    found = elements(pydicom.dcmread(tmp_path / "seg.dcm"))
    assert all(UID(e.value).is_valid for e in found if e.VR == "UI" and isinstance(e.value, str) and e.value)
    decimals = [str(v) for e in found if e.VR == "DS" for v in np.atleast_1d(np.array(e.value, dtype=object))]
    assert decimals
    assert max(map(len, decimals)) <= 16


def test_every_frame_refers_to_its_image(series, tmp_path):
    write_seg(make_mask(), series, tmp_path / "seg.dcm", labels=LABELS)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    normal = np.linalg.inv(series.affine_lps)[2]
    for groups in seg.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        k = round(float(normal @ [*groups.PlanePositionSequence[0].ImagePositionPatient, 1]))
        assert source.ReferencedSOPInstanceUID == series.slices[k].sop_instance_uid
    named = {r.ReferencedSOPInstanceUID for r in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {ref.sop_instance_uid for ref in series.slices}


def test_segments_are_described(series, tmp_path):
    algorithm = Algorithm("ct_organ_segmentation", "1.2.0", parameters={"weights_sha256": "abc"})
    write_seg(
        make_mask(), series, tmp_path / "seg.dcm", labels=LABELS, algorithm=algorithm, series_description="Organs"
    )
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    kidney = seg.SegmentSequence[1]
    assert (seg.SeriesDescription, kidney.SegmentLabel, kidney.TrackingID) == ("Organs", "left_kidney", "left_kidney")
    assert (kidney.SegmentAlgorithmType, kidney.SegmentAlgorithmName) == ("AUTOMATIC", "ct_organ_segmentation")
    identified = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (identified.AlgorithmVersion, identified.AlgorithmParameters) == ("1.2.0", "weights_sha256=abc")
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert hd.color.CIELabColor.from_dicom_value(list(kidney.RecommendedDisplayCIELabValue)).to_rgb() == (185, 102, 83)


def test_names_may_have_any_letters(series, tmp_path):
    write_seg(make_mask(), series, tmp_path / "seg.dcm", labels={"foie é": 1, "肾": 2, "tumour": 3})
    assert [s.name for s in read_seg(tmp_path / "seg.dcm", series).segments] == ["foie é", "肾", "tumour"]


def test_an_unknown_label_has_a_finding_and_can_be_coded(series, tmp_path):
    labels = {"liver": 1, "thing": 2, "tumour": 3}
    findings = write_seg(make_mask(), series, tmp_path / "seg.dcm", labels=labels)
    assert [str(f) for f in findings] == [
        "uncoded label: No SNOMED CT code is known for 'thing': it is coded as Tissue, its name is the label. "
        "Give its code in a YAML file."
    ]
    codes = {"thing": code_label("spleen")}
    assert write_seg(make_mask(), series, tmp_path / "seg.dcm", labels=labels, codes=codes) == ()
    assert read_seg(tmp_path / "seg.dcm", series).segments[1].meaning == "Spleen"


# --- sources ---------------------------------------------------------------------------------------------------------


def test_the_series_may_lie_in_a_zip_archive(series, tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for ref in series.slices:
            target.write(ref.file.path, ref.file.path.name)
    grid = replace(
        series, slices=tuple(replace(ref, file=FileRef(archive, ref.file.path.name)) for ref in series.slices)
    )
    write_seg(make_mask(), grid, tmp_path / "seg.dcm", labels=LABELS)
    np.testing.assert_array_equal(label_map_of(tmp_path / "seg.dcm", grid), make_mask())


@pytest.mark.real_data
@KINDS
def test_a_stack_of_a_multi_frame_image(data_dir, tmp_path, kind):
    found = scan(data_dir / "dicom_conformance" / "dcm_qa_enh").series
    grid = next(s for s in found if s.description == "B0 NS").stacks[1].grid  # frames 33 to 64
    mask = np.zeros(grid.shape, np.uint8)
    mask[10:20, 30:40, 3:9], mask[15:18, 50:60, 5:7] = 1, 2
    write_seg(mask, grid, tmp_path / "seg.dcm", labels=LABELS, kind=kind)
    np.testing.assert_array_equal(label_map_of(tmp_path / "seg.dcm", grid), mask)
    assert read_seg(tmp_path / "seg.dcm", grid).findings == ()
    for groups in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        assert 33 <= groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber <= 64


@pytest.mark.real_data
@pytest.mark.parametrize("modality", ["CT", "PET", "MR_T1"])
def test_a_real_series(data_dir, tmp_path, modality):
    volume = read_series(data_dir / "ct_pet_mr_sarcoma" / "STS_001" / modality)
    mask = (volume.voxels > np.percentile(volume.voxels, 90)).astype(np.uint8)
    mask[:, : mask.shape[1] // 2] *= 2
    path = tmp_path / "seg.dcm"
    write_seg(mask, volume.grid, path, labels={"tumour": 1, "muscle": 2})
    np.testing.assert_array_equal(label_map_of(path, volume.grid, {"tumour": 1, "muscle": 2}), mask)
    by_dcmqi = masks_by_dcmqi(path, tmp_path / "dcmqi")
    assert sorted(by_dcmqi) == [1, 2]
    for number, image in by_dcmqi.items():
        np.testing.assert_array_equal(on_grid(image, volume.grid), mask == number)
    copied = errors_of_dciodvfy(volume.grid.slices[0].file.path)
    assert [line for line in errors_of_dciodvfy(path) if line not in copied] == []


# --- refusals --------------------------------------------------------------------------------------------------------


def test_refusals_name_the_fault_and_leave_no_file(series, tmp_path):
    def refused(message: str, mask=None, grid=series, labels=LABELS, error=DicomError, **more):
        with pytest.raises(error, match=message):
            write_seg(make_mask() if mask is None else mask, grid, tmp_path / "seg.dcm", labels=labels, **more)
        assert list(tmp_path.iterdir()) == []

    refused(r"mask has 3×3×3 voxels, the series 13×11×6", mask=np.zeros((3, 3, 3), np.uint8))
    refused(r"values 2, 3, which no label has; the labels are liver = 1", labels={"liver": 1})
    refused(r"values from -3 to 0: 0 to 32767 are possible", mask=np.full(series.shape, -1, np.int16) * make_mask())
    refused(r"holds float32 numbers", mask=make_mask().astype(np.float32))
    refused(r"labels a and b have the same id", labels={"a": 1, "b": 1}, error=UsageError)
    refused(r"has 65 characters: 1 to 64", labels={"x" * 65: 1, "b": 2, "c": 3})
    refused(r"was resampled", grid=replace(series, slices=()))
    refused(r"no UID of its frame of reference", grid=replace(series, frame_of_reference_uid=""))
    gone = replace(series.slices[0], file=FileRef(Path("/nowhere/CT_0001.dcm")))
    refused(
        r"CT_0001\.dcm: not readable as an image of the series", grid=replace(series, slices=(gone, *series.slices[1:]))
    )
    other = replace(series.slices[0], sop_instance_uid="1.2.3")
    refused(
        r"holds the instance .*, not 1\.2\.3 as before",
        grid=replace(series, slices=(other, *series.slices[1:])),
    )


def test_slices_of_few_voxels_are_for_label_maps(tmp_path):
    grid = make_series(tmp_path / "ct", shape=(1, 7, 2))
    mask = np.ones(grid.shape, np.uint8)
    with pytest.raises(DicomError, match="Slices of 1×7 voxels are too small for a binary SEG, which takes 8 or more"):
        write_seg(mask, grid, tmp_path / "seg.dcm", labels=LABELS)
    write_seg(mask, grid, tmp_path / "seg.dcm", labels=LABELS, kind="labelmap")
    np.testing.assert_array_equal(label_map_of(tmp_path / "seg.dcm", grid), mask)


def test_an_earlier_file_is_replaced_only_by_a_whole_one(series, tmp_path):
    path = tmp_path / "seg.dcm"
    write_seg(make_mask(), series, path, labels=LABELS)
    before = path.read_bytes()
    with pytest.raises(DicomError):
        write_seg(make_mask(), series, path, labels={"liver": 1})
    assert path.read_bytes() == before
    write_seg(make_mask(), series, path, labels=LABELS)
    assert path.read_bytes() != before


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("x" * 65, "1"), ("x", "")])
def test_an_algorithm_has_a_name_and_a_version(name, version):
    with pytest.raises(DicomError, match="1 to 64 are possible"):
        Algorithm(name, version)
