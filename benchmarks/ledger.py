"""``python -m benchmarks.ledger --cycles 10000``: processes that spend a privacy budget, killed at random moments.

A cycle is one or two processes on one ledger, each killed (SIGKILL) at a moment of its own. Then the ledger is opened
again, and read by a second implementation of its rules: what was acknowledged must be there, and what is spent and
reserved must not be more than what was granted. A killed process' runs are carried on by the next.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
from contextlib import closing
from fractions import Fraction
from pathlib import Path

from wardround.errors import BudgetExceededError
from wardround.privacy import rdp
from wardround.privacy.ledger_entry import Committed, Granted, Released, Reserved
from wardround.privacy.mechanisms import Gaussian
from wardround.services.budgets import Budgets
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock

KEY = bytes(range(32))
UNIT = "patient"
STUDY = "ab" * 32
TRAIN = Gaussian(noise_multiplier=40.0)
COUNT = Gaussian(noise_multiplier=90.0, steps=2)
COSTS = {mechanism: rdp.cost(mechanism) for mechanism in (TRAIN, COUNT)}
EPSILON, DELTA = 1.6, 1e-6
CYCLES_PER_LEDGER = 60
LONGEST_SECONDS = 0.12


class BrokenError(Exception):
    """The ledger lost or overspent something."""


def opened(folder):
    vault = SealedVault(folder / "node.sqlite", KEY, timeout_seconds=30.0)
    return vault, Budgets("records", vault=vault, clock=SystemClock(), anchor=BudgetAnchor(folder))


def spend(folder, slot, seed, say):
    """What a killed process does: carry on its slot's run, or begin one; spend; let go; again."""
    drawn = random.Random(seed)
    _, budgets = opened(folder)
    for number in range(10**6):
        running = [one for one in budgets.status(UNIT).runs if one.is_open and one.run.startswith(slot)]
        if running:
            run = running[0].run
            uses = {use.kind: (use.mechanism, use.reserved) for use in running[0].uses}
        else:
            run = f"{slot}-{seed}-{number}"
            uses = {"train": (TRAIN, drawn.randint(1, 5)), "count": (COUNT, drawn.randint(1, 2))}
        try:
            budgets.reserve(UNIT, run, STUDY, uses)
        except BudgetExceededError:
            say(f"full {run}")
            return
        say(f"reserved {run}")
        for kind, (_, most) in uses.items():
            for place in range(drawn.randint(0, most)):
                budgets.commit(UNIT, run, kind, f"{kind}{place}")
                say(f"committed {run} {kind} {kind}{place}")
        if drawn.random() < 0.8:
            budgets.release(run)
            say(f"released {run}")


def killed(folder, slots, drawn):
    """Start a process for each slot, kill each at a random moment; what they said."""
    children = []
    for slot in slots:
        reading, writing = os.pipe()
        seed = drawn.getrandbits(48)
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                spend(folder, slot, seed, lambda words, to=writing: os.write(to, f"{words}\n".encode()))
                time.sleep(60)
            finally:
                os._exit(0)
        os.close(writing)
        children.append((time.monotonic() + drawn.uniform(0, LONGEST_SECONDS), child, reading))
    said = []
    for until, child, reading in sorted(children):
        time.sleep(max(0.0, until - time.monotonic()))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise BrokenError(f"a process ended by itself: {status}")
        text = b""
        while select.select([reading], [], [], 0)[0] and (more := os.read(reading, 65536)):
            text += more
        os.close(reading)
        said += text.decode().splitlines()
    return said


