"""One identity's side of signed requests and answers: its present key, the hub's challenge, the hub's keys.

The key and certificate may be replaced while requests are under way: those that were sent stay signed as they
were, the next one is signed by the new key. When the hub refuses a signature, the other key of a renewal whose
answer was lost is tried (`wardround.transport.credential`).

Every answer to a signed request is signed by the hub, and for exactly that request: so nothing that ends TLS on
the way can alter one. A blob that streams is checked by its digest instead.
"""

import base64
import http.client
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from wardround.crypto import answer_signature, certificate, http_signature, signing
from wardround.errors import ConfigError, CryptoError, SignatureError, UnavailableError
from wardround.ids import SiteId
from wardround.transport import connection, credential
from wardround.transport.credential import Credential

__all__ = ["Session", "Signed", "Way"]

_UNAVAILABLE = 500
_RETRY_SECONDS = 30.0


class Way(NamedTuple):
    """How connections are opened and requests signed at present; `number` counts the changes."""

    number: int
    key: signing.PrivateKey
    context: ssl.SSLContext


class Signed(NamedTuple):
    """A request's headers, and what its answer must be bound to."""

    headers: dict[str, str]
    key: signing.PrivateKey
    challenge: str

    @property
    def signature(self) -> str:
        """The member of the signature header that the answer covers."""
        return answer_signature.request_signature(self.headers["signature"]) or ""


class Session:
    """May be used by several threads."""

    def __init__(self, url: str, *, name: SiteId, held: Credential, authority: bytes) -> None:
        self._url, self._name = url, name
        self._held, self._authority = held, authority
        self._lock = threading.Lock()
        self.way = Way(0, held.key, connection.tls_context(authority, held.path))
        self.challenge = "none"
        self._signers: dict[str, tuple[signing.PublicKey, float]] = {}
        self._fresh_until = float("inf")
        self._refresh: Callable[[], Credential] = lambda: held
        self._authority_now: Callable[[], bytes] = lambda: authority

    def keep_fresh(self, refresh: Callable[[], Credential], authority: Callable[[], bytes]) -> None:
        """Before a request that comes after half of the certificate's life, use what `refresh` gives.

        For those who ask now and then; a node has `wardround.transport.keeping.Keeper`.
        """
        self._refresh, self._authority_now = refresh, authority
        self._fresh_until = self._held.due(0.0)

    def _freshen(self) -> None:
        now = time.time()
        if now < self._fresh_until:
            return
        self._fresh_until = now + _RETRY_SECONDS  # So that an unwilling hub does not delay every request.
        held = self._refresh()
        if held.certificate != self._held.certificate:
            self.use(held, self._authority_now())
            self._fresh_until = held.due(0.0)

    def use(self, held: Credential, authority: bytes) -> None:
        """Open connections and sign requests with these from now on."""
        context = connection.tls_context(authority, held.path)
        with self._lock:
            self._held, self._authority = held, authority
            self.way = Way(self.way.number + 1, held.key, context)
            self._signers = {}

    @property
    def held(self) -> Credential:
        """The credential in use."""
        return self._held

    def sign(
        self,
        method: str,
        target: str,
        digest: bytes,
        *,
        whole: bool = False,
        content_range: str = "",
        authorization: str = "",
        dpop: str = "",
    ) -> Signed:
        """Sign a request with the present key; a person's `authorization` and `dpop` go with it and are covered.

        Raises:
            WardroundError: The certificate has ended, and was not renewed.
        """
        self._freshen()
        key, challenge = self.way.key, self.challenge
        headers = http_signature.sign(
            method=method,
            target=target,
            digest=digest,
            created=int(time.time()),
            nonce=base64.urlsafe_b64encode(secrets.token_bytes(18)).decode(),
            tag=challenge,
            keyid=self._name,
            key=key,
            whole=whole,
            content_range=content_range,
            authorization=authorization,
            dpop=dpop,
        )
        tokens = {"authorization": authorization, "dpop": dpop}
        return Signed(headers | {name: value for name, value in tokens.items() if value}, key, challenge)

    def check(self, response: http.client.HTTPResponse, content: bytes, request: Signed) -> None:
        """Raise unless the hub gave this answer to this request.

        Raises:
            SignatureError: It did not.
            UnavailableError: Something on the way says that the hub does not answer.
        """
        headers: dict[str, str] = {}
        for name, value in response.getheaders():
            lower = name.lower()
            headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
        if response.status >= _UNAVAILABLE and "signature" not in headers:
            raise UnavailableError(f"the hub did not answer: something on the way said {response.status}")
        answer_signature.verify(
            headers,
            status=response.status,
            content=content,
            request=request.signature,
            key_of=self._signer,
        )

    def switch(self, refused: signing.PrivateKey) -> bool:
        """Sign with another key than the one that was refused, if a renewal has left one."""
        with self._lock:
            used = self.way.key
            if used is not refused:
                return True
            if self._held.path is None:
                return False
            try:
                on_disk, waiting = credential.load(self._held.path), credential.pending(self._held.path)
            except (ConfigError, CryptoError):
                return False
            if not _same(on_disk.key, used):
                context = connection.tls_context(self._authority, on_disk.path)
                self._held, self.way = on_disk, Way(self.way.number + 1, on_disk.key, context)
            elif waiting is not None and not _same(waiting, used):
                # Connections go on with the certificate that there is; only the signatures are the next key's.
                self.way = Way(self.way.number, waiting, self.way.context)
            else:
                return False
            return True

    def _signer(self, keyid: str) -> signing.PublicKey:
        known, now = self._signers.get(keyid), time.time()
        if known is None or not now < known[1]:
            found = connection.fetch_signer(self._url, self.way.context)
            name, role, key = certificate.open_identity(found, self._authority, now, purpose="document")
            if certificate.fingerprint(found) != keyid or (name, role) != ("hub", "hub"):
                raise SignatureError("the answer is signed by a key that is not this hub's")
            known = key, certificate.expires(found)
            self._signers[keyid] = known
        return known[0]


def _same(one: signing.PrivateKey, other: signing.PrivateKey) -> bool:
    return signing.public_bytes(one.public_key()) == signing.public_bytes(other.public_key())
