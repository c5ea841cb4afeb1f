"""Witnesses refuse rollbacks and forks and remember before they answer; logs collect two thirds and one."""

import pytest
from tests.unit.audit.logs import LOG, NOW, ORIGIN, SITES, WITNESSES, Clock, data, log_signers, memory_log, policy

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, tile, verification, witness_request
from wardround.audit.checkpoint import Checkpoint
from wardround.audit.witness_request import WitnessAnswer, WitnessRequest
from wardround.errors import (
    AuditError,
    CodecError,
    NotFoundError,
    PeerProtocolError,
    StorageFullError,
    WardroundError,
)
from wardround.services.witnessing import Mailbox, Witness, WitnessedLog
from wardround.storage.memory import MemoryVault

KEYS = {ORIGIN: [signer.key for signer in LOG]}


def witness(site="arran", vault=None, clock=None, logs=KEYS):
    return Witness(WITNESSES[site], vault or MemoryVault(), clock or Clock(), logs)


def request(log, old=0, *, proof=None):
    signed = log.publish()
    size = checkpoints.parse(signed).checkpoint.size
    if proof is None:
        proof = merkle.consistency_proof(old, size, tile.subtree_reader(log.file, size))
    return witness_request.format_request(WitnessRequest(old, tuple(proof), signed))


def forked(count):
    return memory_log(count, make=lambda number: data(number + 1))


def grow(log, count):
    log.enqueue([data(log.size + i) for i in range(count)])()


def test_a_witness_signs_with_all_its_keys_what_only_grew():
    log, one = memory_log(10), witness()
    seen = 0
    for more in (0, 1, 300):
        if more:
            grow(log, more)
        answer = one.add_checkpoint(request(log, seen))
        assert answer.outcome == "cosigned"
        signed = checkpoints.parse(log.file("checkpoint") + answer.body)
        assert all(checkpoints.check_signed(signed, signer.key) for signer in WITNESSES["arran"])
        assert checkpoints.cosigned_at(signed, WITNESSES["arran"][0].key) == NOW
        seen = log.size
        assert one.last_seen(ORIGIN).checkpoint.size == seen


def test_the_same_checkpoint_is_signed_again():
    log, one = memory_log(10), witness()
    one.add_checkpoint(request(log))
    assert one.add_checkpoint(request(log, 10)).outcome == "cosigned"


def test_an_old_size_that_is_not_the_last_one_is_answered_with_that():
    log, one = memory_log(10), witness()
    one.add_checkpoint(request(log))
    grow(log, 5)
    for old in (0, 3, 11):
        assert one.add_checkpoint(request(log, old)) == WitnessAnswer("stale", b"10\n")


def test_a_rollback_is_refused_and_kept():
    log, vault = memory_log(10), MemoryVault()
    one = witness(vault=vault)
    one.add_checkpoint(request(log))
    with pytest.raises(AuditError, match="shows 7 entries and had 10"):
        one.add_checkpoint(request(memory_log(7), 7))
    (kept,) = witness(vault=vault).evidence()
    assert kept.kind == "rollback"
    assert checkpoints.parse(kept.seen).checkpoint.size == 10
    assert checkpoints.parse(kept.shown).checkpoint.size == 7


def test_a_fork_is_refused_and_both_signed_checkpoints_convict():
    log, one = memory_log(10), witness()
    one.add_checkpoint(request(log))
    for _ in range(3):
        with pytest.raises(AuditError, match="two different logs of 10"):
            one.add_checkpoint(request(forked(10), 10))
    (kept,) = one.evidence()
    two = [checkpoints.parse(note) for note in (kept.seen, kept.shown)]
    assert two[0].checkpoint.root != two[1].checkpoint.root
    assert two[0].checkpoint.size == two[1].checkpoint.size
    assert all(checkpoints.check_signed(signed, signer.key) for signed in two for signer in LOG)
    assert one.last_seen(ORIGIN).checkpoint == two[0].checkpoint


