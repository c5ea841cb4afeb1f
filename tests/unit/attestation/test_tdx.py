"""Intel TDX: genuine quotes verify with and without our code, changed ones do not; forged platforms are judged."""

import hashlib
import json
from datetime import datetime

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation import intel_authority, quotes
from tests.unit.attestation.processors import EVIDENCE, bundle, changed, genuine, values

from wardround.attestation import evidence as evidences
from wardround.attestation import intel_quote, tdx_verifier
from wardround.attestation.appraisal import appraise
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import IntelTcb, TdxReference
from wardround.errors import AttestationError, ConfigError

pytestmark = genuine
PLATFORM = ("dynamic-platform", "cached-keys", "smt")
BODY = {
    "mrseam": (16, 48), "td_attributes": (120, 8), "xfam": (128, 8), "mrtd": (136, 48), "mrconfigid": (184, 48),
    "mrowner": (232, 48), "mrownerconfig": (280, 48), "rtmr0": (328, 48), "rtmr1": (376, 48), "rtmr2": (424, 48),
    "rtmr3": (472, 48),
}  # fmt: skip
MORE = {"mr_signer_seam": (64, 48), "seam_attributes": (112, 8), "report_data": (520, 64)}
SAMPLES = {
    "version 4": ("tdx/phala/tdx_quote", "tdx/phala/tdx_quote_collateral.json"),
    "version 4, another family": (
        "tdx/phala/near_gastest_quote_hex.txt",
        "tdx/phala/near_gastest_quote_collateral.json",
    ),
    "version 5": ("tdx/go-tdx-guest/quote_v5_sample.dat", "tdx/phala/tdx_quote_outdated_collateral.json"),
}
ALL_QUOTES = (
    *(name for name, _ in SAMPLES.values()), "tdx/go-tdx-guest/cos-113-tdx-quote.dat",
    "tdx/go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "tdx/phala/quote-from-tappd.hex", "tdx/phala/tdx-quote.hex",
    "tdx/phala/tdx_quote_outdated",
)  # fmt: skip


def load(name):
    data = (EVIDENCE / name).read_bytes()
    return bytes.fromhex(data.decode().strip().removeprefix("0x")) if name.endswith((".hex", ".txt")) else data


def window(collateral):
    info = json.loads(json.loads(collateral)["tcb_info"])
    return tuple(datetime.fromisoformat(info[name]).timestamp() for name in ("issueDate", "nextUpdate"))


def body_of(quote):
    return quotes.split(quote).body


def reference(quote, tcb=None, **changes):
    body = body_of(quote)
    found = {name: (body[at : at + size].hex(),) for name, (at, size) in BODY.items()}
    return values(tdx=TdxReference(**(found | {"tcb": tcb or IntelTcb(allow=PLATFORM)} | changes)))


def report_data(quote):
    return body_of(quote)[520:584]


def judge(quote, collateral, *, now=None, expected=None, accepted=None, log=b"", **changes):
    start = window(collateral)[0]
    now = start + 86400 if now is None else now
    given = bundle(intel=[collateral], start=int(start) - 10 * 86400, end=int(start) + 200 * 86400)
    expected = report_data(quote) if expected is None else expected
    evidence = Evidence(kind="tdx", report=quote, event_log=log)
    return appraise(evidence, accepted or reference(quote, **changes), given, expected_report_data=expected, now=now)


def report_of(quote):
    """The quote's body as our policy sees it, without the library."""
    body = body_of(quote)
    found = {name: body[at : at + size].hex() for name, (at, size) in (BODY | MORE).items()}
    service = {"mr_service_td": body[600:648].hex()} if len(body) > 584 else {}
    names = {"mrtd": "mr_td", "mrseam": "mr_seam", "mrconfigid": "mr_config_id", "mrowner": "mr_owner",
             "mrownerconfig": "mr_owner_config", "rtmr0": "rt_mr0", "rtmr1": "rt_mr1", "rtmr2": "rt_mr2",
             "rtmr3": "rt_mr3"}  # fmt: skip
    return tdx_verifier.TdReport(**{names.get(name, name): value for name, value in found.items()}, **service)


