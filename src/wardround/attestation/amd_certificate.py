"""AMD's certificates, read by a strict reader of the DER that AMD issues, and of nothing else.

AMD gives every VCEK the serial number 0. RFC 5280 forbids that, and `cryptography` announces that it will refuse such
certificates; hence this reader. It knows one profile: version 3, RSASSA-PSS with SHA-384 over everything, an RSA or
P-384 key, extensions. Keys, and with them all of the mathematics, are still `cryptography`'s.

References:
    ITU-T X.690, section 10: distinguished encoding rules.
    RFC 5280, section 4.1; RFC 4055, section 3.1: RSASSA-PSS parameters.
    AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification (57230), chapter 3.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from wardround.errors import AttestationError

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "AmdCertificate",
    "check_issued",
    "check_valid",
    "load",
    "load_pem",
    "p384_key",
    "rsa_key",
    "verify_pss",
]

MAX_CERTIFICATE_BYTES = 8192
_CLAUSE = "AMD KDS 57230 chapter 3"
_MAX_EXTENSIONS = 32
_SEQUENCE, _SET, _INTEGER, _BITS, _OCTETS, _OID, _BOOLEAN = 0x30, 0x31, 0x02, 0x03, 0x04, 0x06, 0x01
_UTC_TIME, _GENERALIZED_TIME, _VERSION, _EXTENSIONS = 0x17, 0x18, 0xA0, 0xA3
# RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes, in the two spellings that AMD uses: as DER asks
# for, and with the default trailer field. Comparing the whole leaves no parameter that could be read in two ways.
_SHA384 = bytes.fromhex("300d06096086480165030402020500")
_MGF1 = bytes.fromhex("a11c301a06092a864886f70d010108") + _SHA384
_PARAMETERS = bytes.fromhex("a00f") + _SHA384 + _MGF1 + bytes.fromhex("a203020130")
_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")
_PSS = frozenset(
    (
        b"\x30\x41" + _RSASSA_PSS + b"\x30\x34" + _PARAMETERS,
        b"\x30\x46" + _RSASSA_PSS + b"\x30\x39" + _PARAMETERS + b"\xa3\x03\x02\x01\x01",
    )
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,16384})-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class AmdCertificate:
    """A certificate whose form was checked and whose signature was not.

    `signed` are the bytes under `signature`; `issuer` and `subject` are names in DER; `extensions` go by the content
    bytes of their object identifier. Times are seconds since 1970-01-01 UTC.
    """

    signed: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: float
    not_after: float
    key: bytes
    extensions: Mapping[bytes, bytes]
    critical: frozenset[bytes]


class _Malformed(Exception):  # noqa: N818 - never leaves this module.
    """DER that is not what it must be."""


class _Reader:
    """Walks over DER values one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def peek(self) -> int:
        return self.data[self.at] if self.at < len(self.data) else -1

    def take(self, tag: int) -> bytes:
        """The content of the next value, which has `tag`."""
        return self.whole(tag)[1]

    def whole(self, tag: int) -> tuple[bytes, bytes]:
        """The next value with its header, and its content."""
        start = self.at
        if self.peek() != tag:
            raise _Malformed(f"tag {tag:#x} expected")
        self.at += 1
        size = self._length()
        begin, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise _Malformed("cut short")
        return self.data[start : self.at], self.data[begin : self.at]

    def end(self) -> None:
        if self.at != len(self.data):
            raise _Malformed("bytes behind the last value")

    def _length(self) -> int:
        first = self.peek()
        self.at += 1
        if 0 <= first < 0x80:
            return first
        count = first & 0x7F
        digits = self.data[self.at : self.at + count]
        self.at += count
        # (X.690, 10.1) definite, in the fewest bytes; no certificate here needs more than two of them.
        if first < 0 or not 1 <= count <= 2 or len(digits) != count or digits[0] == 0:
            raise _Malformed("length")
        size = int.from_bytes(digits, "big")
        if size < 0x80:
            raise _Malformed("length")
        return size


def load(data: bytes) -> AmdCertificate:
    """Read one certificate, DER or PEM.

    Raises:
        AttestationError: Not a certificate of AMD's profile.
    """
    if len(data) > 2 * MAX_CERTIFICATE_BYTES:
        raise AttestationError(f"{_CLAUSE}: a certificate may have {MAX_CERTIFICATE_BYTES} bytes")
    if data.lstrip()[:5] == b"-----":
        found = load_pem(data)
        if len(found) != 1:
            raise AttestationError(f"{_CLAUSE}: one PEM certificate expected, {len(found)} found")
        data = found[0]
    try:
        return _certificate(data)
    except _Malformed as error:
        raise AttestationError(f"{_CLAUSE}: not an AMD certificate ({error})") from None


def load_pem(data: bytes) -> tuple[bytes, ...]:
    """The DER of every PEM certificate in `data`, in order.

    Raises:
        AttestationError: What is between the markers is not base64.
    """
    if len(data) > 16 * MAX_CERTIFICATE_BYTES:
        raise AttestationError(f"{_CLAUSE}: a chain of PEM certificates is too large")
    try:
        return tuple(base64.b64decode(re.sub(rb"\s", b"", match[1]), validate=True) for match in _PEM.finditer(data))
    except (binascii.Error, ValueError):
        raise AttestationError(f"{_CLAUSE}: not PEM") from None


