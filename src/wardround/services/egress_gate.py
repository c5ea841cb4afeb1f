"""The gate: everything that a node says to its hub is looked at here, entered in the book, and only then sent.

    typed     only the messages of a hospital's node, with what its approved plan allows (`services.egress_rules`)
    sized     an update has exactly the bytes of the plan's manifest, a masked vector those of its cohort's terms
    searched  no row of the study's records and no identifier stands in it (`services.egress_scan`)
    counted   per day and per run, durably (`services.departures`)

Masked vectors are uniformly random, so what goes into the mask is searched, while it is read for masking: `reading`.
What is refused is entered too, with the reason.

Not here: what a hub can learn from honest messages, or from when they come; the two public keys of `node card`.
A worker that changes its update's file between the search and the upload is not noticed before the hub's digest.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Never

import numpy as np
import numpy.typing as npt

from wardround.aggregation import standardization
from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.errors import CodecError, EgressError, TensorMismatchError, WardroundError
from wardround.ids import Digest, RunId, StudyId, study_of
from wardround.ports import Files, HubClient
from wardround.protocol import messages
from wardround.protocol.messages import CohortAnswer, Contribution
from wardround.protocol.plan import BlobRef, Plan, statistics_manifest
from wardround.secagg.messages import Masked
from wardround.services import egress_rules
from wardround.services.departures import Departures, Sending
from wardround.services.egress_scan import Identifiers, Records, Watch

__all__ = ["Egress"]

_PIECE: Final = 256 * 1024
_FOUND = "a record, or an identifier of a patient, stands in what would leave"


@dataclass(slots=True)
class _Run:
    """What the gate knows of a run: its records, and which vectors were searched and may leave, with their sizes."""

    tables: tuple[npt.NDArray[np.float32], ...]
    identifiers: Identifiers
    statistics: bytes = b""
    indexes: dict[str, Records] = field(default_factory=dict)
    cleared: dict[Digest, int] = field(default_factory=dict)


class Egress:
    """One site's gate. `plan_of` gives an approved plan; `files` reads what is uploaded. Threads may share it."""

    def __init__(self, *, departures: Departures, files: Files, plan_of: Callable[[StudyId], Plan]) -> None:
        self.departures, self._files, self._plan_of = departures, files, plan_of
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def watch(self, run: RunId, table: StudyTable, identifiers: Iterable[str] = ()) -> None:
        """Say which records a run reads, before anything of it leaves; again is the same."""
        with self._lock:
            if run not in self._runs:
                self._runs[run] = _Run((table.features,), Identifiers(identifiers))

    def standardized(self, run: RunId, plan: Plan, statistics: bytes) -> None:
        """Say by which statistics a run's records are standardized: their rows are looked for in that form too.

        Raises:
            TensorMismatchError: These are not the contract's statistics.
        """
        known = self._known(run)
        with self._lock:
            if not statistics or known.statistics == statistics:
                return
            sums = tensors.unpack(statistics, statistics_manifest(plan.data))
            scaled = standardization.apply(known.tables[0], *standardization.mean_and_std(sums))
            known.tables, known.statistics, known.indexes = (known.tables[0], scaled), statistics, {}

    def forget(self, run: RunId) -> None:
        """Let go of a run's records."""
        with self._lock:
            self._runs.pop(run, None)

    def reading(self, run: RunId, plan: Plan, sums: npt.NDArray[np.float64]) -> Files:
        """The node's files, by which an update is searched while it is read for masking; the sums are searched now.

        Raises:
            EgressError: A record stands in the sums; from `chunks`, that one stands in the update.
        """
        known = self._known(run)
        if not self._watch(known, sums.dtype).is_clean(sums):
            self._refuse(Sending("sums to mask", 0, Digest(""), _study(run), run), _FOUND)
        dtype = tensors.flat_dtype(plan.manifest)
        update = Sending("update to mask", 0, Digest(""), _study(run), run)
        return _ScannedFiles(self._files, dtype, self._watch(known, dtype), lambda: self._refuse(update, _FOUND))

    def clear_masked(self, run: RunId, ref: BlobRef, expected_bytes: int) -> None:
        """Let a masked vector leave that was read through `reading`.

        Raises:
            EgressError: It has not the bytes of its cohort's terms.
        """
        if ref.size != expected_bytes:
            sending = Sending("masked vector", ref.size, ref.digest, _study(run), run, is_masked=True)
            self._refuse(sending, f"the cohort's terms have {expected_bytes} bytes, and this has {ref.size}")
        self._known(run).cleared = {ref.digest: ref.size}

    def pass_upload(self, scope: str, ref: BlobRef, source: int) -> None:
        """Search, count and enter a file that is about to be uploaded for a run.

        Raises:
            EgressError: It may not leave.
        """
        run = RunId(scope)
        sending = Sending("upload", ref.size, ref.digest, run=scope)
        plan = self._plan(run, sending)
        is_masked = plan.secure is not None
        sending = Sending("upload", ref.size, ref.digest, _study(run), run, is_masked=is_masked)
        known = self._known(run)
        if is_masked and known.cleared.get(ref.digest) != ref.size:
            self._refuse(sending, "only what was masked here is uploaded in this study")
        if not is_masked:
            head = tensors.header(plan.manifest)
            expected = len(head) + tensors.manifest_bytes(plan.manifest)
            if ref.size != expected or self._files.read(source, len(head)) != head:
                self._refuse(
                    sending, f"the plan's update has {expected} bytes and its arrays' header, and this has not"
                )
            pieces = self._files.chunks(
                source, len(head), ref.size, _PIECE * tensors.flat_dtype(plan.manifest).itemsize
            )
            self._search(known, plan, pieces, sending)
            known.cleared = {ref.digest: ref.size}
        self.departures.enter(sending)

    def pass_message(self, message: object, expected: type, *, run: str = "", study: str = "", number: int = 0) -> None:
        """Check, search, count and enter a message of the `expected` type that is about to be sent.

        Raises:
            EgressError: It may not leave.
        """
        kind = egress_rules.KINDS.get(type(message), "unknown")
        sending = Sending(kind, 0, Digest(""), study or run.partition(".")[0], run, number)
        plan = self._plan(RunId(run), sending) if run and not egress_rules.says_nothing(message) else None
        words = egress_rules.offence(message, plan) if type(message) is expected else "another type is sent here"
        if words or not isinstance(message, egress_rules.Outgoing):
            self._refuse(sending, words or "a node sends no such message")
        body = messages.encode(message)
        read = egress_rules.told(message)
        sending = Sending(
            kind,
            len(body),
            canonical.digest(body),
            sending.study,
            run,
            number,
            read.fields,
            read.numbers,
            is_masked=isinstance(message, CohortAnswer) and isinstance(message.answer, Masked),
            is_spare=egress_rules.says_nothing(message),
        )
        self._check_content(message, plan, read, sending)
        self.departures.enter(sending)

    def check_names(self, words: str, check: Callable[[], object]) -> None:
        """Refuse to ask the hub by a name that is none: nothing else than names rides in such a request.

        Raises:
            EgressError: It is no such name.
        """
        try:
            check()
        except CodecError:
            self.refuse(f"a request for {words} holds what is no name of one")

    def refuse(self, why: str) -> Never:
        """Enter that something of no kind that a node sends was held back.

        Raises:
            EgressError: Always.
        """
        self._refuse(Sending("request", 0, Digest("")), why)

    def _check_content(
        self, message: egress_rules.Outgoing, plan: Plan | None, read: egress_rules.Told, sending: Sending
    ) -> None:
        known = self._runs.get(sending.run)
        everybody = [known.identifiers] if known else [one.identifiers for one in list(self._runs.values())]
        if any(one.in_text(text) for one in everybody for text in read.texts):
            self._refuse(sending, _FOUND)
        is_masked = isinstance(message, CohortAnswer) and isinstance(message.answer, Masked)
        if egress_rules.says_nothing(message) or not (is_masked or isinstance(message, Contribution)):
            return
        known = self._known(RunId(sending.run), sending)
        if isinstance(message, CohortAnswer) and isinstance(message.answer, Masked):
            if Digest(message.answer.digest.hex()) not in known.cleared:
                self._refuse(sending, "only what was masked here is answered in this study")
            return
        if not isinstance(message, Contribution):
            return
        numbers = np.array([value for value in read.numbers.values() if value is not None], np.float64)
        if not self._watch(known, numbers.dtype).is_clean(numbers):
            self._refuse(sending, _FOUND)
        if message.update_inline and plan is not None:
            self._search_inline(known, message, plan, sending)
        elif message.update is not None and known.cleared.get(message.update.digest) != message.update.size:
            self._refuse(sending, "it names an update that was not searched here")

    def _search_inline(self, known: _Run, message: Contribution, plan: Plan, sending: Sending) -> None:
        manifest = statistics_manifest(plan.data) if message.kind == "statistics" else plan.manifest
        try:
            tensors.check_header(message.update_inline, manifest)
        except TensorMismatchError as error:
            self._refuse(sending, f"the update is not the plan's: {error}")
        vector = np.frombuffer(
            message.update_inline, tensors.flat_dtype(manifest), offset=len(tensors.header(manifest))
        )
        if not self._watch(known, vector.dtype).is_clean(vector):
            self._refuse(sending, _FOUND)

    def _search(self, known: _Run, plan: Plan, pieces: Iterable[memoryview], sending: Sending) -> None:
        dtype = tensors.flat_dtype(plan.manifest)
        watch = self._watch(known, dtype)
        for piece in pieces:
            if not watch.is_clean(np.frombuffer(piece, dtype)):
                self._refuse(sending, _FOUND)

    def _watch(self, known: _Run, dtype: np.dtype[np.floating]) -> Watch:
        with self._lock:
            kind = "float32" if dtype.itemsize > 2 else dtype.name
            if kind not in known.indexes:
                known.indexes[kind] = Records(known.tables, dtype)
            return Watch(known.indexes[kind], known.identifiers)

    def _known(self, run: RunId, sending: Sending | None = None) -> _Run:
        known = self._runs.get(run)
        if known is None:
            words = "the gate was not told which records this run reads"
            self._refuse(sending or Sending("unknown", 0, Digest(""), _study(run), run), words)
        return known

    def _plan(self, run: RunId, sending: Sending) -> Plan:
        try:
            return self._plan_of(study_of(run))
        except WardroundError as error:
            self._refuse(sending, f"no approved plan asks for it ({error.code})")

    def _refuse(self, sending: Sending, why: str) -> Never:
        self.departures.refuse(sending, why)
        raise EgressError(f"{sending.kind}: {why}; nothing was sent. `wardround node left` shows what left")


