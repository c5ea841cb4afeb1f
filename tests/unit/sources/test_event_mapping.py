"""A mapping of events: its key is made once and is the owner's alone, and no message shows a value of it."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ConfigError
from wardround.sources import event_mapping

SECRET = "postgres://nurse:hunter2@db/x"
ONE = 'kind = "events"\n[[sources]]\nname = "lab"\nkind = "fhir"\npath = "."\n'
TWO = ONE + '[[sources]]\nname = "ward"\nkind = "fhir"\npath = "."\n'
KILLED = """
import os, signal, sys
from pathlib import Path
from wardround.sources import event_mapping
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], killed)
event_mapping.site_data(event_mapping.decode(sys.argv[3]), Path(sys.argv[1]), {})
"""


def key_of(folder):
    return event_mapping.site_data(event_mapping.decode(ONE), folder, {}).key


def refused(text):
    with pytest.raises(ConfigError) as caught:
        event_mapping.decode(text)
    return str(caught.value)


def refused_key(folder):
    with pytest.raises(ConfigError) as caught:
        key_of(folder)
    return str(caught.value)


def test_processes_that_start_together_have_one_key(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    folders = [tmp_path / str(number) for number in range(25)]
    for folder in folders:
        folder.mkdir()
    with ProcessPoolExecutor(4, mp_context=spawn) as pool:
        made = [{one.result() for one in [pool.submit(key_of, folder) for _ in range(4)]} for folder in folders]
    assert [len(keys) for keys in made] == [1] * len(folders)
    assert len(set.union(*made)) == len(folders)
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == ["pseudonym.key"]
        assert stat.S_IMODE((folder / "pseudonym.key").stat().st_mode) == 0o600


def test_whoever_comes_second_takes_the_key_of_the_first(tmp_path, monkeypatch):
    key = key_of(tmp_path)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "pseudonym.key" and exists(path))
    assert key_of(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_process_killed_while_it_makes_the_key_leaves_none(tmp_path, step):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, step, ONE], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "pseudonym.key").exists()
    assert len(key_of(tmp_path)) == 64


def test_the_folder_is_made_durable_after_the_key_is_in_it(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(file):
        synced.append((stat.S_ISDIR(os.fstat(file).st_mode), (tmp_path / "pseudonym.key").exists()))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    key_of(tmp_path)
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path, mode):
    key_of(tmp_path)
    (tmp_path / "pseudonym.key").chmod(mode)
    assert "chmod 600" in refused_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff" * 64, "ä".encode() * 40, b"0123456789abcdef" * 1000])
def test_a_key_that_is_none_is_refused_and_not_replaced(tmp_path, content):
    path = tmp_path / "pseudonym.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert "holds no key" in refused_key(tmp_path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pseudonym.key", 0o600)
    assert "must be a file" in refused_key(tmp_path)
    (tmp_path / "pseudonym.key").unlink()
    (tmp_path / "pseudonym.key").symlink_to(tmp_path / "absent")
    assert "FileNotFoundError" in refused_key(tmp_path)
    assert "FileNotFoundError" in refused_key(tmp_path / "absent")


def test_a_folder_without_links_says_so(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(SECRET)

    monkeypatch.setattr(os, "link", link)
    said = refused_key(tmp_path)
    assert "PermissionError" in said
    assert SECRET not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'kind = "events"\nexecutor = "{SECRET}"\nsources = []', "(not shown) - at `$.executor`"),
        (f'kind = "events"\nexecutor = "it\'s {SECRET}"\nsources = []', "(not shown) - at `$.executor`"),
        (f'kind = "{SECRET}"\nsources = []', "(not shown) - at `$.kind`"),
        (f'kind = "events"\nsources = []\n"{SECRET}" = 1', "unknown field (not shown)"),
        (f'kind = "events"\nsources = []\n"a`b {SECRET}" = 1', "unknown field (not shown)"),
        ('kind = "events"\nsources = []\ntimezoen = "UTC"', "unknown field `timezoen`"),
        (f'timezone = "{SECRET}"\n{ONE}', "no time zone"),
        (f'{ONE}[units]\nx = "{SECRET}"', "no UCUM code"),
        (f'{ONE}[identity.namespaces]\n"{SECRET}" = "x"', "no such source"),
        (f'{TWO}[identity.namespaces]\nlab = "|{SECRET}"', "'|'"),
        (ONE.replace('"lab"', f'"|{SECRET}"'), "'|'"),
        (f"{SECRET} = [", "is not TOML"),
    ],
)
def test_a_mistake_is_named_and_no_value_is_shown(text, said):
    message = refused(text)
    assert said in message
    assert "hunter2" not in message


def test_names_of_zones_units_and_sources_are_shown():
    assert "'Europe/Atlantis'" in refused(f'timezone = "Europe/Atlantis"\n{ONE}')
    assert "'furlong'" in refused(f'{ONE}[units]\nx = "furlong"')
    assert "'wrad'" in refused(f'{ONE}[identity.namespaces]\nwrad = "x"')
    assert event_mapping.decode(f'{ONE}[units]\nx = "10*3/uL"').units == {"x": "10*3/uL"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": SECRET, "kind": SECRET}, "its kind is one of"),
        ({"name": SECRET, "kind": "csv", "events": 1}, "Expected `array`, got `int` - at `$.events`"),
        ({"name": "lab", "kind": "csv", SECRET: 1}, "'lab': Object contains unknown field (not shown)"),
    ],
)
def test_a_sources_settings_are_refused_without_their_values(table, said):
    with pytest.raises(ConfigError) as caught:
        event_mapping.settings_of(table)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(st.text(alphabet="sé'\"`-$. at\n", max_size=30))
def test_nothing_of_a_value_gets_around_its_quotes(around):
    table = {"kind": "events", "sources": [], "executor": f"{around}hunter2{around}"}
    with pytest.raises(event_mapping.msgspec.ValidationError) as caught:
        event_mapping.msgspec.convert(table, event_mapping.EventMapping)
    assert "hunter2" in str(caught.value)
    assert "hunter2" not in event_mapping._told(caught.value)


def test_several_sources_say_whose_identifiers_they_have():
    assert "the same word for sources that share them" in refused(TWO)
    assert "1 of its sources" in refused(f'{TWO}[identity.namespaces]\nlab = "hospital"')
    both = event_mapping.decode(f'{TWO}[identity.namespaces]\nlab = "hospital"\nward = "hospital"')
    assert both.identity.namespaces == {"lab": "hospital", "ward": "hospital"}
    assert event_mapping.decode(ONE).identity.namespaces == {}


def test_names_and_namespaces_cannot_run_into_identifiers():
    assert "'|'" in refused(ONE.replace('"lab"', '"a|b"'))
    assert "'|'" in refused(f'{ONE}[identity.namespaces]\nlab = "a|b"')
    assert "empty" in refused(f'{ONE}[identity.namespaces]\nlab = " "')
    assert "name each" in refused(ONE.replace('"lab"', "7"))
    assert "name each" in refused(TWO.replace('"ward"', '"lab"'))
