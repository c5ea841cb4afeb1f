"""Every audit log keeps the port's promises; what only a folder can break is tested below."""

import abc
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from tests.contracts.disk import no_file_beyond
from tests.unit.audit.logs import LOG, NOW, ORIGIN, SITES, WITNESSES, Clock, data, log_signers, memory_log, policy

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, tile, verification, witness_policy
from wardround.errors import AuditError, CodecError, ConfigError, StorageFullError, UnavailableError
from wardround.storage import tile_log
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.memory_log import MemoryTileLog
from wardround.storage.tile_log import TileLog


def folder_log(folder, **more):
    given = {"origin": ORIGIN, "signers": LOG, "clock": Clock(), "publish_seconds": None, **more}
    return TileLog(folder, **given)


def append(log, *numbers):
    return log.enqueue([data(number) for number in numbers])()


class AuditLogContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def log(self): ...

    def test_entries_come_back_in_order_before_and_after_they_are_published(self, log):
        assert append(log, 0) == 0
        assert append(log, *range(1, 400)) == 1
        for _ in range(2):
            assert log.read(0, 400) == [data(number) for number in range(400)]
            assert log.read(250, 260) == [data(number) for number in range(250, 260)]
            assert log.read(7, 7) == []
            log.publish()
        append(log, 400)
        assert log.read(399, 401) == [data(399), data(400)]
        assert log.read(255, 257) == [data(255), data(256)]
        assert log.size == 401

    def test_what_is_not_there_is_not_read(self, log):
        append(log, 0)
        for start, stop in ((0, 2), (-1, 1), (1, 0)):
            with pytest.raises(AuditError):
                log.read(start, stop)

    def test_a_published_log_verifies_from_its_files(self, log):
        for count in (1, 254, 1, 1, 300):
            append(log, *range(log.size, log.size + count))
            signed = checkpoints.parse(log.publish())
            assert signed.checkpoint.size == log.size
            report = verification.verify_log(log.file, policy(()))
            assert (report.problems, report.size) == ((), log.size)

    def test_nothing_new_is_published_as_it_was(self, log):
        append(log, 0)
        assert log.publish() == log.publish() == log.file("checkpoint")

    def test_an_empty_log_can_be_published(self, log):
        assert checkpoints.parse(log.publish()).checkpoint.root == merkle.EMPTY_ROOT

    def test_entries_in_line_keep_their_order(self, log):
        first, second = log.enqueue([data(0)]), log.enqueue([data(1), data(2)])
        assert (second(), first(), first()) == (1, 0, 0)
        assert log.read(0, 3) == [data(0), data(1), data(2)]

    def test_threads_get_each_their_own_place(self, log):
        def work(worker):
            return {append(log, worker * 1000 + number): worker * 1000 + number for number in range(40)}

        with ThreadPoolExecutor(8) as threads:
            places = {}
            for part in threads.map(work, range(8)):
                places |= part
        assert sorted(places) == list(range(320))
        held = log.read(0, 320)
        assert all(held[place] == data(number) for place, number in places.items())

    def test_what_no_bundle_can_hold_is_refused(self, log):
        for bad in ([], [b""], [bytes(65_536)]):
            with pytest.raises(CodecError):
                log.enqueue(bad)
        assert log.size == 0

    def test_only_files_of_a_log_are_given(self, log):
        append(log, 0)
        log.publish()
        assert log.file("tile/0/000.p/1") is not None
        for path in ("tile/0/000", "../secret", ".writer/journal", "", "/etc/passwd", "tile/0/../../.writer/journal"):
            assert log.file(path) is None

    def test_a_partial_tile_goes_when_the_full_one_is_there_and_stays_until_then(self, log):
        append(log, *range(200))
        log.publish()
        append(log, *range(200, 230))
        log.publish()
        assert log.file("tile/0/000.p/200") is not None
        append(log, *range(230, 260))
        log.publish()
        assert log.file("tile/0/000.p/200") is None
        assert log.file("tile/0/000") is not None

    def test_every_older_checkpoint_can_be_proven_to_be_a_beginning(self, log):
        older = []
        for count in (1, 100, 200, 500):
            append(log, *range(count))
            older.append(checkpoints.parse(log.publish()).checkpoint)
        last = older[-1]
        for old in older:
            proof = merkle.consistency_proof(old.size, last.size, tile.subtree_reader(log.file, last.size))
            merkle.check_consistency(old.size, old.root, last.size, last.root, proof)

    def test_a_witnessed_checkpoint_is_kept_and_none_of_another_log(self, log):
        append(log, 0, 1, 2)
        signed = checkpoints.parse(log.publish())
        lines = [str(line) for line in signed.note.signatures]
        lines += [checkpoints.sign(signed.checkpoint, s, now=NOW) for site in SITES for s in WITNESSES[site]]
        whole = checkpoints.join(signed.note.text, lines)
        log.keep_witnessed(whole)
        assert log.file("checkpoint.witnessed") == log.file("checkpoint") == whole
        append(log, 3)
        log.publish()
        assert log.file("checkpoint.witnessed") == whole
        other = memory_log(3, make=lambda number: data(number + 9))
        foreign = memory_log(3, signers=log_signers("other.example/log"))
        for bad in (other.file("checkpoint"), foreign.file("checkpoint"), b"junk", memory_log(9).file("checkpoint")):
            with pytest.raises(AuditError):
                log.keep_witnessed(bad)
        assert log.file("checkpoint.witnessed") == whole

    def test_an_older_witnessed_checkpoint_does_not_replace_a_newer_one(self, log):
        append(log, 0)
        old = log.publish()
        append(log, 1)
        new = log.publish()
        log.keep_witnessed(new)
        log.keep_witnessed(old)
        assert log.file("checkpoint.witnessed") == new

    def test_the_log_has_its_name(self, log):
        assert log.origin == ORIGIN


