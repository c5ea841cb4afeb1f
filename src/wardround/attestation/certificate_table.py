"""The certificate table that a SEV-SNP host hands to its guest, as Linux passes it on in ``auxblob``.

    entry*: GUID (16), offset (4), length (4), little-endian; an entry of zeros ends the list; certificates follow

The host wrote it, so it is only a convenience: a wrong certificate does not verify. Hosts write GUIDs in either of two
byte orders, and both are read.

References:
    AMD, Guest-Hypervisor Communication Block Standardization (56421), SNP Extended Guest Request.
"""

from collections.abc import Mapping
from typing import Literal

from wardround.attestation.result import refuse

__all__ = ["parse"]

_CLAUSE = "SEV-ES GHCB 56421 certificate table"
_ENTRY_BYTES, _MAX_ENTRIES = 24, 16
_GUIDS: Mapping[str, Literal["vcek", "vlek"]] = {
    "63da758de6644564adc5f4b93be8accd": "vcek",
    "a8074bc2a25a483eaae639c045a0b8a1": "vlek",
}


def parse(data: bytes) -> Mapping[Literal["vcek", "vlek"], bytes]:
    """The report keys' certificates, by kind; nothing in an empty table.

    Raises:
        AttestationError: The table is not well formed.
    """
    found: dict[Literal["vcek", "vlek"], bytes] = {}
    for index in range(_MAX_ENTRIES + 1):
        entry = data[index * _ENTRY_BYTES : (index + 1) * _ENTRY_BYTES]
        if not data or (len(entry) == _ENTRY_BYTES and not any(entry)):
            return found
        if len(entry) < _ENTRY_BYTES or index == _MAX_ENTRIES:
            break
        offset, size = int.from_bytes(entry[16:20], "little"), int.from_bytes(entry[20:24], "little")
        if offset + size > len(data):
            raise refuse(_CLAUSE, "an entry reaches behind the end")
        kind = _GUIDS.get(entry[:16].hex()) or _GUIDS.get(_swapped(entry[:16]).hex())
        if kind is not None:
            if kind in found:
                raise refuse(_CLAUSE, f"it has two {kind.upper()}s")
            found[kind] = data[offset : offset + size]
    raise refuse(_CLAUSE, f"it does not end within {_MAX_ENTRIES} entries")


def _swapped(guid: bytes) -> bytes:
    # RFC 9562, 4: a GUID of Microsoft's has its first three fields little-endian.
    return guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]
