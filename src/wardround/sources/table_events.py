"""CSV and Parquet files, one or a folder of them, as event sources.

The files of a folder are read in the order of their names, and their rows follow one another. Only the columns that the
mapping names are read. The cells of a CSV file are texts, and nothing guesses at their types: an identifier keeps its
zeros, and a column means what the mapping says. Its encoding is declared; a row with bytes that are wrong in it, in a
cell that is used, is refused and counted, and so is a line with too many or too few cells.

Hazard: the parsers' messages quote lines, and a file's name may name a patient. Neither is passed on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from wardround.errors import ClinicalError, ConfigError, MissingColumnError, UnavailableError, WardroundError
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources import table_file
from wardround.sources.event_cells import mask
from wardround.sources.event_columns import EventColumns, wanted
from wardround.sources.event_rows import EventRows
from wardround.sources.site import Site
from wardround.sources.table_stream import WRONG, Utf8Stream, checked_encoding, file_digest

__all__ = [
    "CsvSettings",
    "FileEvents",
    "ParquetSettings",
    "TableEvents",
    "column_names",
    "csv_rows",
    "open_source",
    "parquet_rows",
]

_BLOCK_BYTES: Final = 4 * 1024 * 1024
_BATCH_ROWS: Final = 65_536
_LIMITS: Final = {
    "pre_buffer": False,
    "thrift_string_size_limit": 64 * 1024 * 1024,
    "thrift_container_size_limit": 10_000_000,
}
_MOST_GROUP_BYTES: Final = 2**31
MALFORMED: Final = "malformed line"
UNDECODABLE: Final = "wrong bytes for the encoding"
_Count = Annotated[int, msgspec.Meta(ge=1)]


class FileEvents(EventColumns, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of events.

    Attributes:
        path: Its file, or a folder of files.
        names: The names of the columns, for a CSV file whose first line does not say them.
    """

    path: Annotated[str, msgspec.Meta(min_length=1)]
    names: tuple[str, ...] = ()


class CsvSettings(msgspec.Struct, tag="csv", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CSV files, compressed by gzip where their names end in ".gz".

    Attributes:
        events: The tables.
        delimiter: Between cells.
        quote: Around cells.
        encoding: Of all files, such as "utf-8", "cp1252" or "latin-1".
        max_rows: More rows of one table are refused.
        max_bytes: More text of one file is refused.
    """

    name: str
    events: tuple[FileEvents, ...]
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    quote: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = '"'
    encoding: str = "utf-8"
    max_rows: _Count = 1_000_000_000
    max_bytes: _Count = 1_000_000_000_000


class ParquetSettings(
    msgspec.Struct, tag="parquet", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Parquet files."""

    name: str
    events: tuple[FileEvents, ...]
    max_rows: _Count = 1_000_000_000


Settings = CsvSettings | ParquetSettings


def open_source(settings: Settings, site: Site) -> "TableEvents":
    """The source that the settings describe; no file is opened before its batches are read.

    Raises:
        ConfigError: The encoding is none, or a table's columns give no events.
    """
    return TableEvents(settings, site)


class TableEvents:
    """A `wardround.harmonization.events.EventSource` over files."""

    def __init__(self, settings: Settings, site: Site) -> None:
        if isinstance(settings, CsvSettings):
            checked_encoding(settings.encoding)
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._tables = [EventRows(entry, site, settings.name, block=i) for i, entry in enumerate(settings.events)]

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope, table by table.

        Raises:
            ClinicalError: A file or a column is not what it should be.
            UnavailableError: A file is not there or cannot be opened.
        """
        self.report = SourceReport(self.name)
        for number, (entry, rows) in enumerate(zip(self._settings.events, self._tables, strict=True), start=1):
            if not rows.in_scope(scope):
                continue
            read = 0
            for batch in self._rows(entry, f"source {self.name!r}, events {number}", f"events {number}"):
                if read + batch.num_rows > self._settings.max_rows:
                    raise ClinicalError(
                        f"source {self.name!r}, events {number}: more than max_rows, {self._settings.max_rows}"
                    )
                self.report.read += batch.num_rows
                yield from rows.events(batch, read, scope, self.report)
                read += batch.num_rows

    def links(self) -> Iterable[tuple[str, str]]:
        """None: a table says nothing of identities."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """None: a table has none."""
        del names
        return iter(())

    def _rows(self, entry: FileEvents, called: str, mark: str) -> Iterator[pa.RecordBatch]:
        path, columns = self._site.path(entry.path), wanted(entry)
        digests = hashlib.sha256()
        settings = self._settings
        kind = "csv" if isinstance(settings, CsvSettings) else "parquet"
        for number, file in enumerate(table_file.files(path, kind), start=1):
            where = f"{called}, file {number}"
            if isinstance(settings, CsvSettings):
                yield from csv_rows(file, columns, settings, entry.names, where, self.report, digests.update)
            else:
                yield from parquet_rows(file, columns, where, digests.update)
        self.report.snapshot[f"{mark}: SHA-256"] = digests.hexdigest()


def csv_rows(
    file: Path,
    columns: list[str],
    settings: CsvSettings,
    names: tuple[str, ...],
    where: str,
    report: SourceReport,
    digested: Callable[[bytes], object],
) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file as texts; those that cannot be read are counted into `report`.

    Raises:
        ClinicalError: Not such a file; `where` names it.
        UnavailableError: It cannot be opened.
    """

    def skip(_row: object) -> str:
        report.read += 1
        report.refuse(MALFORMED)
        return "skip"

    parsing = _parsing(settings, skip)
    header = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=list(names) or None)
    texts = pyarrow.csv.ConvertOptions(
        include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
    )
    trouble: WardroundError
    try:
        _check_columns(_csv_names(file, settings, header), columns, where)
        with (
            Utf8Stream(file, settings.encoding, max_bytes=settings.max_bytes) as stream,
            pyarrow.csv.open_csv(pa.PythonFile(stream, mode="r"), header, parsing, texts) as reader,
        ):
            for batch in reader:
                yield _decoded(batch, report)
            digested(stream.digest.encode())
            return
    except pa.ArrowException as error:
        trouble = ClinicalError(f"{where} is not a readable CSV file ({type(error).__name__}): is the delimiter right?")
    except OSError as error:
        trouble = UnavailableError(f"{where} cannot be opened or read ({type(error).__name__}): is the path right?")
    raise trouble


