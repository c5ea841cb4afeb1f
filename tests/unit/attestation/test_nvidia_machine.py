"""A processor and its GPUs are one machine: each GPU's nonce is the processor's report and the session's key."""

import functools

import msgspec
import pytest
from tests.unit.attestation import nvidia_authority, processors
from tests.unit.attestation.nvidia_authority import Authority, Device, rims
from tests.unit.enclave.confidential_machine import NOW, accepted, bundle, machine, pinned

from wardround.attestation import amd_chain, binding, nvidia_device, nvidia_machine
from wardround.attestation.reference import GpuReference
from wardround.errors import AttestationError

DATA, SESSION = bytes(64), b"session key"
DEVICES, MAKERS = Authority("Device Root"), Authority("RIM Root")
GPU = Device(DEVICES)
REFERENCE = accepted(gpu=GpuReference(architectures=("hopper",), drivers=("550.90.07",), vbios=("96.00.9F.00.01",)))
BLOBS = {f"nvidia/rim/{name}": document for name, document in rims(MAKERS).items()}


@pytest.fixture(autouse=True)
def _pinned(monkeypatch):
    monkeypatch.setattr(amd_chain, "ROOT_KEYS", pinned())
    with_roots = functools.partial(nvidia_device.verify_all, device_roots=DEVICES.pins, rim_roots=MAKERS.pins)
    monkeypatch.setattr(nvidia_device, "verify_all", with_roots)


@pytest.fixture
def evidence(tmp_path):
    return machine(tmp_path).evidence(DATA)


def appraise(evidence, devices, reference=REFERENCE, *, session=SESSION, **changes):
    collateral = msgspec.structs.replace(bundle(), blobs=BLOBS)
    return nvidia_machine.appraise(
        evidence, devices, reference, collateral, **{"expected_report_data": DATA, "now": NOW} | changes,
        session_key=session)  # fmt: skip


def gpu(evidence, session=SESSION):
    return GPU.evidence(binding.gpu_nonce(evidence.report, session))


def test_the_samples_and_the_processors_have_a_time_in_common():
    assert NOW == processors.NOW
    assert nvidia_authority.NOW < NOW < nvidia_authority.NOW + 3650 * 86400


def test_a_processor_and_its_gpu_are_verified_together(evidence):
    found = appraise(evidence, [gpu(evidence)])
    assert [one.kind for one in found] == ["snp", "nvidia-gpu"]


def test_a_gpu_of_another_machine_or_session_is_refused(evidence, tmp_path):
    elsewhere = machine(tmp_path / "elsewhere").evidence(bytes(63) + b"1")
    for device in (gpu(elsewhere), gpu(evidence, b"another session")):
        with pytest.raises(AttestationError, match="not bound"):
            appraise(evidence, [device])
    with pytest.raises(AttestationError, match="not bound"):
        appraise(evidence, [gpu(evidence)], session=b"another session")


def test_a_machine_without_the_gpu_that_is_asked_for_is_refused(evidence):
    with pytest.raises(AttestationError, match="1 to 64 devices must show evidence, 0 do"):
        appraise(evidence, [])


def test_a_gpu_that_nobody_asked_for_is_refused(evidence):
    with pytest.raises(AttestationError, match="accept no NVIDIA device"):
        appraise(evidence, [gpu(evidence)], accepted())
    assert len(appraise(evidence, [], accepted())) == 1


def test_a_processor_that_is_refused_has_no_gpus(evidence):
    with pytest.raises(AttestationError, match="REPORT_DATA"):
        appraise(evidence, [gpu(evidence)], expected_report_data=bytes(63) + b"1")
