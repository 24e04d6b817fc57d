"""Lists of 2D images made from folders, tables, masks and boxes; and bad input, named by file and row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg3d.errors import DataListError, UsageError
from medseg3d.images import Box, Split, build_image_list, check_image_list, write_image_list
from medseg3d.images.drafts import DraftBox
from medseg3d.images.inspect import _boxes, _Notes
from medseg3d.images.splitting import parse_shares, read_split_files


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, np.uint8)).save(path)
    return path


def mask(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def build(source: Path, **options):
    return build_image_list(source, path=source.parent / "list.json", workers=1, **options)


def errors(report) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == "error"]


def warnings(report) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == "warning"]


# Classes -------------------------------------------------------------------------------------------------------------


def test_a_folder_a_class(tmp_path):
    for n in range(4):
        picture(tmp_path / "d" / ("dog" if n % 2 else "cat") / f"{n}.png", n)
    picture(tmp_path / "d" / "cat" / "deep" / "9.jpg", 9)
    report = build(tmp_path / "d")
    assert report.ok
    assert report.images.labels == {"cat": 0, "dog": 1}
    assert {i.case: i.classes for i in report.images.training} == {
        "0": ("cat",), "2": ("cat",), "9": ("cat",), "1": ("dog",), "3": ("dog",)
    }  # fmt: skip
    assert "every image counts as a patient of its own" in warnings(report)[0]


def test_equal_names_in_two_classes_are_told_apart_by_the_folder(tmp_path):
    picture(tmp_path / "d" / "cat" / "a.png", 0)
    picture(tmp_path / "d" / "dog" / "a.png", 1)
    assert [i.case for i in build(tmp_path / "d").images.training] == ["cat_a", "dog_a"]
    picture(tmp_path / "d" / "dog" / "a.bmp", 2)
    with pytest.raises(DataListError, match=r"1 names stand for several images \(d_dog_a\)"):
        build(tmp_path / "d")


def test_parts_that_are_split_already(tmp_path):
    for n, part in enumerate(["train", "train", "val", "test"]):
        for c in ("cat", "dog"):
            picture(tmp_path / "d" / part / c / f"{c}{n}.png", 2 * n + (c == "dog"))
    images = build(tmp_path / "d").images
    assert {i.case: i.fold for i in images.training} == {
        "cat0": 1,
        "dog0": 1,
        "cat1": 1,
        "dog1": 1,
        "cat2": 0,
        "dog2": 0,
    }
    assert [i.case for i in images.testing] == ["cat3", "dog3"]
    with pytest.raises(UsageError, match="says how it is split already"):
        build(tmp_path / "d", split=Split(folds=2))


@pytest.fixture
def table(tmp_path) -> Path:
    for n in range(6):
        picture(tmp_path / "d" / "images" / f"i{n}.png", n)
    rows = [f"i{n}.png,{'ab'[n % 2]},P{n // 2}" for n in range(6)]
    return text(tmp_path / "d" / "labels.csv", "\n".join(["Image Index,Finding Labels,Patient ID", *rows]))


def test_a_table_with_patients(table):
    report = build(table)
    assert report.ok
    assert not report.findings
    assert [(i.case, i.classes, i.patient) for i in report.images.training][:2] == [
        ("i0", ("a",), "P0"), ("i1", ("b",), "P0")
    ]  # fmt: skip
    assert build(table.parent).images.training == report.images.training  # the folder finds its table


def test_several_labels_an_image(table):
    text(table, "image,label\ni0.png,a|b\ni1,b\nimages/i2.png,No Finding\ni3.png,\n")
    report = build(table)
    assert report.images.multi_label
    assert [i.classes for i in report.images.training] == [("a", "b"), ("b",), (), ()]
    assert "2 images of" in warnings(report)[0]
    assert "have no row: i4.png, i5.png" in warnings(report)[0]


def test_a_column_a_class(table):
    text(table, "image,MEL,NV\ni0,1.0,0.0\ni1,0,1\n")
    images = build(table).images
    assert (images.labels, images.multi_label) == ({"MEL": 0, "NV": 1}, False)
    assert [i.classes for i in images.training] == [("MEL",), ("NV",)]


def test_parts_and_folds_in_a_table(table):
    text(table, "image,label,split\ni0,a,train\ni1,b,train\ni2,a,val\ni3,b,test\n")
    images = build(table).images
    assert ([i.fold for i in images.training], len(images.testing)) == ([1, 1, 0], 1)
    text(table, "image,label,fold\ni0,a,0\ni1,b,1\ni2,a,2\n")
    assert build(table).images.folds == (0, 1, 2)


def test_labels_in_an_order_of_ones_own(table):
    assert build(table, labels=("b", "a", "c")).images.labels == {"b": 0, "a": 1, "c": 2}


# Bad input, by file and row ------------------------------------------------------------------------------------------


def test_a_row_without_a_file(table):
    text(table, "image,label\ni0.png,a\ni1.png,b\ni77.png,a\ni0.png,b\n")
    report = build(table)
    assert not report.ok
    assert errors(report)[0].startswith("labels.csv, row 4: no image 'i77.png' in ")
    assert errors(report)[1] == "labels.csv, row 5: i0.png stands in row 2 too"


def test_a_name_that_means_two_files(table):
    picture(table.parent / "more" / "i0.png", 50)
    report = build(table)
    assert "labels.csv, row 2: 'i0.png' may be images/i0.png, more/i0.png: give its path" in errors(report)[0]


def test_a_class_that_is_unknown(table):
    report = build(table, labels=("a", "c"))
    assert errors(report) == [f"labels.csv, row {row}: class 'b' is none of a, c." for row in (3, 5, 7)]


def test_a_row_without_a_class_or_a_patient(table):
    text(table, "image,label,patient\ni0.png,a,P\ni1.png,b,\n")
    assert "labels.csv, row 3: no patient: name one in every row" in errors(build(table))[0]
    text(table, "image,label\ni0.png,a\ni1.png,\n")
    with pytest.raises(DataListError, match=r"no label in 1 rows \(3\): name a class, or pass --multi-label"):
        build(table)


def test_a_truncated_jpeg(tmp_path):
    for n in range(3):
        picture(tmp_path / "d" / ("cat", "dog")[n % 2] / f"{n}.jpg", n)
    broken = tmp_path / "d" / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-60])
    report = build(tmp_path / "d")
    [message] = errors(report)
    assert message.startswith("dog/1.jpg: ")
    assert "1.jpg: the image cannot be decoded (image file is truncated" in message


def test_an_image_that_shows_nothing(table):
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(table.parent / "images" / "i3.png")
    assert "labels.csv, row 5: i3.png is 7 in every pixel, so it shows nothing" in errors(build(table))[0]


def test_the_same_pixels_under_two_patients_are_a_leak(table):
    Image.open(table.parent / "images" / "i0.png").save(table.parent / "images" / "i5.png", compress_level=1)
    report = build(table)
    assert errors(report) == [
        "i5 has the same image as i0; they are listed as the patients P0 and P2. Remove one of them."
    ]
    text(table, table.read_text().replace("i5.png,b,P2", "i5.png,b,P0"))
    assert build(table).ok
    assert "it counts twice in training" in warnings(build(table))[0]


def test_a_patient_in_two_parts_is_a_leak(table):
    text(table, "image,label,patient,split\ni0,a,P0,train\ni1,b,P0,val\ni2,a,P1,train\ni3,b,P1,test\n")
    assert [m.split(":")[0] for m in errors(build(table))] == [
        "Patient P0 is in the folds 0, 1", "Patient P1 is in training and in testing",
    ]  # fmt: skip


def test_a_folder_that_contradicts_the_table(tmp_path):
    for n, c in enumerate("abab"):
        picture(tmp_path / "d" / c / f"{n}.png", n)
    text(tmp_path / "d" / "m.csv", "image,label,patient\na/0.png,a,P\nb/1.png,a,P\na/2.png,a,Q\nb/3.png,b,Q\n")
    assert errors(build(tmp_path / "d")) == ["m.csv, row 3: 1.png has the class a, but lies in the folder b"]


def test_what_has_no_layout(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(DataListError, match="no layout of 2D images that is known: a folder a class"):
        build(tmp_path / "d")
    with pytest.raises(DataListError, match="does not exist: name a folder of images, a CSV or a COCO file"):
        build(tmp_path / "none")


# Masks ---------------------------------------------------------------------------------------------------------------

SQUARE = np.zeros((20, 30), np.uint8)
SQUARE[5:9, 6:12] = 1


def test_masks_are_matched_by_name_and_not_by_order(tmp_path):
    for n, name in enumerate(["b", "a", "c"]):
        picture(tmp_path / "d" / "images" / f"{name}.jpg", n)
        mask(tmp_path / "d" / "masks" / f"{name}_mask.png", SQUARE * 255)
    report = build(tmp_path / "d")
    assert report.ok
    assert report.images.labels == {"foreground": 1}
    assert {i.case: i.masks[0].path.name for i in report.images.training} == {n: f"{n}_mask.png" for n in "abc"}
    assert [dict(facts.voxels) for facts in report.facts] == [{1: 24}] * 3


def test_a_mask_of_another_size(tmp_path):
    picture(tmp_path / "d" / "images" / "a.png", 0)
    picture(tmp_path / "d" / "images" / "b.png", 1)
    mask(tmp_path / "d" / "masks" / "a.png", SQUARE)
    mask(tmp_path / "d" / "masks" / "b.png", SQUARE.T)
    assert errors(build(tmp_path / "d")) == [
        "b.png and b.png: b.png has 20×30 pixels, its image 30×20: export the mask again at that size."
    ]


def test_a_mask_that_is_missing_or_left_over(tmp_path):
    picture(tmp_path / "d" / "images" / "a.png", 0)
    picture(tmp_path / "d" / "images" / "b.png", 1)
    mask(tmp_path / "d" / "masks" / "a.png", SQUARE)
    assert errors(build(tmp_path / "d"))[0].startswith("b.png: no mask of this name in ")
    mask(tmp_path / "d" / "masks" / "z.png", SQUARE)
    with pytest.raises(DataListError, match=r"1 of 2 labels have no image of the same name: z.png"):
        build(tmp_path / "d")


def test_ids_of_masks(tmp_path):
    picture(tmp_path / "d" / "images" / "a.png", 0)
    mask(tmp_path / "d" / "labels" / "a.png", SQUARE * 3 + np.roll(SQUARE, 8, axis=0))
    report = build(tmp_path / "d")
    assert report.images.labels == {"label_1": 1, "label_3": 3}
    assert "Name them, as in --labels" in "".join(warnings(report))
    [message] = errors(build(tmp_path / "d", labels={"lesion": 1}))
    assert "a.png holds ids that labels does not name: 3 (" in message


def test_overlapping_masks_in_a_folder_a_label(tmp_path):
    picture(tmp_path / "d" / "images" / "a.png", 0)
    mask(tmp_path / "d" / "masks" / "disc" / "a.png", SQUARE * 255)
    mask(tmp_path / "d" / "masks" / "cup" / "a.png", np.roll(SQUARE, 1, axis=0) * 255)
    images = build(tmp_path / "d").images
    assert (images.labels, images.multi_label) == ({"cup": 1, "disc": 2}, True)
    assert [m.path.parent.name for m in images.training[0].masks] == ["cup", "disc"]


def test_pages_become_images_of_one_patient(tmp_path):
    pages = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (20, 30), np.uint8)) for n in range(3)]
    for folder, files in (("images", pages), ("masks", [Image.fromarray(SQUARE)] * 3)):
        (tmp_path / "d" / folder).mkdir(parents=True)
        files[0].save(tmp_path / "d" / folder / "a.tif", save_all=True, append_images=files[1:])
    report = build(tmp_path / "d")
    assert report.ok
    assert [(i.case, i.patient, i.image.page, i.masks[0].page) for i in report.images.training] == [
        (f"a_{n:03d}", "a", n, n) for n in range(3)
    ]


def test_dicom_names_its_patients_by_pseudonyms(tmp_path):
    """Told by PatientID, which does not stand in the list."""
    from test_images_reading import dicom

    for n, patient in enumerate(["Miller", "Miller", "Smith", ""]):
        (tmp_path / "d" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (6, 6)).astype(np.uint16)
        dicom(tmp_path / "d" / "ab"[n % 2] / f"{n}.dcm", pixels, PatientID=patient)
    patients = {i.case: i.patient for i in build(tmp_path / "d", task="classification").images.training}
    assert patients["0"] == patients["1"] != patients["2"]
    assert patients["3"] == "3"
    assert not {"Miller", "Smith"} & set(patients.values())


# Boxes ---------------------------------------------------------------------------------------------------------------


def voc(folder: Path, name: str, *boxes: tuple) -> None:
    picture(folder / "JPEGImages" / f"{name}.jpg", sum(map(ord, name)))
    objects = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1, difficult in boxes
    )
    text(folder / "Annotations" / f"{name}.xml", f"<annotation><filename>x.jpg</filename>{objects}</annotation>")


def test_voc_counts_pixels_from_one(tmp_path):
    voc(tmp_path / "d", "a", ("cell", 1, 1, 30, 20, 0), ("cell", 3, 4, 5, 6, 1))
    voc(tmp_path / "d", "b")
    report = build(tmp_path / "d")
    assert report.ok
    first, second = report.images.training
    assert first.boxes == (Box((0, 0, 30, 20), "cell"), Box((2, 3, 5, 6), "cell", difficult=True))
    assert second.boxes == ()


def test_boxes_outside_and_without_area_are_named_and_left_out(tmp_path):
    voc(tmp_path / "d", "a", ("cell", 3, 4, 3, 4, 0), ("cell", 20, 5, 40, 9, 0), ("cell", 50, 5, 60, 9, 0))
    report = build(tmp_path / "d")
    assert report.images.training[0].boxes == (Box((19, 4, 30, 9), "cell"),)
    assert [m for m in warnings(report) if m.startswith("a.xml")] == [
        "a.xml, object 1: cell at 3, 4, 3, 4 has no area and is left out.",
        "a.xml, object 2: cell at 19, 4, 40, 9 reaches 10 pixels out of the image of 30×20 and is cut.",
        "a.xml, object 3: cell at 49, 4, 60, 9 lies outside the image of 30×20 and is left out.",
    ]


@given(st.lists(st.tuples(*[st.floats(-50, 80)] * 4), max_size=6))
@settings(max_examples=100, deadline=None)
def test_every_box_is_kept_inside_or_accounted_for(corners):
    notes = _Notes("a", "a.xml")
    drafts = [DraftBox(Box(c, "cell"), f"object {n}") for n, c in enumerate(corners)]
    kept = _boxes(drafts, (20, 30), notes)
    assert all(0 <= b.xyxy[0] < b.xyxy[2] <= 30 and 0 <= b.xyxy[1] < b.xyxy[3] <= 20 for b in kept)
    left_out = [f for f in notes.findings if f.code in ("box-without-area", "box-outside")]
    assert len(kept) + len(left_out) == len(corners)


def test_voc_that_cannot_be_used_is_named(tmp_path):
    voc(tmp_path / "d", "a", ("cell", 1, 1, 9, 9, 0))
    text(tmp_path / "d" / "Annotations" / "b.xml", "<annotation>")
    text(tmp_path / "d" / "Annotations" / "c.xml", "<annotation><filename>c.jpg</filename></annotation>")
    voc(tmp_path / "d", "e", ("cell", "left", 1, 9, 9, 0))
    found = errors(build(tmp_path / "d"))
    assert found[0].startswith("b.xml: no readable XML")
    assert found[1].startswith("c.xml: no image 'c.jpg' in ")
    assert found[2].startswith("e.xml: e.xml, object 1: no bndbox with the numbers")


def test_given_lists_become_folds(tmp_path):
    for name in "abc":
        voc(tmp_path / "d", name, ("cell", 1, 1, 9, 9, 0))
    text(tmp_path / "d" / "ImageSets" / "Main" / "train.txt", "a\nc  1\n")
    text(tmp_path / "d" / "ImageSets" / "Main" / "val.txt", "b\nz\n")
    files = read_split_files(["train.txt", "val.txt"], [tmp_path / "d"])
    report = build(tmp_path / "d", split=Split(files=files))
    assert {i.case: i.fold for i in report.images.training} == {"a": 1, "b": 0, "c": 1}
    assert errors(report) == ["val.txt, row 2: no image 'z' in the data set"]
    text(tmp_path / "d" / "ImageSets" / "Main" / "val.txt", "a\n")
    with pytest.raises(DataListError, match=r"val.txt, row 1: a is in the training list too"):
        build(tmp_path / "d", split=Split(files=read_split_files(["train.txt", "val.txt"], [tmp_path / "d"])))
    with pytest.raises(UsageError, match="--split-files: none"):
        read_split_files(["none.txt", "val.txt"], [tmp_path / "d"])


def coco(path: Path, **changes) -> Path:
    picture(path.parent / "pics" / "a.png", 0)
    picture(path.parent / "pics" / "b.png", 1)
    values = {
        "images": [{"id": 7, "file_name": "a.png", "patient": "P"}, {"id": 9, "file_name": "b.png", "patient": "Q"}],
        "categories": [{"id": 5, "name": "wbc"}, {"id": 3, "name": "rbc"}],
        "annotations": [{"image_id": 7, "category_id": 5, "bbox": [2, 3, 4.5, 5], "iscrowd": 1}],
    }
    return text(path, json.dumps(values | changes))


def test_coco(tmp_path):
    report = build(coco(tmp_path / "d" / "c.json"))
    assert report.ok
    assert report.images.labels == {"rbc": 1, "wbc": 2}
    assert [(i.patient, i.boxes) for i in report.images.training] == [
        ("P", (Box((2, 3, 6.5, 8), "wbc", difficult=True),)), ("Q", ())
    ]  # fmt: skip
    assert build(tmp_path / "d").images.training == report.images.training


def test_boxes_that_were_drawn_on_another_size(tmp_path):
    """Images that were made smaller after they had been annotated: the boxes may lie inside and be wrong."""
    images = [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}]
    [message] = errors(build(coco(tmp_path / "d" / "c.json", images=images)))
    assert message.startswith("c.json, image 7: boxes were drawn on 60×40 pixels, a.png has 30×20: they do not lie")
    voc(tmp_path / "v", "a", ("cell", 1, 1, 9, 9, 0))
    xml = tmp_path / "v" / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<object>", "<size><width>20</width><height>30</height></size><object>"))
    assert errors(build(tmp_path / "v"))[0].startswith("a.xml: boxes were drawn on 20×30 pixels, a.jpg has 30×20")


def test_patients_of_boxes_and_masks_from_a_table_beside_them(tmp_path):
    for name in "abc":
        voc(tmp_path / "d", name, ("cell", 1, 1, 9, 9, 0))
    text(tmp_path / "d" / "m.csv", "image,patient\na.jpg,P\nb.jpg,P\nc.jpg,Q\n")
    report = build(tmp_path / "d")
    assert [i.patient for i in report.images.training] == ["P", "P", "Q"]
    text(tmp_path / "d" / "m.csv", "image,patient\na.jpg,P\nz.jpg,P\n")
    found = errors(build(tmp_path / "d"))
    assert found[0].startswith("m.csv, row 3: no image 'z.jpg' in ")
    assert found[1] == "m.csv: no patient of 2 images: b.jpg, c.jpg. Name each, or remove the column"


def test_coco_that_contradicts_itself(tmp_path):
    annotations = [
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]},
        {"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 9, "category_id": 3, "bbox": [0, 0, 1]},
    ]
    with pytest.raises(
        DataListError, match=r"c.json, annotation 1: no image has the id 8, .*annotation 0: no category"
    ):
        build(coco(tmp_path / "d" / "c.json", annotations=annotations))
    report = build(coco(tmp_path / "d" / "c.json", annotations=annotations[:2]))
    assert len(errors(report)) == 2


def test_yolo(tmp_path):
    picture(tmp_path / "d" / "images" / "train" / "a.png", 0)
    picture(tmp_path / "d" / "images" / "val" / "b.png", 1)
    text(tmp_path / "d" / "labels" / "train" / "a.txt", "1 0.5 0.5 0.2 0.1\n0 0.1 0.2 0.4 0.2 0.4 0.6\n")
    text(tmp_path / "d" / "labels" / "val" / "b.txt", "")
    text(tmp_path / "d" / "data.yaml", "names: {0: rbc, 1: wbc}\n")
    images = build(tmp_path / "d").images
    assert images.labels == {"rbc": 1, "wbc": 2}
    first, second = images.training
    np.testing.assert_allclose(first.boxes[0].xyxy, (12, 9, 18, 11))
    np.testing.assert_allclose(first.boxes[1].xyxy, (3, 4, 12, 12))
    assert (first.fold, second.fold, second.boxes) == (1, 0, ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2 0.5 0.5 0.2 0.1", "a.txt, row 2: class 2 is unknown; 2 are named, from 0"),
        ("0 12 10 5 5", "a.txt, row 2: '0 12 10 5 5' are pixels; YOLO's rows are shares"),
        ("0 0.5 0.5 0.2", "a.txt, row 2: '0 0.5 0.5 0.2' is not class, x, y, width and height"),
        ("cell 0.5 0.5 0.2 0.1", "is not a class and numbers"),
    ],
)
def test_yolo_rows_that_cannot_be_used(tmp_path, row, message):
    picture(tmp_path / "d" / "images" / "a.png", 0)
    picture(tmp_path / "d" / "images" / "b.png", 1)
    text(tmp_path / "d" / "labels" / "a.txt", f"0 0.5 0.5 0.2 0.1\n{row}\n")
    text(tmp_path / "d" / "classes.txt", "rbc\nwbc\n")
    assert message in errors(build(tmp_path / "d"))[0]


# Splits --------------------------------------------------------------------------------------------------------------


def test_shares():
    assert parse_shares("80/20") == (80.0, 20.0, 0.0)
    for wrong in ("70", "70/0/30", "a/b", "70-15-15"):
        with pytest.raises(UsageError, match="as in 70/15/15"):
            parse_shares(wrong)


def test_a_split_by_shares_groups_patients_and_balances_classes(tmp_path):
    rows = ["image,label,patient"]
    for n in range(60):
        picture(tmp_path / "d" / f"i{n}.png", n, (4, 5))
        rows.append(f"i{n}.png,{'ab'[n % 3 == 0]},P{n // 2}")
    images = build(text(tmp_path / "d" / "t.csv", "\n".join(rows)), split=Split(shares=(70, 15, 15))).images
    parts = [[i for i in images.training if i.fold == 1], [i for i in images.training if i.fold == 0], images.testing]
    assert [len(part) for part in parts] == pytest.approx([42, 9, 9], abs=2)
    assert [sum(i.classes == ("b",) for i in part) for part in parts] == pytest.approx([14, 3, 3], abs=1)
    patients = [{i.patient for i in part} for part in parts]
    assert not patients[0] & patients[1]
    assert not patients[0] & patients[2]
    assert not patients[1] & patients[2]


def test_a_list_that_was_built_checks_well(table, tmp_path):
    report = build(table, split=Split(folds=3))
    write_image_list(report.images, tmp_path / "list.json")
    again = check_image_list(report.images)
    assert again.ok
    assert again.images.folds == (0, 1, 2)
    assert again.to_json()["labels"] == [
        {"label": "a", "label_id": 0, "images": 3, "count": 3}, {"label": "b", "label_id": 1, "images": 3, "count": 3}
    ]  # fmt: skip
    (table.parent / "images" / "i2.png").unlink()
    assert [f.code for f in check_image_list(report.images).findings] == ["missing"]


@pytest.mark.real_data
def test_blood_cells_and_chest_xrays(data_dir):
    files = read_split_files(["train.txt", "val.txt"], [data_dir / "blood_cells"])
    report = build_image_list(data_dir / "blood_cells", path="cells.json", split=Split(files=files))
    assert report.ok
    assert [f.message.split(":")[0] for f in report.findings if f.code == "box-without-area"] == [
        "BloodImage_00338.xml, object 13", "BloodImage_00343.xml, object 4"
    ]  # fmt: skip
    assert {name: report.label_amount(i) for name, i in report.images.labels.items()} == {
        "Platelets": 292, "RBC": 3348, "WBC": 301
    }  # fmt: skip
    assert [sum(i.fold == fold for i in report.images.training) for fold in (0, 1)] == [87, 205]
    report = build_image_list(data_dir / "chest_xray", path="xray.json", split=Split(shares=(70, 15, 15)))
    assert report.ok
    assert (len(report.images.training), len({i.patient for i in report.images.training})) == (665, 444)
