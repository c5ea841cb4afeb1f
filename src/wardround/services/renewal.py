"""Who asks for a renewal: the signature of a connection key whose certificate may have ended, not long ago.

This is the one request that an expired certificate can still sign, and all that comes of it is the next
certificate of the same name. Form, key, challenge, time, nonce and body are checked as for every request.
"""

import hmac
import threading
from collections.abc import Mapping

from wardround.crypto import http_signature
from wardround.crypto.replay import ReplayGuard
from wardround.errors import DigestMismatchError, SignatureError, WrongChallengeError
from wardround.ids import SiteId
from wardround.ports import Clock
from wardround.protocol.messages import Enrolled, Renewal
from wardround.services.enrolment import Enrolments

__all__ = ["Renewals"]


class Renewals:
    """Renews certificates; `challenge` is the hub's of this start. May be called from several threads."""

    def __init__(self, enrolments: Enrolments, clock: Clock, *, challenge: str, window_seconds: float) -> None:
        self._enrolments, self._clock, self._challenge = enrolments, clock, challenge
        self._guard = ReplayGuard(window_seconds, capacity=20_000)
        self._lock = threading.Lock()

    def check(self, method: str, target: str, headers: Mapping[str, str], content: bytes) -> SiteId:
        """Who sends this; `content` is the SHA-256 of the body.

        Raises:
            SignatureError: Not signed by the key of an enrolled name.
            CryptoError: Its certificate ended too long ago.
            WrongChallengeError: Signed for an earlier start of this hub.
            StaleRequestError: Too old, from the future, or seen before.
            DigestMismatchError: The body is not the one that was signed.
        """
        unverified = http_signature.parse(method, target, headers)
        unverified.verify(self._enrolments.open_for_renewal(unverified.keyid))
        if not hmac.compare_digest(unverified.tag, self._challenge):
            raise WrongChallengeError("sign again with this hub's present challenge")
        with self._lock:
            self._guard.check(unverified.keyid, unverified.nonce, unverified.created, self._clock.now())
        if unverified.whole:
            raise SignatureError("the signature covers the wrong kind of digest for this request")
        if not hmac.compare_digest(content, unverified.digest):
            raise DigestMismatchError("the body is not the one that was signed; it was altered on the way")
        return SiteId(unverified.keyid)

    def renew(self, name: SiteId, renewal: Renewal) -> Enrolled:
        """The next certificates of a name that `check` has found; see `Enrolments.renew`."""
        return self._enrolments.renew(name, renewal)
