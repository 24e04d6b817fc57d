"""What is in a weights file, read from its bytes: no tensor is made, and nothing is unpickled.

``torch.save`` writes a zip with a pickle in it; older versions wrote pickles one after another; NumPy writes one behind
the header of an array of objects. Unpickling calls the functions that a pickle names, so those names are read from its
opcodes. Weights need a dozen of them.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from medseg3d.bundles.names import DANGEROUS_BUILTINS, is_dangerous_module
from medseg3d.bundles.problems import Problem

__all__ = ["check_weights_file", "embedded_configs", "is_loadable", "is_weights_file"]

SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".ts"})
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
# Other ways to name what is called: torch.save uses none of them, and weights_only=True refuses them.
OTHER_CALLS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})
PUT = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
GET = frozenset({"BINGET", "LONG_BINGET", "GET"})
# In the code of TorchScript: reading and writing files, and operators that a library must bring.
TORCHSCRIPT_FILES = re.compile(
    r"\btorch\.(save|load|from_file)\b|\bops\.(?!aten\b|prim\b|torchvision\b|quantized\b)\w+"
)
# Of an array of objects: what numpy.save itself puts into the pickle.
ARRAYS = re.compile(r"numpy\.(_?core)\.multiarray\.(_reconstruct|scalar)|numpy\.(ndarray|dtype)|_codecs\.encode")
NPY = b"\x93NUMPY"  # numpy.lib.format
LEGACY_PICKLES = 5
MAX_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20
_REFUSED = "Do not load it; ask for the network's state dict alone."
_NO_OBJECTS = "Do not load it so; ask for arrays of numbers or text."


def is_weights_file(path: Path) -> bool:
    """Whether a file is one that torch, or pickle, would be asked to load."""
    return path.suffix.lower() in SUFFIXES


def is_loadable(path: Path) -> bool:
    """Whether a file is called like weights, or begins as zips, pickles and NumPy's arrays do."""
    if is_weights_file(path):
        return True
    with path.open("rb") as file:
        start = file.read(len(NPY))
    is_pickle = start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}
    return start.startswith(b"PK\x03\x04") or start == NPY or is_pickle


def check_weights_file(path: Path, *, where: str) -> list[Problem]:
    """Functions that loading a weights file would call, beyond those that make tensors."""
    problems: list[Problem] = []
    try:
        with path.open("rb") as file:
            # torch goes by the first bytes, zip files by the last: a file may be both.
            start = file.read(len(NPY))
            starts_as_zip = start.startswith(b"PK\x03\x04")
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
    """The configurations inside a TorchScript archive, which MONAI Deploy runs in place of those beside it."""
    if not zipfile.is_zipfile(path):
        return []
    contents: list[tuple[str, Mapping[Any, Any]]] = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if "/extra/" in info.filename and info.filename.endswith(".json") and info.file_size <= MAX_BYTES:
                try:
                    content = json.loads(archive.read(info))
                except (ValueError, zipfile.BadZipFile):
                    continue
                if isinstance(content, dict):
                    contents.append((f"{where}, {info.filename.partition('/')[2]}", content))
    return contents


def _check_archive(path: Path, where: str) -> Iterator[Problem]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        is_script = any("/code/" in name for name in names)
        for info in archive.infolist():
            name = info.filename.lower()  # torch finds data.PKL where it looks for data.pkl
            if name.endswith(".npy"):
                with archive.open(info) as file:
                    yield from _check_array(file, f"{where}, {info.filename}")
            if not name.endswith((".pkl", ".py")):
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
    named, _ = _names_in(io.BytesIO(file.read(MAX_BYTES)))
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
    seen, fault = _names_in(file)
    if fault and is_first and not seen:
        what = f"is neither a zip of torch.save nor a whole pickle ({fault})."
        yield Problem(where, what, "Get it again, or write it with torch.save.", severity="warning")
    for name in seen:
        if not allowed.fullmatch(name):
            yield _called(name, where)


def _names_in(file: IO[bytes]) -> tuple[list[str], str]:
    """The names in a pickle that may be called, sorted, and why it could not be read to its end ("" if it could)."""
    seen: set[str] = set()
    texts: list[str] = []
    memo: dict[int, Any] = {}  # a name that was used before may be fetched from there
    last: Any = None
    fault = ""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                seen.add(str(argument).replace(" ", ".", 1))
            elif opcode.name in OTHER_CALLS:
                named = str(argument).replace(" ", ".", 1) if argument else ".".join(texts[-2:])
                seen.add(f"{named} (by {opcode.name})")
            elif opcode.name in PUT:
                memo[len(memo) if argument is None else int(argument)] = last
                continue
            last = memo.get(int(str(argument))) if opcode.name in GET else argument
            if isinstance(last, str):
                texts.append(last)
    except (ValueError, EOFError, UnicodeDecodeError, IndexError, OverflowError) as error:
        fault = str(error) or type(error).__name__
    return sorted(seen), fault


def _called(name: str, where: str) -> Problem:
    module, _, function = name.partition(" ")[0].rpartition(".")
    is_builtin = module in {"builtins", "__builtin__"} and function not in DANGEROUS_BUILTINS
    if is_dangerous_module(module.replace("__builtin__", "builtins")) and not is_builtin:
        return Problem(where, f"would call {name} when it is unpickled.", _REFUSED)
    what = f"names {name}, which is no part of a tensor: torch.load(weights_only=True) refuses it."
    return Problem(where, what, "Read what it is, or ask for the network's state dict alone.", severity="review")
