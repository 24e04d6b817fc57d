"""The network of a packed bundle as TorchScript and as ONNX, each compared with PyTorch before it is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata

from medseg3d.bundles.consistency import stride_of_network
from medseg3d.bundles.merge import Merged
from medseg3d.bundles.network_input import network_channels
from medseg3d.bundles.values import StaticValues
from medseg3d.bundles.weights import PackedWeights, load_members
from medseg3d.errors import ConfigError, UsageError
from medseg3d.inference.weights import file_sha256

__all__ = ["TOLERANCE", "Export", "MeanOfMembers", "export_networks"]

# Largest difference from PyTorch's outputs, as a part of the largest of them (of 1 where all are smaller). Both
# runtimes add in another order than PyTorch; measured differences are a hundredth of this.
TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxruntime")
ONNX_OPSET = 18
# Side of an example image in voxels or pixels where the configuration names no patch.
SIDE = 64

Runner = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Export:
    """An exported network.

    Attributes:
        file: its path inside the bundle.
        sha256: of the file.
        difference: largest difference from PyTorch's outputs, relative to the largest of them (at least 1).
        tolerance: what was allowed.
        tried_on: the shapes of the inputs that were compared.
    """

    file: str
    sha256: str
    difference: float
    tolerance: float
    tried_on: str


class MeanOfMembers(torch.nn.Module):
    """Several networks as one: its softmax (or sigmoid, with ``exclusive=False``) is the mean of theirs."""

    def __init__(self, members: Sequence[torch.nn.Module], *, exclusive: bool = True) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self.exclusive = exclusive

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the mean probability, of the shape that each member gives."""
        logits = torch.stack([member(image) for member in self.members])
        if self.exclusive:
            return logits.log_softmax(dim=2).logsumexp(dim=0)
        return torch.logit(logits.sigmoid().mean(dim=0), eps=1e-6)


def export_networks(
    bundle: Path,
    config: Mapping[str, Any],
    packed: Sequence[PackedWeights],
    metadata: Mapping[str, Any],
    *,
    torchscript: bool,
    onnx: bool,
) -> list[Export]:
    """Write ``models/model.ts`` and ``models/model.onnx``, as asked for; several members become one network.

    Raises:
        ConfigError: a network that cannot be exported, or computes something else afterwards.
        UsageError: ONNX is asked for and its packages are not installed.
    """
    if onnx:
        _require_onnx()
    network = _as_one(load_members(bundle, packed, config), config)
    example = _example(config)
    _require_tensor_network(network, example)
    exports = []
    if torchscript:
        path = bundle / "models" / "model.ts"
        _write_torchscript(network, example, path, config, metadata)
        exports.append(_compared(network, _load_torchscript(path), path, example, config))
    if onnx:
        path = bundle / "models" / "model.onnx"
        _write_onnx(network, example, path)
        exports.append(_compared(network, _onnx_runner(path), path, example, config))
    return exports


def _as_one(members: Sequence[torch.nn.Module], config: Mapping[str, Any]) -> torch.nn.Module:
    exclusive = not config.get("regions") and config.get("multi_label") is not True
    network = members[0] if len(members) == 1 else MeanOfMembers(members, exclusive=exclusive)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def _example(config: Mapping[str, Any]) -> torch.Tensor:
    """An image of the size of a patch; the same numbers at every call."""
    values = StaticValues(config)
    size = next((v for key in ("patch_size", "image_size") if isinstance(v := values.get(key), list)), None)
    if size is None:
        axes = values.get("network_def::spatial_dims")
        size = [SIDE] * (axes if isinstance(axes, int) else 3)
    channels = network_channels(config, values)
    count = len(channels) if channels is not None else values.get("network_def::in_channels")
    if not isinstance(count, int):
        raise ConfigError("The number of input channels is not known: name 'channels' in the configuration.")
    return torch.randn(1, count, *size, generator=torch.Generator().manual_seed(0))


def _larger(example: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """Two images, and of networks that see patches one stride larger: what a trace may have taken for constant."""
    axes = example.dim() - 2
    strides = stride_of_network(Merged(config=dict(config)), StaticValues(config), axes=axes) or (32,) * axes
    more = strides[0] if "patch_size" in config else 0  # networks of whole images may be made for one size
    shape = (2, example.shape[1], example.shape[2] + more, *example.shape[3:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _require_tensor_network(network: torch.nn.Module, example: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            answer = network(example)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"The network cannot be exported: it does not take one batch of images ({error}).") from error
    if not isinstance(answer, torch.Tensor):
        raise ConfigError(
            f"The network answers with a {type(answer).__name__}, and only networks that answer with one tensor are "
            "exported. Pack it without TorchScript and ONNX: `python -m monai.bundle` and medseg3d run it as it is."
        )


def _write_torchscript(
    network: torch.nn.Module, example: torch.Tensor, path: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    # Scripting loses the deep supervision heads of DynUNet, and knows less of Python than a trace needs.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace: the comparison on another shape finds them
        try:
            traced = torch.jit.trace(network, example, check_trace=False)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"The network cannot be traced for TorchScript: {error}") from error
        files = {"inference.json": json.dumps(dict(config)).encode()}
        # The same file for the same weights: no time stamp.
        save_net_with_metadata(
            traced, str(path), include_config_vals=False, meta_values=dict(metadata), more_extra_files=files
        )


def _load_torchscript(path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that torch.export will follow: Deploy reads TorchScript
        loaded: Runner = torch.jit.load(str(path), map_location="cpu").eval()
    return loaded


def _require_onnx() -> None:
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if missing:
        raise UsageError(f"ONNX needs {', '.join(missing)}, not installed here: pip install 'medseg3d[onnx]'.")


def _write_onnx(network: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    from torch.onnx import OnnxExporterError

    free = {0: "batch", **{axis: f"size_{axis - 2}" for axis in range(2, example.dim())}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                (example,),
                str(path),
                input_names=["image"],
                output_names=["pred"],
                dynamic_axes={"image": free, "pred": free},
                opset_version=ONNX_OPSET,
                dynamo=False,
                external_data=False,
            )
        except (OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"The network cannot be exported to ONNX: {error}") from error


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, NotImplemented, RuntimeException

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> torch.Tensor:
        try:
            return torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])
        except (Fail, InvalidArgument, NotImplemented, RuntimeException) as error:
            raise RuntimeError(str(error)) from error

    return run


def _compared(
    network: torch.nn.Module, exported: Runner, path: Path, example: torch.Tensor, config: Mapping[str, Any]
) -> Export:
    images = [example, _larger(example, config)]
    difference = max(_difference(network, exported, image, path) for image in images)
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"{path.name} computes something else than PyTorch: outputs differ by {difference:.1e} of the largest, "
            f"{TOLERANCE:.0e} is allowed. Pack the bundle without it."
        )
    shapes = " and ".join("×".join(map(str, image.shape)) for image in images)
    return Export(f"models/{path.name}", file_sha256(path), difference, TOLERANCE, shapes)


def _difference(network: torch.nn.Module, exported: Runner, image: torch.Tensor, path: Path) -> float:
    with torch.no_grad():
        expected = network(image)
        try:
            actual = exported(image)
        except RuntimeError as error:
            shape = "×".join(map(str, image.shape))
            raise ConfigError(f"{path.name} cannot compute an image of {shape}: {error}") from error
    if actual.shape != expected.shape:
        raise ConfigError(f"{path.name} answers with {tuple(actual.shape)}, PyTorch with {tuple(expected.shape)}.")
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1))
