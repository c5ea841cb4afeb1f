"""What secure aggregation promises, read again and applied to what was stored and sent: part of the oracle.

The arithmetic of a round is written anew in `arithmetic`; nothing here asks a machine, but for the check of
signed transcripts, which is what a sceptical site would run.
"""

import hashlib
from fractions import Fraction

import msgspec
import numpy as np
from tests.simulation import arithmetic, fakes

from wardround.protocol.messages import CohortAnswer
from wardround.protocol.plan import BlobRef
from wardround.secagg import opening
from wardround.secagg.messages import Agreement, Masked, Reveal

AUC = 1  # among binary metrics by name: accuracy, auc, brier, ...


class SecureWalk:
    """A secure run's stream, its cohorts' streams, and all that its sites sent."""

    def __init__(self, oracle, name, plan):
        self.oracle, self.name, self.plan = oracle, name, plan
        self.specs = [(spec.name, spec.shape, spec.dtype) for spec in plan.manifest]
        statistics = ["statistics"] if plan.data.scaling == "federated" else []
        self.agenda = [*statistics, *["train"] * plan.training.rounds, "evaluate"]
        self.server = arithmetic.Server(
            fakes.initial_model(plan.seed), self.specs, msgspec.to_builtins(plan.training.server)
        )
        self.standardization = b""
        self.phase, self.contributors, self.opened, self.dealt = "new", [], [], []
        self.plain = []

    def walk(self):
        """Raise where a promise was broken."""
        formed, opened = [], []
        for batch in self.oracle.journal[f"run:{self.name}"]:
            for event in batch["events"]:
                kind = event["event"]
                if kind == "update-accepted":
                    assert (event["update"], event["records"]) == (None, 0), "a site's own update was taken"
                    assert event["evaluation"] is None or self.plan.secure.site_metrics
                elif kind == "round-closed":
                    self.contributors, self.opened, self.dealt = event["contributors"], [], []
                elif kind == "cohort-formed":
                    self._formed(event, formed)
                elif kind == "cohort-opened":
                    self._opened(event)
                    opened.append((event["number"], event["cohort"]))
                elif kind == "round-combined":
                    self._combined(event)
                elif kind in {"run-completed", "run-stopped"}:
                    self.phase = kind
                    assert kind == "run-completed" or "Must act" in event["reason"] or "withdrew" in event["reason"]
        assert self.phase in {"run-completed", "run-stopped"}, f"the run is {self.phase} after its plan expired"
        self._said()
        self._evidence(opened)
        self._hidden()

    @property
    def survivors(self):
        """Everybody in one of the round's sums."""
        return [site for survivors in self.opened for site in survivors]

    def _formed(self, event, formed):
        terms = event["terms"]
        members = terms["members"]
        assert terms not in formed, "a cohort's terms came back"
        assert (event["number"], event["cohort"]) == (terms["number"], terms["attempt"])
        assert set(members) <= set(self.contributors), "a site that had not answered is in a cohort"
        assert len(members) >= self.plan.min_participants
        size = self.plan.secure.group_size if terms["kind"] == "train" else 0
        assert (terms.get("crowd") is not None) == bool(size)
        if size:
            assert len(members) >= size
            assert members in arithmetic.dealt(terms["crowd"]["sites"], terms["crowd"]["nonces"], size)
            self.dealt.append(members)
        formed.append(terms)

    def _opened(self, event):
        survivors = event["survivors"]
        threshold = 2 * len(self.contributors) // 3 + 1
        least = max(self.plan.min_participants, min(threshold, 2 * len(survivors) // 3 + 1))
        assert len(survivors) >= least, "a sum over too few"
        assert set(survivors) <= set(self.contributors) - set(self.survivors), "somebody is in two sums of one round"
        self.opened.append(survivors)

    def _combined(self, event):
        kind, number = self.agenda[event["number"] - 1], event["number"]
        if kind == "statistics":
            tables = [fakes.table_of(site) for site in self.survivors]
            kept = [table.features[~table.held_out].astype(float) for table in tables]
            parts = [[len(rows)] * rows.shape[1] for rows in kept]
            sums = [
                [sum(column) for column in zip(*columns, strict=True)]
                for columns in (parts, [rows.sum(axis=0) for rows in kept], [(rows**2).sum(axis=0) for rows in kept])
            ]
            width = len(self.plan.data.columns)
            head, _ = arithmetic.header([(name, (width,), "float64") for name in ("count", "sum", "sum_of_squares")])
            self.standardization = head + np.array(sums, "<f8").tobytes()
            assert event["standardization"]["digest"] == hashlib.sha256(self.standardization).hexdigest()
        if kind == "train":
            self._trained(number)
        assert event["model"]["digest"] == hashlib.sha256(self.server.model).hexdigest(), (
            "another model than the sum gives"
        )
        pooled = event["evaluation"]
        assert (pooled is None) == (kind == "statistics" or self.plan.secure.site_metrics)
        if pooled is not None:
            assert pooled["records"] == 2 * len(self.survivors)
            assert {name: value for name, value in pooled["metrics"].items() if value is not None} == {"auc": 0.5}

    def _trained(self, number):
        means, weights = zip(*[self._mean(survivors, number) for survivors in self.opened], strict=True)
        total = None
        for mean, weight in zip(means, weights, strict=True):
            part = mean * (weight / sum(weights))
            total = part if total is None else total + part
        assert self.server.move(total) is not None

    def _mean(self, survivors, number):
        """The mean over one cohort, and the sum of its weights."""
        secure, head = self.plan.secure, len(self.server.head)
        largest = min(secure.max_weight, self.plan.limits.max_records)
        updates, weights, words = [], [], []
        for site in survivors:
            data = fakes.trained_update(site, number, self.server.model, self.standardization)[head:]
            self.plain.append(data)
            updates.append([Fraction(float(value)) for value in np.frombuffer(data, "<f4")])
            weights.append(min(fakes.records_of(site), self.plan.limits.max_records, largest))
            words.append(arithmetic.rounding_words(self.plan.seed, number, site, len(data) // 4))
        mean = arithmetic.secure_mean(
            updates, weights, words, capacity=len(self.plan.participants), clip=secure.clip, largest=largest
        )
        return mean, sum(weights)

    def _said(self):
        """Of each cohort a site sends one masked vector, one signature, one kind of share: ever."""
        for site, bodies in self.oracle.cohort_answers.items():
            seen = {}
            for body in bodies:
                said = msgspec.msgpack.decode(body, type=CohortAnswer)
                if said.run == self.name and isinstance(said.answer, Masked | Agreement | Reveal):
                    key = (said.answer.transcript, type(said.answer))
                    assert seen.setdefault(key, said.answer) == said.answer, f"{site} said two things in one cohort"

    def _evidence(self, opened):
        coordinator = self.oracle.world.hub.coordinator
        keys = {site: fakes.key_of(site).public_key() for site in self.oracle.world.sites}
        for number, cohort in opened:
            evidence = coordinator.cohorts.evidence(self.name, number, cohort)
            opening.check_evidence(evidence, keys)
            sent = {
                site: {
                    said.answer.digest
                    for body in bodies
                    if isinstance((said := msgspec.msgpack.decode(body, type=CohortAnswer)).answer, Masked)
                    and (said.run, said.number, said.cohort) == (self.name, number, cohort)
                }
                for site, bodies in self.oracle.cohort_answers.items()
            }
            assert all(sent[entry.site] == {entry.digest} for entry in evidence.survivors)

    def _hidden(self):
        """No plain update is in anything that was sent or stored."""
        stored = [data for batches in self.oracle.journal.values() for batch in batches for data in batch["raw"]]
        sent = [body for bodies in self.oracle.cohort_answers.values() for body in bodies]
        everything = b"".join([*stored, *sent, *self.oracle.bytes.values()])
        assert not any(data in everything for data in self.plain)
        assert all(isinstance(BlobRef(name, 0).digest, str) for name in self.oracle.bytes)
