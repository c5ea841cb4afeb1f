"""What every record source promises, asked of CSV, Parquet, SQLite and a real PostgreSQL server."""

import abc
import os
import shutil
import sqlite3
import subprocess
import tempfile
import traceback
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.errors import (
    ClinicalError,
    ColumnTypeError,
    MissingColumnError,
    TooFewRecordsError,
    UnavailableError,
    UnitMismatchError,
    UnsafeQueryError,
)
from wardround.node.loading import ProcessSource
from wardround.sources import mapping

SECRET = "Xanthippe-4711"
ODD = 8152.5
CONTRACT = DataContract(
    columns=(
        Column(name="age", unit="a", minimum=0, maximum=120),
        Column(name="glucose", unit="mg/dL", missing="mean"),
        Column(name="sex", kind="category", categories=("male", "female")),
        Column(name="smoker", kind="boolean", missing="mean"),
    ),
    label=Label(name="diabetes"),
    min_records=3,
    holdout=0.25,
)
GOOD = {
    "age": [50, 61, 130, 44, 70],
    "glucose": [5.0, None, 6.0, 7.0, 10.0],
    "gender": ["M", "F", "F", "M", "F"],
    "smoker": [1, 0, 1, None, 1],
    "diabetes": [0, 1, 1, 0, None],
    "remark": [SECRET, "a; b", 'she said "no"', "two\nlines", None],
}
COLUMNS = """
[columns.glucose]
unit = "mmol/L"
molar_mass = 180.0
[columns.sex]
from = "gender"
values = { "M" = "male", "F" = "female" }
"""


def told(error):
    return "".join(traceback.format_exception(error))


def first(records, **changed):
    return {name: cells[:records] for name, cells in {**GOOD, **changed}.items()}


