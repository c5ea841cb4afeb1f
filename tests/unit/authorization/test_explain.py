"""An explanation names the policies that decided, in their own words, and what a permit that almost held lacks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.authorization import shipped
from wardround.authorization.explain import explain, words
from wardround.authorization.request import Machine, Person, Request, Resource

RUN = Resource("Run", "s.1", study="s", participants=("arran", "bute"), researcher="ada")
STUDY = Resource("Study", "s", study="s", participants=("arran", "bute"), researcher="ada")


def test_what_is_allowed_is_told_with_its_permit():
    found = explain(shipped.hub(), Request(Machine("arran", "node", "arran"), "contribute", RUN))
    assert [told.id for told in found.permitted] == ["node-works-in-its-runs"]
    assert words(found)[0] == "allowed: Machine arran may contribute Run s.1"
    assert "A node may answer tasks" in words(found)[1]


def test_what_lacks_is_told_part_by_part():
    own = (
        '@id("cancer") @says("Only cancer research.") permit (principal, action == Action::"train", resource)'
        ' when { context has purpose && context.purpose == "cancer" && context.mfa } unless { resource.owner == "" };'
    )
    request = Request(Machine("hub", "hub"), "train", RUN, {"site": "islay", "purpose": "cancer", "mfa": False})
    found = next(one for one in explain(shipped.site(own), request).almost if one.id == "cancer")
    assert found.lacking == ("context.mfa", 'not ((resource.owner) == "")')
    assert found.found == ("mfa is false",)
    unknown = Request(Machine("hub", "hub"), "train", RUN, {"site": "islay"})
    found = next(one for one in explain(shipped.site(own), unknown).almost if one.id == "cancer")
    assert found.lacking[:2] == ("context has purpose", '(context.purpose) == "cancer"')
    assert "purpose is not known" in found.found


def test_a_forbid_is_told_beside_the_permit_that_it_beats():
    found = explain(shipped.hub(), Request(Machine("ada", "researcher"), "release", STUDY, {"logins": True}))
    assert [told.id for told in found.permitted] == ["researcher-leads-own-studies"]
    assert [told.id for told in found.forbade] == ["fresh-login"]
    assert any("log in again" in line for line in words(found))


def test_where_no_policy_is_about_it_that_is_told():
    found = explain(
        shipped.site(), Request(Person("eva", ("board",), "arran", "i"), "read_data", Resource("Dataset", "x"))
    )
    assert any("what nothing permits is denied" in line for line in words(found)) or found.forbade


def test_a_request_that_does_not_fit_is_explained_too():
    found = explain(shipped.hub(), Request(Machine("a", "node"), "x" * 10_000, RUN))
    assert not found.decision.allowed
    assert any(line.strip().startswith("went wrong") for line in words(found))


@settings(max_examples=60)
@given(
    st.sampled_from(["contribute", "read_run", "release", "train", "propose", "read_plan"]),
    st.sampled_from(["node", "researcher", "operator", "hub"]),
    st.sampled_from(["arran", "jura", "ada"]),
    st.booleans(),
)
def test_an_explanation_agrees_with_the_decision(action, kind, name, logins):
    resource = STUDY if action in {"release", "propose", "read_plan"} else RUN
    found = explain(shipped.hub(), Request(Machine(name, kind, name), action, resource, {"logins": logins}))
    told = {one.id for one in (found.forbade or found.permitted)}
    assert set(found.decision.reasons) == told
    assert found.decision.allowed is (bool(found.permitted) and not found.forbade)
    assert not {one.id for one in found.almost} & {one.id for one in found.permitted}
