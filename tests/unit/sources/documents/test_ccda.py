"""C-CDA documents become events; what is no fact about the patient does not, and hostile XML is refused by name."""

import base64
import os
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.unit.sources.documents import make_pdf

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization.clinical_text import Rule
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import ccda, ccda_xml
from wardround.sources.ccda import CcdaSettings
from wardround.sources.ccda_values import Value, instant, value
from wardround.sources.site import Site

ROOT = Path(__file__).parents[4]
REAL = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "ccda"

T = "2.16.840.1.113883.10.20.22.4."
LOINC, SNOMED, ICD = "2.16.840.1.113883.6.1", "2.16.840.1.113883.6.96", "2.16.840.1.113883.6.90"
OURS = "1.2.3"
AUTHORITIES = (
    "2.16.840.1.113883.19.5.99999.2",
    "2.16.840.1.113883.4.1",
    "1.3.6.1.4.1.16517.1",
    "1.3.6.1.4.1.22812.3.99930.3",
    "2.16.840.1.113883.19.5",
    "2.16.840.1.113883.19",
    "2.16.840.1.113883.4.823.1",
    "River Valley Health Services local patient Medical Record Number",
)


def document(entries="", *, ids=f'<id root="{OURS}" extension="p1"/>', made="20200301120000+0000", extra="", body=None):
    structured = f"<structuredBody><component><section>{entries}</section></component></structuredBody>"
    return f"""<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc"
      xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><effectiveTime value="{made}"/>
      <recordTarget><patientRole>{ids}<patient><administrativeGenderCode code="F"/><birthTime value="19600507"/>
      {extra}</patient></patientRole></recordTarget><component>{body or structured}</component></ClinicalDocument>"""


def problem(code="38341003", *, around="", attributes="", status="completed", identity="", time="", inner=""):
    return f"""<entry><act moodCode="EVN" {around}><templateId root="{T}3"/><entryRelationship>
      <observation moodCode="EVN" {attributes}><templateId root="{T}4" extension="2015-08-01"/>{identity}
      <code code="64572001" codeSystem="{SNOMED}"/><statusCode code="{status}"/>{time}{inner}
      <value xsi:type="CD" code="{code}" codeSystem="{SNOMED}"><translation code="I10" codeSystem="{ICD}"/></value>
      </observation></entryRelationship></act></entry>"""


def result(said, *, time='<effectiveTime value="20200102"/>', code="718-7", attributes="", identity=""):
    return f"""<entry><organizer moodCode="EVN"><templateId root="{T}1"/><statusCode code="completed"/>
      <component><observation moodCode="EVN" {attributes}><templateId root="{T}2"/>{identity}
      <code code="{code}" codeSystem="{LOINC}"/><statusCode code="completed"/>{time}{said}</observation></component>
      </organizer></entry>"""


