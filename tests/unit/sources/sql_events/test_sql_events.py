"""Databases as event sources: pages that lose nothing, pushed down or not, and never more than reading."""

import sqlite3
import traceback
from contextlib import closing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import (
    ClinicalError,
    ConfigError,
    MissingColumnError,
    UnavailableError,
    UnsafeQueryError,
)
from wardround.harmonization.events import Scope
from wardround.sources import sql_connections, sql_events, sql_guard
from wardround.sources.site import Site
from wardround.sources.sql_paging import Pace

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


def lab(count):
    return [
        (10 * row, f"P{row % 7}", f"20{row % 90 + 10}-01-01 10:00:00", 50900 + row % 3, row / 2, "mg/dL")
        for row in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    make(tmp_path, lab(250))
    return tmp_path


def make(folder, rows, kinds="row_id, subject_id TEXT, charttime TEXT, itemid, valuenum REAL, unit TEXT"):
    path = folder / "ehr.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE labevents ({kinds})")
        connection.executemany("INSERT INTO labevents VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE TABLE secret (name)")
        connection.execute("INSERT INTO secret VALUES (?)", (SECRET,))
        connection.execute("CREATE VIEW recent AS SELECT subject_id, itemid FROM labevents")


def source(folder, entry=None, zone="Europe/Berlin", **settings):
    table = {"kind": "sqlite", "name": "lab", "path": "ehr.db", "events": [LAB | (entry or {})], **settings}
    return sql_events.open_source(msgspec.convert(table, sql_events.SqliteSettings), Site(folder, zone))


def read(source, scope=EVERYTHING):
    return [event for batch in source.batches(scope) for event in batch.to_pylist()]


def told(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("page_rows", [1, 2, 7, 29, 30, 31, 1000])
def test_every_row_is_read_once_however_the_pages_fall(folder, page_rows):
    make(folder, lab(30))
    opened = source(folder, page_rows=page_rows)
    events = read(opened)
    assert [event["row"] for event in events] == list(range(30))
    assert [event["number"] for event in events] == [row / 2 for row in range(30)]
    assert opened.report.read == opened.report.events == 30
    assert opened.report.snapshot["events 1: last key"] == "290"
    assert read(opened) == events


@settings(max_examples=25)
@given(
    keys=st.lists(st.integers(0, 9), max_size=7),
    page_rows=st.integers(1, 5),
)
def test_two_rows_of_one_key_are_noticed_wherever_the_page_ends(tmp_path_factory, keys, page_rows):
    folder = tmp_path_factory.mktemp("keys")
    make(folder, [(key, "P", "2020-01-01", 1, 1.0, "g") for key in keys])
    opened = source(folder, page_rows=page_rows)
    if len(set(keys)) == len(keys):
        assert len(read(opened)) == len(keys)
    else:
        with pytest.raises(ClinicalError, match="twice"):
            read(opened)


@pytest.mark.parametrize("place", [0, 120, 249])
def test_a_row_without_a_key_is_not_lost_without_a_word(folder, place):
    rows = lab(250)
    rows[place] = (None, *rows[place][1:])
    make(folder, rows)
    with pytest.raises(ClinicalError, match="null in some rows"):
        read(source(folder, page_rows=100))


def test_a_key_may_be_a_text_but_not_a_fraction(folder):
    make(folder, [(f"K{row[0]:05d}", *row[1:]) for row in lab(50)])
    assert len(read(source(folder, page_rows=7))) == 50
    make(folder, [(row[0] + 0.5, *row[1:]) for row in lab(50)])
    with pytest.raises(ClinicalError, match="neither a whole number nor a text"):
        read(source(folder, page_rows=7))


def test_rows_that_go_while_they_are_read_are_noticed(folder):
    batches = source(folder, page_rows=100).batches(Scope())
    next(batches)
    with closing(sqlite3.connect(folder / "ehr.db")) as connection, connection:
        connection.execute("DELETE FROM labevents WHERE row_id = 990")
    with pytest.raises(UnavailableError, match="changed"):
        list(batches)


def test_a_live_file_is_not_held_between_pages(folder):
    batches = source(folder, page_rows=10).batches(Scope())
    next(batches)
    with closing(sqlite3.connect(folder / "ehr.db", timeout=0)) as connection, connection:
        connection.execute("INSERT INTO labevents VALUES (99990, 'P', '2020-01-01', 1, 7.5, 'g')")
    assert [event["number"] for batch in batches for event in batch.to_pylist()][-1] == 7.5


def test_without_a_key_the_query_is_ordered_or_refused(folder):
    with pytest.raises(ConfigError, match="ORDER BY"):
        source(folder, {"key": ""})
    ordered = LAB["query"] + " ORDER BY row_id DESC"
    assert read(source(folder, {"key": "", "query": ordered}))[0]["number"] == 124.5


@pytest.mark.parametrize("entry", [{}, {"key": "", "query": LAB["query"] + " ORDER BY row_id"}])
def test_more_rows_than_allowed_are_refused(folder, entry):
    with pytest.raises(ClinicalError, match="max_rows, 249"):
        read(source(folder, entry, max_rows=249, page_rows=100))
    assert len(read(source(folder, entry, max_rows=250, page_rows=100))) == 250


@pytest.mark.parametrize("key", ["row_id", ""])
def test_a_query_that_explodes_is_cut(folder, key):
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS row_id, 'P' AS subject_id, "
        "'2020-01-01' AS charttime, 1 AS itemid, 1.0 AS valuenum, 'g' AS unit FROM n"
    )
    entry = {"query": endless + ("" if key else " ORDER BY i LIMIT 5000000"), "key": key}
    with pytest.raises((ClinicalError, UnavailableError), match=r"max_rows|timeout"):
        read(source(folder, entry, max_rows=5000, page_rows=1000, timeout_seconds=0.3))


