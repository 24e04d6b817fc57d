"""Pseudonyms from a secret key: the same person, study or instance gets the same new name in every file and every run.

Nothing is stored. A pseudonym is a keyed hash (HMAC-SHA256, RFC 2104) of what it stands for: whoever has the key can
compute it again from the original, nobody can compute the original from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from medseg3d.errors import UsageError

__all__ = ["MIN_KEY_BYTES", "STANDARD_ROOT", "Pseudonyms", "read_key"]

MIN_KEY_BYTES = 16

# UIDs below this root are defined by the standard itself (SOP classes, transfer syntaxes, well-known frames of
# reference): they identify nobody, and nothing can be read without them.
STANDARD_ROOT = "1.2.840.10008."
_STANDARD_UID = re.compile(re.escape(STANDARD_ROOT) + r"[\d.]+")

# A patient's dates move into the past by more than a year and at most ten, so that none lies in the future.
LEAST_SHIFT_DAYS, MOST_SHIFT_DAYS = 366, 3652


@dataclass(frozen=True)
class Pseudonyms:
    """New names by a secret key of at least 16 bytes.

    Raises:
        UsageError: the key is shorter.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < MIN_KEY_BYTES:
            raise UsageError(
                f"The key has {len(self.key)} bytes; at least {MIN_KEY_BYTES} are needed, so that nobody guesses it. "
                "Make one with: openssl rand -hex 32 > KEY"
            )

    def uid(self, original: str) -> str:
        """The UID that stands for ``original``; UIDs of the standard itself stay, and so does an empty one.

        It is a UUID below the root 2.25 (PS3.5 section B.2), 44 characters at most.

        >>> names = Pseudonyms(b"an example, not a secret")
        >>> names.uid("1.2.3") == names.uid("1.2.3 "), names.uid("1.2.840.10008.1.2.1")
        (True, '1.2.840.10008.1.2.1')
        """
        original = original.strip().strip("\0")
        if not original or _STANDARD_UID.fullmatch(original):
            return original
        return f"2.25.{UUID(bytes=self._digest('uid', original)[:16], version=4).int}"

    def patient(self, identity: str) -> str:
        """The patient's new id, and new name: ``P`` and 12 hexadecimal digits."""
        return f"P{self._digest('patient', identity).hex()[:12].upper()}"

    def text(self, original: str) -> str:
        """A name for a thing that must stay the same across files, such as a tracked lesion."""
        return f"T{self._digest('text', original.strip()).hex()[:12].upper()}"

    def shift_days(self, identity: str) -> int:
        """How many days are taken off every date of this patient."""
        number = int.from_bytes(self._digest("days", identity)[:8], "big")
        return LEAST_SHIFT_DAYS + number % (MOST_SHIFT_DAYS - LEAST_SHIFT_DAYS + 1)

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()


def read_key(path: str | Path) -> bytes:
    """The secret in a file, without blanks and line ends around it.

    Raises:
        UsageError: no such file, or not readable.
    """
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}. Make a key once, and keep it secret: openssl rand -hex 32 > {path}"
        ) from error
