"""A node's state under a key that never leaves a token: SoftHSM from the system, real commands, real kills."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.contracts.test_key_stores import Transit

from wardround.cli import main
from wardround.cli.keys import opened_vault
from wardround.cli.left import left
from wardround.errors import ConfigError, CryptoError, UnavailableError, WardroundError
from wardround.ids import Digest
from wardround.services.departures import Departures, Sending
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.key_service import from_reference
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock, write_private

pytestmark = pytest.mark.processes

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "pin-of-the-token-4711"
STATE_KEY = bytes(range(32))


def wardround(*arguments, error=None):
    """A command in this process: what it printed, or the words of the error that it ended with."""
    done = CliRunner().invoke(main.wardround, list(map(str, arguments)))
    assert PIN not in done.output + str(done.exception)
    if error is None:
        assert done.exception is None, done.output + repr(done.exception)
        return done.output
    assert isinstance(done.exception, error), done.output + repr(done.exception)
    return str(done.exception)


def put(folder, name, value):
    vault, _ = opened_vault(folder)
    with closing(vault):
        vault.put(name, value.encode())


def get(folder, name):
    vault, _ = opened_vault(folder)
    with closing(vault):
        return vault.get(name).decode()


@pytest.fixture
def node(tmp_path):
    """A node as `enrol` leaves it, without a hub: settings and a bare state key."""
    write_private(tmp_path / "keys" / "state.key", STATE_KEY)
    (tmp_path / "node.toml").write_text('name = "arran"\nhub = "https://127.0.0.1:1"\n')
    return tmp_path


@pytest.fixture
def token(tmp_path, monkeypatch):
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM 2 is not installed")
    import pkcs11

    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    command = ["softhsm2-util", "--init-token", "--free", "--label", "wardround", "--so-pin", "so-pin-1", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    pkcs11.unload(str(MODULE))
    write_private(tmp_path / "keys" / "token.pin", PIN.encode())
    yield f"pkcs11:token=wardround;object=state?module-path={MODULE}&pin-source=file:keys/token.pin"
    pkcs11.unload(str(MODULE))


def test_a_nodes_state_moves_into_a_token_and_the_bare_key_is_destroyed(node, token, monkeypatch):
    put(node, "decision.a", "approved")
    wardround("keys", "rotate", node, "--to", token)
    assert get(node, "decision.a") == "approved"
    monkeypatch.setenv("WARDROUND_NODE_STATE_KEY", token)
    assert get(node, "decision.a") == "approved"
    wardround("keys", "rotate", node)
    for path in (node / "keys").glob("state.key*"):
        path.unlink()
    put(node, "decision.b", "under the token")
    assert [get(node, f"decision.{name}") for name in "ab"] == ["approved", "under the token"]
    found = json.loads(wardround("keys", "show", node, "--json"))
    assert found["status"]["store"] == "pkcs11:token=wardround;object=state"
    # Before: the decision, and what the audit log keeps in the vault since the first rotation.
    assert found["values"] == {"0": 4, "3": 1}
    gone = json.loads(wardround("keys", "destroy", node, "--json"))["destroyed"]
    assert gone == [1]
    assert get(node, "decision.b") == "under the token"
    everything = b"".join(path.read_bytes() for path in (node / "state").rglob("*") if path.is_file())
    assert STATE_KEY not in everything
    assert b"under the token" not in everything
    monkeypatch.setenv("WARDROUND_NODE_STATE_KEY", token.replace("object=state", "object=other"))
    assert "state_key names" in wardround("keys", "show", node, error=CryptoError)


def test_shares_bring_a_nodes_keys_back_on_another_machine(node, tmp_path_factory):
    put(node, "decision.a", "approved")
    target = tmp_path_factory.mktemp("shares")
    wardround("keys", "backup", node, "--shares", 5, "--threshold", 3, "--to", target)
    wardround("keys", "rotate", node)
    put(node, "decision.b", "after the backup")
    shares = sorted(target.iterdir())
    assert [path.stat().st_mode & 0o777 for path in shares] == [0o600] * 5
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(node / "state", other / "state")
    shutil.copy(node / "node.toml", other / "node.toml")
    assert "3 shares are needed" in wardround("keys", "restore", other, *shares[:2], error=WardroundError)
    shares[1].write_text(shares[1].read_text().replace("share: 2 of 5", "share: 3 of 5"))
    assert "not copied rightly" in wardround("keys", "restore", other, *shares[:3], error=WardroundError)
    wardround("keys", "restore", other, shares[0], shares[3], shares[4])
    assert [get(other, f"decision.{name}") for name in "ab"] == ["approved", "after the backup"]
    assert get(node, "decision.a") == "approved"


def test_erasing_a_key_is_asked_for_and_then_final(node):
    wardround("keys", "rotate", node)
    put(node, "decision.a", "to be erased")
    wardround("keys", "rotate", node)
    wardround("keys", "destroy", node, "--key", 1, "--yes")
    assert "key 1: erased" in wardround("keys", "show", node)
    with pytest.raises(CryptoError, match="erased"):
        get(node, "decision.a")


def test_a_rotation_that_is_killed_at_any_moment_leaves_the_state_readable(node):
    put(node, "decision.a", "approved")
    drawn = random.Random(7)
    script = (
        "import sys; from pathlib import Path; from wardround.cli.keys import opened_ring;"
        "ring = opened_ring(Path(sys.argv[1])); print('ready', flush=True);"
        "[ring.rotate() for _ in range(40)]; import time; time.sleep(60)"
    )
    versions = 0
    for number in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(node)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(drawn.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        put(node, f"decision.after{number}", "and on")
        versions = json.loads(wardround("keys", "show", node, "--json"))["status"]["keys"]
    assert len(versions) > 2, "the kills came before any rotation"
    assert get(node, "decision.a") == "approved"
    assert get(node, "decision.after0") == "and on"


def test_the_book_of_what_left_is_read_by_a_person_and_a_script(node):
    (node / "state").mkdir()
    run = f"{'ab' * 32}.1"
    with closing(SealedVault(node / "state" / "node.sqlite", STATE_KEY)) as vault:
        book = Departures(vault=vault, clock=SystemClock(), anchor=BudgetAnchor(node / "state"))
        sending = Sending("contribution", 1234, Digest("cd" * 32), "ab" * 32, run, 2, ("records",), {"records": 40.0})
        book.enter(sending)
        book.refuse(sending, "a record stands in it")
    words = CliRunner().invoke(left, [str(node)]).output
    assert "contribution run abababababab.1 round 2: 1,234 bytes, readable" in words
    assert "records=40" in words
    assert "HELD BACK contribution run abababababab.1: a record stands in it" in words
    assert "1 messages and files of 1,234 bytes left; 1 were held back. Today: 1,234 bytes" in words
    found = json.loads(CliRunner().invoke(left, [str(node), "--run", run[:9], "--round", "2", "--json"]).output)
    assert [entry["bytes"] for entry in found] == [1234, 0]
    with closing(sqlite3.connect(node / "state" / "node.sqlite")) as connection:
        bodies = b"".join(body for (body,) in connection.execute("SELECT body FROM sealed"))
    assert b"a record stands" not in bodies


class Handler(BaseHTTPRequestHandler):
    """A key service of this test's own over HTTP; it is neither OpenBao nor Vault."""

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def _answer(self, method):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        right = self.headers.get("X-Vault-Token") == "token-of-the-service"
        status, data = self.server.transit.call(method, self.path, body) if right else (403, b"{}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.transit = Transit()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    write_private(tmp_path / "keys" / "service.token", b"token-of-the-service\n")
    yield f"kms:http://127.0.0.1:{server.server_port}/transit/state?token-source=file:keys/service.token"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_nodes_state_lies_under_a_key_of_a_service(node, service, monkeypatch):
    put(node, "decision.a", "approved")
    wardround("keys", "rotate", node, "--to", service)
    monkeypatch.setenv("WARDROUND_NODE_STATE_KEY", service)
    wardround("keys", "rotate", node)
    assert get(node, "decision.a") == "approved"
    shown = wardround("keys", "show", node)
    assert "token-of-the-service" not in shown
    assert "kms:http://127.0.0.1" in shown
    (node / "keys" / "service.token").write_text("wrong-token")
    assert "refuses this node's token" in wardround("keys", "show", node, error=ConfigError)


def test_a_service_that_is_down_is_tried_again_later(tmp_path):
    write_private(tmp_path / "t", b"x")
    store = from_reference("kms:http://127.0.0.1:9/transit/state?token-source=file:t", tmp_path)
    with pytest.raises(UnavailableError):
        store.versions()
    with pytest.raises(ConfigError, match="not there"):
        from_reference("kms:http://127.0.0.1:9/transit/state?token-source=file:gone", tmp_path).versions()
