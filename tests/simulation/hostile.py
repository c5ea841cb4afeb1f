"""A site that breaks every rule it can, and keeps some so that it is let in.

It approved the study as anybody would. What it sends is drawn from the world's seed.
"""

import contextlib
import hashlib
import struct
from types import SimpleNamespace

import msgspec
import numpy as np
from tests.simulation import fakes

from wardround.codec import canonical, tensors
from wardround.errors import WardroundError
from wardround.protocol import messages
from wardround.protocol.messages import Contribution, Evaluation
from wardround.protocol.plan import BlobRef, statistics_manifest


class Hostile:
    """Sends what should be refused; `perform` says whether it has dealt with a task itself."""

    def __init__(self, node):
        self.node, self.world = node, node.world
        self.past = []
        self.count = 0
        self.was_silent, self.silent_until = False, 0.0

    def perform(self, task):
        """Answer a task badly, well, or not at all."""
        rng = self.world.rng
        if rng.random() < 0.25:
            return False
        if rng.random() < 0.1:
            return True
        for _ in range(rng.choice([1, 1, 2, 4])):
            name = rng.choice(sorted(ATTACKS))
            self._send(name, ATTACKS[name](self, task, self.honest(task)))
        return rng.random() < 0.5

    def is_silent(self):
        """Whether it plays dead, so that a round is opened without it."""
        if self.world.stormy(0.03):
            self.silent_until = self.world.now + self.world.rng.uniform(15, 60)
            self.was_silent = True
            self.world.tell(self.node.site, "plays dead")
        return self.world.now < self.silent_until

    def poll(self):
        """Now and then say something that nobody asked for."""
        if self.past and self.world.stormy(0.2):
            self._send("replay", self.world.rng.choice(self.past))
        if self.world.hub.is_up and (self.was_silent or self.world.stormy(0.2)):
            self.was_silent = False
            for run in self.world.hub.coordinator._runs.values():
                if run.round is not None:
                    opened = run.round.opened
                    guess = SimpleNamespace(
                        run=run.terms.run, study=run.terms.study, number=opened.number, kind=opened.kind
                    )
                    self._send("uninvited", self.honest(guess))

    def honest(self, task):
        """What an honest site would answer, under a command of its own."""
        data = b""
        plan = self.world.plans[self.world.studies.index(task.study)]
        if task.kind == "train":
            data = fakes.trained_update(self.node.site, task.number, b"whatever", b"")
        elif task.kind == "statistics":
            manifest = statistics_manifest(plan.data)
            data = tensors.pack({spec.name: np.full(spec.shape, 2.0) for spec in manifest}, manifest)
        return Contribution(
            command=self.command(),
            run=task.run,
            number=task.number,
            kind=task.kind,
            records=min(fakes.records_of(self.node.site), plan.limits.max_records),
            update=ref_of(data) if data else None,
            evaluation=Evaluation(1, {"auc": 0.5}) if task.kind == "evaluate" else None,
            update_inline=data,
        )

    def command(self):
        """A fresh command id."""
        self.count += 1
        return f"{self.node.site}-{self.node._life}-{self.count}"

    def _send(self, name, bodies):
        for body in bodies if isinstance(bodies, list) else [bodies]:
            data = body if isinstance(body, bytes) else messages.encode(body)
            self.past = [*self.past[-10:], data]
            self.world.tell(self.node.site, "attacks", name)
            with contextlib.suppress(WardroundError):
                self.node.wire.send(data)


def ref_of(data):
    """Digest and size."""
    return BlobRef(hashlib.sha256(data).hexdigest(), len(data))


def _with(answer, data):
    return msgspec.structs.replace(answer, update=ref_of(data), update_inline=data)


def _poisoned(value, other=0.0):
    def attack(_hostile, task, answer):
        data = answer.update_inline
        if not data:
            return answer
        kind = "<d" if task.kind == "statistics" else "<f"
        size = struct.calcsize(kind)
        data = data[: -2 * size] + struct.pack(kind, other) + struct.pack(kind, value)
        return _with(answer, data)

    return attack


