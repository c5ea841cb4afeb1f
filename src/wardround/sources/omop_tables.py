"""Where the tables of an OMOP CDM are: a SQLite file, a PostgreSQL server, or a folder of CSV or Parquet files.

Names of tables and columns are compared without regard to upper and lower case. A table of a folder is a file
(``measurement.csv``, ``MEASUREMENT.parquet``, ``measurement.csv.gz``) or a folder of that name.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from wardround.errors import ClinicalError, UnavailableError
from wardround.harmonization.events import SourceReport
from wardround.sources import sql_guard, sql_paging, table_events, table_file
from wardround.sources.event_cells import numbers, texts
from wardround.sources.sql_paging import Pace
from wardround.sources.sql_sessions import Session
from wardround.sources.table_events import CsvSettings

__all__ = ["CdmTables", "FolderTables", "SqlTables"]

_MOST_VALUES: Final = 500
_ENDINGS: Final = (".csv", ".csv.gz", ".parquet")
_CONCEPT: Final = ["concept_id", "vocabulary_id", "concept_code"]


class CdmTables(Protocol):
    """The tables of a CDM."""

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table, in small letters; none where there is no such table."""

    def rows(
        self, table: str, key: str, columns: list[str], concepts: Mapping[str, list[int]]
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a table in a stable order, with these columns in small letters.

        Where `concepts` says which numbers a study wants in which columns, rows that have none of them may be left out.
        """

    def found(self, asked: list[int]) -> Mapping[int, tuple[str, str]]:
        """Vocabulary and code of the concepts that there are."""

    def numbers_of(self, pairs: list[tuple[str, str]]) -> list[int] | None:
        """The numbers of concepts by vocabulary and code (or, without a vocabulary, number); None: not to be had."""

    def close(self) -> None:
        """End the session."""


class SqlTables:
    """The tables of a database.

    Args:
        session: The database.
        schema: The tables' schema, where it has any.
        page_rows: Rows of a page.
        pace: How fast rows are read.
    """

    def __init__(self, session: Session, schema: str, *, page_rows: int, pace: Pace) -> None:
        self._session = session
        self._schema = schema
        self._page_rows = page_rows
        self._pace = pace
        self._names: dict[str, str] | None = None
        self._columns: dict[str, dict[str, str]] = {}

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table."""
        if table not in self._columns:
            asked = exp.Select().select(exp.Star()).from_(self._table(table)) if table in self._tables() else None
            described = self._session.describe(asked, {}) if asked is not None else {}
            self._columns[table] = {name.lower(): name for name in described}
        return frozenset(self._columns[table])

    def rows(
        self, table: str, key: str, columns: list[str], concepts: Mapping[str, list[int]]
    ) -> Iterator[pa.RecordBatch]:
        """Pages of a table in the order of its key."""
        self.columns(table)
        spelled = {name: self._columns[table][name] for name in dict.fromkeys([*columns, key])}
        named = [exp.alias_(_quoted(real), name, quoted=True) for name, real in spelled.items()]
        query = exp.Select().select(*named).from_(self._table(table))
        values: dict[str, object] = {}
        spelled_concepts = {name: self._spelled(asked) for name, asked in concepts.items()}
        conditions = [_any_of(spelled_concepts, values)] if concepts else []
        yield from sql_paging.pages(
            self._session,
            query,
            columns,
            key=key,
            page_rows=self._page_rows,
            pace=self._pace,
            conditions=conditions,
            values=values,
        )

    def found(self, asked: list[int]) -> Mapping[int, tuple[str, str]]:
        """Vocabulary and code of concepts, asked for some hundreds at a time."""
        made: dict[int, tuple[str, str]] = {}
        for start in range(0, len(asked), _MOST_VALUES):
            values: dict[str, object] = {}
            condition = _any_of({"concept_id": self._spelled(asked[start : start + _MOST_VALUES])}, values, table="")
            batch = self._session.fetch(self._concepts().where(condition), values)
            made |= _pairs(batch)
        return made

    def numbers_of(self, pairs: list[tuple[str, str]]) -> list[int] | None:
        """The numbers of concepts; None where there are too many, or no vocabulary knows them."""
        if not self.columns("concept") or len(pairs) > _MOST_VALUES:
            return None
        made = [int(code) for vocabulary, code in pairs if not vocabulary and code.isascii() and code.isdigit()]
        codes = sorted({code for vocabulary, code in pairs if vocabulary})
        if codes:
            values: dict[str, object] = {}
            batch = self._session.fetch(
                self._concepts().where(_any_of({"concept_code": codes}, values, table="")), values
            )
            wanted = set(pairs)
            made += [number for number, pair in _pairs(batch).items() if pair in wanted]
        return sorted(made) if len(made) <= _MOST_VALUES else None

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _spelled(self, asked: list[int]) -> list[object]:
        # A SQLite table that was filled from texts, without types, holds numbers as texts, which equal no number.
        return [*asked, *map(str, asked)] if self._session.dialect == "sqlite" else list(asked)

    def _concepts(self) -> exp.Select:
        self.columns("concept")
        real = [self._columns["concept"].get(name, name) for name in _CONCEPT]
        return exp.Select().select(*(_quoted(name) for name in real)).from_(self._table("concept"))

    def _table(self, table: str) -> exp.Table:
        name = exp.to_identifier(self._tables().get(table, table), quoted=True)
        return exp.Table(this=name, db=exp.to_identifier(self._schema, quoted=True) if self._schema else None)

    def _tables(self) -> dict[str, str]:
        if self._names is None:
            values: dict[str, object] = {}
            if self._session.dialect == "sqlite":
                text = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            else:
                text = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = :schema"
                values = {"schema": self._schema or "public"}
            names = self._session.fetch(sql_guard.parsed(text, "sqlite"), values).column("name").to_pylist()
            self._names = {str(name).lower(): str(name) for name in names}
        return self._names


class FolderTables:
    """The tables of a folder of files.

    Args:
        folder: Where they are.
        settings: How CSV files are written.
        report: Where lines that cannot be read are counted.
    """

    def __init__(self, folder: Path, settings: CsvSettings, report: SourceReport) -> None:
        self._folder = folder
        self._settings = settings
        self._report = report
        self._headers: dict[str, dict[str, str]] = {}
        self._concepts: dict[int, tuple[str, str]] | None = None
        self.mentioned: set[int] = set()

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table's first file."""
        if table not in self._headers:
            path = self._paths().get(table)
            names = table_events.column_names(self._files(path)[0], self._settings, f"table {table}") if path else []
            self._headers[table] = {name.lower(): name for name in names}
        return frozenset(self._headers[table])

    def rows(
        self, table: str, key: str, columns: list[str], concepts: Mapping[str, list[int]]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a table's files, in the order of the files' names."""
        del concepts
        self.columns(table)
        spelled = {name: self._headers[table][name] for name in dict.fromkeys([*columns, key])}
        digests = hashlib.sha256()
        for number, file in enumerate(self._files(self._paths()[table]), start=1):
            for batch in self._read(file, list(spelled.values()), f"table {table}, file {number}", digests):
                yield pa.RecordBatch.from_arrays([batch.column(real) for real in spelled.values()], names=list(spelled))
        self._report.snapshot[f"{table}: SHA-256"] = digests.hexdigest()

    def found(self, asked: list[int]) -> Mapping[int, tuple[str, str]]:
        """Vocabulary and code of concepts, from one pass over the vocabulary for all that the data mention."""
        if self._concepts is None:
            self._concepts = {}
            wanted = pa.array(sorted(self.mentioned | set(asked)), pa.int64())
            for batch in self.rows("concept", "concept_id", _CONCEPT, {}):
                number = numbers(batch.column("concept_id"), "concept_id", decimal_comma=False).number
                self._concepts |= _pairs(batch.filter(pc.is_in(number, wanted.cast(pa.float64()))))
        return self._concepts

    def numbers_of(self, pairs: list[tuple[str, str]]) -> list[int] | None:
        """None: files are read whole anyway."""
        del pairs
        return None

    def close(self) -> None:
        """Nothing is open."""

    def count_into(self, report: SourceReport) -> None:
        """Count into another report from here on."""
        self._report = report

    def _paths(self) -> dict[str, Path]:
        trouble = UnavailableError("the folder of the CDM cannot be listed: is the path right?")
        try:
            found: dict[str, Path] = {}
            for path in sorted(self._folder.iterdir()):
                name = path.name.lower()
                ending = next((one for one in _ENDINGS if name.endswith(one)), "")
                if path.is_dir() or ending:
                    found.setdefault(name.removesuffix(ending), path)
        except OSError:
            found = {}
        if not found:
            raise trouble
        return found

    def _files(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        try:
            return table_file.files(path, "parquet")
        except UnavailableError:
            return table_file.files(path, "csv")

    def _read(self, file: Path, columns: list[str], where: str, digests: "hashlib._Hash") -> Iterator[pa.RecordBatch]:
        if file.name.lower().endswith(".parquet"):
            return table_events.parquet_rows(file, columns, where, digests.update)
        return table_events.csv_rows(file, columns, self._settings, (), where, self._report, digests.update)


def _quoted(name: str) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True))


def _any_of(
    wanted: Mapping[str, Sequence[object]], values: dict[str, object], *, table: str = sql_paging.PAGE
) -> exp.Expression:
    parts: list[exp.Expression] = []
    for name, numbers_wanted in wanted.items():
        names = [f"c{len(values) + place}" for place in range(len(numbers_wanted))]
        values |= dict(zip(names, numbers_wanted, strict=True))
        column = sql_paging.column(name) if table else _quoted(name)
        parts.append(exp.In(this=column, expressions=[exp.Placeholder(this=one) for one in names]))
    return cast("exp.Expression", exp.or_(*parts))


def _pairs(batch: pa.RecordBatch) -> dict[int, tuple[str, str]]:
    number = numbers(batch.column(0), "concept_id", decimal_comma=False).number
    if number.null_count:
        raise ClinicalError("the CDM's table concept has rows without a concept_id")
    vocabularies, codes = (texts(batch.column(place), _CONCEPT[place]).fill_null("").to_pylist() for place in (1, 2))
    keys = np.asarray(number).astype(np.int64).tolist()
    pairs = zip(vocabularies, codes, strict=True)
    return {key: pair for key, pair in zip(keys, pairs, strict=True) if all(pair)}
