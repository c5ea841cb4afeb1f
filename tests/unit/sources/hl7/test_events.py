"""Messages become events: results with their versions, patients' facts, and who is one person."""

import os
import random
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ConfigError, CryptoError
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import hl7_source
from wardround.sources.hl7_source import Hl7Settings, open_source
from wardround.sources.intake import Intake
from wardround.sources.site import Site

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[5] / "shared/data")) / "hl7v2"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the HL7 messages are not here (WARDROUND_DATA)")
KEY = bytes(range(32))
EVERYTHING = Scope()


def us(text):
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def msh(kind="ORU^R01", stamp="20240301120000", *, sender="LAB", control="1", processing="P"):
    return f"MSH|^~\\&|{sender}|HOSP|EHR|HOSP|{stamp}||{kind}|{control}|{processing}|2.5"


PID = "PID|1||7^^^HOSP^MR||Miller^Anna"
OBR = "OBR|1|P1^EHR|F1^LAB|24323-8^Panel^LN|||20240301100000|||||||||||||||20240301113000|||F"
OBX = "OBX|1|NM|2951-2^Sodium^LN||140|mmol/L|||||F"


def oru(*lines, **header):
    return [msh(**header), *(lines or (PID, OBR, OBX))]


def obx(code="2951-2^Sodium^LN", kind="NM", value="140", unit="mmol/L", status="F", sub="", at=""):
    return f"OBX|1|{kind}|{code}|{sub}|{value}|{unit}|||||{status}|||{at}"


@pytest.fixture
def read(tmp_path):
    def reading(*messages, scope=EVERYTHING, zone="Europe/Berlin", **stated):
        path = tmp_path / "messages.hl7"
        path.write_bytes(b"".join(("\r".join(message) + "\r").encode() for message in messages))
        source = open_source(Hl7Settings(name="lab", path=path.name, **stated), Site(tmp_path, zone))
        rows = [row for batch in source.batches(scope) for row in batch.to_pylist()]
        return rows, source

    return reading


def results(rows):
    return [row for row in rows if row["system"] != "patient"]


def facts(rows):
    return [row for row in rows if row["system"] == "patient"]


def test_a_result_becomes_an_event(read):
    (row,), source = read(oru())
    assert row == {
        "patient": "7",
        "time_us": us("2024-03-01T10:00+01:00"),
        "precision": 5,
        "known_us": us("2024-03-01T11:30+01:00"),
        "system": "loinc",
        "code": "2951-2",
        "number": 140.0,
        "comparator": None,
        "value": None,
        "unit": "mmol/L",
        "status": "final",
        "order_key": "F||F1^LAB|loinc|2951-2|",
        "source": "lab",
        "row": 3 * 4,
        "array": None,
    }
    assert (source.report.read, source.report.events, source.report.refused, source.report.noted) == (1, 1, {}, {})


def test_the_batches_have_the_schema_of_events(tmp_path):
    (tmp_path / "a.hl7").write_text("\r".join(oru()))
    source = open_source(Hl7Settings(name="lab", path="a.hl7"), Site(tmp_path, "UTC"))
    assert [batch.schema for batch in source.batches(EVERYTHING)] == [EVENT]
    assert list(source.arrays(["x"])) == []


@pytest.mark.parametrize(
    ("field", "unit"),
    [
        ("g/l-1", "g/l-1"),
        ("giga.l-1", "giga.l-1"),
        ("beats/min^^ISO", "beats/min"),
        ("uU/ML", "uU/ML"),
        ("?F", "?F"),
        ("%", "%"),
        (" mg/dL ", " mg/dL "),
        (r"10\S\9/L", "10^9/L"),
        ("mm[Hg]^millimetre of mercury^UCUM", "mm[Hg]"),
        ("^percent", "percent"),
        ("^^^mg/dL^^UCUM", "mg/dL"),
        ("", None),
        ('""', None),
    ],
)
def test_units_come_through_as_they_are_spelled(read, field, unit):
    (row,), _ = read(oru(PID, OBR, obx(unit=field)))
    assert (row["number"], row["unit"]) == (140.0, unit)


