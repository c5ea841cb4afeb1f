"""The accounting of disclosures from a log that is open here: who used which dataset, for what, and what left."""

from collections.abc import Iterator
from typing import Final

from wardround.audit import disclosure
from wardround.audit import entry as entries
from wardround.audit.disclosure import Disclosure
from wardround.audit.entry import Entry, NewerEntry
from wardround.errors import CodecError
from wardround.ports import AuditLog

__all__ = ["disclosures", "read_entries"]

_PIECE: Final = 4096


def disclosures(
    log: AuditLog, *, dataset: str | None = None, study: str | None = None, since: int = 0
) -> list[Disclosure]:
    """One line for each dataset, study and purpose; `since` is in milliseconds since 1970 UTC.

    Raises:
        AuditError: The log is not whole.
    """
    return disclosure.account((entry for _, entry in read_entries(log)), dataset=dataset, study=study, since=since)


def read_entries(log: AuditLog, start: int = 0) -> Iterator[tuple[int, Entry | NewerEntry]]:
    """Durable entries with their indices, from `start`; what is no entry of ours is passed over.

    Raises:
        AuditError: The log is not whole.
    """
    size = log.size
    for first in range(start, size, _PIECE):
        for place, data in enumerate(log.read(first, min(first + _PIECE, size))):
            try:
                yield first + place, entries.decode(data)
            except CodecError:
                continue
