"""Findings about what the attributes of a stack and of a series say: each with numbers and a remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.frames import Frame, Header
from medseg3d.dicom.grouping import Group, geometry_differences
from medseg3d.dicom.ordering import normal
from medseg3d.dicom.value_checks import check_values

__all__ = ["SPLITTABLE", "check_frames", "check_series"]

# Refusals of a series whose stacks may be sound, each for itself.
SPLITTABLE = frozenset({"mixed_orientation", "mixed_matrix", "mixed_spacing", "mixed_frame_of_reference"})

# Row and column directions of unit length and at right angles, up to rounding.
ORTHOGONAL_TOLERANCE = 1e-3

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# From a hundredth of what microscopes resolve to ten metres.
_SPACINGS_MM = (1e-6, 1e4)

_EXPORT = "Export the series again from the archive."


def check_frames(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    """What the attributes of the frames of one stack say, apart from where the slices lie."""
    if any("MOSAIC" in h.image_type for h in headers) and frames[0].tile is None:
        yield Finding("missing_tag", "refusal", "This is a Siemens mosaic whose private header is gone or damaged: "
                      "nobody knows how many slices it holds and where they lie.",
                      "Export it again, and keep the private groups 0019 and 0029.")  # fmt: skip
    else:
        yield from _required(frames)
    yield from _not_a_volume(frames, headers)
    yield from _colour(frames)
    yield from _pixels(frames)
    yield from _counts(headers)
    yield from check_values(frames, headers)
    yield from _compression(headers)
    yield from _remarks(frames, headers)


def _required(frames: Sequence[Frame]) -> Iterator[Finding]:
    needed = {
        "ImagePositionPatient": [f.position_mm is None for f in frames],
        "ImageOrientationPatient": [f.row is None for f in frames],
        "PixelSpacing": [f.spacing_mm is None or not _possible(*f.spacing_mm) for f in frames],
    }
    for keyword, lacks in needed.items():
        if any(lacks):
            yield Finding(
                "missing_tag",
                "refusal",
                f"{keyword} is absent or not usable in {sum(lacks)} of {len(frames)} slices: nobody knows where they "
                "lie.",
                "Choose another series, or export it again with its geometry.",
            )
    bad = [f for f in frames if f.row is not None and not _orthonormal(f)]
    if bad:
        yield Finding(
            "contradictory_tags",
            "refusal",
            f"ImageOrientationPatient of {len(bad)} of {len(frames)} slices is not two unit vectors at a right angle: "
            f"{_list((*bad[0].row, *bad[0].column))}.",  # type: ignore[misc]
            _EXPORT,
        )


def _possible(*lengths_mm: float) -> bool:
    return all(_SPACINGS_MM[0] < length < _SPACINGS_MM[1] for length in lengths_mm)


def _orthonormal(frame: Frame) -> bool:
    row, column = np.array(frame.row, dtype=float), np.array(frame.column, dtype=float)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    return bool((np.abs(lengths - 1) < ORTHOGONAL_TOLERANCE).all() and abs(row @ column) < ORTHOGONAL_TOLERANCE)


def _not_a_volume(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    captures = sum(h.sop_class_uid.startswith(_SECONDARY_CAPTURE) for h in headers)
    if any("LOCALIZER" in h.image_type for h in headers):
        reason = "it is a localizer (ImageType says so)"
    elif len(frames) == 1 and not any("MOSAIC" in h.image_type for h in headers):
        # A mosaic that cannot be taken apart is refused for that: it is a volume.
        reason = "it has one slice"
    elif captures and any(f.position_mm is None for f in frames):
        reason = "it is a secondary capture without positions: a screenshot or a report"
    else:
        if captures:
            yield Finding("secondary_capture", "warning", "The images are secondary captures: derived, not acquired.",
                          "Check that the values are what you need.")  # fmt: skip
        return
    yield Finding("not_a_volume", "refusal", f"This is not a volume: {reason}.", "Leave it out.")


def _colour(frames: Sequence[Frame]) -> Iterator[Finding]:
    kinds = {f.layout.photometric or "unknown" for f in frames if f.layout.samples != 1 or _is_colour(f)}
    if kinds:
        yield Finding(
            "colour",
            "refusal",
            f"The pixels are colours ({', '.join(sorted(kinds))}), not measured values.",
            "Choose the series that these pictures were made from.",
        )


def _is_colour(frame: Frame) -> bool:
    return bool(frame.layout.photometric) and not frame.layout.photometric.startswith("MONOCHROME")


def _pixels(frames: Sequence[Frame]) -> Iterator[Finding]:
    short = [f for f in frames if _too_short(f)]
    if short:
        yield Finding(
            "undecodable_frame",
            "refusal",
            f"{len(short)} of {len(frames)} frames are cut short: {short[0].source.file.path.name} holds "
            f"{short[0].layout.length} bytes of pixels, its header wants "
            f"{short[0].layout.frame_bytes * short[0].layout.frames}.",
            "Copy or export the file again.",
        )
    odd = [f for f in frames if not _sensible(f)]
    if odd:
        a = odd[0].layout
        yield Finding(
            "contradictory_tags",
            "refusal",
            f"{len(odd)} of {len(frames)} frames have pixels that cannot be: {a.rows}×{a.columns}, {a.bits_allocated} "
            f"bits allocated, {a.bits_stored} stored, high bit {a.high_bit}.",
            _EXPORT,
        )


def _counts(headers: Sequence[Header]) -> Iterator[Finding]:
    """Multi-frame images that describe fewer frames than they hold."""
    for header in headers:
        layout, described = header.frames[0].layout, len(header.frames)
        if header.frames[0].tile is None and header.frames[0].position_mm and described != layout.frames:
            yield Finding(
                "contradictory_tags",
                "refusal",
                f"{header.file.path.name} holds {layout.frames} frames (NumberOfFrames) but places {described}.",
                _EXPORT,
            )


def _too_short(frame: Frame) -> bool:
    layout = frame.layout
    if layout.encapsulated:
        return layout.length < 16 * layout.frames
    return layout.length < layout.frame_bytes * (frame.index + 1)


def _sensible(frame: Frame) -> bool:
    a = frame.layout
    if a.keyword != "PixelData":
        return a.rows > 0 and a.columns > 0 and not a.encapsulated
    bits = a.bits_allocated in (8, 16, 32) and 0 < a.bits_stored <= a.bits_allocated
    return bits and a.bits_stored - 1 <= a.high_bit < a.bits_allocated and a.rows > 0 and a.columns > 0


def _compression(headers: Sequence[Header]) -> Iterator[Finding]:
    lossy = [h for h in headers if h.lossy]
    if lossy:
        yield Finding(
            "lossy_compression",
            "warning",
            f"{len(lossy)} of {len(headers)} files were compressed with loss ({lossy[0].lossy}): their values are not "
            "those measured.",
            "Use the original series for measurements, if there is one.",
        )


def _remarks(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    burned = sum(h.burned_in.upper() == "YES" for h in headers)
    if burned:
        yield Finding("burned_in_annotation", "warning", f"{burned} of {len(headers)} files have text burned into the "
                      "pixels, perhaps the patient's name.", "Look at the images before they are shared.")  # fmt: skip
    padding = sorted({h.padding for h in headers if h.padding is not None})
    if padding:
        yield Finding("padding", "note", "Voxels outside the field of view hold the stored value "
                      f"{_list(padding)} (PixelPaddingValue) and are kept.")  # fmt: skip
    if not all(h.frame_of_reference_uid for h in headers):
        yield Finding("missing_tag", "note", "FrameOfReferenceUID is absent: the volume cannot be matched with other "
                      "series by position.")  # fmt: skip
    if any(f.gradient is None and "gradient" in f.traits for f in frames):
        yield Finding("gradient_axes", "warning", "The diffusion direction (GE's 0019,10BB to 0019,10BD) is given in "
                      "the scanner's own axes: it tells volumes apart, but no gradient table is written.",
                      "Take the gradient table from the scanner or from a converter that rotates it.")  # fmt: skip
    yield from _detector_spacing(frames, headers)


def _detector_spacing(frames: Sequence[Frame], headers: Sequence[Header]) -> Iterator[Finding]:
    spacing = frames[0].spacing_mm
    detector = headers[0].imager_spacing_mm
    if spacing and detector and headers[0].modality != "CT" and detector == spacing:
        yield Finding("contradictory_tags", "note", "PixelSpacing equals the spacing at the detector "
                      "(ImagerPixelSpacing): sizes may be magnified.")  # fmt: skip


def check_series(groups: Sequence[Group], headers: Sequence[Header]) -> Iterator[Finding]:
    """What sets the parts of one series apart, and how many volumes it holds."""
    heads = list({group.part: group.frames[0] for group in groups}.values())
    references = {h.frame_of_reference_uid for h in headers}
    patients = {h.patient_id for h in headers}
    if len(patients) > 1:
        yield Finding("mixed_patients", "refusal", f"The series holds images of {len(patients)} patients.",
                      "Separate them by PatientID: two exports were mixed, or their UIDs collide.")  # fmt: skip
    if not headers[0].series_uid:
        yield Finding("missing_tag", "warning", f"SeriesInstanceUID is absent in {len(headers)} files: what looks like "
                      "one series may be several.", _EXPORT)  # fmt: skip
    if len(references) > 1:
        yield Finding("mixed_frame_of_reference", "refusal", f"Slices are in {len(references)} frames of reference: "
                      "their positions cannot be compared.", "Convert with --split, one volume each.")  # fmt: skip
    for name in geometry_differences(heads) if len(heads) > 1 else ():
        yield _mixed(name, heads, groups)
    if len(groups) > len(heads):
        yield Finding("several_volumes", "note", f"The series holds {len(groups)} volumes: {_labels(groups)}.")
    ranked = {group.ranked_by for group in groups if group.ranked_by}
    if ranked:
        yield Finding("ordered_by_time", "note", "Volumes were told apart by the order of their slices in time "
                      f"({', '.join(sorted(ranked))}), position by position.")  # fmt: skip
    sizes = Counter(len(group.frames) for group in groups)
    if len(heads) == 1 and len(sizes) > 1:
        few, many = min(sizes), max(sizes)
        yield Finding("incomplete_volume", "warning", f"Volumes have {few} to {many} slices: {sizes[few]} of "
                      f"{len(groups)} with {few}.", "Check that the series was exported completely.")  # fmt: skip


def _mixed(name: str, heads: Sequence[Frame], groups: Sequence[Group]) -> Finding:
    describe = {
        "matrix": lambda f: f"{f.columns}×{f.rows}",
        "orientation": lambda f: "none" if f.row is None else f"normal {_list(normal(f).round(3).tolist())}",
        "spacing": lambda f: "none" if f.spacing_mm is None else f"{f.spacing_mm[1]:g}×{f.spacing_mm[0]:g} mm",
    }[name]
    kinds = list(dict.fromkeys(describe(f) for f in heads))
    shown = "; ".join(kinds[:4]) + (f"; {len(kinds) - 4} more" if len(kinds) > 4 else "")
    code = "mixed_spacing" if name == "spacing" else f"mixed_{name}"
    return Finding(code, "refusal", f"Slices differ in {name} ({shown}): they do not make one volume.",
                   f"Convert with --split, which writes {len(groups)} volumes.")  # fmt: skip


def _labels(groups: Sequence[Group]) -> str:
    labels = [group.label for group in groups]
    return ", ".join(labels) if len(labels) <= 8 else f"{', '.join(labels[:4])}, …, {labels[-1]}"


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