@pytest.mark.parametrize(
    ("letter", "status"),
    [
        ("F", "final"),
        ("U", "final"),
        ("V", "final"),
        ("A", "amended"),
        ("B", "amended"),
        ("C", "corrected"),
        ("P", "preliminary"),
        ("R", "preliminary"),
        ("S", "preliminary"),
        ("I", "registered"),
        ("O", "registered"),
        ("N", "cancelled"),
        ("X", "cancelled"),
        ("D", "entered-in-error"),
        ("W", "entered-in-error"),
        ("Z", "unknown"),
    ],
)
def test_statuses(read, letter, status):
    (row,), source = read(oru(PID, OBR, obx(status=letter)))
    assert row["status"] == status
    assert bool(source.report.refused) == (status == "unknown")


def test_without_a_status_the_orders_status_holds_unless_the_segment_is_cut_short(read):
    (row,), _ = read(oru(PID, OBR, obx(status="")))
    assert row["status"] == "final"
    (row,), source = read(oru(PID, OBR, "OBX|1|NM|2951-2^Sodium^LN||14"))
    assert row["status"] == "unknown"
    assert source.report.refused == {"result without a status that is known": 1}


def latest(rows):
    found = {}
    for row in rows:
        found[row["order_key"]] = row
    return list(found.values())


@pytest.mark.parametrize("letter", ["C", "D", "W", "X", "F"])
def test_a_later_version_supersedes_under_the_same_key(read, letter):
    later = oru(PID, OBR, obx(value="141", status=letter), stamp="20240302120000")
    rows, _ = read(oru(), later)
    assert len(rows) == 2
    (row,) = latest(rows)
    assert row["row"] == max(one["row"] for one in rows)
    assert row["status"] != "final" or row["number"] == 141.0


@pytest.mark.parametrize(
    ("kind", "value"), [("NM", "hemolysed"), ("NM", ""), ("NM", '""'), ("ED", "^AP^x^Base64^y"), ("NM", "1~2")]
)
def test_a_version_that_cannot_be_read_still_takes_the_place_of_the_earlier_one(read, kind, value):
    rows, source = read(oru(), oru(PID, OBR, obx(kind=kind, value=value, status="C")))
    (row,) = latest(rows)
    assert (row["status"], row["number"], row["value"]) == ("unknown", None, None)
    assert sum(source.report.refused.values()) == 1


def test_keys_are_of_filler_then_common_order_then_placer(read):
    rows, _ = read(
        oru(PID, "ORC|RE|P9|F9", "OBR|1|P1|F1|x", obx()),
        oru(PID, "ORC|RE|P9|F9", "OBR|1|P1||x|||20240301", obx()),
        oru(PID, "OBR|1|P1||x|||20240301", obx(sub="1.2")),
        oru(PID, "OBR|1|||x|||20240301", obx()),
    )
    assert [row["order_key"] for row in rows] == [
        "F|LAB|F1|loinc|2951-2|",
        "F|LAB|F9|loinc|2951-2|",
        "P|LAB|P1|loinc|2951-2|1.2",
        f"T|7|{us('2024-03-01T00:00+01:00')}|loinc|2951-2|",
    ]


def test_an_orders_common_segment_is_its_own_and_not_the_one_before(read):
    rows, _ = read(
        oru(PID, "ORC|RE|P1|F1", "OBR|1|||x|||20240301", obx(), "OBR|2|P2||y|||20240301", obx()),
        oru(PID, "OBR|1|||x|||20240301", "ORC|RE|P1|F1", obx(), kind="OUL^R22"),
    )
    assert [row["order_key"][:8] for row in rows] == ["F|LAB|F1", "P|LAB|P2", "F|LAB|F1"]


