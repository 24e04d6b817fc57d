"""De-identification: nothing of an invented patient is left in any byte, and the study still fits together."""

from __future__ import annotations

import errno
import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, dictionary_keyword, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medseg3d.cli import main
from medseg3d.dicom import ConvertOptions, convert, read_series
from medseg3d.dicom.anonymous_file import Settings, anonymise_file
from medseg3d.dicom.clean import clean_dataset
from medseg3d.dicom.conversion import LabelRules
from medseg3d.dicom.deidentifying import Deidentified, deidentify
from medseg3d.dicom.identifiable import burned_in, unfit
from medseg3d.dicom.model import FileRef
from medseg3d.dicom.naming import Naming
from medseg3d.dicom.orient import to_series_grid
from medseg3d.dicom.profile import Options, action_of
from medseg3d.dicom.pseudonyms import Pseudonyms, read_key
from medseg3d.dicom.rtstruct_write import write_rtstruct
from medseg3d.errors import OutputError, UsageError
from medseg3d.phantom import make_case
from medseg3d.phantom.dicom import Patient, write_ct_series

KEY = b"a key for tests, not a secret"
NAMES = Pseudonyms(KEY)
ROOT = "1.3.12.2.7741."  # of all UIDs of the invented study

# The invented patient, as text that must be gone: in any case, and dates in any spelling.
SECRETS = (
    "Mustermann", "Erika", "MRN-7741520", "ACC98127733", "Klinikum", "Oberwald", "Grabowski", "Ottokar", "Zwiebel",
    "SN-5529-XK", "Bergstrasse", "hypothyroidism", "PP-3391", "Hernandez",
)  # fmt: skip
DATES = ("19610428", "20230517", "20230518")


# --- The invented study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT slices, an RTSTRUCT and a SEG of one invented patient, with their identity in every corner of the files."""
    folder = tmp_path_factory.mktemp("incoming") / "Mustermann_Erika_19610428"
    case = make_case("ct", 0, 0, size=(32, 32, 16))
    write_ct_series(case.image, case.affine, folder / "CT", patient=Patient("x"))
    files = sorted((folder / "CT").iterdir())
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        _identify(dataset, number)
        dataset.save_as(folder / "CT" / f"Mustermann_{number}", enforce_file_format=True)
        path.unlink()
    slices = [pydicom.dcmread(path) for path in sorted((folder / "CT").iterdir())]
    mask = to_series_grid(case.label, case.affine, read_series(folder / "CT").grid)
    _write_rtstruct(folder / "RS_Mustermann.dcm", folder / "CT", mask)
    _write_seg(folder / "SEG.dcm", slices)
    (folder / "DICOMDIR").write_bytes(b"Mustermann")
    (folder / "letter.txt").write_text("Dear Mrs Mustermann")
    return folder


def _identify(ds: Dataset, number: int) -> None:
    """Put the patient into a slice."""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Mustermann^Erika^^Dr.", "MRN-7741520", "19610428"
    ds.OtherPatientIDs, ds.PatientAddress = ["PP-3391", "MRN-7741520"], "Bergstrasse 4"
    ds.AccessionNumber, ds.StudyID = "ACC98127733", "PP-3391"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = "20230517"
    ds.StudyTime, ds.AcquisitionDateTime = "081502", "20230517081502.250000+0100"
    ds.ReferringPhysicianName, ds.OperatorsName = "Grabowski^Ottokar", ["Zwiebel^Anton", "Hernandez^Ana"]
    ds.InstitutionName, ds.StationName, ds.DeviceSerialNumber = "Klinikum Oberwald", "CT2 Oberwald", "SN-5529-XK"
    ds.StudyDescription, ds.SeriesDescription = "Abdomen Mustermann 17.05.2023", "portal venous, E. Mustermann"
    ds.ProtocolName, ds.PatientComments = "Mustermann Abdomen", "hypothyroidism, seen 2023-05-17"
    # Attributes that no table of the standard lists.
    ds.ConvolutionKernel = ["B30f", "mustermann"]
    ds.SegmentedPropertyCategoryCodeSequence = Sequence([_code("1", "asked for by Grabowski")])
    # Nested: what goes as a whole, and what is gone through.
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepDescription = "PP-3391", "for Erika"
    ds.RequestAttributesSequence = Sequence([request])
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = ds.SOPClassUID, ROOT + "1.99"
    source.PurposeOfReferenceCodeSequence = Sequence([_code("2", "Mustermann, earlier")])
    source.add_new(0x00102180, "SH", "works at Klinikum")
    ds.SourceImageSequence = Sequence([source])
    original = Dataset()
    original.AttributeModificationDateTime, original.ModifyingSystem = "20230518", "Klinikum PACS"
    ds.OriginalAttributesSequence = Sequence([original])
    # Private, unknown, retired, of unknown VR; graphics, an icon, padding.
    ds.private_block(0x0029, "KLINIKUM OBERWALD", create=True).add_new(0x10, "LO", "Mustermann")
    ds.add_new(0x00089999, "LO", "Mustermann")
    ds.add_new(0x00101001, "UN", b"Mustermann^E")
    ds.add_new(0x50003000, "OW", b"Mustermann")
    ds.add_new(0x60000010, "US", 32)
    ds.add_new(0x60003000, "OW", b"Mustermann" * 2)
    ds.add_new(0x60004000, "LO", "Mustermann")
    icon = Dataset()
    icon.PixelData = b"Mustermann"
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = Sequence([icon])
    ds.add_new(0xFFFCFFFC, "OB", b"Mustermann")
    ds["PixelData"].value += b"MUSTERMANN"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = ROOT + "1", ROOT + "2", ROOT + "3"
    ds.SOPInstanceUID = f"{ROOT}4.{number}"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.SourceApplicationEntityTitle = "OBERWALD"
    ds.preamble = b"Mustermann".ljust(128)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "99TEST", meaning
    return code


