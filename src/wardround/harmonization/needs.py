"""What a contract needs of a patient's events, and which code serves which need.

A contract's columns, label, cohort, holdout and consent each become a *need*: concepts, a window, an aggregate, a unit
and a plausible range. Needs with the same concepts, unit and range are about one *quantity*, whose events are converted
and judged once. Codes that serve the same quantities are one *atom*, so that an event is told apart once, by a small
number, however many columns it feeds; atom 0 is what nobody asked for.

Only what the contract names, and local codes that a person has confirmed (`translations`), ever gets an atom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from wardround.clinical import derivation
from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Derivation, Window
from wardround.errors import CodecError
from wardround.harmonization.events import PATIENT, Scope, beginnings

__all__ = ["UNWANTED", "Atoms", "Code", "Need", "needs", "quantities"]

Code = tuple[str, str]
"""A code system and a code in it."""

Role = Literal["column", "label", "holdout", "criterion", "index", "birth", "death", "seen", "consent"]

UNWANTED: Final = 0
_MOST_REMEMBERED: Final = 100_000
_LONGEST_REMEMBERED: Final = 400
_NUMERIC: Final = {"first", "last", "min", "max", "mean", "median", "sum", "slope", "value_at"}
_TIMELESS: Final = frozenset({f"{PATIENT}|birth-date", f"{PATIENT}|sex"})
_EVER: Final = Window(from_days=None, to_days=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing to find out about a record; `name` is the column's, the criterion's, or the role's."""

    name: str
    role: Role
    derive: Derivation
    concepts: tuple[str, ...]
    kind: Literal["number", "boolean", "category"] = "number"
    unit: str = "1"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether the events' numbers count, in the need's unit; elsewhere it is their values, times or number."""
        is_told = self.role in {"column", "label", "criterion"}
        return is_told and self.kind == "number" and self.derive.aggregate in _NUMERIC

    @property
    def window_us(self) -> tuple[int | None, int | None]:
        """The window's ends in microseconds relative to the index, open and closed; birth and sex hold in any."""
        if _TIMELESS.issuperset(self.concepts) or self.derive.window.ever:
            return None, None
        window = self.derive.window
        end = self.derive.at_days if self.derive.aggregate == "value_at" else window.to_days
        return _micros(window.from_days), _micros(end)


def quantities(wanted: tuple[Need, ...]) -> tuple[list[Need], list[int]]:
    """One need of each quantity, and for every need the number of its quantity."""
    numbers: dict[tuple[object, ...], int] = {}
    first: list[Need] = []
    of = []
    for need in wanted:
        derive = need.derive
        measured = (need.unit, need.minimum, need.maximum, derive.molar_mass, derive.conversions)
        key = (frozenset(need.concepts), need.is_numeric, *(measured if need.is_numeric else ()))
        number = numbers.setdefault(key, len(first))
        if number == len(first):
            first.append(need)
        of.append(number)
    return first, of


def needs(contract: DataContract) -> tuple[Need, ...]:
    """Every need of a contract with a cohort; a need's place in the tuple is its number.

    Raises:
        CodecError: The contract has no cohort, or one of its derivations names no concept.
    """
    cohort, sets = contract.cohort, contract.value_sets
    if cohort is None:
        raise CodecError("this contract has no cohort: its columns are read from a table, not derived from events")

    def need(name: str, role: Role, derive: Derivation | None, **rest: object) -> Need:
        if derive is None:
            raise CodecError(f"column {name!r} is not derived from anything")
        return Need(name=name, role=role, derive=derive, concepts=derivation.concepts(derive.concepts, sets), **rest)  # type: ignore[arg-type]  # the fields of Need

    label = contract.label
    kinds = {"binary": "boolean", "multiclass": "category", "number": "number", "survival": "number"}
    # Follow-up goes on after the label's window: who was seen later was seen at its end.
    seen = Window(from_days=label.derive.window.from_days if label.derive else None, to_days=None)
    found = [
        need("index", "index", Derivation(concepts=cohort.index, window=_EVER)),
        need("birth", "birth", _fact("birth-date")),
        need("death", "death", _fact("death")),
        need("seen", "seen", _fact("seen", "death", window=seen)),
        *(
            need(
                column.name,
                "column",
                column.derive,
                kind=column.kind,
                unit=column.unit,
                minimum=column.minimum,
                maximum=column.maximum,
            )
            for column in contract.columns
        ),
        need(label.name, "label", label.derive, kind=kinds[label.outcome], unit=label.unit),
        *(need(one.name, "criterion", one.derive, unit=one.unit) for one in cohort.criteria),
    ]
    if contract.holdout_column:
        found.append(need(contract.holdout_column, "holdout", contract.holdout_derive, kind="boolean"))
    if contract.consent:
        found.append(need("consent", "consent", _fact(f"consent:{contract.consent.purpose}"), kind="category"))
    return tuple(found)


