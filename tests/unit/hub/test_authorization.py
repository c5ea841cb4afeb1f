"""Who may ask what of a hub: every address with every kind of caller, and that nothing runs before it is decided."""

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace

import msgspec
import pytest
from starlette.requests import Request

from wardround.authorization import shipped
from wardround.authorization.decide import Authorizer
from wardround.codec import canonical
from wardround.errors import CodecError, ForbiddenError, LoginError, NotFoundError, StepUpError
from wardround.hub import app, attestation_routes, resources, route
from wardround.hub.app import create_app
from wardround.hub.authentication import Caller, credentials
from wardround.hub.state import Metrics
from wardround.ids import SiteId
from wardround.protocol.messages import Proposal
from wardround.protocol.plan import SignedPlan
from wardround.services.circumstances import is_strong
from wardround.services.hub_records import is_routine

ADDRESSES = (*app.ADDRESSES, *attestation_routes.ADDRESSES)
STUDY, RUN = "a" * 64, "a" * 64 + ".1"
PLAN = SimpleNamespace(
    participants=("arran", "bute"),
    researcher="ada",
    purpose="learn",
    legal_basis="consent",
    training=SimpleNamespace(rounds=3),
    secure=None,
    privacy=None,
    model=None,
)
CALLERS = {
    "anyone": None,
    "arran": Caller(SiteId("arran"), "site", b""),  # takes part in the study, and in its run
    "bute": Caller(SiteId("bute"), "site", b""),  # takes part in the study, not in its run
    "outsider": Caller(SiteId("outsider"), "site", b""),
    "ada": Caller(SiteId("ada"), "researcher", b""),  # leads the study
    "mel": Caller(SiteId("mel"), "researcher", b""),
    "olga": Caller(SiteId("olga"), "operator", b""),
}
MACHINES = {"arran", "bute", "outsider", "ada", "mel", "olga"}
NODES = {"arran", "bute", "outsider"}
ALL = MACHINES | {"anyone"}
IN_RUN, IN_STUDY = {"arran", "ada"}, {"arran", "bute", "ada"}
PROPOSAL = Proposal("c", SignedPlan(plan=b"{}", researcher=SiteId("ada"), signature=b""))
OF_RUN = {"run": RUN, "more": 1}

