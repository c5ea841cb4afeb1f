"""The embedded issuer: short access tokens for local accounts, in the language of OpenID Connect.

    question (code flow, PKCE, resource, dpop_jkt) ──▶ person logs in ──▶ code ──▶ tokens ⇄ refresh
                                                       command line: `start` gives tokens at once

So that whoever verifies has one path: tokens are JWTs of RFC 9068 with ``cnf.jkt``, ``acr``, ``amr`` and
``auth_time``. There is one client, a public one, and it listens on loopback (RFC 8252): PKCE and DPoP are
required, a code counts once and for one minute, and a refresh token is bound to the key and changes with
each use. A refresh token that comes twice ends its session, because one of two holders is a thief.

References:
    RFC 6749, sections 4.1 and 6; RFC 7636, PKCE; RFC 8252, section 7.3; RFC 9207, iss; RFC 9449, sections 5 and 10.
    RFC 9700, Best Current Practice for OAuth 2.0 Security, section 4.14.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlencode

import msgspec

from wardround.codec import canonical
from wardround.crypto import jose, token
from wardround.errors import ConflictError, LoginError, NotFoundError
from wardround.ports import Accounts, Entropy
from wardround.services.accounts import Account, AccountBook
from wardround.services.endings import Endings
from wardround.services.pending import Pending
from wardround.services.people import PeopleSettings
from wardround.services.sign_in import Authentication

__all__ = ["CLIENT", "Issuer", "Question", "Tokens"]

CLIENT = "wardround"
QUESTION_SECONDS = 600.0
CODE_SECONDS = 60.0
SWEEP_SECONDS = 3600.0
_REDIRECT = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):[0-9]{1,5}/callback")
_OPAQUE = re.compile(r"[A-Za-z0-9._~-]{16,200}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_REFRESH = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


class Question(msgspec.Struct, frozen=True):
    """A login that a program asked for: where the answer goes, and what the code will be bound to."""

    redirect: str
    state: str
    nonce: str
    challenge: str
    thumbprint: str


class Tokens(msgspec.Struct, frozen=True):
    """What a token endpoint answers; RFC 6749, section 5.1."""

    access_token: str
    expires_in: int
    refresh_token: str = ""
    id_token: str = ""
    token_type: str = "DPoP"  # noqa: S105, the type's name in RFC 9449
    scope: str = "openid"

    def __repr__(self) -> str:
        """Without the tokens."""
        return f"Tokens(expires_in={self.expires_in})"


class _Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: str
    thumbprint: str
    acr: str
    amr: tuple[str, ...]
    auth_time: float
    expires: float
    refresh: bytes


class Issuer:
    """The issuer of one hub or node. May be used by several threads."""

    def __init__(
        self,
        book: AccountBook,
        accounts: Accounts,
        entropy: Entropy,
        *,
        key: jose.SigningKey,
        issuer: str,
        audience: str,
        settings: PeopleSettings,
    ) -> None:
        self._book, self._accounts, self._entropy, self._settings = book, accounts, entropy, settings
        self._key, self.issuer, self._audience = key, issuer, audience
        self._endings, self._swept = Endings(accounts), float("-inf")
        self._questions: Pending[Question] = Pending(QUESTION_SECONDS)
        self._codes: Pending[tuple[Question, Authentication]] = Pending(CODE_SECONDS)

    def keys(self) -> token.Keys:
        """The public keys, as a JWK set's members."""
        members = jose.public_jwk(self._key)
        algorithm = "ES256" if members["kty"] == "EC" else "Ed25519"
        return [{**members, "kid": jose.thumbprint(members), "use": "sig", "alg": algorithm}]

    def ask(self, asked: Mapping[str, str], now: float) -> str:
        """Take an authorization request; the name under which it waits for a person.

        Raises:
            LoginError: Not this issuer's client, or without PKCE, state, nonce or key.
        """
        if asked.get("client_id") != CLIENT or not _REDIRECT.fullmatch(asked.get("redirect_uri", "")):
            raise LoginError("this login is not asked for by the wardround command on your machine")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            raise LoginError("a login here takes response_type code and PKCE with S256")
        if asked.get("resource", self._audience) != self._audience:
            raise LoginError("this issuer makes tokens for its own hub and nothing else")
        forms = {"state": _OPAQUE, "nonce": _OPAQUE, "code_challenge": _CHALLENGE, "dpop_jkt": _CHALLENGE}
        if wrong := [name for name, form in forms.items() if not form.fullmatch(asked.get(name, ""))]:
            raise LoginError(f"the login's {', '.join(wrong)} is missing or not in its form")
        name = self._random(32)
        question = Question(
            asked["redirect_uri"], asked["state"], asked["nonce"], asked["code_challenge"], asked["dpop_jkt"]
        )
        self._questions.put(name, question, now)
        return name

    def is_asked(self, name: str, now: float) -> bool:
        """Whether this question still waits."""
        return self._questions.look(name, now) is not None

    def answer(self, name: str, done: Authentication, now: float) -> str:
        """Where to send the browser, with a code, now that the person has logged in.

        Raises:
            LoginError: The question was answered before, or is too old.
        """
        question = self._questions.take(name, now)
        if question is None:
            raise LoginError("this login was finished before, or waited for too long: begin again")
        code = self._random(32)
        self._codes.put(code, (question, done), now)
        fields = {"code": code, "state": question.state, "iss": self.issuer}
        return f"{question.redirect}?{urlencode(fields)}"

    def exchange(self, form: Mapping[str, str], thumbprint: str, now: float) -> Tokens:
        """Tokens for a code (with its PKCE verifier) or a refresh token, bound to the key of the request's proof.

        Raises:
            LoginError: The code or token is not good here, or was used before, or is another key's.
            UnavailableError: The store did not answer.
        """
        kind = form.get("grant_type")
        if form.get("client_id", CLIENT) != CLIENT:
            raise LoginError("this issuer knows one client, wardround")
        if kind == "authorization_code":
            return self._redeem(form, thumbprint, now)
        if kind == "refresh_token":
            return self._refresh(form.get("refresh_token", ""), thumbprint, now)
        raise LoginError("the grant_type must be authorization_code or refresh_token")

    def start(self, done: Authentication, thumbprint: str, now: float, *, nonce: str = "") -> Tokens:
        """Begin a session for somebody who has just logged in; tokens bound to the key of this thumbprint.

        Raises:
            LoginError: The account is gone.
        """
        self._sweep(now)
        sid, secret = self._random(16), self._random(32)
        session = _Session(
            done.name, thumbprint, done.acr, done.amr, done.at, now + self._settings.session_seconds, _digest(secret)
        )
        self._accounts.write(f"session.{sid}", canonical.encode(session), after=0)
        return self._tokens(sid, secret, session, now, nonce=nonce)

    def end(self, refresh_token: str, thumbprint: str, now: float) -> None:
        """End the session of a refresh token, at once and for its access tokens too.

        Raises:
            LoginError: The token is not good here, or is another key's.
        """
        sid, _, version = self._session(refresh_token, thumbprint, now)
        self._endings.end_session(self.issuer, sid, now)
        self._accounts.delete(f"session.{sid}", after=version)

    def _sweep(self, now: float) -> None:
        """Forget sessions whose time is up, once an hour."""
        if now < self._swept + SWEEP_SECONDS:
            return
        self._swept = now
        for name in self._accounts.names("session."):
            found = self._accounts.read(name)
            if found is not None and not now < canonical.decode(found[0], _Session).expires:
                with suppress(ConflictError):
                    self._accounts.delete(name, after=found[1])

    def _redeem(self, form: Mapping[str, str], thumbprint: str, now: float) -> Tokens:
        found = self._codes.take(form.get("code", ""), now)
        if found is None:
            raise LoginError("the code was used before, or is too old: log in again")
        question, done = found
        verifier = form.get("code_verifier", "")
        made = jose.base64url(hashlib.sha256(verifier.encode(errors="replace")).digest())
        if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(made, question.challenge):
            raise LoginError("the code is not redeemed by the program that asked for it (PKCE)")
        if form.get("redirect_uri") != question.redirect or not hmac.compare_digest(thumbprint, question.thumbprint):
            raise LoginError("the code is redeemed for another address or with another key than it was asked for")
        return self.start(done, thumbprint, now, nonce=question.nonce)

    def _refresh(self, refresh_token: str, thumbprint: str, now: float) -> Tokens:
        sid, session, version = self._session(refresh_token, thumbprint, now)
        secret = self._random(32)
        changed = msgspec.structs.replace(session, refresh=_digest(secret))
        try:
            self._accounts.write(f"session.{sid}", canonical.encode(changed), after=version)
        except ConflictError:
            raise LoginError("the refresh token was used at the same moment by another: log in again") from None
        return self._tokens(sid, secret, changed, now)

    def _session(self, refresh_token: str, thumbprint: str, now: float) -> tuple[str, _Session, int]:
        match = _REFRESH.fullmatch(refresh_token)
        found = self._accounts.read(f"session.{match[1]}") if match is not None else None
        if match is None or found is None:
            raise LoginError("this login was ended or is unknown: log in again")
        session = canonical.decode(found[0], _Session)
        # The key first: only its holder can end a session by a token that came twice.
        if not hmac.compare_digest(thumbprint.encode(), session.thumbprint.encode()):
            raise LoginError("the refresh token belongs to another key")
        ended = self._endings.is_ended(self.issuer, match[1], session.account, session.auth_time)
        if ended or not now < session.expires:
            self._accounts.delete(f"session.{match[1]}", after=found[1])
            raise LoginError("this login has ended: log in again")
        if not hmac.compare_digest(_digest(match[2]), session.refresh):
            self._endings.end_session(self.issuer, match[1], now)
            raise LoginError("the refresh token was used before, so this login is ended: log in again")
        return match[1], session, found[1]

    def _tokens(self, sid: str, secret: str, session: _Session, now: float, *, nonce: str = "") -> Tokens:
        try:
            account = self._book.get(session.account)
        except NotFoundError:
            raise LoginError("the account of this login is gone") from None
        lifetime = min(self._settings.token_seconds, session.expires - now)
        about = {
            "iss": self.issuer,
            "sub": account.name,
            "iat": now,
            "exp": round(now + lifetime, 3),
            "acr": session.acr,
            "amr": list(session.amr),
            "auth_time": round(session.auth_time, 3),
            "sid": sid,
        }
        bound = {
            "aud": self._audience,
            "client_id": CLIENT,
            "jti": self._random(16),
            "cnf": {"jkt": session.thumbprint},
            **_described(account, self._settings),
        }
        access = token.issue({**about, **bound}, self._key, typ="at+jwt")
        half = jose.base64url(hashlib.sha256(access.encode()).digest()[:16])
        identity = {**about, "aud": CLIENT, "at_hash": half, **({"nonce": nonce} if nonce else {})}
        shown = token.issue({**identity, "name": account.shown}, self._key, typ="JWT")
        return Tokens(access, int(lifetime), f"{sid}.{secret}", shown)

    def _random(self, size: int) -> str:
        return jose.base64url(self._entropy.draw(size))


def _described(account: Account, settings: PeopleSettings) -> dict[str, object]:
    # Under the names that the same settings read, so that there is one path.
    return {
        settings.roles_claim: list(account.roles),
        settings.site_claim: account.site,
        settings.name_claim: account.shown,
    }


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
