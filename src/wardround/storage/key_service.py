"""Key-encryption keys at a key service: the Transit interface of OpenBao and HashiCorp Vault.

    kms:https://bao.hospital:8200/transit/wardround-arran?token-source=file:keys/bao.token&ca=file:bao.crt

    POST /v1/<mount>/encrypt/<key>   plaintext, associated_data (base64)  ──▶  ciphertext "vault:v<version>:…"
    POST /v1/<mount>/decrypt/<key>   ciphertext, associated_data          ──▶  plaintext
    GET  /v1/<mount>/keys/<key>      versions; POST …/rotate, …/config and …/trim make and destroy them

The keys never leave the service. Its token comes from a file by reference, travels in the header X-Vault-Token only,
and is never in a message here. Plain HTTP is for this machine alone.

References:
    https://openbao.org/api-docs/secret/transit/
"""

import base64
import binascii
import http.client
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from wardround.errors import ConfigError, CryptoError, UnavailableError
from wardround.storage.key_file import read_private

__all__ = ["HttpKeyService", "KeyService", "TransitKeyStore", "from_reference"]

_T = TypeVar("_T")
_MAX_ANSWER = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})
_CONTEXT = b"wardround key ring\n"
_MOST_ROTATIONS = 1000


class KeyService(Protocol):
    """One request to a key service."""

    def call(self, method: Literal["GET", "POST"], path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        """Status and body of the answer; raises `UnavailableError` where there is none."""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Answer(msgspec.Struct):
    data: dict[str, msgspec.Raw] = {}


class TransitKeyStore:
    """Fills `wardround.ports.KeyStore` with one key of a Transit mount; threads may share it."""

    def __init__(self, service: KeyService, *, mount: str, key: str, address: str) -> None:
        if not _NAME.fullmatch(mount) or not _NAME.fullmatch(key):
            raise ConfigError("a key service's mount and key are letters, digits, '_', '.' and '-'")
        self._service, self._mount, self._key = service, mount, key
        self.name = f"kms:{address}/{mount}/{key}"

    def bare(self) -> bytes | None:
        """Nothing: the service's keys cannot be had."""
        return None

    def versions(self) -> tuple[int, ...]:
        """See `wardround.ports.KeyStore`."""
        status, body = self._service.call("GET", f"/v1/{self._mount}/keys/{self._key}", {})
        if status == 404:
            return ()
        keys = self._field(status, body, "keys", dict[str, msgspec.Raw])
        return tuple(sorted(int(name) for name in keys if name.isdecimal()))

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """See `wardround.ports.KeyStore`."""
        asked = {"plaintext": _text(key), "associated_data": _text(_CONTEXT + context)}
        status, body = self._service.call("POST", f"/v1/{self._mount}/encrypt/{self._key}", asked)
        ciphertext = self._field(status, body, "ciphertext", str)
        found = _CIPHERTEXT.fullmatch(ciphertext)
        if found is None:
            raise CryptoError("the key service's ciphertext is not one of Transit")
        return int(found[1]), ciphertext.encode()

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """See `wardround.ports.KeyStore`."""
        found = _CIPHERTEXT.fullmatch(wrapped.decode("ascii", errors="replace"))
        if found is None or int(found[1]) != version:
            raise CryptoError("a wrapped key is not one of this key service's, or of another version")
        asked = {"ciphertext": found[0], "associated_data": _text(_CONTEXT + context)}
        status, body = self._service.call("POST", f"/v1/{self._mount}/decrypt/{self._key}", asked)
        if status == 400:
            raise CryptoError("the key service cannot unwrap this key: it was altered, or the version is gone")
        try:
            return base64.b64decode(self._field(status, body, "plaintext", str), validate=True)
        except binascii.Error:
            raise CryptoError("the key service's answer is no base64") from None

    def rotate(self, above: int) -> int:
        """See `wardround.ports.KeyStore`."""
        path, before = f"/v1/{self._mount}/keys/{self._key}", max(self.versions(), default=0)
        if not before:
            asked = {"type": "aes256-gcm96", "exportable": False, "allow_plaintext_backup": False}
            self._done(*self._service.call("POST", path, asked))
        for _ in range(_MOST_ROTATIONS):
            version = max(self.versions(), default=0)
            if version > max(above, before):
                return version
            self._done(*self._service.call("POST", f"{path}/rotate", {}))
        raise CryptoError(f"the key service makes no version above {max(above, before)}")

    def destroy(self, version: int) -> None:
        """See `wardround.ports.KeyStore`; Transit destroys older ones with it."""
        if version not in self.versions():
            return
        bound = {"min_decryption_version": version + 1, "min_encryption_version": version + 1}
        path = f"/v1/{self._mount}/keys/{self._key}"
        self._done(*self._service.call("POST", f"{path}/config", bound))
        self._done(*self._service.call("POST", f"{path}/trim", {"min_available_version": version + 1}))

    def _field(self, status: int, body: bytes, name: str, kind: type[_T]) -> _T:
        self._done(status, body)
        try:
            return msgspec.json.decode(msgspec.json.decode(body, type=_Answer).data[name], type=kind)
        except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
            raise CryptoError(f"the key service's answer has no {name!r} that can be read") from None

    def _done(self, status: int, _body: bytes) -> None:
        if status in {401, 403}:
            raise ConfigError(f"the key service refuses this node's token (HTTP {status})")
        if status >= 500 or status == 429:
            raise UnavailableError(f"the key service did not answer as it should (HTTP {status})")
        if status not in {200, 204}:
            raise CryptoError(f"the key service refused (HTTP {status})")


class HttpKeyService:
    """`KeyService` over HTTPS; over plain HTTP only at this machine. `token` is asked for at every request."""

    def __init__(
        self, address: str, token: Callable[[], str], *, authority: str | None = None, timeout_seconds: float = 10.0
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.path:
            raise ConfigError("a key service's address is https://host:port")
        if parts.scheme == "http" and parts.hostname not in _HERE:
            raise ConfigError("a key service on another machine is spoken to by https")
        self._host, self._port, self._is_tls = parts.hostname, parts.port, parts.scheme == "https"
        self._token, self._timeout_seconds, self._authority = token, timeout_seconds, authority

    def call(self, method: Literal["GET", "POST"], path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        """See `KeyService`."""
        token = self._token()
        if not token.isascii() or not token.isprintable() or not token:
            raise ConfigError("the key service's token is not one line of printable characters")
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true", "Content-Type": "application/json"}
        connection = self._connection()
        try:
            connection.request(method, path, msgspec.json.encode(body) if method == "POST" else None, headers)
            answer = connection.getresponse()
            data = answer.read(_MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"the key service did not answer ({type(error).__name__})") from None
        finally:
            connection.close()
        if len(data) > _MAX_ANSWER:
            raise CryptoError(f"the key service's answer has more than {_MAX_ANSWER} bytes")
        return answer.status, data

    def _connection(self) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)
        try:
            context = ssl.create_default_context(cafile=self._authority)
        except OSError as error:
            raise ConfigError(f"the key service's authority cannot be read ({type(error).__name__})") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_seconds, context=context)


def from_reference(reference: str, base: Path) -> TransitKeyStore:
    """The store that ``kms:https://host:port/mount/key?token-source=file:…[&ca=file:…]`` names.

    Raises:
        ConfigError: It is no such reference, or has the token itself in it.
    """
    parts = urlsplit(reference.removeprefix("kms:"))
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    source, authority = given.get("token-source", ""), given.get("ca", "file:")
    names = parts.path.strip("/").split("/")
    is_file = source.startswith("file:") and authority.startswith("file:")
    if not is_file or not given.keys() <= {"token-source", "ca"} or len(names) != 2:
        raise ConfigError("a key service is named as kms:https://host:port/mount/key?token-source=file:…[&ca=file:…]")
    token, address = base / source.removeprefix("file:"), f"{parts.scheme}://{parts.netloc}"
    service = HttpKeyService(
        address,
        lambda: read_private(token).decode(errors="replace").strip(),
        authority=str(base / authority.removeprefix("file:")) if "ca" in given else None,
    )
    return TransitKeyStore(service, mount=names[0], key=names[1], address=address)