def test_an_order_number_without_an_authority_is_its_senders(read):
    rows, _ = read(
        oru(PID, "OBR|1||5|x|||20240301", obx(), sender="A"),
        oru(PID, "OBR|1||5|x|||20240301", obx(), sender="B"),
        oru(PID, "OBR|1||5^L|x|||20240301", obx(), sender="A"),
        oru(PID, "OBR|1||5^L^^|x|||20240301", obx(), sender="B"),
    )
    keys = [row["order_key"] for row in rows]
    assert keys[0] != keys[1]
    assert keys[2] == keys[3]


def test_equal_keys_in_one_message_are_several_results(read):
    rows, source = read(oru(PID, OBR, obx(value="1"), obx(value="2"), obx(value="3", code="X^^L")))
    assert len({row["order_key"] for row in rows}) == 3
    assert sum(source.report.noted.values()) == 1
    again, _ = read(oru(PID, OBR, obx(value="1"), obx(value="2")), oru(PID, OBR, obx(value="4"), obx(value="5")))
    assert sorted(row["number"] for row in latest(again)) == [4.0, 5.0]


def test_both_codings_become_events_of_one_key_and_one_row(read):
    rows, _ = read(oru(PID, OBR, obx(code="2951-2^Sodium^LN^NA^Sodium^L")))
    assert [(row["system"], row["code"]) for row in rows] == [("loinc", "2951-2"), ("local:LAB", "NA")]
    assert len({row["order_key"] for row in rows}) == 1
    assert len({row["row"] for row in rows}) == 1
    assert {row["number"] for row in rows} == {140.0}


def test_local_codes_are_their_senders_or_what_the_mapping_calls_them(read):
    code = obx(code="NA^Sodium^L")
    assert read(oru(PID, OBR, code))[0][0]["system"] == "local:LAB"
    assert read(oru(PID, OBR, code), local="central-lab")[0][0]["system"] == "local:central-lab"
    assert read(oru(PID, OBR, code, sender=""))[0][0]["system"] == "local:lab"
    assert read(oru(PID, OBR, obx(code="^Sodium")))[0][0]["code"] == "Sodium"
    assert read(oru(PID, OBR, obx(code="1^x^LOINC")), systems={"LOINC": "loinc"})[0][0]["system"] == "loinc"


def test_times_are_of_the_result_else_of_the_order(read):
    (row,), _ = read(oru(PID, OBR, obx(at="20240301")))
    assert (row["time_us"], row["precision"]) == (us("2024-03-01T00:00+01:00"), 3)
    (row,), source = read(oru(PID, "OBR|1||F1", obx()))
    assert (row["time_us"], row["number"], row["status"]) == (None, None, "unknown")
    assert source.report.refused == {"result without a readable time": 1}
    (row,), source = read(oru(PID, OBR, obx(at="yesterday")))
    assert row["status"] == "unknown"


def test_without_a_zone_naive_times_are_refused(read):
    (row,), source = read(oru(), zone=None)
    assert (row["time_us"], row["known_us"], row["status"]) == (None, None, "unknown")
    assert source.report.refused["result without a readable time"] == 1
    (row,), _ = read(oru(stamp="20240301120000+0100"), zone=None)
    assert row["time_us"] == us("2024-03-01T10:00+01:00")


def test_known_is_when_the_order_reported_else_when_the_message_was_written_but_never_before_the_time(read):
    (row,), _ = read(oru(PID, "OBR|1||F1|x|||20240301100000", obx()))
    assert row["known_us"] == us("2024-03-01T12:00+01:00")
    (row,), source = read(oru(PID, OBR, obx(at="20240305")))
    assert row["known_us"] == row["time_us"]
    assert source.report.noted == {"result known before it was observed": 1}


def test_the_senders_zone_holds_where_it_contradicts_the_sites(read):
    (row,), _ = read(oru(stamp="20240301120000-0500"))
    assert row["time_us"] == us("2024-03-01T10:00-05:00")
    (row,), _ = read(oru(PID, OBR, obx(at="20240701120000"), stamp="20241201120000+0100"))
    assert row["time_us"] == us("2024-07-01T12:00+02:00")


