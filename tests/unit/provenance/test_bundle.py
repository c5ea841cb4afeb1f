"""Bundles: whole, signed, with nothing after their end, and never a path."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import signing
from wardround.errors import DigestMismatchError, PackageError, SignatureError, StorageFullError
from wardround.ids import Digest, SiteId
from wardround.provenance import bundle
from wardround.provenance.bundle import Index, Part
from wardround.storage import bundle_file

KEY = signing.PrivateKey.from_private_bytes(bytes(range(32)))
BODIES = {"plan": b"the plan", "package": b"", "initial": bytes(range(256)) * 9000}


def index(**changes):
    parts = tuple(Part(role, Digest(hashlib.sha256(data).hexdigest()), len(data)) for role, data in BODIES.items())
    fields = {"exporter": SiteId("ada"), "certificate": b"pem", "exported_at": 5, "study": "ab" * 32, "parts": parts}
    return Index(**fields | changes)


@pytest.fixture
def written(tmp_path):
    sources = []
    for role, data in BODIES.items():
        (tmp_path / role).write_bytes(data)
        sources.append(tmp_path / role)
    bundle_file.write(tmp_path / "study.bundle", index(), sources, KEY)
    return tmp_path / "study.bundle"


def read(path, key=KEY):
    with bundle_file.read(path, lambda _: key.public_key()) as (found, files):
        return found, {role: file.read_bytes() for role, file in files.items()}


def test_what_was_written_is_read(written):
    assert read(written) == (index(), BODIES)


def test_its_files_are_gone_afterwards(written):
    with bundle_file.read(written, lambda _: KEY.public_key()) as (_, files):
        kept = list(files.values())
        assert all(file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0 for file in kept)
    assert not any(file.exists() for file in kept)


def test_a_bundle_is_not_overwritten(written):
    before = written.read_bytes()
    with pytest.raises(PackageError, match="not overwritten"):
        bundle_file.write(written, index(), [], KEY)
    assert written.read_bytes() == before


def test_a_bundle_that_could_not_be_written_leaves_nothing(tmp_path):
    for role in BODIES:
        (tmp_path / role).write_bytes(b"another")
    with pytest.raises(DigestMismatchError):
        bundle_file.write(tmp_path / "study.bundle", index(), [tmp_path / role for role in BODIES], KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BODIES)


def test_every_altered_byte_is_noticed(written):
    data = written.read_bytes()
    head = len(data) - sum(map(len, BODIES.values()))
    for place in [*range(0, head, 5), head, head + 8, len(data) - 1, len(data) // 2]:
        altered = bytearray(data)
        altered[place] ^= 1
        written.write_bytes(altered)
        with pytest.raises((PackageError, SignatureError, DigestMismatchError)):
            read(written)


def test_a_cut_bundle_and_one_with_more_are_refused(written):
    data = written.read_bytes()
    for length in [*range(0, 900, 23), len(data) - 1]:
        written.write_bytes(data[:length])
        with pytest.raises((PackageError, DigestMismatchError)):
            read(written)
    written.write_bytes(data + b"\x00")
    with pytest.raises(PackageError, match="after its last part"):
        read(written)


def test_another_exporter_s_signature_is_refused(written):
    with pytest.raises(SignatureError):
        read(written, signing.generate())


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": ()},
        {"parts": (Part("plan", Digest("../../etc/passwd"), 1),)},
        {"parts": (Part("plan", Digest("ab" * 32), -1),)},
        {"parts": (Part("plan", Digest("ab" * 32), 1), Part("plan", Digest("cd" * 32), 1))},
        {"exporter": SiteId("../ada")},
        {"study": "nothing"},
        {"exported_at": -1},
    ],
)
def test_an_index_that_none_may_have_is_refused(changes):
    with pytest.raises(PackageError):
        bundle.unverified_index(bundle.canonical.encode(index(**changes)))


def test_a_bundle_that_claims_too_much_is_refused_before_anything_is_copied(tmp_path):
    huge = index(parts=(Part("initial", Digest("ab" * 32), bundle_file.MAX_BUNDLE_BYTES + 1),))
    (tmp_path / "huge").write_bytes(bundle.start(huge, KEY))
    with pytest.raises(PackageError, match="may hold"):
        read(tmp_path / "huge")
    (tmp_path / "long").write_bytes(bundle.MAGIC + (2**40).to_bytes(8, "big"))
    with pytest.raises(PackageError, match="index"):
        read(tmp_path / "long")


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
def test_bytes_that_are_no_bundle_are_refused_and_nothing_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random"
    for body in (data, bundle.MAGIC + data, bundle.MAGIC + len(data).to_bytes(8, "big") + data + bytes(64)):
        path.write_bytes(body)
        with pytest.raises((PackageError, SignatureError)):
            read(path)


def test_a_full_disk_is_said(written, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_file, "_copy", full)
    with pytest.raises(StorageFullError):
        read(written)
