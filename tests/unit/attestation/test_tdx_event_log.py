"""The event log of a real trust domain gives the registers of its real quote; no other log does."""

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation import quotes
from tests.unit.attestation.processors import EVIDENCE, genuine

from wardround.attestation import event_log, tdx_verifier
from wardround.attestation.event_log import Event
from wardround.attestation.reference import TdxReference
from wardround.errors import AttestationError

FOLDER = EVIDENCE / "tdx" / "go-tdx-guest"


def real():
    log = (FOLDER / "ccel_data.dat").read_bytes()
    body = quotes.split((FOLDER / "cos-113-tdx-quote.dat").read_bytes()).body
    return log, [body[at : at + 48] for at in (328, 376, 424, 472)]


def replayed_here(log):
    """A second replay, written from the specification, without the reader under test."""
    registers = [bytes(48)] * 4
    at = 32 + struct.unpack_from("<I", log, 28)[0]
    while struct.unpack_from("<I", log, at)[0] not in (0, 0xFFFFFFFF):
        register, kind, _, _, digest = struct.unpack_from("<IIIH48s", log, at)
        at += 62
        at += 4 + struct.unpack_from("<I", log, at)[0]
        if kind != 3:
            registers[register - 1] = hashlib.sha384(registers[register - 1] + digest).digest()
    return registers


def log_of(*events, algorithms=b"\x01\x00\x00\x00\x0c\x00\x30\x00\x00"):
    spec = b"Spec ID Event03\0" + bytes(8) + algorithms
    header = struct.pack("<II20sI", 1, 3, bytes(20), len(spec)) + spec
    return header + b"".join(
        struct.pack("<IIIH48sI", register, kind, 1, 12, digest, 2) + b"ab" for register, kind, digest in events
    )


@genuine
def test_the_real_log_has_43_events_and_gives_the_quotes_registers():
    log, registers = real()
    events = event_log.parse(log)
    assert len(events) == 43
    assert list(event_log.replay(events)) == registers == replayed_here(log)
    assert registers[3] == bytes(48)
    assert all(any(register) for register in registers[:3])


@genuine
def test_the_real_quote_binds_the_real_nonce():
    body = quotes.split((FOLDER / "cos-113-tdx-quote.dat").read_bytes()).body
    assert body[520:584] == (FOLDER / "nonce.dat").read_bytes()


@genuine
def test_a_log_that_lacks_swaps_or_changes_an_event_gives_other_registers():
    log, registers = real()
    events = list(event_log.parse(log))
    for forged in (
        events[1:],
        [events[1], events[0], *events[2:]],
        [Event(events[0].register, events[0].kind, bytes(48)), *events[1:]],
        [*events, events[-1]],
    ):
        assert list(event_log.replay(tuple(forged))) != registers


def test_an_event_of_no_action_is_not_measured():
    digest = b"\x01" * 48
    assert event_log.replay((Event(1, 3, digest),)) == (bytes(48),) * 4
    expected = hashlib.sha384(bytes(48) + digest).digest()
    assert event_log.replay((Event(4, 1, digest),)) == (bytes(48), bytes(48), bytes(48), expected)


@genuine
def test_every_prefix_of_the_real_log_is_read_or_refused_and_none_gives_the_registers_early():
    log, registers = real()
    end = 18101
    for size in range(0, end, 3):
        try:
            events = event_log.parse(log[:size])
        except AttestationError:
            continue
        assert list(event_log.replay(events)) != registers or size >= end - 4


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_read(junk):
    for data in (junk, log_of() + junk):
        with contextlib.suppress(AttestationError):
            event_log.parse(data)


@pytest.mark.parametrize(
    "log",
    [
        log_of((0x7F, 1, bytes(48))),
        log_of((5, 1, bytes(48))),
        log_of(algorithms=b"\x02\x00\x00\x00\x0b\x00\x20\x00\x0c\x00\x30\x00\x00"),
        log_of(algorithms=b"\x01\x00\x00\x00\x0b\x00\x20\x00\x00"),
        b"\x01" + log_of()[1:8] + b"\x01" + log_of()[9:],
        log_of((1, 1, bytes(48)))[:-1],
        b"",
    ],
)
def test_a_log_of_another_form_is_refused(log):
    with pytest.raises(AttestationError, match="event log"):
        event_log.parse(log)


def test_a_log_may_not_be_endless():
    with pytest.raises(AttestationError, match="4096"):
        event_log.parse(log_of(*[(1, 1, bytes(48))] * (event_log.MAX_EVENTS + 1)))


A, B, C = (bytes([value]) * 48 for value in (1, 2, 3))
ZERO = "00" * 48


def judged(log, *, events=(), required=(), registers=None, **listed):
    given = event_log.replay(event_log.parse(log)) if registers is None else registers
    report = tdx_verifier.TdReport(
        mr_seam=ZERO, mr_signer_seam=ZERO, seam_attributes="00" * 8, td_attributes="00" * 8, xfam="00" * 8, mr_td=ZERO,
        mr_config_id=ZERO, mr_owner=ZERO, mr_owner_config=ZERO, rt_mr0=given[0].hex(), rt_mr1=given[1].hex(),
        rt_mr2=given[2].hex(), rt_mr3=given[3].hex(), report_data="00" * 64,
    )  # fmt: skip
    accepted = TdxReference(
        mrtd=(ZERO,), mrseam=(ZERO,), td_attributes=("00" * 8,), xfam=("00" * 8,),
        events=tuple(item.hex() for item in events), required_events=tuple(item.hex() for item in required),
        **({"rtmr0": (ZERO,), "rtmr1": (ZERO,), "rtmr2": (ZERO,)} | listed),
    )  # fmt: skip
    checks = []
    tdx_verifier.check_domain(report, log, accepted, checks)
    return [check.what for check in checks if "RTMR" in check.clause]


def test_a_register_that_is_not_listed_passes_by_its_listed_events():
    assert "made of 2 listed events" in judged(log_of((1, 1, A), (1, 1, B)), events=(A, B), required=(A,))


def test_an_event_that_is_not_listed_refuses():
    with pytest.raises(AttestationError, match="RTMR0: not listed, and 1 of its 2 events"):
        judged(log_of((1, 1, A), (1, 1, C)), events=(A, B), required=(A,))


def test_a_boot_that_measured_less_than_is_required_is_refused():
    with pytest.raises(AttestationError, match="1 of the required events"):
        judged(log_of((1, 1, A)), events=(A, B), required=(A, B))


def test_a_log_that_does_not_give_the_registers_refuses_even_where_they_are_listed():
    with pytest.raises(AttestationError, match="RTMR0 event log"):
        judged(log_of((1, 1, A)), registers=(bytes(48),) * 4)


def test_events_do_not_excuse_a_register_without_a_log():
    with pytest.raises(AttestationError, match="RTMR0"):
        judged(b"", events=(A,), required=(A,), registers=(A, bytes(48), bytes(48), bytes(48)))
    # A register that nothing was measured into passes only where zeros are listed.
    with pytest.raises(AttestationError, match="RTMR1: not listed, and 0 of its 0 events"):
        judged(log_of((1, 1, A)), events=(A,), required=(A,), rtmr1=())
