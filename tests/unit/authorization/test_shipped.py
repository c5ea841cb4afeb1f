"""What each role may do, at the hub and at a site, written out in full: a policy that changes it changes this table."""

import re

import pytest

from wardround.authorization import reference, shipped
from wardround.authorization.request import ANYONE, Machine, Person, Request, Resource

FRESH = {"logins": True, "person": True, "mfa": True, "auth_age": 60}
OPEN = {"read_health", "read_metrics", "read_api", "read_authority", "enrol", "log_in", "read_checkpoint"}
READS = {"list_studies", "read_plan", "read_run", "read_evidence"}
KINDS = {
    "take_task": "Site",
    "set_up_pairs": "Roster",
    "read_roster": "Roster",
    "publish_roster": "Roster",
    "hand_in_key": "Key",
    "renew": "Key",
    "rotate_key": "Key",
    "revoke": "Key",
    "read_identity": "Key",
    "attest": "Key",
    "fetch_key": "Key",
    "witness": "AuditLog",
    "read_audit": "AuditLog",
    "export_audit": "AuditLog",
    "read_checkpoint": "AuditLog",
    "decide": "Study",
    "hand_in_audit": "Study",
    "read_plan": "Study",
    "propose": "Study",
    "start": "Study",
    "release": "Study",
    "withdraw": "Study",
    "approve": "Study",
    "refuse": "Study",
    "approve_code": "Package",
    "download": "Blob",
    "upload": "Blob",
    "read_model": "Model",
    "delete": "Model",
    "read_data": "Dataset",
    "read_budget": "Budget",
    "grant_budget": "Budget",
    "read_policy": "Policy",
    "change_policy": "Policy",
    **dict.fromkeys(
        [
            "contribute",
            "answer_cohort",
            "read_run",
            "read_evidence",
            "statistics",
            "analysis",
            "train",
            "evaluate",
            "mask",
            "pair",
        ],
        "Run",
    ),
}
GROUPS = {"open", "step_up", "work", "at_site"}
ACTIONS = sorted(set(re.findall(r'^action "(\w+)"', shipped.schema(), re.MULTILINE)) - GROUPS)
AT_HUB = {
    "researcher": READS
    | {"propose", "start", "release", "withdraw", "publish_roster", "read_identity", "read_keys", "read_roster"}
    | {"download", "upload", "read_model"},
    "operator": {"admin", "revoke", "rotate_key", "renew", "delete", "publish_roster", "read_policy"}
    | {"read_identity", "read_keys", "read_roster"},
    "board": {"change_policy", "read_policy", "list_studies", "read_plan", "read_audit", "read_roster"},
    "auditor": {"read_audit", "export_audit", "read_policy", "list_studies", "read_plan", "read_roster", "read_keys"},
    "steward": set(),
    "privacy-officer": set(),
    "site-it": set(),
    "clinician": set(),
}
AT_SITE = {
    "steward": READS
    | {"approve", "refuse", "withdraw", "approve_code", "read_data", "read_budget", "read_model", "hand_in_audit"}
    | {"read_policy", "read_audit"},
    "privacy-officer": READS
    | {"refuse", "withdraw", "approve_code", "grant_budget", "read_budget", "read_policy", "change_policy"}
    | {"read_audit", "export_audit", "delete"},
    "site-it": {"rotate_key", "renew", "admin", "read_metrics", "list_studies", "read_policy"},
    "auditor": {"read_audit", "export_audit", "read_policy", "list_studies", "read_plan", "read_evidence"}
    | {"read_budget"},
    "clinician": {"list_studies", "read_plan", "read_run"},
    "board": {"list_studies", "read_plan", "read_run"},
    "researcher": set(),
    "operator": set(),
}
STEP_UP = {"release", "approve", "approve_code", "grant_budget", "export_audit", "change_policy", "rotate_key"}
STEP_UP |= {"revoke", "delete", "admin"}
WORK = {"statistics", "analysis", "train", "evaluate", "mask", "pair"}


def resource(action, where, owner=""):
    kind = KINDS.get(action, "Site" if where == "site" else "Hub")
    return Resource(kind, "x", owner=owner, study="x", participants=("arran", "bute"), researcher="ada")


def allowed(where, principal, context, actions=ACTIONS, owner=""):
    authorizer = getattr(shipped, where)()
    asked = [Request(principal, action, resource(action, where, owner), context) for action in actions]
    return {one.action for one in asked if authorizer.decide(one).allowed}


def test_the_tables_have_every_role_and_every_action():
    roles = set(re.findall(r'"([a-z-]+)"', re.search(r"entity Role enum \[(.*?)\]", shipped.schema())[1]))
    assert set(AT_HUB) == set(AT_SITE) == roles
    assert len(ACTIONS) > 50
    assert set(KINDS) <= set(ACTIONS)


