"""`GuardedHub`: a node's hub behind the gate, so that nothing is sent that was not looked at, counted and entered.

It fills `wardround.ports.HubClient` and passes every call on, once `wardround.services.egress_gate` has let it through.
A node proposes no studies and starts no runs, so it cannot. Requests that only ask carry names, and are checked to be
that.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, Literal

from wardround.errors import CodecError
from wardround.ids import Digest, RunId, SiteId, StudyId, digest_name, site_id, study_of
from wardround.ports import HubClient
from wardround.protocol.messages import (
    Assignment,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Identity,
    PairAnswer,
    Proposal,
    Receipt,
    RunStatus,
    StudyStatus,
    TaskRequest,
)
from wardround.protocol.plan import BlobRef, SignedPlan
from wardround.services import egress_rules
from wardround.services.egress_gate import Egress

__all__ = ["GuardedHub"]

_LONGEST_WAIT: Final = 600.0
_MOST_BUSY: Final = 10_000


class GuardedHub:
    """`wardround.ports.HubClient` of a hospital's node. Every call may raise `EgressError` before a byte leaves."""

    def __init__(self, hub: HubClient, egress: Egress) -> None:
        self._hub, self._egress = hub, egress

    def next_task(self, request: TaskRequest) -> Assignment | None:
        """See `wardround.ports.HubClient`; it holds names of runs that the hub gave, and is not entered."""
        self._egress.check_names("a task", lambda: _check_request(request))
        self._egress.departures.settle()  # The node has time now: the hub may hold this for a minute.
        return self._hub.next_task(request)

    def contribute(self, contribution: Contribution) -> Receipt:
        """See `wardround.ports.HubClient`."""
        self._pass(contribution, Contribution)
        return self._hub.contribute(contribution)

    def answer(self, answer: CohortAnswer) -> Receipt:
        """See `wardround.ports.HubClient`."""
        self._pass(answer, CohortAnswer)
        return self._hub.answer(answer)

    def pair(self, answer: PairAnswer) -> Receipt:
        """See `wardround.ports.HubClient`."""
        self._egress.pass_message(answer, PairAnswer)
        return self._hub.pair(answer)

    def plan(self, study: StudyId) -> SignedPlan:
        """See `wardround.ports.HubClient`."""
        self._egress.check_names("a plan", lambda: digest_name(study))
        return self._hub.plan(study)

    def identity(self, name: SiteId) -> Identity:
        """See `wardround.ports.HubClient`."""
        self._egress.check_names("an identity", lambda: site_id(name))
        return self._hub.identity(name)

    def studies(self) -> list[StudyStatus]:
        """See `wardround.ports.HubClient`."""
        return self._hub.studies()

    def decide(self, decision: Decision) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        self._egress.pass_message(decision, Decision, study=str(getattr(decision, "study", "")))
        return self._hub.decide(decision)

    def audit(self, audit: Audit) -> StudyStatus:
        """See `wardround.ports.HubClient`."""
        self._egress.pass_message(audit, Audit, study=str(getattr(audit, "study", "")))
        return self._hub.audit(audit)

    def propose(self, proposal: Proposal) -> StudyStatus:
        """Refused: a hospital's node proposes nothing.

        Raises:
            EgressError: Always.
        """
        self._egress.refuse(f"a node sends no {type(proposal).__name__}")

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str) -> StudyStatus:
        """Refused: a hospital's node starts and releases nothing.

        Raises:
            EgressError: Always.
        """
        del study, reason
        self._egress.refuse(f"a node does not {action} studies")

    def run(self, run: RunId, *, after: int = 0, wait_seconds: float = 0.0) -> RunStatus:
        """See `wardround.ports.HubClient`."""
        self._egress.check_names("a run", lambda: study_of(run))
        return self._hub.run(run, after=after, wait_seconds=wait_seconds)

    def download(self, scope: str, ref: BlobRef) -> AbstractContextManager[Iterator[memoryview]]:
        """See `wardround.ports.HubClient`."""
        self._egress.check_names("a file", lambda: _check_blob(scope, ref.digest))
        return self._hub.download(scope, ref)

    def upload(self, scope: str, ref: BlobRef, source: int) -> None:
        """See `wardround.ports.HubClient`."""
        self._egress.pass_upload(scope, ref, source)
        self._hub.upload(scope, ref, source)

    def close(self) -> None:
        """Have the last of what left noted."""
        self._egress.departures.settle()

    def _pass(self, message: Contribution | CohortAnswer, expected: type) -> None:
        # Whatever else is given in a message's place is refused by its type, before it is asked for its run.
        if type(message) is expected:
            self._egress.pass_message(message, expected, run=message.run, number=message.number)
        else:
            self._egress.pass_message(message, expected)


def _check_request(request: TaskRequest) -> None:
    if words := egress_rules.offence(request, None):
        raise CodecError(words)
    for run in (*request.busy[:_MOST_BUSY], *((request.run,) if request.run else ())):
        study_of(run)
    if len(request.busy) > _MOST_BUSY or not 0 <= request.wait_seconds <= _LONGEST_WAIT:
        raise CodecError("a task request has too many runs, or a wait that is none")


def _check_blob(scope: str, digest: Digest) -> None:
    digest_name(digest)
    if "." in scope:
        study_of(RunId(scope))
    else:
        digest_name(scope)
