"""Intel SGX: a genuine quote verifies where its standing is accepted; what was changed or forged does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation import intel_authority, quotes
from tests.unit.attestation.processors import EVIDENCE, bundle, changed, genuine, values

from wardround.attestation import evidence as evidences
from wardround.attestation import intel_quote, sgx_verifier
from wardround.attestation.appraisal import appraise
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import IntelTcb, SgxReference
from wardround.errors import AttestationError

pytestmark = genuine
NOW = intel_authority.NOW
NAME = "sgx/phala/sgx_quote_collateral.json"
SAMPLE_TCB = IntelTcb(
    statuses=("UpToDate", "ConfigurationAndSWHardeningNeeded"), allow=("dynamic-platform", "cached-keys", "smt")
)


def sample():
    return (EVIDENCE / "sgx/phala/sgx_quote").read_bytes(), (EVIDENCE / NAME).read_text()


def judge(quote, collateral, *, now=NOW, expected=None, **changes):
    body = quote[48 : 48 + 384]
    found = {
        "mrenclave": (body[64:96].hex(),), "mrsigner": (body[128:160].hex(),), "isv_prod_id": 0, "minimum_isv_svn": 0,
        "tcb": SAMPLE_TCB,
    }  # fmt: skip
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    return appraise(
        Evidence(kind="sgx", report=quote), values(sgx=SgxReference(**(found | changes))), given,
        expected_report_data=body[320:384] if expected is None else expected, now=now,
    )  # fmt: skip


def test_the_genuine_quote_verifies_where_its_standing_is_accepted():
    found = judge(*sample())
    assert found.tcb["status"] == "ConfigurationAndSWHardeningNeeded"
    assert found.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert found.measurements["MRENCLAVE"].startswith("33d8736db756ed49")
    assert found.report_data.startswith(b"Hello, world!")


def test_its_signatures_also_verify_without_the_library():
    quotes.verify(sample()[0], (EVIDENCE / "tdx/phala/TrustedRootCA.der").read_bytes())


def test_by_default_only_an_up_to_date_platform_is_accepted():
    with pytest.raises(AttestationError, match="tcbStatus"):
        judge(*sample(), tcb=IntelTcb(allow=SAMPLE_TCB.allow))


def test_a_rejected_advisory_refuses():
    tcb = IntelTcb(statuses=SAMPLE_TCB.statuses, allow=SAMPLE_TCB.allow, rejected_advisories=("INTEL-SA-00615",))
    with pytest.raises(AttestationError, match="INTEL-SA-00615"):
        judge(*sample(), tcb=tcb)


def test_settings_that_the_certificate_leaves_out_count_as_set():
    with pytest.raises(AttestationError, match="Dynamic Platform: Undefined found"):
        judge(*sample(), tcb=IntelTcb(statuses=SAMPLE_TCB.statuses))


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"mrenclave": ("00" * 32,)}, "MRENCLAVE"),
        ({"mrsigner": ("00" * 32,)}, "MRSIGNER"),
        ({"isv_prod_id": 1}, "ISVPRODID"),
        ({"minimum_isv_svn": 1}, "ISVSVN"),
        ({"expected": bytes(64)}, "REPORT_DATA"),
        ({"now": NOW + 40 * 86400}, "DCAP"),
    ],
)
def test_what_is_not_accepted_is_refused_by_name(changes, clause):
    with pytest.raises(AttestationError, match=clause):
        judge(*sample(), **changes)


@settings(max_examples=100)
@given(at=st.integers(0, 48 + 384 + 4 + 128 + 384 + 64), flip=st.integers(1, 255))
def test_no_byte_under_a_signature_can_be_changed(at, flip):
    quote, collateral = sample()
    forged = changed(quote, at, bytes([quote[at] ^ flip]))
    with pytest.raises(AttestationError):
        judge(forged, collateral, mrenclave=(forged[112:144].hex(),), mrsigner=(forged[176:208].hex(),))


def test_no_prefix_is_accepted():
    quote, collateral = sample()
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    accepted = values(sgx=SgxReference(mrenclave=("00" * 32,), mrsigner=("00" * 32,), isv_prod_id=0, minimum_isv_svn=0))
    for size in [*range(600), *range(600, len(quote), 31)]:
        with pytest.raises(AttestationError):
            appraise(
                Evidence(kind="sgx", report=quote[:size]), accepted, given, expected_report_data=bytes(64), now=NOW
            )


def test_the_report_data_of_unverified_evidence_is_found_where_it_is():
    quote, _ = sample()
    assert evidences.unverified_report_data(Evidence(kind="sgx", report=quote)).startswith(b"Hello, world!")
    with pytest.raises(AttestationError):
        evidences.unverified_report_data(Evidence(kind="sgx", report=quote[:400]))


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setattr(intel_quote, "ROOT_KEY_ID", intel_authority.root_key_id())
    root = intel_authority.root_der()
    monkeypatch.setattr(intel_quote, "_verifier", lambda dcap: dcap.QuoteVerifier(root))


def forged(at=None, new=b"", **more):
    quote, _ = sample()
    made = intel_authority.quote(quote, lambda body: body if at is None else changed(body, at, new))
    return made, intel_authority.collateral(NAME, **more)


def test_the_rebuilt_authority_is_a_faithful_copy(trusted):
    assert judge(*forged()).tcb["status"] == "ConfigurationAndSWHardeningNeeded"


def test_a_debug_enclave_is_refused(trusted):
    with pytest.raises(AttestationError, match=r"(?i)debug"):
        judge(*forged(48, b"\x07"))
    # The library refuses first; were it ever to let one through, our own policy would not.
    report = sgx_verifier.EnclaveReport(
        attributes="07" + "00" * 15, mr_enclave="11" * 32, mr_signer="22" * 32, isv_prod_id=0, isv_svn=0,
        report_data="00" * 64,
    )  # fmt: skip
    accepted = SgxReference(mrenclave=("11" * 32,), mrsigner=("22" * 32,), isv_prod_id=0, minimum_isv_svn=0)
    with pytest.raises(AttestationError, match=r"ATTRIBUTES\.DEBUG"):
        sgx_verifier.check_enclave(report, accepted, [])


def test_an_enclave_that_was_never_started_is_refused(trusted):
    with pytest.raises(AttestationError, match=r"ATTRIBUTES\.INIT"):
        judge(*forged(48, b"\x04"))


def test_product_and_version_of_the_enclave_are_compared(trusted):
    quote, collateral = forged(256, b"\x05\x00\x03\x00")
    assert judge(quote, collateral, isv_prod_id=5, minimum_isv_svn=3)
    with pytest.raises(AttestationError, match="ISVPRODID"):
        judge(quote, collateral, isv_prod_id=4, minimum_isv_svn=3)
    with pytest.raises(AttestationError, match="ISVSVN"):
        judge(quote, collateral, isv_prod_id=5, minimum_isv_svn=4)
