"""What a Consent permits, and that it denies whatever it cannot be read as permitting."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.sources import fhir_consent
from wardround.sources.fhir_consent import consent_offence, consent_rows

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[4] / ".." / "shared" / "data"))
EXAMPLES = DATA / "fhir_consent_examples"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ACTION = "http://terminology.hl7.org/CodeSystem/consentaction"


def purpose(code="HRESCH", system=REASON):
    return {"system": system, "code": code}


def concept(code, system="urn:x"):
    return {"coding": [{"system": system, "code": code}]}


def rule(kind=None, *nested, purposes=("HRESCH",), **more):
    made = {"type": kind, "purpose": [purpose(code) for code in purposes], "provision": list(nested)} | more
    return {name: value for name, value in made.items() if value not in (None, [])}


PERMIT = rule("permit")


def consent(provision=PERMIT, **changed):
    made = {
        "resourceType": "Consent",
        "id": "c1",
        "status": "active",
        "scope": concept("research", "http://terminology.hl7.org/CodeSystem/consentscope"),
        "category": [concept("59284-0", "http://loinc.org")],
        "patient": {"reference": "Patient/p1"},
        "dateTime": "2020-05-11",
        "provision": provision,
    } | changed
    return {name: value for name, value in made.items() if value is not None}


def told(resource, code="HRESCH", **more):
    """Each value with its day."""
    found = consent_rows(resource, **({"zone": "Etc/UTC", "purposes": (code,)} | more))
    assert all(row.code == f"consent:{code}" for row in found)
    return [(row.value, f"{datetime.fromtimestamp(row.time_us / 1e6, UTC):%Y-%m-%d}") for row in found]


DENIED = [("deny", "2020-05-11")]
PERMITTED = [("permit", "2020-05-11")]


def test_a_permission_holds_from_when_it_was_given():
    (row,) = consent_rows(consent(), zone="Europe/Berlin", purposes=("HRESCH",))
    assert (row.patient, row.code, row.value) == ("p1", "consent:HRESCH", "permit")
    assert row.time_us == 1_589_148_000_000_000  # 2020-05-11, 00:00 in Berlin
    assert consent_offence(consent()) == ""


@pytest.mark.parametrize(
    ("provision", "expected"),
    [
        (rule("permit"), PERMITTED),
        (rule("deny"), DENIED),
        (rule("deny", purposes=()), DENIED),
        (rule("permit", purposes=()), []),
        (rule("permit", purposes=("TREAT",)), []),
        (rule("deny", purposes=("TREAT",)), []),
        (rule("deny", rule("permit"), purposes=()), PERMITTED),
        (rule("deny", rule("permit", purposes=("TREAT",)), purposes=()), DENIED),
        (rule("permit", rule("deny")), DENIED),
        (rule("permit", rule("deny", purposes=())), DENIED),
        (rule("permit", rule("deny", purposes=("TREAT",))), PERMITTED),
        (rule("deny", rule("permit", rule("deny")), purposes=()), DENIED),
        (rule("deny", rule("permit"), rule("deny"), purposes=()), DENIED),
        (
            rule("deny", rule("permit", rule("deny", rule("permit")), purposes=("PurposeOfUse",)), purposes=()),
            PERMITTED,
        ),
        (rule("permit", rule("permit", purposes=("TREAT",))), PERMITTED),
        (rule("permit", rule("permit"), purposes=()), PERMITTED),
        (rule("permit", rule("permit"), purposes=("TREAT",)), []),
        (rule(None, rule("permit"), purposes=()), PERMITTED),
        (rule(None, rule("deny"), purposes=()), DENIED),
    ],
)
def test_rules_are_exceptions_to_one_another(provision, expected):
    assert told(consent(provision)) == expected


@pytest.mark.parametrize(
    ("permitted", "asked", "expected"),
    [
        ("HRESCH", "CLINTRCH", PERMITTED),
        ("HRESCH", "PRECLINTRCH", PERMITTED),
        ("PurposeOfUse", "HRESCH", PERMITTED),
        ("CLINTRCH", "HRESCH", []),
        ("PUBHLTH", "HRESCH", []),
        ("HRESCH", "ETREAT", []),
        ("TREAT", "ERTREAT", PERMITTED),
    ],
)
def test_a_permission_takes_in_narrower_purposes_only(permitted, asked, expected):
    assert told(consent(rule("permit", purposes=(permitted,))), asked) == expected


@pytest.mark.parametrize(
    ("denied", "asked", "expected"),
    [
        ("HRESCH", "CLINTRCH", DENIED),
        ("CLINTRCH", "HRESCH", DENIED),
        ("PUBHLTH", "HRESCH", []),
        ("X", "HRESCH", DENIED),
    ],
)
def test_a_denial_takes_in_narrower_and_wider_purposes_and_any_that_is_not_known(denied, asked, expected):
    assert told(consent(rule("deny", purposes=(denied,))), asked) == expected


def test_a_purpose_of_another_system_permits_nothing_and_denies_all():
    assert told(consent(rule("permit", purpose=[purpose(system="urn:x")]))) == []
    assert told(consent(rule("deny", purpose=[purpose(system="urn:x", code="TREAT")]))) == DENIED


@pytest.mark.parametrize(
    "restriction",
    [
        {"actor": [{"role": concept("IRCP"), "reference": {"reference": "Organization/o"}}]},
        {"class": [{"code": "Observation"}]},
        {"securityLabel": [{"code": "HIV"}]},
        {"code": [concept("718-7", "http://loinc.org")]},
        {"dataPeriod": {"start": "2010-01-01"}},
        {"data": [{"meaning": "instance", "reference": {"reference": "Observation/1"}}]},
        {"action": [concept("collect", ACTION)]},
        {"action": [concept("access", ACTION)]},
        {"expression": {"language": "text/fhirpath"}},
        {"modifierExtension": [{"url": "urn:x"}]},
    ],
    ids=lambda restriction: next(iter(restriction)),
)
def test_a_condition_that_no_study_can_keep_makes_a_permission_a_denial(restriction):
    restricted = rule("permit", **restriction)
    assert told(consent(restricted)) == DENIED
    assert told(consent(rule("deny", restricted, purposes=()))) == DENIED
    assert told(consent(rule("permit", restricted, purposes=()))) == DENIED
    assert told(consent(rule("permit", rule("deny", **restriction)))) == DENIED


def test_actions_that_a_study_needs_permit():
    both = [concept("access", ACTION), concept("use", ACTION)]
    assert told(consent(rule("permit", action=both))) == PERMITTED


def test_a_restricted_permission_does_not_take_a_wider_one_back():
    narrow = rule("permit", **{"class": [{"code": "Observation"}]})
    assert told(consent(rule("deny", narrow, rule("permit"), purposes=()))) == PERMITTED


@pytest.mark.parametrize(
    ("changed", "expected", "offence"),
    [
        ({"status": "inactive"}, DENIED, ""),
        ({"status": "rejected"}, DENIED, ""),
        ({"status": "draft"}, [], ""),
        ({"status": "proposed"}, [], ""),
        ({"status": "entered-in-error"}, [], ""),
        ({"status": "unknown"}, DENIED, "consent of an unknown status"),
        ({"status": ["active"]}, DENIED, "consent of an unknown status"),
        ({"status": None}, DENIED, "consent of an unknown status"),
        ({"scope": concept("treatment")}, [], ""),
        ({"scope": concept("adr")}, [], ""),
        ({"scope": concept("patient-privacy")}, PERMITTED, ""),
        ({"scope": concept("other")}, DENIED, "consent of an unknown scope"),
        ({"scope": None}, DENIED, "consent of an unknown scope"),
        ({"verification": [{"verified": True}]}, PERMITTED, ""),
        ({"verification": [{"verified": True}, {"verified": False}]}, DENIED, ""),
        ({"verification": [{}]}, DENIED, ""),
        ({"implicitRules": "urn:x"}, DENIED, "consent with a modifier that is not known"),
        ({"modifierExtension": []}, DENIED, "consent with a modifier that is not known"),
        ({"provision": None}, DENIED, "consent without a rule that can be computed"),
        ({"provision": rule(None)}, DENIED, "consent without a rule that can be computed"),
        ({"provision": None, "policyRule": concept("OPTOUT")}, DENIED, ""),
        ({"provision": None, "policyRule": concept("OPTIN")}, [], ""),
        ({"provision": rule(None), "policyRule": concept("OPTIN")}, PERMITTED, ""),
        ({"provision": rule(None), "policyRule": concept("OPTOUT")}, DENIED, ""),
        ({"provision": rule("maybe")}, DENIED, "consent with a rule that is not understood"),
        ({"provision": rule("permit", rule(None))}, DENIED, "consent with a rule that is not understood"),
        ({"provision": rule("permit", period={"start": "soon"})}, DENIED, "consent with a rule that is not understood"),
        ({"provision": rule("permit", purpose="HRESCH")}, DENIED, "consent with a rule that is not understood"),
        ({"decision": "permit"}, DENIED, "consent in R5's form"),
        ({"provision": [rule("permit")]}, DENIED, "consent in R5's form"),
        ({"patient": None, "subject": {"reference": "Patient/p1"}}, DENIED, "consent in R5's form"),
        ({"patient": None}, [], "consent of no known patient"),
        ({"patient": {"reference": "Group/g"}}, [], "consent of no known patient"),
        ({"patient": {"identifier": {"value": "1"}}}, [], "consent of no known patient"),
    ],
)
def test_what_is_not_understood_denies_and_is_named(changed, expected, offence):
    assert told(consent(**changed)) == expected
    assert consent_offence(consent(**changed)) == offence


@pytest.mark.parametrize(
    ("period", "given", "expected"),
    [
        ({"start": "2021-01-01"}, "2020-05-11", [("permit", "2021-01-01")]),
        ({"start": "2019-01-01"}, "2020-05-11", PERMITTED),
        ({"end": "2025-01-31"}, "2020-05-11", [*PERMITTED, ("deny", "2025-01-31")]),
        ({"end": "2025-01"}, "2020-05-11", [*PERMITTED, ("deny", "2025-01-31")]),
        ({"end": "2024"}, "2020-05-11", [*PERMITTED, ("deny", "2024-12-31")]),
        ({"end": "9999-12-31"}, "2020-05-11", PERMITTED),
        ({"end": "2025-01-31T12:00:00Z"}, "2020-05-11", [*PERMITTED, ("deny", "2025-01-31")]),
        ({"start": "1964-01-01", "end": "2016-01-01"}, "2020-05-11", DENIED),
        ({"start": "2025-01-01", "end": "2024-01-01"}, "2020-05-11", DENIED),
        ({}, "2020-05", [("permit", "2020-06-01")]),
        ({}, "2020", [("permit", "2021-01-01")]),
        ({"start": "2021"}, "2020-05-11", [("permit", "2022-01-01")]),
        ({"start": "2021-03-04"}, None, [("permit", "2021-03-04")]),
        ({}, None, [("deny", "1900-01-01")]),
        ({}, "soon", [("deny", "1900-01-01")]),
    ],
)
def test_periods_and_dates_bound_a_permission(period, given, expected):
    assert told(consent(rule("permit", period=period) if period else PERMIT, dateTime=given)) == expected


def test_a_permission_ends_with_the_last_moment_of_its_last_day():
    found = consent_rows(consent(rule("permit", period={"end": "2025-01-31"})), zone="Etc/UTC", purposes=("HRESCH",))
    midnight = 1_738_368_000_000_000  # 2025-02-01
    assert found[1].value == "deny"
    assert found[1].time_us == midnight - 1


def test_the_period_around_a_rule_bounds_it_and_periods_that_touch_are_one():
    inner = [
        rule("permit", period={"start": start, "end": end}) for start, end in (("2021", "2021"), ("2022-01-01", "2030"))
    ]
    provision = rule("deny", *inner, purposes=(), period={"end": "2024-06-30"})
    assert told(consent(provision)) == [("permit", "2022-01-01"), ("deny", "2024-06-30")]
    provision = rule(
        "deny", *[rule("permit", period=p) for p in ({"end": "2021"}, {"start": "2023-01-01"})], purposes=()
    )
    assert told(consent(provision)) == [*PERMITTED, ("deny", "2021-12-31"), ("permit", "2023-01-01")]


def test_a_denial_is_not_bounded_by_a_period():
    for period in ({"start": "2030-01-01"}, {"end": "2021-01-01"}):
        assert told(consent(rule("deny", period=period))) == DENIED
        assert told(consent(rule("permit", rule("deny", period=period)))) == DENIED


def test_a_denial_of_unknown_time_holds_always_and_stands_over_what_came_before_it_was_stored():
    found = told(consent(rule("deny"), dateTime=None, meta={"lastUpdated": "2022-02-02T00:00:00Z"}))
    assert found == [("deny", "1900-01-01"), ("deny", "2022-02-02")]
    assert told(consent(dateTime=None, meta={"lastUpdated": "2022-02-02T00:00:00Z"})) == [("permit", "2022-02-02")]


def test_without_a_zone_a_permission_begins_late_and_ends_early_and_a_denial_begins_early():
    hour = 3_600_000_000
    bounded = consent(rule("permit", period={"end": "2025-01-31"}))
    (begins, ends), (utc_begins, utc_ends) = (
        consent_rows(bounded, zone=zone, purposes=("HRESCH",)) for zone in (None, "Etc/UTC")
    )
    assert begins.time_us - utc_begins.time_us == 12 * hour
    assert ends.time_us - utc_ends.time_us == -14 * hour
    denial, utc_denial = (
        consent_rows(consent(rule("deny")), zone=zone, purposes=("HRESCH",)) for zone in (None, "Etc/UTC")
    )
    assert denial[0].time_us - utc_denial[0].time_us == -14 * hour


def test_of_a_permission_and_a_denial_of_one_instant_the_denial_stands():
    (permit,) = consent_rows(consent(), zone="Etc/UTC", purposes=("HRESCH",))
    (deny,) = consent_rows(consent(rule("deny")), zone="Etc/UTC", purposes=("HRESCH",))
    assert deny.time_us > permit.time_us


def test_modules_of_a_form_mean_what_the_site_says_they_mean():
    use, other = concept("use", "urn:form"), concept("contact", "urn:form")
    form = rule("deny", rule("permit", purposes=(), code=[use]), rule("deny", purposes=(), code=[other]), purposes=())
    policies = {"urn:form|use": "HRESCH", "urn:form|contact": "PATRQT"}
    assert told(consent(form), policies=policies) == PERMITTED
    assert told(consent(form)) == DENIED
    assert told(consent(form), policies={"urn:form|use": "HRESCH"}) == DENIED
    assert told(consent(rule("permit", code=[use])), policies=policies) == DENIED
    assert told(consent(rule("permit", purposes=(), code=[{"text": "use"}])), policies=policies) == []


def test_a_general_denial_is_told_of_every_purpose():
    found = consent_rows(consent(rule("deny", purposes=())), zone="Etc/UTC")
    assert {row.code for row in found} == {f"consent:{code}" for code in fhir_consent.PURPOSES}
    assert {row.value for row in found} == {"deny"}


def test_rules_nested_without_end_deny():
    nested = rule("permit")
    for _ in range(5000):
        nested = {"type": "permit", "provision": [nested]}
    assert told(consent(nested)) == DENIED


def of_xml(path):
    """FHIR's XML as JSON, as far as the examples need it: lists stay single where R5 and R4 differ anyway."""
    lists = {"category", "coding", "provision", "action", "securityLabel", "controller", "manager"}

    def converted(node):
        made = {} if node.get("value") is None else {"": node.get("value")}
        for child in node:
            name = child.tag.partition("}")[2]
            value = converted(child)
            value = value.get("", value) if set(value) == {""} else value
            if name in lists and not (name == "provision" and node.tag.endswith("Consent")):
                made.setdefault(name, []).append(value)
            else:
                made[name] = value
        return made

    root = ET.parse(path).getroot()
    for text in root.findall("{http://hl7.org/fhir}text"):
        root.remove(text)
    return converted(root) | {"resourceType": "Consent"}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples of consents are not here (WARDROUND_DATA)")
