"""Reading and writing data lists: every spelling that is read, every refusal with its message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg3d.datalist import Case, DataList, read_datalist, training_items, write_datalist
from medseg3d.errors import DataListError

OWN = {
    "name": "study",
    "modality": "CT",
    "labels": {"liver": 1, "lesion": 2},
    "regions": {"organ": [1, 2]},
    "channels": ["ct", "pet"],
    "training": [
        {"case": "a", "patient": "p", "image": ["a_ct.nii.gz", "a_pet.nii.gz"], "label": "a.nii.gz", "fold": 1},
        {"case": "b", "patient": "q", "image": ["b_ct.nii.gz", "b_pet.nii.gz"], "label": "b.nii.gz", "fold": 0},
    ],
    "testing": [{"case": "c", "patient": "r", "image": ["c_ct.nii.gz", "c_pet.nii.gz"]}],
}
MSD = {
    "name": "Spleen",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "spleen"},
    "training": [{"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"}],
    "test": ["./imagesTs/spleen_1.nii.gz"],
}
NNUNET = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}


def written(folder: Path, values: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(values))
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def with_training(**entry: object) -> dict[str, object]:
    """The MSD list with one training entry changed."""
    return MSD | {"training": [MSD["training"][0] | entry]}


def test_own_spelling(tmp_path):
    datalist = read_datalist(written(tmp_path, OWN))
    assert datalist.path == tmp_path / "dataset.json"
    assert (datalist.name, datalist.modality, datalist.channels) == ("study", "CT", ("ct", "pet"))
    assert datalist.labels == {"liver": 1, "lesion": 2}
    assert datalist.regions == {"organ": (1, 2)}
    assert datalist.folds == (0, 1)
    assert datalist.training[0] == Case(
        case="a",
        patient="p",
        image=(tmp_path / "a_ct.nii.gz", tmp_path / "a_pet.nii.gz"),
        label=tmp_path / "a.nii.gz",
        fold=1,
    )
    assert datalist.testing[0].label is None


def test_msd_spelling(tmp_path):
    datalist = read_datalist(written(tmp_path, MSD))
    assert datalist.labels == {"spleen": 1}
    assert (datalist.modality, datalist.channels, datalist.regions) == ("CT", ("CT",), {})
    image, label = tmp_path / "imagesTr/spleen_2.nii.gz", tmp_path / "labelsTr/spleen_2.nii.gz"
    assert datalist.training == (Case(case="spleen_2", patient="spleen_2", image=(image,), label=label),)
    assert datalist.testing[0].case == "spleen_1"


def test_auto3dseg_spelling(tmp_path):
    entries = [{"image": f"{n}.nii.gz", "label": f"{n}_l.nii.gz", "fold": n % 2} for n in range(4)]
    datalist = read_datalist(
        written(tmp_path, {"labels": {"a": 1}, "training": entries, "testing": [{"image": "t.mha"}]})
    )
    assert [case.fold for case in datalist.training] == [0, 1, 0, 1]
    assert datalist.name == tmp_path.name
    assert datalist.channels == ("image",)
    assert datalist.testing[0].case == "t"


def test_nnunet_cases_are_found(tmp_path):
    touch(tmp_path, *(f"imagesTr/x_{n}_000{c}.nii.gz" for n in (1, 2) for c in (0, 1)))
    touch(tmp_path, "labelsTr/x_1.nii.gz", "labelsTr/x_2.nii.gz", "labelsTr/._x_1.nii.gz")
    touch(tmp_path, "imagesTs/y_0000.nii.gz", "imagesTs/y_0001.nii.gz")
    datalist = read_datalist(written(tmp_path, NNUNET | {"numTraining": 2}))
    assert [case.case for case in datalist.training] == ["x_1", "x_2"]
    assert [path.name for path in datalist.training[1].image] == ["x_2_0000.nii.gz", "x_2_0001.nii.gz"]
    assert datalist.training[1].label == tmp_path / "labelsTr/x_2.nii.gz"
    assert (datalist.channels, datalist.modality) == (("T1", "T2"), "T1+T2")
    assert [case.case for case in datalist.testing] == ["y"]


def test_nnunet_regions_and_listed_files(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    dataset = {"p": {"images": ["p1.nii.gz", "p2.nii.gz"], "label": "p.nii.gz"}}
    datalist = read_datalist(written(tmp_path, NNUNET | {"labels": labels, "dataset": dataset}))
    assert datalist.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert datalist.labels == {"label_1": 1, "label_2": 2, "enhancing": 3}
    assert datalist.training[0].image == (tmp_path / "p1.nii.gz", tmp_path / "p2.nii.gz")


def test_cases_of_several_files_are_named_after_what_they_share(tmp_path):
    entries = [{"image": ["x/p1_t1.nii.gz", "x/p1_t2.nii.gz"], "label": "l.nii.gz"}]
    datalist = read_datalist(written(tmp_path, {"labels": {"a": 1}, "training": entries}))
    assert datalist.training[0].case == "p1"
    assert datalist.channels == ("channel_0", "channel_1")


def test_ignored_voxels_have_an_id_and_no_label(tmp_path):
    named = read_datalist(written(tmp_path, MSD | {"labels": {"0": "background", "1": "spleen", "2": "ignore"}}))
    own = read_datalist(written(tmp_path, MSD | {"labels": {"spleen": 1}, "ignore_label": 2}))
    assert (named.ignore_label, named.labels) == (own.ignore_label, own.labels) == (2, {"spleen": 1})
    write_datalist(own, tmp_path / "again.json")
    assert read_datalist(tmp_path / "again.json").ignore_label == 2


def test_a_missing_channel_is_null_there_and_back(tmp_path):
    entry = {"case": "a", "image": ["a_t1.nii.gz", None], "label": "l.nii.gz"}
    values = {"labels": {"a": 1}, "channels": ["T1", "T2"], "training": [entry]}
    datalist = read_datalist(written(tmp_path, values))
    (case,) = datalist.training
    assert case.image == (tmp_path / "a_t1.nii.gz", None)
    assert (case.files, case.missing(datalist.channels)) == ((tmp_path / "a_t1.nii.gz",), ("T2",))
    write_datalist(datalist, tmp_path / "again.json")
    assert read_datalist(tmp_path / "again.json").training == datalist.training
    assert training_items(tmp_path / "again.json", fold=-1)[0]["image"] == [str(tmp_path / "a_t1.nii.gz"), None]


def test_one_file_may_hold_all_channels(tmp_path):
    values = MSD | {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "tensorImageSize": "4D"}
    datalist = read_datalist(written(tmp_path, values))
    assert datalist.channels == ("FLAIR", "T1w", "t1gd", "T2w")
    assert len(datalist.training[0].image) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "holds a list, a data list is an object"),
        ({"training": []}, r"does not say what its labels mean: add for example \"labels\": {\"liver\": 1"),
        (MSD | {"labels": []}, '"labels" is a list, it must be an object'),
        (MSD | {"labels": {}}, "no label is named"),
        (MSD | {"labels": {"liver": 0}}, "label 'liver' has id 0, but 0 is background"),
        (MSD | {"labels": {"liver": 1, "spleen": 1}}, "liver, spleen all have id 1"),
        (MSD | {"labels": {"1": "liver", "2": "liver"}}, "two ids are named 'liver'"),
        (MSD | {"labels": {"liver": 1.5}}, "'liver': 1.5 is no label id"),
        (MSD | {"labels": {"liver": True}}, "'liver': True is no label id"),
        (MSD | {"labels": {"a": 1, "ignore": 2}, "ignore_label": 3}, r"voxels to ignore have the ids \[2, 3\]"),
        (MSD | {"ignore_label": 1}, "ignore_label is 1, which is the id of background or of a label"),
        (MSD | {"ignore_label": "9"}, "\"ignore_label\" is '9', it must be the id of voxels that nobody labelled"),
        (MSD | {"regions": {"r": [7]}}, r"region 'r' names the ids \[7\], which no label has"),
        (MSD | {"regions": {"r": []}}, "region 'r' has no label ids"),
        (MSD | {"regions": {"r": 1}}, '"regions" must be an object such as'),
        (
            MSD | {"labels": {"a": 1, "b": 2}, "regions": {"a": [1, 2]}},
            r"'a' is a label \(id 1\) and a region \(\[1, 2\]\)",
        ),
        (MSD | {"channels": "ct"}, '"channels" must be a list of names'),
        (MSD | {"channels": ["a", "a"]}, r"channels are \['a', 'a'\]: name each once"),
        (MSD | {"modality": {"1": "CT"}}, "'modality' must number its channels from 0"),
        (MSD | {"modality": 3}, "'modality' is a number, it must be text"),
        (
            with_training(image=["spleen_2_a.nii.gz", "spleen_2_b.nii.gz"]),
            "spleen_2 has 2 image files, the list names 1 channels",
        ),
        (with_training(image=[None]), r'training\[0\]: "image" must be a path, or a list of one path a channel'),
        (MSD | {"training": {}, "test": []}, "there is no case, in training or in testing"),
        (MSD | {"training": {"a": 1}}, "'training' is an object, it must be a list of cases"),
        (MSD | {"training": ["x.nii.gz"]}, r"training\[0\] is text, it must be an object"),
        (MSD | {"validation": [{}]}, 'has a part "validation": put its entries into training'),
        (MSD | {"testing": ["x.nii.gz"]}, 'a part "testing" and a part "test": keep one'),
        (with_training(label=None), r"1 training cases have no label \(spleen_2\): add the label, or move"),
        (with_training(label=["a"]), r'training\[0\]: "label" must be one path'),
        (with_training(image=None), r'training\[0\]: "image" must be a path, or a list'),
        (with_training(fold="0"), r"training\[0\]: \"fold\" is '0', it must be a whole number"),
        (with_training(fold=-2), r"training\[0\]: Case spleen_2 is in fold -2: folds are numbered from 0"),
        (with_training(case="a/b"), r"training\[0\]: The case name 'a/b' cannot name a mask file"),
        (with_training(case=[1]), r"training\[0\]: 'case' is \[1\], it must be a name"),
        (with_training(patiant="p"), r"training\[0\] has the key 'patiant': did you mean 'patient'"),
        (with_training(subject="p"), r"training\[0\] has the key 'subject': did you mean 'patient'"),
        (with_training(patient="p"), r"1 of 2 entries name no patient \(./imagesTs/spleen_1.nii.gz\)"),
        (MSD | {"training": MSD["training"] * 2}, r"1 case names are used more than once \(spleen_2\)"),
        (
            OWN | {"training": [OWN["training"][0], {k: v for k, v in OWN["training"][1].items() if k != "fold"}]},
            r"1 of 2 training cases have no fold \(b\): give every case a fold, or none and run",
        ),
        ({"labels": {"a": 1}, "file_ending": ".nii.gz"}, 'without "channel_names" they cannot be found'),
        (NNUNET | {"file_ending": ".png"}, "\"file_ending\" is '.png', volumes end in"),
        (NNUNET | {"dataset": {"p": {}}}, 'dataset: \'p\' must be an object with "images" and "label"'),
        (NNUNET, "imagesTr does not exist: nnU-Net's dataset.json lists no cases"),
    ],
)
def test_refused(tmp_path, values, message):
    with pytest.raises(DataListError, match=message):
        read_datalist(written(tmp_path, values))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["imagesTr/x.nii.gz"], "x.nii.gz does not end in a channel number"),
        (["imagesTr/x_0000.nii.gz"], r"case x has the channels \[0\], dataset.json names 2"),
        (["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/y.nii.gz"], "1 images in imagesTr .*: x"),
        (["imagesTr/.keep", "labelsTr/y.nii.gz"], "1 labels in labelsTr have no image in imagesTr: y"),
        (
            ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x.nii.gz"],
            "announces numTraining 5, but imagesTr holds 1 cases",
        ),
    ],
)
def test_nnunet_folders_refused(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(DataListError, match=message):
        read_datalist(written(tmp_path, NNUNET | {"numTraining": 5}))


def test_files_that_are_no_data_list(tmp_path):
    with pytest.raises(DataListError, match=r"absent.json does not exist: .*medseg3d datalist build"):
        read_datalist(tmp_path / "absent.json")
    with pytest.raises(DataListError, match="is a folder: name the file in it"):
        read_datalist(tmp_path)
    path = tmp_path / "x.json"
    path.write_text('{"labels": {"a": 1},\n oops}')
    with pytest.raises(DataListError, match=r"no valid JSON: .* in line 2, column 2"):
        read_datalist(path)
    path.write_text('{"labels": {"a": 1, "a": 2}}')
    with pytest.raises(DataListError, match="the key 'a' stands twice"):
        read_datalist(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataListError, match="is not text in UTF-8"):
        read_datalist(path)


def test_paths_are_relative_to_the_file_wherever_it_lies(tmp_path):
    datalist = read_datalist(written(tmp_path, MSD))
    elsewhere = tmp_path / "lists" / "deep" / "a.json"
    write_datalist(datalist, elsewhere)
    assert json.loads(elsewhere.read_text())["training"][0]["image"] == "../../imagesTr/spleen_2.nii.gz"
    assert read_datalist(elsewhere) == replace(datalist, path=elsewhere)
    assert [file.name for file in elsewhere.parent.iterdir()] == ["a.json"]


def test_a_list_that_cannot_be_written_leaves_nothing(tmp_path):
    datalist = read_datalist(written(tmp_path, MSD))
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataListError, match="taken cannot be written"):
        write_datalist(datalist, tmp_path / "taken")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset.json", "taken"]


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=8)
SAFE_NAMES = NAMES.filter(lambda name: name not in (".", ".."))


@st.composite
def datalists(draw) -> DataList:
    channels = tuple(draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)))
    names = draw(st.lists(SAFE_NAMES, min_size=1, max_size=6, unique=True))
    labels = draw(st.dictionaries(NAMES, st.integers(1, 99), min_size=1, max_size=4))
    labels = {name: i for i, name in enumerate(labels, start=1)}
    folded, trained = draw(st.booleans()), draw(st.integers(1, len(names)))
    root = Path("/data") / draw(SAFE_NAMES)
    cases = tuple(
        Case(
            case=name,
            patient=draw(SAFE_NAMES),
            image=tuple(root / f"{i}_{c}.nii.gz" for c in range(len(channels))),
            label=root / f"l{i}.nii.gz" if i < trained or draw(st.booleans()) else None,
            fold=draw(st.integers(0, 4)) if folded and i < trained else None,
        )
        for i, name in enumerate(names)
    )
    return DataList(
        path=Path("/x.json"),
        name=draw(NAMES),
        modality=draw(st.sampled_from(["", "CT", "MRI"])),
        labels=labels,
        regions=draw(st.just({}) | st.just({"all of it, as a region": tuple(labels.values())})),
        channels=channels,
        training=cases[:trained],
        testing=cases[trained:],
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datalist=datalists(), depth=st.integers(0, 3))
def test_what_is_written_is_read_back(tmp_path, datalist, depth):
    path = tmp_path.joinpath(*["d"] * depth, "list.json")
    write_datalist(datalist, path)
    assert read_datalist(path) == replace(datalist, path=path)
