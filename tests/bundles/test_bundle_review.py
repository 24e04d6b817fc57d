"""What a name, an expression, a weights file and a logging.conf are judged to be."""

from __future__ import annotations

import datetime
import io
import os
import pickle
import pickletools
import string
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.serialization import get_unsafe_globals_in_checkpoint

from medseg3d.bundles.expressions import concerns_of, imports_of
from medseg3d.bundles.logging_conf import check_logging_conf
from medseg3d.bundles.names import judge_import, judge_name
from medseg3d.bundles.opcodes import names_in
from medseg3d.bundles.pickles import check_weights_file
from medseg3d.bundles.reading import load_file
from medseg3d.bundles.review import review_bundle, review_configs
from medseg3d.errors import ConfigError

CONF = "[loggers]\nkeys=root\n[handlers]\nkeys=a\n[formatters]\nkeys=\n[logger_root]\nhandlers=a\n[handler_a]\n"
SYSTEM = b"cos\nsystem\n(S'exit 1'\ntR."  # a pickle of protocol 0


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("torch.nn.functional.softmax", None),
        ("torch.distributed.init_process_group", None),
        ("numpy.float32", None),
        ("monai.transforms.Lambdad", None),
        ("monai.handlers.CheckpointLoader", None),
        ("medseg3d.bundles.check_run", None),
        ("os.path.join", None),
        ("torchvision.models.resnet18", None),
        ("len", None),
        # what lies in a library and is not of it
        ("monai.utils.misc.subprocess.run", "error"),
        ("monai.data.utils.pickle.loads", "error"),
        ("os.path.os.system", "error"),
        ("torch.sys.modules", "error"),
        ("json.codecs.open", "review"),
        # a library's own ways to run code, start programs and unpickle
        ("monai.utils.run_cmd", "error"),
        ("monai.utils.optional_import", "error"),
        ("monai.bundle.run", "error"),
        ("medseg3d.inference.run.run_bundle", "error"),
        ("torch.hub.load", "error"),
        ("torch.utils.cpp_extension.load_inline", "error"),
        ("torch.load", "review"),
        ("torch.export.load", "review"),
        ("torch.export.export", None),
        ("numpy.lib.npyio.NpzFile", "review"),
        ("numpy.load", "review"),
        ("monai.apps.download_and_extract", "review"),
        # others
        ("torch._C", "error"),
        ("builtins.eval", "error"),
        ("importlib.import_module", "error"),
        ("ctypes.CDLL", "error"),
        ("my_networks.Net", "review"),
    ],
)
def test_names(name: str, verdict: str | None) -> None:
    assert judge_name(name) == verdict


@pytest.mark.parametrize(
    ("module", "verdict"),
    [
        ("monai.networks", None),
        ("glob", None),
        ("os", None),
        ("math", None),
        ("pickle", "error"),
        ("my_code", "review"),
    ],
)
def test_imports(module: str, verdict: str | None) -> None:
    assert judge_import(module) == verdict


@pytest.mark.parametrize(
    "expression",
    [
        "@network_def.to(@device)",
        "1 + max(@labels.values())",
        "@train#deterministic_transforms + @train#random_transforms",
        "torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "[{'image': path} for path in @images if path.endswith('.nii.gz')]",
        "lambda x: x[:, 0:1] > 0.5",
        "f'{@output_dir}/{@fold}'",
        "list(@dataloader)[0]",
        "@trainer.run()",
        "import monai.networks.nets as nets",
        "from medseg3d.engines import trainer",
        "from monai.networks import nets",
        "from os import path",
        "from pathlib import Path",
    ],
)
def test_expressions_that_compute(expression: str) -> None:
    assert concerns_of(expression, {}) == []


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("[c for c in ().__class__.__base__.__subclasses__() if 'Popen' in str(c)]", "__subclasses__"),
        ("getattr(torch, 'o' + 's').system('ls')", "uses getattr"),
        ("(lambda f: f('ls'))(torch.os.system)", "torch.os.system"),
        ("map(eval, ['1'])", "uses eval"),
        ("[torch for torch in [1]] and torch.os.popen('ls')", "torch.os.popen"),
        ("(m := monai.utils.misc.subprocess).run('ls')", "subprocess"),
        ("@network.forward.__globals__['os']", "__globals__"),
        ("from os import system", "imports os.system"),
        ("import subprocess, monai", "imports subprocess"),
        ("torch.hub.load('x/y', 'z')", "torch.hub.load"),
        ("open('/etc/passwd').read()", "uses open"),
        ("operator", ""),
    ],
)
def test_expressions_that_do_more(expression: str, what: str) -> None:
    imported = {"operator": {"operator"}}
    found = [concern.what for concern in concerns_of(expression, imported)]
    assert any(what in text for text in found), found


