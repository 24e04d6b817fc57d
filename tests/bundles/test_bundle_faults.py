"""Faults planted in a copy of a bundle, each found with where, what and a remedy, and without running any of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from medseg3d.bundles import check_bundle, copy_bundle, find_bundle, review_bundle
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.review import require_trust
from medseg3d.cli import app
from medseg3d.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:parsing config_file")

SOURCE = find_bundle("mri_hippocampus_segmentation")
# What a planted command would do: make this file, in the current folder. None may.
COMMAND = "touch canary"


class Bomb:
    """Unpickling it runs a shell command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (COMMAND,)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to plant a fault in; the current folder is empty, and stays so unless something ran."""
    monkeypatch.chdir(tmp_path)
    folder = copy_bundle(SOURCE, tmp_path / "copy", weights=False)
    # One configuration is enough, and quick: what train.yaml holds is checked in test_bundle_check.py.
    for name in ("train", "evaluate", "multi_gpu_train", "sgd_poly", "unet_2d"):
        (folder / "configs" / f"{name}.yaml").unlink(missing_ok=True)
    return folder


def inference(bundle: Path, **changes: object) -> None:
    """Set top-level ids of inference.yaml."""
    path = bundle / "configs" / "inference.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))


def deep(bundle: Path, section: str, **changes: object) -> None:
    """Set keys of a mapping in inference.yaml; None takes one out."""
    path = bundle / "configs" / "inference.yaml"
    config = yaml.safe_load(path.read_text())
    config[section] = {key: value for key, value in (config[section] | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def without(bundle: Path, id_: str) -> None:
    path = bundle / "configs" / "inference.yaml"
    config = yaml.safe_load(path.read_text())
    del config[id_]
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def metadata(bundle: Path, **changes: object) -> None:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def imports(bundle: Path, statement: str) -> None:
    path = bundle / "configs" / "inference.yaml"
    config = yaml.safe_load(path.read_text())
    inference(bundle, imports=[*config["imports"], statement])


def logging_conf(bundle: Path, old: str, new: str) -> None:
    path = bundle / "configs" / "logging.conf"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def weights(bundle: Path, content: object = None) -> Path:
    path = bundle / "models" / "model.pt"
    torch.save({"weight": torch.zeros(2)} if content is None else content, path)
    return path


def large_file(bundle: Path, **entry: str) -> None:
    (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": [{"path": "models/model.pt", **entry}]}))


def script_archive(bundle: Path, name: str, member: str, content: str) -> None:
    """A TorchScript archive with one more file in it."""
    path = bundle / "models" / name
    traced = torch.jit.trace(torch.nn.Identity(), torch.zeros(1))
    torch.jit.save(traced, str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/{member}", content)


# Fault → how it is planted, where it must be found, words of the message, and how serious it is.
Fault = tuple[Callable[[Path], object], str, str, str]
FAULTS: dict[str, Fault] = {
    # mistakes
    "misspelt argument": (
        lambda b: deep(b, "inferer", overlap=None, overlapp=0.5),
        "configs/inference.yaml: inferer",
        "Did you mean 'overlap'",
        "error",
    ),
    "undefined reference": (
        lambda b: deep(b, "evaluator", network="@netwrk"),
        "configs/inference.yaml: evaluator::network",
        "@netwrk",
        "error",
    ),
    "misspelt target": (
        lambda b: deep(b, "network_def", _target_="DynUNett"),
        "configs/inference.yaml: network_def",
        "DynUNet",
        "error",
    ),
    "missing property": (
        lambda b: without(b, "bundle_root"),
        "configs/inference.yaml: bundle_root",
        "must define",
        "error",
    ),
    "circle": (
        lambda b: inference(b, spacing="@patch_size", patch_size="@spacing"),
        "configs/inference.yaml: spacing",
        "circle",
        "error",
    ),
    "labels and channels": (
        lambda b: inference(b, labels={"anterior": 1, "posterior": 2, "whole": 3}),
        "configs/metadata.json",
        "whole",
        "error",
    ),
    "metadata without version": (lambda b: metadata(b, version="9.9.9"), "configs/metadata.json", "changelog", "error"),
    # weights that are not the bundle's
    "hash in the metadata": (
        lambda b: (weights(b), metadata(b, weights_sha256={"models/model.pt": "0" * 64})),
        "models/model.pt",
        "its sha256 is",
        "error",
    ),
    "hash in large_files.yml": (
        lambda b: (weights(b), large_file(b, hash_val="0" * 32, hash_type="md5")),
        "models/model.pt",
        "its md5 is",
        "error",
    ),
    "hash of another kind": (
        lambda b: (weights(b), large_file(b, hash_val="0" * 32, hash_type="sha256")),
        "large_files.yml",
        "no sha256, which has 64",
        "error",
    ),
    "hash beside the weights": (
        lambda b: (weights(b), (b / "models" / "model.pt.sha256").write_text("0" * 64 + "  model.pt\n")),
        "models/model.pt",
        "is not the file that models/model.pt.sha256 states",
        "error",
    ),
    "weights that are not there": (
        lambda b: metadata(b, weights_sha256={"models/model.pt": "0" * 64}),
        "configs/metadata.json",
        "is not there",
        "error",
    ),
    "weights to fetch": (
        lambda b: large_file(b, url="https://example.org/model.pt"),
        "large_files.yml",
        "download_large_files",
        "warning",
    ),
    "weights outside": (
        lambda b: large_file(b, path="../../model.pt", hash_val="0" * 32),
        "large_files.yml",
        "outside the bundle",
        "error",
    ),
    # code: expressions
    "shell in an expression": (
        lambda b: inference(b, initialize=[f"$__import__('os').system('{COMMAND}')"]),
        "configs/inference.yaml: initialize::0",
        "__import__",
        "error",
    ),
    "shell behind a module": (
        lambda b: inference(b, run=[f"$torch.os.system('{COMMAND}')"]),
        "configs/inference.yaml: run::0",
        "torch.os.system",
        "error",
    ),
    "shell by MONAI": (
        lambda b: inference(b, device=f"$monai.utils.run_cmd(['{COMMAND}'], shell=True)"),
        "configs/inference.yaml: device",
        "monai.utils.run_cmd",
        "error",
    ),
    "shell by another name": (
        lambda b: (imports(b, "$import os as math"), inference(b, amp=f"$math.system('{COMMAND}')")),
        "configs/inference.yaml: amp",
        "os.system",
        "error",
    ),
    "shell imported": (
        lambda b: (imports(b, "$from subprocess import run as go"), inference(b, amp=f"$go('{COMMAND}', shell=True)")),
        "configs/inference.yaml: imports::2",
        "imports subprocess.run",
        "error",
    ),
    "shell through a class": (
        lambda b: inference(b, amp="$().__class__.__base__.__subclasses__()"),
        "configs/inference.yaml: amp",
        "__subclasses__",
        "error",
    ),
    "shell when disabled": (
        lambda b: deep(b, "evaluator", _disabled_=f"$eval('{COMMAND}')"),
        "configs/inference.yaml: evaluator::_disabled_",
        "uses eval",
        "error",
    ),
    "shell as a requirement": (
        lambda b: deep(b, "evaluator", _requires_=f"$exec('{COMMAND}')"),
        "configs/inference.yaml: evaluator::_requires_",
        "uses exec",
        "error",
    ),
    "shell in a comprehension": (
        lambda b: inference(b, amp=f"$[m.system('{COMMAND}') for m in [torch.os]]"),
        "configs/inference.yaml: amp",
        "system",
        "error",
    ),
    "shell in the metadata": (
        lambda b: metadata(b, description=f"$__import__('os').system('{COMMAND}')"),
        "configs/metadata.json: description",
        "__import__",
        "error",
    ),
    "pickle in an expression": (
        lambda b: inference(b, amp="$torch.load('x.pt', weights_only=False)"),
        "configs/inference.yaml: amp",
        "torch.load",
        "review",
    ),
    "file that is written": (
        lambda b: (imports(b, "$import pathlib"), inference(b, amp="$pathlib.Path('canary').write_text('')")),
        "configs/inference.yaml: amp",
        ".write_text",
        "error",
    ),
    # code: targets
    "shell as a target": (
        lambda b: inference(b, helper={"_target_": "os.system", "command": COMMAND}),
        "configs/inference.yaml: helper::_target_",
        "calls os.system",
        "error",
    ),
    "shell as a bare target": (
        lambda b: inference(b, helper={"_target_": "run_cmd", "cmd_list": [COMMAND], "shell": True}),
        "configs/inference.yaml: helper::_target_",
        "monai.utils.misc.run_cmd",
        "error",
    ),
    "eval as a target": (
        lambda b: inference(b, helper={"_target_": "builtins.eval", "source": "1"}),
        "configs/inference.yaml: helper::_target_",
        "builtins.eval",
        "error",
    ),
    "target of the bundle itself": (
        lambda b: (
            (b / "scripts").mkdir(),
            (b / "scripts" / "net.py").write_text("import os\nos.system('touch canary')\n"),
            deep(b, "network_def", _target_="scripts.net.Net"),
        ),
        "configs/inference.yaml: network_def::_target_",
        "scripts.net.Net",
        "review",
    ),
    "debugger": (
        lambda b: deep(b, "inferer", _mode_="debug"),
        "configs/inference.yaml: inferer::_mode_",
        "debugger",
        "review",
    ),
    # code: files
    "code in the folder": (
        lambda b: (b / "docs" / "setup.py").write_text("import os\nos.system('touch canary')\n"),
        "docs/setup.py",
        "is code",
        "review",
    ),
    "code in place of a module": (
        lambda b: (b / "json.py").write_text("import os\nos.system('touch canary')\n"),
        "json.py",
        "module 'json'",
        "error",
    ),
    "shell in logging.conf": (
        lambda b: logging_conf(b, "args=(sys.stdout,)", f"args=(__import__('os').system('{COMMAND}'),)"),
        "configs/logging.conf: [handler_console]",
        "more than literals",
        "error",
    ),
    "class in logging.conf": (
        lambda b: logging_conf(b, "class=StreamHandler", f"class=__import__('os').system('{COMMAND}')"),
        "configs/logging.conf: [handler_console]",
        "no handler of Python's logging",
        "error",
    ),
    "pieces in logging.conf": (
        lambda b: logging_conf(b, "class=StreamHandler", "piece=os.system\nclass=%(piece)s"),
        "configs/logging.conf: [handler_console]",
        "os.system",
        "error",
    ),
    "log to another folder": (
        lambda b: logging_conf(b, "class=StreamHandler\n", "class=FileHandler\nargs=('/etc/log',)\n[other]\n"),
        "configs/logging.conf: [handler_console]",
        "outside the current folder",
        "review",
    ),
    # code: weights
    "shell in the weights": (
        lambda b: weights(b, {"weight": torch.zeros(2), "more": Bomb()}),
        "models/model.pt",
        "would call posix.system",
        "error",
    ),
    "shell in old weights": (
        lambda b: torch.save({"more": Bomb()}, b / "models" / "old.pth", _use_new_zipfile_serialization=False),
        "models/old.pth",
        "would call posix.system",
        "error",
    ),
    "shell in a bare pickle": (
        lambda b: (b / "models" / "model.pt").write_bytes(pickle.dumps(Bomb(), protocol=4)),
        "models/model.pt",
        "posix.system (by STACK_GLOBAL)",
        "error",
    ),
    "shell in a text pickle": (
        lambda b: (b / "models" / "model.ckpt").write_bytes(pickle.dumps(Bomb(), protocol=0)),
        "models/model.ckpt",
        "would call posix.system",
        "error",
    ),
    "objects in the weights": (
        lambda b: weights(b, {"weight": torch.zeros(2), "path": Path("x")}),
        "models/model.pt",
        "pathlib.",
        "review",
    ),
    "shell inside TorchScript": (
        lambda b: script_archive(
            b, "model.ts", "extra/inference.json", json.dumps({"device": f"$__import__('os').system('{COMMAND}')"})
        ),
        "models/model.ts, extra/inference.json: device",
        "__import__",
        "error",
    ),
    "files from TorchScript": (
        lambda b: script_archive(b, "model.ts", "code/x.py", "def forward(x):\n  torch.save(x, 'canary')\n"),
        "models/model.ts, model/code/x.py",
        "torch.save",
        "review",
    ),
}


def test_the_copy_itself_is_clean(bundle: Path) -> None:
    assert check_bundle(bundle) == []


def test_own_weights_are_clean(bundle: Path) -> None:
    path = weights(bundle)
    large_file(bundle, hash_val=md5(path.read_bytes()).hexdigest(), url="https://example.org/model.pt")
    assert check_bundle(bundle) == []


def test_there_are_more_than_twenty() -> None:
    assert len(FAULTS) > 20


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_and_nothing_runs(bundle: Path, fault: str) -> None:
    plant, where, words, severity = FAULTS[fault]
    plant(bundle)
    before = sorted(path for path in bundle.parent.rglob("*"))
    found = [problem for problem in check_bundle(bundle) if _matches(problem, where, words, severity)]
    assert found, [str(problem) for problem in check_bundle(bundle)]
    assert all(problem.remedy for problem in found)
    assert sorted(path for path in bundle.parent.rglob("*")) == before
    assert not Path("canary").exists()


def _matches(problem: Problem, where: str, words: str, severity: str) -> bool:
    return problem.where.startswith(where) and words in str(problem) and problem.severity == severity


def test_canary_would_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of the proof: loaded without care, the weights do run the command."""
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"more": Bomb()}, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=False)
    assert Path("canary").exists()


