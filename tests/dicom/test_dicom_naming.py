"""The YAML of ROI names: what it maps, and every way it can be wrong."""

from __future__ import annotations

import pytest

from medseg3d.dicom.naming import Naming, read_naming
from medseg3d.errors import UsageError

YAML = """
labels: {liver: 1, tumour: 2}
names:
  "GTV*": tumour
  hepar: liver
  "couch*": null
  "GTV-old": liver   # never reached: the first pattern that fits counts
"""


@pytest.fixture
def naming(tmp_path):
    path = tmp_path / "names.yaml"
    path.write_text(YAML)
    return read_naming(path)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("liver", "liver"), ("LIVER", "liver"), (" Tumour ", "tumour"), ("GTV", "tumour"), ("gtv_primary", "tumour"),
        ("Hepar", "liver"), ("GTV-old", "tumour"), ("my GTV", None), ("heart", None), ("CouchSurface", None),
    ],
)  # fmt: skip
def test_names_mean_labels(naming, name, label):
    assert naming.label_of(name) == label


def test_null_leaves_out_on_purpose(naming):
    assert [naming.ignores(name) for name in ("Couch 1", "heart", "liver", "GTV")] == [True, False, False, False]


def test_a_label_of_its_own_name_wins_over_a_pattern():
    naming = Naming({"GTV": 1, "nodes": 2}, {"*": "nodes"})
    assert (naming.label_of("gtv"), naming.label_of("anything")) == ("GTV", "nodes")
    assert not Naming({"liver": 1}, {"*": None}).ignores("liver")


def test_brackets_and_question_marks_are_wildcards():
    naming = Naming({"lung": 1}, {"lung_[lr]": "lung", "lungs?": "lung"})
    assert [naming.label_of(n) for n in ("Lung_L", "lung_r", "lung_x", "lungs2", "lungs")] == [
        "lung", "lung", None, "lung", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: {a: 1}\nname: {b: a}", r"unknown key name; known are labels, names"),
        ("labels: {a: 1, b: 1}", r"labels a and b have the same id, 1"),
        ("labels: {a: 0}", r"label a has the id 0: a whole number from 1 to 32767"),
        ("labels: {a: 1.5}", r"label a has the id 1\.5"),
        ("labels: {a: true}", r"label a has the id True"),
        ("labels: {a: 40000}", r"40000"),
        ("labels: {Liver: 1, liver: 2}", r"labels Liver and liver differ only in case"),
        ("labels: {yes: 1}", r"label name True is not a text: put it in quotes"),
        ("labels: {}", r"No label is defined"),
        ("labels: [a, b]", r"labels is not a mapping"),
        ("labels: {a: 1}\nnames: {'x*': b}", r"pattern 'x\*' means the label 'b', which is not defined; defined are a"),
        ("labels: {a: 1}\nnames: {1: a}", r"pattern 1 is not a text"),
        ("labels: {a: 1, a: 2}", r"'a' stands there twice"),
        ("labels: {a: 1}\nlabels: {b: 2}", r"'labels' stands there twice"),
        ("- a", r"no mapping with the key labels"),
        ("", r"no mapping with the key labels"),
        ("labels: {a: 1", r"not readable as YAML"),
    ],
)
def test_errors_name_the_file_and_the_fault(tmp_path, text, message):
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_naming(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_naming(tmp_path / "none.yaml")
