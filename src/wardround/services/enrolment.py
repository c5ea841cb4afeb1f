"""Enrolment at the hub: one-time invites, certificate requests signed, identities opened."""

import base64

from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.errors import CodecError, ForbiddenError, NotFoundError, SignatureError
from wardround.ids import Digest, SiteId, site_id
from wardround.ports import Clock, Entropy, Registry
from wardround.protocol.messages import Enrolled, Enrolment, Identity, Role

__all__ = ["CERTIFICATE_SECONDS", "Enrolments"]

CERTIFICATE_SECONDS = 90 * 86400.0
_SECRET_BYTES = 24


class Enrolments:
    """Issues invites and certificates, and knows the key of every enrolled name."""

    def __init__(
        self, registry: Registry, clock: Clock, entropy: Entropy, *, authority_key: bytes, authority: bytes
    ) -> None:
        self._registry, self._clock, self._entropy = registry, clock, entropy
        self._authority_key, self._authority = authority_key, authority
        self._keys: dict[bytes, tuple[SiteId, signing.PublicKey, float]] = {}

    def invite(self, name: SiteId, role: Role, lifetime_seconds: float) -> str:
        """A new one-time invite's secret; only its digest is stored."""
        secret = base64.urlsafe_b64encode(self._entropy.draw(_SECRET_BYTES)).decode()
        expires = self._clock.now() + lifetime_seconds
        self._registry.add_invite(_invite_digest(secret), site_id(name), role, expires)
        return secret

    def enrol(self, enrolment: Enrolment) -> Enrolled:
        """Sign a newcomer's certificate request against an invite, which is used up by it.

        Raises:
            InviteError: Unknown, expired, or used.
            CryptoError: The request is not a proper one, or for another name.
        """
        now = self._clock.now()
        invite = _invite_digest(enrolment.invite)
        name, role = self._registry.invited(invite, now)
        issued = certificate.issue(
            enrolment.certificate_request,
            name,
            role,
            self._authority_key,
            self._authority,
            now,
            CERTIFICATE_SECONDS,
        )
        self._registry.enrol(invite, Identity(name, role, issued), now)
        return Enrolled(name, role, issued, self._authority)

    def open(self, name: str) -> tuple[Role, signing.PublicKey]:
        """The role and key of an enrolled name whose certificate is valid now.

        Raises:
            SignatureError: Nobody is enrolled under this name.
            CryptoError: The certificate has expired or is not of this hub's authority.
        """
        try:
            identity = self._registry.identity(site_id(name))
        except (NotFoundError, CodecError):
            raise SignatureError("nobody is enrolled under the name that signs this request") from None
        now = self._clock.now()
        cached = self._keys.get(identity.certificate)
        if cached is None or cached[2] <= now:
            found, _, key = certificate.open_identity(identity.certificate, self._authority, now)
            cached = (SiteId(found), key, certificate.expires(identity.certificate))
            self._keys[identity.certificate] = cached
        if cached[0] != name:
            raise SignatureError("the certificate is another site's")
        return identity.role, cached[1]

    def identity(self, name: SiteId) -> Identity:
        """An enrolled identity.

        Raises:
            NotFoundError: Nobody is enrolled under this name.
        """
        return self._registry.identity(name)

    def require(self, role: Role, *allowed: Role) -> None:
        """Raise unless `role` is among `allowed`.

        Raises:
            ForbiddenError: It is not.
        """
        if role not in allowed:
            raise ForbiddenError(f"a {role} may not do this; it takes a {' or '.join(allowed)}")


def _invite_digest(secret: str) -> Digest:
    return canonical.digest(b"wardround invite 1\n" + secret.encode())
