"""What tells the volumes of one series apart: echo, time, diffusion weighting, component, acquisition, …

Sources: PS3.3 C.7.6.16 (functional groups), C.8.3.1 (MR Image), C.8.13.5.9 (MR Diffusion); the private attributes of
diffusion as dcm2niix documents them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from medseg3d.dicom.attributes import first, integer, is_block_of, items, number, numbers, text, texts
from medseg3d.dicom.frames import Vector

__all__ = ["NUMBERED", "RANKED", "TRAITS", "WITHOUT_ORDER", "frame_traits", "trait_label"]

# In the order in which they are tried: what people mean by "another volume" first, mere numbering last.
TRAITS = (
    "component", "image_type", "echo", "inversion", "flip", "b_value", "gradient", "time", "phase", "acquisition",
    "kernel", "kvp", "moment", "dimension_1", "dimension_2", "dimension_3", "dimension_4", "dimension_5", "file",
)  # fmt: skip

# Those that put repeats of a slice in order even where their values differ from slice to slice.
RANKED = ("time", "phase", "moment")

# Those whose values follow no order: volumes are in the order of acquisition, by the clock and then by number.
WITHOUT_ORDER = ("component", "image_type", "gradient", "kernel")
# Those that merely number volumes: the clock comes first.
NUMBERED = ("acquisition", "file")

# Values of b below this are told apart no further: scanners write 0, 5 or 50 for the same unweighted image.
_UNWEIGHTED = 1e-6


def frame_traits(
    ds: Dataset, own: Dataset, shared: Dataset, frame: int | None
) -> tuple[dict[str, Any], float | None, Vector | None]:
    """Traits of one frame, its b-value and its gradient direction in LPS.

    The trait ``gradient`` may be in other axes: then it tells volumes apart, and the direction in LPS is None.

    ``own`` and ``shared`` are the functional groups of a multi-frame image; empty, with ``frame`` None, otherwise.
    """
    lookup = _lookup(ds, own, shared)
    b_value, gradient = _diffusion(lookup, ds, own, shared)
    scanner_gradient = _ge_gradient(ds) if gradient is None and b_value else None
    content = first(own, "FrameContentSequence")
    traits: dict[str, Any] = {
        "stack": text(content, "StackID"),
        "component": lookup("MRImageFrameTypeSequence", lambda d: text(d, "ComplexImageComponent")),
        "image_type": _frame_type(own, shared) or texts(ds, "ImageType"),
        "echo": _echo(lookup),
        "inversion": lookup("MRModifierSequence", lambda d: numbers(d, "InversionTimes") or number(d, "InversionTime")),
        "flip": lookup("MRTimingAndRelatedParametersSequence", lambda d: number(d, "FlipAngle")),
        "b_value": b_value,
        "gradient": gradient or scanner_gradient,
        "time": integer(content, "TemporalPositionIndex") or integer(ds, "TemporalPositionIdentifier"),
        "phase": _phase(lookup, ds),
        "acquisition": integer(content, "FrameAcquisitionNumber")
        or lookup("UnassignedPerFrameConvertedAttributesSequence", lambda d: integer(d, "AcquisitionNumber")),
        "kernel": text(ds, "ConvolutionKernel"),
        "kvp": number(ds, "KVP"),
        "moment": _moment(ds, content),
        "file": (integer(ds, "InstanceNumber") or 0, text(ds, "SOPInstanceUID")) if frame else None,
    }
    traits |= _dimensions(ds, content)
    return {name: value for name, value in traits.items() if value not in (None, "", ())}, b_value, gradient


def trait_label(name: str, value: Any, rank: int) -> str:
    """Short suffix for a volume whose trait has this value, the ``rank``-th (from 1) of those in the series.

    >>> trait_label("echo", (2, 4.9), 2), trait_label("b_value", 1000.0, 3), trait_label("time", 7, 7)
    ('e2', 'b1000', 't007')
    """
    if name == "b_value":
        return f"b{value:g}"
    if name in ("component", "kernel"):
        return "".join(c for c in str(value).lower() if c.isalnum())[:12]
    prefix = {"echo": "e", "inversion": "ti", "flip": "fa", "gradient": "d", "phase": "p", "acquisition": "a",
              "image_type": "i", "kvp": "kv"}.get(name)  # fmt: skip
    if prefix is None:
        return f"t{rank:03}" if name in ("time", "moment", "file") else f"n{rank:03}"
    return f"{prefix}{rank:02}" if name in ("gradient", "phase") else f"{prefix}{rank}"


_Lookup = Callable[[str, Callable[[Dataset], Any]], Any]


def _lookup(ds: Dataset, own: Dataset, shared: Dataset) -> _Lookup:
    """A function that asks a functional group, the frame's own or the shared one, and then the instance."""

    def lookup(macro: str, read: Callable[[Dataset], Any]) -> Any:
        for item in (*items(own, macro)[:1], *items(shared, macro)[:1], ds):
            value = read(item)
            if value not in (None, "", ()):
                return value
        return None

    return lookup


