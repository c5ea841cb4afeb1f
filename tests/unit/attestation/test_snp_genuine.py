"""AMD's own evidence: it verifies, and nothing that was touched, copied or aged does."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation import processors
from tests.unit.attestation.processors import EVIDENCE, NOW, amd_chain, bundle, changed, genuine, snp_reference, values

from wardround.attestation import amd_certificate, certificate_table, snp_report
from wardround.attestation import amd_chain as chains
from wardround.attestation.appraisal import appraise
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import SnpTcb
from wardround.errors import AttestationError

pytestmark = genuine
SNP = EVIDENCE / "sev-snp"
CHAINS = {
    "Milan": ("go-sev-guest/ask_ark_milan.pem", "go-sev-guest/ask_ark_milan_vlek.pem"),
    "Genoa": ("go-sev-guest/ask_ark_genoa.pem", "go-sev-guest/ask_ark_genoa_vlek.pem"),
    "Turin": ("go-sev-guest/ask_ark_turin_vcek.pem", "go-sev-guest/ask_ark_turin_vlek.pem"),
}


def judge(evidence, given, *, expected=None, now=NOW, **reference):
    report = evidence.report
    if len(report) == snp_report.REPORT_BYTES:
        expected = expected if expected is not None else report[0x50:0x90]
        reference = values(snp=snp_reference(report, **reference))
    else:
        expected, reference = bytes(64), values(snp=snp_reference(bytes(0x4A0), **reference))
    return appraise(evidence, reference, given, expected_report_data=expected, now=now)


def test_a_genuine_report_verifies_to_the_pinned_root():
    evidence, given = processors.milan()
    found = judge(evidence, given)
    assert found.kind == "snp"
    assert found.measurements["MEASUREMENT"].startswith("7a1e5c266c0108db")
    assert found.tcb == {"product": "Milan", "key": "vcek", "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
    assert found.report_data == evidence.report[0x50:0x90]
    assert found.valid_until <= given.valid_until
    assert "no revocation list was checked" in found.warnings
    clauses = " ".join(check.clause for check in found.checks)
    for name in ("SIGNATURE", "CHIP_ID", "REPORTED_TCB", "POLICY.DEBUG", "MEASUREMENT", "REPORT_DATA", "ARK"):
        assert name in clauses


def test_the_signature_also_verifies_without_our_code():
    evidence, _ = processors.milan()
    report = evidence.report
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    key = amd_certificate.p384_key(amd_certificate.load(evidence.certificates[0]))
    key.verify(encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(SHA384()))


def test_a_report_with_debugging_is_refused_though_it_is_genuine():
    with pytest.raises(AttestationError, match=r"POLICY\.DEBUG"):
        judge(*processors.milan_with_debug(), minimum_tcb={"Milan": SnpTcb(bootloader=0, tee=0, snp=0, microcode=0)})


@pytest.mark.parametrize("offset", [*range(0, 0x2A0, 7), *range(0x2A0, 0x330, 5), 0x29F, 0x330, 0x49F])
def test_no_byte_of_a_report_can_be_changed(offset):
    evidence, given = processors.milan()
    forged = changed(evidence.report, offset, bytes([evidence.report[offset] ^ 0x10]))
    # The reference values follow the forgery, so that only the report's own protection is left to notice it.
    with pytest.raises(AttestationError):
        judge(
            Evidence(kind="snp", report=forged, certificates=evidence.certificates),
            given,
            vmpl=(0, 1, 2, 3),
            host_data=(forged[0xC0:0xE0].hex(),),
            id_key_digests=(forged[0xE0:0x110].hex(),),
            author_key_digests=(forged[0x110:0x140].hex(),),
            allow=("smt", "cxl", "masked-chip-id", "no-revocation-list"),
        )


@settings(max_examples=60)
@given(bit=st.integers(0, 8 * 0x330 - 1))
def test_no_bit_under_or_in_the_signature_can_be_flipped(bit):
    evidence, bundle_ = processors.milan()
    forged = changed(evidence.report, bit // 8, bytes([evidence.report[bit // 8] ^ (1 << bit % 8)]))
    with pytest.raises(AttestationError):
        judge(Evidence(kind="snp", report=forged, certificates=evidence.certificates), bundle_)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 0x48, 0x2A0, 0x49F, 0x4A1, 0x1000])
def test_a_report_of_another_length_is_refused(size):
    evidence, given = processors.milan()
    report = (evidence.report * 4)[:size]
    with pytest.raises(AttestationError, match="1184 bytes"):
        judge(Evidence(kind="snp", report=report, certificates=evidence.certificates), given)


def test_the_parser_refuses_every_prefix_of_a_report():
    evidence, _ = processors.milan()
    for size in range(snp_report.REPORT_BYTES):
        with pytest.raises(AttestationError):
            snp_report.parse(evidence.report[:size])


@pytest.mark.parametrize("version", [0, 1, 6, 255, 2**32 - 1])
def test_an_unknown_version_is_refused(version):
    evidence, _ = processors.milan()
    with pytest.raises(AttestationError, match="VERSION"):
        snp_report.parse(changed(evidence.report, 0, version.to_bytes(4, "little")))


def test_a_measurement_that_is_not_listed_is_refused():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match="MEASUREMENT"):
        judge(evidence, given, measurements=("00" * 48, "ff" * 48))


def test_a_report_for_another_challenge_is_refused():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        judge(evidence, given, expected=bytes(64))


@pytest.mark.parametrize("part", ["bootloader", "snp", "microcode", "tee"])
def test_firmware_below_the_minimum_is_refused(part):
    evidence, given = processors.milan()
    least = {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
    assert judge(evidence, given, minimum_tcb={"Milan": SnpTcb(**least)})
    with pytest.raises(AttestationError, match=rf"_TCB: {part} below"):
        judge(evidence, given, minimum_tcb={"Milan": SnpTcb(**(least | {part: least[part] + 1}))})


def test_a_product_without_a_minimum_is_refused():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match="no minimum for Milan"):
        judge(evidence, given, minimum_tcb={"Genoa": SnpTcb(bootloader=0, tee=0, snp=0, microcode=0)})


@pytest.mark.parametrize("now", [1_600_000_000.0, 1_916_000_000.0, float("nan"), float("inf"), -1.0])
def test_a_certificate_outside_its_validity_is_refused(now):
    evidence, _ = processors.milan()
    start = int(now) if abs(now) < 1e11 and now > 0 else 0
    given = bundle(amd=[amd_chain("Milan", CHAINS["Milan"][0])], start=start, end=start + 86400)
    with pytest.raises(AttestationError):
        judge(evidence, given, now=now + 1)


def test_collateral_that_has_ended_is_refused():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match="collateral"):
        judge(evidence, given, now=float(given.valid_until))


def test_another_chips_certificate_is_refused():
    evidence, given = processors.milan()
    other, _ = processors.milan_with_debug()
    with pytest.raises(AttestationError, match="SIGNATURE"):
        judge(Evidence(kind="snp", report=evidence.report, certificates=other.certificates), given)


@pytest.mark.parametrize("product", ["Genoa", "Turin"])
def test_another_products_chain_is_refused(product):
    evidence, _ = processors.milan()
    wrong = amd_chain(product, CHAINS[product][0])
    with pytest.raises(AttestationError, match="no AMD certificates of Milan"):
        judge(evidence, bundle(amd=[wrong]))
    renamed = type(wrong)(product="Milan", ark=wrong.ark, ask=wrong.ask)
    with pytest.raises(AttestationError, match="not the pinned root of Milan"):
        judge(evidence, bundle(amd=[renamed]))


def test_the_other_intermediate_authority_is_refused():
    evidence, _ = processors.milan()
    vcek, vlek = (amd_chain("Milan", name) for name in CHAINS["Milan"])
    swapped = type(vcek)(product="Milan", ark=vcek.ark, ask=vlek.ask)
    with pytest.raises(AttestationError, match="names another issuer"):
        judge(evidence, bundle(amd=[swapped]))


def test_the_absence_of_a_revocation_list_is_refused_unless_it_is_allowed():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match=r"6\.3\.3.*no revocation list"):
        judge(evidence, given, allow=("smt",))


def test_sharing_cores_is_refused_unless_it_is_allowed():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match=r"POLICY\.SMT"):
        judge(evidence, given, allow=("no-revocation-list",))


@pytest.mark.parametrize(
    "demand",
    ["single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled", "alias-check"],
)
def test_what_the_reference_values_demand_must_be_set(demand):
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match=demand):
        judge(evidence, given, demand=(demand,))


def test_a_machine_that_is_refused_by_name_is_refused():
    evidence, given = processors.milan()
    found = judge(evidence, given)
    refused = values(snp=snp_reference(evidence.report))
    refused = type(refused)(name="x", snp=refused.snp, refused_platforms=(found.platform,))
    with pytest.raises(AttestationError, match="refused_platforms"):
        appraise(evidence, refused, given, expected_report_data=evidence.report[0x50:0x90], now=NOW)


@pytest.mark.parametrize("product", CHAINS)
def test_the_roots_that_amd_published_are_the_pinned_ones(product):
    import hashlib

    for name in CHAINS[product]:
        middle, root = (amd_certificate.load(der) for der in amd_certificate.load_pem((SNP / name).read_bytes()))
        assert hashlib.sha256(root.key).hexdigest() == chains.ROOT_KEYS[product]
        amd_certificate.check_issued(root, root, "ARK")
        amd_certificate.check_issued(middle, root, "ASK")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name",
    ["virtee-sev/vcek_milan.der", "virtee-sev/vcek_turin.der", "go-sev-guest/vcek.testcer", *CHAINS["Genoa"]],
)
def test_our_reader_agrees_with_the_librarys_on_amds_certificates(name):
    data = (SNP / name).read_bytes()
    ours = amd_certificate.load_pem(data) if b"BEGIN" in data else (data,)
    for der in ours:
        mine, theirs = amd_certificate.load(der), x509.load_der_x509_certificate(der)
        assert mine.signed == theirs.tbs_certificate_bytes
        assert mine.signature == theirs.signature
        assert mine.serial == theirs.serial_number
        assert mine.issuer == theirs.issuer.public_bytes()
        assert mine.subject == theirs.subject.public_bytes()
        assert (mine.not_before, mine.not_after) == (
            theirs.not_valid_before_utc.timestamp(),
            theirs.not_valid_after_utc.timestamp(),
        )
        assert len(mine.extensions) == len(list(theirs.extensions))


def test_the_turin_sample_is_under_turins_root_and_names_eight_bytes_of_chip():
    certificate = amd_certificate.load((SNP / "virtee-sev/vcek_turin.der").read_bytes())
    checks = []
    key = chains.endorsed(
        certificate, amd_chain("Turin", "virtee-sev/cert_chain_turin"), checks, now=NOW, without_list=True
    )
    assert (key.product, key.kind, key.hwid.hex()) == ("Turin", "vcek", "1e550a8ee5cf9f4d")
    assert key.tcb == {"fmc": 0, "bootloader": 0, "tee": 0, "snp": 0, "microcode": 9}


def test_the_reader_refuses_every_prefix_and_every_changed_header_of_a_certificate():
    data = (SNP / "virtee-sev/vcek_milan.der").read_bytes()
    for size in range(len(data)):
        with pytest.raises(AttestationError):
            amd_certificate.load(data[:size])
    with pytest.raises(AttestationError):
        amd_certificate.load(data + b"\0")


@settings(max_examples=150)
@given(data=st.data())
def test_no_changed_certificate_is_endorsed_and_none_breaks_the_reader(data):
    der = (SNP / "virtee-sev/vcek_milan.der").read_bytes()
    at = data.draw(st.integers(0, len(der) - 1))
    forged = changed(der, at, bytes([der[at] ^ data.draw(st.integers(1, 255))]))
    with pytest.raises(AttestationError):
        chains.endorsed(
            amd_certificate.load(forged), amd_chain("Milan", CHAINS["Milan"][0]), [], now=NOW, without_list=True
        )


@settings(max_examples=200)
@given(junk=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_by_every_reader(junk):
    for read in (amd_certificate.load, snp_report.parse, lambda data: certificate_table.parse(data + b"\1")):
        with pytest.raises(AttestationError):
            read(junk)


def test_another_signature_scheme_is_refused_before_any_key_is_asked():
    der = (SNP / "virtee-sev/vcek_milan.der").read_bytes()
    salt = bytes.fromhex("a203020130")
    assert der.count(salt) == 2
    with pytest.raises(AttestationError, match="RSASSA-PSS with SHA-384 expected"):
        amd_certificate.load(der.replace(salt, bytes.fromhex("a203020120")))


@pytest.mark.parametrize("head", ["308103", "30820003", "3080", "3084000000", "30830000ff"])
def test_a_length_that_der_would_spell_otherwise_is_refused(head):
    with pytest.raises(AttestationError, match="length"):
        amd_certificate.load(bytes.fromhex(head) + b"\x30\x01\x00")


def entry(guid, offset, size):
    return bytes.fromhex(guid) + offset.to_bytes(4, "little") + size.to_bytes(4, "little")


@pytest.mark.parametrize("guid", ["63da758de6644564adc5f4b93be8accd", "8d75da6364e66445adc5f4b93be8accd"])
def test_the_certificate_may_come_in_the_hosts_table(guid):
    evidence, given = processors.milan()
    certificate = evidence.certificates[0]
    table = entry(guid, 72, len(certificate)) + entry("c0" * 16, 72, 4) + bytes(24) + certificate
    assert judge(Evidence(kind="snp", report=evidence.report, auxiliary=table), given)


def test_a_table_that_points_outside_itself_is_refused():
    evidence, given = processors.milan()
    for offset, size in ((0, 1000), (2**32 - 1, 1), (49, 0)):
        table = entry("63da758de6644564adc5f4b93be8accd", offset, size) + bytes(24)
        with pytest.raises(AttestationError, match="certificate table"):
            judge(Evidence(kind="snp", report=evidence.report, auxiliary=table), given)


def test_a_table_with_two_keys_or_without_an_end_is_refused():
    one = entry("63da758de6644564adc5f4b93be8accd", 0, 4)
    for table in (one * 2 + bytes(24), entry("aa" * 16, 0, 0) * 17 + bytes(24), one[:20]):
        with pytest.raises(AttestationError, match="certificate table"):
            certificate_table.parse(table)


def test_a_report_without_its_certificate_is_refused():
    evidence, given = processors.milan()
    with pytest.raises(AttestationError, match="no VCEK certificate"):
        judge(Evidence(kind="snp", report=evidence.report), given)


def test_pss_is_the_scheme_that_amds_root_really_uses():
    middle, root = (
        amd_certificate.load(der) for der in amd_certificate.load_pem((SNP / CHAINS["Milan"][0]).read_bytes())
    )
    amd_certificate.rsa_key(root).verify(
        middle.signature, middle.signed, padding.PSS(padding.MGF1(SHA384()), 48), SHA384()
    )
