"""`wardround attest`: verifying evidence from files, and making, signing and showing bundles of collateral."""

import json

import msgspec
import pytest
from click.testing import CliRunner
from tests.unit.attestation import processors
from tests.unit.attestation.processors import EVIDENCE, NOW, genuine, snp_reference, values

from wardround.cli.attest import attest
from wardround.codec import canonical
from wardround.errors import AttestationError, CodecError, ConfigError, SignatureError
from wardround.sdk import rosters

pytestmark = genuine
SNP = EVIDENCE / "sev-snp"


def run(*words):
    return CliRunner().invoke(attest, [str(word) for word in words], catch_exceptions=True)


def fails(kind, match, *words):
    found = run(*words)
    assert isinstance(found.exception, kind), found.exception
    assert match in str(found.exception)


@pytest.fixture
def files(tmp_path):
    evidence, _ = processors.milan()
    (tmp_path / "evidence.json").write_bytes(msgspec.json.encode(evidence))
    accepted = values(snp=snp_reference(evidence.report))
    (tmp_path / "reference.json").write_bytes(canonical.encode(accepted))
    (tmp_path / "reference.toml").write_text(
        f"""name = "test build"
[snp]
measurements = ["{evidence.report[0x90:0xC0].hex()}"]
allow = ["smt", "no-revocation-list"]
[snp.minimum_tcb.Milan]
bootloader = 1
tee = 0
snp = 5
microcode = 68
"""
    )
    chain = SNP / "virtee-sev/cert_chain_milan"
    made = run(
        "bundle", "draft", tmp_path / "bundle.json", "--consortium", "c", "--from", int(NOW) - 60,
        "--amd", f"Milan/ark={chain}", "--amd", f"Milan/ask={chain}",
        "--intel", EVIDENCE / "tdx/phala/tdx_quote_collateral.json", "--blob", f"readme={EVIDENCE / 'README.md'}",
    )  # fmt: skip
    assert made.exit_code == 0, made.exception
    return tmp_path


def command(files, *more, reference="reference.json"):
    return (
        "verify", files / "evidence.json", "--reference", files / reference, "--collateral", files / "bundle.json",
        "--at", int(NOW), *more,
    )  # fmt: skip


@pytest.fixture
def officers(files):
    keys = [rosters.make_officer(files / name).hex() for name in ("ann", "ben")]
    for name in ("ann", "ben"):
        assert run("bundle", "sign", files / "bundle.json", "--folder", files / name).exit_code == 0
    return keys


@pytest.mark.parametrize("reference", ["reference.json", "reference.toml"])
def test_genuine_evidence_is_verified_from_files(files, officers, reference):
    data = processors.milan()[0].report[0x50:0x90].hex()
    who = [word for key in officers for word in ("--officer", key)]
    found = run(*command(files, *who, "--report-data", data, "--json", reference=reference))
    assert found.exit_code == 0, found.exception
    result = json.loads(found.output)
    assert (result["kind"], result["bound"], result["tcb"]["product"]) == ("snp", True, "Milan")
    assert len(result["checks"]) > 15
    words = run(*command(files, *who, "--report-data", data)).output
    assert "ok    SEV-SNP ABI table 23 POLICY.DEBUG" in words
    assert words.rstrip().splitlines()[-1].startswith("Verified: snp, test build")


def test_evidence_that_nobody_asked_for_is_said_to_be_unbound(files, officers):
    found = run(*command(files, "--officer", officers[0], "--json"))
    result = json.loads(found.output)
    assert not result["bound"]
    assert any("copied" in warning for warning in result["warnings"])


def test_a_bundle_that_nobody_vouches_for_takes_a_flag(files):
    fails(ConfigError, "--unsigned", *command(files))
    result = json.loads(run(*command(files, "--unsigned", "--json")).output)
    assert "no officer vouches for the collateral" in result["warnings"]


def test_a_bundle_without_the_named_officers_signatures_is_refused(files, officers):
    stranger = rosters.make_officer(files / "eve").hex()
    fails(SignatureError, "0 valid signatures", *command(files, "--officer", stranger))
    fails(SignatureError, "needs 2", *command(files, "--officer", officers[0], "--officer", stranger))
    assert run(*command(files, "--officer", officers[0], "--officer", stranger, "--quorum", 1)).exit_code == 0


def test_what_is_refused_names_the_clause(files, officers):
    who = ("--officer", officers[0])
    fails(AttestationError, "REPORT_DATA", *command(files, *who, "--report-data", "00" * 64))
    fails(ConfigError, "64 bytes", *command(files, *who, "--report-data", "00"))
    fails(ConfigError, "hexadecimal", *command(files, *who, "--report-data", "xyz"))
    fails(AttestationError, "not valid at this time", *command(files, *who, "--at", "2030-01-01T00:00:00Z"))
    fails(ConfigError, "no time", *command(files, *who, "--at", "tomorrow"))


def test_times_are_read_as_utc(files, officers):
    for text in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00"):
        assert run(*command(files, "--officer", officers[0], "--at", text)).exit_code == 0


@pytest.mark.parametrize("name", ["evidence.json", "reference.json", "bundle.json"])
@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"\xff\xfe", b"nonsense"])
def test_files_of_another_kind_are_refused(files, name, junk):
    (files / name).write_bytes(junk)
    found = run(*command(files, "--unsigned"))
    assert isinstance(found.exception, ConfigError | AttestationError | CodecError)


def test_a_bundle_is_shown_with_its_signers(files, officers):
    found = run("bundle", "show", files / "bundle.json")
    for word in ("AMD: Milan", "Intel: 1 platform families; other files: 1", f"signed by {officers[0]}"):
        assert word in found.output
    assert set(json.loads(run("bundle", "show", files / "bundle.json", "--json").output)["officers"]) == set(officers)


def test_a_bundle_of_an_unknown_product_or_part_is_not_drafted(tmp_path):
    chain = SNP / "virtee-sev/cert_chain_milan"
    out = tmp_path / "b.json"
    draft = ("bundle", "draft", out, "--consortium", "c")
    fails(ConfigError, "PART is one of", *draft, "--amd", f"Milan/root={chain}")
    fails(ConfigError, "--amd", *draft, "--amd", f"Naples/ark={chain}")
    fails(ConfigError, "NAME=FILE", *draft, "--blob", "x")
    fails(ConfigError, "cannot be read", *draft, "--blob", f"x={tmp_path / 'none'}")
    assert not out.exists()
