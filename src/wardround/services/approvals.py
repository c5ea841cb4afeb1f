"""The node's side of a study's life: what its people see, decide and have decided.

A decision, or what an audit came to, is signed by the node's key and kept in the vault before it is sent. A decision
binds the exact bytes of the plan: the study's name is their digest. `approved_plan` is the only way to a plan that may
run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.errors import DigestMismatchError, PolicyError
from wardround.ids import CommandId, Digest, RunId, SiteId, StudyId, digest_name, study_of
from wardround.ports import Clock, HubClient, Vault
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol import policy as policies
from wardround.protocol.messages import Audit, Decision, StudyStatus
from wardround.protocol.plan import Plan, SignedPlan
from wardround.protocol.policy import SitePolicy
from wardround.services.circumstances import LoggedIn, shown

__all__ = ["Approvals", "Verdict"]

Verdict = Literal["approve", "refuse", "withdraw"]


@dataclass(frozen=True, slots=True)
class _Checked:
    """An approved plan, and the bytes that it follows from."""

    decision: bytes
    signed: bytes
    plan: Plan


class Approvals:
    """One site's decisions about studies.

    `allowed_code` are the packages that its people have reviewed and allowed; `authorize` raises where a person may not
    decide so about a study; `record` writes a decision down before it is kept, and where it raises, it is not.
    """

    def __init__(
        self,
        site: SiteId,
        *,
        key: signing.PrivateKey,
        authority: bytes,
        hub: HubClient,
        vault: Vault,
        policy: SitePolicy,
        clock: Clock,
        allowed_code: Callable[[], frozenset[Digest]] = frozenset,
        authorize: Callable[[LoggedIn | str, Verdict, StudyId, Plan], None] = lambda *_: None,
        record: Callable[[StudyId, Verdict, LoggedIn | str], None] = lambda *_: None,
    ) -> None:
        self._authorize, self._record = authorize, record
        self._site, self._key, self._authority = site, key, authority
        self._hub, self._vault, self._clock = hub, vault, clock
        self._listed, self._allowed_code = policy, allowed_code
        self._checked: dict[StudyId, _Checked] = {}

    def review(self, study: StudyId) -> tuple[Plan, list[str], list[str]]:
        """Fetch and check a plan: the plan, what it will do in plain words, and the policy's objections.

        Raises:
            DigestMismatchError: The hub sent another plan than the one asked for.
            SignatureError: It is not signed by its researcher.
        """
        plan = self._verified(study, self._hub.plan(study))
        return plan, policies.explain(plan), policies.refusals(self._policy, plan, self._site, self._clock.now())

    def decide(self, study: StudyId, verdict: Verdict, *, person: LoggedIn | str, reason: str) -> StudyStatus:
        """Sign, keep and send what the site's people decided; a plain name is of somebody who did not log in.

        A refusal or withdrawal holds at this site from the moment it is kept, whatever the hub answers.

        Raises:
            PolicyError: The site's policy does not allow approving this plan, or this person may not decide so.
            LoginError: People log in here, and this one has not, or not as this takes.
            DigestMismatchError: The hub sent another plan than the one asked for.
            SignatureError: It is not signed by its researcher.
        """
        signed = self._signed(study, again=verdict == "approve")
        plan = self._verified(study, signed) if verdict == "approve" else canonical.decode(signed.plan, Plan)
        self._authorize(person, verdict, study, plan)
        if verdict == "approve":
            policies.check(self._policy, plan, self._site, self._clock.now())
        self._record(study, verdict, person)
        if verdict == "approve":
            self._vault.put(f"plan.{study}", messages.encode(signed))
        now = self._clock.now()
        command = CommandId(canonical.digest(f"{study} {self._site} {verdict}".encode()))
        fields = {"study": study, "site": self._site, "verdict": verdict, "person": shown(person), "reason": reason}
        decision = msgspec.convert({**fields, "command": command, "decided_at": now}, Decision)
        signature = signing.sign(messages.decision_bytes(decision), self._key)
        decision = msgspec.structs.replace(decision, signature=signature)
        self._vault.put(f"decision.{study}", messages.encode(decision))
        return self._hub.decide(decision)

    def hand_in_audit(self, run: RunId, model: Digest, report: Digest, *, passed: bool, person: str) -> StudyStatus:
        """Sign, keep and send what this site's audit of a run's last model came to.

        Raises:
            PeerProtocolError: It is not the last run's model, or the study is over or has none yet.
        """
        study = study_of(run)
        command = CommandId(canonical.digest(f"{run} {self._site} {model} {passed} {report}".encode()))
        audit = Audit(
            command=command,
            study=study,
            run=run,
            site=self._site,
            model=model,
            passed=passed,
            report=report,
            person=person,
            audited_at=self._clock.now(),
        )
        audit = msgspec.structs.replace(audit, signature=signing.sign(messages.audit_bytes(audit), self._key))
        self._vault.put(f"audit.{study}", messages.encode(audit))
        return self._hub.audit(audit)

    def approved_plan(self, study: StudyId) -> Plan:
        """The plan that this site's people approved, checked anew against digest, policy and expiry.

        Raises:
            PolicyError: Nobody approved it here, the approval was taken back, or the policy forbids it now.
            DigestMismatchError: The kept plan is not the one that the study is named after.
        """
        kept, stored = self._vault.get(f"decision.{digest_name(study)}"), self._vault.get(f"plan.{study}")
        # What is kept may change at any time, the plan that follows from the same bytes does not.
        known = self._checked.get(study)
        if known is None or (known.decision, known.signed) != (kept, stored):
            known = self._check(study, kept, stored)
            self._checked[study] = known
        policies.check(self._policy, known.plan, self._site, self._clock.now())
        return known.plan

    def _check(self, study: StudyId, kept: bytes | None, stored: bytes | None) -> "_Checked":
        decision = messages.decode(kept, Decision) if kept else None
        if kept is None or decision is None or decision.verdict != "approve":
            raise PolicyError("nobody at this site approved this plan; `wardround node review` shows it")
        signing.verify(decision.signature, messages.decision_bytes(decision), self._key.public_key())
        if stored is None:
            raise PolicyError("the approved plan is not kept here; approve it again")
        signed = messages.decode(stored, SignedPlan)
        _check_digest(study, signed)
        plan = canonical.decode(signed.plan, Plan)
        plans.check(plan)
        return _Checked(kept, stored, plan)

    def decisions(self) -> list[Decision]:
        """Every decision kept at this site."""
        values = [self._vault.get(name) for name in self._vault.names("decision.")]
        return [messages.decode(value, Decision) for value in values if value]

    def key_of_researcher(self, name: SiteId) -> signing.PublicKey:
        """The key of an enrolled researcher.

        Raises:
            CryptoError: The certificate is not the authority's, or not valid now.
            PolicyError: It is not a researcher's, or another's.
        """
        identity = self._hub.identity(name)
        found, role, key = certificate.open_identity(identity.certificate, self._authority, self._clock.now())
        if found != name or role != "researcher":
            raise PolicyError("the plan is not signed by an enrolled researcher")
        return key

    @property
    def _policy(self) -> SitePolicy:
        """The site's policy with the code that its people have allowed since it was written."""
        listed = self._listed
        return msgspec.structs.replace(listed, code_digests=(*listed.code_digests, *sorted(self._allowed_code())))

    def _signed(self, study: StudyId, *, again: bool) -> SignedPlan:
        """The study's plan: as the hub has it now, or as it is kept here, so that nobody needs a hub to withdraw."""
        kept = None if again else self._vault.get(f"plan.{digest_name(study)}")
        signed = messages.decode(kept, SignedPlan) if kept else self._hub.plan(study)
        _check_digest(study, signed)
        return signed

    def _verified(self, study: StudyId, signed: SignedPlan) -> Plan:
        _check_digest(study, signed)
        return plans.verify(signed, self.key_of_researcher(signed.researcher))


def _check_digest(study: StudyId, signed: SignedPlan) -> None:
    if canonical.digest(signed.plan) != digest_name(study):
        raise DigestMismatchError("these are not the bytes of the plan that was approved; it was changed")