def read(tmp_path, *documents, scope=None, zone="UTC", **settings):
    for number, one in enumerate(documents):
        content = one if isinstance(one, bytes) else one.encode()
        (tmp_path / f"{number}.xml").write_bytes(content)
    settings = {"patient_authorities": (OURS,), **settings}
    source = ccda.open_source(CcdaSettings(name="docs", folder=".", **settings), Site(tmp_path, zone))
    batches = list(source.batches(scope or Scope()))
    assert all(batch.schema == EVENT for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert source.report.events == len(rows)
    return rows, source.report


def facts(rows):
    return [row for row in rows if row["system"] != "patient"]


def only(rows):
    (row,) = facts(rows)
    return row


def test_the_header_says_who_was_born_when_of_which_sex_and_died_when(tmp_path):
    rows, _ = read(tmp_path, document(extra='<sdtc:deceasedTime value="20200214"/>'), zone="America/New_York")
    told = {row["code"]: row for row in rows}
    assert told["birth-date"]["time_us"] == -304646400000000  # 1960-05-07 00:00 UTC, whatever the zone
    assert told["birth-date"]["precision"] == 3
    assert told["sex"]["value"] == "female"
    assert told["death"]["time_us"] == 1581656400000000  # midnight in New York
    assert {row["patient"] for row in rows} == {"p1"}


def test_a_problem_is_two_codings_of_one_fact_known_when_the_document_was_made(tmp_path):
    time = '<effectiveTime><low value="20190304"/></effectiveTime>'
    rows, _ = read(tmp_path, document(problem(time=time, identity='<id root="9.9" extension="7"/>')))
    first, second = facts(rows)
    assert (first["system"], first["code"]) == ("snomed", "38341003")
    assert (second["system"], second["code"]) == ("icd10cm", "I10")
    assert first["order_key"] == second["order_key"] == "9.9|7|p1"
    assert first["row"] == second["row"]
    assert (first["time_us"], first["precision"]) == (1551657600000000, 3)
    assert first["known_us"] == 1583064000000000
    assert first["status"] == "final"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (problem(attributes='negationInd="true"'), "problem: negated"),
        (problem(around='negationInd="true"'), "problem: negated"),
        (problem(inner="<subject/>"), "problem: about another person or a risk"),
        (problem().replace(f'root="{T}3"', f'root="{T}45"'), "about another person or a risk"),
        (problem().replace(f'root="{T}3"', f'root="{T}136"'), "about another person or a risk"),
        (problem().replace("EVN", "INT"), "planned, not done"),
        (problem(attributes="GOAL").replace('moodCode="EVN" GOAL', 'moodCode="GOL"'), "problem: planned, not done"),
        (problem(code="").replace("I10", ""), "problem: without a code"),
        (result('<value xsi:type="PQ" nullFlavor="UNK"/>'), "result: value is null"),
        (result('<value xsi:type="PQ" value="NaN" unit="g/dL"/>'), "result: value unparseable"),
        (result('<value xsi:type="PQ" value="1e999" unit="g/dL"/>'), "result: value unparseable"),
        (result('<value xsi:type="PQ" value="1,5" unit="g/dL"/>'), "result: value unparseable"),
        (result('<value xsi:type="RTO"/>'), "result: value of another kind"),
        (result('<value xsi:type="ST"/>'), "result: value is no short text"),
        (result('<value xsi:type="ST">' + "x" * 300 + "</value>"), "result: value is no short text"),
        (result(""), "result: without a single value"),
        (result('<value xsi:type="INT" value="1"/>' * 2), "result: without a single value"),
        (result('<value xsi:type="IVL_PQ"><low value="1"/><high value="2"/></value>'), "result: value is a range"),
        (result('<value xsi:type="INT" value="1"/>', time='<effectiveTime value="200130212"/>'),
         "result: unparseable time"),
    ],
)  # fmt: skip
def test_what_is_no_fact_about_the_patient_is_refused_by_name(tmp_path, entry, reason):
    rows, report = read(tmp_path, document(entry))
    assert facts(rows) == []
    assert report.refused == {reason: 1}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('<value xsi:type="PQ" value="13.2" unit="g/dL"/>', (13.2, None, None, "g/dL")),
        ('<value xsi:type="PQ" value="13.2"/>', (13.2, None, None, None)),
        ('<value xsi:type="IVL_PQ"><high value="5" unit="mg/L" inclusive="false"/></value>', (5.0, "<", None, "mg/L")),
        ('<value xsi:type="IVL_PQ"><high value="5" unit="mg/L"/></value>', (5.0, "<=", None, "mg/L")),
        ('<value xsi:type="IVL_PQ"><low value="5" unit="mg/L" inclusive="false"/></value>', (5.0, ">", None, "mg/L")),
        ('<value xsi:type="IVL_PQ"><low value="5"/></value>', (5.0, ">=", None, None)),
        ('<value xsi:type="INT" value="-3"/>', (-3.0, None, None, None)),
        ('<value xsi:type="REAL" value="2.5e-1"/>', (0.25, None, None, None)),
        ('<value xsi:type="ST"> positive </value>', (None, None, "positive", None)),
        ('<value xsi:type="BL" value="true"/>', (None, None, "true", None)),
        (f'<value xsi:type="CD" code="10828004" codeSystem="{SNOMED}"/>', (None, None, "snomed|10828004", None)),
        (
            f'<value xsi:type="CD" nullFlavor="OTH"><translation code="A" codeSystem="{ICD}"/></value>',
            (None, None, "icd10cm|A", None),
        ),
        ('<value xsi:type="CE" code="x" codeSystem="1.9"/>', (None, None, "urn:oid:1.9|x", None)),
    ],
)
def test_a_value_is_read_by_its_type(tmp_path, said, expected):
    row = only(read(tmp_path, document(result(said)))[0])
    assert (row["number"], row["comparator"], row["value"], row["unit"]) == expected
    assert (row["system"], row["code"]) == ("loinc", "718-7")


