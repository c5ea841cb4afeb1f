"""Which SQL is admitted, and what stops the SQL that should not have been."""

import sqlite3
import traceback
from contextlib import closing

import psycopg
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.tabulate import Layout
from wardround.errors import ClinicalError, ConfigError, UnavailableError, UnsafeQueryError
from wardround.sources import sql, sql_guard

SECRET = "Xanthippe-4711"
CONTRACT = DataContract(columns=(Column(name="x"),), label=Label(name="y"), min_records=1)


def told(error):
    return "".join(traceback.format_exception(error))


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "a clinic?#.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE patient (x, y)")
        connection.execute("INSERT INTO patient VALUES (1, 1), (2, 0)")
    return path


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT x, y FROM patient",
        "select x, y from patient;",
        "SELECT x FROM a UNION ALL SELECT x FROM b",
        "(SELECT x FROM a) EXCEPT (SELECT x FROM b)",
        "WITH recent AS (SELECT * FROM a WHERE x > 1) SELECT x, count(*) FROM recent GROUP BY x",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
        "SELECT CASE WHEN x IN (1, 2) THEN 'a;b' ELSE coalesce(y, '-- DELETE') END FROM a -- a remark; only",
        "SELECT avg(x) OVER (PARTITION BY y ORDER BY z) FROM a JOIN b USING (id)",
        "SELECT delete_flag, update_time FROM a",
    ],
)
def test_a_select_is_admitted(query, dialect):
    sql_guard.check_query(query, dialect)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        ";",
        "nonsense",
        "SELECT FROM WHERE (",
        "INSERT INTO a VALUES (1)",
        "UPDATE a SET x = 1",
        "DELETE FROM a",
        "DROP TABLE a",
        "CREATE TABLE b AS SELECT * FROM a",
        "ALTER TABLE a ADD b int",
        "TRUNCATE a",
        "VACUUM",
        "PRAGMA query_only = OFF",
        "ATTACH 'b.db' AS b",
        "SET default_transaction_read_only = off",
        "EXPLAIN ANALYZE DELETE FROM a",
        "CALL p()",
        "DO $$ BEGIN END $$",
        "COPY a TO PROGRAM 'sh'",
        "BEGIN; SELECT 1",
        "SELECT 1; DELETE FROM a",
        "SELECT 1; SELECT 2",
        "SELECT 1;; COMMIT; DELETE FROM a",
        "SELECT * INTO b FROM a",
        "SELECT x INTO TEMP b FROM a",
        "SELECT * FROM a FOR UPDATE",
        "SELECT * FROM (SELECT * FROM a FOR SHARE) AS b",
        "WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d",
        "WITH d AS (INSERT INTO a VALUES (1) RETURNING *) SELECT * FROM d",
        "WITH d AS (UPDATE a SET x = 1 RETURNING *) SELECT * FROM d",
        "WITH d AS (SELECT 1) DELETE FROM a",
        "SELECT 1 UNION SELECT (WITH d AS (DELETE FROM a RETURNING x) SELECT x FROM d)",
    ],
)
def test_anything_else_is_refused(query, dialect):
    with pytest.raises(UnsafeQueryError):
        sql_guard.check_query(query, dialect)


@pytest.mark.parametrize(
    "call",
    [
        "pg_read_file('/etc/passwd')",
        "PG_SLEEP(9)",
        "pg_catalog.pg_sleep (9)",
        'pg_catalog . "pg_terminate_backend" /* now */ (1)',
        "lo_import('/etc/passwd')",
        "lo_export(1, '/tmp/a')",
        "set_config('transaction_read_only', 'off', false)",
        "current_setting('x')",
        "nextval('s')",
        "setval('s', 1)",
        "query_to_xml('DELETE FROM a', true, true, '')",
        "ts_stat('SELECT 1')",
        "dblink_exec('host=b', 'DELETE FROM a')",
        "load_extension('a.so')",
        '"load_extension"(1)',
        "readfile('/etc/passwd')",
        "writefile('/tmp/a', x)",
        "zeroblob(1000000000)",
        'U&"\\0070g_sleep"(9)',
    ],
)
def test_a_function_that_reaches_outside_is_refused_in_the_list_in_from_and_below(call):
    for query in (f"SELECT {call}", f"SELECT 1 FROM a WHERE x = (SELECT {call})", f"SELECT * FROM {call} AS t"):
        with pytest.raises(UnsafeQueryError):
            sql_guard.check_query(query, "postgres")


def test_a_table_function_that_reaches_outside_is_refused():
    for query in ("SELECT * FROM dblink('h', 'q') AS t(a int)", "SELECT * FROM ROWS FROM (pg_ls_dir('.')) AS t(a)"):
        with pytest.raises(UnsafeQueryError, match="deny list"):
            sql_guard.check_query(query, "postgres")
    with pytest.raises(UnsafeQueryError, match="deny list"):
        sql_guard.check_query("SELECT * FROM pragma_table_info('a')", "sqlite")