class _ScannedFiles:
    """`wardround.ports.Files` that searches what its `chunks` give before it gives it; made by `Egress.reading`."""

    def __init__(self, files: Files, dtype: np.dtype[np.floating], watch: Watch, refuse: Callable[[], Never]) -> None:
        self._files, self._dtype, self._watch, self._refuse = files, dtype, watch, refuse

    def chunks(self, descriptor: int, start: int, stop: int, size: int) -> Iterator[memoryview]:
        """See `wardround.ports.Files`."""
        for chunk in self._files.chunks(descriptor, start, stop, size):
            if not self._watch.is_clean(np.frombuffer(chunk, self._dtype)):
                self._refuse()
            yield chunk

    def fetch(self, ref: BlobRef, scope: str, hub: HubClient, inline: bytes) -> str:
        """See `wardround.ports.Files`."""
        return self._files.fetch(ref, scope, hub, inline)

    def bytes_of(self, path: str) -> bytes:
        """See `wardround.ports.Files`."""
        return self._files.bytes_of(path)

    def keep_only(self, scope: str, digests: frozenset[Digest]) -> None:
        """See `wardround.ports.Files`."""
        self._files.keep_only(scope, digests)

    def read(self, descriptor: int, size: int) -> bytes:
        """See `wardround.ports.Files`."""
        return self._files.read(descriptor, size)

    def remember(self, scope: str, number: int, descriptor: int) -> None:
        """See `wardround.ports.Files`."""
        self._files.remember(scope, number, descriptor)

    def recall(self, scope: str, number: int, descriptor: int) -> Digest:
        """See `wardround.ports.Files`."""
        return self._files.recall(scope, number, descriptor)

    def forget(self, scope: str, *, but_the_last: bool = False) -> None:
        """See `wardround.ports.Files`."""
        self._files.forget(scope, but_the_last=but_the_last)

    def keep(self, scope: str, pieces: Iterable[memoryview]) -> tuple[int, BlobRef]:
        """See `wardround.ports.Files`."""
        return self._files.keep(scope, pieces)


def _study(run: str) -> str:
    return run.partition(".")[0]
