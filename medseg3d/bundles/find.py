"""Find bundles: by path, in ``$MEDSEG3D_BUNDLES``, in ``./bundles``, and in the installed package."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from medseg3d.errors import UsageError

__all__ = ["BUNDLES_VARIABLE", "find_bundle", "is_bundle", "list_bundles", "search_path"]

BUNDLES_VARIABLE = "MEDSEG3D_BUNDLES"


def is_bundle(folder: Path) -> bool:
    """Whether ``folder`` is laid out as a bundle: it has ``configs/`` with something in it."""
    configs = folder / "configs"
    return configs.is_dir() and any(configs.iterdir())


def search_path() -> list[Path]:
    """Folders in which bundles are looked for, first wins; those that do not exist are left out.

    ``$MEDSEG3D_BUNDLES`` may name several folders, separated as in ``$PATH``. The last two are the copy inside the
    installed package and, for a source checkout, the folder beside the package.
    """
    package = Path(__file__).resolve().parents[1]
    named = [Path(folder) for folder in os.environ.get(BUNDLES_VARIABLE, "").split(os.pathsep) if folder]
    folders = [*named, Path("bundles"), package / "_bundles", package.parent / "bundles"]
    return list(dict.fromkeys(folder.resolve() for folder in folders if folder.is_dir()))


def list_bundles() -> list[Path]:
    """Every bundle on the search path, by name; of two with one name, the one that :func:`find_bundle` would take."""
    found: dict[str, Path] = {}
    for folder in search_path():
        for bundle in sorted(folder.iterdir()):
            if is_bundle(bundle):
                found.setdefault(bundle.name, bundle)
    return [found[name] for name in sorted(found)]


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle, by its path or else by its name on the :func:`search_path`.

    Raises:
        UsageError: no such bundle; the message names the nearest one and the folders that were searched.
    """
    path = Path(name_or_path)
    if is_bundle(path):
        return path.resolve()
    if path.name == str(name_or_path):
        for folder in search_path():
            if is_bundle(folder / path):
                return folder / path
    if path.is_dir():
        raise UsageError(
            f"{path} is no bundle: it has no configs/ with files in it. Name the folder that holds configs/."
        )
    raise UsageError(_not_found(path.name))


def _not_found(name: str) -> str:
    names = [bundle.name for bundle in list_bundles()]
    near = get_close_matches(name, names, n=1)
    searched = ", ".join(map(str, search_path())) or "no folder: ./bundles does not exist"
    if near:
        advice = f"Did you mean {near[0]!r}?"
    elif names:
        advice = f"There are: {', '.join(names)}."
    else:
        advice = f"Give a path, or set {BUNDLES_VARIABLE} to the folder that holds your bundles."
    return f"There is no bundle {name!r} (searched {searched}). {advice}"
