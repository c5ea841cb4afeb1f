"""The privacy ledger: what a site has granted, reserved and spent for one dataset and one unit, as a chain of entries.

    allowed    epsilon - (log(1 - 1/a) - log(delta * a) / (a - 1)), the Rényi cost at the one order a of the ledger
    wanted     what a run may spend at most, reserved before it begins
    reserve    only while   spent + reserved + wanted <= allowed
    commit     one reserved use of a run, before its bytes are released; the same bytes again (the same key) are free
    release    what a run has not used; what it has used stays spent for ever

This is a Rényi filter: at one order that was fixed beforehand costs add up, also of mechanisms that were chosen after
the results of earlier ones had been seen. Costs count in whole grains, a use's rounded up and a grant's down, so that
sums are exact. A run that was released is over. Entries are in `wardround.privacy.ledger_entry`.

Everything here is a function of its arguments: a decision takes the state and gives the entry that comes next, or None
where there is nothing to add, or raises; `apply` takes the state one entry further, and asks no budget again.

References:
    Feldman, Zrnic. Individual Privacy Accounting via a Rényi Filter. NeurIPS 2021. arXiv:2008.11193.
    Haney et al. Concurrent Composition for Interactive Differential Privacy. arXiv:2309.05901.
    Canonne, Kamath, Steinke. arXiv:2004.00010, Proposition 12 (from Rényi to epsilon and delta).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NoReturn

from wardround.codec import canonical
from wardround.errors import BudgetExceededError, CodecError, ConfigError, LedgerError, PolicyError
from wardround.ids import Digest, RunId, StudyId
from wardround.privacy import ledger_entry, rdp
from wardround.privacy.ledger_entry import Committed, Entry, Granted, Released, Reserved, Use
from wardround.privacy.mechanisms import MAX_STEPS, Mechanism

__all__ = [
    "GRAINS",
    "Ledger",
    "Run",
    "apply",
    "commit",
    "committed_costs",
    "conversion",
    "fold",
    "grant",
    "least_epsilon",
    "opened",
    "promised_costs",
    "release",
    "reserve",
]

GRAINS = 2**60
"""How many grains a Rényi cost of 1 has."""
_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Run:
    """A run's part; `prices` are grains for a use of each kind, `keys` what was committed."""

    study: StudyId
    relation: str
    uses: Mapping[str, Use]
    prices: Mapping[str, int]
    keys: Mapping[str, frozenset[str]]
    is_open: bool = True

    @property
    def spent(self) -> int:
        """Grains that were committed."""
        return sum(price * len(self.keys[kind]) for kind, price in self.prices.items())

    @property
    def reserved(self) -> int:
        """Grains that it may still commit."""
        left = ((price, self.uses[kind].count - len(self.keys[kind])) for kind, price in self.prices.items())
        return sum(price * count for price, count in left) if self.is_open else 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the entries so far come to; `head` is the hash of the last, `allowed`, `spent`, `reserved` are grains."""

    head: Digest
    seq: int = 0
    at: float = 0.0
    epsilon: float = 0.0
    delta: float = 0.0
    order: float = 0.0
    allowed: int = 0
    spent: int = 0
    reserved: int = 0
    runs: Mapping[RunId, Run] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Grains that a new run may reserve."""
        return max(0, self.allowed - self.spent - self.reserved)


def opened(name: str) -> Ledger:
    """The ledger of this name before its first entry."""
    return Ledger(canonical.digest(f"wardround privacy ledger {name}".encode()))


