"""Segment a list of images with a bundle's parts, one bad image not stopping the others."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medseg3d.engines.device import autocast
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.errors import CaseError, ConfigError, GeometryError, MedsegError, OutputError
from medseg3d.geometry import grid_distance_mm, spacing_mm, voxel_volume_ml
from medseg3d.inference.cases import ImageHeader, count_not_finite, image_paths, read_image_header, source_of
from medseg3d.inference.export import mask_path, refuse_overwriting, sidecar_path, write_nifti, write_sidecar
from medseg3d.inference.grid import map_to_image_grid, probabilities_on_grid
from medseg3d.inference.report import CaseResult, SegmentReport, case_progress, make_console, print_report
from medseg3d.inference.studies import (
    DICOM_FORMATS,
    checked_formats,
    dicom_formats,
    dicom_mask_path,
    image_findings,
    require_dicom,
    write_dicom_mask,
)
from medseg3d.inference.weights import load_weights
from medseg3d.options import flag
from medseg3d.volume import case_name

__all__ = ["CASE_ERRORS", "Segmenter", "bundle_identity", "reraise_if_general"]

logger = logging.getLogger(__name__)

# What reading, transforming and predicting one case may raise; MONAI wraps most of it in RuntimeError.
CASE_ERRORS = (CaseError, RuntimeError, ValueError, OSError, EOFError, IndexError)
# A mask on another grid than its image, by more than this part of a voxel, is not written.
SAME_GRID = 1e-3


@dataclass(frozen=True)
class LoadedCase:
    """One case ready for the network: the header of its file, and the preprocessed dict."""

    header: ImageHeader
    data: dict[str, Any]


class Segmenter:
    """Runs a network over a dataset and writes a mask and a sidecar a case.

    While one case is computed, a thread loads and preprocesses the next. A case that cannot be read, does not fit the
    network or has no possible geometry is reported and left out; a mask that an earlier run made of it is removed.

    Args:
        dataset: a MONAI ``Dataset`` over the list of ``find_cases``, whose transform is the preprocessing.
        network: gives logits, a channel a label id, channel 0 the background.
        inferer: called as ``inferer(inputs, network)``, such as ``SlidingWindow``.
        postprocessing: from a case's dict, with the logits under ``pred_key``, to one with the mask on the image's own
            grid in their place: ``ToImageGridd`` first, then corrections.
        labels: id of each label by name.
        output_dir: where ``<case>.nii.gz`` and ``<case>.json`` go.
        device: where the network runs.
        amp: mixed precision, see ``medseg3d.engines.autocast``.
        weights: state dict to load into the network first; None to use it as it is.
        metadata: the bundle's ``metadata.json``, as its path or its content: name and version go into the sidecar.
        save_probability: also write ``<case>_probability.nii.gz``, a volume a channel.
        save_uncertainty: also write ``<case>_uncertainty.nii.gz``: entropy over the classes, 0 (sure) to 1 (even).
        overwrite: False keeps a mask that the same weights made earlier, so that an interrupted run goes on.
        formats: of the masks: ``nifti``, ``seg`` and ``rtstruct``, the latter two of cases that are DICOM series, as
            ``<case>.seg.dcm`` and ``<case>.rtstruct.dcm`` with references to their images.
        image_key: the image in a case's dict.
        pred_key: the prediction in a case's dict.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]],
        labels: Mapping[str, int],
        output_dir: str | Path,
        device: torch.device | str = "cpu",
        amp: bool = True,
        weights: str | Path | None = None,
        metadata: Mapping[str, Any] | str | Path | None = None,
        save_probability: bool = False,
        save_uncertainty: bool = False,
        overwrite: bool = True,
        formats: Sequence[str] = ("nifti",),
        image_key: str = "image",
        pred_key: str = "pred",
    ) -> None:
        self.dataset = dataset
        self.network = network
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.labels = dict(labels)
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.amp = flag(amp, "amp")
        self.weights = weights
        self.metadata = metadata
        self.save_probability = flag(save_probability, "save_probability")
        self.save_uncertainty = flag(save_uncertainty, "save_uncertainty")
        self.overwrite = flag(overwrite, "overwrite")
        self.formats = checked_formats(formats)
        self.image_key = image_key
        self.pred_key = pred_key
        self.console = make_console()
        self._origin: dict[str, Any] = {}

    def run(self) -> SegmentReport:
        """Segment every case, print the table, and only then complain about those that failed.

        Raises:
            CaseError: some case failed; the others are done.
            CheckpointError: the weights do not fit the network.
            ConfigError: network and labels do not fit together.
        """
        report = self.segment()
        print_report(report, list(self.labels), console=self.console)
        report.raise_for_failed()
        return report

    def segment(self) -> SegmentReport:
        """Segment every case; failed ones are in the report, not raised."""
        cases = self._cases()
        self._prepare_network()
        results = []
        with case_progress(len(cases), console=self.console) as advance:
            for case, loaded in self._prefetched(cases):
                results.append(self._result(case, loaded))
                advance(results[-1])
        return SegmentReport(tuple(results))

    def _cases(self) -> list[dict[str, Any]]:
        cases = [{"case": case_name(image_paths(entry[self.image_key])[0]), **entry} for entry in self.dataset.data]
        seen: set[str] = set()
        for case in cases:
            name = case["case"]
            if name in seen or Path(name).name != name:
                why = "is there twice" if name in seen else "is not a file name"
                raise ConfigError(f"Case {name!r} {why}: each case needs its own name, masks are called by it.")
            seen.add(name)
        require_dicom(self.formats, [case[self.image_key] for case in cases])
        return cases

    def _prepare_network(self) -> None:
        sha256 = load_weights(self.network, self.weights) if self.weights is not None else None
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network.to(self.device).eval()
        self._origin = {**bundle_identity(self.metadata), "weights_sha256": sha256}

    def _prefetched(
        self, cases: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], Future[LoadedCase | None]]]:
        """Each case with its loading, which has begun while the one before was computed."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocessing") as pool:
            following: Future[LoadedCase | None] | None = None
            for index, case in enumerate(cases):
                current = following or pool.submit(self._load, index, case)
                following = pool.submit(self._load, index + 1, cases[index + 1]) if index + 1 < len(cases) else None
                yield case, current

    def _load(self, index: int, case: Mapping[str, Any]) -> LoadedCase | None:
        """Header checks, preprocessing and value checks; None when an earlier mask is kept."""
        if self._is_kept(case["case"]):
            return None
        image = case[self.image_key]
        header = read_image_header(image)
        channels = _input_channels(self.network)
        if channels is not None and header.channels != channels:
            raise CaseError(f"The image has {header.channels} channel(s), the network takes {channels}.")
        data = self.dataset[index]
        _check_values(data[self.image_key], image)
        return LoadedCase(header, data)

    def _result(self, case: Mapping[str, Any], loading: Future[LoadedCase | None]) -> CaseResult:
        name, start = case["case"], time.perf_counter()
        try:
            loaded = loading.result()
            if loaded is None:
                return self._kept_result(name)
            return self._segment_case(name, case[self.image_key], loaded, start)
        except CASE_ERRORS as error:
            reraise_if_general(error)
            logger.debug("case %s failed", name, exc_info=True)
            self._discard_earlier(name, image_paths(case[self.image_key]))
            return CaseResult(name, "failed", seconds=time.perf_counter() - start, error=reason(error))

    def _segment_case(self, name: str, image: Any, loaded: LoadedCase, start: float) -> CaseResult:
        sources = image_paths(image)
        refuse_overwriting(self._mask_paths(name), sources)
        self._discard_earlier(name, sources)
        begin_inference = time.perf_counter()
        logits = self._predict(loaded.data[self.image_key])
        data = self._postprocessed(loaded.data, logits)
        mask = _checked_mask(data[self.pred_key], loaded.header)
        inference_seconds = time.perf_counter() - begin_inference
        volumes_ml = self._volumes_ml(mask, loaded.header)
        findings = [*_findings(mask, self.labels), *image_findings(image)]
        self._write_maps(name, logits, loaded)
        for kind in dicom_formats(self.formats):
            path = dicom_mask_path(self.output_dir, name, kind)
            findings += write_dicom_mask(path, mask, image, kind, labels=self.labels, origin=self._origin)
        sidecar = {
            "case": name,
            "source": source_of(image),
            "labels": self.labels,
            "volume_ml": volumes_ml,
            **self._origin,
            "inference_s": round(inference_seconds, 3),
            "device": device_name(self.device),
            "findings": findings,
        }
        # The sidecar first, with no earlier mask beside it: a mask that is there always has its own.
        write_sidecar(sidecar_path(self.output_dir, name), sidecar)
        if "nifti" in self.formats:
            write_nifti(mask_path(self.output_dir, name), mask, loaded.header)
        seconds = time.perf_counter() - start
        return CaseResult(name, "done", self._mask_paths(name)[0], volumes_ml, seconds, tuple(findings))

    def _mask_paths(self, name: str) -> list[Path]:
        """The masks of a case in the formats that were asked for, NIfTI first."""
        nifti = [mask_path(self.output_dir, name)] if "nifti" in self.formats else []
        return nifti + [dicom_mask_path(self.output_dir, name, kind) for kind in dicom_formats(self.formats)]

    def _discard_earlier(self, name: str, sources: Sequence[Path]) -> None:
        """Remove what an earlier run made of this case: it must not pass for this run's result."""
        kept = {path.resolve() for path in sources}
        dicom = [dicom_mask_path(self.output_dir, name, kind) for kind in DICOM_FORMATS]
        for path in (mask_path(self.output_dir, name), *dicom, sidecar_path(self.output_dir, name)):
            if path.resolve() not in kept:
                path.unlink(missing_ok=True)

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (class, x, y, z) of a preprocessed image (channel, x, y, z)."""
        # The inferer moves windows to the network's device itself; the whole image may not fit there.
        inputs = plain(image)[None].float()
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            logits = plain(self.inferer(inputs, self.network))[0]
        wanted = max(self.labels.values()) + 1
        if len(logits) != wanted:
            raise ConfigError(f"The network gives {len(logits)} channels; labels up to {wanted - 1} and the background "
                              f"make {wanted}. Make labels and network_def agree.")  # fmt: skip
        return logits

    def _postprocessed(self, data: dict[str, Any], logits: torch.Tensor) -> dict[str, Any]:
        """The post-processing's answer; in main memory where the GPU has no room for the image's own grid."""
        try:
            return self.postprocessing({**data, self.pred_key: logits})
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        logger.warning("GPU memory is full while the mask is put on the image's grid; doing that on the CPU.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.postprocessing({**data, self.pred_key: logits.cpu()})

    def _volumes_ml(self, mask: NDArray[Any], header: ImageHeader) -> dict[str, float]:
        counts = np.bincount(mask.ravel(), minlength=max(self.labels.values()) + 1)
        voxel_ml = voxel_volume_ml(header.affine_ras)
        return {name: round(float(counts[label]) * voxel_ml, 6) for name, label in self.labels.items()}

    def _write_maps(self, name: str, logits: torch.Tensor, loaded: LoadedCase) -> None:
        """The maps that were asked for; those of an earlier mask are removed, they would not belong to this one."""
        writers = {
            "probability": (self.save_probability, _probability_volumes),
            "uncertainty": (self.save_uncertainty, _entropy_volume),
        }
        for kind, (wanted, make) in writers.items():
            path = mask_path(self.output_dir, name, kind)
            if wanted:
                channels = probabilities_on_grid(
                    logits.cpu().softmax(dim=0), map_to_image_grid(loaded.data[self.image_key])
                )
                write_nifti(path, make(channels, len(logits), loaded.header.shape), loaded.header)
            else:
                path.unlink(missing_ok=True)

    def _is_kept(self, name: str) -> bool:
        if self.overwrite or not all(path.is_file() for path in self._mask_paths(name)):
            return False
        return read_sidecar(self.output_dir, name).get("weights_sha256", "") == self._origin["weights_sha256"]

    def _kept_result(self, name: str) -> CaseResult:
        sidecar = read_sidecar(self.output_dir, name)
        findings = tuple(sidecar.get("findings", ()))
        return CaseResult(name, "kept", self._mask_paths(name)[0], sidecar.get("volume_ml", {}), 0.0, findings)


def reason(error: BaseException) -> str:
    """Why a case failed, from an exception that libraries have wrapped: the innermost one, or ours.

    >>> try:
    ...     raise RuntimeError("applying transform LoadImaged") from EOFError("Compressed file ended early")
    ... except RuntimeError as wrapped:
    ...     reason(wrapped)
    'Compressed file ended early (EOFError)'
    """
    while not isinstance(error, MedsegError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, MedsegError):
        return str(error)
    return f"{' '.join(str(error).split()) or 'no message'} ({type(error).__name__})"


def reraise_if_general(error: BaseException) -> None:
    """Let through, from under MONAI's wrapping, an error of ours that concerns every case and not this one.

    A mask that cannot be written fails its own case: the next may be smaller, or the disk be freed.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MedsegError) and not isinstance(cause, CaseError | OutputError):
            raise cause
        cause = cause.__cause__


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, torch.cuda.OutOfMemoryError):
        error = error.__cause__
    return error is not None