def test_a_withdrawn_result_stays_withdrawn_and_an_active_one_is_preliminary(tmp_path):
    said = '<value xsi:type="INT" value="1"/>'
    outer = result(said).replace('<statusCode code="completed"/>', '<statusCode code="nullified"/>', 1)
    inner = result(said, code="2").replace('"completed"/><effective', '"active"/><effective')
    unknown = result(said, code="3").replace('"completed"/><effective', '"strange"/><effective')
    rows, _ = read(tmp_path, document(outer + inner + unknown))
    assert [row["status"] for row in facts(rows)] == ["entered-in-error", "preliminary", "unknown"]


def test_the_time_of_an_organizer_is_that_of_its_results_but_a_concerns_is_not_the_problems(tmp_path):
    outer = result('<value xsi:type="INT" value="1"/>', time="")
    outer = outer.replace("<component><obs", '<effectiveTime value="20200105"/><component><obs')
    concern = problem().replace("<entryRelationship>", '<effectiveTime value="20200105"/><entryRelationship>')
    rows, report = read(tmp_path, document(outer + concern))
    assert facts(rows)[0]["time_us"] == 1578182400000000
    assert facts(rows)[1]["time_us"] is None
    assert report.noted == {"problem: without a time": 1}


def test_medications_immunizations_procedures_and_encounters(tmp_path):
    drug = (
        '<consumable><manufacturedProduct><manufacturedMaterial><code code="{}" codeSystem="{}"/>'
        "</manufacturedMaterial></manufacturedProduct></consumable>"
    )
    taken = drug.format("573621", "2.16.840.1.113883.6.88")
    shot = drug.format("88", "2.16.840.1.113883.12.292")
    times = '<effectiveTime xsi:type="PIVL_TS"><period value="6"/></effectiveTime>'
    times += '<effectiveTime xsi:type="IVL_TS"><low value="20190101"/></effectiveTime>'
    entries = f"""
      <entry><substanceAdministration moodCode="INT"><templateId root="{T}16"/><statusCode code="active"/>{times}{taken}
      </substanceAdministration></entry>
      <entry><substanceAdministration moodCode="EVN" negationInd="false"><templateId root="{T}52"/>
      <effectiveTime value="20190102"/>{shot}</substanceAdministration></entry>
      <entry><procedure moodCode="EVN"><templateId root="{T}14"/><code code="80146002" codeSystem="{SNOMED}"/>
      <statusCode code="aborted"/><effectiveTime value="20190103"/></procedure></entry>
      <entry><encounter moodCode="EVN"><templateId root="{T}49"/>
      <code code="99213" codeSystem="2.16.840.1.113883.6.12"/>
      <effectiveTime><low value="2019010410-0500"/></effectiveTime></encounter></entry>
      <entry><encounter moodCode="EVN"><templateId root="{T}49"/><code nullFlavor="UNK"/>
      <effectiveTime><low value="20190105"/></effectiveTime></encounter></entry>"""
    rows, report = read(tmp_path, document(entries))
    day = 86_400_000_000
    first = 1546300800000000
    assert [(row["system"], row["code"], row["time_us"], row["status"]) for row in rows[2:]] == [
        ("rxnorm", "573621", first, "final"),
        ("cvx", "88", first + day, "final"),
        ("snomed", "80146002", first + 2 * day, "cancelled"),
        ("cpt", "99213", first + 3 * day + 15 * day // 24, "final"),
        ("patient", "seen", first + 3 * day + 15 * day // 24, None),
        ("patient", "seen", first + 4 * day, None),
    ]
    assert report.refused == {}


def test_an_asserted_finding_is_its_value(tmp_path):
    asserted = result(f'<value xsi:type="CD" code="266919005" codeSystem="{SNOMED}"/>', code="ASSERTION")
    row = only(read(tmp_path, document(asserted.replace(f"{T}2", f"{T}78")))[0])
    assert (row["system"], row["code"], row["value"]) == ("snomed", "266919005", None)


def test_an_identifier_that_two_entries_bear_is_no_key(tmp_path):
    said, identity = '<value xsi:type="INT" value="1"/>', '<id root="9"/>'
    entries = result(said, identity=identity) + result(said, identity=identity, code="2")
    rows, report = read(tmp_path, document(entries))
    assert [row["order_key"] for row in facts(rows)] == [None, None]
    assert report.noted == {"identifier shared by entries of a document": 1}


def test_an_authors_time_counts_only_where_the_mapping_says_so(tmp_path):
    author = '<author><time value="20190501"/></author>'
    entry = result('<value xsi:type="INT" value="1"/>' + author)
    assert only(read(tmp_path, document(entry))[0])["known_us"] == 1583064000000000
    assert only(read(tmp_path, document(entry), known="entry")[0])["known_us"] == 1556668800000000


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (document(ids='<id root="1.2.4" extension="p1"/>'), "document without the identifier of one patient"),
        (document(ids=f'<id root="{OURS}" nullFlavor="UNK"/>'), "document without the identifier of one patient"),
        (
            document(ids=f'<id root="{OURS}" extension="a"/><id root="{OURS}" extension="b"/>'),
            "document without the identifier of one patient",
        ),
        (document(made=""), "document: unparseable time"),
        ("<html/>", "XML that is no clinical document"),
        ("<ClinicalDocument", "malformed XML"),
        (b'<?xml version="1.0" encoding="no-such-code"?><a/>', "malformed XML"),
        (b"\xff\xfe\x00", "malformed XML"),
        (
            '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><ClinicalDocument>&c;</ClinicalDocument>',
            "XML with a document type declaration",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><ClinicalDocument>&b;</ClinicalDocument>',
            "XML with a document type declaration",
        ),
        ('<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><a/>', "XML with a document type declaration"),
        ("<a>" * 200_000, "XML too deep or too large"),
        ("<a>" + "<b/>" * 500_001 + "</a>", "XML too deep or too large"),
        ("<a " + " ".join(f'x{n}=""' for n in range(100)) + "/>", "XML too deep or too large"),
    ],
)
def test_a_document_that_cannot_be_trusted_is_refused_and_the_next_is_read(tmp_path, made, reason):
    rows, report = read(tmp_path, made, document(problem()))
    assert report.refused == {reason: 1}
    assert report.read == 2
    assert len(facts(rows)) == 2


