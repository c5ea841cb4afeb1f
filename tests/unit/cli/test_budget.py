"""The steward's commands: what they say, what they refuse, and that they need no hub."""

import re
from contextlib import closing

import msgspec
import pytest
from click.testing import CliRunner

from wardround.cli.main import wardround
from wardround.errors import BudgetExceededError, ConfigError, LedgerError
from wardround.node import setup
from wardround.privacy.mechanisms import Gaussian, SampledGaussian
from wardround.storage.vault import SealedVault
from wardround.system import write_private

STUDY = "ab" * 32
SETTINGS = 'name = "arran"\nhub = "https://127.0.0.1:1"\n'
GRANT = ("--epsilon", "3", "--delta", "1e-5", "--reason", "board of 3 May", "--person", "Dr Steward")


@pytest.fixture
def folder(tmp_path):
    write_private(tmp_path / "node.toml", SETTINGS.encode())
    write_private(tmp_path / "keys" / "state.key", bytes(range(32)))
    return tmp_path


def said(folder, *arguments, status=0, typed=""):
    name, *options = arguments
    result = CliRunner().invoke(wardround, ["node", "budget", name, str(folder), *options], input=typed)
    assert result.exit_code == status, result.output
    return result.output


def raised(folder, *arguments):
    name, *options = arguments
    result = CliRunner().invoke(wardround, ["node", "budget", name, str(folder), *options])
    assert result.exit_code != 0
    raise result.exception


@pytest.fixture
def spent(folder):
    said(folder, "grant", *GRANT, "--yes")
    budgets = setup.open_budgets(folder)
    uses = {
        "train": (SampledGaussian(noise_multiplier=6.0, sampling_rate=0.1, steps=4), 5),
        "count": (Gaussian(noise_multiplier=9.0), 1),
    }
    budgets.reserve("patient", f"{STUDY}.1", STUDY, uses)
    budgets.commit("patient", f"{STUDY}.1", "train", "12" * 32)
    return folder


def test_a_new_node_has_granted_nothing(folder):
    assert "No budget is granted per patient" in said(folder, "show")
    assert "No budget is granted for the site as a whole" in said(folder, "show", "--unit", "site")
    assert said(folder, "history") == "The ledger is empty.\n"


def test_a_grant_is_asked_about_kept_and_shown(folder):
    words = said(folder, "grant", *GRANT, typed="y\n")
    assert "Grant epsilon 3 at delta 1e-05 per patient in its place?" in words
    shown = said(folder, "show")
    assert "Records: records. Granted: epsilon 3 at delta 1e-05 per patient." in shown
    assert "Spent: epsilon 0 (0.0% of the budget)" in shown
    assert "Left: 3 (100.0%)" in shown
    assert re.search(r"Dr Steward granted epsilon 3 at delta 1e-05: board of 3 May", said(folder, "history"))


def test_a_grant_that_is_not_confirmed_is_none(folder):
    assert "Aborted" in said(folder, "grant", *GRANT, status=1, typed="n\n")
    assert said(folder, "history") == "The ledger is empty.\n"


def test_what_is_spent_reserved_and_assumed_is_said_in_words(spent):
    shown = said(spent, "show")
    assert re.search(r"Spent: epsilon 0\.\d+ \(\d+\.\d% of the budget\)\. Reserved by running studies: 0\.\d+", shown)
    assert "neighbours differ in one patient at one site, whose part is replaced by zeros" in shown
    assert "train: 1 of 5 uses; each patient is drawn into a step by an own secret coin of 0.1." in shown
    assert "count: 0 of 1 uses; every patient is in every step." in shown
    assert "running" in shown
    assert "If all of it had been fixed beforehand" in shown
    history = said(spent, "history").splitlines()
    assert [line.split()[0] for line in history] == ["1", "2", "3"]
    assert "reserved count x 1, train x 5" in history[1]
    assert "spent train, 1212121212121212" in history[2]


