"""The embedded issuer: what it gives, to whom, how often, and that the common check accepts it."""

import base64
import hashlib
import os
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import dpop, jose, token
from wardround.errors import LoginError, StepUpError
from wardround.services import people
from wardround.services.desk import local_desk
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings
from wardround.services.sign_in import Authentication
from wardround.storage.memory import MemoryVault
from wardround.storage.vault_accounts import VaultAccounts

NOW = 1_800_000_000.0
HUB = "https://hub.example.org"
SIGNER, MINE, THIEF = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
JKT, THIEFS = (jose.thumbprint(jose.public_jwk(key)) for key in (MINE, THIEF))
DONE = Authentication("ada", "urn:wardround:acr:passkey", ("hwk", "user", "mfa"), NOW)
VERIFIER = "v" * 43
ASKED = {
    "response_type": "code",
    "client_id": "wardround",
    "redirect_uri": "http://127.0.0.1:5123/callback",
    "state": "s" * 22,
    "nonce": "n" * 22,
    "code_challenge_method": "S256",
    "dpop_jkt": JKT,
    "resource": HUB,
    "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode(),
}


class Random:
    def draw(self, size):
        return os.urandom(size)


@pytest.fixture
def desk():
    settings = PeopleSettings(provider="local")
    made = local_desk(
        settings,
        VaultAccounts(MemoryVault()),
        Random(),
        key=SIGNER,
        place=HUB,
        party=RelyingParty("hub.example.org", HUB),
    )
    made.local.book.add("ada", ["steward"], shown="Ada", now=NOW - 10)
    return made


def code_of(desk, now=NOW, **changed):
    name = desk.local.issuer.ask({**ASKED, **changed}, now)
    address = urlsplit(desk.local.issuer.answer(name, DONE, now))
    fields = {key: values[0] for key, values in parse_qs(address.query).items()}
    assert f"{address.scheme}://{address.netloc}{address.path}" == ASKED["redirect_uri"]
    assert (fields["state"], fields["iss"]) == (ASKED["state"], HUB)
    return fields["code"]


def redeem(desk, code, now=NOW, thumbprint=JKT, **changed):
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": VERIFIER,
        "redirect_uri": ASKED["redirect_uri"],
        "client_id": "wardround",
    }
    return desk.local.issuer.exchange({**form, **changed}, thumbprint, now)


def refresh(desk, text, now=NOW, thumbprint=JKT):
    return desk.local.issuer.exchange({"grant_type": "refresh_token", "refresh_token": text}, thumbprint, now)


def person(desk, tokens, now=NOW, key=MINE):
    proof = dpop.prove(key, "GET", f"{HUB}/x", jti=os.urandom(12).hex(), now=now, token=tokens.access_token)
    return desk.logins.verify(tokens.access_token, proof, "GET", f"{HUB}/x", now)


def test_a_code_becomes_tokens_that_the_common_check_accepts(desk):
    tokens = redeem(desk, code_of(desk))
    found = person(desk, tokens)
    assert (found.subject, found.name, found.roles, found.issuer) == ("ada", "Ada", {"steward"}, HUB)
    assert (found.acr, found.amr, found.auth_time) == (DONE.acr, DONE.amr, NOW)
    people.require(found, "approve", NOW, PeopleSettings().step_up)
    with pytest.raises(StepUpError):
        people.require(found, "approve", NOW + 901, PeopleSettings().step_up)
    claims = token.identity_token(
        tokens.id_token,
        desk.local.issuer.keys(),
        issuer=HUB,
        client="wardround",
        nonce=ASKED["nonce"],
        access=tokens.access_token,
        now=NOW,
    )
    assert claims["name"] == "Ada"
    assert "ada" not in repr(tokens)
    assert tokens.access_token not in repr(tokens)


def test_a_stolen_access_token_is_worth_nothing_without_its_key(desk):
    tokens = redeem(desk, code_of(desk))
    with pytest.raises(LoginError, match="another key"):
        person(desk, tokens, key=THIEF)