def sample():
    quote, collateral = SAMPLES["version 4"]
    return load(quote), (EVIDENCE / collateral).read_text()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_genuine_quote_verifies(name):
    quote, collateral = load(SAMPLES[name][0]), (EVIDENCE / SAMPLES[name][1]).read_text()
    found = judge(quote, collateral)
    assert found.tcb["status"] == "UpToDate"
    assert found.advisories == ()
    assert found.measurements["MRTD"] == body_of(quote)[136:184].hex()
    assert found.report_data == report_data(quote)
    assert window(collateral)[0] < found.valid_until <= window(collateral)[1]
    assert set(found.warnings) == {"Dynamic Platform: True", "Cached Keys: True", "SMT Enabled: True"}


@pytest.mark.parametrize("name", ALL_QUOTES)
def test_every_signature_of_every_sample_also_verifies_without_the_library(name):
    root = (EVIDENCE / "tdx/phala/TrustedRootCA.der").read_bytes()
    quotes.verify(load(name), root)


@pytest.mark.parametrize("part", ["header", "body", "qe_report"])
def test_the_second_verifier_notices_changes_too(part):
    quote, root = load(SAMPLES["version 4"][0]), (EVIDENCE / "tdx/phala/TrustedRootCA.der").read_bytes()
    at = quote.index(getattr(quotes.split(quote), part)) + 20
    with pytest.raises((InvalidSignature, AssertionError)):
        quotes.verify(changed(quote, at, bytes([quote[at] ^ 1])), root)


@pytest.mark.parametrize("permission", PLATFORM)
def test_a_platform_is_refused_that_has_what_the_reference_values_do_not_allow(permission):
    quote, collateral = sample()
    rest = tuple(name for name in PLATFORM if name != permission)
    with pytest.raises(AttestationError, match=f"PCK certificate configuration.*{permission}"):
        judge(quote, collateral, tcb=IntelTcb(allow=rest))


@pytest.mark.parametrize("name", [*BODY, "mrsignerseam"])
def test_each_measured_field_must_be_listed(name):
    quote, collateral = sample()
    size = 48 if name == "mrsignerseam" else BODY[name][1]
    with pytest.raises(AttestationError, match="none of the 1 reference values"):
        judge(quote, collateral, **{name: ("77" * size,)})


