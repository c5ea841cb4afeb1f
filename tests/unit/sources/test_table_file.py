"""CSV and Parquet files: folders, damage, and column types; the port's own promise is in ``tests/contracts``."""

import traceback

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.errors import ClinicalError, ColumnTypeError, MissingColumnError, UnavailableError
from wardround.sources import mapping

SECRET = "Xanthippe-4711"
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


def opened(folder, kind, path, settings="", columns=COLUMNS):
    text = f'kind = "{kind}"\npath = "{path}"\n{settings}{columns}'
    return mapping.open_source(mapping.load(text), folder, {})


def stored(folder, kind, columns):
    write = pa.csv.write_csv if kind == "csv" else pa.parquet.write_table
    write(pa.table(columns), folder / f"records.{kind}")
    return opened(folder, kind, f"records.{kind}")


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for name in "hcbgadef":
        part = first(1, age=[30 + ord(name)], glucose=[5.0])
        pa.csv.write_csv(pa.table(part), folder / f"{name}.csv")
    (folder / ".hidden.csv").write_text(SECRET)
    (folder / "readme.txt").write_text(SECRET)
    ages = [30 + ord(name) for name in "abcdefgh"]
    plan = msgspec.structs.replace(CONTRACT, columns=(Column(name="age"), *CONTRACT.columns[1:]))
    assert opened(tmp_path, "csv", "many").load(plan).features[:, 0].tolist() == ages
    with pytest.raises(ClinicalError, match=r"file 4 of 8 goes beyond .*: 0 were left"):
        opened(tmp_path, "csv", "many", "max_records = 3\n").load(plan)


def test_a_quoted_line_break_at_the_edge_of_a_block_splits_no_record(tmp_path):
    many = {name: cells[:1] * 60_000 for name, cells in GOOD.items()} | {"remark": ["a\n" * 50] * 60_000}
    many["glucose"] = [float(number % 20 + 1) for number in range(60_000)]
    assert stored(tmp_path, "csv", many).load(CONTRACT).report.used == 60_000


def test_a_delimiter_spaces_and_a_byte_order_mark_do_no_harm(tmp_path):
    lines = ["\ufeffage;glucose;gender;smoker;diabetes", *[f" {n} ; 5.5;M ; true;0" for n in (30, 40, 50)]]
    (tmp_path / "records.csv").write_text("\r\n".join(lines), encoding="utf-8")
    table = opened(tmp_path, "csv", "records.csv", 'delimiter = ";"\n').load(CONTRACT)
    assert table.features[:, 0].tolist() == [30, 40, 50]


@pytest.mark.parametrize(
    "data",
    [b"", f"age,diabetes\n1,0\n{SECRET}\n".encode(), b"age,glucose,gender,smoker,diabetes\n\xff,1,M,1,1\n"],
)
def test_a_damaged_file_is_refused_without_showing_it(tmp_path, data):
    (tmp_path / "records.csv").write_bytes(data)
    source = opened(tmp_path, "csv", "records.csv")
    with pytest.raises(ClinicalError, match="file 1 of 1 is not a readable csv") as caught:
        source.load(CONTRACT)
    assert SECRET not in told(caught.value)
    assert caught.value.__context__ is None


def test_a_file_without_a_header_line_shows_no_cell(tmp_path):
    (tmp_path / "records.csv").write_text(f"{SECRET},63,M\nother,64,F\n")
    source = opened(tmp_path, "csv", "records.csv", columns="")
    with pytest.raises(MissingColumnError, match="header line") as caught:
        source.load(CONTRACT)
    assert SECRET not in told(caught.value)


def test_an_empty_folder_is_unavailable(tmp_path):
    source = opened(tmp_path, "csv", ".")
    with pytest.raises(UnavailableError, match=r"\.csv"):
        source.load(CONTRACT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("age", pa.decimal128(24, 3)), ("age", pa.float32()), ("smoker", pa.bool_()), ("glucose", pa.string())],
)
def test_other_column_types_give_the_same_table(tmp_path, name, kind):
    column = pa.array(GOOD[name])
    column = pa.array([None if x is None else str(x) for x in GOOD[name]]) if kind == pa.string() else column.cast(kind)
    columns = {**GOOD, name: column, "gender": pa.array(GOOD["gender"]).dictionary_encode()}
    table = stored(tmp_path, "parquet", columns).load(CONTRACT)
    assert table.features[:, [0, 2, 3]].tolist() == [[50, 1, 0], [61, 0, 1], [44, 1, 0]]


@pytest.mark.parametrize("kind", [pa.timestamp("ns", tz="UTC"), pa.date32(), pa.duration("s")])
def test_an_instant_is_no_number(tmp_path, kind):
    instants = pa.array([1, 2, None, 4, 5], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    source = stored(tmp_path, "parquet", {**GOOD, "age": instants})
    with pytest.raises(ColumnTypeError, match="'age': 4 of 5"):
        source.load(CONTRACT)


def test_an_instant_in_one_file_of_several_is_no_number_either(tmp_path):
    for name, kind in (("a", pa.int32()), ("b", pa.date32())):
        column = pa.array(GOOD["age"], pa.int32()).cast(kind)
        pa.parquet.write_table(pa.table({**GOOD, "age": column}), tmp_path / f"{name}.parquet")
    source = opened(tmp_path, "parquet", ".")
    with pytest.raises(ColumnTypeError, match="'age': 5 of 10"):
        source.load(CONTRACT)


def test_a_long_code_with_gaps_keeps_its_last_digit(tmp_path):
    codes = ("900000000000207007", "900000000000207008")
    plan = DataContract(
        columns=(Column(name="code", kind="category", categories=codes),), label=Label(name="y"), min_records=1
    )
    source = stored(tmp_path, "parquet", {"code": [int(codes[1]), None], "y": [1, 1]})
    assert source.load(plan).features.tolist() == [[0, 1]]


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "records.parquet").write_text(SECRET * 10)
    source = opened(tmp_path, "parquet", "records.parquet")
    with pytest.raises(ClinicalError, match="not a readable parquet") as caught:
        source.load(CONTRACT)
    assert SECRET not in told(caught.value)
