"""The accounting of disclosures: who used which dataset, for what, when, and what left, folded from the entries.

One line for each dataset, study and purpose. Bytes and rounds are those of `RoundPerformed`, epsilon is what
`BudgetChange` says was spent, less what was given back. An entry without a study is accounted under no study.

References:
    45 CFR 164.528 (accounting of disclosures); GDPR, article 30.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from wardround.audit.entry import BudgetChange, DataAccess, Entry, NewerEntry, RoundPerformed

__all__ = ["Accounting", "Disclosure", "account"]

_UNKNOWN = "unknown"


class Disclosure(msgspec.Struct, frozen=True):
    """One line; times are milliseconds since 1970 UTC, `records` the most that one read gave."""

    dataset: str
    study: str
    purpose: str
    legal_basis: str
    actors: tuple[str, ...]
    first_at: int
    last_at: int
    reads: int
    records: int
    rounds: int
    bytes_left: int
    epsilon: float


@dataclass(slots=True)
class _Line:
    """A line while it grows."""

    first_at: int
    last_at: int
    legal_basis: str = ""
    actors: set[str] = field(default_factory=set)
    reads: int = 0
    records: int = 0
    rounds: int = 0
    bytes_left: int = 0
    epsilon: float = 0.0


class Accounting:
    """Takes entries in the log's order and keeps the lines; `since` is in milliseconds since 1970 UTC."""

    def __init__(self, *, dataset: str | None = None, study: str | None = None, since: int = 0) -> None:
        self._dataset, self._study, self._since = dataset, study, since
        self._lines: dict[tuple[str, str, str], _Line] = {}
        self._last: dict[str, tuple[str, str]] = {}

    def add(self, entry: Entry | NewerEntry) -> None:
        """Account for one entry; most kinds disclose nothing."""
        if isinstance(entry, NewerEntry):
            return
        study = entry.study or ""
        match entry.event:
            case DataAccess() as read:
                # Remembered from before `since`, too: what leaves later belongs to the dataset that was read then.
                self._last[study] = (read.dataset, read.purpose)
                if line := self._line(entry, read.dataset, read.purpose):
                    line.reads += not read.is_outcome
                    line.records = max(line.records, read.records)
                    line.legal_basis = read.legal_basis or line.legal_basis
            case RoundPerformed() as done:
                dataset = done.dataset or self._last.get(study, (_UNKNOWN, ""))[0]
                if line := self._line(entry, dataset, done.purpose):
                    line.rounds += 1
                    line.bytes_left += sum(left.size_bytes for left in done.left)
            case BudgetChange(change="spent" | "refunded") as budget:
                if line := self._line(entry, budget.dataset, self._purpose(study, budget.dataset)):
                    line.epsilon += budget.epsilon if budget.change == "spent" else -budget.epsilon
            case _:
                pass

    def lines(self) -> list[Disclosure]:
        """Every line, by dataset, study and purpose."""
        return [
            Disclosure(
                *key,
                line.legal_basis,
                tuple(sorted(line.actors)),
                line.first_at,
                line.last_at,
                line.reads,
                line.records,
                line.rounds,
                line.bytes_left,
                line.epsilon,
            )
            for key, line in sorted(self._lines.items())
        ]

    def _purpose(self, study: str, dataset: str) -> str:
        read, purpose = self._last.get(study, ("", ""))
        return purpose if read == dataset else "training"

    def _line(self, entry: Entry, dataset: str, purpose: str) -> _Line | None:
        is_other = self._dataset not in {None, dataset} or self._study not in {None, entry.study}
        if entry.at < self._since or is_other:
            return None
        line = self._lines.setdefault((dataset, entry.study or "", purpose), _Line(entry.at, entry.at))
        line.last_at = max(line.last_at, entry.at)
        line.actors.add(entry.actor)
        return line


def account(
    entries: Iterable[Entry | NewerEntry], *, dataset: str | None = None, study: str | None = None, since: int = 0
) -> list[Disclosure]:
    """The accounting over `entries`."""
    accounting = Accounting(dataset=dataset, study=study, since=since)
    for entry in entries:
        accounting.add(entry)
    return accounting.lines()