def test_a_query_that_takes_too_long_is_stopped(folder):
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS row_id FROM n"
    with pytest.raises(UnavailableError, match="timeout_seconds"):
        read(
            source(
                folder,
                {"query": slow, "patient": "", "time": "", "code": "row_id", "number": "", "unit": ""},
                timeout_seconds=0.05,
            )
        )


@pytest.mark.parametrize("kinds", ["INTEGER", "TEXT", "REAL", ""])
@pytest.mark.parametrize("code", ["50901", "50901.0", " 50901 ", 50901, 50901.0])
def test_codes_are_narrowed_in_the_database_as_they_are_here(folder, kinds, code):
    rows = [(row[0], *row[1:3], code if row[3] == 50901 else row[3], *row[4:]) for row in lab(60)]
    make(folder, rows, f"row_id, subject_id TEXT, charttime TEXT, itemid {kinds}, valuenum REAL, unit TEXT")
    for codes in ({"50901"}, {"50901", "nonsense"}, {"50901*"}, {str(n) for n in range(50001, 51901)}):
        opened = source(folder)
        events = read(opened, Scope(codes={"local:lab": frozenset(codes)}))
        everything = [
            event
            for event in read(source(folder))
            if Scope(codes={"local:lab": frozenset(codes)}).wants("local:lab", event["code"])
        ]
        assert [event["number"] for event in events] == [event["number"] for event in everything]
        assert (opened.report.read < 60) == (len(codes) < 3 and "50901*" not in codes)


def test_a_table_of_which_nothing_is_wanted_is_not_read(folder):
    opened = source(folder)
    assert read(opened, Scope(codes={"loinc": frozenset({"2093-3"})})) == []
    assert opened.report.read == 0


def test_since_is_bound_and_leaves_nothing_out_that_is_wanted(folder):
    entry = {"query": LAB["query"] + " WHERE charttime >= :since"}
    since = 3155760000_000000
    opened = source(folder, entry)
    events = read(opened, Scope(since_us=since))
    assert events
    assert [event["number"] for event in events] == [
        event["number"] for event in read(source(folder), Scope(since_us=since))
    ]
    assert opened.report.read < 250
    assert len(read(source(folder, entry))) == 250
    for instant in (-(2**62), 2**62):
        read(source(folder, entry), Scope(since_us=instant))


