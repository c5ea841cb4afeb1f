"""Evidence from the kernel: one entry to a report, checked for races, always removed; nothing else gives evidence."""

import ast
import inspect
import pathlib
import typing

import pytest
from tests.unit.attestation import processors
from tests.unit.enclave.confidential_machine import CHIP, GOOD, KernelTree, SnpHardware

from wardround.attestation.evidence import MAX_REPORT_BYTES, Evidence
from wardround.attestation.result import Kind
from wardround.enclave import tsm
from wardround.enclave.tsm import KernelReports
from wardround.errors import AttestationError, ConfigError, UnavailableError
from wardround.protocol import broker

DATA = bytes(range(64))
SOURCE = pathlib.Path(tsm.__file__).parents[1]


@pytest.fixture(scope="module")
def hardware():
    return SnpHardware()


def kernel(tmp_path, hardware, **how):
    tree = KernelTree(tmp_path / "report").serving(hardware, **how)
    return KernelReports(reports=tree, event_log=tmp_path / "CCEL"), tree.state


def test_a_report_is_over_exactly_what_was_asked(tmp_path, hardware):
    reports, state = kernel(tmp_path, hardware)
    found = reports.evidence(DATA)
    assert found.kind == "snp"
    assert found.report[0x50:0x90] == DATA
    assert found.report[0x90:0xC0] == GOOD
    assert found.auxiliary == hardware.auxiliary
    assert found.event_log == b""
    assert state["written"] == [(DATA, b"", b"")]


def test_every_entry_is_new_and_is_removed(tmp_path, hardware):
    reports, state = kernel(tmp_path, hardware)
    for _ in range(3):
        reports.evidence(DATA)
    assert len(set(state["made"])) == 3
    assert state["removed"] == state["made"]
    assert list((tmp_path / "report").iterdir()) == []


def test_an_entry_that_somebody_else_wrote_to_is_thrown_away(tmp_path, hardware):
    reports, state = kernel(tmp_path, hardware, disturbed=2)
    assert reports.evidence(DATA).report[0x50:0x90] == DATA
    assert len(state["made"]) == 3
    reports, state = kernel(tmp_path, hardware, disturbed=3)
    with pytest.raises(UnavailableError, match="undisturbed"):
        reports.evidence(DATA)
    assert state["removed"] == state["made"]


def test_a_privilege_level_is_asked_for_and_counted(tmp_path, hardware):
    reports, state = kernel(tmp_path, hardware)
    found = reports.evidence(DATA, privilege_level=2)
    assert found.report[0x30] == 2
    assert state["written"] == [(DATA, b"2", b"")]


def test_an_svsm_gives_a_manifest(tmp_path, hardware):
    reports, state = kernel(tmp_path, hardware, attributes=("auxblob", "manifestblob"))
    assert reports.report(DATA, service="svsm").manifest == b"manifest of svsm"
    assert reports.report(DATA).manifest == b""
    assert state["written"][0] == (DATA, b"", b"svsm")


def test_what_a_kernel_does_not_have_is_left_out(tmp_path, hardware):
    reports, _ = kernel(tmp_path, hardware, attributes=())
    assert reports.report(DATA).auxiliary == b""


def test_a_trust_domains_event_log_comes_along(tmp_path):
    class Domain:
        provider, auxiliary = "tdx_guest", b""

        def report(self, report_data, level):
            return b"quote over " + report_data

    (tmp_path / "CCEL").write_bytes(b"events")
    reports, _ = kernel(tmp_path, Domain())
    found = reports.evidence(DATA)
    assert (found.kind, found.report, found.event_log) == ("tdx", b"quote over " + DATA, b"events")


@pytest.mark.parametrize("provider", ["sample", "", "arm_cca_guest", "sev_guest2"])
def test_a_provider_that_is_not_known_hardware_is_refused(tmp_path, provider):
    class Other:
        auxiliary = b""

        def report(self, report_data, level):
            return b"anything"

    Other.provider = provider
    reports, state = kernel(tmp_path, Other())
    with pytest.raises(AttestationError, match="none of sev_guest, tdx_guest"):
        reports.evidence(DATA)
    assert state["removed"] == state["made"]


