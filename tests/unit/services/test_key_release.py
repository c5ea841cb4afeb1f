"""Keys go to attested machines of the run's sites while the run is open, and to nobody else; everything is recorded."""

import base64
import json

import msgspec
import pytest
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from tests.unit.enclave.confidential_machine import (
    GOOD,
    NOW,
    OTHER,
    Clock,
    Entropy,
    accepted,
    appraise,
    machine,
    pinned,
)

from wardround.attestation import amd_chain, ear
from wardround.crypto import jose, signing
from wardround.errors import (
    AttestationError,
    CodecError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from wardround.ids import RunId, SiteId
from wardround.protocol import broker
from wardround.protocol.attested import Enclaves
from wardround.protocol.broker import RuntimeData, TeeKey
from wardround.services.key_release import KeyRelease, signed_by
from wardround.storage.memory import MemoryVault

ARRAN, BUTE = SiteId("arran"), SiteId("bute")
RUN, NEXT = RunId("ab" * 32 + ".1"), RunId("ab" * 32 + ".2")
ENCLAVES = Enclaves(nodes=accepted(), releases=("data-key", "model-key"))
TOKEN_KEY = signing.generate()


@pytest.fixture(autouse=True)
def pin(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())


class Bench:
    """A broker of two runs, and what it needs."""

    def __init__(self, vault=None):
        self.clock, self.vault, self.told = Clock(), vault or MemoryVault(), []
        self.plans = {RUN: ENCLAVES, NEXT: ENCLAVES}
        self.keys = KeyRelease(
            self.vault, self.clock, Entropy(), demands=self.demands, appraise=appraise,
            issue=signed_by(TOKEN_KEY, build="test"), record=self.told.append)  # fmt: skip

    def demands(self, run, site):
        if run not in self.plans:
            raise NotFoundError("there is no such run")
        if site not in {ARRAN, BUTE}:
            raise ForbiddenError(f"{site} is not of this run")
        return self.plans[run]

    @property
    def events(self):
        return [one.what for one in self.told]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def quote(tmp_path):
    return machine(tmp_path).evidence


def new_key():
    key = ECKey.generate_key("P-256")
    public = key.as_dict(private=False)
    return key, TeeKey(x=public["x"], y=public["y"])


def answer(nonce, key, quote, *, bound=None, tee_key=None):
    """An attestation; `bound` is what the evidence is over, where that is not what is sent."""
    runtime = RuntimeData(nonce, tee_key or key)
    return broker.attestation(runtime, quote(broker.expected_report_data(bound or runtime)))


def attest(bench, quote, *, site=ARRAN, run=RUN):
    private, key = new_key()
    session, challenge = bench.keys.challenge(site, broker.request("snp", run))
    token = bench.keys.attest(site, session, answer(challenge.nonce, key, quote)).token
    return private, session, token


def opened(message, private):
    compact = f"{message.protected}.{message.encrypted_key}.{message.iv}.{message.ciphertext}.{message.tag}"
    return jwe.decrypt_compact(compact, private, algorithms=["ECDH-ES+A256KW", "A256GCM"]).plaintext


def test_an_attested_machine_gets_its_keys_and_only_it_can_open_them(bench, quote):
    private, session, token = attest(bench, quote)
    model = opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private)
    data = opened(bench.keys.release(ARRAN, session, RUN, "data-key"), private)
    assert (len(model), len(data)) == (32, 32)
    assert model != data
    assert opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private) == model
    wrapped = bench.keys.release(ARRAN, token, RUN, "model-key")
    assert json.loads(base64.urlsafe_b64decode(wrapped.protected + "==")).keys() == {"alg", "enc", "epk"}
    with pytest.raises((JoseError, InvalidUnwrap)):
        opened(wrapped, new_key()[0])


def test_two_sites_get_one_key_and_two_runs_two(bench, quote):
    keys = [
        opened(bench.keys.release(site, token, run, "model-key"), private)
        for site, run in ((ARRAN, RUN), (BUTE, RUN), (ARRAN, NEXT))
        for private, _, token in [attest(bench, quote, site=site, run=run)]
    ]
    assert keys[0] == keys[1] != keys[2]


def test_the_token_is_an_attestation_result_for_this_machines_key(bench, quote):
    _, key = new_key()
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    token = bench.keys.attest(ARRAN, session, answer(challenge.nonce, key, quote)).token
    nonce = base64.b64decode(challenge.nonce)
    found = ear.verify(token, jose.public_jwk(TOKEN_KEY), nonce=nonce, now=NOW)
    assert found.key == {"kty": "EC", "crv": "P-256", "x": key.x, "y": key.y}
    assert found.expires <= NOW + 600
    assert found.submodules["cpu"].ear_status in {"affirming", "warning"}


def test_another_build_is_refused_with_the_clause(bench, tmp_path):
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        attest(bench, machine(tmp_path, OTHER).evidence)
    assert bench.events == ["refused"]
    assert "MEASUREMENT" in bench.told[0].reason
    assert bench.vault.names("key-release/") == []