class TestMemory(AuditLogContract):
    @pytest.fixture
    def log(self):
        return MemoryTileLog(origin=ORIGIN, signers=LOG, clock=Clock())


class TestFolder(AuditLogContract):
    @pytest.fixture
    def log(self, tmp_path):
        log = folder_log(tmp_path / "log")
        yield log
        log.close()


def test_a_log_goes_on_after_it_was_closed(tmp_path):
    expected = []
    for count in (3, 300, 1, 0, 512):
        log = folder_log(tmp_path)
        assert log.read(0, log.size) == expected
        if count:
            append(log, *range(count))
        expected += [data(number) for number in range(count)]
        log.close()
    assert verification.verify_log(folder_log(tmp_path).file, policy(())).size == len(expected)


def closed_log(folder, count=600, **more):
    log = folder_log(folder, **more)
    for first in range(0, count, 200):
        append(log, *range(first, min(first + 200, count)))
        log.publish()
    log.close()


def swap(folder, one, other):
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)


TAMPERED = {
    "the checkpoint is gone": lambda f: (f / "checkpoint").unlink(),
    "the last tile is gone": lambda f: shutil.rmtree(f / "tile/0/002.p"),
    "the last bundle is gone": lambda f: shutil.rmtree(f / "tile/entries/002.p"),
    "a full tile is gone": lambda f: (f / "tile/0/000").unlink(),
    "a full bundle is gone": lambda f: (f / "tile/entries/001").unlink(),
    "tiles were swapped": lambda f: swap(f, "tile/0/000", "tile/0/001"),
    "bundles were swapped": lambda f: swap(f, "tile/entries/000", "tile/entries/001"),
    "the upper tile was cut": lambda f: os.truncate(f / "tile/1/000.p/2", 32),
    "the checkpoint is junk": lambda f: (f / "checkpoint").write_bytes(b"junk"),
    "an entry was altered": lambda f: (f / "tile/entries/000").write_bytes(
        (f / "tile/entries/000").read_bytes().replace(b"training", b"analysis", 1)
    ),
    "the checkpoint is larger": lambda f: (f / "checkpoint").write_bytes(memory_log(700).file("checkpoint")),
    "the checkpoint is of a fork": lambda f: (f / "checkpoint").write_bytes(
        memory_log(600, make=lambda number: data(number + 1)).file("checkpoint")
    ),
    "the witnessed checkpoint is larger": lambda f: (f / "checkpoint.witnessed").write_bytes(
        memory_log(700).file("checkpoint")
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_log_that_is_not_what_it_signed_does_not_open(tmp_path, what):
    closed_log(tmp_path / "log", anchor=BudgetAnchor(tmp_path))
    TAMPERED[what](tmp_path / "log")
    with pytest.raises((AuditError, CodecError)):
        folder_log(tmp_path / "log", anchor=BudgetAnchor(tmp_path))


def test_an_older_copy_of_the_whole_folder_is_noticed_by_what_is_kept_elsewhere(tmp_path):
    closed_log(tmp_path / "log", 300, anchor=BudgetAnchor(tmp_path))
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    log = folder_log(tmp_path / "log", anchor=BudgetAnchor(tmp_path))
    append(log, 300)
    log.close()
    with pytest.raises(AuditError, match="rolled back: it has 300 entries, and had 301"):
        folder_log(tmp_path / "old", anchor=BudgetAnchor(tmp_path))
    closed_log(tmp_path / "other", 400, anchor=None)
    with pytest.raises(AuditError, match="rolled back"):
        folder_log(tmp_path / "empty", anchor=BudgetAnchor(tmp_path))
    log = folder_log(tmp_path / "fork")
    append(log, *range(1, 400))
    log.close()
    with pytest.raises(AuditError, match="replaced"):
        folder_log(tmp_path / "fork", anchor=BudgetAnchor(tmp_path))


def test_a_log_has_one_writer(tmp_path):
    log = folder_log(tmp_path)
    with pytest.raises(ConfigError, match="one writer"):
        folder_log(tmp_path)
    log.close()
    folder_log(tmp_path).close()


def test_another_key_or_name_does_not_open_a_log(tmp_path):
    closed_log(tmp_path, 3)
    with pytest.raises(AuditError):
        folder_log(tmp_path, signers=log_signers("other.example/log"), origin="other.example/log")
    with pytest.raises(ConfigError):
        folder_log(tmp_path, origin="other.example/log")


def test_a_closed_log_takes_nothing(tmp_path):
    log = folder_log(tmp_path)
    log.close()
    with pytest.raises(UnavailableError):
        append(log, 0)


def test_a_log_may_be_closed_twice(tmp_path):
    log = folder_log(tmp_path)
    append(log, 0)
    log.close()
    log.close()
    again = folder_log(tmp_path)  # The first close gave the lock back, and the second took nothing.
    assert again.size == 1
    again.close()


def test_a_fault_that_nobody_foresaw_leaves_no_one_waiting(tmp_path, monkeypatch):
    log = folder_log(tmp_path)
    waits = [log.enqueue([data(number)]) for number in range(2)]

    def fail(*_arguments):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(log._journal, "append", fail)
        with pytest.raises(MemoryError):
            waits[0]()
    with pytest.raises(UnavailableError):
        waits[1]()
    assert append(log, 0) == 0


def test_one_sync_acknowledges_all_who_wait(tmp_path, monkeypatch):
    syncs, began, held = [], threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(descriptor):
        syncs.append(descriptor)
        began.set()
        if len(syncs) == 1:
            held.wait(10)
        real(descriptor)

    log = folder_log(tmp_path)
    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(33) as threads:
        first = threads.submit(append, log, 0)
        assert began.wait(10)
        waits = [log.enqueue([data(number)]) for number in range(1, 33)]
        others = [threads.submit(wait) for wait in waits]
        held.set()
        assert first.result() == 0
        assert sorted(future.result() for future in others) == list(range(1, 33))
    assert len(syncs) == 2


def test_an_entry_is_not_acknowledged_before_it_is_synced(tmp_path, monkeypatch):
    log = folder_log(tmp_path)
    order = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (order.append("sync"), real(descriptor)))
    append(log, 0)
    order.append("acknowledged")
    assert order == ["sync", "acknowledged"]


def test_after_a_failed_sync_nothing_is_taken_until_the_log_is_opened_again(tmp_path, monkeypatch):
    log = folder_log(tmp_path)
    append(log, 0)

    def fail(_descriptor):
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(UnavailableError):
            append(log, 1)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="opened again"):
            append(log, 2)
    with pytest.raises(UnavailableError):
        log.publish()
    log.close()
    again = folder_log(tmp_path)
    assert again.read(0, 1) == [data(0)]


