"""Series to NIfTI with a sidecar each, and label maps where the study has annotations.

::

    OUT/images/<patient>_<number>_<description>_<mark>.nii.gz     the volume
    OUT/images/<patient>_<number>_<description>_<mark>.json       its sidecar
    OUT/labels/<patient>_<number>_<description>_<mark>.nii.gz     label map of the annotations that refer to the series
    OUT/labels.json                                               name of each label → id

With ``ConvertOptions.channels`` an image is ``…_0000.nii.gz``, ``…_0001.nii.gz``, … on one grid.

A description that repeats the patient's name, id or date of birth is left out of them.

``medseg3d datalist build OUT --labels OUT/labels.json`` makes a data list of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg3d.dicom.channel_files import with_channels
from medseg3d.dicom.conversion import Converted, ConvertOptions, Progress, Status
from medseg3d.dicom.coregistered import companions_of
from medseg3d.dicom.descriptions import shareable
from medseg3d.dicom.frames import Series
from medseg3d.dicom.jobs import Job, Refusal, jobs_of
from medseg3d.dicom.matching import matched_annotations
from medseg3d.dicom.names import volume_names
from medseg3d.dicom.scanning import Scan, scan
from medseg3d.dicom.sidecar import hashed_uid
from medseg3d.dicom.volume_files import VolumeWriter
from medseg3d.errors import DicomError

__all__ = ["convert", "convert_scan"]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    options: ConvertOptions | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Converted]:
    """Convert every image series at ``source`` that makes a volume; refused ones are in the result, not raised.

    Args:
        source: a folder tree, a file or a zip archive.
        out: folder for ``images/``, ``labels/`` and ``labels.json``; made if absent.
        options: see ``ConvertOptions``.
        workers: threads that read, decode and compress; None for one a CPU core.
        progress: called after each volume with how many are done and how many there are.

    Raises:
        DicomError: ``source`` does not exist, or holds no image series (of that UID).
    """
    return convert_scan(scan(source, workers=workers), out, options=options, workers=workers, progress=progress)


def convert_scan(
    found: Scan,
    out: str | Path,
    *,
    options: ConvertOptions | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Converted]:
    """``convert`` for a folder that is scanned already."""
    options = options or ConvertOptions()
    first = options.channels[0] if options.channels else ""
    outcomes = [
        outcome
        for series in shareable(_chosen(_of_modality(found.series, first), options.series_uid))
        for outcome in jobs_of(
            series,
            split=options.split,
            resample=options.resample,
            max_gap_mm=options.max_gap_mm,
            four_d=options.four_d,
        )
    ]
    names = volume_names([(outcome.series, outcome.label) for outcome in outcomes])
    writer = VolumeWriter(Path(out), options, matched_annotations(found), workers)
    results = []
    for name, outcome in zip(names, outcomes, strict=True):
        outcome = replace(outcome, findings=(*outcome.findings, *found.unreadable_beside(outcome.series)))
        if options.channels and isinstance(outcome, Job):
            results.append(_with_channels(name, outcome, found, writer))
        else:
            results.append(_refused(name, outcome) if isinstance(outcome, Refusal) else writer.write(name, outcome))
        if progress is not None:
            progress(len(results), len(outcomes))
    return results


def _chosen(series: Sequence[Series], uid: str) -> list[Series]:
    if not series:
        raise DicomError("There is no DICOM image series here.")
    chosen = [s for s in series if uid in ("", s.uid, hashed_uid(s.uid))]
    if not chosen:
        listed = "\n".join(f"  {s.uid}  {s.modality}  {s.description}" for s in series)
        raise DicomError(f"No series here has the UID {uid}. There are:\n{listed}")
    return chosen


def _of_modality(series: Sequence[Series], modality: str) -> list[Series]:
    chosen = [one for one in series if modality in ("", one.modality)]
    if series and not chosen:
        there = ", ".join(sorted({one.modality for one in series}))
        raise DicomError(f"There is no {modality} series here to give the grid of the channels; there are {there}.")
    return chosen


def _with_channels(name: str, job: Job, found: Scan, writer: VolumeWriter) -> Converted:
    """A volume with the others of its frame of reference as further channels; refused where one is missing."""
    options, stack = writer.options, job.stacks[0]
    stacks, findings = companions_of(stack, found.series, options.channels[1:])
    job = replace(job, findings=(*job.findings, *findings))
    if not stacks:
        return _refused(name, Refusal(job.series, job.label, job.findings, len(stack.frames)))
    return with_channels(writer.write(name, job), stacks, options, threads=writer.workers)


def _refused(name: str, refusal: Refusal) -> Converted:
    status: Status = "left out" if refusal.left_out else "refused"
    return Converted(name, refusal.series, status, refusal.slices, refusal.findings)