def test_hl7s_examples_deny_research_and_two_are_named_r5():
    basic = json.loads((EXAMPLES / "r4_consent-example.json").read_text())
    assert consent_offence(basic) == ""
    assert told(basic) == []  # It opts in to treatment, and names no purpose; its period is over besides.
    for name in ("notSecLabel", "notTime"):
        newer = of_xml(EXAMPLES / f"hl7_consent-example-{name}.xml")
        assert consent_offence(newer) == "consent in R5's form"
        assert {value for value, _ in told(newer)} == {"deny"}
    # The same rule in R4's form: all is permitted but what is labelled HIV. A study cannot keep that.
    labelled = of_xml(EXAMPLES / "hl7_consent-example-notSecLabel.xml")["provision"]
    assert told(consent(labelled | {"purpose": [purpose()]})) == DENIED


codes = st.sampled_from(["HRESCH", "CLINTRCH", "TREAT", "PUBHLTH", "PurposeOfUse", "?"])
conditions = st.sampled_from([{}, {}, {}, {"actor": [{}]}, {"dataPeriod": {}}, {"period": {"end": "2030-01-01"}}])


def rules(kinds):
    leaf = st.builds(
        lambda kind, named, more: rule(kind, purposes=named, **more), kinds, st.lists(codes, max_size=2), conditions
    )
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda kind, named, more, nested: rule(kind, *nested, purposes=named, **more),
            kinds,
            st.lists(codes, max_size=2),
            conditions,
            st.lists(inner, max_size=3),
        ),
        max_leaves=8,
    )


