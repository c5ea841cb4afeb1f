"""The intake keeps what it acknowledged, in order, whatever a kill, a full disk or a damaged file does to it."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ConflictError, CryptoError, StorageFullError, UnavailableError
from wardround.sources import intake as module
from wardround.sources.intake import Intake

KEY = bytes(range(32))
HEAD = 64
few = settings(max_examples=25)  # each example writes files and waits for the disk
MESSAGES = [b"first", b"second message", b"third", b"fourth, and longer than the others"]


def filled(folder, messages=MESSAGES, *, is_closed=True, **limits):
    intake = Intake(folder, KEY, **limits)
    for message in messages:
        intake.append(message)
    if is_closed:
        intake.close()
    return intake


def segments(folder):
    return sorted(Path(folder).glob("*.seg"))


def test_messages_come_back_in_order_of_arrival_also_to_another_process(tmp_path):
    writer = filled(tmp_path, is_closed=False)
    assert list(Intake(tmp_path, KEY).messages()) == MESSAGES
    writer.append(b"fifth")
    assert list(Intake(tmp_path, KEY).messages()) == [*MESSAGES, b"fifth"]
    writer.close()
    assert list(Intake(tmp_path, KEY).messages()) == [*MESSAGES, b"fifth"]


def test_an_intake_that_does_not_exist_is_empty_and_reading_makes_nothing(tmp_path):
    assert list(Intake(tmp_path / "none", KEY).messages()) == []
    assert not (tmp_path / "none").exists()


@few
@given(messages=st.lists(st.binary(min_size=1, max_size=300), max_size=20), size=st.integers(1, 2000))
def test_however_segments_rotate_everything_comes_back(tmp_path_factory, messages, size):
    folder = tmp_path_factory.mktemp("intake")
    filled(folder, messages, segment_bytes=size)
    reader = Intake(folder, KEY)
    assert list(reader.messages()) == messages
    assert reader.damaged == 0


def test_nothing_of_a_message_lies_open_in_the_folder(tmp_path):
    filled(tmp_path)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(message not in held for message in MESSAGES)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_every_start_seals_under_another_key(tmp_path):
    for _ in range(2):
        filled(tmp_path, [b"the same"])
    one, two = (path.read_bytes() for path in segments(tmp_path))
    assert one[HEAD:] != two[HEAD:]
    assert one[16:48] != two[16:48]


def test_another_key_is_told_from_damage(tmp_path):
    filled(tmp_path)
    with pytest.raises(CryptoError, match="another key"):
        list(Intake(tmp_path, bytes(32)).messages())
    with pytest.raises(CryptoError, match="another key"):
        Intake(tmp_path, bytes(32)).append(b"more")
    with pytest.raises(CryptoError, match="32 bytes"):
        Intake(tmp_path, b"short")


@pytest.mark.parametrize("limits", [{"segment_bytes": 0}, {"segment_bytes": 2**40}, {"message_bytes": 2**30}])
def test_limits_that_the_format_cannot_hold_are_refused(tmp_path, limits):
    with pytest.raises(ValueError, match="a segment has up to"):
        Intake(tmp_path, KEY, **limits)


@pytest.mark.parametrize("message", [b"", bytes(101)], ids=["empty", "too long"])
def test_a_message_out_of_bounds_is_refused(tmp_path, message):
    with pytest.raises(ValueError, match="1 to 100 bytes"):
        Intake(tmp_path, KEY, message_bytes=100).append(message)


def test_one_process_writes_at_a_time(tmp_path):
    first = filled(tmp_path, is_closed=False)
    with pytest.raises(ConflictError):
        Intake(tmp_path, KEY).append(b"second writer")
    first.close()
    filled(tmp_path, [b"second writer"])
    assert list(first.messages()) == [*MESSAGES, b"second writer"]


@few
@given(data=st.data())
def test_a_file_cut_anywhere_keeps_the_whole_records_before_the_cut(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("intake")
    filled(folder, is_closed=False)._writer = None  # as SIGKILL leaves it: no closing
    (path,) = segments(folder)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = [HEAD + sum(4 + len(message) + 16 for message in MESSAGES[:count]) for count in range(len(MESSAGES) + 1)]
    kept = MESSAGES[: max(sum(end <= cut for end in ends) - 1, 0)]
    reader = Intake(folder, KEY)
    assert list(reader.messages()) == kept
    assert reader.damaged == 0
    filled_again = Intake(folder, KEY)
    filled_again._lock = None
    os_lock_free(folder)
    filled_again.append(b"after")
    filled_again.close()
    assert list(reader.messages()) == [*kept, b"after"]
    assert reader.damaged == 0


def os_lock_free(folder):
    # The killed writer's lock died with it; here it lives in this process, so its file goes.
    (folder / "lock").unlink()


def test_what_recovery_cuts_is_put_aside(tmp_path):
    filled(tmp_path, is_closed=False)
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    os_lock_free(tmp_path)
    filled(tmp_path, [b"after"])
    assert path.stat().st_size == len(whole) - (4 + len(MESSAGES[-1]) + 16) + 24
    assert path.with_suffix(".torn").read_bytes() == whole[-(4 + len(MESSAGES[-1]) + 16) : -7]


@pytest.mark.parametrize("which", range(len(MESSAGES)))
def test_a_damaged_record_is_counted_and_the_others_are_read(tmp_path, which):
    filled(tmp_path)
    (path,) = segments(tmp_path)
    at = HEAD + sum(4 + len(message) + 16 for message in MESSAGES[:which]) + 6
    spoilt(path, at)
    reader = Intake(tmp_path, KEY)
    assert list(reader.messages()) == MESSAGES[:which] + MESSAGES[which + 1 :]
    assert reader.damaged == 1


def spoilt(path, at):
    held = bytearray(path.read_bytes())
    held[at] ^= 0x55
    path.write_bytes(bytes(held))


@pytest.mark.parametrize("which", range(len(MESSAGES)))
def test_a_damaged_length_counts_all_that_it_hides(tmp_path, which):
    filled(tmp_path)
    (path,) = segments(tmp_path)
    spoilt(path, HEAD + sum(4 + len(message) + 16 for message in MESSAGES[:which]))
    reader = Intake(tmp_path, KEY)
    assert list(reader.messages()) == MESSAGES[:which]
    assert reader.damaged == len(MESSAGES) - which
    filled(tmp_path, [b"after"])
    assert list(reader.messages()) == [*MESSAGES[:which], b"after"]
    assert reader.damaged == len(MESSAGES) - which


@few
@given(data=st.data())
def test_no_altered_byte_passes_for_a_message(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("intake")
    filled(folder)
    (path,) = segments(folder)
    spoilt(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    reader = Intake(folder, KEY)
    try:
        found = list(reader.messages())
    except CryptoError:
        return
    assert [message for message in MESSAGES if message in found] == found
    assert len(found) + reader.damaged >= len(MESSAGES)


def test_records_cannot_change_places_or_segments(tmp_path):
    filled(tmp_path, [b"one", b"two"])
    (path,) = segments(tmp_path)
    held = path.read_bytes()
    record = 4 + 3 + 16
    swapped = held[:HEAD] + held[HEAD + record : HEAD + 2 * record] + held[HEAD : HEAD + record]
    path.write_bytes(swapped + held[HEAD + 2 * record :])
    reader = Intake(tmp_path, KEY)
    assert list(reader.messages()) == []
    assert reader.damaged == 2
    path.write_bytes(held)
    path.rename(path.with_name("0000000000000002.seg"))
    with pytest.raises(CryptoError):
        list(reader.messages())


def test_a_segment_cut_short_or_missing_in_the_middle_is_counted(tmp_path):
    filled(tmp_path, segment_bytes=1)
    first, second, third, _ = segments(tmp_path)
    second.unlink()
    reader = Intake(tmp_path, KEY)
    assert list(reader.messages()) == [MESSAGES[0], *MESSAGES[2:]]
    assert reader.damaged == 1
    third.write_bytes(third.read_bytes()[:-3])
    assert list(reader.messages()) == [MESSAGES[0], *MESSAGES[2:]]
    assert reader.damaged == 2
    first.write_bytes(first.read_bytes()[:10])
    with pytest.raises(CryptoError):
        list(reader.messages())


def test_threads_share_an_fsync_and_nothing_is_lost(tmp_path, monkeypatch):
    synced = []
    may_go = threading.Event()

    def fdatasync(descriptor):
        may_go.wait(10)
        synced.append(descriptor)

    monkeypatch.setattr(module.os, "fdatasync", fdatasync)
    intake = Intake(tmp_path, KEY)
    threads = [threading.Thread(target=intake.append, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while intake._submitted < 8:
        pass
    may_go.set()
    for thread in threads:
        thread.join()
    intake.close()
    assert sorted(intake.messages()) == [b"%d" % number for number in range(8)]
    assert len(synced) == 2


def test_append_returns_only_after_fsync(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(module.os, "fdatasync", lambda _: events.append("synced"))
    intake = Intake(tmp_path, KEY)
    intake.append(b"one")
    events.append("returned")
    assert events == ["synced", "returned"]
    intake.close()


@pytest.mark.parametrize(("number", "error"), [(28, StorageFullError), (5, UnavailableError)], ids=["full", "broken"])
def test_after_a_failed_write_the_next_append_goes_on_and_nothing_acknowledged_is_lost(
    tmp_path, monkeypatch, number, error
):
    intake = filled(tmp_path, is_closed=False)
    whole = os.fdatasync

    def failing(descriptor):
        raise OSError(number, "told by the system")

    monkeypatch.setattr(module.os, "fdatasync", failing)
    with pytest.raises(error) as caught:
        intake.append(b"lost")
    assert "told by the system" not in str(caught.value)
    monkeypatch.setattr(module.os, "fdatasync", whole)
    intake.append(b"kept")
    intake.close()
    found = list(intake.messages())
    assert [message for message in found if message != b"lost"] == [*MESSAGES, b"kept"]
    assert intake.damaged == 0


def test_half_a_write_is_cut_before_the_next_message(tmp_path, monkeypatch):
    intake = filled(tmp_path, is_closed=False)
    whole = os.write
    monkeypatch.setattr(module.os, "write", lambda descriptor, data: whole(descriptor, bytes(data)[:9]))
    monkeypatch.setattr(module.os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    monkeypatch.setattr(module, "_write_all", lambda descriptor, data: whole(descriptor, data[:9]))
    with pytest.raises(StorageFullError):
        intake.append(b"lost, in part")
    monkeypatch.undo()
    intake.append(b"kept")
    intake.close()
    assert list(intake.messages()) == [*MESSAGES, b"kept"]
    assert intake.damaged == 0


def test_an_interrupted_writer_acknowledges_nothing(tmp_path, monkeypatch):
    intake = Intake(tmp_path, KEY)
    monkeypatch.setattr(intake, "_write", lambda batch: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        intake.append(b"one")
    assert intake._failed
