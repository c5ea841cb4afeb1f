"""Commands hand entries in while the process that writes the log is killed again and again: each is there once."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wardround.audit.entry import Deletion
from wardround.auditing import Auditing, LogPlace
from wardround.services.accounting import read_entries
from wardround.storage.memory import MemoryVault

pytestmark = pytest.mark.processes

SERVE = """
import sys, time
from pathlib import Path
from wardround.auditing import Auditing, LogPlace
from wardround.storage.memory import MemoryVault
place = LogPlace("arran", Path(sys.argv[1]), Path(sys.argv[1]) / "state")
log = Auditing(place, MemoryVault())
log.serve()
print("serving", flush=True)
time.sleep(60)
"""
COMMAND = """
import sys, time
from pathlib import Path
from wardround.audit.entry import Deletion
from wardround.auditing import Auditing, LogPlace
from wardround.errors import WardroundError
from wardround.storage.memory import MemoryVault
place = LogPlace("arran", Path(sys.argv[1]), Path(sys.argv[1]) / "state")
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    Auditing(place, MemoryVault()).record(Deletion("told", number))
    print(number, flush=True)
    time.sleep(0.06)  # long enough for the writer to be killed several times meanwhile
"""


def started(script: str, *arguments: object) -> "subprocess.Popen[str]":
    line = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def test_every_acknowledged_entry_is_in_the_log_exactly_once(tmp_path: Path) -> None:
    draw = random.Random(7)
    commands = [started(COMMAND, tmp_path, start, start + 60) for start in (0, 1000)]
    kills = 0
    while any(command.poll() is None for command in commands) and kills < 12:
        server = started(SERVE, tmp_path)
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        time.sleep(draw.uniform(0.0, 0.3))
        server.kill()
        server.wait()
        server.stdout.close()
        kills += 1
    acknowledged: list[int] = []
    for command in commands:
        output, _ = command.communicate(timeout=60)
        assert command.returncode == 0
        acknowledged += [int(line) for line in output.splitlines()]
    assert kills >= 2
    log = Auditing(LogPlace("arran", tmp_path, tmp_path / "state"), MemoryVault())
    log.serve()
    found = [entry.event.count for _, entry in read_entries(log.log) if isinstance(entry.event, Deletion)]
    adopted = [entry.slip for _, entry in read_entries(log.log) if entry.slip]
    log.close()
    assert len(acknowledged) == 120
    assert sorted(found) == sorted(acknowledged)
    assert adopted
    for start in (0, 1000):
        mine = [number for number in found if start <= number < start + 60]
        assert len(mine) == 60
