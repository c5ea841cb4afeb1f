"""What can happen to a blob store's files: damage, crashes, full disks, readers and writers at once."""

import errno
import gc
import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store
from tests.contracts.disk import no_file_beyond, tiny_disk

from wardround.errors import (
    ConfigError,
    ConflictError,
    DigestMismatchError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
    WardroundError,
)
from wardround.storage.blobs import FolderBlobs
from wardround.storage.objects import ObjectBlobs
from wardround.storage.spool import RECYCLE_FILES, RECYCLE_LEAST

LARGE = RECYCLE_LEAST + 1000


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


def file_of(folder, digest):
    return folder / "blobs" / digest[:2] / digest


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path)


@pytest.fixture
def used(tmp_path, blobs):
    """A store with one recycled file, full of the byte 0xEE."""
    blobs.delete([blobs.put(b"\xee" * LARGE).digest])
    assert len(list((tmp_path / "recycled").iterdir())) == 1
    return blobs


def test_a_truncated_blob_is_found_out(tmp_path, blobs):
    ref = blobs.put(b"x" * 1000)
    os.truncate(file_of(tmp_path, ref.digest), 900)
    assert blobs.size(ref.digest) == 900 != ref.size
    with pytest.raises(DigestMismatchError):
        blobs.verify(ref.digest)
    with pytest.raises(DigestMismatchError):
        blobs.read(ref.digest, 0, ref.size)
    with pytest.raises(DigestMismatchError):
        list(blobs.chunks(ref.digest, 0, ref.size, 100))


def test_a_blob_truncated_while_it_is_read_is_found_out(tmp_path, blobs):
    ref = blobs.put(b"x" * 1000)
    chunks = blobs.chunks(ref.digest, 0, ref.size, 300)
    next(chunks)
    os.truncate(file_of(tmp_path, ref.digest), 500)
    with pytest.raises(DigestMismatchError):
        list(chunks)


def test_a_corrupted_blob_is_found_out_and_healed_by_storing_it_again(tmp_path, blobs):
    ref = blobs.put(b"x" * 1000)
    with file_of(tmp_path, ref.digest).open("r+b") as file:
        file.seek(500)
        file.write(b"y")
    assert blobs.size(ref.digest) == ref.size
    with pytest.raises(DigestMismatchError):
        blobs.verify(ref.digest)
    upload = blobs.upload("u")
    upload.append(b"x" * 1000)
    upload.commit(ref.digest)
    blobs.verify(ref.digest)


