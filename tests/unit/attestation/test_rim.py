"""Manifests: NVIDIA's own verify, and what is not signed, not active or not NVIDIA's is refused."""

import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from signxml.algorithms import CanonicalizationMethod
from tests.unit.attestation.nvidia_authority import (
    MISSING,
    NOW,
    REASON,
    SAMPLES,
    Authority,
    golden_of,
    signed,
    swidtag,
)

from wardround.attestation import rim
from wardround.attestation.nvidia_chain import Revocation
from wardround.errors import AttestationError

AUTHORITY = Authority()
NOTHING = Revocation()
GOLDEN = golden_of(range(1, 4), others=[0])
GOOD = signed(swidtag("1.0", GOLDEN), AUTHORITY)
DS = "{http://www.w3.org/2000/09/xmldsig#}"


def verify(document=GOOD, *, now=NOW, revocation=NOTHING, roots=AUTHORITY.pins):
    return rim.verify(document, now=now, revocation=revocation, roots=roots)


@pytest.mark.skipif(MISSING, reason=REASON)
def test_all_of_nvidias_own_manifests_verify_body_and_chain():
    found = {}
    for path in sorted((SAMPLES / "rims").iterdir()):
        one = rim.verify(path.read_bytes(), now=NOW, revocation=NOTHING)
        found[path.name] = (one.version, sum(golden.active for golden in one.golden.values()), len(one.golden))
    assert len(found) == 26
    assert found["Driver_RIM_test_no_gpu.swidtag"] == ("545.00", 21, 64)
    assert {one[1:] for name, one in found.items() if "Driver" not in name} == {(12, 64)}
    # The file's name is not signed, what it says of itself is: the two agree.
    for name, (version, *_) in found.items():
        assert "Driver" in name or version.replace(".", "") in name


@pytest.mark.skipif(MISSING, reason=REASON)
@pytest.mark.parametrize(
    ("was", "now_is"),
    [
        (b'colloquialVersion="545.00"', b'colloquialVersion="550.00"'),
        (b'active="True"', b'active="False"'),
        (b"0e0ee161b59bf124", b"0e0ee161b59bf125"),
        (b'alternatives="2"', b'alternatives="1"'),
        (b'name="GH100"', b'name="GH200"'),
    ],
)
def test_a_changed_body_of_nvidias_own_manifest_is_refused(was, now_is):
    document = (SAMPLES / "rims" / "Driver_RIM_test_no_gpu.swidtag").read_bytes()
    assert was in document
    with pytest.raises(AttestationError, match=r"XML Signature 1\.1, 3\.2"):
        rim.verify(document.replace(was, now_is, 1), now=NOW, revocation=NOTHING)


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_manifest_is_refused_once_its_signer_has_expired():
    document = (SAMPLES / "rims" / "Driver_RIM_test_no_gpu.swidtag").read_bytes()
    with pytest.raises(AttestationError, match=r"not valid now: only from 2023-06-27 to 2025-06-26"):
        rim.verify(document, now=NOW + 400 * 86400, revocation=NOTHING)


def test_a_manifest_is_read_as_it_was_signed():
    found = verify()
    assert (found.name, found.version, found.tag) == ("GH100", "1.0", "test")
    assert [golden.active for _, golden in sorted(found.golden.items())] == [False, True, True, True]
    assert found.golden[1].values == tuple(GOLDEN[1][1])


def test_exclusive_canonicalization_verifies_too():
    document = signed(swidtag("1.0", GOLDEN), AUTHORITY, c14n=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0)
    assert b"xml-exc-c14n#" in document
    assert verify(document).version == "1.0"


def test_our_own_authority_is_nobody_to_the_pin_that_is_built_in():
    with pytest.raises(AttestationError, match="pinned"):
        rim.verify(GOOD, now=NOW, revocation=NOTHING)


def test_a_withdrawn_signer_is_refused():
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = AUTHORITY.leaf("RIM Signer", key)
    document = signed(swidtag("1.0", GOLDEN), AUTHORITY, key=key, leaf=leaf)
    verify(document)
    with pytest.raises(AttestationError, match="has revoked"):
        verify(document, revocation=Revocation((AUTHORITY.crl(leaf),)))


def test_a_body_signed_by_another_key_than_the_chains_is_refused():
    leaf = AUTHORITY.leaf("RIM Signer", ec.generate_private_key(ec.SECP384R1()))
    document = signed(swidtag("1.0", GOLDEN), AUTHORITY, leaf=leaf)
    with pytest.raises(AttestationError, match=r"XML Signature 1\.1, 3\.2"):
        verify(document)


def test_a_document_type_is_refused_before_anything_is_resolved():
    for entity in ('<!ENTITY a "b">', '<!ENTITY a SYSTEM "file:///etc/hostname">', ""):
        document = f"<!DOCTYPE SoftwareIdentity [{entity}]>".encode() + GOOD
        with pytest.raises(AttestationError, match="DTD"):
            verify(document)
    with pytest.raises(AttestationError, match="DTD"):
        verify(b'<!DOCTYPE SoftwareIdentity SYSTEM "http://localhost/x.dtd">' + GOOD)


