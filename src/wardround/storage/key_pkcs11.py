"""Key-encryption keys inside a PKCS#11 token: a hardware module, or SoftHSM.

    pkcs11:token=wardround;object=state?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:keys/token.pin

The keys are AES-256, made in the token, sensitive and not extractable: they wrap and unwrap inside it, and no
interface gives them out. A key's label is the URI's `object`, its id the version in four bytes. A data key is
wrapped by AES-GCM under an own nonce, with its context as additional data.

The PIN comes from a file by reference; `pin-value`, which would stand in the settings, is refused.

References:
    RFC 7512, The PKCS #11 URI Scheme; OASIS PKCS #11 3.0, 6.13: AES-GCM.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from wardround.errors import ConfigError, CryptoError, UnavailableError
from wardround.storage.key_file import read_private

__all__ = ["Pkcs11KeyStore", "Pkcs11Reference", "parse"]

_NONCE_BYTES = 12
_ID_BYTES = 4
_CONTEXT = b"wardround key ring\n"
_ATTRIBUTE = re.compile(r"[a-z-]+=[^=;?&]*")
_PATH = frozenset({"token", "object", "serial", "type"})
_QUERY = frozenset({"module-path", "pin-source"})
_WRONG_PIN = frozenset({"PinIncorrect", "PinLocked", "PinInvalid", "PinExpired", "UserPinNotInitialized"})
_NOT_THERE = frozenset(
    {"NoSuchToken", "MultipleTokensReturned", "TokenNotPresent", "TokenNotRecognised", "DeviceRemoved", "DeviceError"}
)
_ALTERED = frozenset(
    {
        "EncryptedDataInvalid",
        "EncryptedDataLenRange",
        "WrappedKeyInvalid",
        "WrappedKeyLenRange",
        "AEADDecryptFailed",
        "DataInvalid",
        "DataLenRange",
    }
)


@dataclass(frozen=True, slots=True)
class Pkcs11Reference:
    """A token's key by name: which module speaks to it, which token and object, and where the PIN is."""

    module: str
    token: str
    object: str
    pin_source: str
    serial: str = ""


def parse(reference: str) -> Pkcs11Reference:
    """Read a PKCS#11 URI.

    Raises:
        ConfigError: It is none, has a PIN in it, or lacks the token, the object, the module or the PIN's source.
    """
    path, _, query = reference.removeprefix("pkcs11:").partition("?")
    if "pin-value" in query or "pin-value" in path:
        raise ConfigError("a PKCS#11 URI here has no pin-value: write the PIN into a file and give pin-source=file:…")
    found: dict[str, str] = {}
    for attributes, separator, known in ((path, ";", _PATH), (query, "&", _QUERY)):
        for text in filter(None, attributes.split(separator)):
            name, _, value = text.partition("=")
            if not _ATTRIBUTE.fullmatch(text) or name not in known or name in found:
                raise ConfigError(f"a PKCS#11 URI here knows {', '.join(sorted(_PATH | _QUERY))}, each once")
            found[name] = unquote(value)
    missing = [name for name in ("token", "object", "module-path", "pin-source") if not found.get(name)]
    if missing or not found["pin-source"].startswith("file:"):
        raise ConfigError(f"a PKCS#11 URI here needs {', '.join(missing) or 'a pin-source that begins with file:'}")
    return Pkcs11Reference(
        found["module-path"], found["token"], found["object"], found["pin-source"], found.get("serial", "")
    )


