"""The numbered rules of a study, read again and applied to what was stored: part of the oracle."""

import base64

import msgspec
from tests.simulation import fakes

from wardround.crypto import signing
from wardround.protocol import messages
from wardround.protocol.messages import Decision


class StudyWalk:
    """A study's stream, checked against the rules of `study`."""

    def __init__(self, oracle, study, plan):
        self.oracle, self.study, self.plan = oracle, study, plan
        self.verdicts, self.runs, self.outcome, self.started = {}, [], "proposed", {}

    def walk(self):
        """Raise where a rule was broken."""
        batches = self.oracle.journal.get(f"study:{self.study}", [])
        events = [event for batch in batches for event in batch["events"]]
        if not events:
            return
        assert events[0]["event"] == "study-proposed"
        assert [event["event"] for event in events].count("study-proposed") == 1
        take = {"site-decided": self._decided, "run-started": self._started, "study-ended": self._ended}
        for batch in batches[1:]:
            for event in batch["events"]:
                take[event["event"]](event)
            self._prompt()
        world = self.oracle.world
        assert self.outcome not in {"proposed", "running"}, f"the study is {self.outcome} after its plan expired"
        state = world.hub.studies.state(self.study)
        assert (state.phase.value, dict(state.verdicts), list(state.runs)) == (self.outcome, self.verdicts, self.runs)
        for run in self.runs:
            assert f"run:{run}" in self.oracle.journal, "a run was started and never opened"

    def _prompt(self):
        """What had to follow at once, did."""
        if self.outcome == "proposed":
            no = sum(verdict != "approve" for verdict in self.verdicts.values())
            assert len(self.verdicts) < len(self.plan.participants), "all decided, and nothing follows"  # (3), (4)
            assert len(self.plan.participants) - no >= self.plan.min_participants, "hopeless, and open"  # (4)

    def _decided(self, event):
        site, verdict = event["site"], event["verdict"]
        assert site in self.plan.participants  # (1)
        document = msgspec.json.decode(base64.b64decode(event["document"]), type=Decision)
        assert (site, messages.encode(document)) in self.oracle.documents  # (1)
        signing.verify(document.signature, messages.decision_bytes(document), fakes.key_of(site).public_key())
        assert (document.site, document.verdict, document.study) == (site, verdict, self.study)
        before = self.verdicts.get(site)
        assert before is None or (before != "withdraw" and verdict == "withdraw")  # (2)
        assert self.outcome not in {"released", "withdrawn", "refused", "expired"}
        assert event["at"] < self.plan.expires  # (5)
        self.verdicts[site] = verdict

    def _started(self, event):
        approved = sorted(site for site, verdict in self.verdicts.items() if verdict == "approve")
        assert event["sites"] == approved
        assert len(approved) >= self.plan.min_participants  # (3)
        assert self.outcome in {"proposed", "stopped"}
        by_itself = self.outcome == "proposed" and len(self.verdicts) == len(self.plan.participants)
        assert by_itself or self.study in self.oracle.started, "nobody started this"  # (3)
        assert event["at"] < self.plan.expires  # (5)
        self.runs.append(event["run"])
        assert event["run"] == f"{self.study}.{len(self.runs)}"
        self.outcome = "running"

    def _ended(self, event):
        assert self.outcome not in {"released", "withdrawn", "refused", "expired"}
        self.outcome = event["outcome"]
        batches = self.oracle.journal.get(f"run:{self.runs[-1]}", []) if self.runs else []
        kinds = {event["event"] for batch in batches for event in batch["events"]}
        no = sum(verdict != "approve" for verdict in self.verdicts.values())
        justified = {
            "refused": len(self.plan.participants) - no < self.plan.min_participants,  # (4)
            "expired": event["at"] >= self.plan.expires,
            "withdrawn": self.study in self.oracle.withdrawn,
            "evaluated": "run-completed" in kinds,
            "stopped": "run-stopped" in kinds,
        }
        assert justified[self.outcome], f"the study ended as {self.outcome}, and nothing says why"
