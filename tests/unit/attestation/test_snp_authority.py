"""What no sample shows, with an authority of our own: Turin, VLEKs, hidden chips, revocation, later versions."""

import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.unit.attestation import processors
from tests.unit.attestation.processors import NOW, authority, bundle, crl, leaf, report, snp_reference, values

from wardround.attestation import amd_chain
from wardround.attestation.appraisal import appraise
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import SnpTcb
from wardround.errors import AttestationError

CHIP = b"\x07" * 64
TURIN_CHIP = b"\x07" * 8 + bytes(56)


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", dict.fromkeys(("Milan", "Genoa", "Turin"), processors.pin()))


def chip_of(product):
    return TURIN_CHIP if product == "Turin" else CHIP


def judge(data, certificate, product, *, now=NOW, listed=None, kind="snp", **reference):
    listed = {"vcek_crl": crl(product), "vlek_crl": crl(product)} if listed is None else listed
    given = bundle(amd=[authority(product).collateral(**listed)])
    accepted = values(snp=snp_reference(data, **{"allow": ("smt",), **reference}))
    evidence = Evidence(kind=kind, report=data, certificates=(certificate,))
    return appraise(evidence, accepted, given, expected_report_data=data[0x50:0x90], now=now)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_every_known_version_of_every_product_verifies(product, version):
    chip = chip_of(product)
    found = judge(report(product, version=version, chip=chip), leaf(product, chip=chip), product)
    assert found.tcb["product"] == product
    assert found.warnings == (
        "the guest may share cores with its neighbours (SMT)",
        *(("report version 2 does not name its processor",) if version == 2 else ()),
    )


def test_turins_versions_stand_in_another_order():
    # Read in Milan's order, this TCB would say bootloader 1, microcode 115 and SNP 0.
    tcb = bytes((1, 3, 0, 8, 0, 0, 0, 115))
    data = report("Turin", chip=TURIN_CHIP, tcb=tcb)
    found = judge(data, leaf("Turin", chip=TURIN_CHIP), "Turin")
    assert {name: found.tcb[name] for name in ("fmc", "bootloader", "snp")} == {"fmc": 1, "bootloader": 3, "snp": 8}
    least = {"Turin": SnpTcb(fmc=2, bootloader=3, tee=0, snp=8, microcode=115)}
    with pytest.raises(AttestationError, match="fmc below"):
        judge(data, leaf("Turin", chip=TURIN_CHIP), "Turin", minimum_tcb=least)


@pytest.mark.parametrize("name", ["REPORTED_TCB", "COMMITTED_TCB", "CURRENT_TCB", "LAUNCH_TCB"])
def test_each_of_the_four_tcbs_must_reach_the_minimum(name):
    offset = {"REPORTED_TCB": 0x180, "COMMITTED_TCB": 0x1E0, "CURRENT_TCB": 0x38, "LAUNCH_TCB": 0x1F0}[name]
    low = processors.tcb_bytes("Milan", snp=4)
    data = report("Milan", fields=[(offset, low)])
    with pytest.raises(AttestationError, match=name):
        judge(data, leaf("Milan", chip=CHIP), "Milan")


def test_a_key_of_another_tcb_is_refused_even_if_both_are_high_enough():
    with pytest.raises(AttestationError, match="REPORTED_TCB: is not the TCB"):
        judge(report("Milan"), leaf("Milan", chip=CHIP, tcb={"snp": 9}), "Milan")


def test_a_key_of_another_chip_is_refused():
    with pytest.raises(AttestationError, match="CHIP_ID"):
        judge(report("Milan"), leaf("Milan", chip=b"\x08" * 64), "Milan")


@pytest.mark.parametrize(("product", "cpu"), [("Milan", "Genoa"), ("Genoa", "Turin"), ("Turin", "Milan")])
def test_a_processor_of_another_product_is_refused(product, cpu):
    chip = chip_of(product)
    cpuid = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}[cpu]
    data = report(product, chip=chip, fields=[(0x188, cpuid)])
    with pytest.raises(AttestationError, match="CPUID_FAM_ID"):
        judge(data, leaf(product, chip=chip), product)


