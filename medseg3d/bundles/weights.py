"""Weights as a bundle holds them: one bare state dict a member, each tried in the network that it is packed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medseg3d.bundles.runs import TrainedWeights
from medseg3d.errors import ConfigError
from medseg3d.inference.weights import file_sha256, load_weights, read_state

__all__ = ["PackedWeights", "build_network", "load_members", "member_name", "stored_state", "write_weights"]

NETWORK = "network_def"


@dataclass(frozen=True)
class PackedWeights:
    """A weights file of a bundle: its path inside it, its SHA-256, and the precision of its numbers."""

    file: str
    sha256: str
    dtype: str


def build_network(config: Mapping[str, Any]) -> torch.nn.Module:
    """The network of a configuration, on the CPU, with random weights.

    Raises:
        ConfigError: there is no network, or it cannot be made.
    """
    if NETWORK not in config:
        raise ConfigError(f"The configuration has no {NETWORK}: there is nothing to put weights into.")
    parser = ConfigParser({**config, "device": "cpu"})
    try:
        network = parser.get_parsed_content(NETWORK)
    except (RuntimeError, ValueError, KeyError, ImportError) as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{NETWORK} cannot be made: {type(cause).__name__}: {cause}.") from error
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"{NETWORK} makes a {type(network).__name__}, not a network of torch.")
    return network.eval()


def write_weights(
    trained: Sequence[TrainedWeights], bundle: Path, *, network: torch.nn.Module, float16: bool = False
) -> list[PackedWeights]:
    """Write each member's state dict to ``models/`` and load it back into ``network``.

    Args:
        trained: weights files or checkpoints, the first becomes ``models/model.pt``.
        bundle: folder that is being written.
        network: every key and shape must fit it.
        float16: store floating-point numbers with half the bytes; they are computed with as float32 again.

    Raises:
        CheckpointError: a file that cannot be read, or is of another network.
    """
    (bundle / "models").mkdir(exist_ok=True)
    packed = []
    for number, member in enumerate(trained):
        load_weights(network, member.path)  # says which file does not fit, by its own name
        state = stored_state(read_state(member.path), float16=float16)
        path = bundle / "models" / member_name(number)
        torch.save(state, path)
        load_weights(network, path)
        packed.append(PackedWeights(f"models/{path.name}", file_sha256(path), "float16" if float16 else "float32"))
    return packed


def member_name(number: int) -> str:
    """``model.pt``, which MONAI Label and the model zoo look for; further members are ``model_2.pt``, ….

    >>> [member_name(number) for number in range(3)]
    ['model.pt', 'model_2.pt', 'model_3.pt']
    """
    return "model.pt" if number == 0 else f"model_{number + 1}.pt"


def load_members(bundle: Path, files: Sequence[PackedWeights], config: Mapping[str, Any]) -> list[torch.nn.Module]:
    """A network for each weights file of a bundle."""
    members = []
    for packed in files:
        network = build_network(config)
        load_weights(network, bundle / packed.file)
        members.append(network)
    return members


def stored_state(state: Mapping[str, torch.Tensor], *, float16: bool) -> dict[str, torch.Tensor]:
    """A state dict as it is written: each tensor a copy, and one that stands under several names written once.

    DynUNet names most of its weights twice; a file that forgets that they are the same is twice as large.
    """
    known: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], torch.Tensor] = {}
    stored = {}
    for name, tensor in state.items():
        same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if same not in known:
            known[same] = _stored(tensor, float16)
        stored[name] = known[same]
    return stored


def _stored(tensor: torch.Tensor, float16: bool) -> torch.Tensor:
    # A copy: a tensor that is a view would be written with all that it is a view of.
    half = float16 and tensor.dtype in (torch.float32, torch.float64)
    return tensor.detach().to(dtype=torch.float16 if half else tensor.dtype, device="cpu").contiguous().clone()
