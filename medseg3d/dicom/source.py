"""What an object made from a series takes over from it: patient, study and frame of reference, as they stand there."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from medseg3d.dicom.attributes import PARSE_ERRORS
from medseg3d.dicom.files import Opener
from medseg3d.dicom.model import SeriesGrid
from medseg3d.errors import DicomError

__all__ = ["copy_source_modules", "source_header", "values_as_they_are"]

# Attributes of PS3.3 C.7.1 to C.7.4 and C.12.1 that belong to patient, study and frame of reference, whatever object
# carries them. Those of type 2 must be there, if only empty.
MUST_BE_THERE = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "PositionReferenceIndicator",
)  # fmt: skip
TAKEN_OVER = (
    *MUST_BE_THERE,
    # Patient
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "PatientBirthTime",
    "QualityControlSubject", "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "StrainDescription", "ResponsiblePerson", "ResponsiblePersonRole",
    "ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Clinical Trial Subject and Study
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    # General Study and Patient Study
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "ConsultingPhysicianName", "ProcedureCodeSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize", "PatientWeight", "PatientBodyMassIndex",
    "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus", "AdditionalPatientHistory", "PregnancyStatus",
    "LastMenstrualDate", "PatientSexNeutered", "ReasonForVisit", "AdmissionID",
    # SOP Common: what dates mean
    "TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified",
)  # fmt: skip


@contextmanager
def values_as_they_are() -> Iterator[None]:
    """Neither refuse nor complain about values that break the rules of their type: they are the source's."""
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


def source_header(grid: SeriesGrid) -> Dataset:
    """The attributes of the series' first slice, without its pixels.

    Raises:
        DicomError: the grid has no source slices, or the file cannot be read any more.
    """
    if not grid.slices:
        raise DicomError("The grid was resampled and has no slices of a series: write the mask as NIfTI instead.")
    ref = grid.slices[0].file
    try:
        with values_as_they_are(), Opener() as opener, opener.open(ref) as stream:
            return dcmread(stream, stop_before_pixels=True, force=True)
    except (*PARSE_ERRORS, zlib.error, zipfile.BadZipFile) as error:
        raise DicomError(f"{ref}: not readable any more ({error or type(error).__name__}).") from error


def copy_source_modules(source: Dataset, target: Dataset, grid: SeriesGrid) -> None:
    """Give ``target`` the patient, study and frame of reference of ``source``, faults included.

    A PACS files an object by these values: corrected ones would file it elsewhere. What is missing and must not be
    absent is added without a value. The text is written as UTF-8.

    Raises:
        DicomError: no Study Instance UID or no Frame of Reference UID: the object would belong nowhere.
    """
    for name, uid in (("Study Instance UID", grid.study_uid), ("Frame of Reference UID", grid.frame_of_reference_uid)):
        if not uid:
            raise DicomError(
                f"The series has no {name}: an object made from it could not say where it belongs. "
                "Write the mask as NIfTI, or export the series again."
            )
    with values_as_they_are():
        target.SpecificCharacterSet = "ISO_IR 192"
        for keyword in TAKEN_OVER:
            if keyword in source:
                target[keyword] = deepcopy(source[keyword])
            elif keyword in MUST_BE_THERE:
                target.add_new(tag_for_keyword(keyword), dictionary_VR(keyword), None)
        target.StudyInstanceUID = grid.study_uid
        target.FrameOfReferenceUID = grid.frame_of_reference_uid
