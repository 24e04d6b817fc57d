"""What happens to each attribute: DICOM PS3.15, Basic Application Level Confidentiality Profile (Annex E).

The tables of the standard come from the library ``dicomanonymizer`` (Kitware, BSD-3), edition 2026c. Its functions are
not used: they reach one level of sequences, keep UIDs in a dictionary of the process, and let pass what no table
lists. Here the tables hold at every depth, and what no table lists is judged by its VR: unknown and private attributes,
dates, names, URLs and long free text go.

Where a table leaves a choice ("X unless Z or D is required"), the last is taken: a dummy value is valid whatever type
the attribute has in the object at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.tag import Tag

__all__ = ["DATE_VRS", "TEXT_VRS", "Action", "Options", "action_of", "in_dictionary"]

# keep: as it is, or without an identifier that is repeated in it; clean: likewise, and without dates and long numbers.
# Of a sequence: its items are gone through. uid, patient, text: a pseudonym. shift: a date that moves with all others.
Action = Literal["keep", "clean", "remove", "empty", "dummy", "uid", "patient", "text", "shift"]

DATE_VRS = frozenset({"DA", "DT", "TM"})
TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
FREE_TEXT_VRS = frozenset({"LT", "PN", "ST", "UC", "UN", "UR", "UT"})

# The library's lists, from the mildest to the strictest reading of "X unless …".
_TABLES: tuple[tuple[str, Action], ...] = (
    ("X_TAGS", "remove"),
    ("Z_TAGS", "empty"),
    ("X_Z_TAGS", "empty"),
    ("D_TAGS", "dummy"),
    ("Z_D_TAGS", "dummy"),
    ("X_D_TAGS", "dummy"),
    ("X_Z_D_TAGS", "dummy"),
    ("U_TAGS", "uid"),
    ("X_Z_U_STAR_TAGS", "keep"),  # sequences of references: their UIDs are replaced inside
)

_PATIENT = ("PatientID", "PatientName")

# Text in attributes that the edition lists nowhere, and that people write into.
_UNLISTED_REMOVED = (
    "AssignedLocation", "BeamName", "CompletionFlagDescription", "ConfidentialityCode", "DeviceID", "DoseComment",
    "ErrorComment", "FillerOrderNumberImagingServiceRequestRetired", "FillerOrderNumberProcedure",
    "FrameOfReferenceTransformationComment", "GridID", "HangingProtocolCreator", "ImageID", "InstructionText",
    "NTPSourceAddress", "OwnerID", "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar",
    "PatientSetupLabel", "PlacerOrderNumberImagingServiceRequestRetired", "PlacerOrderNumberProcedure", "PrinterName",
    "RequestedProcedureDescriptionTrial", "RouteOfAdmissions", "RTImageName", "StorageMediaFileSetID",
    "SubstanceAdministrationDeviceID", "SubstanceAdministrationNotes", "SystemStatusComment", "TestResultComment",
    # Copies of the originals, encrypted or signed.
    "EncryptedAttributesSequence",
)  # fmt: skip
_UNLISTED_EMPTIED = ("ContentDescription",)  # type 2 in SEG
_UNLISTED_DUMMY = ("RTImageLabel",)  # type 1
_UNLISTED_TEXT = ("TrackingID",)  # type 1C, and meant to be the same in every file of a lesion

# Long text that is the standard's or a terminology's, not a person's.
_PUBLIC_TEXT = (
    "CodingSchemeName", "CodingSchemeResponsibleOrganization", "CodingSchemeURL", "LongCodeValue", "URNCodeValue",
)  # fmt: skip
# UIDs that name a kind of thing, never a thing.
_CLASS_UIDS = (
    "AvailableTransferSyntaxUID", "CodingSchemeUID", "ContextUID", "EncryptedContentTransferSyntaxUID",
    "MACCalculationTransferSyntaxUID", "MappingResourceUID", "OriginalSpecializedSOPClassUID",
    "PertinentSOPClassesInSeries", "PertinentSOPClassesInStudy", "ReferencedSOPClassUID", "RelatedGeneralSOPClassUID",
    "SOPClassUID", "SOPClassesInStudy", "SOPClassesSupported",
)  # fmt: skip
_PUBLIC_BYTES = ("ICCProfile", "PixelData")

# Retain Patient Characteristics Option: what quantification needs.
_CHARACTERISTICS = (
    "PatientAge", "PatientSex", "PatientSexNeutered", "PatientSize", "PatientWeight", "PregnancyStatus",
    "SmokingStatus",
)  # fmt: skip
# Clean Descriptors Option.
_DESCRIPTIONS = (
    "AcquisitionDeviceProcessingDescription", "AcquisitionProtocolDescription", "ContentDescription",
    "ContrastBolusAgent", "DerivationDescription", "PerformedProcedureStepDescription", "ProtocolName", "ROIName",
    "ROIObservationLabel", "RTPlanLabel", "RequestedProcedureDescription", "SegmentDescription", "SeriesDescription",
    "StructureSetLabel", "StructureSetName", "StudyDescription",
)  # fmt: skip
# The version of a code list is a date, but nobody's.
_NEVER_SHIFTED = ("ContextGroupLocalVersion", "ContextGroupVersion")

PATIENT_GROUP = 0x0010
CURVES, OVERLAYS = 0x5000, 0x6000  # each in every second group up to xx1E


@dataclass(frozen=True)
class Options:
    """What is kept beyond the Basic Profile.

    Attributes:
        dates: ``"remove"``, or ``"shift"`` by whole days, the same number for all dates of a patient, so that
            intervals stay; times of day stay as they are. The birth date goes in either case.
        characteristics: keep sex, age, size, weight, pregnancy and smoking status.
        descriptions: keep series, study and ROI names and the like where no identifier, date or long number is in them.
        safe_private: keep the private attributes of ``medseg3d.dicom.safe_private``: b-values, scale factors.
    """

    dates: Literal["remove", "shift"] = "remove"
    characteristics: bool = False
    descriptions: bool = False
    safe_private: bool = False


@lru_cache(maxsize=8192)
def action_of(tag: int, vr: str, options: Options = Options()) -> Action:
    """What the profile does with an attribute of this tag and VR.

    >>> action_of(0x00100020, "LO"), action_of(0x00080018, "UI"), action_of(0x00091001, "LO")
    ('patient', 'uid', 'remove')
    """
    group = tag >> 16
    if Tag(tag).is_private or not in_dictionary(tag) or group & 0xFF00 in (CURVES, OVERLAYS):
        return "remove"
    if options.characteristics and tag in _tags(_CHARACTERISTICS):
        return "keep"
    if options.descriptions and tag in _tags(_DESCRIPTIONS):
        return "clean"
    if options.dates == "shift" and vr in DATE_VRS and group != PATIENT_GROUP and tag not in _tags(_NEVER_SHIFTED):
        return "shift"
    listed = _rules().get(tag)
    # D of the table for a UID: a dummy that still fits its references.
    return "uid" if vr == "UI" and listed == "dummy" else listed or _unlisted(tag, vr)


def in_dictionary(tag: int) -> bool:
    """Whether the standard knows this attribute, as one of its own or of a repeating group."""
    return dictionary_has_tag(tag) or (tag >> 16) & 0xFF00 in (CURVES, OVERLAYS)


def _unlisted(tag: int, vr: str) -> Action:
    if vr == "UI":
        return "keep" if tag in _tags(_CLASS_UIDS) else "uid"
    if vr in DATE_VRS or vr == "AS":
        return "remove"
    if vr in FREE_TEXT_VRS:
        return "keep" if tag in _tags(_PUBLIC_TEXT) else "remove"
    if vr == "OB":
        return "keep" if tag in _tags(_PUBLIC_BYTES) else "remove"
    return "keep"


@cache
def _rules() -> dict[int, Action]:
    """Tag → action, of the attributes that are listed one by one."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    tables = dicom_anonymization_database_selector("dicomfields_2026c")
    rules: dict[int, Action] = {}
    for name, action in _TABLES:
        # Entries of four numbers are repeating groups with a mask.
        rules |= {Tag(*entry): action for entry in tables[name] if len(entry) == 2}
    own: tuple[tuple[tuple[str, ...], Action], ...] = (
        (_UNLISTED_REMOVED, "remove"),
        (_UNLISTED_EMPTIED, "empty"),
        (_UNLISTED_DUMMY, "dummy"),
        (_UNLISTED_TEXT, "text"),
        (_PATIENT, "patient"),
    )
    for keywords, action in own:
        rules |= dict.fromkeys(_tags(keywords), action)
    return rules


@cache
def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    tags = [tag_for_keyword(keyword) for keyword in keywords]
    return frozenset(int(tag) for tag in tags if tag is not None)
