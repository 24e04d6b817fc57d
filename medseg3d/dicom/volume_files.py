"""The files of one converted volume: image, label map, gradients, sidecar."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d import __version__
from medseg3d.dicom.conversion import Converted, ConvertOptions
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.fourd import common_dtype, diffusion_of, seconds_between
from medseg3d.dicom.frames import Annotated
from medseg3d.dicom.gradients import write_gradients
from medseg3d.dicom.jobs import Job, frame_of_reference, lattice_of, regular_parts
from medseg3d.dicom.label_ids import merged_label_ids, read_label_ids
from medseg3d.dicom.nifti import nifti_header, write_nifti
from medseg3d.dicom.resample import resampled
from medseg3d.dicom.rescale import ValueRangeError
from medseg3d.dicom.sidecar import (
    counted_findings,
    finding_dicts,
    grid_dict,
    hashed_uid,
    raw_uid,
    resampling_dict,
    slices_dict,
)
from medseg3d.dicom.volume import iter_slices, stack_dtype
from medseg3d.errors import CaseError, DicomError, UsageError
from medseg3d.files import write_json
from medseg3d.geometry import spacing_mm

__all__ = ["VolumeWriter"]

AIR_HU = -1024
LABEL_IDS = "labels.json"


@dataclass(frozen=True)
class _Label:
    """The label map of a volume, if there is one; ``reasons`` are those of the one refusal in its findings."""

    path: Path | None = None
    findings: tuple[Finding, ...] = ()
    reasons: tuple[Finding, ...] = ()


class VolumeWriter:
    """Writes volumes, one after another, into one folder.

    Args:
        out: gets ``images/``, ``labels/`` and ``labels.json``.
        options: of the conversion.
        annotations: those of the study; each volume takes the ones that refer to its series.
        workers: threads that decode and compress; None for one a CPU core.

    Raises:
        UsageError: the one annotation that was asked for is not there; ``labels.json`` of an earlier run is damaged, or
            has other ids than the naming.
    """

    def __init__(
        self, out: Path, options: ConvertOptions, annotations: Sequence[Annotated], workers: int | None
    ) -> None:
        self.out = out
        self.options = options
        self.workers = workers or os.cpu_count() or 1
        self.annotations = [a for a in annotations if options.annotation in ("", a.sop_instance_uid, _file_name(a))]
        if options.annotation and not self.annotations:
            listed = ", ".join(_file_name(a) for a in annotations) or "none"
            raise UsageError(f"No RTSTRUCT or SEG here is {options.annotation!r}; there is {listed}.")
        self.label_ids = read_label_ids(out / LABEL_IDS)
        if (naming := options.labels.naming) is not None:
            self.label_ids = merged_label_ids(self.label_ids, naming.labels, out / LABEL_IDS)

    def write(self, name: str, job: Job) -> Converted:
        """Image, label map and sidecar of one volume; a refusal in the result where one cannot be made."""
        slices = sum(len(stack.frames) for stack in job.stacks)
        try:
            earlier = self._earlier_files(name)
            image, found = self._write_image(name, job)
            gradients = self._write_gradients(name, job)
        except (CaseError, OSError) as error:
            reason = Finding("not_written", "refusal", str(error))
            return Converted(name, job.series, "refused", slices, (*job.findings, reason))
        label = self._write_label(name, job)
        about_image = (*job.findings, *found)
        findings = (*about_image, *label.findings)
        spacing = spacing_mm(job.affine_ras)
        result = Converted(name, job.series, "written", slices, findings, _shape(job), spacing, image, label.path)
        sidecar = self._path("images", name, ".json")
        write_json(sidecar, self._sidecar(job, result, self._finding_dicts(about_image, label)))
        # Only now: an earlier conversion stays until another stands in its place.
        for path in earlier - {image, label.path, sidecar, *gradients}:
            path.unlink()
        return result

    def _path(self, folder: str, name: str, suffix: str) -> Path:
        return self.out / folder / f"{name}{suffix}"

    def _earlier_files(self, name: str) -> set[Path]:
        """What an earlier conversion made of this volume; names are unique to a series, so it is the same one.

        Raises:
            DicomError: there is something, and it shall not be replaced.
        """
        there = [
            path
            for path in (
                *(self._path("images", name, suffix) for suffix in (".nii.gz", ".nii", ".json", ".bval", ".bvec")),
                *(self._path("labels", name, suffix) for suffix in (".nii.gz", ".nii")),
            )
            if path.exists()
        ]
        if there and not self.options.force:
            raise DicomError(f"{there[0]} exists: pass --force to replace it, or choose another folder.")
        return set(there)

    def _write_image(self, name: str, job: Job) -> tuple[Path, tuple[Finding, ...]]:
        """The volume, in the type that scanners' values nearly always fit, else in the one that holds any."""
        path = self._path("images", name, self.options.suffix)
        try:
            found = self._stream(path, job, _dtype(job, likely=True))
        except ValueRangeError:
            found = self._stream(path, job, _dtype(job, likely=False))
        return path, found

    def _write_gradients(self, name: str, job: Job) -> tuple[Path, ...]:
        """``.bval`` and ``.bvec`` of a 4D file of diffusion weighted volumes; of others none."""
        diffusion = diffusion_of(job.stacks) if len(job.stacks) > 1 else None
        return write_gradients(self._path("images", name, ""), *diffusion, job.affine_ras) if diffusion else ()

    def _stream(self, path: Path, job: Job, dtype: np.dtype[Any]) -> tuple[Finding, ...]:
        found: list[Finding] = []
        header = nifti_header(_shape(job), job.affine_ras, dtype, seconds=seconds_between(job.stacks))
        slices: Iterator[NDArray[Any]] = chain.from_iterable(
            iter_slices(stack, dtype=dtype, workers=self.workers, findings=found) for stack in job.stacks
        )
        if job.resampling is not None:
            slices = resampled(slices, job.resampling, fill=_fill(job, dtype))
        write_nifti(path, header, slices, threads=self.workers)
        return tuple(found)

    def _write_label(self, name: str, job: Job) -> _Label:
        """The label map of the annotations that refer to the series, and what is to know about it."""
        # The readers of annotations take a while to import, and most series have none.
        files = [a for a in self.annotations if job.series.uid in a.referenced_series]
        if not files:
            return _Label()
        from medseg3d.dicom.annotation import RefusedAnnotation

        try:
            voxels, findings = self._label_map(files, job)
        except (CaseError, UsageError) as error:
            reason = Finding("no_label", "refusal", str(error), "The image is written, without a label.")
            return _Label(None, (reason,), error.findings if isinstance(error, RefusedAnnotation) else ())
        path = self._path("labels", name, self.options.suffix)
        header = nifti_header(voxels.shape, job.affine_ras, voxels.dtype)
        write_nifti(path, header, (voxels[..., k] for k in range(voxels.shape[2])), threads=self.workers)
        write_json(self.out / LABEL_IDS, self.label_ids)
        return _Label(path, findings)

    def _label_map(self, files: Sequence[Annotated], job: Job) -> tuple[NDArray[Any], tuple[Finding, ...]]:
        from medseg3d.dicom.labels import read_label_map

        stack, rules = job.stacks[0], self.options.labels
        if job.resampling is None:
            if stack.grid is None:
                raise DicomError("The volume has no grid that a label map could lie on.")
            return read_label_map(files, [stack.grid], rules, self.label_ids)
        lattice = lattice_of(stack)
        if lattice is None:
            raise DicomError("The slices have no places that a label map could lie on.")
        voxels, findings = read_label_map(files, regular_parts(stack, lattice), rules, self.label_ids)
        planes = resampled((voxels[..., k] for k in range(voxels.shape[2])), job.resampling, mode="nearest")
        remark = "Labels were drawn on the slices that there are; each new slice has those of the nearest."
        return np.stack(list(planes), axis=2), (*findings, Finding("resampled_labels", "warning", remark))

    def _finding_dicts(self, about_image: Sequence[Finding], label: _Label) -> list[dict[str, Any]]:
        about_label = (*label.findings, *label.reasons)
        if self.options.keep_uids:
            return finding_dicts((*about_image, *about_label))
        return [*finding_dicts(about_image), *counted_findings(about_label)]

    def _sidecar(self, job: Job, result: Converted, findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
        series, uid = job.series, raw_uid if self.options.keep_uids else hashed_uid
        sources = [frame.source for stack in job.stacks for frame in stack.frames]
        content: dict[str, Any] = {
            "image": result.image.name if result.image else None,
            "label": result.label.name if result.label else None,
            "patient": series.patient,
            "modality": series.modality,
            "description": series.description,
            "series_number": series.number,
            "unit": series.unit,
            "stack": job.label,
            **grid_dict(result.shape, job.affine_ras),
            "study_uid": uid(series.study_uid),
            "series_uid": uid(series.uid),
            "frame_of_reference_uid": uid(frame_of_reference(job.stacks[0])),
            "transfer_syntax_uids": list(series.transfer_syntaxes),
            "slices": slices_dict(sources, uid),
            "resampled": None,
            "findings": findings,
            "medseg3d_version": __version__,
            "options": _options_dict(self.options),
        }
        if job.resampling is not None:
            fill = _fill(job, _dtype(job, likely=True))
            content["resampled"] = resampling_dict(job.resampling, fill=fill)
        if len(job.stacks) > 1:
            content["volumes"] = [stack.label for stack in job.stacks]
        if self.options.keep_uids:
            content["files"] = list(dict.fromkeys(str(ref.file) for ref in sources))
        return content


def _file_name(annotation: Annotated) -> str:
    return Path(annotation.file.member or annotation.file.path).name


def _shape(job: Job) -> tuple[int, ...]:
    return job.shape if len(job.stacks) == 1 else (*job.shape, len(job.stacks))


def _dtype(job: Job, *, likely: bool) -> np.dtype[Any]:
    return common_dtype([stack_dtype(stack, likely=likely) for stack in job.stacks])


def _fill(job: Job, dtype: np.dtype[Any]) -> float:
    """Value of voxels outside every slice: air in a CT where its type holds that, else 0."""
    holds_air = dtype.kind == "f" or np.iinfo(dtype).min <= AIR_HU
    return AIR_HU if job.series.modality == "CT" and holds_air else 0


def _options_dict(options: ConvertOptions) -> dict[str, Any]:
    """The options that change voxels, labels or names; not where files are."""
    return {
        "fix": "resample" if options.resample else None,
        "max_gap_mm": options.max_gap_mm,
        "split": options.split,
        "4d": options.four_d,
        "channels": list(options.channels),
        "keep_uids": options.keep_uids,
        "overlap": options.labels.overlap,
        "accept": list(options.labels.accept),
        "interpolate_contours": options.labels.gaps == "interpolate",
    }
