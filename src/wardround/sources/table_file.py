"""CSV and Parquet files, one or a folder of them, as a record source.

The files of a folder are read in the order of their names, and their records follow one another; each
file must have every column that the study needs. Only those columns are read. Subfolders are passed
over, and so are files whose names begin with a dot or have another ending.

A CSV file is UTF-8 with one header line. Its cells are read as text and never guessed at: what a cell
means is the contract's and the mapping's to say. White space around a cell is dropped.

Hazard: the parser's own messages quote the offending line, and a file's name may name a patient.
Neither is ever passed on; a file is called by its place in the folder.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from wardround.clinical import tabulate
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.clinical.tabulate import Layout
from wardround.errors import ClinicalError, UnavailableError

__all__ = ["TableFile", "files"]

_Batches = Callable[[list[str]], Iterator[Any]]

_ENDINGS = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}
_BLOCK_BYTES = 4 * 1024 * 1024
_BATCH_RECORDS = 65_536


class TableFile:
    """A `wardround.ports.RecordSource` over files; nothing is opened before `load`."""

    def __init__(self, path: Path, kind: Literal["csv", "parquet"], layout: Layout, *, delimiter: str = ",") -> None:
        self._path = path
        self._kind = kind
        self._layout = layout
        self._delimiter = delimiter

    def load(self, contract: DataContract) -> StudyTable:
        """Read all files into the study table of `contract`.

        Raises:
            ClinicalError: The records do not fit, or a file cannot be read as what it should be.
            UnavailableError: There is no such file, or it cannot be opened.
        """
        found = files(self._path, self._kind)
        limit = tabulate.record_limit(contract, self._layout)
        parts: list[dict[str, npt.NDArray[Any]]] = []
        records = 0
        for number, file in enumerate(found, start=1):
            table = self._table(file, f"file {number} of {len(found)}", contract, limit - records)
            records += table.num_rows
            parts.append(_cells(table, contract, self._layout))
        cells = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return tabulate.study_table(contract, cells, self._layout)

    def _table(self, file: Path, called: str, contract: DataContract, limit: int) -> pa.Table:
        trouble: ClinicalError | UnavailableError
        try:
            names, batches = self._open(file)
            places = tabulate.locate(contract, self._layout, names)
            table = _bounded(batches, sorted(set(places.values())), limit)
        except pa.ArrowException:
            trouble = ClinicalError(
                f"{called} is not a readable {self._kind} file: damaged, not UTF-8, or its lines differ in length"
            )
        except OSError as error:
            trouble = UnavailableError(
                f"{called} cannot be opened or read ({type(error).__name__}): is the path right?"
            )
        else:
            if table.num_rows <= limit:
                return pa.table([table[place] for place in places.values()], names=list(places))
            trouble = ClinicalError(f"{called} goes beyond the limit on records: {limit} were left; narrow the files")
        raise trouble

    def _open(self, file: Path) -> tuple[list[str], _Batches]:
        return _open_csv(file, self._delimiter) if self._kind == "csv" else _open_parquet(file)


def files(path: Path, kind: str) -> list[Path]:
    """A file, or the files of a folder that are of the kind "csv" or "parquet", in the order of their names.

    Raises:
        UnavailableError: The folder cannot be listed, or has none.
    """
    try:
        if not path.is_dir():
            return [path]
        there = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        problem = f"the folder of {kind} files cannot be listed ({type(error).__name__})"
    else:
        endings = _ENDINGS[kind]
        if found := [file for file in there if file.name.lower().endswith(endings) and not file.name.startswith(".")]:
            return found
        problem = f"the folder has no file whose name ends in {' or '.join(endings)}"
    raise UnavailableError(problem)


def _open_csv(file: Path, delimiter: str) -> tuple[list[str], _Batches]:
    # Without newlines_in_values, a quoted line break at the edge of a block would split a record.
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    reading = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pyarrow.csv.open_csv(file, read_options=reading, parse_options=parsing) as header:
        names = list(header.schema.names)

    def batches(columns: list[str]) -> Iterator[Any]:
        texts = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
        )
        with pyarrow.csv.open_csv(file, reading, parsing, texts) as reader:
            yield from reader

    return names, batches


def _open_parquet(file: Path) -> tuple[list[str], _Batches]:
    with pyarrow.parquet.ParquetFile(file) as header:
        names = list(header.schema_arrow.names)

    def batches(columns: list[str]) -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(file) as reader:
            yield from reader.iter_batches(_BATCH_RECORDS, columns=columns)

    return names, batches


def _bounded(batches: _Batches, columns: list[str], limit: int) -> pa.Table:
    kept: list[Any] = []
    records = 0
    for batch in batches(columns):
        kept.append(batch)
        records += batch.num_rows
        if records > limit:
            break
    return pa.Table.from_batches(kept) if kept else pa.table({column: pa.array([], pa.null()) for column in columns})


def _cells(table: pa.Table, contract: DataContract, layout: Layout) -> dict[str, npt.NDArray[Any]]:
    numbers = tabulate.number_columns(contract) - {name for name, local in layout.columns.items() if local.values}
    tokens = pa.array(["", *layout.missing], pa.string())
    return {
        name: _column(table[name], tokens, number=name in numbers, identifier=name == contract.patient)
        for name in table.column_names
    }


def _column(column: pa.ChunkedArray, tokens: pa.Array, *, number: bool, identifier: bool) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_temporal(column.type) and not identifier:
        # An instant must not pass for a number, and is never spelled out. (As an identifier it is refused as it is.)
        column = pc.if_else(pc.is_null(column), None, "an instant")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return _text_column(pc.cast(column, pa.large_string()), tokens, number=number)
    if pa.types.is_decimal(column.type) and number:
        column = pc.cast(column, pa.float64())
    if pa.types.is_integer(column.type) and column.null_count and not number:
        # numpy has no missing integer; as a float, a long code would lose its last digits.
        column = pc.cast(column, pa.string())
    cells: npt.NDArray[Any] = column.to_numpy()
    return cells


def _text_column(column: pa.ChunkedArray, tokens: pa.Array, *, number: bool) -> npt.NDArray[Any]:
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.is_in(text, value_set=pc.cast(tokens, pa.large_string())), None, text)
    if number:
        try:
            text = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            # Some cells are not numbers: the study table's rules count them, and keep them out of the message.
            number = False
    cells: npt.NDArray[Any] = text.to_numpy()
    return cells
