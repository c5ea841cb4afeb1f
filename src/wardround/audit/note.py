r"""Signed notes: a text, an empty line, and one line for each signature; and the keys that sign and verify them.

    text \n
    \n
    — <key name> base64(key ID, 4 bytes || signature) \n

A key's ID is ``SHA-256(name || 0x0A || algorithm || public key)[:4]``; its verifier key ("vkey") is written
``name+hex(ID)+base64(algorithm || public key)``. Three algorithms are known: Ed25519 over the text (0x01), and the
cosignatures of `wardround.audit.checkpoint` (Ed25519 0x04, ML-DSA-44 0x06).

Hazard: an ID has 32 bits and is no hash to trust. A signature counts only with a key that was configured.

References:
    C2SP signed-note. https://c2sp.org/signed-note
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wardround.errors import CodecError, CryptoError, SignatureError

__all__ = [
    "COSIGNATURE_ED25519",
    "COSIGNATURE_ML_DSA",
    "ED25519",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Algorithm",
    "Note",
    "NoteSignature",
    "NoteSigner",
    "VerifierKey",
    "check_name",
    "check_raw",
    "decode_base64",
    "ed25519_signer",
    "ml_dsa_signer",
    "parse",
    "parse_signatures",
    "parse_vkey",
    "signature_line",
    "signatures_of",
    "verifier_key",
]

Algorithm = Literal[1, 4, 6]
ED25519: Final = 1
COSIGNATURE_ED25519: Final = 4
COSIGNATURE_ML_DSA: Final = 6
_PUBLIC_BYTES: Final = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_ML_DSA: 1312}
_ALGORITHMS: Final[dict[int, Algorithm]] = {1: 1, 4: 4, 6: 6}
MAX_SIGNATURES: Final = 256
"""Enough for a log and 127 hospitals that sign twice each; the specification asks for 16 at least."""
MAX_NOTE_BYTES: Final = 1024 * 1024
_MAX_NAME: Final = 255
_MAX_BLOB: Final = 8192
_DASH: Final = "— "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name; `public` is raw."""

    name: str
    algorithm: Algorithm
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes."""
        head = self.name.encode() + b"\n" + bytes([self.algorithm])
        return hashlib.sha256(head + self.public).digest()[:4]

    def __str__(self) -> str:
        """The vkey's text."""
        material = base64.b64encode(bytes([self.algorithm]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """A verifier key with what signs for it: a key in memory, or in a security module."""

    key: VerifierKey
    sign_raw: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, unverified."""

    name: str
    key_id: bytes
    blob: bytes

    def __str__(self) -> str:
        """The line, with its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.blob).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note that was parsed, not verified."""

    text: str
    signatures: tuple[NoteSignature, ...]


def check_name(name: str) -> str:
    """Check a key's name: not empty, no white space, no plus sign, no control character.

    Raises:
        CodecError: It is no such name.
    """
    good = 0 < len(name.encode("utf-8", "replace")) <= _MAX_NAME
    if not good or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
        raise CodecError("a key's name holds no white space, control character or '+', and 255 bytes at most")
    return name


def verifier_key(name: str, algorithm: int, public: bytes) -> VerifierKey:
    """A verifier key from its parts.

    Raises:
        CodecError: The name, the algorithm or the key's length is none that is known.
    """
    if algorithm not in _PUBLIC_BYTES or len(public) != _PUBLIC_BYTES[algorithm]:
        raise CodecError("a verifier key is Ed25519 (type 1 or 4, 32 bytes) or ML-DSA-44 (type 6, 1,312 bytes)")
    return VerifierKey(check_name(name), _ALGORITHMS[algorithm], public)


def parse_vkey(text: str) -> VerifierKey:
    """Read ``name+hex+base64``.

    Raises:
        CodecError: It is not one, or its ID does not fit its key.
    """
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise CodecError("a verifier key is written name+key ID+base64")
    material = decode_base64(parts[2], 2048)
    if not material:
        raise CodecError("a verifier key's third part is empty")
    key = verifier_key(parts[0], material[0], material[1:])
    if not hmac.compare_digest(key.key_id.hex().encode(), parts[1].encode("utf-8", "replace")):
        raise CodecError(f"the ID of verifier key {key.name} does not fit its key: {key.key_id.hex()} was expected")
    return key


def decode_base64(text: str, limit: int) -> bytes:
    """Standard base64 of at most `limit` bytes, in its one canonical spelling.

    Raises:
        CodecError: It is not.
    """
    if len(text) > limit * 4 // 3 + 4:
        raise CodecError(f"base64 of more than {limit} bytes is not read here")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise CodecError("not base64") from None
    # Bits beyond the last byte may differ between spellings of the same bytes; one document has one spelling.
    if base64.b64encode(data).decode() != text:
        raise CodecError("base64 that is not spelled canonically")
    return data


def parse(data: bytes) -> Note:
    """Read a signed note.

    Raises:
        CodecError: Too large, not UTF-8, control characters, no signatures, too many, or a malformed line.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise CodecError(f"a note may have {MAX_NOTE_BYTES} bytes, this has {len(data)}")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise CodecError("a note is UTF-8") from None
    if any(ord(c) < 0x20 and c != "\n" for c in whole):
        raise CodecError("a note holds no control character but newlines")
    text, split, lines = whole.rpartition("\n\n")
    if not split:
        raise CodecError("a note has an empty line between its text and its signatures")
    return Note(text + "\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    """Read signature lines, each with its newline: one at least.

    Raises:
        CodecError: None, too many, or a malformed line.
    """
    if not lines.endswith("\n") or len(lines) > MAX_NOTE_BYTES:
        raise CodecError("a note ends with signature lines, each with its newline")
    count = lines.count("\n")
    if count > MAX_SIGNATURES:
        raise CodecError(f"a note may have {MAX_SIGNATURES} signatures, this has {count}")
    return tuple(_signature(line) for line in lines[:-1].split("\n"))


def _signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise CodecError("a signature line is: em dash, key name, base64")
    blob = decode_base64(encoded, _MAX_BLOB)
    if len(blob) <= 4:
        raise CodecError("a signature line holds a key ID and a signature")
    return NoteSignature(check_name(name), blob[:4], blob[4:])


def signature_line(key: VerifierKey, blob: bytes) -> str:
    """A signature as a note's line, with its newline."""
    return str(NoteSignature(key.name, key.key_id, blob))


def signatures_of(note: Note, key: VerifierKey) -> Iterable[NoteSignature]:
    """The note's lines that claim to be by `key`: same name, same ID."""
    key_id = key.key_id
    return [s for s in note.signatures if s.name == key.name and hmac.compare_digest(s.key_id, key_id)]


def check_raw(key: VerifierKey, signature: bytes, message: bytes) -> None:
    """Raise unless `signature` is `key`'s over exactly `message`.

    Raises:
        CryptoError: The key is no point of its curve, or no such key.
        SignatureError: The signature does not fit.
    """
    try:
        if key.algorithm == COSIGNATURE_ML_DSA:
            mldsa.MLDSA44PublicKey.from_public_bytes(key.public).verify(signature, message)
        else:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except InvalidSignature:
        raise SignatureError(f"a signature in the name of {key.name} does not fit") from None
    except ValueError:
        raise CryptoError(f"the verifier key of {key.name} is not a key of its algorithm") from None


def ed25519_signer(name: str, private: Ed25519PrivateKey, *, algorithm: Literal[1, 4] = 1) -> NoteSigner:
    """Signs as a log (1) or as a witness (4).

    Raises:
        CodecError: `name` is no key's name.
    """
    public = private.public_key().public_bytes_raw()
    return NoteSigner(verifier_key(name, algorithm, public), private.sign)


def ml_dsa_signer(name: str, private: mldsa.MLDSA44PrivateKey) -> NoteSigner:
    """Signs with ML-DSA-44, as a witness or as a log beside its Ed25519 key.

    Raises:
        CodecError: `name` is no key's name.
    """
    public = private.public_key().public_bytes_raw()
    return NoteSigner(verifier_key(name, COSIGNATURE_ML_DSA, public), private.sign)
