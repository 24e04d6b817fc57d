"""What is cross-validated: the study that ``medseg3d plan`` made, its configurations and its folds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.bundles import find_bundle
from medseg3d.datalist import read_datalist
from medseg3d.datalist.items import training_items, validation_items, with_folds
from medseg3d.errors import UsageError

__all__ = ["Configuration", "FoldRun", "Study", "read_study"]

# As bundles make them where a data list has none.
FOLDS, FOLDS_SEED = 5, 0

# The configuration whose networks see the masks of another one's.
CASCADE, FIRST_STAGE = "cascade", "lowres"

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class Configuration:
    """One plan of a study (``3d``, ``2d``, ``lowres``, ``cascade``), and the file that is laid over the bundle's."""

    name: str
    plan: Path


@dataclass(frozen=True)
class FoldRun:
    """The training of one configuration that holds one fold out.

    Attributes:
        folder: where the trainer writes: ``STUDY/<configuration>/fold<k>``.
    """

    configuration: Configuration
    fold: int
    folder: Path

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"{self.configuration.name} fold {self.fold}"

    @property
    def weights(self) -> Path:
        """The checkpoint of the best validation."""
        return self.folder / "best.pt"


@dataclass(frozen=True)
class Study:
    """A folder with a data list and plans; valid once read.

    Attributes:
        folder: of the study.
        bundle: the bundle that is trained.
        datalist: ``dataset.json`` with the folds.
        configurations: in the order of ``plan.json``, the recommended one first.
        folds: that are cross-validated, as the data list numbers them.
        labels: name → id.
        regions: name → ids, empty where the study names none.
    """

    folder: Path
    bundle: Path
    datalist: Path
    configurations: tuple[Configuration, ...]
    folds: tuple[int, ...]
    labels: Mapping[str, int]
    regions: Mapping[str, tuple[int, ...]]

    @property
    def output(self) -> Path:
        """Where the results of the cross-validation go."""
        return self.folder / "crossval"

    def run(self, configuration: Configuration, fold: int) -> FoldRun:
        """The training of ``configuration`` without ``fold``."""
        return FoldRun(configuration, fold, self.folder / configuration.name / f"fold{fold}")

    def runs(self) -> list[FoldRun]:
        """Every training, configuration by configuration."""
        return [self.run(configuration, fold) for configuration in self.configurations for fold in self.folds]

    def trained_on(self, fold: int) -> list[str]:
        """Names of the cases that a training without ``fold`` sees, in the data list's order."""
        return [item["case"] for item in training_items(self.datalist, fold=fold, folds=FOLDS, seed=FOLDS_SEED)]

    def held_out(self, fold: int) -> list[dict[str, Any]]:
        """The cases of ``fold``: dicts of case, patient, image and label."""
        return validation_items(self.datalist, fold=fold, folds=FOLDS, seed=FOLDS_SEED)


def read_study(
    folder: str | Path, *, configurations: Sequence[str] = (), folds: Sequence[int] = (), bundle: str = ""
) -> Study:
    """Read ``plan.json`` and ``dataset.json`` of a study.

    Args:
        configurations: names of those to cross-validate; all by default.
        folds: those to cross-validate; all of the data list by default.
        bundle: name or folder, where the plan's name does not lead to it.

    Raises:
        UsageError: no study, no such bundle, or a configuration or fold that it does not have.
        DataListError: the data list is malformed.
    """
    folder = Path(folder).absolute()
    plan = _read_plan(folder)
    names = [plan["recommended"], *(name for name in plan["configurations"] if name != plan["recommended"])]
    chosen = _chosen(list(configurations), names, "configuration", folder)
    datalist = folder / "dataset.json"
    content = with_folds(read_datalist(datalist), fold=0, folds=FOLDS, seed=FOLDS_SEED)
    chosen_folds = tuple(_chosen(list(folds), list(content.folds), "fold", folder))
    if why := _no_cascade(chosen, all_folds=chosen_folds == tuple(content.folds)):
        if CASCADE in configurations:
            raise UsageError(why)
        logger.warning("The cascade is left out. %s", why)
        chosen.remove(CASCADE)
    return Study(
        folder=folder,
        bundle=find_bundle(bundle or plan["bundle"]),
        datalist=datalist,
        configurations=tuple(Configuration(name, _plan_file(folder, plan, name)) for name in chosen),
        folds=chosen_folds,
        labels=dict(content.labels),
        regions=dict(content.regions),
    )


def _no_cascade(chosen: Sequence[str], *, all_folds: bool) -> str:
    """Why the cascade cannot be trained; empty where it can, or is not asked for."""
    if CASCADE not in chosen:
        return ""
    if FIRST_STAGE not in chosen:
        return f"The first stage of the cascade is {FIRST_STAGE}: add --configuration {FIRST_STAGE}."
    if not all_folds:
        return f"It learns from masks of all cases, by networks of {FIRST_STAGE} that have not seen them: no --folds."
    return ""


def _read_plan(folder: Path) -> dict[str, Any]:
    path = folder / "plan.json"
    if not path.is_file():
        raise UsageError(
            f"{folder} is no study: it has no plan.json. Make one: medseg3d plan DATASET.json --bundle NAME -o {folder}"
        )
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["recommended"] not in plan["configurations"] or not isinstance(plan["bundle"], str):
            raise ValueError(f"there is no configuration {plan['recommended']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read as a plan ({type(error).__name__}: {error}). Make it again with `medseg3d plan`."
        ) from error
    return dict(plan)


def _plan_file(folder: Path, plan: Mapping[str, Any], name: str) -> Path:
    path = folder / plan["configurations"][name]["file"]
    if not path.is_file():
        raise UsageError(f"{path}: the plan of configuration {name!r} is missing. Make it again with `medseg3d plan`.")
    return path


def _chosen(wanted: list[Any], known: list[Any], what: str, folder: Path) -> list[Any]:
    if unknown := [one for one in wanted if one not in known]:
        raise UsageError(f"{folder} has no {what} {unknown[0]!r}: there are {', '.join(map(str, known))}.")
    return [one for one in known if one in wanted] if wanted else known
