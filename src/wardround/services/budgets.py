"""A site's privacy budgets: the ledgers of one dataset, kept in the node's vault, and enforced before anything runs.

Names in the vault: ``budget.<dataset>.<unit>.<seq>``, the entries, each added once; ``budget.<dataset>.<unit>.head``,
the number and hash of the last. The anchor has the same note under ``budget-<dataset>-<unit>``, outside of the vault.

    (1) An entry counts from the moment that its name is taken in the vault: of two writers, also the running node and
        the steward's command, one is told that the other was first, reads what it wrote, and decides again.
    (2) The notes are written after the entry. A crash in between leaves them behind it; the next reader brings them up.
    (3) Notes ahead of the entries, no notes, a gap or an entry that does not follow: something was removed or put
        back. Nothing is granted from such a ledger, because it may have forgotten what was spent.

References:
    `wardround.privacy.ledger` has the rules.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError, ConfigError, ConflictError, CryptoError, LedgerError
from wardround.ids import Digest, RunId, StudyId, site_id
from wardround.ports import Anchor, Clock, Vault
from wardround.privacy import accounting, ledger, ledger_entry, mechanisms, rdp
from wardround.privacy.ledger import Ledger, Run
from wardround.privacy.ledger_entry import RELATIONS, Entry, Granted
from wardround.privacy.mechanisms import Mechanism, SampledGaussian

__all__ = ["UNITS", "BudgetStatus", "Budgets", "RunSpending", "UseSpending"]

UNITS = tuple(RELATIONS)
_E = TypeVar("_E", bound=Entry | None)


class UseSpending(msgspec.Struct, frozen=True):
    """What a run may do of one kind, how often it did, and what its guarantee assumes about sampling."""

    kind: str
    mechanism: Mechanism
    used: int
    reserved: int
    sampling: str


class RunSpending(msgspec.Struct, frozen=True):
    """What a run has spent: as an epsilon for itself, and as a share of what is allowed."""

    run: RunId
    study: StudyId
    is_open: bool
    relation: str
    epsilon: float
    share: float
    uses: tuple[UseSpending, ...]


class BudgetStatus(msgspec.Struct, frozen=True):
    """Where a budget stands.

    Epsilons are for `delta`: `spent` of what was committed, `reserved` what running studies may add to it, `remaining`
    what `epsilon` is more than both. The shares are of the Rényi cost that is allowed at `order`, and are what is
    enforced: where none remains, `remaining` is 0 as well. With nothing granted all figures are 0.
    """

    dataset: str
    unit: str
    epsilon: float
    delta: float
    order: float
    spent: float
    reserved: float
    remaining: float
    spent_share: float
    reserved_share: float
    remaining_share: float
    runs: tuple[RunSpending, ...]
    entries: int
    head: Digest


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    entry: Digest


class _Known:
    """A ledger as far as this process has read it; `hashes` are its entries'."""

    def __init__(self, state: Ledger) -> None:
        self.state = state
        self.hashes: list[Digest] = []

    def take(self, entry: Entry) -> None:
        self.state = ledger.apply(self.state, entry)
        self.hashes.append(self.state.head)


