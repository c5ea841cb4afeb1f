"""Requests put together by hand, so that a test can bend any part of one before it goes out."""

import base64
import hashlib
import http.client
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wardround.crypto import http_signature, signing
from wardround.protocol.messages import Problem
from wardround.transport.connection import tls_context

EMPTY = hashlib.sha256(b"").digest()


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of a response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Problem:
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.headers, self.body[:200])
        found = msgspec.json.decode(self.body, type=Problem)
        assert found.status == self.status
        return found

    @property
    def code(self) -> str:
        return self.problem.type


class Wire:
    """One identity's way to a hub; every call is a connection of its own."""

    def __init__(self, url: str, folder: Path, name: str, *, key: Path | None = None) -> None:
        self.host, _, port = url.removeprefix("https://").rpartition(":")
        self.port, self.name = int(port), name
        connection = folder / "keys" / "connection.pem"
        self.key = signing.load_private((key or connection).read_bytes())
        self.document = signing.load_private(next((folder / "keys").glob("[nr]*.key")).read_bytes())
        self.context = tls_context((folder / "authority.crt").read_bytes(), connection)
        self.challenge = "none"

    def connect(self, port: int | None = None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, port or self.port, context=self.context, timeout=20.0)

    def sign(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        age: float = 0.0,
        digest: bytes | None = None,
        content_range: str = "",
    ) -> dict[str, str]:
        """Headers of a signed request; with `content_range`, `digest` is the whole blob's."""
        return http_signature.sign(
            method=method,
            target=target,
            digest=digest or hashlib.sha256(body).digest(),
            created=int(time.time() - age),
            nonce=base64.urlsafe_b64encode(secrets.token_bytes(18)).decode(),
            tag=self.challenge,
            keyid=self.name,
            key=self.key,
            whole=bool(content_range),
            content_range=content_range,
        ) | ({"content-range": content_range} if content_range else {})

    def raw(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Send exactly this."""
        connection = self.connect()
        try:
            connection.request(method, target, body=body or None, headers=headers)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def meet(self) -> None:
        """Learn the hub's present challenge, as any client's first request does."""
        answer = self.raw("GET", "/v1/studies", b"", self.sign("GET", "/v1/studies"))
        if answer.status != 200:
            assert answer.code == "crypto/challenge", answer.problem
            self.challenge = answer.problem.challenge

    def call(self, method: str, target: str, body: bytes = b"", extra: dict[str, str] | None = None) -> Answer:
        """A proper request with this body."""
        answer = self.raw(method, target, body, {**self.sign(method, target, body), **(extra or {})})
        if answer.status == 401 and answer.code == "crypto/challenge":
            self.challenge = answer.problem.challenge
            answer = self.raw(method, target, body, {**self.sign(method, target, body), **(extra or {})})
        return answer

    def post(self, target: str, message: object) -> Answer:
        return self.call("POST", target, msgspec.msgpack.encode(message))

    def put(self, scope: str, data: bytes, *, start: int = 0, digest: bytes | None = None, size: int = 0) -> Answer:
        """Upload `data` from byte `start`; `digest` and `size` are what is claimed of the whole."""
        digest, size = digest or hashlib.sha256(data).digest(), size or len(data)
        target = f"/v1/blobs/{scope}/{digest.hex()}"
        headers = self.sign("PUT", target, digest=digest, content_range=f"bytes {start}-{size - 1}/{size}")
        return self.raw("PUT", target, data[start:], headers)

    def held(self, scope: str, data: bytes) -> int:
        """How much of an upload the hub says it holds."""
        answer = self.call("GET", f"/v1/blobs/{scope}/{hashlib.sha256(data).hexdigest()}?offset=1")
        assert answer.status == 200, answer.problem
        return msgspec.msgpack.decode(answer.body)["offset"]
