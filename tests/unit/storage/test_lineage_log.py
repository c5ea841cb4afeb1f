"""The node's lineage file: chained, durable, whole after a crash, and telling when it was touched."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from wardround.codec import canonical
from wardround.errors import ClinicalError, ConfigError, DigestMismatchError
from wardround.harmonization import lineage
from wardround.harmonization.lineage import LineageRecord
from wardround.storage.lineage_log import LineageLog

A = "a" * 64


def record(number=0, **changes):
    fields = {"site": "hosp-b", "study": A, "contract": A, "mapping": A, "plan": A, "engine": "duckdb 2.0.0"}
    fields |= {"sources": (), "features": (), "records": number, "tensor": A, "at": "2026-11-21T10:00:00Z"}
    return LineageRecord(**{**fields, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lineage.log"


def filled(path, count):
    log = LineageLog(path)
    return [log.append(record(number)) for number in range(count)]


def test_each_record_names_the_one_before(path):
    digests = filled(path, 3)
    records = LineageLog(path).records()
    assert [one.previous for one in records] == [lineage.FIRST, *digests[:2]]
    assert [one.records for one in records] == [0, 1, 2]
    assert LineageLog(path).verify() == digests[-1]
    assert path.stat().st_mode & 0o77 == 0


def test_an_empty_lineage_is_whole(path):
    assert LineageLog(path).verify() == lineage.FIRST
    assert LineageLog(path).verify(last=lineage.FIRST) == lineage.FIRST
    assert LineageLog(path).records() == []


def test_what_a_crash_cut_off_was_never_there(path):
    digests = filled(path, 2)
    whole = path.read_bytes()
    torn = lineage.encode(record(2, previous=digests[-1], sql=("x" * 999,)))
    for size in (1, len(torn) // 2, len(torn)):
        path.write_bytes(whole + torn[:size])
        assert LineageLog(path).verify() == digests[-1]
        found = LineageLog(path).append(record(7))
        assert LineageLog(path).verify() == found
        assert path.read_bytes().endswith(b"}\n")
        assert [one.records for one in LineageLog(path).records()] == [0, 1, 7]


def test_a_torn_first_record_is_replaced(path):
    path.write_bytes(lineage.encode(record())[:40])
    LineageLog(path).append(record(3))
    assert [one.records for one in LineageLog(path).records()] == [3]


def test_every_altered_byte_is_noticed(path):
    filled(path, 2)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 17):
        touched = bytearray(whole)
        touched[place] ^= 1
        path.write_bytes(bytes(touched))
        log = LineageLog(path)
        try:
            last = log.verify()
        except DigestMismatchError:
            continue
        # The last record's own text is vouched for by whoever keeps its digest.
        assert place > whole.index(b"\n")
        assert last != canonical.digest(whole.splitlines()[-1])


def test_records_that_were_cut_off_are_missed_by_who_kept_the_last_digest(path):
    digests = filled(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert LineageLog(path).verify() == digests[1]
    assert LineageLog(path).verify(last=digests[0]) == digests[1]
    with pytest.raises(DigestMismatchError, match="cut off"):
        LineageLog(path).verify(last=digests[2])


def test_nothing_is_added_behind_an_altered_record(path):
    filled(path, 2)
    path.write_bytes(path.read_bytes()[:-2] + b"\n")
    with pytest.raises(DigestMismatchError, match="altered"):
        LineageLog(path).append(record())
    path.write_bytes(b"x" * (3 * canonical.MAX_DOCUMENT_BYTES))
    for ask in (lambda: LineageLog(path).append(record()), LineageLog(path).verify):
        with pytest.raises(DigestMismatchError, match="longer"):
            ask()


def test_a_record_that_cannot_be_written_changes_nothing(path):
    filled(path, 1)
    before = path.read_bytes()
    with pytest.raises(ClinicalError):
        LineageLog(path).append(record(at="yesterday"))
    assert path.read_bytes() == before


def test_records_longer_than_a_piece_are_found(path):
    log = LineageLog(path)
    for number in range(3):
        log.append(record(number, sql=("x" * 200_000,)))
    assert [one.records for one in LineageLog(path).records()] == [0, 1, 2]
    log.verify()


def test_many_at_once_make_one_chain(path):
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(lambda number: LineageLog(path).append(record(number)), range(24)))
    assert LineageLog(path).verify() in digests
    assert sorted(one.records for one in LineageLog(path).records()) == list(range(24))


def test_a_path_that_cannot_be_used_says_so(tmp_path):
    with pytest.raises(ConfigError):
        LineageLog(tmp_path / "no" / "lineage.log").append(record())
    with pytest.raises(ConfigError):
        LineageLog(tmp_path).append(record())