def test_orders_hold_results_only_where_they_say_so(read):
    asked = oru(PID, "ORC|NW|P1", OBR, obx(), kind="ORM^O01")
    done = oru(PID, "ORC|RE|P1", OBR, obx(), kind="OML^O21")
    rows, source = read(asked, done)
    assert len(rows) == 1
    assert source.report.noted == {"observation in a message that reports no results": 1}


def test_messages_of_other_types_are_counted_by_their_type_and_never_by_what_they_hold(read):
    rows, source = read(
        oru(PID, kind="SIU^S12"),
        oru(PID, kind="MDM^T02^MDM_T02"),
        oru(PID, kind="MILLER^ANNA"),
        oru(PID, kind="VXU^Anna"),
        oru(PID, kind="ADT^A37"),
    )
    assert rows == []
    assert source.report.noted == {
        "message not read: SIU^S12": 1,
        "message not read: MDM^T02": 1,
        "message not read: of no known type": 1,
        "message not read: VXU": 1,
        "message not read: ADT^A37": 1,
    }


def test_messages_for_tests_are_refused_unless_the_mapping_admits_them(read):
    rows, source = read(oru(processing="T"), oru(processing="D^x"), oru(processing=""))
    assert len(rows) == 1
    assert source.report.refused == {"message for tests or training": 2}
    rows, _ = read(oru(processing="T"), oru(processing="D"), processing=("P", "T"))
    assert len(rows) == 1


def test_a_damaged_message_is_refused_as_a_whole(read):
    broken = oru(PID, OBR, "OBX|1|TX|1^x^L||first line", "second line|||||F", OBX)
    rows, source = read(broken, oru())
    assert len(rows) == 1
    assert rows[0]["row"] == ((1 << 16) + 3) * 4
    (reason,) = source.report.refused
    assert "line" not in reason.replace("line break", "")


def test_an_undecodable_message_and_one_of_an_unknown_set_are_counted_by_reason(read, tmp_path):
    path = tmp_path / "x.hl7"
    good = "\r".join(oru()).encode()
    unknown = good.replace(b"|P|2.5", b"|P|2.5||||||CNS 11643-1992")
    path.write_bytes(b"\r".join([good, good.replace(b"Anna", b"\xff"), unknown, good]))
    source = open_source(Hl7Settings(name="lab", path="x.hl7"), Site(tmp_path, "UTC"))
    rows = [row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()]
    assert [row["row"] >> 18 for row in rows] == [0, 3]
    assert source.report.refused == {
        "bytes that are none in the declared character set ASCII": 1,
        "unknown character set 'CNS 11643-1992'": 1,
    }


def test_a_result_without_a_patient_is_refused(read):
    rows, source = read(oru(OBR, OBX), oru(OBR, OBX, PID), oru("PID|1||^^^HOSP^MR", OBR, OBX))
    assert results(rows) == []
    assert source.report.refused["result of a patient who is not identified"] == 3


def test_no_message_borrows_a_patient_or_an_order_of_the_one_before(read):
    rows, _ = read(oru(PID, OBR, OBX), oru(OBX), oru(PID.replace("7^", "8^"), obx(at="20240301")))
    assert [(row["patient"], row["order_key"][0]) for row in rows] == [("7", "F"), ("8", "T")]


def test_fields_that_read_alike_side_by_side_are_told_apart(read):
    rows, source = read(oru(PID, OBR, obx(kind="ST", value="M5"), obx(kind="STM", value="5", code="y^^L")))
    assert [(row["value"], row["number"]) for row in rows] == [("M5", None), (None, None)]
    assert source.report.refused == {"value of no known type": 1}


def test_two_messages_in_one_frame_are_refused_together(tmp_path):
    with closing(Intake(tmp_path / "intake", KEY)) as intake:
        intake.append("\r".join(oru() + oru()).encode())
    site = Site(tmp_path, "UTC", {"K": KEY.hex()})
    source = open_source(Hl7Settings(name="lab", intake="intake", key="env:K"), site)
    assert list(source.batches(EVERYTHING)) == []
    assert source.report.refused == {"several messages in one": 1}