def grant(
    ledger: Ledger, now: float, *, epsilon: float, delta: float, person: str, reason: str, order: float | None = None
) -> Granted:
    """Set the budget anew; less than what is spent is allowed, and means that nothing more is granted.

    Without `order` the one is taken at which most Gaussian noise fits. Once anything was reserved, it stays.

    Raises:
        ConfigError: A figure cannot be, no order allows anything, or another order is asked for than has been used.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon must be finite and above 0, not {epsilon:g}")
    if not 0 < delta < 1:
        raise ConfigError(f"delta must lie above 0 and below 1, not {delta:g}; usual is far below 1 / patients")
    chosen = _order(ledger, epsilon, delta, order)
    seq, at, previous = _link(ledger, now)
    allowed = max(0.0, _allowed(epsilon, delta, chosen))
    return ledger_entry.normal(
        Granted(
            seq=seq,
            at=at,
            previous=previous,
            epsilon=epsilon,
            delta=delta,
            order=chosen,
            allowed=allowed,
            person=person,
            reason=reason,
        )
    )


def reserve(
    ledger: Ledger, now: float, *, run: RunId, study: StudyId, uses: Mapping[str, tuple[Mechanism, int]], relation: str
) -> Reserved | None:
    """Set aside the most that a run can spend; None where exactly that is set aside for it already.

    Raises:
        BudgetExceededError: It does not fit.
        CodecError: A mechanism or a count cannot be.
        PolicyError: The run has reserved something else, or is over.
    """
    earlier = ledger.runs.get(run)
    if earlier is not None:
        same = {kind: (use.mechanism, use.count) for kind, use in earlier.uses.items()} == dict(uses)
        if earlier.is_open and same and (earlier.study, earlier.relation) == (study, relation):
            return None
        raise PolicyError(
            "this run has reserved another privacy budget before"
            if earlier.is_open
            else "this run's privacy budget was released: the run is over, start another"
        )
    if not ledger.seq:
        raise BudgetExceededError("no privacy budget is granted here; a steward does: wardround node budget grant")
    priced = {kind: _priced(mechanism, count) for kind, (mechanism, count) in uses.items()}
    if not priced:
        raise CodecError("a reservation names at least one use")
    prices = [(use, _price(use, ledger.order)) for use in priced.values()]
    wanted = math.inf if any(price is None for _, price in prices) else sum(use.count * (it or 0) for use, it in prices)
    if wanted > ledger.allowed - ledger.spent - ledger.reserved:
        raise BudgetExceededError(
            f"the run asks for {_part(wanted, ledger)} of the privacy budget. {_standing(ledger)} "
            "A steward may raise it: wardround node budget grant"
        )
    seq, at, previous = _link(ledger, now)
    return ledger_entry.normal(
        Reserved(seq=seq, at=at, previous=previous, run=run, study=study, relation=relation, uses=priced)
    )


def commit(ledger: Ledger, now: float, *, run: RunId, kind: str, key: str) -> Committed | None:
    """Spend one reserved use, before what `key` names is released; None where that was spent already.

    Raises:
        BudgetExceededError: The run has none left, or the budget was lowered so far that it does not fit.
        PolicyError: The run has reserved nothing of this kind, or is over.
        ValueError: The key is empty, so it names nothing.
    """
    if not key:
        raise ValueError("a key must name the bytes that are to be released")
    found = ledger.runs.get(run)
    if found is None or kind not in found.uses:
        raise PolicyError(f"no privacy budget is reserved for {kind!r} of this run")
    if key in found.keys[kind]:
        return None
    if not found.is_open:
        raise PolicyError("this run's privacy budget was released: it spends no more")
    if len(found.keys[kind]) >= found.uses[kind].count:
        raise BudgetExceededError(f"the run has spent all {found.uses[kind].count} uses that it reserved for {kind!r}")
    if ledger.spent + found.prices[kind] > ledger.allowed:
        raise BudgetExceededError(f"the budget was lowered below what this run still wants. {_standing(ledger)}")
    seq, at, previous = _link(ledger, now)
    return ledger_entry.normal(Committed(seq=seq, at=at, previous=previous, run=run, kind=kind, key=key))


def release(ledger: Ledger, now: float, *, run: RunId) -> Released | None:
    """Free what a run has not spent; None where it has nothing reserved."""
    found = ledger.runs.get(run)
    if found is None or not found.is_open:
        return None
    seq, at, previous = _link(ledger, now)
    return ledger_entry.normal(Released(seq=seq, at=at, previous=previous, run=run))


def apply(ledger: Ledger, entry: Entry) -> Ledger:
    """The state after one more entry.

    Raises:
        LedgerError: It is not the next entry, or none that the decisions above would have made.
    """
    if entry.seq != ledger.seq + 1 or entry.previous != ledger.head or not entry.at >= ledger.at:
        raise LedgerError(f"entry {entry.seq} does not follow on entry {ledger.seq}")
    after = replace(ledger, head=ledger_entry.digest(entry), seq=entry.seq, at=entry.at)
    match entry:
        case Granted():
            if entry.order not in rdp.ORDERS or (ledger.runs and entry.order != ledger.order):
                _broken(entry)
            allowed = math.floor(Fraction(entry.allowed) * GRAINS)
            return replace(after, epsilon=entry.epsilon, delta=entry.delta, order=entry.order, allowed=allowed)
        case Reserved():
            run = _begun(ledger, entry)
        case Committed():
            run = _spent(ledger, entry)
        case Released():
            found = ledger.runs.get(entry.run)
            run = replace(found, is_open=False) if found is not None and found.is_open else _broken(entry)
    old = ledger.runs.get(entry.run)
    was_spent, was_reserved = (old.spent, old.reserved) if old is not None else (0, 0)
    return replace(
        after,
        spent=ledger.spent + run.spent - was_spent,
        reserved=ledger.reserved + run.reserved - was_reserved,
        runs={**ledger.runs, entry.run: run},
    )


def fold(name: str, entries: list[Entry]) -> Ledger:
    """The state of the ledger of this name after all its entries; raises as `apply` does."""
    ledger = opened(name)
    for entry in entries:
        ledger = apply(ledger, entry)
    return ledger


def committed_costs(runs: list[Run]) -> tuple[float, ...]:
    """What runs have spent, at each of `rdp.ORDERS`: for figures, which count at every order."""
    return _total([(use, len(run.keys[kind])) for run in runs for kind, use in run.uses.items()])


def promised_costs(runs: list[Run]) -> tuple[float, ...]:
    """What runs have spent when those that are open have used all that they reserved."""
    counts = [
        (use, use.count if run.is_open else len(run.keys[kind])) for run in runs for kind, use in run.uses.items()
    ]
    return _total(counts)


def conversion(order: float, delta: float) -> float:
    """What a Rényi cost at `order` is less than its epsilon at `delta`; as in `rdp.epsilon`."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def least_epsilon(delta: float) -> float:
    """No order allows anything at this epsilon, or below."""
    return max(0.0, min(conversion(order, delta) for order in rdp.ORDERS))


