"""Segment 2D images with a bundle's parts: label maps as PNG, objects, pictures; one bad image not stopping others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from medseg3d.engines.device import autocast
from medseg3d.errors import CaseError, ConfigError, UsageError
from medseg3d.files import write_json
from medseg3d.images import ImageRef, read_image, read_mask
from medseg3d.inference.checks import plain
from medseg3d.inference.export import read_sidecar, sidecar_path
from medseg3d.inference.origin import device_name
from medseg3d.inference.outputs2d import entropy, indexed, save_image, segment_info, write_instances
from medseg3d.inference.report import SegmentReport
from medseg3d.inference.report2d import ImageResult, print_report
from medseg3d.inference.segmenter import Segmenter
from medseg3d.instances import Instance, Panoptic, count_instances, measure, panoptic, panoptic_to_rgb
from medseg3d.masks2d import mask_files, mask_layers, read_layers
from medseg3d.options import flag
from medseg3d.report.pictures_of_masks import mask_panel
from medseg3d.transforms2d import to_original_size

__all__ = ["Segmenter2d"]

PICTURES = "pictures"
TABLE = "instances.csv"


class Segmenter2d(Segmenter):
    """``Segmenter`` of 2D images: for each a label map ``<case>.png`` of its own size, and ``<case>.json`` beside it.

    A label map is a PNG whose palette's indices are the label ids, so that a viewer shows colours and a program reads
    numbers. Masks that may overlap are ``<case>_<label>.png`` of 0 and 255 each. With ``instances``, objects are told
    apart: ``<case>_instances.png`` (16 bits, an id a pixel), ``<case>_panoptic.png`` (COCO's panoptic format, its
    ``segments_info`` in the sidecar) and, over all images, ``instances.csv``.

    Args:
        multi_label: a sigmoid a label, cut at ``threshold``; else a softmax over labels and background.
        threshold: probability from which a pixel belongs to a label, with ``multi_label``.
        ignore_index: an id in the truth, for the pictures, that is no label.
        instances: names of the labels whose objects are told apart; not with ``multi_label``.
        neck: objects that touch are separated where their neck is narrower than this share of the smaller one.
        min_area_px: smaller objects are left out, of the label map too; of those told apart only.
        pictures: write ``pictures/<case>.png``: image, truth where it is known, and prediction.
        options: those of ``Segmenter``. ``postprocessing`` changes the label map (1, row, column) or the masks under
            ``pred_key``, at the size of the image; maps of probability and uncertainty are TIFFs of 32-bit numbers,
            ``<case>_probability.tif`` with a page a channel.
    """

    averages = False

    def __init__(
        self,
        *,
        multi_label: bool = False,
        threshold: float = 0.5,
        ignore_index: int | None = None,
        instances: Sequence[str] = (),
        neck: float = 0.75,
        min_area_px: int = 0,
        pictures: bool = True,
        formats: Sequence[str] = ("png",),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.formats = (formats,) if isinstance(formats, str) else tuple(formats)
        if self.formats != ("png",):
            raise UsageError(f"Masks of 2D images are written as png, not as {', '.join(self.formats) or 'nothing'}.")
        self.multi_label = flag(multi_label, "multi_label")
        self.threshold, self.ignore_index = float(threshold), ignore_index
        self.things = [instances] if isinstance(instances, str) else list(instances)
        if unknown := [name for name in self.things if name not in self.labels]:
            raise ConfigError(f"instances names {', '.join(unknown)}; the labels are {', '.join(self.labels)}.")
        if self.things and self.multi_label:
            raise ConfigError("Objects of masks that overlap cannot be told apart: leave instances empty.")
        self.neck, self.min_area_px = float(neck), int(min_area_px)
        self.pictures = flag(pictures, "pictures")
        self._objects: dict[str, list[Instance]] = {}

    def run(self) -> SegmentReport:
        """Segment every image, print the table, and only then complain about those that failed.

        Raises:
            CaseError: some image failed; the others are done.
            CheckpointError: the weights do not fit the network.
            ConfigError: network and labels do not fit together.
        """
        report = self.segment()
        print_report(self.console, report, self.labels)
        report.raise_for_failed()
        return report

    def segment(self) -> SegmentReport:
        """Segment every image; failed ones are in the report, not raised."""
        self._objects = {}
        report = super().segment()
        if self.things:
            self._write_table()
        return report

    # One image ---------------------------------------------------------------------------------------------------

    def _load(self, index: int, case: Mapping[str, Any]) -> dict[str, Any] | None:  # type: ignore[override]
        if self._is_kept(case["case"]):
            return None
        data: dict[str, Any] = self.dataset[index]
        image = data[self.image_key]
        if image.ndim != 3 or not isinstance(image, MetaTensor):
            raise CaseError(
                f"After preprocessing the image has shape {tuple(image.shape)}, not (channel, row, column)."
            )
        return data

    def _segment_case(self, name: str, image: Any, loaded: Any, start: float) -> ImageResult:
        self._refuse_overwriting(name, image)
        self._discard_earlier(name, [ImageRef.parse(image).path])
        begin = time.perf_counter()
        logits = self._predict(loaded[self.image_key])
        masks, probabilities = self._at_original_size(loaded, logits)
        found = self._objects_of(masks)
        if found is not None:
            masks = found.classes[None]
        inference_s = time.perf_counter() - begin
        spacing = _spacing(loaded[self.image_key])
        objects = [] if found is None else measure(found, spacing_mm=spacing)
        self._objects[name] = objects
        areas = self._areas(masks)
        findings = [f"{label}: not found" for label, area in areas.items() if not area]
        sidecar = {
            "case": name,
            "source": ImageRef.parse(image).name,
            "labels": self.labels,
            "multi_label": self.multi_label,
            "size": list(masks.shape[-2:]),
            "spacing_mm": spacing,
            "area_px": areas,
            "area_mm2": spacing and {label: area * spacing[0] * spacing[1] for label, area in areas.items()},
            "counts": self._counts(objects),
            "segments_info": [segment_info(one) for one in objects],
            **self._origin,
            "inference_s": round(inference_s, 3),
            "device": device_name(self.device),
            "findings": findings,
        }
        self._write_pictures(name, loaded, masks)
        self._write_images(name, probabilities, found)
        # The sidecar before the mask: a mask that is there always has its own.
        write_json(sidecar_path(self.output_dir, name), sidecar)
        self._write_masks(name, masks)
        seconds = time.perf_counter() - start
        return ImageResult(
            name,
            "done",
            self._mask_paths(name)[0],
            seconds=seconds,
            findings=tuple(findings),
            areas_px=areas,
            counts=self._counts(objects),
        )

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        inputs = plain(image)[None].float()
        with torch.no_grad(), autocast(self.device, enabled=self.amp):
            logits = plain(self.inferer(inputs, self.network))[0].float().cpu()
        wanted = max(self.labels.values()) + (0 if self.multi_label else 1)
        if len(logits) != wanted:
            background = "" if self.multi_label else " and the background"
            raise ConfigError(
                f"The network gives {len(logits)} channels; labels up to {max(self.labels.values())}{background} make "
                f"{wanted}. Make labels, multi_label and network_def agree."
            )
        return logits

    def _at_original_size(
        self, data: Mapping[str, Any], logits: torch.Tensor
    ) -> tuple[NDArray[np.integer], torch.Tensor]:
        """Masks (1 or label, row, column) after the post-processing, and probabilities, at the image's own size."""
        meta = data[self.image_key].meta
        inner = meta.get("inner_size")
        if inner is not None:
            # Of the logits and not of the labels: outlines are then smooth, and there are no ids between two.
            logits = to_original_size(logits, meta["original_size"], inner, nearest=False)
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(0)
        pred = probabilities >= self.threshold if self.multi_label else probabilities.argmax(0, keepdim=True)
        pred = plain(self.postprocessing({**data, self.pred_key: pred.to(torch.int32)})[self.pred_key])
        size = tuple(int(n) for n in meta["original_size"])
        if tuple(pred.shape[-2:]) != size:
            raise CaseError(
                f"The mask has {_by(pred.shape[-2:])} pixels, the image {_by(size)}: a transform changed the size. "
                "Resize with medseg3d.transforms2d.Resize2Dd, which is undone here."
            )
        return pred.numpy(), probabilities

    def _objects_of(self, masks: NDArray[np.integer]) -> Panoptic | None:
        if not self.things:
            return None
        ids = [self.labels[name] for name in self.things]
        return panoptic(masks[0], things=ids, neck=self.neck, min_area_px=self.min_area_px)

    def _areas(self, masks: NDArray[np.integer]) -> dict[str, int]:
        layers = mask_layers(masks, self.labels, multi_label=self.multi_label)
        by_id = dict(zip(sorted(self.labels.values()), layers, strict=True))
        return {name: int(by_id[label].sum()) for name, label in self.labels.items()}

    def _counts(self, objects: Sequence[Instance]) -> dict[str, int]:
        return count_instances(objects, {name: self.labels[name] for name in self.things})

    # Files -------------------------------------------------------------------------------------------------------

    def _mask_paths(self, name: str) -> list[Path]:
        return mask_files(self.output_dir, name, self.labels, multi_label=self.multi_label)

    def _other_paths(self, name: str) -> list[Path]:
        kinds = ("instances.png", "panoptic.png", "probability.tif", "uncertainty.tif")
        return [*(self.output_dir / f"{name}_{kind}" for kind in kinds), self.output_dir / PICTURES / f"{name}.png"]

    def _refuse_overwriting(self, name: str, image: Any) -> None:
        source = ImageRef.parse(image).path.resolve()
        for path in (*self._mask_paths(name), *self._other_paths(name)):
            if path.resolve() == source:
                raise CaseError(f"{path.name}: the mask would overwrite its image. Choose another output folder.")

    def _discard_earlier(self, name: str, sources: Sequence[Path]) -> None:
        kept = {ImageRef.parse(path).path.resolve() for path in sources}
        for path in (*self._mask_paths(name), *self._other_paths(name), sidecar_path(self.output_dir, name)):
            if path.resolve() not in kept:
                path.unlink(missing_ok=True)

    def _write_masks(self, name: str, masks: NDArray[np.integer]) -> None:
        if self.multi_label:
            for path, mask in zip(self._mask_paths(name), masks, strict=True):
                save_image(Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0))), path)
            return
        (path,) = self._mask_paths(name)
        save_image(indexed(masks[0], sorted(self.labels.values())), path)

    def _write_images(self, name: str, probabilities: torch.Tensor, found: Panoptic | None) -> None:
        """Instances and the maps that were asked for."""
        of_instances, of_panoptic, probability, uncertainty, _ = self._other_paths(name)
        if found is not None:
            save_image(Image.fromarray(found.instances.astype(np.uint16)), of_instances)
            save_image(Image.fromarray(panoptic_to_rgb(found.instances)), of_panoptic)
        if self.save_probability:
            first, *others = (Image.fromarray(channel.numpy().astype(np.float32)) for channel in probabilities)
            save_image(first, probability, save_all=True, append_images=others)
        if self.save_uncertainty:
            save_image(Image.fromarray(entropy(probabilities, binary=self.multi_label)), uncertainty)

    def _write_pictures(self, name: str, data: Mapping[str, Any], masks: NDArray[np.integer]) -> None:
        if not self.pictures:
            return
        meta = data[self.image_key].meta
        pixels = read_image(meta["filename_or_obj"], window=meta.get("window")).pixels
        image = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        label = data.get("label")  # a path still: the preprocessing loads the image alone
        truth = None if label is None else read_layers(label, self.labels, ignore_index=self.ignore_index)
        panel = mask_panel(image, [truth, mask_layers(masks, self.labels, multi_label=self.multi_label)])
        save_image(Image.fromarray(panel), self._other_paths(name)[-1])

    def _write_table(self) -> None:
        write_instances(self.output_dir / TABLE, self._objects, self.labels)

    def _is_kept(self, name: str) -> bool:
        complete = not self.things or self._other_paths(name)[0].is_file()
        return complete and super()._is_kept(name)

    def _kept_result(self, name: str) -> ImageResult:
        sidecar = read_sidecar(self.output_dir, name)
        if self.things:  # the table is of all images
            spacing = sidecar.get("spacing_mm")
            classes = read_mask(self._mask_paths(name)[0]).pixels
            instances = read_mask(self._other_paths(name)[0]).pixels.astype(np.int32)
            self._objects[name] = measure(Panoptic(classes, instances), spacing_mm=spacing)
        return ImageResult(
            name,
            "kept",
            self._mask_paths(name)[0],
            findings=tuple(sidecar.get("findings", ())),
            areas_px=sidecar.get("area_px", {}),
            counts=sidecar.get("counts", {}),
        )


def _spacing(image: MetaTensor) -> tuple[float, float] | None:
    """mm between rows and between columns of the file; None where it does not say."""
    spacing = image.meta.get("spacing_mm")
    if spacing is None or not bool(torch.isfinite(torch.as_tensor(spacing)).all()):
        return None
    row, column = (round(float(n), 6) for n in spacing)
    return row, column


def _by(size: Sequence[int]) -> str:
    return "×".join(str(int(n)) for n in size)
