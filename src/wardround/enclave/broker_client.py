"""An attested machine fetches its run's keys: Trustee's exchange, seen from inside.

    new key pair ─▶ auth ─▶ nonce ─▶ evidence over {nonce, our public key} ─▶ attest ─▶ resource as JWE ─▶ key

The private key is made here, for one exchange, and never leaves this process; the keys that come back are opened with
it. The HTTP that carries the messages is a callable, so that this module meets no transport: it answers status, headers
with lower-case names and body, over a connection whose certificate was checked.

References:
    Confidential Containers, Trustee: KBS attestation protocol 0.1.1. RFC 7516; RFC 7518, 4.6.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from wardround.attestation import binding
from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.errors import (
    AttestationError,
    CodecError,
    ConfigError,
    NotFoundError,
    UnavailableError,
    WardroundError,
    by_code,
)
from wardround.ids import RunId
from wardround.protocol import broker
from wardround.protocol.attested import KeyName
from wardround.protocol.broker import Challenge, Jwe, RuntimeData, Tee, TeeKey, TokenResponse

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

__all__ = ["BrokerClient", "Call", "Devices", "Quote"]

Call = Callable[[str, str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], bytes]]
"""``(method, path, headers, body)`` to status, headers with lower-case names, body."""
Quote = Callable[[bytes], Evidence]
"""Makes the processor's evidence over 64 bytes: `wardround.enclave.tsm.KernelReports().evidence`."""
Devices = Callable[[bytes], Sequence[DeviceEvidence]]
"""Makes the GPUs' evidence over a 32-byte nonce."""
_SESSION = re.compile(rf"{re.escape(broker.SESSION_COOKIE)}=([A-Za-z0-9_.-]{{1,256}})(?:;|\Z)")
_MAX_TOKEN = 64 * 1024
_KEY_BYTES = 32


class BrokerClient:
    """Fetches keys from one broker, ours or Trustee's; `tee` is what `quote` makes evidence of."""

    def __init__(self, call: Call, *, tee: Tee, quote: Quote, devices: Devices | None = None) -> None:
        self._call, self._tee, self._quote, self._devices = call, tee, quote, devices

    def keys(self, run: RunId, names: Sequence[KeyName]) -> dict[KeyName, bytes]:
        """Attest once, and fetch these keys of `run`, 32 bytes each.

        Raises:
            AttestationError: The broker refuses, with its reason; or this machine gives no evidence.
            ForbiddenError: The site or the plan does not allow it.
            NotFoundError: There is no such run or key.
            CodecError: The broker's answer is not of the protocol.
            ConfigError: The extra that opens keys is not installed, or this machine is no confidential one.
            UnavailableError: The broker did not answer.
        """
        private = _new_key()
        cookie = self._attest(run, private)
        return {name: self._fetch(run, name, cookie, private) for name in names}

    def _attest(self, run: RunId, private: "ECKey") -> dict[str, str]:
        """The header that names the attested session.

        Of the protocol's two ways to name it, the cookie is taken: `authorization` is where Wardround's own requests
        say in whose name they are made.
        """
        headers, body = self._post("/kbs/v0/auth", {}, broker.encode(broker.request(self._tee, run)))
        nonce = broker.decode(body, Challenge).nonce
        session = _SESSION.match(headers.get("set-cookie", ""))
        if session is None:
            raise CodecError(f"the key broker's challenge came without the cookie {broker.SESSION_COOKIE}")
        public = private.as_dict(private=False)
        runtime = RuntimeData(nonce, msgspec.convert({**public, "alg": broker.ALGORITHM}, type=TeeKey))
        evidence = self._quote(broker.expected_report_data(runtime))
        if evidence.kind != self._tee:
            raise ConfigError(f"this machine gives evidence of {evidence.kind}, and {self._tee} was announced")
        devices: tuple[DeviceEvidence, ...] = ()
        if self._devices is not None:
            devices = tuple(self._devices(binding.gpu_nonce(evidence.report, broker.session_key(runtime.tee_pubkey))))
        message = broker.attestation(runtime, evidence, devices)
        cookie = {"cookie": f"{broker.SESSION_COOKIE}={session[1]}"}
        token = broker.decode(self._post("/kbs/v0/attest", cookie, broker.encode(message))[1], TokenResponse).token
        if not token.isascii() or not token.isprintable() or not 1 <= len(token) <= _MAX_TOKEN:
            raise CodecError("the key broker's token is not one")
        return cookie

    def _fetch(self, run: RunId, name: KeyName, cookie: Mapping[str, str], private: "ECKey") -> bytes:
        status, _, body = self._call("GET", broker.path(run, name), cookie, b"")
        key = _opened(broker.decode(_checked(status, body), Jwe), private)
        if len(key) != _KEY_BYTES:
            raise CodecError(f"the key broker sent a key of {len(key)} bytes, and {_KEY_BYTES} are expected")
        return key

    def _post(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[Mapping[str, str], bytes]:
        status, answered, answer = self._call("POST", path, {"content-type": "application/json", **headers}, body)
        return answered, _checked(status, answer)


def _checked(status: int, body: bytes) -> bytes:
    if len(body) > broker.MAX_BODY_BYTES:
        raise CodecError(f"the key broker's answer has more than {broker.MAX_BODY_BYTES} bytes")
    if status < 400:
        return body
    raise _refusal(status, body)


def _refusal(status: int, body: bytes) -> WardroundError:
    """What a broker's error means here: ours says which error it is, Trustee's only a status."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = {}
    detail = f"the key broker answered {status}: {str(problem.get('detail', 'no reason given'))[:500]}"
    kind = by_code(str(problem.get("type", "")))
    if kind is not WardroundError:
        return kind(detail)
    if status >= 500:
        return UnavailableError(detail)
    return NotFoundError(detail) if status == 404 else AttestationError(detail)


def _new_key() -> "ECKey":
    try:
        from joserfc.jwk import ECKey
    except ImportError:
        raise ConfigError("keys come as JWE: install wardround with its extra [attestation]") from None
    return ECKey.generate_key("P-256")


def _opened(message: Jwe, private: "ECKey") -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
    from joserfc import jwe
    from joserfc.errors import JoseError

    if message.aad:
        raise CodecError("the key broker's JWE has additional data, which this protocol does not use")
    compact = f"{message.protected}.{message.encrypted_key}.{message.iv}.{message.ciphertext}.{message.tag}"
    try:
        opened = jwe.decrypt_compact(compact, private, algorithms=[broker.ALGORITHM, broker.ENCRYPTION]).plaintext
    except (JoseError, InvalidTag, InvalidUnwrap, ValueError, TypeError, KeyError, AttributeError):
        opened = None
    if opened is None:
        raise AttestationError("RFC 7516, 5.2: the key is not wrapped for this machine's key, or it was altered")
    return opened
