"""What a verifier needs from the vendors, carried as one bundle, signed by officers, used without a network.

    AMD      per product: ARK, ASK, ASVK, and the revocation lists of VCEKs and VLEKs
    Intel    per platform family: TCB info, QE identity, their chains and revocation lists (``QuoteCollateralV3``)
    NVIDIA   manifests and roots, as named blobs

    Bundle ──canonical.encode──▶ bytes ──sign──▶ SignedBundle ──open_bundle(officers, quorum, now)──▶ Bundle

The officers vouch that this is what the vendors published when they looked. They cannot vouch for false collateral:
everything in it is signed by the vendors and checked up to roots that are pinned in code. What they could do is hold
back a newer list, and therefore a bundle ends: `valid_until`.

Hazard: a bundle that is still valid may be older than the newest. `minimum_number` refuses what is older than a bundle
that this machine has used.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from wardround.attestation.reference import Product
from wardround.codec import canonical
from wardround.crypto import endorsement, signing
from wardround.crypto.endorsement import Endorsement
from wardround.errors import AttestationError, CodecError
from wardround.ids import Digest

__all__ = [
    "MAX_BUNDLE_BYTES",
    "AmdCollateral",
    "Bundle",
    "SignedBundle",
    "amd",
    "check",
    "check_time",
    "digest",
    "open_bundle",
    "sign",
    "unsigned",
]

MAX_BUNDLE_BYTES = canonical.MAX_DOCUMENT_BYTES
MAX_LIFETIME_SECONDS = 366 * 86400
_MAX_ENTRIES = 128
_MAX_BLOB_BYTES = 1024 * 1024
_CONTEXT = b"wardround collateral 1\n"


class AmdCollateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """AMD's certificates of one product, DER; ASK and ASVK, and the two lists, are each left out where unused."""

    product: Product
    ark: bytes
    ask: bytes = b""
    asvk: bytes = b""
    vcek_crl: bytes = b""
    vlek_crl: bytes = b""


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The collateral itself. `number` counts up; times are whole seconds since 1970-01-01 UTC.

    `intel`: each the JSON text of a ``QuoteCollateralV3``. `blobs`: by name, such as ``nvidia/rim/<id>``.
    """

    format: Literal["wardround-collateral/1"] = "wardround-collateral/1"
    consortium: str
    number: int
    valid_from: int
    valid_until: int
    amd: tuple[AmdCollateral, ...] = ()
    intel: tuple[str, ...] = ()
    blobs: Mapping[str, bytes] = {}


class SignedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle's canonical bytes with its officers' signatures; unverified until `open_bundle`."""

    bundle: bytes
    endorsements: tuple[Endorsement, ...] = ()


def unsigned(bundle: Bundle) -> SignedBundle:
    """A bundle that nobody has signed yet.

    Raises:
        CodecError: See `check`.
    """
    check(bundle)
    return SignedBundle(canonical.encode(bundle))


def sign(signed: SignedBundle, key: signing.PrivateKey) -> SignedBundle:
    """Add an officer's signature.

    Raises:
        CodecError: These bytes are no bundle.
    """
    check(canonical.decode(signed.bundle, Bundle))
    return SignedBundle(signed.bundle, endorsement.add(_CONTEXT, signed.bundle, signed.endorsements, key))


def open_bundle(
    unverified: SignedBundle, officers: Sequence[bytes], quorum: int, *, now: float, minimum_number: int = 0
) -> Bundle:
    """Check the signatures of `quorum` of `officers`, then form, validity and age.

    Raises:
        SignatureError: Too few valid signatures of these officers.
        CodecError: No proper bundle, or too large.
        AttestationError: Not valid now, or older than a bundle that was used before.
    """
    if len(unverified.bundle) > MAX_BUNDLE_BYTES:
        raise CodecError(f"collateral may have {MAX_BUNDLE_BYTES} bytes, this has {len(unverified.bundle)}")
    endorsement.require(_CONTEXT, unverified.bundle, unverified.endorsements, officers, quorum)
    bundle = canonical.decode(unverified.bundle, Bundle)
    check(bundle)
    check_time(bundle, now)
    if bundle.number < minimum_number:
        raise AttestationError(
            f"collateral: bundle {bundle.number} is older than bundle {minimum_number}, which was used before"
        )
    return bundle


def digest(signed: SignedBundle) -> Digest:
    """The name of a bundle: the digest of its canonical bytes, whoever signed them."""
    return canonical.digest(signed.bundle)


def check(bundle: Bundle) -> None:
    """Refuse a bundle that ends before it starts, is valid for more than a year, or has too many or too large parts.

    Raises:
        CodecError: Says what is wrong.
    """
    if not (bundle.consortium.isprintable() and 1 <= len(bundle.consortium) <= 128) or bundle.number < 1:
        raise CodecError("collateral names its consortium and counts from 1")
    if not 0 <= bundle.valid_from < bundle.valid_until <= bundle.valid_from + MAX_LIFETIME_SECONDS:
        raise CodecError("collateral is valid from one time until a later one, for 366 days at most")
    if max(len(bundle.amd), len(bundle.intel), len(bundle.blobs)) > _MAX_ENTRIES:
        raise CodecError(f"collateral has at most {_MAX_ENTRIES} entries of each vendor")
    products = [entry.product for entry in bundle.amd]
    if len(set(products)) != len(products):
        raise CodecError("collateral has AMD's certificates of one product twice")
    sizes = [*map(len, bundle.intel), *map(len, bundle.blobs.values())]
    if any(size > _MAX_BLOB_BYTES for size in sizes) or not all(0 < len(name) <= 128 for name in bundle.blobs):
        raise CodecError(f"a part of the collateral has a name of 1 to 128 characters and {_MAX_BLOB_BYTES} bytes")


def check_time(bundle: Bundle, now: float) -> None:
    """Refuse a bundle that is not valid at `now`.

    Raises:
        AttestationError: Not yet valid, or expired.
    """
    # Written so that a `now` which is not a number refuses.
    if not bundle.valid_from <= now < bundle.valid_until:
        raise AttestationError(
            f"collateral: bundle {bundle.number} is not valid at this time; check the clock, or fetch a newer bundle"
        )


def amd(bundle: Bundle, product: str) -> AmdCollateral:
    """AMD's certificates of `product`.

    Raises:
        AttestationError: The bundle has none.
    """
    found = next((entry for entry in bundle.amd if entry.product == product), None)
    if found is None:
        raise AttestationError(f"collateral: bundle {bundle.number} has no AMD certificates of {product}")
    return found
