"""A second verifier of Intel quotes, written from Intel's layout: it shares nothing with the code under test."""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature


@dataclass(frozen=True)
class Quote:
    header: bytes
    prefix: bytes
    body: bytes
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_authentication: bytes
    chain: bytes
    is_wrapped: bool


def split(data):
    """Quotes of version 3 (SGX), 4 (TDX 1.0) and 5 (body with a type and a size)."""
    header, at = data[:48], 48
    version, tee = int.from_bytes(header[:2], "little"), int.from_bytes(header[4:8], "little")
    prefix = b""
    if version == 5:
        prefix = data[at : at + 6]
        size = int.from_bytes(prefix[2:], "little")
        at += 6
    else:
        size = 584 if tee == 0x81 else 384
    body, at = data[at : at + size], at + size
    length = int.from_bytes(data[at : at + 4], "little")
    tail, at = data[at + 4 : at + 4 + length], 0
    signature, key, at = tail[:64], tail[64:128], 128
    is_wrapped = version >= 4
    if is_wrapped:
        assert int.from_bytes(tail[at : at + 2], "little") == 6
        at += 6
    qe_report, qe_signature, at = tail[at : at + 384], tail[at + 384 : at + 448], at + 448
    count = int.from_bytes(tail[at : at + 2], "little")
    authentication, at = tail[at + 2 : at + 2 + count], at + 2 + count
    assert int.from_bytes(tail[at : at + 2], "little") == 5
    count = int.from_bytes(tail[at + 2 : at + 6], "little")
    chain = tail[at + 6 : at + 6 + count].rstrip(b"\0")
    return Quote(header, prefix, body, signature, key, qe_report, qe_signature, authentication, chain, is_wrapped)


def verify(data, root_der):
    """Raise unless every signature holds, from the body up to the root."""
    quote = split(data)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.key)
    _check(point, quote.signature, quote.header + quote.prefix + quote.body)
    assert quote.qe_report[320:352] == hashlib.sha256(quote.key + quote.qe_authentication).digest()
    leaf, platform, root = x509.load_pem_x509_certificates(quote.chain)
    _check(leaf.public_key(), quote.qe_signature, quote.qe_report)
    leaf.verify_directly_issued_by(platform)
    platform.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert root.public_key() == x509.load_der_x509_certificate(root_der).public_key()


def _check(key, signature, message):
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
