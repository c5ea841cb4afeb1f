"""Packages: one form, whole, signed, and nothing reaching outside."""

import base64
import io
import json
import os
import subprocess
import sys
import warnings
import zipfile

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import signing
from wardround.errors import CodecError, PackageError, SignatureError
from wardround.provenance import archive, sbom, statement
from wardround.provenance import manifest as manifests
from wardround.provenance import package as packages
from wardround.provenance.manifest import Manifest, Pin

KEY = signing.PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = signing.generate()
KEYS = {"ada": KEY.public_key()}
SOURCES = {"net.py": b"from torch import nn\n", "layers/wide.py": b"x = 1\n"}
MANIFEST = Manifest(name="net", version="1.0.0", factory="net:make", requires=("torch",))
PINS = (Pin("torch", "2.13.0", ("ab" * 32, "cd" * 32)), Pin("numpy", "2.4.6", ("ef" * 32,)))


def built(**changes):
    given = {"sources": SOURCES, "manifest": MANIFEST, "pins": PINS, "keys": {"ada": KEY}} | changes
    return packages.build(**given)


def zipped(entries):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile's own: two entries of a name
        for name, data in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, info.external_attr or 0o644 << 16
            made.writestr(info, data)
    return target.getvalue()


def test_a_package_tells_who_it_is_what_it_pins_and_who_signed_it():
    opened = packages.opened(built(), KEYS)
    assert opened.sources == SOURCES
    assert (opened.manifest, opened.pins, opened.signers) == (MANIFEST, tuple(sorted(PINS)), {"ada"})


def test_a_signature_of_an_unknown_key_says_nothing():
    assert packages.opened(built(), {}).signers == frozenset()
    assert packages.opened(built(keys={"ada": KEY, "eve": OTHER}), KEYS).signers == {"ada"}


def test_a_signature_by_another_key_under_a_known_name_is_refused():
    with pytest.raises(SignatureError):
        packages.opened(built(keys={"ada": OTHER}), KEYS)


@pytest.mark.parametrize("groups", [[["bob"]], [["ada"], ["bob", "eve"]], [[]]])
def test_a_package_that_lacks_a_signature_is_refused(groups):
    opened = packages.opened(built(), KEYS)
    packages.require_signers(opened, [["ada", "bob"]])
    with pytest.raises(PackageError, match="not signed"):
        packages.require_signers(opened, groups)


def test_the_same_sources_are_the_same_bytes_in_another_process_with_another_zone_and_mask(tmp_path):
    program = (
        "import os, sys; os.umask(int(sys.argv[2], 8))\n"
        "from tests.unit.provenance import test_package as t\n"
        "open(sys.argv[1], 'wb').write(t.built())\n"
    )
    made = []
    for zone, mask, hashing in (("UTC", "022", "0"), ("Asia/Kathmandu", "077", "17")):
        target = tmp_path / mask
        environment = os.environ | {"TZ": zone, "PYTHONHASHSEED": hashing}
        subprocess.run([sys.executable, "-c", program, target, mask], env=environment, check=True, timeout=60)
        made.append(target.read_bytes())
    assert made[0] == made[1] == built()


def test_every_altered_byte_is_noticed():
    data = built()
    for place in range(0, len(data), 7):
        altered = bytearray(data)
        altered[place] ^= 0x20
        with pytest.raises((PackageError, SignatureError)):
            packages.opened(bytes(altered), KEYS)


@pytest.mark.parametrize("length", range(0, 1200, 37))
def test_a_cut_package_is_refused(length):
    with pytest.raises(PackageError):
        packages.opened(built()[:length], KEYS)


LINK = zipfile.ZipInfo("net.py", (1980, 1, 1, 0, 0, 0))
LINK.external_attr = 0o120777 << 16
SHRUNK = zipfile.ZipInfo("net.py", (1980, 1, 1, 0, 0, 0))
SHRUNK.compress_type = zipfile.ZIP_DEFLATED
NOTED = zipfile.ZipInfo("net.py", (1980, 1, 1, 0, 0, 0))
NOTED.comment = b"hidden"


@pytest.mark.parametrize(
    "entries",
    [
        [("../net.py", b"")],
        [("/net.py", b"")],
        [("a/../../net.py", b"")],
        [("C:/net.py", b"")],
        [("a\\b.py", b"")],
        [("net.py", b"x"), ("net.py", b"y")],
        [("net.py", b"x"), ("NET.py", b"y")],
        [("net.py", b"x"), ("net.py/inner.py", b"y")],
        [(LINK, b"/etc/passwd")],
        [(SHRUNK, b"x" * 100)],
        [(NOTED, b"x")],
        [("b.py", b""), ("a.py", b"")],
        [("folder/", b""), ("net.py", b"")],
        [("native.so", b"\x7fELF")],
        [("net.py", b""), ("notes.txt", b"")],
        [("hook.pth", b"")],
        [("é.py", b"")],
        [],
    ],
    ids=str,
)
def test_an_archive_that_could_mean_two_things_or_reach_outside_is_refused(entries):
    with pytest.raises(PackageError):
        packages.opened(zipped(entries), {})


def test_a_name_with_a_zero_byte_is_refused():
    data = zipped([("net.py", b""), ("netQpy.txt", b"")])
    with pytest.raises(PackageError):
        packages.opened(data.replace(b"netQpy", b"net\x00py"), {})


