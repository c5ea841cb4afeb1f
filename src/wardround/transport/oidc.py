"""A relying party of OpenID Connect: discovery, code flow with PKCE and DPoP, keys, introspection.

    question ──▶ browser at the provider ──▶ redirect to 127.0.0.1 ──▶ redeem ──▶ tokens ⇄ refresh

It believes the issuer that it was given, over TLS with the authority that it was given, and follows no
redirect. Plain HTTP is for a provider on this very machine, by a setting, and refuses every other host. A
token endpoint that wants a nonce of its own in the proof gets it on the second try.

References:
    OpenID Connect Core 1.0, section 3.1; Discovery 1.0, section 4. RFC 7636, PKCE. RFC 8252, loopback redirects.
    RFC 9207, iss in the answer. RFC 9449, DPoP, sections 5, 8 and 10. RFC 8707, resource. RFC 7662. RFC 7009.
"""

import base64
import hashlib
import hmac
import http.client
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from wardround.crypto import dpop, jose, token
from wardround.errors import ConfigError, CryptoError, LoginError, UnavailableError

__all__ = ["Granted", "Question", "RelyingParty", "at_hub"]

_T = TypeVar("_T")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
_MAX_ANSWER = 256 * 1024
_TIMEOUT_SECONDS = 20.0
KEYS_SECONDS = 3600.0
KEYS_PAUSE_SECONDS = 30.0
_WELL_KNOWN = "/.well-known/openid-configuration"


