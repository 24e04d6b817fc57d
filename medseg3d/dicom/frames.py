"""What a header says of each frame and of the series it belongs to: the types that scanning and reading share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medseg3d.dicom.findings import Finding
from medseg3d.dicom.model import FileRef, SeriesGrid, SliceRef

__all__ = ["Annotated", "Frame", "Header", "PixelLayout", "RealWorldMap", "Series", "SeriesInfo", "Stack", "Vector"]

Vector = tuple[float, float, float]
PixelKeyword = Literal["PixelData", "FloatPixelData", "DoubleFloatPixelData"]


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the pixel data of one file are stored.

    Attributes:
        rows, columns, samples: of one frame.
        frames: number of frames.
        photometric: photometric interpretation.
        bits_allocated, bits_stored, high_bit, signed: of one sample.
        keyword: which of the three pixel data attributes there is.
        transfer_syntax: its UID.
        offset: where the value begins, in bytes from the start of the (inflated) file.
        length: of the value in bytes, at most to the end of the file; to its end where the value is encapsulated.
        encapsulated: compressed frames, each in fragments.
        swapped: samples of 8 bits stand in big endian words of 16, the second of each two first (PS3.5, 8.1.1).
        extended_offsets: extended offset table and lengths, where there is one.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    keyword: PixelKeyword
    transfer_syntax: str
    offset: int
    length: int
    encapsulated: bool
    swapped: bool = False
    extended_offsets: tuple[bytes, bytes] | None = None

    @property
    def frame_bytes(self) -> int:
        """Size of one decoded frame."""
        return self.rows * self.columns * self.samples * max(self.bits_allocated, 8) // 8


@dataclass(frozen=True, slots=True)
class RealWorldMap:
    """A linear map from stored values to a measured quantity (Real World Value Mapping)."""

    slope: float
    intercept: float
    unit: str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One two-dimensional image and where it lies; lengths in mm, directions and positions in LPS.

    Attributes:
        source: file, instance and frame number.
        layout: how its file stores pixels.
        rows, columns: of this image; a tile of a mosaic has fewer than its file.
        tile: (first row, first column) of this image in the stored frame; None where it is the whole frame.
        position_mm: centre of the first voxel transmitted.
        row, column: unit vectors along which the column index and the row index grow (DICOM's row and column
            direction cosines).
        spacing_mm: (between rows, between columns), as in PixelSpacing.
        slope, intercept: stored value → value; 1 and 0 where the file gives none.
        absent: which of RescaleSlope and RescaleIntercept there is not, where no real-world map replaces them.
        unusable: which of the two it has without a usable number: empty, no number, or not finite.
        real_world: another map that the file offers, or None.
        instance_number: 0 where there is none.
        thickness_mm, pitch_mm: SliceThickness and SpacingBetweenSlices, where they are given.
        b_value: diffusion weighting in s/mm²; gradient: its direction as a unit vector in LPS.
        traits: what may tell the volumes of one series apart, by name, such as ``echo``; only what is given.
    """

    source: SliceRef
    layout: PixelLayout
    rows: int
    columns: int
    position_mm: Vector | None
    row: Vector | None
    column: Vector | None
    spacing_mm: tuple[float, float] | None
    slope: float = 1.0
    intercept: float = 0.0
    real_world: RealWorldMap | None = None
    tile: tuple[int, int] | None = None
    instance_number: int = 0
    thickness_mm: float | None = None
    pitch_mm: float | None = None
    b_value: float | None = None
    gradient: Vector | None = None
    traits: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        """Number of the frame in its file, from 0."""
        return (self.source.frame or 1) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What one image file says, apart from its pixels. Attributes that are absent are "" or None."""

    file: FileRef
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient_id: str = field(repr=False)
    modality: str
    description: str
    series_number: int | None
    transfer_syntax: str
    image_type: tuple[str, ...]
    lossy: str
    burned_in: str
    unit: str
    padding: float | None
    imager_spacing_mm: tuple[float, ...] | None
    modality_lut: bool
    frames: tuple[Frame, ...]
    study_description: str = ""


@dataclass(frozen=True, slots=True)
class Annotated:
    """An RTSTRUCT or SEG file that a scan met.

    Attributes:
        file, modality: where it lies; RTSTRUCT or SEG.
        sop_class_uid, sop_instance_uid, series_uid, study_uid, description: of the object itself.
        referenced_series: UIDs of the image series that it was drawn on, as far as it names them.
        patient: pseudonym, as in ``Series``.
    """

    file: FileRef
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    description: str
    referenced_series: tuple[str, ...]
    patient: str
    patient_id: str = field(repr=False, default="")


@dataclass(frozen=True, kw_only=True)
class SeriesInfo:
    """What identifies a series.

    Attributes:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        patient: a pseudonym of the patient; the same in every series of the patient.
        patient_id: the patient's real id: not for logs, tables or file names unless asked.
        modality, description, study_description, number: as in the files.
        transfer_syntaxes: UIDs, each once.
        unit: of the values: HU, BQML, GML, …; "" where the files do not say.
    """

    uid: str
    study_uid: str
    patient: str
    patient_id: str = field(repr=False)
    modality: str
    description: str
    study_description: str
    number: int | None
    transfer_syntaxes: tuple[str, ...]
    unit: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The frames that make one volume.

    Attributes:
        series: what identifies the series that they belong to.
        label: short suffix that tells the stacks of a series apart, such as ``e2``, ``t003`` or ``b1000``; "" for
            the only one.
        frames: in the order of the grid's third axis; in file order where they cannot be ordered.
        grid: where the voxels lie. There is one for a tilted gantry too (with the shear); None where no regular grid
            exists: gaps, repeats, missing positions.
        findings: of this stack; those of the whole series are in ``Series.findings``.
    """

    series: SeriesInfo
    label: str
    frames: tuple[Frame, ...]
    grid: SeriesGrid | None
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        return any(finding.severity == "refusal" for finding in self.findings)


@dataclass(frozen=True, kw_only=True, eq=False)
class Series(SeriesInfo):
    """An image series: its stacks, and what was found about the series as a whole.

    A refusal in ``findings`` means that the series does not make one volume (or one set of like volumes); its stacks
    may each be sound.
    """

    stacks: tuple[Stack, ...]
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        """Whether the series, or every stack of it, is refused."""
        return any(f.severity == "refusal" for f in self.findings) or all(stack.refused for stack in self.stacks)