def _write_rtstruct(path: Path, folder: Path, mask: np.ndarray) -> None:
    """Contours by the project's own writer, which copies the patient from the slices; and more of the patient."""
    volume = read_series(folder)
    labels = {"liver": 1, "of Mustermann": 2, "aorta": 5}
    write_rtstruct(np.where(np.isin(mask, [1, 2, 5]), mask, 0), volume.grid, path, labels=labels)
    ds = pydicom.dcmread(path)
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "Mustermann", "20230518", "101010"
    ds.RTROIObservationsSequence[0].ROIInterpreter = "Zwiebel^Anton"
    ds.SOPInstanceUID, ds.SeriesInstanceUID = ROOT + "5", ROOT + "6"
    ds.file_meta.MediaStorageSOPInstanceUID = ROOT + "5"
    ds.save_as(path)


def _write_seg(path: Path, slices: list[Dataset]) -> None:
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence("test", codes.DCM.ArtificialIntelligence, "1")
    liver = SegmentDescription(
        1, "Liver", codes.SCT.Organ, codes.SCT.Liver, "AUTOMATIC", algorithm, tracking_uid=ROOT + "9",
        tracking_id="Mustermann lesion 1",
    )  # fmt: skip
    mask = np.zeros((len(slices), slices[0].Rows, slices[0].Columns), np.uint8)
    mask[:, 8:20, 8:20] = 1
    Segmentation(
        slices, mask, "BINARY", [liver], ROOT + "7", 1, ROOT + "8", 1, "Acme", "model", "1", "SN-5529-XK",
        series_description="by Zwiebel", content_description="for Grabowski", content_creator_name="Zwiebel^Anton",
    ).save_as(path)  # fmt: skip


# --- What is left -----------------------------------------------------------------------------------------------------


def run(source: Path, out: Path, **options: object) -> Deidentified:
    return deidentify(source, out, key=KEY, workers=1, **options)  # type: ignore[arg-type]


def spellings(day: str) -> Iterator[str]:
    year, month, number = day[:4], day[4:6], day[6:]
    for separator in ("", "-", ".", "/"):
        for parts in ((year, month, number), (number, month, year), (month, number, year)):
            yield separator.join(parts)


def leaks(folder: Path, secrets: tuple[str, ...] = SECRETS, dates: tuple[str, ...] = DATES) -> list[str]:
    """Every secret that stands in a byte of a file, or in its name."""
    needles = [*secrets, *(spelled for day in dates for spelled in spellings(day)), ROOT]
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = (content + str(path.relative_to(folder)).encode()).lower()
        found += [f"{needle} in {path.name}" for needle in needles if needle.lower().encode() in content]
    return found


