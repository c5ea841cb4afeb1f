"""GPUs and switches: every rule of the verifier, with devices of a test authority where no sample shows it."""

import base64

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation.nvidia_authority import (
    DRIVER_ID,
    FWID,
    MEASUREMENTS,
    MISSING,
    NOW,
    OPAQUE,
    REASON,
    SAMPLES,
    VBIOS_ID,
    Authority,
    Device,
    golden_of,
    packed,
    rims,
    signed,
    swidtag,
)

from wardround.attestation import binding, nvidia_device
from wardround.attestation.collateral import Bundle
from wardround.attestation.nvidia_chain import Revocation
from wardround.attestation.nvidia_device import DeviceCollateral, DeviceEvidence
from wardround.attestation.reference import GpuReference, ReferenceValues
from wardround.attestation.result import platform_hash
from wardround.errors import AttestationError

DEVICES, MAKERS = Authority("Device Root"), Authority("RIM Root")
GPU = Device(DEVICES)
NONCE = binding.gpu_nonce(b"processor's report", b"session key")
GPU_REFERENCE = GpuReference(architectures=("hopper",), drivers=("550.90.07",), vbios=("96.00.9F.00.01",))
REFERENCE = ReferenceValues(name="test", gpu=GPU_REFERENCE)
RIMS = rims(MAKERS)
EVIDENCE = GPU.evidence(NONCE)


def verify(evidence=EVIDENCE, *, nonce=NONCE, reference=REFERENCE, manifests=None, revocation=None, now=NOW, **roots):
    return nvidia_device.verify(
        evidence,
        nonce=nonce,
        reference=reference,
        collateral=DeviceCollateral(RIMS if manifests is None else manifests, revocation or Revocation()),
        now=now,
        **{"device_roots": DEVICES.pins, "rim_roots": MAKERS.pins} | roots,
    )


def with_gpu(**changes):
    return msgspec.structs.replace(REFERENCE, gpu=msgspec.structs.replace(GPU_REFERENCE, **changes))


def genuine_gpu():
    report = bytes.fromhex((SAMPLES / "hopperAttestationReport.txt").read_text())
    chain = (SAMPLES / "hopperCertChain.txt").read_bytes()
    evidence = DeviceEvidence(certificate=base64.b64encode(chain).decode(), evidence=base64.b64encode(report).decode())
    return evidence, report[4:36]


def test_a_gpu_with_the_right_measurements_is_verified():
    found = verify()
    assert found.kind == "nvidia-gpu"
    assert found.report_data == NONCE
    assert found.tcb == {"architecture": "hopper", "driver": "550.90.07", "vbios": "96.00.9F.00.01"}
    assert found.measurements["8"] == MEASUREMENTS[8].hex()
    assert len(found.platform) == 64
    assert {check.clause for check in found.checks} >= {
        "SPDM 1.1, 10.11.1",
        "RIM: golden measurements",
        "DICE TcbInfo, fwid",
    }
    assert any("revocation list" in warning for warning in found.warnings)


