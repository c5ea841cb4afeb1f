"""An authenticator in software: real WebAuthn answers with ES256, and every way to give a wrong one."""

import base64
import hashlib
import json
import os
import struct

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_PRESENT, _VERIFIED, _ATTESTED, _BACKUP_ELIGIBLE, _BACKED_UP = 1, 4, 64, 8, 16


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """One credential. `party` and `origin` are what this browser believes to be at."""

    def __init__(self, party="hub.example.org", origin="https://hub.example.org", *, synced=False, counts=True):
        self.party, self.origin, self.synced, self.counts = party, origin, synced, counts
        self.key, self.identifier = ec.generate_private_key(ec.SECP256R1()), os.urandom(32)
        self.count, self.handle = 0, b""

    def create(self, options, *, verified=True, statement="none", **client):
        options = json.loads(options)
        self.handle = decoded(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        credential = bytes(16) + struct.pack(">H", len(self.identifier)) + self.identifier + cbor2.dumps(public)
        data = self._data(verified=verified, flags=_ATTESTED) + credential
        told = self._client("webauthn.create", options["challenge"], client)
        signed = {"alg": -7, "sig": self._sign(data + hashlib.sha256(told).digest())} if statement == "packed" else {}
        attestation = cbor2.dumps({"fmt": statement, "attStmt": signed, "authData": data})
        return self._answer({"clientDataJSON": encoded(told), "attestationObject": encoded(attestation)})

    def get(self, options, *, verified=True, handle=None, **client):
        options = json.loads(options)
        data = self._data(verified=verified)
        told = self._client("webauthn.get", options["challenge"], client)
        response = {
            "clientDataJSON": encoded(told),
            "authenticatorData": encoded(data),
            "signature": encoded(self._sign(data + hashlib.sha256(told).digest())),
            "userHandle": encoded(self.handle if handle is None else handle),
        }
        return self._answer(response)

    def _answer(self, response):
        name = encoded(self.identifier)
        return {"id": name, "rawId": name, "type": "public-key", "response": response}

    def _data(self, *, verified, flags=0):
        self.count += int(self.counts)
        backup = (_BACKUP_ELIGIBLE | _BACKED_UP) if self.synced else 0
        flags |= _PRESENT | backup | (_VERIFIED if verified else 0)
        return hashlib.sha256(self.party.encode()).digest() + struct.pack(">BI", flags, self.count)

    def _client(self, kind, challenge, changed):
        told = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False, **changed}
        return json.dumps(told).encode()

    def _sign(self, data):
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))
