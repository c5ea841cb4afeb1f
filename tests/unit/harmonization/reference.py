"""The feature plan once more, in plain Python over plain rows: slow, obvious, and independent of any engine."""

import math
from dataclasses import dataclass

from wardround.harmonization.events import KEPT_STATUSES
from wardround.harmonization.plan import Reason


@dataclass(frozen=True)
class Fact:
    patient: str
    time_us: int | None
    known_us: int | None
    system: str
    code: str
    number: float | None
    value: str | None
    unit: str | None
    status: str | None
    order_key: str | None
    source: str
    row: int

    @property
    def at(self):
        return self.time_us if self.known_us is None else self.known_us


STATUS = (
    "final", "amended", "corrected", "preliminary", "registered", "cancelled", "entered-in-error", "unknown",
)  # fmt: skip


def judged(facts, needs, translations, affine, now_us):
    facts = [fact for fact in facts if any(serves(fact, need, translations) for need in needs)]
    said, latest = {}, {}
    for fact in facts:
        key = (fact.patient, fact.source, fact.order_key, fact.row)
        said[key] = max(said.get(key, -math.inf), -math.inf if fact.known_us is None else fact.known_us)
    for (*whose, row), known in said.items():
        latest[tuple(whose)] = max(latest.get(tuple(whose), (known, row)), (known, row))
    latest = {(*whose, row): latest[tuple(whose)] == (said[(*whose, row)], row) for *whose, row in said}
    found = []
    for fact in facts:
        for place, need in enumerate(needs):
            if serves(fact, need, translations):
                found.append(one(fact, place, need, latest, affine, now_us))
    return without_doubles(found)


def serves(fact, need, translations):
    codes = [(fact.system, fact.code)]
    if codes[0] in translations:
        codes.append(translations[codes[0]])
    for system, code in codes:
        for concept in need.concepts:
            wanted, _, tail = concept.partition("|")
            if wanted == system and (code.startswith(tail[:-1]) if tail.endswith("*") else code == tail):
                return True
    return False


def one(fact, place, need, latest, affine, now_us):
    number, reason = fact.number, Reason.USED
    if fact.order_key is not None and not latest[fact.patient, fact.source, fact.order_key, fact.row]:
        return [fact, place, number, Reason.SUPERSEDED]
    if (fact.status or "final") not in KEPT_STATUSES:
        reason = Reason.STATUS
    elif now_us is not None and any(at is not None and at > now_us for at in (fact.at, fact.time_us)):
        reason = Reason.FUTURE
    elif need.is_numeric:
        conversion = affine(need, fact.unit or "")
        if number is None:
            reason = Reason.NO_VALUE
        elif conversion is None:
            reason = Reason.UNKNOWN_UNIT
        else:
            number = number * conversion[0] + conversion[1]
            low = -math.inf if need.minimum is None else need.minimum
            high = math.inf if need.maximum is None else need.maximum
            reason = Reason.TOO_LOW if number < low else Reason.TOO_HIGH if number > high else Reason.USED
    return [fact, place, number, reason]


def without_doubles(found):
    groups = {}
    for entry in found:
        fact, place, _, reason = entry
        if reason == Reason.USED:
            groups.setdefault((fact.patient, place, fact.time_us, fact.at, fact.value), []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: (entry[2] is None, entry[2] or 0.0, entry[0].source, entry[0].row))
        before = None
        for place, entry in enumerate(group):
            number = entry[2]
            if number is None:
                if place:
                    entry[3] = Reason.DUPLICATE
            elif before is not None and number - before <= 0.002 * abs(number):
                entry[3] = Reason.DUPLICATE
            before = number
    return found


def records(found, needs, pick):
    index = next(place for place, need in enumerate(needs) if need.role == "index")
    times = {}
    for fact, place, _, reason in found:
        if place == index and reason == Reason.USED and fact.at is not None:
            times.setdefault(fact.patient, set()).add(fact.at)
    chosen = {"first": lambda at: {min(at)}, "last": lambda at: {max(at)}, "each": lambda at: at}[pick]
    return sorted((patient, at) for patient, some in times.items() for at in chosen(some))


def facts_of(found, needs, record, place):
    patient, index_us = record
    start, end = needs[place].window_us
    inside = []
    for fact, need, number, reason in found:
        if need != place or reason != Reason.USED or fact.patient != patient:
            continue
        delta = None if fact.at is None else fact.at - index_us
        is_ever = start is None and end is None
        is_dated = delta is not None and (start is None or delta > start) and (end is None or delta <= end)
        if is_ever or is_dated:
            inside.append((fact, number))
    return inside


def derived(found, needs, record, place, arrange=None):
    """What one need's aggregate gives for one record, None where there is nothing."""
    inside = facts_of(found, needs, record, place)
    how = needs[place].derive.aggregate
    numbers = [number for _, number in inside if number is not None]
    if how == "count":
        return float(len(inside))
    if how == "exists":
        return float(bool(inside))
    if not inside:
        return None
    if how in {"first", "last", "value_at"}:
        fact, number = min(inside, key=_first) if how == "first" else max(inside, key=_last)
        return number if needs[place].is_numeric else fact.value
    if how in {"time_since_last", "time_to_first"}:
        times = [at for fact, _ in inside if (at := _when(fact)) is not None]
        if not times:
            return None
        days = (max(times) - record[1] if how == "time_since_last" else min(times) - record[1]) / 86_400_000_000
        return -days if how == "time_since_last" else days
    if how == "median":
        numbers.sort()
        return (numbers[(len(numbers) - 1) // 2] + numbers[len(numbers) // 2]) / 2
    return {"min": min, "max": max, "sum": math.fsum, "mean": lambda some: math.fsum(some) / len(some)}[how](numbers)


def _when(fact):
    return next((at for at in (fact.time_us, fact.at) if at is not None), None)


def _first(entry):
    fact, number = entry
    when = _when(fact)
    ties = (fact.source, fact.row, (number is not None, number or 0.0), fact.value or "")
    return (2**62 if when is None else when, -STATUS.index(fact.status or "final"), *ties)


def _last(entry):
    fact, number = entry
    when = _when(fact)
    ties = (fact.source, fact.row, (number is not None, number or 0.0), fact.value or "")
    return (-(2**62) if when is None else when, STATUS.index(fact.status or "final"), *ties)
