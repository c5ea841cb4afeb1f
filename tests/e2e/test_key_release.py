"""Over real sockets and TLS: a node checks its hub, proves itself, fetches a key, and is refused when the run ended."""

import hashlib
import http.client
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broker_process import ENCLAVES, STUDY, authority, spki
from tests.unit.attestation import processors
from tests.unit.enclave.confidential_machine import GOOD, OTHER, Clock, Entropy, bundle, machine

from wardround.attestation import amd_chain
from wardround.crypto import certificate, http_signature, signing
from wardround.enclave.broker_client import BrokerClient
from wardround.enclave.hub_check import HubCheck
from wardround.enclave.site_proof import SiteProof
from wardround.errors import AttestationError
from wardround.hub.broker_routes import StudyQuestion, Until
from wardround.ids import RunId
from wardround.protocol import messages
from wardround.protocol.attested import Proof, SiteChallenge

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
RUN = RunId(f"{STUDY}.1")


class Node:
    """A site's way to its hub: every request signed, every connection's certificate remembered."""

    def __init__(self, folder, port):
        self.port, self.key, self.peer = port, signing.load_private((folder / "arran.key").read_bytes()), b""
        self.context = ssl.create_default_context(cadata=(folder / "authority.crt").read_text())

    def call(self, method, path, headers, body):
        signature = http_signature.sign(
            method=method, target=path, digest=hashlib.sha256(body).digest(), created=int(time.time()),
            nonce=secrets.token_hex(16), tag="test", keyid="arran", key=self.key)  # fmt: skip
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=20)
        try:
            connection.request(method, path, body=body or None, headers={**headers, **signature})
            self.peer = connection.sock.getpeercert(binary_form=True)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
        finally:
            connection.close()

    def post(self, path, message, kind):
        status, _, body = self.call("POST", path, {}, messages.encode(message))
        if status != 200:
            raise AttestationError(body.decode())
        return messages.decode(body, kind)

    def ask(self, request):
        proof = self.post("/v1/attestations/hub", request, Proof)
        return proof, self.peer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("_keys", "leaf_key"):
        monkeypatch.setattr(processors, name, getattr(processors, name))
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", amd_chain.ROOT_KEYS)
    authority(tmp_path)
    now = time.time()
    key, root = certificate.create_authority("test", now)
    site = signing.generate()
    (tmp_path / "authority.crt").write_bytes(root)
    for name, data in zip(("hub.key", "hub.crt"), issue_server(key, root, now), strict=True):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "arran.key").write_bytes(signing.private_pem(site))
    (tmp_path / "arran.site").write_bytes(signing.public_bytes(site.public_key()))
    return tmp_path


def issue_server(key, root, now):
    """A hub's key and certificate, as the federation's authority issues them."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer, issuer_key = x509.load_pem_x509_certificate(root), serialization.load_pem_private_key(key, None)
    own, start = ec.generate_private_key(ec.SECP256R1()), dt.datetime.fromtimestamp(now - 60, dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        x509.CertificateBuilder(issuer.subject, name, own.public_key(), 7, start, start + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    plain = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return plain, made.public_bytes(serialization.Encoding.PEM)


class Hub:
    """The broker's process."""

    def __init__(self, folder, measurement):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        script = Path(__file__).parent / "broker_process.py"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(self.port), measurement.hex()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the hub does not listen")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def end(self, run):
        self.process.stdin.write(f"{run}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "closed\n"


def test_both_directions_and_a_key_over_tls(folder):
    with Hub(folder, GOOD) as hub:
        node, clock = Node(folder, hub.port), Clock()
        # The node refuses to begin before its hub has shown that it is the approved build.
        check = HubCheck(clock, Entropy(), ask=node.ask, collateral=bundle)
        assert check.require(STUDY, ENCLAVES)[0].measurements["MEASUREMENT"] == GOOD.hex()
        check.check_session(node.peer, STUDY)
        # The hub has the node show the same.
        quote = machine(folder / "guest", GOOD).evidence
        proof = SiteProof(
            clock, quote=quote, spki=spki(node.key.public_key()),
            challenge=lambda study: node.post("/v1/attestations/challenge", StudyQuestion(study), SiteChallenge),
            submit=lambda made: node.post("/v1/attestations", made, Until).until)  # fmt: skip
        proof.require(STUDY, ENCLAVES)
        # The run's key comes, the same twice, until the run ends.
        client = BrokerClient(node.call, tee="snp", quote=quote)
        first = client.keys(RUN, ["model-key"])["model-key"]
        assert client.keys(RUN, ["model-key"])["model-key"] == first
        assert len(first) == 32
        hub.end(RUN)
        with pytest.raises(AttestationError, match="keys were destroyed"):
            client.keys(RUN, ["model-key"])


def test_another_build_on_either_side_gets_nothing(folder):
    with Hub(folder, OTHER) as hub:
        node = Node(folder, hub.port)
        with pytest.raises(AttestationError, match="MEASUREMENT"):
            HubCheck(Clock(), Entropy(), ask=node.ask, collateral=bundle).require(STUDY, ENCLAVES)
        quote = machine(folder / "guest", OTHER).evidence
        with pytest.raises(AttestationError, match=r"answered 401: .*MEASUREMENT"):
            BrokerClient(node.call, tee="snp", quote=quote).keys(RUN, ["model-key"])
