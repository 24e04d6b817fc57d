"""From logits to probabilities that mean what they say, and from those to decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.errors import CaseError, UsageError
from medseg3d.files import write_json

__all__ = ["DIGITS", "Calibration", "fit_temperature", "log_loss", "read_calibration", "write_calibration"]

Floats = NDArray[np.float64]
# Temperatures are looked for in this range: beyond it every answer is even, or certain.
TEMPERATURES = (0.1, 20.0)
DIGITS = 6
"""Of probabilities in files, and of thresholds: decisions made again from a file are the same."""


@dataclass(frozen=True)
class Calibration:
    """How a classifier's logits are read.

    Attributes:
        temperature: the logits are divided by it: above 1 makes answers less certain (Guo et al. 2017).
        thresholds: class → probability from which an image is called so; 0.5 where none is given. Of two exclusive
            classes only the second's counts, of more none: the largest probability wins.
        rule: how the thresholds were chosen, in words.
        images: how many images it was fitted on.
    """

    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    rule: str = "0.5, not chosen on any images"
    images: int = 0

    def probabilities(self, logits: NDArray[Any], *, multi_label: bool = False) -> Floats:
        """(images, classes) → (images, classes); rows of exclusive classes add up to 1.

        >>> Calibration(temperature=2.0).probabilities(np.array([[0.0, 2.0]])).round(3).tolist()
        [[0.269, 0.731]]
        """
        scaled: Floats = np.asarray(logits, dtype=np.float64) / self.temperature
        if multi_label:
            return np.exp(-np.logaddexp(0, -scaled))
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def decide(self, probabilities: Floats, classes: list[str], *, multi_label: bool = False) -> list[str]:
        """The classes that each image is called; several are joined by ``|``, none is an empty text.

        >>> Calibration(thresholds={"ill": 0.2}).decide(np.array([[0.7, 0.3]]), ["well", "ill"])
        ['ill']
        """
        thresholds = np.array([self.thresholds.get(name, 0.5) for name in classes])
        if multi_label:
            called = probabilities >= thresholds
            return ["|".join(c for c, yes in zip(classes, row, strict=True) if yes) for row in called]
        if len(classes) == 2:
            return [classes[int(p >= thresholds[1])] for p in probabilities[:, 1]]
        return [classes[i] for i in probabilities.argmax(axis=1)]


def fit_temperature(logits: NDArray[Any], truth: NDArray[Any], *, multi_label: bool = False) -> float:
    """The temperature with the least log loss; 1 where there is none, as with answers that are all right or all even.

    Args:
        logits: (images, classes).
        truth: (images, classes), 1 at the classes that an image has.

    Raises:
        UsageError: there are no images.

    >>> logits, truth = np.array([[4.0, 0.0]] * 4), np.array([[1, 0]] * 3 + [[0, 1]])
    >>> round(4 / fit_temperature(logits, truth), 2)  # three of four are right: log(3 / 1) is the honest logit
    1.1
    """
    from scipy.optimize import minimize_scalar

    if not len(logits):
        raise UsageError("No temperature can be fitted: there are no images.")

    def loss(logarithm: float) -> float:
        calibration = Calibration(temperature=float(np.exp(logarithm)))
        return log_loss(calibration.probabilities(logits, multi_label=multi_label), truth, multi_label=multi_label)

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    low, high = np.log(TEMPERATURES)
    at_limit = min(found.x - low, high - found.x) < 0.01 * (high - low)
    return 1.0 if at_limit else float(np.exp(found.x))


def log_loss(probabilities: Floats, truth: NDArray[Any], *, multi_label: bool = False) -> float:
    """Mean negative logarithm of the probability of the truth; of several classes the mean over them too."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    yes = np.asarray(truth, dtype=np.float64)
    if multi_label:
        return float(-(yes * np.log(p) + (1 - yes) * np.log(1 - p)).mean())
    return float(-(yes * np.log(p)).sum(axis=1).mean())


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write a calibration as JSON, whole or not at all."""
    write_json(Path(path), {"schema": "medseg3d.class_calibration/1", **asdict(calibration)})


def read_calibration(path: str | Path | None) -> Calibration:
    """Read a calibration; without a path, or where the file is absent, nothing is calibrated.

    Raises:
        CaseError: the file is damaged or of another kind.
    """
    if path is None or not Path(path).is_file():
        return Calibration()
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.get("schema") != "medseg3d.class_calibration/1":
            raise ValueError("another schema")
        return Calibration(
            temperature=float(content["temperature"]),
            thresholds={str(name): float(value) for name, value in content["thresholds"].items()},
            rule=str(content["rule"]),
            images=int(content["images"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"{path}: not a calibration of a classifier ({error}). Fit it again, or remove it.") from error