@pytest.mark.parametrize("command", ["segment", "classify", "detect"])
def test_nothing_runs_before_it_is_trusted(bundle: Path, command: str) -> None:
    inference(bundle, initialize=[f"$__import__('os').system('{COMMAND}')"])
    result = CliRunner().invoke(app, [command, str(bundle), "out", "--bundle", str(bundle)])
    assert isinstance(result.exception, UsageError)
    message = str(result.exception)
    assert "holds one thing that should be looked at first; nothing was run" in message
    assert "inference.yaml: initialize::0: calls .system, uses __import__" in message
    assert "add --trust" in message
    assert not Path("canary").exists()


@pytest.mark.parametrize("command", ["plan", "crossval"])
def test_studies_run_nothing_either(bundle: Path, tmp_path: Path, command: str) -> None:
    inference(bundle, initialize=[f"$__import__('os').system('{COMMAND}')"])
    cases = [{"case": f"c{i}", "patient": f"p{i}", "image": f"{i}.nii", "label": f"l{i}.nii"} for i in range(5)]
    study = tmp_path / "study"
    study.mkdir()
    (study / "dataset.json").write_text(json.dumps({"name": "d", "labels": {"organ": 1}, "training": cases}))
    (study / "plan.yaml").write_text("seed: 1\n")
    plan = {"bundle": bundle.name, "recommended": "3d", "configurations": {"3d": {"file": "plan.yaml", "values": {}}}}
    (study / "plan.json").write_text(json.dumps(plan))
    words = {"plan": [str(study / "dataset.json"), "-o", str(tmp_path / "new")], "crossval": [str(study)]}[command]
    result = CliRunner().invoke(app, [command, *words, "--bundle", str(bundle)])
    assert isinstance(result.exception, UsageError)
    assert "nothing was run" in str(result.exception)
    assert not Path("canary").exists()