def test_the_built_in_roots_refuse_a_test_authority():
    collateral = DeviceCollateral(RIMS)
    with pytest.raises(AttestationError, match="pinned"):
        nvidia_device.verify(EVIDENCE, nonce=NONCE, reference=REFERENCE, collateral=collateral, now=NOW)
    with pytest.raises(AttestationError, match="pinned"):
        nvidia_device.verify(
            EVIDENCE, nonce=NONCE, reference=REFERENCE, collateral=collateral, now=NOW, device_roots=DEVICES.pins
        )


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_gpu_is_refused_by_golden_values_that_are_not_its_own_naming_each():
    evidence, nonce = genuine_gpu()
    # No RIM of the samples is of this driver and VBIOS. A RIM that says so, with the values of its nearest relative,
    # leaves the golden values themselves as the only thing that can refuse.
    from wardround.attestation import rim

    nearest = rim.verify((SAMPLES / "rims/1010_0200_882_960074001C_PROD.swidtag").read_bytes(), now=NOW,
                         revocation=Revocation())  # fmt: skip
    values = {index: (str(one.active), list(one.values)) for index, one in nearest.golden.items()}
    manifests = {
        VBIOS_ID: signed(swidtag("96.00.9F.00.01", values), MAKERS),
        DRIVER_ID: signed(swidtag("550.90.07", golden_of([], others=[0]) | {62: ("True", [bytes(48)])}), MAKERS),
    }
    with pytest.raises(AttestationError, match=r"do not match \(counted from 0\): \[[0-9, ]+\]") as refused:
        nvidia_device.verify(
            evidence, nonce=nonce, reference=REFERENCE, collateral=DeviceCollateral(manifests), now=NOW,
            rim_roots=MAKERS.pins)  # fmt: skip
    assert "13 active" in str(refused.value)


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_gpu_verifies_against_golden_values_that_are_its_own():
    from wardround.attestation import spdm

    evidence, nonce = genuine_gpu()
    report = spdm.parse(base64.b64decode(evidence.evidence))
    own = {index: ("True", [report.measurements[index + 1]]) for index in range(64)}
    manifests = {
        VBIOS_ID: signed(swidtag("96.00.9F.00.01", {index: own[index] for index in range(20)}), MAKERS),
        DRIVER_ID: signed(swidtag("550.90.07", {index: own[index] for index in range(20, 64)}), MAKERS),
    }
    found = nvidia_device.verify(
        evidence, nonce=nonce, reference=REFERENCE, collateral=DeviceCollateral(manifests), now=NOW,
        rim_roots=MAKERS.pins)  # fmt: skip
    assert found.tcb["driver"] == "550.90.07"


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_gpu_with_nvidias_own_rims_is_refused_because_none_is_its_own():
    evidence, nonce = genuine_gpu()
    by_name = {
        f"NV_GPU_VBIOS_{path.stem.removesuffix('_PROD')}": path.read_bytes() for path in (SAMPLES / "rims").iterdir()
    }
    with pytest.raises(AttestationError, match=r"no RIM NV_GPU_DRIVER_GH100_550\.90\.07"):
        nvidia_device.verify(evidence, nonce=nonce, reference=REFERENCE, collateral=DeviceCollateral(by_name), now=NOW)
    renamed = by_name | {DRIVER_ID: (SAMPLES / "rims/Driver_RIM_test_no_gpu.swidtag").read_bytes()}
    with pytest.raises(AttestationError, match=r"is of version '545\.00', the device runs '550\.90\.07'"):
        nvidia_device.verify(evidence, nonce=nonce, reference=REFERENCE, collateral=DeviceCollateral(renamed), now=NOW)


@pytest.mark.skipif(MISSING, reason=REASON)
def test_nvidias_own_switches_verify_against_golden_values_that_are_their_own():
    from wardround.attestation import spdm

    switches = nvidia_device.read((SAMPLES / "switch_evidence.json").read_bytes())
    reports = [spdm.parse(base64.b64decode(one.evidence)).measurements for one in switches]
    # Some measurements are each switch's own; a manifest of their BIOS would leave these inactive.
    golden = {
        index - 1: (str(all(one[index] == value for one in reports)), [value]) for index, value in reports[0].items()
    }
    assert sum(active == "True" for active, _ in golden.values()) == 20
    manifests = {"NV_SWITCH_BIOS_5612_0002_890_9610730001": signed(swidtag("96.10.73.00.01", golden), MAKERS)}
    reference = with_gpu(architectures=("ls10",), vbios=("96.10.73.00.01",), minimum_devices=4)
    found = nvidia_device.verify_all(
        switches, nonce=bytes.fromhex(switches[0].nonce), reference=reference, collateral=DeviceCollateral(manifests),
        now=NOW, rim_roots=MAKERS.pins)  # fmt: skip
    assert len({one.platform for one in found}) == 4
    assert found[0].tcb == {"architecture": "ls10", "vbios": "96.10.73.00.01"}
    with pytest.raises(AttestationError, match="holds 0 RIMs of a switch"):
        nvidia_device.verify(switches[0], nonce=bytes.fromhex(switches[0].nonce), reference=reference,
                             collateral=DeviceCollateral({}), now=NOW)  # fmt: skip


