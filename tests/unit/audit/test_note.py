"""Notes, keys, checkpoints and cosignatures: real ones verify, and everything else is refused with an error of ours."""

import base64
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.logs import LOG, NOW, ORIGIN, WITNESSES, log_signers, memory_log

from wardround.audit import checkpoint as checkpoints
from wardround.audit import note, witness_policy
from wardround.audit.checkpoint import Checkpoint
from wardround.errors import AuditError, CodecError, SignatureError, WardroundError

ROOT = Path(__file__).parents[3]
ATTESTATION = Path(os.environ.get("WARDROUND_ATTESTATION", ROOT.parent / "shared" / "attestation"))
TLOG = Path(os.environ.get("WARDROUND_TLOG", ATTESTATION.parent / "tlog"))
VECTORS = json.loads((ROOT / "tests" / "vectors" / "checkpoints.json").read_text())
POINT = Checkpoint(ORIGIN, 3, hashlib.sha256(b"root").digest())


def signed(*signers, point=POINT, now=NOW):
    return checkpoints.join(checkpoints.format_text(point), [checkpoints.sign(point, s, now=now) for s in signers])


@pytest.mark.skipif(not (TLOG / "sumdb.vkey").exists(), reason="real checkpoints are not here (WARDROUND_TLOG)")
def test_real_checkpoints_of_the_go_checksum_database_verify():
    key = note.parse_vkey((TLOG / "sumdb.vkey").read_text())
    found = sorted(TLOG.glob("*.checkpoint"))
    assert found
    for path in found:
        data = path.read_bytes()
        read = checkpoints.parse(data)
        assert read.checkpoint.size == int(path.stem.partition("_")[2])
        witness_policy.check_log(read, [key], origin="go.sum database tree")
        for place in range(len(data)):
            bad = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            with pytest.raises((AuditError, CodecError)):
                witness_policy.check_log(checkpoints.parse(bad), [key], origin="go.sum database tree")


