"""Members and a hub in one process, wired together by hand: every message can be dropped, repeated or changed."""

import functools
import hashlib
import random

import numpy as np

from wardround.crypto import agreement, signing
from wardround.crypto.prg import MaskStream
from wardround.secagg import cohort as cohorts
from wardround.secagg import member, messages, opening, terms
from wardround.secagg.cohort import CohortSealed
from wardround.secagg.messages import Invitation, Survivors
from wardround.secagg.roster import Roster, RosterMember
from wardround.secagg.terms import Section, Terms

ROSTER = "ab" * 32
STUDY = "cd" * 32
BASE = "ef" * 32
NOW = 1_750_000_000.0
EPOCH = int(NOW // 86_400)
SECTIONS = (Section("update", 32, 7), Section("sums", 64, 5))


def names(count):
    """Site names that sort as they count."""
    return tuple(f"site-{place:04d}" for place in range(count))


def draw_from(seed):
    """A generator of bytes that follows from a seed."""
    rng = random.Random(f"draw {seed}")
    return rng.randbytes


class Consortium:
    """Sites with their keys, and every pair's key."""

    def __init__(self, count, seed=0):
        rng = random.Random(f"consortium {count} {seed}")
        self.sites = names(count)
        self.keys = {site: signing.PrivateKey.from_private_bytes(rng.randbytes(32)) for site in self.sites}
        self.public = {site: key.public_key() for site, key in self.keys.items()}
        self.pairs = {}
        for place, lower in enumerate(self.sites):
            for higher in self.sites[place + 1 :]:
                self.pairs[lower, higher] = self.pairs[higher, lower] = rng.randbytes(32)

    @staticmethod
    @functools.cache
    def of(count):
        """The consortium of this size, made once."""
        return Consortium(count)

    def pair_keys(self, site):
        """The keys that a site shares with the others."""
        return {other: self.pairs[site, other] for other in self.sites if other != site}


def nonce_of(site, salt=0):
    """A member's nonce."""
    return hashlib.sha256(f"nonce {site} {salt}".encode()).digest()


def make_terms(sites, sections=SECTIONS, **changes):
    """Terms of a cohort of these sites."""
    members = tuple(sorted(sites))
    fields = {
        "study": STUDY,
        "run": f"{STUDY}.1",
        "number": 1,
        "attempt": 1,
        "kind": "train",
        "roster": ROSTER,
        "members": members,
        "nonces": tuple(nonce_of(site) for site in members),
        "bases": (BASE,) * len(members),
        "discounts": (1.0,) * len(members),
        "standardization": "",
        "threshold": terms.signature_threshold(len(members)),
        "minimum": 3,
        "epoch": EPOCH,
        "sections": tuple(sections),
        "capacity": len(members),
        "clip": 1.0,
        "max_weight": 100,
    }
    return Terms(**fields | changes)


class Cohort:
    """A cohort under way; `say` delivers a member's answer to the hub, `tell` gives it the hub's step."""

    def __init__(self, agreed, consortium, *, seed=0, minimum=3, vectors=None):
        self.terms, self.consortium, self.minimum = agreed, consortium, minimum
        self.now = NOW
        self.hub = cohorts.cohort_of([CohortSealed(at=NOW, terms=agreed, stage_seconds=60.0)])
        self.seed = seed
        self.members, self.vectors, self.masked = {}, vectors or {}, {}
        rng = random.Random(f"vectors {seed}")
        for site in agreed.members:
            if site not in self.vectors:
                self.vectors[site] = self.draw_vector(rng)

    def draw_vector(self, rng):
        """Random ring elements for every section."""
        return [
            np.frombuffer(rng.randbytes(section.length * section.bits // 8), f"<u{section.bits // 8}").copy()
            for section in self.terms.sections
        ]

    def join(self, site, agreed=None, *, expected=None, voided=(), nonce=None, minimum=None, draw=None):
        """Enter as this site."""
        agreed = agreed or self.terms
        state = member.join(
            agreed,
            site,
            expected=expected or agreed,
            nonce=nonce or nonce_of(site),
            minimum=minimum or self.minimum,
            pair_keys=self.consortium.pair_keys(site),
            key=self.consortium.keys[site],
            draw=draw or draw_from((self.seed, site)),
            voided=voided,
        )
        self.members[site] = state
        return state

    def mask_vector(self, state, vector):
        """A member's vector with its masks on, as bytes."""
        parts = []
        for section, plain in zip(self.terms.sections, vector, strict=True):
            seeds = member.mask_seeds(state)
            plus, minus = ([member.section_key(seed, state.transcript, section) for seed in part] for part in seeds)
            part = plain.copy()
            MaskStream(plus, minus, bits=section.bits).apply(part)
            parts.append(part.tobytes())
        return b"".join(parts)

    def answer(self, site):
        """What the member answers to the hub's present step, its state moved on; None where the hub wants nothing."""
        step = cohorts.step_for(self.hub, site)
        if step is None:
            return None
        return self.react(site, step)

    def react(self, site, step):
        """What the member answers to a step."""
        key = self.consortium.keys[site]
        match step:
            case Invitation():
                return self.join(site, step.terms).shares
            case messages.Delivery():
                state, _ = member.deliver(self.members[site], step, self.consortium.public)
                body = self.mask_vector(state, self.vectors[site])
                self.members[site] = member.mask(state, hashlib.sha256(body).digest(), key)
                self.masked[site] = body
                return self.members[site].masked
            case Survivors():
                self.members[site] = member.agree(self.members[site], step, key)
                return self.members[site].agreement
            case _:
                self.members[site] = member.reveal(self.members[site], step, self.consortium.public)
                return self.members[site].reveal

    def hear(self, site, answer):
        """Let the hub take an answer."""
        self.fold(cohorts.receive(self.hub, site, answer, self.consortium.public[site], self.now))

    def fold(self, events):
        """Fold events into the hub's state."""
        for event in events:
            self.hub = cohorts.apply(self.hub, event)

    def round(self, *, drop=(), order=None):
        """One stage: everybody answers but those who drop out; then the stage's deadline passes."""
        stage = self.hub.stage
        for site in order or self.terms.members:
            if site not in drop and self.hub.stage == stage:
                answer = self.answer(site)
                if answer is not None:
                    self.hear(site, answer)
        if self.hub.stage == stage:
            self.now = self.hub.deadline
            self.fold(cohorts.expire(self.hub, self.now))

    def run(self, drops=((), (), (), ()), rng=None):
        """All four stages; `drops` names who is gone from each stage on."""
        gone = set()
        for dropped in drops:
            gone |= set(dropped)
            order = list(self.terms.members)
            if rng:
                rng.shuffle(order)
            if self.hub.stage in {"opened", "failed"}:
                break
            self.round(drop=gone, order=order)
        return self.hub

    def opened(self):
        """The sum that the hub computes, section by section."""
        unmasking = opening.unmask(self.hub)
        total, place = [], 0
        for section in self.terms.sections:
            width = section.bits // 8
            part = np.zeros(section.length, f"<u{width}")
            for entry in self.hub.survivors:
                body = self.masked[entry.site][place : place + section.length * width]
                part += np.frombuffer(body, part.dtype)
            plus, minus = (
                [member.section_key(seed, self.hub.transcript, section) for seed in seeds]
                for seeds in (unmasking.plus, unmasking.minus)
            )
            MaskStream(plus, minus, bits=section.bits).apply(part)
            total.append(part)
            place += section.length * width
        return total

    def expected(self):
        """The plain sum over the survivors, section by section, in Python's integers."""
        alive = [entry.site for entry in self.hub.survivors]
        return [
            [sum(int(self.vectors[site][place][i]) for site in alive) % 2**section.bits for i in range(section.length)]
            for place, section in enumerate(self.terms.sections)
        ]


def roster_of(consortium):
    """A real roster, with agreement keys, and the private ones."""
    private = {site: agreement.generate() for site in consortium.sites}
    members = tuple(
        RosterMember(
            site=site,
            identity=signing.public_bytes(consortium.public[site]),
            agreement=agreement.public_bytes(private[site].public_key()),
        )
        for site in consortium.sites
    )
    return Roster(consortium="test", number=1, members=members), private
