"""Lists of 2D images: JSON there and back, what is refused, and the items that bundles are fed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg3d.errors import DataListError, UsageError
from medseg3d.images import (
    Box,
    ImageItem,
    ImageList,
    ImageRef,
    evaluation_items,
    is_image_list,
    read_image_list,
    testing_items,
    training_items,
    validation_items,
    write_image_list,
)


def item(name: str, *, patient: str = "", fold: int | None = None, **truth) -> ImageItem:
    return ImageItem(name, patient or name, ImageRef(Path(f"/data/{name}.png")), fold, **truth)


def classes(**changes) -> ImageList:
    values = {
        "path": Path("/lists/a.json"), "name": "a", "task": "classification", "labels": {"cat": 0, "dog": 1},
        "training": (item("x", classes=("cat",), fold=0), item("y", classes=("dog",), fold=1)),
        "testing": (item("z"),),
    }  # fmt: skip
    return ImageList(**(values | changes))


BOX = Box((1.0, 2.0, 3.5, 4.0), "cell", difficult=True)
BOXES = {"task": "detection", "labels": {"cell": 1}, "testing": ()}
MASKS = {"task": "segmentation_2d", "labels": {"a": 1, "b": 2}, "testing": ()}

LISTS = {
    "classes": classes(),
    "several classes": classes(multi_label=True, training=(item("x", classes=()), item("y", classes=("dog", "cat")))),
    "boxes": classes(**BOXES, training=(item("x", boxes=(BOX,)), item("y", boxes=()))),
    "pages": classes(**MASKS, training=(ImageItem("x", "p", ImageRef(Path("/d/x.tif"), 3),
                                                  masks=(ImageRef(Path("/d/m.tif"), 3),)),)),
    "overlapping masks": classes(**MASKS, multi_label=True, training=(
        item("x", masks=(ImageRef(Path("/d/a.png")), ImageRef(Path("/d/b.png")))),)),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_written_reads_back_equal(tmp_path, name):
    path = tmp_path / "lists" / "a.json"
    write_image_list(LISTS[name], path)
    assert is_image_list(path)
    read = read_image_list(path)
    assert read == ImageList(**(vars(LISTS[name]) | {"path": path}))


def test_paths_are_relative_to_the_file(tmp_path):
    images = classes(training=(ImageItem("x", "x", ImageRef(tmp_path / "d" / "x.png"), classes=("cat",)),), testing=())
    write_image_list(images, tmp_path / "lists" / "a.json")
    assert json.loads((tmp_path / "lists" / "a.json").read_text())["training"][0]["image"] == "../d/x.png"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"cat": 1, "dog": 2}}, r"for classification give names and ids from 0 on, each once"),
        ({"labels": {"cat": 0, "dog": 0}}, r"each once"),
        (BOXES | {"labels": {"cell": 0}, "training": ()}, r"from 1 on, because 0 is background"),
        ({"training": (item("x", classes=("bird",)),)}, r"x has the classes bird, which labels does not name"),
        ({"training": (item("x", classes=("cat", "dog")),)}, r"x has 2 classes \(cat, dog\): give one"),
        ({"training": (item("x", classes=()),)}, r"x has 0 classes \(none\): give one, or say \"multi_label\": true"),
        ({"training": (item("x"),)}, r'x has no "classes": add it, or move the image to testing'),
        ({"training": (item("x", classes=("cat",)), item("x", classes=("dog",)))}, r"used more than once \(x\)"),
        ({"training": (item("x/y", classes=("cat",)),)}, r"'x/y' cannot name a mask file"),
        (
            {"training": (item("x", classes=("cat",), fold=0), item("y", classes=("cat",)))},
            r"1 of 2 training cases have no fold \(y\)",
        ),
        (BOXES | {"training": (item("x", boxes=(Box((3, 1, 3, 2), "cell"),)),)}, r"x, box 0: \[3, 1, 3, 2\] is not"),
        (BOXES | {"training": (item("x", boxes=(Box((3, 1, 4, 2), "dog"),)),)}, r"x has the classes dog"),
        (MASKS | {"multi_label": True, "training": (item("x", masks=(ImageRef(Path("a.png")),)),)}, r"1 masks: give 2"),
    ],
)
def test_what_no_list_can_mean_is_refused(changes, message):
    with pytest.raises(DataListError, match=message):
        classes(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, r"its task is 'regression', not one of classification, detection, segmentation_2d"),
        ({"label": {}}, r"the list has the key 'label': did you mean 'labels'\?"),
        ({"training": [{"case": "x", "image": "x.png", "patients": "p"}]}, r"training\[0\] has the key 'patients'"),
        (
            {"training": [{"case": "x", "image": 3, "classes": ["cat"]}]},
            r"training\[0\]: 'image' is 3, it must be text",
        ),
        ({"training": [{"case": "x", "image": "x.png", "classes": "cat"}]}, r"\"classes\" must be a list of names"),
        ({"labels": {"cat": "0"}}, r'"labels" must map names to ids'),
        ({"multi_label": "yes"}, r'"multi_label" is text, it must be true or false'),
    ],
)
def test_a_malformed_file_is_refused_with_its_entry(tmp_path, change, message):
    path = tmp_path / "a.json"
    good = {"task": "classification", "labels": {"cat": 0}, "training": [], "testing": []}
    path.write_text(json.dumps(good | change))
    with pytest.raises(DataListError, match=message):
        read_image_list(path)


def test_boxes_are_checked_one_by_one(tmp_path):
    path = tmp_path / "a.json"
    entry = {"case": "x", "image": "x.png", "boxes": [{"xyxy": [1, 2, 3], "label": "cell"}]}
    path.write_text(json.dumps({"task": "detection", "labels": {"cell": 1}, "training": [entry]}))
    with pytest.raises(DataListError, match=r'training\[0\]: boxes\[0\]: "xyxy" must be four numbers'):
        read_image_list(path)


# Items ---------------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, images: ImageList) -> Path:
    path = tmp_path / "a.json"
    write_image_list(images, path)
    return path


def test_items_of_classes(tmp_path):
    path = written(tmp_path, classes())
    assert training_items(path, fold=0) == [{"case": "y", "patient": "y", "image": "/data/y.png", "label": 1}]
    assert [i["case"] for i in validation_items(path, fold=0)] == ["x"]
    assert [i["case"] for i in training_items(path, fold=-1)] == ["x", "y"]
    assert validation_items(path, fold=-1) == []
    assert testing_items(path) == [{"case": "z", "patient": "z", "image": "/data/z.png"}]
    with pytest.raises(UsageError, match="has no fold 7: there are 0, 1"):
        training_items(path, fold=7)


def test_a_training_is_judged_by_the_testing_images_whose_truth_is_known(tmp_path):
    assert [i["case"] for i in evaluation_items(written(tmp_path, classes()), fold=0)] == ["x"]  # z has no class
    known = classes(testing=(item("z"), item("w", classes=("cat",))))
    assert [i["case"] for i in evaluation_items(written(tmp_path, known), fold=0)] == ["w"]
    assert evaluation_items(written(tmp_path, classes()), fold=-1) == []


def test_items_of_several_classes_are_vectors(tmp_path):
    first, second = training_items(written(tmp_path, LISTS["several classes"]), fold=-1)
    assert first["label"].dtype == np.float32
    np.testing.assert_array_equal(first["label"], [0, 0])
    np.testing.assert_array_equal(second["label"], [1, 1])


def test_items_of_boxes(tmp_path):
    first, second = training_items(written(tmp_path, LISTS["boxes"]), fold=-1)
    np.testing.assert_array_equal(first["boxes"], np.array([[1, 2, 3.5, 4]], np.float32))
    assert (first["box_labels"].tolist(), first["difficult"].tolist()) == ([1], [True])
    assert second["boxes"].shape == (0, 4)
    assert (second["boxes"].dtype, second["box_labels"].dtype, second["difficult"].dtype) == (
        np.float32,
        np.int64,
        bool,
    )


def test_items_of_masks(tmp_path):
    assert training_items(written(tmp_path, LISTS["pages"]), fold=-1)[0]["label"] == "/d/m.tif#page=3"
    assert training_items(written(tmp_path, LISTS["overlapping masks"]), fold=-1)[0]["label"] == [
        "/d/a.png",
        "/d/b.png",
    ]


def test_folds_that_are_made_group_patients_and_spread_classes(tmp_path):
    many = tuple(item(f"i{n}", patient=f"p{n // 2}", classes=(("cat", "dog")[n % 4 < 2],)) for n in range(40))
    path = written(tmp_path, classes(training=many))
    held_out = [validation_items(path, fold=fold) for fold in range(5)]
    assert sorted(i["case"] for part in held_out for i in part) == sorted(i.case for i in many)
    assert all(len({i["patient"] for i in part}) == 4 for part in held_out)
    assert all(sum(i["label"] for i in part) == 4 for part in held_out)
    trained = {i["patient"] for i in training_items(path, fold=0)}
    assert not trained & {i["patient"] for i in held_out[0]}


def test_folds_that_share_a_patient_are_refused(tmp_path):
    shared = (item("x", patient="p", classes=("cat",), fold=0), item("y", patient="p", classes=("dog",), fold=1))
    with pytest.raises(DataListError, match=r"1 patients are in more than one fold \(p in folds 0, 1\)"):
        training_items(written(tmp_path, classes(training=shared)), fold=0)
