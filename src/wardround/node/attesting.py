"""A node that sends nothing before hub and machine have proved what they run, where the approved plan demands it.

    assignment ─▶ this site's policies ─▶ the hub's proof ─▶ this machine's proof ─▶ records are read
    sending    ─────────────────────────▶ both once more, where they have ended meanwhile ─▶ the session's key ─▶ sent

What this machine proves is about the key that signs its requests; that key is another after each renewal of its
certificate, and then it proves itself anew. A session with another key than the hub proved is not used; where the hub
has renewed its key, it is asked for a proof of the new one, and what was known of the old one counts until that came.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wardround.attestation.collateral import Bundle
from wardround.config import NodeConfig
from wardround.enclave.broker_client import BrokerClient, Quote
from wardround.enclave.collateral_file import CollateralFile, officers_of
from wardround.enclave.hub_check import HubCheck
from wardround.enclave.site_proof import SiteProof
from wardround.enclave.tsm import KernelReports
from wardround.errors import ConfigError, LocalProtocolError
from wardround.ids import RunId, StudyId, study_of
from wardround.ports import Clock, Entropy, Vault
from wardround.protocol.attested import Enclaves, KeyName, Proof, ProofRequest, SiteChallenge
from wardround.protocol.messages import Assignment
from wardround.protocol.plan import Plan
from wardround.system import SystemClock, SystemEntropy
from wardround.transport.http import HttpHub

__all__ = ["Attesting", "Authorize", "Way", "keys", "open_attesting", "way_of"]

_PROBE = bytes(64)


class Authorize(Protocol):
    """`wardround.node.authorizing.Authorizing.asked`."""

    def __call__(self, assignment: Assignment, plan: Plan, *, attested: bool) -> None:
        """Raise `PolicyError` where this site's policies do not allow it."""
        ...


class Way(Protocol):
    """A way to the hub; `way_of` makes one of the node's own."""

    def prove(self, asked: ProofRequest) -> tuple[Proof, bytes]:
        """The hub's proof, and the certificate (DER) of the session in which it came."""
        ...

    def challenge(self, study: StudyId) -> SiteChallenge:
        """A nonce for this machine."""
        ...

    def submit(self, proof: Proof) -> float:
        """Hand in this machine's proof; until when it counts."""
        ...

    def key(self) -> bytes:
        """The key that signs requests at present, as SubjectPublicKeyInfo in DER."""
        ...


