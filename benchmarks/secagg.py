"""What secure aggregation costs: masking against its floor, the whole protocol against Flower's, bytes sent."""

import hashlib
import itertools
import os
import time
from collections.abc import Iterable
from statistics import median

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.federation import children, federation, peak_bytes, resident_bytes, study
from benchmarks.peers import flower_secagg
from wardround.codec import fixedpoint
from wardround.codec.fixedpoint import Encoding
from wardround.crypto import signing
from wardround.crypto.prg import MaskStream
from wardround.ids import Digest, RunId, SiteId, StudyId
from wardround.protocol.plan import SecureAggregation
from wardround.secagg import cohort as cohorts
from wardround.secagg import member, messages, opening, terms
from wardround.secagg.cohort import Cohort, CohortEvent, CohortSealed
from wardround.secagg.messages import Agreements, Answer, Delivery, Invitation, Survivors
from wardround.secagg.terms import Section, Terms

__all__ = ["large_secure_round", "masking", "protocol"]

_BLOCK = 256 * 1024
_PIECE = 256 * 1024
_STUDY = StudyId("a" * 64)


def masking(participants: int = 50, parameters: int = 1_000_000, repeats: int = 9) -> dict[str, float]:
    """Seconds to turn one participant's trained update into its masked vector, beside the bare AES and additions."""
    encoding = Encoding(capacity=participants, clip=8.0, max_weight=10_000)
    values = np.random.default_rng(1).standard_normal(parameters, np.float32)
    seeds = [os.urandom(32) for _ in range(participants)]
    ours, floors = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        _masked(values, seeds, encoding)
        ours.append(time.perf_counter() - start)
        floors.append(_floor(parameters, participants))
    return {
        "median": median(ours),
        "low": min(ours),
        "high": max(ours),
        "floor": median(floors),
        "ratio": median(ours) / median(floors),
    }


def protocol(participants: int = 50, parameters: int = 1_000_000, dropout: float = 0.1) -> dict[str, float]:
    """Processor seconds of a whole cohort, all participants and the hub, beside Flower's SecAgg+ in the same run."""
    run = _Run(participants, parameters)
    dropped = set(run.sites[:: round(1 / dropout)][: int(participants * dropout)])
    run.stage(set())
    run.stage(dropped)
    run.stage(dropped)
    run.stage(dropped)
    run.open()
    flower = flower_secagg.measure(participants, parameters, dropout)
    total = run.member_seconds + run.hub_seconds
    plain = 4 * parameters
    return {
        "participant_cpu": run.member_seconds / participants,
        "hub_cpu": run.hub_seconds,
        "total_cpu": total,
        "flower_participant_cpu": flower.participant_cpu_seconds,
        "flower_server_cpu": flower.server_cpu_seconds,
        "flower_total_cpu": flower.total_cpu_seconds,
        "flower_over_ours": flower.total_cpu_seconds / total,
        "bytes_beyond_plain": max(run.bytes.values()) - plain,
    }


def large_secure_round(parameters: int, *, nodes: int = 8) -> dict[str, float]:
    """A secure round of a large model over TLS, one node killed in its cohort; seconds, and the memory it took."""
    with federation(nodes) as running:
        terms_ = SecureAggregation(roster=running.roster, stage_seconds=600.0)
        declared = study(parameters, nodes, 1, minimum=nodes - 1, secure=terms_, absence_seconds=15.0)
        hub_pid = running.processes["hub"].pid
        before = resident_bytes(hub_pid)
        status = running.complete(declared, lose="site-01")
        hub_growth = peak_bytes(hub_pid) - before
        node = running.processes["site-00"].pid
        node_peak = sum(peak_bytes(pid) for pid in (node, *children(node)))
    at = {str(event["event"]): float(event["at"]) for event in reversed(status.events)}  # type: ignore[arg-type]
    survivors = [len(event["survivors"]) for event in status.events if event["event"] == "cohort-opened"]  # type: ignore[arg-type]
    return {
        "train_and_ready": at["cohort-formed"] - at["round-opened"],
        "cohort": at["cohort-opened"] - at["cohort-formed"],
        "open_and_combine": at["round-combined"] - at["cohort-opened"],
        "survivors": survivors[0],
        "hub_growth_bytes": hub_growth,
        "node_bytes": node_peak,
        "node_over_model": node_peak / (4 * parameters),
    }


