"""Every event log keeps the port's promises; what only a database can break is tested below."""

import abc
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.disk import no_file_beyond, tiny_disk
from tests.contracts.postgresql import new_database

from wardround.errors import ConfigError, ConflictError, StorageFullError, UnavailableError
from wardround.storage import schema
from wardround.storage.database import open_database
from wardround.storage.memory import MemoryEventLog

# Streams are new in every example, and each adapter runs the law by itself.
CONTRACT = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
RECEIPT = ("north", "c1", b"accepted")


class EventLogContract(abc.ABC):
    @pytest.fixture
    @abc.abstractmethod
    def log(self): ...

    def test_events_are_read_in_order_and_after_a_seq(self, log):
        log.append("run/a", [b"1", b"2"], after=0)
        log.append("run/a", [b"3"], after=2)
        assert log.read("run/a") == [b"1", b"2", b"3"]
        assert log.read("run/a", after=2) == [b"3"]
        assert log.read("run/a", after=3) == []

    def test_an_unknown_stream_is_empty(self, log):
        assert log.read("run/a") == []

    def test_streams_do_not_mix(self, log):
        log.append("run/a", [b"1"], after=0)
        log.append("run/b", [b"2"], after=0)
        assert log.read("run/a") == [b"1"]

    def test_any_bytes_come_back(self, log):
        events = [b"", bytes(range(256)), b"x" * 300_000]
        log.append("run/a", events, after=0)
        assert log.read("run/a") == events

    def test_the_second_writer_of_a_seq_gets_a_conflict_and_changes_nothing(self, log):
        log.append("run/a", [b"first"], after=0)
        with pytest.raises(ConflictError):
            log.append("run/a", [b"second", b"third"], after=0, receipt=RECEIPT)
        assert log.read("run/a") == [b"first"]
        assert log.receipt("north", "c1") is None

    def test_a_gap_is_a_conflict(self, log):
        with pytest.raises(ConflictError):
            log.append("run/a", [b"2"], after=1)
        assert log.read("run/a") == []

    def test_a_receipt_is_read_back_by_sender_and_command(self, log):
        log.append("run/a", [b"1"], after=0, receipt=RECEIPT)
        assert log.receipt("north", "c1") == b"accepted"
        assert log.receipt("south", "c1") is None
        assert log.receipt("north", "c2") is None

    def test_a_repeated_receipt_is_a_conflict_and_its_events_are_not_added(self, log):
        log.append("run/a", [b"1"], after=0, receipt=RECEIPT)
        with pytest.raises(ConflictError):
            log.append("run/a", [b"2", b"3"], after=1, receipt=("north", "c1", b"other"))
        assert log.read("run/a") == [b"1"]
        assert log.receipt("north", "c1") == b"accepted"

    def test_a_receipt_may_come_without_events(self, log):
        log.append("run/a", [b"1"], after=0)
        log.append("run/a", [], after=1, receipt=RECEIPT)
        assert log.receipt("north", "c1") == b"accepted"
        with pytest.raises(ConflictError):
            log.append("run/a", [], after=0, receipt=("north", "c2", b"stale"))
        assert log.receipt("north", "c2") is None

    def test_streams_are_listed_by_prefix_sorted(self, log):
        for name in ("run/b.10", "run/b.2", "run/B", "study/x", "runaway", "run/é"):
            log.append(name, [b"1", b"2"], after=0)
        assert log.streams("run/") == ["run/B", "run/b.10", "run/b.2", "run/é"]
        assert log.streams("") == sorted(log.streams(""))
        assert len(log.streams("")) == 6
        assert log.streams("run/b.1_%") == []

    @settings(max_examples=10, suppress_health_check=CONTRACT)
    @given(batches=st.lists(st.lists(st.binary(max_size=9), max_size=4), max_size=6), stream=st.uuids().map(str))
    def test_appended_batches_read_back_as_one_list(self, log, batches, stream):
        written = []
        for batch in batches:
            log.append(stream, batch, after=len(written))
            written += batch
        assert [log.read(stream, after=after) for after in range(len(written) + 1)] == [
            written[after:] for after in range(len(written) + 1)
        ]


class DurableEventLogContract(EventLogContract):
    @pytest.fixture
    @abc.abstractmethod
    def url(self): ...

    @pytest.fixture
    def log(self, url):
        with open_database(url) as database:
            yield database.event_log

    def test_what_was_appended_is_there_after_reopening(self, url):
        with open_database(url) as database:
            database.event_log.append("run/a", [b"1"], after=0, receipt=RECEIPT)
        with open_database(url) as database:
            assert database.event_log.read("run/a") == [b"1"]
            assert database.event_log.receipt("north", "c1") == b"accepted"

    def test_of_many_writers_at_once_exactly_one_writes_each_seq(self, url):
        with open_database(url) as one, open_database(url) as two, ThreadPoolExecutor(8) as threads:

            def write(number):
                log, won = (one, two)[number % 2].event_log, 0
                for after in range(10):
                    try:
                        log.append("run/a", [b"%d" % number], after=after, receipt=(f"s{number}", f"c{after}", b""))
                        won += 1
                    except ConflictError:
                        assert log.receipt(f"s{number}", f"c{after}") is None
                return won

            assert sum(threads.map(write, range(8))) == len(one.event_log.read("run/a")) <= 10

    def test_the_migrated_schema_is_the_one_in_the_program(self, url):
        open_database(url).close()
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
            assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == schema.HEAD
        engine.dispose()

    def test_a_database_of_a_newer_program_is_refused(self, url):
        open_database(url).close()
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(ConfigError, match="9999"):
            open_database(url)

    def test_replicas_may_start_at_once_on_an_empty_database(self, url):
        with ThreadPoolExecutor(4) as threads:
            for database in list(threads.map(lambda _: open_database(url), range(4))):
                database.close()


