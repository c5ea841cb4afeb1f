"""The token of a FHIR server, by SMART Backend Services: an assertion signed with the site's own key.

    assertion = base64url(header) "." base64url(claims) "." base64url(signature)
    header    = {"alg": ES384 | RS384, "kid", "typ": "JWT"}
    claims    = {"iss" = "sub" = the client, "aud" = the token endpoint, "exp" = now + 240 s, "jti" = 256 random bits}

The token endpoint is the mapping's, or else the one in the server's ``.well-known/smart-configuration``; a discovered
one must be at the server's own origin, since the server could name any other. No secret leaves the node: the assertion
is worth something to one endpoint, once, for four minutes. A token is kept in memory until shortly before it expires.

Hazard: no token, assertion or key is part of an error, a log or a ``repr``.

References:
    HL7 SMART App Launch 2.2, "Backend Services" and "Client Authentication: Asymmetric". RFC 7515, 7518, 7523.
"""

import base64
import re
import secrets
from typing import Annotated, Final
from urllib.parse import urlencode

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.sources.fhir_http import Answer, Wire, checked_url, origin
from wardround.sources.site import REFERENCE, Site

__all__ = ["BackendService", "TokenSettings", "assertion", "signing_key"]

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_Reference = Annotated[str, msgspec.Meta(pattern=REFERENCE)]

_ASSERTION_SECONDS: Final = 240
_EARLY_SECONDS: Final = 30.0
_LONGEST_SECONDS: Final = 3600.0
_STATED_SECONDS: Final = 300.0
_LEAST_RSA_BITS: Final = 2048
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{8,16384}")
_PATH: Final = "/.well-known/smart-configuration"
_ERRORS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)


class TokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How this node is known to the server.

    Attributes:
        client: The client's id, as the server's administrator has registered it.
        key: Names the private key (PEM; P-384, or RSA of 2048 bits or more): ``file:fhir.pem``.
        key_id: The ``kid`` under which its public key is registered.
        url: The token endpoint; left out: the one that the server's SMART configuration names.
        scope: What is asked for; servers of SMART 1 write ``system/*.read``.
    """

    client: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    key: _Reference
    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    url: str = ""
    scope: Annotated[str, msgspec.Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$")] = (
        "system/*.rs"
    )


class _Discovered(msgspec.Struct, frozen=True):
    token_endpoint: str
    token_endpoint_auth_signing_alg_values_supported: list[str] | None = None


class _Granted(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str
    expires_in: float | None = None
    scope: str | None = None


class _Refused(msgspec.Struct, frozen=True):
    error: str = ""


class BackendService:
    """A client of one FHIR server; gives its token, a new one where the old one has expired or was refused.

    Raises:
        ConfigError: The key or the endpoint's address is not of use.
    """

    def __init__(self, settings: TokenSettings, site: Site, base: str, wire: Wire) -> None:
        self._settings, self._base, self._wire = settings, base.rstrip("/"), wire
        self._key = signing_key(site.secret(settings.key, "the key of the FHIR server's client"))
        self._endpoint = _checked_endpoint(settings.url) if settings.url else ""
        self._token, self._until = "", 0.0
        self.has_less = False
        """Whether the last token was granted fewer scopes than asked for."""

    def bearer(self, *, renew: bool = False) -> str:
        """The token.

        Raises:
            ConfigError: The endpoint refuses this client, or is not where it may be.
            ClinicalError: Its answer is not understood.
            UnavailableError: It does not answer.
        """
        if renew or not self._token or self._wire.clock.now() >= self._until:
            self._token = ""
            self._renew()
        return self._token

    def _renew(self) -> None:
        endpoint = self._endpoint = self._endpoint or self._discovered()
        now = self._wire.clock.now()
        form = {
            "grant_type": "client_credentials",
            "scope": self._settings.scope,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion(
                self._key,
                client=self._settings.client,
                key_id=self._settings.key_id,
                endpoint=endpoint,
                now=self._wire.clock.wall(),
            ),
        }
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        answer = self._wire.call(
            "POST", endpoint, headers, body=urlencode(form).encode(), most_bytes=65536, is_repeatable=False
        )
        granted = _granted(answer)
        lasts = min(max(granted.expires_in or _STATED_SECONDS, 0.0), _LONGEST_SECONDS)
        self._token, self._until = granted.access_token, now + lasts - min(_EARLY_SECONDS, lasts / 2)
        asked = set(self._settings.scope.split())
        self.has_less = granted.scope is not None and not asked <= set(granted.scope.split())

    def _discovered(self) -> str:
        answer = self._wire.call("GET", self._base + _PATH, {"accept": "application/json"}, most_bytes=1024 * 1024)
        if answer.status != 200:
            raise ConfigError(
                f"the FHIR server has no SMART configuration ({answer.status}): write the token endpoint as token.url"
            )
        found = answer.decoded(_Discovered)
        try:
            is_own = origin(found.token_endpoint) == origin(self._base)
        except ValueError:
            is_own = False
        if not is_own:
            raise ConfigError(
                "the FHIR server's SMART configuration names a token endpoint elsewhere: nothing was sent there; if it "
                "is the hospital's own, write it as token.url"
            )
        signed = found.token_endpoint_auth_signing_alg_values_supported
        if signed is not None and _algorithm(self._key) not in signed:
            raise ConfigError(
                f"the token endpoint does not take signatures of {_algorithm(self._key)}: use another key"
            )
        return found.token_endpoint


def assertion(key: _Key, *, client: str, key_id: str, endpoint: str, now: float) -> str:
    """A signed statement to this token endpoint that the bearer is this client; each one is another."""
    header = {"alg": _algorithm(key), "kid": key_id, "typ": "JWT"}
    claims = {
        "iss": client,
        "sub": client,
        "aud": endpoint,
        "exp": int(now) + _ASSERTION_SECONDS,
        "jti": secrets.token_urlsafe(32),
    }
    signed = f"{_encoded(msgspec.json.encode(header))}.{_encoded(msgspec.json.encode(claims))}"
    return f"{signed}.{_encoded(_signature(key, signed.encode()))}"


def signing_key(pem: str) -> _Key:
    """The private key that a PEM text holds.

    Raises:
        ConfigError: It holds none, or one of another kind than P-384 or RSA of 2048 bits or more.
    """
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("the key of the FHIR server's client is no unencrypted PEM private key") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    raise ConfigError(
        f"the key of the FHIR server's client must be P-384 (ES384) or RSA of {_LEAST_RSA_BITS} bits or more (RS384)"
    )


def _algorithm(key: _Key) -> str:
    return "ES384" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS384"


def _signature(key: _Key, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA384())
    # RFC 7518, 3.4: the two numbers side by side, each of 48 bytes.
    first, second = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    return first.to_bytes(48, "big") + second.to_bytes(48, "big")


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def _checked_endpoint(url: str) -> str:
    try:
        checked_url(url)
    except ValueError:
        raise ConfigError("token.url looks like https://auth.example.org/token (http only on this machine)") from None
    return url


def _granted(answer: Answer) -> _Granted:
    if answer.status in {400, 401, 403}:
        raise ConfigError(f"the token endpoint refuses this client: {_reason(answer)}")
    if answer.status != 200:
        raise UnavailableError(f"the token endpoint answers {answer.status}")
    granted = answer.decoded(_Granted)
    if not _TOKEN.fullmatch(granted.access_token) or granted.token_type.lower() != "bearer":
        raise ClinicalError("the token endpoint's answer holds no bearer token")
    return granted


def _reason(answer: Answer) -> str:
    try:
        said = answer.decoded(_Refused).error
    except ClinicalError:
        said = ""
    return said if said in _ERRORS else f"{answer.status}"