def bundle_identity(metadata: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """Name and version of the bundle for the sidecar; a bundle without a name has that of its folder."""
    name = None
    if isinstance(metadata, (str, Path)):
        path = Path(metadata)
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: the bundle's metadata cannot be read ({error}).") from error
        name = path.resolve().parent.parent.name
    content: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    return {
        "bundle": content.get("name", name),
        "bundle_version": content.get("version"),
        "medseg3d_version": version("medseg3d"),
    }


def _input_channels(network: torch.nn.Module) -> int | None:
    """Channels that the first convolution takes; None for a network without one."""
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            return int(module.in_channels)
    return None


def _check_values(voxels: torch.Tensor, image: Any) -> None:
    if voxels.ndim != 4:
        raise GeometryError(
            f"After preprocessing the image has shape {tuple(voxels.shape)}; (channel, x, y, z) is wanted."
        )
    if bool(torch.isfinite(plain(voxels)).all()):
        return
    counts = {path.name: count for path in image_paths(image) if (count := count_not_finite(path))}
    if not counts:
        raise CaseError("Preprocessing made NaN or infinity of finite voxels: is the image constant?")
    listed = ", ".join(f"{count} voxel(s) of {name}" for name, count in counts.items())
    raise CaseError(
        f"NaN or infinity in {listed}. Replace them with the background's value, or export the image again."
    )


def _checked_mask(pred: torch.Tensor, header: ImageHeader) -> NDArray[Any]:
    """The mask as the smallest integer array (x, y, z), once it surely lies on the image's grid."""
    voxels = plain(pred).squeeze(0).cpu().numpy()
    if voxels.shape != header.shape:
        raise GeometryError(
            f"The mask has {'×'.join(map(str, voxels.shape))} voxels, the image {'×'.join(map(str, header.shape))}. "
            "Does the post-processing begin with medseg3d.inference.ToImageGridd?"
        )
    if isinstance(pred, MetaTensor):
        distance_mm = grid_distance_mm(np.asarray(pred.affine), header.affine_ras, header.shape)
        if distance_mm > SAME_GRID * min(spacing_mm(header.affine_ras)):
            raise GeometryError(f"The mask lies {distance_mm:.3f} mm off its image: a transform lost the affine.")
    return voxels.astype(np.uint8 if voxels.max(initial=0) < 256 else np.uint16)


def _findings(mask: NDArray[Any], labels: Mapping[str, int]) -> list[str]:
    """What a reader should know: labels that were not found, or that the image's edge may cut off."""
    faces = [np.take(mask, index, axis=axis) for axis in range(3) for index in (0, -1)]
    at_edge = set(np.unique(np.concatenate([face.ravel() for face in faces])).tolist())
    present = set(np.unique(mask).tolist())
    missing = [f"{name}: not found" for name, label in labels.items() if label not in present]
    cut = [
        f"{name}: reaches the edge of the image, may be cut off" for name, label in labels.items() if label in at_edge
    ]
    return missing + cut


def _probability_volumes(channels: Iterator[torch.Tensor], classes: int, shape: tuple[int, ...]) -> NDArray[Any]:
    # float16 in memory, float32 in the file: a channel of a large CT alone is half a gigabyte.
    volumes = np.empty((*shape, classes), dtype=np.float16, order="F")
    for index, channel in enumerate(channels):
        volumes[..., index] = channel.cpu().numpy()
    return volumes


def _entropy_volume(channels: Iterator[torch.Tensor], classes: int, shape: tuple[int, ...]) -> NDArray[Any]:
    entropy = np.zeros(shape, dtype=np.float32)
    for channel in channels:
        entropy += torch.special.entr(channel.clamp(0, 1)).cpu().numpy()
    return np.clip(entropy / np.log(classes), 0, 1).astype(np.float32)


def read_sidecar(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(sidecar_path(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
