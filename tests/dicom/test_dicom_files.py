"""Finding and opening files: any name, zip archives, no preamble, deflated; and bombs of both kinds."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian
from synthetic_series import SyntheticSeries

from medseg3d.dicom import FileRef, files, read_series, scan
from medseg3d.errors import DicomError


def test_any_name_in_any_folder(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    names = ["a/IM1", "a/IM2.dcm", "b/c/1.2.3", "b/image.jpg", "no suffix", "Ünicode ü.ima"]
    for file, name in zip(truth.write(tmp_path / "first"), names, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / name)
    assert_array_equal(read_series(tmp_path).voxels, truth.values)


def test_what_is_not_dicom_is_counted(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path)
    (tmp_path / "notes.txt").write_text("some text that is long enough to have had a preamble" * 10)
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.dcm").write_bytes(b"x" * 200)
    found = scan(tmp_path)
    assert found.ignored == 2
    assert found.unreadable == ()
    assert len(found.series) == 1


def test_a_zip_archive_is_read_in_place(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    with zipfile.ZipFile(tmp_path / "study.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in truth.write(tmp_path / "plain"):
            archive.write(file, f"study/CT/{file.stem}")
        archive.writestr("study/DICOMDIR", b"index")
        archive.writestr("__MACOSX/study/._0001", b"x" * 200)
    for path in (tmp_path / "study.ZIP", tmp_path):
        volume = read_series(path)
        assert_array_equal(volume.voxels, truth.values)
    (found,) = scan(tmp_path / "study.ZIP").series
    assert found.stacks[0].frames[0].source.file == FileRef(tmp_path / "study.ZIP", "study/CT/0000")


def test_a_broken_zip_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(DicomError, match=r"x\.zip: not a readable zip archive \(.*\)\. Copy or download it again"):
        scan(tmp_path / "x.zip")


def test_a_damaged_zip_member_is_unreadable_and_read_series_says_so(tmp_path: Path) -> None:
    """The last slice: without it the volume is even, one slice short."""
    truth = SyntheticSeries()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in truth.write(tmp_path / "plain"):
            archive.write(file, file.name)
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(truth.stored[5].tobytes()) + 5] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(data)
    volume = read_series(tmp_path / "x.zip")
    assert volume.voxels.shape == (7, 5, 5)
    finding = next(f for f in volume.findings if f.code == "unreadable_file")
    assert finding.severity == "warning"
    assert finding.message == "1 file beside it could not be read: slices may be missing at its ends."
    (broken,) = scan(tmp_path / "x.zip").unreadable
    assert (broken.file.member, broken.reason[:24]) == ("0005.dcm", "BadZipFile: Bad CRC-32 f")


def test_a_dicomdir_is_ignored(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    file_set = FileSet()
    for k in range(truth.slices):
        dataset = truth.dataset(k)
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20240101", "120000", "1", "1"
        file_set.add(dataset)
    file_set.write(tmp_path / "disc")
    assert (tmp_path / "disc" / "DICOMDIR").is_file()
    found = scan(tmp_path / "disc")
    assert found.other == ()
    assert found.unreadable == ()
    (tmp_path / "disc" / "DICOMDIR").rename(tmp_path / "disc" / "index")
    assert scan(tmp_path / "disc").ignored == 1
    assert_array_equal(read_series(tmp_path / "disc").voxels, truth.values)


@pytest.mark.parametrize("explicit", [True, False])
def test_files_without_preamble_and_file_meta_information(tmp_path: Path, explicit: bool) -> None:
    truth = SyntheticSeries()
    for k in range(truth.slices):
        dataset = truth.dataset(k)
        del dataset.file_meta
        dataset.save_as(tmp_path / f"{k}", implicit_vr=not explicit, little_endian=True)
        assert (tmp_path / f"{k}").read_bytes()[:2] == b"\x08\x00"
    assert_array_equal(read_series(tmp_path).voxels, truth.values)


def test_big_endian_without_file_meta_information(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    for k in range(truth.slices):
        dataset = truth.dataset(k)
        del dataset.file_meta
        dataset.PixelData = truth.stored[k].astype(">u2").tobytes()
        dataset.save_as(tmp_path / f"{k}", implicit_vr=False, little_endian=False)
    assert_array_equal(read_series(tmp_path).voxels, truth.values)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match=r"nowhere: no such file or folder\."):
        scan(tmp_path / "nowhere")


def test_an_image_without_pixels_is_unreadable(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path, lambda ds, k: delattr(ds, "PixelData"), only=[0])
    (unreadable,) = scan(tmp_path).unreadable
    assert unreadable.reason == "an image without pixel data: the file is cut short or holds the header alone"


@pytest.mark.parametrize("kept_bytes", [400, 600, 800])
def test_a_file_that_ends_in_its_header_is_unreadable(tmp_path: Path, kept_bytes: int) -> None:
    (file,) = SyntheticSeries().write(tmp_path, only=[0])
    file.write_bytes(file.read_bytes()[:kept_bytes])
    (unreadable,) = scan(tmp_path).unreadable
    assert unreadable.reason


def deflated(truth: SyntheticSeries, k: int, tail: bytes) -> bytes:
    """A deflated file whose data set ends in ``tail``."""
    import io

    dataset = truth.dataset(k)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    end = data.index(b"1.2.840.10008.1.2.1.99") + 22
    start = 144 + int.from_bytes(data[140:144], "little")
    assert end < start
    plain = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return data[:start] + packer.compress(plain + tail) + packer.flush()


def test_a_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_INFLATED_BYTES", 10**6)
    truth = SyntheticSeries()
    (tmp_path / "bomb").write_bytes(deflated(truth, 0, bytes(4 * 10**6)))
    (tmp_path / "fine").write_bytes(deflated(truth, 1, b""))
    found = scan(tmp_path)
    (unreadable,) = found.unreadable
    assert unreadable.file.path.name == "bomb"
    assert "holds more than 0 MiB: not read" in unreadable.reason
    assert len(found.series[0].stacks[0].frames) == 1


def test_deeply_nested_sequences_end_in_one_line(tmp_path: Path) -> None:
    """5000 sequences in each other, in explicit little endian with undefined lengths."""
    truth = SyntheticSeries()
    (file,) = truth.write(tmp_path, only=[0])
    data = file.read_bytes()
    open_item = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    place = data.index(b"\x08\x00\x3e\x10LO")  # before SeriesDescription
    file.write_bytes(data[:place] + open_item * 5000 + data[place:])
    (unreadable,) = scan(tmp_path).unreadable
    assert unreadable.reason.startswith(("RecursionError", "an image without pixel data"))


def test_the_bytes_of_a_bare_data_set_are_told_from_text() -> None:
    assert files.is_dicom(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")
    assert files.is_dicom(b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100")
    assert not files.is_dicom(b"\x08\x00 some other file")
    assert not files.is_dicom(b"")


def test_a_dataset_with_no_uids_is_unreadable(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "X"
    dataset.save_as(tmp_path / "x", implicit_vr=False, little_endian=True)
    (unreadable,) = scan(tmp_path).unreadable
    assert "not a DICOM object" in unreadable.reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_named_pipe_blocks_nothing(tmp_path: Path) -> None:
    truth = SyntheticSeries()
    truth.write(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert_array_equal(read_series(tmp_path).voxels, truth.values)
    with pytest.raises(DicomError, match="neither file nor folder, but a pipe"):
        scan(tmp_path / "pipe")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """A link to a folder elsewhere, another to the same one, and one back to the root: every file once."""
    truth = SyntheticSeries()
    truth.write(tmp_path / "elsewhere")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for link, target in (("a/ct", tmp_path / "elsewhere"), ("ct", tmp_path / "elsewhere"), ("a/loop", root)):
        (root / link).symlink_to(target, target_is_directory=True)
    volume = read_series(root)
    assert_array_equal(volume.voxels, truth.values)
    assert volume.findings == ()


def test_a_link_to_nowhere_is_unreadable(tmp_path: Path) -> None:
    SyntheticSeries().write(tmp_path)
    (tmp_path / "moved").symlink_to(tmp_path / "nowhere")
    (broken,) = scan(tmp_path).unreadable
    assert broken.file == FileRef(tmp_path / "moved")
    assert "No such file" in broken.reason


def test_unreadable_files_are_told_of_the_nearest_series(tmp_path: Path) -> None:
    """One in the folder of a series, one in a folder of its own above two others."""
    folders = ["a/ct", "b/ct", "b/mr"]
    uids = {}
    for folder in folders:
        truth = SyntheticSeries()
        uids[truth.series_uid] = folder
        truth.write(tmp_path / folder)
    (tmp_path / "b" / "rest").mkdir()
    header_only = bytes(128) + b"DICM" + b"\x08"
    for broken in ("a/ct/x", "b/rest/y", "b/rest/z"):
        (tmp_path / broken).write_bytes(header_only)
    found = scan(tmp_path)
    told = {uids[s.uid]: [f.message.split(" ")[0] for f in found.unreadable_beside(s)] for s in found.series}
    assert told == {"a/ct": ["1"], "b/ct": ["2"], "b/mr": ["2"]}
    assert not any(str(tmp_path) in str(f) for s in found.series for f in found.unreadable_beside(s))


def test_a_folder_that_may_not_be_listed_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SyntheticSeries().write(tmp_path / "open")
    SyntheticSeries().write(tmp_path / "closed")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan(tmp_path)
    assert len(found.series) == 1
    assert [broken.file for broken in found.unreadable] == [FileRef(tmp_path / "closed")]
