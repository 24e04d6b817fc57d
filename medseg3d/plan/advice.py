"""What a plan says beside the values of a bundle: which configuration to train first, tolerances, rare labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medseg3d.plan import anatomy
from medseg3d.plan.fingerprint import Fingerprint
from medseg3d.plan.grids import LOWRES_BELOW
from medseg3d.plan.model import ConfigurationName, Value
from medseg3d.plan.topology import MIN_EDGE

__all__ = ["advise", "recommend"]


def recommend(found: Collection[ConfigurationName], *, slices: float) -> tuple[ConfigurationName, str]:
    """The configuration to train first, and why.

    Args:
        found: the configurations that apply.
        slices: voxels of the median image along its coarsest axis.
    """
    if "3d" not in found:
        return "2d", "Images are one slice thick: there is only 2D."
    if slices < 2 * MIN_EDGE:
        return "2d", f"The median image has {slices:g} slices, too few for a 3D network to halve."
    why = "3D sees across slices; 2D is worth a training for the ensemble."
    if "lowres" in found:
        why += " The low resolution sees more of each image: train it too, and let the cross-validation choose."
    return "3d", why


def advise(
    found: Collection[ConfigurationName], fingerprint: Fingerprint, *, spacing_mm: Sequence[float]
) -> dict[str, Value]:
    """Tolerances for the evaluation, labels that are rare or absent, whether a cascade may help."""
    advice = {"tolerance_mm": anatomy.tolerances_mm(fingerprint, spacing_mm)}
    rare = {name: round(share, 4) for name, share in anatomy.rare_labels(fingerprint).items()}
    never = [name for name in fingerprint.labels if not fingerprint.label(name).cases]
    if rare:
        advice["rare_labels"] = Value(rare, "Share of the cases that have the label.")
    if never:
        advice["absent_labels"] = Value(never, "No training case has them: nothing can be learnt of these labels.")
    advice["cascade"] = _cascade("lowres" in found, is_planned="cascade" in found)
    return advice


def _cascade(pays: bool, *, is_planned: bool) -> Value:
    if not pays:
        return Value(False, f"A patch covers at least {LOWRES_BELOW:.0%} of the median image: one network sees enough.")
    how = (
        "plan_cascade.yaml is the second stage, and `medseg3d crossval` trains it after the first."
        if is_planned
        else "No second stage is planned: that is for bundles with previous_dir, whose labels exclude each other."
    )
    return Value(
        True,
        f"A patch covers less than {LOWRES_BELOW:.0%} of the median image, so a network at low resolution, whose "
        f"answer the one at full resolution refines or is averaged with, may help. {how}",
    )
