"""Which bytes a run refers to and which it waits for, small ones inside messages; and what is shown of it."""

from collections.abc import Callable, Sequence

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError, PeerProtocolError
from wardround.ids import Digest, RunId, SiteId, study_of
from wardround.ports import Blobs
from wardround.protocol import events as happened
from wardround.protocol import run as runs
from wardround.protocol.events import RunTerms
from wardround.protocol.messages import INLINE_BYTES, Contribution, Kind, RunStatus, Task
from wardround.protocol.plan import BlobRef, CodePackage, Plan, statistics_manifest
from wardround.protocol.run import Run
from wardround.services.combine import check_file

__all__ = ["RunBlobs", "is_wanted", "named", "references", "size_of"]

_MOST_EVENTS = 1000


class RunBlobs:
    """Reads what belongs to a run from the blob store, and puts small things there."""

    def __init__(self, blobs: Blobs, plan_of: Callable[[str], Plan]) -> None:
        self._blobs, self._plan_of = blobs, plan_of

    def with_bytes(self, task: Task) -> Task:
        """The task with its small blobs inline."""
        return msgspec.structs.replace(
            task,
            base_inline=self._small(task.base),
            standardization_inline=self._small(task.standardization) if task.standardization else b"",
            control_inline=self._small(task.control) if task.control else b"",
        )

    def stored(self, site: SiteId, contribution: Contribution, state: Run) -> Contribution:
        """The contribution with its inline bytes put into the blob store."""
        inline, ref = contribution.update_inline, contribution.update
        if not inline:
            return contribution
        if ref is None or ref.size != len(inline) or canonical.digest(inline) != ref.digest:
            raise PeerProtocolError("the inline update is not the one that the message names")
        if is_wanted(state, site, contribution):
            self._blobs.put(inline)
        return msgspec.structs.replace(contribution, update_inline=b"")

    def flaw(self, ref: BlobRef, contribution: Contribution) -> str:
        """What is wrong with the update's bytes, in words, or nothing."""
        plan = self._plan_of(study_of(contribution.run))
        manifest = plan.manifest if contribution.kind == "train" else statistics_manifest(plan.data)
        try:
            if self._blobs.size(ref.digest) != ref.size:
                return "the update has another size than the message says"
            check_file(self._blobs, ref, manifest)
        except CodecError as error:
            return str(error)
        return ""

    def status(self, state: Run, stored: Sequence[bytes], after: int) -> RunStatus:
        """Where a run is, with its events after seq `after`, at most a thousand of them."""
        return RunStatus(
            run=state.terms.run,
            phase=state.phase.value,
            round=state.round.number if state.round else 0,
            rounds=len(state.terms.agenda),
            model=state.model,
            standardization=state.standardization,
            findings=state.findings,
            reason=state.reason,
            events=self.shown(state.terms.run, stored[:_MOST_EVENTS]),
            last_seq=after + min(len(stored), _MOST_EVENTS),
        )

    def shown(self, run: RunId, stored: Sequence[bytes]) -> tuple[dict[str, object], ...]:
        """Stored events for whoever follows a run; without digests of updates that only the hub may know.

        Before central noise is added, whoever can guess a site's records could see by a digest that they are right.
        """
        privacy = self._plan_of(study_of(run)).privacy
        found = [happened.plain(data) for data in stored]
        if privacy is None or privacy.noise != "central":
            return tuple(found)
        for event in found:
            if isinstance(update := event.get("update"), dict):
                update["digest"] = ""
        return tuple(found)

    def _small(self, ref: BlobRef) -> bytes:
        return bytes(self._blobs.read(ref.digest, 0, ref.size)) if ref.size <= INLINE_BYTES else b""


def size_of(terms: RunTerms, kind: Kind) -> int:
    """Bytes of an update's file in a round of this kind, where updates are sent as they are."""
    return {"statistics": terms.statistics_size, "train": terms.update_size}.get(kind, 0)


def is_wanted(state: Run, site: SiteId, contribution: Contribution) -> bool:
    """Whether the run waits for such an update from this site, so that its bytes must be read."""
    kind, ref = runs.awaits(state, site, contribution.number), contribution.update
    if kind is None or state.terms.secure or kind != contribution.kind:
        return False
    return ref is not None and ref.size == size_of(state.terms, kind) > 0


def references(run: Run) -> set[Digest]:
    """The blobs of the run's present model, of those that late updates start from, of its findings and server rule."""
    refs = (run.model, *run.bases.values(), *run.server_state, run.standardization, *run.findings.values())
    return {ref.digest for ref in refs if ref is not None}


def named(plan: Plan) -> set[Digest]:
    """The blobs that a plan names."""
    package = {plan.model.package.digest} if isinstance(plan.model, CodePackage) else set()
    return {plan.initial.digest} | package