def test_an_unknown_processor_is_refused():
    data = report("Turin", chip=TURIN_CHIP, fields=[(0x188, b"\x1a\x50\x00")])
    with pytest.raises(AttestationError, match="unknown"):
        judge(data, leaf("Turin", chip=TURIN_CHIP), "Turin")


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (0x30000 | 1 << 19, "DEBUG"),
        (0x30000 | 1 << 18, "MIGRATE_MA"),
        (0x10000, "bit 17"),
        (0x30000 | 1 << 26, "bits 26"),
        (0x30000 | 1 << 63, "bits 26"),
        (0x30000 | 1 << 21, "CXL_ALLOW"),
    ],
)
def test_a_policy_that_the_host_could_abuse_is_refused(policy, name):
    with pytest.raises(AttestationError, match=rf"POLICY\.{name}"):
        judge(report("Milan", policy=policy), leaf("Milan", chip=CHIP), "Milan")


@pytest.mark.parametrize(
    ("demand", "policy"),
    [("single-socket", 20), ("aes-256-xts", 22), ("rapl-disabled", 23), ("ciphertext-hiding", 24),
     ("page-swap-disabled", 25)],
)  # fmt: skip
def test_a_demand_is_met_by_its_own_bit_and_by_no_other(demand, policy):
    bits = (20, 22, 23, 24, 25)
    others = sum(1 << bit for bit in bits if bit != policy)
    certificate = leaf("Milan", chip=CHIP)
    assert judge(report("Milan", policy=0x30000 | 1 << policy), certificate, "Milan", demand=(demand,))
    with pytest.raises(AttestationError, match=demand):
        judge(report("Milan", policy=0x30000 | others), certificate, "Milan", demand=(demand,))


def test_the_platforms_check_against_aliased_memory_can_be_demanded():
    certificate = leaf("Milan", chip=CHIP)
    assert judge(report("Milan", fields=[(0x40, b"\x20")]), certificate, "Milan", demand=("alias-check",))
    with pytest.raises(AttestationError, match="ALIAS_CHECK"):
        judge(report("Milan", fields=[(0x40, b"\xdf")]), certificate, "Milan", demand=("alias-check",))


@pytest.mark.parametrize(
    ("offset", "value", "clause"),
    [
        (0x30, b"\x01", "VMPL"), (0xC0, b"\x01", "HOST_DATA"), (0xE0, b"\x01", "ID_KEY_DIGEST"),
        (0x110, b"\x01", "AUTHOR_KEY_DIGEST"), (0x160, bytes(31) + b"\x01", "REPORT_ID_MA"),
        (0x4C, b"\x01", "reserved bytes"), (0x18B, b"\x01", "reserved bytes"), (0x19F, b"\x01", "reserved bytes"),
        (0x1EB, b"\x01", "reserved bytes"), (0x1F8, b"\x01", "reserved bytes"), (0x29F, b"\x01", "reserved bytes"),
        (0x49, b"\x01", "KEY_INFO"), (0x34, b"\x02", "SIGNATURE_ALGO"), (0x182, b"\x01", "reserved bytes of REPORTED"),
    ],
)  # fmt: skip
def test_a_signed_report_with_an_unexpected_field_is_refused(offset, value, clause):
    with pytest.raises(AttestationError, match=clause):
        judge(report("Milan", fields=[(offset, value)]), leaf("Milan", chip=CHIP), "Milan")


def test_a_mitigation_vector_is_read_over_from_version_four_on():
    for version in (4, 5):
        data = report("Turin", version=version, chip=TURIN_CHIP, fields=[(0x1F8, b"\x01" * 16)])
        assert judge(data, leaf("Turin", chip=TURIN_CHIP), "Turin")
    data = report("Turin", version=5, chip=TURIN_CHIP, fields=[(0x208, b"\x01")])
    with pytest.raises(AttestationError, match="reserved bytes"):
        judge(data, leaf("Turin", chip=TURIN_CHIP), "Turin")


def test_a_guest_version_below_the_minimum_is_refused():
    certificate = leaf("Milan", chip=CHIP)
    assert judge(report("Milan", fields=[(4, b"\x05")]), certificate, "Milan", minimum_guest_svn=5)
    with pytest.raises(AttestationError, match="GUEST_SVN"):
        judge(report("Milan", fields=[(4, b"\x04")]), certificate, "Milan", minimum_guest_svn=5)