class TestMemory(EventLogContract):
    @pytest.fixture
    def log(self):
        return MemoryEventLog()


class TestSqlite(DurableEventLogContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/hub.db"


class TestPostgresql(DurableEventLogContract):
    @pytest.fixture
    def url(self):
        return new_database()


def test_a_locked_database_is_unavailable_and_loses_nothing(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db", timeout_seconds=0.01) as database:
        log = database.event_log
        log.append("run/a", [b"1"], after=0)
        other = sqlite3.connect(tmp_path / "hub.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError) as caught:
            log.append("run/a", [b"2"], after=1, receipt=RECEIPT)
        assert not isinstance(caught.value, ConflictError)
        assert log.read("run/a") == [b"1"]  # readers are not held up
        other.execute("ROLLBACK")
        other.close()
        log.append("run/a", [b"2"], after=1, receipt=RECEIPT)
        assert log.read("run/a") == [b"1", b"2"]


def test_a_locked_row_in_postgresql_is_unavailable_and_loses_nothing():
    url = new_database()
    with open_database(url, timeout_seconds=0.05) as database:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as other:
            other.execute(schema.events.insert(), {"stream": "run/a", "seq": 1, "body": b"theirs"})
            with pytest.raises(UnavailableError) as caught:
                database.event_log.append("run/a", [b"ours"], after=0)
            assert not isinstance(caught.value, ConflictError)
            other.rollback()
        engine.dispose()
        database.event_log.append("run/a", [b"ours"], after=0)
        assert database.event_log.read("run/a") == [b"ours"]


def test_a_lost_connection_to_postgresql_is_unavailable_and_then_made_anew():
    url = new_database()
    with open_database(url) as database:
        database.event_log.append("run/a", [b"1"], after=0)
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as other:
            others = sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            other.execute(others)
        engine.dispose()
        with pytest.raises(UnavailableError):
            database.event_log.append("run/a", [b"2"], after=1)
        database.event_log.append("run/a", [b"2"], after=1)
        assert database.event_log.read("run/a") == [b"1", b"2"]


def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError):
        open_database(f"postgresql://nobody@/none?host={tmp_path}")


def _append_until_full(log):
    for written in itertools.count():
        try:
            log.append("run/a", [b"x" * 50_000], after=written, receipt=("north", f"c{written}", b"y"))
        except StorageFullError:
            return written
    return None


def _fill(log):
    written = _append_until_full(log)
    assert log.read("run/a") == [b"x" * 50_000] * written
    assert log.receipt("north", f"c{written}") is None
    return written


def test_a_file_size_limit_is_a_full_disk_and_loses_nothing(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db") as database:
        with no_file_beyond(1_000_000):
            written = _fill(database.event_log)
        assert written > 3
        database.event_log.append("run/a", [b"later"], after=written)
        assert database.event_log.read("run/a", after=written) == [b"later"]


def test_a_full_disk_loses_nothing(tmp_path):
    with tiny_disk(tmp_path, 2_000_000):
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * 300_000)
        with open_database(f"sqlite:///{tmp_path}/hub.db") as database:
            written = _fill(database.event_log)
            ballast.unlink()
            database.event_log.append("run/a", [b"later"], after=written)
            assert database.event_log.read("run/a", after=written) == [b"later"]


def test_an_append_survives_sigkill_right_after_it_returns(tmp_path):
    program = (
        "import os, sys\n"
        "from wardround.storage.database import open_database\n"
        "log = open_database(sys.argv[1]).event_log\n"
        "log.append('run/a', [b'1', b'2'], after=0, receipt=('north', 'c1', b'accepted'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    url = f"sqlite:///{tmp_path}/hub.db"
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == -9
    with open_database(url) as database:
        assert database.event_log.read("run/a") == [b"1", b"2"]
        assert database.event_log.receipt("north", "c1") == b"accepted"


def test_sqlite_runs_as_promised_and_is_private(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/state/hub.db") as database:
        with database.event_log._connections.reading() as connection:
            pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in _PRAGMAS]
        database.event_log.append("run/a", [b"1"], after=0)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert dict(zip(_PRAGMAS, pragmas, strict=True)) == _PRAGMAS
    assert modes == {0o600}


def test_a_new_database_file_has_its_write_ahead_log_before_it_has_its_name(tmp_path, monkeypatch):
    # Two processes that turn to WAL at once do not wait for one another: one of them would fail.
    seen, link = [], os.link
    monkeypatch.setattr(os, "link", lambda made, path: (seen.append(made.read_bytes()[18:20]), link(made, path)))
    open_database(f"sqlite:///{tmp_path}/hub.db").close()
    assert seen == [b"\x02\x02"]  # the file format's read and write version: 2 is WAL
    assert [path.name for path in tmp_path.iterdir()] == ["hub.db"]


_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


@pytest.mark.parametrize("url", ["", "hub.db", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d", "x://"])
def test_other_urls_are_refused_without_repeating_their_secrets(url):
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "hub.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(ConfigError):
        open_database(f"sqlite:///{tmp_path}/hub.db")


def test_an_error_names_no_value(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db") as database:
        database.event_log.append("run/a", [b"patient-17"], after=0, receipt=("north", "c1", b""))
        with pytest.raises(ConflictError) as caught:
            database.event_log.append("run/a", [b"patient-17"], after=1, receipt=("north", "c1", b"patient-18"))
    assert "patient" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_threads_of_one_process_take_turns(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/hub.db", timeout_seconds=30) as database:

        def write(name):
            for after in range(50):
                database.event_log.append(name, [b"x"], after=after)

        threads = [threading.Thread(target=write, args=(f"run/{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(database.event_log.read(name)) for name in database.event_log.streams("run/")] == [50] * 8
