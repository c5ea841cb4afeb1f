"""Enrolment at the hub: one-time invites, certificate requests signed and renewed, identities opened.

    a name's row in the registry:   certificate of its connection key ‖ certificate of its document key    (PEM)

The connection key signs requests and opens TLS; its certificate ends after a day and its holder renews it,
with another key whenever it likes. The document key signs plans, decisions and rosters; it stays, so that
what was signed yesterday verifies today, and its certificate is written anew at every renewal. A row with one
certificate is of an identity whose one key does both.

After its end a connection's certificate opens nothing but its own renewal, for the time of grace.
"""

import base64
from collections.abc import Sequence
from typing import NamedTuple

from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.errors import CodecError, ConflictError, CryptoError, ForbiddenError, NotFoundError, SignatureError
from wardround.ids import Digest, SiteId, site_id
from wardround.ports import Clock, Entropy, Registry
from wardround.protocol.messages import Enrolled, Enrolment, Identity, Renewal, Role

__all__ = ["CERTIFICATE_SECONDS", "DOCUMENT_SECONDS", "GRACE_SECONDS", "Enrolments"]

CERTIFICATE_SECONDS = 86400.0
GRACE_SECONDS = 30 * 86400.0
DOCUMENT_SECONDS = 366 * 86400.0
_SECRET_BYTES = 24


class _Known(NamedTuple):
    """What a registry's row came to when it was opened."""

    stored: bytes
    key: signing.PublicKey
    expires: float


