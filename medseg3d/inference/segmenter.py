"""Segment a list of images with a bundle's parts, one bad image not stopping the others."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.engines.device import autocast
from medseg3d.engines.memory import keep_freed_memory
from medseg3d.errors import CaseError, ConfigError
from medseg3d.geometry import voxel_volume_ml
from medseg3d.inference.cases import ImageHeader, image_paths, read_image_header, source_of
from medseg3d.inference.checks import check_values, checked_mask, input_channels, mask_findings, plain
from medseg3d.inference.ensemble import (
    Members,
    Partner,
    Pooled,
    Weights,
    as_probabilities,
    expected_dice,
    pool,
    pool_on_image_grid,
    stand_in,
)
from medseg3d.inference.export import (
    mask_path,
    read_sidecar,
    refuse_overwriting,
    sidecar_path,
    write_nifti,
    write_sidecar,
)
from medseg3d.inference.failures import CASE_ERRORS, reason, reraise_if_general
from medseg3d.inference.first_stage import first_stage_hashes
from medseg3d.inference.grid import map_to_image_grid
from medseg3d.inference.maps import write_maps
from medseg3d.inference.origin import bundle_identity, device_name
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
from medseg3d.inference.weights import combined_sha256
from medseg3d.options import flag
from medseg3d.volume import case_name

__all__ = ["Segmenter"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedCase:
    """One case ready for the network: the header of its file, the preprocessed dict, and an image a partner."""

    header: ImageHeader
    data: dict[str, Any]
    images: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """What answers together on one grid: the members of a plan, and how they are called."""

    members: Members
    inferer: Callable[..., torch.Tensor]


class Segmenter:
    """Runs a network over a dataset and writes a mask and a sidecar a case.

    While one case is computed, a thread loads and preprocesses the next. A case that cannot be read, does not fit the
    network or has no possible geometry is reported and left out; a mask that an earlier run made of it is removed.

    Args:
        dataset: a MONAI ``Dataset`` over the list of ``find_cases``, whose transform is the preprocessing.
        network: gives logits, a channel a label id, channel 0 the background; with ``regions``, a channel a region.
        inferer: called as ``inferer(inputs, network)``, such as ``SlidingWindow``.
        postprocessing: from a case's dict, with the logits under ``pred_key``, to one with the mask on the image's own
            grid in their place: ``ToImageGridd`` first, then corrections.
        labels: id of each label by name.
        output_dir: where ``<case>.nii.gz`` and ``<case>.json`` go.
        device: where the network runs.
        amp: mixed precision, see ``medseg3d.engines.autocast``.
        weights: state dict to load into the network first; None to use it as it is. Of several, the masks are made of
            the mean of the probabilities, which each gives in turn (see ``medseg3d.inference.ensemble``).
        partners: further plans, with preprocessing, network and weights of their own. The mean over the plans is then
            formed on the image's own grid, in main memory.
        temperature: the logits are divided by it, after the mean: above 1 makes probabilities less certain.
        regions: name → ids of the overlapping regions that the network has a channel of, in their order; each is a
            sigmoid, and ``postprocessing`` makes labels of them. None for labels, of which a voxel has one.
        file_labels: name → id in the masks, where ``postprocessing`` gives them others than the network's ``labels``.
        metadata: the bundle's ``metadata.json``, as its path or its content: name and version go into the sidecar.
        save_probability: also write ``<case>_probability.nii.gz``, a volume a channel.
        save_uncertainty: also write ``<case>_uncertainty.nii.gz``: entropy over the classes, 0 (sure) to 1 (even); of
            several members also ``<case>_mutual_information.nii.gz``: the part of it that is their disagreement.
        overwrite: False keeps a mask that the same weights made earlier, so that an interrupted run goes on.
        formats: of the masks: ``nifti``, ``seg`` and ``rtstruct``, the latter two of cases that are DICOM series, as
            ``<case>.seg.dcm`` and ``<case>.rtstruct.dcm`` with references to their images.
        image_key: the image in a case's dict.
        pred_key: the prediction in a case's dict.
    """

    averages: ClassVar[bool] = True
    """Whether several weights are averaged; a kind of segmenter that does not, refuses them."""

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
        weights: Weights = None,
        partners: Sequence[Partner] = (),
        temperature: float = 1.0,
        regions: Mapping[str, Sequence[int]] | None = None,
        file_labels: Mapping[str, int] | None = None,
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
        self.partners = tuple(partners)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature is {temperature}; it divides logits, so it is a number above 0.")
        self.temperature = float(temperature)
        self.regions = dict(regions) if regions else None
        self.mask_labels = dict(file_labels or labels)
        self.metadata = metadata
        self.save_probability = flag(save_probability, "save_probability")
        self.save_uncertainty = flag(save_uncertainty, "save_uncertainty")
        self.overwrite = flag(overwrite, "overwrite")
        self.formats = checked_formats(formats)
        self.image_key = image_key
        self.pred_key = pred_key
        self.console = make_console()
        self._origin: dict[str, Any] = {}
        self._plans: list[_Plan] = []

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
        self._plans = [_plan(self.network, self.inferer, self.weights, self.device)]
        self._plans += [_plan(p.network, p.inferer, p.weights, self.device) for p in self.partners]
        if self.device.type == "cpu":
            keep_freed_memory()
        if not self.averages and sum(len(plan.members) for plan in self._plans) > 1:
            raise ConfigError(f"A {type(self).__name__} takes one file of weights; several can be averaged in volumes.")
        hashes = [sha256 for plan in self._plans for sha256 in plan.members.hashes]
        preprocessings = [getattr(self.dataset, "transform", None), *(p.preprocessing for p in self.partners)]
        first = [sha256 for preprocessing in preprocessings for sha256 in first_stage_hashes(preprocessing)]
        self._origin = {**bundle_identity(self.metadata), "weights_sha256": combined_sha256([*hashes, *first])}
        if len(hashes) > 1:
            self._origin["members_sha256"] = hashes
        if first:
            self._origin["first_stage_sha256"] = first

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
        channels = input_channels(self.network)
        if channels is not None and header.channels != channels:
            raise CaseError(f"The image has {header.channels} channel(s), the network takes {channels}.")
        data = self.dataset[index]
        check_values(data[self.image_key], image)
        others = tuple(partner.preprocessing(dict(self.dataset.data[index])) for partner in self.partners)
        return LoadedCase(header, data, tuple(other[self.image_key] for other in others))

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
        pooled, image_data = self._answer(loaded)
        data = self._postprocessed(image_data, pooled.logits)
        mask = checked_mask(data[self.pred_key], loaded.header)
        inference_seconds = time.perf_counter() - begin_inference
        volumes_ml = self._volumes_ml(mask, loaded.header)
        findings = [*mask_findings(mask, self.mask_labels), *image_findings(image)]
        findings += getattr(loaded.data[self.image_key], "meta", {}).get("findings", ())  # as of missing channels
        write_maps(
            self.output_dir,
            name,
            pooled,
            map_to_image_grid(image_data[self.image_key]),
            loaded.header,
            probability=self.save_probability,
            uncertainty=self.save_uncertainty,
            exclusive=self.regions is None,
        )
        for kind in dicom_formats(self.formats):
            path = dicom_mask_path(self.output_dir, name, kind)
            findings += write_dicom_mask(path, mask, image, kind, labels=self.mask_labels, origin=self._origin)
        sidecar = {
            "case": name,
            "source": source_of(image),
            "labels": self.mask_labels,
            "volume_ml": volumes_ml,
            **self._worth(pooled.logits),
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

    def _answer(self, loaded: LoadedCase) -> tuple[Pooled, dict[str, Any]]:
        """What all members of all plans say, and the case's dict with the image on whose grid they say it."""
        exclusive = self.regions is None
        images = (loaded.data[self.image_key], *loaded.images)
        answers = [
            pool((self._member_logits(image, network, plan.inferer) for network in plan.members), exclusive=exclusive)
            for plan, image in zip(self._plans, images, strict=True)
        ]
        pooled, data = answers[0], loaded.data
        if len(answers) > 1:
            grids = [map_to_image_grid(image) for image in images]
            pooled = pool_on_image_grid(list(zip(answers, grids, strict=True)), exclusive=exclusive)
            data = {**data, self.image_key: stand_in(images[0])}
        return replace(
            pooled, logits=pooled.logits / self.temperature if self.temperature != 1 else pooled.logits
        ), data

    def _member_logits(
        self, image: torch.Tensor, network: torch.nn.Module, inferer: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        """Logits (channel, x, y, z) of a preprocessed image (channel, x, y, z) by one member."""
        # The inferer moves windows to the network's device itself; the whole image may not fit there.
        inputs = plain(image)[None].float()
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            logits = plain(inferer(inputs, network))[0]
        if self.regions is not None:
            if len(logits) != len(self.regions):
                raise ConfigError(f"The network gives {len(logits)} channels; there are {len(self.regions)} regions, a "
                                  "channel each. Make regions and network_def agree.")  # fmt: skip
            return logits
        wanted = max(self.labels.values()) + 1
        if len(logits) != wanted:
            raise ConfigError(f"The network gives {len(logits)} channels; labels up to {wanted - 1} and the background "
                              f"make {wanted}. Make labels and network_def agree.")  # fmt: skip
        return logits

    def _worth(self, logits: torch.Tensor) -> dict[str, Any]:
        """What the masks are worth by their own probabilities, on the network's grid, before any correction."""
        values = expected_dice(as_probabilities(logits, exclusive=self.regions is None), exclusive=self.regions is None)
        names = list(self.regions) if self.regions is not None else list(self.labels)
        channels = range(len(names)) if self.regions is not None else self.labels.values()
        found = {n: round(values[c], 4) for n, c in zip(names, channels, strict=True) if not math.isnan(values[c])}
        return {
            "confidence": round(sum(found.values()) / len(found), 4) if found else None,
            "expected_dice": {name: found.get(name) for name in names},
        }

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
        counts = np.bincount(mask.ravel(), minlength=max(self.mask_labels.values()) + 1)
        voxel_ml = voxel_volume_ml(header.affine_ras)
        return {name: round(float(counts[label]) * voxel_ml, 6) for name, label in self.mask_labels.items()}

    def _is_kept(self, name: str) -> bool:
        if self.overwrite or not all(path.is_file() for path in self._mask_paths(name)):
            return False
        return read_sidecar(self.output_dir, name).get("weights_sha256", "") == self._origin["weights_sha256"]

    def _kept_result(self, name: str) -> CaseResult:
        sidecar = read_sidecar(self.output_dir, name)
        findings = tuple(sidecar.get("findings", ()))
        return CaseResult(name, "kept", self._mask_paths(name)[0], sidecar.get("volume_ml", {}), 0.0, findings)


def _plan(
    network: torch.nn.Module, inferer: Callable[..., torch.Tensor], weights: Weights, device: torch.device
) -> _Plan:
    copies = bool(getattr(inferer, "compile", False))
    return _Plan(Members(network, weights, copies=copies).to(device), inferer)


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, torch.cuda.OutOfMemoryError):
        error = error.__cause__
    return error is not None
