"""The one byte string that stands for a document: hashed, signed, stored.

Canonical form is JSON with sorted keys, no white space, UTF-8, and finite numbers in their shortest
round-tripping spelling. `decode` accepts nothing but canonical bytes, so one document has one digest.

Invariant: ``encode(decode(b, T)) == b`` for every `b` that `decode` accepts.
"""

import hashlib
import math
from typing import TypeVar

import msgspec

from wardround.errors import CodecError
from wardround.ids import Digest

__all__ = ["MAX_DOCUMENT_BYTES", "decode", "digest", "encode"]

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder(order="sorted")


def encode(document: object) -> bytes:
    """Canonical bytes of a msgspec struct or plain value.

    Raises:
        CodecError: The document holds a number that is not finite, or something JSON cannot say.
    """
    try:
        plain = msgspec.to_builtins(document, order="sorted")
        _finite(plain)
        return _ENCODER.encode(plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"this cannot be written as a canonical document: {type(error).__name__}") from None


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read canonical bytes as a `kind`.

    Raises:
        CodecError: Too large, not JSON, not of this kind, or not in canonical form.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CodecError(f"a document may have at most {MAX_DOCUMENT_BYTES} bytes, this has {len(data)}")
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a {kind.__name__}: {error}") from None
    if encode(document) != data:
        raise CodecError("the document is not in canonical form (sorted keys, no spaces, defaults written out)")
    return document


def digest(data: bytes) -> Digest:
    """Lower-case hexadecimal SHA-256."""
    return Digest(hashlib.sha256(data).hexdigest())


def _finite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    if isinstance(value, dict):
        for item in value.values():
            _finite(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _finite(item)