def test_a_log_that_grew_out_of_a_fork_is_refused():
    log, one = memory_log(10), witness()
    one.add_checkpoint(request(log))
    with pytest.raises(AuditError, match="does not show"):
        one.add_checkpoint(request(forked(20), 10))
    grow(log, 5)
    with pytest.raises(AuditError):
        one.add_checkpoint(request(log, 10, proof=[]))
    assert {kept.kind for kept in one.evidence()} == {"unproven"}
    assert one.add_checkpoint(request(log, 10)).outcome == "cosigned"


def test_lies_do_not_push_out_the_evidence_of_a_fork():
    log, one = memory_log(10), witness()
    one.add_checkpoint(request(log))
    for number in range(70):
        point = Checkpoint(ORIGIN, 11 + number, bytes(32))
        lines = [checkpoints.sign(point, signer, now=NOW) for signer in LOG]
        note = checkpoints.join(checkpoints.format_text(point), lines)
        with pytest.raises(AuditError):
            one.add_checkpoint(witness_request.format_request(WitnessRequest(10, (), note)))
    with pytest.raises(AuditError):
        one.add_checkpoint(request(forked(10), 10))
    kinds = [kept.kind for kept in one.evidence()]
    assert kinds.count("unproven") == 64
    assert kinds.count("fork") == 1


def test_a_log_that_is_not_watched_or_did_not_sign_is_refused():
    one = witness()
    with pytest.raises(NotFoundError):
        one.add_checkpoint(request(memory_log(3, signers=log_signers("other.example/log"))))
    signed = checkpoints.parse(memory_log(3).file("checkpoint"))
    forged = checkpoints.join(signed.note.text, [str(signed.note.signatures[0])])
    with pytest.raises(AuditError, match="not signed"):
        one.add_checkpoint(witness_request.format_request(WitnessRequest(0, (), forged)))
    with pytest.raises(CodecError, match="larger"):
        one.add_checkpoint(request(memory_log(3), 4, proof=[]))


def test_what_was_seen_is_remembered_before_it_is_answered():
    class Full(MemoryVault):
        def put(self, name, value):
            raise StorageFullError("full")

    vault = Full()
    with pytest.raises(StorageFullError):
        witness(vault=vault).add_checkpoint(request(memory_log(3)))
    assert witness(vault=vault).last_seen(ORIGIN) is None


def test_a_witness_that_starts_again_remembers():
    vault = MemoryVault()
    witness(vault=vault).add_checkpoint(request(memory_log(10)))
    with pytest.raises(AuditError):
        witness(vault=vault).add_checkpoint(request(forked(10), 10))


def test_every_byte_of_a_request_counts():
    whole = request(memory_log(4))
    # All of the text, and of the signatures every seventh byte.
    for place in (*range(300), *range(300, len(whole), 7)):
        one = witness()
        bad = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        try:
            answer = one.add_checkpoint(bad)
        except WardroundError:
            assert one.last_seen(ORIGIN) is None
        else:
            assert answer.outcome == "stale"  # "old 0" became "old 1"


def around(keeper, witnesses, sites=SITES):
    """One turn of the mailbox for every witness; whether there are enough."""
    box, enough = Mailbox(), False
    for site in sites:
        body = keeper.request_for(site)
        if body is not None:
            box.ask("hub", site, body)
        for sender, letter in box.requests(site).items():
            box.answer(site, sender, witnesses[site].add_checkpoint(letter))
    for site, answer in box.answers("hub").items():
        enough = keeper.take(site, answer) or enough
    return enough


@pytest.fixture
def federation():
    clock = Clock()
    log = memory_log(5, clock=clock)
    return clock, log, WitnessedLog(log, policy(), clock), {site: witness(site, clock=clock) for site in SITES}


def test_three_of_four_hospitals_make_a_checkpoint_count(federation):
    _, log, keeper, witnesses = federation
    assert not around(keeper, witnesses, SITES[:2])
    assert keeper.witnessed() is None
    assert around(keeper, witnesses, SITES[2:3])
    report = verification.verify_log(log.file, policy())
    assert (report.problems, report.witnesses, report.witnessed_size) == ((), SITES[:3], 5)


