"""The numbered rules of runs and rounds, read again and applied to what was stored: part of the oracle.

Numbers in comments are those at the top of `wardround.protocol.round` and `wardround.protocol.run`.
"""

import hashlib

import msgspec
from tests.simulation import arithmetic, fakes

LARGEST = 1e100


class RunWalk:
    """A run's stream, checked against the rules of `run` and `round`, and recomputed."""

    def __init__(self, oracle, name, plan):
        self.oracle, self.name, self.plan = oracle, name, plan
        self.study = name.split(".")[0]
        self.model_specs = [(spec.name, spec.shape, spec.dtype) for spec in plan.manifest]
        width = len(plan.data.columns)
        self.sum_specs = [(part, (width,), "float64") for part in ("count", "sum", "sum_of_squares")]
        statistics = ["statistics"] if plan.data.scaling == "federated" else []
        self.agenda = [*statistics, *["train"] * plan.training.rounds, "evaluate"]
        self.server = arithmetic.Server(
            fakes.initial_model(plan.seed), self.model_specs, msgspec.to_builtins(plan.training.server)
        )
        self.phase, self.done, self.round, self.left = "new", 0, None, {}
        self.model, self.standardization = plan.initial.digest, b""
        self.models = {0: plan.initial.digest}
        self.extensions = self.gatherings = 0
        self.now, self.asked_by_round, self.numbers = 0.0, {}, set()

    def walk(self):
        """Raise where a rule was broken."""
        batches = self.oracle.journal[f"run:{self.name}"]
        away = [item for item in self.oracle.away if item[1]["run"] == self.name]
        for index, batch in enumerate(batches):
            self.batch = batch
            first = 0
            if batch["receipt"] is not None:
                self._answer(batch)
                first = 1
            for event in batch["events"][first:]:
                self._apply(event)
            self._prompt()
            for site, plain, seen, is_there, words in away:
                if seen == index + 1 and is_there:
                    assert self._judge(site, plain) != "accepted", f"{site} was turned away: {words}"
        assert self.phase in {"completed", "stopped"}, f"the run is {self.phase} after its plan expired"
        for site, task in self.oracle.tasks:
            if task.run == self.name:
                self._task(site, task)
        status = self.oracle.world.hub.coordinator.status(self.name)
        assert (status.phase, status.last_seq) == (self.phase, batches[-1]["count"])

    def _task(self, site, task):
        asked = self.asked_by_round[task.number]
        assert site in asked, "a site was given a task of a round that did not ask it"
        assert task.kind == self.agenda[task.number - 1]
        assert task.base.digest == self.models[task.number - 1], "a round starts from another model than the last gave"

    def _answer(self, batch):
        sender, command, body = batch["receipt"]
        receipt = msgspec.msgpack.decode(body)
        event = batch["events"][0]
        expected = {"accepted": {"update-accepted", "site-declined"}}.get(receipt["outcome"], {"update-refused"})
        assert event["event"] in expected, "the receipt says another thing than the event"
        assert event["site"] == sender
        assert receipt.get("reason", "") == event.get("reason", "") or event["event"] == "site-declined"
        candidates = self.oracle.messages[sender, command]
        fitting = [plain for plain in candidates if self._fits(plain, event)]
        assert fitting, f"nobody sent what was recorded: {event}"
        verdicts = {self._judge(sender, plain) for plain in fitting}
        assert receipt["outcome"] in verdicts, f"{sender} was told {receipt}; the rules say {verdicts}"
        if event["event"] == "update-accepted":
            self.round["accepted"][sender] = event
            self.round["absent"].discard(sender)
        elif event["event"] == "site-declined":
            self.round["declined"].add(sender)
        elif receipt["outcome"] == "refused":
            self.round["refusals"][sender] = self.round["refusals"].get(sender, 0) + 1
        self.now = event["at"]

    def _fits(self, plain, event):
        if plain["run"] != self.name or plain["number"] != event["number"]:
            return False
        if event["event"] == "update-accepted":
            return plain["records"] == event["records"] and plain["update"] == event["update"] and not plain["declined"]
        return event["event"] != "site-declined" or plain["declined"].startswith(event["reason"])

    def _judge(self, site, plain):
        """The rules again, as a reader of them would write them."""
        round_, number = self.round, plain["number"]
        if site not in self.sites or (number > round_["number"] if round_ else number > 0):
            return "error"
        if self.phase != "collecting" or number < round_["number"]:
            return "round-closed"
        if site in self.left or site not in round_["sites"]:  # round (1)
            return "error"
        if (number, plain["kind"]) != (round_["number"], round_["kind"]):  # round (2)
            return "refused"
        if site in round_["accepted"] or site in round_["declined"]:  # round (5)
            return "refused"
        if round_["refusals"].get(site, 0) >= 3:  # round (6)
            return "refused"
        if plain["declined"]:
            return "accepted"
        if not 1 <= plain["records"] <= self.plan.limits.max_records:  # round (3)
            return "refused"
        evaluation = plain["evaluation"] or {"metrics": {}}
        numbers = [*filter(None, evaluation["metrics"].values()), plain["train_seconds"]]
        if not all(abs(number) <= LARGEST for number in numbers):  # NaN is not <= anything
            return "refused"
        return "accepted" if self._is_wanted(round_["kind"], plain["update"]) else "refused"  # round (4)

    def _is_wanted(self, kind, ref):
        if kind == "evaluate":
            return ref is None
        specs = self.sum_specs if kind == "statistics" else self.model_specs
        data = self.oracle.bytes.get(ref["digest"]) if ref else None
        return data is not None and ref["size"] == len(data) and arithmetic.is_well_formed(data, specs)

    def _apply(self, event):
        assert event["at"] >= self.now or event["event"] == "run-opened", "time ran backwards"
        self.now = event["at"]
        assert self.phase not in {"completed", "stopped"}, f"{event['event']} after the end"  # run (7)
        getattr(self, "_on_" + event["event"].replace("-", "_"))(event)

    def _on_run_opened(self, event):
        terms = event["terms"]
        assert self.phase == "new"
        started = next(
            started
            for batch in self.oracle.journal[f"study:{self.study}"]
            for started in batch["events"]
            if started["event"] == "run-started" and started["run"] == self.name
        )
        assert terms["sites"] == started["sites"]
        assert len(terms["sites"]) >= terms["quorum"] == self.plan.min_participants  # run (1)
        assert terms["agenda"] == self.agenda
        assert terms["expires"] == self.plan.expires
        assert event["base"]["digest"] == self.plan.initial.digest
        self.sites, self.quorum, self.limits = terms["sites"], terms["quorum"], self.plan.limits
        self.first_until = self.until = event["at"] + self.limits.absence_seconds
        self.phase = "gathering"

    def _present(self, site):
        since = self.now - self.limits.absence_seconds
        return max(self.batch["boot"], self.batch["heard"].get(site, 0.0)) > since

    def _there(self):
        return [site for site in self.sites if site not in self.left and self._present(site)]

    @property
    def _is_sure(self):
        # A zombie hub has its own idea of who is there.
        return not self.oracle.world.weather.zombie

    def _on_gathering_extended(self, event):
        assert self.phase == "gathering"
        assert event["at"] >= self.until
        self.gatherings += 1
        assert self.gatherings <= self.limits.patience  # run (3)
        assert event["deadline"] == event["at"] + self.limits.round_timeout_seconds
        assert not self._is_sure or len(self._there()) < self.quorum
        self.until = event["deadline"]

    def _on_round_opened(self, event):
        assert self.phase == "gathering"
        assert event["number"] == self.done + 1  # run (2)
        assert event["kind"] == self.agenda[self.done]  # run (2)
        assert event["sites"] == sorted(set(event["sites"]))
        assert set(event["sites"]) <= set(self.sites) - set(self.left)  # run (5)
        assert len(event["sites"]) >= self.quorum  # run (1)
        assert event["deadline"] == event["at"] + self.limits.round_timeout_seconds
        if self._is_sure:
            assert event["sites"] == sorted(self._there())  # run (3)
        if self.done == 0:
            everybody = set(self.sites) - set(self.left)
            assert set(event["sites"]) == everybody or event["at"] >= self.first_until  # run (3)
        self.round = {
            "number": event["number"],
            "kind": event["kind"],
            "sites": event["sites"],
            "deadline": event["deadline"],
            "accepted": {},
            "declined": set(),
            "refusals": {},
            "absent": set(),
        }
        self.phase, self.extensions, self.gatherings = "collecting", 0, 0
        self.asked_by_round[event["number"]] = event["sites"]

    def _on_update_accepted(self, event):
        raise AssertionError(f"nobody sent {event}")

    _on_update_refused = _on_update_accepted

    def _on_site_left(self, event):
        study = self.oracle.journal[f"study:{self.study}"]
        said = [
            decided["site"]
            for batch in study
            for decided in batch["events"]
            if decided["event"] == "site-decided" and decided["verdict"] == "withdraw" and decided["at"] <= event["at"]
        ]
        assert event["site"] in said, "a site was made to leave that did not"
        self.left[event["site"]] = event["at"]

    def _on_site_declined(self, event):
        assert self.phase == "collecting"
        assert event["site"] in self.left, "nobody said that"
        assert event["site"] in self._open_sites()
        self.round["declined"].add(event["site"])

    def _on_site_absent(self, event):
        assert self.phase == "collecting"
        assert event["number"] == self.round["number"]
        assert event["site"] in self._open_sites() - self.round["absent"]
        assert not self._is_sure or not self._present(event["site"])
        self.round["absent"].add(event["site"])

    def _open_sites(self):
        round_ = self.round
        unheard = {site for site, count in round_["refusals"].items() if count >= 3}
        return set(round_["sites"]) - set(round_["accepted"]) - round_["declined"] - unheard

    def _on_deadline_extended(self, event):
        assert self.phase == "collecting"
        assert event["at"] >= self.round["deadline"]
        assert len(self.round["accepted"]) < self.quorum  # round (8)
        self.extensions += 1
        assert event["extensions"] == self.extensions <= self.limits.patience  # round (9)
        assert event["deadline"] == event["at"] + self.limits.round_timeout_seconds
        self.round["deadline"] = event["deadline"]

    def _on_round_closed(self, event):
        round_ = self.round
        assert self.phase == "collecting"
        assert event["number"] == round_["number"]
        assert event["contributors"] == sorted(round_["accepted"])
        assert len(event["contributors"]) >= self.quorum  # round (9)
        everybody = not (self._open_sites() - round_["absent"])
        assert everybody or event["at"] >= round_["deadline"], "the round closed too soon"  # round (7), (8)
        assert round_["number"] not in self.numbers
        self.numbers.add(round_["number"])
        self.phase = "combining"

    def _expected(self):
        """What the round gives, from the bytes of its contributors: model, statistics; None where not finite."""
        round_ = self.round
        accepted = [round_["accepted"][site] for site in sorted(round_["accepted"])]
        files = [self.oracle.bytes[event["update"]["digest"]] for event in accepted if event["update"]]
        for event, data in zip(accepted, files, strict=False):
            self._honest(event, data)
        if round_["kind"] == "statistics":
            return self.server.model, arithmetic.statistics(files, self.sum_specs)
        if round_["kind"] == "train":
            return self.server.step(files, [event["records"] for event in accepted]), self.standardization
        return self.server.model, self.standardization

    def _honest(self, event, data):
        """An honest site's bytes are a function of what the hub gave it: the right model, the right statistics."""
        if event["site"] in self.oracle.world.weather.hostile or self.round["kind"] != "train":
            return
        before = self.server.model
        again = fakes.trained_update(event["site"], event["number"], before, self.standardization)
        assert data == again, f"{event['site']} trained from something else than the last round gave"

    def _on_round_combined(self, event):
        assert self.phase == "combining"
        assert event["number"] == self.round["number"]  # run (4)
        model, statistics = self._expected()
        assert model is not None, "a model that is not finite was published"
        assert statistics is not None
        self.standardization = statistics
        assert event["model"]["digest"] == hashlib.sha256(model).hexdigest(), "not its contributors' model"
        if statistics:
            assert event["standardization"]["digest"] == hashlib.sha256(statistics).hexdigest()
        state = [hashlib.sha256(data).hexdigest() for data in self.server.state]
        assert [ref["digest"] for ref in event["server_state"]] == state
        self.model = event["model"]["digest"]
        self.done = event["number"]
        self.models[self.done] = self.model
        self.phase, self.until = "gathering", event["at"] + self.limits.round_timeout_seconds

    def _on_run_completed(self, event):
        assert self.phase == "gathering"
        assert self.done == len(self.agenda)  # run (2)
        assert event["model"]["digest"] == self.model
        blobs = self.oracle.world.hub.blobs
        assert hashlib.sha256(blobs.read(self.model, 0, blobs.size(self.model))).hexdigest() == self.model
        self.phase = "completed"

    def _on_run_stopped(self, event):
        reason, round_ = event["reason"], self.round
        if event["at"] >= self.plan.expires and "expired" in reason:  # run (6)
            why = True
        elif "withdrew the study" in reason:
            why = self.study in self.oracle.withdrawn
        elif len(self.sites) - len(self.left) < self.quorum:  # run (5)
            why = True
        elif self.phase == "gathering":
            why = self.gatherings == self.limits.patience and event["at"] >= self.until  # run (3)
            assert not self._is_sure or len(self._there()) < self.quorum
        elif self.phase == "collecting":
            possible = len(round_["accepted"]) + len(self._open_sites())
            exhausted = self.extensions == self.limits.patience and event["at"] >= round_["deadline"]
            why = possible < self.quorum or (exhausted and len(round_["accepted"]) < self.quorum)  # round (9), (10)
        else:
            why = None in self._expected()
        assert why, f"the run stopped without a reason that holds: {reason}"
        assert "Must act: " in reason or "the researcher withdrew" in reason, f"nobody must act: {reason}"
        self.phase = "stopped"

    def _prompt(self):
        """What had to follow at once, did."""
        if self.phase == "collecting":
            round_ = self.round
            enough = len(round_["accepted"]) >= self.quorum
            assert not enough or (self._open_sites() - set(self.left)) - round_["absent"], (
                "every site answered, and the round is open"
            )  # (7)
            possible = len(round_["accepted"]) + len(self._open_sites() - set(self.left))
            assert possible >= self.quorum, "a quorum is impossible, and the round waits"  # round (10)
        if self.phase == "gathering":
            assert self.done < len(self.agenda), "all is combined, and the run goes on"
        if self.phase != "stopped":
            assert len(self.sites) - len(self.left) >= self.quorum, "too few sites remain, and the run goes on"  # (5)
