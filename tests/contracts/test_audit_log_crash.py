"""What a crash or a power failure leaves of a log's folder opens again with all that was acknowledged."""

import os
import shutil
from pathlib import Path

import pytest
from tests.contracts.test_audit_log import append, folder_log
from tests.unit.audit.logs import data, policy

from wardround.audit import verification
from wardround.errors import AuditError, StorageFullError


def test_what_was_acknowledged_and_not_published_is_there_after_a_crash(tmp_path):
    log = folder_log(tmp_path / "log")
    append(log, *range(300))
    log.publish()
    append(log, 300)
    append(log, 301, 302)
    shutil.copytree(tmp_path / "log", tmp_path / "after")
    again = folder_log(tmp_path / "after")
    assert again.read(0, 303) == [data(number) for number in range(303)]
    again.publish()
    assert verification.verify_log(again.file, policy(())).problems == ()


@pytest.mark.parametrize("cut", [1, 30, 47, 48, 49, 100])
def test_a_torn_record_is_cut_off_and_nothing_before_it(tmp_path, cut):
    log = folder_log(tmp_path / "log")
    append(log, 0)
    whole = (tmp_path / "log/.writer/journal").stat().st_size
    append(log, 1)
    shutil.copytree(tmp_path / "log", tmp_path / "after")
    os.truncate(tmp_path / "after/.writer/journal", whole + cut)
    again = folder_log(tmp_path / "after")
    assert again.read(0, again.size) == [data(0)]
    assert again.torn_bytes == cut
    assert append(again, 2) == 1


def test_a_record_of_zeros_or_noise_at_the_end_is_cut_off(tmp_path):
    for name, tail in (("zeros", bytes(5000)), ("noise", os.urandom(5000))):
        log = folder_log(tmp_path / name)
        append(log, 0)
        shutil.copytree(tmp_path / name, tmp_path / f"{name}-after")
        with (tmp_path / f"{name}-after/.writer/journal").open("ab") as file:
            file.write(tail)
        assert folder_log(tmp_path / f"{name}-after").size == 1


def test_a_damaged_record_that_others_follow_is_an_error(tmp_path):
    log = folder_log(tmp_path / "log")
    for number in range(3):
        append(log, number)
    shutil.copytree(tmp_path / "log", tmp_path / "after")
    path = tmp_path / "after/.writer/journal"
    held = bytearray(path.read_bytes())
    held[60] ^= 1
    path.write_bytes(held)
    with pytest.raises(AuditError, match="damaged"):
        folder_log(tmp_path / "after")


def test_a_journal_that_tiles_hold_already_is_not_added_twice(tmp_path):
    log = folder_log(tmp_path)
    append(log, *range(5))
    journal = (tmp_path / ".writer/journal").read_bytes()
    log.close()
    (tmp_path / ".writer/journal").write_bytes(journal)
    assert folder_log(tmp_path).size == 5


def test_what_was_said_not_to_be_written_does_not_come_back(tmp_path, monkeypatch):
    log = folder_log(tmp_path / "log")
    append(log, 0)

    def full(_descriptor):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(StorageFullError):
            append(log, 1)
    shutil.copytree(tmp_path / "log", tmp_path / "after")
    assert folder_log(tmp_path / "after").size == 1


class PowerLoss:
    """What is on the disk if power fails now: contents as of each file's last sync, names as of each folder's."""

    def __init__(self, folder, monkeypatch):
        self.root, self.contents, self.names = folder, {}, {}
        self.moments = []
        self.acknowledged = 0
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self.synced)

    def synced(self, descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self.names[path] = {entry.name: (entry.stat().st_ino, entry.is_dir()) for entry in path.iterdir()}
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()
        self.moments.append((dict(self.contents), dict(self.names), self.acknowledged))

    def build(self, moment, target):
        contents, names, acknowledged = self.moments[moment]

        def fill(source, place):
            place.mkdir()
            for name, (inode, is_folder) in names.get(source, {}).items():
                if is_folder:
                    fill(source / name, place / name)
                else:
                    (place / name).write_bytes(contents.get(inode, b""))

        target.mkdir()
        if self.root.name in names.get(self.root.parent, {}):
            fill(self.root, target / "log")
        return acknowledged


def test_power_that_fails_at_any_sync_loses_nothing_that_was_acknowledged(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        disk = PowerLoss(place / "log", patched)
        for count in (3, 260):
            log = folder_log(place / "log")
            for size in (1, count):
                disk.acknowledged = append(log, *range(size)) + size
            disk.acknowledged = append(log, 0) + 1
            log.publish()
            disk.acknowledged = append(log, 1) + 1
            log.close()
        whole = log_entries(place / "log")
    assert len(disk.moments) > 60
    for moment in range(len(disk.moments)):
        acknowledged = disk.build(moment, tmp_path / str(moment))
        if acknowledged:
            held = log_entries(tmp_path / str(moment) / "log")
            assert held == whole[: len(held)]
            assert len(held) >= acknowledged
        shutil.rmtree(tmp_path / str(moment))


def log_entries(folder):
    log = folder_log(folder)
    held = log.read(0, log.size)
    log.publish()
    assert verification.verify_log(log.file, policy(())).size == len(held)
    log.close()
    return held
