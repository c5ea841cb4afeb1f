"""The database in volatile memory: nothing goes in or out but what the caller hands it."""

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tests.unit.sources.fhir import views

from wardround.errors import ConfigError
from wardround.harmonization import memory_database

pytestmark = views.needs_duckdb


@pytest.fixture
def database():
    return memory_database.open_memory_database()


def refused(database, sql):
    with pytest.raises(memory_database.duckdb().Error) as caught:
        database.execute(sql).fetchall()
    return str(caught.value)


def test_no_file_is_read(database, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("name\nXanthippe-4711\n", encoding="utf-8")
    for sql in (
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_json('{secret}')",
        f"SELECT * FROM read_parquet('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"IMPORT DATABASE '{tmp_path}'",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
    ):
        assert "Xanthippe" not in refused(database, sql)


def test_no_file_is_written(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sql in (
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"EXPORT DATABASE '{tmp_path}/all'",
        f"ATTACH '{tmp_path}/other.db'",
        f"ATTACH 'file:{tmp_path}/other.db' AS other",
    ):
        refused(database, sql)
    assert list(tmp_path.iterdir()) == []


def test_too_much_fails_instead_of_spilling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = memory_database.open_memory_database(memory_limit_bytes=48 * 1024 * 1024)
    refused(database, "SELECT sum(hash(r)) FROM (SELECT hash(a) AS r FROM range(20000000) t(a) ORDER BY r)")
    assert list(tmp_path.iterdir()) == []
    assert database.execute("SELECT current_setting('temp_directory')").fetchall() == [("",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SET memory_limit = '64GB'",
        "SET temp_directory = '/tmp/spill'",
        "SET enable_external_access = true",
        "SET python_enable_replacements = true",
        "RESET memory_limit",
        "PRAGMA enable_logging",
        "INSTALL httpfs",
        "LOAD httpfs",
    ],
)
def test_no_statement_opens_it_again(database, sql):
    refused(database, sql)


def test_python_variables_are_not_tables(database):
    mine = pa.table({"a": [1]})
    assert mine.num_rows == 1
    assert "does not exist" in refused(database, "SELECT * FROM mine")
    database.register("handed_over", mine)
    assert database.execute("SELECT a FROM handed_over").fetchall() == [(1,)]


def test_two_databases_are_two(database):
    database.execute("CREATE TABLE t AS SELECT 1")
    assert "does not exist" in refused(memory_database.open_memory_database(), "SELECT * FROM t")


def test_a_missing_duckdb_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match="pip install"):
        memory_database.open_memory_database()


def test_nothing_of_it_is_in_the_working_folder():
    assert not [path for path in Path().iterdir() if path.suffix in {".tmp", ".duckdb", ".wal"}]