def test_on_a_full_disk_nothing_is_acknowledged_and_the_log_goes_on_later(tmp_path, monkeypatch):
    log = folder_log(tmp_path)
    append(log, 0)
    real = os.pwrite

    def full(descriptor, view, offset):
        real(descriptor, bytes(view)[:20], offset)
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StorageFullError):
            append(log, 1)
    assert append(log, 2) == 1
    assert log.read(0, 2) == [data(0), data(2)]
    log.close()
    assert folder_log(tmp_path).read(0, 2) == [data(0), data(2)]


def test_many_entries_publish_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_log, "_MOST_UNPUBLISHED", 50)
    log = folder_log(tmp_path)
    append(log, *range(49))
    assert log.file("checkpoint") is None
    append(log, 49)
    assert checkpoints.parse(log.file("checkpoint")).checkpoint.size == 50


def test_the_folder_carries_the_keys_for_those_who_verify(tmp_path):
    folder_log(tmp_path, policy=policy()).close()
    assert witness_policy.parse_policy((tmp_path / "policy").read_text()) == policy()
    folder_log(tmp_path).close()
    assert witness_policy.parse_policy((tmp_path / "policy").read_text()) == policy()


def test_a_file_that_cannot_grow_loses_nothing_that_was_acknowledged(tmp_path):
    log, taken = folder_log(tmp_path), 0
    with no_file_beyond(20_000), suppress(StorageFullError):
        while taken < 1000:
            append(log, taken)
            taken += 1
    assert 10 < taken < 1000
    assert append(log, taken) == taken
    log.close()
    again = folder_log(tmp_path)
    assert again.read(0, again.size) == [data(number) for number in range(taken + 1)]


def test_a_publication_on_a_full_disk_is_made_up_for_later(tmp_path):
    log = folder_log(tmp_path)
    append(log, *range(300))
    with no_file_beyond(100), pytest.raises(StorageFullError):
        log.publish()
    assert checkpoints.parse(log.publish()).checkpoint.size == 300
    assert verification.verify_log(log.file, policy(())).problems == ()