def test_a_hidden_chip_is_accepted_only_where_it_is_allowed():
    data, certificate = report("Milan", chip=bytes(64)), leaf("Milan", chip=CHIP)
    with pytest.raises(AttestationError, match="CHIP_ID: the host hides"):
        judge(data, certificate, "Milan")
    found = judge(data, certificate, "Milan", allow=("smt", "masked-chip-id"))
    assert "the host hides which chip this is" in found.warnings
    # The certificate still names the chip, so its name in results is the same as if it were shown.
    assert found.platform == judge(report("Milan"), certificate, "Milan").platform


@pytest.mark.parametrize("info", [b"\x02", b"\x1c", b"\x08", b"\x06"])
def test_a_masked_or_missing_key_is_refused(info):
    with pytest.raises(AttestationError, match="KEY_INFO"):
        judge(report("Milan", fields=[(0x48, info)]), leaf("Milan", chip=CHIP), "Milan")


VLEK = {"signing_keys": ("vcek", "vlek"), "csp_ids": ("CloudOne",)}


def test_a_clouds_key_verifies_under_its_own_authority():
    found = judge(report("Milan", signing_key=1), leaf("Milan", csp="CloudOne"), "Milan", **VLEK)
    assert found.tcb["key"] == "vlek"


def test_a_clouds_key_is_refused_unless_the_cloud_and_the_kind_are_named():
    data, certificate = report("Milan", signing_key=1), leaf("Milan", csp="CloudOne")
    with pytest.raises(AttestationError, match="cspID"):
        judge(data, certificate, "Milan", **(VLEK | {"csp_ids": ("CloudTwo",)}))
    with pytest.raises(AttestationError, match="VLEK, which the reference values do not allow"):
        judge(data, certificate, "Milan")


def test_a_clouds_key_with_a_hidden_chip_needs_permission():
    data, certificate = report("Milan", signing_key=1, chip=bytes(64)), leaf("Milan", csp="CloudOne")
    with pytest.raises(AttestationError, match="CHIP_ID"):
        judge(data, certificate, "Milan", **VLEK)
    assert judge(data, certificate, "Milan", **VLEK, allow=("smt", "masked-chip-id"))


def test_a_report_that_names_the_other_key_is_refused():
    with pytest.raises(AttestationError, match="names its VLEK"):
        judge(report("Milan", signing_key=1), leaf("Milan", chip=CHIP), "Milan", **VLEK)
    with pytest.raises(AttestationError, match="names its VCEK"):
        judge(report("Milan"), leaf("Milan", csp="CloudOne"), "Milan", **VLEK)


def test_a_clouds_key_from_the_chips_authority_is_refused():
    certificate = leaf("Milan", csp="CloudOne", issuer="SEV-Milan")
    with pytest.raises(AttestationError, match="another issuer"):
        judge(report("Milan", signing_key=1), certificate, "Milan", **VLEK)


@pytest.mark.parametrize("serial", [11, 8])
def test_a_revoked_key_or_authority_is_refused(serial):
    listed = {"vcek_crl": crl("Milan", [serial])}
    with pytest.raises(AttestationError, match=r"6\.3\.3.*revoked"):
        judge(report("Milan"), leaf("Milan", chip=CHIP), "Milan", listed=listed)
    assert judge(report("Milan"), leaf("Milan", chip=CHIP), "Milan", listed={"vcek_crl": crl("Milan", [99])})


def test_a_clouds_key_is_looked_up_in_the_clouds_own_list():
    data, certificate = report("Milan", signing_key=1), leaf("Milan", csp="CloudOne")
    listed = {"vcek_crl": crl("Milan", [11]), "vlek_crl": crl("Milan")}
    assert judge(data, certificate, "Milan", listed=listed, **VLEK)
    with pytest.raises(AttestationError, match="revoked this VLEK"):
        judge(data, certificate, "Milan", listed={"vlek_crl": crl("Milan", [11])}, **VLEK)


def test_a_revocation_list_that_is_old_foreign_or_forged_is_refused():
    forger = rsa.generate_private_key(65537, 4096)
    for made, message in (
        (crl("Milan", end=NOW - 10), "not valid at this time"),
        (crl("Milan", start=NOW + 10), "not valid at this time"),
        (crl("Milan", issuer="ARK-Genoa"), "another issuer"),
        (crl("Milan", key=forger), "not signed by its issuer"),
        (b"\x30\x00", "no revocation list"),
        (crl("Milan")[:-1], "no revocation list"),
        (crl("Milan", partial=True), "critical extension"),
        (bytes(300_000), "262144 bytes"),
    ):
        with pytest.raises(AttestationError, match=message):
            judge(report("Milan"), leaf("Milan", chip=CHIP), "Milan", listed={"vcek_crl": made})


