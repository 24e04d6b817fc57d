"""Weights taken over from another training: what fits, what does not, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet

from medseg3d.engines import start_from
from medseg3d.errors import CheckpointError


def network(*, classes: int = 3, channels: int = 1, filters: tuple[int, ...] = (4, 8, 8), seed: int = 0) -> DynUNet:
    torch.manual_seed(seed)
    return DynUNet(3, channels, classes, [3] * 3, [1, 2, 2], [2, 2], filters=filters, deep_supervision=True)


def saved(path: Path, module: torch.nn.Module, *, inside: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = module.state_dict()
    torch.save({inside: state, "epoch": 3} if inside else state, path)
    return path


def test_the_same_network_is_loaded_whole(tmp_path):
    source, target = network(seed=1), network(seed=2)
    found = start_from(target, saved(tmp_path / "model.pt", source))
    assert found.share == 1.0
    assert found.other_shape == {}
    assert found.new == found.unused == ()
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_other_classes_leave_the_heads_random(tmp_path, caplog):
    source, target = network(seed=1), network(classes=5, seed=2)
    heads = {name for name, _ in target.named_parameters() if "output_block" in name or "heads" in name}
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with caplog.at_level("INFO", logger="medseg3d"):
        found = start_from(target, saved(tmp_path / "model.pt", source))
    old, new = dict(source.named_parameters()), dict(target.named_parameters())
    assert all(torch.equal(new[name], before[name]) for name in heads)
    assert all(torch.equal(new[name], old[name]) for name in new if name not in heads)
    assert found.other_shape["output_block.conv.conv.weight"] == ((3, 4, 1, 1, 1), (5, 4, 1, 1, 1))
    values = sum(value.numel() for value in new.values())
    assert found.share == pytest.approx(1 - sum(new[name].numel() for name in heads) / values)
    assert (
        "other shape         4 tensors: output_block.conv.conv.weight (3, 4, 1, 1, 1), here (5, 4, 1, 1, 1)"
        in caplog.text
    )
    assert f"{found.share:.1%} of the network's values" in caplog.text


def test_other_channels_leave_the_first_layer_random(tmp_path):
    target = network(channels=2, seed=2)
    found = start_from(target, saved(tmp_path / "model.pt", network(seed=1)))
    assert found.other_shape == {"input_block.conv1.conv.weight": ((4, 1, 3, 3, 3), (4, 2, 3, 3, 3))}


def test_a_tensor_of_two_names_counts_once(tmp_path):
    """Files of DynUNets without deep supervision know each tensor by fewer names."""
    source, target = network(seed=1), network(seed=2)
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("skip_layers.")}
    torch.save(state, tmp_path / "model.pt")
    found = start_from(target, tmp_path / "model.pt")
    assert found.share == 1.0
    assert found.new == ()


def test_encoder_alone_and_tensors_of_no_use(tmp_path):
    source = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 4), "old": torch.nn.Linear(2, 2)})
    target = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 3)})
    found = start_from(target, saved(tmp_path / "model.pt", source))
    assert found.loaded == ("encoder.weight", "encoder.bias")
    assert found.new == ("head.weight", "head.bias")
    assert found.unused == ("old.weight", "old.bias")
    assert found.share == pytest.approx(20 / 35)
    assert found.as_json()["new"] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("file", "inside"), [("models/model.pt", ""), ("best.pt", "network")], ids=["a bundle", "a run"]
)
def test_folders(tmp_path, file, inside):
    path = saved(tmp_path / file, network(seed=1), inside=inside)
    for named in (tmp_path, path, str(path)):
        assert start_from(network(), named).file == str(path)


def test_another_network_is_refused(tmp_path):
    path = saved(tmp_path / "model.pt", network(seed=1))
    target = network(filters=(6, 10, 12), seed=2)
    before = [value.clone() for value in target.parameters()]
    with pytest.raises(
        CheckpointError, match=r"weights of another network: 0\.\d% of this network's values.*network_def"
    ):
        start_from(target, path)
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds neither models/model.pt \(a bundle\) nor best.pt \(a run\)"):
        start_from(network(), tmp_path)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"best.pt: no file or folder there. Let --warm_start name a bundle"):
        start_from(network(), tmp_path / "best.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Evil()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="unpickling runs code"):
        start_from(network(), tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()