def test_each_result_is_of_the_patient_before_it(read):
    other = PID.replace("7^", "8^")
    rows, _ = read(oru(PID, OBR, OBX, other, OBR, OBX), oru(other, OBR, OBX))
    assert [row["patient"] for row in rows] == ["7", "8", "8"]


@pytest.mark.parametrize(
    ("field", "stated", "patient"),
    [
        ("7^^^HOSP^MR~12^^^SSA^SS", {}, "7"),
        ("12^^^SSA^SS~7^^^HOSP^MR", {}, "7"),
        ("7", {}, "7"),
        ("12^^^SSA^SS~7", {}, "7"),
        ("7^^^HOSP^MR~8^^^OTHER^MR", {}, None),
        ("7^^^HOSP^MR~8^^^OTHER^MR", {"authority": "OTHER"}, "8"),
        ("7^^^HOSP&1.2.3&ISO^MR~8^^^OTHER^MR", {"authority": "1.2.3"}, "7"),
        ("7^^^HOSP^MR~8^^^OTHER^MR", {"authority": "NONE"}, None),
        ("7^^^HOSP^MR", {"authority": "*"}, "HOSP|7"),
        ("7^^^HOSP^PI", {}, None),
        ("7^^^HOSP^PI", {"identifier": "PI"}, "7"),
        ("7^^^HOSP^PI", {"identifier": ""}, "7"),
        ("7~8", {}, None),
        ("7^^^HOSP^MR~7^^^HOSP^MR", {}, "7"),
        ('""', {}, None),
        (r"A\T\7^^^HOSP^MR", {}, "A&7"),
    ],
)
def test_which_identifier_is_the_patients(read, field, stated, patient):
    rows, source = read(oru(f"PID|1||{field}", OBR, OBX), **stated)
    assert [row["patient"] for row in rows] == ([] if patient is None else [patient])
    assert bool(source.report.refused) == (patient is None)


def test_the_same_number_of_a_second_authority_is_not_taken_for_the_first_ones(read):
    rows, source = read(oru(), oru("PID|1||7^^^OTHER^MR", OBR, OBX), oru("PID|1||7^^^^MR", OBR, OBX))
    assert [row["row"] >> 18 for row in rows] == [0, 2]
    assert source.report.refused["identifier of a second authority"] == 1


def test_other_fields_may_hold_the_identifier(read):
    line = "PID|1|2^^^HOSP^MR|3^^^HOSP^MR|||||||||||||||18^^^HOSP^MR"
    for field, patient in (("PID-2", "2"), ("PID-3", "3"), ("PID-18", "18")):
        rows, _ = read(oru(line, OBR, OBX), identifier_field=field)
        assert rows[0]["patient"] == patient


def pid(number="7", birth="", sex="", death="", flag=""):
    return f"PID|1||{number}^^^HOSP^MR||x||{birth}|{sex}" + "|" * 21 + f"{death}|{flag}"


def adt(*lines, trigger="A08", stamp="20240301120000"):
    return [msh(f"ADT^{trigger}", stamp), "EVN|x", *lines]


def test_what_is_known_of_a_patient(read):
    rows, source = read(adt(pid(birth="19500612", sex="F", death="202402291530", flag="Y")))
    by_code = {row["code"]: row for row in rows}
    assert set(by_code) == {"birth-date", "sex", "death"}
    assert (by_code["birth-date"]["time_us"], by_code["birth-date"]["precision"]) == (us("1950-06-12T00:00+00:00"), 3)
    assert by_code["sex"]["value"] == "female"
    assert by_code["sex"]["time_us"] is None
    assert (by_code["death"]["time_us"], by_code["death"]["precision"]) == (us("2024-02-29T15:30+01:00"), 4)
    assert {row["known_us"] for row in rows} == {us("2024-03-01T12:00+01:00")}
    assert {row["status"] for row in rows} == {None}
    assert not source.report.refused


