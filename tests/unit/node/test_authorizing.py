"""A site's policies decide what its node is asked and what its people do, whatever a hub permits."""

import os
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.authorization import shipped
from wardround.authorization.request import Machine, Request, Resource
from wardround.errors import ConfigError, LoginError, PolicyError, StepUpError
from wardround.ids import Digest, RunId, SiteId, StudyId
from wardround.node.authorizing import FILE, Authorizing
from wardround.protocol.messages import PairTask, Task
from wardround.protocol.plan import BlobRef

STUDY = StudyId("a" * 64)
RUN = RunId(f"{STUDY}.1")
PLAN = SimpleNamespace(
    participants=("arran", "bute"),
    researcher="ada",
    purpose="cancer",
    legal_basis="consent",
    training=SimpleNamespace(rounds=3),
    secure=None,
    privacy=None,
    model=None,
)
TRAIN = Task(run=RUN, study=STUDY, number=1, kind="train", base=BlobRef(Digest("0" * 64), 1))
NO_TRAINING = '@id("no-training") @says("No training here.") forbid (principal, action == Action::"train", resource);'
ONLY_CANCER = (
    '@id("only-cancer") @says("Only cancer research.") forbid (principal, action in Action::"work", resource)'
    ' unless { context has purpose && context.purpose == "cancer" };'
)


@dataclass
class Login:
    subject: str = "eva"
    issuer: str = "https://login.example"
    roles: frozenset = frozenset({"steward"})
    site: str = "arran"
    acr: str = ""
    amr: tuple = ("hwk",)
    auth_time: float = 990.0


def site(folder, cedar="", *, name="arran", **options):
    if cedar:
        (folder / FILE).write_text(cedar, encoding="utf-8")
    return Authorizing(SiteId(name), folder, **options)


def test_the_hub_may_ask_for_work_of_runs_that_name_the_site(tmp_path):
    site(tmp_path).asked(TRAIN, PLAN)
    with pytest.raises(PolicyError, match="takes no part in a run that does not name it"):
        site(tmp_path, name="jura").asked(TRAIN, PLAN)


def test_a_sites_own_forbid_is_told_in_its_words(tmp_path):
    with pytest.raises(PolicyError, match="forbidden by no-training: No training here"):
        site(tmp_path, NO_TRAINING).asked(TRAIN, PLAN)
    site(tmp_path).asked(replace_kind("evaluate"), PLAN)


def replace_kind(kind):
    return Task(run=RUN, study=STUDY, number=1, kind=kind, base=TRAIN.base)


@pytest.mark.parametrize("kind", ["statistics", "analysis", "train", "evaluate"])
def test_the_plans_purpose_reaches_the_sites_policies(tmp_path, kind):
    on = site(tmp_path, ONLY_CANCER)
    on.asked(replace_kind(kind), PLAN)
    with pytest.raises(PolicyError, match="only-cancer"):
        on.asked(replace_kind(kind), SimpleNamespace(**{**vars(PLAN), "purpose": "marketing"}))


def test_pairs_consent_and_proof_reach_the_sites_policies(tmp_path):
    on = site(
        tmp_path,
        '@id("broad") @says("Broad consent and a proven hub.") forbid (principal, action in Action::"work", resource)'
        ' unless { context has consent && context.consent == "broad" && context.attested };',
    )
    pair = PairTask(run=RUN, study=STUDY, roster=Digest("0" * 64))
    on.asked(pair, PLAN, consent="broad", attested=True)
    for consent, attested in (("", True), ("narrow", True), ("broad", False)):
        with pytest.raises(PolicyError, match="broad"):
            on.asked(pair, PLAN, consent=consent, attested=attested)


EFFECTS = st.sampled_from(["permit", "forbid"])
SCOPES = st.sampled_from(['action == Action::"train"', 'action in Action::"work"', "action"])
WHENS = st.sampled_from(["true", "context.attested", 'context.site == "arran"', "!context.mfa"])
POLICIES = st.lists(st.tuples(EFFECTS, SCOPES, WHENS), max_size=4).map(
    lambda several: "".join(
        f'@id("h{i}") @says("X.") {effect} (principal, {scope}, resource) when {{ {when} }};\n'
        for i, (effect, scope, when) in enumerate(several)
    )
)


@settings(max_examples=40)
@given(POLICIES)
def test_a_sites_forbid_wins_over_any_policies_of_a_hub(tmp_path_factory, cedar):
    hub = shipped.hub(cedar + '@id("all") @says("All.") permit (principal, action, resource);')
    hub.decide(Request(Machine("hub", "hub"), "train", Resource("Run", RUN, participants=("arran",))))
    with pytest.raises(PolicyError, match="no-training"):
        site(tmp_path_factory.mktemp("site"), NO_TRAINING).asked(TRAIN, PLAN)


@settings(max_examples=40)
@given(POLICIES)
def test_no_permit_of_a_sites_own_goes_beyond_the_shipped_forbids(tmp_path_factory, cedar):
    wide = cedar + '@id("all") @says("All.") permit (principal, action, resource);'
    with pytest.raises(PolicyError, match="never-uninvited"):
        site(tmp_path_factory.mktemp("site"), wide, name="jura").asked(TRAIN, PLAN)


