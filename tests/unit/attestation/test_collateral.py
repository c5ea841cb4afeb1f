"""Bundles of collateral: signed by enough officers, valid now, not older than the last, never too large."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.attestation import collateral
from wardround.attestation.collateral import AmdCollateral, Bundle, SignedBundle
from wardround.codec import canonical
from wardround.crypto import endorsement, signing
from wardround.errors import AttestationError, CodecError, SignatureError, WardroundError

NOW = 1_000_000.0
OFFICERS = tuple(signing.generate() for _ in range(3))
PUBLIC = tuple(signing.public_bytes(key.public_key()) for key in OFFICERS)


def made(**changes):
    return Bundle(
        **(
            {"consortium": "c", "number": 5, "valid_from": 999_000, "valid_until": 1_100_000, "blobs": {"a": b"x"}}
            | changes
        )
    )


def signed(count=2, **changes):
    found = collateral.unsigned(made(**changes))
    for key in OFFICERS[:count]:
        found = collateral.sign(found, key)
    return found


def opened(bundle, *, quorum=2, now=NOW, **more):
    return collateral.open_bundle(bundle, PUBLIC, quorum, now=now, **more)


def test_a_bundle_that_enough_officers_signed_is_opened():
    assert opened(signed(2)) == made()
    assert opened(signed(3)) == made()


def test_too_few_signatures_refuse():
    with pytest.raises(SignatureError, match="1 valid signatures of this site's 3 officers, and needs 2"):
        opened(signed(1))


def test_one_officer_who_signs_twice_counts_once():
    bundle = collateral.sign(signed(1), OFFICERS[0])
    doubled = SignedBundle(bundle.bundle, bundle.endorsements * 2)
    with pytest.raises(SignatureError):
        opened(doubled)


def test_a_strangers_signature_does_not_count():
    bundle = collateral.sign(signed(1), signing.generate())
    with pytest.raises(SignatureError):
        opened(bundle)


def test_a_signature_for_another_kind_of_document_does_not_count():
    bundle = collateral.unsigned(made())
    other = endorsement.add(b"wardround roster 1\n", bundle.bundle, (), OFFICERS[0])
    with pytest.raises(SignatureError):
        opened(SignedBundle(bundle.bundle, other), quorum=1)


def test_no_quorum_is_no_permission():
    for quorum in (0, -1):
        with pytest.raises(SignatureError):
            opened(signed(3), quorum=quorum)


@given(st.data())
def test_no_byte_of_a_signed_bundle_can_be_changed(data):
    bundle = signed(2)
    at = data.draw(st.integers(0, len(bundle.bundle) - 1))
    forged = bundle.bundle[:at] + bytes([bundle.bundle[at] ^ data.draw(st.integers(1, 255))]) + bundle.bundle[at + 1 :]
    with pytest.raises(SignatureError):
        opened(SignedBundle(forged, bundle.endorsements))


@pytest.mark.parametrize("now", [998_999.0, 1_100_000.0, float("nan"), float("inf")])
def test_a_bundle_is_refused_outside_its_time(now):
    with pytest.raises(AttestationError, match="not valid at this time"):
        opened(signed(), now=now)


def test_a_bundle_older_than_the_last_is_refused():
    assert opened(signed(), minimum_number=5)
    with pytest.raises(AttestationError, match="older than bundle 6"):
        opened(signed(), minimum_number=6)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 0}, {"consortium": ""}, {"valid_until": 999_000}, {"valid_until": 999_000 + 367 * 86400},
        {"valid_from": -1}, {"blobs": {"": b"x"}}, {"blobs": {"a": bytes(1024 * 1024 + 1)}},
        {"blobs": {str(index): b"" for index in range(129)}}, {"intel": ("x",) * 129},
        {"amd": (AmdCollateral(product="Milan", ark=b"x"), AmdCollateral(product="Milan", ark=b"y"))},
    ],
)  # fmt: skip
def test_a_bundle_out_of_bounds_is_neither_made_nor_signed(changes):
    with pytest.raises(CodecError):
        collateral.unsigned(made(**changes))
    with pytest.raises(CodecError):
        collateral.sign(SignedBundle(canonical.encode(made(**changes))), OFFICERS[0])


def test_a_bundle_that_is_too_large_is_refused_before_it_is_read():
    with pytest.raises(CodecError, match="bytes"):
        opened(SignedBundle(bytes(collateral.MAX_BUNDLE_BYTES + 1)))


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"nonsense", b'{"format":"wardround-collateral/2"}'])
def test_signed_nonsense_is_refused(junk):
    found = SignedBundle(junk, endorsement.add(b"wardround collateral 1\n", junk, (), OFFICERS[0]))
    with pytest.raises(WardroundError):
        opened(found, quorum=1)


def test_a_bundle_survives_its_file():
    bundle = signed(3)
    assert msgspec.json.decode(msgspec.json.encode(bundle), type=SignedBundle) == bundle


def test_the_name_of_a_bundle_is_that_of_its_content():
    assert collateral.digest(signed(1)) == collateral.digest(signed(3))
    assert collateral.digest(signed(1)) != collateral.digest(signed(1, number=6))


def test_keys_that_are_none_do_not_count_and_do_not_break():
    bundle = signed(1)
    odd = endorsement.Endorsement(b"short", b"sig")
    found = SignedBundle(bundle.bundle, (odd, *bundle.endorsements))
    assert collateral.open_bundle(found, [b"short", *PUBLIC], 1, now=NOW) == made()


def test_what_a_verifier_holds_cannot_be_changed():
    with pytest.raises(AttributeError):
        made().number = 7
    assert not dataclasses.is_dataclass(made())