class RecordSourceContract(abc.ABC):
    """Tests that each source's class below inherits; `typed`: the source knows a number from a text."""

    typed = True

    @abc.abstractmethod
    def write(self, folder: Path, columns: dict[str, list]) -> str:
        """Put the records where the source finds them, and give the mapping's settings."""

    @abc.abstractmethod
    def nowhere(self, folder: Path) -> str:
        """The settings of a mapping to a source that does not answer."""

    @pytest.fixture
    def load(self, tmp_path):
        def load(columns, contract=CONTRACT, extra=COLUMNS, settings=""):
            text = self.write(tmp_path, columns) + settings + extra
            return mapping.open_source(mapping.load(text), tmp_path, self.environ()).load(contract)

        return load

    def environ(self):
        return {}

    def test_records_come_in_the_contract_s_columns_order_units_and_dtypes(self, load):
        table = load(GOOD)
        expected = [[50, 90, 1, 0, 1], [61, np.nan, 0, 1, 0], [44, 126, 1, 0, np.nan]]
        np.testing.assert_allclose(table.features, expected, rtol=1e-6)
        assert table.labels.tolist() == [0, 1, 0]
        assert (table.features.dtype, table.labels.dtype, table.held_out.dtype) == (np.float32, np.float32, np.bool_)
        assert table.held_out.sum() == 1

    def test_what_was_read_is_reported_in_counts(self, load):
        report = load(GOOD).report
        assert (report.read, report.used, report.dropped) == (5, 3, 2)
        assert report.implausible == {"age": 1}
        assert report.missing == {"glucose": 1, "smoker": 1, "diabetes": 1}

    def test_loading_twice_gives_the_same_table(self, load):
        one, other = load(GOOD), load(GOOD)
        np.testing.assert_array_equal(one.features, other.features)
        assert one.held_out.tolist() == other.held_out.tolist()

    def test_one_class_alone_still_loads(self, load):
        assert load(first(4, diabetes=[1, 1, 1, 1])).labels.tolist() == [1, 1, 1]

    def test_zero_records_are_too_few(self, load):
        with pytest.raises(TooFewRecordsError, match=r"0 of 0 records .* at least 3"):
            load(first(0))

    def test_fewer_than_the_minimum_are_too_few(self, load):
        with pytest.raises(TooFewRecordsError, match=r"2 of 2 records .* at least 3"):
            load(first(2))

    def test_a_missing_column_is_named_with_what_there_is(self, load):
        columns = {name: cells for name, cells in GOOD.items() if name != "gender"}
        with pytest.raises(MissingColumnError, match=r"'sex' \(as 'gender'\).*'glucose'") as caught:
            load(columns)
        assert SECRET not in told(caught.value)

    def test_another_unit_is_refused_by_column(self, load):
        with pytest.raises(UnitMismatchError, match=r"'glucose'.*'kg'.*'mg/dL'"):
            load(GOOD, extra=COLUMNS.replace("mmol/L", "kg"))

    def test_text_in_a_numeric_column_is_counted_and_never_shown(self, load):
        with pytest.raises(ColumnTypeError, match="'age': 2 of 5 cells") as caught:
            load({**GOOD, "age": ["50", SECRET, "61", SECRET, None]})
        assert SECRET not in told(caught.value)

    def test_an_unmapped_category_is_counted_and_never_shown(self, load):
        with pytest.raises(ColumnTypeError, match="'sex': 1 of 5 cells") as caught:
            load({**GOOD, "gender": ["M", "F", SECRET, "F", "M"]})
        assert SECRET not in told(caught.value)

    def test_a_text_that_means_no_value_is_missing(self, load):
        table = load({**GOOD, "glucose": ["5", "?", "-9", "7", "10"]}, settings='missing = ["?", "-9"]\n')
        assert table.report.missing["glucose"] == 2

    def test_more_records_than_allowed_are_refused_not_cut(self, load):
        with pytest.raises(ClinicalError, match="records"):
            load(GOOD, settings="max_records = 4\n")

    def test_a_number_keeps_its_precision_to_float32(self, load):
        table = load(first(4, age=[50.123456, 61.5, 70.0, 1e-3]))
        assert table.features[:, 0].tolist() == [np.float32(x) for x in (50.123456, 61.5, 70.0, 1e-3)]

    @pytest.mark.parametrize("kind", ["texts", "numbers"])
    def test_records_with_one_identifier_are_one_patient_s(self, load, kind):
        who = [SECRET, "b", SECRET, "?", None] if kind == "texts" else [9007199254740993, 2, 9007199254740993, -9, None]
        cells = {**GOOD, "age": [50, 61, 30, 44, 70], "diabetes": [0, 1, 1, 0, 1], "mrn": who}
        contract = msgspec.structs.replace(CONTRACT, patient="who", min_records=1, holdout=0.5)
        extra = COLUMNS + '[columns.who]\nfrom = "mrn"\n'
        table = load(cells, contract, extra, settings='missing = ["?", "-9"]\n')
        assert table.patients.tolist() == [0, 1, 0]
        assert (table.patients.dtype, table.report.patients) == (np.int32, 2)
        assert table.report.missing["who"] == 2
        assert table.held_out[0] == table.held_out[2] != table.held_out[1]
        assert SECRET not in repr(table) + repr(table.report)

    def test_a_number_that_names_no_patient_is_never_shown(self, load):
        cells, contract = {**GOOD, "mrn": [1.0, 2.0, ODD, 3.0, 4.0]}, msgspec.structs.replace(CONTRACT, patient="mrn")
        if not self.typed:
            assert load(cells, contract).report.patients == 3
            return
        with pytest.raises(ColumnTypeError, match="'mrn': 1 of 5 cells") as caught:
            load(cells, contract)
        assert str(ODD) not in told(caught.value)

    def test_a_source_that_does_not_answer_is_unavailable(self, tmp_path):
        source = mapping.open_source(mapping.load(self.nowhere(tmp_path)), tmp_path, self.environ())
        with pytest.raises(UnavailableError) as caught:
            source.load(CONTRACT)
        assert SECRET not in told(caught.value)
        assert caught.value.__context__ is None


class TestCsv(RecordSourceContract):
    typed = False

    def write(self, folder, columns):
        pa.csv.write_csv(pa.table(columns), folder / "records.csv")
        return 'kind = "csv"\npath = "records.csv"\n'

    def nowhere(self, folder):
        return f'kind = "csv"\npath = "{SECRET}.csv"\n'


class TestParquet(RecordSourceContract):
    def write(self, folder, columns):
        pa.parquet.write_table(pa.table(columns), folder / "records.parquet", row_group_size=2)
        return 'kind = "parquet"\npath = "records.parquet"\n'

    def nowhere(self, folder):
        return f'kind = "parquet"\npath = "{SECRET}.parquet"\n'


