"""A run's keys, given to attested machines while the run is open, and destroyed when it ends.

    challenge   a nonce and a session for one site and one run; used once, ends after two minutes
    attest      evidence over {nonce, tee-pubkey}, appraised against the run's own plan  ─▶  a token, ten minutes
    release     a key as JWE for exactly the attested tee-pubkey                         ─▶  nobody else can open it
    close       the run's keys are deleted, its sessions and tokens forgotten, its name closed for ever

A token is a signed attestation result that others may read; here it is only a ticket, looked up by its digest. Whatever
a token says, nothing is released for a run that is closed, that its plan does not open now, or by a ticket that ended.
After a restart machines attest anew. Every release is recorded before the key leaves: what cannot be recorded is not
released. A refusal is recorded too.

Hazard: whoever runs this holds the keys. A hub that must not read the model has to be attested itself, by plan.

References:
    Confidential Containers, Trustee: KBS attestation protocol 0.1.1. RFC 7516 and 7518, 4.6: ECDH-ES+A256KW, A256GCM.
"""

import base64
import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from wardround.attestation import reference
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Verified
from wardround.errors import (
    AttestationError,
    CodecError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    UnavailableError,
    WardroundError,
)
from wardround.ids import Digest, RunId, SiteId
from wardround.ports import Clock, Entropy, Vault
from wardround.protocol import broker
from wardround.protocol.attested import Enclaves, KeyName
from wardround.protocol.broker import Attestation, Challenge, Jwe, Request, Tee, TeeKey, TokenResponse
from wardround.services import attestation_events as events
from wardround.services.attestation_events import Appraise, AttestationEvent

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

    from wardround.crypto.jose import SigningKey

__all__ = ["KEY_BYTES", "TOKEN_SECONDS", "IssueToken", "KeyRelease", "signed_by"]

KEY_BYTES = 32
TOKEN_SECONDS = 600.0
_SESSION_SECONDS = 120.0
_MAX_SESSIONS = 4096
_MAX_SESSIONS_OF_ONE = 64
_NONCE_BYTES = 32
_CLOSING, _CLOSED = b"closing", b"closed"


class IssueToken(Protocol):
    """Writes an attestation result as a signed token; see `signed_by`."""

    def __call__(
        self,
        found: Sequence[Verified],
        *,
        nonce: bytes,
        tee_key: TeeKey,
        policy: Digest,
        now: float,
        lifetime_seconds: int,
    ) -> str:
        """A JWT."""
        ...


@dataclass(slots=True)
class _Session:
    site: SiteId
    run: RunId
    tee: Tee
    nonce: str
    expires: float
    ticket: str = ""


@dataclass(frozen=True, slots=True)
class _Grant:
    site: SiteId
    run: RunId
    key: TeeKey
    expires: float
    found: tuple[Verified, ...] = field(repr=False)