def read_all(folder: Path) -> dict[str, list[pydicom.FileDataset]]:
    """Data sets by modality; slices in order."""
    found: dict[str, list[pydicom.FileDataset]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        found.setdefault(str(pydicom.dcmread(path).Modality), []).append(pydicom.dcmread(path))
    found.get("CT", []).sort(key=lambda ds: int(ds.InstanceNumber))
    return found


def test_the_search_finds_what_the_source_is_full_of(study: Path):
    found = leaks(study.parent)
    assert all(any(found_one.startswith(secret) for found_one in found) for secret in (*SECRETS, *DATES, ROOT))


@pytest.mark.parametrize(
    "options",
    [Options(), Options("shift"), Options("shift", characteristics=True, descriptions=True, safe_private=True)],
    ids=["basic", "shifted", "most kept"],
)
def test_no_byte_of_any_file_has_anything_of_the_patient(study: Path, tmp_path: Path, options: Options):
    result = run(study, tmp_path / "out", options=options)
    assert result.refused == ()
    assert len(result.written) == len(list(tmp_path.rglob("*.dcm"))) == 18
    assert result.skipped == 1  # the letter; a DICOMDIR is not even looked at
    assert leaks(tmp_path) == []


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=lambda uid: uid.name,
)
def test_every_transfer_syntax_is_cleaned_and_kept(study: Path, tmp_path: Path, syntax: pydicom.uid.UID):
    source = tmp_path / "in" / "slice.dcm"
    source.parent.mkdir()
    ds = pydicom.dcmread(study / "CT" / "Mustermann_3")
    before = ds.pixel_array
    if syntax == RLELossless:
        ds["PixelData"].value = ds.PixelData[: before.nbytes]
        ds.compress(RLELossless)
    if syntax == ExplicitVRBigEndian:
        ds["PixelData"].value = before.astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    pydicom.dcmwrite(source, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    (written,) = run(source, tmp_path / "out").written
    after = pydicom.dcmread(written)
    assert after.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(after.pixel_array, before)
    if syntax == DeflatedExplicitVRLittleEndian:  # look inside
        pydicom.dcmwrite(written, after, implicit_vr=False, little_endian=True)
        after.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        after.save_as(written)
    assert leaks(tmp_path / "out") == []


def test_references_between_series_contours_and_segmentation_still_fit(study: Path, tmp_path: Path):
    run(study, tmp_path / "out")
    found = read_all(tmp_path / "out")
    slices, (contours,), (seg,) = found["CT"], found["RTSTRUCT"], found["SEG"]
    series, study_uid = NAMES.uid(ROOT + "2"), NAMES.uid(ROOT + "1")
    instances = [NAMES.uid(f"{ROOT}4.{number}") for number in range(16)]
    assert [ds.SOPInstanceUID for ds in slices] == instances
    assert [ds.file_meta.MediaStorageSOPInstanceUID for ds in slices] == instances
    assert {ds.SeriesInstanceUID for ds in slices} == {series}
    assert {ds.StudyInstanceUID for ds in (*slices, contours, seg)} == {study_uid}
    assert {ds.PatientID for ds in (*slices, contours, seg)} == {NAMES.patient("id mrn-7741520")}
    (frame,) = contours.ReferencedFrameOfReferenceSequence
    (referenced,) = frame.RTReferencedStudySequence
    (in_contours,) = referenced.RTReferencedSeriesSequence
    assert (frame.FrameOfReferenceUID, referenced.ReferencedSOPInstanceUID) == (NAMES.uid(ROOT + "3"), study_uid)
    assert in_contours.SeriesInstanceUID == series
    assert {image.ReferencedSOPInstanceUID for image in in_contours.ContourImageSequence} == set(instances)
    (in_seg,) = seg.ReferencedSeriesSequence
    assert in_seg.SeriesInstanceUID == series
    assert {image.ReferencedSOPInstanceUID for image in in_seg.ReferencedInstanceSequence} == set(instances)
    assert slices[0].SourceImageSequence[0].ReferencedSOPInstanceUID == NAMES.uid(ROOT + "1.99")
    # What says what kind of object it is stays.
    assert slices[0].SourceImageSequence[0].ReferencedSOPClassUID == slices[0].SOPClassUID


def test_pixels_geometry_and_technique_stay(study: Path, tmp_path: Path):
    run(study, tmp_path / "out")
    before = [pydicom.dcmread(path) for path in sorted((study / "CT").iterdir(), key=lambda p: int(p.name[11:]))]
    kept = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept", "KVP", "ImageType",
            "Manufacturer", "SoftwareVersions", "BodyPartExamined", "WindowWidth")  # fmt: skip
    for old, new in zip(before, read_all(tmp_path / "out")["CT"], strict=True):
        np.testing.assert_array_equal(new.pixel_array, old.pixel_array)
        assert len(new.PixelData) == new.Rows * new.Columns * 2  # and the name behind the last pixel is gone
        assert [new[keyword].value for keyword in kept] == [old[keyword].value for keyword in kept]
        assert list(new.ConvolutionKernel) == ["B30f", "ANONYMIZED"]
        assert new.preamble == bytes(128)
        assert "SourceApplicationEntityTitle" not in new.file_meta


def test_what_was_done_is_stated_in_the_file(study: Path, tmp_path: Path):
    run(study, tmp_path / "a")
    run(study, tmp_path / "b", options=Options("shift", characteristics=True, descriptions=True, safe_private=True))
    (basic, *_), (kept, *_) = read_all(tmp_path / "a")["CT"], read_all(tmp_path / "b")["CT"]
    assert (basic.PatientIdentityRemoved, basic.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert [code.CodeValue for code in basic.DeidentificationMethodCodeSequence] == ["113100"]
    assert "PS3.15 Basic Profile" in basic.DeidentificationMethod
    codes = [code.CodeValue for code in kept.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113108", "113111"]
    assert kept.LongitudinalTemporalInformationModified == "MODIFIED"
    assert (basic.PatientSex, "PatientAge" in basic, kept.PatientSex, kept.PatientAge) == ("", False, "O", "050Y")


def test_descriptions_are_kept_only_where_nothing_identifies(study: Path, tmp_path: Path):
    run(study, tmp_path / "a")
    run(study, tmp_path / "b", options=Options(descriptions=True))
    names = [
        [roi.ROIName for roi in read_all(tmp_path / folder)["RTSTRUCT"][0].StructureSetROISequence]
        for folder in ("a", "b")
    ]
    assert names == [["", "", ""], ["liver", "ANONYMIZED", "aorta"]]


def test_it_converts_to_the_same_volume_and_labels(study: Path, tmp_path: Path):
    run(study, tmp_path / "out", options=Options(descriptions=True))
    rules = LabelRules(Naming({"liver": 1, "spleen": 2, "aorta": 5}, {"of Mustermann": "spleen", "ANON*": "spleen"}))
    contours = {study: ROOT + "5", tmp_path / "out": NAMES.uid(ROOT + "5")}  # the SEG has a liver too
    ((before,), (after,)) = (
        convert(source, tmp_path / uid, options=ConvertOptions(labels=rules, annotation=uid))
        for source, uid in contours.items()
    )
    assert after.image is not None
    for old, new in ((before.image, after.image), (before.label, after.label)):
        first, second = nibabel.load(old), nibabel.load(new)
        np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
        np.testing.assert_array_equal(first.affine, second.affine)
    assert {1, 2, 5} <= set(np.unique(np.asarray(nibabel.load(after.label).dataobj)))
    codes = [finding.code for finding in before.findings]
    # The sidecar of the original leaves its description out, which names the patient; that of the copy need not.
    assert codes == ["identifying_description", *(finding.code for finding in after.findings)]


# --- Dates ------------------------------------------------------------------------------------------------------------


def test_shifted_dates_keep_their_intervals_and_times(study: Path, tmp_path: Path):
    run(study, tmp_path / "out", options=Options("shift"))
    found = read_all(tmp_path / "out")
    (contours,), ct = found["RTSTRUCT"], found["CT"][0]
    days = NAMES.shift_days("id mrn-7741520")
    new = date.fromisoformat(ct.StudyDate)
    assert (date(2023, 5, 17) - new).days == days >= 366
    assert (date.fromisoformat(contours.StructureSetDate) - new).days == 1
    assert ct.AcquisitionDateTime == f"{new:%Y%m%d}081502.250000+0100"
    assert (ct.StudyTime, contours.StructureSetTime) == ("081502", "101010")
    assert ct.PatientBirthDate == ""


def test_without_shift_dates_are_empty_or_a_dummy_and_times_too(study: Path, tmp_path: Path):
    run(study, tmp_path / "out")
    ct = read_all(tmp_path / "out")["CT"][0]
    assert (ct.StudyDate, ct.StudyTime, ct.SeriesDate, ct.SeriesTime) == ("", "", "19000101", "000000")
    assert ct.AcquisitionDateTime == "19000101000000"


@pytest.mark.parametrize("value", ["2023", "17.05.2023", "20231345", "20230517-20230518", "unknown", "09990101"])
def test_what_is_no_date_is_not_shifted_but_goes(value: str):
    ds = Dataset()
    ds.PatientID = "1234"
    with pydicom.config.disable_value_validation():
        ds.add_new("StudyDate", "DA", value)
        ds.add_new("SeriesDate", "DA", value)
        clean_dataset(ds, pseudonyms=NAMES, options=Options("shift"))
        assert (ds.StudyDate or "", ds.SeriesDate) == ("", "19000101")


@given(
    st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    st.text(min_size=1, max_size=8),
)
def test_intervals_of_any_two_dates_stay(first: date, second: date, patient: str):
    ds = Dataset()
    ds.PatientID = f"id{patient.encode().hex()}"
    ds.StudyDate, ds.SeriesDate = f"{first:%Y%m%d}", f"{second:%Y%m%d}"
    clean_dataset(ds, pseudonyms=NAMES, options=Options("shift"))
    assert date.fromisoformat(ds.SeriesDate) - date.fromisoformat(ds.StudyDate) == second - first
    assert date.fromisoformat(ds.StudyDate) < first


# --- Every attribute of the standard ----------------------------------------------------------------------------------

TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}


def everything(vrs: set[str], value: str) -> Dataset:
    """One data set with every attribute that has one of these VRs."""
    ds = Dataset()
    for tag, (vr, *_) in DicomDictionary.items():
        if vr in vrs and tag >> 16 > 0x0006:
            with pydicom.config.disable_value_validation():
                ds.add_new(tag, vr, value)
    return ds


def encoded(ds: Dataset) -> bytes:
    stream = BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=True)
    return stream.getvalue()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("options", [Options(), Options("shift", True, True, True)], ids=["basic", "most kept"])
