"""A world's sites: the real services of a node, on a vault that outlives them, and their wire to the hub."""

import random
from contextlib import contextmanager

import msgspec
from tests.simulation import fakes
from tests.simulation.hostile import Hostile
from tests.simulation.liar import lie
from tests.simulation.storage import FaultyVault, Killed

from wardround.errors import PolicyError, StorageFullError, UnavailableError, WardroundError
from wardround.ids import RunId
from wardround.protocol import messages
from wardround.protocol.messages import CohortAnswer, CohortTask, Contribution, PairAnswer, Task, TaskRequest
from wardround.protocol.plan import BlobRef
from wardround.protocol.policy import SitePolicy
from wardround.services.approvals import Approvals
from wardround.services.budgets import Budgets
from wardround.services.membership import Membership
from wardround.services.participant import Participant
from wardround.services.safeguard import Safeguard
from wardround.storage.memory import MemoryVault


class Node:
    """One site: its vault survives a crash, its participant does not."""

    def __init__(self, world, site):
        self.world, self.site = world, site
        self.vault = FaultyVault(self._fault) if world.is_secure else MemoryVault()
        self.entropy = random.Random(f"entropy {world.seed} {site}")
        self.wire = Wire(world, site)
        self.policy = SitePolicy(min_participants=1, min_records=1)
        self.is_gone = False
        with world.fair_weather():
            self.participant = None
            tight = world.kind == "storm" and self.entropy.random() < 0.1
            self.budgets().grant("patient", 0.9 if tight else 50.0, 1e-3, person="steward", reason="a world")
        self._life = 0
        self._polling = False

    def budgets(self):
        """What this site's ledger says now."""
        return Budgets("records", vault=self.vault, clock=self)

    def now(self):
        """Fills `Clock`: the site's own clock may be wrong."""
        return self.world.now + self.world.weather.skew.get(self.site, 0.0)

    def draw(self, size):
        """Fills `Entropy`."""
        return self.entropy.randbytes(size)

    def _fault(self, what):
        if self.participant is None or not self.world.stormy(self.world.weather.storage):
            return ""
        fault = self.world.rng.choice(["full", "killed", "killed after"])
        self.world.tell(self.site, f"{what} fails", fault)
        return fault

    def start(self):
        """Boot from the vault."""
        if self.is_gone:
            return
        self._life += 1
        self._busy, self._free_at = set(), {}
        files = fakes.FakeFiles()
        self.approvals = Approvals(
            self.site,
            key=fakes.key_of(self.site),
            authority=fakes.authority()[1],
            hub=self.wire,
            vault=self.vault,
            policy=self.policy,
            clock=self,
        )
        self.participant = Participant(
            self.site,
            approvals=self.approvals,
            hub=self.wire,
            files=files,
            policy=self.policy,
            source=lambda _: fakes.FakeSource(self.site),
            worker=lambda plan, _table, _package: fakes.FakeWorker(plan, self.site, files, self._ran),
            membership=self._membership(),
            safeguard=Safeguard(bytes(32), ledger=self.budgets()),
        )
        self.hostile = Hostile(self) if self.site in self.world.weather.hostile else None
        self.world.at(self.world.now + self.world.rng.uniform(0.1, 3), self._poll, self._life)

    def _membership(self):
        if not self.world.is_secure:
            return None
        return Membership(
            self.site,
            key=fakes.key_of(self.site),
            agreement_key=fakes.agreement_key(self.site),
            officers=(),
            quorum=1,
            fetch=None,
            vault=self.vault,
            policy=self.policy,
            clock=self,
            entropy=self,
            known=fakes.roster(tuple(self.world.sites)),
        )

    def kill(self):
        """Lose what is not in the vault, and come back."""
        self.world.tell(self.site, "is killed")
        self._life += 1
        self.participant = None
        self.world.at(self.world.now + self.world.rng.uniform(0.5, self.world.weather.longest), self.start)

    def vanish(self):
        """Never come back."""
        self.world.tell(self.site, "vanishes for ever")
        self._life += 1
        self.is_gone = True

    def decide(self, study, verdict):
        """A person at the site decides, and insists until the hub has heard it."""
        if self.is_gone:
            self.world.pending -= 1
            return
        if self.participant is None:
            self.world.at(self.world.now + 6, self.decide, study, verdict)
            return
        self.world.oracle.person(self.site, study, verdict)
        try:
            self.approvals.decide(study, verdict, person="Dr Who", reason="because")
        except Killed:
            self.kill()
            self.world.at(self.world.now + 6, self.decide, study, verdict)
        except PolicyError:
            self.world.pending -= 1
        except WardroundError as error:
            unheard = isinstance(error, (UnavailableError, StorageFullError)) or error.code == "protocol/not-found"
            if unheard and self.world.now < max(plan.expires for plan in self.world.plans):
                self.world.at(self.world.now + 6, self.decide, study, verdict)
            else:
                self.world.pending -= 1
        else:
            self.world.pending -= 1

    def _ran(self, plan):
        self.world.oracle.ran(self, plan)

    def _poll(self, life):
        if life != self._life:
            return
        self.world.at(self.world.now + self.world.rng.uniform(2, 5), self._poll, life)
        if self.hostile is not None and self.hostile.is_silent():
            return
        try:
            task = self.wire.next_task(TaskRequest(tuple(sorted(self._busy)), 0.0))
        except WardroundError:
            task = None
        if task is not None:
            self._busy.add(task.run)
            start = max(self.world.now, self._free_at.get(task.run, 0.0))
            self._free_at[task.run] = start + self.world.rng.choice([0.2, 2.0, 8.0]) * (0.5 + self.world.rng.random())
            self.world.at(self._free_at[task.run], self._perform, life, task)
        if self.hostile is not None:
            self.hostile.poll()

    def _perform(self, life, task):
        if life != self._life:
            return
        try:
            if self.hostile is None or not self.hostile.perform(task):
                self.participant.perform(task)
        except Killed:
            self.kill()
            return
        except (UnavailableError, StorageFullError):
            self.world.at(self.world.now + self.world.rng.uniform(0.1, 4), self._perform, life, task)
            return
        except WardroundError as error:
            self.world.tell(self.site, "task failed", error)
        self._busy.discard(task.run)


