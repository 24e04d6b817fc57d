"""Values as people type them."""

from __future__ import annotations

from typing import Any

from medseg3d.errors import UsageError

__all__ = ["flag"]


def flag(value: Any, name: str) -> bool:
    """A yes or no. The command line of ``monai.bundle`` hands over ``true`` and ``false`` as texts, which all are true.

    Raises:
        UsageError: neither a bool nor a text that says true or false.

    >>> flag("false", "amp"), flag(True, "amp")
    (False, True)
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UsageError(f"{name} is {value!r}; write true or false.")
