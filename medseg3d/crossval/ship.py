"""One bundle of what was chosen: ``STUDY/bundle``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from medseg3d.bundles import check_bundle
from medseg3d.bundles.flatten import dump_yaml
from medseg3d.bundles.pack import pack_bundle
from medseg3d.bundles.problems import errors_in
from medseg3d.bundles.problems import summary as problem_summary
from medseg3d.crossval.candidates import Candidate
from medseg3d.crossval.cascade import needed_configurations
from medseg3d.crossval.configuration import EnsemblePart, ensemble_config, with_first_stage
from medseg3d.crossval.prediction import Predictions
from medseg3d.crossval.study import CASCADE, FIRST_STAGE, Study
from medseg3d.errors import ConfigError, OutputError
from medseg3d.files import write_json
from medseg3d.inference.weights import file_sha256, read_state

__all__ = ["Shipped", "ship"]

# Half precision keeps 11 bits: a weight that is stored so moves by at most this part of itself, or by half of the
# smallest number above 0.
RELATIVE, ABSOLUTE = 2.0**-11, 2.0**-25

SECTION = """
## Cross-validation

An ensemble: the probabilities of {members} networks are averaged ({chosen}), then calibrated with temperature
{temperature}. The scores above are out of fold: each case was segmented by the network that had not seen it, not by
the whole ensemble. They flatter a little: the choice was made on the same cases, and each network is that of the epoch
with the best validation on the fold it holds out (`best.pt`).

`models/model.pt` alone is one network: `--weights models/model.pt` segments with that, faster. Tools that read only
this file (MONAI Label, MONAI Deploy) use this one.{cascade}

| file | plan | fold it has not seen |
|---|---|---|
{rows}
"""

CASCADE_NOTE = f"""