# What is asked: method and path, parameters, query, body; and who may.
MATRIX = {
    ("GET", "/healthz"): [({}, "", None, ALL)],
    ("GET", "/readyz"): [({}, "", None, ALL)],
    ("GET", "/metrics"): [({}, "", None, ALL)],
    ("GET", "/openapi.json"): [({}, "", None, ALL)],
    ("GET", "/v1/authority"): [({}, "", None, ALL)],
    ("POST", "/v1/enrolments"): [({}, "", None, ALL)],
    ("POST", "/v1/tasks"): [({}, "", None, NODES)],
    ("POST", "/v1/contributions"): [({}, "", OF_RUN, {"arran"})],
    ("POST", "/v1/cohorts"): [({}, "", OF_RUN, {"arran"})],
    ("POST", "/v1/pairs"): [({}, "", None, NODES)],
    ("GET", "/v1/cards"): [({}, "", None, MACHINES)],
    ("POST", "/v1/cards"): [({}, "", None, NODES)],
    ("POST", "/v1/rosters"): [({}, "", None, {"ada", "mel", "olga"})],
    ("GET", "/v1/rosters/{digest}"): [({"digest": STUDY}, "", None, MACHINES)],
    ("GET", "/v1/runs/{run}/cohorts/{number}/{cohort}"): [
        ({"run": RUN, "number": "1", "cohort": "1"}, "", None, IN_RUN)
    ],
    ("GET", "/v1/studies"): [({}, "", None, MACHINES)],
    ("POST", "/v1/studies"): [({}, "", PROPOSAL, {"ada"})],
    ("GET", "/v1/studies/{study}/plan"): [({"study": STUDY}, "", None, IN_STUDY)],
    ("POST", "/v1/studies/{study}/decisions"): [({"study": STUDY}, "", None, {"arran", "bute"})],
    ("POST", "/v1/studies/{study}/audits"): [({"study": STUDY}, "", None, {"arran", "bute"})],
    ("POST", "/v1/studies/{study}/actions"): [
        ({"study": STUDY}, "", {"action": "start"}, {"ada"}),
        ({"study": STUDY}, "", {"action": "release"}, {"ada"}),
        ({"study": STUDY}, "", {"action": "withdraw"}, {"ada"}),
        ({"study": STUDY}, "", {"action": "dance"}, {"ada"}),
    ],
    ("GET", "/v1/runs/{run}"): [({"run": RUN}, "", None, IN_RUN)],
    ("GET", "/v1/identities/{name}"): [({"name": "arran"}, "", None, MACHINES)],
    ("GET", "/v1/blobs/{scope}/{digest}"): [
        ({"scope": RUN, "digest": STUDY}, "", None, IN_RUN),
        ({"scope": STUDY, "digest": STUDY}, "", None, IN_STUDY),
        ({"scope": "new", "digest": STUDY}, "", None, set()),
        ({"scope": RUN, "digest": STUDY}, "offset=1", None, {"arran"}),
        ({"scope": STUDY, "digest": STUDY}, "offset=1", None, {"arran", "bute"}),
        ({"scope": "new", "digest": STUDY}, "offset=1", None, {"ada", "mel"}),
    ],
    ("POST", "/v1/attestations/hub"): [({}, "", None, NODES)],
    ("POST", "/v1/attestations/challenge"): [({}, "", None, NODES)],
    ("POST", "/v1/attestations"): [({}, "", None, NODES)],
    ("POST", "/kbs/v0/auth"): [({}, "", None, NODES)],
    ("POST", "/kbs/v0/attest"): [({}, "", None, NODES)],
    ("GET", "/kbs/v0/resource/{repository}/{type}/{tag}"): [
        ({"repository": STUDY, "type": "model-key", "tag": "1"}, "", None, NODES)
    ],
    ("GET", "/v1/log/checkpoint"): [({}, "", None, ALL)],
    ("GET", "/v1/log/tile/{path:path}"): [({"path": "0/000"}, "", None, ALL)],
    ("GET", "/v1/log/entries/{path:path}"): [({"path": "000"}, "", None, NODES | {"olga"})],
    ("GET", "/v1/log/members"): [({}, "", None, NODES)],
    ("POST", "/v1/log/members"): [({}, "", None, NODES)],
    ("GET", "/v1/log/requests"): [({}, "", None, NODES)],
    ("POST", "/v1/log/requests"): [({}, "", None, NODES)],
    ("POST", "/v1/log/cosignatures"): [({}, "", None, NODES)],
    ("GET", "/v1/log/answers"): [({}, "", None, NODES)],
    ("PUT", "/v1/blobs/{scope}/{digest}"): [
        ({"scope": RUN, "digest": STUDY}, "", None, {"arran"}),
        ({"scope": STUDY, "digest": STUDY}, "", None, {"arran", "bute"}),
        ({"scope": "new", "digest": STUDY}, "", None, {"ada", "mel"}),
    ],
}
CASES = [
    pytest.param(method, path, *asked, who, id=f"{method} {path} {asked[0].get('scope', '')[-2:]}{asked[1]} {who}")
    for (method, path), several in MATRIX.items()
    for asked in several
    for who in CALLERS
]


class Studies:
    def plan_of(self, study):
        if study != STUDY:
            raise NotFoundError("there is no such study")
        return PLAN


class Coordinator:
    def state(self, run):
        if run != RUN:
            raise NotFoundError("there is no such run")
        return SimpleNamespace(terms=SimpleNamespace(study=STUDY, sites=("arran",)))


@dataclass
class Login:
    subject: str = "eva"
    issuer: str = "https://login.example"
    roles: frozenset = frozenset({"researcher"})
    site: str = ""
    acr: str = ""
    amr: tuple = ("hwk",)
    auth_time: float = 990.0


