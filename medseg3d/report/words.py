"""Numbers as text, and what the metrics are called and mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = [
    "EMPTY_POLICY",
    "METRICS",
    "MetricText",
    "Units",
    "ci",
    "count",
    "interval",
    "metric_text",
    "number",
    "p_value",
    "quantity",
    "units_of",
]

NONE = "–"


@dataclass(frozen=True)
class MetricText:
    """How a metric is shown.

    Attributes:
        key: its column in ``cases.csv``.
        title: its name in a heading, without the unit.
        unit: ``"mm"``, ``"ml"`` or nothing; of 2D images ``"px"`` or ``"mm²"`` too.
        better: where a good value lies.
        digits: after the decimal point.
        meaning: one sentence, with its source.
    """

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower", "zero", ""]
    digits: int
    meaning: str

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS: tuple[MetricText, ...] = (
    MetricText("dice", "Dice", "", "higher", 3,
               "Overlap, 2·|A∩B| / (|A|+|B|): 1 is equal, 0 is disjoint (Dice 1945)."),
    MetricText("nsd", "NSD", "", "higher", 3,
               "Normalised surface distance: the share of both surfaces that lies within "
               "the tolerance of the other (Nikolov et al. 2018). The tolerance stands beside the label."),
    MetricText("hd95_mm", "HD95", "mm", "lower", 1,
               "95th percentile of the distances from the surface voxels of one mask to those of the other (voxels "
               "that share a face with the background, each counted once), taken for each direction; the greater of "
               "the two. Infinite where one side is empty."),
    MetricText("hd95_weighted_mm", "HD95 by area", "mm", "lower", 1, "HD95 with every piece of surface weighted by its "
               "area instead of counted, between voxel centres, as in DeepMind's surface-distance."),
    MetricText("assd_mm", "ASSD", "mm", "lower", 2,
               "Average symmetric surface distance: mean over both surfaces of the "
               "distance to the other."),
    MetricText("hd_mm", "HD", "mm", "lower", 1,
               "Hausdorff distance: the farthest point of either surface from the other."),
    MetricText("sensitivity", "Sensitivity", "", "higher", 3,
               "Share of the reference that was found, |A∩B| / |reference|."),
    MetricText("precision", "Precision", "", "higher", 3,
               "Share of the prediction that is right, |A∩B| / |prediction|."),
    MetricText("specificity", "Specificity", "", "higher", 4,
               "Share of the voxels outside the reference that were left out."),
    MetricText("iou", "IoU", "", "higher", 3, "Intersection over union, |A∩B| / |A∪B| (Jaccard 1912)."),
    MetricText("volume_difference_ml", "Volume difference", "ml", "zero", 2,
               "Prediction minus reference, in millilitres."),
    MetricText("relative_volume_difference", "Relative volume difference", "", "zero", 3, "Prediction minus reference, "
               "divided by the reference."),
    MetricText("centre_distance_mm", "Centre distance", "mm", "lower", 1, "Distance between the two centres of mass."),
    MetricText("absolute_volume_difference_ml", "Absolute volume difference", "ml", "lower", 2,
               "Volume difference without its sign, in millilitres."),
    MetricText("volume_ml", "Volume", "ml", "", 2, "Volume of the prediction in millilitres."),
    MetricText("reference_ml", "Reference volume", "ml", "", 2, "Volume of the reference in millilitres."),
    MetricText("lesion_f1", "Lesion F1", "", "higher", 3, "Harmonic mean of the sensitivity and precision of finding "
               "lesions, by connected components and an overlap threshold."),
    MetricText("lesion_sensitivity", "Lesion sensitivity", "", "higher", 3, "Share of the lesions that were found."),
    MetricText("lesion_precision", "Lesion precision", "", "higher", 3,
               "Share of the predicted lesions that are real."),
    MetricText("lesion_false_positives", "False-positive lesions", "", "lower", 2, "Predicted lesions that are none."),
)  # fmt: skip

# What the words for surfaces are of a picture: its titles and meanings where they are not those of a volume.
PLANAR: Mapping[str, tuple[str, str]] = {
    "nsd": ("NSD", "Normalised surface distance, in a plane of outlines: the share of both outlines that lies within "
            "the tolerance of the other (Nikolov et al. 2018). The tolerance stands beside the label."),
    "hd95_mm": ("HD95", "95th percentile of the distances from the outline of one mask to that of the other (pixels "
                "that share an edge with the background, each counted once), taken for each direction; the greater of "
                "the two. Infinite where one side is empty."),
    "hd95_weighted_mm": ("HD95 by length", "HD95 with every piece of outline weighted by its length instead of "
                         "counted, between pixel centres, as in DeepMind's surface-distance."),
    "assd_mm": ("ASSD", "Average symmetric surface distance, in a plane of outlines: mean over both outlines of the "
                "distance to the other."),
    "hd_mm": ("HD", "Hausdorff distance: the farthest point of either outline from the other."),
    "specificity": ("Specificity", "Share of the pixels outside the reference that were left out."),
    "volume_difference_ml": ("Area difference", "Prediction minus reference."),
    "relative_volume_difference": ("Relative area difference", "Prediction minus reference, divided by the reference."),
    "absolute_volume_difference_ml": ("Absolute area difference", "Area difference without its sign."),
    "volume_ml": ("Area", "Area of the prediction."),
    "reference_ml": ("Reference area", "Area of the reference."),
}  # fmt: skip

# Read by the page's section on definitions; the names are those of the column ``status``.
EMPTY_POLICY: tuple[tuple[str, str], ...] = (
    ("both empty",
     "Reference and prediction lack the structure: nothing to score. It is counted, and left out of means."),
    ("missed", "Only the reference has it: Dice, IoU, NSD and sensitivity are 0, distances infinite."),
    ("spurious", "Only the prediction has it: Dice, IoU, NSD and precision are 0, distances infinite."),
    ("infinite distances", "They rank last in medians and quartiles, and no mean of a distance is given where one is "
     "infinite: a mean that left them out would improve as more is missed."),
)  # fmt: skip

_BY_KEY = {metric.key: metric for metric in METRICS}


@dataclass(frozen=True)
class Units:
    """What distances and sizes are shown in: volumes, or areas of 2D images.

    Attributes:
        distance: ``"mm"``, or ``"px"`` where images do not say their spacing.
        size: ``"ml"``, or of areas ``"mm²"`` or ``"px"``.
        size_name: ``"volume"`` or ``"area"``.
        size_digits: of a size, after the decimal point.
        element: ``"voxel"`` or ``"pixel"``.
        border: what ends a structure: ``"surface"`` or ``"outline"``.
        per_ml: how many of ``size`` the files' millilitres are: a 2D image is a slice of 1 mm there.
    """

    distance: str = "mm"
    size: str = "ml"
    size_name: str = "volume"
    size_digits: int = 2
    element: str = "voxel"
    border: str = "surface"
    per_ml: int = 1

    @property
    def planar(self) -> bool:
        """Whether the cases are 2D images."""
        return self.per_ml != 1

    def of(self, metric: MetricText) -> MetricText:
        """The text of a metric in these units.

        >>> units_of({"plane_unit": "mm"}).of(metric_text("reference_ml")).heading
        'Reference area (mm²)'
        """
        if not self.planar:
            return metric
        title, meaning = PLANAR.get(metric.key, (metric.title, metric.meaning))
        unit = {"mm": self.distance, "ml": self.size}.get(metric.unit, metric.unit)
        digits = self.size_digits if metric.unit == "ml" else metric.digits
        return replace(metric, title=title, unit=unit, digits=digits, meaning=meaning)

    def attribute(self, name: str) -> str:
        """What a column of subgroups is called; thirds by size are called after volumes in the files.

        >>> units_of({"plane_unit": "px"}).attribute("reference volume")
        'Reference area'
        >>> Units().attribute("scanner_type")
        'Scanner type'
        """
        own = f"reference {self.size_name}" if name == "reference volume" else name
        words = own.replace("_", " ")
        return words[:1].upper() + words[1:]


def units_of(content: Mapping[str, Any]) -> Units:
    """The units of an evaluation or a comparison, by ``plane_unit`` of its JSON."""
    plane = content.get("plane_unit")
    if not plane:
        return Units()
    return Units(plane, "px" if plane == "px" else f"{plane}²", "area", 1, "pixel", "outline", 1000)


def metric_text(key: str, units: Units | None = None) -> MetricText:
    """The text of a metric; one that is not known here goes by its column's name.

    >>> metric_text("hd95_mm").heading
    'HD95 (mm)'
    >>> metric_text("hd95_mm", units_of({"plane_unit": "px"})).heading
    'HD95 (px)'
    >>> metric_text("bone_loss_mm").heading
    'Bone loss (mm)'
    """
    if units is not None:
        return units.of(metric_text(key))
    if key in _BY_KEY:
        return _BY_KEY[key]
    unit = next((u for u in ("mm", "ml") if key.endswith(f"_{u}")), "")
    title = key.removesuffix(f"_{unit}").replace("_", " ").capitalize()
    return MetricText(key, title, unit, "", 3, "")


def number(value: Any, digits: int = 3) -> str:
    """A number for a table: a dash where it is not defined, ∞ where it is infinite, a true minus sign.

    >>> number(0.87654), number(None), number(float("inf")), number(-2.0, 1), number(-0.0004)
    ('0.877', '–', '∞', '−2.0', '0.000')
    """
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def quantity(value: Any, metric: MetricText) -> str:
    """A number with its unit.

    >>> quantity(3.25, metric_text("hd95_mm"))
    '3.2 mm'
    """
    text = number(value, metric.digits)
    return f"{text} {metric.unit}" if metric.unit and text != NONE else text


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """Two bounds for a table; nothing where there are none.

    >>> interval([0.8612, 0.8801]), interval(None)
    ('0.861 to 0.880', '')
    """
    if not bounds or any(bound is None for bound in bounds):
        return ""
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def ci(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """A confidence interval for a table, named as such; nothing where there is none.

    >>> ci([0.8612, 0.8801])
    'CI 0.861 to 0.880'
    """
    text = interval(bounds, digits)
    return f"CI {text}" if text else ""


def p_value(value: Any) -> str:
    """A p-value as journals print it.

    >>> p_value(0.0321), p_value(2e-9), p_value(None)
    ('0.032', '< 0.001', '–')
    """
    if value is None or math.isnan(value):
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(n: int, singular: str, plural: str = "") -> str:
    """A number of things.

    >>> count(1, "case"), count(1200, "case"), count(0, "missed structure")
    ('1 case', '1\u202f200 cases', '0 missed structures')
    """
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}".replace(",", "\u202f")