def test_a_permission_to_go_without_a_list_does_not_excuse_a_bad_one():
    with pytest.raises(AttestationError, match="not valid at this time"):
        judge(
            report("Milan"), leaf("Milan", chip=CHIP), "Milan", listed={"vcek_crl": crl("Milan", end=NOW - 10)},
            allow=("smt", "no-revocation-list"),
        )  # fmt: skip


def test_a_root_that_is_not_pinned_is_refused(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(AttestationError, match="not the pinned root"):
        judge(report("Milan"), leaf("Milan", chip=CHIP), "Milan")


@pytest.mark.parametrize(
    ("made", "message"),
    [(processors.forged_middle, "ASK is not signed by its issuer"), (processors.small_middle, "RSA with 4096 bits")],
)
def test_an_authority_that_the_root_never_signed_or_with_a_small_key_is_refused(made, message):
    chain = dataclasses.replace(authority("Milan"), ask=made("Milan"))
    given = bundle(amd=[chain.collateral(vcek_crl=crl("Milan"))])
    data = report("Milan")
    evidence = Evidence(kind="snp", report=data, certificates=(leaf("Milan", chip=CHIP),))
    accepted = values(snp=snp_reference(data, allow=("smt",)))
    with pytest.raises(AttestationError, match=message):
        appraise(evidence, accepted, given, expected_report_data=data[0x50:0x90], now=NOW)


def test_a_leaf_that_may_issue_or_asks_for_what_nobody_knows_is_refused():
    issuing = x509.BasicConstraints(ca=True, path_length=None)
    with pytest.raises(AttestationError, match="VCEK is an authority"):
        judge(report("Milan"), leaf("Milan", chip=CHIP, more=[issuing]), "Milan")
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(AttestationError, match="critical extension"):
        judge(report("Milan"), leaf("Milan", chip=CHIP, more=[unknown]), "Milan")


def test_an_expired_key_is_refused():
    certificate = leaf("Milan", chip=CHIP, end=NOW - 5)
    with pytest.raises(AttestationError, match="VCEK is not valid at this time"):
        judge(report("Milan"), certificate, "Milan")


@pytest.mark.parametrize(
    "extra",
    [
        {"3.3": b"\x02\x02\x01\x00"}, {"3.3": b"\x02\x01\xff"}, {"3.3": b"\x04\x01\x08"}, {"3.3": b""},
        {"1": b"\x02\x01\x01"}, {"2": b"\x16\x05Venic"}, {"2": b"\x16\x06Milan"}, {"3.4": b"\x02\x01\x01"},
        {"5": b"\x16\x01x"}, {"4": b"\x07" * 8},
    ],
)  # fmt: skip
def test_a_key_with_an_unexpected_extension_is_refused(extra):
    with pytest.raises(AttestationError, match="57230"):
        judge(report("Milan"), leaf("Milan", chip=CHIP, extra=extra), "Milan")


def test_a_key_on_another_curve_is_refused():
    other = ec.generate_private_key(ec.SECP256R1())
    certificate = leaf("Milan", chip=CHIP, key=other)
    with pytest.raises(AttestationError, match="P-384"):
        judge(report("Milan"), certificate, "Milan")


def test_a_key_signed_by_another_key_than_the_certificates_is_refused():
    data = report("Milan", key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(AttestationError, match="SIGNATURE"):
        judge(data, leaf("Milan", chip=CHIP), "Milan")


def test_an_authority_is_no_leaf_and_a_leaf_no_authority():
    made = authority("Milan")
    with pytest.raises(AttestationError):
        judge(report("Milan"), made.ask, "Milan")
    swapped = type(made)("Milan", made.ark, leaf("Milan", chip=CHIP, issuer="ARK-Milan"), made.asvk)
    given = bundle(amd=[swapped.collateral(vcek_crl=crl("Milan"))])
    data = report("Milan")
    evidence = Evidence(kind="snp", report=data, certificates=(leaf("Milan", chip=CHIP),))
    accepted = values(snp=snp_reference(data, allow=("smt",)))
    with pytest.raises(AttestationError, match="may not issue"):
        appraise(evidence, accepted, given, expected_report_data=data[0x50:0x90], now=NOW)