def test_a_real_cosignature_of_a_public_witness_verifies():
    vector = VECTORS["cosignature"]
    public = base64.b64decode(vector["public_key"])
    blob = base64.b64decode(vector["signature"])
    key = note.VerifierKey(vector["name"], 4, public)
    line = note.NoteSignature(key.name, key.key_id, blob[4:])
    read = checkpoints.parse(checkpoints.join(vector["text"], [str(line)]))
    assert checkpoints.check_signed(read, key)
    assert checkpoints.cosigned_at(read, key) == vector["time"]
    for place in range(4, len(blob)):
        bad = note.NoteSignature(key.name, key.key_id, blob[4:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
        with pytest.raises(SignatureError):
            checkpoints.check_signed(checkpoints.parse(checkpoints.join(vector["text"], [str(bad)])), key)


def test_a_vkey_is_the_one_that_others_write():
    assert str(note.parse_vkey(VECTORS["vkey"])) == VECTORS["vkey"]


def test_what_is_signed_is_what_the_specification_says():
    log, second = LOG
    ed, ml = WITNESSES["arran"]
    text = checkpoints.format_text(POINT).encode()
    assert text == f"{ORIGIN}\n3\n{base64.b64encode(POINT.root).decode()}\n".encode()
    read = note.parse(signed(log, second, ed, ml))
    one, two, three, four = (line.blob for line in read.signatures)
    Ed25519PublicKey.from_public_bytes(log.key.public).verify(one, text)
    stamp = NOW.to_bytes(8, "big")
    assert two[:8] == three[:8] == four[:8] == stamp
    message = b"cosignature/v1\ntime %d\n" % NOW + text
    Ed25519PublicKey.from_public_bytes(ed.key.public).verify(three[8:], message)
    name, origin = ml.key.name.encode(), ORIGIN.encode()
    head = b"subtree/v1\n\0" + bytes([len(name)]) + name + stamp + bytes([len(origin)]) + origin
    message = head + bytes(8) + (3).to_bytes(8, "big") + POINT.root
    MLDSA44PublicKey.from_public_bytes(ml.key.public).verify(four[8:], message)
    assert len(four) == 8 + 2420


def test_a_key_id_is_the_beginning_of_the_hash_of_name_type_and_key():
    for signer in (*LOG, *WITNESSES["bute"]):
        key = signer.key
        whole = hashlib.sha256(key.name.encode() + b"\n" + bytes([key.algorithm]) + key.public).digest()
        assert key.key_id == whole[:4]
        assert note.parse_vkey(str(key)) == key


def test_every_key_verifies_its_own_and_no_other():
    signers = (*LOG, *WITNESSES["arran"], *WITNESSES["bute"])
    for signer in signers:
        read = checkpoints.parse(signed(signer))
        assert [checkpoints.check_signed(read, other.key) for other in signers] == [s is signer for s in signers]


def test_a_signature_of_one_type_is_none_of_another():
    ed = WITNESSES["arran"][0]
    as_log = note.VerifierKey(ed.key.name, 1, ed.key.public)
    read = checkpoints.parse(signed(ed))
    assert not checkpoints.check_signed(read, as_log)
    forged = note.NoteSignature(as_log.name, as_log.key_id, read.note.signatures[0].blob[8:])
    with pytest.raises(SignatureError):
        checkpoints.check_signed(checkpoints.parse(checkpoints.join(read.note.text, [str(forged)])), as_log)


@pytest.mark.parametrize("signer", [*LOG, *WITNESSES["arran"]])
def test_another_size_root_origin_or_time_does_not_verify(signer):
    line = checkpoints.sign(POINT, signer, now=NOW)
    others = [
        Checkpoint(ORIGIN, 4, POINT.root),
        Checkpoint(ORIGIN, 3, bytes(32)),
        Checkpoint("hub.example/lob", 3, POINT.root),
    ]
    for other in others:
        with pytest.raises(SignatureError):
            checkpoints.check_signed(
                checkpoints.parse(checkpoints.join(checkpoints.format_text(other), [line])), signer.key
            )
    if signer.key.algorithm != 1:
        found = note.parse_signatures(line)[0]
        moved = note.NoteSignature(found.name, found.key_id, (NOW + 1).to_bytes(8, "big") + found.blob[8:])
        with pytest.raises(SignatureError):
            checkpoints.check_signed(
                checkpoints.parse(checkpoints.join(checkpoints.format_text(POINT), [str(moved)])), signer.key
            )


def test_one_wrong_line_in_a_known_name_spoils_the_note_though_another_fits():
    good, bad = checkpoints.sign(POINT, LOG[0], now=NOW), str(note.NoteSignature(ORIGIN, LOG[0].key.key_id, bytes(64)))
    read = checkpoints.parse(checkpoints.join(checkpoints.format_text(POINT), [good, bad]))
    with pytest.raises(AuditError):
        witness_policy.check_log(read, [LOG[0].key], origin=ORIGIN)


def test_unknown_keys_are_passed_over():
    stranger = log_signers("elsewhere.example/log")
    read = checkpoints.parse(signed(*stranger, *LOG))
    witness_policy.check_log(read, [s.key for s in LOG], origin=ORIGIN)


def test_a_checkpoint_wants_every_key_and_the_right_origin():
    keys = [signer.key for signer in LOG]
    with pytest.raises(AuditError, match="is not signed"):
        witness_policy.check_log(checkpoints.parse(signed(LOG[0])), keys, origin=ORIGIN)
    with pytest.raises(AuditError, match="expected"):
        witness_policy.check_log(checkpoints.parse(signed(*LOG)), keys, origin="other.example/log")
    with pytest.raises(AuditError, match="no key"):
        witness_policy.check_log(checkpoints.parse(signed(*LOG)), [], origin=ORIGIN)
    with pytest.raises(AuditError):
        witness_policy.check_log(
            checkpoints.parse(signed(*LOG)), [s.key for s in log_signers("a.example/log")], origin=ORIGIN
        )


TEXT = checkpoints.format_text(POINT)
LINE = checkpoints.sign(POINT, LOG[0], now=NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        (TEXT + "\n").encode(),
        (TEXT + "\n" + LINE)[:-1].encode(),
        (TEXT + "\n" + LINE + "garbage").encode(),
        (TEXT + "\n" + LINE + "garbage\n").encode(),
        (TEXT + "\n" + LINE + "\n").encode(),
        (TEXT + "\n" + LINE + "\nmore\n").encode(),
        (TEXT + "\n" + LINE.replace("— ", "- ")).encode(),
        (TEXT + "\n" + LINE.replace("\n", " \n")).encode(),
        (TEXT + "\n" + LINE.replace("\n", "\r\n")).encode(),
        (TEXT.replace("3", "03", 1) + "\n" + LINE).encode(),
        (TEXT + "extension\n\n" + LINE).encode(),
        (TEXT.replace(ORIGIN, "") + "\n" + LINE).encode(),
        (TEXT + "\n— a+b AAAAAAAA\n").encode(),
        (TEXT + "\n— a b AAAAAAAA\n").encode(),
        (TEXT + "\n— a AAAA\n").encode(),
        b"\xff" + (TEXT + "\n" + LINE).encode(),
    ],
)
def test_what_is_no_checkpoint_is_refused(data):
    with pytest.raises(CodecError):
        checkpoints.parse(data)


def test_ten_thousand_signatures_are_refused_at_once():
    data = (TEXT + "\n" + LINE * 10_000).encode()
    start = time.perf_counter()
    with pytest.raises(CodecError, match="may have"):
        checkpoints.parse(data)
    small = (TEXT + "\n" + "— a AAAAAAAA\n" * 10_000).encode()
    assert len(small) < note.MAX_NOTE_BYTES
    with pytest.raises(CodecError, match="10000"):
        checkpoints.parse(small)
    assert time.perf_counter() - start < 1.0


def test_as_many_signatures_as_a_large_federation_has_are_read():
    assert len(note.parse((TEXT + "\n" + LINE * note.MAX_SIGNATURES).encode()).signatures) == 256


@given(st.binary(max_size=400))
def test_hostile_bytes_give_our_errors_only(data):
    for read in (checkpoints.parse, note.parse, lambda b: note.parse_vkey(b.decode("latin-1"))):
        try:
            read(data)
        except WardroundError:
            continue


@given(st.text(alphabet="— \na1+/=", max_size=80))
def test_hostile_notes_give_our_errors_only(text):
    for read in (checkpoints.parse, note.parse):
        try:
            read(text.encode())
        except WardroundError:
            continue


@given(st.integers(0, 3000), st.integers(0, 255))
def test_a_published_checkpoint_altered_anywhere_is_refused(place, mask):
    data = PUBLISHED
    place %= len(data)
    if not mask:
        return
    bad = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
    with pytest.raises((AuditError, CodecError)):
        witness_policy.check_log(checkpoints.parse(bad), [s.key for s in LOG], origin=ORIGIN)


PUBLISHED = memory_log(5).publish()


@pytest.mark.parametrize("text", ["", "a", "a+b+c", "a+00000000+AQ==", "+".join(["a", "00000000", "BA" * 30])])
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(CodecError):
        note.parse_vkey(text)


def test_a_verifier_key_with_another_id_is_refused():
    name, _, rest = str(LOG[0].key).partition("+")
    with pytest.raises(CodecError, match="does not fit"):
        note.parse_vkey(f"{name}+00000000{rest[8:]}")


def test_a_cosignature_out_of_all_time_is_refused():
    ed = WITNESSES["arran"][0]
    line = note.NoteSignature(ed.key.name, ed.key.key_id, b"\xff" * 72)
    with pytest.raises(SignatureError, match="no possible time"):
        checkpoints.check_signed(checkpoints.parse(checkpoints.join(TEXT, [str(line)])), ed.key)
    with pytest.raises(CodecError):
        checkpoints.sign(POINT, ed, now=-1)
