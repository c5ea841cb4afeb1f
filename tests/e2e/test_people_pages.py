"""Pages on loopback with real sockets: a node's page for passkeys, a redirect's listener, a hub over TLS."""

import asyncio
import http.client
import json
import os
import re
import threading
import time
import urllib.parse

import pyotp
import pytest
from browser import Browser
from click.testing import CliRunner
from federation import free_port, until
from starlette.applications import Starlette
from tests.simulation.authenticator import Authenticator

from wardround.cli import login as login_commands
from wardround.cli import passkey_page, presenting
from wardround.cli.places import open_place
from wardround.errors import LoginError
from wardround.hub import people as hub_people
from wardround.hub import people_routes
from wardround.hub import setup as hub_setup
from wardround.people_folder import people_settings
from wardround.services import people
from wardround.storage.database import open_database
from wardround.system import write_private
from wardround.transport.loopback import Loopback, redirect

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("WARDROUND_HOME", str(tmp_path / "home"))


@pytest.fixture
def node(tmp_path):
    folder = tmp_path / "north"
    write_private(folder / "node.toml", b'name = "north"\nhub = "https://127.0.0.1:1"\n')
    write_private(folder / "keys" / "state.key", os.urandom(32))
    write_private(folder / "people.toml", b'provider = "local"\n')
    return folder


def call(address, method="GET", body=b"", **headers):
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10.0)
    try:
        sent = {"host": parts.netloc, **headers}
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body=body or None, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


class Aside:
    """Something that waits for a page, in a thread, and what it came to."""

    def __init__(self, act):
        self.address, self.result, self.error = [], None, None

        def run():
            try:
                self.result = act(self.address.append)
            except LoginError as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.page = until("the page's address", lambda: self.address or self.error) and (self.address or [""])[0]

    def post(self, name, value, **headers):
        origin = self.page[: self.page.index("/", 10)]
        status, body, _ = call(self.page + name, "POST", json.dumps(value).encode(), **{"origin": origin, **headers})
        return status, body

    def join(self):
        self.thread.join(10.0)
        assert not self.thread.is_alive()
        return self.result


def test_a_passkey_is_made_and_used_on_a_nodes_own_page_which_then_is_gone(node):
    with open_place(node) as place:
        code = place.desk.local.book.add("ada", ["steward"], site="north", now=time.time() - 1)
    first = Aside(lambda opened: passkey_page.first_login(node, "ada", code, opened))
    origin = re.match(r"http://localhost:\d+", first.page)[0]
    authenticator = Authenticator("localhost", origin)
    assert b"Make a passkey" in call(first.page)[1]
    status, options = first.post("first/passkey/options", {})
    assert status == 200
    assert first.post("first/passkey", authenticator.create(options))[0] == 200
    assert first.join().done.amr == ("hwk", "user", "mfa")
    with pytest.raises(OSError, match=r"."):
        call(first.page)
    again = Aside(lambda opened: passkey_page.log_in(node, opened))
    authenticator.origin = re.match(r"http://localhost:\d+", again.page)[0]
    answer = authenticator.get(again.post("passkey/request", {})[1])
    assert again.post("passkey/log-in", answer)[0] == 200
    session = presenting.log_in_anew(node, again.join())
    found = presenting.present(node, "approve", about="x")
    assert (session.name, found.acr, found.site) == ("ada", people.PASSKEY_ACR, "north")


