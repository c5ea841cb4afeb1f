"""A person in an audit log: a pseudonym under a key of that person's own, which can be destroyed.

    pseudonym  HMAC-SHA256(person's key, "wardround audit pseudonym v1" || 0 || name)[:16], as hexadecimal
    handle     HMAC-SHA256(index key,    "wardround audit handle v1"    || 0 || name), as hexadecimal

Entries hold the pseudonym. The key lies sealed with the keeper of the log, found by the handle, with a table from
pseudonym to name beside it. When key and row are destroyed, the log still verifies, bit for bit, and nobody can say,
or test a guess, who the pseudonym was: that takes the key.
"""

import hashlib
import hmac

__all__ = ["KEY_BYTES", "handle", "pseudonym"]

KEY_BYTES = 32
_PSEUDONYM_HEX = 32


def pseudonym(name: str, key: bytes) -> str:
    """32 hexadecimal digits for a person.

    Raises:
        ValueError: The key has not 32 bytes.
    """
    return _hmac(key, b"wardround audit pseudonym v1\0", name)[:_PSEUDONYM_HEX]


def handle(name: str, index_key: bytes) -> str:
    """Under which name a person's key lies.

    Raises:
        ValueError: The key has not 32 bytes.
    """
    return _hmac(index_key, b"wardround audit handle v1\0", name)


def _hmac(key: bytes, context: bytes, name: str) -> str:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a pseudonym's key has {KEY_BYTES} bytes, got {len(key)}")
    return hmac.new(key, context + name.encode(), hashlib.sha256).hexdigest()
