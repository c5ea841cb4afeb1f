"""What a plan says about machines: only demands that can be met, in words that say what follows."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.enclave.confidential_machine import accepted

from wardround.attestation import reference
from wardround.attestation.evidence import Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.attestation.reference import GpuReference, ReferenceValues
from wardround.codec import canonical
from wardround.errors import AttestationError, CodecError, NotFoundError
from wardround.ids import RunId, StudyId
from wardround.protocol import attested, broker
from wardround.protocol.attested import Enclaves
from wardround.protocol.broker import RuntimeData, TeeKey

GPU = GpuReference(architectures=("hopper",), drivers=("1",), vbios=("1",))
STUDY = StudyId("ab" * 32)
KEY = TeeKey(x="A" * 43, y="B" * 43)


def test_demands_travel_in_a_plans_canonical_form():
    demands = Enclaves(hub=accepted(), nodes=accepted(gpu=GPU), releases=("data-key", "model-key"))
    attested.check(demands)
    assert canonical.decode(canonical.encode(demands), Enclaves) == demands


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        (Enclaves(), "name the builds"),
        (Enclaves(hub=accepted(), releases=("model-key",)), "nodes"),
        (Enclaves(nodes=accepted(), releases=("model-key", "data-key")), "sorted"),
        (Enclaves(nodes=accepted(), releases=("data-key", "data-key")), "sorted"),
        (Enclaves(nodes=accepted(), lifetime_seconds=29.0), "lifetime_seconds"),
        (Enclaves(nodes=accepted(), lifetime_seconds=3601.0), "lifetime_seconds"),
        (Enclaves(nodes=accepted(), lifetime_seconds=float("nan")), "lifetime_seconds"),
        (Enclaves(nodes=ReferenceValues(name="gpu only", gpu=GPU)), "a GPU alone"),
        (Enclaves(hub=ReferenceValues(name="nothing")), "accept nothing"),
    ],
)
def test_demands_that_nobody_can_meet_are_refused(demands, message):
    with pytest.raises(CodecError, match=message):
        attested.check(demands)


def test_the_words_name_builds_consequences_and_keys():
    values = accepted()
    said = " ".join(attested.words(Enclaves(hub=values, nodes=values, releases=("model-key",), lifetime_seconds=120.0)))
    assert said.count(f"{reference.digest(values)[:16]}…") == 2
    for part in (
        "a node that gets no such proof sends nothing",
        "takes nothing from a node without it",
        "120 seconds",
        "The key of the model is released to attested nodes while the run is open, then destroyed",
    ):
        assert part in said
    assert "Every node proves nothing" in " ".join(attested.words(Enclaves(hub=values)))
    assert "trusted as their operators" in attested.words(None)[0]


def test_a_role_a_study_a_nonce_and_a_key_each_change_what_is_bound():
    nonce, key = bytes(32), b"key"
    bound = {
        attested.report_data("hub", STUDY, nonce, key),
        attested.report_data("node", STUDY, nonce, key),
        attested.report_data("hub", StudyId("cd" * 32), nonce, key),
        attested.report_data("hub", STUDY, bytes(31) + b"1", key),
        attested.report_data("hub", STUDY, nonce, b"other"),
    }
    assert len(bound) == 5
    assert {len(one) for one in bound} == {64}
    for bad_nonce, bad_key in ((bytes(31), key), (nonce, b""), (nonce, bytes(5000))):
        with pytest.raises(CodecError):
            attested.report_data("hub", STUDY, bad_nonce, bad_key)


def test_runtime_data_is_hashed_as_trustee_does_it():
    # SHA-384 of RFC 8785's bytes, spelled out here by hand, and zeros up to 64 bytes.
    import hashlib

    runtime = RuntimeData("bm9uY2U=", KEY)
    text = (
        '{"nonce":"bm9uY2U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",'
        f'"x":"{"A" * 43}","y":"{"B" * 43}"' + "}}"
    )
    assert broker.expected_report_data(runtime) == hashlib.sha384(text.encode()).digest() + bytes(16)
    assert broker.session_key(KEY) == text.encode()[text.index('{"alg"') : -1]


@pytest.mark.parametrize("x", ["", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "+", "A" * 42 + "\n"])
def test_a_coordinate_of_another_form_is_refused(x):
    with pytest.raises(CodecError, match="43 characters"):
        broker.expected_report_data(RuntimeData("n", TeeKey(x=x, y="B" * 43)))


@pytest.mark.parametrize("kind", ["tdx", "sgx"])
def test_evidence_survives_the_journey(kind):
    devices = (DeviceEvidence(certificate="Yw==", evidence="ZQ=="),)
    log = b"log" if kind == "tdx" else b""
    evidence = Evidence(kind=kind, report=b"quote", event_log=log)
    message = broker.attestation(RuntimeData("n", KEY), evidence, devices)
    again = broker.decode(broker.encode(message), broker.Attestation)
    assert broker.unverified_evidence(kind, again) == evidence
    assert broker.unverified_devices(again) == devices
    assert set(again.tee_evidence.primary_evidence) == ({"quote", "cc_eventlog"} if log else {"quote"})
    with pytest.raises(AttestationError, match="other fields"):
        broker.unverified_evidence("snp", again)


def test_snp_evidence_survives_the_journey_with_its_certificates():
    evidence = Evidence(kind="snp", report=b"report", auxiliary=b"table", certificates=(b"vcek",))
    message = broker.attestation(RuntimeData("n", KEY), evidence)
    again = broker.decode(broker.encode(message), broker.Attestation)
    assert broker.unverified_evidence("snp", again) == evidence
    assert broker.unverified_devices(again) == ()


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_hostile_additional_evidence_gives_our_error(text):
    message = broker.attestation(RuntimeData("n", KEY), Evidence(kind="tdx", report=b"q"))
    changed = msgspec.structs.replace(message.tee_evidence, additional_evidence=text)
    try:
        assert broker.unverified_devices(msgspec.structs.replace(message, tee_evidence=changed)) == ()
    except AttestationError:
        assert text not in {"", "{}"}


def test_an_address_names_a_runs_key_and_back():
    run = RunId(f"{STUDY}.12")
    path = broker.path(run, "data-key")
    assert path == f"/kbs/v0/resource/{STUDY}/data-key/12"
    assert broker.resource(*path.split("/")[4:]) == (run, "data-key")
    for parts in ((STUDY, "key:model-key", "1"), (STUDY, "closed", "1"), (f"{STUDY}.1", "data-key", "1"),
                  (STUDY, "data-key", "01"), (STUDY, "data-key", "1" * 7)):  # fmt: skip
        with pytest.raises(NotFoundError):
            broker.resource(*parts)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_hostile_bytes_are_no_message(data):
    for kind in (broker.Request, broker.Attestation, broker.TokenResponse, broker.Jwe):
        with pytest.raises(CodecError):
            broker.decode(data, kind)
