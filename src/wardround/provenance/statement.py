"""Who answers for a package: an in-toto statement about each of its files, signed in a DSSE envelope.

    envelope   {"payloadType", "payload": base64(statement), "signatures": [{"keyid", "sig": base64}]}
    signed     "DSSEv1" SP len(type) SP type SP len(statement) SP statement        (Ed25519)
    statement  subject: every other file of the package with its SHA-256; predicate: SLSA provenance

The key is a researcher's identity key, or another that a site trusts; `keyid` only helps to find it.

References:
    https://github.com/secure-systems-lab/dsse, protocol 1.0.
    https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

import msgspec

from wardround.crypto import signing
from wardround.errors import CryptoError, PackageError, SignatureError
from wardround.provenance.manifest import Manifest, Pin

__all__ = ["PAYLOAD_TYPE", "create", "sign", "signers"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MAX_ENVELOPE = 1024 * 1024
_MOST_SIGNATURES = 16
_KEYID = re.compile(r"[a-z][a-z0-9-]{0,62}")


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payloadType: str  # noqa: N815, DSSE's own spelling
    payload: str
    signatures: tuple[_Signature, ...]


def create(manifest: Manifest, pins: tuple[Pin, ...], files: Mapping[str, bytes]) -> bytes:
    """The statement about a package's `files`, JSON with sorted keys."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return msgspec.json.encode(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "https://wardround.invalid/package/v1",
                    "externalParameters": {"name": manifest.name, "version": manifest.version},
                    "resolvedDependencies": [
                        {"uri": f"pkg:pypi/{pin.name}@{pin.version}", "digest": {"sha256": digest}}
                        for pin in sorted(pins)
                        for digest in pin.hashes
                    ],
                },
                "runDetails": {"builder": {"id": "https://wardround.invalid/package-build/v1"}},
            },
        },
        order="sorted",
    )


def sign(statement: bytes, keys: Mapping[str, signing.PrivateKey]) -> bytes:
    """The envelope of a statement, signed by each key; the keyid is its name.

    Raises:
        PackageError: No key, too many, or a name that none may have.
    """
    if not 1 <= len(keys) <= _MOST_SIGNATURES or not all(_KEYID.fullmatch(name) for name in keys):
        raise PackageError(f"a package is signed by 1 to {_MOST_SIGNATURES} keys with names of a-z, 0-9 and '-'")
    signed = _authenticated(PAYLOAD_TYPE, statement)
    made = tuple(_Signature(name, _base64(signing.sign(signed, keys[name]))) for name in sorted(keys))
    return msgspec.json.encode(_Envelope(PAYLOAD_TYPE, _base64(statement), made), order="sorted")


def signers(envelope: bytes, statement: bytes, keys: Mapping[str, signing.PublicKey]) -> frozenset[str]:
    """Whose signatures of exactly `statement` an envelope from outside holds: names of `keys`.

    Signatures of keys that are not among `keys` say nothing and are passed over; one that is and does not verify
    refuses the envelope.

    Raises:
        PackageError: No envelope, or one of another statement.
        SignatureError: A signature under one of these names is not that key's.
    """
    if len(envelope) > _MAX_ENVELOPE:
        raise PackageError(f"an envelope may have {_MAX_ENVELOPE} bytes")
    try:
        opened = msgspec.json.decode(envelope, type=_Envelope)
        payload = base64.b64decode(opened.payload, validate=True)
        signatures = [(one.keyid, base64.b64decode(one.sig, validate=True)) for one in opened.signatures]
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError):
        raise PackageError("the package's signature is not a DSSE envelope") from None
    if opened.payloadType != PAYLOAD_TYPE or not 1 <= len(signatures) <= _MOST_SIGNATURES:
        raise PackageError(f"the package's envelope holds no in-toto statement with 1 to {_MOST_SIGNATURES} signatures")
    if not hmac.compare_digest(payload, statement):
        raise PackageError("the package's signature is for other files than those in it")
    signed, found = _authenticated(PAYLOAD_TYPE, statement), set[str]()
    for keyid, signature in signatures:
        if keyid in keys:
            try:
                signing.verify(signature, signed, keys[keyid])
            except CryptoError:
                raise SignatureError(f"the package's signature of {keyid} is not made by the key known here") from None
            found.add(keyid)
    return frozenset(found)


def _authenticated(kind: str, body: bytes) -> bytes:
    """DSSE protocol, section "Signature Definition": PAE(type, body)."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(body), body)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
