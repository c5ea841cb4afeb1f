"""Who a person is: an access token and a proof of its key, checked in one way wherever it comes from.

    login ──▶ access token, bound to a key ──▶ request or command + proof of that key ──▶ `Logins.verify` ──▶ `Person`
                                                                                                 │
                                              `require`: is the login new and strong enough? ◀───┘

Requests to a hub, commands in a hub's folder and commands in a node's folder take the same path; so do
tokens of a hospital's own provider and tokens of the embedded one (`wardround.services.issuer`).

1. The token is the named issuer's, for this audience, valid now, and bound to a key.
2. The proof is by that key, for this method and address and this token, new, and seen once.
3. Neither the session nor the person has been ended since.
4. At a node, the person is of that site.

References:
    RFC 9449 (DPoP), section 7. RFC 9068, section 4. RFC 7662, section 2.2.
    RFC 9470, OAuth 2.0 Step Up Authentication Challenge, sections 3 and 5.
"""

import hmac
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from wardround.crypto import dpop, jose, token
from wardround.crypto.replay import ReplayGuard
from wardround.errors import CodecError, ConfigError, CryptoError, LoginError, StepUpError
from wardround.services.endings import Endings

__all__ = [
    "PASSKEY_ACR",
    "ROLES",
    "TWO_FACTOR_ACR",
    "Introspect",
    "KeySource",
    "Logins",
    "PeopleSettings",
    "Person",
    "StepUp",
    "challenge",
    "check_settings",
    "require",
]

ROLES = ("researcher", "steward", "privacy-officer", "site-it", "operator", "auditor", "clinician", "board")
PASSKEY_ACR = "urn:wardround:acr:passkey"
TWO_FACTOR_ACR = "urn:wardround:acr:two-factor"
_OPAQUE = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")
_REPLAY_CAPACITY = 100_000

KeySource = Callable[[str], token.Keys]
"""An issuer's keys; the argument is the `kid` that is wanted, so that a cache knows when to look again."""
Introspect = Callable[[str], Mapping[str, Any]]
"""Asks the issuer what an opaque token stands for; RFC 7662."""


class StepUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an action of weight takes: one of `acr`, or one of `amr` (or pwd with otp), not older than `seconds`.

    Every action takes it but those in `plain`, so that an action nobody thought of is refused rather than let through.
    """

    acr: tuple[str, ...] = (PASSKEY_ACR, TWO_FACTOR_ACR)
    amr: tuple[str, ...] = ("hwk", "mfa")
    seconds: float = 900.0
    plain: frozenset[str] = frozenset({"review", "show", "list", "watch", "whoami", "refuse"})


class PeopleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How people log in: `provider` is none (a name is believed), local (accounts kept here) or oidc.

    `issuer`, `client`, `client_secret` (a reference; empty for a public client), `authority` (a PEM file) and
    `introspection` are for oidc. `audience` is what access tokens are for; empty: the hub's address, or
    ``wardround:node/<site>``. `roles_claim` and `site_claim` may be paths with dots; `roles` turns the provider's names
    into ours. `loopback_http` lets a provider on this very machine be reached without TLS, for tests.
    """

    provider: Literal["none", "local", "oidc"] = "none"
    issuer: str = ""
    client: str = "wardround"
    client_secret: str = ""
    authority: str = ""
    audience: str = ""
    scope: str = "openid"
    roles_claim: str = "roles"
    site_claim: str = "site"
    name_claim: str = "name"
    roles: dict[str, str] = {}
    introspection: bool = False
    loopback_http: bool = False
    token_seconds: float = 300.0
    session_seconds: float = 28800.0
    step_up: StepUp = StepUp()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has proven to be logged in. `issuer` is empty where nobody checked (provider none)."""

    subject: str
    issuer: str
    name: str
    roles: frozenset[str]
    site: str
    acr: str
    amr: tuple[str, ...]
    auth_time: float
    session: str


class Logins:
    """Checks tokens and proofs for one hub or node. May be called from several threads.

    Args:
        settings: Claims, roles and what an action takes.
        issuer: Whose tokens count.
        audience: What they must be for.
        keys: The issuer's public keys.
        endings: Sessions and people that were ended.
        site: Of a node: the site that a person must be of; empty at a hub.
        introspect: Asks about opaque tokens; without it they are refused.
    """

    def __init__(
        self,
        settings: PeopleSettings,
        *,
        issuer: str,
        audience: str,
        keys: KeySource,
        endings: Endings,
        site: str = "",
        introspect: Introspect | None = None,
    ) -> None:
        check_settings(settings)
        self._settings, self._issuer, self._audience, self._site = settings, issuer, audience, site
        self._keys, self._endings, self._introspect = keys, endings, introspect
        self._guard, self._lock = ReplayGuard(dpop.WINDOW_SECONDS, _REPLAY_CAPACITY), threading.Lock()

    def verify(self, access_token: str, dpop_proof: str, method: str, url: str, now: float) -> Person:
        """The person who sends this request, or gives this command.

        Args:
            access_token: As the issuer gave it.
            dpop_proof: Made for this request.
            method: The request's; ``CLI`` for a command.
            url: The request's full address; ``wardround:…`` for a command.
            now: Seconds since 1970-01-01 UTC.

        Raises:
            LoginError: Anything about token or proof is not as it must be; says what.
            UnavailableError: The issuer or the store did not answer.
        """
        try:
            claims = self._claims(access_token, now)
            proof, _ = dpop.check(dpop_proof, method, url, now=now, token=access_token)
            if not hmac.compare_digest(proof.thumbprint.encode(), token.thumbprint_of(claims).encode()):
                raise LoginError("the proof is by another key than the one that the access token is bound to")
            with self._lock:
                self._guard.check(proof.thumbprint, proof.jti, proof.issued, now)
        except (CryptoError, CodecError) as error:
            raise LoginError(str(error)) from None
        person = person_of(claims, self._settings, self._issuer)
        if self._endings.is_ended(self._issuer, person.session, person.subject, float(claims.get("iat", 0))):
            raise LoginError("this login was ended; log in again")
        if self._site and person.site != self._site:
            raise LoginError(
                f"{person.name} is not of the site {self._site}: their login names {person.site or 'none'}"
            )
        return person

    def _claims(self, access_token: str, now: float) -> Mapping[str, Any]:
        if access_token.count(".") == 2 and len(access_token) <= jose.MAX_TOKEN:
            kid = jose.read(access_token).header.get("kid")
            keys = self._keys(kid if isinstance(kid, str) else "")
            return token.access_token(access_token, keys, issuer=self._issuer, audience=self._audience, now=now)
        if self._introspect is None or not _OPAQUE.fullmatch(access_token):
            raise LoginError("the access token is not a signed one (RFC 9068); the settings allow no other here")
        claims = self._introspect(access_token)
        _check_introspected(claims, self._issuer, self._audience, now)
        return claims


def require(person: Person, action: str, now: float, rules: StepUp) -> None:
    """Raise unless the person's login is new and strong enough for `action`.

    Raises:
        StepUpError: It is not; says what to do. `challenge` says it to a program.
    """
    if action in rules.plain or not person.issuer:
        return
    methods = set(person.amr)
    if person.acr not in rules.acr and not methods & set(rules.amr) and not methods >= {"pwd", "otp"}:
        raise StepUpError(
            f"{action} takes a login with a passkey or a second factor; this login had "
            f"{', '.join(person.amr) or 'no method that its provider names'}: log in again with one"
        )
    # Written so that a broken `now` refuses; a login in the future is none.
    if not -token.LEEWAY_SECONDS <= now - person.auth_time <= rules.seconds:
        raise StepUpError(f"{action} takes a login not older than {rules.seconds / 60:g} minutes: log in again now")


def challenge(rules: StepUp) -> str:
    """The ``WWW-Authenticate`` value that asks for a newer or stronger login; RFC 9470, section 3."""
    words = "this action takes a newer or stronger login"
    return (
        f'DPoP error="insufficient_user_authentication", error_description="{words}",'
        f' acr_values="{" ".join(rules.acr)}", max_age="{int(rules.seconds)}"'
    )


def check_settings(settings: PeopleSettings) -> None:
    """Raise unless the settings can hold.

    Raises:
        ConfigError: They cannot; names the setting.
    """
    if unknown := sorted(set(settings.roles.values()) - set(ROLES)):
        raise ConfigError(f"people.roles leads to unknown roles: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    if not (0 < settings.token_seconds <= 3600 and 0 < settings.session_seconds <= 30 * 86400):
        raise ConfigError("people.token_seconds is at most an hour, people.session_seconds at most 30 days")
    if not 0 < settings.step_up.seconds <= 86400:
        raise ConfigError("people.step_up.seconds is at most a day")
    if settings.provider == "oidc" and not (settings.issuer and settings.client):
        raise ConfigError("people.provider oidc takes people.issuer and people.client")
    if settings.provider != "oidc" and settings.roles:
        raise ConfigError("people.roles turns a provider's names into ours; local accounts have ours already")
    if settings.client_secret and not settings.client_secret.startswith(("file:", "env:")):
        raise ConfigError("people.client_secret is a secret: give a reference such as file:keys/oidc.secret")
    quoted = (*settings.step_up.acr, settings.issuer, settings.audience)
    if any(not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]*", word) for word in quoted):
        raise ConfigError("people.issuer, people.audience and acr values hold no spaces, quotes or controls")


def person_of(claims: Mapping[str, Any], settings: PeopleSettings, issuer: str) -> Person:
    """Who verified claims are about. What is missing is empty, and so the weakest."""
    subject = str(claims["sub"])
    roles = _at(claims, settings.roles_claim)
    given = roles.split() if isinstance(roles, str) else roles if isinstance(roles, list) else []
    names = {settings.roles.get(name, "") if settings.roles else name for name in given if isinstance(name, str)}
    methods = claims.get("amr")
    auth_time = claims.get("auth_time")
    is_time = isinstance(auth_time, (int, float)) and not isinstance(auth_time, bool)
    session = claims.get("sid", claims.get("jti"))
    return Person(
        subject=subject,
        issuer=issuer,
        name=_printable(_at(claims, settings.name_claim)) or _printable(subject),
        roles=frozenset(names & set(ROLES)),
        site=_printable(_at(claims, settings.site_claim)),
        acr=_printable(claims.get("acr")),
        amr=tuple(_printable(one) for one in methods if isinstance(one, str)) if isinstance(methods, list) else (),
        auth_time=float(auth_time) if is_time and auth_time is not None else 0.0,
        session=session if isinstance(session, str) else "",
    )


def _check_introspected(claims: Mapping[str, Any], issuer: str, audience: str, now: float) -> None:
    expires, named = claims.get("exp"), claims.get("aud")
    if claims.get("active") is not True or not isinstance(claims.get("sub"), str):
        raise LoginError("the provider says that this access token is not active; log in again")
    if not isinstance(expires, (int, float)) or not now < expires + token.LEEWAY_SECONDS:
        raise LoginError("the access token has expired; log in again")
    if claims.get("iss", issuer) != issuer or audience not in (named if isinstance(named, list) else [named]):
        raise LoginError("the access token is of another issuer or for another audience")


def _at(claims: Mapping[str, Any], path: str) -> object:
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _printable(value: object) -> str:
    # What is shown in a terminal or a page holds no control characters, whatever the provider sends.
    return "".join(letter for letter in value if letter.isprintable())[:200] if isinstance(value, str) else ""
