"""``python -m benchmarks.audit_log``: entries a second with real syncs, proofs from a log of ten million, verifying.

Appending is measured with typed entries through `AuditTrail`, from one thread and from many, beside the bare cost of a
sync on this disk. The large log is really written, tile by tile, through `TileLog`, each batch synced; the proofs are
read from its files with nothing kept in memory between them.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, note, tile, verification, witness_policy
from wardround.audit.entry import Left, RoundPerformed
from wardround.services.audit_trail import AuditTrail, Pseudonymizer
from wardround.storage.memory import MemoryVault
from wardround.storage.tile_log import TileLog
from wardround.system import SystemClock, SystemEntropy

__all__ = ["appending", "proving", "verifying"]

ORIGIN = "hub.example/log"
SIGNERS = (
    note.ed25519_signer(ORIGIN, Ed25519PrivateKey.generate()),
    note.ml_dsa_signer(ORIGIN, MLDSA44PrivateKey.generate()),
)
EVENT = RoundPerformed(7, (Left("masked-update", "ab" * 32, 812_000),), dataset="icu")
BATCH = 65_536


def _log(folder: Path, **more) -> TileLog:
    return TileLog(folder, origin=ORIGIN, signers=SIGNERS, clock=SystemClock(), **more)


def appending(seconds: float = 5.0) -> dict[str, float]:
    """Entries a second, by threads; each acknowledged only when synced. A checkpoint is signed every second, too."""
    found: dict[str, float] = {}
    place = Path(tempfile.mkdtemp())
    try:
        found["one sync, ms"] = _sync(place / "sync") * 1000
        for threads in (1, 8, 64, 256):
            log = _log(place / str(threads))
            trail = AuditTrail(log, SystemClock(), "hub", Pseudonymizer(MemoryVault(), SystemEntropy()))
            found[f"entries/s, {threads} threads"] = _rate(lambda t=trail: t.record(EVENT), threads, seconds)
            log.close()
        log = _log(place / "batches")
        entries = [_entry(number) for number in range(64)]
        rate = _rate(lambda: log.enqueue(entries)(), 1, seconds)  # noqa: PLW0108 - each turn waits for its own entries
        found["entries/s, 1 thread, 64 at a time"] = rate * len(entries)
        log.close()
    finally:
        shutil.rmtree(place)
    return found


def proving(count: int = 10_000_000, proofs: int = 1000) -> dict[str, float]:
    """Build a log of `count` entries, open it, and prove entries of it from its files."""
    place = Path(tempfile.mkdtemp())
    try:
        start, before = time.perf_counter(), time.process_time()
        log = _log(place, publish_seconds=None)
        for first in range(0, count, BATCH):
            log.enqueue([_entry(number) for number in range(first, min(first + BATCH, count))])()
        log.close()
        found = {
            "entries": float(count),
            "build, s": time.perf_counter() - start,
            "build, processor s": time.process_time() - before,
        }
        start = time.perf_counter()
        log = _log(place, publish_seconds=None)
        found["open, s"] = time.perf_counter() - start
        head = checkpoints.parse(log.file("checkpoint")).checkpoint
        draw, made, worked, checked = random.Random(1), [], [], []
        for _ in range(proofs):
            index = draw.randrange(count)
            start, work = time.perf_counter(), time.thread_time()
            proof = merkle.inclusion_proof(index, count, tile.subtree_reader(log.file, count))
            made.append(time.perf_counter() - start)
            # Beside the wall's time, which other work on the machine adds to, the processor's own.
            worked.append(time.thread_time() - work)
            entry = next(data for _, data in verification.read_entries(log.file, count, index))
            start = time.perf_counter()
            merkle.check_inclusion(merkle.leaf(entry), index, count, proof, head.root)
            checked.append(time.perf_counter() - start)
        start = time.perf_counter()
        old = count // 3
        proof = merkle.consistency_proof(old, count, tile.subtree_reader(log.file, count))
        found["consistency proof, ms"] = (time.perf_counter() - start) * 1000
        found["inclusion proof, ms, median"] = statistics.median(made) * 1000
        found["inclusion proof, ms, 99 %"] = sorted(made)[len(made) * 99 // 100] * 1000
        found["inclusion proof, ms, slowest"] = max(made) * 1000
        found["inclusion proof, processor ms, median"] = statistics.median(worked) * 1000
        found["inclusion proof, processor ms, slowest"] = max(worked) * 1000
        found["proof verified, ms"] = statistics.median(checked) * 1000
        log.close()
    finally:
        shutil.rmtree(place)
    return found


def verifying(count: int = 200_000) -> dict[str, float]:
    """Verify a whole log: every entry read as typed, every tile, every root."""
    place = Path(tempfile.mkdtemp())
    try:
        log = _log(place, publish_seconds=None)
        for first in range(0, count, BATCH):
            log.enqueue([_entry(number) for number in range(first, min(first + BATCH, count))])()
        log.publish()
        policy = witness_policy.log_policy([signer.key for signer in SIGNERS], {})
        start = time.perf_counter()
        report = verification.verify_log(log.file, policy)
        taken = time.perf_counter() - start
        assert not report.problems
        log.close()
    finally:
        shutil.rmtree(place)
    return {"entries/s": count / taken}


def _entry(number: int) -> bytes:
    return b'{"actor":"hub","at":%d,"event":{"dataset":"icu","kind":"data-access","purpose":"training"}}' % (
        1_760_000_000_000 + number
    )


def _sync(path: Path) -> float:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    taken = []
    for number in range(500):
        start = time.perf_counter()
        os.pwrite(file, bytes(300), number * 300)
        os.fdatasync(file)
        taken.append(time.perf_counter() - start)
    os.close(file)
    return statistics.median(taken)


def _rate(act, threads: int, seconds: float) -> float:
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def work(worker: int) -> None:
        while time.perf_counter() < end:
            act()
            counts[worker] += 1

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the large log")
    given = parser.parse_args()
    found = {"load": os.getloadavg()[0], **appending(), **verifying(), **proving(given.entries)}
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=1))