def state(**changes):
    async def threads(call, *args):
        return call(*args)

    fields = {
        "authorizer": shipped.hub(),
        "on_decision": None,
        "is_routine": lambda _: False,
        "abouts": {},
        "people": None,
        "is_strong": is_strong,
        "is_attested": lambda _: False,
        "clock": SimpleNamespace(now=lambda: 1000.0),
        "studies": Studies(),
        "coordinator": Coordinator(),
        "threads": threads,
        "public_url": "https://hub.example",
        "metrics": Metrics(),
        "login_challenge": 'DPoP error="insufficient_user_authentication"',
    }
    return SimpleNamespace(**(fields | changes))


def request(method="GET", path="/", parameters=None, query="", headers=()):
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "path_params": parameters or {},
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "server": ("hub.example", 443),
        "scheme": "https",
    }
    return Request(scope)


def address(method, path):
    return next(one for one in ADDRESSES if (one.method, one.path) == (method, path))


def check(method, path, who, *, parameters=None, query="", body=b"", on=None, headers=()):
    asked = request(method, path, parameters, query, headers)
    asyncio.run(route.authorize(address(method, path), asked, on or state(), CALLERS[who], body))


def encoded(body):
    return b"" if body is None else msgspec.msgpack.encode(body)


def test_the_matrix_has_every_address_and_no_other():
    assert set(MATRIX) == {(one.method, one.path) for one in ADDRESSES}


@pytest.mark.parametrize(("method", "path", "parameters", "query", "body", "allowed", "who"), CASES)
def test_who_may_ask_what(method, path, parameters, query, body, allowed, who):
    is_open = (method, path) in {key for key, rows in MATRIX.items() if rows[0][3] is ALL}
    if who != "anyone" or is_open:
        try:
            check(method, path, who, parameters=parameters, query=query, body=encoded(body))
        except ForbiddenError:
            assert who not in allowed
        else:
            assert who in allowed
    else:
        # Without a signature nobody gets this far; the policies would not permit it either.
        with pytest.raises(ForbiddenError):
            check(method, path, who, parameters=parameters, query=query, body=encoded(body))


