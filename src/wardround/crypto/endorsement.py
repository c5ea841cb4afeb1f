"""Signatures of m of n officers over a document's exact bytes.

Rosters, changes of officers, collateral and reference values are signed so: by people whose keys every node holds in
its own settings, and never by the hub. `context` keeps a signature for one kind of document from counting for another.
"""

from collections.abc import Sequence

import msgspec

from wardround.crypto import signing
from wardround.errors import CryptoError, SignatureError

__all__ = ["MAX_ENDORSEMENTS", "Endorsement", "add", "require"]

MAX_ENDORSEMENTS = 64


class Endorsement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One officer's Ed25519 signature."""

    officer: bytes
    signature: bytes


def add(
    context: bytes, document: bytes, present: Sequence[Endorsement], key: signing.PrivateKey
) -> tuple[Endorsement, ...]:
    """`present` with this officer's signature, sorted by officer; signing twice changes nothing."""
    officer = signing.public_bytes(key.public_key())
    mine = Endorsement(officer, signing.sign(context + document, key))
    others = {endorsement.officer: endorsement for endorsement in present}
    return tuple(value for _, value in sorted((others | {officer: mine}).items()))


def require(
    context: bytes,
    document: bytes,
    unverified: Sequence[Endorsement],
    officers: Sequence[bytes],
    quorum: int,
    *,
    what: str = "document",
) -> None:
    """Refuse unless at least `quorum` of `officers` signed exactly this document.

    Args:
        context: What kind of document it is.
        document: Its exact bytes.
        unverified: The signatures as they came.
        officers: The Ed25519 public keys that this machine trusts.
        quorum: How many of them must have signed, at least 1.
        what: What the document is, in the error's words.

    Raises:
        SignatureError: Too few valid signatures of these officers; a wrong one is not counted.
    """
    trusted, good = set(officers), set()
    for endorsement in unverified[:MAX_ENDORSEMENTS]:
        if endorsement.officer in trusted:
            try:
                key = signing.load_public(endorsement.officer)
                signing.verify(endorsement.signature, context + document, key)
            except CryptoError:
                continue
            good.add(endorsement.officer)
    if quorum < 1 or len(good) < quorum:
        raise SignatureError(
            f"the {what} has {len(good)} valid signatures of this site's {len(trusted)} officers, and needs {quorum}; "
            "ask the officers to sign it"
        )