def parquet_rows(
    file: Path, columns: list[str], where: str, digested: Callable[[bytes], object]
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file.

    Raises:
        ClinicalError: Not such a file; `where` names it.
        UnavailableError: It cannot be opened.
    """
    trouble: WardroundError
    try:
        digested(file_digest(file).encode())
        with pyarrow.parquet.ParquetFile(file, **_LIMITS) as reader:
            _check_columns(reader.schema_arrow.names, columns, where)
            groups = (reader.metadata.row_group(place) for place in range(reader.metadata.num_row_groups))
            if any(group.total_byte_size > _MOST_GROUP_BYTES for group in groups):
                raise ClinicalError(f"{where} has row groups of more than 2 GiB: write it with smaller ones")
            yield from reader.iter_batches(_BATCH_ROWS, columns=columns)
            return
    except pa.ArrowException as error:
        trouble = ClinicalError(f"{where} is not a readable Parquet file ({type(error).__name__})")
    except OSError as error:
        trouble = UnavailableError(f"{where} cannot be opened or read ({type(error).__name__}): is the path right?")
    raise trouble


def _csv_names(file: Path, settings: CsvSettings, header: pyarrow.csv.ReadOptions) -> list[str]:
    parsing = _parsing(settings, lambda _row: "skip")
    with (
        Utf8Stream(file, settings.encoding, max_bytes=settings.max_bytes) as stream,
        pyarrow.csv.open_csv(pa.PythonFile(stream, mode="r"), header, parsing) as reader,
    ):
        return list(reader.schema.names)


def _parsing(settings: CsvSettings, skip: Callable[[object], str]) -> pyarrow.csv.ParseOptions:
    # Without newlines_in_values, a quoted line break at the edge of a block would split a row.
    return pyarrow.csv.ParseOptions(
        delimiter=settings.delimiter, quote_char=settings.quote, newlines_in_values=True, invalid_row_handler=skip
    )


def column_names(file: Path, settings: CsvSettings, where: str) -> list[str]:
    """The columns of a CSV file, or of a Parquet file where its name ends so.

    Raises:
        ClinicalError: Not such a file; `where` names it.
        UnavailableError: It cannot be opened.
    """
    trouble: WardroundError
    try:
        if file.name.lower().endswith(".parquet"):
            with pyarrow.parquet.ParquetFile(file, **_LIMITS) as reader:
                return list(reader.schema_arrow.names)
        return _csv_names(file, settings, pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES))
    except pa.ArrowException as error:
        trouble = ClinicalError(f"{where} is not readable ({type(error).__name__})")
    except OSError as error:
        trouble = UnavailableError(f"{where} cannot be opened or read ({type(error).__name__}): is the path right?")
    raise trouble


def _check_columns(names: list[str], columns: list[str], where: str) -> None:
    if absent := [name for name in columns if name not in names]:
        raise MissingColumnError(f"{where} has no column {absent[0]!r}; it has {len(names)} columns")
    if twice := [name for name in columns if names.count(name) > 1]:
        raise ConfigError(f"{where} has two columns {twice[0]!r}")


def _decoded(batch: pa.RecordBatch, report: SourceReport) -> pa.RecordBatch:
    wrong = np.zeros(batch.num_rows, np.bool_)
    for column in batch.columns:
        wrong |= mask(pc.match_substring(column, WRONG))
    if not wrong.any():
        return batch
    report.read += int(wrong.sum())
    report.refuse(UNDECODABLE, int(wrong.sum()))
    return batch.filter(pa.array(~wrong))