def _frame_type(own: Dataset, shared: Dataset) -> tuple[str, ...]:
    for macro in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
        for groups in (own, shared):
            if found := texts(first(groups, macro), "FrameType"):
                return found
    return ()


def _echo(lookup: _Lookup) -> tuple[int, float] | None:
    number_ = lookup("MREchoSequence", lambda d: integer(d, "EchoNumbers"))
    time_ms = lookup("MREchoSequence", lambda d: number(d, "EffectiveEchoTime") or number(d, "EchoTime"))
    return None if number_ is None and time_ms is None else (number_ or 0, round(time_ms or 0.0, 3))


def _phase(lookup: _Lookup, ds: Dataset) -> float | None:
    cardiac = lookup("CardiacSynchronizationSequence", lambda d: number(d, "NominalCardiacTriggerDelayTime"))
    respiratory = lookup(
        "RespiratorySynchronizationSequence", lambda d: number(d, "NominalRespiratoryTriggerDelayTime")
    )
    return next((v for v in (cardiac, respiratory, number(ds, "TriggerTime")) if v is not None), None)


def _moment(ds: Dataset, content: Dataset) -> float | None:
    """When the frame was acquired: seconds after some fixed instant; PET's FrameReferenceTime where there is one."""
    if (reference_ms := number(ds, "FrameReferenceTime")) is not None:
        return reference_ms / 1000.0
    for stamp in (
        text(content, "FrameReferenceDateTime") or text(content, "FrameAcquisitionDateTime"),
        text(ds, "AcquisitionDateTime"),
        text(ds, "AcquisitionDate") + text(ds, "AcquisitionTime"),
    ):
        if (seconds := _seconds(stamp)) is not None:
            return seconds
    return None


def _seconds(stamp: str) -> float | None:
    """Seconds of a DICOM date and time, YYYYMMDDHHMMSS.F; None where it is not one."""
    digits, _, fraction = stamp.partition(".")
    try:
        moment = datetime.strptime(digits[:14], "%Y%m%d%H%M%S")
        return (moment - datetime(1970, 1, 1)).total_seconds() + float(f"0.{fraction[:6] or 0}")
    except ValueError:
        return None


def _diffusion(lookup: _Lookup, ds: Dataset, own: Dataset, shared: Dataset) -> tuple[float | None, Vector | None]:
    b_value = lookup("MRDiffusionSequence", lambda d: number(d, "DiffusionBValue"))
    gradient = numbers(ds, "DiffusionGradientOrientation")
    for groups in (shared, own):
        directions = first(first(groups, "MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
        gradient = numbers(directions, "DiffusionGradientOrientation") or gradient
    if b_value is None:
        b_value, gradient = _private_diffusion(ds)
    if not gradient or len(gradient) != 3 or not any(gradient) or not b_value or b_value < _UNWEIGHTED:
        return b_value, None
    return b_value, tuple(round(g, 6) for g in gradient)  # type: ignore[return-value]


def _private_diffusion(ds: Dataset) -> tuple[float | None, tuple[float, ...] | None]:
    if is_block_of(ds, 0x0019100C, "SIEMENS MR HEADER"):
        return number(ds, 0x0019100C, vr="IS"), numbers(ds, 0x0019100E, vr="FD")
    if is_block_of(ds, 0x20011003, "Philips Imaging DD 001"):
        directions = [number(ds, tag, vr="FL") for tag in (0x200510B0, 0x200510B1, 0x200510B2)]
        known = all(d is not None for d in directions)
        return number(ds, 0x20011003, vr="FL"), tuple(d for d in directions if d is not None) if known else None
    if is_block_of(ds, 0x00431039, "GEMS_PARM_01"):
        # The first of four numbers; above 1e9 it carries a flag.
        b_value = number(ds, 0x00431039, vr="IS")
        return (None if b_value is None else b_value % 1_000_000_000), None
    return None, None


def _ge_gradient(ds: Dataset) -> Vector | None:
    """GE's gradient direction: along the axes of phase, frequency and slice, not the patient's."""
    if not is_block_of(ds, 0x001910BB, "GEMS_ACQU_01"):
        return None
    x, y, z = (number(ds, tag, vr="DS") for tag in (0x001910BB, 0x001910BC, 0x001910BD))
    if x is None or y is None or z is None or not any((x, y, z)):
        return None
    return round(x, 6), round(y, 6), round(z, 6)


def _dimensions(ds: Dataset, content: Dataset) -> dict[str, Any]:
    """The indices of a multi-frame image's own dimensions, but those that count stacks and slices within one."""
    values = numbers(content, "DimensionIndexValues") or ()
    pointers = [item.get("DimensionIndexPointer") for item in items(ds, "DimensionIndexSequence")]
    spatial = {0x00209056, 0x00209057, 0x00200032}  # StackID, InStackPositionNumber, ImagePositionPatient
    return {
        f"dimension_{n}": value
        for n, value in enumerate(values[:5], 1)
        if n > len(pointers) or pointers[n - 1] not in spatial
    }