def test_a_nodes_page_answers_only_this_machine_and_only_under_its_secret(node, monkeypatch):
    monkeypatch.setattr(passkey_page, "SECONDS", 8.0)
    aside = Aside(lambda opened: passkey_page.log_in(node, opened))
    base = aside.page[: aside.page.index("/", 10)]
    assert call(aside.page)[0] == 200
    policy = {name.lower(): value for name, value in call(aside.page)[2].items()}["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert call(aside.page, host="evil.example.org")[0] == 421
    for address in (f"{base}/", f"{base}/page.js", f"{base}/x/passkey/request", f"{aside.page}other"):
        assert call(address)[0] == 404
    assert aside.post("passkey/request", {}, origin="https://evil.example.org")[0] == 404
    assert aside.post("passkey/request", {})[0] == 200
    assert aside.post("passkey/log-in", {})[0] == 401
    for name, body in (("passkey/log-in", b"["), ("passkey/request", b"\xff"), ("passkey/request", b"x" * 65537)):
        status = call(aside.page + name, "POST", body, origin=base)[0]
        assert 400 <= status < 500


def test_a_redirect_is_taken_once_and_a_listener_gives_up(monkeypatch):
    with Loopback() as listener:
        found = []
        thread = threading.Thread(target=lambda: found.append(redirect(listener, 10.0)), daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{listener.port}"
        assert call(f"{base}/other?code=x")[0] == 404
        assert call(f"{base}/callback")[0] == 404
        assert call(f"{base}/callback?code=x", host="evil.example.org")[0] == 421
        status, page, _ = call(f"{base}/callback?code=abc&state=s&twice=1&twice=2")
        thread.join(10.0)
        assert (status, b"close this page" in page) == (200, True)
        assert found == [{"code": "abc", "state": "s"}]
    with Loopback() as listener, pytest.raises(LoginError, match="nobody"):
        redirect(listener, 0.05)


class Hub:
    """The routes about people, served as a hub serves: granian, TLS 1.3, the hub's own authority."""

    def __init__(self, folder):
        port = free_port()
        hub_setup.init(
            folder, listen=f"127.0.0.1:{free_port()}", hosts=["localhost"], listen_public=f"127.0.0.1:{port}"
        )
        self.folder, self.port, self.url = folder, port, f"https://localhost:{port}"
        settings = people_settings(folder)
        self.database = open_database(f"sqlite:///{folder}/state/hub.sqlite")
        self.people = hub_people.open_people(folder, settings, self.database, url=self.url, environ={})
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()), daemon=True)

    async def _serve(self):
        from granian.constants import HTTPModes, Interfaces
        from granian.log import LogLevels
        from granian.server.embed import Server

        app = Starlette(routes=people_routes.routes(lambda _: self.people))
        self.server = Server(
            app,
            address="127.0.0.1",
            port=self.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            log_level=LogLevels.error,
            ssl_cert=self.folder / "tls.crt",
            ssl_key=self.folder / "keys" / "tls.key",
        )
        await self.server.serve()

    def __enter__(self):
        self.thread.start()

        def answers():
            try:
                Browser(self.folder / "authority.crt").go(f"{self.url}/people/keys")
            except OSError:
                return False
            return True

        until("the hub", answers)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(10.0)
        self.loop.close()
        self.database.close()


def test_a_person_logs_in_to_a_hub_over_tls_with_the_command_and_a_browser(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as hub:
        authority = hub.folder / "authority.crt"
        code = hub.people.desk.local.book.add("ada", ["researcher"], now=time.time() - 1)
        browser, password = Browser(authority), "several words make one"
        browser.go(f"{hub.url}/people/first")
        browser.go(*browser.form(name="ada", code=code))
        totp = pyotp.TOTP(re.search(r"this secret: <code>(\w+)", browser.page)[1])
        browser.go(*browser.form(password=password, code=totp.at(time.time() - 30)))
        assert browser.page.count("<li>") == 8

        def open_page(address):
            def person():
                browser.go(address)
                sent = browser.go(
                    *browser.form(name="ada", password=password, code=totp.now()), stop="http://127.0.0.1:"
                )
                Browser().go(sent)

            threading.Thread(target=person, daemon=True).start()

        monkeypatch.setattr(login_commands.webbrowser, "open", open_page)
        done = CliRunner().invoke(login_commands.login, [hub.url, "--authority", str(authority)])
        assert "ada is logged in" in done.output, (done.output, done.exception)
        said = CliRunner().invoke(login_commands.whoami, [hub.url, "--json"])
        assert json.loads(said.output)["roles"] == ["researcher"], (said.output, said.exception)
        headers = presenting.proof_headers(hub.url, "GET", f"{hub.url}/people/me")
        assert Browser(authority).go(f"{hub.url}/people/me", headers=headers) == ""
        replayed = Browser(authority)
        replayed.go(f"{hub.url}/people/me", headers=headers)
        assert replayed.status == 401
        fresh = presenting.proof_headers(hub.url, "GET", f"{hub.url}/people/me")
        CliRunner().invoke(login_commands.logout, [hub.url])
        replayed.go(f"{hub.url}/people/me", headers=fresh)
        assert replayed.status == 401
        with pytest.raises(LoginError):
            presenting.proof_headers(hub.url, "GET", f"{hub.url}/people/me")
