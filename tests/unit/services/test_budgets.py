"""Budgets in a vault: two writers never both get the last of one, and nothing that was spent is forgotten unnoticed."""

import shutil
import sqlite3
import threading
from contextlib import closing, suppress

import pytest

from wardround.errors import BudgetExceededError, ConfigError, LedgerError, PolicyError, UnavailableError
from wardround.privacy.ledger_entry import Committed, Granted, Released, Reserved
from wardround.privacy.mechanisms import Gaussian, SampledGaussian
from wardround.services import participant
from wardround.services.budgets import Budgets
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.memory import MemoryVault
from wardround.storage.vault import SealedVault

KEY = bytes(range(32))
STUDY, OTHER = "ab" * 32, "cd" * 32
RUN, SECOND = f"{STUDY}.1", f"{OTHER}.1"
NOISE = Gaussian(noise_multiplier=5.0)
TRAIN = {"train": (NOISE, 3)}
HEAD = "budget.records.patient.head"
ANCHOR = "budget-records-patient"


class SetClock:
    def __init__(self, now=1000.0):
        self.time = now

    def now(self):
        return self.time


def name(seq):
    return f"budget.records.patient.{seq:010d}"


def budgets_of(vault, anchor=None, clock=None):
    return Budgets("records", vault=vault, clock=clock or SetClock(), anchor=anchor)


def granted(vault, anchor=None, epsilon=3.0):
    made = budgets_of(vault, anchor)
    made.grant("patient", epsilon, 1e-5, person="steward", reason="so decided")
    return made


def spending(vault, anchor=None):
    made = granted(vault, anchor)
    made.reserve("patient", RUN, STUDY, TRAIN)
    for key in "ab":
        made.commit("patient", RUN, "train", key)
    return made


@pytest.fixture
def vault():
    return MemoryVault()


@pytest.fixture
def anchor():
    return MemoryVault()


def test_a_study_reserves_spends_and_lets_go(vault, anchor):
    made = spending(vault, anchor)
    status = made.status("patient")
    assert (status.epsilon, status.delta, status.order, status.entries) == (3.0, 1e-5, 7.5, 4)
    assert status.spent > status.reserved > 0
    assert status.spent + status.reserved + status.remaining == pytest.approx(3.0)
    assert status.spent_share == pytest.approx(2 * status.reserved_share)
    assert status.spent_share + status.reserved_share + status.remaining_share == pytest.approx(1.0)
    (run,) = status.runs
    assert (run.run, run.study, run.is_open, run.relation) == (
        RUN, STUDY, True, "neighbours differ in one patient at one site, whose part is replaced by zeros",
    )  # fmt: skip
    assert run.epsilon == pytest.approx(status.spent)
    assert [(use.kind, use.mechanism, use.used, use.reserved) for use in run.uses] == [("train", NOISE, 2, 3)]
    made.release(RUN)
    after = made.status("patient")
    assert (after.reserved, after.spent, after.runs[0].is_open) == (0.0, status.spent, False)
    assert [type(entry) for entry in made.entries("patient")] == [Granted, Reserved, Committed, Committed, Released]


def test_patients_and_sites_have_budgets_of_their_own(vault):
    made = spending(vault)
    assert made.status("site").entries == 0
    made.grant("site", 1.0, 1e-5, person="steward", reason="so decided")
    made.reserve("site", RUN, STUDY, {"train": (SampledGaussian(noise_multiplier=9.0, sampling_rate=0.5, steps=1), 1)})
    (run,) = made.status("site").runs
    assert "all the records of one site" in run.relation
    assert run.uses[0].sampling == "each site is drawn into a step by an own secret coin of 0.5"
    made.release(RUN)
    assert not made.status("site").runs[0].is_open
    assert not made.status("patient").runs[0].is_open


def test_another_dataset_is_another_budget(vault):
    spending(vault)
    other = Budgets("imaging", vault=vault, clock=SetClock())
    assert other.status("patient").entries == 0
    with pytest.raises(ConfigError, match="dataset"):
        Budgets("records.patient", vault=vault, clock=SetClock())


@pytest.mark.parametrize("unit", ["", "family", "patient.x", "Patient"])
def test_an_unknown_unit_is_refused(vault, unit):
    made = budgets_of(vault)
    for call in (
        lambda: made.grant(unit, 3.0, 1e-5, person="", reason=""),
        lambda: made.reserve(unit, RUN, STUDY, TRAIN),
        lambda: made.commit(unit, RUN, "train", "a"),
        lambda: made.status(unit),
        lambda: made.entries(unit),
    ):
        with pytest.raises(ConfigError, match="patient or site"):
            call()
    assert vault.names("") == []


