"""What asynchronous training promises, read again and applied to what was stored: part of the oracle."""

import hashlib
from fractions import Fraction

import msgspec
import numpy as np
from tests.simulation import arithmetic, fakes


class LateWalk:
    """An asynchronous run's stream, plain or secure, checked against the rules and recomputed."""

    def __init__(self, oracle, name, plan):
        self.oracle, self.name, self.plan = oracle, name, plan
        self.specs = [(spec.name, spec.shape, spec.dtype) for spec in plan.manifest]
        width = len(plan.data.columns)
        self.sum_specs = [(part, (width,), "float64") for part in ("count", "sum", "sum_of_squares")]
        statistics = ["statistics"] if plan.data.scaling == "federated" else []
        self.agenda = [*statistics, *["train"] * plan.training.rounds, "evaluate"]
        self.late = plan.training.asynchronous
        self.server = arithmetic.Server(
            fakes.initial_model(plan.seed), self.specs, msgspec.to_builtins(plan.training.server)
        )
        self.standardization = b""
        self.phase, self.done, self.number = "gathering", 0, 0
        self.buffers, self.bases, self.last = {}, {}, {}
        self.taken = set()
        self.survivors, self.left = [], set()

    def walk(self):
        """Raise where a promise was broken."""
        for batch in self.oracle.journal[f"run:{self.name}"]:
            for event in batch["events"]:
                is_over = self.phase in {"run-completed", "run-stopped"}
                assert not is_over or event.get("late"), f"{event['event']} after the end"
                getattr(self, "_on_" + event["event"].replace("-", "_"), lambda _: None)(event)
        assert self.phase in {"run-completed", "run-stopped"}, f"the run is {self.phase} after its plan expired"
        assert self.phase == "run-stopped" or self.done == len(self.agenda)
        for site, task in self.oracle.tasks:
            if task.run == self.name and hasattr(task, "base"):
                expected = hashlib.sha256(self.bases[task.number]).hexdigest()
                assert task.base.digest == expected, f"{site} was given another model than the round began from"

    def _on_round_opened(self, event):
        assert self.phase == "gathering"
        assert event["number"] == self.done + 1
        assert event["kind"] == self.agenda[self.done]
        self.number, self.phase = event["number"], "collecting"
        self.bases[self.number] = self.server.model
        if event["kind"] == "train":
            everybody = self.oracle.journal[f"run:{self.name}"][0]["events"][0]["terms"]["sites"]
            assert event["sites"] == sorted(set(everybody) - self.left), "an asynchronous round leaves somebody out"

    def _on_site_left(self, event):
        self.left.add(event["site"])

    def _on_update_accepted(self, event):
        number, trained, site = event["number"], event["trained"] or event["number"], event["site"]
        is_train = self.agenda[number - 1] == "train"
        assert number == self.number + (self.phase != "collecting"), "an update for another buffer than the open one"
        assert trained == number or is_train
        assert number - trained <= (self.late.max_staleness if is_train else 0), "too late, and it counts"
        assert self.agenda[trained - 1] == self.agenda[number - 1]
        buffer = self.buffers.setdefault(number, {})
        assert site not in buffer, "one site twice in one buffer"
        assert trained > self.last.get(site, 0), "the same training counts twice"
        assert (self.name, site, trained) not in self.taken
        self.taken.add((self.name, site, trained))
        self.last[site] = trained
        buffer[site] = event

    def _on_round_closed(self, event):
        assert self.phase == "collecting"
        assert event["contributors"] == sorted(self.buffers[self.number])
        assert len(event["contributors"]) >= self.plan.min_participants
        self.survivors = event["contributors"]
        self.phase = "combining"

    def _on_cohort_formed(self, event):
        terms = event["terms"]
        buffer = self.buffers[self.number]
        assert set(terms["members"]) <= set(buffer)
        if self.agenda[self.number - 1] == "train":
            trained = [buffer[site]["trained"] or self.number for site in terms["members"]]
            assert terms["bases"] == [hashlib.sha256(self.bases[number]).hexdigest() for number in trained]
            assert terms["discounts"] == [self._factor(number) for number in trained]

    def _on_cohort_opened(self, event):
        self.survivors = event["survivors"]

    def _on_round_combined(self, event):
        kind = self.agenda[event["number"] - 1]
        assert event["number"] == self.number
        buffer = self.buffers[self.number]
        if kind == "statistics":
            self._statistics(event, buffer)
        if kind == "train":
            model = (self._masked if self.plan.secure else self._plain)(buffer)
            assert model is not None, "a model that is not finite was published"
            assert event["model"]["digest"] == hashlib.sha256(model).hexdigest(), "not its contributors' model"
        self.done, self.phase = self.number, "gathering"

    def _statistics(self, event, buffer):
        if self.plan.secure:
            tables = [fakes.table_of(site) for site in self.survivors]
            kept = [table.features[~table.held_out].astype(float) for table in tables]
            parts = [[len(rows)] * rows.shape[1] for rows in kept]
            sums = [
                [sum(column) for column in zip(*columns, strict=True)]
                for columns in (parts, [rows.sum(axis=0) for rows in kept], [(rows**2).sum(axis=0) for rows in kept])
            ]
            self.standardization = arithmetic.header(self.sum_specs)[0] + np.array(sums, "<f8").tobytes()
        else:
            files = [self.oracle.bytes[buffer[site]["update"]["digest"]] for site in self.survivors]
            self.standardization = arithmetic.statistics(files, self.sum_specs)
        assert event["standardization"]["digest"] == hashlib.sha256(self.standardization).hexdigest()

    def _plain(self, buffer):
        events = [buffer[site] for site in self.survivors]
        files = [self.oracle.bytes[event["update"]["digest"]] for event in events]
        for event, data in zip(events, files, strict=True):
            trained = event["trained"] or self.number
            again = fakes.trained_update(event["site"], trained, self.bases[trained], self.standardization)
            is_honest = event["site"] not in self.oracle.world.weather.hostile
            assert data == again or not is_honest, "trained from something else than the round began from"
        factors = [self._factor(event["trained"] or self.number) for event in events]
        return self.server.step(files, [event["records"] for event in events], factors)

    def _masked(self, buffer):
        secure, head = self.plan.secure, len(self.server.head)
        largest = min(secure.max_weight, self.plan.limits.max_records)
        updates, wholes, weights, words = [], [], [], []
        for site in self.survivors:
            trained = buffer[site]["trained"] or self.number
            data = fakes.trained_update(site, trained, self.bases[trained], self.standardization)[head:]
            updates.append([Fraction(float(value)) for value in np.frombuffer(data, "<f4")])
            wholes.append(min(fakes.records_of(site), self.plan.limits.max_records, largest))
            weights.append(max(1, int(wholes[-1] * self._factor(trained))))
            words.append(arithmetic.rounding_words(self.plan.seed, self.number, site, len(data) // 4))
        rule = {"capacity": len(self.plan.participants), "clip": secure.clip, "largest": largest}
        return self.server.move(arithmetic.secure_mean(updates, weights, words, wholes=wholes, **rule))

    def _factor(self, trained):
        late, behind = self.late, self.number - trained
        if late.staleness == "constant":
            return 1.0
        if late.staleness == "polynomial":
            return float((1 + behind) ** -late.slope)
        return 1.0 if behind <= late.grace else 1 / (late.slope * (behind - late.grace) + 1)

    def _on_run_completed(self, event):
        assert event["model"]["digest"] == hashlib.sha256(self.server.model).hexdigest()
        self.phase = "run-completed"

    def _on_run_stopped(self, event):
        assert "Must act" in event["reason"] or "withdrew" in event["reason"], f"nobody must act: {event['reason']}"
        self.phase = "run-stopped"