@pytest.mark.parametrize("role", AT_HUB)
def test_what_a_role_may_do_at_the_hub(role):
    person = Person("eva", (role,), "", "https://login.example")
    assert allowed("hub", person, FRESH) == AT_HUB[role] | (OPEN & set(ACTIONS))


@pytest.mark.parametrize("role", AT_SITE)
def test_what_a_role_may_do_at_a_site(role):
    person = Person("eva", (role,), "arran", "https://login.example")
    assert allowed("site", person, FRESH | {"site": "arran"}) == AT_SITE[role] | {"log_in"}


@pytest.mark.parametrize("where", ["hub", "site"])
@pytest.mark.parametrize("stale", [{"mfa": False}, {"auth_age": 901}, {"person": False}])
def test_without_a_fresh_login_what_takes_one_is_left_out(where, stale):
    table, site = (AT_HUB, "") if where == "hub" else (AT_SITE, "arran")
    for role, may in table.items():
        person = Person("eva", (role,), site, "https://login.example")
        assert allowed(where, person, FRESH | stale | {"site": site}, sorted(may)) == may - STEP_UP, role


@pytest.mark.parametrize("role", AT_SITE)
def test_nobody_acts_for_another_site(role):
    person = Person("eva", (role,), "bute", "https://login.example")
    assert allowed("site", person, FRESH | {"site": "arran"}) == set()
    own = Person("eva", (role,), "arran", "https://login.example")
    assert allowed("site", own, FRESH | {"site": "arran"}, owner="bute") == set()


def test_a_person_without_a_role_may_nothing_but_log_in():
    assert allowed("hub", Person("eva", (), "", "i"), FRESH) == OPEN & set(ACTIONS)
    assert allowed("site", Person("eva", (), "arran", "i"), FRESH | {"site": "arran"}) == {"log_in"}


def test_without_logins_whoever_is_at_the_node_acts_for_the_site():
    may = allowed("site", Person("eva", (), "arran"), {"site": "arran"})
    assert may >= {"approve", "refuse", "withdraw", "grant_budget", "read_data", "rotate_key", "change_policy"}
    assert not may & (WORK | {"release", "start", "propose", "contribute"})
    assert allowed("site", Person("eva", (), "arran"), {"site": "arran", "logins": True}) == {"log_in"}
    assert allowed("site", Person("eva", (), "bute"), {"site": "arran"}) == set()
    # A name that nobody vouches for is not made somebody by an issuer that nobody asked.
    assert "approve" not in allowed("site", Person("eva", (), "arran", "i"), {"site": "arran"})


def test_a_hub_asks_a_site_for_work_and_nothing_else():
    assert allowed("site", Machine("hub", "hub"), {"site": "arran"}) == WORK
    assert allowed("site", Machine("hub", "hub"), {"site": "jura"}) == set()
    for kind in ("node", "researcher", "operator", "officer"):
        assert allowed("site", Machine("x", kind, "arran"), {"site": "arran"}) == set()


def test_who_does_not_say_who_they_are_gets_what_is_open():
    assert allowed("hub", ANYONE, {}) == OPEN & set(ACTIONS)
    assert allowed("site", ANYONE, {"site": "arran"}) == {"log_in"}


def test_no_machine_does_at_the_hub_what_people_do():
    only_people = {"change_policy", "admin", "grant_budget", "approve", "approve_code", "revoke", "delete"}
    for kind in ("node", "researcher", "operator", "hub", "officer"):
        assert not allowed("hub", Machine("ada", kind, "arran"), FRESH) & (only_people | {"export_audit", "read_data"})


def test_nobody_approves_a_study_of_their_own_or_deletes_the_audit_log():
    ada = Person("ada", tuple(AT_SITE), "arran", "i")
    may = allowed("site", ada, FRESH | {"site": "arran"})
    assert not may & {"approve", "approve_code"}
    assert "refuse" in may
    everybody = Person("eva", tuple(AT_SITE), "arran", "i")
    log = Resource("AuditLog", "x", owner="arran")
    assert not shipped.site().decide(Request(everybody, "delete", log, FRESH | {"site": "arran"})).allowed
    at_hub = Person("eva", tuple(AT_HUB), "", "i")
    assert not shipped.hub().decide(Request(at_hub, "delete", Resource("AuditLog", "x"), FRESH)).allowed


def test_the_reference_names_every_action_group_and_policy():
    text = "\n".join(reference.lines())
    assert {verb.name for verb in reference.verbs()} == set(ACTIONS) | GROUPS
    for where in (shipped.hub(), shipped.site()):
        for policy in where.policies.by_id.values():
            assert f"| `{policy.id}` | {policy.effect} | {policy.says} |" in text
    assert "| `train` | Be asked to train, and for an update. | Machine | Run | `work` |" in text
    assert "| `purpose?` | String |" in text