def test_a_name_that_is_bound_twice_is_judged_as_both() -> None:
    """MONAI has one set of names: which import comes last, nobody can read."""
    assert concerns_of("math.sqrt(2)", {"math": {"math"}}) == []
    assert [c.verdict for c in concerns_of("math.system('ls')", {"math": {"math", "os"}})] == ["error"]


@given(st.text(alphabet=string.printable, max_size=40))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    concerns_of(text, {})
    imports_of(text)


# Weights --------------------------------------------------------------------------------------------------------------

CONTENTS: dict[str, Any] = {
    "state dict": OrderedDict(a=torch.zeros(2, 3), b=torch.ones(1, dtype=torch.int64), c=torch.zeros(2).half()),
    "parameters": torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(2))}).state_dict(),
    "checkpoint": {"network": {"a": torch.zeros(1)}, "epoch": 3, "rates": [0.1, 0.2], "name": "x", "flags": {True}},
    "bfloat16": {"a": torch.zeros(3, dtype=torch.bfloat16), "size": torch.Size([1, 2]), "dtype": torch.float32},
    "sparse": {"a": torch.eye(3).to_sparse()},
    "path": {"a": torch.zeros(1), "path": Path("x")},
    "numpy": {"a": np.zeros(3)},
    "number of numpy": {"a": np.float64(1.0)},
    "date": {"a": datetime.date(2026, 1, 1)},
    "module": torch.nn.Linear(1, 1),
    "command": {"a": Command()},
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_weights_as_torch_judges_them(content: Any, tmp_path: Path) -> None:
    """Nothing is found exactly where torch.load(weights_only=True) would load it."""
    path = tmp_path / "model.pt"
    torch.save(content, path)
    unsafe = get_unsafe_globals_in_checkpoint(path)
    found = check_weights_file(path, where="model.pt")
    assert bool(found) == bool(unsafe), (found, unsafe)
    for name in unsafe:
        assert any(name in problem.what for problem in found)


@pytest.mark.parametrize("content", ["state dict", "checkpoint", "command"])
def test_old_files_of_torch(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(CONTENTS[content], path, _use_new_zipfile_serialization=False)
    found = check_weights_file(path, where="model.pt")
    assert [problem.severity for problem in found] == (["error"] if content == "command" else [])


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"x": Command()}, protocol=protocol))
    [problem] = check_weights_file(path, where="model.pkl")
    assert problem.severity == "error"
    assert "system" in problem.what


def test_a_pickle_that_hides_the_name_it_calls(tmp_path: Path) -> None:
    """Harmless texts are pushed last and dropped again; the opcode alone is enough to refuse it."""
    path = tmp_path / "model.pkl"
    hidden = b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x05torch\x8c\x04Size00\x93\x8c\x02ls\x85R."
    path.write_bytes(hidden)
    assert check_weights_file(path, where="model.pkl") != []


def test_a_pickle_with_a_zip_behind_it(tmp_path: Path) -> None:
    """Python takes it for a zip, torch for an old file, and unpickles its beginning."""
    path = tmp_path / "model.pt"
    torch.save(CONTENTS["state dict"], path)
    path.write_bytes(pickle.dumps(Command(), protocol=2) + path.read_bytes())
    assert any("system" in problem.what for problem in check_weights_file(path, where="model.pt"))


@pytest.mark.parametrize("before", [b"S'\xc3\xb6'\n", b"I0x10\n", b"L0x10\n", b"U\x01\xff"])
def test_what_stands_behind_an_argument_that_pickletools_refuses(before: bytes, tmp_path: Path) -> None:
    """Unpickling takes them, and goes on to the command."""
    text = b"ccollections\nOrderedDict\n0" + before + b"0" + SYSTEM
    (tmp_path / "model.pkl").write_bytes(text)
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", text)
    for name in ("model.pkl", "model.pt"):
        [problem] = check_weights_file(tmp_path / name, where=name)
        assert problem.severity == "error" and "would call os.system" in problem.what


