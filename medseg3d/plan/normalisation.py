"""How intensities become what the network sees, channel by channel."""

from __future__ import annotations

from typing import Any

from medseg3d.plan.fingerprint import Fingerprint, Intensity
from medseg3d.plan.model import Value

__all__ = ["MASK_BELOW", "background", "is_ct", "normalize"]

MASK_BELOW = 0.75
"""Where cropping to what is not 0 leaves less than this share, the zeros are no tissue and are left out."""


def is_ct(fingerprint: Fingerprint, channel: int) -> bool:
    """Whether a channel holds Hounsfield units: it is called CT, or it is the only one of CT images."""
    name = fingerprint.channels[channel].casefold()
    return name == "ct" or (len(fingerprint.channels) == 1 and fingerprint.modality.casefold() == "ct")


def normalize(fingerprint: Fingerprint) -> Value:
    """The transform that normalises all channels.

    CT is clipped to the 0.5th and 99.5th percentile of the labelled voxels, and shifted and scaled by their mean and
    standard deviation; other channels by each image's own, over voxels that are not 0 where cropping shrinks much.
    """
    rules, reasons = [], []
    for channel, name in enumerate(fingerprint.channels):
        rule, reason = _rule(fingerprint, channel)
        rules.append(rule)
        reasons.append(f"{name}: {reason}")
    transform = {"_target_": "medseg3d.intensity.NormalizeChannelsd", "keys": "image", "channels": rules}
    return Value(transform, " ".join(reasons))


def background(fingerprint: Fingerprint) -> Value:
    """What lies beyond the image, once normalised: air of CT, the mean (or the masked 0) of anything else."""
    for channel in range(len(fingerprint.channels)):
        values = fingerprint.intensity(channel)
        if is_ct(fingerprint, channel) and values is not None:
            return Value(
                _air(values), "What lies beyond the image counts as air: the lower clip of the CT, normalised."
            )
    return Value(0.0, "What lies beyond the image counts as 0, which is the mean of the normalised image.")


def _rule(fingerprint: Fingerprint, channel: int) -> tuple[dict[str, Any], str]:
    values = fingerprint.intensity(channel)
    if is_ct(fingerprint, channel) and values is not None and values.sd > 0:
        rule = {"clip": [values.low, values.high], "mean": values.mean, "sd": values.sd}
        return rule, (
            "Hounsfield units mean the same in every scan, so they are clipped to the 0.5th and 99.5th percentile of "
            f"the labelled voxels ({values.low:.5g} to {values.high:.5g} HU) and scaled by their mean and standard "
            f"deviation ({values.mean:.5g}, {values.sd:.5g} HU)."
        )
    kept = fingerprint.median_kept
    if kept < MASK_BELOW:
        return {"nonzero": True}, (
            "intensities differ from scan to scan, so each image is scaled by its own mean and standard deviation, "
            f"over voxels that are not 0 alone: cropping to them leaves {kept:.0%} of the median image."
        )
    why = (
        "no voxel is labelled, so that nothing is known of the data set"
        if values is None
        else "intensities differ from scan to scan"
    )
    return {"nonzero": False}, f"{why}, so each image is scaled by its own mean and standard deviation."


def _air(values: Intensity) -> float:
    return float(f"{(values.low - values.mean) / values.sd:.5g}") if values.sd > 0 else 0.0
