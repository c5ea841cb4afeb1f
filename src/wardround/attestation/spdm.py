"""SPDM measurements: what a GPU or switch signs, read strictly.

    request     37 bytes: version 0x11, code 0xE0, param1, param2 = 0xFF (all), nonce (32), slot
    response    version 0x11, code 0x60, param1, param2, blocks (1), record length (3), record,
                nonce (32), opaque length (2), opaque data, signature (96)
    block       index (1), specification 1 = DMTF (1), size (2), then type (1), size (2), value
    opaque      field after field: type (2), size (2), value          (NVIDIA's own layout)

Integers are little-endian. The signature is ECDSA P-384 with SHA-384, r and s of 48 bytes each, big-endian, over
everything that stands before it, the request included. What `parse` gives is only what the bytes say: nothing is
true before `verify`.

References:
    DMTF DSP0274, Security Protocol and Data Model, version 1.1, sections 10.11 and 10.11.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from wardround.errors import AttestationError

__all__ = ["MAX_REPORT_BYTES", "NONCE_BYTES", "SIGNATURE_BYTES", "UnverifiedReport", "parse", "verify"]

MAX_REPORT_BYTES = 64 * 1024
NONCE_BYTES = 32
SIGNATURE_BYTES = 96
_REQUEST_BYTES = 37
_VERSION, _GET_MEASUREMENTS, _MEASUREMENTS = 0x11, 0xE0, 0x60
_ALL, _DMTF = 0xFF, 1
_MAX_BLOCKS = 254  # Index 0xFF stands for all of them, and 0 for none.


@dataclass(frozen=True, slots=True)
class UnverifiedReport:
    """A report's content.

    Attributes:
        nonce: What the requester asked with, 32 bytes.
        measurements: Values by index, counted from 1.
        opaque: NVIDIA's fields by type.
        signed: The bytes that the signature covers.
        signature: 96 bytes.
    """

    nonce: bytes
    measurements: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes


class _Reader:
    """Takes bytes from the front; running out is a refusal."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int, what: str) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise AttestationError(f"SPDM: {what} wants {size} bytes, {len(piece)} are left")
        self._at += size
        return piece

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)


def parse(report: bytes) -> UnverifiedReport:
    """Read a request with its response, as NVIDIA's driver hands it out.

    Raises:
        AttestationError: Too large, cut, longer than it says, or not SPDM 1.1 measurements with a signature.
    """
    if len(report) > MAX_REPORT_BYTES:
        raise AttestationError(f"an SPDM report may have {MAX_REPORT_BYTES} bytes, this has {len(report)}")
    reader = _Reader(report)
    _expect(reader.take(2, "the request"), bytes([_VERSION, _GET_MEASUREMENTS]), "GET_MEASUREMENTS of SPDM 1.1")
    if not reader.number(1, "param1") & 1:
        raise AttestationError("SPDM GET_MEASUREMENTS, param1 bit 0: no signature was asked for")
    if reader.number(1, "param2") != _ALL:
        raise AttestationError("SPDM GET_MEASUREMENTS, param2: not all measurements were asked for")
    nonce = reader.take(NONCE_BYTES, "the nonce")
    reader.take(1, "the slot")
    _expect(reader.take(2, "the response"), bytes([_VERSION, _MEASUREMENTS]), "MEASUREMENTS of SPDM 1.1")
    reader.take(2, "the response's parameters")
    count = reader.number(1, "the number of blocks")
    record = reader.take(reader.number(3, "the record's length"), "the measurement record")
    reader.take(NONCE_BYTES, "the responder's nonce")
    opaque = reader.take(reader.number(2, "the opaque length"), "the opaque data")
    signature = reader.take(SIGNATURE_BYTES, "the signature")
    if not reader.is_empty:
        raise AttestationError("SPDM: bytes follow the signature")
    return UnverifiedReport(nonce, _blocks(record, count), _fields(opaque), report[:-SIGNATURE_BYTES], signature)


def verify(unverified: UnverifiedReport, key: object) -> None:
    """Raise unless `key` signed the report.

    Raises:
        AttestationError: Another key, a key that is not P-384, or other bytes (DSP0274, 10.11.1).
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError("SPDM: the device's key is not on curve P-384")
    half = SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part, "big") for part in (unverified.signature[:half], unverified.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), unverified.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError("SPDM 1.1, 10.11.1: the report is not signed by the device's key") from None


def _blocks(record: bytes, count: int) -> dict[int, bytes]:
    reader, found = _Reader(record), dict[int, bytes]()
    for _ in range(count):
        index, specification = reader.number(1, "a block's index"), reader.number(1, "a block's specification")
        block = _Reader(reader.take(reader.number(2, "a block's size"), "a measurement block"))
        block.take(1, "a measurement's type")
        value = block.take(block.number(2, "a measurement's size"), "a measurement")
        if specification != _DMTF or not block.is_empty:
            raise AttestationError(f"SPDM measurement {index} is not one block of DMTF's form")
        if not 1 <= index <= _MAX_BLOCKS or index in found:
            raise AttestationError(f"SPDM measurement index {index} is out of range or comes twice")
        found[index] = value
    if not reader.is_empty:
        raise AttestationError(f"SPDM: the measurement record holds more than its {count} blocks")
    return found


def _fields(opaque: bytes) -> dict[int, bytes]:
    reader, found = _Reader(opaque), dict[int, bytes]()
    while not reader.is_empty:
        kind = reader.number(2, "an opaque field's type")
        value = reader.take(reader.number(2, "an opaque field's size"), "an opaque field")
        if kind in found:
            raise AttestationError(f"SPDM: the opaque field {kind} comes twice")
        found[kind] = value
    return found


def _expect(found: bytes, wanted: bytes, what: str) -> None:
    if found != wanted:
        raise AttestationError(f"SPDM: expected {what}, found bytes {found.hex()}")
