"""A whole federation in one process: the very same machines and services, without a network.

Every site is a `Participant`, the hub a `Coordinator` with its `Studies`, on storage in memory; what a
simulated run computes is, bit for bit, what the same study computes over real processes.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.crypto import agreement, signing
from wardround.errors import ConfigError
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId
from wardround.ports import RecordSource, Worker
from wardround.privacy import noising
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol.messages import (
    Assignment,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Identity,
    PairAnswer,
    Proposal,
    Receipt,
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, Plan, SignedPlan
from wardround.protocol.policy import SitePolicy
from wardround.sdk.findings import analysis_results
from wardround.sdk.study import Study
from wardround.secagg.roster import Roster, RosterMember, SignedRoster
from wardround.services.coordinator import Coordinator
from wardround.services.membership import Membership
from wardround.services.participant import Participant
from wardround.services.rosters import Rosters
from wardround.services.safeguard import Safeguard
from wardround.services.studies import Studies
from wardround.storage.memory import MemoryBlobs, MemoryEventLog, MemoryVault
from wardround.storage.model_files import FolderModelFiles, last_memory
from wardround.system import SystemEntropy
from wardround.training.attacks import ATTACKS, Attack
from wardround.training.hostile import Collusion, HostileWorker, hostile_table
from wardround.training.memory import personal_model

__all__ = ["Simulated", "simulate"]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated run gave: its state with all events, and the model's arrays by name.

    `personal` are the sites' own models, where the plan has such; on a real hub nobody but the site has them.
    `declined` says in full why a site took no part, which on a real hub only the site's own log does.
    """

    status: RunStatus
    model: bytes
    standardization: bytes
    findings: Mapping[str, bytes]
    plan: Plan = field(repr=False)
    personal: Mapping[str, Mapping[str, object]] = field(default_factory=dict, repr=False)
    declined: Mapping[str, str] = field(default_factory=dict)

    def analyses(self) -> list[dict[str, object]]:
        """What the plan's analyses say."""
        found: list[dict[str, object]] = json.loads(analysis_results(self.plan, self.findings.get("analyses", b"")))
        return found

    def arrays(self) -> dict[str, object]:
        """The model's arrays by name."""
        return dict(tensors.unpack(self.model, self.plan.manifest))


class _Tables:
    """Records that are in memory already; fills `wardround.ports.RecordSource`."""

    def __init__(self, table: StudyTable) -> None:
        self._table = table

    def load(self, contract: DataContract) -> StudyTable:
        """The table as it is; it was made for this contract."""
        del contract
        return self._table


class _Direct:
    """A hub seen by one identity of the same process; fills `wardround.ports.HubClient`."""

    def __init__(self, name: SiteId, coordinator: Coordinator, studies: Studies, blobs: MemoryBlobs) -> None:
        self._name, self._coordinator, self._studies, self._blobs = name, coordinator, studies, blobs

    def next_task(self, request: TaskRequest) -> Assignment | None:
        return self._coordinator.next_task(self._name, request)

    def contribute(self, contribution: Contribution) -> Receipt:
        return self._coordinator.contribute(self._name, contribution)

    def answer(self, answer: CohortAnswer) -> Receipt:
        return self._coordinator.answer(self._name, answer)

    def pair(self, answer: PairAnswer) -> Receipt:
        return self._coordinator.pair(self._name, answer)

    def roster(self, digest: Digest) -> SignedRoster:
        raise ConfigError(f"a simulation has no roster {digest[:8]}")

    def plan(self, study: StudyId) -> SignedPlan:
        return self._studies.signed_plan(study)

    def identity(self, name: SiteId) -> Identity:
        raise ConfigError(f"nobody is enrolled in a simulation, {name} neither")

    def studies(self) -> list[StudyStatus]:
        return self._studies.concerning(self._name)

    def decide(self, decision: Decision) -> StudyStatus:
        return self._studies.decide(self._name, decision)

    def audit(self, audit: Audit) -> StudyStatus:
        return self._studies.audit(self._name, audit)

    def propose(self, proposal: Proposal) -> StudyStatus:
        return self._studies.propose(self._name, proposal)

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str) -> StudyStatus:
        raise ConfigError(f"a simulation runs by itself; it cannot {action} {study[:8]} ({reason})")

    def run(self, run: RunId, *, after: int = 0, wait_seconds: float = 0.0) -> RunStatus:
        del wait_seconds
        return self._coordinator.status(run, after=after)

    @contextmanager
    def download(self, scope: str, ref: BlobRef) -> Iterator[Iterator[memoryview]]:
        if "." in scope:
            self._coordinator.may_download(self._name, RunId(scope), ref.digest)
        else:
            self._studies.may_read(self._name, StudyId(scope), ref.digest)
        yield (memoryview(piece) for piece in self._blobs.chunks(ref.digest, 0, ref.size, 1 << 20))

    def upload(self, scope: str, ref: BlobRef, source: int) -> None:
        import os

        self._coordinator.may_upload(self._name, RunId(scope), ref)
        self._blobs.put(os.pread(source, ref.size, 0))