class Attesting:
    """What one node has been shown by its hub, and has shown it; fills `wardround.transport.prover.Prover`.

    `quote` makes this machine's evidence, None where it is no confidential one; `collateral` gives the bundle by which
    the hub's is checked. May be shared by threads.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        *,
        way: Way,
        authorize: Authorize,
        collateral: Callable[[], Bundle],
        quote: Quote | None,
    ) -> None:
        self._clock, self._entropy, self._way = clock, entropy, way
        self._authorize, self._collateral, self._quote = authorize, collateral, quote
        self._lock = threading.RLock()
        self._demands: dict[StudyId, Enclaves | None] = {}
        self._hub = self._new_check()
        self._doubted: HubCheck | None = None
        self._site, self._key = self._new_proof(b""), b""

    def admit(self, assignment: Assignment, plan: Plan) -> None:
        """Raise unless the hub may ask this site for this, and both have proved what the plan demands.

        Policies are told that the hub is attested where the plan demands its proof: without it nothing follows.

        Raises:
            PolicyError: This site's policies do not allow it.
            AttestationError: The hub or this machine is not what the plan demands, with the clause.
            ConfigError: The plan demands what this node is not set up for.
            UnavailableError: The hub or the kernel did not answer.
        """
        demands = plan.enclaves
        self._authorize(assignment, plan, attested=demands is not None and demands.hub is not None)
        with self._lock:
            self._demands[assignment.study] = demands
            self._require(assignment.study, demands, declines=False)

    def before(self, run: RunId, *, declines: bool) -> None:
        """See `wardround.transport.prover.Prover`.

        Raises:
            LocalProtocolError: Nobody has looked at the plan of this run's study.
            AttestationError: As in `admit`; and `ConfigError`, `UnavailableError`.
        """
        study = study_of(run)
        with self._lock:
            if study not in self._demands:
                if declines:
                    return
                raise LocalProtocolError("something is to be sent for a study whose plan was not looked at")
            self._require(study, self._demands[study], declines=declines)

    def check(self, certificate: bytes, run: RunId | None) -> None:
        """See `wardround.transport.prover.Prover`.

        Raises:
            AttestationError: The session goes to another machine than the one that proved itself.
        """
        with self._lock:
            study = study_of(run) if run is not None else None
            demands = self._demands.get(study) if study is not None else None
            if study is not None and demands is not None and demands.hub is not None:
                self._hub.check_session(certificate, study)
            else:
                self._hub.check_connection(certificate)

    def refused(self, run: RunId) -> None:
        """See `wardround.transport.prover.Prover`."""
        with self._lock:
            self._doubted = self._hub
            self._site.forget(study_of(run))

    def _require(self, study: StudyId, demands: Enclaves | None, *, declines: bool) -> None:
        if demands is None:
            return
        if demands.hub is not None and self._doubted is self._hub:
            # Until the new proof has come, sessions are held against what was known before.
            again = self._new_check()
            again.require(study, demands)
            self._hub = again
        self._hub.require(study, demands)
        if demands.nodes is not None and not declines:
            key = self._way.key()
            if key != self._key:
                self._site, self._key = self._new_proof(key), key
            self._site.require(study, demands)

    def _new_check(self) -> HubCheck:
        return HubCheck(self._clock, self._entropy, ask=self._way.prove, collateral=self._collateral)

    def _new_proof(self, key: bytes) -> SiteProof:
        way = self._way
        return SiteProof(self._clock, challenge=way.challenge, submit=way.submit, quote=self._quote, spki=key)


class _HttpWay:
    """The node's own way to the hub."""

    def __init__(self, hub: HttpHub) -> None:
        self._hub = hub
        self.prove, self.challenge, self.submit = hub.prove, hub.challenge, hub.submit

    def key(self) -> bytes:
        public = self._hub.session.way.key.public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def way_of(hub: HttpHub) -> Way:
    """A node's connections to its hub as a `Way`."""
    return _HttpWay(hub)


def open_attesting(folder: Path, config: NodeConfig, *, hub: HttpHub, vault: Vault, authorize: Authorize) -> Attesting:
    """A node's attestation by its settings; `hub` asks it from now on before it sends something for a run.

    Raises:
        ConfigError: A setting is wrong.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    made = Attesting(
        clock,
        entropy,
        way=way_of(hub),
        authorize=authorize,
        collateral=_collateral(folder, config, clock, vault),
        quote=KernelReports().evidence if config.confidential else None,
    )
    hub.prover = made
    return made


def keys(hub: HttpHub, run: RunId, names: Sequence[KeyName], quote: Quote) -> dict[KeyName, bytes]:
    """A run's keys for this machine, by its evidence.

    Raises:
        AttestationError: The hub refuses, with the clause; the run has ended, perhaps.
        ForbiddenError: The site is not of the run, or its plan releases no such key.
        ConfigError: This machine gives no evidence.
        UnavailableError: The hub or the kernel did not answer.
    """
    kind = quote(_PROBE).kind
    return BrokerClient(hub.exchange, tee=kind, quote=quote).keys(run, names)


def _collateral(folder: Path, config: NodeConfig, clock: Clock, vault: Vault) -> Callable[[], Bundle]:
    if not config.collateral:
        return _no_collateral
    officers = officers_of(config.collateral_officers, config.collateral_quorum)
    path = folder / config.collateral
    return CollateralFile(path, officers, config.collateral_quorum, clock=clock, vault=vault).bundle


def _no_collateral() -> Bundle:
    raise ConfigError(
        "the plan demands that the hub proves what it runs, and this node has no collateral to check it by: set "
        "collateral and collateral_officers in node.toml"
    )