@pytest.mark.parametrize("wrong", [[1], [7, 39], [3, 8, 22]])
def test_a_measurement_that_differs_is_named_by_its_index(wrong):
    manifests = rims(
        MAKERS,
        driver=golden_of(range(7, 40), others=[0], wrong=wrong),
        vbios=golden_of(range(1, 7), others=[0], wrong=wrong),
    )
    with pytest.raises(AttestationError) as refused:
        verify(manifests=manifests)
    assert str(refused.value).endswith(f"(counted from 0): {wrong}")


def test_what_is_not_active_is_not_compared():
    verify(manifests=rims(MAKERS, vbios=golden_of(range(1, 7)) | {60: ("False", [bytes(48)])}))


def test_a_measurement_that_the_report_leaves_out_is_a_mismatch():
    fewer = {index: value for index, value in MEASUREMENTS.items() if index != 9}
    with pytest.raises(AttestationError, match=r"\[8\]"):
        verify(GPU.evidence(NONCE, measurements=fewer))


def test_measurement_35_is_compared_exactly_when_nvdec0_is_on():
    manifests = rims(MAKERS, driver=golden_of(range(7, 40), wrong=[35]))
    with pytest.raises(AttestationError, match=r"\[35\]"):
        verify(manifests=manifests)
    verify(GPU.evidence(NONCE, opaque=OPAQUE | {11: b"\x55"}), manifests=manifests)
    for status in (b"\x00", b"", b"\x55\x55"):
        with pytest.raises(AttestationError, match="neither on nor off"):
            verify(GPU.evidence(NONCE, opaque=OPAQUE | {11: status}), manifests=manifests)


def test_two_manifests_may_not_speak_of_one_measurement():
    with pytest.raises(AttestationError, match="both say what measurement 7"):
        verify(manifests=rims(MAKERS, vbios=golden_of(range(1, 8))))


def test_a_manifest_of_another_version_or_none_is_refused():
    with pytest.raises(AttestationError, match="is of version"):
        verify(manifests=rims(MAKERS, driver_version="550.90.08"))
    with pytest.raises(AttestationError, match=f"no RIM {VBIOS_ID}"):
        verify(manifests={DRIVER_ID: RIMS[DRIVER_ID]})
    with pytest.raises(AttestationError, match="is of version"):
        verify(manifests={DRIVER_ID: RIMS[VBIOS_ID], VBIOS_ID: RIMS[DRIVER_ID]})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (with_gpu(architectures=("blackwell",)), "architectures"),
        (with_gpu(drivers=("550.90.08",)), "drivers"),
        (with_gpu(vbios=("96.00.9F.00.02",)), "vbios"),
        (ReferenceValues(name="none"), "no section gpu"),
    ],
)
def test_what_the_reference_values_do_not_name_is_refused(reference, message):
    with pytest.raises(AttestationError, match=message):
        verify(reference=reference)


def test_a_device_that_is_never_accepted_is_refused_by_name():
    refused = msgspec.structs.replace(REFERENCE, refused_platforms=(verify().platform,))
    with pytest.raises(AttestationError, match="refused_platforms"):
        verify(reference=refused)


def test_a_replayed_report_and_one_for_another_machine_are_refused():
    for other in (bytes(32), binding.gpu_nonce(b"processor's report", b"other key"),
                  binding.gpu_nonce(b"other report", b"session key")):  # fmt: skip
        with pytest.raises(AttestationError, match="not bound"):
            verify(nonce=other)


def test_a_report_of_another_device_is_refused():
    other = Device(DEVICES)
    with pytest.raises(AttestationError, match=r"10\.11\.1"):
        verify(packed(other.report(NONCE), GPU.chain))


