"""NVIDIA's chains: to a pinned key, valid now, of authorities, not revoked."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation.nvidia_authority import MISSING, NOW, REASON, SAMPLES, Authority, named

from wardround.attestation import nvidia_chain
from wardround.attestation.nvidia_chain import DEVICE_ROOTS, RIM_ROOTS, Revocation
from wardround.errors import AttestationError

AUTHORITY = Authority()
KEY = ec.generate_private_key(ec.SECP384R1())
LEAF = AUTHORITY.leaf("leaf", KEY)
CHAIN = [LEAF, AUTHORITY.middle, AUTHORITY.root]
NOTHING = Revocation()


def verify(chain=CHAIN, roots=None, now=NOW, revocation=NOTHING):
    return nvidia_chain.verify(chain, AUTHORITY.pins if roots is None else roots, now=now, revocation=revocation)


@pytest.mark.skipif(MISSING, reason=REASON)
@pytest.mark.parametrize(
    ("name", "roots"),
    [
        ("verifier_device_root.pem", DEVICE_ROOTS),
        ("switch_verifier_device_root.pem", DEVICE_ROOTS),
        ("verifier_RIM_root.pem", RIM_ROOTS),
        ("switch_verifier_RIM_root.pem", RIM_ROOTS),
    ],
)
def test_the_pins_are_the_keys_of_nvidias_published_roots(name, roots):
    root = x509.load_pem_x509_certificate((SAMPLES / name).read_bytes())
    der = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert roots == {hashlib.sha256(der).hexdigest()}


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_device_chain_holds_and_names_who_has_no_list():
    chain = nvidia_chain.load_pem((SAMPLES / "hopperCertChain.txt").read_bytes())
    found = nvidia_chain.verify(chain, DEVICE_ROOTS, now=NOW, revocation=NOTHING)
    assert found.leaf == chain[0]
    assert len(found.unlisted) == 4
    with pytest.raises(AttestationError, match="pinned"):
        nvidia_chain.verify(chain, RIM_ROOTS, now=NOW, revocation=NOTHING)


def test_a_chain_to_a_pinned_root_holds_until_its_first_end():
    found = verify()
    assert (found.leaf, found.issuer) == (LEAF, AUTHORITY.middle)
    assert found.valid_until == min(one.not_valid_after_utc.timestamp() for one in CHAIN)


def test_our_own_authority_is_nobody_to_the_pins_that_are_built_in():
    for roots in (DEVICE_ROOTS, RIM_ROOTS, frozenset()):
        with pytest.raises(AttestationError, match="pinned"):
            verify(roots=roots)


def test_a_swapped_or_cut_chain_is_refused():
    other = Authority()
    for chain in ([LEAF, other.middle, AUTHORITY.root], [AUTHORITY.middle, LEAF, AUTHORITY.root]):
        with pytest.raises(AttestationError, match=r"issued by|not one that signs|authority's"):
            verify(chain)
    for chain in ([AUTHORITY.root], [], [LEAF] * 9):
        with pytest.raises(AttestationError, match="2 to 8"):
            verify(chain)


def test_a_root_of_the_same_name_and_another_key_is_refused():
    with pytest.raises(AttestationError, match="pinned"):
        verify([LEAF, AUTHORITY.middle, Authority().root])


@pytest.mark.parametrize("now", [NOW - 2 * 86400, NOW + 4000 * 86400, float("nan"), float("inf")])
def test_a_chain_is_refused_outside_of_its_time(now):
    with pytest.raises(AttestationError, match="not valid now"):
        verify(now=now)


def test_whoever_is_no_authority_issues_nothing():
    inner = AUTHORITY.issue(named("below the leaf"), KEY, LEAF.subject, KEY, ca=False)
    with pytest.raises(AttestationError, match="not an authority's"):
        verify([inner, *CHAIN])
    no_sign = AUTHORITY.issue(
        named("Test Root Intermediate"), AUTHORITY.middle_key, AUTHORITY.root.subject, AUTHORITY.root_key, ca=True,
        usage={"digital_signature": True, "key_cert_sign": False, "crl_sign": True})  # fmt: skip
    with pytest.raises(AttestationError, match="not an authority's"):
        verify([LEAF, no_sign, AUTHORITY.root])


def test_an_authority_signs_no_evidence():
    with pytest.raises(AttestationError, match="not one that signs evidence"):
        verify([AUTHORITY.middle, AUTHORITY.root])


def test_the_path_may_not_be_longer_than_the_root_allows():
    short = Authority(path_length=0)
    leaf = short.leaf("leaf", KEY)
    with pytest.raises(AttestationError, match="more below it"):
        verify([leaf, short.middle, short.root], roots=short.pins)


def test_another_curve_is_refused():
    weak = Authority(curve=ec.SECP256R1())
    leaf = weak.leaf("leaf", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(AttestationError, match="P-384"):
        verify([leaf, weak.middle, weak.root], roots=weak.pins)


def test_a_revoked_certificate_is_refused_by_a_list_and_by_its_fingerprint():
    verify(revocation=Revocation((AUTHORITY.crl(),)))
    with pytest.raises(AttestationError, match=r"6\.3: .* has revoked"):
        verify(revocation=Revocation((AUTHORITY.crl(LEAF),)))
    with pytest.raises(AttestationError, match="withdrawn"):
        verify(revocation=Revocation((), frozenset({AUTHORITY.middle.fingerprint(hashes.SHA256()).hex()})))
    by_root = AUTHORITY.crl(AUTHORITY.middle, key=AUTHORITY.root_key, issuer=AUTHORITY.root.subject)
    with pytest.raises(AttestationError, match="has revoked"):
        verify(revocation=Revocation((by_root,)))


def test_a_list_that_is_not_signed_or_not_current_is_refused():
    with pytest.raises(AttestationError, match=r"6\.3\.3 \(g\)"):
        verify(revocation=Revocation((AUTHORITY.crl(key=KEY),)))
    for now in (NOW - 7200, NOW + 90000):
        with pytest.raises(AttestationError, match=r"6\.3\.3 \(a\)"):
            verify(now=now, revocation=Revocation((AUTHORITY.crl(),)))
    with pytest.raises(AttestationError, match="not DER"):
        verify(revocation=Revocation((b"no list",)))
    with pytest.raises(AttestationError, match="at most 64"):
        verify(revocation=Revocation((b"",) * 65))


def test_a_list_shortens_how_long_the_result_counts_and_is_no_longer_missed():
    found = verify(revocation=Revocation((AUTHORITY.crl(),)))
    assert found.valid_until == NOW + 86400
    assert found.unlisted == ("'Test Root'",)
    assert verify(revocation=Revocation((Authority("Other").crl(),))).unlisted == (
        "'Test Root Intermediate'",
        "'Test Root'",
    )


DER = [one.public_bytes(serialization.Encoding.DER) for one in CHAIN]


@settings(max_examples=150)
@given(st.integers(0, 2), st.data())
def test_a_changed_byte_of_a_certificate_is_refused(which, data):
    place = data.draw(st.integers(0, len(DER[which]) - 1))
    changed = bytearray(DER[which])
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AttestationError):
        verify(nvidia_chain.load_der([bytes(changed) if which == one else DER[one] for one in range(3)]))


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_hostile_bytes_are_no_chain(data):
    for load in (nvidia_chain.load_pem, lambda one: nvidia_chain.load_der([one, one])):
        with pytest.raises(AttestationError):
            load(data)


def test_every_length_of_a_certificate_but_its_own_is_refused():
    for size in range(len(DER[0])):
        with pytest.raises(AttestationError):
            nvidia_chain.load_der([DER[0][:size], DER[1]])
    with pytest.raises(AttestationError, match="65536"):
        nvidia_chain.load_pem(bytes(65537))