def test_the_log_goes_on_and_is_witnessed_again(federation):
    _, log, keeper, witnesses = federation
    for size in (5, 6, 300):
        if size > log.size:
            grow(log, size - log.size)
        assert around(keeper, witnesses)
        assert keeper.witnessed().checkpoint.size == size
    assert keeper.request_for("arran") is None


def test_a_checkpoint_waits_for_its_witnesses_while_the_log_grows(federation):
    clock, log, keeper, witnesses = federation
    around(keeper, witnesses, SITES[:2])
    grow(log, 5)
    assert around(keeper, witnesses, SITES[2:3])
    assert keeper.witnessed().checkpoint.size == 5
    around(keeper, witnesses, SITES[:1])
    clock.at += 301
    grow(log, 5)
    around(keeper, witnesses, SITES[3:])
    assert checkpoints.parse(log.file("checkpoint")).checkpoint.size == 15
    assert around(keeper, witnesses, SITES[:2])
    assert keeper.witnessed().checkpoint.size == 15


def test_a_keeper_that_forgot_learns_from_the_witnesses(federation):
    clock, log, keeper, witnesses = federation
    around(keeper, witnesses)
    grow(log, 9)
    again = WitnessedLog(log, policy(), clock)
    assert not around(again, witnesses)
    assert around(again, witnesses)
    assert again.witnessed().checkpoint.size == 14


def test_nobody_signs_for_another(federation):
    _, _, keeper, witnesses = federation
    body = keeper.request_for("arran")
    answer = witnesses["arran"].add_checkpoint(body)
    with pytest.raises(AuditError):
        keeper.take("bute", answer)
    with pytest.raises(NotFoundError):
        keeper.take("nobody", answer)
    with pytest.raises(NotFoundError):
        keeper.request_for("nobody")
    half = answer.body.split(b"\n")[0] + b"\n"
    with pytest.raises(AuditError):
        keeper.take("arran", WitnessAnswer("cosigned", half))


@pytest.mark.parametrize("body", [b"", b"junk", b"\xff\xfe", b"12x\n", "— a AAAAAAAA\n".encode()])
def test_hostile_answers_give_our_errors_only(federation, body):
    _, _, keeper, _ = federation
    keeper.request_for("arran")
    for outcome in ("cosigned", "stale"):
        with pytest.raises((CodecError, AuditError)):
            keeper.take("arran", WitnessAnswer(outcome, body))


def test_a_witness_that_claims_to_have_seen_more_only_leaves_itself_out(federation):
    _, _, keeper, witnesses = federation
    keeper.request_for("dun")
    keeper.take("dun", WitnessAnswer("stale", b"999\n"))
    assert keeper.request_for("dun") is None
    assert around(keeper, witnesses, SITES[:3])


def test_letters_are_bounded_and_answers_need_a_question():
    box = Mailbox(frozenset({"hub", "arran"}))
    box.ask("hub", "arran", b"one")
    box.ask("hub", "arran", b"two")
    assert box.requests("arran") == {"hub": b"two"}
    with pytest.raises(NotFoundError):
        box.ask("hub", "nobody", b"one")
    with pytest.raises(NotFoundError):
        box.answer("arran", "bute", WitnessAnswer("stale", b"0\n"))
    with pytest.raises(CodecError):
        box.ask("hub", "arran", bytes(1 << 21))
    box.answer("arran", "hub", WitnessAnswer("stale", b"0\n"))
    assert box.requests("arran") == {}
    with pytest.raises(NotFoundError):
        box.answer("arran", "hub", WitnessAnswer("stale", b"7\n"))
    assert list(box.answers("hub")) == ["arran"]
    assert box.answers("hub") == {}
    full = Mailbox()
    for number in range(512):
        full.ask(f"site-{number}", "arran", b"x")
    with pytest.raises(PeerProtocolError, match="full"):
        full.ask("one-more", "arran", b"x")
