"""Segments that keep only their box, and the label map made from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.dicom.annotation import Annotation, Segment, to_label_map
from medseg3d.dicom.model import SeriesGrid
from medseg3d.dicom.naming import Naming
from medseg3d.errors import DicomError

SHAPE = (5, 4, 3)
GRID = SeriesGrid(SHAPE, np.eye(4), "1.2", "1.2.3", "1.2.4")


def block(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def annotation(**masks: np.ndarray) -> Annotation:
    return Annotation(
        tuple(Segment.of(name=name, number=n, mask=mask) for n, (name, mask) in enumerate(masks.items(), 1)), GRID
    )


@given(arrays(bool, SHAPE))
def test_a_segment_gives_its_mask_back(mask):
    segment = Segment.of(name="x", number=1, mask=mask)
    np.testing.assert_array_equal(segment.mask, mask)
    assert segment.count == mask.sum()


@given(arrays(bool, (2, 3, 2)), st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)))
def test_a_part_lies_where_it_is_said_to_begin(part, start):
    segment = Segment.of(name="x", number=1, mask=part, start=start, shape=SHAPE)
    i, j, k = start
    expected = np.zeros(SHAPE, bool)
    expected[i : i + 2, j : j + 3, k : k + 2] = part
    np.testing.assert_array_equal(segment.mask, expected)


def test_a_segment_keeps_no_more_than_its_box():
    large = np.zeros((200, 200, 100), bool)
    large[10:12, 50:53, 7] = True
    segment = Segment.of(name="x", number=1, mask=large)
    assert (segment.start, segment.voxels.shape, segment.voxels.base) == ((10, 50, 7), (2, 3, 1), None)


def test_labels_by_name_and_pattern():
    found = annotation(Liver=block((0, 2), (0, 4), (0, 3)), GTV_1=block((3, 5), (0, 1), (0, 1)))
    voxels, findings = to_label_map(found, Naming({"liver": 1, "tumour": 300}, {"gtv*": "tumour"}))
    assert voxels.dtype == np.int16
    assert {n: int((voxels == n).sum()) for n in (1, 300)} == {1: 24, 300: 2}
    assert findings == ()


def test_small_ids_are_uint8():
    assert to_label_map(annotation(a=block((0, 1), (0, 1), (0, 1))), {"a": 255})[0].dtype == np.uint8


def test_several_segments_of_one_label_are_united_and_may_overlap():
    found = annotation(GTV1=block((0, 2), (0, 1), (0, 1)), GTV2=block((1, 4), (0, 1), (0, 1)))
    voxels, findings = to_label_map(found, Naming({"tumour": 2}, {"GTV*": "tumour"}))
    assert (voxels == 2).sum() == 4
    assert [str(f) for f in findings] == ["united segments: 2 segments became tumour: 'GTV1', 'GTV2'."]


def test_an_unmapped_name_is_left_out_with_a_finding():
    found = annotation(liver=block((0, 1), (0, 1), (0, 1)), heart=block((1, 3), (0, 2), (0, 1)))
    voxels, findings = to_label_map(found, {"liver": 1})
    assert voxels.sum() == 1
    assert [(f.code, f.severity) for f in findings] == [("unmapped_name", "warning")]
    assert "'heart' (4 voxels)" in findings[0].message


def test_a_name_mapped_to_null_is_left_out_silently():
    found = annotation(couch=block((0, 1), (0, 1), (0, 1)))
    voxels, findings = to_label_map(found, Naming({"liver": 1}, {"couch": None}))
    assert not voxels.any()
    assert findings == ()


def test_when_no_name_is_mapped_there_is_no_map():
    with pytest.raises(
        DicomError, match=r"None of the names in the annotation \('GVT'\) means one of the labels tumour"
    ):
        to_label_map(annotation(GVT=block((0, 1), (0, 1), (0, 1))), {"tumour": 1})


def test_no_segments_make_an_empty_map():
    voxels, findings = to_label_map(annotation(), {"tumour": 1})
    assert voxels.shape == SHAPE
    assert not voxels.any()
    assert findings == ()


OVERLAPPING = {"liver": block((0, 3), (0, 4), (0, 3)), "tumour": block((2, 4), (0, 2), (0, 3))}  # 1×2×3 voxels shared


def test_overlap_is_refused_with_its_voxels():
    with pytest.raises(DicomError, match=r"overlapping segments: liver and tumour share 6 voxels.*overlap 'last'"):
        to_label_map(annotation(**OVERLAPPING), {"liver": 1, "tumour": 2})


@pytest.mark.parametrize(("labels", "winner"), [({"liver": 1, "tumour": 2}, 2), ({"tumour": 2, "liver": 1}, 1)])
def test_the_last_of_the_list_wins_when_asked(labels, winner):
    voxels, findings = to_label_map(annotation(**OVERLAPPING), labels, overlap="last")
    assert set(np.unique(voxels[2, :2])) == {winner}
    assert [(f.code, f.severity) for f in findings] == [("overlapping_segments", "warning")]
    assert "share 6 voxels" in findings[0].message