def test_an_access_token_is_short(desk):
    tokens = redeem(desk, code_of(desk))
    assert tokens.expires_in == 300
    with pytest.raises(LoginError, match="expired"):
        person(desk, tokens, now=NOW + 361)


def test_a_code_counts_once_for_a_minute(desk):
    code = code_of(desk)
    redeem(desk, code)
    for text, now in ((code, NOW), (code_of(desk), NOW + 61), ("", NOW), ("x" * 43, NOW)):
        with pytest.raises(LoginError):
            redeem(desk, text, now)


@pytest.mark.parametrize(
    "changed",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"code_verifier": "v" * 42},
        {"redirect_uri": "http://127.0.0.1:1/callback"},
        {"client_id": "other"},
        {"thumbprint": THIEFS},
        {"grant_type": "password"},
        {"grant_type": "implicit"},
    ],
)
def test_a_code_is_redeemed_by_who_asked_and_by_nobody_else(desk, changed):
    code = code_of(desk)
    with pytest.raises(LoginError):
        redeem(desk, code, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "other"},
        {"client_id": ""},
        {"redirect_uri": "https://evil.example.org/callback"},
        {"redirect_uri": "http://127.0.0.1.evil.example.org:1/callback"},
        {"redirect_uri": "http://127.0.0.1:5123/other"},
        {"redirect_uri": "http://127.0.0.1:5123/callback?x=1"},
        {"redirect_uri": "http://localhost:5123/callback"},
        {"redirect_uri": "http://x@127.0.0.1:5123/callback"},
        {"response_type": "token"},
        {"response_type": "code id_token"},
        {"code_challenge_method": "plain"},
        {"code_challenge": ""},
        {"code_challenge": "x"},
        {"dpop_jkt": ""},
        {"state": ""},
        {"nonce": ""},
        {"state": "s" * 201},
        {"resource": "https://other.example.org"},
    ],
)
def test_a_login_that_is_not_asked_for_as_it_must_be_is_not_begun(desk, changed):
    with pytest.raises(LoginError):
        desk.local.issuer.ask({**ASKED, **changed}, NOW)
    for name in changed:
        if name != "resource":
            with pytest.raises(LoginError):
                desk.local.issuer.ask({key: value for key, value in ASKED.items() if key != name}, NOW)


def test_a_question_is_answered_once_and_in_time(desk):
    issuer = desk.local.issuer
    name = issuer.ask(ASKED, NOW)
    assert issuer.is_asked(name, NOW)
    issuer.answer(name, DONE, NOW)
    late = issuer.ask(ASKED, NOW)
    assert not issuer.is_asked(late, NOW + 600)
    for again, now in ((name, NOW), (late, NOW + 600), ("x", NOW)):
        with pytest.raises(LoginError):
            issuer.answer(again, DONE, now)


def test_a_refresh_gives_new_tokens_for_the_same_login(desk):
    first = redeem(desk, code_of(desk))
    second = refresh(desk, first.refresh_token, NOW + 290)
    found = person(desk, second, NOW + 500)
    assert (found.auth_time, found.session) == (NOW, person(desk, first).session)
    assert second.refresh_token != first.refresh_token


def test_a_refresh_token_that_comes_twice_ends_the_session_for_both(desk):
    first = redeem(desk, code_of(desk))
    second = refresh(desk, first.refresh_token)
    with pytest.raises(LoginError, match="used before"):
        refresh(desk, first.refresh_token)
    with pytest.raises(LoginError):
        refresh(desk, second.refresh_token)
    with pytest.raises(LoginError, match="ended"):
        person(desk, second)