@pytest.mark.parametrize(
    ("code", "sex"),
    [("M", "male"), ("f", "female"), ("O", "other"), ("A", "other"), ("U", "unknown"), ("N", "unknown"), ("Q", None)],
)
def test_the_sex(read, code, sex):
    rows, source = read(adt(pid(sex=code)))
    assert [(row["value"], row["status"]) for row in rows] == [(sex, None if sex else "unknown")]
    assert bool(source.report.noted) == (sex is None)


def test_facts_are_told_once_and_again_when_they_change(read):
    first, second = pid(birth="1950", sex="F"), pid(birth="1951", sex="F")
    told = [first, first, pid(), second]
    rows, _ = read(*(adt(one, stamp=f"2024030{day}") for day, one in enumerate(told, 1)))
    assert [(row["code"], row["row"] >> 18) for row in rows] == [("birth-date", 0), ("sex", 0), ("birth-date", 3)]
    assert rows[0]["order_key"] == rows[2]["order_key"]


def test_a_fact_of_an_older_message_changes_nothing(read):
    new, old = pid(birth="1950"), pid(birth="1951", sex="M")
    rows, _ = read(
        adt(new, stamp="20240301"), adt(new, stamp="20240305"), adt(old, stamp="20240303"), adt(new, stamp="20240306")
    )
    assert [(row["code"], row["row"] >> 18) for row in rows] == [("birth-date", 0), ("sex", 2)]


def test_a_birth_that_is_not_understood_takes_the_place_of_the_earlier_one(read):
    rows, source = read(adt(pid(birth="1950"), stamp="20240301"), adt(pid(birth="19501399"), stamp="20240302"))
    assert [(row["time_us"] is None, row["status"]) for row in rows] == [(False, None), (True, "unknown")]
    assert source.report.noted == {"date of birth that is none": 1}


def test_facts_come_with_results_as_well(read):
    rows, _ = read(oru(pid(birth="1950"), OBR, OBX))
    assert [row["code"] for row in rows] == ["birth-date", "2951-2"]


def test_what_a_sender_takes_back_is_no_longer_so(read):
    rows, source = read(
        adt(pid(birth="1950", sex="F", death="20240101", flag="Y"), stamp="20240301"),
        adt(pid(birth='""', sex='""', death='""'), stamp="20240302"),
    )
    last = rows[-3:]
    assert [row["status"] for row in last] == ["entered-in-error"] * 3
    assert [row["order_key"] for row in last] == [row["order_key"] for row in rows[:3]]
    rows, source = read(adt(pid(death="20240101", flag="N")))
    assert [(row["code"], row["status"]) for row in rows] == [("death", "entered-in-error")]
    assert source.report.noted == {"time of death of a patient who is said to live": 1}


@pytest.mark.parametrize(("death", "flag"), [("", "Y"), ("soon", "Y"), ("soon", "")])
def test_a_death_without_a_time_is_counted(read, death, flag):
    rows, source = read(adt(pid(death=death, flag=flag)))
    assert [row["status"] for row in rows] == (["unknown"] if death else [])
    assert sum({**source.report.refused, **source.report.noted}.values()) == 1


@pytest.mark.parametrize("trigger", ["A18", "A34", "A36", "A40", "A47"])
def test_merges_link_the_former_to_the_present_identifier(read, trigger):
    _, source = read(
        adt(pid("1"), "MRG|2^^^HOSP^MR", "PV1|1", pid("3"), "MRG|4^^^HOSP^MR~9^^^SSA^SS", trigger=trigger),
        adt(pid("1"), "MRG|2^^^HOSP^MR", trigger=trigger),
        adt(pid("1"), "MRG|1^^^HOSP^MR", trigger=trigger),
    )
    assert list(source.links()) == [("2", "1"), ("4", "3")]
    assert source.report.noted == {"merge of a patient with itself": 1}