def test_a_name_is_found_in_any_text_attribute_at_any_depth(nested: bool, options: Options):
    inside = everything(TEXTS, "see Mustermann/old")
    ds = inside
    if nested:
        ds = Dataset()
        ds.DimensionIndexSequence = Sequence([Dataset(), Dataset()])
        ds.DimensionIndexSequence[1].PurposeOfReferenceCodeSequence = Sequence([inside])
    ds.PatientName, ds.PatientID = "Mustermann^Erika", "7741520"
    assert encoded(ds).count(b"Mustermann") > 900
    clean_dataset(ds, pseudonyms=NAMES, options=options)
    assert b"Mustermann" not in encoded(ds)


@pytest.mark.parametrize("day", ["20230517", "20230517101010"])
def test_no_date_attribute_of_the_standard_keeps_its_date(day: str):
    for options in (Options(), Options("shift")):
        ds = everything({"DA" if len(day) == 8 else "DT"}, day)
        clean_dataset(ds, pseudonyms=NAMES, options=options)
        assert day[:8].encode() not in encoded(ds)


def test_every_uid_is_new_but_those_that_name_a_kind_of_thing():
    ds = everything({"UI"}, ROOT + "1")
    clean_dataset(ds, pseudonyms=NAMES)
    uids = [element for element in ds if element.VR == "UI"]
    assert {element.value for element in uids} == {ROOT + "1", NAMES.uid(ROOT + "1")}
    kept = {element.keyword for element in uids if element.value == ROOT + "1"}
    assert all(re.search("Class|TransferSyntax|CodingScheme|^ContextUID$|MappingResource", word) for word in kept)
    standard = everything({"UI"}, "1.2.840.10008.1.2.1")
    clean_dataset(standard, pseudonyms=NAMES)
    assert {element.value for element in standard if element.VR == "UI"} == {"1.2.840.10008.1.2.1"}


def test_the_profile_says_what_the_standard_says():
    """Samples of table E.1-1 of PS3.15, by hand."""
    expected = {
        "PatientID": "patient", "PatientBirthDate": "empty", "PatientSex": "empty", "AccessionNumber": "empty",
        "StudyDescription": "remove", "InstitutionAddress": "remove", "DeviceSerialNumber": "dummy",
        "SOPInstanceUID": "uid", "FrameOfReferenceUID": "uid", "StructureSetLabel": "dummy", "ROIName": "empty",
        "PatientAge": "remove", "IconImageSequence": "remove", "ReferencedImageSequence": "keep",
        "ContentSequence": "dummy", "TrackingID": "text", "Modality": "keep", "EncryptedAttributesSequence": "remove",
    }  # fmt: skip
    by_keyword = {entry[4]: (tag, entry[0]) for tag, entry in DicomDictionary.items()}
    assert {keyword: action_of(*by_keyword[keyword]) for keyword in expected} == expected


