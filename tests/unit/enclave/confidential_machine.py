"""A machine whose hardware is a test authority, below a tree that behaves as the kernel's configfs-tsm does.

    KernelTree     a folder whose entries have FIFOs for inblob and outblob, answered by a thread as the kernel would
    SnpHardware    signs reports over what was written, with a key that the test authority certified
    over           an ASGI application as a client sees it, without a socket

Only the pins of AMD's roots differ from what is run in hospitals.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import threading
import uuid

from tests.unit.attestation import processors

from wardround.attestation import nvidia_machine
from wardround.attestation.reference import ReferenceValues, SnpReference, SnpTcb
from wardround.enclave.tsm import KernelReports

CHIP = b"\x07" * 64
GOOD, OTHER = b"\x5a" * 48, b"\x66" * 48
"""Launch measurements: of the approved build, and of another."""
NOW = processors.NOW
_VCEK = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes


def pinned():
    """What `amd_chain.ROOT_KEYS` must be for the test authority."""
    return dict.fromkeys(("Milan", "Genoa", "Turin"), processors.pin())


def accepted(measurement=GOOD, **more):
    snp = SnpReference(
        measurements=(measurement.hex(),),
        minimum_tcb={"Milan": SnpTcb(bootloader=1, tee=0, snp=5, microcode=0x44)},
        allow=("smt",),
    )
    return ReferenceValues(name="test build", snp=snp, **more)


def bundle():
    return processors.bundle(amd=[processors.authority("Milan").collateral(vcek_crl=processors.crl("Milan"))])


def appraise(evidence, devices, reference, **expected):
    """What a hub wires into its services: the verifier with its collateral."""
    return nvidia_machine.appraise(evidence, devices, reference, bundle(), **expected)


class Clock:
    def __init__(self, now=NOW):
        self.instant = now

    def now(self):
        return self.instant


class Entropy:
    def draw(self, size):
        return os.urandom(size)


class SnpHardware:
    """An SNP guest's firmware."""

    provider = "sev_guest"

    def __init__(self, measurement=GOOD, **fields):
        self.measurement, self.fields = measurement, fields
        certificate = processors.leaf("Milan", chip=CHIP)
        self.auxiliary = _VCEK + (48).to_bytes(4, "little") + len(certificate).to_bytes(4, "little") + bytes(24)
        self.auxiliary += certificate

    def report(self, report_data, vmpl):
        fields = [(0x50, report_data), (0x90, self.measurement), (0x30, vmpl.to_bytes(4, "little"))]
        return processors.report("Milan", chip=CHIP, fields=fields, **self.fields)


class KernelTree(type(pathlib.Path())):
    """``/sys/kernel/config/tsm/report``: making an entry brings its attributes, removing it takes them away."""

    def serving(self, hardware, *, disturbed=0, attributes=("auxblob",), outblob=None):
        pathlib.Path(self).mkdir(parents=True, exist_ok=True)
        self.state = {
            "hardware": hardware, "disturbed": disturbed, "attributes": attributes, "outblob": outblob, "made": [],
            "removed": [], "written": [],
        }  # fmt: skip
        _TREES[str(self)] = self.state
        return self

    def mkdir(self, mode=0o777, parents=False, exist_ok=False):
        super().mkdir(mode, parents, exist_ok)
        state = _TREES[str(self.parent)]
        state["made"].append(self.name)
        for name in ("inblob", "outblob"):
            os.mkfifo(self / name)
        for name, text in {"generation": b"0\n", "provider": state["hardware"].provider.encode() + b"\n"}.items():
            (self / name).write_bytes(text)
        for name in ("privlevel", "service_provider", *state["attributes"]):
            (self / name).write_bytes(getattr(state["hardware"], "auxiliary", b"") if name == "auxblob" else b"")
        threading.Thread(target=_serve, args=(pathlib.Path(str(self)), state), daemon=True).start()

    def rmdir(self):
        _TREES[str(self.parent)]["removed"].append(self.name)
        # Whoever still waits for a reader or a writer of this entry is let go.
        for name in ("inblob", "outblob"):
            with contextlib.suppress(OSError):
                os.close(os.open(self / name, os.O_RDWR | os.O_NONBLOCK))
        shutil.rmtree(str(self))


_TREES = {}


def _serve(entry, state):
    with contextlib.suppress(OSError):
        with (entry / "inblob").open("rb") as wanted:
            report_data = wanted.read(65)
        level, service = (entry / "privlevel").read_bytes(), (entry / "service_provider").read_bytes()
        state["written"].append((report_data, level, service))
        generation = 1 + bool(level) + bool(service)
        if state["disturbed"]:
            state["disturbed"] -= 1
            generation += 1
        (entry / "generation").write_bytes(b"%d\n" % generation)
        if "manifestblob" in state["attributes"]:
            (entry / "manifestblob").write_bytes(b"manifest of " + service)
        made = state["outblob"]
        if made is None:
            made = state["hardware"].report(report_data, int(level or b"0"))
        with (entry / "outblob").open("wb") as given:
            given.write(made)


def machine(folder, measurement=GOOD, **fields):
    """The kernel of a guest that runs a build with this measurement."""
    tree = KernelTree(folder / "report").serving(SnpHardware(measurement, **fields))
    return KernelReports(reports=tree, event_log=folder / "none")


def over(application):
    """A `broker_client.Call` into an ASGI application."""

    def call(method, path, headers, body):
        return asyncio.run(_exchange(application, method, path, headers, body))

    return call


async def _exchange(application, method, path, headers, body):
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("hub", 443),
        "client": ("node", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    sent, asked = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return asked.pop() if asked else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await application(scope, receive, send)
    start = sent[0]
    answered = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], answered, b"".join(one.get("body", b"") for one in sent[1:])