@pytest.mark.parametrize(
    ("outblob", "message"), [(b"", "empty"), (b"x" * (MAX_REPORT_BYTES + 1), "larger than the 32768")]
)
def test_a_report_that_can_be_none_is_refused_and_its_entry_removed(tmp_path, hardware, outblob, message):
    reports, state = kernel(tmp_path, hardware, outblob=outblob)
    with pytest.raises(AttestationError, match=message):
        reports.evidence(DATA)
    assert state["removed"] == state["made"]


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_only_64_bytes_are_bound(tmp_path, hardware, size):
    reports, state = kernel(tmp_path, hardware)
    with pytest.raises(ValueError, match="64 bytes"):
        reports.evidence(bytes(size))
    assert state["made"] == []


def test_a_machine_that_is_no_guest_says_so():
    # The kernel of the machine that runs the tests may be anything but a guest with this missing folder.
    with pytest.raises(ConfigError, match="SEV-SNP or TDX guest"):
        KernelReports(reports=pathlib.Path("/nonexistent/tsm/report")).evidence(DATA)


def test_a_kernel_that_refuses_is_told_apart_from_one_that_is_busy(tmp_path, hardware, monkeypatch):
    reports, state = kernel(tmp_path, hardware)
    for number, kind in ((5, AttestationError), (16, UnavailableError), (11, UnavailableError), (13, ConfigError)):

        def fail(path, most, number=number):
            raise OSError(number, "refused", str(path))

        with monkeypatch.context() as patched:
            patched.setattr(tsm, "_read", fail)
            with pytest.raises(kind):
                reports.evidence(DATA)
    assert len(state["made"]) == 1 + 3 + 3 + 1
    assert state["removed"] == state["made"]


def test_the_authority_of_these_tests_is_nobody_outside_of_them():
    from tests.unit.enclave.confidential_machine import accepted, bundle

    from wardround.attestation.appraisal import appraise

    certificate = processors.leaf("Milan", chip=CHIP)
    report = processors.report("Milan", chip=CHIP, fields=[(0x50, DATA)])
    with pytest.raises(AttestationError, match="pinned root"):
        appraise(Evidence(kind="snp", report=report, certificates=(certificate,)), accepted(), bundle(),
                 expected_report_data=DATA, now=processors.NOW)  # fmt: skip


def test_no_sample_evidence_exists():
    for kind in (Kind, broker.Tee, typing.get_type_hints(Evidence)["kind"]):
        assert "sample" not in typing.get_args(kind)
    assert typing.get_args(broker.Tee) == ("snp", "tdx", "sgx")


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node


def test_nothing_outside_of_the_tests_says_where_the_kernels_tree_is_or_which_roots_count():
    """No option, setting or variable can reach an argument that no call in the source gives."""
    seen = 0
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "KernelReports" not in text and "_roots" not in text:
            continue
        for name, node in calls(ast.parse(text)):
            given = {keyword.arg for keyword in node.keywords}
            if name == "KernelReports":
                seen += 1
                assert not node.args, path
                assert not given, path
            if path.name != "nvidia_device.py":  # It hands on what it is given, from `verify_all` to `verify`.
                assert not given & {"device_roots", "rim_roots"}, path
                assert name != "verify" or "roots" not in given, path
    text = (SOURCE / "enclave" / "tsm.py").read_text(encoding="utf-8")
    assert "environ" not in text
    assert "getenv" not in text
    assert inspect.signature(KernelReports).parameters["reports"].default == pathlib.Path(
        "/sys/kernel/config/tsm/report"
    )


def test_the_kernels_tree_does_not_follow_links(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"1")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        tsm._read(link, 10)
    with pytest.raises(OSError, match="symbolic"):
        tsm._write(link, b"x")