def asked_of(app, method, path, *, body=b""):
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app({**request(method, path).scope, "root_path": ""}, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("one", ADDRESSES, ids=lambda one: f"{one.method} {one.path}")
def test_no_handler_runs_before_the_policies_permit_it(one):
    # The state has nothing that a handler could work with: one that ran would answer 500.
    nothing = state(
        authorizer=Authorizer(shipped.schema()),
        authentication=SimpleNamespace(check=lambda *_, **__: CALLERS["ada"], challenge=""),
    )
    app = create_app(lambda _: None, attestation_routes.ADDRESSES)
    app.state.hub = nothing
    path = one.path
    for name, value in {"study": STUDY, "run": RUN, "scope": STUDY, "digest": STUDY, "name": "arran"}.items():
        path = path.replace(f"{{{name}}}", value)
    path = path.replace("{number}", "1").replace("{cohort}", "1")
    body = encoded({"contributions": OF_RUN, "cohorts": OF_RUN, "studies": PROPOSAL}.get(path.rpartition("/")[2]))
    status, answer = asked_of(app, one.method, path, body=body)
    assert (status, msgspec.json.decode(answer)["type"]) == (403, "protocol/forbidden")


def test_who_may_never_is_told_so_whatever_they_send_and_others_what_is_wrong_with_it():
    with pytest.raises(ForbiddenError):
        check("POST", "/v1/studies", "arran", body=b"\xff")
    with pytest.raises(CodecError):
        check("POST", "/v1/studies", "ada", body=b"\xff")
    with pytest.raises(ForbiddenError):
        check("POST", "/v1/contributions", "ada", body=b"\x80")
    with pytest.raises(CodecError):
        check("POST", "/v1/contributions", "arran", body=b"\x80")
    with pytest.raises(NotFoundError):
        check("GET", "/v1/runs/{run}", "arran", parameters={"run": "b" * 64 + ".1"})
    with pytest.raises(CodecError):
        check("GET", "/v1/studies/{study}/plan", "arran", parameters={"study": "../etc"})


def test_a_proposal_is_about_the_study_and_researcher_that_it_names():
    resource, _ = resources.PROPOSAL.find(state(), CALLERS["ada"], request(), msgspec.msgpack.encode(PROPOSAL))
    assert (resource.name, resource.researcher) == (canonical.digest(b"{}"), "ada")


def test_a_refusal_names_action_and_caller_and_nothing_of_the_study():
    with pytest.raises(ForbiddenError) as caught:
        check("GET", "/v1/studies/{study}/plan", "outsider", parameters={"study": STUDY})
    text = str(caught.value)
    assert "read_plan" in text
    assert "the study does not name outsider" in text
    assert not any(secret in text for secret in ("arran", "bute", "ada", "learn", STUDY[:8]))


def test_every_decision_is_told_before_anything_follows_and_nothing_follows_where_that_fails():
    told = []
    check("POST", "/v1/tasks", "arran", on=state(on_decision=told.append))
    with pytest.raises(ForbiddenError):
        check("POST", "/v1/tasks", "ada", on=state(on_decision=told.append))
    assert [(one.allowed, one.principal, one.action) for one in told] == [
        (True, "Machine arran", "take_task"),
        (False, "Machine ada", "take_task"),
    ]
    assert told[1].reasons == ("never-a-client-as-a-site",)

    def full(_):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        check("POST", "/v1/tasks", "arran", on=state(on_decision=full))


def test_of_what_is_routine_only_refusals_are_told():
    told = []
    on = state(on_decision=told.append, is_routine=is_routine)
    check("POST", "/v1/tasks", "arran", on=on)
    assert not told
    with pytest.raises(ForbiddenError):
        check("POST", "/v1/tasks", "ada", on=on)
    check("GET", "/v1/studies/{study}/plan", "ada", parameters={"study": STUDY}, on=on)
    check("POST", "/v1/studies", "ada", body=encoded(PROPOSAL), on=on)
    assert [(one.allowed, one.action) for one in told] == [(False, "take_task"), (True, "propose")]


def test_a_run_is_looked_up_once_off_the_loop_and_one_that_is_not_there_every_time():
    hops = []

    async def threads(call, *args):
        hops.append(call)
        return call(*args)

    on = state(threads=threads)
    for _ in range(3):
        check("GET", "/v1/runs/{run}", "arran", parameters={"run": RUN}, on=on)
        check("POST", "/v1/contributions", "arran", body=encoded(OF_RUN), on=on)
        check("GET", "/v1/runs/{run}", "ada", parameters={"run": RUN}, on=on)
    assert len(hops) == 1
    for who in ("outsider", "bute"):
        with pytest.raises(ForbiddenError):  # What is known of a run is who may: it opens nothing to others.
            check("GET", "/v1/runs/{run}", who, parameters={"run": RUN}, on=on)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            check("GET", "/v1/runs/{run}", "arran", parameters={"run": "b" * 64 + ".1"}, on=on)
        with pytest.raises(CodecError):
            check("POST", "/v1/contributions", "arran", body=b"\x80", on=on)
    assert len(hops) == 5


# People behind a request.

TOKEN = (("authorization", "DPoP abc"), ("dpop", "def"))


class People:
    def __init__(self, person):
        self.person, self.asked = person, []

    def verify(self, *asked):
        self.asked.append(asked)
        if isinstance(self.person, Exception):
            raise self.person
        return self.person


def act(verb, person, who="ada", headers=TOKEN):
    people = People(person)
    parameters, body = {"study": STUDY}, encoded({"action": verb})
    path, on = "/v1/studies/{study}/actions", state(people=people)
    check("POST", path, who, parameters=parameters, body=body, on=on, headers=headers)
    return people


def test_a_request_with_a_person_is_decided_for_machine_and_person():
    assert act("start", Login()).asked == [
        ("abc", "def", "POST", "https://hub.example/v1/studies/{study}/actions", 1000.0)
    ]
    with pytest.raises(ForbiddenError, match="eva to start"):
        act("start", Login(roles=frozenset({"auditor"})))
    with pytest.raises(ForbiddenError, match="mel to start"):
        act("start", Login(), who="mel")


@pytest.mark.parametrize(
    "login",
    [
        Login(amr=("pwd",)),
        Login(amr=("otp",)),
        Login(amr=()),
        Login(auth_time=99.0),
        Login(auth_time=1001.0),
        Login(auth_time=float("nan")),
        Login(auth_time=float("-inf")),
    ],
)
def test_release_asks_for_a_newer_or_stronger_login(login):
    act("release", Login())
    act("release", Login(amr=("pwd", "otp"), auth_time=100.0))
    with pytest.raises(StepUpError):
        act("release", login)


def test_release_without_a_person_is_refused_where_people_log_in():
    with pytest.raises(StepUpError):
        act("release", Login(), headers=())
    act("start", Login(), headers=())


def test_a_token_that_does_not_count_is_refused_even_where_none_is_needed():
    with pytest.raises(LoginError, match="stolen"):
        act("start", LoginError("stolen"))
    with pytest.raises(LoginError, match="do not log in"):
        check("POST", "/v1/tasks", "arran", headers=TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "DPoP abc"},
        {"dpop": "abc"},
        {"authorization": "Bearer abc", "dpop": "x"},
        {"authorization": "DPoP ", "dpop": "x"},
        {"authorization": "DPoP", "dpop": "x"},
        {"authorization": "DPoP " + "x" * 9000, "dpop": "x"},
        {"authorization": "", "dpop": ""},
    ],
)
def test_half_a_token_is_none(headers):
    with pytest.raises(LoginError):
        credentials(headers)