def test_a_build_that_may_be_debugged_is_refused(bench, tmp_path):
    with pytest.raises(AttestationError, match=r"POLICY\.DEBUG"):
        attest(bench, machine(tmp_path, policy=0x30000 | 1 << 19).evidence)


def test_a_nonce_is_for_one_answer(bench, quote, tmp_path):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    _, key = new_key()
    good = answer(challenge.nonce, key, quote)
    bench.keys.attest(ARRAN, session, good)
    with pytest.raises(AttestationError, match="has been answered"):
        bench.keys.attest(ARRAN, session, good)
    # Also where the first answer was refused: nobody tries one nonce twice.
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, key, quote, bound=RuntimeData("other", key)))
    with pytest.raises(AttestationError, match="has been answered"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, key, quote))


def test_evidence_of_an_earlier_session_is_refused(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    _, key = new_key()
    old = answer(challenge.nonce, key, quote)
    bench.keys.attest(ARRAN, session, old)
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    with pytest.raises(AttestationError, match=r"runtime-data\.nonce"):
        bench.keys.attest(ARRAN, session, old)
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    renamed = msgspec.structs.replace(old, runtime_data=RuntimeData(challenge.nonce, key))
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        bench.keys.attest(ARRAN, session, renamed)


def test_a_key_that_the_evidence_does_not_bind_gets_nothing(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    _, key = new_key()
    _, thief = new_key()
    bound = RuntimeData(challenge.nonce, key)
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, key, quote, bound=bound, tee_key=thief))


def test_a_challenge_ends(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    bench.clock.instant += 121
    with pytest.raises(AttestationError, match="has ended"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, new_key()[1], quote))
    with pytest.raises(AttestationError, match="unknown"):
        bench.keys.attest(ARRAN, "no such session", answer(challenge.nonce, new_key()[1], quote))


def test_a_token_ends(bench, quote):
    _, session, token = attest(bench, quote)
    bench.clock.instant += 599
    bench.keys.release(ARRAN, token, RUN, "model-key")
    bench.clock.instant += 2
    for credential in (token, session):
        with pytest.raises(AttestationError, match="unknown or has ended"):
            bench.keys.release(ARRAN, credential, RUN, "model-key")


def test_a_plans_shorter_lifetime_counts(bench, quote):
    bench.plans[RUN] = msgspec.structs.replace(ENCLAVES, lifetime_seconds=60.0)
    _, _, token = attest(bench, quote)
    bench.clock.instant += 61
    with pytest.raises(AttestationError, match="has ended"):
        bench.keys.release(ARRAN, token, RUN, "model-key")


def test_a_token_is_for_its_site_its_run_and_the_keys_of_the_plan(bench, quote):
    _, session, token = attest(bench, quote)
    for credential in (token, session):
        with pytest.raises(ForbiddenError, match="another site's"):
            bench.keys.release(BUTE, credential, RUN, "model-key")
        with pytest.raises(AttestationError, match="another run"):
            bench.keys.release(ARRAN, credential, NEXT, "model-key")
    bench.plans[RUN] = msgspec.structs.replace(ENCLAVES, releases=("data-key",))
    with pytest.raises(ForbiddenError, match="does not release its model-key"):
        bench.keys.release(ARRAN, token, RUN, "model-key")
    for forged in ("", token[:-2] + "AA", "a.b.c", "cafe" * 16):
        with pytest.raises(AttestationError, match="unknown or has ended"):
            bench.keys.release(ARRAN, forged, RUN, "model-key")


def test_another_sites_challenge_is_not_answered(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    message = answer(challenge.nonce, new_key()[1], quote)
    with pytest.raises(ForbiddenError, match="another site's challenge"):
        bench.keys.attest(BUTE, session, message)
    bench.keys.attest(ARRAN, session, message)  # It is not used up by somebody who may not answer it.


def test_a_site_outside_of_the_run_gets_no_challenge(bench):
    with pytest.raises(ForbiddenError, match="not of this run"):
        bench.keys.challenge(SiteId("mull"), broker.request("snp", RUN))
    with pytest.raises(NotFoundError):
        bench.keys.challenge(ARRAN, broker.request("snp", RunId("cd" * 32 + ".1")))


def test_when_the_run_ends_its_keys_are_destroyed_and_its_tokens_worthless(bench, quote):
    _, session, token = attest(bench, quote)
    pending, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    bench.keys.release(ARRAN, token, RUN, "model-key")
    assert bench.vault.names(f"key-release/{RUN}/key:")
    bench.keys.close_run(RUN)
    assert bench.vault.names(f"key-release/{RUN}/key:") == []
    for credential in (token, session):
        with pytest.raises(AttestationError, match="unknown or has ended"):
            bench.keys.release(ARRAN, credential, RUN, "model-key")
    with pytest.raises(AttestationError, match="keys were destroyed"):
        bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    with pytest.raises(AttestationError, match="keys were destroyed"):
        bench.keys.register(RUN, "model-key", bytes(32))
    with pytest.raises(AttestationError, match="unknown"):
        bench.keys.attest(ARRAN, pending, answer(challenge.nonce, new_key()[1], quote))
    attest(bench, quote, run=NEXT)


def test_an_end_that_could_not_be_recorded_destroys_all_the_same_and_is_recorded_later(bench, quote):
    private, _, token = attest(bench, quote)
    opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private)

    def full(_event):
        raise UnavailableError("the audit log does not answer")

    record, bench.keys._record = bench.keys._record, full
    with pytest.raises(UnavailableError):
        bench.keys.close_run(RUN)
    bench.keys._record = record
    assert bench.vault.names(f"key-release/{RUN}/key:") == []
    with pytest.raises(AttestationError):
        bench.keys.release(ARRAN, token, RUN, "model-key")
    bench.keys.close_run(RUN)
    bench.keys.close_run(RUN)
    assert bench.events.count("closed") == 1


