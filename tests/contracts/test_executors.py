"""Every executor gives one tensor: DuckDB in this process, in parts, SQLite, PostgreSQL, and DuckDB through ibis."""

import shutil
from datetime import date

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts import postgresql
from tests.unit.sources.executors import world

from wardround.harmonization import embedded
from wardround.sources import pushdown
from wardround.sources.site import Site

PLACE = {"kind": "postgresql", "dsn": "env:EHR"}
TYPES = {
    "lab": "k int, mrn text, at_us bigint, known_us bigint, item text, num float8, val varchar, uom text, st char(8), cmp text, ok text",
    "diag": "k text, pid int, at_s bigint, sys text, code text",
    "people": "k int, pid int, born date, sex text, hdl float8, dead_us bigint",
}
SEEDED = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def url():
    made = postgresql.new_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(
            "CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        for table, columns in TYPES.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
        connection.execute("ALTER TABLE lab ALTER item TYPE text COLLATE careless")
    return made


def fill(url, rows):
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        for table, names in world.NAMES.items():
            cursor.execute(f"TRUNCATE {table}")
            places = ", ".join(["%s"] * len(names))
            cursor.executemany(f"INSERT INTO {table} VALUES ({places})", rows[table])


@SEEDED
@given(st.integers(0, 2**32), st.sampled_from([("first", None), ("each", 2 * world.DAY)]))
def test_the_harvest_in_postgresql_is_the_same(url, seed, how):
    fill(url, world.rows_of(seed))
    mapping, environ = world.mapping_of(PLACE), {"EHR": url}
    sources, site = world.sources_of(mapping, postgresql.Path(), environ)
    here = embedded.harvest(world.reading_of(sources, *how))
    told = world.reports_of(sources)
    there = pushdown.executor(world.event_mapping_of(mapping), site)(world.reading_of(sources, *how))
    assert world.told_by(there) == world.told_by(here)
    assert world.reports_of(sources) == told


SPARK = {
    "lab": "k INT, mrn STRING, at_us BIGINT, known_us BIGINT, item STRING, num DOUBLE, val STRING, uom STRING, st STRING, cmp STRING, ok STRING",
    "diag": "k STRING, pid INT, at_s BIGINT, sys STRING, code STRING",
    "people": "k INT, pid INT, born DATE, sex STRING, hdl DOUBLE, dead_us BIGINT",
}


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
@pytest.mark.parametrize("seed", [3, 11])
def test_the_harvest_in_spark_is_the_same(tmp_path, monkeypatch, seed):
    pyspark = pytest.importorskip("pyspark.sql", reason="PySpark is not installed")
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    session = (
        pyspark.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    rows = world.rows_of(seed)
    for table, schema in SPARK.items():
        born = NAMES_OF_BIRTHS.get(table)
        given = [tuple(_cell(cell, place, born, schema) for place, cell in enumerate(row)) for row in rows[table]]
        session.createDataFrame(given, schema).createOrReplaceTempView(table)
    allow = {table: list(names) for table, names in world.NAMES.items()}
    queries = {"lab": "lab", "diag": "diag", "people": "people"}
    mapping = world.mapping_of({"kind": "ibis", "url": "env:EHR", "allow": allow})
    for source in mapping["sources"]:
        source["events"] = [
            entry | {"query": f"SELECT {', '.join(world.NAMES[table])} FROM {table}"}
            for entry in source["events"]
            for table in queries
            if f"FROM {table}" in entry["query"]
        ]
    site = Site(tmp_path, None, {"EHR": "pyspark://"})
    world.sqlite_of(rows, tmp_path / "ehr.db")
    sources, _ = world.sources_of(world.mapping_of({"kind": "sqlite", "path": "ehr.db"}), tmp_path)
    here = embedded.harvest(world.reading_of(sources))
    told = world.reports_of(sources)
    there = pushdown.executor(world.event_mapping_of(mapping), site)(world.reading_of(sources))
    assert world.told_by(there) == world.told_by(here)
    assert world.reports_of(sources) == told


NAMES_OF_BIRTHS = {"people": 2}


def _cell(cell, place, born, schema):
    if cell is None:
        return None
    if place == born:
        return date.fromisoformat(cell)
    return float(cell) if schema.split(", ")[place].endswith("DOUBLE") else cell