class Enrolments:
    """Issues invites and certificates, and knows the keys of every enrolled name.

    `url` is where machines connect once they are enrolled; empty: where they enrolled.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        entropy: Entropy,
        *,
        authority_key: bytes,
        authority: bytes,
        url: str = "",
        certificate_seconds: float = CERTIFICATE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._registry, self._clock, self._entropy = registry, clock, entropy
        self._authority_key, self._authority = authority_key, authority
        self._url, self._seconds, self._grace = url, certificate_seconds, grace_seconds
        self._keys: dict[SiteId, _Known] = {}

    def trust(self, authority_key: bytes, authority: bytes) -> None:
        """Issue with this key from now on, and trust these authorities, of which the first one issues."""
        self._authority_key, self._authority = authority_key, authority
        self._keys = {}

    def invite(self, name: SiteId, role: Role, lifetime_seconds: float) -> str:
        """A new one-time invite's secret; only its digest is stored."""
        secret = base64.urlsafe_b64encode(self._entropy.draw(_SECRET_BYTES)).decode()
        expires = self._clock.now() + lifetime_seconds
        self._registry.add_invite(_invite_digest(secret), site_id(name), role, expires)
        return secret

    def enrol(self, enrolment: Enrolment) -> Enrolled:
        """Sign a newcomer's certificate requests against an invite, which is used up by it.

        Raises:
            InviteError: Unknown, expired, or used.
            CryptoError: A request is not a proper one, for another name, or for a key that is another's.
        """
        now = self._clock.now()
        invite = _invite_digest(enrolment.invite)
        name, role = self._registry.invited(invite, now)
        keys = [certificate.open_request(enrolment.certificate_request, name)]
        if enrolment.document_request:
            keys.append(certificate.open_request(enrolment.document_request, name))
        self._check_unused(name, keys)
        issued = self._issue(name, role, keys)
        self._registry.enrol(invite, Identity(name, role, b"".join(issued)), now)
        return self._answer(name, role, issued)

    def renew(self, name: SiteId, renewal: Renewal) -> Enrolled:
        """Sign the request for an enrolled name's next connection key, which is the only one from now on.

        The same request again, because its answer was lost, is answered with what was issued.

        Raises:
            SignatureError: The name is not enrolled, or was revoked meanwhile.
            CryptoError: The request is not a proper one, for another name, or for a key that is another's.
            ConflictError: Another renewal of this name came between.
        """
        identity, now = self._enrolled(name), self._clock.now()
        key = certificate.open_request(renewal.certificate_request, name)
        held = certificate.split(identity.certificate)
        present = self._opened(held[0], "connection", grace=True)
        start, end = certificate.issued(held[0]), certificate.expires(held[0])
        if _bytes(present) == _bytes(key) and now < (start + end) / 2:
            return self._answer(name, identity.role, held)
        keys = [key]
        if len(held) > 1:
            keys.append(certificate.open_identity(held[1], self._authority, now, grace_seconds=DOCUMENT_SECONDS)[2])
        self._check_unused(name, keys)
        issued = self._issue(name, identity.role, keys)
        renewed = Identity(name, identity.role, b"".join(issued))
        try:
            self._registry.replace(renewed, before=identity.certificate)
        except ConflictError:
            # Either somebody renewed at the same moment, or the name was revoked: then this says so.
            self._enrolled(name)
            raise
        return self._answer(name, identity.role, issued)

    def open(self, name: str) -> tuple[Role, signing.PublicKey]:
        """The role and connection key of an enrolled name whose certificate is valid now.

        Raises:
            SignatureError: Nobody is enrolled under this name.
            CryptoError: The certificate has expired or is not of this hub's authority.
        """
        identity = self._enrolled(name)
        now = self._clock.now()
        known = self._keys.get(identity.name)
        if known is None or known.stored != identity.certificate or not now < known.expires:
            connection = certificate.split(identity.certificate)[0]
            key = self._opened(connection, "connection", name=name)
            known = _Known(identity.certificate, key, certificate.expires(connection))
            self._keys[identity.name] = known
        return identity.role, known.key

    def open_for_renewal(self, name: str) -> signing.PublicKey:
        """The connection key of an enrolled name, also for the time of grace after its certificate's end.

        Raises:
            SignatureError: Nobody is enrolled under this name.
            CryptoError: The certificate expired too long ago or is not of this hub's authority.
        """
        identity = self._enrolled(name)
        return self._opened(certificate.split(identity.certificate)[0], "connection", name=name, grace=True)

    def signer(self, name: str) -> signing.PublicKey:
        """The key with which an enrolled name signs documents.

        Raises:
            SignatureError: Nobody is enrolled under this name.
            CryptoError: The certificate has expired or is not of this hub's authority.
        """
        return self._opened(_document(self._enrolled(name)), None, name=name)

    def identity(self, name: SiteId) -> Identity:
        """An enrolled identity with the certificate of the key that signs its documents.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
        """
        found = self._registry.identity(name)
        return Identity(found.name, found.role, _document(found))

    def revoked(self) -> frozenset[SiteId]:
        """Names whose requests are refused."""
        return self._registry.revoked()

    def require(self, role: Role, *allowed: Role) -> None:
        """Raise unless `role` is among `allowed`.

        Raises:
            ForbiddenError: It is not.
        """
        if role not in allowed:
            raise ForbiddenError(f"a {role} may not do this; it takes a {' or '.join(allowed)}")

    def _enrolled(self, name: str) -> Identity:
        try:
            return self._registry.identity(site_id(name))
        except (NotFoundError, CodecError):
            raise SignatureError("nobody is enrolled under the name that signs this request") from None

    def _opened(
        self, one: bytes, purpose: certificate.Purpose | None, *, name: str = "", grace: bool = False
    ) -> signing.PublicKey:
        seconds = self._grace if grace else 0.0
        found, _, key = certificate.open_identity(
            one, self._authority, self._clock.now(), purpose=purpose, grace_seconds=seconds
        )
        if name and found != name:
            raise SignatureError("the certificate is another site's")
        return key

    def _issue(self, name: SiteId, role: Role, keys: Sequence[signing.PublicKey]) -> list[bytes]:
        now = self._clock.now()
        plans: tuple[tuple[certificate.Purpose, float], ...] = (
            ("connection", self._seconds),
            ("document", DOCUMENT_SECONDS),
        )
        return [
            certificate.certify(key, name, role, self._authority_key, self._authority, now, seconds, purpose=purpose)
            for key, (purpose, seconds) in zip(keys, plans, strict=False)
        ]

    def _check_unused(self, name: SiteId, keys: Sequence[signing.PublicKey]) -> None:
        """One key is one name's, and does one thing: whoever has it twice could speak as two."""
        wanted = {_bytes(key) for key in keys}
        if len(wanted) != len(keys):
            raise CryptoError("connections and documents need a key each: make another one")
        for other in self._registry.identities():
            if other.name != name:
                held = certificate.split(other.certificate)
                if any(_bytes(certificate.public_key(one)) in wanted for one in held):
                    raise CryptoError(f"the key is in use under another name than {name}: make another one")

    def _answer(self, name: SiteId, role: Role, issued: Sequence[bytes]) -> Enrolled:
        document = issued[1] if len(issued) > 1 else b""
        return Enrolled(name, role, issued[0], self._authority, document, self._url)


def _document(identity: Identity) -> bytes:
    return certificate.split(identity.certificate)[-1]


def _bytes(key: signing.PublicKey) -> bytes:
    return signing.public_bytes(key)


def _invite_digest(secret: str) -> Digest:
    return canonical.digest(b"wardround invite 1\n" + secret.encode())
