"""Logging in at a real OpenID provider (npm `oidc-provider`, on loopback): every step over HTTP, by its own forms."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
from browser import Browser
from cryptography.hazmat.primitives.asymmetric import ec
from federation import free_port, until

from wardround.crypto import dpop, jose
from wardround.errors import ConfigError, LoginError, StepUpError, UnavailableError
from wardround.services import people
from wardround.services.desk import provider_desk
from wardround.services.people import PeopleSettings, StepUp
from wardround.storage.memory import MemoryVault
from wardround.storage.vault_accounts import VaultAccounts
from wardround.transport import oidc
from wardround.transport.oidc import RelyingParty

pytestmark = pytest.mark.processes
SOURCE = Path(__file__).parent / "oidc_provider"
CACHE = Path(__file__).parents[2] / ".cache" / "oidc-provider"
REDIRECT = "http://127.0.0.1:45678/callback"
HUB = "https://hub.example.org"
RULES = StepUp(acr=("gold",))


def installed():
    """The provider's folder, with exactly the packages of its lock file; skips where they are not to be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: the OpenID provider for tests needs them")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = (SOURCE / "package-lock.json").read_bytes()
        stamp = CACHE / "installed-lock.json"
        for file in SOURCE.iterdir():
            shutil.copy(file, CACHE)
        if not stamp.exists() or stamp.read_bytes() != wanted:
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, timeout=180.0, check=False)
            if done.returncode != 0:
                pytest.skip("npm could not fetch oidc-provider: no way to the registry from here")
            stamp.write_bytes(wanted)
    return CACHE


class Provider:
    def __init__(self, port, log):
        self.port, self.log, self.process = port, log, None
        self.issuer = f"http://127.0.0.1:{port}"

    def start(self):
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["node", "provider.mjs", str(self.port)],
                cwd=installed(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ["PATH"]},
            )
        until(self.log.read_text, lambda: b"ready" in self.log.read_bytes())

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10.0)

    def party(self, **changed):
        given = {"audience": HUB, "scope": "openid profile", "loopback_http": True, **changed}
        return RelyingParty(self.issuer, given.pop("client", "wardround"), **given)

    def settings(self, **changed):
        given = {"provider": "oidc", "issuer": self.issuer, "audience": HUB, "step_up": RULES, "loopback_http": True}
        return PeopleSettings(**{**given, **changed})

    def desk(self, party, **changed):
        site = changed.pop("site", "")
        return provider_desk(
            self.settings(**changed),
            VaultAccounts(MemoryVault()),
            place=HUB,
            keys=party.keys,
            introspect=party.introspect,
            site=site,
        )


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    found = Provider(free_port(), tmp_path_factory.mktemp("oidc") / "log")
    found.start()
    yield found
    found.stop()


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


def answered(address, login, browser=None):
    """What the provider redirects to, once `login` has filled in its forms."""
    browser = browser or Browser()
    stopped = browser.go(address, stop=REDIRECT)
    for _ in range(3):
        if stopped:
            break
        fields = {"login": login, "password": "any"} if 'name="login"' in browser.page else {}
        stopped = browser.go(*browser.form(**fields), stop=REDIRECT)
    assert stopped, browser.page
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(stopped).query))


def logged_in(party, key, login="ada", **how):
    question = party.question(REDIRECT, key, **how)
    return party.redeem(question, answered(question.address, login), key)


def verify(desk, granted, key, *, method="POST", url=f"{HUB}/v1/studies/x/actions", proof_url=None):
    now = time.time()
    proof = dpop.prove(key, method, proof_url or url, jti=os.urandom(12).hex(), now=now, token=granted.access_token)
    return desk.logins.verify(granted.access_token, proof, method, url, now)


def test_a_login_at_a_real_provider_makes_a_person_who_may_act(provider, key):
    party = provider.party()
    granted = logged_in(party, key, fresh=True, acr="gold")
    found = verify(provider.desk(party), granted, key)
    assert (found.subject, found.name, found.roles, found.site) == ("ada", "Ada Steward", {"steward"}, "north")
    assert (found.acr, found.amr, found.issuer) == ("gold", ("pwd", "otp", "mfa"), provider.issuer)
    assert abs(found.auth_time - time.time()) < 30
    people.require(found, "approve", time.time(), RULES)
    with pytest.raises(StepUpError):
        people.require(found, "approve", time.time() + 1000, RULES)
    assert granted.identity["sub"] == "ada"


