"""Pseudonyms: what stands for a patient in a study, and what marks a patient in a site's own ledger of cohorts.

    pseudonym = base32(HMAC-SHA256(key, len(purpose) purpose | len(study) study | len(patient) patient)[:20])
    mark      = the first 8 bytes, big-endian, of the same over another purpose and without a study

Two studies give one patient two pseudonyms, and nobody without the site's key can tell that they are one person's, or
try identifiers until one fits: an identifier alone is no secret, there are only so many. Lengths are eight bytes each,
so that no two texts run together into one.

Hazard: a mark is the same in every study. It serves to compare cohorts at the site (do two differ by fewer than k
patients?) and never leaves it.
"""

import base64
import hmac
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, ConfigError

__all__ = ["MIN_KEY_BYTES", "checked_key", "marks", "pseudonym", "pseudonyms"]

MIN_KEY_BYTES: Final = 32
"""A shorter key is refused: it is to withstand whoever has all the pseudonyms and all the identifiers."""

_PSEUDONYM: Final = b"wardround pseudonym 1"
_MARK: Final = b"wardround mark 1"
_PSEUDONYM_BYTES: Final = 20
_MIN_DISTINCT: Final = 10


def checked_key(secret: str) -> bytes:
    """A site's secret as a key.

    Raises:
        ConfigError: It is too short, or one character over and over; nothing of it is shown.
    """
    key = secret.encode()
    if len(key) < MIN_KEY_BYTES or len(set(key)) < _MIN_DISTINCT:
        raise ConfigError(
            f"the key of the site's pseudonyms has {len(key)} bytes, {len(set(key))} of them different: it needs at "
            f"least {MIN_KEY_BYTES}, drawn at random; 'openssl rand -hex 32' makes one"
        )
    return key


def pseudonym(key: bytes, study: str, patient: str) -> str:
    """The pseudonym of one patient in one study: 32 characters of a-z and 2-7."""
    digest = hmac.digest(key, _framed(_PSEUDONYM, study.encode(), _bytes(patient)), "sha256")
    return base64.b32encode(digest[:_PSEUDONYM_BYTES]).decode().lower()


def pseudonyms(key: bytes, study: str, patients: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The pseudonym of each cell of a column of patients; null stays null. Each distinct patient costs one HMAC.

    Raises:
        ClinicalError: Two patients got one pseudonym.
    """
    encoded = _encoded(patients)
    made = [pseudonym(key, study, patient) for patient in _texts(encoded.dictionary)]
    if len(set(made)) != len(made):
        raise ClinicalError("two patients have one pseudonym: the site's key or its identifiers are not what they seem")
    return pa.array(made, pa.string()).take(encoded.indices)


def marks(key: bytes, patients: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """For each distinct patient a keyed 64-bit hash, sorted; nulls count for nobody."""
    found = {
        int.from_bytes(hmac.digest(key, _framed(_MARK, _bytes(patient)), "sha256")[:8], "big")
        for patient in _texts(_encoded(patients).dictionary)
    }
    return np.sort(np.fromiter(found, dtype=np.uint64, count=len(found)))


def _encoded(patients: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    whole = patients.combine_chunks() if isinstance(patients, pa.ChunkedArray) else patients
    return whole if pa.types.is_dictionary(whole.type) else whole.cast(pa.string()).dictionary_encode()


def _texts(dictionary: pa.Array) -> Iterator[str]:
    return iter(dictionary.to_pylist())


def _bytes(patient: str) -> bytes:
    return patient.encode("utf-8", "surrogatepass")


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
