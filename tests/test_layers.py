"""What may import what: read from the import statements, and from what a fresh interpreter has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import medseg3d

PACKAGE = Path(medseg3d.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "monai", "ignite", "torchio", "torchvision"}

# The command line, the importer and the data list answer without the deep-learning stack; what only computes on arrays
# never needs it at all.
LIGHT = ("cli", "datalist", "dicom", "errors", "evaluation", "geometry", "images", "metrics", "plan", "report",
         "statistics", "volume")  # fmt: skip
NEVER = ("errors", "geometry", "images", "metrics", "report", "statistics", "volume")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def modules_of(*layers: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(PACKAGE).with_suffix("").parts[0] in layers]


def statements(node: ast.AST, *, inside_functions: bool) -> Iterator[ast.stmt]:
    """Statements below ``node`` that run, without those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from statements(child, inside_functions=inside_functions)


def imported(source: str, *, anywhere: bool) -> set[str]:
    """Absolute names that a module imports at its top level, or anywhere in it; relative imports keep their dots."""
    names: set[str] = set()
    for statement in statements(ast.parse(source), inside_functions=anywhere):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            names.add("." * statement.level + (statement.module or ""))
    return names


def roots(path: Path, *, anywhere: bool) -> set[str]:
    return {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"), anywhere=anywhere)}


def test_the_reader_of_imports_sees_what_it_should():
    source = (
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\n"
        "try:\n    import f\nexcept ImportError:\n    pass\ndef g():\n    import h\nclass I:\n    from .j import k\n"
    )
    assert imported(source, anywhere=False) == {"a.b", "c", "f", ".j"}
    assert imported(source, anywhere=True) == {"a.b", "c", "f", "h", ".j"}


def test_the_package_is_found():
    names = {name_of(path) for path in MODULES}
    assert {"medseg3d.errors", "medseg3d.cli.__init__", "medseg3d.metrics.overlap"} <= names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_package_never_imports_bundles_scripts_or_tests(path):
    assert not roots(path, anywhere=True) & {"bundles", "scripts", "tests", "conftest"}


@pytest.mark.parametrize("path", modules_of(*LIGHT), ids=name_of)
def test_light_modules_import_no_deep_learning_at_the_top(path):
    assert not roots(path, anywhere=False) & HEAVY


@pytest.mark.parametrize("path", modules_of(*NEVER), ids=name_of)
def test_modules_on_plain_arrays_import_no_deep_learning_anywhere(path):
    assert not roots(path, anywhere=True) & HEAVY


@pytest.mark.parametrize("path", modules_of("errors", "geometry", "volume", "metrics"), ids=name_of)
def test_the_foundations_do_not_reach_up(path):
    foundations = ("medseg3d.errors", "medseg3d.geometry", "medseg3d.volume", "medseg3d.metrics")
    own = {name for name in imported(path.read_text(encoding="utf-8"), anywhere=True) if name.startswith("medseg3d")}
    assert all(name.startswith(foundations) for name in own)


@pytest.mark.parametrize("path", modules_of("cli"), ids=name_of)
def test_the_command_line_imports_only_typer_and_rich_at_the_top(path):
    assert roots(path, anywhere=False) <= set(sys.stdlib_module_names) | {"typer", "rich", "medseg3d"}


@pytest.mark.parametrize("path", [p for p in MODULES if "cli" not in p.parts], ids=name_of)
def test_the_package_does_not_import_its_command_line(path):
    own = imported(path.read_text(encoding="utf-8"), anywhere=True)
    if path.name != "__main__.py":
        assert not {name for name in own if name.startswith(("medseg3d.cli", "typer"))}


def calls_of(path: Path) -> dict[str, list[ast.Call]]:
    calls: dict[str, list[ast.Call]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            calls.setdefault(ast.unparse(node.func), []).append(node)
    return calls


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_library_neither_prints_nor_exits_nor_asserts(path):
    calls = set(calls_of(path))
    assert not calls & {"print", "exit", "quit", "os._exit"}
    assert "sys.exit" not in calls or "cli" in path.parts
    asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Assert)]
    assert not asserts


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_unpickles(path):
    calls = calls_of(path)
    assert not roots(path, anywhere=True) & {"dill", "joblib", "shelve", "marshal", "cloudpickle"}
    # Its exception may be named, to turn a refusal of torch.load into a message.
    assert not {
        name for name in calls if name.split(".")[0] == "pickle" or name.endswith((".Unpickler", "read_pickle"))
    }
    for call in calls.get("torch.load", []):
        assert ast.unparse({k.arg: k.value for k in call.keywords}["weights_only"]) == "True"
    for call in calls.get("np.load", []):
        assert "allow_pickle" not in {k.arg for k in call.keywords}


def loaded_after(statement: str) -> set[str]:
    command = f"{statement}; import sys; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_command_line_loads_nothing_heavy():
    loaded = loaded_after("import medseg3d.cli")
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy", "scipy", "nibabel", "SimpleITK", "matplotlib", "pandas"})


@pytest.mark.parametrize("layer", [layer for layer in LIGHT if modules_of(layer)])
def test_importing_a_light_module_loads_no_deep_learning(layer):
    modules = [name_of(path).removesuffix(".__init__") for path in modules_of(layer)]
    loaded = loaded_after("import " + ", ".join(m for m in modules if not m.endswith("__main__")))
    assert not loaded & HEAVY


def test_importing_the_package_loads_only_the_standard_library():
    loaded = {name.split(".")[0] for name in loaded_after("import medseg3d")}
    before = {name.split(".")[0] for name in loaded_after("pass")}
    assert loaded - before - {"medseg3d"} <= set(sys.stdlib_module_names)
