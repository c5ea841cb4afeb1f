"""Sealed files: memory of rounds comes back bit for bit, and nothing of it can be read or moved on the disk."""

import os

import pytest

from wardround.crypto.envelope import Place
from wardround.errors import CryptoError, StorageFullError
from wardround.storage import sealed_file
from wardround.storage.model_files import FolderModelFiles, last_memory

PLACE = Place("memory-run-1", tenant="arran")
MARK = b"one patient's own parameters"


class Keys:
    tenant = "arran"
    is_bare = False
    current = 3

    def __init__(self, key=bytes(range(32))):
        self._key = key

    def key(self, number):
        if number != 3:
            raise CryptoError(f"no key {number}")
        return self._key


def descriptor_of(data):
    file = os.memfd_create("memory")
    os.write(file, data)
    return file


def content(file):
    return os.pread(file, os.fstat(file).st_size, 0)


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 3 * 1024 * 1024 + 17])
def test_a_file_comes_back_bit_for_bit(tmp_path, size):
    data = (MARK * (size // len(MARK) + 1))[:size]
    path = tmp_path / "memory-run-1"
    pieces = (memoryview(data)[place : place + 100_000] for place in range(0, size, 100_000))
    sealed_file.write(path, pieces, Keys(), place=PLACE)
    assert b"".join(map(bytes, sealed_file.read(path, Keys(), place=PLACE))) == data
    assert sealed_file.plain_size(path) == size
    assert sealed_file.sealed_under(path) == 3
    assert MARK not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["memory-run-1"]


def test_every_byte_of_the_head_and_the_place_count(tmp_path):
    path = tmp_path / "memory-run-1"
    sealed_file.write(path, [memoryview(MARK)], Keys(), place=PLACE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CryptoError):
            list(sealed_file.read(path, Keys(), place=PLACE))
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CryptoError):
            list(sealed_file.read(path, Keys(), place=PLACE))
    path.write_bytes(whole)
    for keys, where in (
        (Keys(bytes(32)), PLACE),
        (Keys(), Place("memory-run-2", tenant="arran")),
        (Keys(), Place("memory-run-1", tenant="lewis")),
    ):
        with pytest.raises(CryptoError):
            list(sealed_file.read(path, keys, place=where))


def test_what_a_site_remembers_is_sealed_and_recalled(tmp_path):
    files = FolderModelFiles(tmp_path, keys=Keys())
    memory = descriptor_of(MARK * 5)
    files.remember("run", 1, memory)
    files.remember("run", 2, descriptor_of(MARK * 4 + b"!" * len(MARK)))
    assert all(MARK not in path.read_bytes() for path in tmp_path.iterdir())
    fresh = descriptor_of(bytes(len(MARK) * 5))
    digest = FolderModelFiles(tmp_path, keys=Keys()).recall("run", 1, fresh)
    assert content(fresh) == MARK * 5
    import hashlib

    assert digest == hashlib.sha256(MARK * 5).hexdigest()
    assert last_memory(tmp_path, "run", keys=Keys()) == MARK * 5
    with pytest.raises(CryptoError, match="no key was given"):
        last_memory(tmp_path, "run")


def test_memory_that_was_altered_or_is_of_another_round_is_not_taken_for_none(tmp_path):
    files = FolderModelFiles(tmp_path, keys=Keys())
    files.remember("run", 1, descriptor_of(MARK))
    files.remember("run", 2, descriptor_of(MARK))
    (tmp_path / "memory-run-2").write_bytes((tmp_path / "memory-run-1").read_bytes())
    with pytest.raises(CryptoError):
        files.recall("run", 2, descriptor_of(bytes(len(MARK))))
    (tmp_path / "memory-run-2").write_bytes(MARK)
    with pytest.raises(CryptoError):
        files.recall("run", 2, descriptor_of(bytes(len(MARK))))


def test_memory_of_before_is_sealed_at_the_next_start(tmp_path):
    FolderModelFiles(tmp_path).remember("run", 4, descriptor_of(MARK))
    assert (tmp_path / "memory-run-4").read_bytes() == MARK
    files = FolderModelFiles(tmp_path, keys=Keys())
    assert MARK not in (tmp_path / "memory-run-4").read_bytes()
    fresh = descriptor_of(bytes(len(MARK)))
    files.recall("run", 4, fresh)
    assert content(fresh) == MARK


def test_memory_of_another_size_counts_as_none(tmp_path):
    files = FolderModelFiles(tmp_path, keys=Keys())
    files.remember("run", 1, descriptor_of(MARK))
    fresh = descriptor_of(b"x" * 100)
    files.recall("run", 1, fresh)
    assert content(fresh) == bytes(100)


def test_a_full_disk_keeps_what_was_there(tmp_path):
    from tests.contracts.disk import no_file_beyond

    files = FolderModelFiles(tmp_path, keys=Keys())
    files.remember("run", 1, descriptor_of(MARK))
    with no_file_beyond(100), pytest.raises(StorageFullError):
        files.remember("run", 1, descriptor_of(MARK * 1000))
    fresh = descriptor_of(bytes(len(MARK)))
    files.recall("run", 1, fresh)
    assert content(fresh) == MARK
    assert [path.name for path in tmp_path.iterdir()] == ["memory-run-1"]
