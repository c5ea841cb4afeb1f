"""Who sends a request: the signature over it, by a key that is enrolled here, seen for the first time."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from wardround.crypto import http_signature
from wardround.crypto.replay import ReplayGuard
from wardround.errors import DigestMismatchError, SignatureError, WrongChallengeError
from wardround.ids import Digest, SiteId, digest_name
from wardround.ports import Clock
from wardround.protocol.messages import Role
from wardround.services.enrolment import Enrolments

__all__ = ["Authentication", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated sender, and the digest that its signature covers."""

    name: SiteId
    role: Role
    digest: bytes


class Authentication:
    """Checks requests in this order: form, challenge, key, signature, time and nonce."""

    def __init__(self, enrolments: Enrolments, clock: Clock, *, challenge: str, window_seconds: float) -> None:
        self._enrolments, self._clock = enrolments, clock
        self._guard = ReplayGuard(window_seconds)
        self.challenge = challenge

    def check(self, method: str, target: str, headers: Mapping[str, str], *, content: bytes | None) -> Caller:
        """The sender of a request. `content` is the whole body's SHA-256, or None where it comes as a stream.

        Raises:
            SignatureError: No proper signature of an enrolled key over exactly this request.
            DigestMismatchError: The body is not the one that was signed.
            StaleRequestError: Too old, from the future, or seen before.
            WrongChallengeError: Signed for an earlier start of this hub.
        """
        unverified = http_signature.parse(method, target, headers)
        role, key = self._enrolments.open(unverified.keyid)
        unverified.verify(key)
        if not hmac.compare_digest(unverified.tag, self.challenge):
            raise WrongChallengeError("sign again with this hub's present challenge")
        self._guard.check(unverified.keyid, unverified.nonce, unverified.created, self._clock.now())
        if unverified.whole is (content is not None):
            raise SignatureError("the signature covers the wrong kind of digest for this request")
        if content is not None and not hmac.compare_digest(content, unverified.digest):
            raise DigestMismatchError("the body is not the one that was signed; it was altered on the way")
        return Caller(SiteId(unverified.keyid), role, unverified.digest)

    def check_blob(self, caller: Caller, digest: str) -> Digest:
        """The blob's digest, if it is the one that the signature covers.

        Raises:
            DigestMismatchError: It is another.
        """
        name = digest_name(digest)
        if not hmac.compare_digest(caller.digest.hex(), name):
            raise DigestMismatchError("the signed digest is not the one in the address")
        return name