def test_a_refresh_token_is_worth_nothing_without_its_key_and_cannot_end_the_session(desk):
    tokens = redeem(desk, code_of(desk))
    old = tokens.refresh_token
    tokens = refresh(desk, old)
    for text in (old, tokens.refresh_token):
        with pytest.raises(LoginError, match="another key"):
            refresh(desk, text, thumbprint=THIEFS)
        with pytest.raises(LoginError, match="another key"):
            desk.local.issuer.end(text, THIEFS, NOW)
    person(desk, refresh(desk, tokens.refresh_token))


def test_a_session_ends_after_its_time(desk):
    tokens = redeem(desk, code_of(desk))
    tokens = refresh(desk, tokens.refresh_token, NOW + 28799)
    assert tokens.expires_in <= 1
    with pytest.raises(LoginError):
        refresh(desk, tokens.refresh_token, NOW + 28800)


def test_a_logout_ends_the_access_token_too(desk):
    tokens = redeem(desk, code_of(desk))
    person(desk, tokens)
    desk.local.issuer.end(tokens.refresh_token, JKT, NOW)
    with pytest.raises(LoginError, match="ended"):
        person(desk, tokens)
    with pytest.raises(LoginError):
        refresh(desk, tokens.refresh_token)


@pytest.mark.parametrize("act", ["set_roles", "reset", "remove"])
def test_what_lessens_an_account_ends_tokens_and_refresh_at_once(desk, act):
    tokens = redeem(desk, code_of(desk))
    book = desk.local.book
    {
        "set_roles": lambda: book.set_roles("ada", ["board"], NOW + 1),
        "reset": lambda: book.reset("ada", NOW + 1),
        "remove": lambda: book.remove("ada", NOW + 1),
    }[act]()
    with pytest.raises(LoginError):
        person(desk, tokens, NOW + 1)
    with pytest.raises(LoginError):
        refresh(desk, tokens.refresh_token, NOW + 1)


def test_a_token_of_a_removed_account_does_not_count_for_its_namesake(desk):
    tokens = redeem(desk, code_of(desk))
    desk.local.book.remove("ada", NOW + 1)
    desk.local.book.add("ada", ["operator"], now=NOW + 2)
    with pytest.raises(LoginError):
        person(desk, tokens, NOW + 3)
    with pytest.raises(LoginError):
        refresh(desk, tokens.refresh_token, NOW + 3)


def test_a_login_for_an_account_that_is_gone_gives_nothing(desk):
    with pytest.raises(LoginError, match="gone"):
        desk.local.issuer.start(Authentication("eve", "", (), NOW), JKT, NOW)


def test_sessions_whose_time_is_up_are_forgotten():
    store = VaultAccounts(MemoryVault())
    made = local_desk(
        PeopleSettings(provider="local"), store, Random(), key=SIGNER, place=HUB, party=RelyingParty("x", HUB)
    )
    made.local.book.add("ada", ["steward"], now=NOW - 10)
    for at in (0, 20000, 40000):
        made.local.issuer.start(DONE, JKT, NOW + at)
    assert len(store.names("session.")) == 2


def test_tokens_of_one_place_are_none_at_another(desk):
    tokens = redeem(desk, code_of(desk))
    other = local_desk(
        PeopleSettings(provider="local"),
        VaultAccounts(MemoryVault()),
        Random(),
        key=SIGNER,
        place="wardround:node/north",
        party=RelyingParty("localhost", "http://localhost:1"),
        site="north",
    )
    with pytest.raises(LoginError):
        person(other, tokens)


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["grant_type", "code", "refresh_token", "code_verifier", "redirect_uri"]),
        st.text(max_size=80) | st.sampled_from(["authorization_code", "refresh_token"]),
    )
)
def test_hostile_forms_are_refused_with_an_error_of_ours(form):
    with pytest.raises(LoginError):
        DESK.local.issuer.exchange(form, JKT, NOW)


DESK = local_desk(
    PeopleSettings(provider="local"),
    VaultAccounts(MemoryVault()),
    Random(),
    key=SIGNER,
    place=HUB,
    party=RelyingParty("hub.example.org", HUB),
)
