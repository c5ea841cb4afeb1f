"""Tokens and proofs make a person, or nobody; and what an action takes."""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import dpop, jose, token
from wardround.errors import ConfigError, LoginError, StepUpError, WardroundError
from wardround.services import people
from wardround.services.endings import Endings
from wardround.services.people import Logins, PeopleSettings, Person, StepUp
from wardround.storage.memory import MemoryVault
from wardround.storage.vault_accounts import VaultAccounts

NOW = 1_800_000_000.0
ISSUER, HUB = "https://login.example.org", "https://hub.example.org"
URL = f"{HUB}/v1/studies/x/actions"
SIGNER, MINE, THIEF = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
NUMBERS = itertools.count()
CLAIMS = {
    "iss": ISSUER,
    "aud": HUB,
    "sub": "u-17",
    "iat": NOW,
    "exp": NOW + 300,
    "name": "Ada",
    "roles": ["steward"],
    "site": "north",
    "acr": "urn:wardround:acr:passkey",
    "amr": ["hwk", "user", "mfa"],
    "auth_time": NOW - 10,
    "sid": "session-1",
    "cnf": {"jkt": jose.thumbprint(jose.public_jwk(MINE))},
}


class Desk:
    def __init__(self, *, site="", introspect=None, **changed):
        self.accounts = VaultAccounts(MemoryVault())
        self.endings = Endings(self.accounts)
        self.asked = []
        self.keys = [{**jose.public_jwk(SIGNER), "kid": jose.thumbprint(jose.public_jwk(SIGNER))}]
        self.logins = Logins(
            PeopleSettings(provider="oidc", issuer=ISSUER, **changed),
            issuer=ISSUER,
            audience=HUB,
            keys=lambda kid: self.asked.append(kid) or self.keys,
            endings=self.endings,
            site=site,
            introspect=introspect,
        )

    def verify(self, access, proof=None, *, method="POST", url=URL, now=NOW):
        return self.logins.verify(access, proof or prove(access), method, url, now)


def issued(key=SIGNER, **changed):
    given = {name: value for name, value in {**CLAIMS, **changed}.items() if value is not None}
    return token.issue(given, key, typ="at+jwt")


def prove(access, key=MINE, *, method="POST", url=URL, now=NOW):
    return dpop.prove(key, method, url, jti=f"number-{next(NUMBERS):08}", now=now, token=access)


def person(**changed):
    given = {
        "subject": "u-17",
        "issuer": ISSUER,
        "name": "Ada",
        "roles": frozenset({"steward"}),
        "site": "north",
        "acr": "",
        "amr": (),
        "auth_time": NOW,
        "session": "s",
    }
    return Person(**{**given, **changed})


def test_a_token_and_a_proof_of_its_key_make_a_person():
    found = Desk().verify(issued())
    assert found == Person(
        "u-17",
        ISSUER,
        "Ada",
        frozenset({"steward"}),
        "north",
        "urn:wardround:acr:passkey",
        ("hwk", "user", "mfa"),
        NOW - 10,
        "session-1",
    )


def test_a_stolen_token_is_worth_nothing_without_its_key():
    access = issued()
    with pytest.raises(LoginError, match="another key"):
        Desk().verify(access, prove(access, THIEF))


def test_a_proof_counts_once():
    desk, access = Desk(), issued()
    proof = prove(access)
    desk.verify(access, proof)
    with pytest.raises(LoginError, match="received before"):
        desk.verify(access, proof)


def test_a_proof_for_another_request_token_or_time_is_refused():
    desk, access = Desk(), issued()
    other = issued(jti="other")
    for proof in (
        prove(access, method="GET"),
        prove(access, url=f"{HUB}/v1/studies/y/actions"),
        prove(other),
        prove(access, now=NOW - 61),
        prove(access, now=NOW + 61),
        "",
        access,
    ):
        with pytest.raises(LoginError):
            desk.verify(access, proof or "x")


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example.org"},
        {"aud": "https://other.example.org"},
        {"exp": NOW - 61},
        {"iat": NOW + 61},
        {"cnf": None},
        {"key": THIEF},
    ],
)
def test_a_token_that_is_not_for_here_is_refused(changed):
    access = issued(**changed)
    with pytest.raises(LoginError):
        Desk().verify(access)


def test_a_token_of_another_site_is_refused_at_a_node():
    assert Desk(site="north").verify(issued()).site == "north"
    for site in ("south", None, 7):
        with pytest.raises(LoginError, match="site"):
            Desk(site="north").verify(issued(site=site))


def test_the_source_of_keys_hears_which_key_is_wanted():
    desk = Desk()
    desk.verify(issued())
    assert desk.asked == [jose.thumbprint(jose.public_jwk(SIGNER))]


def test_an_ended_session_and_an_ended_person_are_refused_at_once():
    desk, access = Desk(), issued()
    desk.endings.end_session(ISSUER, "session-2", NOW)
    desk.endings.end_person(ISSUER, "u-18", NOW)
    desk.endings.end_person("https://elsewhere.example.org", "u-17", NOW)
    desk.verify(access)
    desk.endings.end_session(ISSUER, "session-1", NOW)
    with pytest.raises(LoginError, match="ended"):
        desk.verify(access)
    fresh = issued(sid="session-3", iat=NOW + 1)
    desk.endings.end_person(ISSUER, "u-17", NOW)
    with pytest.raises(LoginError, match="ended"):
        desk.verify(issued(sid="session-4"))
    assert desk.verify(fresh, now=NOW + 1).session == "session-3"