def test_a_stolen_token_and_a_proof_for_elsewhere_are_refused(provider, key):
    party = provider.party()
    desk, granted = provider.desk(party), logged_in(party, key)
    with pytest.raises(LoginError, match="another key"):
        verify(desk, granted, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(LoginError, match="address"):
        verify(desk, granted, key, proof_url=f"{HUB}/v1/studies/y/actions")
    assert verify(desk, granted, key).subject == "ada"


def test_a_login_with_a_password_alone_may_not_act(provider, key):
    party = provider.party()
    found = verify(provider.desk(party), logged_in(party, key, "bob"), key)
    assert (found.acr, found.amr) == ("bronze", ("pwd",))
    with pytest.raises(StepUpError, match="second factor"):
        people.require(found, "approve", time.time(), RULES)


def test_a_person_of_another_site_is_refused_at_a_node(provider, key):
    party = provider.party()
    with pytest.raises(LoginError, match="site"):
        verify(provider.desk(party, site="north"), logged_in(party, key, "carl"), key)
    assert verify(provider.desk(party, site="north"), logged_in(party, key), key).site == "north"


def test_a_token_for_another_audience_is_refused(provider, key):
    other = provider.party(audience="https://other.example.org")
    with pytest.raises(LoginError, match="audience"):
        verify(provider.desk(other), logged_in(other, key), key)


def test_an_answer_to_another_login_or_of_another_issuer_is_refused(provider, key):
    party = provider.party()
    question = party.question(REDIRECT, key)
    fields = answered(question.address, "ada")
    assert fields["iss"] == provider.issuer
    for changed in ({"state": "x"}, {"state": ""}, {"iss": "https://evil.example.org"}, {"code": "x"}):
        with pytest.raises(LoginError):
            party.redeem(question, {**fields, **changed}, key)
    without = {name: value for name, value in fields.items() if name != "iss"}
    with pytest.raises(LoginError, match="iss"):
        party.redeem(question, without, key)
    with pytest.raises(LoginError, match="access_denied"):
        party.redeem(question, {"error": "access_denied", "state": question.state, "iss": provider.issuer}, key)


def test_a_code_is_worth_nothing_without_its_verifier_or_key(provider, key):
    party = provider.party()
    for thief in (True, False):
        question = party.question(REDIRECT, key)
        fields = answered(question.address, "ada")
        other = ec.generate_private_key(ec.SECP256R1())
        stolen = oidc.Question(
            question.address, REDIRECT, question.state, question.nonce, question.verifier if thief else "v" * 43
        )
        with pytest.raises(LoginError, match="refused"):
            party.redeem(stolen, fields, other if thief else key)


def test_an_identity_token_for_another_question_is_refused(provider, key):
    party = provider.party()
    question = party.question(REDIRECT, key)
    fields = answered(question.address, "ada")
    other = oidc.Question(question.address, REDIRECT, question.state, "another nonce", question.verifier)
    with pytest.raises(LoginError, match="nonce"):
        party.redeem(other, fields, key)


def test_a_refresh_gives_a_token_for_the_same_key_and_login(provider, key):
    party = provider.party()
    first = logged_in(party, key)
    second = party.refresh(first.refresh_token, key)
    assert second.access_token != first.access_token
    assert verify(provider.desk(party), second, key).subject == "ada"
    with pytest.raises(LoginError, match="refused"):
        party.refresh(second.refresh_token, ec.generate_private_key(ec.SECP256R1()))


def test_a_login_that_was_revoked_at_the_provider_is_not_renewed(provider, key):
    party = provider.party()
    granted = logged_in(party, key)
    party.revoke(granted.refresh_token, key)
    with pytest.raises(LoginError, match="refused"):
        party.refresh(granted.refresh_token, key)


def test_an_opaque_token_is_asked_about_by_a_client_with_a_secret(provider, key):
    audience = "https://hub.example.org/opaque"
    party = provider.party(client="hospital", client_secret="a secret of the hospital's own", audience=audience)
    granted = logged_in(party, key)
    assert granted.access_token.count(".") != 2
    desk = provider.desk(party, audience=audience, introspection=True)
    assert verify(desk, granted, key).subject == "ada"
    with pytest.raises(LoginError, match="another key"):
        verify(desk, granted, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(LoginError):
        verify(provider.desk(party, audience=audience), granted, key)
    party.revoke(granted.access_token, key)
    with pytest.raises(LoginError):
        verify(desk, granted, key)


def test_keys_that_the_provider_changed_are_fetched_anew_and_not_too_often(provider, key, monkeypatch, tmp_path):
    own = Provider(free_port(), tmp_path / "log")
    own.start()
    try:
        party = own.party()
        desk = own.desk(party)
        old = logged_in(party, key)
        assert verify(desk, old, key).subject == "ada"
        own.stop()
        own.start()
        new = oidc.Granted("", "", 0.0, {})
        with pytest.raises(LoginError, match="no key"):  # The keys are fresh: a stranger's kid does not fetch them.
            new = logged_in(party, key)
        monkeypatch.setattr(oidc, "KEYS_PAUSE_SECONDS", 0.0)
        new = logged_in(party, key)
        assert verify(desk, new, key).subject == "ada"
        with pytest.raises(LoginError, match="no key"):
            verify(desk, old, key)
    finally:
        own.stop()


def test_a_provider_that_is_not_the_one_in_the_settings_is_refused(provider, key):
    with pytest.raises(ConfigError, match="issuer"):
        RelyingParty(f"{provider.issuer}/", "wardround", loopback_http=True).question(REDIRECT, key)
    with pytest.raises(ConfigError, match="https"):
        RelyingParty(provider.issuer, "wardround")
    for address in (
        "http://192.0.2.1:1",
        "http://127.0.0.1.evil.example.org",
        "ftp://127.0.0.1",
        "https://u@x",
        "",
        "x",
    ):
        with pytest.raises(ConfigError, match="https"):
            RelyingParty(address, "wardround", loopback_http=True)
    with pytest.raises(UnavailableError):
        RelyingParty(f"http://127.0.0.1:{free_port()}", "wardround", loopback_http=True).keys()


def test_no_secret_shows_when_a_login_is_printed(provider, key):
    party = provider.party()
    question = party.question(REDIRECT, key)
    granted = logged_in(party, key)
    assert question.verifier not in repr(question)
    assert granted.access_token not in repr(granted)
    assert jose.thumbprint(jose.public_jwk(key)) in question.address
