"""Allowed is what a permit permits, no forbid forbids, and where nothing went wrong; everything else is denied."""

import json

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.authorization import decide, shipped
from wardround.authorization.decide import Authorizer
from wardround.authorization.policy import Text
from wardround.authorization.request import ANYONE, Machine, Person, Request, Resource, cedar
from wardround.errors import CodecError, ConfigError

RUN = Resource("Run", "s.1", study="s", participants=("arran", "bute"), researcher="ada")
ARRAN = Machine("arran", "node", "arran")
HUB = shipped.hub()
ACTIONS = ("contribute", "answer_cohort", "read_run", "read_evidence", "train", "take_task", "nonsense", "")
PRINCIPALS = st.one_of(
    st.just(ANYONE),
    st.builds(Machine, st.sampled_from(["arran", "bute", "ada"]), st.sampled_from(["node", "researcher", "hub", "x"])),
    st.builds(
        Person,
        st.sampled_from(["eva", "ada"]),
        st.lists(st.sampled_from(["researcher", "auditor", "board", "king"]), max_size=3).map(tuple),
    ),
)
REQUESTS = st.builds(Request, PRINCIPALS, st.sampled_from(ACTIONS), st.just(RUN))


def own(cedar, *, shipped_too=False):
    base = [Text("the shipped hub.cedar", shipped.text("hub.cedar"))] if shipped_too else []
    return Authorizer(shipped.schema(), *base, Text("policy.cedar", cedar))


def written(effect, name, *, kind, action, when):
    scope = f"principal in Kind::{json.dumps(kind)}" if kind else "principal"
    verb = f"action == Action::{json.dumps(action)}" if action else "action"
    return f'@id("{name}") @says("Words.") {effect} ({scope}, {verb}, resource) when {{ {when} }};\n'


WRITTEN = st.builds(
    lambda effect, kind, action, when: (effect, kind, action, when),
    st.sampled_from(["permit", "forbid"]),
    st.sampled_from(["node", "researcher", "hub", ""]),
    st.sampled_from(["contribute", "read_run", "train", "take_task"]),
    st.sampled_from(["true", 'resource.study == "s"', "context.attested", "!context.mfa", 'resource.owner == "arran"']),
)


def test_what_is_permitted_is_allowed_and_says_by_what():
    decision = HUB.decide(Request(ARRAN, "contribute", RUN))
    assert decision.allowed
    assert decision.reasons == ("node-works-in-its-runs",)
    assert (decision.principal, decision.action, decision.resource) == ("Machine arran", "contribute", "Run s.1")
    assert decision.policies == HUB.digest
    assert not decision.diagnostics


def test_without_policies_everything_is_denied():
    nothing = Authorizer(shipped.schema())
    assert not nothing.decide(Request(ARRAN, "contribute", RUN)).allowed


@settings(max_examples=40)
@given(st.lists(WRITTEN, max_size=5), WRITTEN, REQUESTS)
def test_another_forbid_never_allows_more(policies, extra, request):
    texts = [written(e, f"p{i}", kind=k, action=a, when=w) for i, (e, k, a, w) in enumerate(policies)]
    forbid = written("forbid", "extra", kind=extra[1], action=extra[2], when=extra[3])
    before, after = own("".join(texts)), own("".join([*texts, forbid]))
    assert not (after.decide(request).allowed and not before.decide(request).allowed)


@settings(max_examples=30)
@given(st.lists(WRITTEN, min_size=1, max_size=5), REQUESTS)
def test_who_is_allowed_has_a_permit_that_holds_alone_and_no_forbid_that_does(policies, request):
    texts = [written(e, f"p{i}", kind=k, action=a, when=w) for i, (e, k, a, w) in enumerate(policies)]
    alone = [own(text).decide(request) for text in texts]
    forbids = [bool(one.reasons) for one, policy in zip(alone, policies, strict=True) if policy[0] == "forbid"]
    expected = any(one.allowed for one in alone) and not any(forbids)
    assert own("".join(texts)).decide(request).allowed is expected


@settings(max_examples=30)
@given(REQUESTS)
def test_only_nodes_of_the_run_contribute(request):
    principal = request.principal
    named = isinstance(principal, Machine) and principal.kind == "node" and principal.site in RUN.participants
    if request.action == "contribute":
        assert HUB.decide(request).allowed is named