def test_a_sequence_that_names_people_gets_dummies_throughout():
    ds = Dataset()
    ds.PersonIdentificationCodeSequence = Sequence([_code("4711", "Nurse Ratched")])
    clean_dataset(ds, pseudonyms=NAMES)
    (item,) = ds.PersonIdentificationCodeSequence
    assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ("ANONYMIZED",) * 3


def test_empty_values_stay_empty_and_are_not_counted():
    ds = Dataset()
    ds.StudyDescription = ds.StructureSetLabel = ds.AccessionNumber = ""
    changes = clean_dataset(ds, pseudonyms=NAMES)
    assert ds.StructureSetLabel == ""
    assert {dictionary_keyword(tag) for tag, _ in changes} == {"StudyDescription"}


def test_the_age_of_the_oldest_is_levelled():
    ages = {"089Y": "089Y", "090Y": "090Y", "097Y": "090Y", "011M": "011M"}
    for before, after in ages.items():
        ds = Dataset()
        ds.PatientAge = before
        clean_dataset(ds, pseudonyms=NAMES, options=Options(characteristics=True))
        assert ds.PatientAge == after


def element(keyword: str, vr: str, value: bytes) -> bytes:
    """An element as a file has it, in explicit VR."""
    tag = tag_for_keyword(keyword)
    long = vr in ("OB", "OW", "UN")
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "after"),
    [
        ("KVP", "DS", b"Anna", None),
        ("SliceThickness", "DS", b"3.5 ", 3.5),
        ("PixelSpacing", "DS", b" 0.9765625\\9.765625E-1\0", [0.9765625, 0.9765625]),
        ("PixelSpacing", "DS", b"0.9\\Anna", None),
        ("ImagesInAcquisition", "IS", b"ACC5551 ", None),
        ("ImagesInAcquisition", "IS", b"7741520 ", None),  # the patient's id
        ("ImagesInAcquisition", "IS", b"7741521 ", 7741521),
        ("ImagesInAcquisition", "IS", b"19610428", None),  # the birth date
        ("KVP", "OB", b"Anna", "gone"),
        ("KVP", "US", b"Anna", "gone"),
        ("Rows", "US", b"abc", "gone"),
        ("Rows", "UL", b"\0\2\0\0", 512),
        ("Rows", "US", b"Mustermann", "gone"),
        ("CodingSchemeUID", "UI", b"Anna", None),
        ("CodingSchemeUID", "UI", b"1.2.840.10008.2.16.4\0\0", "1.2.840.10008.2.16.4"),
        ("FrameOfReferenceUID", "UI", b"1.2.840.10008.Anna", NAMES.uid("1.2.840.10008.Anna")),
        ("PatientAge", "AS", b"Anna", ""),
        ("Modality", "CS", b"MUSTERMANN", "ANONYMIZED"),
        ("Modality", "CS", b"CT", "CT"),
        ("ScanOptions", "CS", b"seen by Dr Smith", "ANONYMIZED"),
        ("ScanOptions", "CS", b"HELICAL MODE", "HELICAL MODE"),
        ("ImageType", "CS", b"ORIGINAL\\PRIMARY\\ERIKA\\AXIAL", ["ORIGINAL", "PRIMARY", "ANONYMIZED", "AXIAL"]),
        ("ImageType", "CS", b"Erika\\PRIMARY\\M_FFE\\20240131", ["ANONYMIZED", "PRIMARY", "M_FFE", "ANONYMIZED"]),
    ],
)
def test_a_value_that_its_vr_does_not_allow_goes(keyword: str, vr: str, value: bytes, after: object):
    patient = {"PatientName": ("PN", b"Mustermann^Erika"), "PatientID": ("LO", b"7741520 ")}
    patient |= {"PatientBirthDate": ("DA", b"19610428")}
    parts = [element(keyword, vr, value), *(element(key, *rest) for key, rest in patient.items())]
    ds = pydicom.dcmread(BytesIO(b"".join(sorted(parts, key=lambda part: struct.unpack("<HH", part[:4])))), force=True)
    with pydicom.config.disable_value_validation():
        clean_dataset(ds, pseudonyms=NAMES, options=Options(characteristics=True))
        assert ds.get(keyword, "gone") == after
    assert b"Mustermann" not in encoded(ds)


def test_numbers_that_are_no_numbers_go_at_any_depth():
    ds = pydicom.dcmread(BytesIO(element("KVP", "DS", b"Anna")), force=True)
    outer = Dataset()
    outer.CTExposureSequence = Sequence([ds])
    outer.CTExposureSequence[0].PixelData = b"Anna"
    with pydicom.config.disable_value_validation():
        changes = clean_dataset(outer, pseudonyms=NAMES)
        assert b"Anna" not in encoded(outer)
    assert {dictionary_keyword(tag): done for tag, done in changes} == {"KVP": "emptied", "PixelData": "removed"}


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("Meier-Schulz^Anna", "CT Meier Abdomen", False),
        ("Meier-Schulz^Anna", "Meierschulz", False),
        ("Wu^Li", "wu thorax", False),
        ("Wu^Li", "Wuhan thorax", True),
        ("Müller^Änne", "MUELLER", False),
        ("Mueller^Anne", "müller", False),
        ("Łukasz^Jan", "thorax LUKASZ", False),
        ("José^Ana", "Jose thorax", False),
        ("O'Brien^Pat", "thorax o´brien", False),
        ("Meier^Anna", "Meier_2 thorax", False),
        ("Meier^Anna", "Meier2 thorax", False),
        ("山田^太郎", "CT 山田太郎", False),
        ("de la Cruz^Ana", "TC de la rodilla", True),
        ("Le^Ana", "Le thorax", False),
        ("Phantom^CT", "CT thorax", True),
    ],
)
def test_parts_of_names_are_found_in_descriptions(name: str, text: str, kept: bool):
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ReferringPhysicianName, ds.SeriesDescription = name, text
    clean_dataset(ds, pseudonyms=NAMES, options=Options(descriptions=True))
    assert ds.SeriesDescription == (text if kept else "ANONYMIZED")


