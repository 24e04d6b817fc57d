"""The demo from start to end, small; and again, when everything is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medseg3d.demo import DemoPlan, run_demo, training_command
from medseg3d.dicom import read_series
from medseg3d.dicom.rtstruct_read import read_rtstruct
from medseg3d.dicom.seg_read import read_seg
from medseg3d.errors import MedsegError

PLAN = DemoPlan(cases=2, test_cases=1, size=(48, 48, 32), epochs=1, iterations_per_epoch=2)


def require_references(folder: Path, case: str) -> None:
    """The DICOM masks lie over the unseen series, and hold what the NIfTI mask holds."""
    volume = read_series(folder / "study" / "testing" / "ct_003" / "CT")
    mask = np.asarray(nibabel.load(folder / "unseen" / f"{case}.nii.gz").dataobj)
    labels = json.loads((folder / "data" / "testing" / "dataset.json").read_text())["labels"]
    read = {
        "seg": read_seg(folder / "unseen" / f"{case}.seg.dcm", volume.grid),
        "rtstruct": read_rtstruct(folder / "unseen" / f"{case}.rtstruct.dcm", volume.grid),
    }
    for kind, annotation in read.items():
        dicom = pydicom.dcmread(folder / "unseen" / f"{case}.{kind}.dcm")
        assert dicom.StudyInstanceUID == volume.grid.study_uid
        assert dicom.PatientID == "PHANTOM-003"
        assert {segment.name: segment.count for segment in annotation.segments if segment.count} == {
            name: int((mask == id_).sum()) for name, id_ in labels.items() if (mask == id_).any()
        }


@pytest.mark.slow
def test_demo_makes_masks_scores_and_a_picture_and_reuses_them(tmp_path: Path) -> None:
    said: list[str] = []
    first = run_demo(tmp_path, PLAN, say=said.append)
    assert first.reused == ()
    assert any("python -m monai.bundle run training" in line for line in said)
    (image,) = (tmp_path / "data" / "testing" / "images").glob("*.nii.gz")
    case = image.name.removesuffix(".nii.gz")
    masks = {f"{case}{suffix}" for suffix in (".nii.gz", ".json", ".seg.dcm", ".rtstruct.dcm")}
    assert masks | {"cases.csv", "summary.json", "report.html", "montage.png"} == {
        path.name for path in first.masks.iterdir()
    }
    assert (tmp_path / "run" / "run.json").is_file()
    require_references(tmp_path, case)
    weights = (tmp_path / "run" / "best.pt").read_bytes()

    second = run_demo(tmp_path, PLAN, say=said.append)
    assert [text.split()[0] for text in second.reused] == ["DICOM", "data", "weights"]
    assert (tmp_path / "run" / "best.pt").read_bytes() == weights
    assert second.summary.dice == pytest.approx(first.summary.dice, nan_ok=True)

    with pytest.raises(MedsegError, match="holds a demo made with other options"):
        run_demo(tmp_path, replace(PLAN, epochs=3), say=said.append)


def test_training_goes_through_monais_runner() -> None:
    command = training_command(Path("study/dataset.json"), Path("run"), PLAN)
    assert command[1:5] == ["-m", "monai.bundle", "run", "training"]
    files = json.loads(command[command.index("--config_file") + 1])
    assert [Path(file).name for file in files] == ["train.yaml", "low_resolution.yaml"]