The networks of {FIRST_STAGE} together make a mask first, which those of {CASCADE} see beside the image."""


@dataclass(frozen=True)
class Shipped:
    """The bundle.

    Attributes:
        path: its folder.
        weights: file → configuration and fold that it was trained without.
        float16: whether weights are stored in half precision.
        megabytes: of all weights.
        warnings: of the check that it passed.
    """

    path: Path
    weights: Mapping[str, str]
    float16: bool
    megabytes: float
    warnings: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """For ``crossval.json``."""
        return {
            "path": self.path.name,
            "weights": dict(self.weights),
            "float16": self.float16,
            "megabytes": round(self.megabytes, 2),
            "warnings": list(self.warnings),
        }


def ship(
    study: Study,
    predictions: Predictions,
    candidate: Candidate,
    *,
    corrections: Sequence[Mapping[str, Any]],
    temperature: float,
    evaluation: Path,
    float16: bool = True,
) -> Shipped:
    """Write ``STUDY/bundle``: the chosen plans' networks of all folds, averaged, in one configuration.

    ``models/model.pt`` is the first plan's network of the first fold: what reads only that file gets a single network
    that works. The others are ``model_2.pt``, …; of further plans ``<plan>_model.pt``, …. An earlier bundle of this
    study is replaced; whatever else lies there is left alone and refused.

    Raises:
        OutputError: something that is no bundle of a cross-validation lies at ``STUDY/bundle``.
        ConfigError: the bundle does not pass the check.
        CheckpointError: weights do not fit, or cannot be stored in half precision.
    """
    out = study.folder / "bundle"
    _require_own(out)
    with TemporaryDirectory(prefix=".bundle-", dir=study.folder) as temporary:
        folder = Path(temporary) / study.bundle.name
        first = next(c for c in study.configurations if c.name == candidate.configurations[0])
        pack_bundle(
            study.bundle,
            folder,
            weights=[study.run(first, fold).weights for fold in study.folds],
            config_files=[first.plan],
            evaluation=evaluation,
            float16=float16,
        )
        _copy_plans(study, candidate, folder)
        members = _further_members(study, candidate, folder, float16=float16)
        _rewrite(folder, members, predictions, candidate, corrections=corrections, temperature=temperature)
        _describe(folder, members, candidate, study, temperature)
        problems = check_bundle(folder)
        if errors_in(problems):
            raise ConfigError(f"The chosen ensemble makes no valid bundle. {problem_summary(errors_in(problems))}")
        _verify(study, folder, members)
        size = sum((folder / file).stat().st_size for file in members) / 2**20
        if out.exists():
            shutil.rmtree(out)
        folder.replace(out)
    named = {file: f"{name}, without fold {fold}" for file, (name, fold) in members.items()}
    return Shipped(out, named, float16, size, tuple(map(str, problems)))


def _require_own(out: Path) -> None:
    if out.exists() and "crossval" not in _metadata(out):
        raise OutputError(f"{out} is there and no bundle of a cross-validation: move it away, it is not overwritten.")


def _metadata(bundle: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _copy_plans(study: Study, candidate: Candidate, folder: Path) -> None:
    for configuration in study.configurations:
        if configuration.name in needed_configurations(candidate.configurations):
            shutil.copy(configuration.plan, folder / "docs" / configuration.plan.name)


def _further_members(study: Study, candidate: Candidate, folder: Path, *, float16: bool) -> dict[str, tuple[str, int]]:
    """File → configuration and fold of every member; those of the first plan are packed already."""
    from medseg3d.bundles.weights import member_name, stored_state

    members: dict[str, tuple[str, int]] = {}
    for name in needed_configurations(candidate.configurations):
        prefix = "" if name == candidate.configurations[0] else f"{name}_"
        for number, fold in enumerate(study.folds):
            file = f"models/{prefix}{member_name(number)}"
            members[file] = (name, fold)
            if prefix:
                state = read_state(study.folder / name / f"fold{fold}" / "best.pt")
                torch.save(stored_state(state, float16=float16), folder / file)
    return members


def _rewrite(
    folder: Path,
    members: Mapping[str, tuple[str, int]],
    predictions: Predictions,
    candidate: Candidate,
    *,
    corrections: Sequence[Mapping[str, Any]],
    temperature: float,
) -> None:
    """Replace ``inference.yaml`` by that of the ensemble, and let ``train.yaml`` agree with it."""
    from monai.bundle import ConfigParser

    path = folder / "configs" / "inference.yaml"
    packed = ConfigParser.load_config_file(str(path))
    parts = []
    for place, name in enumerate(candidate.configurations):
        config = packed if place == 0 else predictions.configs[name]
        if name == CASCADE:
            first = EnsemblePart(FIRST_STAGE, predictions.configs[FIRST_STAGE], _weights(members, FIRST_STAGE))
            config = with_first_stage(config, first)
        parts.append(EnsemblePart(name, config, _weights(members, name)))
    mirrored = candidate.mirrored
    config = ensemble_config(parts, mirrored=mirrored, corrections=corrections, temperature=temperature)
    heading = "Chosen by cross-validation: what the folds and plans say together, corrected and calibrated."
    path.write_text(dump_yaml(config, heading=heading), encoding="utf-8")
    train = folder / "configs" / "train.yaml"
    if mirrored and train.is_file():
        content = ConfigParser.load_config_file(str(train))
        content["inferer"] = config["inferer"]
        train.write_text(dump_yaml(content, heading="As it was trained; validation as inference has it."), "utf-8")


def _weights(members: Mapping[str, tuple[str, int]], name: str) -> list[str]:
    """The files of a configuration, as the bundle names them."""
    return [f"$@bundle_root + '/{file}'" for file, of in members.items() if of[0] == name]


def _describe(
    folder: Path, members: Mapping[str, tuple[str, int]], candidate: Candidate, study: Study, temperature: float
) -> None:
    metadata = _metadata(folder)
    metadata["weights_sha256"] = {file: file_sha256(folder / file) for file in members}
    metadata["crossval"] = {
        "chosen": candidate.name,
        "folds": list(study.folds),
        "temperature": round(temperature, 4),
        "members": {file: f"{name}, without fold {fold}" for file, (name, fold) in members.items()},
    }
    write_json(folder / "configs" / "metadata.json", metadata)
    rows = "\n".join(f"| `{file}` | {name} | {fold} |" for file, (name, fold) in members.items())
    card = folder / "docs" / "README.md"
    averaged = sum(name in candidate.configurations for name, _ in members.values())
    section = SECTION.format(
        members=averaged,
        chosen=candidate.name,
        temperature=f"{temperature:.3f}",
        cascade=CASCADE_NOTE if CASCADE in candidate.configurations else "",
        rows=rows,
    )
    card.write_text(card.read_text(encoding="utf-8") + section, encoding="utf-8")


def _verify(study: Study, folder: Path, members: Mapping[str, tuple[str, int]]) -> None:
    """Refuse weights that are not those of the training, within the rounding of their precision.

    Raises:
        ConfigError: a weight overflows half precision.
    """
    for file, (name, fold) in members.items():
        original = read_state(study.folder / name / f"fold{fold}" / "best.pt")
        for key, value in read_state(folder / file).items():
            kept = value.to(original[key].dtype)
            if not torch.allclose(kept, original[key], rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True):
                raise ConfigError(f"{file}: {key} cannot be stored in half precision. Use --precision full.")
