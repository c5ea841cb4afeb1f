"""A sceptical site checks a secure run: one list for all, its own vector in it, and a plan that it approved."""

from dataclasses import dataclass

from wardround.crypto import signing
from wardround.errors import PeerProtocolError, PolicyError, WardroundError
from wardround.ids import RunId, SiteId, study_of
from wardround.node.setup import Node
from wardround.secagg import opening, terms
from wardround.secagg.opening import Evidence

__all__ = ["Checked", "verify"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found about one cohort, in words; `holds` is false where something is wrong."""

    number: int
    cohort: int
    holds: bool
    finding: str


def verify(node: Node, run: str) -> list[Checked]:
    """Check every cohort of a run that was opened, from the hub's signed transcripts and this site's own memory.

    Raises:
        PolicyError: This site has never approved the run's study.
        SignatureError: The study's roster is not signed by this site's officers.
        UnavailableError: The hub did not answer.
    """
    name = RunId(run)
    plan, _, _ = node.approvals.review(study_of(name))
    if not any(one.study == study_of(name) and one.verdict != "refuse" for one in node.approvals.decisions()):
        raise PolicyError("nobody at this site has approved this run's study")
    if plan.secure is None:
        return []
    members = node.membership.roster(plan.secure.roster).members
    keys = {one.site: signing.load_public(one.identity) for one in members}
    found: list[Checked] = []
    after = 0
    while (status := node.hub.run(name, after=after)).events:
        after = status.last_seq
        opened = [event for event in status.events if event["event"] == "cohort-opened"]
        found += [_checked(node, name, int(str(one["number"])), int(str(one["cohort"])), keys) for one in opened]
    return found


def _checked(node: Node, run: RunId, number: int, cohort: int, keys: dict[SiteId, signing.PublicKey]) -> Checked:
    try:
        evidence = node.hub.evidence(run, number, cohort)
        opening.check_evidence(evidence, keys)
        finding = _own(node, run, number, cohort, evidence)
    except WardroundError as error:
        return Checked(number, cohort, holds=False, finding=f"WRONG: {error}")
    return Checked(number, cohort, holds=True, finding=finding)


def _own(node: Node, run: RunId, number: int, cohort: int, evidence: Evidence) -> str:
    """What the transcript says about this site.

    Raises:
        PeerProtocolError: It is another cohort's, or names another vector of this site than the one it sent.
    """
    agreed, site = evidence.terms, node.config.name
    if (agreed.run, agreed.number, agreed.attempt) != (run, number, cohort):
        raise PeerProtocolError("the hub gave another cohort's transcript")
    sent = node.membership.sent(run, number, cohort)
    listed = {entry.site: entry.digest for entry in evidence.survivors}
    count = f"{len(evidence.agreements)} of {len(agreed.members)} members signed one list of {len(listed)}"
    if sent is None:
        if site in listed:
            raise PeerProtocolError("it lists a vector of this site, which has sent none")
        return f"{count}; this site sent nothing"
    if sent[0] != terms.transcript(agreed):
        raise PeerProtocolError("its terms are not those that this site entered with")
    if site not in listed:
        return f"{count}; this site's vector came too late and is not among them"
    if listed[site] != sent[1]:
        raise PeerProtocolError("it lists another vector of this site than the one it sent")
    return f"{count}; this site's vector is among them"
