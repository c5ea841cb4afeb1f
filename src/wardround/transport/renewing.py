"""Renewal from the holder's side: the next key is on the disk before it is asked for, and a lost answer is asked again.

    stage the next key ─▶ POST /v1/renewals, signed by the present one ─▶ authorities, document, connection replaced
                               └ refused: the hub may have switched, its answer lost ─▶ the same, signed by the next one

Renewals go to the hub's public address: there no client certificate is asked for, so that one which has ended
can still renew itself for the time of grace that the hub allows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround.crypto import certificate, signing
from wardround.errors import CryptoError, SignatureError
from wardround.ids import SiteId
from wardround.protocol.messages import Enrolled, Renewal
from wardround.transport import credential
from wardround.transport.credential import Credential
from wardround.transport.http import HttpHub

__all__ = ["Place", "check", "is_due", "renew", "replace"]


@dataclass(frozen=True, slots=True)
class Place:
    """Whose identity it is, where it is renewed, and the files that it is kept in."""

    name: SiteId
    url: str
    connection: Path
    document: Path
    authority: Path


def is_due(place: Place, now: float) -> bool:
    """Whether the half of the connection's certificate is over."""
    return now >= credential.load(place.connection).due(0.0)


def renew(place: Place, *, unless: Callable[[Credential], bool] = lambda _: False) -> Credential:
    """Have the connection's next key certified, and keep everything that came with it.

    `unless` looks at the credential once no other process renews it; where it says yes, that is the answer.

    Raises:
        SignatureError: The hub knows neither the present nor the next key: the name was revoked, perhaps.
        CryptoError: The certificate ended too long ago; or the answer is not the hub's, or not for this key.
        UnavailableError: The hub did not answer.
    """
    with credential.locked(place.connection):
        present = credential.load(place.connection)
        if unless(present):
            return present
        key = credential.stage(place.connection)
        asked = Renewal(certificate.request(place.name, key))
        try:
            enrolled = _ask(place, present.key, asked)
        except SignatureError:
            enrolled = _ask(place, key, asked)
        return _keep(place, key, enrolled)


def replace(place: Place, key: signing.PrivateKey, enrolled: Enrolled) -> Credential:
    """Keep what a second enrolment of the same name gave; the name's documents are signed as before.

    Raises:
        CryptoError: It is not for this name and key.
    """
    with credential.locked(place.connection):
        return _keep(place, key, enrolled)


def _ask(place: Place, key: signing.PrivateKey, asked: Renewal) -> Enrolled:
    authority = place.authority.read_bytes()
    hub = HttpHub(place.url, name=place.name, credential=credential.bare(key), authority=authority)
    try:
        return hub.renew(asked)
    finally:
        hub.close()


def _keep(place: Place, key: signing.PrivateKey, enrolled: Enrolled) -> Credential:
    trusted = set(certificate.split(place.authority.read_bytes()))
    if trusted.isdisjoint(certificate.split(enrolled.authority)):
        raise CryptoError("the hub names authorities of which this machine trusts none; ask its operator")
    check(enrolled, place.name, key, enrolled.authority)
    credential.replace_private(place.authority, enrolled.authority)
    if enrolled.document:
        credential.replace_private(place.document, enrolled.document)
    return credential.commit(place.connection, key, enrolled.certificate)


def check(enrolled: Enrolled, name: SiteId, key: signing.PrivateKey, authority: bytes) -> None:
    """Raise unless these are certificates of `name`, the connection's for `key`.

    Raises:
        CryptoError: They are not.
    """
    now = time.time()
    found, role, public = certificate.open_identity(enrolled.certificate, authority, now, purpose="connection")
    is_mine = signing.public_bytes(public) == signing.public_bytes(key.public_key())
    if not is_mine or (found, role) != (name, enrolled.role):
        raise CryptoError("the hub has signed a certificate for another name or key than was asked for")
    if enrolled.document:
        found, role, _ = certificate.open_identity(enrolled.document, authority, now, purpose="document")
        if (found, role) != (name, enrolled.role):
            raise CryptoError("the hub has signed a document certificate for another name than was asked for")
