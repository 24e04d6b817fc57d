"""Sliding-window prediction that fits in the memory there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from monai.inferers import Inferer, sliding_window_inference

from medseg3d.errors import CaseError, UsageError

__all__ = ["SlidingWindow"]

logger = logging.getLogger(__name__)

Predictor = Callable[..., torch.Tensor]


class SlidingWindow(Inferer):
    """MONAI's sliding window with mirroring, compilation, and a second try when the GPU's memory is full.

    Called as every MONAI inferer: ``inferer(inputs, network)`` with ``inputs`` of shape (batch, channel, x, y, z) gives
    float32 logits of shape (batch, class, x, y, z). Windows are computed where the network's weights are. An image
    smaller than ``roi_size`` is padded, and the padding cut off again. Networks that answer with several heads (deep
    supervision) are reduced to the first, which is the one at full resolution.

    When CUDA runs out of memory the image is tried again with half the windows at a time, down to one, and then with
    the whole-image sums in main memory; each step is logged as a warning.

    Args:
        roi_size: window in voxels, as in training.
        sw_batch_size: windows computed at a time.
        overlap: part of a window, 0 to below 1, that its neighbour covers too.
        mode: weight of a window's voxels where windows overlap; ``"gaussian"`` trusts the middle most.
        padding_mode: how an image smaller than the window is filled up, as in ``torch.nn.functional.pad``.
        cval: the value that ``padding_mode="constant"`` fills in.
        mirror_axes: spatial axes (0, 1, 2) to mirror as test-time augmentation: the mean of the logits over all
            2^n combinations, at 2^n times the cost.
        compile: compile the network by inductor with frozen weights. Takes about half a minute once, so it pays for
            many cases on a CPU. Compiled again when the weights have changed since.

    Raises:
        CaseError: (at a call) one window alone does not fit in the GPU's memory.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.5,
        mode: Literal["gaussian", "constant"] = "gaussian",
        *,
        padding_mode: str = "constant",
        cval: float = 0.0,
        mirror_axes: Sequence[int] = (),
        compile: bool = False,
    ) -> None:
        super().__init__()
        if sw_batch_size < 1:
            raise UsageError(f"sw_batch_size is {sw_batch_size}; at least one window is computed at a time.")
        if not set(mirror_axes) <= set(range(len(roi_size))):
            raise UsageError(f"mirror_axes is {list(mirror_axes)}; a window of {list(roi_size)} has axes "
                             f"{list(range(len(roi_size)))}.")  # fmt: skip
        self.roi_size = tuple(roi_size)
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = mode
        self.padding_mode = padding_mode
        self.cval = cval
        self.mirror_axes = tuple(sorted(set(mirror_axes)))
        self.compile = compile
        self._compiled: dict[int, tuple[Any, Predictor]] = {}

    def __call__(self, inputs: torch.Tensor, network: Predictor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits of every voxel of ``inputs``; further arguments go to the network."""
        compute_device = _device_of(network, default=inputs.device)
        for sw_batch_size, stitch_device in self._attempts(compute_device):
            try:
                return sliding_window_inference(
                    inputs.to(stitch_device),
                    self.roi_size,
                    sw_batch_size,
                    self._predictor(network, sw_batch_size, args, kwargs),
                    self.overlap,
                    self.mode,
                    padding_mode=self.padding_mode,
                    cval=self.cval,
                    sw_device=compute_device,
                    device=stitch_device,
                )
            except torch.cuda.OutOfMemoryError:
                logger.warning(
                    "GPU memory is full with %d window(s) at a time, sums on %s; trying with less.",
                    sw_batch_size,
                    stitch_device,
                )
            # Out of the except block, where the traceback would keep the failed attempt's tensors alive.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise CaseError(
            f"One window of {'×'.join(map(str, self.roi_size))} voxels does not fit in the GPU's free memory. "
            "Free it, choose a smaller patch_size, or run with --device cpu."
        )

    def _attempts(self, compute_device: torch.device) -> Iterator[tuple[int, torch.device]]:
        batch = self.sw_batch_size
        while batch >= 1:
            yield batch, compute_device
            batch //= 2
        yield 1, torch.device("cpu")

    def _predictor(
        self, network: Predictor, sw_batch_size: int, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Predictor:
        predict = self._compile(network, sw_batch_size) if self.compile else network
        mirrorings = [axes for n in range(len(self.mirror_axes) + 1) for axes in combinations(self.mirror_axes, n)]

        def mirrored(windows: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
            dims = [axis + 2 for axis in axes]  # after batch and channel
            flipped = windows.flip(dims) if dims else windows
            logits = _full_resolution(predict(flipped, *args, **kwargs), windows.ndim)
            return logits.flip(dims) if dims else logits

        def mean_of_mirrorings(windows: torch.Tensor) -> torch.Tensor:
            total = mirrored(windows, ())
            for axes in mirrorings[1:]:
                total = total + mirrored(windows, axes)
            return total / len(mirrorings)

        return mean_of_mirrorings

    def _compile(self, network: Predictor, sw_batch_size: int) -> Predictor:
        # Freezing bakes the weights in: load_state_dict afterwards would be ignored, so its traces are part of the key.
        parameters = network.parameters() if isinstance(network, torch.nn.Module) else ()
        versions = tuple(p._version for p in parameters)
        known = self._compiled.get(id(network))
        if known is None or known[0] != versions:
            known = versions, torch.compile(network, dynamic=False, options={"freezing": True})
            self._compiled[id(network)] = known  # the members of an ensemble are compiled once each
        compiled = known[1]

        def full_batches(windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            # One shape only: the last, smaller batch would be compiled again.
            missing = sw_batch_size - len(windows)
            padded = torch.cat([windows, windows[:1].expand(missing, *windows.shape[1:])]) if missing else windows
            return _full_resolution(compiled(padded, *args, **kwargs), windows.ndim)[: len(windows)]

        return full_batches


def _device_of(network: Predictor, *, default: torch.device) -> torch.device:
    if isinstance(network, torch.nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return default


def _full_resolution(output: Any, ndim: int) -> torch.Tensor:
    """The head at full resolution, as float32: sums over windows in half precision would lose digits."""
    if isinstance(output, (tuple, list)):
        output = output[0]
    if output.ndim == ndim + 1:  # DynUNet stacks its heads along a second axis
        output = output[:, 0]
    return output.float()
