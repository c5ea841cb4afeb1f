"""Every error has one status, its own code as type, and says who must act."""

import msgspec
import pytest

from wardround import errors
from wardround.errors import WrongChallengeError
from wardround.hub.problem import problem_of, response
from wardround.protocol.messages import Problem

STATUS = {
    "storage/full": 507,
    "unavailable": 503,
    "unavailable/conflict": 409,
    "protocol/not-found": 404,
    "protocol/forbidden": 403,
    "protocol/invite": 403,
    "protocol/login": 401,
    "protocol/step-up": 401,
    "protocol/peer": 409,
    "crypto": 401,
    "crypto/signature": 401,
    "crypto/stale-request": 401,
    "crypto/challenge": 401,
    "crypto/digest-mismatch": 422,
    "crypto/audit": 422,
    "crypto/attestation": 403,
    "codec": 400,
    "codec/package": 400,
    "codec/tensor-mismatch": 422,
    "policy": 403,
    "policy/budget": 403,
    "policy/ledger": 403,
    "policy/sandbox": 403,
    "policy/egress": 403,
}


@pytest.mark.parametrize("kind", errors.all_errors(), ids=lambda kind: kind.code)
def test_every_error_becomes_a_problem(kind: type[errors.WardroundError]) -> None:
    problem = problem_of(kind("what to do"), now=12.5)
    assert problem.type == kind.code
    assert problem.who == kind.who
    assert problem.title
    assert problem.hub_time == 12.5
    assert problem.status == STATUS.get(kind.code, 500)


def test_what_is_the_peers_to_know_is_told() -> None:
    assert problem_of(errors.ForbiddenError("a site may not do this"), now=0.0).detail == "a site may not do this"


@pytest.mark.parametrize("kind", [errors.WardroundError, errors.LocalProtocolError, errors.ConfigError])
def test_what_went_wrong_inside_is_not_told(kind: type[errors.WardroundError]) -> None:
    problem = problem_of(kind("/var/lib/wardround/hub.sqlite is broken"), now=0.0)
    assert problem.status == 500
    assert "sqlite" not in problem.detail


def test_the_answer_is_problem_json() -> None:
    problem = problem_of(WrongChallengeError("sign again"), now=1.0, challenge="abc")
    answer = response(problem)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert msgspec.json.decode(answer.body, type=Problem) == problem
    assert problem.challenge == "abc"


def test_only_a_login_that_is_not_enough_is_told_what_would_be() -> None:
    for kind in errors.all_errors():
        answer = response(problem_of(kind("x"), now=1.0), login="DPoP max_age=900")
        assert ("www-authenticate" in answer.headers) is (kind is errors.StepUpError)