class Wire:
    """A site's `HubClient`; every message crosses as bytes."""

    def __init__(self, world, site):
        self.world, self.site = world, site

    def next_task(self, request):
        def serve(hub):
            self.world.oracle.heard_of(self.site)
            return hub.coordinator.next_task(self.site, request)

        task = self.world.call(self.site, "asks for a task", serve, repeat=False)
        if isinstance(task, Task):
            self.world.oracle.tasked(self.site, task)
        if isinstance(task, CohortTask) and self.world.weather.liar:
            task = lie(self.world, self.site, task)
        return task

    def answer(self, answer):
        """One answer to a step of a cohort."""
        data = answer.inline
        if data:
            self.world.oracle.seen_bytes(data)
            if self.world.weather.uploads:
                self._upload(answer.run, BlobRef(answer.answer.digest.hex(), len(data)), data)
                answer = msgspec.structs.replace(answer, inline=b"")
        body = messages.encode(answer)
        self.world.oracle.said(self.site, body)

        def serve(hub):
            self.world.oracle.heard_of(self.site)
            return hub.coordinator.answer(self.site, messages.decode(body, CohortAnswer))

        return self.world.call(self.site, f"answers {type(answer.answer).__name__}", serve)

    def pair(self, answer):
        body = messages.encode(answer)

        def serve(hub):
            self.world.oracle.heard_of(self.site)
            return hub.coordinator.pair(self.site, messages.decode(body, PairAnswer))

        return self.world.call(self.site, "pairs", serve)

    def contribute(self, contribution):
        if self.world.weather.uploads and contribution.update_inline:
            data = contribution.update_inline
            self.world.oracle.seen_bytes(data)
            self._upload(contribution.run, contribution.update, data)
            contribution = Contribution(
                **{name: getattr(contribution, name) for name in Contribution.__struct_fields__ if "inline" not in name}
            )
        return self.send(messages.encode(contribution))

    def send(self, body):
        """Contribute some bytes, whatever they are."""
        self.world.oracle.sent(self.site, body)

        def serve(hub):
            contribution = messages.decode(body, Contribution)
            self.world.oracle.heard_of(self.site)
            try:
                receipt = hub.coordinator.contribute(self.site, contribution)
            except WardroundError as error:
                self.world.oracle.turned_away(self.site, body, error)
                raise
            self.world.oracle.answered(self.site, contribution.command, receipt)
            return receipt

        return self.world.call(self.site, "contributes", serve)

    def plan(self, study):
        return self.world.call(self.site, "asks for a plan", lambda hub: hub.studies.signed_plan(study), repeat=False)

    def identity(self, name):
        return fakes.identity(name)

    def decide(self, decision):
        body = messages.encode(decision)
        self.world.oracle.decided(self.site, body)

        def serve(hub):
            return hub.studies.decide(self.site, messages.decode(body, messages.Decision))

        return self.world.call(self.site, f"decides: {decision.verdict}", serve)

    @contextmanager
    def download(self, scope, ref):
        def serve(hub):
            hub.coordinator.may_download(self.site, RunId(scope), ref.digest)
            return bytes(hub.blobs.read(ref.digest, 0, ref.size))

        yield iter([self.world.call(self.site, "downloads", serve, repeat=False)])

    def _upload(self, scope, ref, data):
        def serve(hub):
            hub.coordinator.may_upload(self.site, scope, ref)
            if hub.blobs.has(ref.digest):
                return
            pending = hub.blobs.upload(f"{self.site}.{ref.digest}")
            while pending.offset < len(data):
                pending.append(data[pending.offset : pending.offset + 40])
                if self.world.stormy(self.world.weather.loss / 4):
                    pending.close()
                    raise UnavailableError("connection reset in the middle of an upload")
            pending.commit(ref.digest)
            pending.close()

        self.world.call(self.site, "uploads", serve, repeat=False)

    def upload(self, scope, ref, source):
        raise NotImplementedError("these models ride inside their messages, or go by `_upload`")
