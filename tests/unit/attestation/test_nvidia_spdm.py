"""SPDM reports: NVIDIA's own verify, and anything else is refused with one of our errors."""

import base64

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation.nvidia_authority import MEASUREMENTS, MISSING, OPAQUE, REASON, SAMPLES, sign, unsigned

from wardround.attestation import nvidia_device, spdm
from wardround.errors import AttestationError

NONCE = bytes(range(32))
KEY = ec.generate_private_key(ec.SECP384R1())
SMALL = sign(unsigned(NONCE, {1: b"x" * 48, 2: b"y" * 48}, {3: b"1.0\0", 11: b"\xaa"}), KEY)
genuine = pytest.mark.skipif(MISSING, reason=REASON)


def samples():
    report = bytes.fromhex((SAMPLES / "hopperAttestationReport.txt").read_text())
    yield "hopper", report, (SAMPLES / "hopperCertChain.txt").read_bytes()
    for place, one in enumerate(nvidia_device.read((SAMPLES / "switch_evidence.json").read_bytes())):
        yield f"switch{place}", base64.b64decode(one.evidence), base64.b64decode(one.certificate)


@genuine
def test_nvidias_own_gpu_and_switches_verify():
    found = []
    for name, report, chain in samples():
        leaf = x509.load_pem_x509_certificates(chain)[0]
        opened = spdm.parse(report)
        spdm.verify(opened, leaf.public_key())
        found.append((name, len(opened.measurements), opened.nonce[:4].hex()))
    assert found[0] == ("hopper", 64, "931d8dd0")
    assert [one[1:] for one in found[1:]] == [(31, "4760e305")] * 4


@genuine
def test_the_hopper_report_says_what_is_known_of_it():
    report = spdm.parse(bytes.fromhex((SAMPLES / "hopperAttestationReport.txt").read_text()))
    assert report.nonce.hex() == "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"
    assert report.opaque[3] == b"550.90.07\0"
    assert report.measurements[2].hex().startswith("8048dfd18fe229bf16")


@genuine
@pytest.mark.parametrize("place", [4, 20, 36, 37, 41, 60, 700, 3530, 3600, 4020, 4022, 4069, 4116])
def test_one_changed_byte_of_a_genuine_report_is_refused(place):
    report = bytearray.fromhex((SAMPLES / "hopperAttestationReport.txt").read_text())
    leaf = x509.load_pem_x509_certificates((SAMPLES / "hopperCertChain.txt").read_bytes())[0]
    report[place] ^= 1
    with pytest.raises(AttestationError):
        spdm.verify(spdm.parse(bytes(report)), leaf.public_key())


def test_a_report_verifies_with_its_own_key_and_with_no_other():
    spdm.verify(spdm.parse(SMALL), KEY.public_key())
    with pytest.raises(AttestationError, match=r"10\.11\.1"):
        spdm.verify(spdm.parse(SMALL), ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(AttestationError, match="P-384"):
        spdm.verify(spdm.parse(SMALL), ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(AttestationError, match="P-384"):
        spdm.verify(spdm.parse(SMALL), None)


def test_a_signature_of_zeros_is_refused():
    with pytest.raises(AttestationError, match=r"10\.11\.1"):
        spdm.verify(spdm.parse(SMALL[:-96] + bytes(96)), KEY.public_key())


def test_every_length_of_a_report_but_its_own_is_refused():
    for size in range(len(SMALL)):
        with pytest.raises(AttestationError):
            spdm.parse(SMALL[:size])
    for extra in range(1, 40):
        with pytest.raises(AttestationError, match="follow"):
            spdm.parse(SMALL + bytes(extra))
    with pytest.raises(AttestationError, match="65536"):
        spdm.parse(bytes(65537))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (unsigned(NONCE, MEASUREMENTS, OPAQUE, request=b"\x12\xe0\x01\xff"), "SPDM 1.1"),
        (unsigned(NONCE, MEASUREMENTS, OPAQUE, request=b"\x11\xe0\x00\xff"), "no signature"),
        (unsigned(NONCE, MEASUREMENTS, OPAQUE, request=b"\x11\xe0\x01\x01"), "not all"),
        (unsigned(NONCE, MEASUREMENTS, OPAQUE, response=b"\x11\x7f\0\0"), "MEASUREMENTS"),
        (unsigned(NONCE, {0: b"x"}, OPAQUE), "out of range"),
        (unsigned(NONCE, {255: b"x"}, OPAQUE), "out of range"),
    ],
)
def test_another_message_is_refused(what, message):
    with pytest.raises(AttestationError, match=message):
        spdm.parse(sign(what, KEY))


def test_what_comes_twice_is_refused():
    twice = unsigned(NONCE, {1: b"x" * 48, 2: b"y" * 48}, {3: b"a", 4: b"b"})
    block = twice.index(b"\x02\x01\x33\x00")
    with pytest.raises(AttestationError, match="twice"):
        spdm.parse(sign(twice[:block] + b"\x01" + twice[block + 1 :], KEY))
    field = twice.index(b"\x04\x00\x01\x00b")
    with pytest.raises(AttestationError, match="twice"):
        spdm.parse(sign(twice[:field] + b"\x03" + twice[field + 1 :], KEY))


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_hostile_bytes_give_our_error_or_a_report(noise, place, value):
    changed = SMALL[:place] + bytes([value]) + SMALL[place + 1 :]
    for data in (noise, SMALL[:45] + noise, changed):
        try:
            spdm.verify(spdm.parse(data), KEY.public_key())
        except AttestationError:
            continue
        assert data == SMALL


def test_device_evidence_is_read_strictly():
    for data in (b"", b"{}", b"[1]", b'[{"certificate":"","evidence":"","more":1}]', b"[" * 100000):
        with pytest.raises(AttestationError):
            nvidia_device.read(data)
    assert nvidia_device.read(msgspec.json.encode([{"certificate": "", "evidence": ""}]))[0].arch == ""