def test_firmware_that_is_not_the_certificates_is_refused():
    other = Device(DEVICES, fwid=bytes(48))
    with pytest.raises(AttestationError, match="fwid"):
        verify(other.evidence(NONCE))
    for value in (FWID[:20], b"", FWID + b"\0"):
        with pytest.raises(AttestationError, match="fwid"):
            verify(GPU.evidence(NONCE, opaque=OPAQUE | {20: value}))


def test_a_chip_that_is_not_known_is_refused():
    with pytest.raises(AttestationError, match="known here"):
        verify(Device(DEVICES, name="GB100 A01").evidence(NONCE))


def test_a_revoked_device_is_refused():
    with pytest.raises(AttestationError, match="has revoked"):
        verify(revocation=Revocation((DEVICES.crl(GPU.brom),)))
    with pytest.raises(AttestationError, match="has revoked"):
        verify(revocation=Revocation((DEVICES.crl(GPU.leaf, key=GPU.brom_key, issuer=GPU.brom.subject),)))


def test_outside_of_the_certificates_time_nothing_is_verified():
    for now in (NOW - 2 * 86400, NOW + 4000 * 86400):
        with pytest.raises(AttestationError, match="not valid now"):
            verify(now=now)


@pytest.mark.parametrize("changed", [{3: b"\xff\xfe"}, {3: b""}, {3: b"../../x"}, {6: b"123"}, {17: b""}, {18: b"a/b"}])
def test_hostile_versions_are_refused(changed):
    with pytest.raises(AttestationError):
        verify(GPU.evidence(NONCE, opaque=OPAQUE | changed))


def test_one_device_may_not_stand_for_two_and_too_few_are_refused():
    def verify_all(evidence, **changes):
        return nvidia_device.verify_all(
            evidence, nonce=NONCE, reference=with_gpu(**changes), collateral=DeviceCollateral(RIMS), now=NOW,
            device_roots=DEVICES.pins, rim_roots=MAKERS.pins)  # fmt: skip

    other = Device(DEVICES).evidence(NONCE)
    assert len(verify_all([EVIDENCE, other], minimum_devices=2)) == 2
    with pytest.raises(AttestationError, match="twice"):
        verify_all([EVIDENCE, EVIDENCE])
    with pytest.raises(AttestationError, match="2 to 64"):
        verify_all([EVIDENCE], minimum_devices=2)
    with pytest.raises(AttestationError, match="1 to 64"):
        verify_all([])


def test_a_platforms_name_stays_when_its_firmware_changes():
    key = GPU.brom.public_key()
    from cryptography.hazmat.primitives import serialization

    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert verify().platform == platform_hash("nvidia-gpu", der)


def test_a_bundle_gives_rims_lists_and_withdrawn_certificates():
    blobs = {"nvidia/rim/NV_X": b"rim", "nvidia/crl/a": b"crl", "nvidia/revoked": b"%s\n" % (b"ab" * 32), "other": b"x"}
    bundle = Bundle(consortium="test", number=1, valid_from=0, valid_until=10, blobs=blobs)
    found = nvidia_device.collateral_of(bundle)
    assert found == DeviceCollateral({"NV_X": b"rim"}, Revocation((b"crl",), frozenset({"ab" * 32})))
    bad = msgspec.structs.replace(bundle, blobs={"nvidia/revoked": b"AB"})
    with pytest.raises(AttestationError, match="SHA-256"):
        nvidia_device.collateral_of(bad)


@settings(max_examples=100)
@given(st.text(max_size=100), st.text(max_size=100))
def test_hostile_texts_are_no_evidence(certificate, evidence):
    for one in (DeviceEvidence(certificate=certificate, evidence=evidence),
                DeviceEvidence(certificate=EVIDENCE.certificate, evidence=evidence),
                DeviceEvidence(certificate=certificate, evidence=EVIDENCE.evidence)):  # fmt: skip
        with pytest.raises(AttestationError):
            verify(one)
