"""Scanning a folder tree: headers only, many files at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medseg3d.dicom.assemble import assemble, pseudonym
from medseg3d.dicom.files import Opener, find_files
from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Annotated, Header, Series
from medseg3d.dicom.headers import Other, Unreadable, read_file
from medseg3d.dicom.model import FileRef, SliceRef
from medseg3d.dicom.parallel import in_processes

__all__ = ["Scan", "scan"]

# With fewer files one process is done before others have started.
_PARALLEL_FILES = 600
_FILES_A_TASK = 100

_Result = Header | Other | Unreadable | None
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        series: image series.
        annotations: RTSTRUCT and SEG files.
        unreadable: files that are DICOM and cannot be read, each with the reason.
        other: DICOM objects that are neither images nor annotations.
        ignored: number of files that are not DICOM.
    """

    series: tuple[Series, ...]
    annotations: tuple[Annotated, ...]
    unreadable: tuple[Unreadable, ...]
    other: tuple[Other, ...]
    ignored: int

    def unreadable_beside(self, series: Series) -> tuple[Finding, ...]:
        """A warning if files that cannot be read may belong to a series; () otherwise.

        A slice at either end of a volume would not be missed otherwise. A file may belong to the series whose files
        lie nearest: in its folder, or else below the nearest folder above it. The finding names no file, since names of
        files may be those of patients; ``unreadable`` does.
        """
        beside = sum(series.uid in self._nearest(folder) for folder in map(_folder, self.unreadable))
        if not beside:
            return ()
        files = "1 file beside it" if beside == 1 else f"{beside} files beside it"
        return (Finding("unreadable_file", "warning", f"{files} could not be read: slices may be missing at its ends.",
                        "Copy the series again; medseg3d dicom scan names the files."),)  # fmt: skip

    def _nearest(self, folder: Path) -> set[str]:
        """UIDs of the series that have files below a folder, or below the nearest of those above it that has any."""
        for parent in (folder, *folder.parents):
            if parent in self._series_below:
                return self._series_below[parent]
        return set()

    @cached_property
    def _series_below(self) -> dict[Path, set[str]]:
        below: dict[Path, set[str]] = defaultdict(set)
        for series in self.series:
            for folder in {_folder(frame.source) for stack in series.stacks for frame in stack.frames}:
                for parent in (folder, *folder.parents):
                    below[parent].add(series.uid)
        return dict(below)


def scan(path: str | Path, *, workers: int | None = None, progress: Progress | None = None, key: str = "") -> Scan:
    """Find the DICOM files below a folder, or in a zip archive, and say which series and volumes they make.

    Reads headers, not pixels. DICOMDIR is ignored.

    Args:
        workers: processes; by default one for a few hundred files, then as many as there are cores.
        progress: called with (files read, files in all), now and then.
        key: secret for the pseudonyms of patients; see ``pseudonym``.

    Raises:
        DicomError: no such folder, or an archive that cannot be opened.
    """
    refs = find_files(path)
    headers: list[Header] = []
    others: list[Other] = []
    unreadable: list[Unreadable] = []
    ignored = 0
    for n, result in enumerate(_read_all(refs, workers), 1):
        match result:
            case Header():
                headers.append(result)
            case Other():
                others.append(result)
            case Unreadable():
                unreadable.append(result)
            case None:
                ignored += 1
        if progress and (n % _FILES_A_TASK == 0 or n == len(refs)):
            progress(n, len(refs))
    annotations = [_annotated(o, key) for o in others if o.modality in ("SEG", "RTSTRUCT")]
    other = [o for o in others if o.modality not in ("SEG", "RTSTRUCT")]
    return Scan(assemble(headers, key=key), tuple(annotations), tuple(unreadable), tuple(other), ignored)


def _folder(found: Unreadable | SliceRef) -> Path:
    """The folder that a file lies in; within an archive too."""
    return (found.file.path / found.file.member).parent


def _annotated(other: Other, key: str) -> Annotated:
    return Annotated(
        file=other.file,
        modality=other.modality,
        sop_class_uid=other.sop_class_uid,
        sop_instance_uid=other.sop_instance_uid,
        series_uid=other.series_uid,
        study_uid=other.study_uid,
        description=other.description,
        referenced_series=other.referenced_series,
        patient=pseudonym(other.patient_id or other.study_uid, key=key),
        patient_id=other.patient_id,
    )


def _read_all(refs: Sequence[FileRef], workers: int | None) -> Iterator[_Result]:
    tasks = [refs[n : n + _FILES_A_TASK] for n in range(0, len(refs), _FILES_A_TASK)]
    if workers is None and len(refs) < _PARALLEL_FILES:
        workers = 1
    for results in in_processes(_read_task, tasks, workers=workers):
        yield from results


def _read_task(refs: Sequence[FileRef]) -> list[_Result]:
    with Opener() as opener:
        return [read_file(ref, opener) for ref in refs]
