"""Reference values: nothing is accepted that is not written, and what is written has exactly one form."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.attestation import evidence as evidences
from wardround.attestation import reference
from wardround.attestation.appraisal import appraise
from wardround.attestation.collateral import Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import (
    GpuReference,
    IntelTcb,
    ReferenceValues,
    SgxReference,
    SnpReference,
    SnpTcb,
    TdxReference,
)
from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import AttestationError, CodecError, SignatureError

H32, H48 = "11" * 32, "22" * 48
LEAST = SnpTcb(bootloader=1, tee=0, snp=5, microcode=68)


def snp(**changes):
    return SnpReference(**({"measurements": (H48,), "minimum_tcb": {"Milan": LEAST}} | changes))


def tdx(**changes):
    given = {"mrtd": (H48,), "mrseam": (H48,), "td_attributes": ("00" * 8,), "xfam": ("e7" + "00" * 7,)}
    return TdxReference(**(given | changes))


def sgx(**changes):
    return SgxReference(**({"mrenclave": (H32,), "mrsigner": (H32,), "isv_prod_id": 0, "minimum_isv_svn": 1} | changes))


def gpu(**changes):
    return GpuReference(**({"architectures": ("hopper",), "drivers": ("535.1",), "vbios": ("96.00",)} | changes))


def accept(**kinds):
    return ReferenceValues(name="build 1", **kinds)


def test_values_come_back_from_their_canonical_form():
    values = accept(snp=snp(), tdx=tdx(), sgx=sgx(), gpu=gpu(), refused_platforms=(H32,))
    data = canonical.encode(values)
    assert reference.read(data) == values
    assert reference.digest(values) == canonical.digest(data)
    with pytest.raises(CodecError):
        reference.read(b" " + data)


def test_values_outside_a_plan_are_opened_with_enough_signatures_only():
    keys = [signing.generate() for _ in range(2)]
    officers = [signing.public_bytes(key.public_key()) for key in keys]
    values = accept(snp=snp())
    one = reference.sign(reference.SignedReferenceValues(canonical.encode(values)), keys[0])
    two = reference.sign(one, keys[1])
    assert reference.open_signed(two, officers, 2) == values
    with pytest.raises(SignatureError):
        reference.open_signed(one, officers, 2)
    other = canonical.encode(accept(snp=snp(allow=("smt",))))
    with pytest.raises(SignatureError):
        reference.open_signed(reference.SignedReferenceValues(other, two.endorsements), officers, 1)
    with pytest.raises(CodecError):
        reference.sign(reference.SignedReferenceValues(b"{}"), keys[0])


def test_another_value_is_another_name():
    assert reference.digest(accept(snp=snp())) != reference.digest(accept(snp=snp(allow=("smt",))))


def test_whoever_approves_reads_what_is_allowed():
    text = "\n".join(reference.words(accept(snp=snp(allow=("smt",)), tdx=tdx(), sgx=sgx(), gpu=gpu())))
    for word in (
        "SEV-SNP on Milan: 1 builds, allowing smt",
        "TDX: 1 builds, status UpToDate, allowing nothing",
        "535.1",
    ):
        assert word in text


@pytest.mark.parametrize(
    "values",
    [
        ReferenceValues(name="x"),
        ReferenceValues(name="", snp=snp()),
        ReferenceValues(name="x\n", snp=snp()),
        accept(snp=snp(measurements=())),
        accept(snp=snp(measurements=("AA" * 48,))),
        accept(snp=snp(measurements=(H32,))),
        accept(snp=snp(measurements=(H48,) * 1025)),
        accept(snp=snp(minimum_tcb={})),
        accept(snp=snp(minimum_tcb={"Milan": SnpTcb(bootloader=256, tee=0, snp=0, microcode=0)})),
        accept(snp=snp(minimum_tcb={"Milan": SnpTcb(bootloader=-1, tee=0, snp=0, microcode=0)})),
        accept(snp=snp(minimum_tcb={"Genoa": SnpTcb(bootloader=0, tee=0, snp=0, microcode=0, fmc=1)})),
        accept(snp=snp(signing_keys=())),
        accept(snp=snp(signing_keys=("vlek",))),
        accept(snp=snp(vmpl=())),
        accept(snp=snp(vmpl=(4,))),
        accept(snp=snp(host_data=("00",))),
        accept(snp=snp(minimum_guest_svn=2**32)),
        accept(tdx=tdx(mrtd=())),
        accept(tdx=tdx(mrseam=())),
        accept(tdx=tdx(td_attributes=())),
        accept(tdx=tdx(xfam=())),
        accept(tdx=tdx(xfam=("00" * 7,))),
        accept(tdx=tdx(rtmr3=(H32,))),
        accept(tdx=tdx(events=(H48,))),
        accept(tdx=tdx(events=(H48,), required_events=("33" * 48,))),
        accept(tdx=tdx(tcb=IntelTcb(statuses=()))),
        accept(tdx=tdx(tcb=IntelTcb(rejected_advisories=("",)))),
        accept(sgx=sgx(mrenclave=())),
        accept(sgx=sgx(mrsigner=())),
        accept(sgx=sgx(isv_prod_id=2**16)),
        accept(sgx=sgx(minimum_isv_svn=-1)),
        accept(gpu=gpu(drivers=())),
        accept(gpu=gpu(minimum_devices=65)),
        accept(snp=snp(), refused_platforms=("short",)),
    ],
)
def test_values_that_could_be_misread_are_refused(values):
    with pytest.raises(CodecError):
        reference.check(values)


@pytest.mark.parametrize(
    "data",
    [
        b'{"format":"wardround-reference-values/2","gpu":null,"name":"x","refused_platforms":[],"sgx":null,"snp":null,"tdx":null}',
        b"{}",
        b"[1]",
        b"\xff",
    ],
)
def test_bytes_that_are_no_values_are_refused(data):
    with pytest.raises(CodecError):
        reference.read(data)


def test_no_status_or_permission_can_be_invented():
    data = canonical.encode(accept(tdx=tdx()))
    assert b'"UpToDate"' in data
    with pytest.raises(CodecError):
        reference.read(data.replace(b'"UpToDate"', b'"Revoked"'))
    with pytest.raises(CodecError):
        reference.read(canonical.encode(accept(snp=snp())).replace(b'"allow":[]', b'"allow":["debug"]'))


@pytest.mark.parametrize("kind", ["snp", "tdx", "sgx"])
def test_a_kind_without_values_is_refused(kind):
    others = {"snp": {"sgx": sgx()}, "tdx": {"snp": snp()}, "sgx": {"tdx": tdx()}}[kind]
    bundle = Bundle(consortium="c", number=1, valid_from=0, valid_until=10)
    evidence = Evidence(kind=kind, report=bytes(1184))
    with pytest.raises(AttestationError, match=f"accept no {kind}"):
        appraise(evidence, accept(**others), bundle, expected_report_data=bytes(64), now=5.0)


def test_improper_values_are_refused_before_any_evidence_is_read():
    bundle = Bundle(consortium="c", number=1, valid_from=0, valid_until=10)
    evidence = Evidence(kind="snp", report=b"")
    with pytest.raises(CodecError):
        appraise(evidence, accept(snp=snp(measurements=())), bundle, expected_report_data=bytes(64), now=5.0)


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(kind="snp", report=bytes(40_000)),
        Evidence(kind="snp", report=b"", auxiliary=bytes(70_000)),
        Evidence(kind="snp", report=b"", certificates=(bytes(70_000),)),
        Evidence(kind="snp", report=b"", certificates=(b"",) * 9),
        Evidence(kind="tdx", report=b"", event_log=bytes(600_000)),
    ],
)
def test_evidence_larger_than_any_real_one_is_refused(evidence):
    bundle = Bundle(consortium="c", number=1, valid_from=0, valid_until=10)
    with pytest.raises(AttestationError, match="evidence: its"):
        appraise(evidence, accept(snp=snp(), tdx=tdx()), bundle, expected_report_data=bytes(64), now=5.0)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_evidence(junk):
    for data in (junk, b'{"format":"wardround-evidence/1","kind":"snp","report":"' + junk + b'"}'):
        with contextlib.suppress(AttestationError):
            found = evidences.read(data)
            assert found.kind == "snp"
            with contextlib.suppress(AttestationError):
                evidences.unverified_report_data(found)


def test_evidence_comes_back_from_its_file():
    evidence = Evidence(kind="tdx", report=b"r", auxiliary=b"a", certificates=(b"c",), event_log=b"e")
    assert evidences.read(msgspec.json.encode(evidence)) == evidence
    for wrong in (
        b'{"kind":"sample","report":""}',
        b'{"kind":"snp"}',
        b'{"kind":"snp","report":"","x":1}',
        bytes(3_000_000),
    ):
        with pytest.raises(AttestationError):
            evidences.read(wrong)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_caller_who_expects_no_64_bytes_is_mistaken(size):
    bundle = Bundle(consortium="c", number=1, valid_from=0, valid_until=10)
    with pytest.raises(ValueError):
        appraise(Evidence(kind="snp", report=b""), accept(snp=snp()), bundle, expected_report_data=bytes(size), now=5.0)
