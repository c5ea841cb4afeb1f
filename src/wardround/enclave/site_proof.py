"""A node proves to its hub which build it runs, before it sends what a plan takes from attested nodes only.

    ask for a nonce ─▶ evidence over (role "node", study, nonce, this site's identity key) ─▶ hand it in

The identity key signs all of this site's requests, so that the proof holds for each of them. It must have been made
inside the confidential machine: whoever else holds it could send in the machine's name.
"""

import threading
from collections.abc import Callable, Sequence

from wardround.attestation import binding
from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.errors import AttestationError, ConfigError
from wardround.ids import StudyId
from wardround.ports import Clock
from wardround.protocol import attested
from wardround.protocol.attested import Enclaves, Proof, SiteChallenge

__all__ = ["SiteProof"]

_MARGIN = 0.25
"""A proof is renewed when this share of its lifetime is left, so that it does not end under way."""


class SiteProof:
    """One site's proofs. Its methods may be called from several threads.

    `challenge` asks the hub for a nonce, `submit` hands a proof in and gives until when it counts, `quote` makes
    evidence over 64 bytes, `devices` the GPUs' over a 32-byte nonce; `spki` is this site's identity key.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        challenge: Callable[[StudyId], SiteChallenge],
        submit: Callable[[Proof], float],
        quote: Callable[[bytes], Evidence] | None,
        spki: bytes,
        devices: Callable[[bytes], Sequence[DeviceEvidence]] | None = None,
    ) -> None:
        self._clock, self._challenge, self._submit = clock, challenge, submit
        self._quote, self._spki, self._devices = quote, spki, devices
        self._lock = threading.Lock()
        self._until: dict[StudyId, float] = {}

    def require(self, study: StudyId, enclaves: Enclaves | None) -> None:
        """Prove this machine where the plan demands it and its last proof is about to end.

        Raises:
            ConfigError: The plan demands a confidential machine, and this is none.
            AttestationError: The hub refuses the evidence, with the clause.
            UnavailableError: The hub or the kernel did not answer.
        """
        if enclaves is None or enclaves.nodes is None:
            return
        with self._lock:
            if self._until.get(study, 0.0) - _MARGIN * enclaves.lifetime_seconds > self._clock.now():
                return
            self._until[study] = self._prove(study, enclaves)

    def forget(self, study: StudyId) -> None:
        """Prove anew next time: the hub has said that it knows of no proof."""
        with self._lock:
            self._until.pop(study, None)

    def _prove(self, study: StudyId, enclaves: Enclaves) -> float:
        if self._quote is None:
            raise ConfigError("the plan takes nodes in confidential machines only, and this node is set up in none")
        asked = self._challenge(study)
        if asked.study != study:
            raise AttestationError("the hub's challenge is for another study than the one that was asked about")
        evidence = self._quote(attested.report_data("node", study, asked.nonce, self._spki))
        devices: tuple[DeviceEvidence, ...] = ()
        if self._devices is not None and enclaves.nodes is not None and enclaves.nodes.gpu is not None:
            devices = tuple(self._devices(binding.gpu_nonce(evidence.report, self._spki)))
        return self._submit(Proof(study=study, nonce=asked.nonce, evidence=evidence, devices=devices))
