"""The pages and addresses of people at a hub, driven as ASGI: no socket, real cookies, real proofs."""

import asyncio
import base64
import hashlib
import json
import os
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyotp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.simulation.authenticator import Authenticator

from wardround.crypto import dpop, jose
from wardround.errors import WardroundError
from wardround.hub import people_routes
from wardround.hub.people import HubPeople
from wardround.services import passwords
from wardround.services.desk import local_desk
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings
from wardround.storage.memory import MemoryVault
from wardround.storage.vault_accounts import VaultAccounts

HUB, PASSWORD = "https://hub.example.org", "several words make one"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class Random:
    def draw(self, size):
        return os.urandom(size)


class Hub:
    """One hub with its routes, and a browser and a program beside it."""

    def __init__(self, *, provider="local"):
        self.time = 1_800_000_000.0
        desk = local_desk(
            PeopleSettings(provider="local"),
            VaultAccounts(MemoryVault()),
            Random(),
            key=ec.generate_private_key(ec.SECP256R1()),
            place=HUB,
            party=RelyingParty("hub.example.org", HUB),
        )
        self.desk = desk
        self.people = HubPeople(desk, HUB, SimpleNamespace(now=lambda: self.time), bytes(32), None)
        served = self.people if provider == "local" else None
        self.app = Starlette(
            routes=[*people_routes.routes(lambda _: served), Route("/v1/act", self._act, methods=["POST"])]
        )
        self.key, self.cookies = ec.generate_private_key(ec.SECP256R1()), {}

    async def _act(self, request):
        try:
            person = await people_routes.person_of(request, self.people, action="release")
        except WardroundError as error:
            return people_routes.refusal(error, self.people)
        return JSONResponse({"name": person.name})

    def call(self, method, target, body=b"", *, headers=(), kind=""):
        path, _, query = target.partition("?")
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = [(b"host", b"evil.example.org"), *headers]
        sent += [(b"cookie", cookies.encode())] * bool(cookies) + [(b"content-type", kind.encode())] * bool(kind)
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "headers": sent,
            "query_string": query.encode(),
            "scheme": "http",
            "server": ("x", 80),
            "http_version": "1.1",
        }
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        answer = SimpleNamespace(status=0, headers={}, body=b"")

        async def receive():
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        asyncio.run(self.app(scope, receive, send))
        if cookie := answer.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name], self.cookie = value, cookie
        return answer

    def form(self, target, headers=(), **fields):
        return self.call("POST", target, urlencode(fields).encode(), headers=headers)

    def json(self, target, value, headers=()):
        return self.call("POST", target, json.dumps(value).encode(), headers=headers)

    def ask(self, **changed):
        fields = {
            "response_type": "code",
            "client_id": "wardround",
            "state": "s" * 22,
            "nonce": "n" * 22,
            "redirect_uri": "http://127.0.0.1:5123/callback",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "dpop_jkt": jose.thumbprint(jose.public_jwk(self.key)),
        }
        return self.call("GET", f"/people/authorize?{urlencode({**fields, **changed})}")

    def prove(self, method, path, *, token="", nonce="", key=None):
        made = dpop.prove(
            key or self.key, method, f"{HUB}{path}", jti=os.urandom(12).hex(), now=self.time, token=token, nonce=nonce
        )
        return (b"dpop", made.encode())

    def tokens(self, path="/people/token", **form):
        first = self.form(path, [self.prove("POST", path)], **form)
        assert (first.status, json.loads(first.body)["error"]) == (401, "use_dpop_nonce")
        return self.form(path, [self.prove("POST", path, nonce=first.headers["dpop-nonce"])], **form)

    def redeem(self, address):
        code = dict(parse_qsl(urlsplit(address).query))["code"]
        answer = self.tokens(
            grant_type="authorization_code",
            code=code,
            code_verifier=VERIFIER,
            redirect_uri="http://127.0.0.1:5123/callback",
            client_id="wardround",
        )
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def act(self, token, *, key=None, path="/v1/act"):
        sent = [(b"authorization", f"DPoP {token}".encode()), self.prove("POST", path, token=token, key=key)]
        return self.call("POST", "/v1/act", headers=sent)

    def first_page(self, name="ada"):
        code = self.desk.local.book.add(name, ["steward"], now=self.time - 5)
        self.call("GET", "/people/first")
        return self.form("/people/first", name=name, code=code)

    def ada(self):
        page = self.first_page().body.decode()
        totp = pyotp.TOTP(page.partition("this secret: <code>")[2].partition("<")[0])
        answer = self.form("/people/first/password", password=PASSWORD, code=totp.at(self.time - 30))
        assert answer.body.decode().count("<li>") == 8
        return totp


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(passwords.make, "__kwdefaults__", {"n": 16})


