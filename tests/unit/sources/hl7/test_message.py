"""Messages are split where their own delimiters say, and read in the character set that they declare."""

import contextlib
import itertools
import os
from pathlib import Path

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import CodecError
from wardround.sources import hl7_charset, hl7_message
from wardround.sources.hl7_message import Delimiters, canonical, escape, parse, unescape

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[5] / "shared/data")) / "hl7v2"
REAL = sorted(DATA.rglob("*.hl7"))
needs_data = pytest.mark.skipif(not REAL, reason="the HL7 messages are not here (WARDROUND_DATA)")

MSH = b"MSH|^~\\&|LAB|HOSP|EHR|HOSP|20240101120000||ORU^R01|1|P|2.5"
marks_text = st.permutations("|^~\\&$!@%*").map(lambda signs: Delimiters(*signs[:5]))


def with_charset(declared, rest=b""):
    return MSH + b"||||||" + declared + b"\r" + rest


@needs_data
def test_every_real_message_is_read():
    assert len(REAL) >= 125
    for path in REAL:
        message = parse(path.read_bytes())
        assert message.msh.name == "MSH"
        assert message.msh.component(9)


@needs_data
def test_every_field_of_every_real_message_is_what_python_hl7_finds():
    compared = 0
    for path in REAL:
        data = path.read_bytes()
        text = data.decode("utf-8-sig").replace("\r\n", "\r").replace("\n", "\r")
        theirs, ours = hl7.parse(text), parse(data)
        assert len(theirs) == len(ours.segments)
        for their, our in zip(theirs, ours.segments, strict=True):
            assert str(their[0]) == our.name
            numbers = range(2, len(their)) if our.name == "MSH" else range(1, len(their))
            for number in numbers:
                assert str(their[number]).strip() == our.field(number).strip(), (path.name, our.name, number)
                compared += 1
    assert compared > 20_000


@needs_data
def test_components_of_real_messages_are_what_python_hl7_finds():
    compared = 0
    for path in REAL:
        data = path.read_bytes()
        theirs = hl7.parse(data.decode("utf-8-sig").replace("\r\n", "\r").replace("\n", "\r"))
        for their, our in zip(theirs, parse(data).segments, strict=True):
            if our.name in {"PID", "OBX", "OBR", "ORC"}:
                for number in range(1, len(their)):
                    for at, repetition in enumerate(their[number]):
                        for place, component in enumerate(repetition if isinstance(repetition, hl7.Repetition) else []):
                            plain = str(component)
                            if not set("\\&") & set(plain):
                                assert our.component(number, place + 1, repetition=at + 1) == plain
                                compared += 1
    assert compared > 5_000


@needs_data
def test_the_canonical_form_of_a_real_message_is_the_same_message():
    for path in REAL:
        data = path.read_bytes()
        ours, again = parse(data), parse(canonical(data))
        assert [(one.name, list(one.fields)) for one in ours.segments] == [
            (one.name, list(one.fields)) for one in again.segments
        ]


@given(text=st.text(max_size=60), marks=marks_text)
def test_unescape_undoes_escape_with_any_delimiters(text, marks):
    utf8 = hl7_charset.find("UNICODE UTF-8")
    escaped = escape(text, marks)
    assert unescape(escaped, marks, utf8) == text
    assert not set(escaped) & {marks.field, marks.component, marks.repetition, marks.subcomponent, "\r", "\n"}


@given(st.text(st.characters(exclude_characters="\\"), max_size=60))
def test_a_text_without_the_escape_character_is_as_it_is(text):
    assert unescape(text) is text


component = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
fields = st.lists(st.lists(st.lists(component, min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=5)


@given(content=fields, marks=marks_text)
def test_splitting_undoes_joining(content, marks):
    joined = marks.field.join(
        marks.repetition.join(marks.component.join(escape(part, marks) for part in one) for one in field)
        for field in content
    )
    header = f"MSH{marks.field}{marks.encoding}" + marks.field * 16 + "UNICODE UTF-8"
    data = f"{header}\rZZZ{marks.field}{joined}\r".encode()
    for message in (parse(data), parse(canonical(data))):
        (segment,) = message.named("ZZZ")
        assert [
            [
                [segment.component(number, place + 1, repetition=at + 1) for place in range(len(one))]
                for at, one in enumerate(field)
            ]
            for number, field in enumerate(content, 1)
        ] == content


def test_the_canonical_form_has_the_standards_delimiters_and_keeps_what_stood_for_itself():
    data = b"MSH$!@%*$LAB$$$$$$ORU!R01$1$P$2.5\rOBX$1$ST$a|b!c*d$$e^f~g\\h&i%S%\r"
    assert canonical(data).split(b"\r")[1] == rb"OBX|1|ST|a\F\b^c&d||e\S\f\R\g\E\h\T\i!"


@pytest.mark.parametrize(
    ("escaped", "meant"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"\X41\\X4243\z", "ABCz"),
        (r"one\.br\two\.sp\three", "one\ntwo three"),
        (r"\H\loud\N\ soft", "loud soft"),
        (r"C:\temp\x", r"C:\temp\x"),
        (r"\Z01\ own", r"\Z01\ own"),
        ("ends with \\", "ends with \\"),
        (r"\M2442\F|" + r"\C2842\ab", "日ab"),
        (r"\P\ ", "# "),
    ],
)
def test_escapes(escaped, meant):
    assert unescape(escaped) == meant


@pytest.mark.parametrize("escaped", [r"\C9999\x", r"\M121212\x", r"\XFF\x", r"\M2442\ü\C2842\x"])
def test_an_escape_that_cannot_be_read_is_refused_and_not_quoted(escaped):
    with pytest.raises(CodecError) as caught:
        unescape(escaped)
    assert not {"x", "FF", "9999"} & set(str(caught.value).split())


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (b"ASCII", "plain"),
        (b"", "plain"),
        (b"8859/1", "Müller"),
        (b"8859/2", "Łódź"),
        (b"8859/5", "Иван"),
        (b"8859/7", "Ελένη"),
        (b"8859/8", "שלום"),
        (b"8859/9", "İstanbul"),
        (b"8859/15", "Œuvre €"),
        (b"UNICODE UTF-8", "Łódź 日本"),
        (b"UNICODE", "Łódź 日本"),
        (b"GB 18030-2000", "中文名字"),
        (b"BIG-5", "中文"),
        (b"KS X 1001", "한국"),
        (b"~ISO IR87", "日本太郎"),
        (b"ISO IR6~ISO IR87", "日本太郎"),
        (b"ISO IR14~ISO IR87", "ﾔﾏﾀﾞ 山田"),
        (b"ISO IR159", "丂"),
        (b" unicode  utf-8 ", "é"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_each_character_set_is_read_as_declared(declared, text):
    codec = hl7_charset.find(declared.decode()).codec
    data = with_charset(declared, f"PID|1||7||{text}^A|x\r".encode(codec))
    for message in (parse(data), parse(canonical(data), charset="UNICODE UTF-8")):
        pid = message.named("PID")[0]
        assert (pid.component(5), pid.component(5, 2), pid.field(6)) == (text, "A", "x")


def test_delimiter_bytes_inside_of_wide_characters_do_not_split():
    text = "".join(sign for sign in map(chr, range(0x4E00, 0x9FA5)) if sign.encode("gb18030")[1:2] in b"|^~\\")
    data = with_charset(b"GB18030", f"PID|1||7||{text}|x\r".encode("gb18030"))
    assert parse(data).named("PID")[0].fields[4:] == [text, "x"]
    shifted = "本".encode("iso2022_jp")
    assert b"|" in "日".encode("iso2022_jp") or b"\\" in shifted
    data = with_charset(b"~ISO IR87", "PID|1||7||日本|x\r".encode("iso2022_jp"))
    assert parse(data).named("PID")[0].fields[4:] == ["日本", "x"]


@pytest.mark.parametrize("declared", [b"CNS 11643-1992", b"UNICODE UTF-16", b"8859/12", b"WINDOWS-1252", b"ISO IR999"])
def test_an_unknown_character_set_is_refused_by_its_name(declared):
    with pytest.raises(CodecError, match=declared.decode()):
        parse(with_charset(declared))


def test_what_is_no_name_of_a_character_set_is_not_told():
    with pytest.raises(CodecError, match="not shown"):
        parse(with_charset(b"MILLER^ANNA"))


@pytest.mark.parametrize(
    ("declared", "encoded"), [(b"ASCII", b"M\xfcller"), (b"", b"M\xc3\xbcller"), (b"UNICODE UTF-8", b"M\xfcller")]
)
def test_bytes_that_the_declared_set_does_not_have_are_refused_and_not_quoted(declared, encoded):
    for reading in (parse, canonical):
        with pytest.raises(CodecError) as caught:
            reading(with_charset(declared, b"PID|1||7||" + encoded + b"\r"))
        assert "ller" not in str(caught.value)


def test_the_mapping_may_say_what_the_sender_does_not():
    data = MSH + b"\rPID|1||7||M\xfcller\r"
    assert parse(data, fallback="8859/1").named("PID")[0].field(5) == "Müller"
    lying = with_charset(b"ASCII", b"PID|1||7||M\xfcller\r")
    assert parse(lying, charset="8859/1").named("PID")[0].field(5) == "Müller"


@given(text=st.text(st.sampled_from(list("\\~EFXC41.br |^&")), max_size=12), marks=marks_text)
def test_the_canonical_form_means_the_same_whatever_escapes_stand_half_open(text, marks):
    header = f"MSH{marks.field}{marks.encoding}" + marks.field * 16
    line = f"ZZZ{marks.field}{text}"
    message = parse(f"{header}\r{line}\r".encode()).segments[1]
    again = parse(canonical(f"{header}\r{line}\r".encode())).segments[1]
    assert len(message.fields) == len(again.fields)
    for number in range(1, len(message.fields) + 1):
        assert len(message.repetitions(number)) == len(again.repetitions(number))
        for at in range(len(message.repetitions(number))):
            for place, below in itertools.product(range(1, 5), range(1, 4)):
                one, two = (
                    found.component(number, place, repetition=at + 1, subcomponent=below) for found in (message, again)
                )
            assert one == two


def test_bytes_in_hexadecimal_are_of_the_messages_character_set():
    data = with_charset(b"8859/1", rb"PID|1||7||M\XFC\ller" + b"\r")
    assert parse(data).named("PID")[0].component(5) == "Müller"
    assert canonical(data).endswith(rb"M\XC3BC\ller" + b"\r")
    with pytest.raises(CodecError):
        canonical(with_charset(b"UNICODE UTF-8", rb"PID|1||7||M\XFC\ller" + b"\r"))


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n"], ids=["CR", "LF", "CRLF"])
def test_segments_end_in_any_of_three_ways(ending):
    data = ending.join([MSH, b"PID|1||7", b"OBX|1", b""])
    assert [segment.name for segment in parse(data).segments] == ["MSH", "PID", "OBX"]
    assert canonical(data) == MSH + b"\rPID|1||7\rOBX|1\r"


def test_a_line_feed_in_a_field_is_no_end_of_a_segment_where_carriage_returns_are():
    message = parse(MSH + b"\rNTE|1||two\nlines|x\r")
    assert message.segments[1].fields == ["1", "", "two\nlines", "x"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\r",
        b"PID|1||7\r",
        b"MSH",
        b"MSH|",
        b"MSH|^~\\",
        b"MSH|^^\\&|LAB\r",
        b"MSH|^~\\&extra|LAB\r",
        b"MSH|^~\\A|LAB\r",
        b"MSHA^~\\&ALAB\r",
        MSH + b"\rdoe jane, her field broken in two\r",
        MSH + b"\rPIDX|1\r",
        MSH + b"\rpid|1\r",
    ],
    ids=range(13),
)
def test_what_is_no_message_is_refused_and_not_quoted(data):
    with pytest.raises(CodecError) as caught:
        parse(data)
    assert "jane" not in str(caught.value)


def test_a_message_of_too_many_segments_is_refused():
    with pytest.raises(CodecError, match="65535"):
        parse(MSH + b"\rOBX" * 65_536)


def test_fields_that_a_segment_does_not_reach_are_empty():
    segment = parse(MSH + b"\rPID|1||7~8^9&10\r").segments[1]
    assert segment.field(99) == ""
    assert segment.repetitions(99) == []
    assert segment.repetitions(3) == ["7", "8^9&10"]
    assert segment.component(3, 2, repetition=2, subcomponent=2) == "10"
    assert [segment.component(3, 9), segment.component(3, 1, repetition=9)] == ["", ""]
    assert segment.component(3, 2, repetition=2, subcomponent=9) == ""


def test_the_header_counts_its_separator_as_its_first_field():
    msh = parse(MSH).msh
    assert [msh.field(number) for number in (1, 2, 3, 9, 12)] == ["|", "^~\\&", "LAB", "ORU^R01", "2.5"]


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_refused(data):
    for prefix in (b"", MSH + b"\r", MSH[:9]):
        for reading in (parse, canonical):
            with contextlib.suppress(CodecError):
                reading(prefix + data)


def test_no_repr_shows_what_a_message_holds():
    message = parse(MSH + b"\rPID|1||7||Miller\r")
    assert "Miller" not in repr(message) + repr(message.segments[1])


def test_a_header_that_reads_otherwise_once_decoded_is_refused():
    # In GB 18030 the bytes 81 7C are one character, whose second byte would divide a field before decoding.
    data = b"MSH|^~\\&|\x81|||||ORU^R01|1|P|2.5|||||||GB18030|x\rPID|1||7\r"
    with pytest.raises(CodecError):
        parse(data)
    assert hl7_message.ended(b"\xef\xbb\xbfMSH") == b"MSH"