@pytest.mark.parametrize("trigger", ["A08", "A45", "A37", "A41"])
def test_no_other_event_merges(read, trigger):
    _, source = read(adt(pid("1"), "MRG|2^^^HOSP^MR", trigger=trigger))
    assert list(source.links()) == []


@pytest.mark.parametrize("line", ["MRG|^^^HOSP^MR", "MRG|2^^^HOSP^MR~3^^^OTHER^MR", "MRG|2^^^OTHER^MR"])
def test_a_merge_that_is_not_understood_is_counted(read, line):
    _, source = read(adt(pid("1"), line, trigger="A40"))
    assert list(source.links()) == []
    assert [reason.partition(":")[0] for reason in source.report.refused] == ["merge"]


def test_only_what_is_wanted_is_handed_over(read):
    message = oru(pid(sex="F"), OBR, obx(), obx(code="2823-3^K^LN^K^K^L"), obx(code="x^x^L", kind="ED"))
    rows, source = read(message, scope=Scope(codes={"loinc": frozenset({"2951-2"})}))
    assert [row["code"] for row in rows] == ["sex", "2951-2"]
    assert not source.report.refused
    rows, _ = read(message, scope=Scope(codes={"local:LAB": frozenset({"K*"})}))
    assert [row["code"] for row in rows] == ["sex", "K"]
    rows, _ = read(message, scope=Scope(since_us=us("2024-03-02T00:00+01:00")))
    assert [row["code"] for row in rows] == ["sex"]
    rows, source = read(message, scope=Scope(codes={"snomed": frozenset({"1"})}))
    assert len(rows) == source.report.events == 1


def test_other_delimiters_and_character_sets_give_the_same_events(read, tmp_path):
    message = oru(PID, OBR, obx(code="GLU^Glukose ü^L^1^x^LN", kind="CWE", value="NEG^ü^L"))
    expected, _ = read(message, charset_fallback="UNICODE UTF-8")
    foreign = "\r".join(message).translate(str.maketrans("|^~\\&", "!$%*@"))
    path = tmp_path / "foreign.hl7"
    for declared, codec in (("8859/1", "latin-1"), ("UNICODE UTF-8", "utf-8"), ("GB18030", "gb18030")):
        head, _, rest = foreign.partition("\r")
        path.write_bytes((head + "!" * 6 + declared + "\r" + rest).encode(codec))
        source = open_source(Hl7Settings(name="lab", path=path.name), Site(tmp_path, "Europe/Berlin"))
        assert [row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()] == expected


def test_rereading_gives_the_same_events_whatever_the_blocks(read, tmp_path, monkeypatch):
    drawn = random.Random(5)
    messages = [
        oru(
            pid(str(drawn.randrange(5)), birth=str(1950 + drawn.randrange(2))),
            OBR.replace("F1", f"F{drawn.randrange(9)}"),
            *(obx(value=str(drawn.randrange(9)), status=drawn.choice("FCDP")) for _ in range(drawn.randrange(4))),
            stamp=f"202403{drawn.randrange(1, 29):02d}",
            kind=drawn.choice(["ORU^R01", "ADT^A08"]),
        )
        for _ in range(60)
    ]
    expected, source = read(*messages)
    assert [row["row"] for row in expected] == sorted({row["row"] for row in expected})
    again = [row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()]
    assert again == expected
    for size in (1, 7):
        monkeypatch.setattr(hl7_source, "_BLOCK_MESSAGES", size)
        monkeypatch.setattr(hl7_source, "_BATCH_MOST", size)
        monkeypatch.setattr(hl7_source, "_BATCH_LEAST", size)
        rows, other = read(*messages)
        assert rows == expected
        assert other.report == source.report


known = st.sampled_from(["NM", "CE", "ED", "ST", "TS", "F", "C", "RE", "20240301", "5.2", '""'])
printable = st.one_of(known, st.text('qzxj0159^~\\& .<"', max_size=20))
names = st.sampled_from(["PID", "OBR", "ORC", "OBX", "MRG", "NTE", "MSH"])
segment = st.tuples(names, st.lists(printable, max_size=30))