def check_issued(certificate: AmdCertificate, issuer: AmdCertificate, what: str) -> None:
    """Refuse unless `issuer` issued `certificate`: names and signature fit.

    Raises:
        AttestationError: It did not.
    """
    if certificate.issuer != issuer.subject:
        raise AttestationError(f"{_CLAUSE}: {what} names another issuer: this chain is not its own")
    verify_pss(rsa_key(issuer), certificate.signature, certificate.signed, what)


def check_valid(certificate: AmdCertificate, what: str, now: float) -> None:
    """Refuse a certificate outside its validity.

    Raises:
        AttestationError: Not valid at `now`.
    """
    # Written so that a `now` which is not a number refuses.
    if not certificate.not_before <= now <= certificate.not_after:
        raise AttestationError(f"RFC 5280 section 6.1.3 (a)(2): {what} is not valid at this time: fetch a new one")


def rsa_key(certificate: AmdCertificate) -> rsa.RSAPublicKey:
    """The RSA key of ARK, ASK or ASVK: 4096 bits.

    Raises:
        AttestationError: Another key.
    """
    key = _public_key(certificate)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
        raise AttestationError(f"{_CLAUSE}: the issuing key is not RSA with 4096 bits")
    return key


def p384_key(certificate: AmdCertificate) -> ec.EllipticCurvePublicKey:
    """The P-384 key of a VCEK or VLEK.

    Raises:
        AttestationError: Another key.
    """
    key = _public_key(certificate)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError(f"{_CLAUSE}: the report's key is not ECDSA on P-384")
    return key


def verify_pss(key: rsa.RSAPublicKey, signature: bytes, signed: bytes, what: str) -> None:
    """Refuse unless `signature` is RSASSA-PSS, SHA-384, salt 48, over `signed`.

    Raises:
        AttestationError: It is not.
    """
    try:
        key.verify(signature, signed, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    except InvalidSignature:
        raise AttestationError(f"RFC 5280 section 6.1.3 (a)(1): {what} is not signed by its issuer") from None


def _public_key(certificate: AmdCertificate) -> object:
    try:
        return serialization.load_der_public_key(certificate.key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AttestationError(f"{_CLAUSE}: the certificate's key cannot be read") from None


def _certificate(data: bytes) -> AmdCertificate:
    outer = _Reader(data)
    inner = _Reader(outer.take(_SEQUENCE))
    outer.end()
    signed, body = inner.whole(_SEQUENCE)
    algorithm, _ = inner.whole(_SEQUENCE)
    signature = _bits(inner.take(_BITS))
    inner.end()
    # (RFC 5280, 4.1.2) version [0] 2, serial, algorithm, issuer, validity, subject, key, extensions [3].
    fields = _Reader(body)
    if fields.take(_VERSION) != b"\x02\x01\x02":
        raise _Malformed("version 3 expected")
    serial = fields.take(_INTEGER)
    if algorithm not in _PSS or fields.whole(_SEQUENCE)[0] != algorithm:
        raise _Malformed("RSASSA-PSS with SHA-384 expected")
    issuer, _ = fields.whole(_SEQUENCE)
    validity = _Reader(fields.take(_SEQUENCE))
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    subject, _ = fields.whole(_SEQUENCE)
    key, _ = fields.whole(_SEQUENCE)
    extensions, critical = _extensions(fields)
    fields.end()
    if not 1 <= len(serial) <= 20:
        raise _Malformed("serial number")
    return AmdCertificate(
        signed, signature, int.from_bytes(serial, "big", signed=True), issuer, subject, not_before, not_after, key,
        extensions, critical,
    )  # fmt: skip


def _extensions(fields: _Reader) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    wrapper = _Reader(fields.take(_EXTENSIONS))
    items = _Reader(wrapper.take(_SEQUENCE))
    wrapper.end()
    found: dict[bytes, bytes] = {}
    critical: set[bytes] = set()
    while items.peek() != -1:
        item = _Reader(items.take(_SEQUENCE))
        name = item.take(_OID)
        if item.peek() == _BOOLEAN and item.take(_BOOLEAN) == b"\xff":
            critical.add(name)
        value = item.take(_OCTETS)
        item.end()
        if name in found or len(found) >= _MAX_EXTENSIONS:
            raise _Malformed("extensions")
        found[name] = value
    return found, frozenset(critical)


def _bits(content: bytes) -> bytes:
    if content[:1] != b"\0":
        raise _Malformed("bit string")
    return content[1:]


def _time(reader: _Reader) -> float:
    tag = reader.peek()
    text = reader.take(tag if tag in (_UTC_TIME, _GENERALIZED_TIME) else _UTC_TIME)
    digits, form = text[:-1], b"%Y%m%d%H%M%SZ"
    if tag == _UTC_TIME:
        # (RFC 5280, 4.1.2.5.1) two digits of a year: 50 and more are of the twentieth century.
        digits = (b"19" if text[:1] >= b"5" else b"20") + digits
    if len(digits) != 14 or not digits.isdigit() or text[-1:] != b"Z":
        raise _Malformed("time")
    try:
        return datetime.strptime((digits + b"Z").decode(), form.decode()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _Malformed("time") from None