def test_a_pickle_that_says_it_is_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**63))
    [problem] = check_weights_file(path, where="model.pt")
    assert "nor a whole pickle (it breaks off at byte 11)" in problem.what


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_those_of_pickletools(protocol: int) -> None:
    content = [
        1,
        2.5,
        None,
        10**30,
        b"x" * 300,
        "é" * 5000,
        {1, 2},
        (1, 2, 3, 4),
        np.arange(3),
        Command(),
        datetime.date,
    ]
    data = pickle.dumps(content, protocol=protocol)
    named = {str(argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    names, fault = names_in(io.BytesIO(data))
    assert fault == ""
    assert {name for name in names if "by" not in name} == {name.replace(" ", ".") for name in named}
    assert any(name.startswith(f"{os.system.__module__}.system") for name in names)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"not weights at all")
    [problem] = check_weights_file(path, where="model.pt")
    assert problem.severity == "warning"
    assert "neither a zip of torch.save nor a whole pickle" in problem.what


# Arrays ---------------------------------------------------------------------------------------------------------------

ARRAYS: dict[str, tuple[np.ndarray, str | None]] = {
    "numbers": (np.arange(3), None),
    "text": (np.array(["liver", "spleen"]), None),
    "records": (np.array([(1, 2.0)], dtype=[("größe", int), ("volume", float)]), None),
    "mappings": (np.array([{"liver": 1}, None], dtype=object), "review"),
    "paths": (np.array([Path("x"), Path("y")], dtype=object), "review"),
    "commands": (np.array([Command(), Command()], dtype=object), "error"),
    "commands in a field": (np.array([(1, Command())], dtype=[("a", int), ("b", object)]), "error"),
}


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_as_numpy_judges_them(name: str, tmp_path: Path) -> None:
    """Something is found exactly where numpy.load(allow_pickle=False) refuses, in a file and in an archive of them."""
    array, severity = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", numbers=np.zeros(2), more=array)
    np.savez_compressed(tmp_path / "c.npz", more=array)
    (tmp_path / "d.data").write_bytes((tmp_path / "a.npy").read_bytes())
    found = {problem.where: problem.severity for problem in review_bundle(tmp_path)}
    wanted = ["a.npy", "b.npz, more.npy", "c.npz, more.npy", "d.data"]
    assert found == (dict.fromkeys(wanted, severity) if severity else {})
    try:
        np.load(tmp_path / "a.npy", allow_pickle=False)
    except ValueError:
        assert severity
    else:
        assert severity is None


def test_what_is_said_of_objects_in_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "priors.npy", np.array([Path("x"), Path("y")], dtype=object))
    [problem] = review_bundle(tmp_path)
    assert str(problem).startswith("priors.npy: holds pickled objects (it names pathlib.")
    assert "which numpy.load(allow_pickle=True) unpickles. Do not load it so; ask for arrays" in str(problem)
    assert "numpy.dtype" not in str(problem)  # numpy.save's own, fetched from the memo


