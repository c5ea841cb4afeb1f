"""What must hold, written by a reader of the rules who has not seen the machines.

The oracle watches what was sent and answered and what was stored. Afterwards it walks every stream as
plain JSON, applies the numbered rules of `round`, `run` and `study` anew, and recomputes every model
from the bytes that the sites sent. It calls no machine, with one exception: `compare` folds a stream to
see that a fold gives the state that the hub had in memory.
"""

import hashlib
import json

import msgspec
from tests.simulation.late_rules import LateWalk
from tests.simulation.run_rules import RunWalk
from tests.simulation.secure_rules import SecureWalk
from tests.simulation.study_rules import StudyWalk

from wardround.protocol import events as happened
from wardround.protocol import messages
from wardround.protocol import run as runs
from wardround.protocol.messages import Decision

DEFAULTS = {
    "records": 0,
    "update": None,
    "evaluation": None,
    "declined": "",
    "train_seconds": 0.0,
    "update_inline": b"",
}


class Oracle:
    """Watches one world, then judges it."""

    def __init__(self, world):
        self.world = world
        self.bytes = {}
        self.messages = {}
        self.answers = {}
        self.journal = {}
        self.away = []
        self.tasks = []
        self.cohort_answers = {}
        self.people = []
        self.documents = set()
        self.withdrawn, self.started = set(), set()
        self.last_heard = {}
        self.boot = 0.0

    def sent(self, site, body):
        """A site sent these bytes as a contribution."""
        try:
            plain = msgspec.msgpack.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if isinstance(plain, dict) and isinstance(plain.get("command"), str):
            answer = DEFAULTS | plain
            if isinstance(answer["update_inline"], bytes):
                self.seen_bytes(answer["update_inline"])
            known = self.messages.setdefault((site, plain["command"]), [])
            if answer not in known:
                known.append(answer)

    def said(self, site, body):
        """A site sent an answer to a step of a cohort."""
        self.cohort_answers.setdefault(site, []).append(body)

    def seen_bytes(self, data):
        """A site sent these bytes as an update."""
        self.bytes[hashlib.sha256(data).hexdigest()] = data

    def stored(self, digest, data):
        """The hub made these bytes a blob."""
        assert hashlib.sha256(data).hexdigest() == digest

    def answered(self, site, command, receipt):
        """The hub answered: for ever."""
        assert receipt.command == command
        first = self.answers.setdefault((site, command), receipt)
        assert first == receipt, f"{site} was answered {first}, and then {receipt}"

    def turned_away(self, site, body, error):
        """The hub answered with an error instead of a receipt."""
        if error.code.startswith("protocol") and site not in self.world.weather.hostile:
            plain = DEFAULTS | msgspec.msgpack.decode(body)
            ref = plain["update"]
            is_there = ref is None or self.world.hub.blobs.has(ref["digest"])
            self.away.append((site, plain, len(self.journal.get(f"run:{plain['run']}", [])), is_there, str(error)))

    def tasked(self, site, task):
        """The hub gave a task."""
        self.tasks.append((site, task))

    def decided(self, site, body):
        """A site sent a decision."""
        self.documents.add((site, body))

    def person(self, site, study, verdict):
        """Somebody at a site decided."""
        self.people.append((self.world.now, site, study, verdict))

    def ran(self, node, plan):
        """A site's worker was set to work."""
        study = hashlib.sha256(msgspec.json.encode(msgspec.to_builtins(plan, order="sorted"), order="sorted"))
        name = study.hexdigest()
        assert any(who == node.site and what == name and say == "approve" for _, who, what, say in self.people), (
            f"{node.site} ran a plan that nobody there approved"
        )
        assert node.now() < plan.expires, f"{node.site} ran an expired plan"
        kept = messages.decode(node.vault.get(f"decision.{name}"), Decision)
        assert kept.verdict == "approve", f"{node.site} ran a plan although its people said {kept.verdict}"

    def heard_of(self, site):
        """The hub heard of a site."""
        self.last_heard[site] = self.world.now

    def booted(self):
        """The hub started."""
        self.boot = self.world.now

    def written(self, stream, events, after, receipt):
        """The hub stored a batch of events."""
        batches = self.journal.setdefault(stream, [])
        count = batches[-1]["count"] if batches else 0
        assert after == count, f"{stream}: seq {after + 1} follows {count}"
        heard = {site: max(self.boot, time) for site, time in self.last_heard.items()}
        is_json = not stream.startswith(("plan:", "pairs:"))
        plain = [json.loads(event) for event in events] if is_json else []
        batch = {"count": count + len(events), "raw": events, "events": plain, "receipt": receipt}
        batches.append(batch | {"heard": heard, "boot": self.boot, "now": self.world.now})

    def compare(self, coordinator):
        """What a hub had in memory is what its log says, up to where it had read."""
        for name, state in coordinator._runs.items():
            stored = self.world.hub.log.kept.read(f"run:{name}")[: state.seq]
            assert runs.run_of(happened.decode_run(data) for data in stored) == state

    def check(self):
        """Judge the world.

        Raises:
            AssertionError: Says which promise was broken.
        """
        log = self.world.hub.log.kept
        for stream, batches in self.journal.items():
            assert log.read(stream) == [data for batch in batches for data in batch["raw"]], f"{stream} was rewritten"
        self._answers(log)
        plans = dict(zip(self.world.studies, self.world.plans, strict=True))
        for study, plan in plans.items():
            StudyWalk(self, study, plan).walk()
        for stream in list(self.journal):
            if stream.startswith("run:"):
                name = stream.removeprefix("run:")
                walk = LateWalk if self.world.is_late else SecureWalk if self.world.is_secure else RunWalk
                walk(self, name, plans[name.split(".")[0]]).walk()
        self.compare(self.world.hub.coordinator)
        with self.world.fair_weather():
            self._paid(plans)

    def _paid(self, plans):
        """Whatever an honest site gave a private run was paid for, and no budget was overspent."""
        for site, node in self.world.nodes.items():
            status = node.budgets().status("patient")
            assert status.spent_share + status.reserved_share <= 1
            used = {run.run: {use.kind: use.used for use in run.uses} for run in status.runs}
            for stream, batches in self.journal.items():
                name = stream.removeprefix("run:")
                plan = plans.get(name.split(".")[0])
                if not stream.startswith("run:") or plan.privacy is None or site in self.world.weather.hostile:
                    continue
                trained = {"train"} if plan.training.rounds else set()
                given = [
                    event
                    for batch in batches
                    for event in batch["events"]
                    if event["event"] == "update-accepted" and event["site"] == site and event["update"]
                ]
                assert not given or used[name].keys() == trained
                assert len(given) <= used.get(name, {}).get("train", 0), f"{site} gave more than it paid for"

    def _answers(self, log):
        stored = {}
        for batches in self.journal.values():
            for batch in batches:
                if batch["receipt"] is not None:
                    sender, command, body = batch["receipt"]
                    assert (sender, command) not in stored, "a command was performed twice"
                    stored[sender, command] = body
        for (site, command), receipt in self.answers.items():
            assert stored.get((site, command)) == msgspec.msgpack.encode(receipt), "an answer was not durable"
            assert log.receipt(site, command) == stored[site, command]
