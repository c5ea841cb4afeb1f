"""The way to the hub: HTTP/1.1 over TLS 1.3, dialled from this side only, every request signed.

Each thread has its own connection, kept open. A request names its method, path, body digest, time and
a nonce under the caller's signature; the hub's boot challenge is the signature's tag, so that a request
recorded before a restart of the hub is worth nothing after it. The hub signs its answers in return. Nothing
is retried here except a request that carried the challenge of an earlier boot, or the signature of a key that
was replaced meanwhile; blobs resume where they broke off.
"""

import hashlib
import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeVar

import msgspec

from wardround.errors import CodecError, CryptoError, SignatureError, UnavailableError, WardroundError
from wardround.ids import Digest, RunId, SiteId, StudyId
from wardround.protocol import messages
from wardround.protocol.attested import Proof, ProofRequest, SiteChallenge
from wardround.protocol.messages import (
    Assignment,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Enrolled,
    Identity,
    PairAnswer,
    Problem,
    Proposal,
    Receipt,
    Renewal,
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, SignedPlan
from wardround.secagg.messages import Unmaskable
from wardround.secagg.opening import Evidence
from wardround.secagg.roster import RosterMember, SignedRoster
from wardround.transport.connection import BROKEN, PIECE, address, connect, error_of, problem_of
from wardround.transport.credential import Credential
from wardround.transport.prover import Prover, proved
from wardround.transport.session import Session, Signed

__all__ = ["HttpHub"]

_T = TypeVar("_T")
_RESUMES = 5
_EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
_CREATED = 201


class HttpHub:
    """A hub seen by one enrolled identity; fills `wardround.ports.HubClient`.

    Where there is a `prover`, it is asked before anything is sent for a run, and about every session that is used.
    """

    def __init__(
        self, url: str, *, name: SiteId, credential: Credential, authority: bytes, timeout_seconds: float = 60.0
    ) -> None:
        self._host, self._port = address(url)
        self.session = Session(url, name=name, held=credential, authority=authority)
        self._url, self._timeout = url.rstrip("/"), timeout_seconds
        self._local, self.call = threading.local(), self._call
        self.prover: Prover | None = None
        self.person: Callable[[str, str], tuple[str, str]] | None = None
        """Who gives commands: their ``authorization`` and ``dpop`` for a method and address, made anew each time."""

    def renew(self, renewal: Renewal) -> Enrolled:
        """Have another connection key certified; see `wardround.transport.renewing`."""
        return self._message("POST", "/v1/renewals", renewal, Enrolled)

    def next_task(self, request: TaskRequest) -> Assignment | None:
        """See `wardround.ports.HubClient`."""
        answer = self._call("POST", "/v1/tasks", messages.encode(request))
        return messages.decode(answer, Assignment) if answer else None  # type: ignore[arg-type]

    def contribute(self, contribution: Contribution) -> Receipt:
        """See `wardround.ports.HubClient`."""
        return self._proved(
            contribution.run,
            lambda: self._message("POST", "/v1/contributions", contribution, Receipt),
            declines=bool(contribution.declined),
        )

    def answer(self, answer: CohortAnswer) -> Receipt:
        """See `wardround.ports.HubClient`."""
        return self._proved(
            answer.run,
            lambda: self._message("POST", "/v1/cohorts", answer, Receipt),
            declines=isinstance(answer.answer, Unmaskable),
        )

    def pair(self, answer: PairAnswer) -> Receipt:
        """See `wardround.ports.HubClient`."""
        return self._message("POST", "/v1/pairs", answer, Receipt)

    def roster(self, digest: Digest) -> SignedRoster:
        """See `wardround.ports.HubClient`."""
        return self._message("GET", f"/v1/rosters/{digest}", None, SignedRoster)

    def publish_roster(self, signed: SignedRoster) -> None:
        """Hand in a roster that its officers have signed."""
        self._call("POST", "/v1/rosters", messages.encode(signed))

    def cards(self) -> list[RosterMember]:
        """Every site's public keys, as the hub says; officers compare them with the sites before they sign."""
        return messages.decode(self._call("GET", "/v1/cards"), list[RosterMember])

    def put_card(self, card: RosterMember) -> None:
        """Hand in this site's public keys."""
        self._call("POST", "/v1/cards", messages.encode(card))

    def evidence(self, run: RunId, number: int, cohort: int) -> Evidence:
        """A cohort's signed transcript, unverified."""
        return self._message("GET", f"/v1/runs/{run}/cohorts/{number}/{cohort}", None, Evidence)

    def plan(self, study: StudyId) -> SignedPlan:
        """See `wardround.ports.HubClient`."""
        return self._message("GET", f"/v1/studies/{study}/plan", None, SignedPlan)

    def identity(self, name: SiteId) -> Identity:
        """See `wardround.ports.HubClient`."""
        return self._message("GET", f"/v1/identities/{name}", None, Identity)

    def studies(self) -> list[StudyStatus]:
        """See `wardround.ports.HubClient`."""
        return messages.decode(self._call("GET", "/v1/studies"), list[StudyStatus])

    def decide(self, decision: Decision) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        return self._message("POST", f"/v1/studies/{decision.study}/decisions", decision, StudyStatus)

    def audit(self, audit: Audit) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        return self._message("POST", f"/v1/studies/{audit.study}/audits", audit, StudyStatus)

    def propose(self, proposal: Proposal) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        return self._message("POST", "/v1/studies", proposal, StudyStatus)

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        body = msgspec.msgpack.encode({"action": action, "reason": reason})
        return messages.decode(self._call("POST", f"/v1/studies/{study}/actions", body, personal=True), StudyStatus)

    def run(self, run: RunId, *, after: int = 0, wait_seconds: float = 0.0) -> RunStatus:
        """See `wardround.ports.HubClient`."""
        return self._message("GET", f"/v1/runs/{run}?after={after}&wait={wait_seconds:g}", None, RunStatus)

    @contextmanager
    def download(self, scope: str, ref: BlobRef) -> Iterator[Iterator[memoryview]]:
        """See `wardround.ports.HubClient`."""
        yield self._pieces(f"/v1/blobs/{scope}/{ref.digest}", ref.size)

    def upload(self, scope: str, ref: BlobRef, source: int) -> None:
        """See `wardround.ports.HubClient`."""
        if "." in scope:
            self._proved(RunId(scope), lambda: self._upload(scope, ref, source))
        else:
            self._upload(scope, ref, source)

    def prove(self, asked: ProofRequest) -> tuple[Proof, bytes]:
        """The hub's proof, unverified, and the certificate (DER) of the session in which it came.

        The session is opened for this question and closed after it: nothing else is ever sent in it.
        """
        self.close()
        self._local.is_asking = True
        try:
            return self._message("POST", "/v1/attestations/hub", asked, Proof), getattr(self._local, "certificate", b"")
        finally:
            self._local.is_asking = False
            self.close()

    def challenge(self, study: StudyId) -> SiteChallenge:
        """Ask for a nonce, over which this machine proves itself for `study`."""
        body = msgspec.msgpack.encode({"study": study})
        return messages.decode(self._call("POST", "/v1/attestations/challenge", body), SiteChallenge)

    def submit(self, proof: Proof) -> float:
        """Hand in this machine's proof; until when it counts, in seconds since 1970-01-01 UTC."""
        answer = self._call("POST", "/v1/attestations", messages.encode(proof))
        return messages.decode(answer, dict[str, float]).get("until", 0.0)

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One message of the key broker's protocol; see `wardround.enclave.broker_client.Call`."""
        for _ in range(3):
            try:
                response, sent = self._send(method, target, body, dict(headers))
                answer = response.read(messages.MAX_MESSAGE_BYTES + 1)
            except BROKEN as error:
                self.close()
                raise _refusal(error) from None
            self.session.check(response, answer, sent)
            if response.status < 400 or not problem_of(response.status, answer).challenge:
                return response.status, {name.lower(): value for name, value in response.getheaders()}, answer
            self._overcome(problem_of(response.status, answer), sent)
        raise UnavailableError("the hub keeps changing its challenge")

    def _upload(self, scope: str, ref: BlobRef, source: int) -> None:
        target = f"/v1/blobs/{scope}/{ref.digest}"
        for attempt in range(_RESUMES + 1):
            start = self._offset(target, ref.size) if attempt else 0
            if start >= ref.size:
                return
            try:
                self._send_part(target, ref, source, start)
            except BROKEN as error:
                self.close()
                if attempt == _RESUMES:
                    raise UnavailableError(
                        f"the upload broke off {attempt + 1} times: {type(error).__name__}"
                    ) from None
                time.sleep(min(0.2 * 2**attempt, 5.0))
            else:
                return

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None

    def _proved(self, run: RunId, call: Callable[[], _T], *, declines: bool = False) -> _T:
        """Make `call` once what the run's plan demands has been proved, in sessions that go to who proved it."""

        def for_the_run() -> _T:
            self._local.run = run
            try:
                return call()
            finally:
                self._local.run = None

        return call() if self.prover is None else proved(self.prover, run, for_the_run, declines=declines)

    def _message(self, method: str, target: str, message: msgspec.Struct | None, kind: type[_T]) -> _T:
        body = messages.encode(message) if message is not None else b""
        return messages.decode(self._call(method, target, body), kind)

    def _call(self, method: str, target: str, body: bytes = b"", *, personal: bool = False) -> bytes:
        for _ in range(5):
            is_kept = getattr(self._local, "connection", None) is not None
            try:
                response, sent = self._send(method, target, body, personal=personal)
                answer = response.read(messages.MAX_MESSAGE_BYTES + 1)
            except ssl.SSLCertVerificationError as error:
                self.close()
                raise CryptoError(f"the hub's certificate is not valid: {error.verify_message}") from None
            except BROKEN as error:
                self.close()
                if is_kept and isinstance(error, (http.client.RemoteDisconnected, BrokenPipeError)):
                    continue  # The hub closed it while nobody spoke; every command has an id, so it may come twice.
                raise _refusal(error) from None
            self.session.check(response, answer, sent)
            if response.status < 400:
                return answer
            self._overcome(problem_of(response.status, answer), sent)
        raise UnavailableError("the hub keeps changing its challenge")

    def _overcome(self, problem: Problem, sent: Signed) -> None:
        """Raise what a refusal says, unless the same request, signed anew, may be accepted."""
        if problem.challenge and problem.challenge != sent.challenge:
            self.session.challenge = problem.challenge
        elif problem.type != SignatureError.code or not self.session.switch(sent.key):
            raise error_of(problem)

    def _send(
        self, method: str, target: str, body: bytes, extra: dict[str, str] | None = None, *, personal: bool = False
    ) -> tuple[http.client.HTTPResponse, Signed]:
        digest = hashlib.sha256(body).digest() if body else _EMPTY
        token, proof = "", ""
        if personal and self.person is not None:
            token, proof = self.person(method, f"{self._url}{target}")
        sent = self.session.sign(method, target, digest, authorization=token, dpop=proof)
        headers = {**sent.headers, **({"content-type": "application/msgpack"} if body else {}), **(extra or {})}
        connection = self._connection()
        connection.request(method, target, body=body or None, headers=headers)
        return connection.getresponse(), sent

    def _connection(self) -> http.client.HTTPSConnection:
        connection, way = getattr(self._local, "connection", None), self.session.way
        if connection is None or connection.sock is None or self._local.number != way.number:
            self.close()
            connection = connect(self._host, self._port, way.context, self._timeout)
            self._local.connection, self._local.number = connection, way.number
        if self.prover is not None:
            self._check_session(connection, self.prover)
        return connection

    def _check_session(self, connection: http.client.HTTPSConnection, prover: Prover) -> None:
        """Look at whom this session goes to each time it is used: what it was opened for says nothing later."""
        self._local.certificate = connection.sock.getpeercert(binary_form=True) or b""
        try:
            if not getattr(self._local, "is_asking", False):
                prover.check(self._local.certificate, getattr(self._local, "run", None))
        except WardroundError:
            self.close()
            raise

    def _pieces(self, target: str, size: int) -> Iterator[memoryview]:
        held, failures, buffer = 0, 0, memoryview(bytearray(min(PIECE, size)))
        while held < size:
            try:
                response = self._get_from(target, held)
                while count := response.readinto(buffer[: size - held]):
                    held += count
                    yield buffer[:count]
                if held < size:
                    raise http.client.IncompleteRead(b"")
                response.read()
            except BROKEN as error:
                self.close()
                failures += 1
                if failures > _RESUMES:
                    raise UnavailableError(f"the download broke off {failures} times: {type(error).__name__}") from None
                time.sleep(min(0.2 * 2**failures, 5.0))

    def _get_from(self, target: str, start: int) -> http.client.HTTPResponse:
        for _ in range(3):
            response, sent = self._send("GET", target, b"", {"range": f"bytes={start}-"} if start else None)
            if response.status in {200, 206}:
                if (response.status == 206) != bool(start):
                    self.close()
                    raise UnavailableError("the hub does not resume downloads")
                return response
            answer = response.read(65536)
            self.session.check(response, answer, sent)
            self._overcome(problem_of(response.status, answer), sent)
        raise UnavailableError("the hub keeps changing its challenge")

    def _offset(self, target: str, size: int) -> int:
        """How many bytes of an upload the hub holds; the whole size when it has the blob."""
        answer = messages.decode(self._call("GET", f"{target}?offset=1"), dict[str, int])
        return min(answer.get("offset", 0), size)

    def _send_part(self, target: str, ref: BlobRef, source: int, start: int) -> None:
        for _ in range(3):
            content_range = f"bytes {start}-{ref.size - 1}/{ref.size}"
            digest = bytes.fromhex(ref.digest)
            sent = self.session.sign("PUT", target, digest, whole=True, content_range=content_range)
            headers = {"content-range": content_range, "content-length": str(ref.size - start), **sent.headers}
            headers["content-type"] = "application/octet-stream"
            response, answer = self._stream(target, headers, source, start, ref.size)
            self.session.check(response, answer, sent)
            if response.status < 300:
                return
            self._overcome(problem_of(response.status, answer), sent)
        raise UnavailableError("the hub keeps changing its challenge")

    def _stream(
        self, target: str, headers: dict[str, str], source: int, start: int, stop: int
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._connection()
        connection.putrequest("PUT", target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        buffer = memoryview(bytearray(min(PIECE, stop - start)))
        try:
            while start < stop:
                count = os.preadv(source, [buffer[: stop - start]], start)
                if count == 0:
                    raise CodecError("the file to upload is shorter than it should be")
                connection.send(buffer[:count])
                start += count
        except (BrokenPipeError, ConnectionResetError):
            # The hub may have refused early and closed; its answer says why, if it got through.
            return self._early_answer(connection)
        response = connection.getresponse()
        answer = response.read(65536)
        if response.status != _CREATED:
            self.close()  # The hub may not have read the whole body; then it hangs up after its answer.
        return response, answer

    def _early_answer(self, connection: http.client.HTTPSConnection) -> tuple[http.client.HTTPResponse, bytes]:
        response = connection.getresponse()
        answer = response.read(65536)
        self.close()
        if response.status < 300:
            raise ConnectionResetError
        return response, answer


def _refusal(error: Exception) -> WardroundError:
    reason = str(getattr(error, "reason", "")) if isinstance(error, ssl.SSLError) else ""
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return CryptoError(f"the hub does not take this machine's certificate ({reason}); see `wardround doctor`")
    return UnavailableError(f"the hub did not answer: {type(error).__name__}")