trees = rules(st.sampled_from(["permit", "deny"]))


def every(tree):
    yield tree
    for one in tree.get("provision", []):
        yield from every(one)


@given(tree=trees)
def test_nothing_is_permitted_that_no_rule_names_without_a_condition(tree):
    if any(row.value == "permit" for row in consent_rows(consent(tree), zone="Etc/UTC", purposes=("HRESCH",))):
        named = {"HRESCH", "PurposeOfUse"}
        assert any(
            one["type"] == "permit"
            and named & {coding["code"] for coding in one.get("purpose", [])}
            and not {"actor", "dataPeriod"} & set(one)
            for one in every(tree)
        )


@given(tree=trees)
def test_a_general_denial_added_as_an_exception_takes_every_permission_away(tree):
    withdrawn = tree | {"provision": [*tree.get("provision", []), rule("deny", purposes=())]}
    assert all(row.value == "deny" for row in consent_rows(consent(withdrawn), zone="Etc/UTC"))


@given(tree=rules(st.just("deny")))
def test_denials_alone_permit_nothing(tree):
    assert all(row.value == "deny" for row in consent_rows(consent(tree), zone="Etc/UTC"))


@given(tree=trees)
def test_who_may_not_use_it_for_a_purpose_may_not_for_a_wider_one(tree):
    def values(code):
        return {row.value for row in consent_rows(consent(tree), zone="Etc/UTC", purposes=(code,))}

    if "permit" in values("HRESCH"):
        assert "permit" in values("CLINTRCH")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["permit", "HRESCH", "2020-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "provision", "purpose", "coding", "code", "system", "period", "start", "reference"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    changed=st.dictionaries(
        st.sampled_from(["status", "scope", "patient", "dateTime", "provision", "policyRule", "verification", "meta"]),
        json_values,
    )
)
def test_whatever_the_json_is_nothing_breaks_and_nothing_is_permitted_by_accident(changed):
    resource = consent(rule("deny")) | changed
    assert all(row.value == "deny" for row in consent_rows(resource, zone=None) if "provision" not in changed)
    consent_rows(resource | {"provision": changed.get("provision", PERMIT)})
    consent_offence(resource)