def test_no_token_is_no_person():
    assert credentials({}) is None
    assert credentials({"authorization": "dpop abc", "dpop": "def"}) == ("abc", "def")


def test_a_refused_login_is_told_what_would_be_enough():
    app = create_app(lambda _: None)
    app.state.hub = state(
        people=People(Login()), authentication=SimpleNamespace(check=lambda *_, **__: CALLERS["ada"], challenge="")
    )
    sent = []

    async def receive():
        return {"type": "http.request", "body": encoded({"action": "release"}), "more_body": False}

    async def send(message):
        sent.append(message)

    path = f"/v1/studies/{STUDY}/actions"
    asyncio.run(app({**request("POST", path).scope, "root_path": ""}, receive, send))
    assert sent[0]["status"] == 401
    assert dict(sent[0]["headers"])[b"www-authenticate"].startswith(b"DPoP error=")


def test_further_addresses_are_decided_on_too():
    async def handler(_request, _state, _caller, _body):
        raise AssertionError("reached")

    more = [route.signed("POST", "/v1/extra", "change_policy", handler)]
    app = create_app(lambda _: None, more)
    app.state.hub = state(authentication=SimpleNamespace(check=lambda *_, **__: CALLERS["olga"], challenge=""))
    assert asked_of(app, "POST", "/v1/extra")[0] == 403


def test_routes_made_elsewhere_are_admitted_by_the_same_policies():
    on = state(authentication=SimpleNamespace(check=lambda *_, **__: CALLERS["arran"]))
    assert route.admit(request("POST", "/kbs/v0/auth"), on, "attest", resources.OWN_KEY, b"").name == "arran"
    route.permit(request("POST", "/v1/renewals"), on, CALLERS["ada"], "renew", resources.OWN_KEY)
    route.permit(request("GET", "/people/authorize"), on, None, "log_in")
    with pytest.raises(ForbiddenError):
        route.permit(request("POST", "/v1/renewals"), on, None, "renew", resources.OWN_KEY)
    on.authentication = SimpleNamespace(check=lambda *_, **__: CALLERS["ada"])
    with pytest.raises(ForbiddenError):
        route.admit(request("POST", "/kbs/v0/auth"), on, "attest", resources.OWN_KEY, b"")


def test_an_attested_machine_is_told_apart():
    strict = shipped.hub(
        '@id("proven") @says("Only proven builds.") forbid (principal, action == Action::"take_task", resource)'
        " unless { context.attested };"
    )
    check("POST", "/v1/tasks", "arran", on=state(authorizer=strict, is_attested=lambda name: name == "arran"))
    with pytest.raises(ForbiddenError):
        check("POST", "/v1/tasks", "bute", on=state(authorizer=strict, is_attested=lambda name: name == "arran"))


def test_an_address_names_one_action_of_the_schema():
    for one in ADDRESSES:
        if isinstance(one.action, str):
            assert f'action "{one.action}"' in shipped.schema(), one.path
    assert replace(ADDRESSES[0]).action == "read_health"
