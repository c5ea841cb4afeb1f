r"""What evidence is bound to: a key, a fresh challenge, a role and a context, in 64 bytes.

    RA-TLS       SHA-512( "wardround-ra-tls-v1" || len || SPKI || len || nonce || len || role || len || context )
    key release  SHA-384 or SHA-512( JCS( runtime data ) ), padded with zeros to 64 bytes
    GPU          SHA-256( "wardround-gpu-nonce-v1" || len || processor's report || len || session key )

`len` is the following field's length in four bytes, big-endian, so that no two lists of fields give the
same bytes. Evidence is fresh because the verifier drew the nonce; it is bound to a channel because the
verifier takes the SPKI from the TLS session that it sees, and never from what the peer says.

Hazard: a nonce is for one answer. Whoever asks remembers it until it is answered, and then forgets it.

References:
    RFC 9334, section 10: freshness by nonces. RFC 9266: why a TLS exporter would be better, where there is one.
    RFC 8785, JSON Canonicalization Scheme (JCS).
    Confidential Containers Trustee, KBS attestation protocol: runtime data and its digest in the report data.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

from wardround.codec import canonical
from wardround.errors import AttestationError, CodecError

__all__ = [
    "GPU_NONCE_BYTES",
    "MAX_CONTEXT_BYTES",
    "MAX_NONCE_BYTES",
    "MAX_SPKI_BYTES",
    "MIN_NONCE_BYTES",
    "REPORT_DATA_BYTES",
    "check",
    "gpu_nonce",
    "jcs",
    "report_data",
    "runtime_data",
]

REPORT_DATA_BYTES = 64
GPU_NONCE_BYTES = 32
MIN_NONCE_BYTES, MAX_NONCE_BYTES = 16, 64
MAX_SPKI_BYTES = 4096
MAX_CONTEXT_BYTES = 64 * 1024
_MAX_REPORT_BYTES = 256 * 1024
_LABEL = b"wardround-ra-tls-v1"
_GPU_LABEL = b"wardround-gpu-nonce-v1"
_LARGEST_EXACT = 2**53 - 1


def report_data(*, spki: bytes, nonce: bytes, role: str, context: bytes) -> bytes:
    """The 64 bytes that evidence for a TLS session carries.

    Args:
        spki: The SubjectPublicKeyInfo (DER) of the TLS key, as the verifier saw it in the session.
        nonce: The verifier's challenge, 16 to 64 bytes.
        role: Who proves: ``hub``, ``node``, ``worker``.
        context: What for: the digest of the plan, cohort or transcript.

    Raises:
        ValueError: A field is empty or has another length than is said here.
    """
    if not MIN_NONCE_BYTES <= len(nonce) <= MAX_NONCE_BYTES:
        raise ValueError(f"a challenge has {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} bytes, this has {len(nonce)}")
    if not 1 <= len(spki) <= MAX_SPKI_BYTES or len(context) > MAX_CONTEXT_BYTES:
        raise ValueError(f"the key takes 1 to {MAX_SPKI_BYTES} bytes and the context {MAX_CONTEXT_BYTES} at most")
    if not (role.isascii() and 1 <= len(role) <= 64):
        raise ValueError("a role is 1 to 64 ASCII characters")
    return hashlib.sha512(_LABEL + _framed(spki, nonce, role.encode(), context)).digest()


def check(found: bytes, expected: bytes) -> None:
    """Compare what evidence binds with what it must bind, in constant time.

    Raises:
        AttestationError: They differ: the evidence is old, of another session, or of another key.
    """
    if len(expected) not in (REPORT_DATA_BYTES, GPU_NONCE_BYTES) or not hmac.compare_digest(found, expected):
        raise AttestationError(
            "REPORT_DATA (RFC 9334, section 10): the evidence is not bound to this key, challenge, role and context; "
            "ask for new evidence with a new challenge"
        )


def runtime_data(document: Mapping[str, object], *, algorithm: Literal["sha384", "sha512"] = "sha384") -> bytes:
    """The 64 bytes that evidence for a key release carries: the digest of `document`, zeros behind it.

    Raises:
        CodecError: See `jcs`.
    """
    return hashlib.new(algorithm, jcs(document)).digest().ljust(REPORT_DATA_BYTES, b"\0")


def jcs(document: Mapping[str, object]) -> bytes:
    """RFC 8785 bytes of strings, booleans, exact whole numbers, lists and objects with ASCII keys.

    Fractions are refused, because their spelling is where implementations of RFC 8785 differ, and so are keys
    outside ASCII, whose order is. Within these bounds our canonical form is RFC 8785's.

    Raises:
        CodecError: The document holds something else.
    """
    _plain(document, 0)
    return canonical.encode(document)


def gpu_nonce(cpu_report: bytes, session_key: bytes) -> bytes:
    """The 32-byte nonce for a GPU that belongs to the machine with `cpu_report` and the key of this session.

    Raises:
        ValueError: A field is empty or too large.
    """
    if not 1 <= len(cpu_report) <= _MAX_REPORT_BYTES or not 1 <= len(session_key) <= MAX_SPKI_BYTES:
        raise ValueError(f"a report takes 1 to {_MAX_REPORT_BYTES} bytes and a session key 1 to {MAX_SPKI_BYTES}")
    return hashlib.sha256(_GPU_LABEL + _framed(cpu_report, session_key)).digest()


def _framed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _plain(value: object, depth: int) -> None:
    if depth > 16:
        raise CodecError("runtime data may be 16 levels deep")
    match value:
        case None | bool() | str():
            return
        case int():
            if not -_LARGEST_EXACT <= value <= _LARGEST_EXACT:
                raise CodecError("a number of the runtime data is too large for JSON to hold it exactly")
        case list() | tuple():
            for item in value:
                _plain(item, depth + 1)
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise CodecError("a key of the runtime data is not ASCII text")
                _plain(item, depth + 1)
        case _:
            raise CodecError(f"runtime data may not hold a {type(value).__name__}")
