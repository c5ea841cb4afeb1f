"""A node refuses a hub that is not the build that the plan names.

    nonce (fresh) ─▶ hub ─▶ evidence over (role "hub", study, nonce, TLS key)     the key that this node saw in TLS
    appraised against plan.enclaves.hub ─▶ the hub's TLS key is the attested one, for `lifetime_seconds`

A node calls `require` before it sends anything for a study, and `check_connection` on every connection that it opens: a
hub's certificate is issued by the hub's own authority, so only the key itself says that it is the attested machine.
Where it is known for which study a connection is, `check_session` asks for a proof for that very study.

Hazard: whatever ends TLS before the hub (a proxy, a load balancer) has another key, and is refused.

References:
    RFC 9334, sections 5.2 and 10.1. RFC 9266: why a TLS exporter would bind better, where there is one.
"""

import hashlib
import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from wardround.attestation import nvidia_machine
from wardround.attestation.collateral import Bundle
from wardround.attestation.result import Verified
from wardround.errors import AttestationError
from wardround.ids import StudyId
from wardround.ports import Clock, Entropy
from wardround.protocol import attested
from wardround.protocol.attested import NONCE_BYTES, Enclaves, Proof, ProofRequest

__all__ = ["Ask", "HubCheck", "key_of"]

Ask = Callable[[ProofRequest], tuple[Proof, bytes]]
"""Asks the hub: its answer, and the certificate (DER) of the TLS session in which the answer came."""


@dataclass(frozen=True, slots=True)
class _Standing:
    key: bytes
    demands: Enclaves
    expires: float


class HubCheck:
    """What one node knows of its hub. Its methods may be called from several threads.

    `collateral` gives the bundle that this site's officers signed, opened.
    """

    def __init__(self, clock: Clock, entropy: Entropy, *, ask: Ask, collateral: Callable[[], Bundle]) -> None:
        self._clock, self._entropy, self._ask, self._collateral = clock, entropy, ask, collateral
        self._lock = threading.Lock()
        self._standing: dict[StudyId, _Standing] = {}

    def require(self, study: StudyId, enclaves: Enclaves | None) -> tuple[Verified, ...]:
        """Raise unless the hub has proved lately that it is a build which the plan names.

        Args:
            study: The study whose approved plan demands it.
            enclaves: What the approved plan demands; None, or without a `hub`, asks nothing.

        Returns:
            What was found, where the hub was asked just now; nothing where it is known or not demanded.

        Raises:
            AttestationError: The clause that failed: nothing may be sent for this study.
            UnavailableError: The hub did not answer.
        """
        if enclaves is None or enclaves.hub is None:
            return ()
        now = self._clock.now()
        with self._lock:
            standing = self._standing.get(study)
        if standing is not None and standing.expires > now and standing.demands == enclaves:
            return ()
        nonce = self._entropy.draw(NONCE_BYTES)
        proof, certificate = self._ask(ProofRequest(study, nonce))
        key = key_of(certificate)
        if proof.study != study or not hmac.compare_digest(proof.nonce, nonce):
            raise AttestationError("RFC 9334, 10.1: the hub's proof answers another question")
        found = nvidia_machine.appraise(
            proof.evidence,
            proof.devices,
            enclaves.hub,
            self._collateral(),
            expected_report_data=attested.report_data("hub", study, nonce, key),
            session_key=key,
            now=now,
        )
        expires = min(now + enclaves.lifetime_seconds, *(one.valid_until for one in found))
        with self._lock:
            self._standing[study] = _Standing(key, enclaves, expires)
        return found

    def check_session(self, certificate: bytes, study: StudyId) -> None:
        """Raise unless a TLS session goes to the machine that proved itself for `study`.

        Args:
            certificate: The peer's, DER, of the session that is about to be used.
            study: The study that something is about to be sent for.

        Raises:
            AttestationError: Another key, or the hub has not proved itself, or its proof has ended.
        """
        with self._lock:
            standing = self._standing.get(study)
        if standing is None or standing.expires <= self._clock.now():
            raise AttestationError("the hub has not proved itself for this study, or its proof has ended")
        if not hmac.compare_digest(hashlib.sha256(key_of(certificate)).digest(), hashlib.sha256(standing.key).digest()):
            raise AttestationError("this TLS session goes to another machine than the one that proved itself")

    def check_connection(self, certificate: bytes) -> None:
        """Raise where the hub has proved itself for some study, and a new TLS session goes to another machine.

        Args:
            certificate: The peer's, DER, of a session that was just opened, for whatever purpose.

        Raises:
            AttestationError: Another key than the one that a proof which still counts is about.
        """
        now = self._clock.now()
        with self._lock:
            keys = {one.key for one in self._standing.values() if one.expires > now}
        if keys and keys != {key_of(certificate)}:
            raise AttestationError("this TLS session goes to another machine than the one that proved itself")


def key_of(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a certificate (DER).

    Raises:
        AttestationError: Not a certificate.
    """
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, x509.InvalidVersion):
        raise AttestationError("the hub's TLS certificate is not readable") from None