def test_two_patients_in_one_document_are_nobodys(tmp_path):
    twice = re.sub(r"(<recordTarget>.*</recordTarget>)", r"\1\1", document(problem()), flags=re.DOTALL)
    rows, report = read(tmp_path, twice)
    assert rows == []
    assert report.refused == {"document without the identifier of one patient": 1}


def test_too_large_a_document_is_refused_unread(tmp_path):
    _, report = read(tmp_path, document(problem()), max_bytes=100)
    assert report.refused == {"too large": 1}


def test_an_authority_may_be_named_and_the_first_that_has_one_counts(tmp_path):
    ids = '<id root="4" extension="other"/><id root="5" assigningAuthorityName="Our MRN" extension="mine"/>'
    rows, _ = read(tmp_path, document(problem(), ids=ids), patient_authorities=("7", "Our MRN", "4"))
    assert {row["patient"] for row in rows} == {"mine"}


def test_nothing_is_opened_without_an_authority(tmp_path):
    for wrong in ((), ("",)):
        with pytest.raises(ConfigError, match="patient_authorities"):
            ccda.open_source(CcdaSettings(name="d", folder=".", patient_authorities=wrong), Site(tmp_path))


def test_an_empty_folder_is_an_error_and_a_missing_one_may_come_back(tmp_path):
    with pytest.raises(ClinicalError, match="no file in its folder matches"):
        read(tmp_path)
    with pytest.raises(UnavailableError, match="not there"):
        read(tmp_path / "gone")


def test_a_naive_time_without_a_zone_is_refused_and_a_document_with_an_offset_is_not(tmp_path):
    rows, report = read(tmp_path, document(result('<value xsi:type="INT" value="1"/>')), zone=None)
    assert facts(rows) == []
    assert report.refused == {"result: naive time without a declared zone": 1}


def test_scope_leaves_out_and_rows_keep_their_numbers(tmp_path):
    entries = result('<value xsi:type="INT" value="1"/>') + problem()
    everything, _ = read(tmp_path, document(entries))
    some, _ = read(tmp_path, document(entries), scope=Scope(codes={"icd10cm": frozenset({"I1*"})}))
    assert facts(some) == [row for row in everything if row["code"] == "I10"]
    late, _ = read(tmp_path, document(entries), scope=Scope(since_us=2_000_000_000_000_000))
    assert {row["system"] for row in late} == {"patient"}


