"""Logs, keys and witnesses that the tests of the audit log share; no test is in here."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardround.audit import entry as entries
from wardround.audit import note, witness_policy
from wardround.audit.entry import DataAccess, Entry
from wardround.storage.memory_log import MemoryTileLog

ORIGIN = "hub.example/log"
NOW = 1_760_000_000
SITES = ("arran", "bute", "coll", "dun")


class Clock:
    """Stands where it is put."""

    def __init__(self, now=float(NOW)):
        self.at = now

    def now(self):
        return self.at


def seed(name):
    return name.encode().ljust(32, b".")


def log_signers(origin=ORIGIN):
    return (
        note.ed25519_signer(origin, Ed25519PrivateKey.from_private_bytes(seed("log" + origin))),
        note.ml_dsa_signer(origin, MLDSA44PrivateKey.from_seed_bytes(seed("log" + origin))),
    )


def witness_signers(site):
    return (
        note.ed25519_signer(f"{site}.example", Ed25519PrivateKey.from_private_bytes(seed(site)), algorithm=4),
        note.ml_dsa_signer(f"{site}.example", MLDSA44PrivateKey.from_seed_bytes(seed(site))),
    )


LOG = log_signers()
WITNESSES = {site: witness_signers(site) for site in SITES}


def policy(sites=SITES, signers=LOG):
    keys = {site: [signer.key for signer in WITNESSES[site]] for site in sites}
    return witness_policy.log_policy([signer.key for signer in signers], keys)


def data(number, *, at=None):
    """A typed entry like those of a site."""
    event = DataAccess(dataset=f"set-{number % 3}", purpose="training", records=number)
    return entries.encode(Entry(at=NOW * 1000 + number if at is None else at, actor="arran", event=event))


def memory_log(count=0, *, clock=None, signers=LOG, make=data):
    log = MemoryTileLog(origin=signers[0].key.name, signers=signers, clock=clock or Clock())
    if count:
        log.enqueue([make(number) for number in range(count)])()
        log.publish()
    return log


def files(log, size):
    """Every file of a log as a dictionary, to be tampered with."""
    from wardround.audit import tile

    names = ["checkpoint", "checkpoint.witnessed", *tile.paths(size)]
    return {name: log.file(name) for name in names if log.file(name) is not None}