def test_objects_that_numpy_finds_under_another_name(tmp_path: Path) -> None:
    """numpy.load goes by the first bytes in an archive, and unpickles a file that begins like neither."""
    array = io.BytesIO()
    np.lib.format.write_array(array, np.array([Command()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mean", array.getvalue())
    empty = b"PK\x05\x06" + bytes(18)
    (tmp_path / "b.data").write_bytes(empty + (tmp_path / "a.npz").read_bytes())
    for name in ("c.npy", "d.npz", "e.data"):
        (tmp_path / name).write_bytes(SYSTEM)
    found = {problem.where: problem.severity for problem in review_bundle(tmp_path)}
    assert found == dict.fromkeys(("a.npz, mean", "b.data, mean", "c.npy", "d.npz", "e.data"), "error")


def test_texts_are_no_pickles(tmp_path: Path) -> None:
    """Nearly every letter is an opcode."""
    texts = ("Copyright (c) 2026\nRedistribution", "case\na1\nR2\n", "(c) us\nos\nR", "imports:\n- x\nb", "cosine\n1\n")
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    assert review_bundle(tmp_path) == []


@pytest.mark.parametrize("header", [b"\xff\xffxx", b"\x02\x00()", b"\x0c\x00{'descr': 1}", b"", b"\x09\x00" + b"(" * 9])
def test_a_damaged_array(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + header)
    [problem] = review_bundle(tmp_path)
    assert problem.severity == "review" and "its header cannot be read" in problem.what


def test_names_that_are_fetched_from_the_memo(tmp_path: Path) -> None:
    """``os.system`` is never written next to the opcode that looks it up."""
    path = tmp_path / "model.pkl"
    path.write_bytes(
        b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940\x8c\x05torch\x8c\x04Size00h\x00h\x01\x93\x8c\x02ls\x85R."
    )
    [problem] = check_weights_file(path, where="model.pkl")
    assert problem.severity == "error" and "os.system" in problem.what


# logging.conf ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "severities"),
    [
        ("class=StreamHandler\nargs=(sys.stdout,)", []),
        ("class=logging.StreamHandler\nargs=(sys.stderr,)\nkwargs={}", []),
        ("class=FileHandler\nargs=('train.log', 'a')", []),
        ("class=FileHandler\nargs=('../../train.log',)", ["review"]),
        ("class=handlers.SMTPHandler\nargs=('host', 'a@b', 'c@d', 's')", ["review"]),
        ("class=StreamHandler\nargs=(os.system('ls'),)", ["error"]),
        ("class=StreamHandler\nargs=(sys.modules,)", ["error"]),
        ("class=StreamHandler\nargs=()\nkwargs={'stream': __import__('os').popen('ls')}", ["error"]),
        ("class=eval\nargs=('1',)", ["error"]),
        ("class=os.system\nargs=('ls',)", ["error"]),
        ("class=StreamHandler\nargs=(sys.stdout,", ["error"]),
    ],
)
def test_handlers(handler: str, severities: list[str], tmp_path: Path) -> None:
    path = tmp_path / "logging.conf"
    path.write_text(CONF + handler)
    assert [problem.severity for problem in check_logging_conf(path, where="logging.conf")] == severities


@pytest.mark.parametrize(
    ("config", "found"),
    [
        # a module as a value, whose attributes nobody can follow from there
        ({"a": ["$import torch"], "x": "$@a::0.os.nice(0)"}, "takes an imported module from 'a::0'"),
        ({"a": ["$import torch"], "x": "$@a[0].os.nice(0)"}, "takes an imported module from 'a'"),
        ({"a": ["$import torch"], "y": "%a::0", "x": "$@y.os.nice(0)"}, "takes an imported module from 'a::0'"),
        ({"a": {"b": "$import torch", "c": "$@::b.os.nice(0)"}}, "takes an imported module from 'a::b'"),
        ({"m": "$torch.utils", "x": "$@m.data.os.nice(0)"}, "hands torch.utils on"),
        ({"i": "$from torch import utils", "x": "$(lambda m: m.data.os.nice(0))(utils)"}, "hands torch.utils on"),
        ({"i": "$import os", "x": "$(lambda m: m.os.nice(0))(os.path)"}, "hands os.path on"),
        # a target that is put together when it runs, or is written in another way
        ({"x": "os.system", "a": {"_target_": "@x", "command": "exit 1"}}, "known only when it runs"),
        ({"x": "os.system", "a": {"_target_": "%x", "command": "exit 1"}}, "known only when it runs"),
        ({"a": {"_target_": "$'os.sys' + 'tem'", "command": "exit 1"}}, "known only when it runs"),
        ({"a": {"command": "exit 1"}, "a#_target_": "os.system"}, "calls os.system"),
        # strings that Python evaluates or follows
        ({"i": "$import typing", "x": "$typing.get_type_hints(@y)"}, "uses typing.get_type_hints"),
        ({"i": "$import string", "x": "$string.Formatter().get_field('0.__globals__', [torch.mean], {})"}, "Formatter"),
        ({"i": "$from pathlib import Path", "x": "$Path('a').open('w').write('b')"}, "calls .open"),
    ],
)
def test_detours_are_found(config: dict[str, Any], found: str) -> None:
    assert any(found in problem.what for problem in review_configs([("train.yaml", config)]))


def test_names_that_references_may_take() -> None:
    config = {"imports": ["$import glob", "$import os"], "net": {"_target_": "torch.nn.Identity"}}
    expressions = {
        "a": "$@net.to(torch.float32)",
        "b": "$glob.glob(os.path.join(@root, '*'))",
        "root": ".",
        "c": "@net",
    }
    assert review_configs([("train.yaml", config | expressions)]) == []


def test_files_under_other_names_are_looked_at(tmp_path: Path) -> None:
    bundle, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    for folder in (bundle / "more" / "deep", elsewhere):
        folder.mkdir(parents=True)
        (folder / "run.YAML").write_text("a: $os.system('exit 1')\n", encoding="utf-8")
    (bundle / "configs").symlink_to(elsewhere, target_is_directory=True)
    (bundle / "net.PY").write_text("", encoding="utf-8")
    (bundle / "weights.data").write_bytes(pickle.dumps(Command()))
    found = {problem.where: problem.severity for problem in review_bundle(bundle)}
    assert found == {"more/deep/run.YAML: a": "error", "configs": "review", "net.PY": "review", "weights.data": "error"}


def test_pickles_that_torch_finds_under_another_name(tmp_path: Path) -> None:
    torch.save({"a": Command()}, tmp_path / "saved.pt")
    with zipfile.ZipFile(tmp_path / "saved.pt") as saved, zipfile.ZipFile(tmp_path / "model.pt", "w") as renamed:
        for name in saved.namelist():
            renamed.writestr(name.replace("data.pkl", "data.PKL"), saved.read(name))
    [problem] = check_weights_file(tmp_path / "model.pt", where="model.pt")
    assert problem.severity == "error" and "system" in problem.what


@pytest.mark.parametrize("name", ["EXTRA/Inference.JSON", "extra/inference.yaml", "other/inference.json", "train.yml"])
def test_configurations_wherever_an_archive_has_them(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.ts", "w") as archive:
        archive.writestr(f"model/{name}", '{"device": "$exec(1)"}')
    [problem] = review_bundle(tmp_path)
    assert problem.severity == "error" and problem.where == f"model.ts, {name}: device"


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "a: &a\n  b: *a\n", '{"a":' * 200 + "1" + "}" * 200])
def test_configurations_that_are_nested_without_end(text: str, tmp_path: Path) -> None:
    """They are refused, not passed unread."""
    for folder in ("beside", "inside"):
        (tmp_path / folder).mkdir()
    (tmp_path / "beside" / "a.yaml").write_text(text)
    with zipfile.ZipFile(tmp_path / "inside" / "model.ts", "w") as archive:
        archive.writestr("model/extra/a.yaml", text)
    for folder, name in (("beside", "a.yaml"), ("inside", "model.ts, extra/a.yaml")):
        with pytest.raises(ConfigError, match=rf"{name} is nested more than 100 levels deep, or in itself"):
            review_bundle(tmp_path / folder)


def test_many_aliases_of_one_mapping(tmp_path: Path) -> None:
    """What would be 10**8 values written out lies in eight levels."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    path = tmp_path / "a.yaml"
    path.write_text(text + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)))
    assert list(load_file(path, [])) == [f"a{n}" for n in range(8)]


def test_an_archive_in_an_archive_is_not_passed_unread(tmp_path: Path) -> None:
    """As torch.export.load reads them: it unpickles each."""
    inner = io.BytesIO()
    torch.save({"a": Command()}, inner)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data/weights/weight_0", inner.getvalue())
    [problem] = review_bundle(tmp_path)
    assert problem.severity == "review" and "weight_0 is an archive in the archive, and was not" in problem.what


def test_weights_in_a_tar_are_not_passed_unread(tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(pickle.dumps(Command()))
    with tarfile.open(tmp_path / "model.pt", "w") as tar:
        tar.add(tmp_path / "pickle", arcname="pickle")
    [problem] = check_weights_file(tmp_path / "model.pt", where="model.pt")
    assert problem.severity == "review" and "is a tar" in problem.what
