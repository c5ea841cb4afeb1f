"""A hub's or node's audit log: who writes it, what commands hand in, and that nothing is lost or there twice."""

import pytest

from wardround import auditing
from wardround.audit import verification, witness_policy
from wardround.audit.entry import Deletion, LogStarted, PolicyChange
from wardround.audit.verification import POLICY
from wardround.auditing import Auditing, LogPlace
from wardround.errors import AuditError, CodecError, ConfigError, StorageFullError, UnavailableError
from wardround.services.audit_trail import AuditTrail, Person
from wardround.storage import log_export
from wardround.storage.log_inbox import LogInbox
from wardround.storage.memory import MemoryVault


@pytest.fixture
def place(tmp_path):
    return LogPlace("arran", tmp_path, tmp_path / "state")


@pytest.fixture
def opened(place):
    made = []

    def make(vault=None):
        made.append(Auditing(place, vault or MemoryVault()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def log_of(place):
    """What the folder holds, verified from its files alone."""
    found = []
    with log_export.opened(place.state / "log") as read:
        policy = witness_policy.parse_policy(read(POLICY).decode())
        report = verification.verify_log(read, policy, seen=lambda _, entry: found.append(entry))
    assert report.problems == ()
    return found


def events(place):
    return [entry.event for entry in log_of(place)]


def deletions(place):
    return [event.count for event in events(place) if isinstance(event, Deletion)]


def inbox_of(place):
    return LogInbox(place.state / "log" / ".writer" / "inbox")


def test_who_serves_writes_and_begins_with_its_version(place, opened):
    log = opened()
    log.serve()
    log.record(Deletion("a", 1))
    log.close()
    found = events(place)
    assert isinstance(found[0], LogStarted)
    assert found[1:] == [Deletion("a", 1)]
    assert log_of(place)[1].actor == "arran"


def test_a_command_writes_by_itself_where_nobody_serves(place, opened):
    opened().record(Deletion("a", 1))
    opened().record(Deletion("a", 2))
    assert [type(event) for event in events(place)] == [LogStarted, Deletion, Deletion]
    assert all(entry.slip is None for entry in log_of(place))


def test_what_a_command_hands_in_is_durable_at_once_and_in_the_log_once(place, opened):
    server, command = opened(), opened()
    server.serve()
    command.record(Deletion("a", 1))
    command.record(Deletion("a", 2), actor=Person("Mhairi"))
    assert len(inbox_of(place).waiting()) <= 2
    server.close()
    assert deletions(place) == [1, 2]
    assert inbox_of(place).waiting() == []
    assert log_of(place)[-1].actor.startswith("person:")


def test_what_a_command_decided_stands_before_what_the_server_does_next(place, opened):
    server, command = opened(), opened()
    server.serve()
    for number in range(1, 6):
        command.record(Deletion("decided", number))
        server.record(Deletion("done", number))
    server.close()
    assert deletions(place) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    times = [entry.at for entry in log_of(place)]
    assert times == sorted(times)


def test_a_crash_between_the_log_and_the_box_takes_no_entry_twice(place, opened, monkeypatch):
    server, command = opened(), opened()
    server.serve()
    command.record(Deletion("a", 1))
    with monkeypatch.context() as patched:

        def crash(self, name):
            raise UnavailableError("the power failed")

        patched.setattr(LogInbox, "remove", crash)
        with pytest.raises(UnavailableError):
            server.record(Deletion("a", 2))
        server.close()
    assert len(inbox_of(place).waiting()) == 1
    again = opened()
    again.serve()
    again.record(Deletion("a", 3))
    again.close()
    assert deletions(place) == [1, 3]
    assert inbox_of(place).waiting() == []


def test_what_cannot_be_deleted_is_taken_once_by_the_same_process_too(place, opened, monkeypatch):
    server, command = opened(), opened()
    server.serve()
    command.record(Deletion("a", 1))
    real, failures = LogInbox.remove, [1, 1, 1]

    def failing(self, name):
        if failures:
            failures.pop()
            raise UnavailableError("not now")
        real(self, name)

    monkeypatch.setattr(LogInbox, "remove", failing)
    for _ in range(3):
        try:
            server.record(Deletion("b", 9))
        except UnavailableError:
            continue
    server.close()
    assert deletions(place).count(1) == 1


def test_a_crash_before_the_log_loses_nothing_that_was_handed_in(place, opened, monkeypatch):
    server, command = opened(), opened()
    server.serve()
    with monkeypatch.context() as patched:

        def crash(self, data, slip):
            raise UnavailableError("the power failed")

        patched.setattr(AuditTrail, "adopt", crash)
        command.record(Deletion("a", 1))
        server.close()
    assert deletions(place) == []
    opened().record(Deletion("a", 2))
    assert deletions(place) == [1, 2]


def test_nonsense_in_the_box_is_put_aside_and_stops_nobody(place, opened):
    server = opened()
    server.serve()
    inbox = inbox_of(place)
    for number, data in enumerate([b"nonsense", b"{}", b"\xff" * 100, b'{"at":1,"event":{"kind":"newer"}}']):
        inbox.put(data, f"{number:032x}", 1.0)
    server.record(Deletion("a", 1))
    server.close()
    assert deletions(place) == [1]
    folder = place.state / "log" / ".writer" / "inbox"
    assert len([path for path in folder.iterdir() if path.suffix == ".refused"]) == 4


def test_a_full_box_stops_the_action(place, opened, monkeypatch):
    server, command = opened(), opened()
    server.serve()
    monkeypatch.setattr(LogInbox, "put", lambda *_: (_ for _ in ()).throw(StorageFullError("full")))
    with pytest.raises(StorageFullError):
        command.record(Deletion("a", 1))


def test_a_log_has_one_writer(place, opened, monkeypatch):
    monkeypatch.setattr(auditing, "_PATIENCE_SECONDS", 0.1)
    opened().serve()
    with pytest.raises(ConfigError, match="another process"):
        opened().serve()


def test_who_does_not_serve_has_no_log_to_show(opened):
    with pytest.raises(UnavailableError):
        _ = opened().log


def test_nothing_is_recorded_by_a_closed_server_unnoticed(place, opened):
    server = opened()
    server.serve()
    server.close()
    server.record(Deletion("a", 1))
    assert deletions(place) == [1]


def test_an_older_copy_of_the_state_is_not_continued(place, opened):
    opened().record(Deletion("a", 1))
    kept = {path: path.read_bytes() for path in (place.state / "log").rglob("*") if path.is_file()}
    opened().record(Deletion("a", 2))
    for path in (place.state / "log").rglob("*"):
        if path.is_file():
            path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    with pytest.raises(AuditError, match="rolled back"):
        opened().serve()


def test_lost_keys_do_not_begin_another_log(place, opened):
    opened().record(Deletion("a", 1))
    (place.folder / "keys" / "log.key").unlink()
    with pytest.raises(AuditError):
        opened().record(Deletion("a", 2))


def test_keys_are_made_once_and_for_their_owner_only(place):
    first = [auditing.signers(place, kind) for kind in ("log", "witness")]
    again = [auditing.signers(place, kind) for kind in ("log", "witness")]
    assert [[signer.key for signer in signers] for signers in first] == [[s.key for s in signers] for signers in again]
    assert [signer.key.algorithm for signers in first for signer in signers] == [1, 6, 4, 6]
    assert first[0][0].key.name.startswith("arran.")
    assert {path.stat().st_mode & 0o077 for path in (place.folder / "keys").iterdir()} == {0}
    path = place.folder / "keys" / "log.key"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others"):
        auditing.signers(place, "log")
    path.chmod(0o600)
    path.write_bytes(b"x" * 63)
    with pytest.raises(ConfigError, match="64"):
        auditing.signers(place, "log")


def test_a_policy_is_recorded_when_it_is_another_one(place, opened):
    log = opened()
    for digest in ("a" * 64, "a" * 64, "b" * 64):
        log.policy("site", digest)
    found = [event for event in events(place) if isinstance(event, PolicyChange)]
    assert found == [PolicyChange("site", "a" * 64), PolicyChange("site", "b" * 64, "a" * 64)]


def test_who_is_forgotten_is_in_the_log_as_nobody(place, opened):
    vault = MemoryVault()
    log = opened(vault)
    log.record(Deletion("a", 1), actor=Person("Mhairi"))
    actor = log_of(place)[-1].actor
    assert log.pseudonyms.name_of(actor) == "Mhairi"
    assert log.forget(Person("Mhairi")) == actor
    assert log.pseudonyms.name_of(actor) is None
    assert events(place)[-1] == Deletion("person-key")
    log.record(Deletion("a", 2), actor=Person("Mhairi"))
    assert log_of(place)[-1].actor != actor
    assert log.forget(Person("never seen")) is None


def test_a_person_without_a_name_is_refused(opened):
    with pytest.raises(CodecError):
        opened().record(Deletion("a", 1), actor=Person(""))