def test_trust_runs_it(bundle: Path) -> None:
    inference(bundle, initialize=[f"$__import__('os').system('{COMMAND}')"])
    result = CliRunner().invoke(app, ["segment", str(bundle), "out", "--bundle", str(bundle), "--trust"])
    assert result.exit_code != 0  # there is no image to segment
    assert Path("canary").exists()


def test_files_laid_over_are_looked_at_too(bundle: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"amp: \"$torch.os.system('{COMMAND}')\"\n")
    require_trust(bundle)
    with pytest.raises(UsageError, match=r"plan\.yaml: amp: uses torch\.os\.system"):
        require_trust(bundle, [plan])


def test_changed_weights_are_refused_only_where_they_are_used(bundle: Path) -> None:
    weights(bundle)
    metadata(bundle, weights_sha256={"models/model.pt": "0" * 64})
    require_trust(bundle, own_weights=False)
    with pytest.raises(UsageError, match="its sha256 is"):
        require_trust(bundle)


def test_check_says_how_many_of_each_kind(bundle: Path) -> None:
    deep(bundle, "inferer", _mode_="debug")
    result = CliRunner().invoke(app, ["bundle", "check", str(bundle)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "0 errors, 0 warnings, 1 to review" in result.output


def test_expressions_of_the_model_zoo_pass(bundle: Path) -> None:
    """What MONAI's own bundles write: nothing to read there."""
    imports(bundle, "$import glob")
    imports(bundle, "$import os")
    inference(
        bundle,
        device="$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        dataset_dir="$os.path.join(@bundle_root, 'images')",
        files="$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        items="$[{'image': i, 'label': l} for i, l in zip(@files, @files)]",
        dtype="$np.float32",
        seed="$monai.utils.set_determinism(seed=123)",
        split="$int(0.8 * len(@files))",
        pick="$(lambda x: x['image'])",
    )
    assert review_bundle(bundle) == []
