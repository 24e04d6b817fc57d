"""The demo from start to end, small; and again, when everything is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medseg3d.demo import DemoPlan, run_demo, training_command
from medseg3d.errors import MedsegError

PLAN = DemoPlan(cases=2, test_cases=1, size=(48, 48, 32), epochs=1, iterations_per_epoch=2)


@pytest.mark.slow
def test_demo_makes_masks_scores_and_a_picture_and_reuses_them(tmp_path: Path) -> None:
    said: list[str] = []
    first = run_demo(tmp_path, PLAN, say=said.append)
    assert first.reused == ()
    assert any("python -m monai.bundle run training" in line for line in said)
    assert {"ct_003.nii.gz", "ct_003.json", "cases.csv", "summary.json", "montage.png"} == {
        path.name for path in first.masks.iterdir()
    }
    assert (tmp_path / "run" / "run.json").is_file()
    weights = (tmp_path / "run" / "best.pt").read_bytes()

    second = run_demo(tmp_path, PLAN, say=said.append)
    assert [text.split()[0] for text in second.reused] == ["data", "weights"]
    assert (tmp_path / "run" / "best.pt").read_bytes() == weights
    assert second.summary.dice == pytest.approx(first.summary.dice, nan_ok=True)

    with pytest.raises(MedsegError, match="holds a demo made with other options"):
        run_demo(tmp_path, replace(PLAN, epochs=3), say=said.append)


def test_training_goes_through_monais_runner() -> None:
    command = training_command(Path("study/dataset.json"), Path("run"), PLAN)
    assert command[1:5] == ["-m", "monai.bundle", "run", "training"]
    files = json.loads(command[command.index("--config_file") + 1])
    assert [Path(file).name for file in files] == ["train.yaml", "low_resolution.yaml"]