class _Approved:
    """Stands in for a site's people, who approve everything that is simulated."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def approved_plan(self, study: StudyId) -> Plan:
        """The plan."""
        del study
        return self._plan


class _Clock:
    def now(self) -> float:
        return time.time()


def simulate(
    study: Study,
    sites: Mapping[str, StudyTable | RecordSource],
    *,
    attacks: Mapping[SiteId, Attack] | None = None,
    progress: Callable[[RunStatus], None] = lambda _: None,
    noise_key: bytes = b"",
) -> Simulated:
    """Run a study over `sites` in this process.

    Args:
        study: Made by `declare`.
        sites: For every participant its records: a source, or a table made for the study's contract.
        attacks: Sites that are hostile, and what they do: a name of `wardround.training.attacks.ATTACKS`. They
            know all honest updates of a round.
        progress: Told the run's state after every round.
        noise_key: From which all noise of a private plan follows, so that it can be drawn again; left out, nobody can.
            For benchmarks: noise that somebody can draw again protects nobody.

    Raises:
        ConfigError: `sites` are not the plan's participants, or an attack is of another site or has no such name.
    """
    plan, attacks = study.plan, attacks or {}
    if set(sites) != set(plan.participants):
        raise ConfigError(f"the plan names {', '.join(plan.participants)}; records are given for {', '.join(sites)}")
    unknown = [f"{site}={attack}" for site, attack in attacks.items() if site not in sites or attack not in ATTACKS]
    if unknown:
        raise ConfigError(f"no such attack: {', '.join(unknown)}; attacks are {', '.join(ATTACKS)}")
    log, blobs, clock = MemoryEventLog(), MemoryBlobs(), _Clock()
    keys = {name: signing.generate() for name in (*plan.participants, plan.researcher)}
    agreement_keys = {name: agreement.generate() for name in plan.participants}
    known = _roster(plan, keys, agreement_keys)
    rosters = Rosters(log, known)
    coordinator = Coordinator(
        log,
        blobs,
        clock,
        plan_of=lambda name: studies.plan_of(name),  # noqa: PLW0108, made below
        rosters=rosters,
        entropy=SystemEntropy(),
    )
    studies = Studies(log, blobs, clock, key_of=lambda name: keys[name].public_key(), coordinator=lambda: coordinator)
    for data in filter(None, (study.initial, study.package)):
        blobs.put(data)
    signed = plans.sign(plan, keys[plan.researcher])
    studies.propose(plan.researcher, Proposal(CommandId("propose"), signed))
    for site in plan.participants:
        studies.decide(site, _decision(study.id, site, keys[site]))
    run = studies.state(study.id).runs[-1]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        participants, key = {}, noise_key or SystemEntropy().draw(32)
        declined: dict[str, str] = {}
        collusion = Collusion(plan, attacks)
        for site in sorted(plan.participants, key=lambda site: site in attacks):  # who listens comes last
            hub = _Direct(site, coordinator, studies, blobs)
            membership = _membership(site, hub, keys[site], agreement_keys[site], known)
            made = _participant(site, plan, hub, folder / site, sites[site], membership, collusion, declined, key)
            participants[site] = (hub, made)
            stack.callback(participants[site][1].close)
        _drive(run, coordinator, participants, progress)
        personal: dict[str, Mapping[str, object]] = {}
        for site in plan.participants:
            model = personal_model(plan, last_memory(folder / site, run))
            personal |= {site: model} if model else {}
    return replace(_result(run, plan, coordinator, blobs), personal=personal, declined=declined)


def _drive(
    run: RunId,
    coordinator: Coordinator,
    participants: Mapping[SiteId, tuple[_Direct, Participant]],
    progress: Callable[[RunStatus], None],
) -> None:
    seq = 0
    while not coordinator.state(run).is_ended:
        coordinator.tick()
        for hub, participant in participants.values():
            task = hub.next_task(TaskRequest())
            if task is not None:
                participant.perform(task)
        for waiting in coordinator.combining():
            coordinator.combine(waiting)
        status = coordinator.status(run, after=seq)
        seq = status.last_seq
        progress(status)


def _roster(
    plan: Plan, keys: Mapping[SiteId, signing.PrivateKey], agreement_keys: Mapping[SiteId, agreement.PrivateKey]
) -> dict[Digest, Roster]:
    """A roster of this simulation's own keys, under the name that the plan has for the real one."""
    if plan.secure is None:
        return {}
    members = tuple(
        RosterMember(
            site=site,
            identity=signing.public_bytes(keys[site].public_key()),
            agreement=agreement.public_bytes(agreement_keys[site].public_key()),
        )
        for site in plan.participants
    )
    return {plan.secure.roster: Roster(consortium="simulation", number=1, members=members)}