def test_bytes_before_after_or_between_entries_are_refused():
    data = built()
    for hidden in (b"#!/bin/sh\n" + data, data + b"more", data[:40] + data[41:]):
        with pytest.raises(PackageError):
            packages.opened(hidden, {})


def test_sources_alone_are_a_package_without_manifest_or_signers():
    opened = packages.opened(archive.write(SOURCES), KEYS)
    assert opened.manifest is None
    assert not opened.signers


@pytest.mark.parametrize("name", sorted(packages.METADATA))
def test_a_package_without_one_of_its_documents_is_refused(name):
    files = archive.read(built())
    del files[name]
    with pytest.raises(PackageError, match="lacks"):
        packages.opened(archive.write(files), KEYS)


def test_a_bill_of_materials_that_leaves_something_out_is_refused():
    files = archive.read(built())
    listed = json.loads(files["sbom.cdx.json"])
    listed["components"].pop()
    files["sbom.cdx.json"] = json.dumps(listed).encode()
    with pytest.raises(PackageError, match="bill of materials"):
        packages.opened(archive.write(files), KEYS)


def test_a_file_added_beside_the_signature_is_refused():
    files = archive.read(built())
    files["extra.py"] = b"import socket\n"
    files["sbom.cdx.json"] = sbom.create(MANIFEST, tuple(sorted(PINS)), {**SOURCES, "extra.py": b"import socket\n"})
    with pytest.raises(PackageError, match="other files"):
        packages.opened(archive.write(files), KEYS)


def test_the_bill_of_materials_is_cyclonedx_in_the_eyes_of_its_own_library():
    document = sbom.create(MANIFEST, PINS, SOURCES)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
    parsed = Bom.from_json(json.loads(document))
    assert {component.name for component in parsed.components} == {"net.py", "layers/wide.py", "torch", "numpy"}
    assert sbom.create(MANIFEST, PINS[::-1], dict(reversed(SOURCES.items()))) == document


def test_the_envelope_is_dsse_as_its_specification_says():
    # protocol.md of secure-systems-lab/dsse: PAE("http://example.com/HelloWorld", "hello world").
    authenticated = statement._authenticated("http://example.com/HelloWorld", b"hello world")
    assert authenticated == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    envelope = json.loads(archive.read(built())["provenance.dsse.json"])
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    KEY.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    stated = json.loads(payload)
    assert {subject["name"] for subject in stated["subject"]} == archive.read(built()).keys() - {"provenance.dsse.json"}


@given(data=st.binary(max_size=300))
@settings(max_examples=200)
def test_bytes_that_are_no_package_are_refused_and_nothing_else(data):
    for call in (
        lambda: packages.opened(data, KEYS),
        lambda: packages.opened(b"PK\x03\x04" + data, KEYS),
        lambda: statement.signers(data, b"", KEYS),
    ):
        with pytest.raises((PackageError, SignatureError)):
            call()


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
def test_a_manifest_or_lock_of_any_bytes_parses_or_is_refused(data):
    for parse in (manifests.parse, manifests.parse_lock):
        try:
            parse(data)
        except PackageError:
            continue


@pytest.mark.parametrize(
    "line",
    [
        b"torch",
        b"torch>=2.0 --hash=sha256:" + b"a" * 64,
        b"torch==2.13.0",
        b"torch==2.13.0 --hash=md5:abc",
        b"torch==2.13.0 --hash=sha256:" + b"A" * 64,
        b"torch @ https://example.org/torch.whl --hash=sha256:" + b"a" * 64,
        b"-r other.txt",
        b"--index-url https://example.org",
        b"torch==2.13.0 --hash=sha256:" + b"a" * 64 + b"\nTORCH==2.12.0 --hash=sha256:" + b"a" * 64,
    ],
)
def test_a_lock_without_exact_versions_and_hashes_is_refused(line):
    with pytest.raises(PackageError):
        manifests.parse_lock(line)


def test_a_lock_as_pip_compile_writes_it_is_read():
    text = b"# by pip-compile\nTorch_Audio==2.1 \\\n    --hash=sha256:%b \\\n    --hash=sha256:%b\n    # via x\n"
    pins = manifests.parse_lock(text % (b"b" * 64, b"a" * 64))
    assert pins == (Pin("torch-audio", "2.1", ("a" * 64, "b" * 64)),)
    assert manifests.parse_lock(manifests.render_lock(pins)) == pins


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Net"},
        {"name": "../net"},
        {"version": "1 0"},
        {"factory": "net"},
        {"factory": "os;system:x"},
        {"python": "3; import os"},
        {"description": 'say "hi"'},
        {"description": "\x1b[2J"},
        {"requires": ("torch", "torch")},
        {"requires": ("torch", "absent")},
    ],
)
def test_a_manifest_with_a_value_that_none_may_have_is_refused(changes):
    fields = {"name": "net", "version": "1", "factory": "net:make", "requires": ("torch",)} | changes
    with pytest.raises(PackageError):
        built(manifest=Manifest(**fields))


def test_a_manifest_is_what_was_rendered():
    made = Manifest(name="net", version="1.0+local", factory="a.b:c", description="It's fine.", requires=("b", "a"))
    assert manifests.parse(manifests.render(made)) == Manifest(
        name="net", version="1.0+local", factory="a.b:c", description="It's fine.", requires=("a", "b")
    )


def test_errors_of_packages_are_errors_of_form():
    assert issubclass(PackageError, CodecError)
