"""The reading process: ``python -m wardround.node.loading_main FILE``; see `wardround.node.loading`."""

import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical.table import StudyTable
from wardround.errors import ClinicalError, UnavailableError, WardroundError
from wardround.node.loading import Answer, Request
from wardround.ports import RecordSource
from wardround.sources import mapping

__all__ = ["main"]


def main() -> None:
    """Read one request from standard input, write the arrays to the file, and answer on standard output."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    try:
        answer = _read(request, int(sys.argv[1]))
    except WardroundError as error:
        answer = Answer(code=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001
        # The process boundary: a foreign error's text may hold a record's value, so only its kind is told.
        answer = Answer(code=UnavailableError.code, message=f"reading the records failed: {type(error).__name__}")
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


def _read(request: Request, file: int) -> Answer:
    path = Path(request.mapping)
    source = mapping.open_source(mapping.load(path.read_text(encoding="utf-8")), path.parent, os.environ)
    table = _admitted(source, request)
    start = 0
    for array in (table.features, table.labels, table.patients, table.held_out):
        start = _write(file, array, start)
    return Answer(records=len(table.labels), report=table.report)


def _admitted(source: RecordSource, request: Request) -> StudyTable:
    from wardround.node import admitting

    contract = request.contract
    if contract.cohort is None:
        return admitting.admit(source.load(contract), contract).table
    from wardround.sources.harmonized import HarmonizedSource

    if not isinstance(source, HarmonizedSource):
        raise ClinicalError('the study derives its columns from events: this site needs a mapping of kind = "events"')
    state = Path(request.state) if request.state else None
    return admitting.admit_events(source, contract, site=request.site, study=request.study, state=state).table


def _write(file: int, array: npt.NDArray[np.generic], start: int) -> int:
    data = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
    while data:
        count = os.pwrite(file, data, start)
        data, start = data[count:], start + count
    return start


if __name__ == "__main__":
    main()