def recounted(entries):
    """The rules again, as a reader of the specification would write them: what was done, and the share spent."""
    price, left, gone, done = {}, {}, set(), set()
    allowed = order = None
    spent = promised = Fraction(0)
    for entry in entries:
        match entry:
            case Granted():
                allowed, order = Fraction(entry.allowed), rdp.ORDERS.index(entry.order)
            case Reserved():
                for kind, use in entry.uses.items():
                    price[entry.run, kind] = Fraction(COSTS[use.mechanism][order])
                    left[entry.run, kind] = use.count
                    promised += price[entry.run, kind] * use.count
                done.add(f"reserved {entry.run}")
            case Committed():
                words = f"committed {entry.run} {entry.kind} {entry.key}"
                if entry.run in gone or words in done:
                    raise BrokenError("a commit twice, or after the release")
                left[entry.run, entry.kind] -= 1
                spent += price[entry.run, entry.kind]
                done.add(words)
            case Released():
                promised -= sum(price[one] * count for one, count in left.items() if one[0] == entry.run)
                gone.add(entry.run)
                done.add(f"released {entry.run}")
        if spent > promised or promised > allowed or min(left.values(), default=0) < 0:
            raise BrokenError("more was spent or reserved than allowed")
    return done, float(spent / allowed)


def notes(folder):
    """How many entries there are, and how far the two notes have come, before anything is repaired."""
    with closing(SealedVault(folder / "node.sqlite", KEY, timeout_seconds=30.0)) as vault:
        held = len(vault.names(f"budget.records.{UNIT}.0"))
        head = json.loads(vault.get(f"budget.records.{UNIT}.head"))["seq"]
        return held, head, json.loads(BudgetAnchor(folder).get(f"budget-records-{UNIT}"))["seq"]


def cycle(folder, drawn, before, found):
    """One or two processes, killed and checked; all that has been done on this ledger, and whether it is full."""
    slots = drawn.choice([["a"], ["a"], ["b"], ["a", "b"]])
    said = killed(folder, slots, drawn)
    held, head, anchor = notes(folder)
    vault, budgets = opened(folder)
    with closing(vault):
        entries, status = budgets.entries(UNIT), budgets.status(UNIT)
    done, share = recounted(entries)
    full = {line for line in said if line.startswith("full")}
    acknowledged = {*said} - full
    if not before | acknowledged <= done:
        raise BrokenError(f"lost: {sorted((before | acknowledged) - done)}")
    if abs(status.spent_share - share) > 1e-9 or status.spent > EPSILON:
        raise BrokenError(f"spent {status.spent_share}, recounted {share}, epsilon {status.spent}")
    found["kills"] += len(slots)
    found["acknowledged"] += len(said)
    found["head_behind"] += head < held
    found["anchor_behind"] += anchor < held
    found["done_but_not_acknowledged"] += len(done - before - acknowledged)
    found["most_spent_share"] = max(found["most_spent_share"], share)
    return done, bool(full)


def run(cycles, seconds, seed, place):
    """Run the cycles, or as many as there is time for; what was found."""
    drawn = random.Random(seed)
    names = ("cycles", "kills", "ledgers", "full_ledgers", "acknowledged", "entries")
    found = dict.fromkeys((*names, "head_behind", "anchor_behind", "done_but_not_acknowledged", "most_spent_share"), 0)
    began = time.monotonic()
    while found["cycles"] < cycles and time.monotonic() - began < seconds:
        folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=place))
        try:
            vault, budgets = opened(folder)
            with closing(vault):
                budgets.grant(UNIT, EPSILON, DELTA, person="nobody", reason="to be killed")
            done, is_full, lived = set(), False, 0
            while lived < CYCLES_PER_LEDGER and not is_full and found["cycles"] < cycles:
                if time.monotonic() - began >= seconds:
                    break
                done, is_full = cycle(folder, drawn, done, found)
                lived += 1
                found["cycles"] += 1
            found["ledgers"] += 1
            found["full_ledgers"] += is_full
            found["entries"] += notes(folder)[0]
        finally:
            shutil.rmtree(folder)
    return {**found, "lost": 0, "overspent": 0, "seconds": round(time.monotonic() - began, 1)}


def main():
    """Print what was found as JSON; a ledger that lost or overspent anything ends this with an error."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.ledger")
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", default=None, help="folder for the ledgers [default: the temporary folder]")
    given = parser.parse_args()
    print(json.dumps(run(given.cycles, given.seconds, given.seed, given.place), indent=1))


if __name__ == "__main__":
    main()
