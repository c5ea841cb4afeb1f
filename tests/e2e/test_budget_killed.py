"""Processes that spend a privacy budget are killed again and again: nothing acknowledged is lost, nothing overspent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 18

pytestmark = pytest.mark.processes


def test_killed_at_any_moment_the_ledger_keeps_what_was_acknowledged(tmp_path):
    command = [sys.executable, "-m", "benchmarks.ledger", "--cycles", "10000"]
    limits = ["--seconds", str(SECONDS), "--place", str(tmp_path)]
    done = subprocess.run([*command, *limits], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["lost"], found["overspent"]) == (0, 0)
    assert found["cycles"] >= 20
    assert found["acknowledged"] > found["kills"]
    assert 0 < found["most_spent_share"] <= 1
    assert found["done_but_not_acknowledged"] > 0  # some were killed between an entry and its acknowledgement
    assert not list(tmp_path.iterdir())
