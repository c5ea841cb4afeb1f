"""Logging in at a node's or hub's folder, giving commands, and what ends a login."""

import json
import os
import re
import time

import pyotp
import pytest
from click.testing import CliRunner

from wardround.cli import presenting, sessions
from wardround.cli.login import login, logout, whoami
from wardround.cli.people import people
from wardround.cli.places import open_place, place_name
from wardround.errors import ConfigError, ForbiddenError, LoginError, StepUpError
from wardround.hub import setup as hub_setup
from wardround.services import passwords
from wardround.system import write_private

PASSWORD = "several words make one"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(passwords.make, "__kwdefaults__", {"n": 16})


def node_in(folder, provider="local", name="north"):
    write_private(folder / "node.toml", f'name = "{name}"\nhub = "https://127.0.0.1:1"\n'.encode())
    write_private(folder / "keys" / "state.key", os.urandom(32))
    if provider:
        write_private(folder / "people.toml", f'provider = "{provider}"\n'.encode())
    return folder


@pytest.fixture
def node(tmp_path):
    return node_in(tmp_path / "north")


@pytest.fixture
def hub(tmp_path):
    hub_setup.init(tmp_path / "hub", listen="127.0.0.1:8443", hosts=["hub.example.org"])
    return tmp_path / "hub"


def run(command, *arguments, answers=()):
    done = CliRunner().invoke(command, [str(one) for one in arguments], input="\n".join([*answers, ""]))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


class FirstLogin:
    """Answers the prompts of a first login, reading the secret that is shown, as a person with an app would."""

    def __init__(self, monkeypatch):
        self.secret = ""
        import click

        echo, prompt = click.echo, click.prompt

        def listen(message=None, **how):
            if found := re.search(r"secret: ([A-Z2-7]+)", str(message)):
                self.secret = found[1]
            echo(message, **how)

        def answer(words, **how):
            if words.startswith("The code that the app"):
                return pyotp.TOTP(self.secret).at(time.time() - 30)
            return PASSWORD if "password" in words.lower() else prompt(words, **how)

        monkeypatch.setattr(click, "echo", listen)
        monkeypatch.setattr(click, "prompt", answer)


def test_the_first_account_is_made_with_a_code_and_logs_in_in_the_terminal(node, monkeypatch):
    code = json.loads(run(people, "add", "ada", node, "--role", "steward", "--json").output)["code"]
    terminal = FirstLogin(monkeypatch)
    done = run(login, node, "--first", "--name", "ada", answers=[code])
    assert "is logged in" in done.output
    assert len(re.findall(r"\w{4}-\w{4}-\w{4}-\w{4}", done.output)) >= 8
    assert PASSWORD not in done.output
    run(logout, node)
    done = run(login, node, "--name", "ada", answers=[pyotp.TOTP(terminal.secret).at(time.time() + 29)])
    assert "is logged in" in done.output
    found = presenting.present(node, "approve", about="a" * 64)
    assert (found.subject, found.roles, found.site, found.issuer) == (
        "ada",
        {"steward"},
        "north",
        "wardround:node/north",
    )
    assert "steward of north" in run(whoami, node).output


def test_a_command_takes_a_login_a_new_one_and_no_name_beside_it(node, monkeypatch):
    with pytest.raises(LoginError, match="wardround login"):
        presenting.present(node, "approve")
    presenting.stand_in(node, "ada", ("steward",))
    assert presenting.present(node, "approve", about="x").subject == "ada"
    with pytest.raises(ConfigError, match="--person"):
        presenting.present(node, "approve", person="Somebody Else")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 901)
    with pytest.raises(StepUpError, match="log in again"):
        presenting.present(node, "approve")
    assert presenting.present(node, "review").subject == "ada"  # Renewed in the meantime, and still 15 minutes old.
    monkeypatch.setattr(time, "time", lambda: now() + 30000)
    with pytest.raises(LoginError):
        presenting.present(node, "review")


def test_where_nobody_is_checked_a_name_is_believed(tmp_path):
    node = node_in(tmp_path / "plain", provider="")
    found = presenting.present(node, "approve", person="Ada")
    assert (found.subject, found.issuer, found.site) == ("Ada", "", "north")
    with pytest.raises(ConfigError, match="local"):
        run(people, "list", node)


def test_a_variable_does_not_switch_the_check_off(node, monkeypatch):
    for name in ("WARDROUND_PEOPLE_PROVIDER", "PROVIDER", "provider"):
        monkeypatch.setenv(name, "none")
    with pytest.raises(LoginError):
        presenting.present(node, "approve")