class Pkcs11KeyStore:
    """Fills `wardround.ports.KeyStore` with a token's keys; needs `python-pkcs11`. Threads may share it.

    `pin` is asked for at every login, and kept nowhere.
    """

    def __init__(self, reference: Pkcs11Reference, pin: Callable[[], str]) -> None:
        self._reference, self._pin = reference, pin
        self._lock = threading.Lock()
        self.name = f"pkcs11:token={reference.token};object={reference.object}"

    @classmethod
    def from_uri(cls, uri: str, base: Path) -> "Pkcs11KeyStore":
        """The store that a URI names; a relative path of the PIN's file counts from `base`.

        Raises:
            ConfigError: The URI is wrong. The PIN's file is read only when it is needed.
        """
        reference = parse(uri)
        path = base / reference.pin_source.removeprefix("file:")
        return cls(reference, lambda: read_private(path).decode(errors="replace").strip())

    def bare(self) -> bytes | None:
        """Nothing: the token's keys cannot be had."""
        return None

    def versions(self) -> tuple[int, ...]:
        """See `wardround.ports.KeyStore`."""
        with self._session() as session:
            return tuple(sorted(self._keys(session)))

    def wrap(self, key: bytes, context: bytes) -> tuple[int, bytes]:
        """See `wardround.ports.KeyStore`."""
        with self._session() as session:
            keys = self._keys(session)
            if not keys:
                raise CryptoError(f"there is no key {self._reference.object!r} in the token")
            nonce = os.urandom(_NONCE_BYTES)
            mechanism, parameters = _gcm(nonce, context)
            wrapped = keys[max(keys)].encrypt(key, mechanism=mechanism, mechanism_param=parameters)
            return max(keys), nonce + bytes(wrapped)

    def unwrap(self, wrapped: bytes, version: int, context: bytes) -> bytes:
        """See `wardround.ports.KeyStore`."""
        if len(wrapped) <= _NONCE_BYTES:
            raise CryptoError("a wrapped key is shorter than its nonce")
        with self._session() as session:
            key = self._keys(session).get(version)
            if key is None:
                raise CryptoError(f"version {version} of the token's key {self._reference.object!r} is gone")
            mechanism, parameters = _gcm(wrapped[:_NONCE_BYTES], context)
            return bytes(key.decrypt(wrapped[_NONCE_BYTES:], mechanism=mechanism, mechanism_param=parameters))

    def rotate(self, above: int) -> int:
        """See `wardround.ports.KeyStore`."""
        import pkcs11

        with self._session(writes=True) as session:
            version = max(above, *self._keys(session), 0) + 1
            session.generate_key(
                pkcs11.KeyType.AES,
                256,
                label=self._reference.object,
                id=version.to_bytes(_ID_BYTES, "big"),
                store=True,
                capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
                template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
            )
            return version

    def destroy(self, version: int) -> None:
        """See `wardround.ports.KeyStore`."""
        with self._session(writes=True) as session:
            key = self._keys(session).get(version)
            if key is not None:
                key.destroy()

    def _keys(self, session: Any) -> dict[int, Any]:  # noqa: ANN401, python-pkcs11 has no types
        """The token's keys of this name by version; keys that others made under it, without such an id, are not."""
        import pkcs11

        wanted = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.Attribute.LABEL: self._reference.object,
        }
        found = {bytes(key.id): key for key in session.get_objects(wanted)}
        return {int.from_bytes(name, "big"): key for name, key in found.items() if len(name) == _ID_BYTES}

    @contextmanager
    def _session(self, *, writes: bool = False) -> Iterator[Any]:
        try:
            import pkcs11
        except ModuleNotFoundError:
            raise ConfigError("a key in a PKCS#11 token needs python-pkcs11: pip install 'wardround[hsm]'") from None
        wanted = {"token_label": self._reference.token}
        if self._reference.serial:
            wanted["token_serial"] = self._reference.serial
        with self._lock, self._translated(pkcs11.PKCS11Error):
            token = pkcs11.lib(self._reference.module).get_token(**wanted)
            with token.open(rw=writes, user_pin=self._pin()) as session:
                yield session

    @contextmanager
    def _translated(self, foreign: type[Exception]) -> Iterator[None]:
        try:
            yield
        except foreign as error:
            # A token's own texts are not repeated: some modules put what they were given into them.
            name = type(error).__name__
            if name in _WRONG_PIN:
                raise ConfigError(f"the token {self._reference.token!r} does not take the PIN ({name})") from None
            if name in _ALTERED:
                raise CryptoError(
                    f"the token cannot unwrap this key: it was altered or is another's ({name})"
                ) from None
            if name in _NOT_THERE:
                raise UnavailableError(f"there is no one token {self._reference.token!r} ({name})") from None
            # SoftHSM says of a tag that is wrong no more than that something failed.
            if name in {"GeneralError", "FunctionFailed"}:
                raise CryptoError(f"the token cannot unwrap this key, or failed ({name})") from None
            raise UnavailableError(f"the token did not answer as it should ({name})") from None
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"the PKCS#11 module cannot be loaded ({type(error).__name__})") from None


def _gcm(nonce: bytes, context: bytes) -> tuple[Any, Any]:
    import pkcs11

    return pkcs11.Mechanism.AES_GCM, pkcs11.GCMParams(nonce, _CONTEXT + context, 128)
