"""A whole log is verified from its files; whatever is done to them is noticed, and named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.logs import (
    LOG,
    NOW,
    ORIGIN,
    SITES,
    WITNESSES,
    Clock,
    data,
    files,
    log_signers,
    memory_log,
    policy,
)

from wardround.audit import checkpoint as checkpoints
from wardround.audit import note, proof, tile, verification, witness_policy, witness_request
from wardround.audit.checkpoint import Checkpoint
from wardround.audit.merkle import inclusion_proof
from wardround.errors import AuditError, CodecError, WardroundError

NOBODY = policy(())
SIZE = 700


def witnessed(log, sites, *, now=NOW):
    read = checkpoints.parse(log.file("checkpoint"))
    lines = [str(line) for line in read.note.signatures]
    lines += [checkpoints.sign(read.checkpoint, signer, now=now) for site in sites for signer in WITNESSES[site]]
    return checkpoints.join(read.note.text, lines)


LOG_FILES = files(memory_log(SIZE), SIZE)


def report(held, used=NOBODY, **more):
    return verification.verify_log(held.get, used, **more)


def found(held, used=NOBODY, **more):
    return " | ".join(report(held, used, **more).problems)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 700])
def test_a_whole_log_verifies_and_says_what_is_in_it(size):
    log = memory_log(size)
    log.publish()
    got = verification.verify_log(log.file, NOBODY)
    assert (got.problems, got.size, got.origin) == ((), size, ORIGIN)
    assert dict(got.kinds) == ({"data-access": size} if size else {})
    if size:
        assert (got.first_at, got.last_at) == (NOW * 1000, NOW * 1000 + size - 1)


def test_every_file_counts():
    for path in LOG_FILES:
        assert found({**LOG_FILES, path: None}), path
        altered = bytearray(LOG_FILES[path])
        altered[len(altered) // 2] ^= 4
        assert found({**LOG_FILES, path: bytes(altered)}), path


def test_entries_that_were_swapped_are_named():
    entries = tile.decode_bundle(LOG_FILES["tile/entries/001"], 256)
    entries[10], entries[200] = entries[200], entries[10]
    words = found({**LOG_FILES, "tile/entries/001": tile.encode_bundle(entries)})
    assert "2 entries from entry 266 on" in words
    assert "swapped" in words
    assert "time goes backwards at entry 267" in words


def test_an_entry_that_was_altered_with_its_tile_still_does_not_give_the_root():
    entries = tile.decode_bundle(LOG_FILES["tile/entries/000"], 256)
    entries[5] = data(5, at=NOW * 1000 + 5).replace(b"training", b"analysis")
    hashes = b"".join(map(tile.merkle.leaf, entries))
    held = {**LOG_FILES, "tile/entries/000": tile.encode_bundle(entries), "tile/0/000": hashes}
    words = found(held)
    assert "tile 0 of level 1" in words
    assert "do not give the root" in words


def test_a_log_that_was_cut_off_is_noticed_though_its_files_are_consistent():
    small = files(memory_log(600), 600)
    assert "missing" in found({**small, "checkpoint": LOG_FILES["checkpoint"]})
    kept = checkpoints.parse(LOG_FILES["checkpoint"])
    assert "rolled back: it has 600 entries where your own checkpoint has 700" in found(small, against=[kept])
    assert not found(LOG_FILES, against=[checkpoints.parse(small["checkpoint"])])


def test_a_fork_is_noticed_by_who_kept_a_checkpoint():
    other = memory_log(300, make=lambda number: data(number, at=NOW * 1000))
    words = found(LOG_FILES, against=[checkpoints.parse(other.file("checkpoint"))])
    assert "first 300 entries do not give the root of your own checkpoint" in words


def test_times_that_go_backwards_are_noticed():
    log = memory_log(10, make=lambda number: data(number, at=NOW * 1000 - (5000 if number == 7 else 0)))
    assert "time goes backwards at entry 7, by 5000 ms" in " ".join(verification.verify_log(log.file, NOBODY).problems)


def test_another_key_and_another_origin_are_refused():
    stranger = witness_policy.log_policy([s.key for s in log_signers("z.example/log")], {})
    assert "expected" in found(LOG_FILES, stranger)
    assert "not signed with key" in found(LOG_FILES, stranger, origin=ORIGIN)
    assert "expected" in found(LOG_FILES, origin="else.example/log")
    assert "missing" in found({})
    assert "checkpoint" in found({**LOG_FILES, "checkpoint": b"junk"})


def test_witnesses_count_when_they_are_enough_and_not_before():
    log = memory_log(SIZE)
    held = files(log, SIZE)
    assert "0 of 4 signed, 3 are needed" in found(held, policy())
    held["checkpoint"] = witnessed(log, SITES[:2])
    assert "2 of 4 signed" in found(held, policy())
    held["checkpoint"] = witnessed(log, SITES[1:])
    got = report(held, policy())
    assert (got.problems, got.witnesses, got.witnesses_needed) == ((), SITES[1:], 3)
    assert (got.witnessed_size, got.witnessed_at) == (SIZE, NOW)


def test_an_older_witnessed_checkpoint_counts_and_newer_entries_are_told_apart():
    log = memory_log(300)
    older = witnessed(log, SITES)
    log.keep_witnessed(older)
    log.enqueue([data(300)])()
    log.publish()
    got = verification.verify_log(log.file, policy())
    assert (got.problems, got.size, got.witnessed_size) == ((), 301, 300)


def test_a_witnessed_checkpoint_of_a_fork_is_noticed():
    other = memory_log(300, make=lambda number: data(number, at=NOW * 1000))
    words = found({**LOG_FILES, "checkpoint.witnessed": witnessed(other, SITES)}, policy())
    assert "root of the witnessed checkpoint" in words


def test_half_of_a_hospitals_keys_is_no_witness():
    log = memory_log(3)
    read = checkpoints.parse(log.file("checkpoint"))
    lines = [str(line) for line in read.note.signatures]
    lines += [checkpoints.sign(read.checkpoint, WITNESSES[site][0], now=NOW) for site in SITES]
    held = {**files(log, 3), "checkpoint": checkpoints.join(read.note.text, lines)}
    assert "0 of 4 signed" in found(held, policy())


def test_one_witness_that_signs_many_times_is_one():
    log = memory_log(3)
    held = {**files(log, 3), "checkpoint": witnessed(log, ("arran",) * 10)}
    assert "1 of 4 signed" in found(held, policy())


def test_a_log_cannot_witness_itself():
    log_key = LOG[0].key
    with pytest.raises(CodecError, match="no witness of itself"):
        witness_policy.log_policy([log_key], {"self": [note.VerifierKey("x.example", 4, log_key.public)]})
    with pytest.raises(CodecError, match="no witness of itself"):
        witness_policy.log_policy([log_key], {"self": [note.VerifierKey(ORIGIN, 4, WITNESSES["arran"][0].key.public)]})
    log = memory_log(3)
    read = checkpoints.parse(log.file("checkpoint"))
    forged = [checkpoints.sign(read.checkpoint, signer, now=NOW) for signer in LOG] * 4
    held = {**files(log, 3), "checkpoint": checkpoints.join(read.note.text, forged)}
    assert "0 of 4 signed" in found(held, policy())


def test_one_key_under_two_names_is_refused():
    key = WITNESSES["arran"][0].key
    with pytest.raises(CodecError, match="counts once"):
        witness_policy.log_policy([LOG[0].key], {"a": [key], "b": [note.VerifierKey("b.example", 4, key.public)]})


@pytest.mark.parametrize(
    ("count", "least"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (6, 5), (7, 5), (10, 7), (100, 67)]
)
def test_two_thirds_and_one_is_what_it_takes(count, least):
    assert witness_policy.least_witnesses(count) == least
    assert count == 0 or 2 * least - count > (count - 1) // 3  # two quorums share more than may lie


@pytest.mark.parametrize("name", ["", "none", "a b", "a\nquorum none", "a+b", "a\u2003b"])
def test_a_hospitals_name_cannot_write_into_the_policy(name):
    with pytest.raises(CodecError):
        witness_policy.log_policy([LOG[0].key], {name: [WITNESSES["arran"][0].key]})


def test_a_policy_comes_back_as_text():
    assert witness_policy.parse_policy(witness_policy.format_policy(policy())) == policy()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("log ", "lag ", 1),
        lambda text: text.replace("quorum federation.quorum", ""),
        lambda text: text.replace("quorum federation.quorum", "quorum nobody"),
        lambda text: text + "quorum none\n",
        lambda text: text.replace("group federation.quorum 3", "group federation.quorum 5"),
        lambda text: text.replace("group federation.quorum 3", "group federation.quorum 0"),
        lambda text: text.replace("group federation.quorum 3 arran bute", "group federation.quorum 3 arran arran"),
        lambda text: text.replace("group federation.quorum 3 arran", "group federation.quorum 3 federation.quorum"),
        lambda text: "\n".join(line for line in text.splitlines() if not line.startswith("log")),
        lambda text: text + text,
        lambda text: text + "\n" * 10 + "x y\n",
        lambda text: f"log {WITNESSES['arran'][0].key}\nwitness w {LOG[0].key}\nquorum w\n",
    ],
)
def test_a_policy_that_breaks_a_rule_is_refused(change):
    with pytest.raises(CodecError):
        witness_policy.parse_policy(change(witness_policy.format_policy(policy())))


def proof_of(index):
    hashes = inclusion_proof(index, SIZE, tile.subtree_reader(LOG_FILES.get, SIZE))
    return proof.LogProof(index, tuple(hashes), LOG_FILES["checkpoint"], data(index))


def test_a_proof_travels_alone():
    made = proof_of(421)
    text = proof.format_proof(made)
    assert text.startswith(b"c2sp.org/tlog-proof@v1\nextra ")
    assert b"\nindex 421\n" in text
    assert text.endswith(b"\n\n" + LOG_FILES["checkpoint"])
    assert proof.parse_proof(text) == made
    signed = proof.verify_entry(made, data(421))
    witness_policy.check_log(signed, [s.key for s in LOG], origin=ORIGIN)


def test_a_proof_of_another_entry_or_index_is_refused():
    with pytest.raises(AuditError):
        proof.verify_entry(proof_of(421), data(422))
    bare = proof.LogProof(420, proof_of(421).hashes, LOG_FILES["checkpoint"])
    with pytest.raises(AuditError):
        proof.verify_entry(bare, data(421))


SMALL = memory_log(6, signers=(LOG[0],))
SMALL.publish()
SMALL_PROOF = proof.format_proof(
    proof.LogProof(
        2, tuple(inclusion_proof(2, 6, tile.subtree_reader(SMALL.file, 6))), SMALL.file("checkpoint"), data(2)
    )
)


def check_small(text):
    given = proof.parse_proof(text)
    signed = proof.verify_entry(given, data(2))
    witness_policy.check_log(signed, [LOG[0].key], origin=ORIGIN)


def test_a_proof_altered_at_any_byte_is_refused():
    check_small(SMALL_PROOF)
    for place in range(len(SMALL_PROOF)):
        for mask in (1, 0x80):
            bad = SMALL_PROOF[:place] + bytes([SMALL_PROOF[place] ^ mask]) + SMALL_PROOF[place + 1 :]
            with pytest.raises((AuditError, CodecError)):
                check_small(bad)
    for cut in range(len(SMALL_PROOF)):
        with pytest.raises((AuditError, CodecError)):
            check_small(SMALL_PROOF[:cut])


@given(st.binary(max_size=300))
def test_hostile_proofs_requests_and_policies_give_our_errors_only(junk):
    for bad in (junk, b"c2sp.org/tlog-proof@v1\n" + junk, b"old " + junk, SMALL_PROOF[:60] + junk):
        for read in (
            proof.parse_proof,
            witness_request.parse_request,
            lambda b: witness_policy.parse_policy(b.decode("latin-1")),
        ):
            try:
                read(bad)
            except WardroundError:
                continue


@given(st.dictionaries(st.sampled_from(sorted(LOG_FILES)), st.binary(max_size=100), min_size=1))
def test_a_log_with_hostile_files_is_reported_not_raised(bad):
    assert report({**LOG_FILES, **bad}).problems


def test_a_claimed_size_beyond_all_files_costs_nothing():
    huge = Checkpoint(ORIGIN, 1 << 60, bytes(32))
    line = [checkpoints.sign(huge, signer, now=NOW) for signer in LOG]
    held = {**LOG_FILES, "checkpoint": checkpoints.join(checkpoints.format_text(huge), line)}
    assert "missing" in found(held) or "do not give" in found(held)


def test_a_request_to_a_witness_is_spelled_as_the_specification_says():
    request = witness_request.WitnessRequest(4, (bytes(32), b"\x01" * 32), LOG_FILES["checkpoint"])
    text = witness_request.format_request(request)
    first = b"old 4\n" + b"A" * 43 + b"=\n"
    assert text.startswith(first)
    assert text.endswith(b"\n\n" + LOG_FILES["checkpoint"])
    assert witness_request.parse_request(text) == request
    too_many = witness_request.WitnessRequest(4, (bytes(32),) * 64, LOG_FILES["checkpoint"])
    with pytest.raises(CodecError, match="63"):
        witness_request.parse_request(witness_request.format_request(too_many))


def test_the_time_in_the_logs_own_cosignature_never_goes_back():
    clock = Clock()
    log = memory_log(1, clock=clock)
    clock.at -= 500
    log.enqueue([data(1)])()
    read = checkpoints.parse(log.publish())
    assert checkpoints.cosigned_at(read, LOG[1].key) == NOW