def test_blobs_and_uploads_are_private(tmp_path):
    before = os.umask(0)
    try:
        blobs = FolderBlobs(tmp_path / "store")
        blobs.put(b"small")
        blobs.upload("u").commit()
        blobs.upload("held").close()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "store", *tmp_path.rglob("store/**/*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_folder_that_cannot_be_used_is_the_operators_business(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError):
        FolderBlobs(tmp_path / "file" / "store")


def test_an_upload_in_progress_elsewhere_is_a_conflict(tmp_path, blobs):
    upload = blobs.upload("u")
    for store in (blobs, FolderBlobs(tmp_path)):
        with pytest.raises(ConflictError):
            store.upload("u")
    upload.append(b"hello")
    upload.close()
    upload = FolderBlobs(tmp_path).upload("u")
    assert upload.offset == 5
    upload.discard()


def test_an_upload_that_was_dropped_unclosed_resumes(blobs):
    upload = blobs.upload("u")
    upload.append(b"hello")
    del upload
    gc.collect()
    assert blobs.upload("u").commit().digest == digest_of(b"hello")


CRASH = """
import os, pathlib, sys
from wardround.storage.blobs import FolderBlobs
upload = FolderBlobs(pathlib.Path(sys.argv[1])).upload("u")
upload.append(b"new" * 1000)
os.kill(os.getpid(), 9)
"""


def test_after_sigkill_an_upload_resumes_with_what_it_had(tmp_path, blobs):
    assert subprocess.run([sys.executable, "-c", CRASH, tmp_path], check=False).returncode == -9
    upload = blobs.upload("u")
    assert upload.offset == 3000
    upload.append(b"!")
    assert upload.commit().digest == digest_of(b"new" * 1000 + b"!")


def test_after_sigkill_an_upload_over_a_recycled_file_starts_from_zero(tmp_path, used):
    assert subprocess.run([sys.executable, "-c", CRASH, tmp_path], check=False).returncode == -9
    assert files_under(tmp_path / "uploads") == [tmp_path / "uploads" / "u~"]
    upload = used.upload("u")
    assert upload.offset == 0
    upload.append(b"other")
    assert upload.commit().digest == digest_of(b"other")
    used.verify(digest_of(b"other"))
    assert files_under(tmp_path / "uploads") == []


def test_small_bytes_half_written_before_a_crash_are_swept_at_the_next_start(tmp_path, blobs):
    (tmp_path / "uploads" / "~1234").write_bytes(b"half")
    held = blobs.upload("kept")
    held.append(b"x")
    FolderBlobs(tmp_path)
    assert files_under(tmp_path / "uploads") == [tmp_path / "uploads" / "kept"]
    held.discard()


@settings(max_examples=25)
@given(
    sizes=st.lists(st.sampled_from([1, 1000, RECYCLE_LEAST, LARGE, LARGE + 70_000]), min_size=1, max_size=4),
    interrupted=st.booleans(),
)
def test_no_stale_byte_of_a_recycled_file_becomes_part_of_a_blob(tmp_path_factory, sizes, interrupted):
    blobs = FolderBlobs(tmp_path_factory.mktemp("store"))
    blobs.delete([blobs.put(b"\xee" * (LARGE + 1000)).digest])
    upload = blobs.upload("u")
    for number, size in enumerate(sizes):
        upload.append(bytes([number]) * size)
        if interrupted:
            upload.close()
            upload = blobs.upload("u")
            assert upload.offset == sum(sizes[: number + 1])
    whole = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    ref = upload.commit()
    assert ref.digest == digest_of(whole)
    assert bytes(blobs.read(ref.digest, 0, blobs.size(ref.digest))) == whole


def test_a_recycled_file_is_written_over_and_not_made_anew(tmp_path, used):
    (recycled,) = files_under(tmp_path / "recycled")
    inode = recycled.stat().st_ino
    upload = used.upload("u")
    upload.append(b"hello")
    ref = upload.commit()
    assert file_of(tmp_path, ref.digest).stat().st_ino == inode
    assert file_of(tmp_path, ref.digest).read_bytes() == b"hello"
    assert files_under(tmp_path / "recycled") == []


def test_a_reader_keeps_its_bytes_when_the_blob_is_deleted_and_others_are_uploaded(tmp_path, blobs):
    old = b"\x01" * LARGE
    ref = blobs.put(old)
    chunks = blobs.chunks(ref.digest, 0, ref.size, 100_000)
    read = bytes(next(chunks))
    blobs.delete([ref.digest])
    assert files_under(tmp_path / "recycled") == []  # somebody reads it: it is not kept to be written over
    upload = blobs.upload("u")
    upload.append(b"\x02" * LARGE)
    upload.commit()
    assert read + b"".join(bytes(chunk) for chunk in chunks) == old


def test_readers_see_a_whole_blob_or_none_while_it_comes_and_goes(blobs):
    contents = [bytes([number]) * LARGE for number in range(3)]
    digests = [digest_of(content) for content in contents]
    wrong, done = [], threading.Event()

    def read():
        while not done.is_set():
            for digest in digests:
                try:
                    data = b"".join(bytes(chunk) for chunk in blobs.chunks(digest, 0, LARGE, 300_000))
                except NotFoundError:
                    continue
                except WardroundError as error:
                    wrong.append(error)
                else:
                    if digest_of(data) != digest:
                        wrong.append(digest)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(30):
        upload = blobs.upload("u")
        upload.append(contents[number % 3])
        upload.commit(digests[number % 3])
        blobs.delete([digests[(number + 1) % 3]])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_no_more_is_recycled_than_allowed(tmp_path):
    blobs = FolderBlobs(tmp_path, recycle_bytes=3 * LARGE)
    blobs.delete([blobs.put(bytes([number]) * LARGE).digest for number in range(5)])
    assert len(files_under(tmp_path / "recycled")) == 3
    many = FolderBlobs(tmp_path / "many")
    many.delete([many.put(bytes([number]) * RECYCLE_LEAST).digest for number in range(RECYCLE_FILES + 2)])
    assert len(files_under(tmp_path / "many" / "recycled")) == RECYCLE_FILES
    none = FolderBlobs(tmp_path / "none", recycle_bytes=0)
    none.delete([none.put(b"x" * LARGE).digest, none.put(b"small").digest])
    assert files_under(tmp_path / "none" / "recycled") == []


def test_a_recycled_file_has_lost_its_old_name_on_the_disk_too(tmp_path, blobs, monkeypatch):
    ref = blobs.put(b"x" * LARGE)
    done, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    blobs.delete([ref.digest])
    assert done == [str(tmp_path / "recycled"), str(file_of(tmp_path, ref.digest).parent)]


def test_a_blob_with_a_second_name_is_not_recycled(tmp_path, blobs):
    ref = blobs.put(b"x" * LARGE)
    backup = tmp_path / "backup"
    backup.hardlink_to(file_of(tmp_path, ref.digest))
    blobs.delete([ref.digest])
    assert files_under(tmp_path / "recycled") == []
    assert backup.read_bytes() == b"x" * LARGE


def test_at_a_file_size_limit_what_is_held_stays_held(blobs):
    upload = blobs.upload("u")
    with no_file_beyond(10_000):
        upload.append(b"a" * 8_000)
        with pytest.raises(StorageFullError):
            upload.append(b"b" * 8_000)
        assert upload.offset == 10_000
        with pytest.raises(StorageFullError):
            blobs.put(b"c" * 20_000)
    upload.append(b"b" * 6_000)
    assert upload.commit().digest == digest_of(b"a" * 8_000 + b"b" * 8_000)
    assert len(list(blobs.digests())) == 1


def test_on_a_full_disk_what_is_held_stays_held_and_resumes(tmp_path):
    with tiny_disk(tmp_path, 2_000_000):
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        blobs = FolderBlobs(tmp_path)
        kept = blobs.put(b"kept")
        upload = blobs.upload("u")
        with pytest.raises(StorageFullError):
            upload.append(b"z" * 1_900_000)
        held = upload.offset
        assert 0 < held < 1_900_000
        with pytest.raises(StorageFullError):
            blobs.put(b"no room" * 10_000)
        upload.close()
        ballast.unlink()
        upload = FolderBlobs(tmp_path).upload("u")
        assert upload.offset == held
        upload.append(b"z" * (1_900_000 - held))
        assert upload.commit().digest == digest_of(b"z" * 1_900_000)
        assert list(blobs.digests()) == sorted([kept.digest, digest_of(b"z" * 1_900_000)])


def test_recycled_files_make_room_before_a_disk_is_full(tmp_path):
    with tiny_disk(tmp_path, 4_000_000):
        blobs = FolderBlobs(tmp_path)
        blobs.delete([blobs.put(bytes([number]) * LARGE).digest for number in range(2)])
        assert len(files_under(tmp_path / "recycled")) == 2
        upload = blobs.upload("u")
        upload.append(b"x" * 3_500_000)
        assert upload.commit().digest == digest_of(b"x" * 3_500_000)
        assert files_under(tmp_path / "recycled") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_fsync_gives_no_blob_and_keeps_no_doubtful_bytes(blobs, monkeypatch, number):
    def fail(_descriptor):
        raise OSError(number, "simulated")

    upload = blobs.upload("u")
    upload.append(b"hello")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageFullError):
            upload.commit()
        with pytest.raises(StorageFullError):
            blobs.put(b"small")
    assert list(blobs.digests()) == []
    upload = blobs.upload("u")
    assert upload.offset == 0
    upload.discard()


def test_a_commit_is_on_the_disk_before_it_has_a_name(tmp_path, blobs, monkeypatch):
    done, fsync, replace = [], os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(type(tmp_path), "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    upload = blobs.upload("u")
    upload.append(b"hello")
    digest = upload.commit().digest
    assert done == [str(tmp_path / "uploads" / "u"), "rename", str(file_of(tmp_path, digest).parent)]


def test_chunks_of_a_large_blob_lie_in_one_buffer(blobs):
    ref = blobs.put(bytes(LARGE))
    assert len({id(chunk.obj) for chunk in blobs.chunks(ref.digest, 0, LARGE, 64 * 1024)}) == 1


def test_an_object_store_that_does_not_answer_keeps_the_upload(tmp_path):
    nowhere = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        region="nowhere",
        access_key_id="x",
        secret_access_key="x",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    blobs = ObjectBlobs(nowhere, tmp_path)
    upload = blobs.upload("u")
    upload.append(b"hello")
    for call in (upload.commit, lambda: blobs.put(b"x"), lambda: blobs.size("a" * 64), lambda: blobs.has("a" * 64)):
        with pytest.raises(UnavailableError):
            call()
    upload = blobs.upload("u")
    assert upload.offset == 5
    upload.discard()
