"""Start a training from the weights of another: what fits is taken over by name and shape, the rest stays random."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medseg3d.engines.parallel import bare_network
from medseg3d.errors import CheckpointError

__all__ = ["WarmStart", "start_from"]

# Of the network's values. Unrelated networks of one library share names and some shapes, but few values.
LEAST_SHARE = 0.1
# A log names this many tensors of each kind; run.json names all.
NAMED = 3

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class WarmStart:
    """What was taken over from a file of weights, by the names of tensors in the state dict, each by one of them.

    Attributes:
        file: where the weights lay.
        sha256: of the file.
        share: of the network's values that were loaded, 0 to 1.
        loaded: taken over.
        other_shape: name → (shape in the file, shape in the network); these stay random.
        new: not in the file; these stay random.
        unused: in the file alone.
    """

    file: str
    sha256: str
    share: float
    loaded: tuple[str, ...]
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def table(self) -> str:
        """A line a kind, for people."""
        shapes = [f"{name} {old}, here {new}" for name, (old, new) in self.other_shape.items()]
        kinds = {"loaded": self.loaded, "other shape": shapes, "not in the file": self.new, "unused": self.unused}
        lines = [f"  {kind:<16}{len(names):>5} tensors{_some(names)}" for kind, names in kinds.items()]
        return "\n".join([f"Warm start from {self.file}: {self.share:.1%} of the network's values.", *lines])

    def as_json(self) -> dict[str, Any]:
        """For ``run.json``: what was loaded as a number, the rest by name."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "share": round(self.share, 6),
            "loaded": len(self.loaded),
            "other_shape": {name: [list(shape) for shape in shapes] for name, shapes in self.other_shape.items()},
            "new": list(self.new),
            "unused": list(self.unused),
        }


def start_from(network: torch.nn.Module, weights: str | Path) -> WarmStart:
    """Load into ``network`` every tensor of ``weights`` that has its name and shape, and log what was loaded.

    An output layer is taken over where it has as many channels as here, whatever they meant.

    Args:
        network: changed in place; wrapped for several processes or not.
        weights: a bundle's ``models/model.pt``, a run's ``best.pt``, or a folder: of a bundle, or of a run.

    Raises:
        CheckpointError: there are no weights, they cannot be read without unpickling code, or less than a tenth of the
            network's values is in them.
    """
    # Inference imports the engines.
    from medseg3d.inference.weights import file_sha256, read_state

    path = _weights_file(Path(weights))
    network = bare_network(network)
    state = read_state(path)
    found = _compare(network.state_dict(), state, file=path, sha256=file_sha256(path))
    if found.share < LEAST_SHARE:
        tensors = len(found.loaded) + len(found.other_shape) + len(found.new)
        raise CheckpointError(
            f"{path}: weights of another network: {found.share:.1%} of this network's values are in them "
            f"({len(found.loaded)} of {tensors} tensors by name and shape). Compare network_def with the one that was "
            "trained, or leave warm_start out."
        )
    network.load_state_dict({name: state[name] for name in found.loaded}, strict=False)
    logger.info("%s", found.table())
    return found


def _weights_file(path: Path) -> Path:
    """The file itself, or that of a bundle or run folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no file or folder there. Let --warm_start name a bundle, a run or its weights.")
    files = [path / "models" / "model.pt", path / "best.pt"]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(
        f"{path}: holds neither models/model.pt (a bundle) nor best.pt (a run). Name one of them, or a file of weights."
    )


def _compare(
    wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], *, file: Path, sha256: str
) -> WarmStart:
    loaded: list[str] = []
    other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    new: list[str] = []
    for names in _aliases(wanted):
        named = next((name for name in names if name in state), None)
        if named is None:
            new.append(names[0])
        elif state[named].shape == wanted[named].shape:
            loaded.append(named)
        else:
            other_shape[named] = (tuple(state[named].shape), tuple(wanted[named].shape))
    values = sum(wanted[names[0]].numel() for names in _aliases(wanted))
    return WarmStart(
        file=str(file),
        sha256=sha256,
        share=sum(wanted[name].numel() for name in loaded) / max(1, values),
        loaded=tuple(loaded),
        other_shape=other_shape,
        new=tuple(new),
        unused=tuple(name for name in state if name not in wanted),
    )


def _aliases(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names of each tensor: some networks, DynUNet among them, know one by several."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        names.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return list(names.values())


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f": {listed}" if names else ""
