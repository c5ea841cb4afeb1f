"""Waveforms agree with PhysioNet's own reader to the last bit of float32; a header that lies is refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import waveform, wfdb_record
from wardround.sources.site import Site
from wardround.sources.waveform import WaveformSettings

ROOT = Path(__file__).parents[4]
REAL = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "ecg_wfdb"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the ECG records are not at WARDROUND_DATA")
DATED = "12:30:00.5 01/03/2020"
BEGAN = 1583065800500000


def opened(folder, *, zone="UTC", **settings):
    settings = {"record_name": "{patient}", **settings}
    return waveform.open_source(WaveformSettings(name="ecg", folder=".", **settings), Site(Path(folder), zone))


def read(folder, *, scope=None, **settings):
    source = opened(folder, **settings)
    batches = list(source.batches(scope or Scope()))
    assert all(batch.schema == EVENT for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert source.report.events == len(rows)
    return rows, source


def write(folder, header, data=b"\0" * 100, *, name="r", file="r.dat"):
    (folder / f"{name}.hea").write_text(header, encoding="utf-8")
    (folder / file).write_bytes(data)


def record(folder, channels, form="16", *, length=None, when=DATED, name="r", gain="100(0)/mV", lines=""):
    """A record of interleaved 16-bit samples, and the digits that it holds."""
    digits = np.array(channels, dtype="<i2").T
    signals = "".join(f"{name}.dat {form} {gain} 16 0 0 0 0 Lead {n}\n" for n in range(len(channels)))
    head = f"{name} {len(channels)} 10 {len(digits) if length is None else length} {when}\n"
    write(folder, head + signals + lines, digits.tobytes(), name=name, file=f"{name}.dat")
    return digits


@real
@pytest.mark.parametrize("name", ["100", "100_3chan", "a103l", "s0010_re", "test01_00s", "v102s"])
def test_samples_are_those_of_the_wfdb_package(name):
    wfdb = pytest.importorskip("wfdb")
    head = wfdb_record.header(REAL / f"{name}.hea")
    theirs = wfdb.rdrecord(str(REAL / name))
    assert [one.name for one in head.signals] == theirs.sig_name
    assert [one.unit for one in head.signals] == theirs.units
    assert (head.rate, head.length) == (theirs.fs, theirs.sig_len)
    mine = wfdb_record.samples(REAL, head.signals, 0, head.length)
    assert mine.tobytes() == theirs.p_signal.astype(np.float32).tobytes()
    for start, count in ((1, 7), (3, 500), (head.length - 9, 9)):
        part = wfdb_record.samples(REAL, head.signals, start, count)
        assert part.tobytes() == mine[start : start + count].tobytes()


@real
def test_annotations_are_those_of_the_wfdb_package():
    wfdb = pytest.importorskip("wfdb")
    theirs = wfdb.rdann(str(REAL / "100"), "atr")
    mine = list(wfdb_record.annotations(REAL / "100.atr", 650_000, 360.0))
    assert [one.symbol for one in mine] == theirs.symbol
    assert [one.sample for one in mine] == theirs.sample.tolist()
    assert [one.text for one in mine] == [text.rstrip("\0") for text in theirs.aux_note]


@pytest.mark.parametrize(("form", "bits"), [("16", 16), ("24", 24), ("32", 32), ("80", 8), ("212", 12)])
def test_every_format_is_read_as_the_wfdb_package_wrote_it(tmp_path, form, bits):
    wfdb = pytest.importorskip("wfdb")
    low = -(2 ** (bits - 1)) + 1
    digits = np.array([[low, 0], [-1, 1], [-low, low], [100, -100], [7, 5]])
    described = {"fmt": [form] * 2, "adc_gain": [10.0] * 2, "baseline": [3, -3], "units": ["mV", "mmHg"]}
    wfdb.wrsamp("r", 10, sig_name=["A", "B"], d_signal=digits, write_dir=str(tmp_path), **described)
    head = wfdb_record.header(tmp_path / "r.hea")
    mine = wfdb_record.samples(tmp_path, head.signals, 0, 5)
    assert mine == pytest.approx(((digits - [3, -3]) / 10).astype(np.float32), rel=1e-6)


@pytest.mark.parametrize(("form", "kind", "shift"), [("61", ">i2", 0), ("160", "<u2", 2**15)])
def test_formats_that_the_wfdb_package_only_reads_are_read_alike(tmp_path, form, kind, shift):
    wfdb = pytest.importorskip("wfdb")
    digits = np.array([[-32767, 0], [-1, 1], [32767, -5]])
    lines = f"r.dat {form} 10(3)/mV 16 0 0 0 0 A\nr.dat {form} 10(-3)/mV 16 0 0 0 0 B\n"
    write(tmp_path, "r 2 10 3\n" + lines, (digits + shift).astype(kind).tobytes())
    head = wfdb_record.header(tmp_path / "r.hea")
    mine = wfdb_record.samples(tmp_path, head.signals, 0, 3)
    assert mine == pytest.approx(((digits - [3, -3]) / 10).astype(np.float32), rel=1e-6)
    assert mine == pytest.approx(wfdb.rdrecord(str(tmp_path / "r")).p_signal, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_annotations_written_by_the_wfdb_package_come_back(tmp_path, seed):
    wfdb = pytest.importorskip("wfdb")
    random = np.random.default_rng(seed)  # noqa: TID251, seeded
    at = np.cumsum(random.integers(1, 5000, 50))
    symbols = [str(one) for one in random.choice(list("NVALR+~"), 50)]
    texts = [str(one) for one in random.choice(["", "(AFIB", "a longer text", "x"], 50)]
    wfdb.wrann("r", "atr", at, symbols, aux_note=texts, write_dir=str(tmp_path), fs=360)
    mine = list(wfdb_record.annotations(tmp_path / "r.atr", 10**7, 360.0))
    assert [(one.sample, one.symbol, one.text) for one in mine] == list(zip(at.tolist(), symbols, texts, strict=True))
    assert list(wfdb_record.annotations(tmp_path / "r.atr", 10**7, 250.0)) == ["annotations in another time resolution"]


def test_windows_are_events_with_their_time_unit_and_array(tmp_path):
    digits = record(tmp_path, [range(25), range(100, 125)])
    rows, source = read(tmp_path, seconds=1, sets={"both": ("LEAD 1", "lead 0")})
    assert [(row["code"], row["array"], row["time_us"]) for row in rows] == [
        (code, f"r:{code}:{start}", BEGAN + start * 100_000)
        for start in (0, 10)
        for code in ("lead 0", "lead 1", "both")
    ]
    assert {(row["system"], row["unit"], row["patient"], row["precision"]) for row in rows} == {("wfdb", "mV", "r", 6)}
    arrays = dict(source.arrays([row["array"] for row in rows]))
    assert arrays["r:lead 0:10"].tolist() == (digits[10:20, :1] / 100).astype(np.float32).tolist()
    assert arrays["r:both:0"].tolist() == (digits[:10, ::-1] / 100).astype(np.float32).tolist()
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_a_set_that_a_record_lacks_gives_no_event_and_two_leads_of_one_name_give_none(tmp_path):
    record(tmp_path, [range(5), range(5)])
    path = tmp_path / "r.hea"
    path.write_text(path.read_text().replace("Lead 1", "LEAD 0"), encoding="utf-8")
    rows, source = read(tmp_path, sets={"both": ("lead 0", "lead 1")})
    assert rows == []
    assert source.report.refused == {"two leads of one name": 1}


def test_the_value_that_means_missing_is_nan(tmp_path):
    record(tmp_path, [[-32768, 1]])
    _, source = read(tmp_path)
    ((_, array),) = source.arrays(["r:lead 0:0"])
    assert np.isnan(array[:, 0]).tolist() == [True, False]


def test_a_record_without_a_date_has_no_time_and_without_a_zone_is_refused(tmp_path):
    record(tmp_path, [range(5)], when="")
    rows, source = read(tmp_path)
    assert [row["time_us"] for row in rows] == [None]
    assert source.report.noted == {"record without a date": 1}
    record(tmp_path, [range(5)])
    assert read(tmp_path, zone=None)[1].report.refused == {"naive time without a declared zone": 1}
    record(tmp_path, [range(5)], when="25:00:00 01/03/2020")
    assert read(tmp_path)[1].report.refused == {"unparseable time": 1}


def test_a_comment_may_say_whose_the_record_is(tmp_path):
    record(tmp_path, [range(5)], lines="# Patient: 17\n# Age: 4\n")
    rows, _ = read(tmp_path, record_name="", patient_comment="patient")
    assert [row["patient"] for row in rows] == ["17"]
    record(tmp_path, [range(5)], lines="# Patient: 17\n# Patient: 18\n")
    _, source = read(tmp_path, record_name="", patient_comment="patient")
    assert source.report.refused == {"record without a patient": 1}


LINE = "r.dat 16 100/mV 16 0 0 0 0 I\n"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "empty file"),
        ("r\n", "malformed header"),
        ("r 1 10 5\n", "malformed header"),
        ("r 0 10 5\n", "malformed header"),
        ("r 1 0 5\n" + LINE, "malformed header"),
        ("r 1 -10 5\n" + LINE, "malformed header"),
        ("r 1 1e9 5\n" + LINE, "malformed header"),
        ("r 9999 10 5\n" + LINE, "malformed header"),
        ("r 2 10 5\nr.dat 16 100/mV\nr.dat 212 100/mV\n", "malformed header"),
        ("r 3 10 5\n" + LINE + "s.dat 16 100/mV\n" + LINE, "malformed header"),
        ("r/2 1 10 5\n" + LINE, "record of several segments"),
        ("r 1 10 1000000000\n" + LINE, "signal file shorter than its header says"),
        ("r 1 10 51\n" + LINE, "signal file shorter than its header says"),
        ("r 1 10\n" + LINE.replace(" 16 ", " 16+100 ", 1), "signal file shorter than its header says"),
        ("r 1 10 5\n" + LINE.replace(" 16 ", " 8 ", 1), "signal format that is not read"),
        ("r 1 10 5\n" + LINE.replace(" 16 ", " 16x4 ", 1), "signal format that is not read"),
        ("r 1 10 5\n" + LINE.replace(" 16 ", " 16:4 ", 1), "signal format that is not read"),
        ("r 1 10 5\n" + LINE.replace("100/mV", "0"), "signal without calibration"),
        ("r 1 10 5\nr.dat 16\n", "signal without calibration"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "gone.dat"), "signal file not there"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "../secret.dat"), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "/etc/passwd"), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE.replace("r.dat", ".."), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "~"), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "link.dat"), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE.replace("r.dat", "pipe.dat"), "header that names a file elsewhere"),
        ("r 1 10 5\n" + LINE + "#" * 300_000, "too large"),
    ],
)
def test_a_header_that_lies_is_refused_and_the_next_record_is_read(tmp_path, header, reason):
    folder = tmp_path / "records"
    folder.mkdir()
    (tmp_path / "secret.dat").write_bytes(b"\0" * 100)
    (folder / "link.dat").symlink_to(tmp_path / "secret.dat")
    os.mkfifo(folder / "pipe.dat")
    write(folder, header)
    record(folder, [range(5)], name="s")
    rows, source = read(folder)
    assert source.report.refused == {reason: 1}
    assert [row["patient"] for row in rows] == ["s"]


def test_too_long_a_window_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(waveform, "_WINDOW_SAMPLES", 4)
    record(tmp_path, [range(5)])
    assert read(tmp_path)[1].report.refused == {"window too long: set seconds": 1}


@pytest.mark.parametrize(
    "name",
    [
        "r:lead 0:1",
        "r:lead 0:10",
        "r:lead 9:0",
        "r:lead 0:-5",
        "r:lead 0",
        "r",
        "",
        "../x/r:lead 0:0",
        "gone:lead 0:0",
        "::",
    ],
)
def test_an_array_that_no_event_named_is_refused(tmp_path, name):
    folder = tmp_path / "records"
    (tmp_path / "x").mkdir()
    folder.mkdir()
    record(folder, [range(12)])
    record(tmp_path / "x", [range(12)])
    with pytest.raises(ClinicalError, match="has not"):
        list(opened(folder, seconds=0.5).arrays([name]))
    with pytest.raises(ClinicalError, match="has not"):
        list(opened(folder, seconds=0.5).arrays([f"{tmp_path}/x/r:lead 0:0"]))
    assert len(list(opened(folder, seconds=0.5).arrays(["r:lead 0:5"]))) == 1


def test_a_file_that_shrinks_between_events_and_arrays_is_unavailable(tmp_path, monkeypatch):
    record(tmp_path, [range(12)])
    source = opened(tmp_path)
    head = wfdb_record.header(tmp_path / "r.hea")
    monkeypatch.setattr(wfdb_record, "header", lambda _: head)
    (tmp_path / "r.dat").write_bytes(b"\0" * 8)
    with pytest.raises(UnavailableError, match="cannot be read now"):
        list(source.arrays(["r:lead 0:0"]))


def words(*pairs):
    return b"".join((kind << 10 | step).to_bytes(2, "little") for kind, step in pairs)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (words((1, 3), (5, 4), (0, 0), (1, 1)), [(3, "N"), (7, "V")]),
        (words((1, 3), (60, 9), (61, 9), (62, 1), (5, 4)), [(3, "N"), (7, "V")]),
        (words((1, 1), (59, 0)) + b"\0\0\x05\0" + words((1, 1)), [(1, "N"), (7, "N")]),
        (words((15, 1)), [(1, "[15]")]),
        (words((0, 5), (63, 1)) + b"x\0" + words((1, 1)), [(6, "N")]),
        (words((1, 500)), ["annotation outside its record"]),
        (words((1, 3), (59, 0)) + b"\xff\xff\0\0" + words((1, 1)), [(3, "N"), "annotation outside its record"]),
        (words((1, 3), (59, 0)), [(3, "N")]),
        (words((1, 3), (63, 1000)) + b"ab", [(3, "N")]),
        (b"\x01", []),
    ],
)
def test_annotation_files_are_read_within_their_bounds(tmp_path, content, expected):
    (tmp_path / "r.atr").write_bytes(content)
    found = list(wfdb_record.annotations(tmp_path / "r.atr", 100, 10.0))
    assert [one if isinstance(one, str) else (one.sample, one.symbol) for one in found] == expected


def test_annotations_are_events_at_their_samples(tmp_path):
    record(tmp_path, [range(100)])
    (tmp_path / "r.atr").write_bytes(words((28, 10), (63, 5)) + b"(AFIB\0" + words((5, 20)))
    rows, _ = read(tmp_path, annotator="atr", scope=Scope(codes={"wfdb-annotation": frozenset({"+", "V"})}))
    assert [(row["code"], row["value"], row["time_us"]) for row in rows] == [
        ("+", "(AFIB", BEGAN + 1_000_000),
        ("V", None, BEGAN + 3_000_000),
    ]
    (tmp_path / "r.atr").unlink()
    assert read(tmp_path, annotator="atr")[1].report.noted == {"record without annotations": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"record_name": ""},
        {"patient_comment": "x"},
        {"record_name": "{record}"},
        {"sets": {"a": ()}},
        {"sets": {"a:b": ("i",)}},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError):
        opened(tmp_path, **settings)


@real
def test_real_records_read_again_are_the_same():
    first, source = read(REAL, seconds=10, annotator="atr", zone="America/New_York")
    again = [row for batch in source.batches(Scope()) for row in batch.to_pylist()]
    assert first == again
    assert source.report.refused == {"signal format that is not read": 1}
    assert sum(row["system"] == "wfdb-annotation" for row in first) == 2274
    assert sum(row["code"] == "mlii" for row in first) == 180
