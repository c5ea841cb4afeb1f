"""A process that writes an audit log from many threads is killed again and again: nothing acknowledged is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.audit.logs import LOG, ORIGIN, Clock, data, policy

from wardround.audit import checkpoint as checkpoints
from wardround.audit import verification, witness_policy
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.tile_log import TileLog

ROOT = Path(__file__).parents[2]
CYCLES = 8

pytestmark = pytest.mark.processes

WRITER = """
import os, sys, threading
sys.path.append({root!r})
from tests.e2e.test_audit_log_killed import opened
log = opened({folder!r}, 0.02)
os.write(1, b"open %d\\n" % log.torn_bytes)
def work(worker):
    number = 0
    while True:
        number += 1
        count = 1 + number % 3 * 40
        entries = [b"%d.%d.%d.%d" % ({cycle}, worker, number, i) for i in range(count)]
        first = log.enqueue(entries)()
        os.write(1, b"%d %d %d %d\\n" % (first, worker, number, count))
threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
for thread in threads: thread.start()
"""


def opened(folder, seconds):
    place = Path(folder)
    return TileLog(
        place / "log",
        origin=ORIGIN,
        signers=LOG,
        clock=Clock(),
        anchor=BudgetAnchor(place),
        publish_seconds=seconds,
    )


def killed(folder, cycle, seconds):
    """What a writer acknowledged before it was killed: index to bytes."""
    code = WRITER.format(root=str(ROOT), folder=str(folder), cycle=cycle)
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)
    said = b""
    while b"\n" not in said:
        said += os.read(writer.stdout.fileno(), 65536)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said += os.read(writer.stdout.fileno(), 65536)
    writer.send_signal(signal.SIGKILL)
    while piece := writer.stdout.read(65536):
        said += piece
    writer.stdout.close()
    writer.wait(20)
    assert said.startswith(b"open ")
    # The last line may be torn: what was not told whole was not told.
    acknowledged = {}
    for line in said.split(b"\n")[1:-1]:
        first, worker, number, count = map(int, line.split())
        for i in range(count):
            acknowledged[first + i] = b"%d.%d.%d.%d" % (cycle, worker, number, i)
    return acknowledged


def test_killed_at_any_moment_the_log_keeps_what_was_acknowledged_and_verifies(tmp_path):
    draw = random.Random(7)
    expected, sizes, left_in_journal = {}, [], 0
    for cycle in range(CYCLES):
        new = killed(tmp_path, cycle, draw.uniform(0.01, 0.5))
        assert not expected.keys() & new.keys()
        expected |= new
        before = checkpoints.parse((tmp_path / "log/checkpoint").read_bytes()) if cycle else None
        log = opened(tmp_path, None)
        held = log.read(0, log.size)
        if before is not None:
            left_in_journal += log.size > before.checkpoint.size
        assert all(held[index] == entry for index, entry in expected.items())
        sizes.append(log.size)
        log.close()
    assert sizes == sorted(sizes)
    assert len(expected) > 1000
    assert left_in_journal > 0  # some were killed between an acknowledgement and the next checkpoint
    report = verification.verify_log(opened(tmp_path, None).file, policy(()))
    assert report.size == sizes[-1]
    assert all("cannot be read" in problem for problem in report.problems)  # entries here are plain bytes


def test_a_log_is_verified_by_the_command_of_another_process(tmp_path):
    log = opened(tmp_path, None)
    log.enqueue([data(number) for number in range(300)])()
    log.close()
    command = [sys.executable, "-m", "wardround", "audit"]
    export = tmp_path / "export.zip"
    subprocess.run([*command, "export", tmp_path / "log", export], check=True, timeout=60, capture_output=True)
    keys = [option for signer in LOG for option in ("--key", str(signer.key))]
    done = subprocess.run(
        [*command, "verify", export, *keys, "--json"], check=True, timeout=60, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["size"] == 300
    cut = export.read_bytes()[:-30]
    export.write_bytes(cut)
    done = subprocess.run([*command, "verify", export, *keys], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no export" in done.stderr
    assert witness_policy.parse_policy((tmp_path / "log/policy").read_text()) == policy(())


def test_a_checkpoint_is_signed_soon_after_an_entry_without_being_asked_for(tmp_path):
    log = opened(tmp_path, 0.05)
    for size in (1, 2):
        log.enqueue([data(size)])()
        end = time.monotonic() + 20
        while (signed := log.file("checkpoint")) is None or checkpoints.parse(signed).checkpoint.size < size:
            assert time.monotonic() < end
            time.sleep(0.01)
    log.close()