class Budgets:
    """The budgets of `dataset`; may be shared by threads, and its vault and anchor by processes.

    Every method raises `LedgerError` where the ledger is not whole, `ConfigError` where there is no such unit, and
    what the vault and the anchor raise; after an error from those, the same call may be made again. `record` is told
    every entry, with the unit and the ledger before it, before it is written; where it raises, it is not written.

    Raises:
        ConfigError: A dataset is not called that.
    """

    def __init__(
        self,
        dataset: str,
        *,
        vault: Vault,
        clock: Clock,
        anchor: Anchor | None = None,
        record: Callable[[str, Ledger, Entry], None] = lambda *_: None,
    ) -> None:
        try:
            self._dataset = site_id(dataset)
        except CodecError as error:
            raise ConfigError(f"the dataset's name cannot be kept: {error}") from None
        self._vault, self._clock, self._anchor, self._record = vault, clock, anchor, record
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def grant(
        self, unit: str, epsilon: float, delta: float, *, person: str, reason: str, order: float | None = None
    ) -> Granted:
        """Set the budget, replacing the one before; what is spent stays spent.

        Raises:
            ConfigError: A figure cannot be, no order allows anything, or another order is asked for than was used.
        """
        return self._append(
            unit,
            lambda state, now: ledger.grant(
                state, now, epsilon=epsilon, delta=delta, order=order, person=person, reason=reason
            ),
        )

    def reserve(self, unit: str, run: RunId, study: StudyId, uses: Mapping[str, tuple[Mechanism, int]]) -> None:
        """Set aside the most that a run can spend: for each kind a mechanism, and how often. Again is the same.

        Raises:
            BudgetExceededError: It does not fit.
            CodecError: A mechanism or a count cannot be.
            PolicyError: The run has reserved something else, or is over.
        """
        relation = RELATIONS[_checked(unit)]
        self._append(
            unit, lambda state, now: ledger.reserve(state, now, run=run, study=study, uses=uses, relation=relation)
        )

    def commit(self, unit: str, run: RunId, kind: str, key: str) -> None:
        """Spend one reserved use; when this returns, the bytes that `key` names may be released. Again is free.

        Raises:
            BudgetExceededError: The run has none left, or the budget was lowered so far that it does not fit.
            PolicyError: The run has reserved nothing of this kind, or is over.
        """
        self._append(unit, lambda state, now: ledger.commit(state, now, run=run, kind=kind, key=key))

    def release(self, run: RunId) -> None:
        """Free what a run that is over has not spent, in every unit; runs that reserved nothing are passed over."""
        for unit in UNITS:
            self._append(unit, lambda state, now: ledger.release(state, now, run=run))

    def status(self, unit: str) -> BudgetStatus:
        """Where the budget stands."""
        state = self._read(unit).state
        runs = list(state.runs.values())
        spent = _epsilon(ledger.committed_costs(runs), state)
        promised = _epsilon(ledger.promised_costs(runs), state)
        return BudgetStatus(
            dataset=self._dataset,
            unit=unit,
            epsilon=state.epsilon,
            delta=state.delta,
            order=state.order,
            spent=spent,
            reserved=promised - spent,
            remaining=max(0.0, state.epsilon - promised) if state.left else 0.0,
            spent_share=_share(state.spent, state),
            reserved_share=_share(state.reserved, state),
            remaining_share=_share(state.left, state),
            runs=tuple(_spending(name, run, state, unit) for name, run in state.runs.items()),
            entries=state.seq,
            head=state.head,
        )

    def delta(self, unit: str) -> float:
        """The delta of the budget: 0 before there is one."""
        return self._read(unit).state.delta

    def tight_epsilon(self, unit: str) -> float | None:
        """The least epsilon of all that was committed, for people; None where dp-accounting is not installed.

        It holds for mechanisms that were fixed beforehand, so it informs, and nothing is enforced by it.
        """
        state = self._read(unit).state
        counts: dict[Mechanism, int] = {}
        for run in state.runs.values():
            for kind, use in run.uses.items():
                once = msgspec.structs.replace(use.mechanism, steps=1)
                counts[once] = counts.get(once, 0) + use.mechanism.steps * len(run.keys[kind])
        found = [
            msgspec.structs.replace(once, steps=min(mechanisms.MAX_STEPS, count - done))
            for once, count in counts.items()
            for done in range(0, count, mechanisms.MAX_STEPS)
        ]
        if not found:
            return 0.0
        try:
            return accounting.tight_epsilon(found, state.delta)
        except ConfigError:
            return None

    def entries(self, unit: str) -> list[Entry]:
        """Every entry, from the first, checked."""
        with self._lock:
            known = self._refreshed(unit)
            found = [self._entry(unit, seq) for seq in range(1, known.state.seq + 1)]
        try:
            ledger.fold(f"{self._dataset} {unit}", whole := [entry for entry in found if entry is not None])
        except LedgerError as error:
            raise self._refusal(unit, error) from None
        return whole

    def _append(self, unit: str, decide: Callable[[Ledger, float], _E]) -> _E:
        with self._lock:
            while True:
                known = self._refreshed(unit)
                entry = decide(known.state, self._clock.now())
                if entry is None:
                    return entry
                self._record(unit, known.state, entry)
                try:
                    self._vault.add(self._name(unit, entry.seq), ledger_entry.encode(entry))
                except ConflictError:
                    continue  # (1)
                known.take(entry)
                self._note(unit, known.state)
                return entry

    def _read(self, unit: str) -> _Known:
        with self._lock:
            return self._refreshed(unit)

    def _refreshed(self, unit: str) -> _Known:
        """The ledger with all that any process has written; reads only what is new, and the last entry known."""
        known = self._known.get(_checked(unit)) or _Known(ledger.opened(f"{self._dataset} {unit}"))
        try:
            # Before the entries, which only grow: so what another process writes meanwhile is never ahead of them.
            marks = self._marks(unit)
            self._check_kept(unit, known)
            self._catch_up(unit, known)
            if not all(mark.seq for mark in marks):
                marks = self._marks(unit)  # the ledger may have been begun meanwhile
                self._catch_up(unit, known)
            for mark in marks:
                _check_mark(mark, known)
        except (LedgerError, CryptoError) as error:
            raise self._refusal(unit, error) from None
        self._known[unit] = known
        if any(mark.seq < known.state.seq for mark in marks):
            self._note(unit, known.state)  # (2)
        return known

    def _catch_up(self, unit: str, known: _Known) -> None:
        while (entry := self._entry(unit, known.state.seq + 1)) is not None:
            known.take(entry)

    def _check_kept(self, unit: str, known: _Known) -> None:
        seq = known.state.seq
        if seq == 0:
            head = self._name(unit)
            names = [name for name in self._vault.names(head.removesuffix("head")) if name != head]
            if names != [self._name(unit, place) for place in range(1, len(names) + 1)]:
                raise LedgerError("an entry is missing")
        else:
            last = self._entry(unit, seq)
            if last is None or ledger_entry.digest(last) != known.state.head:
                raise LedgerError(f"entry {seq} is another than this process has read before")

    def _entry(self, unit: str, seq: int) -> Entry | None:
        try:
            body = self._vault.get(self._name(unit, seq))
        except CryptoError:
            raise LedgerError(f"entry {seq} was altered, or sealed under another key") from None
        return None if body is None else ledger_entry.decode(body)

    def _marks(self, unit: str) -> list[_Mark]:
        marks = [_mark(self._vault.get(self._name(unit)))]
        if self._anchor is not None:
            marks.append(_mark(self._anchor.get(self._anchor_name(unit))))
        return marks

    def _refusal(self, unit: str, error: Exception) -> LedgerError:
        return LedgerError(
            f"the privacy ledger of dataset {self._dataset!r}, unit {unit!r}, is not whole: {error}. This node "
            "refuses to train with it. Put back the latest backup of the whole state folder; or let the steward "
            "begin a new ledger (another `dataset` in node.toml, and a new grant), accepting in writing that the "
            "old one is lost with what it says was spent"
        )

    def _note(self, unit: str, state: Ledger) -> None:
        body = canonical.encode(_Mark(state.seq, state.head))
        self._vault.put(self._name(unit), body)
        if self._anchor is not None:
            self._anchor.put(self._anchor_name(unit), body)

    def _name(self, unit: str, seq: int | None = None) -> str:
        return f"budget.{self._dataset}.{unit}.{'head' if seq is None else f'{seq:010d}'}"

    def _anchor_name(self, unit: str) -> str:
        return f"budget-{self._dataset}-{unit}"