class KeyRelease:
    """The key broker of one hub. Its methods may be called from several threads.

    `demands` gives what an open run demands of a site's machine: None where the run is not open or demands nothing. It
    raises `NotFoundError` where there is no such run, `ForbiddenError` where the site is not of it. `record` is told of
    every release before the key leaves, and of every refusal.
    """

    def __init__(
        self,
        vault: Vault,
        clock: Clock,
        entropy: Entropy,
        *,
        demands: Callable[[RunId, SiteId], Enclaves | None],
        appraise: Appraise,
        issue: IssueToken,
        record: Callable[[AttestationEvent], None],
    ) -> None:
        self._vault, self._clock, self._entropy = vault, clock, entropy
        self._demands, self._appraise, self._issue, self._record = demands, appraise, issue, record
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._grants: dict[str, _Grant] = {}

    def challenge(self, site: SiteId, request: Request) -> tuple[str, Challenge]:
        """Open a session: its identifier for the cookie, and the nonce.

        Raises:
            CodecError: Another protocol version, or no run is named.
            AttestationError: The run is closed or demands no attestation.
            ForbiddenError: The site is not of the run.
            UnavailableError: Too many sessions are open.
        """
        run = broker.run_of(request)
        with self._telling(site, run):
            self._open_demands(run, site)
            now = self._clock.now()
            with self._lock:
                self._forget_ended(now)
                own = sum(session.site == site for session in self._sessions.values())
                if own >= _MAX_SESSIONS_OF_ONE or len(self._sessions) >= _MAX_SESSIONS:
                    raise UnavailableError(f"{site} has too many open sessions with the key broker; try again later")
                identifier = self._entropy.draw(_NONCE_BYTES).hex()
                nonce = base64.b64encode(self._entropy.draw(_NONCE_BYTES)).decode()
                self._sessions[identifier] = _Session(site, run, request.tee, nonce, now + _SESSION_SECONDS)
            return identifier, Challenge(nonce, {})

    def attest(self, site: SiteId, session: str, message: Attestation) -> TokenResponse:
        """Appraise the answer to a challenge.

        Raises:
            AttestationError: No such challenge, used or ended; the evidence is refused, with the clause.
            ForbiddenError: Another site's session.
            CodecError: The key is not one.
        """
        now = self._clock.now()
        with self._lock:
            found = self._sessions.get(session)
            nonce = found.nonce if found else ""
            if found is not None and found.site == site:
                # Whatever comes of it, this nonce has been used.
                found.nonce = ""
        with self._telling(site, found.run if found else RunId("")):
            if found is None or found.expires <= now:
                raise AttestationError("RFC 9334, 10.1: this challenge is unknown or has ended; ask for a new one")
            if found.site != site:
                raise ForbiddenError(f"{site} may not answer another site's challenge")
            if not nonce:
                raise AttestationError("RFC 9334, 10.1: this challenge has been answered; ask for a new one")
            return TokenResponse(self._attested(found, nonce, message, now))

    def release(self, site: SiteId, credential: str, run: RunId, name: KeyName) -> Jwe:
        """One key of a run for the machine that `credential`, a token or a session's identifier, stands for.

        Raises:
            AttestationError: No attestation, or one that has ended or is of another run; the run is closed.
            ForbiddenError: Another site's attestation, or a key that the plan does not release.
        """
        now = self._clock.now()
        # The lock is held until the key is wrapped, so that nothing is released after `close_run` has returned.
        with self._lock, self._telling(site, run, name):
            grant = self._grants.get(self._ticket_of(credential))
            if grant is None or grant.expires <= now:
                raise AttestationError("this attestation is unknown or has ended; attest again")
            if grant.site != site:
                raise ForbiddenError(f"{site} may not use another site's attestation")
            if grant.run != run:
                raise AttestationError("this attestation is for another run; attest for this one")
            if name not in self._open_demands(run, site).releases:
                raise ForbiddenError(f"the plan of this run does not release its {name}")
            wrapped = _wrapped(self._key(run, name), grant.key)
            self._record(events.told("released", now, run, site, key=name, found=grant.found))
            return wrapped

    def register(self, run: RunId, name: KeyName, key: bytes) -> None:
        """Give a run a key that its owner made; without one it is drawn when it is first asked for.

        Raises:
            CodecError: Not 32 bytes.
            AttestationError: The run is closed.
            ConflictError: The run has this key already; it stays.
        """
        if len(key) != KEY_BYTES:
            raise CodecError(f"a run's key has {KEY_BYTES} bytes, this has {len(key)}")
        with self._lock, self._telling(SiteId(""), run, name):
            self._check_open(run)
            self._vault.add(_place(run, f"key:{name}"), key)
            self._record(events.told("registered", self._clock.now(), run, key=name))

    def close_run(self, run: RunId) -> None:
        """Destroy a run's keys; its sessions and tokens are worthless from now on. Doing it again changes nothing."""
        with self._lock:
            place = _place(run, "closed")
            if self._vault.get(place) == _CLOSED:
                return
            # The mark comes first: a crash in between leaves keys that nobody is given. It says that all is done only
            # once it is recorded, so that closing again after a crash records it again.
            self._vault.put(place, _CLOSING)
            for name in self._vault.names(_place(run, "key:")):
                self._vault.delete(name)
            self._sessions = {name: one for name, one in self._sessions.items() if one.run != run}
            self._grants = {name: one for name, one in self._grants.items() if one.run != run}
            self._record(events.told("closed", self._clock.now(), run))
            self._vault.put(place, _CLOSED)

    def _attested(self, session: _Session, nonce: str, message: Attestation, now: float) -> str:
        runtime = message.runtime_data
        if not hmac.compare_digest(runtime.nonce.encode(), nonce.encode()):
            raise AttestationError("runtime-data.nonce is not that of the challenge")
        enclaves = self._open_demands(session.run, session.site)
        expected = broker.expected_report_data(runtime)
        _point(runtime.tee_pubkey)
        found = self._appraise(
            broker.unverified_evidence(session.tee, message),
            broker.unverified_devices(message),
            _nodes(enclaves),
            expected_report_data=expected,
            session_key=broker.session_key(runtime.tee_pubkey),
            now=now,
        )
        expires = min(now + min(TOKEN_SECONDS, enclaves.lifetime_seconds), *(one.valid_until for one in found))
        token = self._issue(
            found,
            nonce=base64.b64decode(nonce),
            tee_key=runtime.tee_pubkey,
            policy=reference.digest(_nodes(enclaves)),
            now=now,
            lifetime_seconds=max(1, int(expires - now)),
        )
        with self._lock:
            self._check_open(session.run)
            self._record(events.told("attested", now, session.run, session.site, found=found))
            session.ticket, session.expires = _digest(token), expires
            self._grants[session.ticket] = _Grant(session.site, session.run, runtime.tee_pubkey, expires, found)
        return token

    def _ticket_of(self, credential: str) -> str:
        session = self._sessions.get(credential)
        return session.ticket if session is not None else _digest(credential)

    def _open_demands(self, run: RunId, site: SiteId) -> Enclaves:
        self._check_open(run)
        enclaves = self._demands(run, site)
        if enclaves is None or enclaves.nodes is None:
            raise AttestationError("this run is not open, or its plan has no keys for attested nodes")
        return enclaves

    def _check_open(self, run: RunId) -> None:
        if self._vault.get(_place(run, "closed")) is not None:
            raise AttestationError("this run has ended: its keys were destroyed")

    def _key(self, run: RunId, name: KeyName) -> bytes:
        place = _place(run, f"key:{name}")
        if (known := self._vault.get(place)) is not None:
            return known
        drawn = self._entropy.draw(KEY_BYTES)
        try:
            self._vault.add(place, drawn)
        except ConflictError:
            # Another process was first; its key is the run's.
            return self._key(run, name)
        return drawn

    def _forget_ended(self, now: float) -> None:
        self._sessions = {name: one for name, one in self._sessions.items() if one.expires > now}
        self._grants = {name: one for name, one in self._grants.items() if one.expires > now}

    @contextmanager
    def _telling(self, site: SiteId, run: RunId, key: str = "") -> Iterator[None]:
        """Record a refusal, and go on refusing."""
        try:
            yield
        except WardroundError as error:
            reason = f"{error.code}: {error}"[:500]
            self._record(events.told("refused", self._clock.now(), run, site, key=key, reason=reason))
            raise