def test_nothing_is_granted_at_first(vault):
    made = budgets_of(vault)
    status = made.status("patient")
    assert (status.epsilon, status.remaining, status.remaining_share, status.runs) == (0.0, 0.0, 0.0, ())
    assert made.tight_epsilon("patient") == 0.0
    with pytest.raises(BudgetExceededError):
        made.reserve("patient", RUN, STUDY, TRAIN)


def test_where_no_share_is_left_no_epsilon_is(vault):
    made = granted(vault)
    made.reserve("patient", RUN, STUDY, TRAIN)
    made.grant("patient", 0.4, 1e-5, person="steward", reason="less")
    status = made.status("patient")
    assert (status.remaining, status.remaining_share) == (0.0, 0.0)


def test_the_tight_figure_is_below_the_enforced_one(vault):
    made = spending(vault)
    assert 0 < made.tight_epsilon("patient") < made.status("patient").spent


def test_the_clock_goes_back_and_the_ledger_goes_on(vault):
    clock = SetClock(5000.0)
    made = budgets_of(vault, clock=clock)
    made.grant("patient", 3.0, 1e-5, person="steward", reason="so decided")
    for clock.time, key in ((10.0, "a"), (6000.0, "b"), (5999.0, "c")):
        made.reserve("patient", RUN, STUDY, TRAIN)
        made.commit("patient", RUN, "train", key)
    assert [entry.at for entry in made.entries("patient")] == [5000.0, 5000.0, 5000.0, 6000.0, 6000.0]
    assert budgets_of(vault).status("patient") == made.status("patient")


class CountingVault(MemoryVault):
    def __init__(self):
        super().__init__()
        self.read = []

    def get(self, name):
        self.read.append(name)
        return super().get(name)


def test_a_commit_reads_only_what_is_new():
    vault = CountingVault()
    made = granted(vault)
    made.reserve("patient", RUN, STUDY, {"train": (Gaussian(noise_multiplier=50.0), 60)})
    for number in range(50):
        made.commit("patient", RUN, "train", str(number))
    vault.read.clear()
    made.commit("patient", RUN, "train", "last")
    assert vault.read == [HEAD, name(52), name(53)]


def test_a_second_process_sees_what_the_first_wrote(vault, anchor):
    node, command = granted(vault, anchor), budgets_of(vault, anchor)
    assert command.status("patient").epsilon == 3.0
    node.reserve("patient", RUN, STUDY, TRAIN)
    command.grant("patient", 0.5, 1e-5, person="steward", reason="too much")
    with pytest.raises(BudgetExceededError, match="lowered"):
        node.commit("patient", RUN, "train", "a")
    assert node.status("patient") == command.status("patient")


class LateVault(MemoryVault):
    """Lets another writer in after a decision, once, just before its entry is added."""

    def __init__(self):
        super().__init__()
        self.meanwhile = None

    def add(self, name, value):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().add(name, value)


def test_whoever_loses_the_race_decides_again():
    vault = LateVault()
    one = granted(vault)
    other = budgets_of(vault)
    asked = {"train": (NOISE, 10)}
    vault.meanwhile = lambda: other.reserve("patient", SECOND, OTHER, asked)
    with pytest.raises(BudgetExceededError):
        one.reserve("patient", RUN, STUDY, asked)
    assert [run.run for run in one.status("patient").runs] == [SECOND]


class BusyVault(MemoryVault):
    """Lets another process in after the first note was looked for."""

    def __init__(self):
        super().__init__()
        self.meanwhile = None

    def get(self, name):
        found = super().get(name)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_ledger_that_grows_while_it_is_read_is_whole(earlier):
    vault, anchor = BusyVault(), MemoryVault()
    other = budgets_of(vault, anchor)
    for _ in range(earlier):
        other.grant("patient", 3.0, 1e-5, person="steward", reason="so decided")
    vault.meanwhile = lambda: spending(vault, anchor)
    assert budgets_of(vault, anchor).status("patient").entries == 4 + earlier


