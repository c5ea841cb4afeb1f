"""PostgreSQL as an event source and as an OMOP CDM: a real server gives what SQLite gives, and stays as it was."""

import sqlite3
import traceback
from contextlib import closing

import msgspec
import psycopg
import pytest
from tests.contracts import postgresql

from wardround.errors import ClinicalError, UnavailableError, UnsafeQueryError
from wardround.harmonization.events import Scope
from wardround.sources import omop, sql_events, sql_guard
from wardround.sources.site import Site

EVERYTHING = Scope()
SECRET = "Xanthippe-4711"
LAB = {
    "query": "SELECT row_id, subject_id, charttime, itemid, valuenum, unit FROM labevents",
    "key": "row_id",
    "patient": "subject_id",
    "time": "charttime",
    "code": "itemid",
    "system": "local:lab",
    "number": "valuenum",
    "unit": "unit",
}
ROWS = [
    (10 * row, f"P{row % 7}", f"20{row % 90 + 10}-07-01 10:00:00", 50900 + row % 3, row / 2, "100%")
    for row in range(250)
]


@pytest.fixture(scope="module")
def url():
    made = postgresql.new_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE labevents (row_id bigint PRIMARY KEY, subject_id text, charttime timestamp, itemid integer, "
            "valuenum double precision, unit varchar(20), stamped timestamptz, exact numeric(12, 3), id uuid, "
            "raw bytea)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO labevents SELECT a.*, a.t AT TIME ZONE 'Europe/Berlin', a.v, gen_random_uuid(), '\\xff' "
                "FROM (SELECT %s::bigint, %s, %s::timestamp AS t, %s::int, %s::float8 AS v, %s) AS a",
                ROWS,
            )
        connection.execute("CREATE TABLE secret (name text)")
    return made


def source(url, entry=None, **settings):
    table = {"kind": "postgresql", "name": "lab", "dsn": "env:EHR", "events": [LAB | (entry or {})], **settings}
    site = Site(postgresql.Path(), "Europe/Berlin", {"EHR": url})
    return sql_events.open_source(msgspec.convert(table, sql_events.PostgresSettings), site)


