"""Commands on the audit log of a hub, by its folder: verified, exported, accounted for, and persons forgotten."""

import json

import pytest
from click.testing import CliRunner

from wardround.audit.entry import DataAccess, Deletion
from wardround.cli.main import wardround
from wardround.errors import NotFoundError
from wardround.hub import setup
from wardround.services.accounting import read_entries
from wardround.services.audit_trail import Person


@pytest.fixture
def hub(tmp_path):
    setup.init(tmp_path / "hub", listen="127.0.0.1:1", hosts=["127.0.0.1"], people="none")
    with setup.auditing(tmp_path / "hub") as log:
        log.record(Deletion("a-thing", 1), actor=Person("Mhairi Galbraith"))
        log.record(DataAccess("records", "training", records=7), study="a" * 64)
    return tmp_path / "hub"


def run(*arguments):
    return CliRunner().invoke(wardround, [str(argument) for argument in arguments])


def test_a_hubs_folder_is_verified_exported_and_accounted_for(hub, tmp_path):
    done = run("audit", "verify", hub, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["valid"], found["size"]) == (True, 3)
    assert run("audit", "export", hub, tmp_path / "log.zip").exit_code == 0
    assert json.loads(run("audit", "verify", tmp_path / "log.zip", "--json").output)["root"] == found["root"]
    (line,) = json.loads(run("audit", "disclosures", hub, "--json").output)["disclosures"]
    assert (line["dataset"], line["reads"], line["records"]) == ("records", 1, 7)


def test_a_person_is_forgotten_and_the_log_is_whole(hub):
    done = run("hub", "forget-person", "Mhairi Galbraith", hub, "--json")
    assert done.exit_code == 0, done.output
    pseudonym = json.loads(done.output)["pseudonym"]
    with setup.auditing(hub) as log:
        assert log.pseudonyms.name_of(pseudonym) is None
        log.serve()
        told = [(entry.actor, entry.event) for _, entry in read_entries(log.log)]
    assert (pseudonym, Deletion("a-thing", 1)) in told
    assert ("hub", Deletion("person-key")) in told
    assert run("audit", "verify", hub).exit_code == 0
    assert json.loads(run("hub", "forget-person", "Mhairi Galbraith", hub, "--json").output)["pseudonym"] is None


def test_log_keys_that_nobody_handed_in_are_not_forgotten(hub):
    done = run("hub", "forget-log", "arran", hub)
    assert done.exit_code != 0
    assert isinstance(done.exception, NotFoundError | SystemExit)


def test_a_hub_of_an_earlier_version_gets_its_keys_when_it_first_records(hub):
    for name in ("log.key", "witness.key", "state.key"):
        assert (hub / "keys" / name).stat().st_mode & 0o077 == 0
    for path in [*(hub / "keys").glob("*.key")]:
        if path.name in {"log.key", "witness.key", "state.key"}:
            path.unlink()
    for name in ("state/log", "anchor"):
        for path in sorted((hub / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    (hub / "state" / "hub-vault.sqlite").unlink()
    with setup.auditing(hub) as log:
        log.record(Deletion("a-thing", 2))
    assert json.loads(run("audit", "verify", hub, "--json").output)["size"] == 2
