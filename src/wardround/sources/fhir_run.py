"""A view at work: lines of FHIR resources in, Arrow tables out, by DuckDB where it can and Python where it must.

Which of the two runs is settled when the view is opened (`ViewRunner.reason` says why it is Python), and both
give the same rows in the same order. A batch in which DuckDB fails, for whatever reason, is run again in
Python, which either succeeds or says what is wrong; DuckDB's own message may quote a record and is dropped.

A batch that would become too many rows is halved until it does not; a single resource that still would is left out and
counted, so that a view over hostile records ends, and in bounded memory.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from wardround.errors import ClinicalError
from wardround.harmonization import memory_database
from wardround.sources import fhir_lines, fhir_sql, fhir_unroll
from wardround.sources.fhir_decode import LineDecoder, Part
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_lines import Batch, Limits, Report
from wardround.sources.fhir_plan import Plan
from wardround.sources.fhir_rows import ExplodingError, Row, RowReader

__all__ = ["ROW", "ViewRunner", "ahead", "schema", "tables"]

ROW: Final = "#"
"""The column, behind those of the view, that holds the number of the resource; no view can name one so."""

_TYPES: Final = {Kind.BOOLEAN: pa.bool_(), Kind.INTEGER: pa.int64(), Kind.DECIMAL: pa.float64()}
_PART: Final = 4096
_MOST_ROWS: Final = 262_144
_MOST_BYTES: Final = 2**31 - 1
_T = TypeVar("_T")


def schema(plan: Plan) -> pa.Schema:
    """The columns of a plan as Arrow has them: truth values, integers, doubles and texts, or lists of these."""
    fields = []
    for column in plan.columns:
        one = _TYPES.get(column.kind, pa.string())
        fields.append(pa.field(column.name, pa.list_(one) if column.collection else one))
    return pa.schema(fields)


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each made in another thread while the one before it is used."""
    source = iter(items)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(next, source, None)
        while (item := waiting.result()) is not None:
            waiting = other.submit(next, source, None)
            yield item


class ViewRunner:
    """A plan, ready for batch after batch.

    Args:
        plan: The view.
        database: A connection of `memory_database.open_memory_database`; None runs in Python.
        report: Where it is counted what became of the resources.
        limits: Of these, the rows that one resource may become.
    """

    def __init__(
        self,
        plan: Plan,
        database: Any = None,  # noqa: ANN401, duckdb is loaded when wanted
        *,
        report: Report | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.report = report or Report()
        self.reason = ""
        self.resource = plan.resource
        self.schema = schema(plan)
        self._plan = plan
        self._numbered = self.schema.append(pa.field(ROW, pa.int64()))
        self._most = (limits or Limits()).rows
        self._rows = RowReader(plan, most=self._most)
        self._database = database
        self._statement: fhir_sql.Statement | None = None
        try:
            if database is not None:
                self._statement = fhir_sql.statement(plan)
            else:
                self.reason = "no database was given"
        except fhir_sql.NotInSqlError as missing:
            self.reason = f"SQL does not have {missing}"

    def tables(self, decoder: LineDecoder, batches: Iterable[Batch]) -> Iterator[pa.Table]:
        """The rows of each batch; while DuckDB computes one, the next is read and decoded.

        Raises:
            ClinicalError: A path gives several values where the view allows one, or the lines cannot be read.
        """
        parts = (decoder.parts(batch)[self._plan.resource] for batch in batches)
        for part in ahead(parts):
            for table in self.numbered(decoder, part):
                yield table.drop_columns([ROW])

    def numbered(self, decoder: LineDecoder, part: Part) -> Iterator[pa.Table]:
        """The rows of some resources, in one table or several, with the number of each row's resource in `ROW`.

        Raises:
            ClinicalError: A path gives several values where the view allows one.
        """
        if not part.texts:
            return
        if self._statement is None:
            yield self._in_python(decoder, part)
            return
        try:
            found = self._in_sql(self._statement, part)
        except (memory_database.duckdb().Error, pa.ArrowException, UnicodeDecodeError):
            self.report.batches_in_python += 1
            found = self._in_python(decoder, part)
        if found is not None:
            yield found
        elif len(part.texts) == 1:
            yield self._in_python(decoder, part)
        else:
            half = len(part.texts) // 2
            yield from self.numbered(decoder, Part(part.texts[:half], part.rows[:half]))
            yield from self.numbered(decoder, Part(part.texts[half:], part.rows[half:]))

    def _in_sql(self, statement: fhir_sql.Statement, part: Part) -> pa.Table | None:
        """The rows; None if they are too many."""
        # In parts, since DuckDB gives one part to one thread.
        lines = pa.table({"j": _lines(part.texts), "r": pa.array(part.rows, pa.int64())})
        self._database.register(fhir_sql.INPUT, pa.Table.from_batches(lines.to_batches(max_chunksize=_PART)))
        try:
            found = self._database.sql(statement.sql, params=list(statement.values)).to_arrow_table()
        finally:
            self._database.unregister(fhir_sql.INPUT)
        rows = fhir_unroll.rows(self._plan, found, most=self._most)
        if rows is None or (len(rows) > _MOST_ROWS and len(part.texts) > 1):
            return None
        self.report.exploding += rows.exploding
        return rows.table(self._numbered)

    def _in_python(self, decoder: LineDecoder, part: Part) -> pa.Table:
        rows: list[Row] = []
        for text, number in zip(part.texts, part.rows, strict=True):
            try:
                rows += [(*row, number) for row in self._rows.rows(decoder.parsed(self._plan.resource, text))]
            except ExplodingError:
                self.report.exploding += 1
        return _table(rows, self._numbered)


def tables(
    plan: Plan,
    stream: IO[bytes],
    database: Any = None,  # noqa: ANN401, duckdb is loaded when wanted
    *,
    limits: Limits | None = None,
) -> tuple[Report, Iterator[pa.Table]]:
    """The rows of a stream of lines, batch by batch, and the report, complete when the last batch is read.

    Raises:
        ClinicalError: While the tables are read, as `fhir_lines.batches` and `ViewRunner.tables` do.
    """
    runner = ViewRunner(plan, database, limits=limits)
    decoder = LineDecoder({plan.resource: plan.touched}, runner.report)
    return runner.report, runner.tables(decoder, fhir_lines.batches(stream, runner.report, limits=limits))


def _lines(texts: list[bytes]) -> pa.Array:
    """The texts as one array, each with the line end that joins them, which JSON allows; they are known to be UTF-8."""
    data = b"\n".join([*texts, b""])
    if len(data) > _MOST_BYTES:
        return pa.array(texts, pa.large_string())
    ends = np.cumsum(np.fromiter(map(len, texts), np.int32, len(texts)) + 1, dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _table(rows: list[Row], columns: pa.Schema) -> pa.Table:
    arrays = []
    for place, field in enumerate(columns):
        try:
            arrays.append(pa.array([row[place] for row in rows], field.type))
        except (pa.ArrowException, OverflowError):
            raise ClinicalError(f"column {field.name!r}: a value is beyond its type's range") from None
    return pa.table(arrays, schema=columns)
