"""Sessions with the databases that ibis speaks: SQL Server, Oracle, MySQL, Snowflake, BigQuery, DuckDB and others.

Here nobody can say for all of them how a session is kept from writing, or how a statement is stopped. Of the three
lines the first is therefore stricter (a list of tables and columns is needed, and only functions that sqlglot knows are
admitted), and the third, a role that may only SELECT, is not optional.

Hazard: drivers' messages quote values and the connection string. Only the error's class is passed on.
"""

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
from sqlglot import exp

from wardround.errors import ConfigError, UnavailableError, WardroundError
from wardround.sources.sql_sessions import Kind, batch_of, together

__all__ = ["IbisSession"]

_ROWS: Final = 1000
_PARTS: Final = 50


class IbisSession:
    """Reads a database by an ibis URL, which is connected to at once, since it says which SQL is spoken.

    Raises:
        ConfigError: ibis is not installed.
        UnavailableError: The database does not answer, or refuses the login.
    """

    def __init__(self, url: str) -> None:
        try:
            import ibis
        except ImportError:
            raise ConfigError("kind 'ibis' needs the package ibis-framework with the database's driver") from None
        self._connection: Any = _reported(lambda: ibis.connect(url))
        self.dialect = str(self._connection.name)
        self.dialect = {"mssql": "tsql", "pyspark": "spark"}.get(self.dialect, self.dialect)
        if self.dialect == "duckdb":
            _reported(lambda: self._connection.raw_sql("SET enable_external_access = false"))

    def moment(self, instant: datetime) -> object:
        """The local time, without its offset."""
        return instant.replace(tzinfo=None)

    def describe(self, statement: exp.Query, values: dict[str, object]) -> dict[str, Kind]:
        """The columns; what they hold, drivers say in too many ways."""
        return dict.fromkeys(self.fetch(statement.copy().limit(0), values).schema.names, "other")

    def fetch(self, statement: exp.Query, values: dict[str, object]) -> pa.RecordBatch:
        """All rows of a statement."""
        return together(list(self._run(statement, values)))

    def stream(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        """The rows in batches."""
        batches = self._run(statement, values)
        while some := list(itertools.islice(batches, _PARTS)):
            yield together(some)

    def close(self) -> None:
        """Disconnect."""
        _reported(self._connection.disconnect)

    def _run(self, statement: exp.Query, values: dict[str, object]) -> Iterator[pa.RecordBatch]:
        # ibis binds nothing: values become literals of the tree, which are escaped when it is written.
        def literal(node: Any) -> Any:  # noqa: ANN401, any node of a tree
            return exp.convert(values[str(node.this)]) if isinstance(node, exp.Placeholder) else node

        text = statement.copy().transform(literal).sql(dialect=self.dialect)
        cursor = _reported(lambda: self._connection.raw_sql(text))
        names = [str(entry[0]) for entry in cursor.description]
        yield batch_of(names, _reported(lambda: cursor.fetchmany(_ROWS)))
        while rows := _reported(lambda: cursor.fetchmany(_ROWS)):
            yield batch_of(names, rows)
        if self.dialect != "duckdb":  # whose cursor is the connection
            _reported(cursor.close)


def _reported(act: Callable[[], Any]) -> Any:  # noqa: ANN401, whatever is asked for
    trouble: WardroundError
    try:
        return act()
    except Exception as error:  # noqa: BLE001, a dozen drivers share no class
        trouble = UnavailableError(
            f"the database does not answer, or refuses the query ({type(error).__name__}): "
            "try it in a database shell, with the node's own role"
        )
    raise trouble