def test_a_run_that_ends_while_evidence_is_appraised_gives_no_token(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    message = answer(challenge.nonce, new_key()[1], quote)
    appraised = bench.keys._appraise

    def meanwhile(*args, **kwargs):
        found = appraised(*args, **kwargs)
        bench.keys.close_run(RUN)
        return found

    bench.keys._appraise = meanwhile
    with pytest.raises(AttestationError, match="keys were destroyed"):
        bench.keys.attest(ARRAN, session, message)


def test_after_a_restart_a_closed_run_stays_closed_and_an_open_ones_key_stays_the_same(bench, quote):
    private, _, token = attest(bench, quote)
    before = opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private)
    again = Bench(bench.vault)
    with pytest.raises(AttestationError, match="unknown or has ended"):
        again.keys.release(ARRAN, token, RUN, "model-key")
    private, _, token = attest(again, quote)
    assert opened(again.keys.release(ARRAN, token, RUN, "model-key"), private) == before
    again.keys.close_run(RUN)
    with pytest.raises(AttestationError, match="keys were destroyed"):
        attest(Bench(bench.vault), quote)


def test_a_run_that_its_plan_does_not_open_releases_nothing(bench, quote):
    _, _, token = attest(bench, quote)
    bench.plans[RUN] = None
    with pytest.raises(AttestationError, match="not open"):
        bench.keys.release(ARRAN, token, RUN, "model-key")
    bench.plans[RUN] = Enclaves(hub=accepted())
    with pytest.raises(AttestationError, match="not open"):
        bench.keys.challenge(ARRAN, broker.request("snp", RUN))


def test_an_owners_key_is_the_one_that_is_released(bench, quote):
    bench.keys.register(RUN, "data-key", b"k" * 32)
    with pytest.raises(ConflictError):
        bench.keys.register(RUN, "data-key", b"l" * 32)
    with pytest.raises(CodecError, match="32 bytes"):
        bench.keys.register(RUN, "model-key", b"short")
    private, _, token = attest(bench, quote)
    assert opened(bench.keys.release(ARRAN, token, RUN, "data-key"), private) == b"k" * 32


def test_everything_is_recorded_and_nothing_secret_is(bench, quote):
    private, _, token = attest(bench, quote)
    key = opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private)
    with pytest.raises(ForbiddenError):
        bench.keys.release(BUTE, token, RUN, "model-key")
    bench.keys.close_run(RUN)
    bench.keys.close_run(RUN)
    assert bench.events == ["attested", "released", "refused", "closed"]
    released = bench.told[1]
    assert (released.site, released.subject, released.key) == (ARRAN, RUN, "model-key")
    assert released.measurement == GOOD.hex()
    assert (released.kind, len(released.platform)) == ("snp", 64)
    text = repr(bench.told) + msgspec.json.encode(bench.told).decode()
    for secret in (key.hex(), base64.b64encode(key).decode(), token, repr(key)):
        assert secret not in text


def test_what_cannot_be_recorded_is_not_released(bench, quote):
    _, _, token = attest(bench, quote)

    def full(_event):
        raise UnavailableError("the audit log does not answer")

    bench.keys._record = full
    with pytest.raises(UnavailableError):
        bench.keys.release(ARRAN, token, RUN, "model-key")


def test_sessions_are_bounded_for_each_site_and_ended_ones_make_room(bench):
    for _ in range(64):
        bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    with pytest.raises(UnavailableError, match="too many open sessions"):
        bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    bench.keys.challenge(BUTE, broker.request("snp", RUN))
    bench.clock.instant += 121
    bench.keys.challenge(ARRAN, broker.request("snp", RUN))


def test_evidence_of_another_kind_than_was_announced_is_refused(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("tdx", RUN))
    with pytest.raises(AttestationError, match="other fields"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, new_key()[1], quote))
