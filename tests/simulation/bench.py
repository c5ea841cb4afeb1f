"""A hub on a bench: the real services on storage in memory, with a clock and a fault set by hand."""

import msgspec
from tests.simulation import fakes
from tests.simulation.fakes import RESEARCHER, T0
from tests.simulation.storage import FaultyBlobs, FaultyLog, Killed

from wardround.codec import canonical, tensors
from wardround.crypto import signing
from wardround.protocol import events as happened
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol.messages import Contribution, Decision, Evaluation, Proposal, TaskRequest
from wardround.protocol.plan import BlobRef, statistics_manifest
from wardround.services.coordinator import Coordinator
from wardround.services.rosters import Rosters
from wardround.services.studies import Studies

SITES = ("berlin", "cadiz", "delft")
LIMITS = {"max_records": 1000, "round_timeout_seconds": 60.0, "absence_seconds": 10.0, "patience": 2}


class Bench:
    """`fail` names the fault of the next write, `faults` those of several, in order."""

    def __init__(self, **changes):
        self.time, self.faults, self.written = T0, [], []
        self.log = FaultyLog(lambda what: self._fault("log", what), lambda *batch: self.written.append(batch))
        self.blobs = FaultyBlobs(lambda what: self._fault("blobs", what), lambda *_: None)
        self.plan = plan(**changes)
        self.study = plans.study_id(self.plan)
        self.run = f"{self.study}.1"
        self.count = 0
        self.boot()

    def now(self):
        """Fills `Clock`."""
        return self.time

    def boot(self):
        """Start the hub, or start it again from its storage."""
        self.changes = []
        self.studies = Studies(
            self.log,
            self.blobs,
            self,
            key_of=lambda name: fakes.key_of(name).public_key(),
            coordinator=lambda: self.coordinator,
        )
        self.coordinator = Coordinator(
            self.log,
            self.blobs,
            self,
            plan_of=self.studies.plan_of,
            rosters=Rosters(self.log),
            changed=self._run_changed,
        )
        return self

    def fail(self, what, fault):
        """Let the next write to "log" or "blobs" fail."""
        self.faults.append((what, fault))

    def propose(self, made=None):
        """Hand in a plan as its researcher."""
        made = made or self.plan
        self.blobs.put(fakes.initial_model(made.seed))
        signed = plans.sign(made, fakes.key_of(RESEARCHER))
        return self.studies.propose(RESEARCHER, Proposal("p", signed))

    def decide(self, site, verdict="approve", study=None):
        """Say what a site's people decided."""
        return self.studies.decide(site, decision(study or self.study, site, verdict))

    def start(self):
        """Propose, approve everywhere, and open the first round."""
        self.propose()
        for site in self.plan.participants:
            self.decide(site)
        self.coordinator.tick()
        return self

    def task(self, site):
        """What a site is asked to do, without saying that it is there."""
        return self.coordinator.next_task(site, TaskRequest())

    def answer(self, site, **changes):
        """An honest answer to the open round, changed."""
        round_ = self.coordinator.state(self.run).round
        number, kind = round_.number, round_.opened.kind
        self.count += 1
        data = changes.pop("data", update(site, number, kind, self.plan))
        fields = {
            "command": f"{site}-{self.count}-{self.study[:8]}",
            "run": self.run,
            "number": number,
            "kind": kind,
            "records": fakes.records_of(site),
            "update": BlobRef(canonical.digest(data), len(data)) if data else None,
            "evaluation": Evaluation(2, {"auc": 0.5}),
            "update_inline": data,
        }
        return Contribution(**fields | changes)

    def contribute(self, site, **changes):
        """Send `answer`."""
        return self.coordinator.contribute(site, self.answer(site, **changes))

    def round(self):
        """Answer honestly from everywhere, and combine."""
        for site in self.plan.participants:
            assert self.contribute(site).outcome == "accepted"
        self.coordinator.combine(self.run)

    def events(self, run=None):
        """The run's stored events."""
        return [happened.decode_run(data) for data in self.log.kept.read(f"run:{run or self.run}")]

    def state(self):
        """The run's state, as the hub has it."""
        return self.coordinator.state(self.run)

    def _run_changed(self, run):
        self.changes.append(run)
        self.studies.run_changed(run)

    def _fault(self, store, what):
        if self.faults and self.faults[0][0] == store and not what.endswith(("read", "upload")):
            return self.faults.pop(0)[1]
        return ""


def plan(
    *,
    sites=SITES,
    quorum=2,
    rounds=2,
    scaling="federated",
    server=None,
    expires=T0 + 5000,
    salt=0,
    late=None,
    aggregation=None,
    screening=None,
    **limits,
):
    """A small plan."""
    made = fakes.make_plan(
        sites=sites,
        quorum=quorum,
        rounds=rounds,
        scaling=scaling,
        server=server or {},
        limits=LIMITS | limits,
        expires=expires,
        salt=salt,
        late=late,
    )
    return msgspec.structs.replace(made, aggregation=aggregation or made.aggregation, screening=screening)


def update(site, number, kind, made):
    """What a site sends in a round."""
    if kind == "evaluate":
        return b""
    if kind == "train":
        return fakes.trained_update(site, number, b"", b"")
    manifest = statistics_manifest(made.data)
    table = fakes.table_of(site).features.astype("f8")
    return tensors.pack(
        {"count": table.sum(0) * 0 + len(table), "sum": table.sum(0), "sum_of_squares": (table**2).sum(0)}, manifest
    )


def decision(study, site, verdict="approve"):
    """A decision, signed by the site."""
    unsigned = Decision(canonical.digest(f"{study}{site}{verdict}".encode()), study, site, verdict, "Dr Who", "why", T0)
    signature = signing.sign(messages.decision_bytes(unsigned), fakes.key_of(site))
    return msgspec.structs.replace(unsigned, signature=signature)


__all__ = ["SITES", "Bench", "Killed", "decision", "plan", "update"]