def _membership(
    site: SiteId,
    hub: _Direct,
    key: signing.PrivateKey,
    agreement_key: agreement.PrivateKey,
    known: Mapping[Digest, Roster],
) -> Membership:
    return Membership(
        site,
        key=key,
        agreement_key=agreement_key,
        officers=(),
        quorum=1,
        fetch=hub.roster,
        vault=MemoryVault(),
        policy=SitePolicy(min_participants=1, min_records=1),
        clock=_Clock(),
        entropy=SystemEntropy(),
        known=known,
    )


def _participant(
    site: SiteId,
    plan: Plan,
    hub: _Direct,
    folder: Path,
    records: StudyTable | RecordSource,
    membership: Membership,
    collusion: Collusion,
    declined: dict[str, str],
    noise_key: bytes,
) -> Participant:
    from wardround.training.inprocess import InProcessWorker

    source = _Tables(records) if isinstance(records, StudyTable) else records

    def worker(plan: Plan, table: StudyTable, package: bytes | None) -> Worker:
        if site in collusion.attacks:
            table = hostile_table(table, collusion.attacks[site], plan.seed)
        inner = InProcessWorker(plan, site, table, package)
        return HostileWorker(inner, site, collusion) if collusion.attacks else inner

    def told(what: str, _: Assignment) -> None:
        if what.startswith(("declined", "left the cohort", "refused")):
            declined.setdefault(site, what)

    return Participant(
        site,
        approvals=_Approved(plan),
        hub=hub,
        files=FolderModelFiles(folder),
        policy=SitePolicy(min_participants=1, min_records=1),
        source=lambda _: source,
        worker=worker,
        membership=membership,
        safeguard=Safeguard(noising.derive(noise_key, site), ledger=None),
        progress=told,
    )


def _decision(study: StudyId, site: SiteId, key: signing.PrivateKey) -> Decision:
    command = CommandId(canonical.digest(f"{study} {site}".encode()))
    decision = Decision(command, study, site, "approve", "simulation", "", time.time())
    signature = signing.sign(messages.decision_bytes(decision), key)
    return Decision(command, study, site, "approve", "simulation", "", decision.decided_at, signature)


def _result(run: RunId, plan: Plan, coordinator: Coordinator, blobs: MemoryBlobs) -> Simulated:
    status = coordinator.status(run)
    if status.model is None:
        raise ConfigError("the run gave no model")
    statistics = status.standardization
    return Simulated(
        status=status,
        model=bytes(blobs.read(status.model.digest, 0, status.model.size)),
        standardization=bytes(blobs.read(statistics.digest, 0, statistics.size)) if statistics else b"",
        findings={name: bytes(blobs.read(ref.digest, 0, ref.size)) for name, ref in status.findings.items()},
        plan=plan,
    )
