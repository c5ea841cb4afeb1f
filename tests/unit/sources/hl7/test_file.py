"""Messages are found in files however these were cut, batched or framed."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError, UnavailableError
from wardround.harmonization.events import SourceReport
from wardround.sources import hl7_file

ONE = b"MSH|^~\\&|LAB\rPID|1||7\rOBX|1|ST|x||MSH and BTS in a text"
TWO = b"MSH|^~\\&|LAB\nPID|1||8\nOBX|1"
BATCH = b"FHS|^~\\&|\rBHS|^~\\&|LAB\r" + ONE + b"\r" + ONE + b"\rBTS|%d\rFTS|1\r"


def read(tmp_path, data, **limits):
    path = tmp_path / "messages.hl7"
    path.write_bytes(data)
    report = SourceReport("lab")
    return list(hl7_file.messages([path], report, **limits)), report


@pytest.mark.parametrize("between", [b"\r", b"\n", b"\r\n", b"\r\r\n\n", b"\x1c\r\x0b"], ids=range(5))
def test_several_messages_of_one_file(tmp_path, between):
    messages, report = read(tmp_path, b"\xef\xbb\xbf" + ONE + between + TWO + between + ONE + b"\r")
    assert messages == [ONE, TWO, ONE]
    assert not report.refused
    assert report.snapshot["files"] == "1"


def test_a_capture_with_its_frames(tmp_path):
    messages, report = read(tmp_path, b"\x0b" + ONE + b"\r\x1c\r\x0b" + TWO + b"\n\x1c\r")
    assert messages == [ONE, TWO]
    assert not report.refused


def test_a_batch_that_is_whole(tmp_path):
    messages, report = read(tmp_path, BATCH % 2)
    assert messages == [ONE, ONE]
    assert not report.refused


def test_a_batch_that_is_not_whole_is_counted(tmp_path):
    messages, report = read(tmp_path, BATCH % 3)
    assert (len(messages), sum(report.refused.values())) == (2, 1)
    messages, report = read(tmp_path, (BATCH % 2).rsplit(b"BTS", 1)[0])
    assert (len(messages), report.refused) == (2, {"batch without its trailer": 1})
    messages, report = read(tmp_path, (BATCH % 2).rsplit(b"BTS", 1)[0] + BATCH % 2)
    assert (len(messages), report.refused) == (4, {"batch without its trailer": 1})


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"garbage\r" + ONE, 1), (b"PID|1||7\rOBX|1", 0), (ONE + b"\x1cbehind\x0b" + TWO, 2)],
    ids=range(3),
)
def test_bytes_outside_of_messages_are_counted(tmp_path, data, count):
    messages, report = read(tmp_path, data)
    assert len(messages) == count
    assert report.refused == {"bytes outside of messages": 1}


@pytest.mark.parametrize("data", [b"", b"\r\n \r\n", b"\xef\xbb\xbf", b"\x1a"], ids=range(4))
def test_an_empty_file_has_no_messages(tmp_path, data):
    messages, report = read(tmp_path, data)
    assert (messages, report.refused) == ([], {})


def test_a_message_beyond_the_limit_is_counted_once_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(hl7_file, "_CHUNK", 64)
    messages, report = read(tmp_path, ONE + b"\r" + ONE + b"x" * 1000 + b"\r" + TWO, most_bytes=200)
    assert messages == [ONE, TWO]
    assert report.refused == {hl7_file.TOO_LONG: 1}


def test_utf_16_is_refused(tmp_path):
    with pytest.raises(ClinicalError, match="UTF-16"):
        read(tmp_path, ONE.decode().encode("utf-16"))


@given(sizes=st.lists(st.integers(0, 60), max_size=8), chunk=st.integers(1, 50))
def test_the_size_of_what_is_read_at_once_changes_nothing(tmp_path_factory, sizes, chunk):
    made = [b"MSH|^~\\&|" + b"\rOBX|FTSBHS|MSH" * size + b"MSH" for size in sizes]
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hl7_file, "_CHUNK", chunk)
        messages, report = read(folder, b"\r\n".join(made))
    assert messages == made
    assert not report.refused


def test_a_folder_is_read_by_name_with_its_subfolders_and_only_its_messages(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.hl7", "b/a.HL7", "a.hl7", "notes.txt", "b/z.hl7~"):
        (tmp_path / name).write_bytes(ONE)
    assert [path.relative_to(tmp_path).as_posix() for path in hl7_file.found(tmp_path)] == ["a.hl7", "b/a.HL7", "c.hl7"]
    assert hl7_file.found(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(UnavailableError):
        hl7_file.found(tmp_path / "nothing")


def test_a_folder_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hl7_file, "FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.hl7").write_bytes(ONE)
    with pytest.raises(ClinicalError, match="2 files"):
        hl7_file.found(tmp_path)


def test_the_snapshot_is_the_digest_of_the_files(tmp_path):
    _, report = read(tmp_path, ONE)
    assert report.snapshot["sha256"] == hashlib.sha256(hashlib.sha256(ONE).digest()).hexdigest()


def test_a_file_that_has_gone_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="FileNotFoundError") as caught:
        list(hl7_file.messages([tmp_path / "gone.hl7"], SourceReport("lab")))
    assert "gone" not in str(caught.value)
