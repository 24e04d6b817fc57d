"""Objects that no change of attributes makes anonymous: writing in the pixels, documents, reports."""

from __future__ import annotations

from pydicom.dataset import Dataset

from medseg3d.dicom.attributes import integer, text, texts
from medseg3d.dicom.pseudonyms import STANDARD_ROOT

__all__ = ["burned_in", "unfit"]

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

_STORAGE = f"{STANDARD_ROOT}5.1.4.1.1."
# SOP classes, or beginnings of them, whose content is free text or a foreign file.
_UNFIT = {
    f"{_STORAGE}104.": "an encapsulated document (PDF, CDA, STL, …)",
    f"{_STORAGE}88.": "a structured report or key object selection, whose content is free text",
    f"{_STORAGE}11.": "a presentation state, which draws text over images",
    f"{_STORAGE}9.": "a waveform",
    f"{_STORAGE}201.": "an inventory of other objects",
}
_RAW_DATA = f"{_STORAGE}66"

# Kinds of images that usually have writing in them: secondary capture, ultrasound, visible light, video, dose screens.
_SECONDARY_CAPTURE = (f"{_STORAGE}7", f"{_STORAGE}7.1", f"{_STORAGE}7.2", f"{_STORAGE}7.3", f"{_STORAGE}7.4")
_WRITTEN_ON_CLASSES = (f"{_STORAGE}3.", f"{_STORAGE}6.", f"{_STORAGE}77.1.")
_WRITTEN_ON_MODALITIES = frozenset({"DOC", "ES", "GM", "IVUS", "OT", "SC", "SM", "US", "XC"})
_WRITTEN_ON_TYPES = frozenset({"CAPTURE", "DOSE_INFO", "SCREEN SAVE", "SCREENSAVE", "SCREENSHOT"})
_CROSS_SECTIONAL = frozenset({"CT", "MR", "PT"})


def unfit(dataset: Dataset) -> str:
    """Why an object cannot be de-identified at all, as the end of a sentence; empty where it can."""
    sop_class = text(dataset, "SOPClassUID")
    missing = [key for key in _REQUIRED if not text(dataset, key)]
    if missing:
        return f"it has no {missing[0]}: is it a whole file?"
    if not sop_class.startswith(STANDARD_ROOT):
        return "it is of a private SOP class, whose content the standard does not describe"
    if sop_class == _RAW_DATA:
        return "it is raw data, whose content is private"
    for beginning, kind in _UNFIT.items():
        if sop_class.startswith(beginning):
            return f"it is {kind}"
    return "it holds an encapsulated document" if "EncapsulatedDocument" in dataset else ""


def burned_in(dataset: Dataset) -> str:
    """Why the pixels may show a name or a date, as the end of a sentence; empty where nothing hints at it.

    BurnedInAnnotation decides where it is there. Where it is not, kinds of images are refused that usually have
    writing in them: a CT slice has none, a screenshot of it does.
    """
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "Rows")):
        return ""
    stated = text(dataset, "BurnedInAnnotation").upper()
    if stated:
        return "" if stated == "NO" else "BurnedInAnnotation says so"
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality").upper()
    if sop_class in _SECONDARY_CAPTURE:
        return "it is a secondary capture and does not say that nothing is burned in"
    if sop_class.startswith(_WRITTEN_ON_CLASSES) or modality in _WRITTEN_ON_MODALITIES:
        return "it is a picture of a kind that usually has writing in it, and does not say that nothing is burned in"
    types = {value.upper() for value in texts(dataset, "ImageType")}
    if _WRITTEN_ON_TYPES & types or text(dataset, "ConversionType"):
        return "it is a screenshot by its image or conversion type"
    if modality in _CROSS_SECTIONAL and (integer(dataset, "SamplesPerPixel") or 1) > 1:
        return f"it is a colour picture of modality {modality}, probably a screenshot"
    return ""