def signed_by(key: "SigningKey", *, build: str) -> IssueToken:
    """Tokens as entity attestation results (`wardround.attestation.ear`), signed with the broker's own key.

    Args:
        key: P-256 or Ed25519.
        build: This hub's version.
    """

    def issue(
        found: Sequence[Verified],
        *,
        nonce: bytes,
        tee_key: TeeKey,
        policy: Digest,
        now: float,
        lifetime_seconds: int,
    ) -> str:
        from wardround.attestation import ear

        results = {"cpu" if place == 0 else f"gpu{place - 1}": one for place, one in enumerate(found)}
        return ear.issue(
            results,
            nonce=nonce,
            tee_key=msgspec.to_builtins(tee_key),
            policy=policy,
            key=key,
            build=build,
            now=now,
            lifetime_seconds=lifetime_seconds,
        )

    return issue


def _nodes(enclaves: Enclaves) -> ReferenceValues:
    if enclaves.nodes is None:
        raise AttestationError("the plan names no builds of nodes")
    return enclaves.nodes


def _wrapped(secret: bytes, key: TeeKey) -> Jwe:
    from joserfc import jwe

    header = {"alg": broker.ALGORITHM, "enc": broker.ENCRYPTION}
    # The compact form has its ephemeral key in the protected header, where Trustee's flattened form has it too.
    compact = jwe.encrypt_compact(header, secret, _point(key), algorithms=[broker.ALGORITHM, broker.ENCRYPTION])
    protected, encrypted_key, iv, ciphertext, tag = compact.split(".")
    return Jwe(protected, encrypted_key, iv, ciphertext, tag)


def _point(key: TeeKey) -> "ECKey":
    """The key as a point of its curve.

    Raises:
        AttestationError: It is none.
        ConfigError: The extra that reads keys is not installed.
    """
    try:
        from joserfc import jwk
    except ImportError:
        raise ConfigError("keys are released as JWE: install wardround with its extra [attestation]") from None
    try:
        return jwk.ECKey.import_key({"kty": key.kty, "crv": key.crv, "x": key.x, "y": key.y})
    except ValueError:
        raise AttestationError("RFC 7518, 6.2: tee-pubkey is not a point of its curve") from None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _place(run: RunId, what: str) -> str:
    return f"key-release/{run}/{what}"
