"""Several conversions into one folder: names that do not depend on the run, and what stays, merges and is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotated_study import label_of, only, organs, refusals, study
from numpy.testing import assert_array_equal
from synthetic_series import SyntheticSeries

from medseg3d.dicom import ConvertOptions, convert
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.naming import Naming
from medseg3d.errors import UsageError

FORCE = ConvertOptions(force=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestNames:
    def test_a_name_is_the_same_alone_and_among_others(self, tmp_path):
        first, second = SyntheticSeries(seed=1), SyntheticSeries(seed=2)
        first.write(tmp_path / "in" / "a")
        alone = only(convert(tmp_path / "in", tmp_path / "1"))
        second.write(tmp_path / "in" / "b")
        both = convert(tmp_path / "in", tmp_path / "2")
        chosen = only(convert(tmp_path / "in", tmp_path / "3", options=ConvertOptions(series_uid=first.series_uid)))
        assert [r.name for r in both if r.series.uid == first.series_uid] == [alone.name] == [chosen.name]

    def test_force_never_replaces_another_series(self, tmp_path):
        for number in (1, 2):  # one patient, one series number, one description
            SyntheticSeries(seed=number).write(tmp_path / str(number))
        convert(tmp_path / "1", tmp_path / "out")
        before = contents(tmp_path / "out")
        convert(tmp_path / "2", tmp_path / "out", options=FORCE)
        after = contents(tmp_path / "out")
        assert len(after) == 2 * len(before) == 4
        assert before.items() <= after.items()

    def test_one_series_uid_in_two_studies_has_two_names(self, tmp_path):
        for number in (1, 2):
            SyntheticSeries(seed=number, series_uid="1.2.3.4").write(tmp_path / "in" / str(number))
        first, second = convert(tmp_path / "in", tmp_path / "out")
        assert first.name.lower() != second.name.lower()


class TestForce:
    def test_what_was_there_stays_when_the_new_volume_fails(self, tmp_path):
        folder = study(tmp_path / "in")
        convert(folder, tmp_path / "out")
        before = contents(tmp_path / "out")
        (folder / "ct" / "CT_0004.dcm").unlink()
        assert "gap" in refusals(only(convert(folder, tmp_path / "out", options=FORCE)))
        assert contents(tmp_path / "out") == before

    def test_what_was_there_stays_when_the_disk_is_full(self, tmp_path, monkeypatch):
        SyntheticSeries().write(tmp_path / "in")
        convert(tmp_path / "in", tmp_path / "out")
        before = contents(tmp_path / "out")

        def disk_full(*_args, **_options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("medseg3d.dicom.volume_files.write_nifti", disk_full)
        result = only(convert(tmp_path / "in", tmp_path / "out", options=FORCE))
        assert "No space left on device" in refusals(result)
        assert contents(tmp_path / "out") == before

    def test_files_that_the_new_volume_has_not_go(self, tmp_path):
        folder = study(tmp_path / "in")
        name = only(convert(folder, tmp_path / "out")).name
        (folder / "rtstruct.dcm").unlink()
        convert(folder, tmp_path / "out", options=ConvertOptions(suffix=".nii", force=True))
        assert sorted(contents(tmp_path / "out")) == [f"images/{name}.json", f"images/{name}.nii", "labels.json"]


def labelled(naming: Naming | None) -> ConvertOptions:
    return ConvertOptions(labels=LabelRules(naming))


class TestLabelIds:
    def test_ids_that_contradict_earlier_label_maps_are_refused(self, tmp_path):
        convert(study(tmp_path / "1", patient="one", names=("liver", "kidney")), tmp_path / "out")
        before = contents(tmp_path / "out")
        second = study(tmp_path / "2", patient="two", names=("kidney", "liver"))
        with pytest.raises(UsageError, match=r"other ids.*: kidney is 1 here and 2 there; Liver is 2 here"):
            convert(second, tmp_path / "out", options=labelled(Naming({"kidney": 1, "Liver": 2})))
        with pytest.raises(UsageError, match="2 is spleen here and kidney there"):
            convert(second, tmp_path / "out", options=labelled(Naming({"liver": 1, "spleen": 2})))
        assert contents(tmp_path / "out") == before

    def test_others_are_added(self, tmp_path):
        convert(study(tmp_path / "1", patient="one", names=("Liver", "kidney")), tmp_path / "out")
        second = study(tmp_path / "2", patient="two", names=("kidney", "aorta"))
        result = only(
            convert(second, tmp_path / "out", options=labelled(Naming({"liver": 1, "aorta": 7, "kidney": 2})))
        )
        ids = json.loads((tmp_path / "out" / "labels.json").read_text())
        assert ids == {"Liver": 1, "kidney": 2, "aorta": 7}
        assert_array_equal(label_of(result), np.array([0, 2, 7])[organs()])
