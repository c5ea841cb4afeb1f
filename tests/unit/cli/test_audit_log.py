"""`wardround audit verify, prove, export, disclosures, siem`: on a log, its export, and what was done to them."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.audit.logs import LOG, NOW, SITES, WITNESSES, Clock, data, log_signers, memory_log, policy

from wardround.audit import checkpoint as checkpoints
from wardround.audit import tile, witness_policy
from wardround.cli.audit import audit
from wardround.errors import AuditError, CodecError, ConfigError
from wardround.storage import log_export
from wardround.storage.tile_log import TileLog

ROOT = Path(__file__).parents[3]
ATTESTATION = Path(os.environ.get("WARDROUND_ATTESTATION", ROOT.parent / "shared" / "attestation"))
TLOG = Path(os.environ.get("WARDROUND_TLOG", ATTESTATION.parent / "tlog"))
KEYS = [option for signer in LOG for option in ("--key", str(signer.key))]
SIZE = 600


def run(*arguments, code=0):
    done = CliRunner().invoke(audit, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def told(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A witnessed log in a folder, and its export in a file and in a folder."""
    place = tmp_path_factory.mktemp("audit")
    log = TileLog(
        place / "log", origin=LOG[0].key.name, signers=LOG, clock=Clock(), policy=policy(), publish_seconds=None
    )
    log.enqueue([data(number) for number in range(500)])()
    signed = checkpoints.parse(log.publish())
    lines = [str(line) for line in signed.note.signatures]
    lines += [checkpoints.sign(signed.checkpoint, s, now=NOW) for site in SITES[:3] for s in WITNESSES[site]]
    log.keep_witnessed(checkpoints.join(signed.note.text, lines))
    log.enqueue([data(number) for number in range(500, SIZE)])()
    log.close()
    (place / "policy").write_text(witness_policy.format_policy(policy()))
    run("export", place / "log", place / "export.zip")
    run("export", place / "log", place / "export")
    return place


@pytest.mark.parametrize("name", ["log", "export", "export.zip"])
def test_a_log_verifies_offline_from_its_files(place, name):
    found = told("verify", place / name, *KEYS)
    assert (found["valid"], found["size"], found["pinned"], found["problems"]) == (True, SIZE, True, [])
    assert (found["witnesses"], found["witnesses_needed"], found["witnessed_size"]) == (list(SITES[:3]), 3, 500)
    assert found["kinds"] == {"data-access": SIZE}
    words = run("verify", place / name, *KEYS)
    assert "600 entries" in words
    assert "3 of 4 (arran, bute, coll)" in words
    assert "The first 500 entries were witnessed at 2025-10-09" in words
    assert "100 are newer" in words
    assert "Everything verifies" in words


def test_keys_that_the_export_brings_along_are_called_what_they_are(place):
    assert "pin the log's with --key" in run("verify", place / "export.zip")
    assert not told("verify", place / "export.zip")["pinned"]
    assert told("verify", place / "export.zip", "--policy", place / "policy")["pinned"]


def test_the_wrong_key_is_refused(place):
    key = str(log_signers("other.example/log")[0].key)
    found = told("verify", place / "export.zip", "--key", key, code=1)
    assert not found["valid"]
    assert "WRONG" in run("verify", place / "export.zip", "--key", key, code=1)


def test_an_export_is_not_overwritten_and_is_the_same_each_time(place):
    with pytest.raises(ConfigError, match="exists"):
        run("export", place / "log", place / "export.zip")
    run("export", place / "log", place / "again.zip")
    assert (place / "again.zip").read_bytes() == (place / "export.zip").read_bytes()
    names = zipfile.ZipFile(place / "export.zip").namelist()
    assert set(names) == {"policy", "checkpoint", "checkpoint.witnessed", *tile.paths(SIZE)}


@pytest.fixture
def copy(place, tmp_path):
    return Path(shutil.copytree(place / "export", tmp_path / "export"))


def refused(copy, *more):
    found = told("verify", copy, *KEYS, *more, code=1)
    assert not found["valid"]
    return " | ".join(found["problems"])


