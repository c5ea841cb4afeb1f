"""How many rows a second become events: from an Arrow table in memory, from SQLite, from Parquet and from CSV.

``python -m benchmarks.sql_events`` prints rows a second and, each in a process of its own, the peak of its memory.
"""

import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from wardround.harmonization.events import Scope, SourceReport
from wardround.sources import sql_events, table_events
from wardround.sources.event_columns import EventColumns
from wardround.sources.event_rows import EventRows
from wardround.sources.site import Site

__all__ = ["arrow", "csv", "parquet", "sqlite"]

_BATCH = 65_536
_NAMES = {
    "patient": "subject_id",
    "time": "charttime",
    "code": "itemid",
    "system": "local:lab",
    "number": "valuenum",
    "unit": "valueuom",
}


def arrow(rows: int = 4_000_000) -> dict[str, float]:
    """Typed columns in memory: times without a zone, whole numbers for patients and codes."""
    table = pa.RecordBatch.from_pydict(_columns(_BATCH))
    site = Site(Path(), "America/New_York")
    made = EventRows(EventColumns(**_NAMES), site, "lab")
    report = SourceReport("lab")
    batches = (batch for first in range(0, rows, _BATCH) for batch in made.events(table, first, Scope(), report))
    return _timed(batches)


def sqlite(rows: int = 500_000) -> dict[str, float]:
    """Pages by a key, times as texts."""
    with tempfile.TemporaryDirectory() as folder:
        with closing(sqlite3.connect(Path(folder) / "ehr.db")) as connection, connection:
            connection.execute(
                "CREATE TABLE labevents (row_id INTEGER PRIMARY KEY, subject_id INTEGER, charttime TEXT, "
                "itemid INTEGER, valuenum REAL, valueuom TEXT)"
            )
            columns = _columns(rows)
            columns["charttime"] = columns["charttime"].cast(pa.timestamp("s")).cast(pa.string())
            cells = zip(range(rows), *(column.to_pylist() for column in columns.values()), strict=True)
            connection.executemany("INSERT INTO labevents VALUES (?, ?, ?, ?, ?, ?)", cells)
        entry = sql_events.QueryEvents(query="SELECT * FROM labevents", key="row_id", **_NAMES)
        settings = sql_events.SqliteSettings(name="lab", path="ehr.db", events=(entry,))
        return _timed(sql_events.open_source(settings, Site(Path(folder), "America/New_York")).batches(Scope()))


def parquet(rows: int = 4_000_000) -> dict[str, float]:
    """One file of several row groups."""
    with tempfile.TemporaryDirectory() as folder:
        _written(Path(folder) / "lab.parquet", rows, pyarrow.parquet.ParquetWriter)
        entry = table_events.FileEvents(path="lab.parquet", **_NAMES)
        settings = table_events.ParquetSettings(name="lab", events=(entry,))
        return _timed(table_events.open_source(settings, Site(Path(folder), "America/New_York")).batches(Scope()))


def csv(rows: int = 4_000_000) -> dict[str, float]:
    """One file of texts."""
    with tempfile.TemporaryDirectory() as folder:
        _written(Path(folder) / "lab.csv", rows, pyarrow.csv.CSVWriter)
        entry = table_events.FileEvents(path="lab.csv", **_NAMES)
        settings = table_events.CsvSettings(name="lab", events=(entry,))
        return _timed(table_events.open_source(settings, Site(Path(folder), "America/New_York")).batches(Scope()))


def _columns(rows: int) -> dict[str, pa.Array]:
    random = np.random.default_rng(7)
    units = pa.array(["mg/dL", "mEq/L", "%", "K/uL"])
    return {
        "subject_id": pa.array(random.integers(0, 50_000, rows)),
        "charttime": pa.array(random.integers(5_600_000_000, 6_000_000_000, rows) * 1_000_000, pa.timestamp("us")),
        "itemid": pa.array(random.integers(50_800, 51_500, rows)),
        "valuenum": pa.array(np.round(random.normal(100, 20, rows), 2)),
        "valueuom": units.take(pa.array(random.integers(0, 4, rows))),
    }


def _written(path: Path, rows: int, form: type) -> None:
    table = pa.table(_columns(_BATCH))
    with form(path, table.schema) as writer:
        for first in range(0, rows, _BATCH):
            writer.write_table(table.slice(0, min(_BATCH, rows - first)))


def _timed(batches: object) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, busy = time.perf_counter(), time.process_time()
    events = sum(batch.num_rows for batch in batches)
    seconds, worked = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows_per_second": events / seconds,
        "rows_per_cpu_second": events / worked,
        "peak_bytes": peak * 1024.0,
        "growth_bytes": (peak - before) * 1024.0,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for what, value in globals()[sys.argv[1]]().items():
            print(f"{sys.argv[1]:8} {what:20} {value / 1e6:10.2f} million")
    else:
        for name in __all__:
            subprocess.run([sys.executable, "-m", "benchmarks.sql_events", name], check=True)
