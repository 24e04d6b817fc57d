"""Which names a configuration may use without anybody reading it first.

An allow-list of libraries that compute, with what in them runs code, loads pickles, starts programs or reaches the
network taken out again. A name is judged by what it leads to: ``torch.os.system`` begins in torch and ends in os.

This is for a reader, not a prison: libraries as large as these have corners that no list knows.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

__all__ = ["SAFE_BUILTINS", "Verdict", "is_dangerous_module", "is_module", "judge_import", "judge_name"]

# None: nothing to read. "review": outside the allow-list. "error": runs code, starts programs, or writes anywhere.
Verdict = Literal["review", "error"] | None

# Libraries of numbers and images that medseg3d itself stands on.
LIBRARIES = frozenset(
    {"ignite", "medseg3d", "monai", "numpy", "segmentation_models_pytorch", "timm", "torch", "torchio", "torchvision"}
)
# Of the standard library: no input but arguments, no output but a value.
PURE_MODULES = frozenset(
    {"collections", "copy", "datetime", "functools", "itertools", "json", "logging", "math", "numbers", "operator",
     "random", "re", "statistics", "string", "time", "typing", "warnings"}
)  # fmt: skip
# Of modules that also do other things, what only reads: these very names, and nothing further inside them.
READING = frozenset(
    {"glob.glob", "glob.iglob", "os.cpu_count", "os.environ", "os.environ.get", "os.getcwd", "os.getenv", "os.listdir",
     "os.path", "os.sep", "pathlib.Path", "pathlib.Path.cwd", "pathlib.PurePath", "sys.maxsize", "sys.platform",
     "sys.stderr", "sys.stdout", "sys.version", "sys.version_info"}
) | {
    f"os.path.{name}"
    for name in ("abspath", "basename", "commonpath", "dirname", "exists", "expanduser", "getsize", "isabs", "isdir",
                 "isfile", "join", "normpath", "realpath", "relpath", "sep", "split", "splitext")
}  # fmt: skip
# Inside the libraries: what runs code, builds it, or starts programs.
RUNS_CODE = frozenset(
    {"logging.config", "medseg3d.bundles", "medseg3d.cli", "medseg3d.crossval", "medseg3d.demo",
     "medseg3d.inference.run", "monai._extensions", "monai.apps.auto3dseg", "monai.apps.nnunet", "monai.auto3dseg",
     "monai.bundle.scripts", "monai.bundle.workflows", "monai.fl", "monai.networks.trt_compiler",
     "monai.utils.jupyter_utils", "monai.utils.misc.run_cmd", "monai.utils.module", "numpy.ctypeslib",
     "numpy.distutils", "numpy.f2py", "numpy.testing", "operator.attrgetter", "operator.methodcaller",
     "string.Formatter", "torch.classes", "torch.distributed.elastic", "torch.distributed.launcher",
     "torch.distributed.rpc", "torch.distributed.run", "torch.fx", "torch.hub", "torch.ops", "torch.package",
     "torch.utils.benchmark", "torch.utils.bottleneck", "torch.utils.collect_env", "torch.utils.cpp_extension",
     "typing.ForwardRef", "typing.get_type_hints"}
)  # fmt: skip
# Inside the libraries: what unpickles, downloads, or writes where it is told to.
READS_OR_WRITES = frozenset(
    {"json.dump", "logging.FileHandler", "logging.handlers", "medseg3d.dicom", "medseg3d.files", "medseg3d.plan",
     "monai.apps.mmars", "monai.apps.utils", "monai.bundle", "numpy.lib.format", "numpy.lib.npyio", "numpy.load",
     "numpy.memmap", "numpy.save", "numpy.savetxt", "numpy.savez", "numpy.savez_compressed",
     "torch.compiler.load_cache_artifacts", "torch.distributed.checkpoint", "torch.distributed.flight_recorder",
     "torch.export.load", "torch.export.pt2_archive", "torch.from_file", "torch.jit", "torch.load",
     "torch.multiprocessing", "torch.onnx", "torch.save", "torch.serialization", "torch.testing",
     "torch.utils.data.datapipes.utils.decoder", "torch.utils.model_dump", "torch.utils.model_zoo",
     "torch.utils.show_pickle", "torchvision.datasets.utils"}
)  # fmt: skip
ALLOWED_AGAIN = frozenset({"medseg3d.bundles.check_run"})
# Whatever is reached in these can do anything.
DANGEROUS_MODULES = frozenset(
    {"_posixsubprocess", "asyncio", "builtins", "cloudpickle", "code", "codeop", "commands", "concurrent", "ctypes",
     "dill", "fabric", "fcntl", "ftplib", "gc", "http", "importlib", "inspect", "joblib", "marshal", "mmap",
     "multiprocessing", "nt", "os", "paramiko", "pdb", "pexpect", "pickle", "pickletools", "pip", "pkgutil", "posix",
     "pty", "pydoc", "requests", "runpy", "setuptools", "sh", "shelve", "shutil", "signal", "site", "smtplib", "socket",
     "socketserver", "ssl", "subprocess", "sys", "tarfile", "telnetlib", "tempfile", "threading", "timeit", "trace",
     "types", "urllib", "urllib3", "webbrowser", "xmlrpc", "zipfile", "zipimport"}
)  # fmt: skip
SAFE_BUILTINS = frozenset(
    {"abs", "all", "any", "bin", "bool", "bytes", "callable", "chr", "complex", "dict", "divmod", "enumerate", "filter",
     "float", "format", "frozenset", "hash", "hex", "int", "isinstance", "issubclass", "iter", "len", "list", "map",
     "max", "min", "next", "oct", "ord", "pow", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted",
     "str", "sum", "tuple", "zip", "True", "False", "None", "Ellipsis", "NotImplemented", "ValueError", "TypeError",
     "KeyError", "RuntimeError"}
)  # fmt: skip
DANGEROUS_BUILTINS = frozenset(
    {"__import__", "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals", "input", "locals",
     "memoryview", "open", "quit", "setattr", "super", "type", "vars"}
)  # fmt: skip


def judge_import(module: str) -> Verdict:
    """What importing a module may lead to; modules that are only read from are judged by what is read.

    >>> judge_import("monai.networks.nets"), judge_import("os"), judge_import("subprocess"), judge_import("my_code")
    (None, None, 'error', 'review')
    """
    root = module.partition(".")[0]
    if is_dangerous_module(module) and not any(name.startswith(root + ".") for name in READING):
        return "error"
    known = root in LIBRARIES | PURE_MODULES or any(name.startswith(root + ".") for name in READING)
    return None if known else "review"


def judge_name(dotted: str) -> Verdict:
    """What the object at ``package.module.name`` may do when it is used.

    >>> judge_name("torch.nn.Conv3d"), judge_name("os.path.join"), judge_name("my_code.Network")
    (None, None, 'review')
    >>> judge_name("os.system"), judge_name("torch.os.system"), judge_name("torch.load")
    ('error', 'error', 'review')
    """
    parts = dotted.split(".")
    if any(part.startswith("_") for part in parts):
        return "error"
    if dotted in READING | ALLOWED_AGAIN:
        return None
    if parts[0] in LIBRARIES | PURE_MODULES:
        return _worst(_judge_path(dotted), _judge_object(tuple(parts)))
    if parts[0] in DANGEROUS_MODULES or is_dangerous_module(dotted):
        return "error"
    if len(parts) == 1 and hasattr(builtins, dotted):
        return _judge_builtin(dotted)
    return "review"


def is_dangerous_module(module: str) -> bool:
    """Whether a module runs code, starts programs, unpickles or reaches the network."""
    return module.partition(".")[0] in DANGEROUS_MODULES


def is_module(dotted: str) -> bool:
    """Whether a name leads to a module: who is handed one can reach whatever that module has imported.

    >>> is_module("torch.nn"), is_module("os.path"), is_module("torch.nn.Conv3d"), is_module("my_code.networks")
    (True, True, False, False)
    """
    parts = dotted.split(".")
    if any(part.startswith("_") for part in parts) or parts[0] not in LIBRARIES | PURE_MODULES:
        return isinstance(sys.modules.get(dotted), ModuleType)
    item: Any = None
    for depth, part in enumerate(parts, start=1):
        item = _step(item, part, ".".join(parts[:depth]))
        if item is None:
            return False
    return isinstance(item, ModuleType)


def _worst(*verdicts: Verdict) -> Verdict:
    return "error" if "error" in verdicts else "review" if "review" in verdicts else None


def _judge_builtin(name: str) -> Verdict:
    if name in SAFE_BUILTINS:
        return None
    return "error" if name in DANGEROUS_BUILTINS else "review"


def _judge_path(dotted: str) -> Verdict:
    if _within(dotted, RUNS_CODE):
        return "error"
    return "review" if _within(dotted, READS_OR_WRITES) else None


def _within(dotted: str, names: frozenset[str]) -> bool:
    """Whether a name, or something that it lies in, is among ``names``."""
    parts = dotted.split(".")
    return any(".".join(parts[:depth]) in names for depth in range(1, len(parts) + 1))


@cache
def _judge_object(parts: Sequence[str]) -> Verdict:
    """Follow the name through what is installed: where an object is from may differ from where it is found."""
    item: Any = None
    verdict: Verdict = None
    for depth, part in enumerate(parts, start=1):
        item = _step(item, part, ".".join(parts[:depth]))
        if item is None:
            break  # not there: the check of targets and names says so
        verdict = _worst(verdict, _judge_home(item, parts[0]))
    return verdict


def _step(item: Any, part: str, path: str) -> Any:
    if item is not None and hasattr(item, part):
        return getattr(item, part)
    if item is not None and not isinstance(item, ModuleType):
        return None
    try:
        return sys.modules.get(path) or import_module(path)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError):
        return None


def _judge_home(item: Any, root: str) -> Verdict:
    """A module, class or function by the place where it is defined."""
    if isinstance(item, ModuleType):
        home = item.__name__
    elif inspect.isroutine(item) or inspect.isclass(item):
        home = f"{getattr(item, '__module__', None) or root}.{getattr(item, '__qualname__', '')}"
    else:
        return None
    top = home.partition(".")[0].lstrip("_")
    if top == "builtins":
        return _judge_builtin(item.__name__) if inspect.isroutine(item) else None
    if top in DANGEROUS_MODULES:
        return "error"
    return _judge_path(home) if top in LIBRARIES | PURE_MODULES | {root} else "review"
