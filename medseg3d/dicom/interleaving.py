"""Two scans whose slices lie between each other's: evenly spaced together, but not one volume."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame

__all__ = ["check_interleaving"]

# What another scan differs in. Frame numbers and directions differ within one as well.
SCAN_TRAITS = (
    "component", "image_type", "echo", "inversion", "flip", "b_value", "time", "phase", "acquisition", "kernel", "kvp",
    "moment",
)  # fmt: skip
# A pattern is believed after this many rounds.
ROUNDS = 3
# An MR that is acquired in turns has slices no thicker than the step from each to the next.
OVERLAP = 1.2


def check_interleaving(frames: Sequence[Frame], usual_mm: float) -> Iterator[Finding]:
    """A warning where slices, in their order and ``usual_mm`` apart, alternate in a trait and overlap.

    Scanners acquire the slices of one MR volume in turns, too: those do not overlap. Where the thickness is not
    given, nobody knows.
    """
    thickness = frames[0].thickness_mm
    if thickness is not None and thickness <= OVERLAP * usual_mm:
        return
    for name in SCAN_TRAITS:
        period = _period([frame.traits.get(name) for frame in frames])
        if period:
            yield _interleaved(name, period, len(frames), usual_mm, thickness)
            return


def _period(values: Sequence[Hashable]) -> int:
    """How many different values follow each other in the same order again and again; 0 where they do not.

    >>> _period([1, 2, 1, 2, 1, 2, 1]), _period([1, 1, 1, 2, 2, 2]), _period([1, 1, 1])
    (2, 0, 0)
    """
    period = len(set(values))
    turns = all(value == values[n % period] for n, value in enumerate(values))
    return period if period > 1 and len(values) >= ROUNDS * period and turns else 0


def _interleaved(name: str, scans: int, slices: int, usual_mm: float, thickness_mm: float | None) -> Finding:
    counts = ", ".join(str(len(range(n, slices, scans))) for n in range(scans))
    thick = "of unknown thickness" if thickness_mm is None else f"{thickness_mm:g} mm thick"
    return Finding(
        "interleaved_volumes",
        "warning",
        f"Slices alternate in {name.replace('_', ' ')} along the normal ({counts} slices): those that are alike are "
        f"{scans * usual_mm:.3g} mm apart, all of them {usual_mm:.3g} mm, {thick}. They may be {scans} scans.",
        "If they are, put the files of each into a folder of its own and convert them one by one.",
    )
