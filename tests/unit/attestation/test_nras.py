"""Tokens of NVIDIA's service: every claim counts, and only its keys. The service is a key made here."""

import hashlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from wardround.attestation import binding, nras
from wardround.attestation.reference import GpuReference, ReferenceValues
from wardround.errors import AttestationError

NOW = 1_735_689_600
NONCE = binding.gpu_nonce(b"report", b"key")
KEY = ECKey.generate_key("P-384", {"kid": "nv-eat-kid-test", "use": "sig"})
JWKS = json.dumps(KeySet([KEY]).as_dict(private=False)).encode()
REFERENCE = ReferenceValues(
    name="test", gpu=GpuReference(architectures=("hopper",), drivers=("550.90.07",), vbios=("96.00.9F.00.01",))
)
STANDARD = {"iss": nras.ISSUER, "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3600, "eat_nonce": NONCE.hex()}
OVERALL = STANDARD | {"sub": "NVIDIA-PLATFORM-ATTESTATION", "x-nvidia-ver": "3.0", "x-nvidia-overall-att-result": True}
DEVICE = STANDARD | {
    "measres": "success",
    "secboot": True,
    "dbgstat": "disabled",
    "hwmodel": "GH100 A01 GSP BROM",
    "ueid": "642960189298007511250958030500749152730221142468",
    "x-nvidia-gpu-arch-check": True,
    "x-nvidia-gpu-attestation-report-nonce-match": True,
    "x-nvidia-gpu-attestation-report-signature-verified": True,
    "x-nvidia-gpu-driver-rim-signature-verified": True,
    "x-nvidia-gpu-vbios-rim-signature-verified": True,
    "x-nvidia-gpu-driver-version": "550.90.07",
    "x-nvidia-gpu-vbios-version": "96.00.9F.00.01",
}


def encode(claims, key=KEY, algorithm="ES384"):
    return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm])


def answer(overall=None, devices=None, *, key=KEY, submods=None):
    detached = {f"GPU-{place}": encode(one, key) for place, one in enumerate(devices or [DEVICE])}
    digests = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(one.encode()).hexdigest()]] for name, one in detached.items()
    }
    return json.dumps(
        [["JWT", encode((overall or OVERALL) | {"submods": digests if submods is None else submods}, key)], detached]
    ).encode()


def verify(token, *, jwks=JWKS, nonce=NONCE, reference=REFERENCE, now=NOW):
    return nras.verify(token, jwks, nonce=nonce, reference=reference, now=now)


def test_a_token_that_says_all_is_well_is_believed():
    (found,) = verify(answer())
    assert found.kind == "nvidia-gpu"
    assert found.tcb == {"architecture": "hopper", "driver": "550.90.07", "vbios": "96.00.9F.00.01"}
    assert found.valid_until == NOW + 3600
    assert found.report_data == NONCE
    assert "not here" in found.warnings[0]


def test_every_device_is_looked_at():
    two = [DEVICE, DEVICE | {"ueid": "2"}]
    assert len(verify(answer(devices=two))) == 2
    with pytest.raises(AttestationError, match="measres"):
        verify(answer(devices=[DEVICE, DEVICE | {"ueid": "2", "measres": "fail"}]))
    with pytest.raises(AttestationError, match="twice"):
        verify(answer(devices=[DEVICE, DEVICE]))


@pytest.mark.parametrize("claim", sorted(OVERALL.keys() - {"nbf"}))
def test_an_overall_claim_that_is_missing_or_another_is_refused(claim):
    with pytest.raises(AttestationError):
        verify(answer({name: value for name, value in OVERALL.items() if name != claim}))
    for value in (None, "other", 0, 1, False, [], {}):
        with pytest.raises(AttestationError):
            verify(answer(OVERALL | {claim: value}))


@pytest.mark.parametrize("claim", sorted(DEVICE.keys() - {"nbf", "ueid"}))
def test_a_devices_claim_that_is_missing_or_another_is_refused(claim):
    with pytest.raises(AttestationError):
        verify(answer(devices=[{name: value for name, value in DEVICE.items() if name != claim}]))
    for value in (None, "other", 0, 1, False, [], {}):
        with pytest.raises(AttestationError):
            verify(answer(devices=[DEVICE | {claim: value}]))


