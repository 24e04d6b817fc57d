"""A data set in numbers: what a plan is made from."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.datalist import Case, DataList
from medseg3d.datalist.check import mapped
from medseg3d.errors import DataListError
from medseg3d.files import whole_or_not_at_all
from medseg3d.plan.case import CaseFingerprint, fingerprint_case

__all__ = ["Fingerprint", "Intensity", "LabelFacts", "extract_fingerprint", "ignored_label"]

SCHEMA = "medseg3d.fingerprint/1"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Intensity:
    """Intensities of one channel inside the labels, every case counting alike.

    Attributes:
        mean, sd: of all foreground voxels.
        low, median, high: 0.5th, 50th and 99.5th percentile.
        minimum, maximum: of all cases.
    """

    mean: float
    sd: float
    low: float
    median: float
    high: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class LabelFacts:
    """One label over all cases.

    Attributes:
        name, label_id: as the data list gives them.
        cases: in how many cases it occurs.
        volume_ml: 5th percentile, median and 95th percentile of its volume, where it occurs; None where it never does.
        components: median and maximum number of connected components, where it occurs.
        largest_share: median share of the largest component in the volume.
        share_of_foreground: of all labelled volume.
    """

    name: str
    label_id: int
    cases: int
    volume_ml: tuple[float, float, float] | None
    components: tuple[float, int]
    largest_share: float
    share_of_foreground: float


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases of a data set hold; axes are left-right, back-front, foot-head.

    Attributes:
        name: of the data set.
        modality: ``"CT"``, ``"MRI"``, …; empty where the data list does not say.
        channels: names of the channels.
        labels: name → id, without the ignored one.
        regions: name → ids, unions of labels.
        ignore_label: id of voxels whose truth is not known, or None.
        cases: a fingerprint a case, in the order of the list.
    """

    name: str
    modality: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    cases: tuple[CaseFingerprint, ...]
    regions: Mapping[str, tuple[int, ...]]
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        if not self.cases:
            raise DataListError(f"{self.name} has no training case: a plan needs at least one with a label map.")

    @property
    def spacings_mm(self) -> np.ndarray:
        """(case, 3)."""
        return np.array([case.spacing_mm for case in self.cases])

    @property
    def cropped_shapes(self) -> np.ndarray:
        """(case, 3)."""
        return np.array([case.cropped_shape for case in self.cases])

    @property
    def median_kept(self) -> float:
        """Median share of the voxels that is left after cropping to what is not 0."""
        return float(np.median([case.kept for case in self.cases]))

    def intensity(self, channel: int) -> Intensity | None:
        """Intensities of a channel inside the labels; None where no case has a label."""
        parts = [part for case in self.cases if case.channels and (part := case.channels[channel]) is not None]
        if not parts:
            return None
        pooled = np.concatenate([part.quantiles for part in parts])
        # Each quantile stands at the middle of its share, which is where this method puts it.
        low, median, high = np.percentile(pooled, [0.5, 50.0, 99.5], method="hazen")
        mean = float(np.mean([part.mean for part in parts]))
        second_moment = float(np.mean([part.sd**2 + part.mean**2 for part in parts]))
        return Intensity(
            mean=_short(mean),
            sd=_short(math.sqrt(max(second_moment - mean**2, 0.0))),
            low=_short(low),
            median=_short(median),
            high=_short(high),
            minimum=min(part.minimum for part in parts),
            maximum=max(part.maximum for part in parts),
        )

    def label(self, name: str) -> LabelFacts:
        """What there is of one label."""
        label_id = self.labels[name]
        having = [case for case in self.cases if label_id in case.volume_ml]
        all_ml = sum(sum(case.volume_ml.values()) for case in self.cases)
        volumes = [case.volume_ml[label_id] for case in having]
        percentiles = np.percentile(volumes, [5, 50, 95]) if volumes else ()
        return LabelFacts(
            name=name,
            label_id=label_id,
            cases=len(having),
            volume_ml=tuple(_short(ml) for ml in percentiles) if having else None,  # type: ignore[arg-type]
            components=_summed_up([case.components[label_id] for case in having]),
            largest_share=float(np.median([case.largest_share[label_id] for case in having])) if having else 0.0,
            share_of_foreground=_short(sum(volumes) / all_ml) if all_ml else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as a person or a script reads it: without the cases' quantiles."""
        from dataclasses import asdict

        spacings, shapes = self.spacings_mm, np.array([case.shape for case in self.cases])
        per_case = [{k: v for k, v in case.to_json().items() if k not in ("channels", "key")} for case in self.cases]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "modality": self.modality,
            "axes": ["left-right", "back-front", "foot-head"],
            "cases": len(self.cases),
            "channels": [
                {"name": name, "inside_labels": None if (found := self.intensity(i)) is None else asdict(found)}
                for i, name in enumerate(self.channels)
            ],
            "spacing_mm": _range(spacings),
            "shape": _range(shapes),
            "cropped_shape": _range(self.cropped_shapes),
            "median_kept_after_cropping": _short(self.median_kept),
            "orientations": dict(Counter(case.orientation for case in self.cases).most_common()),
            "labels": [asdict(self.label(name)) for name in self.labels],
            "regions": {name: list(ids) for name, ids in self.regions.items()},
            "ignore_label": self.ignore_label,
            "per_case": per_case,
        }


