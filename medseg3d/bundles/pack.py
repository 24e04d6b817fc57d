"""Pack a bundle with the weights that it was trained to: one folder or zip that others take as it is.

What they read:

- ``python -m monai.bundle run`` and the model zoo: ``configs/``, ``models/model.pt``, ``docs/README.md``, ``LICENSE``.
- MONAI Label (``monailabel/tasks/infer/bundle.py``): ``configs/inference.yaml`` alone, of which it takes
  ``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing``; ``configs/metadata.json``; ``models/model.pt``
  as a state dict, or another ``models/*.pt`` that a user chooses. To train, ``configs/train.yaml`` with overrides.
- MONAI Deploy (``monai_bundle_inference_operator.py``): ``models/model.ts`` alone, with ``extra/metadata.json`` and
  ``extra/inference.json`` inside, or the bundle's folder; the image is in memory, and transforms with ``LoadImage`` in
  their names are left out.

What is written otherwise for them: :mod:`medseg3d.bundles.applications`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medseg3d.bundles.applications import for_applications, note_on
from medseg3d.bundles.card import model_card
from medseg3d.bundles.check import check_bundle, check_config
from medseg3d.bundles.describe import packed_metadata, with_weights
from medseg3d.bundles.flatten import Flattened, dump_yaml, flatten, read_contents
from medseg3d.bundles.metadata import read_metadata
from medseg3d.bundles.problems import Problem, errors_in, summary
from medseg3d.bundles.runs import COMPANIONS, TrainedWeights, find_weights
from medseg3d.errors import ConfigError, OutputError, UsageError
from medseg3d.files import new_folder_or_none, whole_or_not_at_all, write_json

if TYPE_CHECKING:
    from medseg3d.bundles.export import Export
    from medseg3d.bundles.weights import PackedWeights

__all__ = ["Packed", "pack_bundle"]

SUMMARY = "summary.json"
# Both files have these, and a further file may set them without the weights' minding.
_FREE = frozenset(
    {"imports", "bundle_root", "dataset_dir", "output_dir", "device", "network", "amp", "weights", "calibration",
     "thresholds", "views", "run", "initialize", "batch_size"}
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """A bundle that was packed.

    Attributes:
        path: its folder or zip file.
        weights: the files in ``models/`` by name, with their SHA-256.
        exports: networks for other runtimes, with how far they are from PyTorch's.
        problems: warnings of the check that it passed.
    """

    path: Path
    weights: Mapping[str, str]
    exports: tuple[Export, ...]
    problems: tuple[Problem, ...]


def pack_bundle(
    bundle: Path,
    out: Path,
    *,
    weights: Sequence[Path] = (),
    config_files: Sequence[Path] = (),
    evaluation: Path | None = None,
    version: str | None = None,
    float16: bool = False,
    torchscript: bool = False,
    onnx: bool = False,
) -> Packed:
    """Write a bundle that stands alone, whole or not at all, and check it.

    The network is made once to try the weights in it, so the bundle's configuration is run: check foreign ones first.

    Args:
        bundle: the bundle that was trained.
        out: a new folder, or a file that ends in ``.zip``; its name becomes that of the bundle.
        weights: checkpoints, state dicts, or folders of runs (their ``best.pt``); several become an ensemble. Values
            that ``run.json`` beside the first names, such as a changed network, are taken over. Default: the bundle's
            own ``models/model.pt``.
        config_files: laid over training and inference alike, such as a plan.
        evaluation: folder whose ``summary.json`` scores these weights; its numbers go into the model card.
        version: of the packed bundle; None keeps the bundle's.
        float16: store weights with half the bytes.
        torchscript: also write ``models/model.ts``, for MONAI Deploy.
        onnx: also write ``models/model.onnx``; needs the packages of the extra ``onnx``.

    Raises:
        CheckpointError: weights that cannot be read or do not fit the network.
        ConfigError: a configuration that cannot be flattened, or does not pass the check afterwards.
        OutputError: something lies at ``out`` already, or it cannot be written.
    """
    trained = [find_weights(path) for path in weights or _own_weights(bundle)]
    flat = flatten(bundle, config_files=config_files, runs=[member.config for member in trained if member.config])
    flat = for_applications(_with_members(flat, len(trained)))
    if weights:
        flat = _without_calibration(flat)
    scored = _read_summary(evaluation) if evaluation else None
    # What the bundle states of its own weights is not true of others.
    stale = {"weights_sha256", "eval_metrics"} if weights else {"weights_sha256"}
    metadata = _packed_metadata(bundle, flat, trained, stale, name=_name(out), summary=scored, version=version)
    with _destination(out) as folder:
        _write_configs(bundle, folder, flat, metadata)
        packed = _write_models(folder, flat, trained, float16=float16)
        exports = _export(folder, flat, packed, metadata, torchscript=torchscript, onnx=onnx)
        digests = {item.file: item.sha256 for item in packed} | {item.file: item.sha256 for item in exports}
        metadata = with_weights(metadata, digests)
        write_json(folder / "configs" / "metadata.json", metadata)
        _write_docs(bundle, folder, flat, metadata, scored, exports)
        problems = check_bundle(folder)
        if errors_in(problems):
            raise ConfigError(f"{bundle.name} cannot be packed. {summary(errors_in(problems))}")
    return Packed(out, digests, tuple(exports), tuple(problems))


def _own_weights(bundle: Path) -> list[Path]:
    """``models/model.pt``, and ``model_2.pt`` and so on of a bundle that is an ensemble itself."""
    from medseg3d.bundles.weights import member_name

    files = [bundle / "models" / member_name(0)]
    while (another := bundle / "models" / member_name(len(files))).is_file():
        files.append(another)
    return files


def _with_members(flat: Flattened, members: int) -> Flattened:
    """The configuration with every member among its weights, and none that it had before."""
    if members == 1 and not isinstance(flat.inference.get("weights"), list):
        return flat
    if "weights" not in flat.inference:
        raise UsageError(f"This bundle takes one weights file: {members} cannot be packed. Name one --weights.")
    from medseg3d.bundles.weights import member_name

    files = [f"$@bundle_root + '/models/{member_name(number)}'" for number in range(members)]
    return replace(flat, inference=flat.inference | {"weights": files if members > 1 else files[0]})


def _without_calibration(flat: Flattened) -> Flattened:
    """The bundle's temperature is of its own weights; one that a plan or the training gives is of these, and stays."""
    if "temperature" not in flat.inference or "temperature" in {*flat.changed, *flat.laid_over}:
        return flat
    return replace(flat, inference=flat.inference | {"temperature": 1.0})