def test_a_login_is_a_private_file_and_is_not_read_where_others_could(node, tmp_path):
    session = presenting.stand_in(node, "ada", ("steward",))
    files = list((tmp_path / "home").rglob("*.json"))
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o777 == 0o600
    assert files[0].parent.stat().st_mode & 0o777 == 0o700
    assert session.access_token not in repr(session)
    assert "PRIVATE" not in repr(session)
    files[0].chmod(0o640)
    with pytest.raises(ConfigError, match="others"):
        presenting.present(node, "approve")
    files[0].chmod(0o600)
    files[0].write_bytes(b"{")
    with pytest.raises(LoginError, match="not whole"):
        presenting.present(node, "approve")


def test_a_copied_token_without_its_key_gives_no_commands(node):
    mine = presenting.stand_in(node, "ada", ("steward",))
    other = presenting.stand_in(node, "bob", ("steward",))
    sessions.save(
        sessions.Session(mine.place, mine.name, other.key, mine.access_token, mine.refresh_token, mine.expires)
    )
    with pytest.raises(LoginError, match="another key"):
        presenting.present(node, "approve")


def test_a_login_of_one_site_gives_no_commands_at_another(node, tmp_path):
    mine = presenting.stand_in(node, "ada", ("steward",))
    south = node_in(tmp_path / "south", name="south")
    presenting.stand_in(south, "ada", ("steward",))
    sessions.save(
        sessions.Session(place_name(south), "ada", mine.key, mine.access_token, mine.refresh_token, mine.expires)
    )
    with pytest.raises(LoginError):
        presenting.present(south, "approve")


def test_a_logout_ends_the_login_for_a_copy_too(node):
    kept = presenting.stand_in(node, "ada", ("steward",))
    run(logout, node)
    with pytest.raises(LoginError, match="nobody is logged in"):
        presenting.present(node, "approve")
    sessions.save(kept)
    with pytest.raises(LoginError, match="ended"):
        presenting.present(node, "approve")


@pytest.mark.parametrize("act", [("roles", "--role", "board"), ("reset",), ("remove",), ("end",)])
def test_an_operator_ends_logins_at_once(node, act, tmp_path, monkeypatch):
    presenting.stand_in(node, "ada", ("steward",))
    monkeypatch.setenv("WARDROUND_HOME", str(tmp_path / "operator"))
    presenting.stand_in(node, "op", ("site-it",))
    run(people, act[0], "ada", node, *act[1:])
    monkeypatch.setenv("WARDROUND_HOME", str(tmp_path / "home"))
    with pytest.raises(LoginError):
        presenting.present(node, "approve")


def test_accounts_are_kept_by_operators_once_there_is_one(node):
    presenting.stand_in(node, "op", ("site-it",))
    run(people, "add", "bob", node, "--role", "steward")
    run(logout, node)
    for arguments in (("add", "eve", node, "--role", "operator"), ("reset", "bob", node), ("remove", "op", node)):
        with pytest.raises(LoginError):
            run(people, *arguments)
    presenting.stand_in(node, "ada", ("steward",))
    with pytest.raises(ForbiddenError):
        run(people, "add", "eve", node, "--role", "operator")
    run(people, "reset", "op", node, "--break-glass", "the operator has left")
    listed = json.loads(run(people, "list", node, "--json").output)
    assert {one["name"]: one["factors"] for one in listed} == {"ada": ["password and code"], "bob": [], "op": []}


def test_a_wrong_code_is_no_login_and_nothing_is_kept(node):
    presenting.stand_in(node, "ada", ("steward",))
    run(logout, node)
    with pytest.raises(LoginError):
        run(login, node, "--name", "ada", answers=["wrong password here", "000000"])
    with pytest.raises(LoginError, match="nobody is logged in"):
        presenting.present(node, "approve")


def test_a_hubs_folder_has_its_own_people(hub):
    presenting.stand_in(hub, "op", ("operator",))
    found = presenting.present(hub, "revoke", about="north")
    assert (found.subject, found.site, found.issuer) == ("op", "", "https://hub.example.org:8444")
    with open_place(hub) as place:
        assert place.address == "wardround:hub"
    run(logout, hub)
    with pytest.raises(LoginError):
        presenting.present(hub, "revoke", about="north")


def test_secrets_of_people_are_sealed_on_disk(node, hub):
    for folder in (node, hub):
        presenting.stand_in(folder, "ada", ("site-it",))
        for path in folder.rglob("*.sqlite*"):
            data = path.read_bytes()
            assert b"site-it" not in data
            assert b"password" not in data
        for key in (folder / "keys").iterdir():
            assert key.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_none_says_so(tmp_path):
    with pytest.raises(ConfigError, match="neither"):
        presenting.present(tmp_path, "approve")


def test_wrong_settings_are_named(node):
    (node / "people.toml").write_text('provider = "ldap"\n')
    with pytest.raises(ConfigError, match="provider"):
        presenting.present(node, "approve")
    (node / "people.toml").write_text('provider = "local"\nstep_upp = 3\n')
    with pytest.raises(ConfigError, match="step_upp"):
        presenting.present(node, "approve")