def test_a_token_of_another_key_or_algorithm_is_refused():
    other = ECKey.generate_key("P-384", {"kid": "nv-eat-kid-test"})
    with pytest.raises(AttestationError, match="ES384"):
        verify(answer(key=other))
    unsigned = json.dumps([["JWT", "eyJhbGciOiJub25lIn0.e30."], {"GPU-0": "eyJhbGciOiJub25lIn0.e30."}]).encode()
    with pytest.raises(AttestationError, match="ES384"):
        verify(unsigned)
    with pytest.raises(AttestationError, match="key set"):
        verify(answer(), jwks=b"{}")


def test_only_the_overall_token_says_which_devices_count():
    good = json.loads(answer())
    other = json.loads(answer(devices=[DEVICE | {"ueid": "2"}]))
    with pytest.raises(AttestationError, match=r"4\.2\.18\.2"):
        verify(json.dumps([good[0], other[1]]).encode())
    with pytest.raises(AttestationError, match=r"4\.2\.18"):
        verify(json.dumps([good[0], good[1] | {"GPU-1": other[1]["GPU-0"]}]).encode())
    with pytest.raises(AttestationError, match="1 to 64"):
        verify(json.dumps([good[0], {}]).encode())
    for submods in ({}, [], {"GPU-0": ["DIGEST", ["SHA-512", "x"]]}, {"GPU-0": "all"}):
        with pytest.raises(AttestationError, match=r"4\.2\.18"):
            verify(answer(submods=submods))


@pytest.mark.parametrize("now", [NOW + 3600, NOW + 10**9, NOW - 71, float("nan")])
def test_a_token_is_refused_outside_of_its_time(now):
    with pytest.raises(AttestationError, match="expired"):
        verify(answer(), now=now)


def test_a_token_for_a_year_is_refused():
    with pytest.raises(AttestationError, match="longer than a day"):
        verify(answer(OVERALL | {"exp": NOW + 365 * 86400}))


def test_a_replayed_token_is_refused():
    with pytest.raises(AttestationError, match="another nonce"):
        verify(answer(), nonce=binding.gpu_nonce(b"report", b"other key"))


@pytest.mark.parametrize("changes", [{"architectures": ("blackwell",)}, {"drivers": ("1",)}, {"vbios": ("1",)}])
def test_what_the_reference_values_do_not_name_is_refused(changes):
    reference = msgspec.structs.replace(REFERENCE, gpu=msgspec.structs.replace(REFERENCE.gpu, **changes))
    with pytest.raises(AttestationError, match=next(iter(changes))):
        verify(answer(), reference=reference)


def test_a_device_that_is_never_accepted_is_refused_and_so_is_all_without_a_section():
    (found,) = verify(answer())
    refused = msgspec.structs.replace(REFERENCE, refused_platforms=(found.platform,))
    with pytest.raises(AttestationError, match="refused_platforms"):
        verify(answer(), reference=refused)
    with pytest.raises(AttestationError, match="no section gpu"):
        verify(answer(), reference=ReferenceValues(name="none"))


GOOD = answer()


def test_every_length_but_its_own_is_refused():
    for size in range(0, len(GOOD), 5):
        with pytest.raises(AttestationError):
            verify(GOOD[:size])
    with pytest.raises(AttestationError, match="524288"):
        verify(b" " * 524289)


@settings(max_examples=150)
@given(st.data())
def test_hostile_bytes_are_refused(data):
    place = data.draw(st.integers(0, len(GOOD) - 1))
    changed = GOOD[:place] + data.draw(st.binary(min_size=1, max_size=3)) + GOOD[place + 1 :]
    for one in (data.draw(st.binary(max_size=100)), changed):
        try:
            found = verify(one)
        except AttestationError:
            continue
        assert found == verify(GOOD)


MEMBERS = st.sampled_from(["keys", "kty", "crv", "x", "y", "k"])
PLAIN = st.none() | st.booleans() | st.text(max_size=5) | st.integers(-5, 5)
DOCUMENTS = st.recursive(
    PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(MEMBERS, one, max_size=5), max_leaves=10
)


@settings(max_examples=60)
@given(DOCUMENTS)
def test_hostile_key_sets_are_refused(document):
    with pytest.raises(AttestationError):
        verify(GOOD, jwks=json.dumps(document).encode())
