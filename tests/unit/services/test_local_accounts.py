"""Accounts, passwords with codes, passkeys and first logins: each rule, and what breaks it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pyotp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.authenticator import Authenticator, encoded

from wardround.errors import ConfigError, LoginError, NotFoundError, StorageFullError, WardroundError
from wardround.services import one_time_codes, passkeys, passwords, sign_in
from wardround.services.accounts import AccountBook
from wardround.services.endings import Endings
from wardround.services.first_login import FirstLogins
from wardround.services.passkeys import Passkeys, RelyingParty
from wardround.services.pending import Pending
from wardround.services.sign_in import SignIn
from wardround.storage.memory import MemoryVault
from wardround.storage.vault_accounts import VaultAccounts

NOW = 1_800_000_000.0
PASSWORD = "several words make one"
HUB = "https://hub.example.org"


class Random:
    def draw(self, size):
        return os.urandom(size)


class Desk:
    def __init__(self):
        self.accounts = VaultAccounts(MemoryVault())
        self.book = AccountBook(self.accounts, Random(), issuer=HUB)
        self.sign_in = SignIn(self.book, Random())
        self.passkeys = Passkeys(self.book, Random(), RelyingParty("hub.example.org", HUB))
        self.first = FirstLogins(self.book, self.passkeys, Random(), party="Wardround")

    def ada(self, *, now=NOW - 60):
        """An account with password and app; its TOTP secret and recovery codes."""
        code = self.book.add("ada", ["steward"], now=now)
        offer = self.first.begin("ada", code, "page", now)
        finished = self.first.finish_with_password("page", PASSWORD, pyotp.TOTP(offer.spelled).at(now), now)
        return pyotp.TOTP(offer.spelled), finished.codes

    def ada_with(self, authenticator, **how):
        code = self.book.add("ada", ["steward"], now=NOW)
        self.first.begin("ada", code, "page", NOW)
        made = authenticator.create(self.first.passkey_options("page", NOW), **how)
        return self.first.finish_with_passkey("page", made, NOW)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # One test below looks at the real cost.
    monkeypatch.setattr(passwords.make, "__kwdefaults__", {"n": 16})


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def authenticator():
    return Authenticator()


# Accounts


def test_an_account_is_added_once_under_a_name_with_roles_that_exist(desk):
    desk.book.add("ada", ["steward", "board"], shown="Ada", now=NOW)
    assert desk.book.names() == ["ada"]
    assert desk.book.get("ada").roles == ("board", "steward")
    with pytest.raises(ConfigError, match="already"):
        desk.book.add("ada", ["operator"], now=NOW)
    assert desk.book.get("ada").roles == ("board", "steward")
    for name, roles in (
        ("Ada", ["steward"]),
        ("", ["steward"]),
        ("bob", []),
        ("bob", ["superuser"]),
        ("a/b", ["board"]),
    ):
        with pytest.raises(ConfigError):
            desk.book.add(name, roles, now=NOW)
    with pytest.raises(NotFoundError):
        desk.book.get("bob")


def test_whatever_lessens_an_account_ends_its_logins(desk):
    endings = Endings(desk.accounts)
    for at, act in enumerate(
        (
            lambda now: desk.book.add("ada", ["steward"], now=now),
            lambda now: desk.book.set_roles("ada", ["board"], now),
            lambda now: desk.book.reset("ada", now),
            lambda now: desk.book.remove("ada", now),
        )
    ):
        assert not endings.is_ended(HUB, "s", "ada", NOW + at)
        act(NOW + at)
        assert endings.is_ended(HUB, "s", "ada", NOW + at)
    assert desk.book.names() == []
    assert desk.accounts.names("handle.") == []


def test_no_secret_shows_when_an_account_is_printed(desk):
    totp, _ = desk.ada()
    shown = repr(desk.book.get("ada")) + repr(desk.book.get("ada").totp) + repr(desk.book.get("ada").password)
    secret = desk.book.get("ada").totp.secret
    assert totp.secret not in shown
    assert repr(secret) not in shown
    assert repr(desk.book.get("ada").password.digest) not in shown


# First logins


def test_a_first_login_takes_its_own_code_in_time_and_once(desk):
    code = desk.book.add("ada", ["steward"], now=NOW)
    other = desk.book.add("bob", ["steward"], now=NOW)
    for name, wrong in (
        ("ada", other),
        ("bob", code),
        ("eve", code),
        ("ada", ""),
        ("ada", "x" * 101),
        ("ada", code[:-1]),
    ):
        with pytest.raises(LoginError):
            desk.first.begin(name, wrong, "page", NOW)
    with pytest.raises(LoginError):
        desk.first.begin("ada", code, "page", NOW + 72 * 3600)
    offer = desk.first.begin("ada", code.lower().replace("-", " "), "page", NOW)
    desk.first.finish_with_password("page", PASSWORD, pyotp.TOTP(offer.spelled).at(NOW), NOW)
    with pytest.raises(LoginError):
        desk.first.begin("ada", code, "page", NOW)


def test_a_first_login_stores_nothing_before_the_app_shows_a_right_code(desk):
    code = desk.book.add("ada", ["steward"], now=NOW)
    offer = desk.first.begin("ada", code, "page", NOW)
    right = pyotp.TOTP(offer.spelled).at(NOW)
    wrong = f"{(int(right) + 1) % 1000000:06}"
    for binding, password, shown in (
        ("page", PASSWORD, wrong),
        ("page", "short", right),
        ("other", PASSWORD, right),
        ("page", "aaaaaaaaaaaaaa", right),
    ):
        with pytest.raises(LoginError):
            desk.first.finish_with_password(binding, password, shown, NOW)
    assert desk.book.get("ada").factors == ()
    with pytest.raises(LoginError):
        desk.first.finish_with_password("page", PASSWORD, right, NOW + 901)
    assert len(desk.first.finish_with_password("page", PASSWORD, right, NOW).codes) == 8


def test_two_pages_with_one_code_store_factors_once(desk):
    code = desk.book.add("ada", ["steward"], now=NOW)
    offers = {page: desk.first.begin("ada", code, page, NOW) for page in ("one", "two")}
    desk.first.finish_with_password("one", PASSWORD, pyotp.TOTP(offers["one"].spelled).at(NOW), NOW)
    with pytest.raises(LoginError, match="meantime"):
        desk.first.finish_with_password("two", "quite another password", pyotp.TOTP(offers["two"].spelled).at(NOW), NOW)


# Passwords and codes


def test_a_password_and_a_code_log_in_as_two_factors(desk):
    totp, _ = desk.ada()
    done = desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW), NOW)
    assert (done.name, set(done.amr), done.at) == ("ada", {"pwd", "otp", "mfa"}, NOW)


def test_every_login_and_every_refusal_is_written_down_and_a_refusal_names_nobody(desk):
    told = []
    sign_in = SignIn(desk.book, Random(), record=lambda *words: told.append(words))
    totp, _ = desk.ada()
    for name, password in (("ada", "wrong horse battery"), ("nobody", PASSWORD)):
        with pytest.raises(LoginError):
            sign_in.with_code(name, password, totp.at(NOW), NOW)
    sign_in.with_code("ada", PASSWORD, totp.at(NOW + 60), NOW + 60)
    assert told == [("refused", "password-code", "")] * 2 + [("accepted", "password-code", "ada")]


def test_who_cannot_be_written_down_is_not_let_in(desk):
    def full(*_words):
        raise StorageFullError("the disk is full")

    totp, _ = desk.ada()
    with pytest.raises(StorageFullError):
        SignIn(desk.book, Random(), record=full).with_code("ada", PASSWORD, totp.at(NOW), NOW)


def test_a_code_counts_once_and_an_older_one_not_after_it(desk):
    totp, _ = desk.ada()
    code = totp.at(NOW)
    desk.sign_in.with_code("ada", PASSWORD, code, NOW)
    for again in (code, totp.at(NOW - 30)):
        with pytest.raises(LoginError):
            desk.sign_in.with_code("ada", PASSWORD, again, NOW + 1)
    desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW + 30), NOW + 30)


@pytest.mark.parametrize(("steps", "accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_counts_within_one_step_of_now(steps, accepted):
    secret = bytes(range(20))
    code = pyotp.TOTP(one_time_codes.spelled(secret)).at(NOW + 30 * steps)
    found = one_time_codes.accepted_step(secret, code, NOW, 0)
    step = int(NOW) // 30 + steps
    assert found == (step if accepted else None)
    assert one_time_codes.accepted_step(secret, code, NOW, step) is None


@pytest.mark.parametrize(("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (20000000000, "353130")])
def test_codes_are_those_of_rfc_6238(seconds, code):
    # Appendix B, the last six digits.
    assert one_time_codes.accepted_step(b"12345678901234567890", code, seconds, 0) == seconds // 30


@settings(max_examples=100)
@given(st.text(max_size=12))
def test_what_is_no_code_is_none(text):
    secret = bytes(range(20))
    right = {pyotp.TOTP(one_time_codes.spelled(secret)).at(NOW + 30 * step) for step in (-1, 0, 1)}
    found = one_time_codes.accepted_step(secret, text, NOW, 0)
    assert (found is not None) == ("".join(text.split()) in right)


def test_many_at_once_with_one_code_are_one_login(desk):
    totp, _ = desk.ada()

    def attempt(_):
        try:
            desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW), NOW)
        except WardroundError:
            return 0
        return 1

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(3))) == 1


def test_guessing_locks_for_longer_and_longer_and_a_right_login_ends_it(desk):
    totp, _ = desk.ada()
    now, tried = NOW, 0
    while now < NOW + 86400 and tried < 100:
        account = desk.book.get("ada")
        now = max(now, account.locked_until)
        with pytest.raises(LoginError):
            desk.sign_in.with_code("ada", PASSWORD, "000000", now)
        tried += 1
    # A day of guessing: 3 free, 11 while the lock grows to an hour, then one an hour.
    assert tried < 40
    locked = desk.book.get("ada").locked_until
    with pytest.raises(LoginError):  # Right, and too early.
        desk.sign_in.with_code("ada", PASSWORD, totp.at(locked - 1), locked - 1)
    desk.sign_in.with_code("ada", PASSWORD, totp.at(locked), locked)
    assert (desk.book.get("ada").failures, desk.book.get("ada").locked_until) == (0, 0.0)


def test_an_attempt_is_counted_before_it_is_tried(desk, monkeypatch):
    totp, _ = desk.ada()
    seen = []
    monkeypatch.setattr(passwords, "is_password", lambda *_: seen.append(desk.book.get("ada").failures) or False)
    for _ in range(3):
        with pytest.raises(LoginError):
            desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW), NOW)
    assert seen == [1, 2, 3]


def test_locks_grow_to_an_hour_and_stay():
    assert [sign_in.lock_seconds(n) for n in (0, 1, 3, 4, 5, 6, 13, 14, 1000)] == [0, 0, 0, 5, 10, 20, 2560, 3600, 3600]


def test_whatever_is_wrong_the_words_are_the_same(desk):
    totp, _ = desk.ada()
    code, words = totp.at(NOW), set()
    for name, password, shown in (
        ("ada", "wrong password here", code),
        ("ada", PASSWORD, "000000"),
        ("eve", PASSWORD, code),
        ("", "", ""),
        ("ada", "p" * 300, code),
    ):
        with pytest.raises(LoginError) as caught:
            desk.sign_in.with_code(name, password, shown, NOW)
        words.add(str(caught.value))
    assert len(words) == 1


def test_an_unknown_name_costs_the_same_work(desk, monkeypatch):
    desk.ada()
    derived = []
    real = passwords.is_password
    monkeypatch.setattr(passwords, "is_password", lambda kept, given: derived.append(kept.n) or real(kept, given))
    for name in ("ada", "eve"):
        with pytest.raises(LoginError):
            desk.sign_in.with_code(name, "wrong password here", "000000", NOW)
    assert len(derived) == 2


def test_a_password_alone_is_no_login(desk):
    totp, _ = desk.ada()
    desk.book.change("ada", lambda account: msgspec.structs.replace(account, totp=None))
    with pytest.raises(LoginError):
        desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW), NOW)


def test_passwords_are_kept_with_scrypt_at_its_real_cost_and_compared_in_one_form(monkeypatch):
    monkeypatch.undo()
    kept = passwords.make("pässword of some length", b"s" * 16, n=2**15)
    assert (kept.n, kept.r, kept.p) == (32768, 8, 1)
    assert passwords.Password(b"", b"").n == 32768
    assert passwords.is_password(kept, "pa\u0308ssword of some length")
    assert not passwords.is_password(kept, "password of some length")
    assert not passwords.is_password(kept, "")
    for changed in ({"n": 2**21}, {"n": 3}, {"n": 0}, {"r": 33}, {"p": 0}):
        with pytest.raises(WardroundError):
            passwords.is_password(msgspec.structs.replace(kept, **changed), "x")


def test_a_recovery_code_is_good_once_and_only_for_new_factors(desk):
    totp, codes = desk.ada()
    with pytest.raises(LoginError):
        desk.sign_in.with_code("ada", PASSWORD, codes[0], NOW)
    with pytest.raises(LoginError):
        desk.sign_in.recover("ada", "wrong password here", codes[0], NOW)
    fresh = desk.sign_in.recover("ada", PASSWORD, codes[0].lower(), NOW)
    with pytest.raises(LoginError):
        desk.sign_in.recover("ada", PASSWORD, codes[0], NOW)
    with pytest.raises(LoginError):  # The lost app is void.
        desk.sign_in.with_code("ada", PASSWORD, totp.at(NOW), NOW)
    offer = desk.first.begin("ada", fresh, "page", NOW)
    desk.first.finish_with_password("page", PASSWORD, pyotp.TOTP(offer.spelled).at(NOW - 30), NOW)
    desk.sign_in.with_code("ada", PASSWORD, pyotp.TOTP(offer.spelled).at(NOW), NOW)
    with pytest.raises(LoginError):  # The old codes went with the new ones.
        desk.sign_in.recover("ada", PASSWORD, codes[1], NOW)


# Passkeys


@pytest.mark.parametrize("statement", ["none", "packed"])
def test_a_passkey_is_made_and_logs_in_as_two_factors(desk, authenticator, statement):
    finished = desk.ada_with(authenticator, statement=statement)
    assert finished.done.amr == ("hwk", "user", "mfa")
    done = desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)
    assert (done.name, done.amr, done.acr) == ("ada", ("hwk", "user", "mfa"), "urn:wardround:acr:passkey")
    assert desk.book.get("ada").passkeys[0].sign_count == authenticator.count


def test_a_passkey_that_is_synced_is_not_called_hardware(desk):
    authenticator = Authenticator(synced=True)
    desk.ada_with(authenticator)
    assert desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW).amr == (
        "swk",
        "user",
        "mfa",
    )


def test_a_passkey_without_a_counter_logs_in_again_and_again(desk):
    authenticator = Authenticator(counts=False)
    desk.ada_with(authenticator)
    for _ in range(2):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)


@pytest.mark.parametrize("party", ["evil.example.org", "example.org"])
def test_a_passkey_for_another_party_is_refused(desk, authenticator, party):
    desk.ada_with(authenticator)
    authenticator.party = party
    with pytest.raises(LoginError):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)
    with pytest.raises(LoginError):
        Desk().ada_with(Authenticator(party=party))


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "http://hub.example.org", "https://hub.example.org:8443"]
)
def test_a_passkey_used_on_another_origin_is_refused(desk, authenticator, origin):
    desk.ada_with(authenticator)
    authenticator.origin = origin
    with pytest.raises(LoginError):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)
    with pytest.raises(LoginError):
        Desk().ada_with(Authenticator(origin=origin))


def test_a_passkey_without_user_verification_is_refused(desk, authenticator):
    with pytest.raises(LoginError, match="verification"):
        Desk().ada_with(Authenticator(), verified=False)
    desk.ada_with(authenticator)
    with pytest.raises(LoginError, match="verification"):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW), verified=False), NOW)


@pytest.mark.parametrize("back", [0, 1, 5])
def test_a_counter_that_does_not_grow_is_refused(desk, authenticator, back):
    desk.ada_with(authenticator)
    for _ in range(5):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)
    authenticator.count -= back + 1
    with pytest.raises(LoginError, match="count"):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)


def test_two_answers_with_one_counter_count_once(desk, authenticator):
    desk.ada_with(authenticator)
    account = desk.book.get("ada")
    credential = account.passkeys[0].credential
    counted = passkeys._counted(account, credential, 7)
    with pytest.raises(LoginError, match="counter"):
        passkeys._counted(counted, credential, 7)


def test_a_challenge_is_answered_once_by_its_own_page_in_time(desk, authenticator):
    desk.ada_with(authenticator)
    answer = authenticator.get(desk.passkeys.request("one", NOW))
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("two", answer, NOW)
    desk.passkeys.log_in("one", answer, NOW)
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("one", answer, NOW)
    late = authenticator.get(desk.passkeys.request("one", NOW))
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("one", late, NOW + 121)
    stale = authenticator.get(desk.passkeys.request("one", NOW))
    desk.passkeys.request("one", NOW)
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("one", stale, NOW)


def test_a_wrong_answer_uses_the_challenge_up(desk, authenticator):
    desk.ada_with(authenticator)
    options = desk.passkeys.request("b", NOW)
    with pytest.raises(LoginError):
        desk.passkeys.log_in("b", {**authenticator.get(options), "id": "x"}, NOW)
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("b", authenticator.get(options), NOW)


def test_a_challenge_for_making_is_none_for_logging_in_and_the_other_way_round(desk, authenticator):
    desk.ada_with(authenticator)
    account = desk.book.get("ada")
    creation = desk.passkeys.creation(account, "b", NOW)
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.log_in("b", authenticator.get(creation), NOW)
    options = json.loads(desk.passkeys.request("b", NOW)) | {"user": {"id": encoded(account.handle)}}
    with pytest.raises(LoginError, match="challenge"):
        desk.passkeys.created(account, "b", Authenticator().create(json.dumps(options)), NOW)


def test_an_assertion_of_another_kind_is_refused(desk, authenticator):
    desk.ada_with(authenticator)
    for changed in ({"type": "webauthn.create"}, {"challenge": encoded(bytes(32))}, {"type": "payment.get"}):
        with pytest.raises(LoginError):
            desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW), **changed), NOW)


def test_another_key_with_the_same_name_is_refused(desk, authenticator):
    desk.ada_with(authenticator)
    thief = Authenticator()
    thief.identifier, thief.handle, thief.count = authenticator.identifier, authenticator.handle, 100
    with pytest.raises(LoginError, match="signature"):
        desk.passkeys.log_in("b", thief.get(desk.passkeys.request("b", NOW)), NOW)


def test_a_passkey_of_nobody_or_of_a_reset_account_is_refused(desk, authenticator):
    desk.ada_with(authenticator)
    for handle in (b"", b"x", bytes(32), b"y" * 100):
        with pytest.raises(LoginError, match="no account"):
            desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW), handle=handle), NOW)
    desk.book.reset("ada", NOW)
    with pytest.raises(LoginError, match="no account"):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)
    desk.book.remove("ada", NOW)
    desk.book.add("ada", ["board"], now=NOW)
    with pytest.raises(LoginError, match="no account"):
        desk.passkeys.log_in("b", authenticator.get(desk.passkeys.request("b", NOW)), NOW)


def test_one_credential_is_stored_once_and_no_more_than_eight(desk, authenticator):
    desk.ada_with(authenticator)
    account = desk.book.get("ada")
    with pytest.raises(LoginError, match="known"):
        desk.passkeys.created(account, "b", authenticator.create(desk.passkeys.creation(account, "b", NOW)), NOW)
    full = msgspec.structs.replace(account, passkeys=account.passkeys * passkeys.MAX_PASSKEYS)
    with pytest.raises(LoginError, match="at most"):
        desk.passkeys.creation(full, "b", NOW)


@pytest.mark.parametrize("statement", ["tpm", "android-key", "apple", "fido-u2f", "android-safetynet", "x"])
def test_other_attestations_are_not_even_read(desk, authenticator, statement, monkeypatch):
    seen = []
    monkeypatch.setattr(passkeys.webauthn, "verify_registration_response", lambda **_: seen.append(1))
    with pytest.raises(LoginError):
        desk.ada_with(authenticator, statement=statement)
    assert seen == []
    assert desk.book.get("ada").passkeys == ()


def test_an_account_may_have_a_passkey_and_another_added_later(desk, authenticator):
    desk.ada_with(authenticator)
    second, code = Authenticator(), desk.book.renew("ada", NOW)
    desk.first.begin("ada", code, "page", NOW)
    desk.first.finish_with_passkey("page", second.create(desk.first.passkey_options("page", NOW)), NOW)
    for one in (authenticator, second):
        assert desk.passkeys.log_in("b", one.get(desk.passkeys.request("b", NOW)), NOW).name == "ada"


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.binary(max_size=60).map(encoded),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_READ = ["clientDataJSON", "authenticatorData", "signature", "userHandle"]
_FIELDS = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]


@settings(max_examples=150)
@given(
    st.dictionaries(st.sampled_from(["id", "rawId", "type", "response", "authenticatorAttachment"]), _JUNK, max_size=4),
    st.dictionaries(st.sampled_from(_FIELDS), _JUNK, max_size=5),
    st.booleans(),
)
def test_hostile_answers_are_refused_with_an_error_of_ours(outer, inner, known):
    desk, authenticator = FUZZED
    options = desk.passkeys.request("b", NOW)
    real = authenticator.get(options)
    answer = {**real, "response": {**(real["response"] if known else {}), **inner}, **outer}
    _refused_or_the_same(lambda: desk.passkeys.log_in("b", answer, NOW), answer, real, _READ)
    account = desk.book.get("ada")
    made = Authenticator().create(desk.passkeys.creation(account, "b", NOW))
    answer = {**made, "response": {**(made["response"] if known else {}), **inner}, **outer}
    _refused_or_the_same(lambda: desk.passkeys.created(account, "b", answer, NOW), answer, made, _FIELDS[:2])


def _refused_or_the_same(act, answer, real, read):
    """Whatever was changed is refused, but for fields that the ceremony does not read."""
    try:
        act()
    except WardroundError:
        return
    assert all(answer["response"][name] == real["response"][name] for name in read)
    assert all(answer[name] == real[name] for name in ("id", "rawId", "type"))


def _fuzzed():
    desk, authenticator = Desk(), Authenticator(counts=False)
    desk.ada_with(authenticator)
    return desk, authenticator


FUZZED = _fuzzed()


# Things that wait


def test_what_waits_is_taken_once_in_time_and_the_oldest_goes_first():
    waiting = Pending(10.0, capacity=3)
    for name in "abcd":
        waiting.put(name, name.upper(), NOW)
    assert len(waiting) == 3
    assert waiting.take("a", NOW) is None
    assert waiting.look("b", NOW + 9) == "B"
    assert waiting.take("b", NOW + 9) == "B"
    assert waiting.take("b", NOW + 9) is None
    assert waiting.look("c", NOW + 10) is None
    assert waiting.take("c", NOW + 10) is None


def test_codes_differ_and_fit_their_own_account_only():
    codes = {one_time_codes.draw_code(Random()) for _ in range(50)}
    assert len(codes) == 50
    code = codes.pop()
    assert all(len(one) == 19 for one in codes)
    digests = [one_time_codes.code_digest(code, name) for name in ("ada", "bob")]
    assert digests[0] != digests[1]
    assert one_time_codes.matches(digests[0], (digests[1],)) is None
