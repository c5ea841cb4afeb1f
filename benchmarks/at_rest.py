"""``python -m benchmarks.at_rest``: what sealing at rest, key stores and the egress guard cost, beside references.

Every figure is the median of several runs, in processor time of this process where it says so; each stands beside its
reference in the same run: a plain write of the same bytes, a plain read, a pass of SHA-256, or one local epoch.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from wardround.crypto import seal, stream
from wardround.crypto.envelope import Place
from wardround.services.egress_scan import Identifiers, Records, Watch
from wardround.storage import sealed_file
from wardround.storage.key_file import FileKeyStore
from wardround.storage.key_ring import KeyRing
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock

MIB = 1024 * 1024
PIECE = 256 * 1024
KEY = bytes(range(32))


def timed(work, repeats=5, clock=time.process_time):
    taken = []
    for _ in range(repeats):
        started = clock()
        work()
        taken.append(clock() - started)
    return statistics.median(taken)


def segments(size):
    """Throughput of the stream by size of segment, in GB/s."""
    data = memoryview(bytearray(os.urandom(MIB)) * (size // MIB))
    found = {}
    for segment in (16 * 1024, 64 * 1024, 256 * 1024, MIB, 4 * MIB, 16 * MIB, 64 * MIB):

        def work(segment=segment):
            for _ in stream.seal_stream([data], KEY, prefix=bytes(7), aad=b"", segment_bytes=segment):
                pass

        found[f"{segment // 1024} KiB"] = round(size / timed(work, 3) / 1e9, 2)
    return found


def files(folder, size):
    """A memory file written and read, sealed and plain."""

    class Keys:
        tenant, is_bare, current = "bench", False, 1

        def key(self, _number):
            return KEY

    data, place = memoryview(os.urandom(MIB) * (size // MIB)), Place("memory", tenant="bench")
    sealed, plain = folder / "sealed", folder / "plain"

    def write_plain():
        with plain.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def read_plain():
        with plain.open("rb", buffering=0) as file:
            buffer = bytearray(MIB)
            while file.readinto(buffer):
                pass

    def read_sealed():
        for _ in sealed_file.read(sealed, Keys(), place=place):
            pass

    wall = time.perf_counter
    return {
        "write plain s": round(timed(write_plain, 3, wall), 3),
        "write sealed s": round(timed(lambda: sealed_file.write(sealed, [data], Keys(), place=place), 3, wall), 3),
        "read plain s": round(timed(read_plain, 3, wall), 3),
        "read sealed s": round(timed(read_sealed, 3, wall), 3),
        "sha-256 s": round(timed(lambda: hashlib.sha256(data), 3, wall), 3),
    }


def vaults(folder):
    """Reads of a vault under a bare key and under a ring, and a rotation over many values."""
    with_key = SealedVault(folder / "bare.sqlite", KEY)
    store = FileKeyStore(folder / "state.key")
    store.rotate(0)
    ring = KeyRing(folder / "keyring.json", store, tenant="bench", clock=SystemClock(), bare=store.bare())
    ring.rotate()
    with_ring = SealedVault(folder / "ring.sqlite", ring)
    names = [f"value.{number}" for number in range(500)]
    for name in names:
        with_key.put(name, bytes(1000))
        with_ring.put(name, bytes(1000))
    found = {}
    for what, vault in (("bare", with_key), ("ring", with_ring)):
        found[f"get {what} µs"] = round(timed(lambda vault=vault: [vault.get(name) for name in names]) / 500 * 1e6, 1)
    found["rotate ms"] = round(timed(ring.rotate, 5, time.perf_counter) * 1e3, 1)
    found["seal 1 kB µs"] = round(
        timed(lambda: [seal.seal(bytes(1000), KEY, nonce=bytes(12), context=b"") for _ in range(500)]) / 500 * 1e6, 1
    )
    with_key.close()
    with_ring.close()
    return found


def scan(columns):
    """Searching an update for rows, by size of the table; the reference is a pass of SHA-256 over the same bytes."""
    generator = np.random.default_rng(1)
    update = (generator.normal(size=columns) * 1e-3).astype(np.float32)
    found = {"sha-256 s": round(timed(lambda: hashlib.sha256(update.data), 3), 3)}
    for records, width in ((1000, 13), (10_000, 20), (50_000, 40)):
        table = generator.normal(size=(records, width)).astype(np.float32)
        scaled = ((table - table.mean(0) - 1) / table.std(0)).astype(np.float32)
        started = time.process_time()
        index = Records([table, scaled])
        built = time.process_time() - started

        def work(index=index):
            watch = Watch(index, Identifiers(()))
            assert all(watch.is_clean(update[at : at + PIECE]) for at in range(0, columns, PIECE))

        found[f"{records} x {width}"] = {"build s": round(built, 2), "scan s": round(timed(work, 3), 3)}
    return found


def epoch(columns):
    """One local epoch of a model of about so many parameters on 1,024 records, for comparison."""
    import torch

    side = int((columns // 2) ** 0.5)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(40, side),
        torch.nn.ReLU(),
        torch.nn.Linear(side, side),
        torch.nn.ReLU(),
        torch.nn.Linear(side, side),
        torch.nn.ReLU(),
        torch.nn.Linear(side, 1),
    )
    chosen = torch.optim.SGD(model.parameters(), lr=0.01)
    records = torch.randn(1024, 40)

    def work():
        for batch in records.split(32):
            chosen.zero_grad()
            model(batch).square().mean().backward()
            chosen.step()

    return {"parameters": sum(value.numel() for value in model.parameters()), "cpu s": round(timed(work, 1), 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="MiB of a file")
    parser.add_argument("--columns", type=int, default=25_000_000, help="parameters of an update")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "stream GB/s by segment": segments(chosen.size * MIB),
            f"file of {chosen.size} MiB": files(Path(folder), chosen.size * MIB),
            "vault": vaults(Path(folder)),
            f"scan of {chosen.columns} float32": scan(chosen.columns),
            "one epoch of 1,024 records": epoch(chosen.columns),
        }
    print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
