"""Are the weights those that the bundle was packed with? By the hashes that come with it.

Read are ``weights_sha256`` of ``metadata.json`` (written by ``medseg3d bundle pack``), the model zoo's
``large_files.yml`` (``path``, ``url``, ``hash_val``, ``hash_type``), and ``models/<file>.sha256`` as ``sha256sum``
writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.bundles.problems import Problem
from medseg3d.bundles.reading import load_file

__all__ = ["check_hashes"]

KINDS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json", "large_file.yml")


@dataclass(frozen=True)
class _Stated:
    """A hash that some file of the bundle states for another."""

    where: str
    file: str
    value: str
    kind: str
    url: str = ""


def check_hashes(bundle: Path) -> list[Problem]:
    """Files that are not what their hash says, or are not there. No hash, no problem: nobody promised anything."""
    return [
        problem
        for stated in (*_of_metadata(bundle), *_of_large_files(bundle), *_of_sidecars(bundle))
        for problem in _check(bundle, stated)
    ]


def _of_metadata(bundle: Path) -> Iterator[_Stated]:
    hashes = load_file(bundle / "configs" / "metadata.json", []).get("weights_sha256", {})
    if isinstance(hashes, Mapping):
        for file, value in hashes.items():
            yield _Stated("configs/metadata.json: weights_sha256", str(file), str(value), "sha256")


def _of_large_files(bundle: Path) -> Iterator[_Stated]:
    for name in LARGE_FILES:
        path = bundle / name
        entries: Any = load_file(path, []).get("large_files", []) if path.is_file() else []
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, Mapping) and "path" in entry:
                value, kind = str(entry.get("hash_val") or ""), str(entry.get("hash_type") or "md5")
                yield _Stated(name, str(entry["path"]), value, kind.lower(), str(entry.get("url", "")))


def _of_sidecars(bundle: Path) -> Iterator[_Stated]:
    for kind in KINDS:
        for path in sorted((bundle / "models").glob(f"*.{kind}")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                value, _, name = line.strip().partition(" ")
                named = name.strip().lstrip("*") or path.stem
                if value:
                    yield _Stated(f"models/{path.name}", f"models/{Path(named).name}", value, kind)


def _check(bundle: Path, stated: _Stated) -> Iterator[Problem]:
    path = bundle / stated.file
    if not path.resolve().is_relative_to(bundle.resolve()):
        yield Problem(stated.where, f"{stated.file!r} lies outside the bundle.", "Name a file inside it.")
    elif stated.value and stated.kind not in KINDS:
        what = f"the hash of {stated.file} is of the kind {stated.kind!r}."
        yield Problem(stated.where, what, f"Known are {', '.join(KINDS)}.")
    elif stated.value and not _is_hash(stated):
        what = f"{stated.value[:20]!r} is no {stated.kind}, which has {KINDS[stated.kind]} hexadecimal digits."
        yield Problem(stated.where, what, f"Write what `{stated.kind}sum {stated.file}` says.")
    elif not path.is_file():
        yield _missing(stated)
    elif stated.value and (actual := _digest(path, stated.kind)) != stated.value.lower():
        what = f"is not the file that {stated.where} states: its {stated.kind} is {actual}, not {stated.value.lower()}."
        yield Problem(stated.file, what, "It was changed or damaged: get it again from where the bundle came.")


def _missing(stated: _Stated) -> Problem:
    what = f"{stated.file} is not there."
    if stated.url:
        remedy = "Fetch it: python -m monai.bundle download_large_files --bundle_path BUNDLE."
        return Problem(stated.where, what, remedy, severity="warning")
    return Problem(stated.where, what, "Get it from where the bundle came.")


def _is_hash(stated: _Stated) -> bool:
    digits = stated.value.lower()
    return len(digits) == KINDS[stated.kind] and all(digit in "0123456789abcdef" for digit in digits)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