def _packed_metadata(
    bundle: Path,
    flat: Flattened,
    trained: Sequence[TrainedWeights],
    stale: Collection[str],
    *,
    name: str,
    summary: Mapping[str, Any] | None,
    version: str | None,
) -> dict[str, Any]:
    problems: list[Problem] = []
    own = read_metadata(bundle / "configs" / "metadata.json", problems)
    if problems:
        raise ConfigError("; ".join(map(str, problems)))
    own = {key: value for key, value in own.items() if key not in stale}
    return packed_metadata(
        own, flat.inference, name=name, changed=flat.changed, trained=trained, summary=summary, version=version
    )


def _name(out: Path) -> str:
    return out.name.removesuffix(".zip")


@contextmanager
def _destination(out: Path) -> Iterator[Path]:
    """The folder to write to, which becomes ``out`` or goes into it when the block ends well."""
    if out.suffix != ".zip":
        with new_folder_or_none(out) as folder:
            yield folder
        return
    if out.exists():
        raise OutputError(f"{out} is there already and is not overwritten: remove it, or choose another name.")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / _name(out)
        folder.mkdir()
        yield folder
        with whole_or_not_at_all(out) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))


def _write_configs(bundle: Path, folder: Path, flat: Flattened, metadata: Mapping[str, Any]) -> None:
    (folder / "configs").mkdir()
    heading = f"Packed from {bundle.name}: everything that was laid over it is in here."
    for stem, config in (("train", flat.train), ("inference", flat.inference)):
        if config is not None:
            text = dump_yaml(config, heading=f"{heading}\n{note_on(config)}")
            (folder / "configs" / f"{stem}.yaml").write_text(text, encoding="utf-8")
    write_json(folder / "configs" / "metadata.json", metadata)
    logging_file = bundle / "configs" / "logging.conf"
    if logging_file.is_file():
        shutil.copy(logging_file, folder / "configs")
    for path in _overlays_that_still_fit(bundle, folder, flat):
        shutil.copy(path, folder / "configs")


def _overlays_that_still_fit(bundle: Path, folder: Path, flat: Flattened) -> Iterator[Path]:
    """Further files of the bundle, except those that set what the weights were trained with."""
    train = folder / "configs" / "train.yaml"
    if flat.train is None:
        return
    fixed = {key for key in flat.train if key in flat.inference and key not in _FREE} | {"network_def"}
    own = {"train", "inference", "metadata"}
    for path in sorted((bundle / "configs").iterdir()):
        if path.suffix not in {".yaml", ".yml", ".json"} or path.stem in own:
            continue
        [(_, content)] = read_contents([path])
        tops = {str(key).removeprefix("+").replace("#", "::").partition("::")[0] for key in content}
        if not tops & fixed and not errors_in(check_config([train, path])):
            yield path


def _write_models(
    folder: Path, flat: Flattened, trained: Sequence[TrainedWeights], *, float16: bool
) -> list[PackedWeights]:
    from medseg3d.bundles.weights import build_network, write_weights

    packed = write_weights(trained, folder, network=build_network(flat.inference), float16=float16)
    for name in COMPANIONS:
        companion = trained[0].path.with_name(name)
        if companion.is_file():
            shutil.copy(companion, folder / "models")
    return packed


def _export(
    folder: Path,
    flat: Flattened,
    packed: Sequence[PackedWeights],
    metadata: Mapping[str, Any],
    *,
    torchscript: bool,
    onnx: bool,
) -> list[Export]:
    if not (torchscript or onnx):
        return []
    from medseg3d.bundles.export import export_networks

    return export_networks(folder, flat.inference, packed, metadata, torchscript=torchscript, onnx=onnx)


def _write_docs(
    bundle: Path,
    folder: Path,
    flat: Flattened,
    metadata: Mapping[str, Any],
    scored: Mapping[str, Any] | None,
    exports: Sequence[Export],
) -> None:
    (folder / "docs").mkdir()
    licence = bundle / "docs" / "data_license.txt"
    for source, target in ((bundle / "LICENSE", folder), (licence, folder / "docs")):
        if source.is_file():
            shutil.copy(source, target)
    card = model_card(
        metadata,
        flat.inference,
        data_licence=_text(licence),
        source_card=_text(bundle / "docs" / "README.md"),
        summary=scored,
        exports=[vars(export) for export in exports],
        changed=flat.changed,
    )
    (folder / "docs" / "README.md").write_text(card, encoding="utf-8")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _read_summary(evaluation: Path) -> dict[str, Any]:
    path = evaluation / SUMMARY if evaluation.is_dir() else evaluation
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file. Name the folder that `medseg3d evaluate` wrote.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as an evaluation ({error}).") from error
    if not isinstance(content, dict) or "headline" not in content:
        raise UsageError(f"{path}: has no headline, so it is no evaluation of this version. Evaluate again.")
    return content