class _Metadata(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    introspection_endpoint: str = ""
    revocation_endpoint: str = ""
    authorization_response_iss_parameter_supported: bool = False


class _Provider(msgspec.Struct, frozen=True):
    issuer: str
    client: str
    audience: str
    scope: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Answer(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str
    expires_in: float = 60.0
    refresh_token: str = ""
    id_token: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """A login that was asked for: the address to open, and what the answer must fit."""

    address: str
    redirect: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True, repr=False)
class Granted:
    """Tokens, and until when the access token is good; `identity` holds the verified claims of the login."""

    access_token: str
    refresh_token: str
    expires: float
    identity: Mapping[str, Any]


class RelyingParty:
    """One client at one issuer. May be used by several threads.

    Args:
        issuer: Exactly as the provider names itself.
        client: This client's id.
        client_secret: Of a confidential client; empty for a public one.
        audience: What access tokens must be for; sent as `resource` where it is an address.
        scope: What is asked for, with ``openid``.
        authority: PEM certificates to trust; empty: those of the system.
        loopback_http: Allow http, to this machine only.

    Raises:
        ConfigError: The issuer is no https address (or loopback http, where that is allowed).
    """

    def __init__(
        self,
        issuer: str,
        client: str,
        *,
        client_secret: str = "",
        audience: str = "",
        scope: str = "openid",
        authority: str = "",
        loopback_http: bool = False,
    ) -> None:
        self._issuer, self._client, self._secret = issuer, client, client_secret
        self._audience, self._scope, self._loopback_http = audience, scope, loopback_http
        self._check_address(issuer, "the issuer")
        self._tls = _tls(authority)
        self._lock = threading.RLock()
        self._found: _Metadata | None = None
        self._keys: token.Keys = []
        self._keys_at = float("-inf")

    def question(self, redirect: str, key: jose.SigningKey, *, fresh: bool = False, acr: str = "") -> Question:
        """What to open in the browser; `fresh` asks for a login now, whatever session the provider has.

        Raises:
            UnavailableError: The provider did not answer.
            ConfigError: It is not the issuer that it should be.
        """
        made = Question("", redirect, *(secrets.token_urlsafe(32) for _ in range(3)))
        fields = {
            "response_type": "code",
            "client_id": self._client,
            "redirect_uri": redirect,
            "scope": self._scope,
            "state": made.state,
            "nonce": made.nonce,
            "code_challenge": jose.base64url(hashlib.sha256(made.verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "dpop_jkt": jose.thumbprint(jose.public_jwk(key)),
            **({"resource": self._audience} if self._audience else {}),
            **({"prompt": "login", "max_age": "0"} if fresh else {}),
            **({"acr_values": acr} if acr else {}),
        }
        where = self._metadata().authorization_endpoint
        address = f"{where}{'&' if '?' in where else '?'}{urlencode(fields)}"
        return Question(address, redirect, made.state, made.nonce, made.verifier)

    def redeem(self, asked: Question, fields: Mapping[str, str], key: jose.SigningKey) -> Granted:
        """Tokens for the code with which the provider answered.

        Raises:
            LoginError: The answer is not to this question, not this issuer's, or not as it must be.
            UnavailableError: The provider did not answer.
        """
        metadata = self._metadata()
        if not hmac.compare_digest(fields.get("state", "").encode(errors="replace"), asked.state.encode()):
            raise LoginError("the answer is to another login than this one (state); begin again")
        # RFC 9207, section 2.4: where the provider says that it names itself, it must.
        given = fields.get("iss", "" if metadata.authorization_response_iss_parameter_supported else self._issuer)
        if given != self._issuer:
            raise LoginError("the answer is another issuer's (iss); begin again")
        if "error" in fields or "code" not in fields:
            raise LoginError(f"the provider refused the login: {_word(fields.get('error', 'no code'))}")
        form = {
            "grant_type": "authorization_code",
            "code": fields["code"],
            "redirect_uri": asked.redirect,
            "code_verifier": asked.verifier,
            **({"resource": self._audience} if self._audience else {}),
        }
        return self._granted(form, key, nonce=asked.nonce)

    def refresh(self, refresh_token: str, key: jose.SigningKey) -> Granted:
        """New tokens for a refresh token.

        Raises:
            LoginError: The provider refuses it: log in again.
            UnavailableError: The provider did not answer.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        granted = self._granted({**form, **({"resource": self._audience} if self._audience else {})}, key, nonce=None)
        kept = granted.refresh_token or refresh_token
        return Granted(granted.access_token, kept, granted.expires, granted.identity)

    def revoke(self, refresh_token: str, key: jose.SigningKey) -> None:
        """Tell the provider that a login is over; RFC 7009. Where it has no such address, it ends by itself.

        Raises:
            UnavailableError: The provider did not answer.
        """
        where = self._metadata().revocation_endpoint
        if where and refresh_token:
            form = {"token": refresh_token, "token_type_hint": "refresh_token"}
            self._post(where, form, key)

    def introspect(self, access_token: str) -> Mapping[str, Any]:
        """What the provider says that an opaque token stands for; RFC 7662.

        Raises:
            ConfigError: The provider has no such address.
            LoginError: It answers with something else.
            UnavailableError: The provider did not answer.
        """
        where = self._metadata().introspection_endpoint
        if not where:
            raise ConfigError("the provider has no introspection_endpoint: it must issue signed access tokens")
        status, _, body = self._post(where, {"token": access_token, "token_type_hint": "access_token"}, None)
        if status != 200:
            raise LoginError(f"the provider does not let this client ask about tokens: status {status}")
        return _decoded(body, dict[str, Any], "introspection")

    def keys(self, kid: str = "") -> token.Keys:
        """The issuer's keys; fetched again after an hour, or where `kid` is not among them, at most every half minute.

        Raises:
            UnavailableError: The provider did not answer.
        """
        with self._lock:
            age = time.monotonic() - self._keys_at
            known = not kid or any(key.get("kid") == kid for key in self._keys)
            if age > KEYS_SECONDS or (not known and age > KEYS_PAUSE_SECONDS):
                self._keys = self._fetched_keys()
                self._keys_at = time.monotonic()
            return self._keys

    def _fetched_keys(self) -> token.Keys:
        status, _, body = self.call("GET", self._metadata().jwks_uri, {}, b"")
        if status != 200:
            raise UnavailableError(f"the provider's keys were not to be had: status {status}")
        return _decoded(body, _KeySet, "key set").keys[: token.MAX_KEYS]

    def _granted(self, form: dict[str, str], key: jose.SigningKey, *, nonce: str | None) -> Granted:
        now = time.time()
        status, _, body = self._post(self._metadata().token_endpoint, form, key)
        if status != 200:
            word = _word(_decoded(body, _Refusal, "refusal").error) if body[:1] == b"{" else str(status)
            raise LoginError(f"the provider refused the tokens: {word}; log in again")
        answer = _decoded(body, _Answer, "answer with tokens")
        if answer.token_type.lower() != "dpop":
            raise LoginError("the provider gave a token that is not bound to a key: it must be set up for DPoP")
        claims: Mapping[str, Any] = {}
        if nonce is not None and not answer.id_token:
            raise LoginError("the provider gave no identity token: openid must be among the scopes")
        if nonce is not None:
            # An identity token that comes with a refresh says nothing new, and is not looked at.
            try:
                kid = jose.read(answer.id_token).header.get("kid")
                keys = self.keys(kid if isinstance(kid, str) else "")
                claims = token.identity_token(
                    answer.id_token,
                    keys,
                    issuer=self._issuer,
                    client=self._client,
                    nonce=nonce,
                    access=answer.access_token,
                    now=now,
                )
            except CryptoError as error:
                raise LoginError(str(error)) from None
        return Granted(answer.access_token, answer.refresh_token, now + min(answer.expires_in, 86400.0), claims)

    def _post(
        self, address: str, form: dict[str, str], key: jose.SigningKey | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        if self._secret:
            pair = f"{quote_plus(self._client)}:{quote_plus(self._secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form = {**form, "client_id": self._client}
        nonce = ""
        for _ in range(2):
            if key is not None:
                proof = dpop.prove(key, "POST", address, jti=secrets.token_urlsafe(16), now=time.time(), nonce=nonce)
                headers["dpop"] = proof
            status, given, body = self.call("POST", address, headers, urlencode(form).encode())
            wanted = given.get("dpop-nonce", "")
            # RFC 9449, section 8: the server wants its own nonce, and says so once.
            if key is None or status not in {400, 401} or b"use_dpop_nonce" not in body or not wanted or nonce:
                break
            nonce = wanted[:512]
        return status, given, body

    def _metadata(self) -> _Metadata:
        with self._lock:
            found = self._found
        if found is None:
            status, _, body = self.call("GET", f"{self._issuer.rstrip('/')}{_WELL_KNOWN}", {}, b"")
            if status != 200:
                raise UnavailableError(f"the provider's configuration was not to be had: status {status}")
            found = _decoded(body, _Metadata, "configuration")
            if found.issuer != self._issuer:
                raise ConfigError("the provider names itself otherwise than people.issuer does; they must be equal")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                self._check_address(getattr(found, name), name)
            for name in ("introspection_endpoint", "revocation_endpoint"):
                if address := getattr(found, name):
                    self._check_address(address, name)
            with self._lock:
                self._found = found
        return found

    def call(
        self, method: str, address: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (small letters) and body of one answer; no redirect is followed.

        Raises:
            LoginError: The certificate is not valid.
            UnavailableError: No answer.
        """
        parts = urlsplit(address)
        host = parts.hostname or ""
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, parts.port, context=self._tls, timeout=_TIMEOUT_SECONDS)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, target, body=body or None, headers=dict(headers))
            response = connection.getresponse()
            answer = response.read(_MAX_ANSWER + 1)
        except ssl.SSLCertVerificationError as error:
            raise LoginError(f"the provider's certificate is not valid: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnavailableError(f"no answer from the provider at {host}: {type(error).__name__}") from None
        finally:
            connection.close()
        if len(answer) > _MAX_ANSWER:
            raise UnavailableError(f"the provider's answer has more than {_MAX_ANSWER} bytes")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, answer

    def _check_address(self, address: str, what: str) -> None:
        with suppress(ValueError):
            parts = urlsplit(address)
            clean = bool(parts.hostname) and not parts.username and not parts.fragment and parts.port != 0
            plain = parts.scheme == "http" and self._loopback_http and parts.hostname in _LOOPBACK
            if clean and (parts.scheme == "https" or plain):
                return
        raise ConfigError(f"{what} must be an https address; plain http is for tests on this machine alone")


def at_hub(url: str, authority: str, *, provider_authority: str = "") -> RelyingParty:
    """The client for logging in to a hub: at its own issuer, or at the provider that it names.

    Raises:
        UnavailableError: The hub did not answer, or checks no logins.
        LoginError: Its answer is not to be understood.
    """
    asking = RelyingParty(url, "wardround", authority=authority)
    status, _, body = asking.call("GET", f"{url.rstrip('/')}/people/provider", {}, b"")
    if status != 200:
        raise UnavailableError(f"the hub does not say where its people log in: status {status}")
    said = _decoded(body, _Provider, "word about its provider")
    trusted = authority if said.issuer == url else provider_authority
    return RelyingParty(said.issuer, said.client, audience=said.audience, scope=said.scope, authority=trusted)


def _tls(authority: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=authority or None)
    except (ssl.SSLError, ValueError):
        raise ConfigError("people.authority is no file of PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _decoded(body: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise LoginError(f"the provider's {what} is not in the form that OpenID Connect gives it") from None


def _word(text: str) -> str:
    # Errors are codes of RFC 6749; anything else that a provider or a link puts there is not repeated.
    return text if text.replace("_", "").isascii() and text.replace("_", "").isalpha() and len(text) < 60 else "unknown"