class Atoms:
    """Codes told apart by the quantities that they serve.

    Args:
        wanted: The contract's needs.
        translations: A site's confirmed local codes, and what each stands for.
    """

    def __init__(self, wanted: tuple[Need, ...], translations: Mapping[Code, Code]) -> None:
        self._translations = translations
        self._exact: dict[Code, set[int]] = {}
        self._prefixes: dict[Code, set[int]] = {}
        for place, need in enumerate(quantities(wanted)[0]):
            for concept in need.concepts:
                system, _, code = concept.partition("|")
                serving = self._prefixes if code.endswith("*") else self._exact
                serving.setdefault((system, code.removesuffix("*")), set()).add(place)
        self._by_prefix = frozenset(system for system, _ in self._prefixes)
        self._members: list[frozenset[int]] = [frozenset()]
        self._numbers: dict[frozenset[int], int] = {frozenset(): UNWANTED}
        self._named = {code: atom for code in (*self._exact, *translations) if (atom := self._atom(*code)) != UNWANTED}
        self._met: dict[Code, int] = {}

    def of(self, system: str, code: str) -> int:
        """The atom of a code, `UNWANTED` where nobody asked for it."""
        found = self._named.get((system, code))
        if found is None:
            found = self._met.get((system, code))
        if found is None:
            found = self._atom(system, code)
            if len(system) + len(code) <= _LONGEST_REMEMBERED:
                # A source may have any number of codes that nobody named.
                if len(self._met) >= _MOST_REMEMBERED:
                    self._met.clear()
                self._met[system, code] = found
        return found

    @property
    def served(self) -> list[frozenset[int]]:
        """For each atom the quantities that it serves, by their numbers."""
        return self._members

    def codes(self) -> dict[Code, int]:
        """The codes that the contract or a confirmed translation names, and the atom of each."""
        return dict(self._named)

    def prefixes(self) -> list[Code]:
        """The systems and beginnings of codes that are wanted by prefix."""
        return sorted(self._prefixes)

    def scope(self, since_us: int | None = None) -> Scope:
        """What to ask a source for: the codes themselves, prefixes, and the local codes that stand for them."""
        codes: dict[str, set[str]] = {}
        for system, code in (*self._named, *((system, f"{start}*") for system, start in self._prefixes)):
            codes.setdefault(system, set()).add(code)
        return Scope(codes={system: frozenset(found) for system, found in codes.items()}, since_us=since_us)

    def _atom(self, system: str, code: str) -> int:
        served = self._served(system, code)
        if (target := self._translations.get((system, code))) is not None:
            served |= self._served(*target)
        number = self._numbers.setdefault(served, len(self._members))
        if number == len(self._members):
            self._members.append(served)
        return number

    def _served(self, system: str, code: str) -> frozenset[int]:
        found = [self._exact.get((system, code), ())]
        if system in self._by_prefix:
            found += [self._prefixes.get((system, start), ()) for start in beginnings(code)]
        return frozenset().union(*found)


def _fact(*names: str, window: Window = _EVER) -> Derivation:
    return Derivation(concepts=tuple(f"{PATIENT}|{name}" for name in names), window=window)


def _micros(days: float | None) -> int | None:
    return None if days is None else round(days * 86_400_000_000)
