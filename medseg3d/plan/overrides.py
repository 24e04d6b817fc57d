"""Values that the user sets: they win over every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg3d.errors import UsageError
from medseg3d.plan.model import ConfigurationName, Value
from medseg3d.plan.template import Template

__all__ = ["Overrides", "parse_overrides"]

CONFIGURATIONS: tuple[ConfigurationName, ...] = ("3d", "2d", "lowres", "cascade")

OF_3D_ALONE = ("patch_size", "network_def")
"""What differs between configurations by its nature: without a name in front it is meant for 3D."""


@dataclass(frozen=True)
class Overrides:
    """What the user set.

    Attributes:
        values: (configuration, or None for all) and id → value.
    """

    values: Mapping[tuple[ConfigurationName | None, str], Any]

    def get(self, configuration: ConfigurationName, id_: str) -> Value | None:
        """What was set of an id for a configuration; None where nothing was."""
        for key in ((configuration, id_), (None, id_)):
            if key in self.values and not (key[0] is None and id_ in OF_3D_ALONE and configuration != "3d"):
                return Value(self.values[key], "Set by the user.", "user")
        return None

    def own(self, configuration: ConfigurationName) -> dict[str, Value]:
        """What was set for this configuration by its name."""
        return {
            id_: Value(value, "Set by the user.", "user")
            for (name, id_), value in self.values.items()
            if name == configuration
        }

    def ids(self, configuration: ConfigurationName) -> list[str]:
        """Ids that are set for a configuration, in the order they were typed."""
        ids = dict.fromkeys(id_ for name, id_ in self.values if name in (None, configuration))
        return [id_ for id_ in ids if self.get(configuration, id_) is not None]


def parse_overrides(texts: Sequence[str], template: Template) -> Overrides:
    """``id=value`` for every configuration, ``2d:id=value`` for one; values are written as in YAML.

    Raises:
        UsageError: no ``=``, a value that is no YAML, or an id that the bundle does not have; the nearest is named.
    """
    import yaml

    values: dict[tuple[ConfigurationName | None, str], Any] = {}
    for text in texts:
        name, has_value, written = text.partition("=")
        if not has_value:
            raise UsageError(f"--set {text!r} cannot be read: write id=value, as in --set batch_size=4.")
        configuration, id_ = _split(name.strip())
        _require_known(id_, template)
        try:
            values[configuration, id_] = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text!r}: the value is not YAML ({' '.join(str(error).split())}).") from error
    return Overrides(values)


def _split(name: str) -> tuple[ConfigurationName | None, str]:
    for configuration in CONFIGURATIONS:
        if name.startswith(f"{configuration}:"):
            return configuration, name.removeprefix(f"{configuration}:")
    return None, name


def _require_known(id_: str, template: Template) -> None:
    from medseg3d.bundles.merge import lookup
    from medseg3d.bundles.problems import did_you_mean

    # An argument of a component may be new: its signature decides, when the plan is checked.
    parent, _, _ = id_.rpartition("::")
    known = lookup(template.config, id_, default=None) is not None or id_ in template.config
    if not known and not (parent and isinstance(lookup(template.config, parent), Mapping)):
        hint = did_you_mean(id_, [str(key) for key in template.config])
        raise UsageError(f"--set {id_}: {template.name} has no such id. {hint}".rstrip())
