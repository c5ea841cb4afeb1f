"""Every blob store keeps the port's promises; what only files can break is tested in `test_folder_blobs`."""

import abc
import hashlib
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore
from obstore.store import MemoryStore as ObjectsInMemory

from wardround.errors import CodecError, DigestMismatchError, LocalProtocolError, NotFoundError
from wardround.protocol.plan import BlobRef
from wardround.storage.blobs import FolderBlobs
from wardround.storage.memory import MemoryBlobs
from wardround.storage.objects import ObjectBlobs

ABSENT = "0" * 64
TRICKS = ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b", "a b", "a\n", "é", "a~", "x" * 201]


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


class BlobsContract(abc.ABC):
    names = itertools.count()

    @pytest.fixture
    @abc.abstractmethod
    def blobs(self): ...

    def test_small_bytes_come_back_under_their_digest(self, blobs):
        ref = blobs.put(b"hello")
        assert ref == BlobRef(digest_of(b"hello"), 5)
        assert blobs.has(ref.digest)
        assert blobs.size(ref.digest) == 5
        assert bytes(blobs.read(ref.digest, 1, 3)) == b"el"

    def test_the_same_bytes_may_be_stored_again(self, blobs):
        assert blobs.put(b"hello") == blobs.put(b"hello")
        upload = blobs.upload("again")
        upload.append(b"hello")
        assert upload.commit() == blobs.put(b"hello")
        assert list(blobs.digests()) == [digest_of(b"hello")]

    def test_no_bytes_are_a_blob_too(self, blobs):
        assert blobs.upload("empty").commit() == blobs.put(b"")
        assert bytes(blobs.read(digest_of(b""), 0, 0)) == b""
        assert list(blobs.chunks(digest_of(b""), 0, 0, 10)) == []

    def test_an_absent_blob_is_not_found(self, blobs):
        assert not blobs.has(ABSENT)
        for call in (
            lambda: blobs.size(ABSENT),
            lambda: blobs.read(ABSENT, 0, 1),
            lambda: next(blobs.chunks(ABSENT, 0, 1, 1)),
            lambda: blobs.verify(ABSENT),
        ):
            with pytest.raises(NotFoundError):
                call()

    def test_a_range_beyond_the_end_is_refused(self, blobs):
        ref = blobs.put(b"hello")
        with pytest.raises(DigestMismatchError):
            blobs.read(ref.digest, 0, 6)
        with pytest.raises(DigestMismatchError):
            next(blobs.chunks(ref.digest, 5, 6, 1))

    @pytest.mark.parametrize(("start", "stop"), [(-1, 1), (3, 2)])
    def test_what_is_no_range_is_a_bug_of_the_caller(self, blobs, start, stop):
        ref = blobs.put(b"hello")
        with pytest.raises(ValueError):
            blobs.read(ref.digest, start, stop)
        with pytest.raises(ValueError):
            next(blobs.chunks(ref.digest, start, stop, 1))
        with pytest.raises(ValueError):
            next(blobs.chunks(ref.digest, 0, 5, 0))

    def test_an_upload_is_no_blob_before_it_is_committed(self, blobs):
        upload = blobs.upload("u")
        upload.append(b"hello")
        assert upload.offset == 5
        assert not blobs.has(digest_of(b"hello"))
        assert upload.commit(digest_of(b"hello")) == BlobRef(digest_of(b"hello"), 5)
        blobs.verify(digest_of(b"hello"))

    def test_bytes_other_than_announced_are_discarded(self, blobs):
        upload = blobs.upload("u")
        upload.append(b"hellp")
        with pytest.raises(DigestMismatchError):
            upload.commit(digest_of(b"hello"))
        assert list(blobs.digests()) == []
        again = blobs.upload("u")
        assert again.offset == 0
        again.discard()

    def test_a_closed_upload_resumes_where_it_was(self, blobs):
        upload = blobs.upload("u")
        upload.append(b"hel")
        upload.close()
        upload = blobs.upload("u")
        assert upload.offset == 3
        upload.append(bytearray(b"lo"))
        assert upload.commit().digest == digest_of(b"hello")

    def test_a_discarded_upload_starts_from_zero(self, blobs):
        upload = blobs.upload("u")
        upload.append(b"hel")
        upload.discard()
        upload = blobs.upload("u")
        assert upload.offset == 0
        upload.discard()

    def test_uploads_of_two_names_do_not_mix(self, blobs):
        one, two = blobs.upload("one"), blobs.upload("two")
        one.append(b"1")
        two.append(b"2")
        one.append(b"1")
        assert [two.commit().digest, one.commit().digest] == [digest_of(b"2"), digest_of(b"11")]

    def test_an_ended_upload_takes_no_more(self, blobs):
        for end in ("commit", "close", "discard"):
            upload = blobs.upload("u")
            getattr(upload, end)()
            upload.close()
            upload.discard()
            with pytest.raises(LocalProtocolError):
                upload.append(b"x")
            with pytest.raises(LocalProtocolError):
                upload.commit()
        assert blobs.has(digest_of(b""))

    def test_an_appended_buffer_may_be_used_again_at_once(self, blobs):
        upload, buffer = blobs.upload("u"), bytearray(3_000_000)
        for number in range(3):
            buffer[:] = bytes([number]) * len(buffer)
            upload.append(memoryview(buffer))
        assert upload.commit().digest == digest_of(b"".join(bytes([number]) * len(buffer) for number in range(3)))

    def test_a_deleted_blob_is_gone_and_absent_ones_are_passed_over(self, blobs):
        kept, gone = blobs.put(b"kept"), blobs.put(b"gone")
        blobs.delete([ABSENT, gone.digest, gone.digest])
        assert list(blobs.digests()) == [kept.digest]
        assert not blobs.has(gone.digest)

    @pytest.mark.parametrize("name", TRICKS)
    def test_an_upload_name_cannot_lead_anywhere_else(self, blobs, name):
        with pytest.raises(CodecError):
            blobs.upload(name)

    @pytest.mark.parametrize("digest", [*TRICKS, "A" * 64, "../" + "a" * 61, "a" * 63, "a" * 64 + "\n"])
    def test_a_digest_cannot_lead_anywhere_else(self, blobs, digest):
        for call in (
            lambda: blobs.has(digest),
            lambda: blobs.size(digest),
            lambda: blobs.read(digest, 0, 0),
            lambda: next(blobs.chunks(digest, 0, 0, 1)),
            lambda: blobs.delete([digest]),
            lambda: blobs.verify(digest),
        ):
            with pytest.raises(CodecError):
                call()

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(sessions=st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=4), data=st.data())
    def test_pieces_and_interruptions_do_not_change_the_bytes(self, blobs, sessions, data):
        name, whole = f"law-{next(self.names)}", b""
        for session in sessions:
            upload = blobs.upload(name)
            assert upload.offset == len(whole)
            for piece in session:
                upload.append(piece)
                whole += piece
                assert upload.offset == len(whole)
            upload.close()
        ref = blobs.upload(name).commit()
        assert ref == BlobRef(digest_of(whole), len(whole))
        stop = data.draw(st.integers(0, len(whole)))
        start = data.draw(st.integers(0, stop))
        size = data.draw(st.integers(1, 60))
        pieces = [bytes(chunk) for chunk in blobs.chunks(ref.digest, start, stop, size)]
        assert b"".join(pieces) == bytes(blobs.read(ref.digest, start, stop)) == whole[start:stop]
        assert all(len(piece) == size for piece in pieces[:-1])


class TestMemory(BlobsContract):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()


class TestFolder(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return FolderBlobs(tmp_path)


class TestFolderThatRecycles(BlobsContract):
    """The same with used files at hand, so that uploads are written over what was deleted."""

    @pytest.fixture
    def blobs(self, tmp_path):
        blobs = FolderBlobs(tmp_path)
        blobs.delete([blobs.put(bytes([number]) * 1_100_000).digest for number in range(8)])
        return blobs


class TestObjectsInMemory(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return ObjectBlobs(ObjectsInMemory(), tmp_path)


class TestObjectsInFolder(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        (tmp_path / "objects").mkdir()
        return ObjectBlobs(LocalStore(tmp_path / "objects"), tmp_path / "spool")