def test_people_decide_by_their_roles(tmp_path):
    on = site(tmp_path, logins=True)
    on.decide_study(Login(), "approve", STUDY, PLAN, 1000.0)
    on.decide_study(Login(roles=frozenset({"privacy-officer"})), "refuse", STUDY, PLAN, 1000.0)
    with pytest.raises(PolicyError, match="not approve"):
        on.decide_study(Login(roles=frozenset({"privacy-officer"})), "approve", STUDY, PLAN, 1000.0)
    with pytest.raises(PolicyError, match="for another site"):
        on.decide_study(Login(site="bute"), "approve", STUDY, PLAN, 1000.0)
    with pytest.raises(PolicyError, match="their own"):
        on.decide_study(Login(subject="ada"), "approve", STUDY, PLAN, 1000.0)


@pytest.mark.parametrize(
    "login", [Login(amr=("pwd",)), Login(auth_time=99.0), Login(auth_time=1000.5), Login(auth_time=float("nan"))]
)
def test_approving_takes_a_fresh_login_and_refusing_does_not(tmp_path, login):
    on = site(tmp_path, logins=True)
    with pytest.raises(StepUpError):
        on.decide_study(login, "approve", STUDY, PLAN, 1000.0)
    on.decide_study(login, "refuse", STUDY, PLAN, 1000.0)


def test_a_name_is_not_enough_where_people_log_in(tmp_path):
    on = site(tmp_path, logins=True)
    for nobody in ("eva", Login(issuer="")):
        with pytest.raises(LoginError):
            on.decide_study(nobody, "refuse", STUDY, PLAN, 1000.0)


def test_a_name_acts_for_the_site_where_they_do_not(tmp_path):
    on = site(tmp_path)
    on.decide_study("eva", "approve", STUDY, PLAN, 1000.0)
    on.own("eva", "grant_budget", "Budget", "icu", 1000.0)
    on.audit("eva", RUN, PLAN, 1000.0)
    closed = site(
        tmp_path,
        '@id("log-in") @says("People log in.") forbid (principal is Person, action, resource) unless {context.logins};',
    )
    with pytest.raises(PolicyError, match="People log in"):
        closed.decide_study("eva", "approve", STUDY, PLAN, 1000.0)


def test_what_is_the_sites_own_is_for_its_roles(tmp_path):
    on = site(tmp_path, logins=True)
    on.own(Login(roles=frozenset({"privacy-officer"})), "grant_budget", "Budget", "icu", 1000.0)
    on.own(Login(roles=frozenset({"site-it"})), "rotate_key", "Key", "node", 1000.0)
    on.code(Login(), Digest("1" * 64), "ada", 1000.0)
    for login, action, kind in (
        (Login(), "grant_budget", "Budget"),
        (Login(), "rotate_key", "Key"),
        (Login(roles=frozenset({"researcher"})), "read_data", "Dataset"),
        (Login(roles=frozenset({"privacy-officer"})), "delete", "AuditLog"),
    ):
        with pytest.raises(PolicyError):
            on.own(login, action, kind, "x", 1000.0)
    with pytest.raises(PolicyError, match="their own"):
        on.code(Login(subject="ada"), Digest("1" * 64), "ada", 1000.0)


def test_a_stricter_file_holds_from_the_next_question_and_a_broken_one_stops_everything(tmp_path):
    on = site(tmp_path)
    on.asked(TRAIN, PLAN)
    before = on.digest
    write(tmp_path, NO_TRAINING, 1)
    with pytest.raises(PolicyError, match="no-training"):
        on.asked(TRAIN, PLAN)
    assert on.digest != before
    write(tmp_path, "permit (", 2)
    for _ in range(2):
        with pytest.raises(PolicyError, match=r"policy\.cedar, line 1, column"):
            on.asked(TRAIN, PLAN)
    (tmp_path / FILE).unlink()
    on.asked(TRAIN, PLAN)
    assert on.digest == before


def write(folder, text, at):
    (folder / FILE).write_text(text, encoding="utf-8")
    os.utime(folder / FILE, ns=(at, at))


def test_a_node_does_not_start_with_policies_that_cannot_be_put_in_force(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Authorizing(SiteId("arran"), tmp_path)
    with pytest.raises(ConfigError, match="line 1"):
        site(tmp_path, "forbid (")
    with pytest.raises(ConfigError, match="too large"):
        site(tmp_path, "// " + "x" * 300_000)


def test_every_decision_is_told_and_nothing_follows_where_that_fails(tmp_path):
    told = []
    on = site(tmp_path, NO_TRAINING, on_decision=told.append)
    with pytest.raises(PolicyError):
        on.asked(TRAIN, PLAN)
    on.decide_study("eva", "refuse", STUDY, PLAN, 1.0)
    assert [(one.allowed, one.action, one.reasons) for one in told] == [
        (False, "train", ("no-training",)),
        (True, "refuse", ("without-logins",)),
    ]

    def full(_):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        site(tmp_path, on_decision=full).decide_study("eva", "refuse", STUDY, PLAN, 1.0)


def test_a_login_is_checked_as_the_site_says(tmp_path):
    on = site(tmp_path, logins=True, strong=lambda person: person.acr == "gold")
    with pytest.raises(StepUpError):
        on.decide_study(Login(), "approve", STUDY, PLAN, 1000.0)
    on.decide_study(replace(Login(), acr="gold"), "approve", STUDY, PLAN, 1000.0)