def test_entries_that_were_swapped_are_told(copy):
    path = copy / "tile/entries/001"
    held = tile.decode_bundle(path.read_bytes(), 256)
    held[0], held[1] = held[1], held[0]
    path.write_bytes(tile.encode_bundle(held))
    words = refused(copy)
    assert "swapped" in words
    assert "time goes backwards" in words


def test_a_log_that_was_cut_off_is_told(copy):
    shutil.rmtree(copy / "tile/entries/002.p")
    assert "missing" in refused(copy)


def test_a_log_that_was_rolled_back_or_forked_is_told_by_a_checkpoint_that_was_kept(copy, tmp_path):
    kept = tmp_path / "kept"
    kept.write_bytes(memory_log(700).file("checkpoint"))
    assert "rolled back" in refused(copy, "--against", kept)
    kept.write_bytes(memory_log(200, make=lambda number: data(number + 1)).file("checkpoint"))
    assert "forked" in refused(copy, "--against", kept)
    kept.write_bytes(memory_log(200).file("checkpoint"))
    assert told("verify", copy, *KEYS, "--against", kept)["valid"]
    kept.write_bytes(memory_log(200, signers=log_signers("other.example/log")).file("checkpoint"))
    with pytest.raises(AuditError):
        run("verify", copy, *KEYS, "--against", kept)


def test_too_few_witnesses_are_told(copy):
    (copy / "checkpoint.witnessed").unlink()
    assert "too few witnesses: 0 of 4" in refused(copy)


def test_a_proof_is_made_and_verifies_without_the_log(place, tmp_path):
    for index, expected in ((42, list(SITES[:3])), (550, [])):
        path = tmp_path / f"{index}.tlog-proof"
        run("prove", place / "export.zip", index, "--out", path)
        found = told("verify", "--proof", path, *KEYS)
        assert (found["valid"], found["index"], found["entry"]) == (True, index, data(index).decode())
        found = told("verify", place / "log", "--proof", path, code=0 if expected else 1)
        assert found["witnesses"] == expected
    assert run("prove", place / "log", 0).startswith("c2sp.org/tlog-proof@v1\n")
    with pytest.raises(AuditError, match="no entry 600"):
        run("prove", place / "log", SIZE)


def test_a_proof_that_was_altered_is_refused(place, tmp_path):
    path, entry = tmp_path / "proof", tmp_path / "entry"
    run("prove", place / "export.zip", 7, "--out", path)
    path.write_bytes(path.read_bytes().replace(b"index 7\n", b"index 8\n"))
    assert not told("verify", "--proof", path, *KEYS, code=1)["valid"]
    path.write_bytes(path.read_bytes().replace(b"index 8\n", b"index 7\n"))
    entry.write_bytes(data(8))
    assert not told("verify", "--proof", path, "--entry", entry, *KEYS, code=1)["valid"]
    with pytest.raises(ConfigError, match="no key"):
        run("verify", "--proof", path)


def test_a_damaged_log_gives_no_proof(copy):
    path = copy / "tile/entries/000"
    path.write_bytes(path.read_bytes().replace(b"training", b"analysis"))
    with pytest.raises(AuditError):
        run("prove", copy, 3)


def test_a_bare_checkpoint_verifies_with_its_key(place):
    found = told("verify", place / "log/checkpoint", *KEYS)
    assert (found["valid"], found["size"]) == (True, SIZE)
    with pytest.raises(ConfigError):
        run("verify", place / "log/checkpoint")
    assert not told("verify", place / "log/checkpoint", *KEYS, "--origin", "z.example", code=1)["valid"]
    assert told("verify", place / "log/checkpoint.witnessed", "--policy", place / "policy")["witnesses"]
    assert not told("verify", place / "log/checkpoint", "--policy", place / "policy", code=1)["valid"]


@pytest.mark.skipif(not (TLOG / "sumdb.vkey").exists(), reason="real checkpoints are not here (WARDROUND_TLOG)")
def test_a_checkpoint_of_the_go_checksum_database_verifies():
    key = (TLOG / "sumdb.vkey").read_text().strip()
    for path in TLOG.glob("*.checkpoint"):
        assert told("verify", path, "--key", key)["origin"] == "go.sum database tree"


