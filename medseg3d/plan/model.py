"""What a plan is: named values with their reasons, for each way to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Configuration", "ConfigurationName", "Plan", "Value"]

ConfigurationName = Literal["3d", "2d", "lowres", "cascade"]
Source = Literal["rule", "bundle", "user"]

SCHEMA = "medseg3d.plan/1"


@dataclass(frozen=True)
class Value:
    """A value of a bundle, and why it is this one.

    Attributes:
        value: as YAML holds it.
        reason: one or two sentences.
        source: a rule of the plan, the bundle's own value, or what the user set.
    """

    value: Any
    reason: str
    source: Source = "rule"

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "reason": self.reason, "source": self.source}


@dataclass(frozen=True)
class Configuration:
    """One way to train: 3D, slice by slice, at a lower resolution, or at full resolution after that one.

    Attributes:
        name: ``"3d"``, ``"2d"``, ``"lowres"`` or ``"cascade"``.
        file: the file of the study that holds its values.
        values: id of the bundle → value.
        facts: what the values were worked out from, such as the median image in voxels and the memory of a step.
    """

    name: ConfigurationName
    file: str
    values: Mapping[str, Value]
    facts: Mapping[str, Value] = field(default_factory=dict)

    def overrides(self) -> dict[str, Any]:
        """The values alone, as a bundle's configuration file holds them."""
        return {name: value.value for name, value in self.values.items()}


@dataclass(frozen=True)
class Plan:
    """How a data set is to be trained with a bundle.

    Attributes:
        bundle: its name.
        memory_gib: what training was fitted into.
        recommended: the configuration to train first.
        why_recommended: the reason.
        configurations: by name; each is one file.
        advice: what no id of the bundle holds: tolerances for the evaluation, rare labels, whether a cascade pays.
    """

    bundle: str
    memory_gib: float
    recommended: ConfigurationName
    why_recommended: str
    configurations: Mapping[ConfigurationName, Configuration]
    advice: Mapping[str, Value]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        configurations = {
            name: {
                "file": configuration.file,
                "values": {id_: value.to_json() for id_, value in configuration.values.items()},
                "facts": {id_: value.to_json() for id_, value in configuration.facts.items()},
            }
            for name, configuration in self.configurations.items()
        }
        return {
            "schema": SCHEMA,
            "bundle": self.bundle,
            "memory_gib": self.memory_gib,
            "recommended": self.recommended,
            "why_recommended": self.why_recommended,
            "configurations": configurations,
            "advice": {name: value.to_json() for name, value in self.advice.items()},
        }
