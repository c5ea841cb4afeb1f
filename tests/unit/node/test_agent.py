"""The agent's two loops, with a hub and a participant that follow a script."""

import threading

import pytest

from wardround.errors import PeerProtocolError, PolicyError, UnavailableError
from wardround.node import agent as agents
from wardround.node.agent import Agent
from wardround.protocol.messages import Receipt, Task
from wardround.protocol.plan import BlobRef

RUN = f"{'a' * 64}.1"


def task(number):
    return Task(run=RUN, study="a" * 64, number=number, kind="train", base=BlobRef("b" * 64, 4))


class Script:
    """A hub and a participant: `given` is what the run's thread is given when it asks, `done` what is performed."""

    def __init__(self, first, given, receipts):
        self.first, self.given, self.receipts = first, list(given), dict(receipts)
        self.asked, self.done, self.ended = [], [], threading.Event()
        self.is_over = None
        self.agent = Agent(self, self, wait_seconds=0.0)

    def next_task(self, request):
        self.asked.append(request)
        if request.run is None:
            if self.first is not None and RUN not in request.busy:
                first, self.first = self.first, None
                return first
            if self.ended.is_set():
                self.agent.stop()
            return None
        found = self.given.pop(0) if self.given else PeerProtocolError("the run has ended")
        if isinstance(found, Exception):
            raise found
        return found

    def perform(self, assignment):
        self.done.append(assignment.number)
        found = self.receipts.get(assignment.number)
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, Exception):
            raise found
        return Receipt("c", "accepted", "", found)

    def end(self, run, *, is_over=False):
        assert run == RUN
        self.is_over = is_over
        self.ended.set()

    def close(self):
        pass


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(agents, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(agents, "_LONGEST_WAIT", 0.0)


def test_what_a_receipt_brings_along_is_performed_without_asking():
    script = Script(task(1), [task(3)], {1: task(2)})
    script.agent.run()
    assert script.done == [1, 2, 3]
    assert [request.run for request in script.asked].count(RUN) == 2
    assert script.is_over


def test_a_run_that_has_a_thread_is_not_asked_for_by_the_other():
    script = Script(task(1), [None, None, task(2)], {})
    script.agent.run()
    assert all(request.busy in {(), (RUN,)} for request in script.asked if request.run is None)
    assert script.done == [1, 2]


def test_a_hub_that_does_not_answer_is_asked_again():
    script = Script(task(1), [UnavailableError("gone"), UnavailableError("gone"), task(2)], {})
    script.agent.run()
    assert script.done == [1, 2]


def test_a_task_whose_answer_was_lost_is_performed_again():
    script = Script(task(1), [], {1: [UnavailableError("lost"), UnavailableError("lost"), None]})
    script.agent.run()
    assert script.done == [1, 1, 1]


def test_a_task_that_fails_is_waited_for_longer_each_time(monkeypatch):
    waits = []
    script = Script(task(1), [task(1), task(1), task(2)], {1: PolicyError("no roster")})
    monkeypatch.setattr(agents, "_FIRST_WAIT", 0.25)
    monkeypatch.setattr(agents, "_LONGEST_WAIT", 1.0)
    monkeypatch.setattr(script.agent._stopping, "wait", waits.append)
    script.agent.run()
    assert script.done == [1, 1, 1, 2]
    assert waits == [0.5, 1.0, 1.0]


def test_a_node_that_is_stopped_keeps_what_a_run_still_needs():
    script = Script(task(1), [task(2)], {})
    real = script.perform

    def stopping(assignment):
        script.agent.stop()
        return real(assignment)

    script.perform = stopping
    script.agent.run()
    assert script.ended.wait(5.0)
    assert script.done == [1]
    assert script.is_over is False
