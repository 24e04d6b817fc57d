"""pydicom's decoders of JPEG 2000 and HTJ2K by the library openjpeg.

pydicom reaches openjpeg through a further package, pylibjpeg; this plugin calls it directly.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pydicom import uid
from pydicom.pixels import get_decoder

__all__ = ["DECODER_DEPENDENCIES", "LABEL", "SYNTAXES", "is_available", "register"]

SYNTAXES = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, ("pylibjpeg-openjpeg>=2.0",))
LABEL = "medseg3d-openjpeg"


def register() -> None:
    """Make pydicom's decoders use this plugin; again does nothing."""
    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))


def is_available(syntax: str) -> bool:
    """pydicom asks this before it uses the plugin."""
    return syntax in SYNTAXES and find_spec("openjpeg") is not None


def decode_frame(source: bytes, runner: Any) -> bytearray:
    """Decode one frame; the container of a sample follows the precision of the code stream, as openjpeg's does."""
    import openjpeg

    frame = openjpeg.decode_pixel_data(source, version=2)  # type: ignore[attr-defined]
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    runner.set_option("bits_allocated", 8 if precision <= 8 else 16 if precision <= 16 else 32)
    return frame  # type: ignore[return-value]
