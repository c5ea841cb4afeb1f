"""Officers change by m of those before, one change after the other, and by nobody else."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.codec import canonical
from wardround.crypto import endorsement, signing
from wardround.errors import CodecError, SignatureError, WardroundError
from wardround.secagg import officers, roster
from wardround.secagg.officers import Officers, SignedOfficers

KEYS = [signing.PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 9)]
HUB = signing.PrivateKey.from_private_bytes(b"h" * 32)


def public(*keys):
    return tuple(sorted(signing.public_bytes(key.public_key()) for key in keys))


def change(keys, signers, *, number=1, quorum=2, consortium="c"):
    made = Officers(consortium=consortium, number=number, officers=public(*keys), quorum=quorum)
    signed = SignedOfficers(canonical.encode(made))
    for key in signers:
        signed = officers.endorse(signed, key)
    return signed


def test_two_of_three_may_change_the_list_and_one_may_not():
    for signers in itertools.combinations(KEYS[:3], 2):
        after = officers.follow(public(*KEYS[:3]), 2, [change(KEYS[3:6], signers)])
        assert (after.officers, after.quorum, after.number) == (public(*KEYS[3:6]), 2, 1)
    for signer in KEYS[:3]:
        with pytest.raises(SignatureError, match="1 valid signatures of this site's 3"):
            officers.follow(public(*KEYS[:3]), 2, [change(KEYS[3:6], [signer, HUB])])


def test_the_new_officers_do_not_make_themselves_officers():
    with pytest.raises(SignatureError, match="0 valid"):
        officers.follow(public(*KEYS[:3]), 2, [change(KEYS[3:6], KEYS[3:6])])


def test_a_second_change_takes_the_officers_of_the_first():
    first, second = change(KEYS[3:6], KEYS[:2]), change(KEYS[6:8], KEYS[3:5], number=2)
    assert officers.follow(public(*KEYS[:3]), 2, [first, second]).officers == public(*KEYS[6:8])
    with pytest.raises(SignatureError):
        officers.follow(public(*KEYS[:3]), 2, [first, change(KEYS[6:8], KEYS[:2], number=2)])


def test_no_change_is_left_out_repeated_or_moved():
    first, second = change(KEYS[:4], KEYS[:2]), change(KEYS[:5], KEYS[:2], number=2)
    root = public(*KEYS[:3])
    assert officers.follow(root, 2, [first, second]).number == 2
    for wrong in ([second], [first, first], [second, first], [first, second, second]):
        with pytest.raises(CodecError, match="comes next"):
            officers.follow(root, 2, wrong)


def test_a_change_of_another_consortium_is_refused():
    first, second = change(KEYS[:4], KEYS[:2]), change(KEYS[:5], KEYS[:2], number=2, consortium="d")
    with pytest.raises(CodecError, match="another consortium"):
        officers.follow(public(*KEYS[:3]), 2, [first, second])


def test_a_signature_on_another_list_or_on_a_roster_does_not_count():
    good, other = change(KEYS[3:6], KEYS[:2]), change(KEYS[4:7], [])
    with pytest.raises(SignatureError):
        officers.follow(public(*KEYS[:3]), 2, [SignedOfficers(other.officers, good.endorsements)])
    of_rosters = tuple(
        endorsement.Endorsement(public(key)[0], signing.sign(b"wardround roster 1\n" + good.officers, key))
        for key in KEYS[:2]
    )
    with pytest.raises(SignatureError):
        officers.follow(public(*KEYS[:3]), 2, [SignedOfficers(good.officers, of_rosters)])


def test_signing_twice_counts_once():
    with pytest.raises(SignatureError):
        officers.follow(public(*KEYS[:3]), 2, [change(KEYS[3:6], [KEYS[0], KEYS[0]])])
    twice = change(KEYS[3:6], [KEYS[0]])
    with pytest.raises(SignatureError):
        officers.follow(public(*KEYS[:3]), 2, [SignedOfficers(twice.officers, twice.endorsements * 2)])


@pytest.mark.parametrize(
    "wrong",
    [{"quorum": 0}, {"quorum": 4}, {"number": 0}, {"officers": ()}, {"officers": (b"short",)}, {"format": "other/1"}],
)
def test_a_list_that_cannot_be_is_refused(wrong):
    made = canonical.decode(change(KEYS[3:6], []).officers, Officers)
    with pytest.raises(WardroundError):
        officers.check(msgspec.structs.replace(made, **wrong)) if "format" not in wrong else canonical.decode(
            canonical.encode(msgspec.structs.replace(made, **wrong)), Officers
        )


def test_unsorted_and_repeated_officers_are_refused():
    made = canonical.decode(change(KEYS[3:6], []).officers, Officers)
    for keys in (made.officers[::-1], (*made.officers, made.officers[-1])):
        with pytest.raises(CodecError, match="sorted"):
            officers.check(msgspec.structs.replace(made, officers=keys))


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_list_give_our_errors(data):
    with pytest.raises(WardroundError):
        officers.follow(public(*KEYS[:3]), 1, [SignedOfficers(data)])
    with pytest.raises(WardroundError):
        officers.endorse(SignedOfficers(data), KEYS[0])
    signature = signing.sign(b"wardround officers 1\n" + data, KEYS[0])
    signed = SignedOfficers(data, (endorsement.Endorsement(public(KEYS[0])[0], signature),))
    with pytest.raises(WardroundError):
        officers.follow(public(*KEYS[:3]), 1, [signed])


def test_a_roster_keeps_its_name_when_the_new_officers_sign_it_too():
    from wardround.crypto import agreement

    members = tuple(
        roster.RosterMember(
            site=name,
            identity=public(key)[0],
            agreement=agreement.public_bytes(agreement.generate().public_key()),
        )
        for name, key in (("arran", KEYS[6]), ("bute", KEYS[7]))
    )
    signed = roster.SignedRoster(canonical.encode(roster.Roster(consortium="c", number=1, members=members)))
    before = roster.endorse(roster.endorse(signed, KEYS[0]), KEYS[1])
    after = roster.endorse(roster.endorse(before, KEYS[3]), KEYS[4])
    assert roster.roster_digest(before) == roster.roster_digest(after)
    with pytest.raises(SignatureError):
        roster.open_roster(before, public(*KEYS[3:6]), 2)
    roster.open_roster(after, public(*KEYS[3:6]), 2)
    with pytest.raises(SignatureError):
        roster.open_roster(roster.endorse(signed, HUB), public(*KEYS[:3]), 1)