@settings(max_examples=60)
@given(st.lists(st.lists(segment, max_size=6), max_size=5), st.sampled_from(["ORU^R01", "ADT^A40", "ORM^O01"]))
def test_whatever_the_fields_hold_no_reason_shows_it(tmp_path_factory, contents, kind):
    folder = tmp_path_factory.mktemp("hostile")
    messages = [
        "\r".join([msh(kind), *("|".join([name, *fields]) for name, fields in content)]) for content in contents
    ]
    (folder / "a.hl7").write_text("\r".join(messages), newline="")
    source = open_source(Hl7Settings(name="lab", path="a.hl7"), Site(folder, "UTC"))
    for batch in source.batches(EVERYTHING):
        batch.validate(full=True)
    told = {*source.report.refused, *source.report.noted}
    cells = {cell for content in contents for _, fields in content for cell in fields if len(cell) > 6}
    assert not [cell for cell in cells for reason in told if cell in reason]


def test_messages_of_an_intake_are_read_in_order_of_arrival(tmp_path):
    intake = Intake(tmp_path / "intake", KEY)
    for value in (1, 2, 3):
        intake.append("\r".join(oru(PID, OBR, obx(value=str(value)))).encode())
    site = Site(tmp_path, "UTC", {"INTAKE_KEY": KEY.hex()})
    source = open_source(Hl7Settings(name="lab", intake="intake", key="env:INTAKE_KEY"), site)
    rows = [row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()]
    assert [row["number"] for row in rows] == [1.0, 2.0, 3.0]
    assert source.report.snapshot == {"intake": "3 messages"}
    intake.close()
    path = next((tmp_path / "intake").glob("*.seg"))
    held = bytearray(path.read_bytes())
    held[80] ^= 1
    path.write_bytes(bytes(held))
    assert len([row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()]) == 2
    assert source.report.refused == {"damaged record of the intake": 1}
    other = open_source(
        Hl7Settings(name="lab", intake="intake", key="env:K"), Site(tmp_path, "UTC", {"K": bytes(32).hex()})
    )
    with pytest.raises(CryptoError):
        list(other.batches(EVERYTHING))


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"path": "a", "intake": "b", "key": "env:K"},
        {"intake": "b"},
        {"path": "a", "key": "env:K"},
        {"path": "a", "charset": "KLINGON"},
        {"path": "a", "charset_fallback": "KLINGON"},
        {"intake": "b", "key": "env:SHORT"},
        {"intake": "b", "key": "env:WORDS"},
        {"intake": "b", "key": "env:NOTHING"},
        {"intake": "b", "key": "0011"},
    ],
    ids=range(10),
)
def test_settings_that_contradict_themselves_are_refused_and_no_key_is_shown(tmp_path, stated):
    site = Site(tmp_path, "UTC", {"SHORT": "a1" * 8, "WORDS": "open sesame"})
    with pytest.raises(ConfigError) as caught:
        open_source(Hl7Settings(name="lab", **stated), site)
    assert not {"a1a1", "sesame", "0011"} & set(str(caught.value).split())


@needs_data
def test_the_real_messages_give_what_they_hold(tmp_path):
    settings_ = Hl7Settings(name="all", path=str(DATA), authority="*", processing=("P", "T"))
    source = open_source(settings_, Site(tmp_path, "Europe/London"))
    rows = [row for batch in source.batches(EVERYTHING) for row in batch.to_pylist()]
    assert source.report.read >= 125
    assert "message not read: SIU^S12" in source.report.noted
    units = {(row["code"], row["number"], row["unit"], row["status"]) for row in results(rows)}
    assert {("11273-0", 4.06, "tera.l-1", "preliminary"), ("11125-2", 221.0, "giga.l-1", "final")} <= units
    assert ("BCBS|56789", "BCBS|12345") in source.links()
    assert {row["value"] for row in rows if row["code"] == "sex"} == {"male", "female"}
