"""A hub's attestation routes as a process of their own: real TLS, real requests, hardware of a test authority.

    broker_process.py FOLDER PORT MEASUREMENT      prints "ready"; each line on its input that names a run closes it

Requests are signed as everywhere in Wardround, by the two sites whose public keys lie in FOLDER.
"""

import asyncio
import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.applications import Starlette
from tests.unit.attestation import processors
from tests.unit.enclave.confidential_machine import CHIP, Clock, Entropy, accepted, appraise, machine, pinned

from wardround.attestation import amd_chain
from wardround.crypto import http_signature, signing
from wardround.hub import broker_routes
from wardround.hub.broker_routes import Desk
from wardround.ids import RunId, SiteId, StudyId
from wardround.protocol.attested import Enclaves
from wardround.services.attestations import Attestations
from wardround.services.key_release import KeyRelease, signed_by
from wardround.storage.memory import MemoryVault

STUDY = StudyId("ab" * 32)
ENCLAVES = Enclaves(hub=accepted(), nodes=accepted(), releases=("model-key",))


def authority(folder):
    """One test authority for both processes: keys made here would be others there."""
    keys = folder / "amd"
    if not keys.exists():
        keys.mkdir()
        for place, key in enumerate((*processors._keys(), processors.leaf_key())):
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            (keys / f"{place}.pem").write_bytes(pem)
    loaded = [serialization.load_pem_private_key((keys / f"{place}.pem").read_bytes(), None) for place in range(3)]
    processors._keys = lambda: tuple(loaded[:2])
    processors.leaf_key = lambda: loaded[2]
    amd_chain.ROOT_KEYS = pinned()


def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def main(folder, port, measurement):
    authority(folder)
    sites = {path.stem: signing.load_public(path.read_bytes()) for path in folder.glob("*.site")}

    def authenticate(request, body):
        query = f"?{request.url.query}" if request.url.query else ""
        claimed = http_signature.parse(request.method, request.url.path + query, request.headers)
        claimed.verify(sites[claimed.keyid])
        if claimed.digest != hashlib.sha256(body).digest():
            raise ValueError("another body")
        return SiteId(claimed.keyid)

    certificate = x509.load_pem_x509_certificate((folder / "hub.crt").read_bytes())
    clock, told = Clock(), []
    quote = machine(folder / f"kernel-{measurement.hex()[:4]}", measurement).evidence
    keys = KeyRelease(
        MemoryVault(), clock, Entropy(), demands=lambda _run, _site: ENCLAVES, appraise=appraise,
        issue=signed_by(signing.generate(), build="test"), record=told.append)  # fmt: skip
    attestations = Attestations(
        clock, Entropy(), demands=lambda _: ENCLAVES, appraise=appraise, key_of=lambda site: spki(sites[site]),
        record=told.append, quote=quote, spki=spki(certificate.public_key()))  # fmt: skip
    desk = Desk(keys, attestations, authenticate, clock, ThreadPoolExecutor(2))
    application = Starlette(routes=broker_routes.routes(lambda _: desk))

    def obey():
        for line in sys.stdin:
            keys.close_run(RunId(line.strip()))
            print("closed", flush=True)

    server = Server(
        application, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, websockets=False,
        log_level=LogLevels.error, ssl_cert=folder / "hub.crt", ssl_key=folder / "hub.key")  # fmt: skip
    threading.Thread(target=obey, daemon=True).start()
    assert CHIP
    print("ready", flush=True)
    asyncio.run(server.serve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]))
