"""Frames are cut out of any stream, and every message is answered as its sender asked, quoting nothing."""

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import PeerProtocolError
from wardround.sources.hl7_frame import Framer, Outcome, answer, framed, incoming

MESSAGE = b"MSH|^~\\&|LAB|HOSP|EHR|WARD|20240301||ORU^R01^ORU_R01|C42|P|2.5\rPID|1||7||Miller\r"
bodies = st.binary(max_size=60).map(lambda data: data.translate(None, b"\x0b\x1c"))


def fed(pieces, **limits):
    framer = Framer(**{"most_bytes": 1000, **limits})
    return [message for piece in pieces for message in framer.feed(piece)], framer


@given(messages=st.lists(bodies, max_size=6), data=st.data())
def test_however_the_stream_is_cut_the_frames_are_the_same(messages, data):
    stream = b"".join(framed(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found, framer = fed(pieces)
    assert found == messages
    assert (framer.garbage, framer.halves, framer.is_inside) == (0, 0, False)


def test_bytes_between_frames_are_counted_and_dropped():
    found, framer = fed([b"junk" + framed(b"one") + b"\r\n" + b"more" + framed(b"two") + b"end"])
    assert found == [b"one", b"two"]
    assert framer.garbage == 11


def test_a_frame_that_never_ended_gives_way_to_the_next():
    found, framer = fed([b"\x0bhalf a mess", b"age\x1c", framed(b"whole"), b"\x0bagain half"])
    assert found == [b"whole"]
    assert framer.halves == 1
    assert framer.is_inside


def test_a_stray_end_sign_inside_a_message_does_not_end_it():
    found, _ = fed([b"\x0bone\x1ctwo\x1c", b"\r"])
    assert found == [b"one\x1ctwo"]


@pytest.mark.parametrize(
    "pieces",
    [[b"\x0b" + b"x" * 101], [b"\x0b" + b"x" * 60, b"x" * 60], [framed(b"x" * 101)], [b"g" * 65], [b"g" * 40] * 2],
    ids=range(5),
)
def test_what_is_too_long_breaks_the_rules(pieces):
    with pytest.raises(PeerProtocolError):
        fed(pieces, most_bytes=100, most_garbage=64)


def answered(data, outcome=Outcome.KEPT):
    return answer(incoming(data), outcome, stamp="20240301120000+0000", identifier="A1")


def test_an_answer_goes_back_to_the_sender_with_its_control_identifier():
    reply = answered(MESSAGE)
    assert reply == (b"MSH|^~\\&|EHR|WARD|LAB|HOSP|20240301120000+0000||ACK^R01^ACK|A1|P|2.5\rMSA|AA|C42\r")
    parsed = hl7.parse(reply.decode())
    assert (str(parsed.segment("MSA")[1]), str(parsed.segment("MSA")[2])) == ("AA", "C42")


@pytest.mark.parametrize(
    ("accept", "application", "codes"),
    [
        ("", "", {"KEPT": "AA", "UNACCEPTABLE": "AE", "UNSUPPORTED": "AR", "NOT_KEPT": "AR"}),
        ("AL", "NE", {"KEPT": "CA", "UNACCEPTABLE": "CE", "UNSUPPORTED": "CR", "NOT_KEPT": "CE"}),
        ("ER", "", {"KEPT": None, "UNACCEPTABLE": "CE", "UNSUPPORTED": "CR", "NOT_KEPT": "CE"}),
        ("SU", "", {"KEPT": "CA", "UNACCEPTABLE": None, "UNSUPPORTED": None, "NOT_KEPT": None}),
        ("NE", "NE", {"KEPT": None, "UNACCEPTABLE": None, "UNSUPPORTED": None, "NOT_KEPT": None}),
        ("NE", "AL", {"KEPT": "AA", "UNACCEPTABLE": "AE", "UNSUPPORTED": "AR", "NOT_KEPT": "AR"}),
        ("", "ER", {"KEPT": None, "UNACCEPTABLE": "AE", "UNSUPPORTED": "AR", "NOT_KEPT": "AR"}),
    ],
)
def test_answers_follow_the_mode_and_condition_that_the_sender_states(accept, application, codes):
    data = MESSAGE.replace(b"|P|2.5", f"|P|2.5|||{accept}|{application}".encode())
    for name, code in codes.items():
        reply = answered(data, Outcome[name])
        assert (None if reply is None else reply.split(b"MSA|")[1][:2].decode()) == code


@pytest.mark.parametrize("outcome", list(Outcome), ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("declared", "codec"),
    [("8859/1", "latin-1"), ("UNICODE UTF-8", "utf-8"), ("~ISO IR87", "iso2022_jp"), ("GB18030", "gb18030")],
)
def test_answers_keep_the_senders_delimiters_and_character_set(declared, codec, outcome):
    name = {"iso2022_jp": "日本", "gb18030": "中文"}.get(codec, "Köln")
    text = f"MSH!$%*@!{name}!H!E!W!2024!!ORU$R01!Ä*S*1".replace("Ä", "" if codec == "iso2022_jp" else "C")
    data = (text + f"!P!2.5!!!!!!{declared.replace('~', '%')}\rPID!1\r").encode(codec)
    message = incoming(data)
    assert not message.offence
    reply = answer(message, outcome, stamp="2024", identifier="A1").decode(codec)
    assert reply.startswith(f"MSH!$%*@!E!W!{name}!H!2024!!ACK$R01$ACK!A1!P!2.5!!!!!!")
    assert f"!{message.control}" in reply.partition("MSA!")[2]


BAD = [
    b"",
    b"Miller",
    b"MSH",
    b"PID|1||7||Miller\r",
    MESSAGE.replace(b"|C42|", b"||"),
    MESSAGE.replace(b"|C42|", b"|" + b"9" * 201 + b"|"),
    MESSAGE.replace(b"ORU^R01^ORU_R01", b""),
    MESSAGE.replace(b"|P|2.5", b"|P|2.5||||||CNS 11643-1992"),
    MESSAGE.replace(b"|P|2.5", b"|P|2.5||||||ASCII").replace(b"Miller", b"M\xfcller"),
    MESSAGE + b"Miller has a second line\r",
    MESSAGE + MESSAGE,
    MESSAGE.replace(b"Miller", b"Mil\x00ler"),
    MESSAGE.replace(b"Miller", b"Mil\x1cler"),
    MESSAGE.replace(b"^~\\&", b"^^\\&"),
]


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_not_acceptable_is_answered_so_without_quoting_it(data):
    message = incoming(data)
    assert message.offence
    reply = answer(message, Outcome.UNACCEPTABLE, stamp="2024", identifier="A1")
    assert b"MSA|AE|" in reply
    assert b"ller" not in reply
    assert hl7.parse(reply.decode("latin-1"))
    if b"C42" in data and data.startswith(b"MSH|^~") and b"second line" not in data:
        assert reply.split(b"MSA|AE|")[1].startswith(b"C42")


def test_other_versions_are_not_supported():
    assert not incoming(MESSAGE.replace(b"|2.5", b"|3.0")).is_version
    assert incoming(MESSAGE.replace(b"|2.5", b"|2.8.2^DEU")).is_version
    assert b"MSA|AR|C42|MSH-12" in answered(MESSAGE, Outcome.UNSUPPORTED)


def test_undeclared_bytes_are_taken_in_since_the_mapping_may_know_them():
    assert not incoming(MESSAGE.replace(b"Miller", b"M\xfcller")).offence


@given(st.binary(max_size=200), st.sampled_from(list(Outcome)))
def test_whatever_comes_can_be_answered(data, outcome):
    for content in (data, b"MSH" + data, MESSAGE[:9] + data, MESSAGE + data):
        message = incoming(content)
        reply = answer(message, Outcome.UNACCEPTABLE if message.offence else outcome, stamp="2024", identifier="A1")
        if reply is not None:
            assert not {0x0B, 0x1C} & set(reply)