def test_names_of_two_letters_leave_units_and_vendors():
    ds = Dataset()
    ds.OperatorsName, ds.RescaleType, ds.Manufacturer, ds.Modality = ["Hu^Ge", "Mr^Ct"], "HU", "GE MEDICAL", "CT"
    ds.ConvolutionKernel = "HU 30"
    clean_dataset(ds, pseudonyms=NAMES)
    assert (ds.RescaleType, ds.Manufacturer, ds.Modality, ds.ConvolutionKernel) == (
        "HU",
        "GE MEDICAL",
        "CT",
        "ANONYMIZED",
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_safe_private_numbers_stay_on_request_and_nothing_beside_them(syntax: pydicom.uid.UID):
    ds = Dataset()
    siemens = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    siemens.add_new(0x0C, "IS", "1000")
    siemens.add_new(0x0E, "FD", [0.6, 0.8, 0.0])
    siemens.add_new(0x08, "CS", "IMAGE NUM 4")
    ge = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
    ge.add_new(0x39, "LO", "MUSTERMANN")
    ds.private_block(0x0029, "KLINIKUM", create=True).add_new(0x0C, "IS", "1000")
    stream = BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(stream, ds, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    for kept in (False, True):
        ds = pydicom.dcmread(BytesIO(stream.getvalue()), force=True)
        clean_dataset(ds, pseudonyms=NAMES, options=Options(safe_private=kept))
        private = [f"{element.tag:08x}" for element in ds if element.tag.is_private]
        assert private == (["00190010", "0019100c", "0019100e"] if kept else [])
    assert ds[0x0019100C].value == 1000


# --- Pseudonyms -------------------------------------------------------------------------------------------------------


def test_pseudonyms_depend_on_the_key_and_on_nothing_else():
    again, other = Pseudonyms(bytes(KEY)), Pseudonyms(KEY + b"!")
    assert NAMES.uid("1.2.3") == again.uid("1.2.3") != other.uid("1.2.3")
    assert NAMES.patient("id 1") == again.patient("id 1") != other.patient("id 1")
    assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", NAMES.uid("1.2.3"))
    assert len({NAMES.uid(f"1.2.{n}") for n in range(2000)}) == 2000
    assert KEY.decode() not in repr(NAMES)
    with pytest.raises(UsageError, match="has 5 bytes; at least 16"):
        Pseudonyms(b"short")


def test_two_runs_with_a_key_are_equal_and_with_another_they_share_nothing(study: Path, tmp_path: Path):
    first, second = run(study, tmp_path / "a"), run(study / "CT", tmp_path / "b")
    other = deidentify(study / "CT", tmp_path / "c", key=KEY + b"!", workers=1)
    files = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in first.written}
    assert {p.relative_to(tmp_path / "b"): p.read_bytes() for p in second.written}.items() <= files.items()
    assert not {p.name for p in other.written} & {p.name for p in first.written}
    assert first.key_fingerprint == second.key_fingerprint != other.key_fingerprint


def test_patients_without_an_id_are_told_apart():
    ids = set()
    for name, study_uid in (("A^B", "1.1"), ("C^D", "1.2"), ("", "1.3"), ("", "1.4")):
        ds = Dataset()
        ds.PatientName, ds.PatientID, ds.StudyInstanceUID = name, "", study_uid
        clean_dataset(ds, pseudonyms=NAMES)
        assert ds.PatientName == ds.PatientID
        ids.add(ds.PatientID)
    assert len(ids) == 4


# --- Refusals ---------------------------------------------------------------------------------------------------------


def image(**attributes: object) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.Rows = "1.2.840.10008.5.1.4.1.1.2", "CT", 4
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3", "1.2", "1"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, ""),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation says so"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": "NO"}, ""),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}, "usually has writing in it"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4", "Modality": "XC"}, "usually has writing in it"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "a screenshot"),
        ({"ImageType": "CAPTURE"}, "a screenshot"),
        ({"SamplesPerPixel": 3}, "a colour picture of modality CT"),
    ],
)
def test_pixels_that_may_show_a_name(attributes: dict[str, object], reason: str):
    found = burned_in(image(**attributes))
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.104.1", "an encapsulated document"),
        ("1.2.840.10008.5.1.4.1.1.88.33", "a structured report"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "a presentation state"),
        ("1.2.840.10008.5.1.4.1.1.66", "raw data"),
        ("1.3.12.2.1107.5.9.1", "a private SOP class"),
        ("1.2.840.10008.5.1.4.1.1.66.4", ""),
        ("1.2.840.10008.5.1.4.1.1.481.3", ""),
    ],
)
def test_objects_that_cannot_be_made_anonymous(sop_class: str, reason: str):
    found = unfit(image(SOPClassUID=sop_class))
    assert reason in found
    assert bool(found) == bool(reason)