@pytest.mark.parametrize("name", [":until", "?", ":p0", ":last", "@a", "$1"])
def test_no_other_parameter_is_taken(folder, name):
    with pytest.raises((UnsafeQueryError, ClinicalError)):
        read(source(folder, {"query": LAB["query"] + f" WHERE charttime >= {name}"}))


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM labevents",
        "SELECT 1; DROP TABLE labevents",
        "SELECT row_id FROM labevents) AS x; DELETE FROM labevents; --",
        "SELECT row_id FROM labevents) UNION SELECT name FROM secret --",
        "SELECT row_id FROM labevents /*",
        "SELECT load_extension('a')",
        "WITH d AS (DELETE FROM labevents RETURNING row_id) SELECT * FROM d",
    ],
)
def test_a_query_that_does_more_than_read_is_refused_before_anything_is_opened(folder, query):
    with pytest.raises(UnsafeQueryError):
        source(folder, {"query": query})


def test_a_trailing_comment_does_not_swallow_what_follows(folder):
    assert len(read(source(folder, {"query": LAB["query"] + " -- all of them"}, page_rows=100))) == 250


def test_only_the_listed_columns_are_read_and_sqlite_says_so_itself(folder, monkeypatch):
    allow = {"labevents": ["row_id", "subject_id", "charttime", "itemid", "valuenum", "unit"]}
    assert len(read(source(folder, allow=allow))) == 250
    narrow = {"labevents": ["row_id", "subject_id", "charttime", "itemid", "unit"]}
    with pytest.raises(UnsafeQueryError, match="valuenum"):
        source(folder, allow=narrow)
    union = {"query": LAB["query"] + " UNION ALL SELECT 1, name, '2020-01-01', 1, 1.0, name FROM secret"}
    with pytest.raises(UnsafeQueryError, match="secret"):
        source(folder, union, allow=allow)
    monkeypatch.setattr(sql_guard, "check_allowed", lambda *_: None)
    for entry, allowed in (({}, narrow), (union, allow), ({"query": "SELECT name AS row_id FROM secret"}, allow)):
        with pytest.raises(UnsafeQueryError, match="SQLITE_AUTH"):
            read(source(folder, entry, allow=allowed))


def test_a_listed_view_may_read_what_it_is_made_of(folder):
    entry = {
        "query": "SELECT subject_id, itemid FROM recent ORDER BY subject_id",
        "key": "",
        "time": "",
        "number": "",
        "unit": "",
    }
    assert len(read(source(folder, entry, allow={"recent": ["subject_id", "itemid"]}))) == 250


def test_a_column_that_the_query_does_not_give_is_named(folder):
    with pytest.raises(MissingColumnError, match="'valueuom'"):
        read(source(folder, {"unit": "valueuom"}))


def test_nothing_of_a_row_or_a_query_is_told(folder):
    make(folder, [(1, SECRET, SECRET, 1, 1.0, SECRET)])
    with closing(sqlite3.connect(folder / "ehr.db")) as connection, connection:
        connection.execute("UPDATE labevents SET unit = CAST(x'ff' || ? AS TEXT)", (SECRET,))
    for entry in ({}, {"query": f"SELECT '{SECRET}' AS a FROM nowhere", "key": "a"}):
        with pytest.raises(ClinicalError) as caught:
            read(source(folder, entry))
        assert SECRET not in told(caught.value)
    opened = source(folder, {"unit": "", "number": ""})
    read(opened)
    assert SECRET not in repr(opened.report)


def test_bytes_in_a_column_are_refused_by_its_name(folder):
    make(folder, [(1, b"\x00\xff", "2020-01-01", 1, 1.0, "g")], "row_id, subject_id, charttime, itemid, valuenum, unit")
    with pytest.raises(ClinicalError, match="'subject_id'"):
        read(source(folder))


def test_cells_of_several_types_in_one_column_stay_what_they_are(folder):
    rows = [(row, 7 if row % 2 else "7", "2020-01-01", 50912.0 if row % 3 else 50912, row, None) for row in range(2500)]
    make(folder, rows, "row_id INTEGER, subject_id, charttime, itemid, valuenum, unit")
    events = read(source(folder, page_rows=2200))
    assert {(event["patient"], event["code"]) for event in events} == {("7", "50912")}
    assert [event["number"] for event in events] == list(range(2500))