@pytest.fixture
def hub():
    return Hub()


def test_a_person_logs_in_with_password_and_code_and_the_program_gets_tokens_that_act(hub):
    totp = hub.ada()
    assert b"Log in" in hub.ask().body
    sent = hub.form("/people/sign-in", name="ada", password=PASSWORD, code=totp.at(hub.time))
    assert sent.status == 303
    tokens = hub.redeem(sent.headers["location"])
    assert tokens["token_type"] == "DPoP"
    assert json.loads(hub.act(tokens["access_token"]).body) == {"name": "ada"}


def test_a_passkey_is_made_and_logs_in_over_the_pages(hub):
    hub.first_page()
    authenticator = Authenticator()
    made = authenticator.create(hub.json("/people/first/passkey/options", {}).body)
    assert len(json.loads(hub.json("/people/first/passkey", made).body)["codes"]) == 8
    hub.ask()
    answer = hub.json("/people/passkey/log-in", authenticator.get(hub.json("/people/passkey/request", {}).body))
    tokens = hub.redeem(json.loads(answer.body)["next"])
    assert hub.act(tokens["access_token"]).status == 200


def test_a_stolen_token_a_proof_for_elsewhere_and_a_bearer_are_refused_with_a_challenge(hub):
    tokens = _logged_in(hub)
    access = tokens["access_token"].encode()
    for answer in (
        hub.act(tokens["access_token"], key=ec.generate_private_key(ec.SECP256R1())),
        hub.act(tokens["access_token"], path="/v1/other"),
        hub.call("POST", "/v1/act"),
        hub.call("POST", "/v1/act", headers=[(b"authorization", b"Bearer " + access)]),
        hub.call("POST", "/v1/act", headers=[(b"authorization", b"DPoP " + access)]),
        hub.call("POST", "/v1/act", headers=[(b"authorization", b"DPoP " + access)] * 2),
        hub.call("POST", "/v1/act", headers=[(b"authorization", b"DPoP \xff"), (b"dpop", b"x")]),
    ):
        assert (answer.status, answer.headers["www-authenticate"]) == (
            401,
            'DPoP error="invalid_token", algs="ES256 Ed25519"',
        )


def test_an_old_login_gets_the_challenge_of_rfc_9470(hub):
    tokens = _logged_in(hub)
    hub.time += 901
    tokens = json.loads(hub.tokens(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).body)
    answer = hub.act(tokens["access_token"])
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith('DPoP error="insufficient_user_authentication"')
    assert 'max_age="900"' in answer.headers["www-authenticate"]
    assert json.loads(answer.body)["type"] == "protocol/step-up"


def test_a_revoked_login_is_over_at_once(hub):
    tokens = _logged_in(hub)
    assert hub.tokens("/people/revoke", token=tokens["refresh_token"]).status == 200
    assert hub.act(tokens["access_token"]).status == 401
    assert hub.tokens("/people/revoke", token="unknown").status == 200


def test_who_one_is_is_told_to_oneself(hub):
    access = _logged_in(hub)["access_token"]
    sent = [(b"authorization", f"DPoP {access}".encode()), hub.prove("GET", "/people/me", token=access)]
    said = json.loads(hub.call("GET", "/people/me", headers=sent).body)
    assert (said["name"], said["roles"], said["issuer"]) == ("ada", ["steward"], HUB)


def test_a_code_that_another_redeems_is_refused(hub):
    totp = hub.ada()
    hub.ask()
    sent = hub.form("/people/sign-in", name="ada", password=PASSWORD, code=totp.at(hub.time))
    hub.key = ec.generate_private_key(ec.SECP256R1())
    code = dict(parse_qsl(urlsplit(sent.headers["location"]).query))["code"]
    answer = hub.tokens(
        grant_type="authorization_code",
        code=code,
        code_verifier=VERIFIER,
        redirect_uri="http://127.0.0.1:5123/callback",
    )
    assert (answer.status, json.loads(answer.body)["error"]) == (400, "invalid_grant")


def test_another_browser_cannot_finish_this_ones_login(hub):
    totp = hub.ada()
    hub.ask()
    hub.cookies.clear()
    assert hub.form("/people/sign-in", name="ada", password=PASSWORD, code=totp.at(hub.time)).status == 401
    assert hub.json("/people/passkey/request", {}).status == 401
    hub.cookies["__Host-wardround-login"] = "x" * 43
    assert hub.form("/people/sign-in", name="ada", password=PASSWORD, code=totp.at(hub.time)).status == 401


