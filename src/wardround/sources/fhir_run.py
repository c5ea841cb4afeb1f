"""A view at work: lines of FHIR resources in, Arrow tables out, by DuckDB where it can and Python where it must.

Which of the two runs is settled when the view is opened (`ViewRunner.reason` says why it is Python), and both
give the same rows in the same order. A batch in which DuckDB fails, for whatever reason, is run again in
Python, which either succeeds or says what is wrong; DuckDB's own message may quote a record and is dropped.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Final

import pyarrow as pa

from wardround.errors import ClinicalError
from wardround.sources import fhir_lines, fhir_memory, fhir_sql
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_lines import Batch, Limits, LineDecoder, Report
from wardround.sources.fhir_plan import Plan
from wardround.sources.fhir_rows import Row, RowReader

__all__ = ["ViewRunner", "schema", "tables"]

_TYPES: Final = {Kind.BOOLEAN: pa.bool_(), Kind.INTEGER: pa.int64(), Kind.DECIMAL: pa.float64()}

_PART: Final = 8192


def schema(plan: Plan) -> pa.Schema:
    """The columns of a plan as Arrow has them: truth values, integers, doubles and texts, or lists of these."""
    fields = []
    for column in plan.columns:
        one = _TYPES.get(column.kind, pa.string())
        fields.append(pa.field(column.name, pa.list_(one) if column.collection else one))
    return pa.schema(fields)


class ViewRunner:
    """A plan, ready for batch after batch.

    Args:
        plan: The view.
        database: A connection of `fhir_memory.open_memory_database`; None runs in Python.
    """

    def __init__(self, plan: Plan, database: Any = None) -> None:  # noqa: ANN401, duckdb is loaded when wanted
        self.report = Report()
        self.reason = ""
        self.schema = schema(plan)
        self._decoder = LineDecoder(plan, self.report)
        self._rows = RowReader(plan)
        self._database = database
        self._statement: fhir_sql.Statement | None = None
        try:
            if database is not None:
                self._statement = fhir_sql.statement(plan)
            else:
                self.reason = "no database was given"
        except fhir_sql.NotInSqlError as missing:
            self.reason = f"SQL does not have {missing}"

    def tables(self, batches: Iterable[Batch]) -> Iterator[pa.Table]:
        """The rows of each batch; while DuckDB computes one, the next is read and decoded.

        Raises:
            ClinicalError: A path gives several values where the view allows one, or the lines cannot be read.
        """
        if self._statement is None:
            for batch in batches:
                yield self._in_python(self._decoder.resources(batch))
            return
        decoded = (self._decoder.texts(batch) for batch in batches)
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(next, decoded, None)
            while (texts := waiting.result()) is not None:
                waiting = ahead.submit(next, decoded, None)
                yield self._computed(self._statement, texts)

    def _computed(self, statement: fhir_sql.Statement, texts: list[bytes]) -> pa.Table:
        if not texts:
            return self.schema.empty_table()
        try:
            return self._in_sql(statement, texts)
        except (fhir_memory.duckdb().Error, pa.ArrowException, UnicodeDecodeError):
            self.report.batches_in_python += 1
        return self._in_python([self._decoder.parsed(text) for text in texts])

    def _in_sql(self, statement: fhir_sql.Statement, texts: list[bytes]) -> pa.Table:
        # In parts, since DuckDB gives one part to one thread.
        parts = pa.table({"j": pa.array(texts, pa.string())}).to_batches(max_chunksize=_PART)
        self._database.register(fhir_sql.INPUT, pa.Table.from_batches(parts))
        try:
            found = self._database.sql(statement.sql, params=list(statement.values)).to_arrow_table()
        finally:
            self._database.unregister(fhir_sql.INPUT)
        return found.rename_columns(self.schema.names).cast(self.schema)

    def _in_python(self, resources: Iterable[dict[str, Any]]) -> pa.Table:
        rows = [row for resource in resources for row in self._rows.rows(resource)]
        return _table(rows, self.schema)


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
    runner = ViewRunner(plan, database)
    lines = fhir_lines.batches(stream, runner.report, limits=limits)
    return runner.report, runner.tables(lines)


def _table(rows: list[Row], columns: pa.Schema) -> pa.Table:
    arrays = []
    for place, field in enumerate(columns):
        try:
            arrays.append(pa.array([row[place] for row in rows], field.type))
        except (pa.ArrowException, OverflowError):
            raise ClinicalError(f"column {field.name!r}: a value is beyond its type's range") from None
    return pa.table(arrays, schema=columns) if arrays else columns.empty_table()
