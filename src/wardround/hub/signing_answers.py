"""Answers leave the hub signed, and to nobody who was revoked while the request was held.

A layer around the whole application, so that no route can forget it. An answer to a request that carried a
signature is signed, refusals too, with a key that lives in this process only and whose certificate the hub's
authority has signed; ``GET /v1/signer`` gives that. Streams are not signed: they are blobs, named by digest.

A request that was held is looked at once more before it is answered: who was revoked meanwhile gets a refusal
instead. `Revocations.watch` ends such requests within moments, whichever process wrote the revocation.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround.crypto import answer_signature, certificate, signing
from wardround.errors import SignatureError, WardroundError
from wardround.hub.problem import problem_of
from wardround.ids import SiteId

__all__ = ["AnswerSigner", "Revocations", "SignedAnswers"]

_HELD_SECONDS = 0.25
_WATCH_SECONDS = 0.5
_KEYID = re.compile(r';keyid="([^"]{1,128})";')
_CERTIFICATE_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    key: signing.PrivateKey
    certificate: bytes
    fingerprint: str
    renew_at: float


class AnswerSigner:
    """The key with which this process signs its answers; `authority` gives the issuing key and the certificates."""

    def __init__(self, authority: Callable[[], tuple[bytes, bytes]], now: Callable[[], float]) -> None:
        self._authority, self._now = authority, now
        self._held = self._make()

    def certificate(self) -> bytes:
        """The present key's certificate."""
        return self._present().certificate

    def renew(self) -> None:
        """Take another key, certified by the authority that issues now."""
        self._held = self._make()

    def sign(self, status: int, content: bytes, request: str) -> dict[str, str]:
        """Headers of a signed answer."""
        held = self._present()
        return answer_signature.sign(
            status=status,
            content=content,
            request=request,
            created=int(self._now()),
            keyid=held.fingerprint,
            key=held.key,
        )

    def _present(self) -> _Key:
        if not self._now() < self._held.renew_at:
            self._held = self._make()
        return self._held

    def _make(self) -> _Key:
        key, now = signing.generate(), self._now()
        made = certificate.certify(
            key.public_key(), "hub", "hub", *self._authority(), now, _CERTIFICATE_SECONDS, purpose="document"
        )
        return _Key(key, made, certificate.fingerprint(made), now + _CERTIFICATE_SECONDS / 2)


class Revocations:
    """Requests under way by the name that they are signed with; `revoked` says, off the loop, who is refused."""

    def __init__(self, revoked: Callable[[], Awaitable[frozenset[SiteId]]]) -> None:
        self._revoked = revoked
        self._held: dict[str, set[asyncio.Task[object]]] = {}
        self._ended: set[asyncio.Task[object]] = set()

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """While a request of `name` is under way."""
        task = asyncio.current_task()
        if task is None:  # pragma: no cover, a server always runs requests in tasks
            yield
            return
        self._held.setdefault(name, set()).add(task)
        try:
            yield
        finally:
            self._ended.discard(task)
            tasks = self._held[name]
            tasks.discard(task)
            if not tasks:
                del self._held[name]

    def has_ended(self) -> bool:
        """Whether the present request was ended because its sender was revoked; it is not cancelled any more."""
        task = asyncio.current_task()
        if task is None or task not in self._ended:
            return False
        task.uncancel()
        return True

    async def is_revoked(self, name: str) -> bool:
        """Whether `name` is refused by now."""
        return name in await self._revoked()

    async def watch(self) -> None:
        """End the requests of whoever is revoked, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._held:
                with suppress(WardroundError):  # The database does not answer: the next look may find it.
                    self._end(await self._revoked())

    def _end(self, revoked: frozenset[SiteId]) -> None:
        for name in revoked & self._held.keys():
            for task in self._held[name] - self._ended:
                self._ended.add(task)
                task.cancel()


class SignedAnswers:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, signer: AnswerSigner, revocations: Revocations) -> None:
        self._app, self._signer, self._revocations = app, signer, revocations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name, request = _of(scope) if scope["type"] == "http" else ("", None)
        if request is None:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._signer, request)

        async def deliver(message: Message) -> None:
            if answer.is_late() and await self._revocations.is_revoked(name):
                await answer.refuse()
            else:
                await answer.send(message)

        with self._revocations.holding(name):
            try:
                await self._app(scope, receive, deliver)
            except asyncio.CancelledError:
                if not self._revocations.has_ended():
                    raise
                await answer.refuse()


class _Answer:
    """One answer on its way out: its head is held back until it is known whether its body is whole."""

    def __init__(self, send: Send, signer: AnswerSigner, request: str) -> None:
        self._send, self._signer, self._request = send, signer, request
        self._begun = time.monotonic()
        self._head: Message | None = None
        self._is_over = self._is_out = False

    def is_late(self) -> bool:
        """Whether the request was held, and nothing of its answer is out yet."""
        return not self._is_out and time.monotonic() - self._begun > _HELD_SECONDS

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, the head signed where the whole body is there."""
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        head, self._head = self._head, None
        if head is not None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                signed = self._signer.sign(head["status"], message.get("body", b""), self._request)
                added = [(name.encode(), value.encode()) for name, value in signed.items()]
                head = {**head, "headers": [*head.get("headers", ()), *added]}
            self._is_out = True
            await self._send(head)
        await self._send(message)

    async def refuse(self) -> None:
        """Answer that the sender is not enrolled any more, unless an answer is on its way already."""
        if not self._is_out and not self._is_over:
            self._head = None
            error = SignatureError("nobody is enrolled under the name that signs this request")
            body = msgspec.json.encode(problem_of(error, now=time.time()))
            headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
            await self.send({"type": "http.response.start", "status": 401, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        self._is_over = True


def _of(scope: Scope) -> tuple[str, str | None]:
    """Whom a request's signature names, and the signature, as it came; None where it has none."""
    name, found = "", None
    for field, value in scope["headers"]:
        if field == b"signature-input":
            match = _KEYID.search(value.decode("latin-1"))
            name = match[1] if match else ""
        elif field == b"signature":
            found = answer_signature.request_signature(value.decode("latin-1"))
    return name, found
