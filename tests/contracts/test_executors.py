"""Every executor gives one tensor: DuckDB in this process and in parts, SQLite, PostgreSQL, and Spark where it is."""

import copy
import shutil
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import psycopg
import pytest
from benchmarks import executors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts import postgresql
from tests.unit.sources.executors import world

from wardround.clinical import contract as contracts
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Derivation, Window
from wardround.errors import ConfigError
from wardround.harmonization import embedded, lineage
from wardround.harmonization.events import EVENT, Scope
from wardround.harmonization.harmonize import SiteData, harmonize
from wardround.sources import event_mapping, fhir_events, pushdown
from wardround.sources.partitioned import Partitioned
from wardround.sources.site import Site

PLACE = {"kind": "postgresql", "dsn": "env:EHR"}
TYPES = {
    "lab": "k int, mrn text, at_us bigint, known_us bigint, item text, num float8, "
    "val varchar, uom text, st char(8), cmp text, ok text",
    "diag": "k text, pid int, at_s bigint, sys text, code text",
    "people": "k int, pid int, born date, sex text, hdl float8, dead_us bigint, once text, twice text",
    "said": "k int, pid int, at_us bigint, st text, answer text",
}
SEEDED = settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def url():
    first = postgresql.new_database()
    name = first.split("/")[3].split("?")[0]
    made = first.replace(f"/{name}?", f"/{name}_en?")
    with psycopg.connect(first, autocommit=True) as connection:
        # One that orders texts as people do, and not by their bytes.
        connection.execute(
            f"CREATE DATABASE {name}_en TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        )
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


def test_an_engine_that_nobody_has_compared_is_refused(tmp_path):
    url = f"duckdb://{tmp_path / 'ehr.duckdb'}"
    with pytest.raises(ConfigError, match="nothing is pushed down to duckdb"):
        compare(tmp_path, world.rows_of(7), url)


def compare(folder, rows, url):
    """What an engine behind ibis makes of the tables is what this process makes of them in SQLite."""
    allow = {table: list(names) for table, names in world.NAMES.items()}
    mapping = copy.deepcopy(world.mapping_of({"kind": "ibis", "url": "env:EHR", "allow": allow}))
    for source in mapping["sources"]:
        for entry in source["events"]:
            table = entry["query"].split(" FROM ")[1].split()[0]
            entry["query"] = f"SELECT {', '.join(world.NAMES[table])} FROM {table}"
    world.sqlite_of(rows, folder / "ehr.db")
    sources, _ = world.sources_of(world.mapping_of({"kind": "sqlite", "path": "ehr.db"}), folder)
    here = embedded.harvest(world.reading_of(sources))
    told = world.reports_of(sources)
    site = Site(folder, None, {"EHR": url})
    there = pushdown.executor(world.event_mapping_of(mapping), site)(world.reading_of(sources))
    assert here.records.num_rows > 0
    assert world.told_by(there) == world.told_by(here)
    assert world.reports_of(sources) == told


SPARK = {
    "lab": "k INT, mrn STRING, at_us BIGINT, known_us BIGINT, item STRING, num DOUBLE, "
    "val STRING, uom STRING, st STRING, cmp STRING, ok STRING",
    "diag": "k STRING, pid INT, at_s BIGINT, sys STRING, code STRING",
    "people": "k INT, pid INT, born DATE, sex STRING, hdl DOUBLE, dead_us BIGINT, once STRING, twice STRING",
    "said": "k INT, pid INT, at_us BIGINT, st STRING, answer STRING",
}


@pytest.mark.filterwarnings("ignore")  # of PySpark's own
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
    compare(tmp_path, rows, "pyspark://")


NAMES_OF_BIRTHS = {"people": 2}


def _cell(cell, place, born, schema):
    if cell is None:
        return None
    if place == born:
        return date.fromisoformat(cell)
    return float(cell) if schema.split(", ")[place].endswith("DOUBLE") else cell


def place_of(kind):
    return {"kind": "sqlite", "path": "icu.db"} if kind == "sqlite" else {"kind": "postgresql", "dsn": "env:EHR"}


@pytest.mark.skipif(
    not (executors.DATA / "physionet2012").exists(), reason="PhysioNet 2012 is not here (WARDROUND_DATA)"
)
def test_one_tensor_of_physionet_2012_whatever_computes_it(tmp_path, url, monkeypatch):
    monkeypatch.setenv("EHR", url)
    monkeypatch.setattr("wardround.sources.partitioned.importlib.util.find_spec", lambda _: None)  # processes
    executors.sqlite(tmp_path, 150)
    executors.postgresql(url, 150)
    here = executors.digest(tmp_path, "embedded", place_of("sqlite"))
    for executor, kind in (("partitioned", "sqlite"), ("push-down", "sqlite"), ("push-down", "postgresql")):
        assert executors.digest(tmp_path, executor, place_of(kind)) == here, (executor, kind)


EVER = Window(from_days=None, to_days=None)
YEARS = Window(from_days=-2000.0, to_days=0.0)


def told(name, concept, aggregate, low, high, unit, window=YEARS):
    derive = Derivation(concepts=(concept,), aggregate=aggregate, window=window)
    return Column(name=name, unit=unit, minimum=low, maximum=high, missing="mean", derive=derive)


SYNTHEA = DataContract(
    columns=(
        told("weight", "loinc|29463-7", "last", 1.0, 300.0, "kg"),
        told("height", "loinc|8302-2", "max", 30.0, 250.0, "cm"),
        told("cholesterol", "loinc|2093-3", "mean", 50.0, 500.0, "mg/dL"),
        told("glucose", "loinc|2339-0", "median", 20.0, 600.0, "mg/dL"),
        told("sodium", "loinc|2947-0", "slope", 100.0, 180.0, "mmol/L"),
        told("creatinine", "loinc|38483-4", "min", 0.1, 30.0, "mg/dL"),
        told("visits", "patient|seen", "count", 0.0, 100_000.0, "1"),
        Column(
            name="sex",
            kind="category",
            categories=("male", "female"),
            missing="mask",
            derive=Derivation(concepts=("patient|sex",), window=EVER),
        ),
    ),
    label=Label(
        name="hypertension",
        derive=Derivation(
            concepts=("snomed|38341003",), aggregate="exists", window=Window(from_days=0.0, to_days=None)
        ),
    ),
    cohort=Cohort(index=("snomed|162864005", "snomed|15777000", "snomed|10509002"), pick="each"),
    scaling="none",
    holdout=0.0,
    min_records=1,
)
TYPED = {"int8": "smallint", "int64": "bigint", "double": "double precision", "string": "text"}
# No order key: what one resource says stands in one row of FHIR's, and in several here.
BARE = {
    "query": "SELECT * FROM events WHERE time_us IS NOT NULL AND number IS NULL AND value IS NULL",
    "key": "k",
    "patient": "patient",
    "time": "time_us",
    "known": "known_us",
    "epoch": "us",
    "code": "code",
    "system_column": "system",
    "status": "status",
}
VALUED = BARE | {
    "query": "SELECT * FROM events WHERE time_us IS NOT NULL AND (number IS NOT NULL OR value IS NOT NULL)",
    "number": "number",
    "value": "value",
    "unit": "unit",
    "comparator": "comparator",
}
TIMELESS = VALUED | {"query": "SELECT * FROM events WHERE time_us IS NULL", "time": "", "known": ""}


def tensor(contract, site, execute):
    table = harmonize(contract, site, "study", execute=execute).table()
    names = contracts.feature_names(contract)
    return lineage.tensor_digest(table.features, names, table.labels, table.held_out, patients=table.patients)


@pytest.mark.skipif(not (executors.DATA / "synthea_fhir_r4").exists(), reason="Synthea is not here (WARDROUND_DATA)")
def test_one_tensor_of_synthea_whatever_computes_it(tmp_path, url, monkeypatch):
    monkeypatch.setenv("EHR", url)
    site = Site(executors.DATA / "synthea_fhir_r4", "UTC", {})
    fhir = fhir_events.open_source(fhir_events.FhirFilesSettings(name="ehr", path="dev"), site)
    key = bytes(range(64))
    batches = list(fhir.batches(Scope()))
    here = tensor(SYNTHEA, SiteData(sources=[fhir], key=key), embedded.harvest)
    names = [field.name for field in EVENT]
    kinds = ", ".join(f'"{field.name}" {TYPED[str(field.type)]}' for field in EVENT)
    rows = [
        (number, *row)
        for number, row in enumerate(tuple(one.values()) for batch in batches for one in batch.to_pylist())
    ]
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute(f"CREATE TABLE events (k bigint, {kinds})")
        connection.executemany(f"INSERT INTO events VALUES ({', '.join('?' * (len(names) + 1))})", rows)
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE events (k bigint, {kinds})")
        with cursor.copy("COPY events FROM STDIN") as copying:
            for row in rows:
                copying.write_row(row)
    for place in ({"kind": "sqlite", "path": "events.db"}, PLACE):
        source = place | {"name": "ehr", "events": [BARE, VALUED, TIMELESS]}
        mapping = world.event_mapping_of({"kind": "events", "timezone": "UTC", "sources": [source]})
        where = Site(tmp_path, "UTC", {"EHR": url})
        data = SiteData(sources=event_mapping.sources(mapping, where), key=key)
        assert tensor(SYNTHEA, data, embedded.harvest) == here
        assert tensor(SYNTHEA, data, pushdown.executor(mapping, where)) == here
    in_parts = world.event_mapping_of({"kind": "events", "timezone": "UTC", "sources": [source]})
    parts = Partitioned(in_parts, tmp_path, SYNTHEA, parts=2, runner="processes")
    assert tensor(SYNTHEA, data, parts) == here


def test_parts_in_ray_are_the_whole_and_nothing_of_them_is_left_on_the_disk(tmp_path, capfd):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    planted = "Xanthippe4711"
    rows = world.rows_of(3)
    rows["lab"] = [(row[0], planted if row[1] == "1" else row[1], *row[2:]) for row in rows["lab"]]
    world.sqlite_of(rows, tmp_path / "ehr.db")
    mapping = world.event_mapping_of(world.mapping_of({"kind": "sqlite", "path": "ehr.db"}, timezone="UTC"))
    sources = event_mapping.site_data(mapping, tmp_path, {}).sources
    reading = world.reading_of(sources)
    by_process = Partitioned(mapping, tmp_path, world.CONTRACT, parts=2, runner="processes")(reading)
    by_ray = Partitioned(mapping, tmp_path, world.CONTRACT, parts=2, runner="ray")(reading)
    assert world.told_by(by_ray) == world.told_by(by_process)
    assert all(getattr(by_ray, name).equals(getattr(by_process, name)) for name in ("records", "sums", "last"))
    assert any(planted in key for key in by_ray.earliest)
    assert not ray.is_initialized()
    left = [path for path in Path("/tmp/ray/session_latest").rglob("*") if path.is_file()]
    assert left
    assert not [path for path in left if planted.encode() in path.read_bytes()]
    assert capfd.readouterr().out == ""  # which is the reading process's answer