def ignored_label(datalist: DataList) -> int | None:
    """The id of voxels whose truth is not known: the list's own, or the label that is called ``ignore``; or None."""
    if datalist.ignore_label is not None:
        return datalist.ignore_label
    return next((i for name, i in datalist.labels.items() if name.lower() == "ignore"), None)


def extract_fingerprint(
    datalist: DataList, *, cache: Path | None = None, workers: int | None = None, progress: Progress | None = None
) -> Fingerprint:
    """Read every training case, several at once.

    Args:
        datalist: its testing cases are left alone.
        cache: file of an earlier reading; cases whose files have the same size and time of change are not read again.
        workers: cases read at once, in threads; as many as there are processors by default.
        progress: called after each case with how many are done, and how many there are.

    Raises:
        DataListError: no training case.
        CaseError: a case cannot be read; ``medseg3d datalist check`` finds all of them at once.
    """
    ignore = ignored_label(datalist)
    known = _read_cache(cache)

    def one(case: Case) -> CaseFingerprint:
        key = _key(case, ignore)
        found = known.get(case.case)
        return found if found is not None and found.key == key else fingerprint_case(case, key=key, ignore=ignore)

    cases = tuple(mapped(one, datalist.training, workers=workers, progress=progress))
    if cache is not None:
        _write_cache(cache, cases)
    return Fingerprint(
        name=datalist.name,
        modality=datalist.modality,
        channels=datalist.channels,
        labels={name: i for name, i in datalist.labels.items() if i != ignore},
        regions=datalist.regions,
        ignore_label=ignore,
        cases=cases,
    )


def _key(case: Case, ignore: int | None) -> str:
    """Changes with the names, sizes and times of the case's files."""
    parts = [SCHEMA, str(ignore)]
    for path in [*case.image, case.label]:
        if path is not None and path.is_file():  # what is missing is refused, with its name, when it is read
            stat = path.stat()
            parts.append(f"{path}:{stat.st_size}:{stat.st_mtime_ns}")
        else:
            parts.append("none")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read_cache(path: Path | None) -> dict[str, CaseFingerprint]:
    """Cases of an earlier reading; none where the file is absent, damaged or of another version."""
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return {}
        cases = [CaseFingerprint.from_json(values) for values in content["cases"]]
    except (ValueError, KeyError, TypeError):
        return {}  # it is a cache: what cannot be used is made again
    return {case.case: case for case in cases}


def _write_cache(path: Path, cases: Iterable[CaseFingerprint]) -> None:
    content = {"schema": SCHEMA, "cases": [case.to_json() for case in cases]}
    with whole_or_not_at_all(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False), encoding="utf-8")


def _range(values: np.ndarray) -> dict[str, list[float]]:
    return {
        "min": [_short(v) for v in values.min(axis=0)],
        "median": [_short(v) for v in np.median(values, axis=0)],
        "max": [_short(v) for v in values.max(axis=0)],
    }


def _summed_up(counts: Sequence[int]) -> tuple[float, int]:
    return (float(np.median(counts)), max(counts)) if counts else (0.0, 0)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