def test_the_later_of_two_endings_counts():
    desk = Desk()
    desk.endings.end_person(ISSUER, "u-17", NOW)
    desk.endings.end_person(ISSUER, "u-17", NOW - 100)
    assert desk.endings.is_ended(ISSUER, "s", "u-17", NOW - 50)
    assert not desk.endings.is_ended(ISSUER, "s", "u-17", NOW + 1)


def test_an_opaque_token_is_asked_about_only_where_that_is_set():
    told = {**CLAIMS, "active": True, "token_type": "DPoP"}
    opaque = "opaque-token-of-some-length"
    assert Desk(introspect=lambda _: told).verify(opaque).name == "Ada"
    with pytest.raises(LoginError, match="9068"):
        Desk().verify(opaque)
    for wrong in (
        {"active": False},
        {"active": "true"},
        {"exp": NOW - 61},
        {"exp": None},
        {"aud": "x"},
        {"aud": None},
        {"iss": "https://evil.example.org"},
        {"cnf": None},
        {"sub": None},
    ):
        said = {name: value for name, value in {**told, **wrong}.items() if value is not None}
        with pytest.raises(LoginError):
            Desk(introspect=lambda _, said=said: said).verify(opaque)


def test_claims_are_mapped_by_the_settings_and_unknown_roles_are_none():
    desk = Desk(roles_claim="realm_access.roles", site_claim="hospital", roles={"dsb": "privacy-officer", "x": "board"})
    access = issued(realm_access={"roles": ["dsb", "steward", "x", 5]}, hospital="south", name="A\x1b[31mda\n")
    found = desk.verify(access)
    assert found.roles == {"privacy-officer", "board"}
    assert (found.site, found.name) == ("south", "A[31mda")
    plain = Desk().verify(issued(roles="steward board superuser", name=None))
    assert (plain.roles, plain.name) == ({"steward", "board"}, "u-17")
    with pytest.raises(ConfigError, match="unknown roles"):
        Desk(roles={"x": "superuser"})


RULES = StepUp(acr=("gold",))


@pytest.mark.parametrize(
    "changed",
    [
        {"acr": "gold"},
        {"amr": ("hwk",)},
        {"amr": ("mfa",)},
        {"amr": ("pwd", "otp")},
        {"acr": "gold", "auth_time": NOW - 900},
        {"acr": "gold", "auth_time": NOW + 59},
    ],
)
def test_a_strong_and_new_login_may_act(changed):
    people.require(person(**changed), "approve", NOW, RULES)


@pytest.mark.parametrize(
    "changed",
    [{}, {"acr": "silver"}, {"amr": ("pwd",)}, {"amr": ("otp",)}, {"amr": ("pwd", "sms")}, {"acr": "GOLD"}],
)
@pytest.mark.parametrize("action", ["approve", "withdraw", "budget", "release", "key", "delete", "never heard of"])
def test_a_weak_login_may_not(changed, action):
    with pytest.raises(StepUpError, match="second factor"):
        people.require(person(**changed), action, NOW, RULES)


@pytest.mark.parametrize("auth_time", [NOW - 901, NOW + 61, 0.0, float("nan"), float("inf")])
def test_an_old_login_or_one_in_the_future_may_not(auth_time):
    with pytest.raises(StepUpError, match="15 minutes"):
        people.require(person(acr="gold", auth_time=auth_time), "approve", NOW, RULES)


def test_claims_that_are_missing_or_of_another_kind_are_the_weakest():
    for changed in ({"acr": None, "amr": None, "auth_time": None}, {"acr": 5, "amr": "mfa", "auth_time": "now"}):
        found = Desk().verify(issued(**changed))
        assert (found.acr, found.amr, found.auth_time) == ("", (), 0.0)
        with pytest.raises(StepUpError):
            people.require(found, "approve", NOW, StepUp())


def test_looking_takes_no_step_up():
    people.require(person(auth_time=0.0), "review", NOW, RULES)
    people.require(person(issuer="", auth_time=0.0), "approve", NOW, RULES)  # Nobody is checked with provider none.


def test_the_challenge_is_that_of_rfc_9470():
    assert people.challenge(StepUp(acr=("gold", "silver"))) == (
        'DPoP error="insufficient_user_authentication", error_description="this action takes a newer or stronger'
        ' login", acr_values="gold silver", max_age="900"'
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"provider": "oidc"},
        {"token_seconds": 0},
        {"token_seconds": 3601},
        {"session_seconds": 31 * 86400.0},
        {"step_up": StepUp(seconds=0)},
        {"step_up": StepUp(acr=('x" y',))},
        {"client_secret": "hunter2"},
        {"provider": "local", "roles": {"a": "steward"}},
    ],
)
def test_settings_that_cannot_hold_are_refused(changed):
    with pytest.raises(ConfigError) as caught:
        people.check_settings(PeopleSettings(**changed))
    assert "hunter2" not in str(caught.value)


@settings(max_examples=150)
@given(st.text(max_size=120), st.text(max_size=120), st.booleans())
def test_hostile_tokens_and_proofs_are_refused_with_an_error_of_ours(access, proof, real):
    given_token = issued() if real else access
    with pytest.raises(WardroundError):
        DESK.logins.verify(given_token, proof, "POST", URL, NOW)


DESK = Desk(introspect=lambda _: {"active": False})