@settings(max_examples=30)
@given(st.text(max_size=40).filter(lambda text: f'action "{text}"' not in shipped.schema()))
def test_an_action_that_the_schema_does_not_name_is_denied(action):
    everything = own('@id("all") @says("All.") permit (principal, action, resource);')
    assert not everything.decide(Request(ARRAN, action, RUN)).allowed


EVERYTHING = own('@id("all") @says("All.") permit (principal, action, resource);')


@pytest.mark.parametrize(
    "request_",
    [
        Request(ARRAN, "contribute", Resource("Castle", "x")),
        Request(ARRAN, "contribute", Resource("Study", "x")),
        Request(Machine("arran", "castle"), "contribute", RUN),
        Request(Person("eva", ("king",)), "read_run", RUN),
        Request(Person("eva", ("auditor",)), "contribute", RUN),
        Request(ARRAN, "contribute", RUN, {"colour": "red"}),
        Request(ARRAN, "contribute", RUN, {"mfa": 1}),
        Request(ARRAN, "contribute", RUN, {"mfa": "true"}),
        Request(ARRAN, "contribute", RUN, {"auth_age": "3"}),
        Request(ARRAN, "contribute", RUN, {"auth_age": 2**63}),
        Request(ARRAN, "contribute", RUN, {"auth_age": 1.5}),
        Request(ARRAN, "contribute", RUN, {"purpose": {"__entity": {"type": "Role", "id": "board"}}}),
        Request(ARRAN, "contribute", RUN, {"purpose": None}),
        Request(ARRAN, "contribute", RUN, {"purpose": "x" * 100_000}),
        Request(ARRAN, "contribute", RUN, {f"c{i}": i for i in range(10_000)}),
        Request(ARRAN, "contribute", Resource("Run", "x" * 100_000)),
        Request(ARRAN, "contribute", Resource("Run", "x", participants=tuple(map(str, range(100_000))))),
        Request(Person("eva", tuple(f"r{i}" for i in range(10_000))), "read_run", RUN),
        Request(Machine("\ud800", "node"), "contribute", RUN),
        Request(ARRAN, "contribute", Resource('Run"', "x")),
        Request(Machine(None, "node"), "contribute", RUN),
    ],
)
def test_a_request_that_does_not_fit_is_denied_and_says_what_is_wrong_in_bounds(request_):
    decision = EVERYTHING.decide(request_)
    assert not decision.allowed
    assert decision.diagnostics
    assert all(len(text) <= 300 for text in decision.diagnostics)
    assert max(len(decision.principal), len(decision.resource), len(decision.action)) <= 120


def test_what_was_allowed_is_known_for_the_same_request_and_for_no_other(monkeypatch):
    authorizer = own('@id("strong") @says("Strong.") permit (principal, action, resource) when { context.mfa };')
    asked, real = [], cedarpy.is_authorized
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *given: asked.append(given) or real(*given))
    strong = authorizer.decide(Request(ARRAN, "contribute", RUN, {"mfa": True}))
    assert strong.allowed
    assert authorizer.decide(Request(ARRAN, "contribute", RUN, {"mfa": True})) is strong
    assert len(asked) == 1
    for mfa in (False, 1, 1.0, "true", [True]):
        assert not authorizer.decide(Request(ARRAN, "contribute", RUN, {"mfa": mfa})).allowed
    weak = Request(ARRAN, "contribute", RUN)
    assert not authorizer.decide(weak).allowed
    before = len(asked)
    authorizer.decide(weak)
    assert len(asked) == before + 1  # What was refused is decided each time.


@settings(max_examples=15)
@given(st.lists(REQUESTS, max_size=12))
def test_what_was_decided_before_changes_no_decision(requests):
    used = shipped.hub()
    assert [used.decide(one) for one in [*requests, *requests]] == [HUB.decide(one) for one in [*requests, *requests]]
    fresh = [shipped.hub().decide(one) for one in requests]
    assert fresh == [used.decide(one) for one in requests]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(decide, "_KEPT_DECISIONS", 4)
    authorizer = own('@id("all") @says("All.") permit (principal, action, resource);')
    for number in range(20):
        assert authorizer.decide(Request(ARRAN, "contribute", Resource("Run", f"s.{number}"))).allowed
        assert len(authorizer._allowed) <= 4


@pytest.mark.parametrize("value", [{"__entity": {"type": "Role", "id": "board"}}, ["a"], None, 1.5, b"x"])
def test_a_circumstance_of_another_type_never_reaches_cedar(value):
    with pytest.raises(CodecError):
        cedar(Request(ARRAN, "contribute", RUN, {"purpose": value}))


