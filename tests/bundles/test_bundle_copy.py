"""Copies of bundles: editable, whole, and never over something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle, copy_bundle, find_bundle
from medseg3d.cli import app
from medseg3d.errors import OutputError, UsageError

SOURCE = find_bundle("mri_hippocampus_segmentation")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A bundle with weights, whose hash it states, and with what a training leaves."""
    bundle = copy_bundle(SOURCE, tmp_path / "trained")
    torch.save({"weight": torch.zeros(2)}, bundle / "models" / "model.pt")
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": {"models/model.pt": "0" * 64}}))
    (bundle / "runs" / "fold0").mkdir(parents=True)
    (bundle / "runs" / "fold0" / "last.pt").write_bytes(b"large")
    return bundle


def files(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_with_weights_all_but_the_runs(trained: Path, tmp_path: Path) -> None:
    copied = copy_bundle(trained, tmp_path / "mine")
    assert files(copied) == {name: content for name, content in files(trained).items() if not name.startswith("runs")}
    assert "configs/unet_2d.yaml" in files(copied)


def test_without_weights_ready_to_train(trained: Path, tmp_path: Path) -> None:
    copied = copy_bundle(trained, tmp_path / "mine", weights=False)
    assert [path.name for path in (copied / "models").iterdir() if not path.name.startswith(".")] == []
    assert check_bundle(copied) == []  # no hash of what is gone


def test_into_a_folder_of_bundles(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert copy_bundle(trained, folder) == folder / "trained"
    assert (folder / "notes.txt").read_text() == "mine"


def test_nothing_is_overwritten(trained: Path, tmp_path: Path) -> None:
    mine = copy_bundle(trained, tmp_path / "mine")
    (mine / "configs" / "train.yaml").write_text("edited")
    with pytest.raises(OutputError, match="mine is there already and is not overwritten"):
        copy_bundle(trained, mine)
    assert (mine / "configs" / "train.yaml").read_text() == "edited"


def test_a_copy_that_fails_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg3d.bundles.copying.shutil.copytree", full)
    with pytest.raises(OutputError, match="No space left"):
        copy_bundle(trained, tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trained"]


def test_not_into_itself(trained: Path) -> None:
    with pytest.raises(UsageError, match="lies inside"):
        copy_bundle(trained, trained / "configs" / "copy")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bundle", "copy", SOURCE.name, "mine", "--no-weights"])
    assert result.exit_code == 0
    assert "mine: edit configs/train.yaml" in result.output
    assert (tmp_path / "mine" / "configs" / "train.yaml").is_file()
