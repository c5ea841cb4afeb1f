"""Whose log and witness keys a hub takes, and how they change: first use, then only under the key before."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.audit import note
from wardround.audit.entry import KeyChange
from wardround.errors import CodecError, CryptoError, ForbiddenError, NotFoundError, SignatureError, UnavailableError
from wardround.protocol import log_messages, messages
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember
from wardround.services.log_members import LogMembers
from wardround.storage.memory import MemoryEventLog


def private(seed):
    return Ed25519PrivateKey.from_private_bytes(seed.encode().ljust(32, b"."))


def vkeys(site, kind, seed, *, algorithm=None):
    name = f"{site}.{seed}.{kind}"
    first = note.ed25519_signer(name, private(seed + kind), algorithm=algorithm or (1 if kind == "log" else 4))
    second = note.ml_dsa_signer(name, MLDSA44PrivateKey.from_seed_bytes((seed + kind).encode().ljust(32, b".")))
    return str(first.key), str(second.key)


def member(site="arran", seed="one", number=1, **changes):
    fields = {"site": site, "number": number, "log": vkeys(site, "log", seed), "witness": vkeys(site, "witness", seed)}
    return LogMember(**(fields | changes))


def changed(before_seed, after):
    return msgspec.structs.replace(after, signature=private(before_seed + "log").sign(log_messages.change_bytes(after)))


class Recorder:
    def __init__(self):
        self.events, self.fails = [], False

    def record(self, event, *, actor=None, study=None, run=None):
        if self.fails:
            raise UnavailableError("the log takes no entries")
        self.events.append(event)


@pytest.fixture
def known():
    recorder = Recorder()
    made = LogMembers(MemoryEventLog(), recorder, LogMember(site="hub", log=vkeys("hub", "log", "h")))
    made.recorder = recorder
    return made


def test_the_first_keys_are_taken_and_the_same_again_is_no_change(known):
    for _ in range(3):
        known.put("arran", member())
    assert known.all() == [known.own, member()]
    assert [(event.change, event.holder) for event in known.recorder.events] == [("issued", "arran")]


def test_other_keys_are_taken_under_the_signature_of_those_before_only(known):
    known.put("arran", member())
    new = member(seed="two", number=2)
    for bad in (new, changed("two", new), changed("three", new), changed("one", member(seed="two", number=3))):
        with pytest.raises(SignatureError):
            known.put("arran", bad)
    signature = changed("one", new).signature
    with pytest.raises(SignatureError):
        known.put("arran", member(seed="three", number=2, signature=signature))
    assert known.all()[1] == member()
    known.put("arran", changed("one", new))
    assert known.all()[1] == changed("one", new)
    known.put("arran", changed("two", member(seed="three", number=3)))
    assert [event.change for event in known.recorder.events] == ["issued", "rotated", "rotated"]


def test_an_operator_may_have_keys_forgotten_and_then_the_next_ones_count(known):
    with pytest.raises(NotFoundError):
        known.forget("arran")
    known.put("arran", member())
    known.forget("arran")
    assert known.all() == [known.own]
    with pytest.raises(NotFoundError):
        known.forget("arran")
    known.put("arran", member(seed="two"))
    assert known.all()[1] == member(seed="two")
    assert [event.change for event in known.recorder.events] == ["issued", "revoked", "issued"]
    assert all(isinstance(event, KeyChange) for event in known.recorder.events)


def test_nobody_hands_in_keys_for_another_or_for_the_hub(known):
    with pytest.raises(ForbiddenError):
        known.put("bute", member())
    with pytest.raises(ForbiddenError):
        known.put("hub", member("hub"))
    assert known.all() == [known.own]


@pytest.mark.parametrize(
    "changes",
    [
        {"log": vkeys("bute", "log", "one")},
        {"witness": vkeys("bute", "witness", "one")},
        {"log": vkeys("arran", "witness", "one", algorithm=1)},
        {"log": vkeys("arran", "log", "one")[::-1]},
        {"log": vkeys("arran", "log", "one", algorithm=4)},
        {"witness": vkeys("arran", "witness", "one", algorithm=1)},
        {"log": (vkeys("arran", "log", "one")[0], vkeys("arran", "log", "two")[1])},
        {"log": (vkeys("arran", "log", "one")[0],) * 2},
        {"log": ("nonsense",)},
        {"log": vkeys("arran-west", "log", "one")},
    ],
)
def test_keys_that_are_none_or_named_after_another_are_refused(known, changes):
    with pytest.raises(CodecError):
        known.put("arran", member(**changes))
    assert known.all() == [known.own]


def test_what_cannot_be_recorded_is_not_taken(known):
    known.recorder.fails = True
    with pytest.raises(UnavailableError):
        known.put("arran", member())
    assert known.all() == [known.own]


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_hostile_bytes_are_no_messages(data):
    for kind in (LogMember, LogLetter, LogAnswer):
        try:
            messages.decode(data, kind)
        except CodecError:
            continue


@given(st.text(max_size=80), st.lists(st.text(max_size=80), min_size=1, max_size=4), st.binary(max_size=64))
@settings(max_examples=100)
def test_hostile_keys_are_refused_with_an_error_of_ours(site, keys, signature):
    made = LogMember(site=site, log=tuple(keys), witness=tuple(keys), signature=signature)
    with pytest.raises((CodecError, CryptoError)):
        log_messages.keys_of(made)


def test_a_letter_has_a_bound():
    with pytest.raises(CodecError):
        messages.decode(
            msgspec.msgpack.encode({"to": "arran", "request": b"x" * (log_messages.MAX_LETTER_BYTES + 1)}), LogLetter
        )
