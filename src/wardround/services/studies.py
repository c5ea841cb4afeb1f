"""The hub's side of a study: proposals, decisions, runs started and ended."""

import threading
from collections.abc import Callable
from contextlib import suppress

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import (
    CodecError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PeerProtocolError,
    SignatureError,
)
from wardround.ids import Digest, SiteId, StudyId, digest_name
from wardround.ports import Blobs, Clock, EventLog
from wardround.protocol import events as happened
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol import study as studies
from wardround.protocol.agenda import quorum_of
from wardround.protocol.events import StudyEvent, StudyProposed
from wardround.protocol.messages import Audit, Decision, Proposal, StudyStatus
from wardround.protocol.plan import CodePackage, Plan, SignedPlan
from wardround.protocol.run import Phase as RunPhase
from wardround.protocol.run import Run
from wardround.protocol.study import Phase, Study
from wardround.services.combine import check_file
from wardround.services.coordinator import Coordinator

__all__ = ["Studies"]

_RETRIES = 8


class Studies:
    """All studies of one hub. Its methods may be called from several threads.

    `key_of` gives the enrolled public key of a name; `changed` is called with the names of all whom a
    change concerns.
    """

    def __init__(
        self,
        log: EventLog,
        blobs: Blobs,
        clock: Clock,
        *,
        key_of: Callable[[SiteId], signing.PublicKey],
        coordinator: Callable[[], Coordinator],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._log, self._blobs, self._clock = log, blobs, clock
        self._key_of, self._coordinator, self._changed = key_of, coordinator, changed
        self._lock = threading.RLock()
        self._plans: dict[StudyId, Plan] = {}

    def propose(self, sender: SiteId, proposal: Proposal) -> StudyStatus:
        """Take a researcher's signed plan; the same plan again is answered with where its study is.

        Raises:
            ForbiddenError: Somebody else's plan.
            SignatureError: Not signed by the researcher.
            CodecError: No plan that a run could follow, an initial model that is not the plan's, or already expired.
            PeerProtocolError: The initial model or code package was not uploaded first.
        """
        signed = proposal.signed
        if signed.researcher != sender:
            raise ForbiddenError(f"{sender} may not propose a plan of {signed.researcher}")
        plan = plans.verify(signed, self._key_of(sender))
        study = StudyId(canonical.digest(signed.plan))
        if plan.expires <= self._clock.now():
            raise CodecError("the plan has expired already; set a later expiry")
        needed = [plan.initial] + ([plan.model.package] if isinstance(plan.model, CodePackage) else [])
        missing = [ref.digest[:16] for ref in needed if not self._blobs.has(ref.digest)]
        if missing:
            raise PeerProtocolError(f"upload the blobs that the plan names first: {', '.join(missing)}…")
        if any(self._blobs.size(ref.digest) != ref.size for ref in needed):
            raise CodecError("a blob that the plan names has another size than the plan says")
        check_file(self._blobs, plan.initial, plan.manifest)
        if not self._log.read(f"study:{study}"):
            self._keep(study, signed)
            proposed = StudyProposed(
                at=self._clock.now(),
                study=study,
                title=plan.title,
                researcher=plan.researcher,
                participants=plan.participants,
                min_participants=quorum_of(plan),
                expires=plan.expires,
                audits=plan.audits,
            )
            # A conflict means that the same plan was sent twice at once.
            with suppress(ConflictError):
                self._log.append(f"study:{study}", [happened.encode(proposed)], after=0)
            self._changed()
        return self.status(study)

    def decide(self, sender: SiteId, decision: Decision) -> StudyStatus:
        """Take a site's signed decision; a run starts or a site leaves where that follows.

        Raises:
            ForbiddenError: Not this site's decision, or not a participant.
            SignatureError: Not signed by the site's key.
            PeerProtocolError: The study has ended, or the site decided otherwise before.
            NotFoundError: There is no such study.
        """
        if decision.site != sender:
            raise ForbiddenError(f"{sender} may not decide for {decision.site}")
        self._verify(decision.signature, messages.decision_bytes(decision), sender, "decision")
        document = canonical.encode(decision)
        study = self._change(decision.study, lambda study, now: studies.decide(study, decision, document, now))
        self._settle(study)
        return self.status(decision.study)

    def audit(self, sender: SiteId, audit: Audit) -> StudyStatus:
        """Take what a site's audit of the last run's model came to.

        Raises:
            ForbiddenError: Not this site's audit, or not a participant.
            SignatureError: Not signed by the site's key.
            PeerProtocolError: Of another model than the last run's, or there is none to audit.
            NotFoundError: There is no such study.
        """
        if audit.site != sender:
            raise ForbiddenError(f"{sender} may not audit for {audit.site}")
        self._verify(audit.signature, messages.audit_bytes(audit), sender, "audit")
        document = canonical.encode(audit)
        self._change(audit.study, lambda study, now: studies.audit(study, audit, document, now))
        return self.status(audit.study)

    def start(self, sender: SiteId, study_id: StudyId) -> StudyStatus:
        """Start the study with those who approved so far.

        Raises:
            ForbiddenError: Not the researcher.
            PeerProtocolError: Too few approvals, or nothing to start.
            NotFoundError: There is no such study.
        """
        self._only_researcher(sender, study_id)
        self._settle(self._change(study_id, studies.start))
        return self.status(study_id)

    def finish(self, sender: SiteId, study_id: StudyId, outcome: Phase, reason: str) -> StudyStatus:
        """Release the evaluated study's model, or withdraw the study.

        Raises:
            ForbiddenError: Not the researcher.
            PeerProtocolError: Only an evaluated study can be released, and only after its audits.
            NotFoundError: There is no such study.
        """
        self._only_researcher(sender, study_id)

        def ended(study: Study, now: float) -> list[StudyEvent]:
            if outcome is Phase.RELEASED:
                return studies.release(study, reason, now)
            return studies.end(study, outcome, reason, now)

        self._settle(self._change(study_id, ended))
        return self.status(study_id)

    def run_changed(self, run: Run) -> None:
        """Note in the study how its run ended, once it has."""
        if not run.is_ended:
            return
        outcome = Phase.EVALUATED if run.phase is RunPhase.COMPLETED else Phase.STOPPED

        def ended(study: Study, now: float) -> list[StudyEvent]:
            current = study.runs and study.runs[-1] == run.terms.run and study.phase is Phase.RUNNING
            model = run.model.digest if outcome is Phase.EVALUATED else ""
            return studies.end(study, outcome, run.reason, now, model=model) if current else []

        self._change(run.terms.study, ended)

    def tick(self) -> None:
        """Expire studies, and do what a crash left undone in their runs."""
        now = self._clock.now()
        for study_id in self.all():
            study = self.state(study_id)
            if study.phase is Phase.PROPOSED and now >= study.proposed.expires:
                self._change(study_id, _expired)
            else:
                self._settle(study)

    def plan_of(self, study_id: str) -> Plan:
        """A study's verified plan.

        Raises:
            NotFoundError: There is no such study.
        """
        study = StudyId(study_id)
        if study not in self._plans:
            signed = self.signed_plan(study)
            if StudyId(canonical.digest(signed.plan)) != study:
                raise CodecError("the stored plan is not the one that the study is named after")
            self._plans[study] = canonical.decode(signed.plan, Plan)
        return self._plans[study]

    def signed_plan(self, study: StudyId) -> SignedPlan:
        """A study's plan as its researcher signed it.

        Raises:
            NotFoundError: There is no such study.
        """
        digest_name(study)
        stored = self._log.read(f"plan:{study}")
        if not stored:
            raise NotFoundError("there is no such study")
        return messages.decode(stored[0], SignedPlan)

    def all(self) -> list[StudyId]:
        """All studies, by digest."""
        return [StudyId(stream.removeprefix("study:")) for stream in self._log.streams("study:")]

    def concerning(self, name: SiteId) -> list[StudyStatus]:
        """Studies that `name` takes part in or proposed."""
        found = [self.state(study) for study in self.all()]
        mine = [study for study in found if name in (*study.proposed.participants, study.proposed.researcher)]
        return [self.status(study.proposed.study) for study in mine]

    def state(self, study: StudyId) -> Study:
        """A study's state.

        Raises:
            NotFoundError: There is no such study.
        """
        stored = self._log.read(f"study:{digest_name(study)}")
        if not stored:
            raise NotFoundError("there is no such study")
        return studies.study_of(happened.decode_study(data) for data in stored)

    def status(self, study_id: StudyId) -> StudyStatus:
        """Where a study is.

        Raises:
            NotFoundError: There is no such study.
        """
        study = self.state(study_id)
        return StudyStatus(
            study=study_id,
            title=study.proposed.title,
            phase=study.phase.value,
            decisions={site: study.verdicts.get(site, "") for site in study.proposed.participants},
            runs=study.runs,
            reason=study.reason,
            audits=studies.verdicts_of_audits(study),
            audits_needed=study.proposed.audits,
        )

    def may_read(self, name: SiteId, study: StudyId, digest: Digest) -> None:
        """Raise unless `digest` is a blob of the study's plan and `name` takes part in it.

        Raises:
            ForbiddenError: `name` does not take part.
            NotFoundError: The plan names no such blob.
        """
        plan = self.plan_of(study)
        if name not in (*plan.participants, plan.researcher):
            raise ForbiddenError(f"the study does not name {name}")
        package = plan.model.package.digest if isinstance(plan.model, CodePackage) else None
        if digest not in (plan.initial.digest, package):
            raise NotFoundError("the plan names no such blob")

    def _keep(self, study: StudyId, signed: SignedPlan) -> None:
        # It may have been kept before; Ed25519 signatures are deterministic, so it is the same.
        if not self._log.read(f"plan:{study}"):
            self._log.append(f"plan:{study}", [messages.encode(signed)], after=0)

    def _change(self, study_id: StudyId, decide: Callable[[Study, float], list[StudyEvent]]) -> Study:
        for _ in range(_RETRIES):
            with self._lock:
                study = self.state(study_id)
                new = decide(study, self._clock.now())
                if not new:
                    return study
                try:
                    data = [happened.encode(event) for event in new]
                    self._log.append(f"study:{study_id}", data, after=study.seq)
                except ConflictError:
                    continue
                for event in new:
                    study = studies.evolve(study, event)
            self._changed()
            return study
        raise ConflictError("other hubs keep writing to this study; try again")

    def _settle(self, study: Study) -> None:
        """Bring the study's last run to where the study is; what is so already stays as it is."""
        run = self._opened(study) if study.runs else None
        if run is None or run.is_ended:
            if run is not None and study.phase is Phase.RUNNING:
                self.run_changed(run)
            return
        if study.phase is Phase.WITHDRAWN:
            words = f"the researcher withdrew the study: {study.reason or 'no reason given'}"
            self._coordinator().withdraw(run.terms.run, words)
        for site in sorted(run.sites):
            if study.verdicts.get(site) == "withdraw":
                self._coordinator().leave(run.terms.run, site, study.reasons[site] or "no reason given")

    def _opened(self, study: Study) -> Run | None:
        """The study's last run, opened now if it should be and is not; None where it will never be opened."""
        last = study.runs[-1]
        try:
            return self._coordinator().state(last)
        except NotFoundError:
            if study.phase is not Phase.RUNNING:
                return None
        return self._coordinator().open_run(last, self.plan_of(study.proposed.study), study.sites)

    def _verify(self, signature: bytes, signed: bytes, sender: SiteId, what: str) -> None:
        try:
            signing.verify(signature, signed, self._key_of(sender))
        except SignatureError:
            raise SignatureError(f"the {what} is not signed by the site's key") from None

    def _only_researcher(self, sender: SiteId, study: StudyId) -> None:
        if self.state(study).proposed.researcher != sender:
            raise ForbiddenError("only the study's researcher may do this")


def _expired(study: Study, now: float) -> list[StudyEvent]:
    return studies.end(study, Phase.EXPIRED, "the plan expired before enough sites approved", now)