def test_what_fits_is_allowed_by_the_same_policy():
    assert EVERYTHING.decide(Request(ARRAN, "contribute", RUN, {"mfa": True, "auth_age": 3, "purpose": "x"})).allowed


def test_an_error_in_one_policy_denies_what_another_permits():
    # Cedar skips a policy that fails, so a forbid that overflows would otherwise forbid nothing.
    broken = own(
        '@id("all") @says("All.") permit (principal, action, resource);'
        '@id("never") @says("Not old.") forbid (principal, action, resource)'
        " when { context.auth_age + 9223372036854775807 > 0 };"
    )
    decision = broken.decide(Request(ARRAN, "contribute", RUN, {"auth_age": 5}))
    assert not decision.allowed
    assert "overflow" in decision.diagnostics[0]
    assert broken.decide(Request(ARRAN, "contribute", RUN, {"auth_age": -5})).reasons == ("never",)


def test_a_value_that_looks_like_cedar_stays_a_value():
    picky = own(
        '@id("p") @says("Only for cancer.") permit (principal, action, resource)'
        ' when { context has purpose && context.purpose == "cancer" };'
    )
    assert picky.decide(Request(ARRAN, "contribute", RUN, {"purpose": "cancer"})).allowed
    for text in (
        'cancer" || true || "',
        "cancer\x00",
        '","mfa":true,"x":"',
        '{"__entity":{"type":"Role","id":"board"}}',
    ):
        assert not picky.decide(Request(ARRAN, "contribute", RUN, {"purpose": text})).allowed


def test_what_is_missing_is_named():
    picky = own(
        '@id("p") @says("Only for cancer.") permit (principal, action == Action::"train", resource)'
        ' when { context has purpose && context.purpose == "cancer" };'
    )
    assert picky.decide(Request(Machine("hub", "hub"), "train", RUN)).missing == ("purpose",)
    assert picky.decide(Request(Machine("hub", "hub"), "train", RUN, {"purpose": "x"})).missing == ()
    assert picky.decide(Request(ARRAN, "contribute", RUN)).missing == ()


@pytest.mark.parametrize(
    ("login", "allowed"),
    [
        ({"logins": False}, True),
        ({"logins": True}, False),
        ({"logins": True, "person": True, "mfa": True, "auth_age": 900}, True),
        ({"logins": True, "person": True, "mfa": True, "auth_age": 901}, False),
        ({"logins": True, "person": True, "mfa": False, "auth_age": 1}, False),
        ({"logins": True, "person": False, "mfa": True, "auth_age": 1}, False),
        ({"logins": True, "person": True, "mfa": True}, False),
    ],
)
def test_release_takes_a_fresh_login_with_a_second_factor_where_people_log_in(login, allowed):
    study = Resource("Study", "s", study="s", participants=("arran",), researcher="ada")
    decision = HUB.decide(Request(Machine("ada", "researcher"), "release", study, login))
    assert decision.allowed is allowed
    assert decision.step_up is (not allowed)


def test_a_login_is_not_said_to_be_enough_where_something_else_forbids_too():
    study = Resource("Study", "s", study="s", participants=("arran",), researcher="ada")
    decision = HUB.decide(Request(ARRAN, "release", study, {"logins": True}))
    assert decision.reasons == ("fresh-login", "never-a-node-in-charge")
    assert not decision.step_up


def test_other_policies_have_another_digest():
    extra = '@id("x") @says("X.") forbid (principal, action, resource);'
    assert shipped.hub(extra).digest != HUB.digest == shipped.hub().digest
    assert shipped.hub(extra + "\n// a comment\n").digest == shipped.hub(extra).digest
    assert shipped.site().digest != HUB.digest


def test_an_operators_own_policies_add_to_the_shipped_ones_and_forbids_win():
    strict = shipped.hub('@id("closed") @says("Closed for now.") forbid (principal, action, resource);')
    assert strict.decide(Request(ARRAN, "contribute", RUN)).reasons == ("closed",)
    wide = shipped.hub('@id("open") @says("All.") permit (principal, action, resource);')
    assert not wide.decide(Request(ANYONE, "read_health", RUN)).allowed
    study = Resource("Study", "s", study="s", participants=("arran",))
    assert not wide.decide(Request(ARRAN, "release", study)).allowed


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="schema"):
        Authorizer("entity X = {")