def test_the_pace_is_kept_and_the_first_second_is_free():
    now, waited = [0.0], []

    def wait(seconds):
        waited.append(seconds)
        now[0] += seconds

    pace = Pace(100, lambda: now[0], wait)
    for _ in range(10):
        pace.spend(50)
    assert now[0] == pytest.approx(4.0)
    now[0] += 100.0
    waited.clear()
    pace.spend(100)
    assert not waited
    Pace(None, lambda: now[0], wait).spend(10**9)


def test_a_source_reads_no_faster_than_it_may(folder):
    now, waited = [0.0], []

    def wait(seconds):
        waited.append(seconds)
        now[0] += seconds

    table = {"kind": "sqlite", "name": "lab", "path": "ehr.db", "events": [LAB], "page_rows": 49, "rows_per_second": 50}
    opened = sql_events.SqlEvents(
        msgspec.convert(table, sql_events.SqliteSettings), Site(folder, "UTC"), clock=lambda: now[0], wait=wait
    )
    assert len(read(opened)) == 250
    assert now[0] >= 200 / 50


def test_a_file_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="CANTOPEN"):
        read(source(tmp_path))


def test_a_connection_that_reads_cannot_write_even_without_the_check(folder):
    refused = []
    with sql_connections.open_sqlite(folder / "ehr.db", refused, timeout_seconds=1.0) as connection:
        for statement in ("DELETE FROM labevents", "ATTACH ':memory:' AS b", "PRAGMA query_only = OFF"):
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute(statement)
    assert len(refused) == 3


def test_ibis_insists_on_a_list(tmp_path):
    pytest.importorskip("ibis")
    pytest.importorskip("duckdb")
    allow = {"labevents": ["row_id", "subject_id", "charttime", "itemid", "valuenum", "unit"]}
    table = {"kind": "ibis", "name": "lab", "url": "env:EHR_URL", "events": [LAB], "allow": allow}
    site = Site(tmp_path, "Europe/Berlin", {"EHR_URL": f"duckdb://{tmp_path}/ehr.duckdb"})
    with pytest.raises(ConfigError, match="allow"):
        sql_events.open_source(msgspec.convert(table | {"allow": {}}, sql_events.IbisSettings), site)
    for query in ("SELECT name AS row_id FROM secret", "SELECT row_id FROM labevents WHERE getenv('HOME') = 'x'"):
        refused = msgspec.convert(table | {"events": [LAB | {"query": query}]}, sql_events.IbisSettings)
        with pytest.raises(UnsafeQueryError, match=r"secret|getenv"):
            sql_events.open_source(refused, site)
    opened = sql_events.open_source(msgspec.convert(table, sql_events.IbisSettings), site)
    with pytest.raises(UnavailableError, match="CatalogException"):
        read(opened)


def test_ibis_speaks_to_duckdb_with_a_bound_moment(tmp_path):
    pytest.importorskip("ibis")
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "ehr.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE labevents AS SELECT i AS row_id, 'P' || i % 7 AS subject_id, TIMESTAMP '2020-01-01' "
            "+ INTERVAL (i) DAY AS charttime, 50900 + i % 3 AS itemid, i / 2 AS valuenum, 'g' AS unit "
            "FROM range(100) t(i)"
        )
    allow = {"labevents": ["row_id", "subject_id", "charttime", "itemid", "valuenum", "unit"]}
    entry = LAB | {"query": LAB["query"] + " WHERE charttime >= :since"}
    table = {"kind": "ibis", "name": "lab", "url": "env:EHR_URL", "events": [entry], "allow": allow, "page_rows": 9}
    site = Site(tmp_path, "Europe/Berlin", {"EHR_URL": f"duckdb://{tmp_path}/ehr.duckdb?read_only=True"})
    opened = sql_events.open_source(msgspec.convert(table, sql_events.IbisSettings), site)
    assert len(read(opened)) == 100
    opened = sql_events.open_source(msgspec.convert(table, sql_events.IbisSettings), site)
    scope = Scope(codes={"local:lab": frozenset({"50901"})}, since_us=1580511600_000000)
    assert [event["number"] for event in read(opened, scope)] == [row / 2 for row in range(31, 100) if row % 3 == 1]