def test_refused_files_are_named_and_the_others_are_done(study: Path, tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    for number, stated in enumerate(("NO", "YES")):
        ds = pydicom.dcmread(study / "CT" / f"Mustermann_{number}")
        ds.BurnedInAnnotation = stated
        ds.save_as(source / f"{number}.dcm")
    whole = (source / "0.dcm").read_bytes()
    (source / "2.dcm").write_bytes(whole[:700])
    (source / "3.dcm").write_bytes(whole[: whole.rindex(b"MUSTERMANN") - 1500])
    result = run(source, tmp_path / "out")
    assert len(result.written) == 1
    assert [file.path.name for file, _ in result.refused] == ["1.dcm", "2.dcm", "3.dcm"]
    burned, *cut = [reason for _, reason in result.refused]
    assert "BurnedInAnnotation says so. Look at it; --allow-burned-in takes it as it is" in burned
    assert all("is it a whole file?" in reason or "the file is damaged" in reason for reason in cut)
    assert len(run(source, tmp_path / "told", allow_burned_in=True).written) == 2


def test_an_identifier_in_the_bytes_of_pixels_is_refused(study: Path, tmp_path: Path):
    ds = pydicom.dcmread(study / "CT" / "Mustermann_0")
    content = ds.PixelData
    ds["PixelData"].value = b" MRN-7741520 ".ljust(64, b"\0") + content[64:]
    ds.save_as(tmp_path / "slice.dcm")
    ((_, reason),) = run(tmp_path / "slice.dcm", tmp_path / "out").refused
    assert reason == "an identifier is still in its bytes after cleaning, probably in the pixel data"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "slice.dcm"]


def test_an_overlay_in_the_bits_of_the_pixels_is_cleared(study: Path, tmp_path: Path):
    ds = pydicom.dcmread(study / "CT" / "Mustermann_0")
    plain = np.frombuffer(ds.PixelData[: 32 * 32 * 2], "<u2") & 0x0FFF
    ds["PixelData"].value = (plain | 0x8000).astype("<u2").tobytes()
    ds.BitsStored, ds.HighBit = 12, 11
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 15)
    ds.save_as(tmp_path / "slice.dcm")
    (written,) = run(tmp_path / "slice.dcm", tmp_path / "out").written
    after = pydicom.dcmread(written)
    np.testing.assert_array_equal(np.frombuffer(after.PixelData, "<u2"), plain)
    assert not [element for element in after if element.tag.group & 0xFF00 == 0x6000]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_clean(study: Path, tmp_path: Path, data: st.DataObject):
    content = bytearray((study / "CT" / "Mustermann_1").read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    header = min(len(content), 2500)
    for _ in range(data.draw(st.integers(0, 4)) if header else 0):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    source, staged = tmp_path / "damaged", tmp_path / "staged.dcm"
    staged.unlink(missing_ok=True)
    source.write_bytes(content)
    outcome = anonymise_file(FileRef(source), staged, Settings(NAMES, Options(), allow_burned_in=False))
    assert staged.exists() == (outcome.staged is not None)
    if outcome.staged is not None:
        written = pydicom.dcmread(staged)
        assert written.PatientIdentityRemoved == "YES"
        assert written.PatientID == written.PatientName != "MRN-7741520"


# --- Folders and the report -------------------------------------------------------------------------------------------


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medseg3d", "dicom", "deidentify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run_command


def test_folders_that_would_mix_originals_and_copies(study: Path, tmp_path: Path):
    for out in (study, study / "inside", study.parent):
        with pytest.raises(UsageError, match="lie one in the other"):
            run(study, out)
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UsageError, match="is not empty: name another folder, or pass --overwrite"):
        run(study, tmp_path)
    assert len(run(study, tmp_path, overwrite=True).written) == 18
    assert (tmp_path / "mine").read_text() == "kept"
    with pytest.raises(UsageError, match="no such file or folder"):
        run(tmp_path / "absent", tmp_path / "out")