class TestSqlite(RecordSourceContract):
    def write(self, folder, columns):
        path = folder / "records.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE patient ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO patient VALUES ({marks})", zip(*columns.values(), strict=True))
        return 'kind = "sqlite"\npath = "records.db"\nquery = "SELECT * FROM patient ORDER BY rowid"\n'

    def nowhere(self, folder):
        return f'kind = "sqlite"\npath = "{SECRET}.db"\nquery = "SELECT 1 AS age"\n'


@pytest.fixture(scope="session")
def postgres_server():
    """A throw-away server of this test session, on a socket in its own folder."""
    found = shutil.which("pg_ctl") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed: no pg_ctl on the path or in /usr/lib/postgresql")
    tools = Path(found).resolve().parent
    with tempfile.TemporaryDirectory(prefix="wardround-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # The server refuses to run as root, so root hands it to an account without rights.
        user = "nobody" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        options = f"-F -k {folder} -c listen_addresses=''"

        def run(*command):
            subprocess.run(
                command,
                user=user,
                cwd=folder,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                timeout=120,
            )

        run(tools / "initdb", "-D", data, "-A", "trust", "-U", "owner", "--no-sync", "-E", "UTF8")
        run(tools / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            with psycopg.connect(f"host={folder} dbname=postgres user=owner") as connection:
                connection.execute("CREATE ROLE reader LOGIN")
            yield f"host={folder} dbname=postgres"
        finally:
            run(tools / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


@pytest.mark.processes
class TestPostgres(RecordSourceContract):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_server):
        self.server = postgres_server
        self.owner(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO reader;"
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader"
        )

    def owner(self, statement, rows=()):
        with psycopg.connect(f"{self.server} user=owner") as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            if rows:
                cursor.executemany(f"INSERT INTO patient VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)

    def environ(self):
        return {
            "DSN": f"{self.server} user=reader password={SECRET}",
            "OWNER": f"{self.server} user=owner",
            "NOWHERE": f"host=/nonexistent/{SECRET} password={SECRET}",
        }

    def write(self, folder, columns):
        numbers = {
            "glucose": "numeric",
            "mrn": "bigint" if set(map(type, columns.get("mrn", ()))) <= {int, type(None)} else "float8",
        }
        kinds = {
            name: "text" if any(isinstance(c, str) for c in cells) else numbers.get(name, "float8")
            for name, cells in columns.items()
        }
        self.owner("DROP TABLE IF EXISTS patient")
        rows = list(zip(*columns.values(), strict=True))
        self.owner(f"CREATE TABLE patient ({', '.join(f'{name} {kind}' for name, kind in kinds.items())})", rows)
        return 'kind = "postgresql"\ndsn = "env:DSN"\nquery = "SELECT * FROM patient"\n'

    def nowhere(self, folder):
        return 'kind = "postgresql"\ndsn = "env:NOWHERE"\nquery = "SELECT 1 AS age"\n'

    def source(self, query, dsn="OWNER", timeout_seconds=60.0):
        text = f"kind = 'postgresql'\ndsn = 'env:{dsn}'\ntimeout_seconds = {timeout_seconds}\nquery = '''{query}'''\n"
        return mapping.open_source(mapping.load(text + COLUMNS), Path(), self.environ())

    def test_every_value_type_of_the_database_reads_as_what_it_is(self):
        self.owner("CREATE TABLE patient (age int, glucose numeric, gender varchar, smoker boolean, diabetes smallint)")
        self.owner("INSERT INTO patient SELECT 40 + i, 5.5, 'M', i % 2 = 0, i % 2 FROM generate_series(1, 25000) AS i")
        table = self.source("SELECT * FROM patient", "DSN").load(CONTRACT)
        assert table.report.read == 25_000
        assert table.features[0].tolist() == [41, 99, 1, 0, 0]

    @pytest.mark.parametrize(
        ("type_", "refused"), [("uuid", False), ("numeric", False), ("date", True), ("boolean", True)]
    )
    def test_an_identifier_may_be_of_any_type_that_names_a_patient(self, type_, refused):
        one, other = {
            "uuid": ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b811-9dad-11d1-80b4-00c04fd430c8"),
            "numeric": ("123456789012345678901", "123456789012345678902"),
            "date": ("1947-11-04", "1947-11-05"),
            "boolean": ("true", "false"),
        }[type_]
        self.owner(f"CREATE TABLE patient (mrn {type_})", [(one,), (other,), (one,), (None,)])
        source = self.source(
            "SELECT 1 AS age, 5 AS glucose, 'M' AS gender, 1 AS smoker, 1 AS diabetes, mrn FROM patient"
        )
        contract = msgspec.structs.replace(CONTRACT, patient="mrn")
        if refused:
            with pytest.raises(ColumnTypeError, match="'mrn': 3 of 4 cells"):
                source.load(contract)
        else:
            assert source.load(contract).patients.tolist() == [0, 1, 0]

    @pytest.mark.parametrize("how", ["a function that writes", "the session's own settings"])
    def test_the_server_itself_refuses_what_slips_through_the_check(self, how):
        self.owner("CREATE TABLE log (x int)")
        body = (
            "INSERT INTO log VALUES (1)"
            if how == "a function that writes"
            else "SET LOCAL transaction_read_only = off; INSERT INTO log VALUES (1)"
        )
        self.owner(f"CREATE FUNCTION innocent() RETURNS int LANGUAGE plpgsql AS 'BEGIN {body}; RETURN 1; END'")
        with pytest.raises(ClinicalError):
            self.source("SELECT innocent() AS age, 5 AS glucose, 'M' AS gender, 1 AS smoker, 1 AS diabetes").load(
                CONTRACT
            )
        with psycopg.connect(f"{self.server} user=owner") as connection:
            assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)

    def test_a_query_that_takes_too_long_is_stopped(self):
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 - i FROM n)"
        endless += "SELECT count(*) AS age, 5 AS glucose, 'M' AS gender, 1 AS smoker, 1 AS diabetes FROM n"
        with pytest.raises(UnavailableError, match="timeout_seconds"):
            self.source(endless, timeout_seconds=0.05).load(CONTRACT)

    def test_a_cast_that_fails_on_a_value_does_not_show_it(self):
        self.owner("CREATE TABLE patient (age text)", [(SECRET,)])
        with pytest.raises(ClinicalError, match="InvalidTextRepresentation") as caught:
            self.source(
                "SELECT age::int AS age, 5 AS glucose, 'M' AS gender, 1 AS smoker, 1 AS diabetes FROM patient", "DSN"
            ).load(CONTRACT)
        assert SECRET not in told(caught.value)

    def test_a_table_that_the_role_may_not_read_is_refused(self):
        self.owner("CREATE TABLE patient (age int); REVOKE ALL ON patient FROM reader")
        with pytest.raises(ClinicalError, match="InsufficientPrivilege"):
            self.source("SELECT age FROM patient", "DSN").load(CONTRACT)

    def test_sql_that_writes_is_refused_before_the_server_sees_it(self):
        with pytest.raises(UnsafeQueryError):
            self.source("DELETE FROM patient")


@pytest.mark.processes
def test_patients_come_out_of_the_process_that_reads_as_numbers(tmp_path):
    cells = {**GOOD, "age": [50, 61, 30, 44, 70], "diabetes": [0, 1, 1, 0, 1], "mrn": [SECRET, "b", SECRET, None, "c"]}
    text = TestCsv().write(tmp_path, cells) + COLUMNS
    (tmp_path / "mapping.toml").write_text(text)
    contract = msgspec.structs.replace(CONTRACT, patient="mrn")
    direct = mapping.open_source(mapping.load(text), tmp_path, {}).load(contract)
    table = ProcessSource(tmp_path / "mapping.toml").load(contract)
    assert table.patients.tolist() == direct.patients.tolist() == [0, 1, 0, 2]
    assert table.held_out.tolist() == direct.held_out.tolist()
    np.testing.assert_array_equal(table.features, direct.features)
    assert table.report == direct.report
    (tmp_path / "mapping.toml").write_text(text.replace("records.csv", "others.csv"))
    pa.csv.write_csv(pa.table({**cells, "held": [1, 1, 0, 1, 0]}), tmp_path / "others.csv")
    divided = msgspec.structs.replace(contract, holdout_column="held")
    with pytest.raises(ClinicalError, match="'held': 1 of 3 patients") as caught:
        ProcessSource(tmp_path / "mapping.toml").load(divided)
    assert SECRET not in told(caught.value)