def _order(ledger: Ledger, epsilon: float, delta: float, asked: float | None) -> float:
    if asked is not None and asked not in rdp.ORDERS:
        raise ConfigError(f"a ledger's order is one of {', '.join(f'{order:g}' for order in rdp.ORDERS)}")
    if ledger.runs:
        if asked not in {None, ledger.order}:
            raise ConfigError(f"this ledger was used at order {ledger.order:g} and keeps it")
        return ledger.order
    orders = rdp.ORDERS if asked is None else (asked,)
    best = max(orders, key=lambda order: _allowed(epsilon, delta, order) / order)
    if _allowed(epsilon, delta, best) > 0:
        return best
    if ledger.seq and epsilon < ledger.epsilon:
        return ledger.order  # lowered to nothing
    least = least_epsilon(delta) if asked is None else conversion(asked, delta)
    raise ConfigError(
        f"epsilon {epsilon:g} allows nothing at delta {delta:g}{'' if asked is None else f' and order {asked:g}'}: "
        f"it must be above {least:.4g}"
    )


def _allowed(epsilon: float, delta: float, order: float) -> float:
    return epsilon - conversion(order, delta) - _SLACK * max(1.0, epsilon)


def _link(ledger: Ledger, now: float) -> tuple[int, float, Digest]:
    return ledger.seq + 1, max(ledger.at, now), ledger.head


def _priced(mechanism: Mechanism, count: int) -> Use:
    if not 1 <= count <= MAX_STEPS:
        raise CodecError(f"a mechanism is used 1 to {MAX_STEPS:,} times")
    try:
        return Use(mechanism=mechanism, count=count, cost=rdp.cost(mechanism))
    except ArithmeticError:
        raise CodecError("the noise of a mechanism lies beyond what can be accounted") from None


def _price(use: Use, order: float) -> int | None:
    """Grains of one use, or None where it has no bound; one at least, so that nothing is free."""
    cost = use.cost[rdp.ORDERS.index(order)]
    return max(1, math.ceil(Fraction(cost) * GRAINS)) if math.isfinite(cost) and cost >= 0 else None


def _begun(ledger: Ledger, entry: Reserved) -> Run:
    if entry.run in ledger.runs or not ledger.order or not entry.uses:
        _broken(entry)
    prices = {}
    for kind, use in entry.uses.items():
        price = _price(use, ledger.order) if len(use.cost) == len(rdp.ORDERS) and use.count >= 1 else None
        prices[kind] = price if price is not None else _broken(entry)
    return Run(entry.study, entry.relation, entry.uses, prices, dict.fromkeys(entry.uses, frozenset()))


def _spent(ledger: Ledger, entry: Committed) -> Run:
    found = ledger.runs.get(entry.run)
    if found is None or not found.is_open or entry.kind not in found.uses:
        _broken(entry)
    keys = found.keys[entry.kind]
    if entry.key in keys or len(keys) >= found.uses[entry.kind].count:
        _broken(entry)
    return replace(found, keys={**found.keys, entry.kind: keys | {entry.key}})


def _broken(entry: Entry) -> NoReturn:
    raise LedgerError(f"entry {entry.seq} is none that this program writes")


def _total(counts: list[tuple[Use, int]]) -> tuple[float, ...]:
    used = [(use, count) for use, count in counts if count]
    return tuple(math.fsum(use.cost[place] * count for use, count in used) for place in range(len(rdp.ORDERS)))


def _standing(ledger: Ledger) -> str:
    return (
        f"Of epsilon {ledger.epsilon:g} at delta {ledger.delta:g}, {_part(ledger.spent, ledger)} is spent, "
        f"{_part(ledger.reserved, ledger)} reserved by running studies, {_part(ledger.left, ledger)} left "
        f"(of {ledger.allowed / GRAINS:.4g} of Rényi cost at order {ledger.order:g})."
    )


def _part(grains: float, ledger: Ledger) -> str:
    return f"{100 * grains / ledger.allowed:.4g} %" if ledger.allowed and math.isfinite(grains) else "all and more"
