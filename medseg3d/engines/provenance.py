"""``run.json``: everything that made a run, so that its result can be made again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import medseg3d
from medseg3d.bundles.run import current_run
from medseg3d.errors import CheckpointError
from medseg3d.images import ImageRef
from medseg3d.processes import process_count, process_rank
from medseg3d.versions import command_line, package_version

if TYPE_CHECKING:
    from medseg3d.engines.training import ResumableTrainer

__all__ = ["record_run"]

# What a resumed run may be told anew: where things are, how long and how fast, and the rates of the optimizer.
MAY_CHANGE = frozenset(
    {
        "bundle_root",
        "cache_rate",
        "dataset_dir",
        "datalist",
        "device",
        "early_stopping_patience",
        "finalize",
        "initialize",
        "learning_rate",
        "max_epochs",
        "network",  # on which device, in how many processes; what it is, network_def says
        "num_workers",
        "output_dir",
        "previous_dir",
        "resume",
        "val_interval",
    }
)

# What multi_gpu_train.yaml adds to sections: which process validates which cases.
SHARING = (("validate", "dataset", "runtime_cache"), ("validate", "dataloader", "sampler"))

# What MONAI's ``--tracking mlflow`` adds at the top level; the name of the configuration's copy holds the time.
TRACKING = frozenset({"experiment_name", "is_not_rank0", "run_name", "save_execute_config", "tracking_uri"})
TRACKED_ENGINES = (("train", "trainer", "train_handlers"), ("validate", "evaluator", "val_handlers"))

PACKAGES = ("medseg3d", "monai", "torch", "numpy", "nibabel", "torchio", "pytorch-ignite")


def record_run(trainer: ResumableTrainer) -> Path:
    """Write ``run.json`` into the trainer's output folder; a resumed run adds a line to its ``starts``.

    Called by an expression of a bundle's ``training``; of several processes the first one writes. It holds the merged
    configuration, the versions, hashes of configuration, data and code, the seed and the command; no image, and of
    patients only what file names say.

    Raises:
        UsageError: called outside a MONAI workflow.
        CheckpointError: the run is resumed with another configuration, beyond what may change on the way.
    """
    path = trainer.output_dir / "run.json"
    if process_rank():
        return path
    config = {key: value for key, value in current_run().workflow.parser.get().items() if key != "_meta_"}
    # In its own order: that of regions is the order of the network's channels.
    text = json.dumps(config, default=str)
    earlier = json.loads(path.read_text()) if path.is_file() and trainer.state.epoch else {}
    if earlier:
        _require_same_config(earlier["config"], json.loads(text), path)
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "epoch": trainer.state.epoch,
        "device": _device_name(trainer.state.device),
        "threads": torch.get_num_threads(),
        "processes": process_count(),
    }
    train = trainer.data_loader.dataset
    content = {
        "starts": [*earlier.get("starts", []), start],
        "warm_start": trainer.warm_start.as_json() if trainer.warm_start else earlier.get("warm_start"),
        "seed": getattr(train, "seed", None),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "code_sha256": _sha256_of(sorted(Path(medseg3d.__file__).parent.rglob("*.py"))),
        "data_sha256": _data_sha256(train.data),
        "cases": len(train.data),
        "config": json.loads(text),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".run.json.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
    return path


def _require_same_config(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    old, new = (_without_sharing(_without_tracking(config)) for config in (old, new))
    changed = [key for key in sorted(old.keys() | new.keys()) if key not in MAY_CHANGE and old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed[:3])
        raise CheckpointError(
            f"{path.parent}: the run was started with another configuration ({listed}). Resume with the one it had, or "
            "start anew in another --output_dir."
        )


def _without_tracking(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what ``--tracking`` adds: a resumed run may be tracked elsewhere, or not at all."""
    kept: dict[str, Any] = {key: value for key, value in config.items() if key not in TRACKING}
    for section, engine, handlers in TRACKED_ENGINES:
        if section in kept:
            # MONAI appends to the section's own list of handlers, or gives the engine one where there is none.
            kept[section] = _without_mlflow(kept[section], "handlers")
        if engine in kept.get(section, {}):
            kept[section] = kept[section] | {engine: _without_mlflow(kept[section][engine], handlers)}
    return kept


def _without_sharing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what depends on the number of processes: a run may go on with more or fewer."""
    kept: dict[str, Any] = deepcopy(dict(config))
    for section, part, key in SHARING:
        kept.get(section, {}).get(part, {}).pop(key, None)
    return kept


def _without_mlflow(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(values.get(key), list):
        return dict(values)
    own = [h for h in values[key] if not (isinstance(h, dict) and h.get("_target_") == "MLFlowHandler")]
    return {name: value for name, value in values.items() if name != key} | ({key: own} if own else {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def _sha256_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _data_sha256(items: Iterable[Mapping[str, Any]]) -> str:
    """Over names and sizes of all files, in order: their contents would take minutes for a large study.

    Labels that are no files (classes, boxes) count with their values.
    """
    digest = hashlib.sha256()
    for item in items:
        for value in _listed(item["image"]):
            digest.update(b"missing\0" if value is None else _name_and_size(value))
        for key in ("label", "boxes", "box_labels"):
            for value in _listed(item.get(key, [])):
                digest.update(_name_and_size(value) if isinstance(value, (str, Path)) else f"{value!r}\0".encode())
    return digest.hexdigest()


def _listed(value: Any) -> list[Any]:
    """One value or several as a list; arrays as nested lists, whose text is the same with every version of NumPy."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, list) else [value]


def _name_and_size(path: str | Path) -> bytes:
    file = ImageRef.parse(path).path  # a page of a TIFF has the size of its file
    return f"{Path(path).name}\0{file.stat().st_size}\0".encode()
