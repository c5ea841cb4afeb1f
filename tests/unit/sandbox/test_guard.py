from datetime import UTC, datetime

import pytest

from wardround.errors import ConfigError, SandboxError
from wardround.ports import Bounds, Containment, Ending, Usage
from wardround.sandbox.courtesy import Reading
from wardround.sandbox.guard import Guard
from wardround.sandbox.settings import SandboxSettings

BUSY = Reading(processor=99.0)


class FakeProcess:
    pid = 2**22 + 1
    paused_seconds = 0.0

    def __init__(self):
        self.running, self.dead, self.broken = True, False, False

    def pause(self):
        if self.broken:
            raise SandboxError("it does not come to rest")
        self.running = False

    def resume(self):
        self.running = True

    def usage(self):
        return Usage(waiting=(50.0, 0.0, 0.0))

    def wait(self, seconds):
        return self.dead

    def kill(self):
        self.dead = True
        return Ending(-9)


class FakeLauncher:
    containment = Containment(contains_foreign_code=True, name="fake")

    def __init__(self):
        self.started = []

    def start(self, command, *, environment, descriptors, bounds):
        self.started.append(FakeProcess())
        return self.started[-1]


class World:
    def __init__(self, **settings):
        self.reading, self.now, self.changes = Reading(), datetime(2026, 3, 2, 20, tzinfo=UTC).timestamp(), []
        self.fake = FakeLauncher()
        self.guard = Guard(
            self.fake,
            SandboxSettings(**settings),
            read=lambda _own: self.reading,
            now=lambda: self.now,
            interval_seconds=0,
            changed=self.changes.append,
        )
        self.process = self.guard.start([], environment={}, descriptors=(), bounds=Bounds(1))
        (self.inner,) = self.fake.started

    def look(self, reading, later=60.0):
        self.reading, self.now = reading, self.now + later
        return self.guard.look()


def test_it_makes_room_and_goes_on_and_says_so():
    world = World()
    assert world.inner.running
    assert not world.look(BUSY).runs
    assert not world.inner.running
    assert world.look(Reading()).runs
    assert world.inner.running
    assert [change.runs for change in world.changes] == [False, True]


def test_it_runs_only_when_neither_the_worker_nor_the_hospital_holds_it():
    world = World()
    world.process.pause()
    world.look(BUSY)
    world.look(Reading())
    assert not world.inner.running, "the worker holds it"
    world.look(BUSY)
    world.process.resume()
    assert not world.inner.running, "the hospital holds it"
    world.look(Reading())
    assert world.inner.running


def test_time_under_the_hospitals_hold_is_told_and_time_under_the_workers_is_not():
    world = World()
    world.process.pause()
    assert world.process.paused_seconds == 0.0
    world.look(BUSY)
    first = world.process.paused_seconds
    assert 0.0 < first < world.process.paused_seconds
    world.look(Reading())
    assert world.process.paused_seconds == world.process.paused_seconds > first


def test_a_process_that_is_started_outside_the_hours_is_held_from_its_start():
    world = World(hours=("Mon 21:00-22:00",))
    assert not world.inner.running
    assert "hours" in world.guard.decision.reason
    world.look(Reading(), later=3600.0)
    assert world.inner.running


def test_a_process_that_cannot_be_held_is_ended():
    world = World()
    world.inner.broken = True
    world.look(BUSY)
    assert world.inner.dead


def test_a_process_that_ended_is_left_alone():
    world = World()
    world.process.kill()
    world.look(BUSY)
    assert world.inner.running


def test_what_it_contains_is_what_its_launcher_contains():
    world = World()
    assert world.guard.containment is FakeLauncher.containment
    assert (world.process.pid, world.process.usage().waiting[0], world.process.wait(0)) == (2**22 + 1, 50.0, False)


def test_what_our_own_workers_wait_for_is_not_what_others_wait_for(monkeypatch):
    from wardround.sandbox import guard

    monkeypatch.setattr(guard.pressure, "machine", lambda: (60.0, 1.0, 2.0))
    monkeypatch.setattr(guard.pressure, "load", lambda: 0.5)
    assert guard.readings([Usage(waiting=(50.0, 3.0, 0.0)), Usage()]) == Reading(10.0, 0.0, 2.0, 0.5)
    assert guard.readings([]) == Reading(60.0, 1.0, 2.0, 0.5)


@pytest.mark.parametrize("wrong", [{"hours": ("always",)}, {"zone": "Mars/Olympus"}])
def test_hours_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError):
        Guard(FakeLauncher(), SandboxSettings(**wrong))
