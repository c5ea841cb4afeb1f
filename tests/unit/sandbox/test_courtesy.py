from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.sandbox.courtesy import Decision, Reading, decide
from wardround.sandbox.settings import Pressure, SandboxSettings

MARKS = Pressure()
QUIET = Reading()
BUSY = Reading(processor=80.0)
BETWEEN = Reading(processor=30.0)


def after(readings, *, step=20.0, is_open=True):
    decision, now = Decision(), 0.0
    for reading in readings:
        decision = decide(reading, MARKS, decision, now, is_open=is_open)
        now += step
    return decision


def test_it_runs_when_nobody_waits():
    assert after([QUIET, QUIET]).runs


@pytest.mark.parametrize("name", ["processor", "memory", "disk", "load"])
def test_any_reading_above_its_mark_stops_it_and_is_named(name):
    decision = after([replace(QUIET, **{name: 99.0})])
    assert not decision.runs
    assert {"processor": "processors"}.get(name, name) in decision.reason


def test_between_the_marks_it_stays_as_it_is():
    assert after([QUIET, BETWEEN, BETWEEN]).runs
    assert not after([BUSY, BETWEEN, BETWEEN]).runs
    assert after([BUSY, BETWEEN, QUIET]).runs


def test_one_reading_that_is_not_low_keeps_it_stopped():
    assert not after([BUSY, replace(QUIET, disk=20.0)]).runs


def test_after_a_change_it_settles():
    stopped = decide(BUSY, MARKS, Decision(), 100.0, is_open=True)
    assert decide(QUIET, MARKS, stopped, 114.9, is_open=True) == stopped
    running = decide(QUIET, MARKS, stopped, 115.0, is_open=True)
    assert running.runs
    assert decide(BUSY, MARKS, running, 116.0, is_open=True).runs
    assert not decide(BUSY, MARKS, running, 130.0, is_open=True).runs


def test_a_clock_that_was_set_back_does_not_hold_it_for_hours():
    stopped = decide(BUSY, MARKS, Decision(), 100_000.0, is_open=True)
    assert decide(QUIET, MARKS, stopped, 50.0, is_open=True).runs


def test_outside_the_hours_it_stops_at_once_and_goes_on_at_once():
    running = decide(QUIET, MARKS, Decision(), 0.0, is_open=True)
    stopped = decide(QUIET, MARKS, running, 1.0, is_open=False)
    assert not stopped.runs
    assert "hours" in stopped.reason
    assert decide(QUIET, MARKS, stopped, 2.0, is_open=False) == stopped
    assert decide(QUIET, MARKS, stopped, 3.0, is_open=True).runs
    assert not decide(BUSY, MARKS, stopped, 3.0, is_open=True).runs


READINGS = st.builds(Reading, *[st.floats(0, 100)] * 3, st.floats(0, 10))


@given(st.lists(st.tuples(READINGS, st.booleans(), st.floats(0, 60)), max_size=30))
def test_it_never_runs_outside_the_hours_and_never_changes_twice_in_a_settling_time(steps):
    decision, now, changed, was_open = Decision(), 0.0, float("-inf"), True
    for reading, is_open, wait in steps:
        now += wait
        found = decide(reading, MARKS, decision, now, is_open=is_open)
        assert is_open or not found.runs
        if found.runs != decision.runs and is_open and was_open:
            assert now - changed >= MARKS.settle_seconds
        if found.runs != decision.runs or (was_open != is_open):
            changed = now if is_open and was_open else float("-inf")
        if found.runs != decision.runs and is_open:
            changed = now
        decision, was_open = found, is_open


def test_marks_that_would_flutter_are_refused():
    for name in ("processor", "memory", "disk", "load"):
        with pytest.raises(msgspec.ValidationError, match="low mark"):
            msgspec.convert({f"{name}_low": 50.0, f"{name}_high": 50.0}, Pressure)


@pytest.mark.parametrize(
    "wrong",
    [
        {"runner": "chroot"},
        {"image": "debian:latest"},
        {"cpus": "2-3; rm"},
        {"processes": 1},
        {"devices": ["nvidia0"]},
        {"control_group": "relative"},
        {"control_group": "/a b"},
        {"zone": "Europe/Vienna; x"},
        {"processors": -1.0},
        {"unknown": 1},
    ],
)
def test_a_setting_that_is_none_is_refused(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, SandboxSettings)


def test_the_defaults_demand_a_control_group_and_give_way():
    settings = SandboxSettings()
    assert settings.demand_control_group
    assert settings.idle
    assert msgspec.convert({"image": f"registry.example/worker@sha256:{'0' * 64}", "cpus": "0,2-3"}, SandboxSettings)
