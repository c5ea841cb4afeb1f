"""The trail: durable before it returns, times that never go back, persons who can be forgotten; who used what."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.audit.logs import NOW, Clock, memory_log, policy

from wardround.audit import entry as entries
from wardround.audit import verification
from wardround.audit.entry import ClockSetBack, DataAccess, Login, LogStarted
from wardround.errors import AuditError, CodecError, CryptoError, UnavailableError
from wardround.services.accounting import disclosures, read_entries
from wardround.services.audit_trail import AuditTrail, Person, Pseudonymizer
from wardround.storage.memory import MemoryVault
from wardround.system import SystemEntropy

JANE = Person("jane.doe@arran.example")
STUDY = "cd" * 32


class Counted:
    """Bytes that differ from one draw to the next."""

    def __init__(self):
        self.count = 0

    def draw(self, size):
        self.count += 1
        return self.count.to_bytes(size, "big")


@pytest.fixture
def vault():
    return MemoryVault()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return memory_log(clock=clock)


@pytest.fixture
def trail(log, clock, vault):
    return AuditTrail(log, clock, "arran", Pseudonymizer(vault, Counted()))


def written(log):
    return [entries.decode(data) for data in log.read(0, log.size)]


def test_an_event_is_there_with_its_time_and_actor(trail, log):
    assert trail.record(LogStarted("1"), study=STUDY, run=f"{STUDY}.1") == 0
    (found,) = written(log)
    assert (found.at, found.actor, found.study, found.run) == (NOW * 1000, "arran", STUDY, f"{STUDY}.1")
    assert trail.record(LogStarted("1"), actor="hub") == 1
    assert written(log)[1].actor == "hub"


def test_a_clock_that_was_set_back_is_recorded_and_not_trusted(trail, log, clock):
    trail.record(LogStarted("1"))
    clock.at -= 60
    assert trail.record(LogStarted("2")) == 2
    trail.record(LogStarted("3"))
    clock.at += 120
    trail.record(LogStarted("4"))
    clock.at -= 5
    trail.record(LogStarted("5"))
    found = written(log)
    first, later = NOW * 1000, NOW * 1000 + 60_000
    assert [entry.at for entry in found] == [first, first, first, first, later, later, later]
    steps = [entry.event for entry in found if isinstance(entry.event, ClockSetBack)]
    assert steps == [ClockSetBack(first, first - 60_000), ClockSetBack(later, later - 5000)]
    log.publish()
    assert verification.verify_log(log.file, policy(())).problems == ()


def test_a_trail_that_starts_again_remembers_the_time(trail, log, clock, vault):
    trail.record(LogStarted("1"))
    clock.at -= 3600
    AuditTrail(log, clock, "arran", Pseudonymizer(vault, Counted())).record(LogStarted("2"))
    assert isinstance(written(log)[1].event, ClockSetBack)


def test_a_log_of_another_program_is_not_continued(log, clock, vault):
    log.enqueue([b"not an entry"])()
    with pytest.raises(AuditError):
        AuditTrail(log, clock, "arran", Pseudonymizer(vault, Counted()))


def test_what_cannot_be_written_raises_and_so_does_what_breaks_a_rule(trail, log, monkeypatch):
    with pytest.raises(CodecError):
        trail.record(Login("accepted", "free text"))
    assert log.size == 0

    def fail(_entries):
        raise UnavailableError("the disk is gone")

    monkeypatch.setattr(log, "enqueue", fail)
    with pytest.raises(UnavailableError):
        trail.record(LogStarted("1"))


def test_a_wait_that_fails_fails_the_record(trail, log, monkeypatch):
    def wait():
        raise UnavailableError("the disk is gone")

    monkeypatch.setattr(log, "enqueue", lambda _entries: wait)
    with pytest.raises(UnavailableError):
        trail.record(LogStarted("1"))


def test_threads_record_in_the_order_of_their_times(log, vault):
    class Running:
        def __init__(self):
            self.ticks = 0

        def now(self):
            self.ticks += 1
            return NOW + self.ticks / 1000

    trail = AuditTrail(log, Running(), "arran", Pseudonymizer(vault, SystemEntropy()))
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(lambda _: trail.record(LogStarted("1")), range(200)))
    assert sorted(places) == list(range(200))
    times = [entry.at for entry in written(log)]
    assert times == sorted(times)
    assert not any(isinstance(entry.event, ClockSetBack) for entry in written(log))


def test_a_person_is_a_pseudonym_and_the_name_is_in_no_entry(trail, log, vault):
    trail.record(Login("accepted", "passkey"), actor=JANE)
    trail.record(Login("ended", "passkey"), actor=JANE)
    trail.record(Login("accepted", "passkey"), actor=Person("john@arran.example"))
    one, two, other = (entry.actor for entry in written(log))
    assert one == two != other
    assert b"jane" not in b"".join(log.read(0, 3))
    assert Pseudonymizer(vault, Counted()).name_of(one) == JANE.name
    assert "jane" not in repr(JANE) + str(JANE)


def test_a_person_whose_key_is_destroyed_is_nobody_and_the_log_verifies_bit_for_bit(trail, log, vault):
    trail.record(Login("accepted", "passkey"), actor=JANE)
    signed, held = log.publish(), log.read(0, 1)
    persons = Pseudonymizer(vault, Counted())
    before = entries.decode(held[0]).actor
    assert persons.destroy(JANE) == before
    assert persons.name_of(before) is None
    assert persons.destroy(JANE) is None
    assert not [name for name in vault.names("audit/") if name != "audit/index-key"]
    assert (log.publish(), log.read(0, 1)) == (signed, held)
    assert verification.verify_log(log.file, policy(())).problems == ()


def test_a_person_who_comes_back_is_somebody_new(vault):
    entropy = Counted()
    persons = Pseudonymizer(vault, entropy)
    before = persons.pseudonym(JANE)
    persons.destroy(JANE)
    assert persons.pseudonym(JANE) != before


def test_two_processes_give_one_person_one_pseudonym(vault):
    assert Pseudonymizer(vault, Counted()).pseudonym(JANE) == Pseudonymizer(vault, Counted()).pseudonym(JANE)

    class Late(MemoryVault):
        """Another process adds the key between the look and the add."""

        def add(self, name, value):
            if self.get(name) is None:
                super().put(name, bytes(32))
            super().add(name, value)

    late = Late()
    assert Pseudonymizer(late, Counted()).pseudonym(JANE) == Pseudonymizer(late, Counted()).pseudonym(JANE)


def test_a_damaged_key_and_an_endless_name_are_refused(vault):
    vault.put("audit/index-key", b"short")
    with pytest.raises(CryptoError):
        Pseudonymizer(vault, Counted()).pseudonym(JANE)
    for name in ("", "x" * 513):
        with pytest.raises(CodecError):
            Pseudonymizer(MemoryVault(), Counted()).pseudonym(Person(name))


def test_the_accounting_is_read_from_the_open_log(trail, log):
    trail.record(DataAccess("icu", "training", records=800), study=STUDY)
    log.publish()
    log.enqueue([b"of another program"])()
    trail.record(DataAccess("icu", "training", records=900), study=STUDY)
    (line,) = disclosures(log, dataset="icu")
    assert (line.reads, line.records, line.study) == (2, 900, STUDY)
    assert disclosures(log, since=(NOW + 1) * 1000) == []
    assert [index for index, _ in read_entries(log, 1)] == [2]
