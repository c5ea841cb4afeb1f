"""The mapping file: what it may say, and that a secret in it is refused without being shown."""

import re
import traceback
from pathlib import Path

import pytest

from wardround.errors import ConfigError, UnsafeQueryError
from wardround.sources import mapping

SECRET = "hunter2-4711"
DSN = f"postgresql://reader:{SECRET}@db.example/clinic"
CSV = 'kind = "csv"\npath = "records.csv"\n'
SQLITE = 'kind = "sqlite"\npath = "records.db"\nquery = "SELECT age FROM patient"\n'
POSTGRES = 'kind = "postgresql"\ndsn = "env:CLINIC_DSN"\nquery = "SELECT age FROM patient"\n'
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "mapping.md"


def told(error):
    return "".join(traceback.format_exception(error))


def test_a_full_mapping_says_where_each_column_is():
    text = f"""{CSV}
delimiter = ";"
missing = ["", "?", "-9"]
max_records = 1000
[columns.age]
from = "alter"
[columns.glucose]
unit = "mmol/L"
molar_mass = 180.156
[columns.sex]
values = {{ "1" = "male", "2" = "female" }}
"""
    read = mapping.load(text)
    assert (read.kind, read.path, read.delimiter, read.max_records) == ("csv", "records.csv", ";", 1000)
    assert read.missing == ("", "?", "-9")
    assert read.columns["age"].source == "alter"
    assert (read.columns["glucose"].source, read.columns["glucose"].unit) == ("", "mmol/L")
    assert read.columns["glucose"].molar_mass == 180.156
    assert read.columns["sex"].values == {"1": "male", "2": "female"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "kind"),
        ('kind = "csv', "TOML|line 1|Invalid|Expected|Illegal|Unterminated"),
        ('kind = "excel"\npath = "a"', "enum"),
        ('kind = "csv"', "needs path"),
        ('kind = "sqlite"\npath = "a"', "needs query"),
        ('kind = "postgresql"\nquery = "SELECT 1"', "needs dsn"),
        (CSV + 'query = "SELECT 1"', "no use for query"),
        (CSV + 'dsn = "env:A"', "no use for dsn"),
        (SQLITE + 'delimiter = ";"', "delimiter"),
        (CSV + 'delimiter = ";;"', "delimiter"),
        (CSV + "max_records = 0", "max_records"),
        (CSV + "molar = 1", "molar"),
        (CSV + "[columns.age]\nform = 'alter'", "form"),
        (CSV + "[columns.age]\nmolar_mass = -1.0", "molar_mass|0.0"),
        (SQLITE + "timeout_seconds = inf", "timeout_seconds"),
    ],
)
def test_what_is_wrong_is_named(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        mapping.load(text)


@pytest.mark.parametrize(
    "text",
    [
        POSTGRES.replace("env:CLINIC_DSN", DSN),
        POSTGRES.replace("env:CLINIC_DSN", f"env:{DSN}"),
        POSTGRES.replace("env:CLINIC_DSN", f"file:{DSN}"),
        POSTGRES.replace("env:CLINIC_DSN", f"host=db password={SECRET}"),
        POSTGRES.replace("env:CLINIC_DSN", f"file:host=db password={SECRET}"),
        CSV + f'dsn = "{DSN}"',
        CSV.replace("csv", DSN, 1),
        POSTGRES + f"max_records = '{SECRET}'",
        POSTGRES + f"password {SECRET}",
    ],
)
def test_a_secret_given_by_value_is_refused_and_not_shown(text):
    with pytest.raises(ConfigError) as caught:
        mapping.load(text)
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("value", [None, "", "  ", f"no connection string {SECRET}", f"postgresql://a:{SECRET}@[h"])
def test_a_dsn_that_is_absent_or_malformed_is_refused_and_not_shown(tmp_path, value):
    environ = {} if value is None else {"CLINIC_DSN": value}
    with pytest.raises(ConfigError) as caught:
        mapping.open_source(mapping.load(POSTGRES), tmp_path, environ)
    assert SECRET not in told(caught.value)


def test_a_dsn_comes_from_the_environment_or_a_file(tmp_path):
    (tmp_path / "dsn").write_text(f"{DSN}\n")
    for text in (POSTGRES, POSTGRES.replace("env:CLINIC_DSN", "file:dsn")):
        source = mapping.open_source(mapping.load(text), tmp_path, {"CLINIC_DSN": DSN})
        assert SECRET not in repr(source)
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        mapping.open_source(mapping.load(POSTGRES.replace("env:CLINIC_DSN", "file:absent")), tmp_path, {})


@pytest.mark.parametrize("text", [SQLITE, POSTGRES])
def test_a_query_that_writes_is_refused_when_the_source_is_opened(tmp_path, text):
    text = text.replace("SELECT age FROM patient", "DELETE FROM patient")
    with pytest.raises(UnsafeQueryError):
        mapping.open_source(mapping.load(text), tmp_path, {"CLINIC_DSN": DSN})


def test_opening_touches_nothing_yet(tmp_path):
    for text in (CSV, SQLITE, CSV.replace("csv", "parquet", 1)):
        mapping.open_source(mapping.load(text), tmp_path / "absent", {})


def test_the_reference_page_s_examples_load():
    examples = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert {mapping.load(example).kind for example in examples} == {"csv", "parquet", "sqlite", "postgresql"}
