"""What is in a weights file, read from its bytes: no tensor is made, and nothing is unpickled.

``torch.save`` writes a zip with a pickle in it; older versions wrote pickles one after another; NumPy writes one behind
the header of an array of objects. Unpickling calls the functions that a pickle names, so those names are read from its
opcodes. Weights need a dozen of them.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from medseg3d.bundles.names import DANGEROUS_BUILTINS, LIBRARIES, is_dangerous_module
from medseg3d.bundles.opcodes import names_in
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.reading import within_depth

__all__ = ["check_weights_file", "embedded_configs", "is_loadable", "is_weights_file"]

SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".ts"})
# numpy.load, which MONAI's NumpyReader calls with allow_pickle=True, unpickles these whatever they begin with.
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
# What tensors, parameters and state dicts are made of: as torch.load(weights_only=True) allows.
TENSORS = re.compile(
    r"torch\.(\w+Storage|Size|Tensor|device|b?float\d*\w*|double|half|u?int\d+|short|long|complex\d+|bool)"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.\w*Parameter"
    r"|torch\._utils\._rebuild_\w+|torch\.serialization\._get_layout"
    r"|collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|frozenset|bytearray|complex|slice)"
    r"|_codecs\.encode"
)
# Of TorchScript: classes whose code lies in the same archive, and lists that carry their type.
TORCHSCRIPT = re.compile(r"__torch__\..*|torch\.jit\._pickle\.\w+|" + TENSORS.pattern)
# In the code of TorchScript: reading and writing files, and operators that a library must bring.
TORCHSCRIPT_FILES = re.compile(
    r"\btorch\.(save|load|from_file)\b|\bops\.(?!aten\b|prim\b|torchvision\b|quantized\b)\w+"
)
# Of an array of objects: what numpy.save itself puts into the pickle.
ARRAYS = re.compile(r"numpy\.(_?core)\.multiarray\.(_reconstruct|scalar)|numpy\.(ndarray|dtype)|_codecs\.encode")
NPY = b"\x93NUMPY"  # numpy.lib.format
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an empty one, which NumPy reads even where one follows that is not
PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(6))
CONFIG = re.compile(r"\.(json|ya?ml)", re.IGNORECASE)
LEGACY_PICKLES = 5
MAX_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20
_REFUSED = "Do not load it; ask for the network's state dict alone."
_NO_OBJECTS = "Do not load it so; ask for arrays of numbers or text."


def is_weights_file(path: Path) -> bool:
    """Whether a file is one that torch, or pickle, would be asked to load."""
    return path.suffix.lower() in SUFFIXES


def is_loadable(path: Path) -> bool:
    """Whether a file is called like weights or arrays, or holds what loading unpickles, whatever it is called."""
    if is_weights_file(path) or path.suffix.lower() in ARRAY_SUFFIXES:
        return True
    with path.open("rb") as file:
        if file.read(len(NPY)).startswith((*ZIP, NPY, *PROTOCOLS)):
            return True
        file.seek(0)
        # The oldest pickles begin as any text may: by what they name, then.
        return any(_is_known(name) for name in names_in(file)[0])


def _is_known(name: str) -> bool:
    parts = name.partition(" ")[0].split(".")
    return all(map(str.isidentifier, parts)) and (parts[0] in LIBRARIES or is_dangerous_module(parts[0]))


def check_weights_file(path: Path, *, where: str) -> list[Problem]:
    """Functions that loading a weights file would call, beyond those that make tensors."""
    problems: list[Problem] = []
    try:
        with path.open("rb") as file:
            # torch goes by the first bytes, zip files by the last: a file may be both.
            start = file.read(len(NPY))
            starts_as_zip = start.startswith(ZIP)
            file.seek(0)
            if start == NPY:
                problems += _check_array(file, where)
            elif not starts_as_zip and tarfile.is_tarfile(path):
                what = "is a tar, as torch wrote before 0.4: the pickles in it were not looked at."
                problems.append(Problem(where, what, _REFUSED, severity="review"))
            elif not starts_as_zip:
                problems += _check_pickles(file, where)
        if starts_as_zip or zipfile.is_zipfile(path):
            problems += _check_archive(path, where)
        return problems
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError: the zip is encrypted.
        return [Problem(where, f"cannot be read: {error}.", "Get it again: it is damaged.")]


def embedded_configs(path: Path, *, where: str) -> list[tuple[str, Mapping[Any, Any]]]:
    """The configurations inside a TorchScript archive, which MONAI Deploy runs in place of those beside it.

    It takes JSON and YAML, from any folder of the archive; torch finds a name in capitals too.

    Raises:
        ConfigError: one that is nested without end.
    """
    if not zipfile.is_zipfile(path):
        return []
    contents: list[tuple[str, Mapping[Any, Any]]] = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if CONFIG.search(info.filename) and info.file_size <= MAX_BYTES:
                name = f"{where}, {info.filename.partition('/')[2] or info.filename}"
                content = _embedded(archive, info, name)
                if isinstance(content, dict):
                    contents.append((name, content))
    return contents


def _embedded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> object:
    try:
        text = archive.read(info)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return None  # the check of the archive says so
    for parse in (json.loads, yaml.safe_load):
        with suppress(ValueError, yaml.YAMLError):
            return within_depth(partial(parse, text), where=where)
    return None


def _check_archive(path: Path, where: str) -> Iterator[Problem]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        is_script = any("/code/" in name for name in names)
        for info in archive.infolist():
            name = info.filename.lower()  # torch finds data.PKL where it looks for data.pkl
            with archive.open(info) as file:
                start = file.read(len(NPY))
                if start == NPY:  # NumPy too goes by this, not by the name
                    file.seek(0)
                    yield from _check_array(file, f"{where}, {info.filename}")
                elif start.startswith(ZIP):
                    what = f"{info.filename} is an archive in the archive, and was not looked at."
                    yield Problem(
                        where, what, "Unpack it and check it, or ask for a state dict alone.", severity="review"
                    )
            if not name.endswith((".pkl", ".py")) and not CONFIG.search(name):
                continue
            if info.file_size > MAX_BYTES:
                what = f"{info.filename} would be {info.file_size / 2**20:.0f} MB when unpacked."
                yield Problem(where, what, "No weights need that: do not load it.")
            elif name.endswith(".pkl"):
                yield from _check_stream(io.BytesIO(archive.read(info)), where, TORCHSCRIPT if is_script else TENSORS)
            elif is_script:
                yield from _check_script(archive.read(info).decode("utf-8", "replace"), f"{where}, {info.filename}")


def _check_array(file: IO[bytes], where: str) -> Iterator[Problem]:
    """An array of numbers is data; one of objects is a pickle, which ``numpy.load(allow_pickle=True)`` unpickles."""
    try:
        if not _holds_objects(file):
            return
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        what = f"calls itself an array of NumPy, and its header cannot be read ({' '.join(str(error).split())})."
        yield Problem(where, what, "Get it again: it is damaged.", severity="review")
        return
    named, _ = names_in(io.BytesIO(file.read(MAX_BYTES)))
    dangerous = [problem for name in named if (problem := _called(name, where)).severity == "error"]
    yield from (replace(problem, remedy=_NO_OBJECTS) for problem in dangerous)
    if not dangerous:
        others = [name for name in (name.partition(" ")[0] for name in named) if not ARRAYS.fullmatch(name)]
        what = "holds pickled objects" + (f" (it names {', '.join(others)})" if others else "")
        yield Problem(where, f"{what}, which numpy.load(allow_pickle=True) unpickles.", _NO_OBJECTS, severity="review")


def _holds_objects(file: IO[bytes]) -> bool:
    """Whether the array that ``file`` begins with is one of objects; leaves the file behind the header."""
    major, _ = np.lib.format.read_magic(file)
    size = int.from_bytes(file.read(2 if major == 1 else 4), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"it is {size} bytes long")
    header = ast.literal_eval(file.read(size).decode("utf-8" if major >= 3 else "latin1"))
    return bool(np.lib.format.descr_to_dtype(header["descr"]).hasobject)


def _check_script(code: str, where: str) -> Iterator[Problem]:
    for found in sorted({match.group() for match in TORCHSCRIPT_FILES.finditer(code)}):
        what = f"its TorchScript calls {found}."
        yield Problem(where, what, "Read what it does with files before you load it.", severity="review")


def _check_pickles(file: IO[bytes], where: str) -> Iterator[Problem]:
    """Pickles one after another, as torch wrote before 1.6, and what else calls itself weights."""
    for number in range(LEGACY_PICKLES):
        start = file.tell()
        problems = list(_check_stream(file, where, TENSORS, is_first=number == 0))
        yield from problems
        if problems or file.tell() == start:
            return


def _check_stream(file: IO[bytes], where: str, allowed: re.Pattern[str], *, is_first: bool = True) -> Iterator[Problem]:
    seen, fault = names_in(file)
    if fault and is_first and not seen:
        what = f"is neither a zip of torch.save nor a whole pickle ({fault})."
        yield Problem(where, what, "Get it again, or write it with torch.save.", severity="warning")
    for name in seen:
        if not allowed.fullmatch(name):
            yield _called(name, where)


def _called(name: str, where: str) -> Problem:
    module, _, function = name.partition(" ")[0].rpartition(".")
    is_builtin = module in {"builtins", "__builtin__"} and function not in DANGEROUS_BUILTINS
    if is_dangerous_module(module.replace("__builtin__", "builtins")) and not is_builtin:
        return Problem(where, f"would call {name} when it is unpickled.", _REFUSED)
    what = f"names {name}, which is no part of a tensor: torch.load(weights_only=True) refuses it."
    return Problem(where, what, "Read what it is, or ask for the network's state dict alone.", severity="review")
