"""Who sends a request: the signature over it, by a key that is enrolled here, seen for the first time.

A request may carry a person's token besides, with the proof of its key (RFC 9449). The machine's signature covers
both headers, so that a token that is taken from one machine's request does not fit into another's.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from wardround.authorization.request import Value
from wardround.crypto import http_signature
from wardround.crypto.replay import ReplayGuard
from wardround.errors import DigestMismatchError, LoginError, SignatureError, WrongChallengeError
from wardround.ids import Digest, SiteId, digest_name
from wardround.ports import Clock
from wardround.protocol.messages import Role
from wardround.services.circumstances import LoggedIn, of_login
from wardround.services.enrolment import Enrolments

__all__ = ["Authentication", "Caller", "Known", "People", "circumstances_of", "credentials"]

_MAX_CREDENTIAL = 8192


class People(Protocol):
    """Checks people's tokens."""

    def verify(self, access_token: str, dpop_proof: str, method: str, url: str, now: float) -> LoggedIn:
        """The person whose token this is; raises `LoginError` where it does not count."""
        ...


class Known(Protocol):
    """What a hub knows that says under which circumstances a request comes."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def people(self) -> People | None:
        """Checks tokens; None where people do not log in."""
        ...

    def is_strong(self, person: LoggedIn) -> bool:
        """Whether a person logged in with a second factor."""
        ...

    def is_attested(self, name: SiteId) -> bool:
        """Whether a machine has shown lately what it runs."""
        ...


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


def credentials(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """A person's token and the proof of its key, as a request carries them; None where it carries neither.

    Raises:
        LoginError: One without the other, or of another kind.
    """
    authorization, proof = headers.get("authorization"), headers.get("dpop")
    if authorization is None and proof is None:
        return None
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "dpop" or not token or not proof:
        raise LoginError("a person's token comes as 'authorization: DPoP …' with its proof in 'dpop'")
    if max(len(token), len(proof)) > _MAX_CREDENTIAL:
        raise LoginError(f"a token and its proof have at most {_MAX_CREDENTIAL} letters each")
    return token, proof


def circumstances_of(known: Known, caller: Caller | None, person: LoggedIn | None) -> dict[str, Value]:
    """What policies are told about a request besides what it is about."""
    attested = caller is not None and known.is_attested(caller.name)
    strong = person is not None and known.is_strong(person)
    return of_login(person, strong=strong, logins=known.people is not None, now=known.clock.now()) | {
        "attested": attested
    }