def _huge(hostile, task, answer):
    return _poisoned(1.7e308 if task.kind == "statistics" else 3e38)(hostile, task, answer)


def _no_digest(_hostile, _task, answer):
    size = answer.update.size if answer.update else 0
    return msgspec.structs.replace(answer, update=BlobRef("../../etc/passwd", size), update_inline=b"")


def _replaced(**changes):
    return lambda _hostile, _task, answer: msgspec.structs.replace(answer, **changes)


def _moved(by):
    return lambda _hostile, _task, answer: msgspec.structs.replace(answer, number=answer.number + by)


def _header(old, new):
    def attack(_hostile, _task, answer):
        return _with(answer, answer.update_inline.replace(old, new)) if answer.update_inline else answer

    return attack


def _equivocate(hostile, task, answer):
    again = hostile.honest(task)
    other = _poisoned(0.25)(hostile, task, again)
    return [answer, other]


def _same_command(hostile, task, answer):
    other = msgspec.structs.replace(_poisoned(0.5)(hostile, task, answer), command=answer.command)
    return [answer, other, msgspec.structs.replace(other, records=answer.records + 1)]


def _size(change):
    def attack(_hostile, _task, answer):
        data = answer.update_inline
        return _with(answer, data + b"\0" * change if change > 0 else data[:change] or b"\0")

    return attack


def _another_run(hostile, task, answer):
    others = [canonical.digest(b"no study") + ".1", f"{task.study}.9", "nonsense", f"{hostile.world.studies[-1]}.1"]
    return msgspec.structs.replace(answer, run=hostile.world.rng.choice(others))


def _garbage(hostile, _task, answer):
    body = bytearray(messages.encode(answer))
    for _ in range(3):
        body[hostile.world.rng.randrange(len(body))] = hostile.world.rng.randrange(256)
    return bytes(body) if hostile.world.rng.random() < 0.7 else hostile.world.rng.randbytes(60)


ATTACKS = {
    "an honest answer": _replaced(),
    "nan": _poisoned(float("nan")),
    "infinity": _poisoned(float("inf")),
    "minus infinity": _poisoned(float("-inf")),
    "infinities that cancel": _poisoned(float("inf"), float("-inf")),
    "huge": _huge,
    "a billion records": _replaced(records=10**9),
    "more records than a word": _replaced(records=2**63),
    "no records": _replaced(records=0),
    "negative records": _replaced(records=-5),
    "too large": _size(4),
    "too small": _size(-4),
    "wrong shape": _header(b"[1,3]", b"[3,1]"),
    "wrong dtype": _header(b'"F32"', b'"I32"'),
    "wrong name": _header(b"bias", b"bios"),
    "another round": _moved(-1),
    "round zero": _replaced(number=0),
    "a negative round": _replaced(number=-(2**40)),
    "a future round": _moved(1),
    "a far future round": _moved(10**12),
    "equivocation": _equivocate,
    "one command, two answers": _same_command,
    "another run": _another_run,
    "train": _replaced(kind="train"),
    "statistics": _replaced(kind="statistics"),
    "evaluate": _replaced(kind="evaluate"),
    "garbage": _garbage,
    "not uploaded": _replaced(update=BlobRef("0" * 64, 80), update_inline=b""),
    "no digest": _no_digest,
    "no update": _replaced(update=None, update_inline=b""),
    "an empty update": _replaced(update=BlobRef(hashlib.sha256(b"").hexdigest(), 0), update_inline=b""),
    "inline of another digest": _replaced(update=BlobRef("1" * 64, 80)),
    "declines at length": _replaced(declined="no! " * 5000, update=None, update_inline=b""),
    "metrics that are not finite": _replaced(evaluation=Evaluation(1, {"auc": float("nan")})),
    "seconds that are not finite": _replaced(train_seconds=float("inf")),
    "negative evaluation": _replaced(evaluation=Evaluation(-(2**60), {"auc": -1e300})),
}