def test_copies_of_a_file_are_left_out_and_others_of_its_uid_numbered(study: Path, tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    ds = pydicom.dcmread(study / "CT" / "Mustermann_0")
    ds.save_as(source / "a.dcm")
    ds.save_as(source / "b.dcm")
    ds.InstanceNumber = 99
    ds.save_as(source / "c.dcm")
    result = run(source, tmp_path / "out")
    uid = NAMES.uid(ROOT + "4.0")
    assert [path.name for path in result.written] == [f"{uid}.dcm", f"{uid}_2.dcm"]
    assert result.duplicates == 1


def test_a_place_that_cannot_be_written_to_is_named(command: Run, study: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    status, _, error = command(study, tmp_path / "file" / "out", "--key", KEY.decode())
    assert status == 1
    assert f"error: {tmp_path / 'file' / 'out'}: cannot be written (Not a directory): choose another place" in error
    one, report = study / "CT" / "Mustermann_0", tmp_path / "file" / "report.json"
    status, _, error = command(one, tmp_path / "out", "--key", KEY.decode(), "--report", report)
    assert (status, f"error: {report}: cannot be written (File exists)" in error) == (1, True)


def test_a_full_disk_ends_the_run_and_blames_no_file(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"out: cannot be written \(No space left on device\)"):
        run(study / "CT", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_archives_are_read_too(study: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "Mustermann.zip", "w") as archive:
        for path in (study / "CT").iterdir():
            archive.write(path, f"Mustermann/{path.name}")
    assert len(run(tmp_path / "Mustermann.zip", tmp_path / "out").written) == 16
    assert leaks(tmp_path / "out") == []


def test_an_interrupted_run_leaves_whole_files_only(study: Path, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        assert total == 19
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out", on_file=stop)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(pydicom.dcmread(path).pixel_array.size for path in files)
    assert not list((tmp_path / "out").glob(".deidentifying-*"))


def test_more_processes_make_the_same_files(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = run(study, tmp_path / "a")
    monkeypatch.setattr("medseg3d.dicom.deidentifying.FEW_FILES", 1)
    seen: list[tuple[int, int]] = []
    together = deidentify(study, tmp_path / "b", key=KEY, workers=2, on_file=lambda *count: seen.append(count))
    assert seen == [(number, 19) for number in range(1, 20)]
    assert [p.relative_to(tmp_path / "a") for p in alone.written] == [
        p.relative_to(tmp_path / "b") for p in together.written
    ]
    assert [p.read_bytes() for p in alone.written] == [p.read_bytes() for p in together.written]
    assert alone.as_json() == together.as_json()


def test_the_report_says_what_was_done_and_names_nobody(study: Path, tmp_path: Path):
    report = run(study, tmp_path / "out").as_json()
    assert report["files"] == {"written": 18, "duplicates": 0, "skipped": 1, "refused": 0}
    assert report["options"]["codes"] == ["113100"]
    done = {entry["keyword"]: (entry["action"], entry["count"]) for entry in report["attributes"]}
    assert done["PatientID"] == ("pseudonym", 18)
    assert done["OverlayData"] == done["IconImageSequence"] == ("removed", 16)
    assert done["SOPInstanceUID"] == ("new UID", 18)
    assert report["private_attributes"]["removed"] == 32  # the creator and the element, in 16 slices
    text = json.dumps(report).lower()
    assert not [secret for secret in (*SECRETS, *DATES, ROOT) if secret.lower() in text]


def test_the_command_writes_files_and_report(command: Run, study: Path, tmp_path: Path):
    key = tmp_path / "study.key"
    key.write_text(KEY.decode() + "\n")
    assert read_key(key) == KEY
    options = ("--key-file", key, "--report", tmp_path / "report.json", "--keep-dates-shifted")
    status, printed, _ = command(study, tmp_path / "out", *options)
    assert status == 0
    assert f"Wrote 18 files to {tmp_path / 'out'}" in printed
    assert "Left out 1 files that are no DICOM objects" in printed
    assert json.loads((tmp_path / "report.json").read_text())["options"]["dates"] == "shift"
    patients = {path.name for path in (tmp_path / "out").iterdir()}
    assert patients == {NAMES.patient("id mrn-7741520")}


def test_the_command_names_refused_files_and_ends_with_1(command: Run, study: Path, tmp_path: Path):
    ds = pydicom.dcmread(study / "CT" / "Mustermann_0")
    ds.BurnedInAnnotation = "YES"
    ds.save_as(tmp_path / "shot.dcm")
    status, printed, _ = command(tmp_path / "shot.dcm", tmp_path / "out")
    assert status == 1
    assert "No key given: these pseudonyms cannot be made again" in printed
    assert "Refused 1 files, which are not copied." in printed
    assert "1 files: its pixels may show who it is: BurnedInAnnotation says so. Look at it;" in printed
    assert str(tmp_path / "shot.dcm") in printed


def test_the_command_explains_how_to_make_a_key(command: Run, study: Path, tmp_path: Path):
    status, _, error = command(study, tmp_path / "out", "--key-file", tmp_path / "absent.key")
    assert status == 2
    assert "openssl rand -hex 32" in error
    status, _, error = command(study, tmp_path / "out", "--key-file", tmp_path / "k", "--key", "x")
    assert (status, "not both" in error) == (2, True)


# --- Against the validator, and on real data --------------------------------------------------------------------------


def dciodvfy_errors(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub("<[0-9.]+>", "<UID>", line) for line in lines if line.startswith("Error")}


@pytest.mark.real_data
def test_a_real_study_loses_its_ids_and_keeps_its_volumes(data_dir: Path, tmp_path: Path):
    source = data_dir / "ct_pet_mr_sarcoma" / "STS_001"
    result = run(source, tmp_path / "out")
    originals = [path for path in source.rglob("*") if path.is_file()]
    assert len(result.written) == len(originals)
    needles = set()
    for path in originals:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        uids = (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID)
        needles |= {uid.encode() for uid in uids} | {b"STS_001"}
        if path.name == "000000.dcm":
            needles.add(ds.AccessionNumber.encode())
    pattern = re.compile(b"|".join(map(re.escape, needles)))
    assert not [path for path in result.written if pattern.search(path.read_bytes())]
    for part in ("CT", "PET"):
        before = read_series(source / part / "image")
        after = read_series(tmp_path / "out", series_uid=NAMES.uid(before.grid.series_uid))
        np.testing.assert_array_equal(after.voxels, before.voxels)
        np.testing.assert_array_equal(after.grid.affine_ras, before.grid.affine_ras)


@pytest.mark.real_data
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("part", ["CT/image/000000.dcm", "PET/image/000000.dcm", "CT/mask/RS.dcm"])
@pytest.mark.parametrize("options", [Options(), Options("shift", True, True, True)], ids=["basic", "most kept"])
def test_the_validator_finds_no_new_error(data_dir: Path, tmp_path: Path, part: str, options: Options):
    source = data_dir / "ct_pet_mr_sarcoma" / "STS_001" / part
    (written,) = run(source, tmp_path / "out", options=options).written
    assert dciodvfy_errors(written) <= dciodvfy_errors(source)