def test_an_embedded_document_is_searched_by_the_rules(tmp_path):
    rules = (Rule(code="loinc|10230-1", phrases=("LVEF",), kind="number", unit="%"),)
    pdf = base64.b64encode(make_pdf.pdf("Echo", "LVEF: 45 %")).decode()

    def body(kind, text, how='representation="B64"'):
        return document(body=f'<nonXMLBody><text mediaType="{kind}" {how}>{text}</text></nonXMLBody>')

    row = only(read(tmp_path, body("application/pdf", pdf), rules=rules)[0])
    assert (row["number"], row["unit"], row["known_us"]) == (45.0, "%", 1583064000000000)
    assert only(read(tmp_path, body("text/plain", "LVEF 30 %", ""), rules=rules)[0])["number"] == 30.0
    for made, reason in [
        (body("application/pdf", "!!!"), "broken embedded document"),
        (body("application/pdf", "QUFB"), "broken PDF"),
        (body("image/png", "QUFB"), "embedded document of another kind"),
        (document(body="<nonXMLBody><text><reference/></text></nonXMLBody>"), "document that lies elsewhere"),
    ]:
        assert read(tmp_path, made, rules=rules)[1].refused == {reason: 1}
    _, report = read(tmp_path, body("application/pdf", pdf))
    assert report.refused == {"embedded document, and no rules for it": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020", (1577836800000000, 1)),
        ("202003", (1583020800000000, 2)),
        ("20200301", (1583020800000000, 3)),
        ("2020030107+0200", (1583038800000000, 4)),
        ("202003010700-0500", (1583064000000000, 4)),
        ("20200301070059.25Z", (1583046059250000, 6)),
        ("20200301070059", (1583046059000000, 5)),
    ],
)
def test_an_instant_has_the_precision_it_is_written_in(text, expected):
    moment = instant(text, "UTC")
    assert (moment.time_us, int(moment.precision)) == expected


@pytest.mark.parametrize(
    "text", ["20201301", "2020030", "00000000", "x", "2020030125", "20200301120061", "20200301+9900"]
)
def test_what_is_no_instant_is_refused(text):
    assert instant(text, "UTC") == "unparseable time"


def test_a_value_of_an_unknown_type_is_no_value():
    node = ccda_xml.parse(b'<value xmlns="urn:hl7-org:v3"/>')
    assert value(node) == "value of another kind"
    assert Value() == Value(None, None, None, None)


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip("the C-CDA documents are not at WARDROUND_DATA")
    settings = CcdaSettings(name="docs", folder=str(REAL), pattern="*.ccda", patient_authorities=AUTHORITIES)
    source = ccda.open_source(settings, Site(ROOT, "America/New_York"))
    return [row for batch in source.batches(Scope()) for row in batch.to_pylist()], source


def test_real_documents_give_what_a_reader_of_their_xml_counts(real):
    rows, source = real
    space = "{urn:hl7-org:v3}"
    expected = Counter()
    for path in sorted(REAL.rglob("*.ccda")):
        for one in ET.parse(path).getroot().iter(f"{space}observation"):
            roots = {node.get("root") for node in one.findall(f"{space}templateId")}
            said = one.findall(f"{space}value")
            if roots & {T + "2", T + "27"} and one.get("moodCode") == "EVN" and said and said[0].get("value"):
                code = one.find(f"{space}code")
                expected[code.get("code"), float(said[0].get("value")), said[0].get("unit")] += 1
    found = Counter((row["code"], row["number"], row["unit"]) for row in rows if row["number"] is not None)
    # A translated code is one more event of the same number.
    assert expected - found == Counter()
    assert sum(expected.values()) > 100
    assert source.report.read == 22
    assert sum(row["code"] == "birth-date" for row in rows) == 22


def test_real_documents_read_again_are_the_same_to_the_row(real):
    rows, source = real
    before = dict(source.report.snapshot)
    assert [row for batch in source.batches(Scope()) for row in batch.to_pylist()] == rows
    assert source.report.snapshot == before


def test_negated_problems_and_vaccinations_of_real_documents_are_no_events(real):
    _, source = real
    refused = source.report.refused
    assert refused["immunization: negated"] == 8
    assert refused["problem: negated"] == 1
    assert refused["medication: negated"] == 4
