"""The box between commands and the process that writes an audit log: durable, bounded, in order, and hard to spoil."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.audit.entry import MAX_ENTRY_BYTES
from wardround.errors import CodecError, StorageFullError
from wardround.storage import durable_file, log_inbox
from wardround.storage.log_inbox import LogInbox, slip_of


def slip(number):
    return f"{number:032x}"


def test_what_was_put_first_is_read_first_and_gone_once_it_is_removed(tmp_path):
    inbox = LogInbox(tmp_path / "inbox")
    assert inbox.waiting() == []
    for number, now in ((1, 20.0), (2, 10.0), (3, 10.0005)):
        inbox.put(b"entry %d" % number, slip(number), now)
    names = inbox.waiting()
    assert [slip_of(name) for name in names] == [slip(2), slip(3), slip(1)]
    assert [inbox.read(name) for name in names] == [b"entry 2", b"entry 3", b"entry 1"]
    inbox.remove(names[0])
    inbox.remove(names[0])
    assert inbox.waiting() == names[1:]


def test_the_file_is_synced_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    did = []
    real = durable_file.write
    monkeypatch.setattr(durable_file, "write", lambda path, data: (real(path, data), did.append(path.suffix)))
    monkeypatch.setattr(durable_file, "sync_folder", lambda path: did.append([one.name for one in path.iterdir()]))
    LogInbox(tmp_path).put(b"x", slip(1), 1.0)
    assert did == [".part", [f"{1000:015d}-{slip(1)}"]]


def test_the_box_is_for_its_owner_only(tmp_path):
    LogInbox(tmp_path / "inbox").put(b"x", slip(1), 1.0)
    assert (tmp_path / "inbox").stat().st_mode & 0o077 == 0


def test_too_many_waiting_entries_are_refused_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(log_inbox, "MOST_WAITING", 3)
    inbox = LogInbox(tmp_path)
    for number in range(3):
        inbox.put(b"x", slip(number), 1.0)
    with pytest.raises(StorageFullError, match="takes none"):
        inbox.put(b"x", slip(4), 1.0)
    assert len(inbox.waiting()) == 3


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(path, data):
        path.write_bytes(data[:1])
        raise OSError(28, "no space left")

    monkeypatch.setattr(durable_file, "write", full)
    with pytest.raises(StorageFullError):
        LogInbox(tmp_path).put(b"entry", slip(1), 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"x" * (MAX_ENTRY_BYTES + 1)])
def test_an_entry_of_no_or_too_many_bytes_is_neither_put_nor_read(tmp_path, data):
    inbox = LogInbox(tmp_path)
    with pytest.raises(CodecError):
        inbox.put(data, slip(1), 1.0)
    (tmp_path / f"{1:015d}-{slip(1)}").write_bytes(data)
    with pytest.raises(CodecError):
        inbox.read(inbox.waiting()[0])


@pytest.mark.parametrize("bad", ["", "../x", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n"])
def test_a_slip_is_no_path(tmp_path, bad):
    with pytest.raises(CodecError):
        LogInbox(tmp_path).put(b"x", bad, 1.0)


@given(
    st.lists(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60))
)
@settings(max_examples=40)
def test_other_files_in_the_folder_are_no_entries(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("inbox")
    for name in names:
        if name not in {".", ".."} and len(name.encode()) < 200:
            (folder / name).write_bytes(b"x")
    assert LogInbox(folder).waiting() == []


def test_what_is_no_entry_is_put_aside_and_not_lost(tmp_path):
    inbox = LogInbox(tmp_path)
    inbox.put(b"nonsense", slip(1), 1.0)
    (name,) = inbox.waiting()
    inbox.refuse(name)
    assert inbox.waiting() == []
    assert (tmp_path / f"{name}.refused").read_bytes() == b"nonsense"


def test_an_unfinished_file_is_nobodys_entry_and_is_cleared_when_old(tmp_path):
    part = tmp_path / f"{slip(1)}.part"
    part.write_bytes(b"half")
    inbox = LogInbox(tmp_path)
    assert inbox.waiting() == []
    assert part.exists()
    os.utime(part, (1.0, 1.0))
    assert inbox.waiting() == []
    assert not part.exists()