@pytest.mark.parametrize("attempt", range(5))
def test_two_studies_race_for_the_last_of_a_budget(tmp_path, attempt):
    vaults = [SealedVault(tmp_path / "node.sqlite", KEY, timeout_seconds=30.0) for _ in range(2)]
    granted(vaults[0], BudgetAnchor(tmp_path))
    start, outcomes = threading.Barrier(4), []

    def study(number):
        made = budgets_of(vaults[number % 2], BudgetAnchor(tmp_path))
        run = f"{STUDY}.{number + 1}"
        start.wait()
        try:
            made.reserve("patient", run, STUDY, {"train": (NOISE, 7)})
            for key in range(7):
                made.commit("patient", run, "train", str(key))
            outcomes.append(run)
        except BudgetExceededError:
            outcomes.append("")

    threads = [threading.Thread(target=study, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = filter(None, outcomes)
    status = budgets_of(vaults[1], BudgetAnchor(tmp_path)).status("patient")
    assert len(outcomes) == 4
    assert [(run.run, run.uses[0].used) for run in status.runs] == [(won, 7)]
    assert status.entries == 9
    assert status.spent < 3.0
    for vault in vaults:
        vault.close()


def test_threads_of_one_node_share_its_budgets(vault):
    made = granted(vault, epsilon=8.0)
    made.reserve("patient", RUN, STUDY, {"train": (Gaussian(noise_multiplier=30.0), 80)})
    threads = [
        threading.Thread(target=lambda: [made.commit("patient", RUN, "train", str(key)) for key in range(80)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.status("patient").runs[0].uses[0].used == 80
    assert len(made.entries("patient")) == 82


@pytest.fixture(params=["fresh", "running"])
def reader(request, vault, anchor):
    """Whoever reads a damaged ledger: a process that starts, or one that has read it before."""
    running = spending(vault, anchor)
    return running if request.param == "running" else budgets_of(vault, anchor)


def refused(reader):
    for call in (
        lambda: reader.status("patient"),
        lambda: reader.entries("patient"),
        lambda: reader.commit("patient", RUN, "train", "c"),
        lambda: reader.reserve("patient", SECOND, OTHER, TRAIN),
        lambda: reader.grant("patient", 9.0, 1e-5, person="", reason=""),
        lambda: reader.release(RUN),
    ):
        with pytest.raises(LedgerError) as caught:
            call()
    words = str(caught.value)
    assert "refuses to train" in words
    assert "backup" in words
    assert "in writing" in words
    return words


def test_the_last_entry_removed(vault, reader):
    vault.delete(name(4))
    refused(reader)


def test_the_last_entry_removed_and_its_note_put_back(vault, anchor, reader):
    note = vault.get(HEAD)
    reader.commit("patient", RUN, "train", "c")
    vault.delete(name(5))
    vault.put(HEAD, note)
    refused(reader)
    assert "had 5" in refused(budgets_of(vault, anchor))


def test_an_entry_in_the_middle_removed(vault, anchor, reader):
    vault.delete(name(2))
    with pytest.raises(LedgerError, match="refuses to train"):
        reader.entries("patient")
    # Who has read an entry already does not read it again for a commit, but knows what it said.
    assert "missing" in refused(budgets_of(vault, anchor))


def test_an_entry_in_the_middle_and_all_after_it_removed(vault, reader):
    for seq in (2, 3, 4):
        vault.delete(name(seq))
    refused(reader)


def test_everything_but_the_anchor_removed(vault, reader):
    for one in vault.names("budget."):
        vault.delete(one)
    refused(reader)


def test_an_edited_entry(vault, reader):
    body = bytearray(vault.get(name(4)))
    body[body.index(b"\xa3key") + 5] ^= 1  # the key "b" becomes another
    vault.put(name(4), bytes(body))
    refused(reader)


def test_two_entries_exchanged(vault, reader):
    third, fourth = vault.get(name(3)), vault.get(name(4))
    vault.put(name(3), fourth)
    vault.put(name(4), third)
    refused(reader)


def test_a_note_ahead_of_the_entries(vault, reader):
    vault.put(HEAD, vault.get(HEAD).replace(b'"seq":4', b'"seq":5'))
    assert "has 4 entries, and had 5" in refused(reader)


def test_an_anchor_ahead_of_the_entries(anchor, reader):
    anchor.put(ANCHOR, anchor.get(ANCHOR).replace(b'"seq":4', b'"seq":5'))
    assert "has 4 entries, and had 5" in refused(reader)


def test_a_note_of_another_entry(anchor, vault, reader):
    for place, where in ((anchor, ANCHOR), (vault, HEAD)):
        body = place.get(where)
        place.put(where, body.replace(b'"seq":4', b'"seq":3'))
        assert "another than was noted" in refused(reader)
        place.put(where, body)


def test_a_note_that_is_missing(anchor, vault, reader):
    for place, where in ((anchor, ANCHOR), (vault, HEAD)):
        body = place.get(where)
        place.delete(where)
        assert "missing" in refused(reader)
        place.put(where, body)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b'{"entry":"","seq":"4"}', b'{"entry": "", "seq": 4}'])
def test_a_note_that_cannot_be_read(anchor, reader, body):
    anchor.put(ANCHOR, body)
    assert "cannot be read" in refused(reader)


class HaltingVault(MemoryVault):
    """Does so many writes, and fails from then on: the process ended there."""

    def __init__(self, writes):
        super().__init__()
        self.writes = writes

    def put(self, name, value):
        self._count()
        super().put(name, value)

    def add(self, name, value):
        self._count()
        super().add(name, value)

    def _count(self):
        self.writes -= 1
        if self.writes < 0:
            raise UnavailableError("the process ended here")


@pytest.mark.parametrize("writes", range(9))
@pytest.mark.parametrize("has_anchor_failed", [False, True])
def test_a_crash_between_any_two_writes_is_repaired(writes, has_anchor_failed):
    first, second = HaltingVault(writes), HaltingVault(writes)
    vault, anchor = (MemoryVault(), second) if has_anchor_failed else (first, MemoryVault())
    with suppress(UnavailableError):
        spending(vault, anchor)
    first.writes = second.writes = 100
    after = budgets_of(vault, anchor)
    held = after.status("patient").entries
    if held:
        assert f'"seq":{held}'.encode() in vault.get(HEAD)
        assert vault.get(HEAD) == anchor.get(ANCHOR)
    spending(vault, anchor)
    assert [use.used for use in after.status("patient").runs[0].uses] == [2]


def test_a_call_that_failed_is_made_again(anchor):
    vault = HaltingVault(100)
    made = spending(vault, anchor)
    vault.writes = 1
    with pytest.raises(UnavailableError):
        made.commit("patient", RUN, "train", "c")
    with pytest.raises(UnavailableError):
        made.commit("patient", RUN, "train", "c")
    vault.writes = 100
    made.commit("patient", RUN, "train", "c")
    assert made.status("patient").runs[0].uses[0].used == 3
    assert vault.get(HEAD) == anchor.get(ANCHOR)


@pytest.fixture
def folder(tmp_path):
    with closing(SealedVault(tmp_path / "node.sqlite", KEY)) as vault:
        spending(vault, BudgetAnchor(tmp_path))
    return tmp_path


def reopened(folder):
    with closing(SealedVault(folder / "node.sqlite", KEY)) as vault:
        made = budgets_of(vault, BudgetAnchor(folder))
        made.commit("patient", RUN, "train", "c")
        return made.status("patient")


def test_a_vaults_file_put_back_alone_is_noticed(folder, tmp_path):
    shutil.copy(folder / "node.sqlite", tmp_path / "backup")
    reopened(folder)
    shutil.copy(tmp_path / "backup", folder / "node.sqlite")
    with pytest.raises(LedgerError, match="has 4 entries, and had 5"):
        reopened(folder)


def test_a_whole_folder_put_back_goes_on(folder, tmp_path_factory):
    backup = tmp_path_factory.mktemp("backup")
    shutil.copytree(folder, backup, dirs_exist_ok=True)
    assert reopened(folder) == reopened(backup)


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM sealed WHERE name = '{name(4)}'",
        f"DELETE FROM sealed WHERE name = '{name(2)}'",
        f"DELETE FROM sealed WHERE name = '{HEAD}'",
        f"UPDATE sealed SET body = CAST(substr(body, 1, 20) || substr(body, 22) AS BLOB) WHERE name = '{name(3)}'",
        f"UPDATE sealed SET body = X'00' WHERE name = '{HEAD}'",
        f"UPDATE sealed SET body = (SELECT body FROM sealed WHERE name = '{name(3)}') WHERE name = '{name(4)}'",
        "DELETE FROM sealed",
    ],
)
def test_rows_altered_or_removed_are_noticed(folder, statement):
    with closing(sqlite3.connect(folder / "node.sqlite", isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount > 0
    with pytest.raises(LedgerError, match="not whole"):
        reopened(folder)


def test_the_anchor_is_a_small_private_file(folder):
    (file,) = folder.glob("*.anchor")
    assert file.name == f"{ANCHOR}.anchor"
    assert file.stat().st_mode & 0o077 == 0
    assert not list(folder.glob("*.part"))
    assert BudgetAnchor(folder).get("unknown") is None


def test_an_anchor_that_cannot_be_kept_says_who_must_act(tmp_path):
    with pytest.raises(ConfigError):
        BudgetAnchor(tmp_path / "none").put("a", b"")
    (tmp_path / "b.anchor").mkdir()
    with pytest.raises(ConfigError):
        BudgetAnchor(tmp_path).get("b")


def test_the_hub_hears_of_no_figure(vault):
    made = granted(vault)
    with pytest.raises(BudgetExceededError, match="100 % left") as caught:
        made.reserve("patient", RUN, STUDY, {"train": (NOISE, 10_000)})
    told = participant._public(caught.value)
    assert told.startswith("policy/budget: This site's privacy budget does not allow it.")
    assert not any(sign.isdigit() for sign in told)
    assert isinstance(caught.value, PolicyError)