def test_entities_cannot_be_multiplied():
    layers = "".join(f'<!ENTITY a{place} "{("&a" + str(place - 1) + ";") * 10}">' for place in range(1, 12))
    document = f'<!DOCTYPE x [<!ENTITY a0 "lol">{layers}]><x>&a11;</x>'.encode()
    with pytest.raises(AttestationError, match=r"DTD|not an XML"):
        verify(document)


def test_a_wrapped_signature_is_refused():
    # The signed document is kept, whole, inside of a forged one: what counts is what the signature covers.
    inside = GOOD.decode()
    forged = swidtag("6.6", golden_of(range(1, 4), wrong=[1, 2, 3]), last=inside)
    with pytest.raises(AttestationError, match="one signature"):
        verify(forged)
    moved = GOOD.replace(b"<ns0:Payload>", b"<ns0:Payload/><ns0:Payload>", 1)
    with pytest.raises(AttestationError, match=r"XML Signature 1\.1, 3\.2"):
        verify(moved)


@pytest.mark.parametrize(
    ("was", "now_is", "message"),
    [
        (rb'Reference URI=""', rb'Reference URI="#test"', "whole document"),
        (rb'<ds:Reference URI="">', rb"<ds:Reference>", "whole document"),
        (rb"ecdsa-sha384", rb"ecdsa-sha256", "SHA-384"),
        (rb"xmldsig-more#sha384", rb"xmldsig-more#sha224", "SHA-384"),
        (rb"2000/09/xmldsig#enveloped-signature", rb"TR/1999/REC-xslt-19991116", "whole document"),
        (rb"<ds:CanonicalizationMethod[^>]*/>", rb"", "0 elements CanonicalizationMethod"),
        (rb"<ds:X509Certificate>", rb"<ds:X509Certificate>!", "not base64"),
        (rb"<ds:X509Data>.*</ds:X509Data>", rb"", "2 to 8"),
    ],
)
def test_a_signature_of_another_form_is_refused(was, now_is, message):
    changed = re.sub(was, now_is, GOOD, count=1, flags=re.DOTALL)
    assert changed != GOOD
    with pytest.raises(AttestationError, match=message):
        verify(changed)


def test_a_document_without_a_signature_is_refused():
    with pytest.raises(AttestationError, match="has 0"):
        verify(swidtag("1.0", GOLDEN))
    with pytest.raises(AttestationError, match="SoftwareIdentity"):
        verify(b"<a/>")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (swidtag("", GOLDEN), "which version"),
        (swidtag("1.0", golden_of([], others=[0, 1])), "no active"),
        (swidtag("1.0", {1: ("True", [b"short"])}), "48 bytes"),
        (swidtag("1.0", {1: ("maybe", [bytes(48)])}), "active"),
        (swidtag("1.0", {999: ("True", [bytes(48)])}), "0 to 255"),
        (swidtag("1.0", {-1: ("True", [bytes(48)])}), "0 to 255"),
        (swidtag("1.0", {1: ("True", [])}), "active"),
        (swidtag("1.0", {1: ("True", [bytes(48)] * 17)}), "0 to 16"),
        (swidtag("1.0", GOLDEN, inner="<ns0:Payload/>"), "one Meta and one Payload"),
        (swidtag("1.0", dict.fromkeys(range(300), ("True", [bytes(48)]))), "at most 256"),
    ],
)
def test_a_signed_manifest_that_says_too_little_or_too_much_is_refused(document, message):
    with pytest.raises(AttestationError, match=message):
        verify(signed(document, AUTHORITY))


def test_an_index_that_comes_twice_is_refused():
    document = swidtag("1.0", GOLDEN).replace(b'index="2"', b'index="1"')
    with pytest.raises(AttestationError, match="twice"):
        verify(signed(document, AUTHORITY))


def test_every_length_of_a_manifest_but_its_own_is_refused():
    for size in range(0, len(GOOD), 7):
        with pytest.raises(AttestationError):
            verify(GOOD[:size])
    with pytest.raises(AttestationError, match="262144"):
        verify(b" " * 262145)


@settings(max_examples=150)
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing_that_counts(data):
    place = data.draw(st.integers(0, len(GOOD) - 1))
    changed = bytearray(GOOD)
    changed[place] ^= data.draw(st.integers(1, 127))
    try:
        found = verify(bytes(changed))
    except AttestationError:
        return
    # XML can spell one document in several ways; what is read is the same.
    assert found.golden == verify().golden
    assert found.version == "1.0"


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_hostile_bytes_are_no_manifest(data):
    with pytest.raises(AttestationError):
        verify(data)


def test_the_tests_own_signer_puts_the_signature_where_nvidia_does():
    assert etree.fromstring(GOOD)[-1].tag == f"{DS}Signature"