def _checked(unit: str) -> str:
    if unit not in RELATIONS:
        raise ConfigError(f"a privacy budget is kept by {' or '.join(UNITS)}, not by {unit!r}")
    return unit


def _mark(body: bytes | None) -> _Mark:
    try:
        return canonical.decode(body, _Mark) if body is not None else _Mark(0, Digest(""))
    except CodecError:
        raise LedgerError("the note of its last entry cannot be read") from None


def _check_mark(mark: _Mark, known: _Known) -> None:
    """(3); only beside the first entry a crash may have left no note at all."""
    if mark.seq > known.state.seq:
        raise LedgerError(f"it has {known.state.seq} entries, and had {mark.seq}")
    if mark.seq == 0 and known.state.seq > 1:
        raise LedgerError("the note of its last entry is missing")
    if mark.seq > 0 and known.hashes[mark.seq - 1] != mark.entry:
        raise LedgerError(f"entry {mark.seq} is another than was noted")


def _epsilon(costs: tuple[float, ...], state: Ledger) -> float:
    return rdp.epsilon(costs, state.delta) if any(costs) else 0.0


def _share(grains: int, state: Ledger) -> float:
    return grains / state.allowed if state.allowed else 0.0


def _spending(name: RunId, run: Run, state: Ledger, unit: str) -> RunSpending:
    return RunSpending(
        run=name,
        study=run.study,
        is_open=run.is_open,
        relation=run.relation,
        epsilon=_epsilon(ledger.committed_costs([run]), state),
        share=_share(run.spent, state),
        uses=tuple(
            UseSpending(kind, use.mechanism, len(run.keys[kind]), use.count, _sampling(use.mechanism, unit))
            for kind, use in run.uses.items()
        ),
    )


def _sampling(mechanism: Mechanism, unit: str) -> str:
    if isinstance(mechanism, SampledGaussian):
        return f"each {unit} is drawn into a step by an own secret coin of {mechanism.sampling_rate:g}"
    return f"every {unit} is in every step"
