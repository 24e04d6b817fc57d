"""De-identify a folder of DICOM: PS3.15's Basic Profile, the same pseudonyms in every file and every run of a key.

Faces stay in the pixels of head images: nothing here removes features that one could recognise.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from medseg3d.dicom.anonymous_file import Outcome, Settings, anonymise_file, method_codes, writing_to
from medseg3d.dicom.clean import Changes
from medseg3d.dicom.files import find_files
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.profile import Options
from medseg3d.dicom.pseudonyms import Pseudonyms
from medseg3d.errors import UsageError

__all__ = ["Deidentified", "deidentify"]

# Below this many files, starting worker processes takes longer than the work.
FEW_FILES = 200


@dataclass(frozen=True)
class Deidentified:
    """What was done to a folder. No value of an original file is in it.

    Attributes:
        written: files in the output, named by their new UIDs.
        duplicates: files left out because their content is in another one.
        skipped: files that are no DICOM objects, or DICOMDIRs: not copied.
        refused: files that could not be made anonymous, as (file, the reason); the file is for the person at the
            keyboard, and is not in ``as_json``.
        changes: (tag, what was done) → how often.
        options, codes: what was asked for, and the standard's codes for it (PS3.16 CID 7050).
        key_fingerprint: equal for equal keys, and of no use to find the key.
    """

    written: tuple[Path, ...]
    duplicates: int
    skipped: int
    refused: tuple[tuple[FileRef, str], ...]
    changes: Changes = field(repr=False)
    options: Options
    codes: tuple[str, ...]
    key_fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """The report: counts, and for every attribute what was done and how often."""
        private = Counter[str]()
        attributes = []
        for (tag, done), count in sorted(self.changes.items()):
            if Tag(tag).is_private:
                private[done] += count
            else:
                name = {"tag": f"({tag >> 16:04X},{tag & 0xFFFF:04X})", "keyword": keyword_for_tag(tag)}
                attributes.append({**name, "action": done, "count": count})
        reasons = Counter(reason for _, reason in self.refused)
        return {
            "profile": "DICOM PS3.15 Basic Application Level Confidentiality Profile, edition 2026c",
            "options": {"codes": list(self.codes), **vars(self.options)},
            "key_fingerprint": self.key_fingerprint,
            "files": {
                "written": len(self.written),
                "duplicates": self.duplicates,
                "skipped": self.skipped,
                "refused": len(self.refused),
            },
            "refused": [{"reason": reason, "files": count} for reason, count in sorted(reasons.items())],
            "private_attributes": dict(private),
            "attributes": attributes,
        }


def deidentify(
    source: str | Path,
    out: str | Path,
    *,
    key: bytes,
    options: Options = Options(),
    allow_burned_in: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    on_file: Callable[[int, int], None] | None = None,
) -> Deidentified:
    """Write de-identified copies of all DICOM files of a folder to ``out/<patient>/<study>/<series>/<instance>.dcm``.

    Every name is a pseudonym; no file or folder name of the source is kept. Each file is there whole or not at all.
    Files that are no DICOM objects are not copied, nor are hidden files and DICOMDIRs.

    Args:
        source: a folder, gone through with all its subfolders, one file, or a zip archive.
        out: folder; made if absent.
        key: the secret behind all pseudonyms, at least 16 bytes. The same key gives the same pseudonyms again.
        options: what is kept beyond the Basic Profile.
        allow_burned_in: also take images that may show a name in their pixels; someone has looked at them.
        overwrite: write into a folder that is not empty; files of the same name are replaced.
        workers: processes; all CPU cores by default. A script needs the usual ``if __name__ == "__main__":``.
        on_file: called with the number of files done and of all.

    Raises:
        UsageError: no such source; ``out`` in the source, or not empty and ``overwrite`` false; a short key.
        OutputError: ``out`` cannot be made or written to, or the disk is full. What is there by then is whole.
    """
    source, out = Path(source), Path(out)
    settings = Settings(Pseudonyms(key), options, allow_burned_in)
    _check_folders(source, out, overwrite=overwrite)
    files = find_files(source)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=".deidentifying-", dir=out))
    tally = _Tally(out)
    try:
        for done, outcome in enumerate(_outcomes(files, staging, settings, workers), start=1):
            with writing_to(out):
                tally.add(outcome)
            if on_file is not None:
                on_file(done, len(files))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Deidentified(
        written=tuple(tally.written),
        duplicates=tally.duplicates,
        skipped=tally.skipped,
        refused=tuple(tally.refused),
        changes=tally.changes,
        options=options,
        codes=tuple(code for code, _ in method_codes(options)),
        key_fingerprint=settings.pseudonyms.text("fingerprint of the key"),
    )


@dataclass
class _Tally:
    """Moves finished files to their place and counts."""

    out: Path
    written: list[Path] = field(default_factory=list)
    duplicates: int = 0
    skipped: int = 0
    refused: list[tuple[FileRef, str]] = field(default_factory=list)
    changes: Changes = field(default_factory=Counter)
    _taken: set[Path] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        if outcome.staged is None:
            if outcome.reason:
                self.refused.append((outcome.source, outcome.reason))
            else:
                self.skipped += 1
            return
        target = self._free(outcome)
        if target is None:
            self.duplicates += 1
            outcome.staged.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        outcome.staged.replace(target)
        self.written.append(target)
        self.changes.update(outcome.changes)

    def _free(self, outcome: Outcome) -> Path | None:
        """Where the file goes; None where this run wrote the same content there. Other content gets a number."""
        target, number = self.out / outcome.target, 1
        while target in self._taken:
            if _equal(target, outcome.staged):
                return None
            number += 1
            target = (self.out / outcome.target).with_name(f"{outcome.target.stem}_{number}.dcm")
        self._taken.add(target)
        return target


def _equal(first: Path, second: Path | None) -> bool:
    return second is not None and first.read_bytes() == second.read_bytes()


def _outcomes(files: Sequence[FileRef], staging: Path, settings: Settings, workers: int | None) -> Iterator[Outcome]:
    """Outcomes in the order of the files."""
    jobs = [(file, staging / f"{number}.dcm") for number, file in enumerate(files)]
    work = partial(_anonymise, settings)
    processes = min(workers or os.cpu_count() or 1, max(1, len(files) // FEW_FILES + 1))
    if processes == 1:
        yield from map(work, jobs)
        return
    # A fresh interpreter for each worker: forking while a progress bar's thread runs can deadlock.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs, chunksize=16)


def _anonymise(settings: Settings, job: tuple[FileRef, Path]) -> Outcome:
    return anonymise_file(*job, settings)


def _check_folders(source: Path, out: Path, *, overwrite: bool) -> None:
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder for the de-identified copies.")
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UsageError(
            f"{out} and {source} lie one in the other, so that originals and copies would mix: name a folder elsewhere."
        )
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"{out} is not empty: name another folder, or pass --overwrite to add to it.")
