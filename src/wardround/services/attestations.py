"""The hub's side of attestation: it proves itself to nodes, and asks nodes to prove themselves.

    prove       a node's nonce ─▶ evidence over (role "hub", study, nonce, the hub's TLS key)
    challenge   a nonce for one site and study, used once, ends after two minutes
    accept      the site's proof over (role "node", study, nonce, the site's identity key) is appraised
    require     refuses what a site sends for a study whose plan demands a proof that it has not given, or that ended

The site's key is the one that it is enrolled with, and that signs all its requests: what is proved by it holds for each
contribution. Proofs are not stored: after a restart sites prove themselves anew.

References:
    RFC 9334, Remote ATtestation procedureS (RATS) Architecture, sections 5.2 (background check) and 10.1 (nonces).
"""

import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass

from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import ReferenceValues
from wardround.attestation.result import Verified
from wardround.errors import AttestationError, CodecError, ConfigError, WardroundError
from wardround.ids import RunId, SiteId, StudyId, study_of
from wardround.ports import Clock, Entropy
from wardround.protocol import attested
from wardround.protocol.attested import NONCE_BYTES, Enclaves, Proof, ProofRequest, SiteChallenge
from wardround.services import attestation_events as events
from wardround.services.attestation_events import Appraise, AttestationEvent

__all__ = ["Attestations", "Quote"]

Quote = Callable[[bytes], Evidence]
"""Makes evidence over 64 bytes: `wardround.enclave.tsm.KernelReports().evidence`."""
_CHALLENGE_SECONDS = 120.0
_MAX_STUDIES = 256


@dataclass(frozen=True, slots=True)
class _Standing:
    found: tuple[Verified, ...]
    expires: float


class Attestations:
    """All proofs at one hub. Its methods may be called from several threads.

    `demands` gives what a study's plan demands, or None. `key_of` gives a site's enrolled identity key as
    SubjectPublicKeyInfo, DER. `quote` makes this hub's evidence and `spki` is its TLS key; without them it proves
    nothing.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        *,
        demands: Callable[[StudyId], Enclaves | None],
        appraise: Appraise,
        key_of: Callable[[SiteId], bytes],
        record: Callable[[AttestationEvent], None],
        quote: Quote | None = None,
        spki: bytes = b"",
    ) -> None:
        self._clock, self._entropy, self._demands, self._appraise = clock, entropy, demands, appraise
        self._key_of, self._record, self._quote, self._spki = key_of, record, quote, spki
        self._lock, self._quoting = threading.Lock(), threading.Lock()
        self._challenges: dict[tuple[SiteId, StudyId], SiteChallenge] = {}
        self._standing: dict[tuple[SiteId, StudyId], _Standing] = {}

    def prove(self, asked: ProofRequest) -> Proof:
        """This hub's evidence for one study and one nonce.

        Raises:
            ConfigError: This hub runs on a machine that proves nothing.
            CodecError: The nonce has another length.
            AttestationError: The machine gave no evidence.
            UnavailableError: The machine is busy; ask again.
        """
        if self._quote is None or not self._spki:
            raise ConfigError("this hub does not run in a confidential machine: it cannot prove what it is")
        bound = attested.report_data("hub", asked.study, asked.nonce, self._spki)
        with self._quoting:
            evidence = self._quote(bound)
        return Proof(study=asked.study, nonce=asked.nonce, evidence=evidence)

    def challenge(self, site: SiteId, study: StudyId) -> SiteChallenge:
        """A nonce for `site`; an earlier one for this study is forgotten.

        Raises:
            CodecError: The study's plan demands no proof of nodes, or the site has asked for too many studies.
            NotFoundError: There is no such study.
        """
        self._nodes(study)
        now = self._clock.now()
        made = SiteChallenge(study, self._entropy.draw(NONCE_BYTES), now + _CHALLENGE_SECONDS)
        with self._lock:
            self._challenges = {place: one for place, one in self._challenges.items() if one.expires > now}
            if sum(place[0] == site for place in self._challenges) >= _MAX_STUDIES:
                raise CodecError(f"{site} has asked to prove itself for too many studies at once; answer some")
            self._challenges[site, study] = made
        return made

    def accept(self, site: SiteId, proof: Proof) -> float:
        """Appraise a site's proof; returns until when it counts, in seconds since 1970-01-01 UTC.

        Raises:
            AttestationError: No such challenge, used or ended; or the evidence is refused, with the clause.
        """
        now = self._clock.now()
        with self._lock:
            # Whatever comes of it, this nonce has been used.
            challenge = self._challenges.pop((site, proof.study), None)
        try:
            found, expires = self._appraised(site, proof, challenge, now)
        except WardroundError as error:
            self._record(events.told("refused", now, proof.study, site, reason=f"{error.code}: {error}"))
            raise
        self._record(events.told("attested", now, proof.study, site, found=found))
        with self._lock:
            self._standing[site, proof.study] = _Standing(found, expires)
        return expires

    def require(self, site: SiteId, run: RunId) -> None:
        """Raise unless what `site` sends for `run` may be taken now.

        Raises:
            AttestationError: The plan demands a proof, and the site has given none, or it has ended.
            NotFoundError: There is no such study.
        """
        study = study_of(run)
        enclaves = self._demands(study)
        if enclaves is None or enclaves.nodes is None:
            return
        with self._lock:
            standing = self._standing.get((site, study))
        if standing is None or standing.expires <= self._clock.now():
            raise AttestationError(
                f"the plan demands that {site} proves which build it runs, and it has not, or its proof has ended: "
                "attest, then send this again"
            )

    def until(self, site: SiteId, study: StudyId) -> float:
        """When a site's proof ends, in seconds since 1970-01-01 UTC; 0 where it has none."""
        with self._lock:
            standing = self._standing.get((site, study))
        return standing.expires if standing else 0.0

    def is_attested(self, site: SiteId) -> bool:
        """Whether a site has a proof that counts now, for whatever study."""
        now = self._clock.now()
        with self._lock:
            return any(place[0] == site and one.expires > now for place, one in self._standing.items())

    def _appraised(
        self, site: SiteId, proof: Proof, challenge: SiteChallenge | None, now: float
    ) -> tuple[tuple[Verified, ...], float]:
        reference, lifetime = self._nodes(proof.study)
        if challenge is None or challenge.expires <= now:
            raise AttestationError("RFC 9334, 10.1: there is no such challenge, or it has ended; ask for a new one")
        if not hmac.compare_digest(challenge.nonce, proof.nonce):
            raise AttestationError("RFC 9334, 10.1: the proof answers another challenge")
        key = self._key_of(site)
        found = self._appraise(
            proof.evidence,
            proof.devices,
            reference,
            expected_report_data=attested.report_data("node", proof.study, challenge.nonce, key),
            session_key=key,
            now=now,
        )
        return found, min(now + lifetime, *(one.valid_until for one in found))

    def _nodes(self, study: StudyId) -> tuple[ReferenceValues, float]:
        enclaves = self._demands(study)
        if enclaves is None or enclaves.nodes is None:
            raise CodecError("the plan of this study demands no proof of its nodes")
        return enclaves.nodes, enclaves.lifetime_seconds