@pytest.mark.parametrize("name", ["rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_an_empty_list_refuses(name):
    quote, collateral = sample()
    with pytest.raises(AttestationError, match=f"{name.upper()}: .*none of the 0"):
        judge(quote, collateral, **{name: ()})


def test_a_quote_for_another_challenge_is_refused():
    quote, collateral = sample()
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        judge(quote, collateral, expected=bytes(64))


@pytest.mark.parametrize("days", [-5, 40])
def test_collateral_is_refused_outside_its_own_time(days):
    quote, collateral = sample()
    with pytest.raises(AttestationError, match="DCAP"):
        judge(quote, collateral, now=window(collateral)[0] + days * 86400)


def test_an_old_evaluation_is_refused():
    quote, collateral = sample()
    assert judge(quote, collateral, tcb=IntelTcb(allow=PLATFORM, minimum_evaluation=17))
    with pytest.raises(AttestationError, match="tcbEvaluationDataNumber"):
        judge(quote, collateral, tcb=IntelTcb(allow=PLATFORM, minimum_evaluation=18))


def test_a_platform_that_matches_no_level_is_refused():
    collateral = (EVIDENCE / "tdx/phala/tdx_quote_outdated_collateral.json").read_text()
    with pytest.raises(AttestationError, match="No matching TCB level"):
        judge(load("tdx/phala/tdx_quote_outdated"), collateral)


def test_collateral_of_another_family_is_not_used():
    quote, _ = sample()
    with pytest.raises(AttestationError, match="FMSPC"):
        judge(quote, (EVIDENCE / SAMPLES["version 5"][1]).read_text())


def test_of_two_judgements_the_newer_counts(trusted):
    quote, name = intel_authority.quote(load(SAMPLES["version 4"][0])), SAMPLES["version 4"][1]

    def newer(info):
        info["tcbEvaluationDataNumber"] += 1
        for level in info["tcbLevels"]:
            level["tcbStatus"] = "OutOfDate"
        return info

    old, new = intel_authority.collateral(name), intel_authority.collateral(name, edit=newer)
    for order in ((old, new), (new, old)):
        given = bundle(intel=order, start=int(intel_authority.NOW) - 86400, end=int(intel_authority.NOW) + 86400)
        with pytest.raises(AttestationError, match="OutOfDate"):
            appraise(
                Evidence(kind="tdx", report=quote), reference(quote), given, expected_report_data=report_data(quote),
                now=intel_authority.NOW,
            )  # fmt: skip


def test_no_prefix_of_a_quote_is_accepted_and_none_breaks_the_verifier():
    quote, collateral = sample()
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    accepted, expected = reference(quote), report_data(quote)
    for size in [*range(700), *range(700, len(quote) - 80, 23)]:
        evidence = Evidence(kind="tdx", report=quote[:size])
        with pytest.raises(AttestationError):
            appraise(evidence, accepted, given, expected_report_data=expected, now=1_750_416_000.0)


@settings(max_examples=200)
@given(junk=st.binary(max_size=900), version=st.integers(0, 6))
def test_arbitrary_bytes_behind_a_quotes_header_are_refused(junk, version):
    _, collateral = sample()
    data = version.to_bytes(2, "little") + b"\x02\0\x81\0\0\0" + junk
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    evidence = Evidence(kind="tdx", report=data)
    with pytest.raises(AttestationError):
        appraise(evidence, reference(sample()[0]), given, expected_report_data=bytes(64), now=1_750_416_000.0)


@settings(max_examples=120)
@given(at=st.integers(0, 4900), flip=st.integers(1, 255))
def test_a_changed_quote_is_accepted_only_with_the_same_signed_content(at, flip):
    quote, collateral = sample()
    forged = changed(quote, at, bytes([quote[at] ^ flip]))
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    evidence = Evidence(kind="tdx", report=forged)
    try:
        appraise(evidence, reference(quote), given, expected_report_data=report_data(quote), now=1_750_416_000.0)
    except AttestationError:
        return
    # Line breaks of the PEM are the only bytes that carry nothing.
    old, new = quotes.split(quote), quotes.split(forged)
    assert at >= quote.index(old.chain)
    assert (new.header, new.body, new.qe_report) == (old.header, old.body, old.qe_report)


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"tcb_info": 1}', '{"tcb_info": "{}"}', "\ud800" * 3])
def test_collateral_that_is_none_is_refused(text):
    quote, collateral = sample()
    given = bundle(intel=[text, collateral], start=1_750_000_000, end=1_760_000_000)
    with pytest.raises(AttestationError):
        appraise(
            Evidence(kind="tdx", report=quote), reference(quote), given, expected_report_data=report_data(quote),
            now=1_750_416_000.0,
        )  # fmt: skip


def test_an_sgx_quote_is_no_tdx_quote():
    quote, collateral = sample()
    sgx = (EVIDENCE / "sgx/phala/sgx_quote").read_bytes()
    given = bundle(intel=[collateral], start=1_750_000_000, end=1_760_000_000)
    with pytest.raises(AttestationError, match="tee_type"):
        appraise(
            Evidence(kind="tdx", report=sgx),
            reference(quote),
            given,
            expected_report_data=bytes(64),
            now=1_750_416_000.0,
        )


def test_where_the_library_is_missing_the_message_names_the_extra(monkeypatch):
    import sys

    quote, collateral = sample()
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(ConfigError, match=r"wardround\[attestation\]"):
        judge(quote, collateral)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_report_data_of_unverified_evidence_is_found_where_it_is(name):
    quote = load(SAMPLES[name][0])
    assert evidences.unverified_report_data(Evidence(kind="tdx", report=quote)) == report_data(quote)


# From here on: quotes and collateral of our own authority, for what no sample shows.


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setattr(intel_quote, "ROOT_KEY_ID", intel_authority.root_key_id())
    root = intel_authority.root_der()
    monkeypatch.setattr(intel_quote, "_verifier", lambda dcap: dcap.QuoteVerifier(root))


def forged(name="version 4", *, revoked=(), revoked_by_root=(), edit=lambda info: info, at=None, new=b""):
    quote = load(SAMPLES[name][0])
    made = intel_authority.quote(quote, lambda body: body if at is None else changed(body, at, new))
    given = intel_authority.collateral(SAMPLES[name][1], revoked=revoked, revoked_by_root=revoked_by_root, edit=edit)
    return made, given


@pytest.mark.parametrize("name", ["version 4", "version 5"])
def test_the_rebuilt_authority_is_a_faithful_copy(trusted, name):
    assert judge(*forged(name)).tcb["status"] == "UpToDate"


def test_another_root_is_refused_where_only_the_pin_is_left(monkeypatch):
    root = intel_authority.root_der()
    monkeypatch.setattr(intel_quote, "_verifier", lambda dcap: dcap.QuoteVerifier(root))
    with pytest.raises(AttestationError, match="another root"):
        judge(*forged())


def test_a_quote_under_another_root_is_refused():
    with pytest.raises(AttestationError, match="DCAP"):
        judge(*forged())


@pytest.mark.parametrize("bit", range(8))
def test_a_debug_domain_is_refused_even_if_its_attributes_are_listed(trusted, bit):
    attributes = bytes([1 << bit]) + bytes.fromhex("00001000000000")
    quote, collateral = forged(at=120, new=attributes)
    with pytest.raises(AttestationError, match=r"(?i)debug|profiling|reserved"):
        judge(quote, collateral, td_attributes=(attributes.hex(),))
    # The library refuses first; were it ever to let one through, our own policy would not.
    accepted = reference(quote, td_attributes=(attributes.hex(),)).tdx
    with pytest.raises(AttestationError, match=r"ATTRIBUTES\.TUD\.DEBUG"):
        tdx_verifier.check_domain(report_of(quote), b"", accepted, [])


def test_a_module_with_attributes_is_refused(trusted):
    quote, collateral = forged(at=112, new=b"\x01")
    with pytest.raises(AttestationError):
        judge(quote, collateral)
    with pytest.raises(AttestationError, match="SEAMATTRIBUTES"):
        tdx_verifier.check_domain(report_of(quote), b"", reference(quote).tdx, [])


def test_a_service_domain_must_be_listed(trusted):
    quote, collateral = forged("version 5", at=600, new=b"\x77" * 48)
    with pytest.raises(AttestationError, match=r"(?i)service"):
        judge(quote, collateral)
    with pytest.raises(AttestationError, match="SERVTD_HASH"):
        tdx_verifier.check_domain(report_of(quote), b"", reference(quote).tdx, [])
    tdx_verifier.check_domain(report_of(quote), b"", reference(quote, mrservicetd=("77" * 48,)).tdx, [])


def test_a_revoked_platform_is_refused(trusted):
    serial = intel_authority.serial_of(load(SAMPLES["version 4"][0]))
    with pytest.raises(AttestationError, match="certificate chain"):
        judge(*forged(revoked=(serial,)))
    assert judge(*forged(revoked=(serial + 1,)))


def test_a_revoked_authority_is_refused(trusted):
    serial = intel_authority.serial_of(load(SAMPLES["version 4"][0]), 1)
    with pytest.raises(AttestationError, match="certificate chain"):
        judge(*forged(revoked_by_root=(serial,)))
    assert judge(*forged(revoked_by_root=(serial + 1,)))


def downgraded(status, advisories=()):
    def edit(info):
        for level in info["tcbLevels"]:
            level["tcbStatus"], level["advisoryIDs"] = status, list(advisories)
        return info

    return edit


@pytest.mark.parametrize(
    "status", ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"]
)
def test_a_status_is_accepted_only_by_name(trusted, status):
    quote, collateral = forged(edit=downgraded(status, ["INTEL-SA-00001"]))
    with pytest.raises(AttestationError, match=f"tcbStatus.*{status} found, UpToDate accepted"):
        judge(quote, collateral)
    found = judge(quote, collateral, tcb=IntelTcb(allow=PLATFORM, statuses=("UpToDate", status)))
    assert found.advisories == ("INTEL-SA-00001",)
    assert f"TCB status: {status}" in found.warnings


def test_a_rejected_advisory_refuses_whatever_the_status(trusted):
    quote, collateral = forged(edit=downgraded("UpToDate", ["INTEL-SA-00001"]))
    assert judge(quote, collateral).advisories == ("INTEL-SA-00001",)
    with pytest.raises(AttestationError, match="advisoryIDs"):
        judge(quote, collateral, tcb=IntelTcb(allow=PLATFORM, rejected_advisories=("INTEL-SA-00001",)))


def test_a_revoked_tcb_is_refused(trusted):
    with pytest.raises(AttestationError, match="Revoked"):
        judge(*forged(edit=downgraded("Revoked")))


def test_a_body_that_does_not_fit_the_attestation_key_is_refused(trusted):
    quote, collateral = forged()
    other = changed(quote, 48 + 136, b"\x11")
    with pytest.raises(AttestationError):
        judge(other, collateral)


def test_the_hash_of_the_root_is_intels():
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate((EVIDENCE / "tdx/phala/TrustedRootCA.der").read_bytes()).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert hashlib.sha384(point).hexdigest() == intel_quote.ROOT_KEY_ID