def read(source, scope=EVERYTHING):
    return [event for batch in source.batches(scope) for event in batch.to_pylist()]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The same rows in SQLite."""
    folder = tmp_path_factory.mktemp("twin")
    with closing(sqlite3.connect(folder / "ehr.db")) as connection, connection:
        connection.execute("CREATE TABLE labevents (row_id, subject_id, charttime, itemid, valuenum, unit)")
        connection.executemany("INSERT INTO labevents VALUES (?, ?, ?, ?, ?, ?)", ROWS)
    table = {"kind": "sqlite", "name": "lab", "path": "ehr.db", "events": [LAB]}
    return sql_events.open_source(msgspec.convert(table, sql_events.SqliteSettings), Site(folder, "Europe/Berlin"))


@pytest.mark.parametrize("page_rows", [7, 250, 1000])
@pytest.mark.parametrize(
    "scope",
    [Scope(), Scope(codes={"local:lab": frozenset({"50901", "x"})}), Scope(since_us=2500000000_000000)],
    ids=["all", "codes", "since"],
)
def test_the_same_events_as_from_sqlite(url, twin, page_rows, scope):
    entry = {"query": LAB["query"] + " WHERE charttime >= :since AND unit LIKE '%0%' -- all"}
    opened = source(url, entry, page_rows=page_rows)
    events = read(opened, scope)
    assert [{**event, "row": 0} for event in events] == [{**event, "row": 0} for event in read(twin, scope)]
    assert (opened.report.read < 250) == (scope != Scope())


def test_without_a_key_one_cursor_of_the_server_s_is_read(url, twin):
    assert read(source(url, {"key": "", "query": LAB["query"] + " ORDER BY row_id"})) == read(twin)


@pytest.mark.parametrize(
    "key", ["id", "subject_id || '-' || row_id", "charttime + row_id * interval '1 hour'", "exact"]
)
def test_keys_of_other_types(url, key):
    events = read(source(url, {"query": f"SELECT *, {key} AS k FROM labevents", "key": "k"}, page_rows=60))
    assert sorted(event["number"] for event in events) == [row / 2 for row in range(250)]


def test_a_row_without_a_key_is_not_lost_without_a_word(url):
    entry = {"query": "SELECT *, nullif(row_id, 990) AS k FROM labevents", "key": "k"}
    for page_rows in (60, 249, 1000):
        with pytest.raises(ClinicalError, match="null in some rows"):
            read(source(url, entry, page_rows=page_rows))


def test_instants_with_a_zone_are_what_the_server_means(url):
    stamped = read(source(url, {"query": LAB["query"].replace("charttime", "stamped"), "time": "stamped"}))
    assert [event["time_us"] for event in stamped] == [event["time_us"] for event in read(source(url))]


def test_a_time_that_is_none_is_refused_and_the_others_are_read(url):
    strange = "SELECT *, CASE row_id WHEN 10 THEN 'infinity' WHEN 20 THEN '-infinity' WHEN 30 THEN '0044-03-15 BC' "
    strange += "WHEN 40 THEN '20000-01-01' ELSE charttime END AS at FROM labevents"
    opened = source(url, {"query": strange, "time": "at"})
    assert len(read(opened)) == 246
    assert opened.report.refused == {"unparseable time": 4}


def test_bytes_are_refused_by_the_column_s_name(url):
    with pytest.raises(ClinicalError, match="'raw'"):
        read(source(url, {"query": "SELECT * FROM labevents", "unit": "raw"}))


def test_a_slow_query_is_stopped_and_nothing_of_it_is_told(url):
    slow = f"SELECT a.* FROM labevents a, labevents b, labevents c, labevents d WHERE a.unit <> '{SECRET}'"
    slow += " AND a.row_id + b.valuenum + c.valuenum + d.valuenum < 0"
    with pytest.raises(UnavailableError, match="timeout_seconds") as caught:
        read(source(url, {"query": slow}, timeout_seconds=0.2))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("call", ["nextval('s')", "setval('s', 5)", "length(CAST(pg_sleep(9) AS text))"])
def test_the_session_refuses_what_slips_through_the_check(url, monkeypatch, call):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE IF NOT EXISTS s")
    entry = {"query": f"SELECT l.*, {call} AS x FROM labevents l"}
    with pytest.raises(UnsafeQueryError):
        source(url, entry)
    monkeypatch.setattr(sql_guard, "_forbidden_call", lambda *_: "")
    with pytest.raises((UnsafeQueryError, UnavailableError)):
        read(source(url, entry | {"order_key": "x"}, timeout_seconds=0.2))


def test_errors_name_no_value_no_query_and_no_password(url):
    failing = {"query": f"SELECT *, CAST('{SECRET}' AS integer) AS x FROM labevents"}
    with pytest.raises(ClinicalError, match="SQLSTATE 22P02") as caught:
        read(source(url, failing))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(UnavailableError) as refused:
        read(source(f"postgresql://nobody:{SECRET}@/none?host=/nowhere"))
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_live_table_may_be_changed_between_pages(url):
    batches = source(url, page_rows=50).batches(Scope())
    next(batches)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '1s'")
        connection.execute("VACUUM FULL labevents")
    assert sum(batch.num_rows for batch in batches) == 200


def test_a_cdm_on_a_server_is_a_cdm_in_a_file(url, tmp_path):
    tables = {
        "person": (
            "person_id integer, gender_concept_id integer, year_of_birth int, month_of_birth int, day_of_birth int",
            [(1, 8507, 1950, 3, 4), (2, 8532, 1960, None, None)],
        ),
        "condition_occurrence": (
            "condition_occurrence_id int, person_id int, condition_concept_id int, condition_start_date date, "  # noqa: ISC004
            "condition_start_datetime timestamp, condition_source_concept_id int",
            [(n, 1 + n % 2, 201826, "2020-01-01", "2020-01-01 08:30:00", 35206882) for n in range(1, 40)],
        ),
        "concept": (
            "concept_id integer, vocabulary_id text, concept_code text",
            [(201826, "SNOMED", "44054006"), (35206882, "ICD10CM", "E11.9")],
        ),
    }
    with psycopg.connect(url, autocommit=True) as server, closing(sqlite3.connect(tmp_path / "cdm.db")) as file, file:
        server.execute("CREATE SCHEMA cdm")
        for name, (columns, rows) in tables.items():
            server.execute(f"CREATE TABLE cdm.{name} ({columns})")
            file.execute(f"CREATE TABLE {name} ({columns})")
            server.cursor().executemany(f"INSERT INTO cdm.{name} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
            file.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    site = Site(tmp_path, "Europe/Berlin", {"EHR": url})
    for scope in (Scope(), Scope(codes={"icd10cm": frozenset({"E11.9"})})):
        server = omop.open_source(omop.OmopSettings(name="cdm", dsn="env:EHR", schema="cdm", page_rows=7), site)
        file = omop.open_source(omop.OmopSettings(name="cdm", path="cdm.db"), site)
        given = [sorted(map(repr, read(one, scope))) for one in (server, file)]
        assert given[0] == given[1]
        assert server.report.events == (82 if scope == Scope() else 43)
