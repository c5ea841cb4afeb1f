"""Attestation results as tokens: short-lived, for one challenge, bound to a key, and read by other software too."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

from wardround.attestation import ear
from wardround.attestation.result import Verified
from wardround.crypto import jose
from wardround.errors import AttestationError, CodecError, CryptoError

NOW, NONCE, POLICY = 1_800_000_000.0, b"challenge-1234567", "ab" * 32
KEY = ec.generate_private_key(ec.SECP256R1())
TEE = jose.public_jwk(ec.generate_private_key(ec.SECP256R1()))


def verified(kind="snp", **changes):
    return Verified(
        **(
            {"kind": kind, "measurements": {"MEASUREMENT": "5a" * 48}, "report_data": bytes(64),
             "tcb": {"product": "Milan"}, "platform": "cd" * 32, "valid_until": NOW + 1e6} | changes
        )
    )  # fmt: skip


def issued(results=None, key=KEY, **changes):
    given_ = {"nonce": NONCE, "tee_key": TEE, "policy": POLICY, "key": key, "build": "wardround 0.1.0", "now": NOW}
    return ear.issue(results or {"cpu": verified()}, **(given_ | changes))


def checked(token, key=KEY, *, nonce=NONCE, now=NOW + 1):
    return ear.verify(token, jose.public_jwk(key), nonce=nonce, now=now)


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@pytest.mark.parametrize("key", [KEY, Ed25519PrivateKey.generate()])
def test_a_result_comes_back_as_it_was_signed(key):
    found = checked(issued({"cpu": verified(), "gpu0": verified("nvidia-gpu")}, key), key)
    assert (found.key, found.policy, found.issued, found.expires) == (TEE, POLICY, int(NOW), int(NOW) + 300)
    assert {name: entry.ear_status for name, entry in found.submodules.items()} == {
        "cpu": "affirming",
        "gpu0": "affirming",
    }
    assert found.submodules["gpu0"].ear_verifier_claims.kind == "nvidia-gpu"


@pytest.mark.parametrize(
    ("key", "kind", "algorithm"), [(KEY, ECKey, "ES256"), (Ed25519PrivateKey.generate(), OKPKey, "Ed25519")]
)
def test_a_plain_jwt_reader_finds_the_drafts_shape(key, kind, algorithm):
    token = jwt.decode(issued(key=key), kind.import_key(jose.public_jwk(key)), algorithms=[algorithm])
    assert token.header == {"typ": "eat+jwt", "alg": algorithm}
    assert set(token.claims) == {"eat_profile", "iat", "exp", "eat_nonce", "ear_verifier_id", "cnf", "submods"}
    assert token.claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert token.claims["cnf"] == {"jwk": TEE}
    assert token.claims["ear_verifier_id"] == {"developer": "wardround", "build": "wardround 0.1.0"}
    cpu = token.claims["submods"]["cpu"]
    assert cpu["ear_status"] == "affirming"
    assert cpu["ear_appraisal_policy_ids"] == [f"urn:sha256:{POLICY}"]
    assert cpu["ear_trustworthiness_vector"] == {
        "instance-identity": 2, "configuration": 2, "executables": 3, "hardware": 2, "runtime-opaque": 2,
    }  # fmt: skip


def test_known_weaknesses_are_a_warning_and_a_hidden_chip_an_unknown_instance():
    weak = verified("sgx", tcb={"status": "ConfigurationNeeded"}, advisories=("INTEL-SA-00289",))
    hidden = verified(warnings=("the host hides which chip this is",))
    found = checked(issued({"cpu": weak, "gpu0": hidden})).submodules
    assert found["cpu"].ear_status == "warning"
    assert found["cpu"].ear_trustworthiness_vector["hardware"] == 32
    assert found["cpu"].ear_verifier_claims.advisories == ("INTEL-SA-00289",)
    assert found["gpu0"].ear_status == "affirming"
    assert found["gpu0"].ear_trustworthiness_vector["instance-identity"] == 3


def test_a_token_for_another_challenge_is_refused():
    with pytest.raises(AttestationError, match="eat_nonce"):
        checked(issued(), nonce=b"another-challenge")


@pytest.mark.parametrize("after", [300, 301, 10_000, -31, float("nan")])
def test_a_token_is_refused_outside_its_time(after):
    with pytest.raises(AttestationError, match="exp"):
        checked(issued(), now=NOW + after)


def test_a_token_never_outlives_its_collateral_or_ten_minutes():
    assert claims_of(issued({"cpu": verified(valid_until=NOW + 20)}))["exp"] == int(NOW) + 20
    assert claims_of(issued(lifetime_seconds=600))["exp"] == int(NOW) + 600
    with pytest.raises(ValueError):
        issued(lifetime_seconds=601)
    with pytest.raises(AttestationError, match="collateral has ended"):
        issued({"cpu": verified(valid_until=NOW)})


def test_the_first_end_of_all_components_counts():
    both = {"cpu": verified(), "gpu0": verified("nvidia-gpu", valid_until=NOW + 7)}
    assert claims_of(issued(both))["exp"] == int(NOW) + 7


@pytest.mark.parametrize("bad", [{"results": {"gpu0": verified()}}, {"nonce": b"short"}, {"nonce": bytes(65)}])
def test_a_token_without_a_processor_or_a_proper_nonce_is_not_issued(bad):
    with pytest.raises(ValueError):
        issued(**bad)


def test_a_token_confirms_a_public_key_only():
    with pytest.raises(CryptoError):
        issued(tee_key={**TEE, "d": "x"})
    with pytest.raises(CryptoError):
        issued(tee_key={"kty": "oct", "k": "x"})


def test_another_verifiers_signature_is_refused():
    with pytest.raises(AttestationError, match="signature"):
        checked(issued(key=ec.generate_private_key(ec.SECP256R1())))


def signed(claims, header=None):
    return jose.sign(header or {"typ": "eat+jwt"}, claims, KEY)


def edited(**changes):
    return {**claims_of(issued()), **changes}


CPU = claims_of(issued())["submods"]["cpu"]


@pytest.mark.parametrize(
    "claims",
    [
        edited(eat_profile="tag:github.com,2023:veraison/ear"), edited(exp=int(NOW) + 601), edited(iat=1.5),
        edited(extra=1), edited(submods={}), edited(submods={"gpu0": CPU}),
        edited(eat_nonce="%%%"), edited(eat_nonce=""),
        edited(cnf={"jwk": {"kty": "oct", "k": "AA"}}), edited(cnf={"jwk": {**TEE, "d": "x"}}),
        edited(submods={"cpu": {**CPU, "ear_status": "warning"}}),
        edited(submods={"cpu": {**CPU, "ear_status": "contraindicated"}}),
        edited(submods={"cpu": {**CPU, "ear_trustworthiness_vector": {}}}),
        edited(submods={"cpu": {**CPU, "ear_trustworthiness_vector": {"hardware": 96}}}),
        edited(submods={"cpu": {**CPU, "ear_trustworthiness_vector": {"hardware": -1}}}),
        edited(submods={"cpu": {**CPU, "ear_trustworthiness_vector": {"hardware": 32}}}),
        edited(submods={"cpu": {**CPU, "ear_appraisal_policy_ids": ["policy"]}}),
        edited(submods={"cpu": CPU, "gpu0": {**CPU, "ear_appraisal_policy_ids": ["urn:sha256:" + "00" * 32]}}),
    ],
)  # fmt: skip
def test_signed_claims_of_another_shape_are_refused(claims):
    with pytest.raises(AttestationError):
        checked(signed(claims))


def test_a_token_of_another_type_is_refused():
    assert checked(signed(edited()))
    with pytest.raises(AttestationError, match="profile"):
        checked(signed(edited(), {"typ": "JWT"}))


@given(st.data())
def test_no_character_of_a_token_can_be_changed(data):
    token = issued()
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("AQaz09-_.="))
    if letter != token[at]:
        with pytest.raises(AttestationError):
            checked(token[:at] + letter + token[at + 1 :])


@given(st.text(max_size=60))
def test_arbitrary_text_is_no_token(text):
    with pytest.raises(AttestationError):
        checked(text)


def test_a_machine_with_eight_gpus_fits_a_token():
    many = {"cpu": verified()} | {f"gpu{index}": verified("nvidia-gpu") for index in range(8)}
    assert len(checked(issued(many)).submodules) == 9


def test_a_token_that_nobody_could_read_is_not_issued():
    many = {"cpu": verified()} | {f"gpu{index}": verified("nvidia-gpu") for index in range(11)}
    with pytest.raises(ValueError, match="11 at most"):
        issued(many)
    with pytest.raises(CodecError):
        issued({"cpu": verified(advisories=tuple(f"INTEL-SA-{index:05}" for index in range(900)))})