def test_another_sites_page_cannot_post_here(hub):
    totp = hub.ada()
    hub.ask()
    fields = {"name": "ada", "password": PASSWORD, "code": totp.at(hub.time)}
    for origin in (b"https://evil.example.org", b"null", b"http://hub.example.org", b"https://hub.example.org:8443"):
        assert hub.form("/people/sign-in", [(b"origin", origin)], **fields).status == 401
    assert hub.form("/people/sign-in", [(b"origin", HUB.encode())], **fields).status == 303


def test_a_login_that_asks_for_another_address_is_never_sent_there(hub):
    for changed in ({"redirect_uri": "https://evil.example.org/callback"}, {"client_id": "x"}, {"code_challenge": ""}):
        answer = hub.ask(**changed)
        assert (answer.status, "location" in answer.headers, "set-cookie" in answer.headers) == (400, False, False)
    doubled = hub.call("GET", "/people/authorize?client_id=wardround&client_id=wardround")
    assert doubled.status == 401


def test_every_answer_is_guarded_and_nothing_is_inline(hub):
    answers = [
        hub.ask(),
        hub.call("GET", "/people/first"),
        hub.call("GET", "/people/page.js"),
        hub.call("GET", "/people/keys"),
        hub.form("/people/sign-in", name="x"),
        hub.first_page("bob"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        text = answer.body.decode()
        if text.startswith("<!doctype"):
            assert "<style" not in text
            assert " on" + "click" not in text
            assert text.count("<script") == text.count('<script src="/people/page.js" defer></script>') == 1
            assert '<html lang="en">' in text
            assert text.count("<input ") == text.count("<label for=")
    assert all(word in hub.cookie for word in ("__Host-", "HttpOnly", "Secure", "SameSite=strict", "Path=/"))


def test_whatever_is_typed_is_escaped(hub):
    hub.ask()
    page = hub.form("/people/first", name='"><script>alert(1)</script>', code="<b>").body
    assert b"<script>alert" not in page


def test_the_configuration_names_the_addresses_of_the_settings_not_of_the_request(hub):
    said = json.loads(hub.call("GET", "/.well-known/openid-configuration").body)
    assert said["issuer"] == HUB
    assert said["token_endpoint"] == f"{HUB}/people/token"
    assert "evil" not in json.dumps(said)
    assert set(json.loads(hub.call("GET", "/people/keys").body)["keys"][0]) == {
        "kty",
        "crv",
        "x",
        "y",
        "kid",
        "use",
        "alg",
    }
    assert json.loads(hub.call("GET", "/people/provider").body)["issuer"] == HUB


def test_hostile_bodies_are_refused_and_nothing_breaks(hub):
    hub.ask()
    bodies = (b"", b"\xff" * 50, b"a=1&a=2", b"[]", b'{"response": 3}', b"{" * 5000, b"&" * 100, b"x" * 65537)
    for path in (
        "/people/sign-in",
        "/people/passkey/log-in",
        "/people/first",
        "/people/first/password",
        "/people/first/passkey",
        "/people/token",
        "/people/revoke",
    ):
        for body in bodies:
            assert 400 <= hub.call("POST", path, body).status < 500


def test_a_hub_that_checks_nobody_has_none_of_this():
    hub = Hub(provider="none")
    assert hub.ask().status == 404
    assert hub.call("GET", "/people/keys").status == 404


def test_a_recovery_code_opens_a_new_first_login_and_no_session(hub):
    hub.first_page()
    page = hub.form("/people/first", name="ada", code=hub.desk.local.book.renew("ada", hub.time)).body.decode()
    totp = pyotp.TOTP(page.partition("this secret: <code>")[2].partition("<")[0])
    codes = hub.form("/people/first/password", password=PASSWORD, code=totp.at(hub.time)).body.decode()
    recovery = codes.partition("<li><code>")[2].partition("<")[0]
    hub.ask()
    answer = hub.form("/people/sign-in", name="ada", password=PASSWORD, code=recovery)
    assert (answer.status, "location" in answer.headers) == (200, False)
    fresh = answer.body.decode().rpartition("this code: ")[2].partition("<")[0]
    hub.call("GET", "/people/first")
    assert b"authenticator" in hub.form("/people/first", name="ada", code=fresh).body


def _logged_in(hub):
    totp = hub.ada()
    hub.ask()
    sent = hub.form("/people/sign-in", name="ada", password=PASSWORD, code=totp.at(hub.time))
    return hub.redeem(sent.headers["location"])
