"""Seconds and memory of each executor over PhysioNet 2012, set a: 4,000 stays in intensive care, 1.75 million rows.

``python -m benchmarks.executors`` prints them, each executor in a process of its own, with the tensor's digest, which
is one. The data lie in the folder that ``WARDROUND_DATA`` names. PostgreSQL is measured where the environment's ``EHR``
is the connection string of an empty database; its own memory is not counted.
"""

import csv
import io
import os
import resource
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from wardround.clinical import contract as contracts
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Derivation, Window
from wardround.harmonization import lineage
from wardround.sources.event_mapping import EventMapping
from wardround.sources.harmonized import HarmonizedSource

__all__ = ["CONTRACT", "DATA", "MAPPING", "digest", "measured", "rows", "sqlite"]

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[2] / "shared" / "data"))
_STAY = Window(from_days=-1.0, to_days=2.0)
_START = 1_262_304_000
_TABLE = "(k INTEGER PRIMARY KEY, stay INTEGER, at_s BIGINT, item TEXT, value DOUBLE PRECISION)"


def _column(name: str, item: str, aggregate: str, low: float, high: float) -> Column:
    derive = Derivation(concepts=(f"local:icu|{item}",), aggregate=aggregate, window=_STAY)  # type: ignore[arg-type]
    return Column(name=name, minimum=low, maximum=high, missing="mean", derive=derive)


CONTRACT = DataContract(
    columns=(
        _column("heart_rate_last", "HR", "last", 10, 300),
        _column("heart_rate_mean", "HR", "mean", 10, 300),
        _column("pressure_middle", "MAP", "median", 20, 250),
        _column("coma_least", "GCS", "min", 3, 15),
        _column("lactate_most", "Lactate", "max", 0, 40),
        _column("creatinine_slope", "Creatinine", "slope", 0, 30),
        _column("urine", "Urine", "sum", 0, 20_000),
        _column("age", "Age", "first", 15, 120),
    ),
    label=Label(
        name="death",
        derive=Derivation(
            concepts=("local:icu|Death",), aggregate="exists", window=Window(from_days=None, to_days=None)
        ),
    ),
    cohort=Cohort(index=("local:icu|RecordID",)),
    scaling="none",
    holdout=0.2,
    min_records=1,
)
MAPPING: Mapping[str, Any] = {
    "kind": "events",
    "timezone": "UTC",
    "shifted_dates": True,
    "memory_mb": 512,
    "sources": [
        {
            "name": "icu",
            "events": [
                {
                    "query": "SELECT k, stay, at_s, item, value FROM charted",
                    "key": "k",
                    "patient": "stay",
                    "time": "at_s",
                    "epoch": "s",
                    "code": "item",
                    "system": "local:icu",
                    "number": "value",
                    "missing": ["-1"],
                }
            ],
        }
    ],
}


def rows(stays: int | None = None) -> Iterator[tuple[int, int, int, str, float]]:
    """Key, stay, second, item and value of each row of the first stays, or of all; deaths are rows too."""
    folder = DATA / "physionet2012"
    outcomes = csv.DictReader((folder / "Outcomes-a.txt").read_text(encoding="ascii").splitlines())
    died = {int(row["RecordID"]) for row in outcomes if row["In-hospital_death"] == "1"}
    key = 0
    with tarfile.open(folder / "set-a.tar.gz") as archive:
        for number, member in enumerate(one for one in archive if one.name.endswith(".txt")):
            if number == stays:
                return
            stay = int(Path(member.name).stem)
            file = archive.extractfile(member)
            lines = io.TextIOWrapper(file, encoding="ascii") if file else io.StringIO()
            cells = [(row["Time"], row["Parameter"], row["Value"]) for row in csv.DictReader(lines)]
            cells += [("48:00", "Death", "1")] if stay in died else []
            for clock, item, value in cells:
                hours, _, minutes = clock.partition(":")
                yield key, stay, _START + int(hours) * 3600 + int(minutes) * 60, item, float(value)
                key += 1


def sqlite(folder: Path, stays: int | None = None) -> None:
    """The rows as a SQLite file."""
    with closing(sqlite3.connect(folder / "icu.db")) as connection, connection:
        connection.execute(f"CREATE TABLE charted {_TABLE}")
        connection.executemany("INSERT INTO charted VALUES (?, ?, ?, ?, ?)", rows(stays))


def postgresql(dsn: str, stays: int | None = None) -> None:
    """The rows as a table of PostgreSQL's."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS charted")
        cursor.execute(f"CREATE TABLE charted {_TABLE}")
        with cursor.copy("COPY charted FROM STDIN") as copy:
            for row in rows(stays):
                copy.write_row(row)
        cursor.execute("ANALYZE charted")


def digest(folder: Path, executor: str, place: Mapping[str, object], contract: DataContract = CONTRACT) -> str:
    """The digest of the tensor that an executor makes of the tables in a place."""
    return measured(folder, executor, place, MAPPING, contract)[0]


def measured(
    folder: Path, executor: str, place: Mapping[str, object], mapping: Mapping[str, Any], contract: DataContract
) -> tuple[str, str]:
    """The digest of the tensor that an executor makes, and what ran it."""
    sources = [{**place, **source} for source in mapping["sources"]]
    decoded = msgspec.convert({**mapping, "sources": sources, "executor": executor}, EventMapping)
    source = HarmonizedSource(decoded, folder, os.environ)
    found = source.read(contract)
    table = found.table()
    names = contracts.feature_names(contract)
    made = lineage.tensor_digest(table.features, names, table.labels, table.held_out, patients=table.patients)
    return made, found.engine


def _one(folder: Path, case: str) -> None:
    executor, _, kind = case.partition(" in ")
    place: dict[str, object] = {"kind": "sqlite", "path": "icu.db"}
    if kind == "PostgreSQL":
        place = {"kind": "postgresql", "dsn": "env:EHR", "rows_per_second": None}
    started = time.perf_counter()
    made, engine = measured(folder, executor, place, MAPPING, CONTRACT)
    seconds = time.perf_counter() - started
    own, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (0, resource.RUSAGE_CHILDREN))
    print(f"{case:24} {seconds:7.1f} s {own:7.0f} MB, largest child {child:6.0f} MB  {made[:16]}  {engine}")


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sqlite(Path(folder))
        kinds = ["SQLite"]
        if dsn := os.environ.get("EHR"):
            postgresql(dsn)
            kinds.append("PostgreSQL")
        for kind in kinds:
            for executor in ("embedded", "partitioned", "push-down"):
                command = [sys.executable, "-m", "benchmarks.executors", folder, f"{executor} in {kind}"]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _one(Path(sys.argv[1]), sys.argv[2])
    else:
        _main()
