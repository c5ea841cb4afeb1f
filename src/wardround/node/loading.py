"""Reads a site's records in a process of its own, which ends when they are read.

The readers of foreign files (Arrow, SQL drivers) are large, and a hostile file meets them in a process
that does not hold the node's key. What comes back are four arrays and counts, through an anonymous file
whose sizes are checked; an error comes back as its code and message, which hold no cell of a record.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.clinical.table import LoadReport, StudyTable
from wardround.errors import ClinicalError, UnavailableError, by_code

__all__ = ["Answer", "ProcessSource", "Request", "anonymous_file"]

_SECONDS = 3600.0


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which mapping to read, for which contract; the site's and the study's names, and the node's folder of state."""

    mapping: str
    contract: DataContract
    site: str = ""
    study: str = ""
    state: str = ""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was read, or the code and message of the error."""

    records: int = 0
    report: LoadReport | None = None
    code: str = ""
    message: str = ""


class ProcessSource:
    """Fills `wardround.ports.RecordSource` for one mapping file.

    Args:
        mapping: The file.
        site: The site's name, and
        study: the study that asks: for the lineage.
        state: Where past cohorts and lineage are kept; without it, they are neither compared nor written.
    """

    def __init__(self, mapping: Path, *, site: str = "", study: str = "", state: Path | None = None) -> None:
        self._mapping = mapping
        self._site, self._study, self._state = site, study, state

    def load(self, contract: DataContract) -> StudyTable:
        """See `wardround.ports.RecordSource`."""
        state = str(self._state.resolve()) if self._state else ""
        asked = Request(str(self._mapping.resolve()), contract, self._site, self._study, state)
        request = msgspec.msgpack.encode(asked)
        file = anonymous_file()
        try:
            answer = _ask(request, file)
            if answer.report is None:
                raise by_code(answer.code)(answer.message)
            return _table(contract, answer.records, answer.report, file)
        finally:
            os.close(file)


def anonymous_file() -> int:
    """A new file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("wardround-records")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _ask(request: bytes, file: int) -> Answer:
    # The reader keeps the environment: a mapping may name a variable for its database's connection string.
    command = [sys.executable, "-P", "-m", "wardround.node.loading_main", str(file)]
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, pass_fds=(file,), timeout=_SECONDS, check=False
        )
        return msgspec.msgpack.decode(done.stdout, type=Answer)
    except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
        # Whatever the reader printed may hold a record's value, so nothing of it is repeated.
        raise UnavailableError(f"the process that reads the records failed: {type(error).__name__}") from None


def _table(contract: DataContract, records: int, report: LoadReport, file: int) -> StudyTable:
    width, labels = data_contract.width(contract), len(data_contract.label_columns(contract))
    sizes = (4 * records * width, 4 * records * labels, 4 * records, records)
    if records < 0 or os.fstat(file).st_size != sum(sizes):
        raise ClinicalError("the process that reads the records answered with another size than it said")
    parts, start = [], 0
    for size in sizes:
        buffer = bytearray(size)
        _fill(file, memoryview(buffer), start)
        parts.append(buffer)
        start += size
    shape = (records,) if labels == 1 else (records, labels)
    return StudyTable(
        np.frombuffer(parts[0], np.float32).reshape(records, width),
        np.frombuffer(parts[1], np.float32).reshape(shape),
        np.frombuffer(parts[3], np.bool_),
        report,
        np.frombuffer(parts[2], np.int32),
    )


def _fill(file: int, target: memoryview, start: int) -> None:
    while target:
        count = os.preadv(file, [target], start)
        if count == 0:
            raise ClinicalError("the process that reads the records ended too early")
        target, start = target[count:], start + count