class _Run:
    """One cohort through the real machines, in memory, with the processor time of each side counted apart."""

    def __init__(self, participants: int, parameters: int) -> None:
        self.sites = tuple(SiteId(f"site-{place:02d}") for place in range(participants))
        self.keys = {site: signing.generate() for site in self.sites}
        self.public = {site: key.public_key() for site, key in self.keys.items()}
        self.pairs = {frozenset(pair): os.urandom(32) for pair in itertools.combinations(self.sites, 2)}
        self.encoding = Encoding(capacity=participants, clip=8.0, max_weight=10_000)
        self.values = np.random.default_rng(1).standard_normal(parameters, np.float32)
        self.terms = Terms(
            study=_STUDY,
            run=RunId(f"{_STUDY}.1"),
            number=1,
            attempt=1,
            kind="train",
            roster=Digest("b" * 64),
            members=self.sites,
            nonces=tuple(bytes(32) for _ in self.sites),
            bases=(Digest("c" * 64),) * participants,
            discounts=(1.0,) * participants,
            standardization="",
            threshold=terms.signature_threshold(participants),
            minimum=3,
            epoch=1,
            sections=(Section("update", 32, parameters),),
            capacity=participants,
            clip=8.0,
            max_weight=10_000,
        )
        self.hub: Cohort = cohorts.cohort_of([CohortSealed(at=0.0, terms=self.terms, stage_seconds=60.0)])
        self.members: dict[SiteId, member.Member] = {}
        self.vectors: dict[SiteId, npt.NDArray[np.uint32]] = {}
        self.bytes = dict.fromkeys(self.sites, 0)
        self.member_seconds = self.hub_seconds = 0.0

    def stage(self, gone: set[SiteId]) -> None:
        """One stage of the cohort; those who are gone do not answer."""
        before = self.hub.stage
        for site in self.sites:
            step = cohorts.step_for(self.hub, site) if site not in gone else None
            if step is None or self.hub.stage != before:
                continue
            start = time.process_time()
            answer = self._answer(site, step)
            middle = time.process_time()
            self._fold(cohorts.receive(self.hub, site, answer, self.public[site], 0.0))
            self.member_seconds += middle - start
            self.hub_seconds += time.process_time() - middle
            self.bytes[site] += len(messages.encode(answer))
        if self.hub.stage == before:
            self._fold(cohorts.absent(self.hub, frozenset(set(self.sites) - gone), 0.0))

    def open(self) -> None:
        """Add up, take the masks off, decode, and check the result."""
        start = time.process_time()
        unmasking = opening.unmask(self.hub)
        section = self.terms.sections[0]
        keys = [
            [member.section_key(seed, self.hub.transcript, section) for seed in seeds]
            for seeds in (unmasking.plus, unmasking.minus)
        ]
        mean = np.empty(section.length)
        for first in range(0, section.length, _PIECE):
            stop = min(first + _PIECE, section.length)
            total = np.zeros(stop - first, np.uint32)
            for entry in self.hub.survivors:
                total += self.vectors[entry.site][first:stop]
            MaskStream(*keys, bits=32, start=first).apply(total)
            fixedpoint.decode(total, 100 * len(self.hub.survivors), self.encoding, mean[first:stop])
        self.hub_seconds += time.process_time() - start
        assert np.abs(mean - np.clip(self.values, -8.0, 8.0)).max() < 1e-4, "the sum is not the sum"

    def _answer(self, site: SiteId, step: messages.Step) -> Answer:
        match step:
            case Invitation():
                others = {other: self.pairs[frozenset((site, other))] for other in self.sites if other != site}
                self.members[site] = member.join(
                    step.terms,
                    site,
                    expected=step.terms,
                    nonce=bytes(32),
                    minimum=3,
                    pair_keys=others,
                    key=self.keys[site],
                    draw=os.urandom,
                )
                return self.members[site].shares
            case Delivery():
                return self._mask(site, step)
            case Survivors():
                self.members[site] = member.agree(self.members[site], step, self.keys[site])
                agreed = self.members[site].agreement
            case Agreements():
                self.members[site] = member.reveal(self.members[site], step, self.public)
                agreed = self.members[site].reveal
        assert agreed is not None
        return agreed

    def _mask(self, site: SiteId, step: Delivery) -> Answer:
        state, _ = member.deliver(self.members[site], step, self.public)
        plus, minus = (
            [member.section_key(seed, state.transcript, self.terms.sections[0]) for seed in seeds]
            for seeds in member.mask_seeds(state)
        )
        masked = _masked(self.values, plus, self.encoding, minus)
        digest = hashlib.sha256(masked).digest()
        self.vectors[site] = masked
        self.bytes[site] += masked.nbytes
        self.members[site] = member.mask(state, digest, self.keys[site])
        answer = self.members[site].masked
        assert answer is not None
        return answer

    def _fold(self, events: Iterable[CohortEvent]) -> None:
        for event in events:
            self.hub = cohorts.apply(self.hub, event)


def _masked(
    values: npt.NDArray[np.float32], plus: list[bytes], encoding: Encoding, minus: Iterable[bytes] = ()
) -> npt.NDArray[np.uint32]:
    out = np.empty(values.size, np.uint32)
    words = np.empty(_PIECE, np.uint32)
    rounding = MaskStream([bytes(range(32))], [], bits=32)
    masks = MaskStream(plus, list(minus), bits=32)
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        noise = words[: piece.size]
        noise[:] = 0
        rounding.apply(noise)
        fixedpoint.encode(piece, 100, noise, out[start : start + _PIECE], encoding)
        masks.apply(out[start : start + _PIECE])
    return out


def _floor(parameters: int, participants: int) -> float:
    """Seconds for the keystream and the additions alone: nothing of ours."""
    zeros, keystream = bytes(_BLOCK), bytearray(_BLOCK)
    vector = np.zeros(parameters, np.uint32)
    pad = np.frombuffer(keystream, np.uint32)
    ciphers = [_ctr() for _ in range(participants)]
    start = time.perf_counter()
    for first in range(0, parameters, _BLOCK // 4):
        part = vector[first : first + _BLOCK // 4]
        for cipher in ciphers:
            cipher.update_into(zeros[: part.nbytes] if part.nbytes < _BLOCK else zeros, keystream)
            np.add(part, pad[: part.size], out=part)
    return time.perf_counter() - start


def _ctr():  # type: ignore[no-untyped-def]
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