def test_disclosures_say_who_used_a_dataset(place):
    found = told("disclosures", place / "export.zip", "--dataset", "set-1", *KEYS)
    (line,) = found["disclosures"]
    assert (line["reads"], line["purpose"], line["actors"], found["valid"]) == (200, "training", ["arran"], True)
    assert len(told("disclosures", place / "log")["disclosures"]) == 3
    assert told("disclosures", place / "log", "--since", "2099-01-01")["disclosures"] == []
    assert "set-2: training" in run("disclosures", place / "log", "--dataset", "set-2")


def test_disclosures_of_a_log_that_does_not_verify_say_so(copy):
    path = copy / "tile/entries/000"
    path.write_bytes(path.read_bytes().replace(b"training", b"analysis", 1))
    assert not told("disclosures", copy, code=1)["valid"]


def test_lines_for_a_siem_are_one_for_each_entry(place):
    lines = run("siem", place / "export.zip", "--start", 590).splitlines()
    assert [json.loads(line)["metadata"]["sequence"] for line in lines] == list(range(590, 600))
    lines = run("siem", place / "log", "--format", "syslog", "--start", 598).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("<110>1 2025-10-09T") for line in lines)


def zipped(path, members, **how):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, **how)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_is_no_export_is_refused(tmp_path):
    path = tmp_path / "bad.zip"
    bad = [
        [("../../etc/passwd", b"x")],
        [("/etc/passwd", b"x")],
        [("tile/0/000", b"x"), ("tile/0/000", b"y")],
        [("readme.txt", b"x")],
        [("tile/0/000", bytes(9000))],
    ]
    for members in bad:
        with pytest.raises(CodecError):
            run("verify", zipped(path, members), *KEYS)
    with pytest.raises(CodecError):
        run("verify", zipped(path, [("tile/0/000", bytes(100))], compress_type=zipfile.ZIP_DEFLATED), *KEYS)


def test_a_zip_altered_or_cut_anywhere_gives_our_errors_or_is_told(place, tmp_path):
    whole = (place / "export.zip").read_bytes()
    path = tmp_path / "bad.zip"
    places = [*range(0, len(whole), len(whole) // 60), *range(len(whole) - 200, len(whole), 7)]
    for at in places:
        for bad in (whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :], whole[:at]):
            path.write_bytes(bad)
            done = CliRunner().invoke(audit, ["verify", str(path), *KEYS])
            assert isinstance(done.exception, (SystemExit, CodecError, AuditError, ConfigError)) or not done.exit_code
            if not done.exit_code:
                assert "Everything verifies" in done.output  # a flag or date of the zip itself


def test_a_link_out_of_a_folder_is_not_followed(copy, tmp_path):
    secret = tmp_path / "secret"
    shutil.move(copy / "tile/entries/000", secret)
    (copy / "tile/entries/000").symlink_to(secret)
    with pytest.raises(ConfigError):
        run("verify", copy, *KEYS)


def test_a_file_that_is_larger_than_it_can_be_is_refused(copy):
    (copy / "tile/0/000").write_bytes(bytes(1 << 20))
    assert "larger" in refused(copy)


def test_a_log_may_be_exported_while_it_grows(tmp_path):
    log = TileLog(tmp_path / "log", origin=LOG[0].key.name, signers=LOG, clock=Clock(), publish_seconds=None)
    log.enqueue([data(number) for number in range(250)])()
    old = log.publish()
    log.enqueue([data(number) for number in range(250, 300)])()
    log.publish()
    # The partial tiles of the older checkpoint are gone; its export is cut from the full ones.
    (tmp_path / "log/checkpoint").write_bytes(old)
    log_export.write_export(tmp_path / "log", tmp_path / "out", policy=(tmp_path / "log/policy").read_text())
    assert told("verify", tmp_path / "out", *KEYS)["size"] == 250


def test_nothing_to_verify_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="name an export"):
        run("verify")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no key"):
        run("verify", tmp_path / "empty")
    assert not told("verify", tmp_path / "empty", *KEYS, code=1)["valid"]
    with pytest.raises(ConfigError):
        run("export", tmp_path / "empty", tmp_path / "out")
