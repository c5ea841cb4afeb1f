"""Stand-ins for what a world cannot afford: people's keys, records, training, files on a disk.

Each fills a port. Everything is a function of names and numbers, so a world follows from its seed.
"""

import functools
import hashlib
import zlib

import numpy as np

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, tensors
from wardround.crypto import agreement, certificate, signing
from wardround.ids import SiteId
from wardround.ports import Trained
from wardround.protocol.messages import Evaluation, Identity
from wardround.protocol.plan import BlobRef, BuiltinModel, Limits, Plan, ServerRule, Training
from wardround.secagg.roster import Roster, RosterMember

T0 = 1_750_000_000.0
RESEARCHER = SiteId("ada")
ROSTER = "ab" * 32
COLUMNS = 4
MANIFEST = (tensors.TensorSpec("weight", (1, 3)), tensors.TensorSpec("bias", (1,)))


@functools.cache
def key_of(name):
    """A name's key: the same in every process."""
    seed = hashlib.sha256(f"key of {name}".encode()).digest()
    return signing.PrivateKey.from_private_bytes(seed)


@functools.cache
def authority():
    """Private key and certificate of the worlds' authority."""
    return certificate.create_authority("Simulated hub", T0 - 3600)


@functools.cache
def identity(name):
    """An enrolled identity."""
    secret, public = authority()
    role = "researcher" if name == RESEARCHER else "site"
    request = certificate.request(name, key_of(name))
    return Identity(name, role, certificate.issue(request, name, role, secret, public, T0 - 60, 90 * 86400.0))


def initial_model(salt):
    """The bytes of an untrained model."""
    values = (np.arange(COLUMNS) + salt % 7).astype(np.float32) / 8
    return tensors.pack(tensors.split(values, MANIFEST), MANIFEST)


@functools.cache
def agreement_key(name):
    """A name's agreement key: another one in each process, which nothing that is compared depends on."""
    return agreement.generate()


@functools.cache
def roster(names):
    """The roster of the worlds, under the name that secure plans have for it."""
    members = tuple(
        RosterMember(
            site=name,
            identity=signing.public_bytes(key_of(name).public_key()),
            agreement=agreement.public_bytes(agreement_key(name).public_key()),
        )
        for name in names
    )
    return {ROSTER: Roster(consortium="simulated", number=1, members=members)}


def make_plan(*, sites, quorum, rounds, scaling, server, limits, expires, salt=0, secure=None, late=None):
    """A plan over `sites`."""
    data = initial_model(salt)
    return Plan(
        title=f"study {salt}",
        purpose="to be simulated",
        legal_basis="none is needed: nobody exists",
        researcher=RESEARCHER,
        participants=tuple(sorted(sites)),
        min_participants=quorum,
        data=DataContract(
            columns=(Column(name="age", unit="a"), Column(name="sodium", unit="mmol/L"), Column(name="x")),
            label=Label(name="died"),
            scaling=scaling,
            min_records=1,
        ),
        model=BuiltinModel(name="logistic"),
        manifest=MANIFEST,
        initial=BlobRef(canonical.digest(data), len(data)),
        training=Training(rounds=rounds, server=ServerRule(**server), asynchronous=late),
        limits=Limits(**limits),
        secure=secure,
        expires=int(expires),
        seed=salt,
    )


def records_of(site):
    """How many training records a site has."""
    return 1 + zlib.crc32(site.encode()) % 40


@functools.cache
def table_of(site):
    """A site's study table; values are eighths, so that their sums and squares are exact."""
    count = records_of(site)
    base = zlib.crc32(site.encode()) % 97
    features = ((np.arange(3 * (count + 2)) * 7 + base) % 64 / 8).astype(np.float32).reshape(-1, 3)
    held_out = np.arange(count + 2) >= count
    return StudyTable(features, np.zeros(count + 2, np.float32), held_out, LoadReport(count + 2, count + 2, 0))


def trained_update(site, number, base, standardization):
    """The update that `site` gives in a round: a function of what it was given, in 64ths."""
    stir = zlib.crc32(base, zlib.crc32(standardization, zlib.crc32(f"{site} {number}".encode())))
    values = [((stir >> (5 * place)) % 64 - 32) / 64 for place in range(COLUMNS)]
    return tensors.header(MANIFEST) + np.array(values, "<f4").tobytes()


class FakeSource:
    """`wardround.ports.RecordSource` over `table_of`."""

    def __init__(self, site):
        self._site = site

    def load(self, contract):
        return table_of(self._site)


class FakeFiles:
    """`wardround.ports.Files` in memory; a "descriptor" is a place in a worker's list of outputs."""

    def __init__(self):
        self.files, self.scopes = {}, {}
        self.outputs = {}

    def fetch(self, ref, scope, hub, inline):
        if ref.digest not in self.files:
            if inline:
                data = inline
            else:
                with hub.download(scope, ref) as pieces:
                    data = b"".join(pieces)
            if canonical.digest(data) != ref.digest:
                raise AssertionError("the hub sent other bytes than those that the digest names")
            self.files[ref.digest] = data
        self.scopes.setdefault(scope, set()).add(ref.digest)
        return ref.digest

    def bytes_of(self, path):
        return self.files[path]

    def keep_only(self, scope, digests):
        fetched = self.scopes.pop(scope, set())
        self.scopes[scope] = fetched & digests
        for digest in fetched - digests - set().union(*self.scopes.values()):
            del self.files[digest]

    def read(self, descriptor, size):
        return self.outputs[descriptor][:size]

    def chunks(self, descriptor, start, stop, size):
        for place in range(start, stop, size):
            yield memoryview(self.outputs[descriptor][place : min(place + size, stop)])

    def forget(self, scope, *, but_the_last=False):
        pass

    def keep(self, scope, pieces):
        data = b"".join(bytes(piece) for piece in pieces)
        self.outputs[scope] = data
        return scope, BlobRef(canonical.digest(data), len(data))


class FakeWorker:
    """`wardround.ports.Worker`; tells `ran` about each call, because that is what a site must not do unapproved."""

    def __init__(self, plan, site, files, ran):
        self._plan, self._site, self._files, self._ran = plan, site, files, ran

    memory = None

    def perform(self, number, kind, base, standardization, control="", *, seed=b""):
        self._ran(self._plan)
        data = self._files.bytes_of(base)
        evaluation = Evaluation(2, {"auc": 0.5, "undefined": None})
        if kind != "train":
            return Trained(records_of(self._site), None, None, evaluation, 1.0)
        update = trained_update(self._site, number, data, standardization)
        place = (self._plan.title, number)
        self._files.outputs[place] = update
        ref = BlobRef(canonical.digest(update), len(update))
        return Trained(records_of(self._site), place, ref, evaluation, 1.0)

    def close(self):
        pass