def test_json_for_scripts(spent):
    shown = msgspec.json.decode(said(spent, "show", "--json"))
    assert shown["status"]["epsilon"] == 3.0
    assert 0 < shown["tight_epsilon"] < shown["status"]["spent"]
    assert shown["status"]["runs"][0]["uses"][0]["mechanism"]["type"] in {"gaussian", "sampled-gaussian"}
    kinds = [entry["type"] for entry in msgspec.json.decode(said(spent, "history", "--json"))]
    assert kinds == ["granted", "reserved", "committed"]
    lowered = msgspec.json.decode(said(spent, "lower", "--epsilon", "2", "--reason", "less", "--yes", "--json"))
    assert (lowered["epsilon"], lowered["delta"]) == (2.0, 1e-5)


def test_lowering_says_what_it_does_and_stops_what_no_longer_fits(spent):
    words = said(spent, "lower", "--epsilon", "0.5", "--reason", "less", typed="y\n")
    assert "Studies that want more are stopped." in words
    assert "Granted: epsilon 0.5" in words
    with pytest.raises(BudgetExceededError):
        setup.open_budgets(spent).commit("patient", f"{STUDY}.1", "count", "34" * 32)


def test_lowering_raises_nothing(spent, tmp_path_factory):
    for epsilon in ("3", "4", "nan"):
        with pytest.raises(ConfigError, match="epsilon is 3 now"):
            raised(spent, "lower", "--epsilon", epsilon, "--reason", "more", "--yes")
    other = tmp_path_factory.mktemp("other")
    write_private(other / "node.toml", SETTINGS.encode())
    write_private(other / "keys" / "state.key", bytes(32))
    with pytest.raises(ConfigError, match="no budget is granted here yet"):
        raised(other, "lower", "--epsilon", "1", "--reason", "less", "--yes")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--epsilon", "0", "--delta", "1e-5"), "epsilon"),
        (("--epsilon", "3", "--delta", "1"), "delta"),
        (("--epsilon", "3", "--delta", "nan"), "delta"),
        (("--epsilon", "0.001", "--delta", "1e-5"), r"above 0\.008367"),
        (("--epsilon", "3", "--delta", "1e-5", "--order", "3.14"), "order is one of"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        raised(folder, "grant", *options, "--reason", "why not", "--yes")


def test_a_grant_wants_a_reason(folder):
    assert "--reason" in said(folder, "grant", "--epsilon", "3", "--delta", "1e-5", status=2)


def test_units_and_datasets_have_budgets_of_their_own(spent):
    said(spent, "grant", *GRANT, "--unit", "site", "--yes")
    assert "entries" in said(spent, "show", "--unit", "site")
    settings = spent / "node.toml"
    settings.write_text(SETTINGS + 'dataset = "imaging"\n')
    assert "No budget is granted" in said(spent, "show")
    settings.write_text(SETTINGS + 'dataset = "Imaging.2"\n')
    with pytest.raises(ConfigError, match="dataset"):
        raised(spent, "show")


def test_a_ledger_that_is_not_whole_says_how_to_recover(spent):
    with closing(SealedVault(spent / "state" / "node.sqlite", bytes(range(32)))) as vault:
        vault.delete("budget.records.patient.0000000003")
    for name in ("show", "history"):
        with pytest.raises(LedgerError, match="Put back the latest backup of the whole state folder"):
            raised(spent, name)


def test_what_a_run_that_never_ends_reserved_can_be_freed(spent):
    before = setup.open_budgets(spent).status("patient")
    assert before.reserved_share > 0
    assert "nothing reserved" in said(spent, "free", STUDY[:8])
    after = setup.open_budgets(spent).status("patient")
    assert (after.reserved_share, after.spent_share) == (0, before.spent_share)
    assert isinstance(raised_of(spent, "free", "no such run"), ConfigError)


def raised_of(folder, *arguments):
    name, *options = arguments
    return CliRunner().invoke(wardround, ["node", "budget", name, str(folder), *options]).exception