def test_a_refusal_does_not_quote_the_query(caplog):
    for query in (f"DELETE FROM a WHERE x = '{SECRET}'", f"SELECT '{SECRET}' FROM (", f"CALL p('{SECRET}')"):
        with pytest.raises(UnsafeQueryError) as caught:
            sql_guard.check_query(query, "postgres")
        assert SECRET not in told(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM patient",
        "CREATE TABLE b (x)",
        "PRAGMA query_only = OFF",
        "ATTACH ':memory:' AS b",
        "SELECT load_extension('a'), 1 AS y",
        "SELECT zeroblob(10) AS x, 1 AS y",
    ],
)
def test_sqlite_itself_refuses_what_slips_through_the_check(database, monkeypatch, query):
    monkeypatch.setattr(sql, "check_query", lambda query, dialect: None)
    with pytest.raises(UnsafeQueryError, match="SQLITE_"):
        sql.SqliteSource(database, query, Layout()).load(CONTRACT)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM patient").fetchone() == (2,)


def test_a_query_that_takes_too_long_is_stopped(database):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS x, 1 AS y FROM n"
    with pytest.raises(UnavailableError, match="timeout_seconds"):
        sql.SqliteSource(database, endless, Layout(), timeout_seconds=0.01).load(CONTRACT)


def test_an_endless_result_is_cut_at_the_limit(database):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS x, 1 AS y FROM n"
    with pytest.raises(ClinicalError, match="more than the 20000 records"):
        sql.SqliteSource(database, endless, Layout(max_records=20_000)).load(CONTRACT)


def test_a_query_on_columns_that_are_not_there_is_refused_without_quoting_it(database):
    with pytest.raises(ClinicalError, match="SQLITE_ERROR") as caught:
        sql.SqliteSource(database, f"SELECT x, y FROM patient WHERE z = '{SECRET}'", Layout()).load(CONTRACT)
    assert "z" not in str(caught.value).split()
    assert SECRET not in told(caught.value)


def test_text_that_is_not_utf_8_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "clinic.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE patient (x, y)")
        hexadecimal = (SECRET.encode() + b"\xff").hex()
        connection.execute(f"INSERT INTO patient VALUES (CAST(x'{hexadecimal}' AS TEXT), 1)")
    with pytest.raises(ClinicalError) as caught:
        sql.SqliteSource(path, "SELECT x, y FROM patient", Layout()).load(CONTRACT)
    assert SECRET not in told(caught.value)


def test_a_file_that_is_no_database_or_not_there(tmp_path):
    (tmp_path / "text.db").write_text(SECRET * 100)
    with pytest.raises(ClinicalError, match="SQLITE_NOTADB") as caught:
        sql.SqliteSource(tmp_path / "text.db", "SELECT x, y FROM patient", Layout()).load(CONTRACT)
    assert SECRET not in told(caught.value)
    with pytest.raises(UnavailableError, match="SQLITE_CANTOPEN"):
        sql.SqliteSource(tmp_path / "absent.db", "SELECT x, y FROM patient", Layout()).load(CONTRACT)
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError(SECRET), UnavailableError),
        (psycopg.InterfaceError(SECRET), UnavailableError),
        (psycopg.errors.QueryCanceled(SECRET), UnavailableError),
        (psycopg.errors.ReadOnlySqlTransaction(SECRET), UnsafeQueryError),
        (psycopg.errors.UndefinedColumn(SECRET), ClinicalError),
        (psycopg.errors.InsufficientPrivilege(SECRET), ClinicalError),
        (psycopg.errors.DivisionByZero(SECRET), ClinicalError),
        (psycopg.DataError(SECRET), ClinicalError),
    ],
)
def test_a_driver_s_error_says_who_must_act_and_nothing_else(monkeypatch, error, kind):
    def refuse(**_parameters):
        raise error

    monkeypatch.setattr(psycopg, "connect", refuse)
    source = sql.PostgresSource(f"host=db password={SECRET}", "SELECT x, y FROM patient", Layout())
    with pytest.raises(kind) as caught:
        source.load(CONTRACT)
    assert type(caught.value) is kind
    assert SECRET not in told(caught.value)
    assert caught.value.__context__ is None


def test_the_session_s_settings_come_after_the_connection_string_s_own(monkeypatch):
    seen = {}

    def connect(**parameters):
        seen.update(parameters)
        raise psycopg.OperationalError

    monkeypatch.setattr(psycopg, "connect", connect)
    dsn = "host=db options='-c default_transaction_read_only=off'"
    with pytest.raises(UnavailableError):
        sql.PostgresSource(dsn, "SELECT x, y FROM patient", Layout(), timeout_seconds=2.5).load(CONTRACT)
    assert seen["options"].split("-c ")[-2:] == ["default_transaction_read_only=on ", "statement_timeout=2500"]
    assert seen["connect_timeout"] == 10


def test_a_malformed_connection_string_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        sql.PostgresSource(f"host {SECRET}", "SELECT 1", Layout())
    assert SECRET not in told(caught.value)
