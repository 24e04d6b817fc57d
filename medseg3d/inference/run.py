"""Run a bundle's ``inference.yaml`` as ``python -m monai.bundle run`` does, a call's options being the overrides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import monai.bundle
import torch
from monai.bundle import ConfigParser

from medseg3d.bundles.review import require_trust
from medseg3d.errors import MedsegError, UsageError

__all__ = ["run_bundle", "run_inference"]


def run_bundle(
    bundle: Path,
    source: Path,
    output_dir: Path,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    weights: Path | Sequence[Path] | None = None,
    config_files: Sequence[Path] = (),
    save_probability: bool = False,
    save_uncertainty: bool = False,
    mirror: bool = False,
    overwrite: bool = True,
    formats: Sequence[str] | None = None,
    trust: bool = False,
) -> None:
    """Segment the images at ``source`` with a bundle's configuration.

    Args:
        bundle: the bundle's folder.
        source: an image, a folder of images, a data list, or DICOM series: see ``find_cases``.
        output_dir: folder for the masks.
        device: None leaves it to the bundle, which takes CUDA where there is one.
        weights: a file, or several whose probabilities are averaged; None for the bundle's own. Given, they stand for
            all networks of the bundle: the further plans of an ensemble are left out.
        config_files: laid over ``inference.yaml``, later ones win.
        save_probability: also write probability maps.
        save_uncertainty: also write uncertainty maps.
        mirror: average over mirror images along the configuration's ``flip_axes``.
        overwrite: False keeps masks that the same weights made earlier.
        formats: of the masks: nifti, seg, rtstruct; None leaves it to the bundle (nifti, or png of 2D images).
        trust: run it even if it holds code outside the allow-list of ``medseg3d.bundles.review``.

    Raises:
        CaseError: some case failed; the others are done.
        ConfigError: the configuration is wrong.
        UsageError: no CUDA device; a configuration file that is not there; mirroring that training did not do.
    """
    overrides: dict[str, Any] = {
        "evaluator::save_probability": save_probability,
        "evaluator::save_uncertainty": save_uncertainty,
        "evaluator::overwrite": overwrite,
    }
    if formats is not None:
        overrides["evaluator::formats"] = list(formats)
    if mirror:
        overrides["inferer::mirror_axes"] = _flip_axes(_files(bundle, config_files))
    run_inference(
        bundle,
        source,
        output_dir,
        device=device,
        weights=weights,
        config_files=config_files,
        overrides=overrides,
        trust=trust,
    )


def run_inference(
    bundle: Path,
    source: Path,
    output_dir: Path,
    *,
    device: Literal["cpu", "cuda"] | None = None,
    weights: Path | Sequence[Path] | None = None,
    config_files: Sequence[Path] = (),
    overrides: Mapping[str, Any] | None = None,
    evaluator: str = "",
    trust: bool = False,
) -> None:
    """Run a bundle's ``inference.yaml`` over ``source``, whatever it does with images.

    Args:
        bundle, source, output_dir, device, weights, config_files: as ``run_bundle``.
        overrides: further ids and their values.
        evaluator: name of the class that the bundle must run, such as ``Classifier``; any when empty.
        trust: run it even if it holds code outside the allow-list of ``medseg3d.bundles.review``.

    Raises:
        MedsegError: as the configuration's own steps; ``ConfigError`` where it is wrong.
        UsageError: no CUDA device; a configuration file that is not there; a bundle for something else, or one that
            should be looked at first.
    """
    files = _files(bundle, config_files)
    if not trust:
        require_trust(bundle, config_files, own_weights=weights is None)
    if evaluator:
        _require_evaluator(bundle, files, evaluator)
    values: dict[str, Any] = {
        "bundle_root": str(bundle),
        "dataset_dir": str(source),
        "output_dir": str(output_dir),
        **(overrides or {}),
    }
    if device is not None:
        values["device"] = _checked_device(device)
    if weights is not None:
        paths = [weights] if isinstance(weights, Path) else list(weights)
        values["weights"] = str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]
        if "partners" in _evaluator(files):
            values["evaluator::partners"] = []
    _run([str(file) for file in files], values)


def _evaluator(files: Sequence[Path]) -> Mapping[str, Any]:
    evaluator = ConfigParser.load_config_files([str(file) for file in files]).get("evaluator", {})
    return evaluator if isinstance(evaluator, Mapping) else {}


def _require_evaluator(bundle: Path, files: Sequence[Path], wanted: str) -> None:
    """Say that a bundle is for something else, before overrides that it does not know are named one by one."""
    runs = str(_evaluator(files).get("_target_", "none")).rpartition(".")[2]
    if runs != wanted:
        raise UsageError(f"{bundle.resolve().name} is for something else: it runs a {runs}, this command wants a "
                         f"{wanted}. `medseg3d bundle list` names the bundles.")  # fmt: skip


def _files(bundle: Path, config_files: Sequence[Path]) -> list[Path]:
    files = [bundle / "configs" / "inference.yaml", *config_files]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file}: no such configuration file.")
    return files


def _run(files: list[str], overrides: dict[str, Any]) -> None:
    # MONAI announces each step and each setting at this level; a run's own progress and table say what matters.
    for name in ("scripts", "workflows"):
        logging.getLogger(f"monai.bundle.{name}").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # That configurations run code is said in the command's help, not at every run.
            warnings.filterwarnings("ignore", message="parsing config_file")
            # monai.bundle.run, and not a workflow of our own, so that check_run sees the overrides as they were given.
            monai.bundle.run(config_file=files, logging_file=False, workflow_type="infer", **overrides)
    except RuntimeError as error:
        ours = _ours(error)
        if ours is None:
            raise
        raise ours from None


def _ours(error: BaseException) -> MedsegError | None:
    """The error of ours that MONAI wrapped while it evaluated the configuration, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MedsegError):
        cause = cause.__cause__
    return cause


def _checked_device(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no CUDA device, or the installed torch none for it. "
                         "Use --device cpu.")  # fmt: skip
    return f"$__import__('torch').device('{device}')"


def _flip_axes(files: Sequence[Path]) -> list[int]:
    axes = ConfigParser.load_config_files([str(file) for file in files]).get("flip_axes", [])
    if not axes:
        raise UsageError("The bundle was not trained on mirrored images (its inference.yaml has no flip_axes), so "
                         "averaging over mirror images would blur its answer. Leave --tta out.")  # fmt: skip
    return list(axes)
